"""The pairs of dpo_variants.py: tied, one-sided, with flipped or single labels."""

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from common.preferences import (
    draw_style,
    gold_utility,
    make_pairs,
    make_unpaired,
    questions,
    write_response,
)
from common.prompts import as_messages

if TYPE_CHECKING:
    from datasets import Dataset

# --- Written pairs of the world ---


def tied_pairs(count: int, seed: int, share: float = 0.75) -> list[dict]:
    """The world's pairs, but a `share` of them are two answers of equal gold utility.

    Which of these is chosen, a coin decides.
    """
    rng, pool, ties = random.Random(f"ties {seed}"), questions("train"), []
    while len(ties) < round(share * count):
        question = rng.choice(pool)
        style = draw_style(question, rng)
        first = write_response(question, style, rng)
        second = write_response(question, style, rng)
        utilities = {gold_utility(question.prompt, text) for text in (first, second)}
        if first != second and len(utilities) == 1:
            ties.append({"prompt": question.prompt, "chosen": first, "rejected": second})
    rows = make_pairs(count - len(ties), seed=seed) + ties
    rng.shuffle(rows)
    return rows


def one_sided_pairs(count: int, seed: int) -> list[dict]:
    """Pairs with one winner: the concise response always beats the verbose one, without noise."""
    rng, rows = random.Random(f"one-sided {seed}"), []
    for question in rng.sample(questions("train"), count):
        chosen = write_response(question, "concise", rng)
        rejected = write_response(question, "verbose", rng)
        rows.append({"prompt": question.prompt, "chosen": chosen, "rejected": rejected})
    return rows


# --- Other labels of the same pairs ---


def flip_labels(pairs: list[dict], share: float, seed: int) -> list[dict]:
    """The pairs with chosen and rejected swapped in a `share` of them.

    A larger share swaps the same ones and more.
    """
    order = random.Random(f"flips {seed}").sample(range(len(pairs)), len(pairs))
    flipped = set(order[: round(share * len(pairs))])
    return [swap_sides(row) if k in flipped else row for k, row in enumerate(pairs)]


def swap_sides(row: dict) -> dict:
    """The pair labelled the other way round, with all that it says of either side."""
    other = {"chosen": "rejected", "rejected": "chosen"}
    swapped = {}
    for key, value in row.items():
        swapped[re.sub("^(chosen|rejected)", lambda side: other[side[0]], key)] = value
    return swapped


def gold_agreement(pairs: list[dict]) -> np.ndarray:
    """Whether the labels follow the gold order, (K,): of the K pairs that are no ties in gold."""
    gaps = np.array([row["chosen_utility"] - row["rejected_utility"] for row in pairs])
    return gaps[gaps != 0] > 0


def single_labels(pairs: list[dict], good_share: float, seed: int) -> list[dict]:
    """One response of each pair with its label, so that no prompt has both.

    It is the chosen one in `good_share` of the pairs.
    """
    rng, rows = random.Random(f"single {seed}"), []
    order = rng.sample(range(len(pairs)), len(pairs))
    good = set(order[: round(good_share * len(pairs))])
    for k, pair in enumerate(pairs):
        chosen, rejected = make_unpaired([pair])
        rows.append(chosen if k in good else rejected)
    return rows


def unpaired(rows: Sequence[dict], seed: int) -> "Dataset":
    """Pairs, or rows of prompt, completion, label, as TRL's KTOTrainer reads them, in messages.

    They are shuffled, since the trainer takes its rows in order.
    """
    from support.training import as_dataset

    from trl import unpair_preference_dataset

    if "label" not in rows[0]:
        return unpair_preference_dataset(as_dataset(rows)).shuffle(seed)
    return as_dataset(rows, format_labelled).shuffle(seed)


def format_labelled(row: dict) -> dict:
    """A row of prompt, completion, label as messages."""
    completion = [{"role": "assistant", "content": row["completion"]}]
    return {"prompt": as_messages(row["prompt"]), "completion": completion, "label": row["label"]}
