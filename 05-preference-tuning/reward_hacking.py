"""Reward hacking: what does a policy become when it is optimised against a reward that has a flaw?

    python 05-preference-tuning/reward_hacking.py
    python 05-preference-tuning/reward_hacking.py --beta 0.1                       # a weaker pull towards the reference
    python 05-preference-tuning/reward_hacking.py --model distilgpt2               # another policy

Three groups of annotators have one bias each: for length, for an expert's tone, for agreement with the user. Each bias
is one documented term (`BIASES`), seen in the labels, read off the reward model that is trained on them, and exploited
by best-of-n for n up to 64 and by DPO; beside them stands a group without bias. Proxy (that reward model) and gold are
drawn against the square root of the KL, with the curve d (a - b d) of over-optimisation. Then the mitigations: the KL
term, length normalisation, mixed annotators, and an ensemble of reward models; win rates, raw and length-controlled;
and the case in which nothing bad happens, a proxy that is only noisy. In every question here the user holds a wrong
belief, so that all three hacks are open.

About two minutes on 2 cores for five reward models and seven DPO trainings. Writes reward_hacking.png.
Left out: PPO against the proxy, heavy-tailed rewards, hacks of a reward that is a program.
"""

import argparse
import random
import time
from collections.abc import Sequence

import dpo_trainer
import numpy as np
import reward_model
from best_of_n import best_of_n_curve, best_of_n_kl_bound
from drawing.reward_hacking import hacking_figure
from evaluation import interval, sample_and_judge, score_texts, summary
from rlhf_objectives import kl_regularized_optimum
from sft_checkpoint import load_sft_checkpoint

from common.cli import (
    add_model_flags,
    check_writable,
    make_parser,
    pick_device,
    positive_float,
    quiet_libraries,
    run,
    whole_number,
)
from common.preferences import (
    BIASES,
    SIDES,
    Question,
    all_questions,
    annotator_utility,
    gold_utility,
    make_pairs,
    questions,
)
from common.reporting import bootstrap_ci, make_claim, print_claims, print_summary, write_results

HACKS = {"length": "verbosity", "style": "style mimicry", "agreement": "sycophancy"}
GROUPS = ("human", *HACKS)
NS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
STRONG_BETA = 5  # times --beta: the KL term as a mitigation


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add_model_flags(parser, model="tiny-gpt2", dataset=False)
    group = parser.add_argument_group("measurement")
    group.add_argument("--reward-backbone", default="tiny-distilbert", help="what the reward models start from")
    group.add_argument("--reward-pairs", type=whole_number(4), default=1200, help="pairs for each reward model")
    group.add_argument("--pairs", type=whole_number(4), default=384, help="pairs for each DPO training")
    group.add_argument("--beta", type=positive_float, default=0.3, help="strength of DPO's pull to the reference")
    group.add_argument("--prompts", type=whole_number(4), default=80, help="test prompts")
    group.add_argument("--sft-steps", type=int, help="SFT of a base model first; default 300, 0 for embedded models")
    group.add_argument("--max-new-tokens", type=whole_number(1), default=48, help="length limit of sampled answers")
    return parser


# --- 1. The bias: planted, seen in the labels, read off the reward model ---


def bias_amount(prompt: str, response: str, group: str) -> float:
    """What the group has a liking for, counted in the response: filler words, a preamble or an echo of the belief."""
    return (annotator_utility(prompt, response, group) - gold_utility(prompt, response)) / BIASES[group]


def biased_side_wins(pairs: list[dict], group: str) -> np.ndarray:
    """Of the pairs whose responses differ in what the group likes: 1 where the one with more of it is chosen."""
    amounts = np.array([[bias_amount(row["prompt"], row[side], group) for side in SIDES] for row in pairs]).round(6)
    return (amounts[:, 0] > amounts[:, 1])[amounts[:, 0] != amounts[:, 1]]


def partial_effect(pairs: list[dict], rewards: np.ndarray, group: str) -> dict:
    """Reward per unit of what the group likes, at equal gold utility; rewards (N, 2) of chosen and rejected.

    Least squares of the reward on 1, gold utility and the amount, with an interval over pairs. The planted effect is
    BIASES[group]; a reward model of unbiased annotators should show 0.
    """
    gold = [[gold_utility(row["prompt"], row[side]) for side in SIDES] for row in pairs]
    amount = [[bias_amount(row["prompt"], row[side], group) for side in SIDES] for row in pairs]
    table = np.stack([rewards, np.ones_like(rewards), gold, amount], axis=-1)  # (N, 2, 4)

    def coefficient(rows: np.ndarray, axis: int = 0) -> float:
        flat = rows.reshape(-1, 4)
        return np.linalg.lstsq(flat[:, 1:], flat[:, 0], rcond=None)[0][-1]

    return {"mean": float(coefficient(table)), "ci95": bootstrap_ci(table, coefficient, resamples=300)}


def user_is_wrong(question: Question) -> bool:
    """Whether the user states a belief that is not the answer."""
    return question.belief not in (None, question.answer)


def group_pairs(group: str, count: int, seed: int, split: str = "train") -> list[dict]:
    """Pairs that a group of annotators labelled, of questions in which the user is wrong."""
    rows = make_pairs(4 * count + 64, split, annotator=group, seed=seed)  # the user is wrong in a third of them
    return [row for row in rows if user_is_wrong(all_questions()[row["prompt"]])][:count]


# --- 2. Over-optimisation ---


def fit_overoptimization(d: np.ndarray, gain: np.ndarray) -> tuple[float, float]:
    """(a, b) of gain = d (a - b d) by least squares, d the square root of the KL; both (K,).

    Gao, Schulman & Hilton 2022 (arXiv 2210.10760), the law of best-of-n.
    """
    (a, minus_b), *_ = np.linalg.lstsq(np.column_stack([d, d**2]), gain, rcond=None)
    return float(a), float(-minus_b)


def overoptimization_peak(a: float, b: float) -> tuple[float, float]:
    """(d, gain) at the top of d (a - b d): a / 2b and a^2 / 4b; (inf, inf) where the curve never bends down."""
    return (a / (2 * b), a**2 / (4 * b)) if a > 0 and b > 0 else (float("inf"), float("inf"))


def measured_peak(gold: np.ndarray, d: np.ndarray) -> dict:
    """The d at which mean gold (P, K) is largest, with its interval over prompts."""
    where = lambda rows, axis: d[rows.mean(axis).argmax()]  # noqa: E731
    return {"mean": float(where(gold, 0)), "ci95": bootstrap_ci(gold, where, resamples=500)}


def study_best_of_n(proxy: np.ndarray, gold: np.ndarray, ns: Sequence[int]) -> dict:
    """Gains of proxy and gold over n = 1 with intervals, the fit to the gold gain and both peaks; inputs (P, M)."""
    d = np.sqrt(best_of_n_kl_bound(np.array(ns)))
    curves = {name: best_of_n_curve(proxy, values, ns) for name, values in (("proxy", proxy), ("gold", gold))}
    gains = {name: [summary(column) for column in (curve - curve[:, :1]).T] for name, curve in curves.items()}
    a, b = fit_overoptimization(d, (curves["gold"] - curves["gold"][:, :1]).mean(0))
    peak, height = overoptimization_peak(a, b)
    inside = peak <= d[-1]
    return {
        "n": list(ns),
        "d": d.tolist(),
        **gains,
        "fit": {"a": a, "b": b, "peak": peak if inside else None, "height": height if inside else None},
        "measured_peak": measured_peak(curves["gold"], d),
        "late_loss": summary(curves["gold"][:, ns.index(max(1, ns[-1] // 4))] - curves["gold"][:, -1]),
    }


# --- 3. Mitigations ---


def per_word(rewards: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Length normalisation as it is usually told: the reward divided by the number of words; both (P, M)."""
    return rewards / np.maximum(words, 1)


def without_length(rewards: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The reward with its linear dependence on length regressed out, within prompts; both (P, M)."""
    centred_rewards, centred = (x - x.mean(1, keepdims=True) for x in (rewards, words))
    slope = (centred * centred_rewards).sum() / max((centred**2).sum(), 1e-12)
    return rewards - slope * words


def worst_case(rewards: Sequence[np.ndarray]) -> np.ndarray:
    """Ensemble: the least of the members' rewards, each standardised over the pool; members (P, M).

    Coste et al. 2023 (arXiv 2310.02743) call it worst-case optimisation.
    """
    return np.min([(r - r.mean()) / r.std() for r in rewards], axis=0)


def mixed_pairs(count: int, seed: int) -> list[dict]:
    """Diversified data: the pairs of all four groups in equal parts, shuffled."""
    share = -(-count // len(GROUPS))
    rows = [row for k, g in enumerate(GROUPS) for row in group_pairs(g, share, seed + 100 * k)]
    return random.Random(seed).sample(rows, count)


# --- 4. Win rates ---


def length_controlled_win_rate(preferences: np.ndarray, length_differences: np.ndarray) -> float:
    """Win rate that a judge would report between answers of equal length.

    A logistic regression of the judge's preferences for ours (N,) in [0, 1] on tanh of the standardised differences in
    length (N,), ours minus theirs, read off at difference 0. Dubois et al. 2024 (arXiv 2404.04475), without their term
    for the difficulty of the prompt. Newton's method; a ridge of 1e-3 keeps a length-only judge finite.
    """
    x = np.tanh(length_differences / max(np.std(length_differences), 1e-12))
    design, weights = np.column_stack([np.ones_like(x), x]), np.zeros(2)
    for _ in range(100):
        p = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (p - preferences) + 1e-3 * weights
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + 1e-3 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step / max(1, np.abs(step).max())
    return float(1 / (1 + np.exp(-weights[0])))


def judged_win_rates(ours: dict, theirs: dict) -> dict:
    """Win rates by the proxy, raw and length-controlled, and by gold, of as many samples to each prompt; ties half."""
    k = min(ours["reward"].shape[1], theirs["reward"].shape[1])
    reward, words, gold = (ours[name][:, :k] - theirs[name][:, :k] for name in ("reward", "words", "utility"))
    table = np.stack([(1 + np.sign(reward)) / 2, words], axis=-1)  # (P, k, 2)

    def controlled(rows: np.ndarray, axis: int = 0) -> float:
        return length_controlled_win_rate(*rows.reshape(-1, 2).T)

    def inflation(rows: np.ndarray, axis: int = 0) -> float:
        return rows[..., 0].mean() - controlled(rows)

    return {
        "raw": summary(table[..., 0].mean(1)),
        "gold": summary(((1 + np.sign(gold)) / 2).mean(1)),
        **{
            name: {"mean": float(statistic(table)), "ci95": bootstrap_ci(table, statistic, resamples=300)}
            for name, statistic in (("length-controlled", controlled), ("raw_minus_controlled", inflation))
        },
    }


# --- 5. The study ---


def trainers(args: argparse.Namespace) -> tuple[argparse.Namespace, argparse.Namespace]:
    """The settings with which reward_model.py and dpo_trainer.py train here."""
    shared = ["--seed", str(args.seed), "--device", args.device, "--output-dir", str(args.output_dir)]
    small = ["--per-device-train-batch-size", "4"]  # few pairs: more steps teach more than larger ones
    rewards = reward_model.build_parser().parse_args([*shared, "--model", args.reward_backbone, *small])
    flags = ["--model", args.model, "--beta", str(args.beta), "--pairs", str(args.pairs)]
    flags += [] if args.sft_steps is None else ["--sft-steps", str(args.sft_steps)]
    policy = dpo_trainer.build_parser().parse_args(shared + flags)
    if args.model.startswith("tiny-"):
        policy.learning_rate = 1.4e-3  # as in dpo_variants.py: half as many steps, of twice the size
    return rewards, policy


def answer(args: argparse.Namespace, policy, tokenizer, prompts: list[str], n: int) -> dict:
    """n sampled answers to every prompt: texts, gold readings (P, n) and KL."""
    texts, found = sample_and_judge(policy, tokenizer, prompts, n, args.max_new_tokens, args.seed)
    return {"texts": texts, **found}


def study(args: argparse.Namespace, device: str) -> dict:
    """All measurements."""
    reward_args, policy_args = trainers(args)
    prompts = [q.prompt for q in questions("test") if user_is_wrong(q)][: args.prompts]
    ns = [n for n in NS if n <= (4 if args.smoke else 64)]
    pool = answer(args, *load_sft_checkpoint(policy_args, device), prompts, n=3 * ns[-1] // 2)
    held = group_pairs("human", 20 if args.smoke else 400, args.seed, "test")

    data = {g: group_pairs(g, args.reward_pairs, args.seed) for g in GROUPS}
    data["mixed"] = mixed_pairs(args.reward_pairs, args.seed)
    judges = {g: reward_model.fit(reward_args, device, rows, f"rewards: {g}")[:2] for g, rows in data.items()}
    proxy = {g: score_texts(judge, prompts, pool["texts"]) for g, judge in judges.items()}
    rewards = {g: reward_model.score_pairs(*judge, held) for g, judge in judges.items()}

    policies = {}
    for name, pairs, changes in dpo_runs(args):
        trainer, tokenizer, _ = dpo_trainer.fit(policy_args, device, pairs, **changes)
        policies[name] = answer(args, trainer.model, tokenizer, prompts, n=4)
        policies[name]["reward"] = score_texts(judges[name.split(",")[0]], prompts, policies[name]["texts"])

    metrics = {
        "labels": {h: {g: summary(biased_side_wins(data[g], h)) for g in ("human", h)} for h in HACKS},
        "effects": {
            h: {
                "planted": BIASES[h],
                "biased": partial_effect(held, rewards[h], h),
                "control": partial_effect(held, rewards["human"], h),
                "difference": partial_effect(held, rewards[h] - rewards["human"], h),
            }
            for h in HACKS
        },
        "best_of_n": {h: study_best_of_n(proxy[h], pool["utility"], ns) for h in GROUPS},
        "noise": study_best_of_n(add_noise(pool["utility"], args.seed), pool["utility"], ns),
        "dpo": {h: study_dpo(h, policies, pool, proxy) for h in HACKS},
        "mitigations": study_mitigations(proxy, pool, policies, ns[-1]),
        "win_rates": judged_win_rates(policies["length"], {**pool, "reward": proxy["length"]}),
    }
    return metrics


def dpo_runs(args: argparse.Namespace) -> list[tuple[str, list[dict], dict]]:
    """Name, pairs and changed settings of each DPO training; the name starts with the group whose reward judges it."""
    runs = [(g, group_pairs(g, args.pairs, args.seed), {}) for g in GROUPS]
    length = runs[1][1]
    runs.append(("length, strong KL term", length, {"beta": STRONG_BETA * args.beta}))
    runs.append(("length, normalised", length, {"loss_type": ["sigmoid_norm"], "beta": 10 * args.beta}))
    return [*runs, ("mixed", mixed_pairs(args.pairs, args.seed), {})]


def add_noise(gold: np.ndarray, seed: int) -> np.ndarray:
    """A proxy that is gold plus Gaussian noise of standard deviation 3, twice that of gold: unreliable, not biased."""
    return gold + np.random.default_rng(seed).normal(0, 3, gold.shape)


def study_dpo(hack: str, policies: dict, pool: dict, proxy: dict) -> dict:
    """What DPO on the labels of the biased group did, from SFT and beside DPO on unbiased labels, prompt by prompt."""
    arms = {"sft": pool, "biased": policies[hack], "control": policies["human"]}
    gold, good, kl = ({k: v[name].mean(1) for k, v in arms.items()} for name in ("utility", "good", "kl"))
    return {
        "kl": summary(kl["biased"]),
        "control_kl": summary(kl["control"]),
        "proxy_gain": summary(policies[hack]["reward"].mean(1) - proxy[hack].mean(1)),
        "gold_gain": summary(gold["biased"] - gold["sft"]),
        "control_gold_gain": summary(gold["control"] - gold["sft"]),
        "gold_below_control": summary(gold["control"] - gold["biased"]),
        "good": {name: summary(values) for name, values in good.items()},
    }


def study_mitigations(proxy: dict, pool: dict, policies: dict, n: int) -> dict:
    """Gold utility with and without each mitigation, and the difference prompt by prompt (`gain`)."""
    words, gold = pool["words"], pool["utility"]
    dpo = {name: found["utility"].mean(1) for name, found in policies.items()}

    def best(rewards: np.ndarray, at: int = n) -> np.ndarray:
        return best_of_n_curve(rewards, gold, [at])[:, 0]

    def optimum(beta: float) -> np.ndarray:
        uniform = np.full(gold.shape[1], 1 / gold.shape[1])
        return np.array([kl_regularized_optimum(uniform, r, beta) @ u for r, u in zip(long, gold, strict=True)])

    long, ensemble = proxy["length"], worst_case([proxy[h] for h in HACKS])
    found = {
        "small n, length": (best(long), best(long, min(4, n))),
        "optimum at larger beta, length": (optimum(0.1), optimum(1.0)),
        "per word, length": (best(long), best(per_word(long, words))),
        "regressed, length": (best(long), best(without_length(long, words))),
        "DPO strong KL term, length": (dpo["length"], dpo["length, strong KL term"]),
        "DPO normalised, length": (dpo["length"], dpo["length, normalised"]),
        **{f"mixed annotators, {h}": (best(proxy[h]), best(proxy["mixed"])) for h in HACKS},
        **{f"DPO mixed annotators, {h}": (dpo[h], dpo["mixed"]) for h in HACKS},
        **{f"ensemble, {h}": (best(proxy[h]), best(ensemble)) for h in HACKS},
    }
    return {
        name: {"without": summary(before), "with": summary(after), "gain": summary(after - before)}
        for name, (before, after) in found.items()
    }


# --- 6. Claims ---


def hack_claims(metrics: dict) -> list[dict]:
    """Of each hack: absorbed by the reward model, exploited by DPO, and what it does to quality."""
    claims = []
    for hack, name in HACKS.items():
        effect, dpo, late = (metrics[k][hack] for k in ("effects", "dpo", "best_of_n"))
        effect, late = effect["difference"], late["late_loss"]
        claims += [
            make_claim(
                f"{hack}_is_encoded",
                f"reward models encode annotators, not truth: {name}",
                f"reward per unit of the bias at equal gold utility, over that of unbiased annotators: above 0 "
                f"(planted: {BIASES[hack]})",
                effect["mean"],
                effect["ci95"],
            ),
            make_claim(
                f"{hack}_raises_proxy",
                f"{name}: the reward goes up",
                "reward of DPO's answers minus that of SFT's, by the biased reward model: above 0",
                dpo["proxy_gain"]["mean"],
                dpo["proxy_gain"]["ci95"],
            ),
            make_claim(
                f"{hack}_lowers_quality",
                f"{name}: the quality goes down",
                "gold utility of SFT's answers minus that of DPO's on the biased labels: above 0",
                -dpo["gold_gain"]["mean"],
                [-x for x in reversed(dpo["gold_gain"]["ci95"])],
            ),
            make_claim(
                f"{hack}_costs_quality",
                f"{name}: the quality stays below what unbiased labels give",
                "gold utility of DPO on unbiased labels minus DPO on biased ones: above 0",
                dpo["gold_below_control"]["mean"],
                dpo["gold_below_control"]["ci95"],
            ),
            make_claim(
                f"{hack}_overoptimised",
                f"{name}: optimised on, the quality falls while the reward rises",
                "gold utility of best-of-16 minus best-of-64 by the biased reward model: above 0",
                late["mean"],
                late["ci95"],
            ),
        ]
    return claims


MITIGATIONS = {  # claim, and the row of `mitigations` that it is about
    "small_n_mitigates": ("a smaller n mitigates verbosity", "small n, length"),
    "kl_mitigates": ("a stronger KL term mitigates verbosity, at the exact optimum", "optimum at larger beta, length"),
    "kl_mitigates_dpo": ("a stronger KL term mitigates verbosity, in DPO", "DPO strong KL term, length"),
    "per_word_mitigates": ("dividing the reward by the length mitigates verbosity", "per word, length"),
    "regressing_mitigates": ("regressing length out of the reward mitigates verbosity", "regressed, length"),
    "normalised_dpo_mitigates": ("length-normalised DPO mitigates verbosity", "DPO normalised, length"),
    **{
        f"{name}_mitigates_{hack}": (f"{claim} mitigates {HACKS[hack]}", f"{row}, {hack}")
        for name, claim, row in (
            ("mixing", "mixing annotators (reward model)", "mixed annotators"),
            ("mixing_dpo", "mixing annotators (DPO)", "DPO mixed annotators"),
            ("ensemble", "an ensemble over annotator groups", "ensemble"),
        )
        for hack in HACKS
    },
}


def mitigation_claims(metrics: dict) -> list[dict]:
    """Of each mitigation: gold utility with it minus without it is above 0."""
    claims = []
    for id, (claim, row) in MITIGATIONS.items():
        gain = metrics["mitigations"][row]["gain"]
        predicted = f"gold utility of {'DPO' if row.startswith('DPO') else 'best-of-n'} with it minus without: above 0"
        claims.append(make_claim(id, claim, predicted, gain["mean"], gain["ci95"]))
    noise, rates = metrics["noise"]["late_loss"], metrics["win_rates"]["raw_minus_controlled"]
    return [
        *claims,
        make_claim(
            "noise_alone_is_harmless",
            "unbiased noise alone does not turn the gold curve down",
            "gold utility of best-of-16 minus best-of-64, the proxy being gold plus noise: below 0",
            noise["mean"],
            noise["ci95"],
            (-np.inf, 0),
        ),
        make_claim(
            "length_inflates_win_rates",
            "a length-biased judge inflates the win rate of verbose answers",
            "raw win rate by the biased reward model minus the length-controlled one: above 0",
            rates["mean"],
            rates["ci95"],
        ),
    ]


# --- Main ---


def summary_lines(metrics: dict) -> list[str]:
    """The summary of a run."""
    lines = []
    for hack, name in HACKS.items():
        dpo, curve = metrics["dpo"][hack], metrics["best_of_n"][hack]
        lines.append(
            f"{name:<14} DPO: proxy {dpo['proxy_gain']['mean']:+.2f}, gold {dpo['gold_gain']['mean']:+.2f} (unbiased "
            f"labels: {dpo['control_gold_gain']['mean']:+.2f}); best of {curve['n'][-1]}: proxy "
            f"{curve['proxy'][-1]['mean']:+.2f}, gold {curve['gold'][-1]['mean']:+.2f}"
        )
    rates, control = metrics["win_rates"], metrics["best_of_n"]["human"]["late_loss"]
    lines.append(f"unbiased labels: gold of best-of-16 minus best-of-64 {interval(control)}")
    lines.append(
        f"win rate of verbose DPO over SFT: raw {interval(rates['raw'])}, length-controlled "
        f"{rates['length-controlled']['mean']:.3f}, by gold {rates['gold']['mean']:.3f}"
    )
    return lines


def main(argv: list[str] | None = None) -> dict:
    """Plant, train, exploit, mitigate, draw; returns the metrics."""
    from common.models import find_model

    args = build_parser().parse_args(argv)
    started = time.time()
    check_writable(args.output_dir, args.figures_dir)
    if args.smoke:
        args.reward_pairs, args.pairs, args.prompts = min(args.reward_pairs, 16), min(args.pairs, 16), 8
    for name in (args.model, args.reward_backbone):  # before any work is done
        find_model(name)
    quiet_libraries()
    device = pick_device(args.device)
    metrics = study(args, device)
    claims = hack_claims(metrics) + mitigation_claims(metrics)
    results = args.figures_dir / "reward_hacking.json"
    hacking_figure(results.with_suffix(".png"), metrics)
    write_results(results, "reward_hacking.py", vars(args), started, metrics, claims, device)
    print_claims(claims)
    print_summary(summary_lines(metrics), [results.with_suffix(".png"), results])
    return metrics


if __name__ == "__main__":
    run(main)
