"""What does PPO-based RLHF optimise, what does its KL term buy, and why is it called hard? NumPy only.

    python 05-preference-tuning/rlhf_objectives.py              # about 3 s, saves ppo_objectives.png
    python 05-preference-tuning/rlhf_objectives.py --beta 2     # a stronger pull towards the reference

Section "PPO-based RLHF (conceptual)": the formulas, and a policy so small that its optimum is known: a softmax over ten
responses to each of 20 held-out questions. The reference has the SFT checkpoint's shares of styles, the reward is an
annotator who likes length (the proxy), gold utility judges. Rewards and beta are in units of utility, KL in nats.

Expect: without the KL term 99.5 % on the proxy's favourite, gold 2.0 -> 1.7 after a peak of 2.4; with it gold 2.3 and a
total variation of 0.003 to the closed form (up to 0.17 with other rates and epochs, 0.9 when these are not clipped).
Left out: tokens (a response is one action), learned reward and value models (a batch's mean stands in for the value),
Adam.
"""

import json
import math
import random
import time
from pathlib import Path

import drawing
import numpy as np
from drawing.ppo_objectives import plot_cost, plot_objective, plot_update

from common import reporting
from common.cli import UserError, check_writable, make_parser, positive_float, run
from common.preferences import STYLE_SHARES, annotator_utility, gold_utility, questions, write_response

Array = np.ndarray
STYLES = ["concise"] * 2 + ["verbose"] * 3 + ["expert"] * 2 + ["wrong", "sycophantic", "off_topic"]
BATCH, LEARNING_RATE, PASSES = 64, 0.3, 4  # responses per PPO update, step on the logits, epochs per batch
TOLERANCE = 0.01  # total variation below which a policy counts as converged
BETAS = np.geomspace(8, 0.05, 25)
RATES, EPOCHS = (0.1, 0.3, 1.0, 3.0, 10.0), (1, 2, 4, 8, 16)

# --- 1. The objective: maximise E[r] - beta KL(pi || pi_ref) ---


def kl_regularized_optimum(ref_probs: Array, rewards: Array, beta: float) -> Array:
    """The policy that maximises E[r] - beta KL(pi || pi_ref): pi_ref exp(r / beta) / Z, shape (..., K).

    beta -> 0 leaves the best of what pi_ref can say, beta -> infinity pi_ref. Rafailov et al. 2023, 2305.18290, Eq. 4.
    """
    support = ref_probs > 0
    best = np.where(support, rewards, -np.inf).max(-1, keepdims=True)
    with np.errstate(divide="ignore", over="ignore"):  # log 0 and r / tiny beta become -inf: probability 0
        logits = np.log(ref_probs) + np.where(support, rewards - best, 0.0) / beta
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


# --- 2. PPO's update: the clipped surrogate, advantages, and the KL from samples ---


def clipped_surrogate(ratio: Array, advantage: Array, epsilon: float) -> Array:
    """min(ratio A, clip(ratio, 1 - eps, 1 + eps) A), elementwise, to maximise; ratio = pi / pi_old.

    Its gradient dies where the policy moved far enough in the right direction (A > 0 and ratio > 1 + eps, or A < 0 and
    ratio < 1 - eps); a move in the wrong direction is never clipped. Schulman et al. 2017, 1707.06347, Eq. 7.
    """
    return np.minimum(ratio * advantage, np.clip(ratio, 1 - epsilon, 1 + epsilon) * advantage)


def generalized_advantage_estimate(rewards: Array, values: Array, gamma: float, lam: float) -> Array:
    """A_t = sum_l (gamma lam)^l delta_(t+l) with delta_t = r_t + gamma V_(t+1) - V_t, shape (T,); V = 0 after the end.

    lam = 0 gives TD errors (trust the values), 1 returns minus values (trust the samples). 1506.02438, Eq. 16.
    """
    deltas = rewards + gamma * np.append(values[1:], 0.0) - values
    advantages, later = np.zeros(len(deltas)), 0.0
    for t in reversed(range(len(deltas))):
        advantages[t] = later = deltas[t] + gamma * lam * later
    return advantages


def kl_estimators(logp: Array, ref_logp: Array) -> dict[str, Array]:
    """KL(pi || pi_ref) in nats from samples of pi, one estimate each: -x, x^2 / 2 and e^x - 1 - x, x = ref_logp - logp.

    k1 and k3 are unbiased, k2 and k3 never negative. Schulman 2020, joschu.net/blog/kl-approx.html.
    """
    x = ref_logp - logp
    return {"k1": -x, "k2": x**2 / 2, "k3": np.expm1(x) - x}  # rounding would take exp(x) - 1 - x below 0


def measure_estimators(samples: int, seed: int) -> dict[float, dict[str, list[float]]]:
    """Mean and standard deviation of each estimate over the true KL, for N(0, 1) against N(mu, 1), by mu."""
    x, found = np.random.default_rng(seed).normal(size=samples), {}
    for mu in (0.1, 0.5, 1.0, 1.5):
        estimates = kl_estimators(-(x**2) / 2, -((x - mu) ** 2) / 2)
        found[mu] = {name: [k.mean() / (mu**2 / 2), k.std() / (mu**2 / 2)] for name, k in estimates.items()}
    return found


# --- 3. PPO on a policy whose optimum is known ---


def make_bandit(count: int, seed: int) -> dict[str, Array]:
    """Held-out questions with K responses: reference probabilities, gold and proxy utilities, the proxy's favourites.

    All (count, K); several responses are favourites where they tie.
    """
    rng = random.Random(f"bandit {seed}")
    pool = [q for q in questions("test") if q.belief not in (None, q.answer)]  # these have answers in all styles
    gold, proxy = [], []
    for question in rng.sample(pool, count):
        texts: list[str] = []
        for style in STYLES:
            while (text := write_response(question, style, rng)) in texts:
                pass
            texts.append(text)
        gold.append([gold_utility(question.prompt, text) for text in texts])
        proxy.append([annotator_utility(question.prompt, text, "length") for text in texts])
    shares, proxy = np.array([STYLE_SHARES[style] / STYLES.count(style) for style in STYLES]), np.array(proxy)
    world = {"ref": np.tile(shares / shares.sum(), (count, 1)), "gold": np.array(gold), "proxy": proxy}
    return world | {"favourite": np.isclose(proxy, proxy.max(-1, keepdims=True))}


def log_softmax(logits: Array) -> Array:
    """Log-probabilities over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def train_ppo(ref_probs: Array, rewards: Array, beta: float, updates: int, seed: int, rate, epsilon, epochs) -> Array:
    """PPO-clip from the reference: log-probabilities before and after each update, (updates + 1, ..., N, K).

    Each of the N questions (rows) has a policy and batches of its own; a learning rate or epsilon of shape (M, 1, 1)
    trains M policies for each. rewards: (N, K), in units of utility like beta.
    """
    log_ref, rng = np.log(ref_probs), np.random.default_rng(seed)
    logits = np.broadcast_to(log_ref, np.broadcast_shapes(log_ref.shape, np.shape(rate), np.shape(epsilon)))
    history = [log_softmax(logits)]
    for _ in range(updates):
        old = history[-1]
        share = rng.multinomial(BATCH, np.exp(old)) / BATCH  # generate: how often each response was sampled
        penalised = rewards - beta * (old - log_ref)  # score: the KL term enters each sample's reward, as k1
        advantage = penalised - (share * penalised).sum(-1, keepdims=True)
        for _ in range(epochs):  # update: from the second pass on, the batch is no longer the policy's own
            new = log_softmax(logits)
            ratio = np.exp(np.where(share > 0, new - old, 0.0))
            alive = clipped_surrogate(ratio, advantage, epsilon) == ratio * advantage
            gradient = share * advantage * ratio * alive  # with respect to log pi
            logits = logits + rate * (gradient - np.exp(new) * gradient.sum(-1, keepdims=True))
        history.append(log_softmax(logits))
    return np.array(history)


def describe(log_probs: Array, world: dict[str, Array], optimum: Array) -> dict[str, Array]:
    """What policies (..., N, K) earn, and how far they are from the reference (KL) and from pi* (total variation)."""
    probs = np.exp(log_probs)
    found = {name: (probs * world[name]).sum(-1) for name in ("gold", "proxy", "favourite")}
    found["kl"] = (probs * (log_probs - np.log(world["ref"]))).sum(-1)
    return found | {"distance": np.abs(probs - optimum).sum(-1) / 2}


def measure_policies(world: dict, beta: float, epsilon: float, updates: int, seed: int) -> tuple[dict, dict, dict]:
    """Policies (N, K) by name, the curves of PPO with the KL term and without, and pi* for each of BETAS described."""
    ref, proxy = world["ref"], world["proxy"]
    optimum = kl_regularized_optimum(ref, proxy, beta)
    policies, runs = {"ref": ref}, {}
    policies |= {f"{b:g}": kl_regularized_optimum(ref, proxy, b) for b in (4, 2, 1, 0.5, 0.2)}
    for name, weight in (("KL", beta), ("no KL", 0.0)):
        history = train_ppo(ref, proxy, weight, updates, seed, LEARNING_RATE, epsilon, PASSES)
        runs[name], policies[f"PPO\n{name}"] = describe(history, world, optimum), np.exp(history[-1])
    tilted = [kl_regularized_optimum(ref, proxy, b) for b in BETAS]
    return policies, runs, describe(np.log(tilted), world, optimum)


def measure_sensitivity(world: dict, beta: float, epsilon: float, updates: int, seed: int) -> Array:
    """Total variation to pi* after training, (EPOCHS, 2, RATES, N): with clipping and without, the same batch sizes."""
    rates, clips = np.array(RATES)[:, None, None], np.array([epsilon, np.inf])[:, None, None, None]
    optimum, distances = kl_regularized_optimum(world["ref"], world["proxy"], beta), []
    for epochs in EPOCHS:
        history = train_ppo(world["ref"], world["proxy"], beta, updates, seed, rates, clips, epochs)
        distances.append(describe(history[-1], world, optimum)["distance"])
    return np.array(distances)


# --- 4. Memory: four models against two ---


def memory(policy: int, reward: int, adapter: int) -> dict[str, dict]:
    """What each method holds, from parameter counts: GB (1e9 bytes) of fp16 weights by role, and what is trained.

    Weights only, before optimizer states, gradients and activations; AdamW's two fp32 moments would add `adamw_gb`.
    """
    held = {  # trained, frozen; the value model is as large as the reward model that it starts from
        "PPO": ({"policy": policy, "value": reward}, {"reference": policy, "reward": reward}),
        "DPO": ({"policy": policy}, {"reference": policy}),
        "best-of-n": ({}, {"policy": policy, "reward": reward}),
        "DPO + LoRA": ({"adapter": adapter}, {"base": policy}),
    }
    found = {}
    for method, (trained, frozen) in held.items():
        weights = {role: 2 * size / 1e9 for role, size in (trained | frozen).items()}
        found[method] = {"weights_gb": sum(weights.values()), "by_role": weights, "trained_roles": list(trained)}
        found[method] |= {"trained": sum(trained.values()), "adamw_gb": 2 * 4 * sum(trained.values()) / 1e9}
    return found


def read_counts(path: Path) -> tuple[int, int]:
    """Parameters of a backbone and of a LoRA adapter for it (r = 8 on c_attn and c_proj), from a safetensors header."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shapes = {k: v["shape"] for k, v in header.items() if not k.startswith(("__", "lm_head", "vocab_"))}
    adapter = sum(8 * sum(v) for k, v in shapes.items() if k.endswith(("c_attn.weight", "c_proj.weight")))
    return sum(math.prod(shape) for shape in shapes.values()), adapter


def model_sizes() -> dict[str, tuple[int, int, int]]:
    """(policy, reward, LoRA adapter) in parameters, without the heads of reward and value: 7B, and the lab's models."""
    sizes = {
        "7B": (7_000_000_000, 7_000_000_000, 32 * 2 * 8 * (4096 + 4096)),  # q and v of a Llama's 32 layers
        "distilgpt2": (81_912_576, 66_362_880, 6 * 8 * ((768 + 2304) + (768 + 768) + (3072 + 768))),
    }
    tiny = Path(reporting.__file__).with_name("tiny")
    gpt2, bert = (tiny / name / "model.safetensors" for name in ("tiny-gpt2", "tiny-distilbert"))
    if gpt2.is_file() and bert.is_file():
        (policy, adapter), (reward, _) = read_counts(gpt2), read_counts(bert)
        sizes["tiny-gpt2"] = (policy, reward, adapter)
    return sizes


# --- 5. Claims, results ---


def make_claims(kl: dict, free: dict, sizes: dict, distances: Array) -> list[dict]:
    """Predictions, then verdicts; intervals are bootstrapped over the questions, each with batches of its own."""
    ratio = sizes["7B"]["PPO"]["weights_gb"] / sizes["7B"]["DPO"]["weights_gb"]
    best = distances[:, 0].mean(-1).argmin(-1)  # the learning rate that suits each number of epochs, with clipping
    lost = distances[-1, 0, best[0]] - distances[-1, 0, best[-1]]
    rescued = (distances[:, 1] - distances[:, 0]).mean((0, 1))
    fall, inf = free["gold"][-1] - kl["gold"][-1], float("inf")
    rows = (
        (
            "four_models_vs_two",
            "PPO holds twice the weights that DPO holds",
            "bytes of PPO's four models over DPO's two, all of one size: 2",
            [ratio],
            (1.8, 2.2),
        ),
        (
            "no_kl_runs_to_proxy_favourite",
            "without the KL term the policy runs to the proxy's favourite",
            "its probability at the end: near 1",
            free["favourite"][-1],
            (0.5, inf),
        ),
        (
            "no_kl_lowers_gold",
            "without the KL term quality falls below that with it",
            "difference of gold utility at the end: below 0",
            fall,
            (-inf, 0),
        ),
        (
            "kl_term_converges_to_closed_form",
            "with the KL term PPO ends at the closed-form optimum",
            "total variation from pi*: below 0.01",
            kl["distance"][-1],
            (-inf, TOLERANCE),
        ),
        (
            "ppo_is_sensitive",
            "PPO is sensitive to how its settings meet",
            "total variation lost by 16 epochs at the rate best for 1: above 0.01",
            lost,
            (TOLERANCE, inf),
        ),
        (
            "clipping_tames_bad_settings",
            "clipping tames bad settings",
            "total variation without clipping minus with it, mean over all settings: above 0",
            rescued,
            (0, inf),
        ),
    )
    claim, interval = reporting.make_claim, reporting.bootstrap_ci
    return [claim(id, text, expected, np.mean(v), interval(v), within) for id, text, expected, v, within in rows]


def build_parser():
    """The command line."""
    parser = make_parser(__doc__)
    group = parser.add_argument_group("objective")
    group.add_argument("--beta", type=positive_float, default=1.0, help="weight of the KL term, in units of utility")
    group.add_argument("--epsilon", type=positive_float, default=0.2, help="PPO's clipping range, below 1")
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Measure, draw ppo_objectives.png, write ppo_objectives.json; returns the metrics."""
    args, started = build_parser().parse_args(argv), time.time()
    if args.epsilon >= 1:
        raise UserError("--epsilon must be below 1: no ratio of probabilities falls below 0")
    check_writable(args.figures_dir)
    count, updates, samples = (4, 40, 20_000) if args.smoke else (20, 200, 200_000)
    world = make_bandit(count, args.seed)
    policies, runs, frontier = measure_policies(world, args.beta, args.epsilon, updates, args.seed)
    distances = measure_sensitivity(world, args.beta, args.epsilon, updates // 2, args.seed)
    estimates = measure_estimators(samples, args.seed)
    sizes = {name: memory(*parameters) for name, parameters in model_sizes().items()}
    example = np.array([[0.0, 0.0, 1.0], [0.5, 0.6, 0.7]])  # rewards, values
    gae = {lam / 20: generalized_advantage_estimate(*example, 1.0, lam / 20) for lam in range(21)}
    claims = make_claims(runs["KL"], runs["no KL"], sizes, distances)
    metrics = {
        "start": {key: float(curve[0].mean()) for key, curve in runs["KL"].items()},
        "end": {name: {key: float(curve[-1].mean()) for key, curve in run.items()} for name, run in runs.items()},
        "peak_gold": {name: float(run["gold"].mean(-1).max()) for name, run in runs.items()},
        "frontier": {"beta": BETAS.tolist()} | {key: curve.mean(-1).tolist() for key, curve in frontier.items()},
        "gae": {str(lam): gae[lam].tolist() for lam in (0.0, 0.5, 0.95, 1.0)},
        "kl_estimators_over_true_kl": {str(mu): found for mu, found in estimates.items()},
        "distance_by_epochs_clip_rate": distances.mean(-1).tolist(),
        "memory": sizes,
    }

    fig, axes = drawing.new_figure(3, 3)
    plot_objective(axes[0], policies, frontier, BETAS, runs, world, STYLES)
    ratio = np.linspace(0, 2, 401)
    surrogates = {sign: clipped_surrogate(ratio, sign, args.epsilon) for sign in (1, -1)}
    plot_update(axes[1], ratio, surrogates, args.epsilon, gae, estimates)
    plot_cost(axes[2], sizes["7B"], distances, RATES, EPOCHS, args.epsilon)
    free, gold = metrics["end"]["no KL"], [metrics["start"]["gold"]] + [end["gold"] for end in metrics["end"].values()]
    title = f"PPO without its KL term ends with {free['favourite']:.1%} on the proxy's favourite: "
    title += f"gold utility {gold[0]:.2f} → {gold[2]:.2f}; with it {gold[1]:.2f}"
    png = args.figures_dir / "ppo_objectives.png"
    drawing.save_figure(fig, png, title)
    reporting.write_results(png.with_suffix(".json"), Path(__file__).name, vars(args), started, metrics, claims)
    reporting.print_claims(claims)
    lines = ["GB of fp16 weights (+ AdamW's moments)"]
    for name, held in sizes.items():
        lines.append(
            f"  {name}: " + ", ".join(f"{k} {m['weights_gb']:.3g} (+{m['adamw_gb']:.3g})" for k, m in held.items())
        )
    reporting.print_summary([title, *lines], [png, png.with_suffix(".json")])
    return metrics


if __name__ == "__main__":
    run(main)
