"""Running the arms of dpo_variants.py, and what is read off them for claims and frontier."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from support.evaluation import pair_logps, sample_answers, show_answers, summarize
from support.policy_data import PolicyData
from support.training import load_sft_checkpoint
from support.variant_data import gold_agreement

import numpy as np

from common.reporting import summary

WATCHED_PROMPTS = 32
FRONTIER_PROMPTS = 128  # the first ones, the same in all scripts
# The arms that frontier.py draws, under its names.
FRONTIER = {
    "ipo": "IPO",
    "kto": "KTO",
    "ai_labels": "AI labels",
    "policy": "on-policy DPO",
    "sft_on_chosen": "SFT on chosen",
    "coin": "random labels",
}


class Results(NamedTuple):
    """Of every arm, by its key: readings (prompts, 2), margins (pairs,), and summaries of both."""

    answers: dict[str, dict]
    margins: dict[str, np.ndarray]
    measured: dict[str, dict]


def run_arms(
    arms: Sequence,
    *,
    sft: tuple,
    data: PolicyData,
    margin_pairs: Sequence[dict],
    max_new_tokens: int,
    training: dict,
    watched: Sequence[str],
    shown: Sequence[str],
    after: Callable,
) -> Results:
    """Train every arm from the SFT checkpoint `sft` and sample two answers to each prompt.

    `after(arm, trained)` is called when an arm is trained. Arms that are `watched` answer on the
    way, too, and the answers of those that are `shown` are printed.
    """
    reference, tokenizer = load_sft_checkpoint(*sft)
    seed = training["seed"]

    def answer(policy, prompts: list[str]) -> tuple:
        return sample_answers(policy, tokenizer, prompts, 2, max_new_tokens, seed)

    def look(step: int, policy) -> dict:
        return summarize(answer(policy, data.watched[:WATCHED_PROMPTS])[1])

    texts, readings = answer(reference, data.prompts)
    results = Results({"reference": readings}, {}, {"reference": {"name": "SFT"}})
    results.measured["reference"] |= summarize(readings)
    printed = {"SFT": texts}
    for k, arm in enumerate(arms, start=1):
        start, _ = load_sft_checkpoint(*sft)
        settings = {**training, **arm.settings, "name": f"training {k} of {len(arms)}: {arm.name}"}
        if arm.key in watched:
            settings["look"] = look
        trained = arm.method(start, tokenizer, arm.pairs, **settings)
        texts, readings = answer(trained.policy, data.prompts)
        if arm.key in shown:
            printed[arm.name] = texts
        results.answers[arm.key] = readings
        results.margins[arm.key] = margins_of(trained.policy, tokenizer, margin_pairs)
        held = margins_of(trained.policy, tokenizer, data.held)
        results.measured[arm.key] = {
            "name": arm.name,
            **summarize(readings),
            "implicit_reward_accuracy": summary(held > 0),
            "margin": summary(held),
            "curve": trained.curve,
        }
        after(arm, trained)
    show_answers(data.prompts, printed)
    return results


def margins_of(policy, tokenizer, pairs: Sequence[dict]) -> np.ndarray:
    """h of each pair in nats, the log-ratio of chosen minus that of rejected; (N,)."""
    logps, ref_logps = pair_logps(policy, tokenizer, pairs)
    return ((logps[0] - ref_logps[0]) - (logps[1] - ref_logps[1])).numpy()


def label_quality(arms: Sequence, measured: dict) -> list[dict]:
    """Of the arms that differ in their labels alone: agreement with the gold order, gold, KL."""
    points = []
    for arm in arms:
        readings = measured[arm.key]
        points.append(
            {
                "arm": arm.key,
                "agreement": summary(gold_agreement(arm.pairs)),
                "gold": readings["utility"],
                "kl": readings["kl"],
            }
        )
    return points


def line_weights(x: Sequence[float], at: float) -> np.ndarray:
    """w such that w @ y is the height at `at` of the least-squares line through points (x, y)."""
    design = np.column_stack([np.ones(len(x)), x])
    return np.array([1.0, at]) @ np.linalg.pinv(design)


def compare_arms(gold: dict[str, np.ndarray], margins: dict, labels: dict) -> dict:
    """The comparisons of the claims, paired by prompt; `gold` are gold utilities (prompts,)."""

    def cost(arm: str, worse: str) -> np.ndarray:
        return gold[arm] - gold[worse]

    agreements = [point["agreement"]["mean"] for point in labels["human"]]
    heights, off_line = [gold[point["arm"]] for point in labels["human"]], {}
    for point in labels["judge"]:
        weights = line_weights(agreements, point["agreement"]["mean"])
        off_line[point["arm"]] = summary(gold[point["arm"]] - weights @ heights)
    return {
        "ipo_under_ties": summary(cost("dpo", "dpo_ties") - cost("ipo", "ipo_ties")),
        "ipo_under_imbalance": summary(gold["ipo_one_sided"] - gold["dpo_one_sided"]),
        "dpo_extreme_margins": summary(margins["dpo_one_sided"] - margins["ipo_one_sided"]),
        "kto_no_pairs": summary(gold["kto_singles"] - gold["reference"]),
        "kto_noise": summary(cost("dpo", "dpo_noise") - cost("kto", "kto_noise")),
        "data_bounds_quality": summary(cost("dpo", "dpo_noise")),
        "rlaif_is_dpo": summary(gold["ai_labels"] - gold["reference"]),
        "rlaif_is_its_judge": off_line["ai_labels"],
        "one_order_off_line": off_line["ai_one_order"],
        "on_policy_is_better": summary(gold["policy"] - gold["sft"]),
        "written_minus_sft_samples": summary(gold["written"] - gold["sft"]),
        "more_than_sft_on_chosen": summary(gold["flipped_0"] - gold["sft_on_chosen"]),
        "coin_minus_reference": summary(gold["coin"] - gold["reference"]),
    }


def frontier_points(answers: dict[str, dict], annotations: dict[str, int]) -> list[dict]:
    """Points of the plane of gold utility against KL, as frontier.py collects them."""
    points = []
    for arm, method in FRONTIER.items():
        readings = {name: values[:FRONTIER_PROMPTS] for name, values in answers[arm].items()}
        measured = summarize(readings)
        points.append(
            {
                "method": method,
                "label": method,
                "kl": measured["kl"],
                "gold": measured["utility"],
                "good": measured["good"],
                "annotations": annotations[arm],
                "biased": False,
            }
        )
    return points
