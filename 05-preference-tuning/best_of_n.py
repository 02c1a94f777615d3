"""Best-of-N: how far does choosing among samples get, what does it cost, and how does it compare with DPO?

    python 05-preference-tuning/best_of_n.py
    python 05-preference-tuning/best_of_n.py --n 32
    python 05-preference-tuning/best_of_n.py --model FOLDER --dataset pairs.jsonl --reward-backbone FOLDER

One pool of candidates per held-out prompt is sampled in one go, and each is scored once by the reward model. Every n
from 1 to --n is then estimated from that one pool without bias, for the SFT checkpoint and for the DPO policy. The
reward model and the adapter come from reward_model.py and dpo_trainer.py; what is not in outputs/ yet is trained first.

About a minute on 2 cores when both are there. Expect most of DPO's gain from choosing the best of 16, with equal
weights, and the first step from 1 to 4 to bring more than the one from 4 to 16. Writes best_of_n.png. With --dataset
your held-out prompts are answered; there is no gold then, only the reward model that chooses, and its accuracy.
Left out: speculative and early-stopped variants, weighted voting, distilling best-of-n back into the weights.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import dpo_trainer
import numpy as np
import reward_model
from drawing.best_of_n import best_of_n_figure, own_best_of_n_figure
from evaluation import interval, judge_responses, sample_texts, score_texts, summary
from own_pairs import load_own_pairs, split_for_policy
from rlhf_objectives import kl_regularized_optimum
from sft_checkpoint import load_sft_checkpoint

from common.cli import (
    UserError,
    add_model_flags,
    check_writable,
    make_parser,
    pick_device,
    quiet_libraries,
    run,
    whole_number,
)
from common.preferences import questions
from common.reporting import bootstrap_ci, make_claim, print_claims, print_summary, write_results


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add_model_flags(parser, model="tiny-gpt2")
    group = parser.add_argument_group("best-of-n")
    group.add_argument("--n", type=whole_number(1), default=16, help="the largest n; the pool holds twice as many")
    group.add_argument("--prompts", type=whole_number(1), help="held-out prompts; default: 128, of your own 16")
    group.add_argument("--max-new-tokens", type=whole_number(1), default=48, help="length limit of a candidate")
    group.add_argument("--sft-steps", type=int, help="SFT of a base model first; default 300 (0: embedded)")
    group.add_argument("--reward-backbone", default="tiny-distilbert", help="what a reward model is trained from")
    group.add_argument("--reward-model", type=Path, help="a trained reward model; default: outputs/reward_model")
    group.add_argument("--adapter", type=Path, help="a trained DPO adapter; default: outputs/dpo")
    return parser


# --- 1. Best-of-n in closed form ---


def expected_best_of_n(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    """Unbiased estimate of the expected value of the response with the highest of n rewards, from a pool of M >= n.

    rewards (M,) rank the pool, values (M,) are averaged (default: the rewards); within ties values count equally. The
    i-th smallest reward is the largest of a random subset of n with probability C(i-1, n-1) / C(M, n); its binary case
    is pass@k (Chen et al. 2021, arXiv 2107.03374). Raises ValueError for n outside 1 ... M.
    """
    rewards = np.asarray(rewards, dtype=float)
    if not 1 <= n <= len(rewards):
        raise ValueError(f"n = {n} must lie between 1 and the pool size {len(rewards)}")
    _, tie_group = np.unique(rewards, return_inverse=True)
    group_values = np.bincount(tie_group, rewards if values is None else values) / np.bincount(tie_group)
    return float(best_of_n_weights(len(rewards), n) @ group_values[np.sort(tie_group)])


def best_of_n_weights(size: int, n: int) -> np.ndarray:
    """C(i-1, n-1) / C(size, n) for i = 1 ... size: the chance that the i-th smallest of a pool is the best of n."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size + 1)))])

    def log_choose(a: np.ndarray | int, b: int) -> np.ndarray:
        return log_factorial[a] - log_factorial[b] - log_factorial[np.asarray(a) - b]

    weights = np.zeros(size)
    weights[n - 1 :] = np.exp(log_choose(np.arange(n - 1, size), n - 1) - log_choose(size, n))
    return weights


def best_of_n_policy(ref_probs: np.ndarray, rewards: np.ndarray, n: int) -> np.ndarray:
    """Exact distribution of the best of n draws from ref_probs (K,): F^n - F_-^n, shared by ref_probs within ties.

    F is the probability of a reward up to this one, F_- of a lower one (Beirami et al. 2024, arXiv 2401.01879).
    """
    ref_probs = np.asarray(ref_probs, dtype=float)
    _, group = np.unique(rewards, return_inverse=True)
    mass = np.bincount(group, ref_probs)
    up_to = np.minimum(np.cumsum(mass), 1.0)
    win = up_to**n - np.concatenate([[0.0], up_to[:-1]]) ** n
    return ref_probs * np.divide(win, mass, out=np.zeros_like(mass), where=mass > 0)[group]


def best_of_n_kl_bound(n: int | np.ndarray) -> float | np.ndarray:
    """log n - (n - 1)/n in nats: upper bound of KL(best-of-n || reference), reached without ties (Beirami et al.)."""
    return np.log(n) - (n - 1) / n


def kl_divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) in nats of two distributions (K,)."""
    inside = p > 0
    return float((p[inside] * np.log(p[inside] / q[inside])).sum())


# --- 2. One pool of candidates, scored once ---


def make_pool(model, tokenizer, judge, prompts: list[str], size: int, max_new_tokens: int, seed: int) -> dict:
    """Sample `size` candidates per prompt and score them: texts, and arrays (prompts, size) of reward, words and KL.

    `judge` is (reward model, tokenizer).
    """
    texts, kl = sample_texts(model, tokenizer, prompts, size, max_new_tokens, seed)
    words = np.array([[float(len(text.split())) for text in row] for row in texts])
    return {"texts": texts, "reward": score_texts(judge, prompts, texts), "words": words, "kl": kl}


def best_of_n_curve(rewards: np.ndarray, values: np.ndarray, ns: Sequence[int]) -> np.ndarray:
    """Expected value of the best of n by reward, per prompt: (P, len(ns)); rewards and values (P, M)."""
    return np.array([[expected_best_of_n(r, n, v) for n in ns] for r, v in zip(rewards, values, strict=True)])


def frontiers(pool: dict, largest: int) -> dict:
    """Reward and KL, mean over prompts, of best-of-n and of the closed-form optimum, both on the pool as reference.

    The reference gives every candidate of a prompt 1/M; KLs are those of the reweighted pool, so that both methods
    meet the same reference. The optimum is pi_ref exp(r / beta) / Z: no policy has more reward at its KL.
    """
    ns, betas = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= largest], np.geomspace(0.05, 20, 24)
    uniform = np.full(pool["reward"].shape[1], 1 / pool["reward"].shape[1])
    found = {}
    for name, settings, policy in (
        ("best_of_n", ns, best_of_n_policy),
        ("optimum", betas.tolist(), kl_regularized_optimum),
    ):
        points = [[(policy(uniform, r, s), r) for r in pool["reward"]] for s in settings]
        found[name] = {
            "setting": settings,
            "kl": [float(np.mean([kl_divergence(p, uniform) for p, _ in row])) for row in points],
            "reward": [float(np.mean([p @ r for p, r in row])) for row in points],
        }
    return found


# --- 3. Cost ---


def measure_cost(model, tokenizer, judge, prompts: list[str], ns: list[int], max_new_tokens: int, seed: int):
    """Work and seconds of sampling and scoring n candidates: ({n: FLOPs per chunk of 8 prompts}, {n: seconds}).

    FLOPs are counted by PyTorch while the models run, so that batching and the shared reading of the prompt count as
    they are; unlike seconds they are the same in every run.
    """
    from accelerate.utils import gather_object
    from torch.utils.flop_counter import FlopCounterMode

    flops, seconds = {}, {}
    chunks = [prompts[i : i + 8] for i in range(0, len(prompts), 8)]
    for n in ns:
        flops[n] = []
        for chunk in chunks:
            with FlopCounterMode(display=False) as counter:
                make_pool(model, tokenizer, judge, chunk, n, max_new_tokens, seed)
            flops[n].append(float(sum(gather_object([counter.get_total_flops()]))))
        started = time.perf_counter()  # counting has warmed up
        for chunk in chunks:
            make_pool(model, tokenizer, judge, chunk, n, max_new_tokens, seed)
        seconds[n] = time.perf_counter() - started
    return flops, seconds


def fitted_exponent(ns: list[int], cost: np.ndarray) -> float:
    """Slope of log cost against log n; cost (len(ns),)."""
    return float(np.polyfit(np.log(ns), np.log(cost), 1)[0])


# --- 4. What other scripts trained, or train it now ---


def find_trained(args: argparse.Namespace, device: str, script, name: str, flag: str, flags: list[str]) -> Path:
    """A folder with what `script` trains by default with this seed and dataset: outputs/NAME, or trained now.

    What is in outputs/NAME with other settings is somebody's work and stays: then it is outputs/NAME-default.
    """
    from common.models import trained_settings

    shared = ["--output-dir", str(args.output_dir), "--seed", str(args.seed), "--device", args.device]
    shared += ["--dataset", args.dataset] if args.dataset else []
    other = script.build_parser().parse_args(shared + flags + ["--smoke"] * args.smoke)
    reward_model.shrink_for_smoke(other)
    wanted, folder = reward_model.training_key(other), args.output_dir / name
    if folder.exists() and trained_settings(folder) != wanted:
        print(f"{folder} was trained with other settings: left alone (--{flag} {folder} takes it as it is)")
        folder = args.output_dir / f"{name}-default"
    if trained_settings(folder) == wanted:
        print(f"using {folder}")
        return folder
    print(f"training {folder} as {script.__name__}.py does")
    script.fit_and_save(other, device, folder)
    return folder


def load_policies(args: argparse.Namespace, device: str):
    """SFT model, tokenizer, DPO policy (the SFT model with the adapter), and (reward model, its tokenizer)."""
    from common.models import load_reward_model

    lm_flags = ["--model", args.model] + ([] if args.sft_steps is None else ["--sft-steps", str(args.sft_steps)])
    backbone = ["--model", args.reward_backbone]
    args.reward_model = args.reward_model or find_trained(
        args, device, reward_model, "reward_model", "reward-model", backbone
    )
    args.adapter = args.adapter or find_trained(args, device, dpo_trainer, "dpo", "adapter", lm_flags)
    model, tokenizer = load_sft_checkpoint(args, device)
    policy = load_adapter(load_sft_checkpoint(args, device)[0], args.adapter)
    return model, tokenizer, policy, load_reward_model(str(args.reward_model), device)


def load_adapter(model, folder: Path):
    """The model with the adapter of a folder. Raises UserError where the two do not fit."""
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, folder).eval()
    except Exception as error:  # whatever the library raises for a config or for weights that do not fit
        raise UserError(f"--adapter {folder}: does not fit the model: {error}") from None


# --- 5. SFT, best-of-n, DPO, and both, on the same prompts ---


def compare_methods(curves: dict[str, dict]) -> dict:
    """Per method gold utility, good share and reward, with intervals over prompts, and the differences of the claims.

    `curves[arm][name]` (prompts, n) are the curves over n of the SFT checkpoint and of the DPO policy.
    """
    gold, methods = {}, {}
    for arm, best in (("sft", "best_of_n"), ("dpo", "dpo_best_of_n")):
        for method, at in ((arm, 0), (best, -1)):
            methods[method] = {name: summary(values[:, at]) for name, values in curves[arm].items()}
            gold[method] = curves[arm]["utility"][:, at]
    rows = np.column_stack([gold["best_of_n"] - gold["sft"], gold["dpo"] - gold["sft"]])

    def share(table: np.ndarray, axis: int = 0) -> float:
        bon, dpo = table.sum(axis)
        return bon / dpo

    better_single = max(("best_of_n", "dpo"), key=lambda method: gold[method].mean())
    return {
        "methods": methods,
        "share_of_dpo_gain": {"mean": float(share(rows)), "ci95": bootstrap_ci(rows, share)},
        "better_single_method": better_single,
        "both_minus_better_single": summary(gold["dpo_best_of_n"] - gold[better_single]),
    }


def study_world(args: argparse.Namespace, device: str) -> tuple[dict, dict]:
    """All measurements on the synthetic world: (metrics, seconds)."""
    prompts = [question.prompt for question in questions("test")][: args.prompts]
    pools, metrics, seconds = study_pools(args, device, prompts)
    for pool in pools.values():
        pool |= judge_responses(prompts, pool["texts"])
    ns = range(1, args.n + 1)
    curves = {
        arm: {name: best_of_n_curve(pool["reward"], pool[name], ns) for name in ("reward", "utility", "good")}
        for arm, pool in pools.items()
    }
    middle, gold = min(4, args.n), curves["sft"]["utility"]
    first, second = gold[:, middle - 1] - gold[:, 0], gold[:, -1] - gold[:, middle - 1]
    steps = {"first_step_minus_second": first - second, "first_step": first, "second_step": second}
    return {
        "curves": {arm: {k: band(values) for k, values in found.items()} for arm, found in curves.items()},
        **metrics,
        **{name: summary(values) for name, values in steps.items()},
        **compare_methods(curves),
    }, seconds


def study_pools(args: argparse.Namespace, device: str, prompts: list[str]) -> tuple[dict, dict, dict]:
    """(pools of the SFT checkpoint and of the DPO policy, what needs no gold to be known, seconds)."""
    model, tokenizer, policy, judge = load_policies(args, device)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    size, length = 2 * args.n, args.max_new_tokens
    pools = {
        arm: make_pool(lm, tokenizer, judge, prompts, size, length, args.seed)
        for arm, lm in (("sft", model), ("dpo", policy))
    }
    changed = max(float((tensor - weights[name]).abs().max()) for name, tensor in model.state_dict().items())
    ns = [n for n in (1, 2, 4, 8, 16) if n <= args.n]
    flops, seconds = measure_cost(model, tokenizer, judge, prompts[:48], ns, length, args.seed)
    table = np.array([flops[n] for n in ns]).T  # (chunks, ns)
    exponents = bootstrap_ci(table, lambda rows, axis: fitted_exponent(ns, rows.sum(axis)), resamples=500)
    metrics = {
        "kl_bound": [float(best_of_n_kl_bound(n)) for n in range(1, args.n + 1)],
        "frontiers": frontiers(pools["sft"], args.n),
        "dpo_point": {name: summary(pools["dpo"][name].mean(1)) for name in ("kl", "reward")},
        "largest_weight_change": changed,
        "cost": {"n": ns, "flops": table.sum(0).tolist()},
        "cost_exponent": {"mean": fitted_exponent(ns, table.sum(0)), "ci95": exponents},
    }
    return pools, metrics, {f"n={n}": round(s, 2) for n, s in seconds.items()}


def band(values: np.ndarray) -> dict:
    """Mean and interval over prompts at every n; values (prompts, n)."""
    low, high = zip(*(bootstrap_ci(column, resamples=500) for column in values.T), strict=True)
    return {"mean": values.mean(0).tolist(), "low": list(low), "high": list(high)}


def make_claims(metrics: dict, largest: int) -> list[dict]:
    """The section's claims, each with the region in which it is true."""
    changed, exponent, steps = (
        metrics[k] for k in ("largest_weight_change", "cost_exponent", "first_step_minus_second")
    )
    share, both = metrics["share_of_dpo_gain"], metrics["both_minus_better_single"]
    return [
        make_claim(
            "best_of_n_leaves_weights",
            "best-of-n needs no training and leaves the weights unchanged",
            "largest change of any weight is exactly 0",
            changed,
            (changed, changed),
            (-1e-12, 1e-12),
        ),
        make_claim(
            "best_of_n_cost_is_linear",
            "the cost of best-of-n is linear in n",
            "exponent of FLOPs (sampling and scoring) in n between 0.85 and 1.15",
            exponent["mean"],
            exponent["ci95"],
            (0.85, 1.15),
        ),
        make_claim(
            "one_to_four_beats_four_to_sixteen",
            f"n from 1 to 4 gains more than from 4 to {largest}",
            "difference of the two gains in gold utility above 0",
            steps["mean"],
            steps["ci95"],
        ),
        make_claim(
            "best_of_n_captures_dpo_gain",
            "best-of-n captures a large part of DPO's gain without training",
            f"gain in gold utility of best-of-{largest} over that of DPO above 0.5",
            share["mean"],
            share["ci95"],
            (0.5, float("inf")),
        ),
        make_claim(
            "dpo_plus_best_of_n_is_best",
            "DPO with best-of-n on top is better than either alone",
            f"gold utility minus that of the better single method ({metrics['better_single_method']}) above 0",
            both["mean"],
            both["ci95"],
        ),
    ]


def world_lines(metrics: dict, largest: int) -> list[str]:
    """The summary of the default run."""
    names = {"sft": "SFT", "best_of_n": f"best of {largest}", "dpo": "DPO", "dpo_best_of_n": f"DPO, best of {largest}"}
    lines = [
        f"{names[m]:<16} gold utility {interval(found['utility'])}, good answers {interval(found['good'])}"
        for m, found in metrics["methods"].items()
    ]
    first, second = (interval(metrics[name]) for name in ("first_step", "second_step"))
    return [*lines, f"from 1 to 4: {first}; from 4 to {largest}: {second}"]


# --- 6. Your own model and pairs ---


def study_own(args: argparse.Namespace, device: str, rows) -> tuple[dict, dict]:
    """Best-of-n on the user's held-out prompts, by a reward model of the same pairs: (metrics, seconds)."""
    from common.models import load_reward_model, load_tokenizer

    _, held = split_for_policy(rows, load_tokenizer(args.model), args.dataset, args.seed, args.max_new_tokens)
    prompts = sorted(set(held["prompt"]))[: args.prompts]
    pools, metrics, seconds = study_pools(args, device, prompts)
    judge = load_reward_model(str(args.reward_model), device)
    curves = {
        arm: {
            name: band(best_of_n_curve(pool["reward"], pool[name], range(1, args.n + 1)))
            for name in ("reward", "words")
        }
        for arm, pool in pools.items()
    }
    sft = pools["sft"]
    best = [row[int(np.argmax(rewards))] for row, rewards in zip(sft["texts"], sft["reward"], strict=True)]
    dpo_trainer.show_answers(prompts, {"one sample": dpo_trainer.firsts(sft["texts"]), f"best of {2 * args.n}": best})
    accuracy = summary(reward_model.pair_hits(reward_model.score_pairs(*judge, held)))
    return {"prompts": len(prompts), "reward_model_accuracy": accuracy, "curves": curves, **metrics}, seconds


def own_lines(metrics: dict, largest: int) -> list[str]:
    """The summary of a run on the user's pairs."""
    lines = [
        f"{metrics['prompts']} held-out prompts; no gold standard for these: the reward below is the one that chooses",
        f"the reward model orders held-out pairs as labelled: {interval(metrics['reward_model_accuracy'])}",
    ]
    for arm, name in (("sft", "before DPO"), ("dpo", "after DPO")):
        for title, n in (("one sample", 1), (f"best of {largest}", largest)):
            reward, words = (
                {"mean": c["mean"][n - 1], "ci95": (c["low"][n - 1], c["high"][n - 1])}
                for c in (metrics["curves"][arm][k] for k in ("reward", "words"))
            )
            lines.append(f"{name}, {title}: reward {interval(reward)}, {words['mean']:.1f} words")
    return lines


# --- Main ---


def main(argv: list[str] | None = None) -> dict:
    """Sample, score, compare, draw; returns the metrics."""
    from common.models import find_model

    args = build_parser().parse_args(argv)
    started = time.time()
    check_writable(args.output_dir, args.figures_dir)
    args.prompts = args.prompts or (16 if args.dataset else 128)
    if args.smoke:
        args.n, args.prompts = min(args.n, 4), min(args.prompts, 8)
    for name in (args.model, args.reward_backbone, args.reward_model):  # before any work is done
        if name:
            find_model(str(name))
    if args.adapter and not (args.adapter / "adapter_model.safetensors").is_file():
        raise UserError(f"--adapter {args.adapter}: the folder holds no adapter (adapter_model.safetensors is missing)")
    rows = load_own_pairs(args.dataset) if args.dataset else None
    quiet_libraries()
    device = pick_device(args.device)
    if rows is None:
        (metrics, seconds), draw, tell = study_world(args, device), best_of_n_figure, world_lines
    else:
        (metrics, seconds), draw, tell = study_own(args, device, rows), own_best_of_n_figure, own_lines
    claims = [] if args.dataset else make_claims(metrics, args.n)
    results = args.figures_dir / "best_of_n.json"
    draw(results.with_suffix(".png"), metrics, seconds)
    write_results(results, "best_of_n.py", vars(args), started, metrics, claims, device, cost=seconds)
    print_claims(claims)
    print_summary(tell(metrics, args.n), [results.with_suffix(".png"), results])
    return metrics


if __name__ == "__main__":
    run(main)
