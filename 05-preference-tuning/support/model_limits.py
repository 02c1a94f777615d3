"""Which rows of your own data a model can read: as long as it allows, and without its own marks."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from common.cli import UserError, show_progress
from common.models import encode_answers
from common.preferences import SIDES
from common.prompts import as_text
from common.scoring import REWARD_LENGTH, encode_for_reward

if TYPE_CHECKING:
    from datasets import Dataset

MAX_LENGTH = 1024  # tokens of a prompt with its answer, as DPOTrainer reads it
ROOM = 48  # tokens that a sampled answer may have by default


def answers_of(row: dict) -> list[str]:
    """The two answers of a pair, or the one of a row with a label."""
    return [row[side] for side in (*SIDES, "completion") if side in row]


class Rule(NamedTuple):
    """How a model reads a row, and how much of it."""

    encode: Callable[[dict], tuple[list[int], list[list[int]]]]  # ids of prompt and each answer
    limit: int  # tokens of a prompt with its answer
    room: int  # tokens that a sampled answer may have


def policy_rule(tokenizer, room: int = ROOM) -> Rule:
    """A language model reads prompt and answer, and leaves room for answers that it samples."""

    def encode(row: dict) -> tuple[list[int], list[list[int]]]:
        prompt, *answers = encode_answers(tokenizer, row["prompt"], answers_of(row))
        return prompt, answers

    return Rule(encode, min(MAX_LENGTH, tokenizer.model_max_length), room)


def reward_rule(tokenizer) -> Rule:
    """A reward model reads a prompt with each answer, and samples nothing."""

    def encode(row: dict) -> tuple[list[int], list[list[int]]]:
        answers = answers_of(row)
        both = encode_for_reward(tokenizer, [row["prompt"]] * len(answers), answers, cut=False)
        lengths = both["attention_mask"].sum(1).tolist()
        ids = zip(both["input_ids"].tolist(), lengths, strict=True)
        return [], [answer[:length] for answer, length in ids]

    return Rule(encode, min(REWARD_LENGTH, tokenizer.model_max_length), 0)


def keep_readable(rows: "Dataset", tokenizer, rule: Rule) -> "Dataset":
    """The rows that a model can read; what is left out is said in one line."""
    kept, reasons = find_readable(rows, tokenizer, rule)
    if not kept:
        raise UserError(f"--dataset: the model can read none of the rows: {', '.join(reasons)}")
    if reasons:
        print(f"{len(rows) - len(kept)} of {len(rows)} rows left out: {', '.join(reasons)}")
    return rows.select(kept)


def find_readable(rows: Sequence[dict], tokenizer, rule: Rule) -> tuple[list[int], list[str]]:
    """(which rows, from 0, a model can read, why it cannot read others, with the first of them)."""
    kept, left_out = [], {}
    for k, row in enumerate(show_progress(rows, "counting tokens")):
        place = row.get("row", k + 1)
        try:
            fault = find_fault(row, tokenizer, rule)
        except UserError as error:  # of the chat template
            raise UserError(f"--dataset, row {place}: {error}") from None
        if fault is None:
            kept.append(k)
        else:
            left_out.setdefault(fault[0], []).append((place, fault[1]))
    reasons = []
    for reason, places in left_out.items():
        place, detail = min(places)
        reasons.append(f"{len(places)} {reason} (the first is row {place}{detail})")
    return kept, reasons


def find_fault(row: dict, tokenizer, rule: Rule) -> tuple[str, str] | None:
    """(why a model cannot read a row as it stands, a detail of it); None where it can.

    A cut answer would be another answer; a token of the model's own in a text would end a turn or
    begin one; and what is unknown to a tokenizer may be all that tells two answers apart.
    """
    token = find_token(tokenizer, [as_text(row["prompt"]), *answers_of(row)])
    if token:
        return f"with {token}, a token of the model", ""
    prompt, answers = rule.encode(row)
    limit, room = rule.limit, rule.room
    length = len(prompt) + max(room, *map(len, answers))
    if length > limit:
        reserved = f", {room} of them reserved for sampling" if room else ""
        return f"longer than the {limit} tokens that the model reads{reserved}", f" with {length}"
    if len(answers) > 1 and answers[0] == answers[1]:
        return "with answers that are the same to the model (unknown characters)", ""
    return None


def find_token(tokenizer, texts: Sequence[str]) -> str | None:
    """A token with which the model ends or begins a turn, where one of the texts holds it."""
    for token in tokenizer.all_special_tokens:
        if re.match(r"[<\[|]", token) and any(token in text for text in texts):
            return token
    return None
