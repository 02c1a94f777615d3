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
from operator import gt, lt
from pathlib import Path
from textwrap import fill, indent

import numpy as np

from common.answers import Answers, count_words, length_unit
from common.basics import UserError, show_progress
from common.intervals import percent, summary
from common.models import load_tokenizer
from common.preferences import COLUMNS, SIDES
from common.prompts import as_messages, as_text, encode_answers, encode_response, reads_pairs
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
EXPLORE = "preference_data_explorer.py --dataset {dataset}"


class SecondLook:
    """What was measured when, and the questions that it raised.

    `reading` are the given flags that say how the data are read.
    """

    def __init__(self, dataset, reading, model=None, learning_rate=None, max_new_tokens=48) -> None:
        flags = [(f"--{flag.replace('_', '-')}", str(v)) for flag, v in (reading or {}).items()]
        again = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])  # what the user typed
        rate, self.max_new_tokens = learning_rate or 1e-4, max_new_tokens
        self.flags = {"dataset": shlex.join([str(dataset), *chain(*flags)]), "again": again}
        self.flags |= {"model": shlex.quote(str(model)), "longer": 4 * max_new_tokens}
        self.flags |= {"slower": rate / 3, "faster": rate * 5}
        self.numbers, self.questions = {}, []  # numbers by when they were measured

    def ask(self, when: str, numbers: dict) -> None:
        """Keep the numbers, and print the questions that they raise."""
        self.numbers[when] = numbers
        for check, texts in QUESTIONS.items():
            if fires(check, numbers):
                asks = re.sub(r"(\d)%", r"\1 %", texts["asks"].format(**numbers))
                asks = "Second look, {}: {} (asked {side} {limit:g}).".format(when, asks, **texts)
                asked = {"check": check, "when": when, "asks": asks}
                self.questions.append({**asked, "next": self.next_command(check)})
                print(fill(asks, 100, subsequent_indent="  "))

    def next_command(self, check: str) -> str | None:
        """What to run next, unless that is what has just been run."""
        proposed = [overruled(c.format(**self.flags)) for c in (QUESTIONS[check]["next"], EXPLORE)]
        again = overruled(self.flags["again"]).split()
        return next((command for command in proposed if command.split() != again), None)

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
        if len(train) < 160:
            print(f"{len(train)} pairs make few steps: too few to teach a model much")
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

    def after(
        self, tokenizer, held, answers=None, changes=None, first_loss=None, margins=None
    ) -> None:
        """What the trained model raises, and what no check sees.

        `changes` are those of log p of `chosen` and `rejected` (N,) in held-out pairs, in nats;
        `margins` (N,) a reward model's; `first_loss` is TRL's, where that starts at ln 2.
        """
        rose = None if changes is None else changes["chosen"]
        numbers = read_drift(tokenizer, answers, side_by_side(held), rose)
        if changes is not None:
            margins = rose - changes["rejected"]
            numbers["unmoved"] = float(np.abs(margins).mean())
        if margins is not None and not fires("unmoved", numbers):  # else nothing could rank
            numbers |= read_ranking(np.asarray(margins))
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
        """The numbers and the questions, for the JSON."""
        return {"second_look": {"numbers": self.numbers, "questions": self.questions}}


def fires(check: str, numbers: dict) -> bool:
    """Whether a check was made, and its number is beyond its limit."""
    beyond = gt if QUESTIONS[check]["side"] == "above" else lt
    return check in numbers and beyond(numbers[check], QUESTIONS[check]["limit"])


def overruled(command: str) -> str:
    """A command of this folder in which the last flag is given once, with its last value."""
    last = re.search(r" (--[\w-]+)( [^-\s]\S*)?$", command)
    if last:
        value = r"[ =]\S+" if last[2] else ""
        command = re.sub(rf" {last[1]}{value}(?= |$)", "", command[: last.start()]) + last[0]
    return f"python 05-preference-tuning/{command}"


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
        print_texts({**texts, names[1]: row["rejected"]})
    print(f"\nwords that tell {names[0]} from {names[1]} (|z| > {TELLING}):")
    for name, words in zip(names, by_side(telling_words(rows)).values(), strict=True):
        print(f"  {name + ':':<10} {', '.join(words[:10]) or 'none'}")


def print_texts(texts: dict[str, str | list], most: int = 2000) -> None:
    """Print texts with their line ends; of a very long one the rest is counted."""
    print()
    for name, text in texts.items():
        text = as_text(text)
        more = f" ... ({len(text) - most} more characters)" if len(text) > most else ""
        print(f"{name}:\n{indent(text[:most] + more, '    ')}")


def telling_words(rows: Sequence[dict]) -> dict[str, float]:
    """Words that tell chosen from rejected, the most telling first, with z; above 0: chosen.

    Of the pairs where one answer has the word, (chosen - rejected) / sqrt(both): McNemar 1947.
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


def by_side(telling: dict[str, float]) -> dict[str, list[str]]:
    words = {side: [] for side in SIDES}
    for word, z in telling.items():
        words["chosen" if z > 0 else "rejected"].append(word)
    return words


def read_faults(train: Sequence[dict], held: Sequence[dict]) -> dict:
    """Shares of training pairs: won by one order of lengths, repeated; of held-out pairs: twins.

    Lengths are in characters. A twin has the same two answers, whichever was chosen.
    """
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


def read_ranking(margins: np.ndarray) -> dict:
    """The end of the interval of a held-out accuracy that is to be compared with 0.5.

    margins (N,) are above 0 where a pair is ranked as labelled. Few pairs tell of no chance.
    """
    accuracy = summary((1 + np.sign(margins)) / 2)
    numbers, (low, high) = {"pairs": len(margins)}, accuracy["ci95"] or (0, 1)
    numbers["accuracy"] = percent(accuracy)
    if high < 0.5:
        return {**numbers, "reversed": high}
    return {**numbers, "chance": low} if len(margins) >= ENOUGH else numbers


def read_drift(tokenizer, answers: Answers | None, rows: Sequence[dict], rose=None) -> dict:
    """In nats a token: the KL of sampled answers, and what chosen ones have lost of log p.

    rose (N,) is the change of log p of the chosen answers of the rows.
    """
    lost = {}
    if answers is not None:
        lost["too_far"] = answers.kl.sum(), chain.from_iterable(answers.texts)
    if rose is not None:
        lost["displaced"] = -rose.sum(), (row["chosen"] for row in rows)
    for check, (nats, texts) in lost.items():
        lost[check] = float(nats) / sum(len(encode_response(tokenizer, text)) for text in texts)
    return lost


def describe_pairs(path: str, model: str | None = None, seed: int = 0, **reading: str) -> dict:
    """What to know of your pairs, or answers with labels (`kind`), before training on them.

    Of both: counts of rows, the share of texts with `marks`, `words` (side -> summary) in `unit`,
    `lengths` (side -> a histogram), two `examples`. Rows that the model cannot read are dropped.
    `leaked` are rows of a random eighth whose prompt is also in the rest. Raises UserError.
    """
    reading = {k: v for k, v in reading.items() if k not in ("held_out", "max_length")}
    data = read.read_data(path, "pairs", "labels", **reading)
    tokenizer = load_tokenizer(model) if model else None
    room = 48 if tokenizer and not reads_pairs(tokenizer) else None
    _, kind, rows, dropped, remarks, contrary = read.usable(data, tokenizer, room)
    said = read.count_by_reason(dropped)
    if not len(rows):
        raise UserError(f"{path}: no usable row: {said}")
    columns = ("prompt", "completion") if kind == "labels" else COLUMNS
    prompts = np.array([read.key_of(row["prompt"]) for row in rows], dtype=np.uint64)
    describe = describe_labels if kind == "labels" else describe_answers
    found, words = describe(rows, prompts, seed)
    return {
        "kind": kind,
        "rows": len(rows) + sum(map(len, dropped.values())),
        "usable": len(rows),
        "said": said,
        "remarks": remarks,
        **count_marks(rows),
        "contradictory": len(contrary) // 2,
        **found,
        "dropped": {reason: places for reason, places in dropped.items() if places},
        "prompts": len(np.unique(prompts)),
        "unit": length_unit(row[name] for row in rows for name in columns[1:]),
        "examples": [{name: as_text(row[name]) for name in columns} for row in islice(rows, 2)],
        "words": {side: summary(counts) for side, counts in words.items() if len(counts)},
        "lengths": {side: histogram(counts) for side, counts in words.items() if len(counts)},
    }


def describe_answers(rows: Sequence[dict], prompts: np.ndarray, seed: int) -> tuple[dict, dict]:
    """Of pairs: who wins by length, leaks of a random eighth, telling words; lengths of answers."""
    chosen, rejected = (np.array([count_words(row[side]) for row in rows]) for side in SIDES)
    order = np.random.default_rng(seed).permutation(len(rows))
    held_out, training = np.split(order, [max(1, round(len(rows) / 8))])
    _, place = np.unique(prompts, return_inverse=True)
    hits = np.bincount(place, weights=(np.sign(chosen - rejected) + 1) / 2)  # ties half
    pairs = np.bincount(place)
    wins = hits.sum() / pairs.sum()
    found = {
        "held_out": len(held_out),
        "leaked": int(np.isin(prompts[held_out], prompts[training]).sum()),
        # Pairs of one prompt go together: the interval is that of a ratio, linearised, over prompts
        "longer_wins": summary(wins + (hits - wins * pairs) / pairs.mean()),
        "telling": by_side(telling_words(rows)),
    }
    return found, {"chosen": chosen, "rejected": rejected, "difference": chosen - rejected}


def describe_labels(rows: Sequence[dict], prompts: np.ndarray, _) -> tuple[dict, dict]:
    """Of answers with labels: how many are good, prompts with both kinds; lengths of answers."""
    good = np.array(rows["label"])
    words = np.array([count_words(row["completion"]) for row in rows])
    both = np.intersect1d(prompts[good], prompts[~good])
    found = {"prompts_with_both": len(both), "good": summary(good)}
    return found, {"good": words[good], "bad": words[~good]}


def histogram(values: np.ndarray) -> dict:
    """Counts per bin of whole numbers; the last bins hold what lies beyond 98 % of them, too."""
    reach = max(3, int(np.percentile(np.abs(values), 98)))
    start = -reach if values.min() < 0 else 0
    edges = np.arange(start, reach + 2, max(1, (reach - start) // 25)) - 0.5
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return {"counts": counts.tolist(), "edges": edges.tolist()}


def print_description(found: dict) -> None:
    """Print two rows in full, then what is wrong with the data, a line each."""
    for k, row in enumerate(found["examples"], start=1):
        print_texts({f"row {k}, prompt" if name == "prompt" else name: row[name] for name in row})
    kind = "pairs" if found["kind"] == "pairs" else "answers with a label"
    print(f"\n{found['rows']} rows, {found['usable']} usable {kind}, {found['prompts']} prompts")
    shown = {k: v for k, v in found.items() if k != "mark" or v}
    shown |= {k: percent(found[k]) for k in ("longer_wins", "good") if k in found}
    shown["marked"] = round(100 * found["marks"])
    shown |= {side: ", ".join(w[:10]) or "none" for side, w in found.get("telling", {}).items()}
    lines = [f"dropped: {found['said']}"] if found["said"] else []
    told = [text.format(**shown) for key, text in DESCRIBED.items() if key in shown]
    for line in filter(None, [*lines, "; ".join(found["remarks"]), *told]):
        print(fill(line, 100, initial_indent="  ", subsequent_indent="    "))
