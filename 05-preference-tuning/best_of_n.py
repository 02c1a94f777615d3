"""Best-of-N: how far does choosing among samples get, what does it cost, how does it suit DPO?

    python 05-preference-tuning/best_of_n.py
    python 05-preference-tuning/best_of_n.py --n 32                                # choose among more
    python 05-preference-tuning/best_of_n.py --model FOLDER --dataset pairs.jsonl --reward-backbone FOLDER

One pool of candidates per held-out prompt is sampled in one go, and each is scored once by the
reward model. Every n from 1 to --n is then estimated from that one pool without bias, for the SFT
checkpoint and for the DPO policy. The reward model and the adapter come from reward_model.py and
dpo_trainer.py; what is not in outputs/ yet is trained first.

About a minute on 2 cores when both are there. Expect most of DPO's gain from choosing the best of
16, with equal weights, and the first step from 1 to 4 to bring more than the one from 4 to 16.
Writes outputs/best_of_n.png. With --dataset your held-out prompts are answered; there is no gold
then, only the reward model that chooses, and its accuracy. Left out: speculative and early-stopped
variants, weighted voting, distilling best-of-n back into the weights.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import dpo_trainer
import reward_model
from rlhf_objectives import kl_regularized_optimum
from support.artifacts import find_or_train
from support.drawing.best_of_n import draw_best_of_n
from support.evaluation import marks, sample_answers, score_texts
from support.own_pairs import load_own_pairs, policy_data
from support.training import load_sft_checkpoint, training_settings

import numpy as np

from common import cli
from common.models import load_reward_model
from common.reporting import Check, Claim, bootstrap_ci, finish, interval, percent, summary

PROMPTS = 128  # of the world, where --prompts is not given
FEW = 4  # where the curve of n is cut in two
NS = (1, 2, 4, 8, 16, 32, 64)

CLAIMS = (
    Claim(
        "best_of_n_cost_is_linear",
        "the cost of best-of-n is linear in n",
        "exponent of FLOPs (sampling and scoring) in n",
        path="cost_exponent",
        true=(0.85, 1.15),
    ),
    Claim(
        "one_to_four_beats_four_to_sixteen",
        "n from 1 to 4 gains more than from 4 to 16",
        "gain in gold utility from n = 1 to 4, minus that from 4 to the largest n, log-odds",
        path="first_step_minus_second",
        smallest=0.05,
    ),
    Claim(
        "best_of_n_captures_dpo_gain",
        "best-of-n captures a large part of DPO's gain without training",
        "gain in gold utility of best-of-n, as a share of DPO's",
        path="share_of_dpo_gain",
        true=(0.5, float("inf")),
    ),
    Claim(
        "dpo_plus_best_of_n_is_best",
        "DPO with best-of-n on top is better than either alone",
        "gold utility of both together, minus that of the better one alone, log-odds",
        path="both_minus_better_single",
        smallest=0.05,
    ),
)
CHECKS = (
    Check(
        "best_of_n_leaves_weights",
        "best-of-n leaves every weight unchanged",
        "largest_weight_change",
        (0, 0),
    ),
)


# --- 1. Best-of-n in closed form ---


def expected_best_of_n(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    """Unbiased estimate of the expected value of the best of n by reward, from a pool of M >= n.

    rewards (M,) rank the pool, values (M,) are averaged (default: the rewards); within ties values
    count equally. The i-th smallest reward is the largest of a random subset of n with probability
    C(i-1, n-1) / C(M, n); its binary case is pass@k (Chen et al. 2021, arXiv 2107.03374). Raises
    ValueError for n outside 1 ... M.
    """
    rewards = np.asarray(rewards, dtype=float)
    if not 1 <= n <= len(rewards):
        raise ValueError(f"n = {n} must lie between 1 and the pool size {len(rewards)}")
    _, tie_group = np.unique(rewards, return_inverse=True)
    sums = np.bincount(tie_group, rewards if values is None else values)
    means = sums / np.bincount(tie_group)
    return float(best_of_n_weights(len(rewards), n) @ means[np.sort(tie_group)])


def best_of_n_weights(size: int, n: int) -> np.ndarray:
    """The chance that the i-th smallest of a pool is the best of n: (size,).

    C(i-1, n-1) / C(size, n) for i = 1 ... size.
    """
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size + 1)))])

    def log_choose(a: np.ndarray | int, b: int) -> np.ndarray:
        return log_factorial[a] - log_factorial[b] - log_factorial[np.asarray(a) - b]

    weights = np.zeros(size)
    below = np.arange(n - 1, size)
    weights[n - 1 :] = np.exp(log_choose(below, n - 1) - log_choose(size, n))
    return weights


def best_of_n_policy(ref_probs: np.ndarray, rewards: np.ndarray, n: int) -> np.ndarray:
    """Exact distribution (K,) of the best of n draws from ref_probs (K,), by reward.

    F^n - F_-^n, shared by ref_probs within ties: F is the probability of a reward up to this one,
    F_- of a lower one (Beirami et al. 2024, arXiv 2401.01879).
    """
    ref_probs = np.asarray(ref_probs, dtype=float)
    _, group = np.unique(rewards, return_inverse=True)
    mass = np.bincount(group, ref_probs)
    up_to = np.minimum(np.cumsum(mass), 1.0)
    win = up_to**n - np.concatenate([[0.0], up_to[:-1]]) ** n
    return ref_probs * np.divide(win, mass, out=np.zeros_like(mass), where=mass > 0)[group]


def best_of_n_kl_bound(n: int | np.ndarray) -> float | np.ndarray:
    """log n - (n - 1)/n in nats: upper bound of KL(best-of-n || reference).

    Reached where there are no ties (Beirami et al. 2024).
    """
    return np.log(n) - (n - 1) / n


def kl_divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) in nats of two distributions (K,)."""
    inside = p > 0
    return float((p[inside] * np.log(p[inside] / q[inside])).sum())


# --- 2. One pool of candidates, scored once ---


def make_pool(
    model, tokenizer, judge: tuple, prompts: list[str], size: int, max_new_tokens: int, seed: int
) -> dict:
    """Sample `size` candidates per prompt and score them: texts, arrays (prompts, size) by name.

    `reward`, and the readings of `sample_answers`. `judge` is (reward model, tokenizer).
    """
    texts, values = sample_answers(model, tokenizer, prompts, size, max_new_tokens, seed)
    return {"texts": texts, "reward": score_texts(judge, prompts, texts), **values}


def best_of_n_curve(rewards: np.ndarray, values: np.ndarray, ns: Sequence[int]) -> np.ndarray:
    """Expected value of the best of n by reward: (P, len(ns)); rewards and values (P, M)."""
    rows = zip(rewards, values, strict=True)
    return np.array([[expected_best_of_n(r, n, v) for n in ns] for r, v in rows])


def frontier(rewards: np.ndarray, settings: Sequence[float], policy) -> dict:
    """Reward and KL of policy(ref_probs, rewards, setting) on pools; rewards (P, M).

    The reference gives every candidate of a prompt 1/M; KLs are those of the reweighted pool.
    """
    uniform = np.full(rewards.shape[1], 1 / rewards.shape[1])
    kl, reward = [], []
    for setting in settings:
        policies = [policy(uniform, row, setting) for row in rewards]
        kl.append(summary([kl_divergence(p, uniform) for p in policies], resamples=500))
        expected = [p @ row for p, row in zip(policies, rewards, strict=True)]
        reward.append(summary(expected, resamples=500))
    return {"setting": list(settings), "kl": kl, "reward": reward}


def show_candidates(prompt: str, texts: list[str], rewards: np.ndarray) -> None:
    """Print candidates for a prompt with their rewards, and which one is chosen."""
    print(f"\n{prompt}")
    for k, (text, reward) in enumerate(zip(texts, rewards, strict=True)):
        chosen = "->" if k == np.argmax(rewards) else "  "
        print(f"  {chosen} reward {reward:+.2f}: {text}{marks(prompt, text)}")


# --- 3. Cost ---


def measure_cost(sampler: tuple, prompts: list[str], ns: Sequence[int]) -> tuple[dict, dict]:
    """Work and seconds of sampling and scoring n candidates: (metrics, {"n=4": seconds}).

    `sampler` are the first arguments of `make_pool` up to the judge, and the last two. FLOPs are
    counted by PyTorch while the models run, so that batching and the shared reading of the prompt
    count as they are; unlike seconds they are the same in every run.
    """
    from accelerate.utils import gather_object
    from torch.utils.flop_counter import FlopCounterMode

    *models, max_new_tokens, seed = sampler
    chunks = [prompts[i : i + 8] for i in range(0, len(prompts), 8)]
    flops, seconds = np.zeros((len(chunks), len(ns))), {}
    for k, n in enumerate(ns):
        for row, chunk in enumerate(chunks):
            with FlopCounterMode(display=False) as counter:
                make_pool(*models, chunk, n, max_new_tokens, seed)
            flops[row, k] = sum(gather_object([counter.get_total_flops()]))
        started = time.perf_counter()  # counting has warmed up
        for chunk in chunks:
            make_pool(*models, chunk, n, max_new_tokens, seed)
        seconds[f"n={n}"] = round(time.perf_counter() - started, 2)

    def exponent(rows: np.ndarray, axis: int = 0) -> float:
        return fitted_exponent(ns, rows.sum(axis))

    measured = {"mean": exponent(flops), "ci95": bootstrap_ci(flops, exponent, resamples=500)}
    cost = {"n": list(ns), "flops": flops.sum(0).tolist()}
    return {"cost": cost, "cost_exponent": measured}, seconds


def fitted_exponent(ns: Sequence[int], cost: np.ndarray) -> float:
    """Slope of log cost against log n; cost (len(ns),)."""
    return float(np.polyfit(np.log(ns), np.log(cost), 1)[0])


# --- 4. SFT, best-of-n, DPO, and both, on the same prompts ---


def load_adapter(model, folder: Path):
    """The model with the adapter of a folder. Raises UserError where the two do not fit."""
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, folder).eval()
    except Exception as error:  # whatever the library raises for what does not fit
        raise cli.UserError(f"--adapter {folder}: does not fit the model: {error}") from None


def compare_methods(curves: dict[str, dict]) -> dict:
    """Every method's gold utility, good share and reward, and the differences of the claims.

    `curves[arm][name]` (prompts, n) are the curves over n of the SFT checkpoint and of the policy.
    """
    gold, methods = {}, {}
    for arm, best in (("sft", "best_of_n"), ("dpo", "dpo_best_of_n")):
        for method, at in ((arm, 0), (best, -1)):
            methods[method] = {name: summary(values[:, at]) for name, values in curves[arm].items()}
            gold[method] = curves[arm]["utility"][:, at]
    gains = np.column_stack([gold["best_of_n"] - gold["sft"], gold["dpo"] - gold["sft"]])
    better_single = max(("best_of_n", "dpo"), key=lambda method: gold[method].mean())
    return {
        "methods": methods,
        "share_of_dpo_gain": summary(gains, ratio),
        "both_minus_better_single": summary(gold["dpo_best_of_n"] - gold[better_single]),
    }


def ratio(table: np.ndarray, axis: int = 0) -> float:
    """Sum of the first column over that of the second; table (N, 2)."""
    first, second = table.sum(axis)
    return float(first / second)


def diminishing(gold: np.ndarray) -> dict:
    """What the first candidates gain and what the others gain, of a curve of gold (P, n)."""
    few = min(FEW, gold.shape[1])
    first, second = gold[:, few - 1] - gold[:, 0], gold[:, -1] - gold[:, few - 1]
    steps = {"first_step_minus_second": first - second, "first_step": first, "second_step": second}
    return {name: summary(values) for name, values in steps.items()}


def study(
    *,
    model: str,
    dataset: str | None,
    pairs: int | None,
    reward_folder: Path,
    adapter: Path,
    output_dir: Path,
    device: str,
    seed: int,
    sft_steps: int | None = None,
    n: int = 16,
    prompts: int | None = None,
    max_new_tokens: int = 48,
) -> tuple[dict, dict]:
    """The section: (metrics, seconds of best-of-n). Gold is read where there is a gold standard."""
    sft = (model, dataset, sft_steps, seed, output_dir, device)
    reference, tokenizer = load_sft_checkpoint(*sft)
    policy = load_adapter(load_sft_checkpoint(*sft)[0], adapter)
    judge = load_reward_model(str(reward_folder), device)
    rows = load_own_pairs(dataset)
    data = policy_data(rows, tokenizer, pairs, seed, max_new_tokens, prompts)
    before = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    pools = {
        arm: make_pool(lm, tokenizer, judge, data.prompts, 2 * n, max_new_tokens, seed)
        for arm, lm in (("sft", reference), ("dpo", policy))
    }
    after = reference.state_dict()
    sampled = pools["sft"]
    show_candidates(data.prompts[0], sampled["texts"][0][:FEW], sampled["reward"][0, :FEW])
    names = ("reward", "words", *(("utility", "good") if data.has_gold else ()))
    curves = {
        arm: {name: best_of_n_curve(pool["reward"], pool[name], range(1, n + 1)) for name in names}
        for arm, pool in pools.items()
    }
    sampler = (reference, tokenizer, judge, max_new_tokens, seed)
    cost, seconds = measure_cost(sampler, data.prompts[:48], [k for k in NS if k <= min(n, 16)])
    accuracy = reward_model.pair_hits(reward_model.score_pairs(*judge, data.held))
    metrics = {
        "prompts": len(data.prompts),
        "largest_weight_change": max(float((after[k] - before[k]).abs().max()) for k in before),
        "reward_model_accuracy": summary(accuracy),
        "curves": over_prompts(curves),
        "kl_bound": [float(best_of_n_kl_bound(k)) for k in range(1, n + 1)],
        "frontiers": {
            "best_of_n": frontier(sampled["reward"], [k for k in NS if k <= n], best_of_n_policy),
            "optimum": frontier(
                sampled["reward"], np.geomspace(0.05, 20, 24).tolist(), kl_regularized_optimum
            ),
        },
        "dpo_point": {name: summary(pools["dpo"][name].mean(1)) for name in ("kl", "reward")},
        **cost,
    }
    if data.has_gold:
        metrics |= diminishing(curves["sft"]["utility"]) | compare_methods(curves)
    return metrics, seconds


def over_prompts(curves: dict) -> dict:
    """Curves (P, n) as lists of quantities, one for each n."""
    if isinstance(curves, dict):
        return {name: over_prompts(values) for name, values in curves.items()}
    return [summary(column, resamples=500) for column in curves.T]


def findings(metrics: dict) -> list[str]:
    """What was measured, in sentences."""
    largest, curves = len(metrics["kl_bound"]), metrics["curves"]
    accuracy = percent(metrics["reward_model_accuracy"])
    lines = [f"The reward model orders {accuracy} of held-out pairs as labelled."]
    ways = (
        ("One answer of the SFT checkpoint", "sft", 0),
        (f"Best of {largest}", "sft", -1),
        ("One answer after DPO", "dpo", 0),
        (f"Best of {largest} after DPO", "dpo", -1),
    )
    for name, arm, at in ways:
        seen = {key: values[at] for key, values in curves[arm].items()}
        text = f"reward {interval(seen['reward'])}, {seen['words']['mean']:.1f} words"
        if "utility" in seen:
            good = percent(seen["good"])
            text = f"gold utility {interval(seen['utility'])}, good answers {good}, {text}"
        lines.append(f"{name}: {text}.")
    lines.append(f"FLOPs grow as n^{metrics['cost_exponent']['mean']:.2f}.")
    if "first_step" not in metrics:
        return [*lines, "There is no gold standard for these pairs: the reward is what chooses."]
    first, second = (interval(metrics[name]) for name in ("first_step", "second_step"))
    share = percent(metrics["share_of_dpo_gain"])
    return [
        *lines,
        f"Gold utility gained from n = 1 to {min(FEW, largest)}: {first}; "
        f"from there to {largest}: {second}.",
        f"Best of {largest} gains {share} of what DPO gains.",
    ]


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__file__, __doc__)
    group = cli.add_model_flags(parser, model="tiny-gpt2")
    group.add_argument(
        "--reward-backbone", default="tiny-distilbert", help="what a reward model is trained from"
    )
    trained = "default: the one in the output folder, trained first where it is missing"
    group.add_argument("--reward-model", type=Path, help=f"a trained reward model; {trained}")
    group.add_argument("--adapter", type=Path, help=f"a trained DPO adapter; {trained}")
    group = cli.add_policy_flags(parser, prompts=f"{PROMPTS}, of your own 16")
    largest = "the largest n; the pool holds twice as many candidates"
    group.add_argument("--n", type=cli.whole_number(2), default=16, help=largest)
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Sample, score, compare, draw; returns the metrics."""
    args = cli.start(build_parser(), argv, "best_of_n", {"n": 4, "prompts": 8})
    if args.adapter and not (args.adapter / "adapter_model.safetensors").is_file():
        reason = "the folder holds no adapter (adapter_model.safetensors is missing)"
        raise cli.UserError(f"--adapter {args.adapter}: {reason}")
    device = cli.init_compute(args.device)
    where = {"output_dir": args.output_dir, "device": device}
    shared = {"dataset": args.dataset, "seed": args.seed}
    small = {"pairs": 64, "num_train_epochs": 1} if args.smoke else {}
    policy = {"model": args.model, "sft_steps": args.sft_steps}
    policy |= {"max_new_tokens": args.max_new_tokens, **shared}
    dpo_settings = training_settings("dpo", **policy, **small) | {"beta": dpo_trainer.BETA}
    reward_settings = training_settings(
        "reward model", model=args.reward_backbone, **shared, **small
    )
    changed = {name: args.changed[name] for name in ("smoke", *policy) if name in args.changed}
    adapter = args.adapter or find_or_train(
        args.output_dir / cli.name_run("dpo", changed), dpo_settings, dpo_trainer.tune, **where
    )
    changed = {name: args.changed[name] for name in ("smoke", *shared) if name in args.changed}
    if "reward_backbone" in args.changed:
        changed["model"] = args.reward_backbone
    reward_folder = args.reward_model or find_or_train(
        args.output_dir / cli.name_run("reward_model", changed),
        reward_settings,
        reward_model.tune,
        **where,
    )
    metrics, seconds = study(
        **policy,
        **where,
        pairs=dpo_settings["pairs"],
        reward_folder=reward_folder,
        adapter=adapter,
        n=args.n,
        prompts=args.prompts or (None if args.dataset else PROMPTS),
    )
    return finish(
        args,
        metrics,
        draw_best_of_n,
        findings(metrics),
        claims=() if args.dataset else CLAIMS,
        checks=CHECKS,
        settings={"reward_model": reward_folder, "adapter": adapter},
        device=device,
        timings={"cost": seconds},
    )


if __name__ == "__main__":
    cli.run(main)
