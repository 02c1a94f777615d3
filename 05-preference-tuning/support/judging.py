"""A language model as annotator: it reads two answers and says A or B."""

from collections.abc import Sequence

from support.variant_data import swap_sides

import numpy as np

from common.intervals import summary
from common.preferences import judge_prompt
from common.prompts import as_text
from common.scoring import judge_first_better


def averaged_preference(forward, backward):
    """P(first is better), both orders averaged; any shape.

    `forward` is P(A) with the first as A, `backward` with it as B. A judge that says A with
    probability sigmoid(d + b) has a position bias b, which cancels here to first order in b, and
    exactly where d = 0.
    """
    return (forward + 1 - backward) / 2


def judge_pairs(judge, tokenizer, pairs: Sequence[dict]) -> dict[str, np.ndarray]:
    """P(A) of each pair, arrays (N,), and `answered`: P(A) + P(B).

    `forward` shows chosen as A, `backward` chosen as B, and `same` one answer as both.
    """
    shown = {"forward": [], "backward": [], "same": []}
    for row in pairs:
        prompt, chosen, rejected = as_text(row["prompt"]), row["chosen"], row["rejected"]
        shown["forward"].append(judge_prompt(prompt, chosen, rejected))
        shown["backward"].append(judge_prompt(prompt, rejected, chosen))
        shown["same"].append(judge_prompt(prompt, chosen, chosen))
    asked = [*shown["forward"], *shown["backward"], *shown["same"]]
    first, mass = judge_first_better(judge, tokenizer, asked)
    verdicts = dict(zip(shown, first.double().numpy().reshape(3, -1), strict=True))
    return {**verdicts, "answered": mass.double().numpy()}


def ai_labels(judge, tokenizer, pairs: Sequence[dict], orders: int = 2) -> list[dict]:
    """The pairs as the judge labels them, both orders averaged, or with one order only.

    In one order every second chosen answer is shown as A.
    """
    verdicts = judge_pairs(judge, tokenizer, pairs)
    prefers_chosen = both_orders(verdicts) if orders == 2 else one_order(verdicts)
    rows = zip(pairs, prefers_chosen, strict=True)
    return [row if kept else swap_sides(row) for row, kept in rows]


def both_orders(verdicts: dict[str, np.ndarray]) -> np.ndarray:
    """Whether the judge prefers chosen, both orders averaged; (N,)."""
    return averaged_preference(verdicts["forward"], verdicts["backward"]) > 0.5


def one_order(verdicts: dict[str, np.ndarray]) -> np.ndarray:
    """Whether the judge prefers chosen, each pair shown once; (N,)."""
    chosen_is_a = np.arange(len(verdicts["forward"])) % 2 == 1
    return np.where(chosen_is_a, verdicts["forward"] > 0.5, verdicts["backward"] < 0.5)


def study_judge(judge, tokenizer, pairs: Sequence[dict]) -> dict:
    """How often the judge agrees with the labels of held-out pairs, and its position bias.

    And, in the world, how often both agree with the gold order, by the fault of the worse answer.
    """
    verdicts = judge_pairs(judge, tokenizer, pairs)
    chosen_is_a = np.arange(len(pairs)) % 2 == 1
    says_a = np.where(chosen_is_a, verdicts["forward"], verdicts["backward"]) > 0.5
    by_order = (verdicts["forward"] > 0.5) != (verdicts["backward"] < 0.5)
    measured = {
        "agrees_with_labels": summary(both_orders(verdicts)),
        "answers_a_or_b": summary(verdicts["answered"] > 0.5),
        "says_a_of_equal_answers": summary(verdicts["same"]),
        "says_a_in_one_order": summary(says_a),
        "verdict_depends_on_order": summary(by_order),
    }
    if "chosen_utility" in pairs[0]:
        measured |= compare_with_gold(verdicts, pairs)
    return measured


def compare_with_gold(verdicts: dict[str, np.ndarray], pairs: list[dict]) -> dict:
    """Agreement of human labels and of the judge with the gold order, where that is no tie."""
    gaps = np.array([row["chosen_utility"] - row["rejected_utility"] for row in pairs])
    clear = gaps != 0
    worse = ["rejected_style" if gap > 0 else "chosen_style" for gap in gaps]
    kinds = np.array([row[side] for row, side in zip(pairs, worse, strict=True)])[clear]
    prefers_chosen = {
        "human": np.ones(len(pairs), dtype=bool),
        "one_order": one_order(verdicts),
        "both_orders": both_orders(verdicts),
    }
    agrees = {who: (labels == (gaps > 0))[clear] for who, labels in prefers_chosen.items()}
    by_fault = {}
    for who, hits in agrees.items():
        by_fault[who] = {kind: summary(hits[kinds == kind]) for kind in sorted(set(kinds))}
    return {
        "agrees_with_gold": {who: summary(hits) for who, hits in agrees.items()},
        "agrees_with_gold_by_fault": by_fault,
        "human_minus_judge": summary(agrees["human"].astype(float) - agrees["both_orders"]),
    }
