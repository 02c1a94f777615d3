"""Remedies: what gives back the quality that is lost to a flawed reward?

    python 05-preference-tuning/studies/remedies.py                     # one seed, 120 seconds
    python 05-preference-tuning/studies/remedies.py --seeds 0 1 2 3 4 5 6 7
    python 05-preference-tuning/studies/remedies.py --claims            # what is claimed

The setting is that of three_hacks.py, whose models are used again where they are there: annotators
who prefer long answers, an expert's tone, or agreement; their reward models choose the best of 64
answers, and DPO trains on their labels. Each remedy is measured as gold utility with it minus
without it: a table of remedies by hacks, and a claim for a row. Where a remedy is tried against
several hacks, the claim is about their mean.

A judge who prefers length can be hacked, too: the last claim is about the win rate that it reports,
and the one that it would report between answers of equal length.
"""

from functools import partial

import lessons  # noqa: F401

import numpy as np
from best_of_n import best_of_n_curve
from dpo_trainer import dpo_policy
from reward_hacking import HACKS, pairs_labelled_by, per_word, worst_case
from reward_model import reward_model_in

from common import figures
from common.answers import sample_answers
from common.claims import Claim, run_study, study_folder
from common.intervals import mean_of, summary
from common.preferences import BIASES, wrong_users
from common.scoring import score_texts
from common.training import load_sft_model

# Rows of the table.
REMEDIES = {
    "fewer": "best of 4 only",
    "per_word": "reward / words",
    "regressed": "length regressed out",
    "same_labels": "ensemble, same labels",
    "three_groups": "ensemble, three groups",
    "mixed_reward": "mixed labels",
    "mixed_dpo": "DPO: mixed labels",
    "strong_kl": "DPO: 5 times beta",
}
LEVELS = (-10, -5, 0, 5, 10)  # mean rewards at which reward / words is tried
TIMES = 5  # the KL term as a remedy: so many times beta, which is 0.3
GAINED = "gold utility gained, log-odds, "
BEST = "best of 64, with it minus without"

claim_on_remedies = partial(Claim, smallest=0.05)  # less is not worth calling a difference
CLAIMS = (
    claim_on_remedies(
        "small_n_mitigates",
        "choosing among fewer mitigates hacking",
        f"{GAINED}best of 4 minus best of 64; mean of the three hacks",
        of=lambda m: mean_of(m["fewer"].values()),
    ),
    claim_on_remedies(
        "kl_mitigates_dpo",
        "a stronger KL penalty mitigates verbosity",
        f"{GAINED}DPO on labels that prefer length, {TIMES} times beta minus beta",
        of=lambda m: m["strong_kl"]["length"],
        published="compatible: it acts like early stopping, Gao et al. (arXiv 2210.10760)",
    ),
    claim_on_remedies(
        "per_word_mitigates",
        "dividing the reward by length mitigates verbosity",
        f"{GAINED}{BEST}; labels that prefer length",
        of=lambda m: m["per_word"]["length"],
    ),
    claim_on_remedies(
        "per_word_beats_shortest",
        "reward / words does more than take the shortest answer",
        f"{GAINED}best of 64 by it minus the shortest of 64; labels that prefer length",
        of=lambda m: m["per_word_minus_shortest"],
    ),
    claim_on_remedies(
        "level_decides_per_word",
        "the level of the reward, which is free, decides what reward / words does",
        f"{GAINED}level {LEVELS[-1]} minus level {LEVELS[0]}; labels that prefer length",
        of=lambda m: m["level_decides"],
    ),
    claim_on_remedies(
        "regressing_mitigates",
        "regressing length out of the reward mitigates verbosity",
        f"{GAINED}{BEST}; labels that prefer length",
        of=lambda m: m["regressed"]["length"],
        published="agrees: a reward without length, ODIN (arXiv 2402.07319)",
    ),
    claim_on_remedies(
        "same_labels_mitigate",
        "an ensemble of reward models of the same labels mitigates verbosity",
        f"{GAINED}{BEST}; labels that prefer length",
        of=lambda m: m["same_labels"]["length"],
        published="agrees: shared errors survive, Eisenstein et al. (arXiv 2312.09244)",
    ),
    claim_on_remedies(
        "three_groups_mitigate",
        "an ensemble of reward models of groups with different biases mitigates hacking",
        f"{GAINED}{BEST}; mean of the three hacks",
        of=lambda m: mean_of(m["three_groups"].values()),
    ),
    claim_on_remedies(
        "mixed_labels_mitigate",
        "diversified annotators mitigate hacking of a reward model",
        f"{GAINED}{BEST}; mean of the three hacks",
        of=lambda m: mean_of(m["mixed_reward"].values()),
    ),
    claim_on_remedies(
        "mixed_labels_mitigate_dpo",
        "diversified annotators mitigate hacking by DPO",
        f"{GAINED}DPO on mixed labels minus on biased ones; mean of the three hacks",
        of=lambda m: mean_of(m["mixed_dpo"].values()),
    ),
    claim_on_remedies(
        "length_inflates_win_rates",
        "a judge who prefers length overrates verbose answers",
        "win rate of DPO on such labels over SFT by that judge, raw minus length-controlled",
        of=lambda m: m["win_rate_inflation"],
        published="agrees: Dubois et al. (arXiv 2404.04475)",
    ),
)


# --- The measurement ---


def measure(seed: int, smoke: bool = False) -> dict:
    """Label, train, and choose with and without each remedy: the cells by remedy and hack."""
    pairs, labels, epochs, count, n = (32, 16, 1, 10, 16) if smoke else (1200, 384, 3, 64, 64)
    prompts, folder = [q.prompt for q in wrong_users("test", count)], study_folder(seed, smoke)
    sft, tokenizer = load_sft_model()
    pool = sample_answers(sft, tokenizer, prompts, 3 * n // 2, seed)
    judges, rewards, dpo = {}, {}, {}
    arms = [(group, group, seed) for group in (*BIASES, "mixed")]
    # Other random starts of the head, and other orders of the same pairs.
    arms += [(f"length_{k}", "length", seed + 1000 * (k - 1)) for k in (2, 3)]
    for name, group, its_seed in arms:
        rows, place = pairs_labelled_by(group, pairs, seed), folder / f"wrong_users_{name}"
        judges[name] = reward_model_in(place, "tiny-gpt2", rows, seed=its_seed)
        rewards[name] = score_texts(judges[name], prompts, pool.texts)
    arms = [(group, group, 0.3) for group in (*BIASES, "mixed")]
    for name, group, beta in [*arms, ("strong_kl", "length", TIMES * 0.3)]:
        rows, place = pairs_labelled_by(group, labels, seed), folder / f"hacked_dpo_{name}"
        training = {"beta": beta, "learning_rate": 1.4e-3, "epochs": epochs, "seed": seed}
        policy = dpo_policy(place, load_sft_model()[0], tokenizer, rows, **training)
        dpo[name] = sample_answers(policy, tokenizer, prompts, 4, seed)
    gold = {name: answered.gold.mean(1) for name, answered in dpo.items()}
    liked = score_texts(judges["length"], prompts, dpo["length"].texts) - rewards["length"][:, :4]
    return compare_choices(rewards, pool, n) | {
        "mixed_dpo": {group: summary(gold["mixed"] - gold[group]) for group in BIASES},
        "strong_kl": {"length": summary(gold["strong_kl"] - gold["length"])},
        "win_rate_inflation": inflation_by_length(liked, dpo["length"].words - pool.words[:, :4]),
    }


def compare_choices(rewards: dict[str, np.ndarray], pool, n: int) -> dict:
    """Cells of the remedies of best-of-n, gold utility with each minus without; rewards (P, M)."""

    def best(scores: np.ndarray, among: int = n) -> np.ndarray:
        return best_of_n_curve(scores, pool.gold, [among])[:, 0]

    words, length = pool.words, rewards["length"]
    same_labels = [rewards[name] for name in ("length", "length_2", "length_3")]
    cells = {"same_labels": {"length": summary(best(worst_case(same_labels)) - best(length))}}
    for group in BIASES:
        hacked = rewards[group]
        with_remedy = {
            "fewer": best(hacked, max(1, n // 16)),
            "per_word": best(per_word(hacked, words)),
            "regressed": best(without_length(hacked, words)),
            "three_groups": best(worst_case([rewards[name] for name in BIASES])),
            "mixed_reward": best(rewards["mixed"]),
        }
        for remedy, gold in with_remedy.items():
            cells.setdefault(remedy, {})[group] = summary(gold - best(hacked))
    at_level = [best(per_word(length - length.mean(), words, level)) for level in LEVELS]
    return cells | {
        "per_word_minus_shortest": summary(best(per_word(length, words)) - best(-words)),
        "level_decides": summary(at_level[-1] - at_level[0]),
        "levels": [float(gold.mean()) for gold in at_level],
        "without": float(best(length).mean()),
        "shortest": float(best(-words).mean()),
    }


def without_length(rewards: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The reward with its linear dependence on length regressed out, within prompts; (P, M)."""
    centred_rewards = rewards - rewards.mean(1, keepdims=True)
    centred_words = words - words.mean(1, keepdims=True)
    slope = (centred_words * centred_rewards).sum() / max((centred_words**2).sum(), 1e-12)
    return rewards - slope * words


# --- A judge with a bias ---


def inflation_by_length(rewards: np.ndarray, lengths: np.ndarray) -> dict:
    """Win rate by a judge minus what it would be between answers of equal length.

    Differences (P, k) in reward and in length, ours minus theirs; ties count half.
    """

    def inflation(rows: np.ndarray, axis: int = 0) -> float:
        return rows[..., 0].mean() - win_rate_at_equal_length(*rows.reshape(-1, 2).T)

    wins = (1 + np.sign(rewards)) / 2
    return summary(np.stack([wins, lengths], axis=-1), inflation, resamples=300)


def win_rate_at_equal_length(wins: np.ndarray, lengths: np.ndarray) -> float:
    """Win rate that a judge would report between answers of equal length.

    A logistic regression of the judge's preferences for ours (N,) in [0, 1] on tanh of the
    standardised differences in length (N,), ours minus theirs, read off at difference 0. Dubois et
    al. 2024 (arXiv 2404.04475), without their term for the difficulty of the prompt. Newton's
    method; a ridge of 1e-3 keeps a length-only judge finite.
    """
    x = np.tanh(lengths / max(np.std(lengths), 1e-12))
    design, weights = np.column_stack([np.ones_like(x), x]), np.zeros(2)
    for _ in range(100):
        p = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (p - wins) + 1e-3 * weights
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + 1e-3 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step / max(1, np.abs(step).max())
    return float(1 / (1 + np.exp(-weights[0])))


# --- The figure ---


def draw(runs: list[dict]):
    """The table of cells, and what reward / words is worth at every level of the reward."""
    apart, alike = (
        np.mean([run[remedy]["length"]["mean"] for run in runs])
        for remedy in ("three_groups", "same_labels")
    )
    title = f"Ensembles against verbosity: of three groups {apart:+.1f}, "
    title += f"of the same labels {alike:+z.1f}"
    figure, axes = figures.new_figure(1, 2, title, height=4.6)
    names = {hack.annotators: name for name, hack in HACKS.items()}
    values = []  # (seeds, rows, columns); None where a remedy was not tried
    for run in runs:
        rows = [[run[remedy].get(group) for group in BIASES] for remedy in REMEDIES]
        values.append([[cell and cell["mean"] for cell in row] for row in rows])
    figures.draw_cells(axes[0], REMEDIES.values(), [names[group] for group in BIASES], values)
    axes[0].set_title("Gold utility: with the remedy minus without")
    levels_panel(axes[1], runs)
    return figure


def levels_panel(ax, runs: list[dict]) -> None:
    """The best of 64 by reward / words, with a constant added to the reward beforehand."""
    figures.seed_lines(ax, LEVELS, [run["levels"] for run in runs], "lab:gold", "reward / words")
    for name, label, color in (
        ("shortest", "the shortest of 64", "lab:best_of_n"),
        ("without", "by the reward itself", "lab:biased"),
    ):
        flat = [[run[name]] * len(LEVELS) for run in runs]
        figures.seed_lines(ax, LEVELS, flat, color, label, ls="--")
    ax.set(title="Verbosity: the level of the reward decides", ylabel=figures.GOLD)
    ax.set_xlabel("mean of the reward (training leaves it free)")
    figures.legend_below(ax, ncols=2)


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
