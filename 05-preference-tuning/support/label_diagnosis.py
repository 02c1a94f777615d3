"""What to know of answers with a label before KTO trains on them: kinds, lengths, conflicts."""

from collections import defaultdict
from collections.abc import Sequence

from support.model_limits import find_readable, policy_rule
from support.own_pairs import count_by_reason, fingerprint, leave_out_unusable, read_labelled

import numpy as np

from common.cli import UserError
from common.intervals import summary
from common.models import load_tokenizer
from common.prompts import as_text
from common.texts import count_words

KINDS = ("good", "bad")


def study_labelled(dataset: str, model: str | None, **reading: str) -> dict:
    """What there is to say of the user's answers with labels, and what of them a model cannot read.

    `reading` are options of `load_preferences`.
    """
    found = read_labelled(dataset, **reading)
    rows, dropped, remarks = leave_out_unusable(found)
    reasons = count_by_reason(dropped)
    if not len(rows):
        raise UserError(f"{dataset}: no usable answer: {reasons}")
    labels = np.array(rows["label"])
    words = np.array([count_words(text) for text in rows["completion"]])
    lengths = {kind: words[labels == (kind == "good")] for kind in KINDS}
    edges = np.arange(0, max(8, int(np.percentile(words, 98))) + 2) - 0.5
    histograms = {}
    for kind, values in lengths.items():
        counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        histograms[kind] = {"edges": edges.tolist(), "counts": counts.tolist()}
    measured = {
        "rows": len(rows) + sum(map(len, dropped.values())),
        "usable": len(rows),
        "dropped": reasons,
        "good": summary(labels),
        **compare_labels(rows),
        "words": {kind: summary(values) for kind, values in lengths.items() if len(values)},
    }
    first = {**rows[0], "prompt": as_text(rows[0]["prompt"])}
    if model:
        tokenizer = load_tokenizer(model)
        _, unreadable = find_readable(rows, tokenizer, policy_rule(tokenizer))
        if unreadable:
            remarks = [*remarks, f"a training with {model} leaves out {', '.join(unreadable)}"]
    described = {"labels": measured, "lengths": histograms, "first_answer": first}
    return {**described, "remarks": remarks} if remarks else described


def compare_labels(rows: Sequence[dict]) -> dict[str, int]:
    """How many prompts there are, how many have both kinds, and how many answers both labels."""
    of_prompt, of_answer = defaultdict(set), defaultdict(set)
    for row in rows:
        of_prompt[fingerprint(row["prompt"])].add(row["label"])
        of_answer[fingerprint(row["prompt"], row["completion"])].add(row["label"])
    return {
        "prompts": len(of_prompt),
        "prompts_with_both": sum(len(labels) == 2 for labels in of_prompt.values()),
        "contradictory": sum(len(labels) == 2 for labels in of_answer.values()),
    }
