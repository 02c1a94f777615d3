"""What the lab knows of rewards on held-out pairs: ceilings, the gold order, calibration."""

from collections.abc import Sequence

import numpy as np

from common.intervals import summary
from common.preferences import STYLES, annotate
from common.texts import count_words

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BEYOND_STYLE = "wrong"  # the one style of the world that only knowledge can tell from a concise one

# --- Held-out pairs ---


def bayes_ceilings(utility_gaps: Sequence[float]) -> dict[str, float]:
    """The best expected accuracy, NLL (nats) and Brier score on labels drawn with p = sigmoid(gap).

    Gaps (N,) are differences of gold utility.
    """
    p = 1 / (1 + np.exp(-np.asarray(utility_gaps, dtype=float)))
    accuracy, brier = np.maximum(p, 1 - p), p * (1 - p)
    p_log_p = [share * np.log(np.clip(share, 1e-300, 1)) for share in (p, 1 - p)]
    return {"accuracy": accuracy.mean(), "nll": -sum(p_log_p).mean(), "brier": brier.mean()}


def gold_order(pairs: Sequence[dict]) -> list[dict]:
    """The pairs with the better response by gold utility as `chosen`; labels are ignored.

    `reason` is the style of the worse one. Ties are left out.
    """
    rows = []
    for row in pairs:
        gap = row["chosen_utility"] - row["rejected_utility"]
        if abs(gap) > 1e-9:
            better, worse = ("chosen", "rejected") if gap > 0 else ("rejected", "chosen")
            sides = {"chosen": row[better], "rejected": row[worse]}
            rows.append({"prompt": row["prompt"], **sides, "reason": row[f"{worse}_style"]})
    return rows


def length_only(pairs: Sequence[dict]) -> np.ndarray:
    """Control: rewards (N, 2) that prefer the shorter response, which this world mostly rewards."""
    words = [[count_words(row["chosen"]), count_words(row["rejected"])] for row in pairs]
    return -np.array(words, dtype=float)


def labelled_again(pairs: Sequence[dict], seed: int) -> list[dict]:
    """The same pairs with the labels of other annotators, who have no bias either."""
    noise = np.random.default_rng([seed, 1])
    first, second = annotate(utilities_of(pairs), noise).T
    relabelled = []
    for row, swapped in zip(pairs, second > first, strict=True):
        sides = {}
        for column in ("", "_style", "_utility") if swapped else ():
            sides[f"chosen{column}"] = row[f"rejected{column}"]
            sides[f"rejected{column}"] = row[f"chosen{column}"]
        relabelled.append(row | sides)
    return relabelled


def utilities_of(pairs: Sequence[dict]) -> np.ndarray:
    """Gold utilities (N, 2) of the chosen and the rejected response of each pair."""
    return np.array([[row["chosen_utility"], row["rejected_utility"]] for row in pairs])


# --- Rewards of held-out pairs ---


def pair_hits(rewards: np.ndarray) -> np.ndarray:
    """Per pair (N, 2): 1 where the first response scores higher, 0 where lower, 1/2 at a tie."""
    return (1 + np.sign(rewards[:, 0] - rewards[:, 1])) / 2


def by_reason(hits: np.ndarray, ordered: Sequence[dict]) -> dict:
    """Accuracy on pairs in the gold order, hits (N,): of all, by what is wrong with the worse.

    `facts`: it looks like the better one and is wrong; `style`: filler, a preamble, another topic
    or an echo give it away. Then by its style in particular.
    """
    facts, reasons = is_about_facts(ordered), np.array([row["reason"] for row in ordered])
    measured = {"all": hits, "style": hits[~facts], "facts": hits[facts]}
    measured |= {style: hits[reasons == style] for style in STYLES}
    return {name: summary(values) for name, values in measured.items() if len(values)}


def is_about_facts(ordered: Sequence[dict]) -> np.ndarray:
    """Where only knowledge tells the worse response of a pair: it is wrong and nothing else."""
    return np.array([row["reason"] == BEYOND_STYLE for row in ordered])


def calibration(margins: np.ndarray, bins: int = 10) -> dict:
    """Reliability of p = sigmoid(margin) that chosen wins; margins (N,), chosen minus rejected.

    Every pair counts from both sides, so that the outcome is not always 1. Returns per bin the mean
    prediction, the observed frequency and the count; the expected calibration error; and the
    temperature that best divides the margins (1: calibrated, above 1: over-confident; Guo et al.
    2017, arXiv 1706.04599).
    """
    p = 1 / (1 + np.exp(-np.concatenate([margins, -margins])))
    won = np.repeat([1.0, 0.0], len(margins))
    bin_of = np.minimum((p * bins).astype(int), bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    predicted = np.bincount(bin_of, p, minlength=bins) / np.maximum(counts, 1)
    observed = np.bincount(bin_of, won, minlength=bins) / np.maximum(counts, 1)
    temperatures = np.exp(np.linspace(np.log(0.1), np.log(10), 2001))
    nll = [np.logaddexp(0, -margins / t).mean() for t in temperatures]
    return {
        "predicted": predicted.tolist(),
        "observed": observed.tolist(),
        "count": counts.tolist(),
        "expected_calibration_error": float(np.abs(predicted - observed) @ counts / counts.sum()),
        "temperature": float(temperatures[int(np.argmin(nll))]),
    }


def on_labels(rewards: np.ndarray, pairs: Sequence[dict]) -> dict:
    """Rewards (N, 2) against the labels of pairs: what can be had without a gold standard.

    The NLL is in nats, margins (chosen minus rejected) in log-odds.
    """
    margins = rewards[:, 0] - rewards[:, 1]
    return {
        "label_accuracy": summary(pair_hits(rewards)),
        "label_nll": summary(np.logaddexp(0, -margins)),
        "label_brier": summary((1 / (1 + np.exp(margins))) ** 2),
        "margin": summary(margins),
        "margin_quantiles": np.quantile(margins, QUANTILES).tolist(),
        "control_length_labels": summary(pair_hits(length_only(pairs))),
        "calibration": calibration(margins),
    }


def by_style(rewards: np.ndarray, pairs: Sequence[dict]) -> dict:
    """Quantiles of the rewards (N, 2) of each style, and its mean gold utility, in log-odds."""
    styles = np.array([[row["chosen_style"], row["rejected_style"]] for row in pairs])
    utilities = utilities_of(pairs)
    quantities = {}
    for style in STYLES:
        of_style = styles == style  # (N, 2)
        if of_style.any():
            quantiles = np.quantile(rewards[of_style], QUANTILES).tolist()
            utility = float(utilities[of_style].mean())
            quantities[style] = {"rewards": quantiles, "utility": utility}
    return quantities
