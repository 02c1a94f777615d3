"""Remedies: what gives back the quality that is lost to a flawed reward, and what does it cost?

    python 05-preference-tuning/studies/remedies.py  # one seed, 1.5 minutes after three_hacks.py

The setting is that of three_hacks.py, whose models are used again where they are there (without
them it takes a minute more). Each remedy is measured as gold utility with it minus without it: a
table of remedies by hacks. Its last column says what a remedy costs who did not need it: the same
with annotators who have no bias. (Remedies that bring in other annotators bring in their biases.)
A judge who prefers length can be hacked, too: one claim is about the win rate that it reports, and
the one that it would report between answers of equal length.
"""

from functools import partial

import lessons  # noqa: F401

import numpy as np
from best_of_n import best_of_n_curve
from dpo_trainer import dpo_policy
from reward_hacking import HACKS, pairs_labelled_by, per_word, worst_case
from reward_model import pair_hits, reward_model_in

from common import figures
from common.answers import Answers, sample_answers
from common.claims import Claim, run_study, study_folder
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
GROUPS = (*BIASES, "human")  # columns; "human" has no bias
TWO_GROUPS = ("length", "human")  # on which the remedies that need trainings of their own are tried
MEMBERS = (2, 3)  # of an ensemble of the same labels, beside the group's own reward model
LEVELS = (-10, -5, 0, 5, 10)  # mean rewards at which reward / words is tried
BETA, TIMES = 0.3, 5  # the KL term as a remedy: so many times beta
GAINED = "gold utility gained, log-odds, "
LIKE_LENGTH = "labels that prefer length"

claim_on_remedies = partial(Claim, smallest=0.05)  # less is not worth calling a difference
CLAIMS = (
    claim_on_remedies(
        "kl_mitigates_dpo",
        "a stronger KL penalty mitigates verbosity",
        f"{GAINED}DPO on {LIKE_LENGTH}, {TIMES} times beta minus beta",
        of=lambda m: m["strong_kl"]["length"],
    ),
    claim_on_remedies(
        "length_control_mitigates",
        "taking length out of the reward mitigates verbosity",
        f"{GAINED}best of 64, mean of reward / words and regression minus neither; {LIKE_LENGTH}",
        of=lambda m: (m["per_word"]["length"] + m["regressed"]["length"]) / 2,
    ),
    claim_on_remedies(
        "per_word_beats_shortest",
        "reward / words does more than take the shortest answer",
        f"{GAINED}best of 64 by it (mean reward 0) minus the shortest of 64; {LIKE_LENGTH}",
        of=lambda m: m["levels"][LEVELS.index(0)] - m["shortest"],
        predicted="does not hold",
    ),
    claim_on_remedies(
        "ensembles_need_other_flaws",
        "an ensemble mitigates where its members have different flaws, not the same one",
        f"{GAINED}best of 64 by three groups minus by three of one group; {LIKE_LENGTH}",
        of=lambda m: m["three_groups"]["length"] - m["same_labels"]["length"],
    ),
    claim_on_remedies(
        "mixed_labels_mitigate",
        "diversified annotators mitigate hacking",
        f"{GAINED}mixed minus biased labels; mean of best of 64 and DPO, and of the three hacks",
        of=lambda m: np.mean([m[f"mixed_{by}"][g] for by in ("reward", "dpo") for g in BIASES]),
    ),
    claim_on_remedies(
        "remedies_cost_where_nothing_is_wrong",
        "where nothing is wrong, a remedy costs quality",
        "gold utility lost, log-odds, without minus with it; unbiased labels; mean of all eight",
        of=lambda m: -np.mean([m[remedy]["human"] for remedy in REMEDIES]),
    ),
    claim_on_remedies(
        "length_inflates_win_rates",
        "a judge who prefers length overrates verbose answers",
        "win rate of DPO on such labels over SFT by that judge, raw minus length-controlled",
        of=lambda m: m["win_rate_inflation"],
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """Label, train, and choose with and without each remedy: the cells by remedy and group."""
    count, few, many, epochs, n = (10, 16, 32, 1, 16) if smoke else (64, 384, 1200, 3, 64)
    prompts = [question.prompt for question in wrong_users("test", count, seed)]
    sft, tokenizer = load_sft_model()
    pool = sample_answers(sft, tokenizer, prompts, 3 * n // 2, seed)
    folder, judges, dpo = study_folder(seed, smoke), {}, {}
    for group in (*GROUPS, "mixed"):
        pairs, its_seeds = pairs_labelled_by(group, many, seed), {group: seed}
        if group in TWO_GROUPS:  # other random starts of the head, other orders of the pairs
            its_seeds |= {f"{group}_{k}": seed + 1000 * (k - 1) for k in MEMBERS}
        for name, its_seed in its_seeds.items():
            place = folder / f"wrong_users_{name}"
            judges[name] = reward_model_in(place, "tiny-gpt2", pairs, seed=its_seed)
    rewards = {name: score_texts(judge, prompts, pool.texts) for name, judge in judges.items()}
    arms = {name: (name, BETA) for name in (*GROUPS, "mixed")}
    arms |= {f"strong_kl_{group}": (group, TIMES * BETA) for group in TWO_GROUPS}
    for name, (group, beta) in arms.items():
        base, tokenizer = load_sft_model()
        pairs = pairs_labelled_by(group, few, seed)
        training = {"beta": beta, "learning_rate": 1.4e-3, "epochs": epochs, "seed": seed}
        policy = dpo_policy(folder / f"hacked_dpo_{name}", base, tokenizer, pairs, **training)
        dpo[name] = sample_answers(policy, tokenizer, prompts, 4, seed, with_kl=False)
    gold = {name: float(answered.gold.mean()) for name, answered in dpo.items()}
    liked = score_texts(judges["length"], prompts, dpo["length"].texts), rewards["length"][:, :4]
    wins = pair_hits(np.stack(liked, axis=-1).reshape(-1, 2))
    longer = dpo["length"].words - pool.words[:, :4]
    return {
        **compare_choices(rewards, pool, n),
        "mixed_dpo": {group: gold["mixed"] - gold[group] for group in GROUPS},
        "strong_kl": {group: gold[f"strong_kl_{group}"] - gold[group] for group in TWO_GROUPS},
        "win_rate_inflation": inflation_by_length(wins, longer.ravel()),
    }


def compare_choices(rewards: dict[str, np.ndarray], pool: Answers, n: int) -> dict:
    """Cells of the remedies of best-of-n, gold utility with each minus without; rewards (P, M)."""

    def best(scores: np.ndarray, among: int = n) -> float:
        return float(best_of_n_curve(scores, pool.gold, [among]).mean())

    words, cells = pool.words, {}
    for group in GROUPS:
        reward = rewards[group]
        with_remedy = {
            "fewer": best(reward, max(1, n // 16)),
            "per_word": best(per_word(reward, words)),
            "regressed": best(without_length(reward, words)),
            "three_groups": best(worst_case([rewards[name] for name in BIASES])),
            "mixed_reward": best(rewards["mixed"]),
        }
        if group in TWO_GROUPS:
            members = [rewards[f"{group}_{k}"] for k in MEMBERS]
            with_remedy["same_labels"] = best(worst_case([reward, *members]))
        for remedy, gold in with_remedy.items():
            cells.setdefault(remedy, {})[group] = gold - best(reward)
    length = rewards["length"] - rewards["length"].mean()
    return cells | {
        "levels": [best(per_word(length, words, level)) for level in LEVELS],
        "without": best(length),
        "shortest": best(-words),
    }


def without_length(rewards: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The reward with its linear dependence on length regressed out, within prompts; (P, M)."""
    centred = words - words.mean(1, keepdims=True)
    slope = (centred * rewards).sum() / max((centred**2).sum(), 1e-12)
    return rewards - slope * words


def inflation_by_length(wins: np.ndarray, lengths: np.ndarray) -> float:
    """Win rate by a judge minus what it would be between answers of equal length.

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
    return float(wins.mean() - 1 / (1 + np.exp(-weights[0])))


def draw(runs: list[dict]):
    """The table of cells, and what reward / words is worth at every level of the reward."""
    names = ("three_groups", "same_labels")
    apart, alike = (np.mean([run[name]["length"] for run in runs]) for name in names)
    title = f"Ensembles against verbosity: of three groups {apart:+.2f}, of the same labels "
    figure, (table, ax) = figures.new_figure(1, 2, f"{title}{alike:+z.2f}", height=4.8)
    table.get_gridspec().set_width_ratios([1.7, 1])
    hacks = {hack.annotators: name for name, hack in HACKS.items()} | {"human": "unbiased"}
    values = [[[run[remedy].get(g) for g in GROUPS] for remedy in REMEDIES] for run in runs]
    figures.draw_cells(table, REMEDIES.values(), [hacks[group] for group in GROUPS], values)
    table.axvline(len(BIASES) - 0.5, color="black", lw=1)
    table.set_title("Gold utility: with the remedy minus without")
    # The best of 64 by reward / words, with a constant added to the reward beforehand.
    figures.seed_lines(ax, LEVELS, [run["levels"] for run in runs], "lab:gold", "reward / words")
    shortest = [[run["shortest"]] * len(LEVELS) for run in runs]
    figures.seed_lines(ax, LEVELS, shortest, "lab:best_of_n", "the shortest of 64", ls="--")
    without = [[run["without"]] * len(LEVELS) for run in runs]
    figures.seed_lines(ax, LEVELS, without, "lab:biased", "by the reward itself", ls="--")
    ax.set(title="Verbosity: the level decides", ylabel=figures.GOLD)
    ax.set_xlabel("mean of the reward, which is free")
    figures.legend_below(ax)
    return figure


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
