"""Reward hacking: what does a policy become when it is optimised against a reward with a flaw?

    python 05-preference-tuning/reward_hacking.py
    python 05-preference-tuning/reward_hacking.py --beta 0.1             # a weaker pull
    python 05-preference-tuning/reward_hacking.py --model distilgpt2     # another policy

Three groups of annotators have one bias each: for length, an expert's tone, agreement with the
user, who is wrong in every question here. Each bias is planted, seen in the labels, read off the
reward model, and exploited by best-of-n and by DPO. Beside them: no bias, mere noise, mitigations.

About three minutes on one core. Left out: RL against the reward (online_rl.py), your own pairs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from support import biased_pairs
from support.answers import answer_hacked, hacked_answers
from support.drawing.reward_hacking import draw_hacking
from support.evaluation import sample_answers, score_texts, summarize
from support.findings.reward_hacking import findings
from support.overoptimization import NOISE, forecast, gains, late_loss, study_noise
from support.training import load_sft_checkpoint, training_settings

import numpy as np
from best_of_n import best_of_n_curve, best_of_n_kl_bound
from dpo_trainer import BETA, train_dpo
from reward_model import fit

from common import cli
from common.intervals import summary
from common.reporting import Check, Claim, finish

HACKS = {"length": "verbosity", "style": "style mimicry", "agreement": "sycophancy"}
NS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
FITTED = 8  # the law of over-optimisation is fitted up to this n
STRONG_BETA = 5  # times --beta: the KL term as a mitigation
LEVELS = (-10, -5, 0, 5, 10)  # mean rewards at which reward / words is tried
GAP, LAW = "best_of_n.late_loss", "0.5 log-odds minus the error of the forecast"
OF_EACH_HACK = (  # id, what the tutorial says, what is measured, where it stands below the hack
    ("is_encoded", "reward models absorb it", "share of the planted bias", "absorbed.share"),
    ("raises_proxy", "the reward goes up", "reward, log-odds: DPO minus SFT", "proxy_gain"),
    ("lowers_quality", "the quality goes down", "gold utility: SFT minus DPO", "gold_lost"),
    ("costs_quality", "it costs quality", "gold utility: unbiased DPO minus biased", "gold_cost"),
    ("overoptimised", "chosen harder, quality falls", "gold utility: best of 16 minus 64", GAP),
    ("follows_the_law", "a law fitted to n <= 8 foretells 64", LAW, "best_of_n.law.margin"),
)
COMPARISONS = (  # id, what is said of mitigations and of noise, whose gold utility is compared
    ("small_n_mitigates", "a smaller n mitigates verbosity", "best of 4 minus best of 64"),
    ("kl_mitigates_dpo", "a larger beta mitigates verbosity", "DPO at 5 times beta minus DPO"),
    ("per_word_mitigates", "reward / words mitigates verbosity", "best of 64, with minus without"),
    ("per_word_beats_shortest", "reward / words beats brevity", "best of 64 by it minus shortest"),
    ("level_decides_per_word", "the free level decides reward / words", "level 10 minus -10"),
    ("regressing_mitigates", "regressing length out mitigates", "best of 64, with minus without"),
    ("seeds_mitigate", "an ensemble of one group mitigates", "best of 64, with minus without"),
    ("noise_bends_sd_3", "an error per text costs quality", "best of 16 minus 64, sd 3"),
    ("noise_bends_sd_6", "a large error per text does", "best of 16 minus 64, sd 6"),
    ("new_noise_is_harmless", "an error per sample does not", "best of 64 minus 16, sd 3"),
)
FOR_EACH_HACK = (
    ("mixing_mitigates", "mixed annotators mitigate", "best of 64, mixed reward minus biased"),
    ("mixing_dpo_mitigates", "mixed labels mitigate", "DPO, mixed labels minus biased ones"),
    ("ensemble_mitigates", "an ensemble mitigates", "best of 64, least of three minus biased"),
)
GOLD = "gold utility in log-odds: "
INFLATES = "a length-biased judge inflates the win rate of verbose answers"
RAW = "win rate by the biased reward, raw minus length-controlled"
WIN_RATES = "win_rates.raw_minus_controlled"
CLAIMS = (
    *(
        Claim(f"{hack}_{id}", f"{name}: {says}", measured, f"{hack}.{path}", smallest=0.05)
        for hack, name in HACKS.items()
        for id, says, measured, path in OF_EACH_HACK
    ),
    *(
        Claim(id, says, GOLD + compared, f"gold.{id}", smallest=0.05)
        for id, says, compared in COMPARISONS
    ),
    *(
        Claim(f"{id}_{hack}", f"{says} {name}", GOLD + arms, f"gold.{id}_{hack}", smallest=0.05)
        for id, says, arms in FOR_EACH_HACK
        for hack, name in HACKS.items()
    ),
    Claim("length_inflates_win_rates", INFLATES, RAW, WIN_RATES, smallest=0.05),
)
CHECKS = (Check("mixing_relabels", "mixed pairs are the same pairs", "same_pairs", (1, 1)),)


# --- 1. Over-optimisation, by a bias and by mere noise ---


def study_best_of_n(rewards: np.ndarray, gold: np.ndarray, ns: list[int]) -> dict:
    """Gains of the best of n by rewards, in reward and in gold utility (log-odds); inputs (P, M).

    `law` is d (a - b d), d the square root of the KL's bound: fitted to small n, compared with the
    largest one (Gao, Schulman & Hilton 2022, arXiv 2210.10760).
    """
    proxy_curve = best_of_n_curve(rewards, rewards, ns)
    gold_curve = best_of_n_curve(rewards, gold, ns)
    distance = np.sqrt(best_of_n_kl_bound(np.array(ns)))
    return {
        "proxy": gains(proxy_curve),
        "gold": gains(gold_curve),
        "law": forecast(gold_curve, distance, ns.index(FITTED) + 1),
        "late_loss": summary(late_loss(gold_curve, ns)),
    }


# --- 2. Mitigations ---


def per_word(rewards: np.ndarray, words: np.ndarray, level: float = 0.0) -> np.ndarray:
    """Length normalisation: (reward + level) / words; both (P, M).

    Bradley-Terry leaves the level free, and it decides: a high one takes the shortest answer, a low
    one the longest.
    """
    return (rewards + level) / np.maximum(words, 1)


def without_length(rewards: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The reward with its linear dependence on length regressed out, within prompts; (P, M)."""
    centred_rewards = rewards - rewards.mean(1, keepdims=True)
    centred_words = words - words.mean(1, keepdims=True)
    slope = (centred_words * centred_rewards).sum() / max((centred_words**2).sum(), 1e-12)
    return rewards - slope * words


def worst_case(rewards: Sequence[np.ndarray]) -> np.ndarray:
    """Ensemble: the least of the members' rewards, each standardised over the pool; members (P, M).

    Coste et al. 2023 (arXiv 2310.02743) call it worst-case optimisation.
    """
    return np.min([(r - r.mean()) / r.std() for r in rewards], axis=0)


def mitigate(rewards: dict, pool: dict, dpo: dict, n: int) -> dict[str, np.ndarray]:
    """Gold utility (P,) with a mitigation minus without, by claim; `dpo` is gold (P,) by run."""
    gold, words, length = pool["utility"], pool["words"], rewards["length"]

    def best(scores: np.ndarray, n: int = n) -> np.ndarray:
        return best_of_n_curve(scores, gold, [n])[:, 0]

    hacked = {hack: best(rewards[hack]) for hack in HACKS}
    mixed = best(rewards["mixed"])
    by_word = best(per_word(length, words))
    of_groups = best(worst_case([rewards[hack] for hack in HACKS]))
    of_members = best(worst_case([rewards[member] for member in biased_pairs.MEMBERS]))
    centred = length - length.mean()
    at_level = {level: best(per_word(centred, words, level)) for level in LEVELS}
    differences = {
        "small_n_mitigates": best(length, max(1, n // 16)) - hacked["length"],
        "kl_mitigates_dpo": dpo["strong_kl"] - dpo["length"],
        "per_word_mitigates": by_word - hacked["length"],
        "per_word_beats_shortest": by_word - best(-words),
        "level_decides_per_word": at_level[LEVELS[-1]] - at_level[LEVELS[0]],
        "regressing_mitigates": best(without_length(length, words)) - hacked["length"],
        "seeds_mitigate": of_members - hacked["length"],
    }
    for hack in HACKS:
        differences[f"mixing_mitigates_{hack}"] = mixed - hacked[hack]
        differences[f"mixing_dpo_mitigates_{hack}"] = dpo["mixed"] - dpo[hack]
        differences[f"ensemble_mitigates_{hack}"] = of_groups - hacked[hack]
    for level in LEVELS:
        differences[f"per_word_at_{level}"] = at_level[level] - hacked["length"]
    return differences


def measure(texts, pool: dict, rewards: dict, policies: dict, ns: list[int], seed: int) -> dict:
    """What best-of-n and DPO made of rewards with a flaw, and what mitigates it.

    `texts` (P, M), the readings `pool` and the `rewards` by annotators are of the SFT checkpoint's
    samples; `policies` are readings and reward (P, 4) by DPO run.
    """
    gold = pool["utility"]
    noise = study_noise(best_of_n_curve, texts, gold, ns, seed)
    dpo = {name: read["utility"].mean(1) for name, read in policies.items()}
    differences = {
        **mitigate(rewards, pool, dpo, ns[-1]),
        **{f"noise_bends_sd_{sd}": late_loss(noise[f"sd_{sd}"], ns) for sd in NOISE},
        "new_noise_is_harmless": -late_loss(noise["of_samples"], ns),
    }
    best = {name: study_best_of_n(rewards[name], gold, ns) for name in ("human", *HACKS)}
    return {
        "ns": ns,
        "gold": {id: summary(values) for id, values in differences.items()},
        "noise": {name: gains(curve) for name, curve in noise.items()},
        **biased_pairs.describe_hacks(texts, pool, rewards, policies, best),
    }


# --- 3. The study: plant, train, exploit, mitigate ---


def study(
    *,
    model: str,
    dataset: None,
    pairs: int,
    beta: float,
    seed: int,
    reward: dict,
    prompts: int,
    n: int,
    output_dir: Path,
    device: str,
    sft_steps: int | None = None,
    max_new_tokens: int = 48,
    **training,
) -> dict:
    """The section: metrics. `training` are the settings of DPO, `reward` of the reward models."""
    asked = biased_pairs.wrong_users("test", prompts)
    test = [question.prompt for question in asked]
    watched = biased_pairs.wrong_prompts("validation", prompts // 2)
    sft, sampling = (model, dataset, sft_steps, seed, output_dir, device), (max_new_tokens, seed)
    reference, tokenizer = load_sft_checkpoint(*sft)
    texts, pool = sample_answers(reference, tokenizer, test, 3 * n // 2, *sampling)
    labels, judges = biased_pairs.train_rewards(fit, **reward, device=device)
    rewards = {name: score_texts(judge, test, texts) for name, judge in judges.items()}

    def look(step: int, policy) -> dict:
        return summarize(sample_answers(policy, tokenizer, watched, 2, *sampling)[1])

    answers, policies, curves, shown = {}, {}, {}, {}
    runs = biased_pairs.policy_runs(pairs, seed, beta, STRONG_BETA * beta)
    for name, labelled, its_beta, judge in runs:
        options = {"beta": its_beta, "seed": seed, "look": look if name in HACKS else None}
        base, _ = load_sft_checkpoint(*sft)
        trained = train_dpo(base, tokenizer, labelled, name=f"DPO: {name}", **options, **training)
        answers[name], read = sample_answers(trained.policy, tokenizer, test, 4, *sampling)
        policies[name] = {**read, "reward": score_texts(judges[judge], test, answers[name])}
        curves[name] = trained.curve
        if name in HACKS:
            models = (trained.policy, reference, tokenizer, judges[judge])
            shown[name] = answer_hacked(*models, prompts, sampling)
    biased_pairs.show_hacked(HACKS, test, texts, pool["utility"], rewards, answers)
    metrics = measure(texts, pool, rewards, policies, [k for k in NS if k <= n], seed)
    for hack, traced in biased_pairs.trace_biases(labels, judges, asked, seed).items():
        metrics[hack] |= traced
    same = biased_pairs.same_pairs(labels["mixed"], labels["human"])
    answers = hacked_answers(HACKS, shown, prompts)
    return metrics | {"curves": curves, "same_pairs": same, "answers": answers}


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__file__, __doc__)
    group = cli.add_model_flags(parser, model="tiny-gpt2", dataset=False)
    backbone = {"type": cli.non_empty, "default": "tiny-gpt2", "help": "of the reward models"}
    group.add_argument("--reward-backbone", **backbone)
    rate = "1.4e-3 embedded, 3e-4 other models"
    group = cli.add_training_flags(parser, "384 for DPO", rate, batch_size=8, epochs="3")
    group.add_argument("--reward-pairs", type=cli.whole_number(8), help="of each; default: 1200")
    group.add_argument("--beta", type=cli.positive_float, default=BETA, help="pull to the start")
    group = cli.add_policy_flags(parser, prompts="64")
    group.add_argument("--n", type=int, choices=NS[7:], default=64, help="the largest n")
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Plant, train, exploit, mitigate, draw; returns the metrics."""
    smoke = {"reward_pairs": 32, "pairs": 16, "num_train_epochs": 1, "prompts": 10, "n": 16}
    args = cli.start(build_parser(), argv, "reward_hacking", smoke)
    device = cli.init_compute(args.device)
    settings = training_settings("hacked policy", **args.settings)
    reward_flags = {"model": args.reward_backbone, "pairs": args.reward_pairs, "seed": args.seed}
    reward = training_settings("hacked reward model", **reward_flags)
    sizes = {"prompts": args.prompts or 64, "n": args.n}
    machine = {"output_dir": args.output_dir, "device": device}
    metrics = study(**settings, reward=reward, **sizes, **machine)
    settings["reward_pairs"] = reward["pairs"]
    lines = findings(metrics, HACKS, STRONG_BETA)
    return finish(args, metrics, draw_hacking, lines, CLAIMS, CHECKS, settings, device)


if __name__ == "__main__":
    cli.run(main)
