"""What to know of pairs before training on them: lengths, faults, leaks, tokens."""

from collections.abc import Sequence

from support.label_diagnosis import study_labelled
from support.model_limits import find_readable, policy_rule, reward_rule
from support.own_pairs import (
    contradictory,
    count_by_reason,
    fingerprint,
    holds_labels,
    pick,
    places_of,
    read_pairs,
    usable_pairs,
)

import numpy as np

from common.cli import UserError
from common.intervals import summary
from common.preferences import COLUMNS, SIDES, STYLES
from common.prompts import as_text
from common.texts import count_words, length_unit


def word_counts(rows: Sequence[dict]) -> np.ndarray:
    """Words of chosen and rejected, characters where no spaces part words: (N, 2)."""
    counts = []
    for row in rows:
        counts.append([count_words(row[side]) for side in SIDES])
    return np.array(counts)


def longer_wins(rows: Sequence[dict]) -> dict:
    """Accuracy of "the longer response is chosen", ties half, resampled over prompts."""
    prompts = [fingerprint(row["prompt"]) for row in rows]
    _, place = np.unique(prompts, return_inverse=True)
    difference = word_counts(rows) @ [1, -1]
    hits = np.bincount(place, weights=(np.sign(difference) + 1) / 2)
    per_prompt = np.stack([hits, np.bincount(place)], axis=1)

    def accuracy(table: np.ndarray, axis: int = 0) -> float:
        hits, rows = table.sum(axis)
        return hits / rows

    return summary(per_prompt, accuracy, resamples=500)


def style_shares(rows: Sequence[dict], side: str) -> dict:
    """Share of each style among the chosen or the rejected."""
    styles = np.array([row[f"{side}_style"] for row in rows])
    return {style: summary(styles == style) for style in STYLES}


def diagnose(
    rows: Sequence[dict], seed: int, left_out: dict[str, list[int]] | None = None
) -> tuple[dict, Sequence[dict]]:
    """What to know of pairs before training on them, and the usable ones, which it describes.

    `contradictory` counts comparisons that occur with both labels; `leaked` counts the rows of a
    random fifth (`held_out`) whose prompt is also among the other four fifths. `left_out` are the
    places of rows that did not become pairs, by reason.
    """
    kept, dropped = usable_pairs(rows)
    left_out = left_out or {}
    count = len(rows) + sum(map(len, left_out.values()))
    reasons = count_by_reason({**left_out, **places_of(rows, dropped)})
    if not kept:
        raise UserError(f"no usable pair among {count} rows: {reasons}")
    usable = pick(rows, kept)
    order = np.random.default_rng(seed).permutation(len(usable))
    held_out, training = np.split(order, [max(1, round(0.2 * len(usable)))])
    prompts = np.array([fingerprint(row["prompt"]) for row in usable], dtype=np.uint64)
    words = word_counts(usable)
    return {
        "rows": count,
        "usable": len(usable),
        **{reason: len(numbers) for reason, numbers in dropped.items()},
        "dropped": reasons,
        "prompts": len(np.unique(prompts)),
        "contradictory": len(contradictory(usable)) // 2,
        "held_out": len(held_out),
        "leaked": int(np.isin(prompts[held_out], prompts[training]).sum()),
        "words": {side: summary(words[:, k], resamples=500) for k, side in enumerate(SIDES)},
        "longer_wins": longer_wins(usable),
    }, usable


def study_own_pairs(dataset: str, model: str | None, seed: int, **how: str) -> dict:
    """What there is to say of the user's pairs: what is wrong with them, and how long they are.

    The same of answers with a label, where the data are such. `how` are options of
    `load_preferences`.
    """
    if holds_labels(dataset, **how):
        return study_labelled(dataset, model, **how)
    reading = read_pairs(dataset, **how)
    diagnosis, usable = diagnose(reading.rows, seed, reading.dropped)
    remarks = {"remarks": reading.remarks} if reading.remarks else {}
    return {"pairs": diagnosis, **remarks, **describe_own_pairs(usable, model)}


def describe_own_pairs(usable: Sequence[dict], model: str | None) -> dict:
    """The first pair, the lengths of all, and in tokens where a model is named."""
    first = {column: as_text(usable[0][column]) for column in COLUMNS}
    described = {"first_pair": first, "lengths": histograms(word_counts(usable))}
    unit = length_unit(row[side] for row in usable for side in SIDES)
    if unit != "words":
        described["unit"] = unit
    return {**described, "tokens": token_counts(usable, model)} if model else described


def histograms(words: np.ndarray) -> dict:
    """Counts per bin of the lengths (N, 2) and of chosen minus rejected; the last: or more."""
    end = max(8, int(np.percentile(words, 98)))
    bins = np.arange(0, end + 2, max(1, end // 25)) - 0.5
    difference = words @ [1, -1]
    reach = max(3, int(np.percentile(np.abs(difference), 98)))
    steps = np.arange(-reach, reach + 2, max(1, reach // 12)) - 0.5
    columns = {**dict(zip(SIDES, words.T, strict=True)), "difference": difference}
    edges = {**dict.fromkeys(SIDES, bins), "difference": steps}
    table = {}
    for name, values in columns.items():
        within = np.clip(values, edges[name][0], edges[name][-1])
        counts = np.histogram(within, edges[name])[0]
        table[name] = {"edges": edges[name].tolist(), "counts": counts.tolist()}
    return table


def token_counts(rows: Sequence[dict], model: str) -> dict:
    """Tokens as the model reads them, and the pairs that it could not train on, as they stand."""
    from common.models import encode_row, load_tokenizer, reads_pairs

    tokenizer = load_tokenizer(model)
    rule = reward_rule(tokenizer) if reads_pairs(tokenizer) else policy_rule(tokenizer)
    counts = []
    for row in rows:
        parts = encode_row(tokenizer, row["prompt"], [row[side] for side in SIDES])
        counts.append([len(part) for part in parts])
    counts = np.array(counts)  # (rows, 3)
    longest = counts[:, 0] + np.maximum(counts[:, 1:].max(1), rule.room)
    sides = {}
    for column, lengths in zip(COLUMNS, counts.T, strict=True):
        sides[column] = {"mean": float(lengths.mean()), "longest": int(lengths.max())}
    _, unreadable = find_readable(rows, tokenizer, rule)
    too_long = {"limit": rule.limit, "too_long": int((longest > rule.limit).sum())}
    return {**sides, "model": model, **too_long, "left_out": ", ".join(unreadable)}
