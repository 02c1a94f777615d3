"""A second look at your own data, and at a training on them: what is in the pairs, what went wrong?

Every check is a number with a limit, both printed (questions.json); what fires is a question, not a
verdict. The limits were fixed before benchmarks/second_look.py planted failures.
"""

import json
import math
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from textwrap import fill, indent

import numpy as np

from common.answers import Answers
from common.basics import show_progress
from common.intervals import percent, summary
from common.preferences import SIDES
from common.prompts import as_messages, as_text, encode_answers, encode_response
from common.sampling import end_tokens, sample
from common.scoring import pair_logps, response_logps
from own_data import read
from own_data.conversations import MARK, TABLES

# Of each check, in the order of what explains what: where it fires, what it asks, what to run next.
QUESTIONS = json.loads((TABLES / "questions.json").read_text(encoding="utf-8"))
DESCRIBED = json.loads((TABLES / "described.json").read_text(encoding="utf-8"))
ENOUGH = 40  # held-out pairs, below which the interval of an accuracy is wider than 0.3
PROBED = 32  # rows of which a model's probabilities are read before training, and on the way
TELLING = 3.5  # standard errors: chance reaches it for one word in two thousand
ALONE = "\u3040-\u30ff\u3400-\u9fff"  # scripts without spaces: every sign is a word
WORD = re.compile(rf"[{ALONE}]|[^\W_{ALONE}]+")


class SecondLook:
    """What was measured when, and the questions that it raised."""

    def __init__(self, dataset, reading, model=None, learning_rate=None, max_new_tokens=48) -> None:
        flags = [(f"--{flag.replace('_', '-')}", str(v)) for flag, v in (reading or {}).items()]
        rate, self.max_new_tokens = learning_rate or 1e-4, max_new_tokens
        self.flags = {
            "dataset": shlex.join([str(dataset), *chain(*flags)]),
            "again": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),  # what the user typed
            "model": shlex.quote(str(model)),
        }
        self.flags |= {"longer": 4 * max_new_tokens, "slower": rate / 3, "faster": rate * 5}
        self.numbers, self.questions = {}, []  # numbers by when they were measured

    def ask(self, when: str, numbers: dict) -> None:
        """Keep the numbers, and print the questions that they raise."""
        self.numbers[when] = numbers
        for check, texts in QUESTIONS.items():
            sign = 1 if texts["side"] == "above" else -1
            if check in numbers and sign * numbers[check] > sign * texts["limit"]:
                asks = re.sub(r"(\d)%", r"\1 %", texts["asks"].format(**numbers))
                asks = "Second look, {}: {} (asked {side} {limit:g}).".format(when, asks, **texts)
                command, typed = texts["next"].format(**self.flags), self.flags["again"]
                again = command.removeprefix(typed).strip() in typed  # nothing new in it
                next_step = None if again else f"python 05-preference-tuning/{command}"
                asked = {"check": check, "when": when, "asks": asks, "next": next_step}
                self.questions.append(asked)
                print(fill(asks, 100, subsequent_indent="  "))

    def before(self, train, held, reference=None, tokenizer=None, seed: int = 0) -> None:
        """Print two pairs in full, words, and what the pairs (and a model) raise."""
        labelled = "label" in train[0]
        train, held = side_by_side(train), side_by_side(held)
        show_pairs(train, labelled)
        numbers = read_faults(train, held)
        if reference is not None:
            numbers |= read_start(reference, tokenizer, train, self.max_new_tokens, seed)
        if labelled:
            numbers.pop("unlike", None)  # what helps there, a term of SFT, needs pairs
        self.ask("before", numbers)

    def at(self, step: int, policy, tokenizer, held, answers: Answers, beta: float) -> None:
        """Print what a policy in training, at step 0 the reference, raises and did not before."""
        rows = list(islice(side_by_side(held), PROBED))
        logps, ref_logps = pair_logps(policy, tokenizer, rows)
        chosen, rejected = (logps - ref_logps).numpy().astype(float)
        numbers = read_drift(tokenizer, answers, rows, chosen)
        if step == 0:  # of the reference every pair costs ln 2
            losses = np.logaddexp(0, -beta * (chosen - rejected))
            numbers = {"reference": abs(float(losses.mean()) - math.log(2))}
        known = {question["check"] for question in self.questions}
        self.ask(f"at step {step}", {k: v for k, v in numbers.items() if k not in known})

    def after(self, tokenizer, held, answers=None, changes=None, first_loss=None, margins=None):
        """What the trained model raises, and what no check sees.

        `changes` of log p of `chosen` and `rejected` (N,) in held-out pairs, in nats, or a reward
        model's `margins` (N,); `first_loss` is TRL's, where that starts at ln 2.
        """
        rose = None if changes is None else changes["chosen"]
        numbers = read_drift(tokenizer, answers, side_by_side(held), rose)
        if changes is not None:
            margins = rose - changes["rejected"]
            numbers["unmoved"] = float(np.abs(margins).mean())
        if margins is not None and numbers.get("unmoved", 1) >= QUESTIONS["unmoved"]["limit"]:
            # Something could rank: of the accuracy, an end of the interval is compared with 0.5.
            accuracy = summary((1 + np.sign(margins)) / 2)
            numbers |= {"pairs": len(margins), "accuracy": percent(accuracy)}
            low, high = accuracy["ci95"] or (0, 1)
            if high < 0.5:
                numbers["reversed"] = high
            elif len(margins) >= ENOUGH:
                numbers["chance"] = low
        if first_loss is not None:
            numbers["reference"] = abs(first_loss - math.log(2))
        print()
        self.ask("after", numbers)
        if not self.questions:
            print(f"None of the {len(QUESTIONS)} checks of the second look has fired.")
        if numbers.get("pairs", ENOUGH) < ENOUGH:
            print(f"{numbers['pairs']} held-out pairs are too few to tell an accuracy from chance.")
        print(fill(DESCRIBED["invisible"], 100))

    def metrics(self) -> dict:
        return {"second_look": {"numbers": self.numbers, "questions": self.questions}}


def side_by_side(rows: Sequence[dict]) -> Sequence[dict]:
    """Answers with a label as pairs of a good and a bad one, to `rejected_prompt`; pairs as are."""
    if "label" not in rows[0]:
        return rows
    pairs = []
    kinds = ([row for row in rows if row["label"] == kind] for kind in (True, False))
    for good, bad in zip(*kinds, strict=False):  # as many as of the rarer kind
        texts = {"chosen": good["completion"], "rejected": bad["completion"]}
        pairs.append({"prompt": good["prompt"], "rejected_prompt": bad["prompt"], **texts})
    return pairs


def show_pairs(rows: Sequence[dict], labelled: bool) -> None:
    """Print two pairs in full, and the words that tell chosen from rejected."""
    names = ("good", "bad") if labelled else SIDES
    for k, row in enumerate(islice(rows, 2), start=1):
        texts = {f"pair {k}, prompt": row["prompt"], names[0]: row["chosen"]}
        texts |= {"prompt": row["rejected_prompt"]} if labelled else {}
        print()
        for name, text in {**texts, names[1]: row["rejected"]}.items():
            shown = as_text(text)[:2000] + " ..." * (len(as_text(text)) > 2000)
            print(f"{name}:\n{indent(shown, '    ')}")
    print(f"\nwords that tell {names[0]} from {names[1]} (|z| > {TELLING}):")
    z = telling_words(rows)
    for name, sign in zip(names, (1, -1), strict=True):
        words = [word for word in z if sign * z[word] > 0]
        print(f"  {name + ':':<10} {', '.join(words[:10]) or 'none'}")


def telling_words(rows: Sequence[dict]) -> dict[str, float]:
    """Words that tell chosen (z > 0) from rejected (z < 0), the most telling first.

    Of the pairs where one answer has the word, z = (chosen - rejected) / sqrt(both): McNemar 1947.
    """
    difference, pairs = Counter(), Counter()
    for row in show_progress(rows, "comparing words"):
        chosen, rejected = (set(WORD.findall(row[side].lower())) for side in SIDES)
        difference.update(chosen - rejected)
        difference.subtract(rejected - chosen)
        pairs.update(chosen ^ rejected)
    z = {word: difference[word] / math.sqrt(count) for word, count in pairs.items()}
    z = {word: value for word, value in z.items() if abs(value) > TELLING}
    return dict(sorted(z.items(), key=lambda item: (-abs(item[1]), item[0])))


def read_faults(train: Sequence[dict], held: Sequence[dict]) -> dict:
    """Shares of pairs that one order of lengths (in characters) wins, of repeats and of twins."""
    keys = [[read.key_of(*sorted(map(r.get, SIDES))) for r in rows] for rows in (train, held)]
    counts = Counter(keys[0])
    difference = np.array([len(row["chosen"]) - len(row["rejected"]) for row in train])
    unequal = difference[difference != 0]
    longer = float((unequal > 0).mean()) if len(unequal) else 0.5
    numbers = {"length": max(longer, 1 - longer), "order": "longer" if longer > 0.5 else "shorter"}
    numbers |= {"unequal": len(unequal), **count_marks(train)}
    numbers["repeats"] = float(np.mean([counts[key] > 1 for key in keys[0]]))
    return {**numbers, "twins": float(np.mean([key in counts for key in keys[1]]))}


def count_marks(rows: Sequence[dict]) -> dict:
    """The share of all texts that hold a mark of a template or of a speaker, and the usual one."""
    marks, texts = Counter(), 0
    for row in rows:
        turns = [turn["content"] for turn in as_messages(row["prompt"])] + read.answers_of(row)
        marks.update(found[0].strip() for found in map(MARK.search, turns) if found)
        texts += len(turns)
    return {"marks": marks.total() / texts, "mark": max(marks, key=marks.get, default="")}


def read_start(model, tokenizer, rows: Sequence[dict], max_new_tokens: int, seed: int) -> dict:
    """What the untrained model makes of chosen answers, and of ones that it samples itself.

    `unlike` is in nats a token, `cut` the median probability of the end after a chosen answer,
    `base` the share of its own answers that end within the limit.
    """
    rows, ends = list(islice(rows, PROBED)), end_tokens(model, tokenizer)
    prompts = [row["prompt"] for row in rows]
    sampled = [a[0] for a in sample(model, tokenizer, prompts, 1, max_new_tokens, seed=seed)]
    own, shown, ended = [answer.token_ids for answer in sampled], [], []
    for row in rows:  # up to the last token that ends an answer, or else the last
        asked, ids = encode_answers(tokenizer, row["prompt"], [row["chosen"]])
        places = [k for k, token in enumerate(ids) if token in ends]
        shown.append(asked)
        ended.append(ids[: places[-1] + 1] if places else ids)
    own_logps, logps, without_end = (
        response_logps(model, tokenizer, *answers).numpy().astype(float)
        for answers in ((prompts, own), (shown, ended), (shown, [ids[:-1] for ids in ended]))
    )
    return {
        "unlike": own_logps.sum() / sum(map(len, own)) - logps.sum() / sum(map(len, ended)),
        "cut": float(np.median(np.exp(logps - without_end))),
        "base": float(np.mean([answer.ended for answer in sampled])),
        "tokens": max_new_tokens,
    }


def read_drift(tokenizer, answers: Answers | None, rows: Sequence[dict], rose=None) -> dict:
    """In nats a token: the KL of sampled answers, and what chosen ones have lost: `-rose` (N,)."""
    lost = {}
    if answers is not None:
        lost["too_far"] = answers.kl.sum(), chain.from_iterable(answers.texts)
    if rose is not None:
        lost["displaced"] = -rose.sum(), (row["chosen"] for row in rows)
    for check, (nats, texts) in lost.items():
        lost[check] = float(nats) / sum(len(encode_response(tokenizer, text)) for text in texts)
    return lost
