"""Running the arms of dpo_variants.py, and what is read off them for claims and frontier."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

from support.answers import answers_of_points, frontier_point
from support.evaluation import pair_logps, response_logps, show_answers, summarize
from support.own_pairs import pick
from support.second_look import look_after, look_before
from support.start import Start
from support.training import Trained
from support.variant_arms import AI_LABELS, HUMAN_LABELS, ONE_SIDED, SHOWN, WATCHED, Arm
from support.variant_data import gold_agreement

import numpy as np

from common.intervals import summary
from common.models import encode_answers

WATCHED_PROMPTS = 32
# The arms that frontier.py draws, under its names.
FRONTIER = {
    "ipo": "IPO",
    "kto": "KTO",
    "ai_labels": "AI labels",
    "sft_on_chosen": "SFT on chosen",
    "coin": "random labels",
}


class Results(NamedTuple):
    """Of every arm, by its key: readings (prompts, 2), margins (pairs,), and summaries of both."""

    answers: dict[str, dict]
    margins: dict[str, np.ndarray]
    measured: dict[str, dict]
    trained: dict[str, tuple]  # of IPO and KTO: the training, the tokenizer, the first pairs
    texts: dict[str, list[list[str]]]  # sampled answers (prompts, 2)
    second_look: dict  # of own pairs, for the metrics


def run_arms(arms: Sequence[Arm], start: Start, held: Sequence[dict] | None) -> Results:
    """Train every arm and sample two answers to each prompt.

    Margins, and the share of them above 0, are those of the `held` pairs; without any, those of the
    pairs that the one-sided arms were trained on. Answers of a few arms are printed, of all where
    they are few.
    """
    prompts, seed = start.data.prompts, start.training["seed"]
    labelled = "label" in start.data.train[0]
    second_look = look_before(start)
    texts, readings = start.answer(start.reference, prompts, 2, seed)
    sft = {"name": "SFT", **summarize(readings)}
    results = Results({"reference": readings}, {}, {"reference": sft}, {}, {}, {})
    printed = {"SFT": texts}
    for k, arm in enumerate(arms, start=1):
        trained = train_arm(arm, start, f"training {k} of {len(arms)}: {arm.name}")
        texts, readings = start.answer(trained.policy, prompts, 2, seed)
        if arm.key in SHOWN or len(arms) <= len(SHOWN):
            printed[arm.name] = texts
        results.answers[arm.key], results.texts[arm.key] = readings, texts
        measured = {"name": arm.name, **summarize(readings), "curve": trained.curve}
        if held or arm.key in ONE_SIDED:
            changes = changes_of(trained.policy, start.tokenizer, held or arm.pairs)
            margins = results.margins[arm.key] = changes["chosen"] - changes["rejected"]
            measured["implicit_reward_accuracy"] = summary(margins > 0)
            measured["margin"] = summary(margins)
            read = (texts, readings, changes)
            seen = look_after(second_look, start, *read, when=f"after {arm.name}")
            results.second_look.update(seen)
        results.measured[arm.key] = measured
        if arm.key in ("ipo", "kto"):
            answers_each = 1 if labelled else 2
            size = min(start.training["batch_size"], answers_each * len(arm.pairs) // 2)
            first = pick(arm.pairs, range(size))
            results.trained[arm.key] = (trained, start.tokenizer, first)
    show_answers(prompts, printed)
    return results


def train_arm(arm: Arm, start: Start, name: str) -> Trained:
    """One arm, from the SFT checkpoint; in the world a few are looked at on the way."""
    seed, watched = start.training["seed"], start.data.watched[:WATCHED_PROMPTS]

    def look(step: int, policy) -> dict:
        return summarize(start.answer(policy, watched, 2, seed)[1])

    settings = {**start.training, **arm.settings, "name": name}
    if start.data.has_gold and arm.key in WATCHED:
        steps = -(-len(arm.pairs) // settings["batch_size"]) * settings["epochs"]
        settings |= {"look": look, "look_at": (steps // 8, steps // 4, steps // 2)}
    model = copy.deepcopy(start.reference)
    return arm.method(model, start.tokenizer, arm.pairs, **settings)


def changes_of(policy, tokenizer, pairs: Sequence[dict]) -> dict[str, np.ndarray]:
    """By how much log p of chosen and rejected has changed from the reference's, nats; (N,).

    Of answers with a label, good ones stand for chosen and bad ones for rejected, as they do in
    `side_by_side`: the two answers of such a pair seldom have the same prompt.
    """
    if "label" in pairs[0]:
        gains, good = answer_gains(policy, tokenizer, pairs), np.array(pairs["label"])
        count = min(good.sum(), (~good).sum())
        return {"chosen": gains[good][:count], "rejected": gains[~good][:count]}
    logps, ref_logps = pair_logps(policy, tokenizer, pairs)
    chosen, rejected = (logps - ref_logps).numpy()
    return {"chosen": chosen, "rejected": rejected}


def answer_gains(policy, tokenizer, rows: Sequence[dict]) -> np.ndarray:
    """By how much log p of the one answer of each row has changed, in nats; (N,)."""
    encoded = [encode_answers(tokenizer, row["prompt"], [row["completion"]]) for row in rows]
    prompts, responses = map(list, zip(*encoded, strict=True))
    logps = response_logps(policy, tokenizer, prompts, responses)
    with policy.disable_adapter():
        return (logps - response_logps(policy, tokenizer, prompts, responses)).numpy()


def compare_arms(arms: Sequence[Arm], results: Results, prompts: Sequence[str]) -> dict:
    """Of the default run: label quality, the claims' comparisons, the frontier and its answers."""
    labels = {}
    for who, keys in (("human", HUMAN_LABELS), ("judge", AI_LABELS)):
        labels[who] = [label_quality(arm, results) for arm in arms if arm.key in keys]
    points = frontier_points(arms, results)
    texts = [results.texts[point["series"]] for point in points]
    return {
        "labels": labels,
        "differences": differences(results, labels),
        "frontier": points,
        "answers": answers_of_points(prompts, points, texts),
    }


def label_quality(arm: Arm, results: Results) -> dict:
    """How often an arm's labels agree with the gold order, and what came of it."""
    readings = results.measured[arm.key]
    return {
        "arm": arm.key,
        "agreement": summary(gold_agreement(arm.pairs)),
        "gold": readings["utility"],
        "kl": readings["kl"],
    }


def line_weights(x: Sequence[float], at: float) -> np.ndarray:
    """w such that w @ y is the height at `at` of the least-squares line through points (x, y)."""
    design = np.column_stack([np.ones(len(x)), x])
    return np.array([1.0, at]) @ np.linalg.pinv(design)


def differences(results: Results, labels: dict) -> dict:
    """The comparisons of the claims: gold utility, paired by prompt, with intervals over them."""
    gold = {key: answers["utility"].mean(1) for key, answers in results.answers.items()}
    margins = results.margins

    def cost(arm: str, worse: str) -> np.ndarray:
        return gold[arm] - gold[worse]

    agreements = [point["agreement"]["mean"] for point in labels["human"]]
    heights, off_line = [gold[point["arm"]] for point in labels["human"]], {}
    for point in labels["judge"]:
        weights = line_weights(agreements, point["agreement"]["mean"])
        off_line[point["arm"]] = summary(gold[point["arm"]] - weights @ heights)
    return {
        "ipo_under_ties": summary(gold["ipo_ties"] - gold["dpo_ties"]),
        "ties_cost_ipo_less": summary(cost("dpo", "dpo_ties") - cost("ipo", "ipo_ties")),
        "ipo_under_imbalance": summary(gold["ipo_one_sided"] - gold["dpo_one_sided"]),
        "dpo_extreme_margins": summary(margins["dpo_one_sided"] - margins["ipo_one_sided"]),
        "kto_no_pairs": summary(gold["kto_singles"] - gold["reference"]),
        "kto_noise": summary(gold["kto_noise"] - gold["dpo_noise"]),
        "noise_costs_kto_less": summary(cost("dpo", "dpo_noise") - cost("kto", "kto_noise")),
        "data_bounds_quality": summary(cost("flipped_0", "flipped_30")),
        "rlaif_is_dpo": summary(gold["ai_labels"] - gold["reference"]),
        "rlaif_is_its_judge": off_line["ai_labels"],
        "one_order_off_line": off_line["ai_one_order"],
        "more_than_sft_on_chosen": summary(gold["flipped_0"] - gold["sft_on_chosen"]),
        "ipo_on_clean_pairs": summary(gold["ipo"] - gold["dpo"]),
        "kto_on_clean_pairs": summary(gold["kto"] - gold["dpo"]),
        "coin_minus_reference": summary(gold["coin"] - gold["reference"]),
    }


def frontier_points(arms: Sequence[Arm], results: Results) -> list[dict]:
    """Points of the plane of gold utility against KL, as frontier.py collects them."""
    points = []
    for arm in arms:
        if arm.key in FRONTIER:
            about = (FRONTIER[arm.key], arm.key, arm.name)
            points.append(frontier_point(*about, results.answers[arm.key], len(arm.pairs)))
    return points
