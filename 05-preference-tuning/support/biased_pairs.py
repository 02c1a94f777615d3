"""Pairs labelled by annotators with a bias, and the trainings on them that are compared.

In every question the user holds a wrong belief, so that all hacks are open: a longer answer, an
expert's tone, an echo of the belief.
"""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from support.contrasts import absorbed_bias, contrast_rewards
from support.evaluation import show_answers

import numpy as np

from common.intervals import summary
from common.models import score_responses
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

GROUPS = ("human", *BIASES)
MEMBERS = ("length", "length_2", "length_3")  # of an ensemble: the same labels, other seeds

# --- Pairs ---


def user_is_wrong(question: Question) -> bool:
    """Whether the user states a belief that is not the answer."""
    return question.belief not in (None, question.answer)


def wrong_users(split: str, count: int) -> list[Question]:
    """The first questions of a split in which the user is wrong."""
    return [question for question in questions(split) if user_is_wrong(question)][:count]


def group_pairs(group: str, count: int, seed: int, split: str = "train") -> list[dict]:
    """Pairs labelled by a group ("human" has no bias); with one seed all groups see the same."""
    rows = make_pairs(4 * count + 64, split, annotator=group, seed=seed)  # wrong in a third of them
    return [row for row in rows if user_is_wrong(all_questions()[row["prompt"]])][:count]


def mixed_pairs(count: int, seed: int) -> list[dict]:
    """Diversified data: the same pairs again, each labelled by one of the groups at random."""
    labelled = [group_pairs(group, count, seed) for group in GROUPS]
    rng = random.Random(seed)
    return [rng.choice(rows) for rows in zip(*labelled, strict=True)]


def same_pairs(rows: Sequence[dict], others: Sequence[dict]) -> float:
    """The share of pairs that hold the same two answers to the same prompt, whichever is chosen."""
    texts = [
        [(row["prompt"], frozenset(row[side] for side in SIDES)) for row in table]
        for table in (rows, others)
    ]
    return float(np.mean([a == b for a, b in zip(*texts, strict=True)]))


# --- The bias in the labels ---


def bias_amount(prompt: str, response: str, group: str) -> float:
    """How much of what the group likes: words of filler, a preamble or an echo of the belief."""
    perceived = annotator_utility(prompt, response, group)
    return (perceived - gold_utility(prompt, response)) / BIASES[group]


def biased_side_wins(pairs: Sequence[dict], group: str) -> np.ndarray:
    """Of the pairs that differ in what the group likes: 1 where the one with more is chosen."""
    rows = [[bias_amount(row["prompt"], row[side], group) for side in SIDES] for row in pairs]
    chosen, rejected = np.array(rows).round(6).T
    return (chosen > rejected)[chosen != rejected]


# --- The trainings ---


class RewardRun(NamedTuple):
    """A reward model to train: on whose labels, from which random start."""

    name: str
    pairs: list[dict]
    seed: int


class PolicyRun(NamedTuple):
    """A DPO training: on whose labels, how close to the reference, and whose reward judges it."""

    name: str
    pairs: list[dict]
    beta: float
    judge: str


def reward_runs(count: int, seed: int) -> list[RewardRun]:
    """A reward model of each group, one of mixed labels, and more members of one group's ensemble.

    Members have the same labels; the start of the head and the order of the pairs differ (Coste et
    al. 2023, arXiv 2310.02743).
    """
    runs = [RewardRun(group, group_pairs(group, count, seed), seed) for group in GROUPS]
    runs.append(RewardRun("mixed", mixed_pairs(count, seed), seed))
    verbose = group_pairs("length", count, seed)
    members = [RewardRun(name, verbose, seed + 1000 * k) for k, name in enumerate(MEMBERS)]
    return runs + members[1:]


def policy_runs(count: int, seed: int, beta: float, strong_beta: float) -> list[PolicyRun]:
    """DPO on the labels of each group, on mixed ones, and with a strong KL term."""
    runs = [PolicyRun(group, group_pairs(group, count, seed), beta, group) for group in GROUPS]
    runs.append(PolicyRun("mixed", mixed_pairs(count, seed), beta, "mixed"))
    verbose = group_pairs("length", count, seed)
    return [*runs, PolicyRun("strong_kl", verbose, strong_beta, "length")]


def train_rewards(
    fit: Callable, *, model: str, dataset: None, pairs: int, seed: int, device: str, **training
) -> tuple[dict, dict]:
    """(labelled pairs, (reward model, tokenizer)) of all runs by name; `fit` is reward_model.py's.

    `training` are its settings.
    """
    runs, judges = reward_runs(pairs, seed), {}
    for name, rows, its_seed in runs:
        options = {**training, "seed": its_seed, "name": f"reward model: {name}"}
        judges[name] = fit(model, rows, device=device, **options)[:2]
    return {run.name: run.pairs for run in runs}, judges


# --- What came of them ---


def trace_biases(
    labels: dict[str, list[dict]], models: dict[str, tuple], asked: Sequence[Question], seed: int
) -> dict[str, dict]:
    """Each bias in the labels and in the reward model, beside those of unbiased annotators.

    `labels` share of pairs in which the side with more of what the group likes is chosen;
    `absorbed` of the planted bias, by contrasts. `models` are (reward model, tokenizer) by group.
    """

    def read_contrasts(group: str) -> dict[str, np.ndarray]:
        def score(prompts: list[str], texts: list[str]) -> np.ndarray:
            return score_responses(*models[group], prompts, texts).numpy().astype(float)

        return contrast_rewards(score, asked, seed)

    unbiased, traced = read_contrasts("human"), {}
    for hack in BIASES:
        arms = {"unbiased": labels["human"], "biased": labels[hack]}
        wins = {arm: summary(biased_side_wins(rows, hack)) for arm, rows in arms.items()}
        absorbed = absorbed_bias(read_contrasts(hack), unbiased, hack)
        traced[hack] = {"labels": wins, "absorbed": absorbed}
    return traced


def distinct_texts(texts: Sequence[Sequence[str]], good: np.ndarray) -> dict:
    """How many different texts a prompt has among its samples, and how many good ones."""
    rows = [dict(zip(*row, strict=True)) for row in zip(texts, good, strict=True)]
    return {
        "texts": summary([len(row) for row in rows]),
        "good": summary([sum(row.values()) for row in rows]),
    }


def show_hacked(
    names: dict[str, str],
    prompts: list[str],
    texts: list[list[str]],
    gold: np.ndarray,
    rewards: dict[str, np.ndarray],
    answers: dict[str, list[list[str]]],
) -> None:
    """Print for each hack the first prompt for which its reward chooses worse than an unbiased one.

    `gold` and the `rewards` of each group are those of the texts, arrays (P, M); `answers` are
    those of each policy.
    """
    row, unbiased = np.arange(len(prompts)), rewards["human"].argmax(1)
    for hack, name in names.items():
        hacked = rewards[hack].argmax(1)
        k = int((gold[row, hacked] < gold[row, unbiased]).argmax())
        chosen = {
            f"best of {len(texts[k])}, unbiased": [[texts[k][unbiased[k]]]],
            f"best of {len(texts[k])}, {name}": [[texts[k][hacked[k]]]],
            f"DPO, {name}": [answers[hack][k]],
        }
        show_answers([prompts[k]], chosen)
