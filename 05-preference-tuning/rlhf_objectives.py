"""PPO-based RLHF: what is optimised, what does the KL term buy, and why is it called hard?

    python 05-preference-tuning/rlhf_objectives.py
    python 05-preference-tuning/rlhf_objectives.py --beta 4         # the policy hardly moves
    python 05-preference-tuning/rlhf_objectives.py --epsilon 0.8    # a clip that clips little

The formulas, in NumPy, and a policy so small that its optimum is known: a softmax over ten
responses to each of 20 held-out questions. The reference has the SFT checkpoint's shares of styles,
the reward is an annotator who likes length (the proxy), gold utility judges. Rewards and beta are
in units of utility, KL in nats.

About 2 seconds. Expect: without the KL term 99.6 % on the proxy's favourite, gold utility from 2.0
over a peak of 2.4 to 1.6; with it 2.2, and a total variation of 0.003 to the closed form (up to
0.2 with other learning rates and epochs, 0.9 without clipping). Writes
outputs/ppo_objectives.png. Left out: tokens (a response is one action), learned reward and value
models (a batch's mean stands in for the value), Adam.
"""

import argparse

from support.bandit import curve_at, describe, log_softmax, make_bandit
from support.drawing.ppo_objectives import draw_objectives
from support.findings.ppo_objectives import findings
from support.model_sizes import Sizes, in_gb, model_sizes
from support.objective_curves import advantage_curves, clip_curves, expected_estimates

import numpy as np

from common import cli
from common.intervals import summaries, summary
from common.reporting import INFINITY, Check, Claim, finish

BATCH, LEARNING_RATE, PASSES = 64, 0.3, 4  # responses per update, step on the logits, epochs
BETAS = np.geomspace(8, 0.05, 25)
RATES, EPOCHS = (0.1, 0.3, 1.0, 3.0, 10.0), (1, 2, 4, 8, 16)
TOLERANCE = 0.01  # of total variation: converged
TOO_FAR = 1e100  # of a logit: the next products overflow

CLAIMS = (
    Claim(
        "no_kl_runs_to_proxy_favourite",
        "without the KL penalty the policy overfits to the reward model's idiosyncrasies",
        "probability of the proxy's favourite response at the end",
        path="end.without_kl.favourite",
        true=(0.5, INFINITY),
        smallest=0.05,
    ),
    Claim(
        "no_kl_lowers_gold",
        "the KL penalty keeps quality from falling",
        "gold utility at the end with the KL term minus that without it",
        path="gold_kept_by_kl",
        smallest=0.1,
    ),
    Claim(
        "kl_term_converges_to_closed_form",
        "with the KL term PPO ends at the optimum pi_ref exp(r / beta) / Z",
        "total variation from it at the end",
        path="end.with_kl.distance",
        true=(-INFINITY, TOLERANCE),
        smallest=0.002,
    ),
    Claim(
        "ppo_is_sensitive",
        "PPO is sensitive to how learning rate and epochs per batch meet",
        "total variation added by 16 epochs at the learning rate that suits 1",
        path="distance_added_by_epochs",
        true=(TOLERANCE, INFINITY),
        smallest=0.002,
    ),
    Claim(
        "clipping_tames_bad_settings",
        "clipping tames bad settings",
        "total variation without clipping minus with it, mean over all settings",
        path="distance_saved_by_clipping",
        smallest=TOLERANCE,
    ),
)
CHECKS = (
    Check("four_models_vs_two", "PPO holds twice DPO's weights", "ppo_over_dpo", (1.999, 2.001)),
)


# --- 1. The objective: maximise E[r] - beta KL(pi || pi_ref) ---


def kl_regularized_optimum(ref_probs: np.ndarray, rewards: np.ndarray, beta: float) -> np.ndarray:
    """The policy that maximises E[r] - beta KL(pi || pi_ref): pi_ref exp(r / beta) / Z, (..., K).

    beta -> 0 leaves the best of what pi_ref can say, beta -> infinity pi_ref. Rafailov et al. 2023
    (arXiv 2305.18290), Eq. 4.
    """
    support = ref_probs > 0
    best = np.where(support, rewards, -np.inf).max(-1, keepdims=True)
    with np.errstate(over="ignore"):  # divided by a tiny beta: -inf, so the weight is 0
        weights = ref_probs * np.exp(np.where(support, rewards - best, 0.0) / beta)
    return weights / weights.sum(-1, keepdims=True)


# --- 2. PPO's update: the clipped surrogate, advantages, and the KL from samples ---


def clipped_surrogate(ratio: np.ndarray, advantage: np.ndarray, epsilon: float) -> np.ndarray:
    """min(ratio A, clip(ratio, 1 - eps, 1 + eps) A), elementwise, to maximise; ratio = pi / pi_old.

    Its gradient dies where the policy moved far enough in the right direction (A > 0 and
    ratio > 1 + eps, or A < 0 and ratio < 1 - eps); a move in the wrong direction is never clipped.
    Schulman et al. 2017 (arXiv 1707.06347), Eq. 7.
    """
    return np.minimum(ratio * advantage, np.clip(ratio, 1 - epsilon, 1 + epsilon) * advantage)


def generalized_advantage_estimate(
    rewards: np.ndarray, values: np.ndarray, gamma: float, lam: float
) -> np.ndarray:
    """A_t = sum_l (gamma lam)^l delta_(t+l), delta_t = r_t + gamma V_(t+1) - V_t; (T,), V_T = 0.

    lam = 0 gives TD errors (trust the values), 1 returns minus values (trust the samples).
    Schulman et al. 2015 (arXiv 1506.02438), Eq. 16.
    """
    deltas = rewards + gamma * np.append(values[1:], 0.0) - values
    advantages, later = np.zeros(len(deltas)), 0.0
    for t in reversed(range(len(deltas))):
        advantages[t] = later = deltas[t] + gamma * lam * later
    return advantages


def kl_estimators(logp: np.ndarray, ref_logp: np.ndarray) -> dict[str, np.ndarray]:
    """KL(pi || pi_ref) in nats from samples of pi, one estimate each.

    With x = ref_logp - logp: k1 = -x, k2 = x^2 / 2, k3 = e^x - 1 - x. k1 and k3 are unbiased, k2
    and k3 never negative. Schulman 2020, joschu.net/blog/kl-approx.html.
    """
    x = ref_logp - logp
    return {"k1": -x, "k2": x**2 / 2, "k3": np.expm1(x) - x}  # exp(x) - 1 - x may round below 0


# --- 3. PPO on a policy whose optimum is known ---


def train_ppo(ref_probs, rewards, beta, updates, seed, rate, epsilon, epochs) -> np.ndarray:
    """PPO-clip from the reference: log-probabilities of each update, (updates + 1, ..., N, K).

    Each of the N questions has a policy and batches of its own; ref_probs and rewards are (N, K),
    rewards in units of utility like beta. A learning rate or epsilon of shape (M, 1, 1) trains M
    policies for each. In each update the batch is read `epochs` times.
    """
    log_ref, rng = np.log(ref_probs), np.random.default_rng(seed)
    shape = np.broadcast_shapes(log_ref.shape, np.shape(rate), np.shape(epsilon))
    logits = np.broadcast_to(log_ref, shape)
    history = [log_softmax(logits)]
    for _ in range(updates):
        # Generate: how often each response was sampled.
        old = history[-1]
        share = rng.multinomial(BATCH, np.exp(old)) / BATCH
        # Score: the KL term enters each sample's reward, as k1.
        penalised = rewards - beta * (old - log_ref)
        advantage = penalised - (share * penalised).sum(-1, keepdims=True)
        # Update: from the second epoch on, the batch is no longer the policy's own.
        for _ in range(epochs):
            new = log_softmax(logits)
            ratio = np.exp(np.where(share > 0, np.minimum(new - old, 50), 0))  # no overflow
            alive = clipped_surrogate(ratio, advantage, epsilon) == ratio * advantage
            gradient = share * advantage * ratio * alive  # with respect to log pi
            logits = logits + rate * (gradient - np.exp(new) * gradient.sum(-1, keepdims=True))
        if not np.abs(logits).max() < TOO_FAR:
            raise cli.UserError(f"with beta {beta:g} PPO's policy diverges; take a smaller --beta")
        history.append(log_softmax(logits))
    return np.array(history)


def measure_sensitivity(world: dict, beta: float, epsilon: float, updates: int, seed: int) -> dict:
    """Total variation to pi* by epochs and learning rate, with clipping and without."""
    ref, proxy = world["ref"], world["proxy"]
    optimum = kl_regularized_optimum(ref, proxy, beta)
    rates = np.reshape(RATES, (-1, 1, 1))
    clips = np.reshape([epsilon, np.inf], (2, 1, 1, 1))
    distances = []
    for epochs in EPOCHS:
        history = train_ppo(ref, proxy, beta, updates, seed, rates, clips, epochs)
        distances.append(describe(history[-1], world, optimum)["distance"])
    clipped, unclipped = np.array(distances).swapaxes(0, 1)  # each (EPOCHS, RATES, N)
    suits_fewest = clipped[0].mean(-1).argmin()
    suits_most = clipped[-1].mean(-1).argmin()
    added = clipped[-1, suits_fewest] - clipped[-1, suits_most]
    return {
        "sensitivity": {
            "rates": RATES,
            "epochs": EPOCHS,
            "clipped": summaries(clipped),
            "unclipped": summaries(unclipped),
        },
        "distance_added_by_epochs": summary(added),
        "distance_saved_by_clipping": summary((unclipped - clipped).mean((0, 1))),
    }


# --- 4. Memory: four models against two ---


def memory(sizes: Sizes) -> dict[str, dict]:
    """What each method holds: GB (1e9 bytes) of fp16 weights by role, and what of it is trained.

    The value model is as large as the reward model from which it starts. With LoRA the reference is
    the policy, and the reward model the value model, with the adapter off; both adapters count
    alike. Gradients and activations come on top, and AdamW's two fp32 moments, `adamw_gb`.
    """
    policy, reward, adapter = sizes
    held = {  # trained, frozen
        "PPO": ({"policy": policy, "value": reward}, {"reference": policy, "reward": reward}),
        "DPO": ({"policy": policy}, {"reference": policy}),
        "PPO + LoRA": ({"adapters": 2 * adapter}, {"policy": policy, "reward": reward}),
        "DPO + LoRA": ({"adapter": adapter}, {"policy": policy}),
        "best-of-n": ({}, {"policy": policy, "reward": reward}),
    }
    return {method: in_gb(trained, frozen) for method, (trained, frozen) in held.items()}


# --- 5. The study ---


def study(*, beta: float, epsilon: float, seed: int, count: int = 20, updates: int = 200) -> dict:
    """The section: the optimum by beta, PPO with the KL term and without, and what it takes."""
    world = make_bandit(count, seed)
    ref, proxy = world["ref"], world["proxy"]
    optimum = kl_regularized_optimum(ref, proxy, beta)
    policies, runs = {}, {}
    for name, weight in (("without_kl", 0.0), ("with_kl", beta)):
        settings = (updates, seed, LEARNING_RATE, epsilon, PASSES)
        policies[name] = train_ppo(ref, proxy, weight, *settings)
        runs[name] = describe(policies[name], world, optimum)
    log_ref, after_one, at_the_end = np.log(ref), policies["with_kl"][1], policies["with_kl"][-1]
    free_gold, kept_gold = runs["without_kl"]["gold"], runs["with_kl"]["gold"]
    looks = [0, *np.unique(np.geomspace(1, updates, 25).round().astype(int)).tolist()]
    curves = {name: curve_at(run, looks) for name, run in runs.items()}
    by_beta = np.log([kl_regularized_optimum(ref, proxy, b) for b in BETAS])
    weights = {name: memory(sizes) for name, sizes in model_sizes().items()}
    return {
        "start": curve_at(runs["with_kl"], 0),
        "end": {name: curve_at(run, -1) for name, run in runs.items()},
        "curves": {"updates": looks, **curves},
        "peak_gold_without_kl": summary(free_gold[free_gold.mean(-1).argmax()]),
        "gold_kept_by_kl": summary(kept_gold[-1] - free_gold[-1]),
        "optimum": {"beta": BETAS.tolist(), **curve_at(describe(by_beta, world, optimum))},
        **measure_sensitivity(world, beta, epsilon, updates // 2, seed),
        "clip": clip_curves(clipped_surrogate, epsilon),
        "advantages": advantage_curves(generalized_advantage_estimate, gamma=1.0),
        "kl_estimators": {
            "after_1_update": expected_estimates(kl_estimators, after_one, log_ref),
            "at_the_end": expected_estimates(kl_estimators, at_the_end, log_ref),
        },
        "memory": weights,
        "ppo_over_dpo": weights["7B"]["PPO"]["weights_gb"] / weights["7B"]["DPO"]["weights_gb"],
    }


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__file__, __doc__)
    group = parser.add_argument_group("objective")
    beta = "weight of the KL term, in units of utility"
    group.add_argument("--beta", type=cli.positive_float, default=1.0, help=beta)
    epsilon = "PPO's clipping range, below 1, since no ratio of probabilities falls below 0"
    group.add_argument("--epsilon", type=cli.fraction, default=0.2, help=epsilon)
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Measure, draw; returns the metrics."""
    args = cli.start(build_parser(), argv, "ppo_objectives")
    small = {"count": 5, "updates": 40} if args.smoke else {}
    metrics = study(beta=args.beta, epsilon=args.epsilon, seed=args.seed, **small)
    return finish(args, metrics, draw_objectives, findings(metrics), CLAIMS, CHECKS)


if __name__ == "__main__":
    cli.run(main)
