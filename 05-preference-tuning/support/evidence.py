"""Evidence that a run on your own pairs leaves: the numbers of which second_look.py asks."""

import re
from collections import Counter
from collections.abc import Sequence

from support.evaluation import response_logps
from support.own_pairs import fingerprint, pick

import numpy as np

from common.cli import show_progress
from common.intervals import percent, summary
from common.models import encode_answers, encode_response
from common.preferences import SIDES
from common.prompts import as_messages
from common.sampling import end_tokens, sample

FEW = 40  # held-out pairs, below which the interval of an accuracy is wider than 0.3
PROBED = 32  # rows of which a model's probabilities are read before training, and on the way
MARK = re.compile(
    r"<\|[\w ]+\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad)>"
    r"|^(?:#+ *)?(?:human|user|assistant|system|gpt|bot|instruction|response) *:",
    re.IGNORECASE | re.MULTILINE,
)

# --- What the pairs show ---


def side_by_side(rows: Sequence[dict]) -> Sequence[dict]:
    """Answers with a label as pairs of a good and a bad one; pairs as they are.

    The bad answer is one to `rejected_prompt`. There are as many as of the rarer kind.
    """
    if "label" not in rows[0]:
        return rows
    from datasets import concatenate_datasets

    labels, read = np.array(rows["label"]), ["prompt", "completion"]
    count = min(labels.sum(), (~labels).sum())
    good, bad = (
        rows.select(np.flatnonzero(kind)[:count]).select_columns(read) for kind in (labels, ~labels)
    )
    good = good.rename_column("completion", "chosen")
    bad = bad.rename_columns({"prompt": "rejected_prompt", "completion": "rejected"})
    return concatenate_datasets([good, bad], axis=1)


def read_pairs(train: Sequence[dict], held: Sequence[dict]) -> dict:
    """Shares of training pairs: won by one order of lengths, repeated; of held-out pairs: twins.

    Lengths are in characters. `marks` is the share of all texts that hold a mark. A twin has the
    same two answers, whichever was chosen.
    """
    lengths, marks, texts, known = [], Counter(), 0, Counter()
    for row in show_progress(train, "looking at pairs"):
        lengths.append([len(row[side]) for side in SIDES])
        known[_both_answers(row)] += 1
        found = [MARK.search(text) for text in _texts(row)]
        marks.update(mark[0].strip() for mark in found if mark)
        texts += len(found)
    difference = np.array(lengths) @ [1, -1]
    unequal = difference[difference != 0]
    longer = float((unequal > 0).mean()) if len(unequal) else 0.5
    return {
        "length": max(longer, 1 - longer),
        "order": "longer" if longer > 0.5 else "shorter",
        "unequal": len(unequal),
        "marks": marks.total() / texts,
        "mark": max(marks, key=marks.get, default=""),
        "repeats": sum(count for count in known.values() if count > 1) / len(train),
        "twins": float(np.mean([_both_answers(row) in known for row in held])),
    }


def _both_answers(row: dict) -> int:
    return fingerprint(*sorted(row[side] for side in SIDES))


def _texts(row: dict) -> list[str]:
    """The texts of a pair, those of a prompt in messages one by one."""
    turns = [turn["content"] for turn in as_messages(row["prompt"])]
    return turns + [row[side] for side in SIDES]


# --- What the model shows ---


def read_start(model, tokenizer, rows: Sequence[dict], max_new_tokens: int, seed: int) -> dict:
    """What the untrained model makes of chosen answers, and of ones that it samples itself.

    `unlike` is in nats a token, `cut` the median probability of the end after a chosen answer,
    `base` the share of its own answers that end within the limit.
    """
    rows = pick(rows, range(min(PROBED, len(rows))))
    prompts = [row["prompt"] for row in rows]
    sampled = sample(model, tokenizer, prompts, 1, max_new_tokens, seed=seed)
    own = [answers[0].token_ids for answers in sampled]
    encoded = [encode_answers(tokenizer, row["prompt"], [row["chosen"]]) for row in rows]
    shown, chosen = map(list, zip(*encoded, strict=True))
    ends = end_tokens(model, tokenizer)
    ended = [_up_to_end(ids, ends) for ids in chosen]
    endless = [ids[:-1] for ids in ended]
    own_logps, logps, without_end = (
        response_logps(model, tokenizer, *answers).numpy().astype(float)
        for answers in ((prompts, own), (shown, ended), (shown, endless))
    )
    own_per_token, per_token = own_logps.sum() / _tokens(own), logps.sum() / _tokens(ended)
    return {
        "unlike": own_per_token - per_token,
        "cut": float(np.median(np.exp(logps - without_end))),
        "base": float(np.mean([answers[0].ended for answers in sampled])),
        "tokens": max_new_tokens,
    }


def _up_to_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    """An answer up to the token that ends it: the last of `ends`, or else the last."""
    places = [k for k, token in enumerate(ids) if token in ends]
    return ids[: places[-1] + 1] if places else ids


def _tokens(answers: Sequence[list[int]]) -> int:
    return sum(len(ids) for ids in answers)


def read_ranking(margins: np.ndarray) -> dict:
    """The end of the interval of a held-out accuracy that is to be compared with 0.5.

    margins (N,) are above 0 where a pair is ranked as labelled. Below FEW pairs an interval that
    holds 0.5 tells nothing.
    """
    accuracy = summary((1 + np.sign(margins)) / 2)
    numbers = {"accuracy": percent(accuracy), "pairs": len(margins)}
    low, high = accuracy["ci95"] or (0, 1)
    if high < 0.5:
        return {**numbers, "reversed": high}
    return {**numbers, "chance": low} if len(margins) >= FEW else numbers


def read_distance(tokenizer, texts: Sequence[Sequence[str]], kl: np.ndarray) -> dict:
    """KL per token of sampled answers, texts and kl (P, n), in nats."""
    tokens = _tokens([encode_response(tokenizer, text) for row in texts for text in row])
    return {"too_far": float(kl.sum()) / tokens}


def read_displacement(tokenizer, rows: Sequence[dict], rose: np.ndarray) -> dict:
    """What chosen answers have lost of log p, in nats a token; rose (N,) is the change of log p."""
    tokens = _tokens([encode_response(tokenizer, row["chosen"]) for row in rows])
    return {"displaced": float(-rose.sum()) / tokens}
