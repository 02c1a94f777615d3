"""Pairs labelled by annotators with a bias, and the trainings on them that are compared.

In every question the user holds a wrong belief, so that all hacks are open: a longer answer, an
expert's tone, an echo of the belief.
"""

import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from support.contrasts import absorbed_bias, contrast_rewards, scorer
from support.evaluation import show_answers, summarize
from support.win_rates import judged_win_rates

import numpy as np

from common.intervals import summary
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


def wrong_prompts(split: str, count: int) -> list[str]:
    """The prompts of `wrong_users`."""
    return [question.prompt for question in wrong_users(split, count)]


@cache  # they are read again and again, and never changed
def group_pairs(group: str, count: int, seed: int, split: str = "train") -> list[dict]:
    """Pairs labelled by a group ("human" has no bias); with one seed all groups see the same."""
    # The user is wrong in a third of the world's pairs.
    pairs = make_pairs(4 * count + 64, split, annotator=group, seed=seed)
    return [pair for pair in pairs if user_is_wrong(all_questions()[pair["prompt"]])][:count]


def mixed_pairs(count: int, seed: int) -> list[dict]:
    """Diversified data: the same pairs again, each labelled by one of the groups at random."""
    labelled = [group_pairs(group, count, seed) for group in GROUPS]
    rng = random.Random(seed)
    return [rng.choice(labels) for labels in zip(*labelled, strict=True)]


def same_pairs(pairs: Sequence[dict], others: Sequence[dict]) -> float:
    """The share of pairs that hold the same two answers to the same prompt, whichever is chosen."""
    both = zip(pairs, others, strict=True)
    return float(np.mean([texts_of(pair) == texts_of(other) for pair, other in both]))


def texts_of(pair: dict) -> tuple[str, frozenset[str]]:
    """The prompt and its two answers, whichever is chosen."""
    return pair["prompt"], frozenset((pair["chosen"], pair["rejected"]))


# --- The bias in the labels ---


def bias_amount(prompt: str, response: str, group: str) -> float:
    """How much of what the group likes: words of filler, preambles or echoes of the belief."""
    perceived = annotator_utility(prompt, response, group)
    return (perceived - gold_utility(prompt, response)) / BIASES[group]


def biased_side_wins(pairs: Sequence[dict], group: str) -> np.ndarray:
    """Of the pairs that differ in what the group likes: 1 where the one with more is chosen."""
    amounts = []
    for pair in pairs:
        amounts.append([bias_amount(pair["prompt"], pair[side], group) for side in SIDES])
    chosen, rejected = np.array(amounts).round(6).T
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
    """(labelled pairs, (reward model, tokenizer)) of all runs by name.

    `fit` is reward_model.py's, `training` its settings.
    """
    runs, judges = reward_runs(pairs, seed), {}
    for name, labelled, its_seed in runs:
        options = {**training, "seed": its_seed, "name": f"reward model: {name}"}
        judges[name] = fit(model, labelled, device=device, **options)[:2]
    return {run.name: run.pairs for run in runs}, judges


# --- What came of them ---


def trace_biases(
    labels: dict[str, list[dict]], models: dict[str, tuple], asked: Sequence[Question], seed: int
) -> dict[str, dict]:
    """Each bias in the labels and in the reward model, beside those of unbiased annotators.

    In `labels`: the share of pairs in which the side with more of what the group likes is chosen.
    `absorbed`: how much of the planted bias the reward model has, by contrasts. `models` are
    (reward model, tokenizer) by group.
    """

    def read_contrasts(group: str) -> dict[str, np.ndarray]:
        return contrast_rewards(scorer(*models[group]), asked, seed)

    unbiased, traced = read_contrasts("human"), {}
    for hack in BIASES:
        traced[hack] = {
            "labels": {
                "unbiased": summary(biased_side_wins(labels["human"], hack)),
                "biased": summary(biased_side_wins(labels[hack], hack)),
            },
            "absorbed": absorbed_bias(read_contrasts(hack), unbiased, hack),
        }
    return traced


def describe_hacks(
    texts: list[list[str]], pool: dict, rewards: dict, policies: dict, best_of_n: dict
) -> dict:
    """What the policies became, and of each hack what best-of-n and DPO gained and lost by it.

    The readings `pool` and the `rewards` by group (P, M) are those of the SFT checkpoint's texts;
    `policies` are readings and reward (P, n) by DPO run, `best_of_n` metrics by group.
    """
    gold = {name: read["utility"].mean(1) for name, read in policies.items()}
    by_length = {**pool, "reward": rewards["length"]}
    metrics = {
        "human": {"best_of_n": best_of_n["human"]},
        "distinct": distinct_texts(texts, pool["good"]),
        "sft": summarize(pool),
        "dpo": {name: summarize(read) for name, read in policies.items()},
        "win_rates": judged_win_rates(policies["length"], by_length),
    }
    for hack in BIASES:
        reward_gain = policies[hack]["reward"].mean(1) - rewards[hack].mean(1)
        metrics[hack] = {
            "best_of_n": best_of_n[hack],
            "proxy_gain": summary(reward_gain),
            "gold_lost": summary(pool["utility"].mean(1) - gold[hack]),
            "gold_cost": summary(gold["human"] - gold[hack]),
        }
    return metrics


def distinct_texts(texts: Sequence[Sequence[str]], good: np.ndarray) -> dict:
    """How many different texts a prompt has among its samples, and how many good ones; (P, M)."""
    text_counts, good_counts = [], []
    for samples, are_good in zip(texts, good, strict=True):
        is_good = dict(zip(samples, are_good, strict=True))  # of each distinct text
        text_counts.append(len(is_good))
        good_counts.append(sum(is_good.values()))
    return {"texts": summary(text_counts), "good": summary(good_counts)}


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
    prompt_index, unbiased = np.arange(len(prompts)), rewards["human"].argmax(1)
    for hack, name in names.items():
        hacked = rewards[hack].argmax(1)
        is_worse = gold[prompt_index, hacked] < gold[prompt_index, unbiased]
        k = int(is_worse.argmax())  # the first such prompt
        chosen = {
            f"best of {len(texts[k])}, unbiased": [[texts[k][unbiased[k]]]],
            f"best of {len(texts[k])}, {name}": [[texts[k][hacked[k]]]],
            f"DPO, {name}": [answers[hack][k]],
        }
        show_answers([prompts[k]], chosen)
