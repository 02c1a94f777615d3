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

import lessons  # noqa: F401

import numpy as np
from best_of_n import best_of_n_curve
from dpo_trainer import dpo_policy
from reward_hacking import HACKS, mixed_pairs, per_word, worst_case
from reward_model import reward_model_in

from common import figures
from common.answers import sample_answers
from common.claims import Claim, run_study, study_folder
from common.intervals import mean_of, summary
from common.preferences import BIASES, pairs_of_wrong_users, wrong_users
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

CLAIMS = (
    Claim(
        "small_n_mitigates",
        "choosing among fewer mitigates hacking",
        f"{GAINED}best of 4 minus best of 64; mean of the three hacks",
        of=lambda m: mean_of(m["fewer"].values()),
        smallest=0.05,
    ),
    Claim(
        "kl_mitigates_dpo",
        "a stronger KL penalty mitigates verbosity",
        f"{GAINED}DPO on labels that prefer length, {TIMES} times beta minus beta",
        of=lambda m: m["strong_kl"]["length"],
        smallest=0.05,
        published="compatible: it acts like early stopping, Gao et al. (arXiv 2210.10760)",
    ),
    Claim(
        "per_word_mitigates",
        "dividing the reward by length mitigates verbosity",
        f"{GAINED}{BEST}; labels that prefer length",
        of=lambda m: m["per_word"]["length"],
        smallest=0.05,
    ),
    Claim(
        "per_word_beats_shortest",
        "reward / words does more than take the shortest answer",
        f"{GAINED}best of 64 by it minus the shortest of 64; labels that prefer length",
        of=lambda m: m["per_word_minus_shortest"],
        smallest=0.05,
    ),
    Claim(
        "level_decides_per_word",
        "the level of the reward, which is free, decides what reward / words does",
        f"{GAINED}level {LEVELS[-1]} minus level {LEVELS[0]}; labels that prefer length",
        of=lambda m: m["level_decides"],
        smallest=0.05,
    ),
    Claim(
        "regressing_mitigates",
        "regressing length out of the reward mitigates verbosity",
        f"{GAINED}{BEST}; labels that prefer length",
        of=lambda m: m["regressed"]["length"],
        smallest=0.05,
        published="agrees: a reward without length, ODIN (arXiv 2402.07319)",
    ),
    Claim(
        "same_labels_mitigate",
        "an ensemble of reward models of the same labels mitigates verbosity",
        f"{GAINED}{BEST}; labels that prefer length",
        of=lambda m: m["same_labels"]["length"],
        smallest=0.05,
        published="agrees: shared errors survive, Eisenstein et al. (arXiv 2312.09244)",
    ),
    Claim(
        "three_groups_mitigate",
        "an ensemble of reward models of groups with different biases mitigates hacking",
        f"{GAINED}{BEST}; mean of the three hacks",
        of=lambda m: mean_of(m["three_groups"].values()),
        smallest=0.05,
    ),
    Claim(
        "mixed_labels_mitigate",
        "diversified annotators mitigate hacking of a reward model",
        f"{GAINED}{BEST}; mean of the three hacks",
        of=lambda m: mean_of(m["mixed_reward"].values()),
        smallest=0.05,
    ),
    Claim(
        "mixed_labels_mitigate_dpo",
        "diversified annotators mitigate hacking by DPO",
        f"{GAINED}DPO on mixed labels minus on biased ones; mean of the three hacks",
        of=lambda m: mean_of(m["mixed_dpo"].values()),
        smallest=0.05,
    ),
    Claim(
        "length_inflates_win_rates",
        "a judge who prefers length overrates verbose answers",
        "win rate of DPO on such labels over SFT by that judge, raw minus length-controlled",
        of=lambda m: m["win_rates"]["raw_minus_controlled"],
        smallest=0.05,
        published="agrees: Dubois et al. (arXiv 2404.04475)",
    ),
)


# --- The measurement ---


def measure(seed: int, smoke: bool = False) -> dict:
    """Label, train, and choose with and without each remedy: the cells by remedy and hack."""
    pairs, count, n = (32, 10, 16) if smoke else (1200, 64, 64)
    prompts = [question.prompt for question in wrong_users("test", count)]
    sft, tokenizer = load_sft_model()
    pool = sample_answers(sft, tokenizer, prompts, 3 * n // 2, seed)
    folder, judges, rewards = study_folder(seed, smoke), {}, {}
    labels = {group: pairs_of_wrong_users(pairs, group, seed) for group in BIASES}
    labels |= {"mixed": mixed_pairs(pairs, seed)}
    arms = [(group, labels[group], seed) for group in labels]
    # Other random starts of the head, and other orders of the same pairs.
    arms += [(f"length_{k}", labels["length"], seed + 1000 * (k - 1)) for k in (2, 3)]
    for name, labelled, its_seed in arms:
        place = folder / f"wrong_users_{name}"
        judges[name] = reward_model_in(place, "tiny-gpt2", labelled, seed=its_seed)
        rewards[name] = score_texts(judges[name], prompts, pool.texts)
    dpo = tune_with_remedies(prompts, seed, smoke)
    gold = {name: answered.gold.mean(1) for name, answered in dpo.items()}
    liked = score_texts(judges["length"], prompts, dpo["length"].texts) - rewards["length"][:, :4]
    return compare_choices(rewards, pool, n) | {
        "mixed_dpo": {group: summary(gold["mixed"] - gold[group]) for group in BIASES},
        "strong_kl": {"length": summary(gold["strong_kl"] - gold["length"])},
        "win_rates": length_controlled(liked, dpo["length"].words - pool.words[:, :4]),
    }


def tune_with_remedies(prompts: list[str], seed: int, smoke: bool) -> dict:
    """Answers (P, 4) of DPO on each group's labels, on mixed ones, with a strong KL term."""
    count, epochs = (16, 1) if smoke else (384, 3)
    arms = {group: (pairs_of_wrong_users(count, group, seed), 0.3) for group in BIASES}
    arms |= {"mixed": (mixed_pairs(count, seed), 0.3)}
    arms |= {"strong_kl": (arms["length"][0], TIMES * 0.3)}
    answered = {}
    for name, (labelled, beta) in arms.items():
        base, tokenizer = load_sft_model()
        training = {"beta": beta, "learning_rate": 1.4e-3, "epochs": epochs, "seed": seed}
        place = study_folder(seed, smoke) / f"hacked_dpo_{name}"
        policy = dpo_policy(place, base, tokenizer, labelled, **training)
        answered[name] = sample_answers(policy, tokenizer, prompts, 4, seed)
    return answered


def compare_choices(rewards: dict[str, np.ndarray], pool, n: int) -> dict:
    """Cells of the remedies of best-of-n, gold utility with each minus without; rewards (P, M)."""

    def best(scores: np.ndarray, among: int = n) -> np.ndarray:
        return best_of_n_curve(scores, pool.gold, [among])[:, 0]

    words, length = pool.words, rewards["length"]
    hacked = {group: best(rewards[group]) for group in BIASES}
    shared = {  # the same for all hacks
        "three_groups": best(worst_case([rewards[group] for group in BIASES])),
        "mixed_reward": best(rewards["mixed"]),
    }
    own = {
        "fewer": {group: best(rewards[group], max(1, n // 16)) for group in BIASES},
        "per_word": {group: best(per_word(rewards[group], words)) for group in BIASES},
        "regressed": {group: best(without_length(rewards[group], words)) for group in BIASES},
    }
    members = [rewards[name] for name in ("length", "length_2", "length_3")]
    own["same_labels"] = {"length": best(worst_case(members))}
    for remedy, gold in shared.items():
        own[remedy] = dict.fromkeys(BIASES, gold)
    cells = {}
    for remedy, of_groups in own.items():
        cells[remedy] = {g: summary(gold - hacked[g]) for g, gold in of_groups.items()}
    at_level = {level: best(per_word(length - length.mean(), words, level)) for level in LEVELS}
    return cells | {
        "per_word_minus_shortest": summary(own["per_word"]["length"] - best(-words)),
        "level_decides": summary(at_level[LEVELS[-1]] - at_level[LEVELS[0]]),
        "levels": [float(gold.mean()) for gold in at_level.values()],
        "without": {group: float(gold.mean()) for group, gold in hacked.items()},
        "shortest": float(best(-words).mean()),
    }


def without_length(rewards: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The reward with its linear dependence on length regressed out, within prompts; (P, M)."""
    centred_rewards = rewards - rewards.mean(1, keepdims=True)
    centred_words = words - words.mean(1, keepdims=True)
    slope = (centred_words * centred_rewards).sum() / max((centred_words**2).sum(), 1e-12)
    return rewards - slope * words


# --- A judge with a bias ---


def length_controlled(rewards: np.ndarray, lengths: np.ndarray) -> dict:
    """Win rate by a judge, raw and as it would be between answers of equal length.

    Differences (P, k) in reward and in length, ours minus theirs; ties count half.
    """
    table = np.stack([(1 + np.sign(rewards)) / 2, lengths], axis=-1)  # (P, k, 2)

    def inflation(rows: np.ndarray, axis: int = 0) -> float:
        return rows[..., 0].mean() - win_rate_at_equal_length(*rows.reshape(-1, 2).T)

    return {
        "raw": summary(table[..., 0].mean(1)),
        "raw_minus_controlled": summary(table, inflation, resamples=300),
    }


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
    ends = (
        ("the shortest of 64", "lab:best_of_n", [run["shortest"] for run in runs]),
        ("by the reward itself", "lab:biased", [run["without"]["length"] for run in runs]),
    )
    figures.seed_lines(ax, LEVELS, [run["levels"] for run in runs], "lab:gold", "reward / words")
    for label, color, values in ends:
        flat = np.repeat(np.array(values)[:, None], 2, axis=1)
        figures.seed_lines(ax, (LEVELS[0], LEVELS[-1]), flat, color, label, ls="--")
    ax.set(title="Verbosity: the level of the reward decides", ylabel=figures.GOLD)
    ax.set_xlabel("mean of the reward (training leaves it free)")
    figures.legend_below(ax, ncols=2)


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
