"""Sampled answers that a run keeps, so that they can be read beside its numbers.

All are answers to the same prompts: the world's first held-out ones. Every policy that is a point
of `frontier.py`'s plane has one answer to each, under the name of its point.
"""

from collections.abc import Sequence

from support.evaluation import response_logps, sample_answers, score_texts, summarize

import numpy as np

from common.models import encode_response
from common.preferences import gold_utility, questions

SHOWN = 32  # prompts
FRONTIER_PROMPTS = 128  # the first ones, by which every point of the plane is measured
POOLS = 6  # of them whose whole pool of candidates is kept


def point_name(point: dict) -> str:
    """What the answers of a point are filed under; no two points of a run share it."""
    return ", ".join((point["method"], point["series"], point["label"]))


def frontier_point(
    method: str, series: str, label: str, readings: dict[str, np.ndarray], annotations: int
) -> dict:
    """A policy trained on unbiased labels as a point of the plane; readings (prompts, n)."""
    measured = summarize({name: values[:FRONTIER_PROMPTS] for name, values in readings.items()})
    return {
        "method": method,
        "series": series,
        "label": label,
        "kl": measured["kl"],
        "gold": measured["utility"],
        "good": measured["good"],
        "annotations": annotations,
        "biased": False,
    }


def first_prompts(most: int) -> list[str]:
    """The prompts that every script answers first, at most `most` of them."""
    return [question.prompt for question in questions("test")[: min(most, SHOWN)]]


def answers_of_points(
    prompts: Sequence[str],
    points: Sequence[dict],
    texts: Sequence[list[list[str]]],
    rewards: Sequence[dict[str, np.ndarray]] = (),
) -> dict:
    """{prompts, texts, rewards}: the first answer of each point to each of the first prompts.

    `texts` are those of each point, (prompts, n); `rewards`, where there are any, arrays (prompts,)
    of the reward that chose or trained, in log-odds: "before" of the SFT checkpoint's answer and
    "after" of the point's.
    """
    answers = {"prompts": list(prompts[:SHOWN]), "texts": {}, "rewards": {}}
    for point, its_texts in zip(points, texts, strict=True):
        answers["texts"][point_name(point)] = [row[0] for row in its_texts[:SHOWN]]
    for point, its_rewards in zip(points, rewards, strict=False):
        rounded = {when: _rounded(values[:SHOWN]) for when, values in its_rewards.items()}
        answers["rewards"][point_name(point)] = rounded
    return answers


def join_studies(first: dict, second: dict) -> dict:
    """The metrics of two studies of one script, their points and the answers put together."""
    answers = {"prompts": first["answers"]["prompts"]}
    for kind in ("texts", "rewards"):
        answers[kind] = first["answers"][kind] | second["answers"][kind]
    points = [*first["frontier"], *second["frontier"]]
    return {**first, **second, "frontier": points, "answers": answers}


def _rounded(values: np.ndarray) -> list[float]:
    return np.round(np.asarray(values, dtype=float), 4).tolist()


# --- Best-of-n ---


def best_of_n_answers(
    prompts: Sequence[str],
    points: Sequence[dict],
    pools: dict[str, dict],
    dpo_pool: dict,
    reference,
    tokenizer,
) -> dict:
    """The best of the first n candidates for every point of best-of-n, and a few whole pools.

    `pools` are the SFT checkpoint's, with the rewards of each judge; `dpo_pool` is DPO's.
    """
    chosen_points, texts, rewards = [], [], []
    for point in points:
        if "n" not in point:  # the optimum reweights a pool and has no answers of its own
            continue
        pool = dpo_pool if point["method"] == "DPO + best of n" else pools[point["series"]]
        best = pool["reward"][:, : point["n"]].argmax(1)
        chosen_points.append(point)
        texts.append([[row[k]] for row, k in zip(pool["texts"], best, strict=True)])
        after = pool["reward"][np.arange(len(best)), best]
        rewards.append({"before": pools[point["series"]]["reward"][:, 0], "after": after})
    answers = answers_of_points(prompts, chosen_points, texts, rewards)
    kept = range(min(POOLS, len(prompts)))
    return answers | {"pools": [_whole_pool(k, prompts, pools, reference, tokenizer) for k in kept]}


def _whole_pool(k: int, prompts: Sequence[str], pools: dict, reference, tokenizer) -> dict:
    """Every candidate for a prompt: the distinct texts, and which of them was drawn when.

    `logp` is the reference's log-probability of the text in nats; `reward` (the human annotators'
    reward model), `length_reward` (the length-lovers') and `gold` are in log-odds.
    """
    prompt, drawn = prompts[k], pools["human"]["texts"][k]
    distinct = list(dict.fromkeys(drawn))
    first = [drawn.index(text) for text in distinct]
    token_ids = [encode_response(tokenizer, text) for text in distinct]
    logps = response_logps(reference, tokenizer, [prompt] * len(distinct), token_ids)
    return {
        "prompt": prompt,
        "texts": distinct,
        "logp": _rounded(logps.numpy()),
        "reward": _rounded(pools["human"]["reward"][k, first]),
        "length_reward": _rounded(pools["length"]["reward"][k, first]),
        "gold": _rounded([gold_utility(prompt, text) for text in distinct]),
        "drawn": [distinct.index(text) for text in drawn],
    }


# --- Policies that learned from flawed labels ---


def answer_hacked(policy, reference, tokenizer, judge: tuple, most: int, sampling: tuple) -> tuple:
    """(texts (P, 1), rewards before and after) of a policy and the flawed reward of its labels.

    `reference` is the SFT checkpoint, `sampling` the length limit and the seed.
    """
    prompts = first_prompts(most)
    before, _ = sample_answers(reference, tokenizer, prompts, 1, *sampling)
    after, _ = sample_answers(policy, tokenizer, prompts, 1, *sampling)
    rewards = {"before": before, "after": after}
    return after, {when: score_texts(judge, prompts, rewards[when])[:, 0] for when in rewards}


def hacked_answers(hacks: dict[str, str], answered: dict[str, tuple], most: int) -> dict:
    """The answers of `answer_hacked` by hack; `hacks` are their names by key."""
    points = hacked_points(hacks)
    texts, rewards = zip(*(answered[key] for key in hacks), strict=True)
    return answers_of_points(first_prompts(most), points, texts, rewards)


def hacked_points(hacks: dict[str, str]) -> list[dict]:
    """What tells the policies of the hacks from each other; they are not on the frontier."""
    return [{"method": "DPO", "series": key, "label": name} for key, name in hacks.items()]
