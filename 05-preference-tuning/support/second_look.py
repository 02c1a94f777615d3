"""What went wrong? Questions that a run on your own pairs asks before, while and after it trains.

Without a gold standard nothing can say that a run is right, and DPO's own metrics look best when it
has gone too far. Every check is a number with a limit, both printed; what fires is a question, not
a verdict. The limits were fixed before benchmarks/second_look.py planted the failures of its table.
"""

import math
import re
import shlex
import sys
from collections.abc import Sequence
from operator import gt, lt
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

from support.evaluation import pair_logps
from support.evidence import (
    PROBED,
    read_displacement,
    read_distance,
    read_pairs,
    read_ranking,
    read_start,
    side_by_side,
)
from support.own_pairs import pick
from support.start import Start
from support.telling_words import show_pairs

import numpy as np

# --- The checks ---

# Of each check where it fires, above or below a number; what explains others comes first.
LIMITS = {
    "length": (gt, 0.85),
    "marks": (gt, 0.05),
    "repeats": (gt, 0.2),
    "twins": (gt, 0.2),
    "base": (lt, 0.5),
    "cut": (lt, 0.05),
    "unlike": (gt, 2.0),
    "reference": (gt, 0.02),
    "unmoved": (lt, 0.1),
    "reversed": (lt, 0.5),
    "chance": (lt, 0.5),
    "too_far": (gt, 0.4),
    "displaced": (gt, 0.3),
}
ASKS = {
    "length": "Would length do? The {order} answer wins {length:.0%} of {unequal} unequal pairs",
    "marks": "Does markup belong there? {marks:.0%} of the texts hold marks such as {mark!r}",
    "repeats": "How many pairs are there? {repeats:.0%} share both answers with another one",
    "twins": "Is the accuracy memory? {twins:.0%} of the held-out pairs have a twin in training",
    "base": "A base model, or a short limit? {base:.0%} of its answers end in {tokens} tokens",
    "cut": "Are the chosen answers cut? After half of them the model ends with p <= {cut:.3f}",
    "unlike": "Would it talk so? Chosen answers cost {unlike:.1f} nats a token more than its own",
    "reference": "Is the start the reference? The first loss is {reference:.3f} away from ln 2",
    "unmoved": "Has it learned anything? Margins of held-out pairs are {unmoved:.3f} nats in size",
    "reversed": "Do pairs contradict others? {accuracy} of held-out pairs are ranked as labelled",
    "chance": "Do labels follow anything? {accuracy} of held-out pairs are ranked as labelled",
    "too_far": "Has it gone too far? Its answers lie {too_far:.2f} nats a token from the reference",
    "displaced": "Has it gone too far? Chosen answers have lost {displaced:.2f} nats a token",
}
NEXT = dict.fromkeys(LIMITS, "preference_data_explorer.py --dataset {dataset}") | {
    "unlike": "dpo_variants.py --model {model} --dataset {dataset} --loss-type sigmoid sft",
    "base": "{again} --max-new-tokens {longer}",
    "reference": "{again} --smoke",
    "unmoved": "{again} --learning-rate {faster:.1g}",
    "too_far": "{again} --learning-rate {slower:.1g}",
    "displaced": "{again} --learning-rate {slower:.1g}",
}


def fires(check: str, numbers: dict) -> bool:
    """Whether a check was made, and its number is beyond its limit."""
    comparison, limit = LIMITS[check]
    return check in numbers and comparison(numbers[check], limit)


def questions(when: str, numbers: dict, flags: dict) -> list[dict]:
    """The checks that fire on these numbers, in the order of LIMITS: check, when, asks, next.

    `flags` are what the next command names.
    """
    fired = []
    for check, (comparison, limit) in LIMITS.items():
        if fires(check, numbers):
            side = "above" if comparison is gt else "below"
            text = f"{ASKS[check].format(**numbers)} (asked {side} {limit:g})."
            asks = re.sub(r"(\d)%", r"\1 %", f"Second look, {when}: {text}")
            command = overruled(NEXT[check].format(**flags))
            fired.append({"check": check, "when": when, "asks": asks, "next": command})
    return fired


def overruled(command: str) -> str:
    """A command of this folder in which the last flag is given once, with its last value."""
    last = re.search(r" (--[\w-]+) \S+$", command)
    if last:
        command = re.sub(rf" {last[1]}[ =]\S+", "", command[: last.start()]) + last[0]
    return f"python 05-preference-tuning/{command}"


# --- Before, on the way, after ---


class SecondLook(NamedTuple):
    """What was measured when, the questions that it raised, and what next commands name."""

    flags: dict
    numbers: dict[str, dict]
    questions: list[dict]

    def ask(self, when: str, numbers: dict) -> list[dict]:
        """Keep the numbers and the questions that they raise, which are returned."""
        raised = questions(when, numbers, self.flags)
        self.numbers[when] = numbers
        self.questions.extend(raised)
        return raised

    def after(self, when: str, numbers: dict) -> dict:
        """Keep the last numbers; `second_look` for the metrics."""
        self.ask(when, numbers)
        return {"second_look": {"numbers": self.numbers, "questions": self.questions}}


def look_at_pairs(
    train: Sequence[dict],
    held: Sequence[dict],
    dataset: str,
    reading: dict[str, str] | None = None,
    of_model: dict | None = None,
    **flags,
) -> SecondLook:
    """Before training: print words, pairs, and the questions that they (and a model) raise.

    `dataset`, how it is read, and `flags` are what next commands name.
    """
    named = [shlex.quote(dataset)]
    for flag, value in (reading or {}).items():
        named += [f"--{flag.replace('_', '-')}", shlex.quote(value)]
    look = SecondLook({"dataset": " ".join(named), **flags}, {}, [])
    show_pairs(train)
    print()
    tell(look.ask("before", {**read_pairs(train, held), **(of_model or {})}))
    return look


def look_before(start: Start, rate: float | None = None) -> SecondLook | None:
    """`look_at_pairs` for a policy, trained at a learning rate of its own.

    None where there is a gold standard. Good and bad answers are looked at side by side.
    """
    if start.data.has_gold:
        return None
    data, limit, (model, dataset, *_) = start.data, start.max_new_tokens, start.sft
    seed, rate = start.training["seed"], rate or start.training["learning_rate"]
    again = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])  # what the user typed
    flags = {"again": again, "model": shlex.quote(str(model))}
    flags |= {"longer": 4 * limit, "slower": rate / 3, "faster": rate * 5}
    train, held = side_by_side(data.train), side_by_side(data.held)
    of_model = read_start(start.reference, start.tokenizer, train, limit, seed)
    if "label" in data.train[0]:
        del of_model["unlike"]  # what helps there, a term of SFT, needs pairs
    return look_at_pairs(train, held, dataset, start.reading, of_model, **flags)


def look_on_the_way(
    look: SecondLook | None, start: Start, step: int, policy, texts: list[list[str]], answers: dict
) -> None:
    """Print what a policy in training raises that was not asked before.

    texts (P, n) and their readings, `answers`, are of sampled answers. At step 0 the policy is the
    reference, of which every pair costs ln 2.
    """
    if look is None:
        return
    tokenizer, held = start.tokenizer, start.data.held
    rows = pick(held, range(min(PROBED, len(held))))
    logps, ref_logps = pair_logps(policy, tokenizer, rows)
    chosen, rejected = (logps - ref_logps).numpy().astype(float)
    numbers = read_distance(tokenizer, texts, answers["kl"])
    numbers |= read_displacement(tokenizer, rows, chosen)
    if step == 0:
        losses = np.logaddexp(0, -start.training["beta"] * (chosen - rejected))
        numbers = {"reference": abs(float(losses.mean()) - math.log(2))}
    known = {question["check"] for question in look.questions}
    tell(look.ask(f"at step {step}", {k: v for k, v in numbers.items() if k not in known}))


def look_after(
    look: SecondLook | None,
    start: Start,
    texts: list[list[str]],
    answers: dict,
    changes: dict[str, np.ndarray] | None = None,
    first_loss: float | None = None,
    when: str = "after",
) -> dict:
    """What the trained policy raises: `second_look`, for the metrics.

    texts (P, n) and their readings, `answers`, are of sampled answers; `changes` are those of log p
    of `chosen` and `rejected` (N,) in held-out pairs, in nats; `first_loss` is TRL's, where that
    starts at ln 2.
    """
    if look is None:
        return {}
    numbers = read_distance(start.tokenizer, texts, answers["kl"])
    if changes:
        chosen, rejected = changes["chosen"], changes["rejected"]
        numbers |= read_displacement(start.tokenizer, side_by_side(start.data.held), chosen)
        numbers["unmoved"] = float(np.abs(chosen - rejected).mean())
        if not fires("unmoved", numbers):  # else there is nothing that could rank
            numbers |= read_ranking(chosen - rejected)
    if first_loss is not None:
        numbers["reference"] = abs(first_loss - math.log(2))
    return look.after(when, numbers)


def tell(raised: Sequence[dict]) -> None:
    """Print questions when they come up."""
    for question in raised:
        print(fill(question["asks"], 100, subsequent_indent="  "))
