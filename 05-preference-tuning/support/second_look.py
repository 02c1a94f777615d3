"""What went wrong? Questions that a run on your own pairs asks before, while and after it trains.

Without a gold standard nothing can say that a run is right, and DPO's own metrics look best when it
has gone too far. Every check is a number with a limit, both printed; what fires is a question, not
a verdict. The limits were fixed before benchmarks/second_look.py planted the failures of its table.
"""

import math
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from textwrap import fill, shorten
from typing import NamedTuple

from support.evaluation import pair_logps, response_logps
from support.own_pairs import fingerprint, pick
from support.start import Start

import numpy as np

from common.intervals import interval, percent, summary
from common.models import encode_response
from common.preferences import COLUMNS, SIDES
from common.sampling import sample

FEW = 40  # held-out pairs, below which the interval of an accuracy is wider than 0.3
ASKED = 32  # rows of which a model's probabilities are read before training, and on the way
LETTERS_ALONE = "\u3040-\u30ff\u3400-\u9fff"  # scripts without spaces: every sign is a word
WORD = re.compile(rf"[{LETTERS_ALONE}]|[^\W_{LETTERS_ALONE}]+")
MARK = re.compile(
    r"<\|[\w ]+\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad)>"
    r"|^(?:#+ *)?(?:human|user|assistant|system|gpt|bot|instruction|response) *:",
    re.IGNORECASE | re.MULTILINE,
)
INVISIBLE = (
    "There is no gold standard for these pairs, and no check sees labels that are wrong throughout, "
    "annotators with a bias, or a reward model of the same file: read the words, pairs and answers "
    "above. Would you have chosen so?"
)


class Check(NamedTuple):
    """Fires `above` its limit, or else below; then asks, and proposes a next command."""

    above: bool
    limit: float
    asks: str
    next: str


EXPLORE = "preference_data_explorer.py --dataset {dataset}"
TRAIN = "{script}.py --model {model} --dataset {dataset}"
TOO_FAR = f"{TRAIN} --learning-rate {{slower:.1g}}"
CHECKS = {
    "length": Check(
        True,
        0.85,
        "Would length alone do? The {order} answer wins {length:.0%} of {unequal} pairs of unequal "
        "length",
        EXPLORE,
    ),
    "marks": Check(
        True,
        0.05,
        "Does markup belong to the answers? {marks:.0%} of the texts hold marks of a template or "
        "of a role, such as {mark!r}",
        EXPLORE,
    ),
    "repeats": Check(
        True,
        0.2,
        "How many pairs are there really? {repeats:.0%} of them share both answers with another",
        EXPLORE,
    ),
    "twins": Check(
        True,
        0.2,
        "Is held-out accuracy memory? {twins:.0%} of the held-out pairs have a twin in training, "
        "with the same two answers",
        EXPLORE,
    ),
    "unlike": Check(
        True,
        2.0,
        "Would the model ever answer so? Chosen answers are {unlike:.1f} nats a token less likely "
        "than its own",
        "dpo_variants.py --model {model} --dataset {dataset} --loss-type sigmoid sft",
    ),
    "cut": Check(
        False,
        0.05,
        "Are the chosen answers cut? After half of them the model ends with a probability of at "
        "most {cut:.3f}",
        EXPLORE + " --model {model}",
    ),
    "base": Check(
        False,
        0.5,
        "Does the model know when to end (a base model does not), or is the limit short? "
        "{base:.0%} of its own answers end within {tokens} tokens",
        TRAIN + " --max-new-tokens {longer}",
    ),
    "reference": Check(
        True,
        0.02,
        "Does training start from the reference? The first loss is {reference:.3f} from ln 2",
        TRAIN + " --smoke",
    ),
    "unmoved": Check(
        False,
        0.1,
        "Has it learned anything? Margins of held-out pairs are {unmoved:.3f} nats in size",
        TRAIN + " --learning-rate {faster:.1g}",
    ),
    "reversed": Check(
        False,
        0.5,
        "Do some pairs say the contrary of others? Held-out pairs are ranked as labelled less "
        "often than by chance, {accuracy}",
        EXPLORE,
    ),
    "chance": Check(
        False,
        0.5,
        "Do the labels follow anything that can be learned? Held-out pairs are ranked as labelled "
        "in {accuracy}, which chance may do",
        EXPLORE,
    ),
    "too_far": Check(
        True,
        0.4,
        "Has it gone too far? Its answers lie {too_far:.2f} nats a token from the reference",
        TOO_FAR,
    ),
    "displaced": Check(
        True,
        0.3,
        "Has it gone too far? Chosen answers have lost {displaced:.2f} nats a token",
        TOO_FAR,
    ),
}


def questions(when: str, numbers: dict, flags: dict) -> list[dict]:
    """The checks that fire on these numbers, in the order of CHECKS: check, when, asks, next.

    `flags` are what the next command names.
    """
    fired = []
    for name, check in CHECKS.items():
        value = numbers.get(name)
        if value is None or not (value > check.limit if check.above else value < check.limit):
            continue
        side = "above" if check.above else "below"
        asks = f"{check.asks.format(**numbers)} (asked {side} {check.limit:g})."
        command = f"python 05-preference-tuning/{check.next.format(**flags)}"
        fired.append({"check": name, "when": when, "asks": asks, "next": command})
    return fired


# --- What the pairs show ---


def read_pairs(train: Sequence[dict], held: Sequence[dict]) -> dict:
    """Shares of training pairs: won by one order of lengths, repeated; of held-out pairs: twins.

    Lengths are in characters. `marks` is the share of all texts that hold a mark. A twin has the
    same two answers, whichever was chosen.
    """
    shorter_minus_longer, marked, texts, known = [], [], 0, Counter()
    for row in train:
        shorter_minus_longer.append(np.sign(len(row["rejected"]) - len(row["chosen"])))
        known[_both_answers(row)] += 1
        found = [MARK.search(text) for text in _texts(row)]
        marked += [mark[0].strip() for mark in found if mark]
        texts += len(found)
    order = np.array(shorter_minus_longer)
    unequal = int((order != 0).sum())
    shorter = float((order > 0).sum() / max(unequal, 1))
    mark = Counter(marked).most_common(1)
    return {
        "length": max(shorter, 1 - shorter) if unequal else None,
        "order": "shorter" if shorter > 0.5 else "longer",
        "unequal": unequal,
        "marks": len(marked) / texts,
        "mark": mark[0][0] if mark else "",
        "repeats": sum(count for count in known.values() if count > 1) / len(train),
        "twins": float(np.mean([_both_answers(row) in known for row in held])),
    }


def _both_answers(row: dict) -> int:
    return fingerprint(*sorted(row[side] for side in SIDES))


def _texts(row: dict) -> Iterator[str]:
    """The texts of a pair, those of a prompt in messages one by one."""
    for column in COLUMNS:
        cell = row[column]
        yield from [cell] if isinstance(cell, str) else [turn["content"] for turn in cell]


def telling_words(rows: Sequence[dict]) -> dict[str, float]:
    """Words that tell chosen from rejected, with their z: above 0 chosen, below 0 rejected.

    Of the pairs in which only one answer has the word, (chosen - rejected) / sqrt(chosen +
    rejected): McNemar 1947. The most telling first.
    """
    difference, pairs = Counter(), Counter()
    for row in rows:
        chosen, rejected = (set(WORD.findall(row[side].lower())) for side in SIDES)
        for word in chosen ^ rejected:
            difference[word] += 1 if word in chosen else -1
            pairs[word] += 1
    z = {word: difference[word] / math.sqrt(count) for word, count in pairs.items()}
    return dict(sorted(z.items(), key=lambda item: (-abs(item[1]), item[0])))


def show_rows(rows: Sequence[dict]) -> None:
    """Print the words that tell chosen from rejected, and three pairs."""
    telling = {word: z for word, z in telling_words(rows).items() if abs(z) > 3.5}
    chosen, rejected = ([word for word in telling if sign * telling[word] > 0] for sign in (1, -1))
    print("\nwords that tell chosen from rejected (|z| > 3.5):")
    for side, words in zip(SIDES, (chosen, rejected), strict=True):
        print(f"  {side + ':':<10} {', '.join(words[:10]) or 'none'}")
    for row in pick(rows, range(min(3, len(rows)))):
        print(f"\n{shorten(list(_texts(row))[-3], 100, placeholder=' ...')}")
        for side in SIDES:
            print(f"  {side + ':':<10} {shorten(row[side], 86, placeholder=' ...')}")


# --- What the model shows ---


def read_start(model, tokenizer, rows: Sequence[dict], max_new_tokens: int, seed: int) -> dict:
    """What the untrained model makes of chosen answers, and of ones that it samples itself.

    `unlike` is in nats a token, `cut` the median probability of the end after a chosen answer,
    `base` the share of its own answers that end within the limit.
    """
    rows = pick(rows, range(min(ASKED, len(rows))))
    prompts = [row["prompt"] for row in rows]
    sampled = sample(model, tokenizer, prompts, 1, max_new_tokens, seed=seed)
    own = [answers[0].token_ids for answers in sampled]
    chosen = [encode_response(tokenizer, row["chosen"]) for row in rows]
    ends = [_end_of(tokenizer, ids) for ids in chosen]
    up_to_end = [ids[: end + 1] for ids, end in zip(chosen, ends, strict=True)]
    before_end = [ids[:end] for ids, end in zip(chosen, ends, strict=True)]
    logps = {}
    for name, answers in (("own", own), ("all", up_to_end), ("text", before_end)):
        logps[name] = response_logps(model, tokenizer, prompts, answers).numpy().astype(float)
    return {
        "unlike": logps["own"].sum() / sum(map(len, own))
        - logps["all"].sum() / sum(map(len, up_to_end)),
        "cut": float(np.median(np.exp(logps["all"] - logps["text"]))),
        "base": float(np.mean([tokenizer.eos_token_id in ids for ids in own])),
        "tokens": max_new_tokens,
    }


def _end_of(tokenizer, ids: list[int]) -> int:
    """Where the token stands that ends an answer: the last special one, or else the last."""
    special = [k for k, token in enumerate(ids) if token in tokenizer.all_special_ids]
    return special[-1] if special else len(ids) - 1


def read_ranking(hits: np.ndarray, margins: np.ndarray | None = None) -> dict:
    """Which end of the interval of a held-out accuracy is to be compared with 0.5; (N,) of each.

    Below FEW pairs an interval that holds 0.5 tells nothing. `unmoved` is the mean size of the
    margins in nats; of a model that has not moved the accuracy is not asked.
    """
    accuracy = summary(hits)
    numbers = {"accuracy": percent(accuracy), "pairs": len(hits)}
    if margins is not None:
        numbers["unmoved"] = float(np.abs(margins).mean())
        if numbers["unmoved"] < CHECKS["unmoved"].limit:
            return numbers
    low, high = accuracy["ci95"] or (0, 1)
    if high < 0.5:
        return {**numbers, "reversed": high}
    return {**numbers, "chance": low} if len(hits) >= FEW else numbers


def read_distance(tokenizer, texts: Sequence[Sequence[str]], kl: np.ndarray) -> dict:
    """KL per token of sampled answers, texts and kl (P, n), in nats."""
    tokens = [len(encode_response(tokenizer, text)) for row in texts for text in row]
    return {"too_far": float(kl.sum() / sum(tokens))}


def read_displacement(tokenizer, rows: Sequence[dict], rose: np.ndarray) -> dict:
    """What chosen answers have lost of log p, in nats a token; rose (N,) is the change of log p."""
    tokens = [len(encode_response(tokenizer, row["chosen"])) for row in rows]
    return {"displaced": float(-rose.sum() / sum(tokens))}


# --- Before, on the way, after ---


class SecondLook(NamedTuple):
    """What was measured when, the questions that it raised, and what next commands name."""

    flags: dict
    numbers: dict[str, dict]
    questions: list[dict]

    def ask(self, when: str, numbers: dict) -> list[dict]:
        """Keep the numbers, and the questions that they raise, which are returned."""
        self.numbers[when] = numbers
        raised = questions(when, numbers, self.flags)
        self.questions.extend(raised)
        return raised


def look_at_pairs(
    train: Sequence[dict], held: Sequence[dict], flags: dict, of_model: dict | None = None
) -> SecondLook:
    """Before training: print the questions that pairs (and a model) raise, words and pairs."""
    look = SecondLook(flags, {}, [])
    raised = look.ask("before", {**read_pairs(train, held), **(of_model or {})})
    show_rows(train)
    print()
    tell(raised)
    return look


def look_before(start: Start, script: str = "dpo_trainer", rate: float | None = None) -> SecondLook:
    """`look_at_pairs` of a policy's training, by a `script` at a learning rate of its own."""
    model, dataset = (shlex.quote(str(name)) for name in start.sft[:2])
    rate, limit = rate or start.training["learning_rate"], start.max_new_tokens
    flags = {"script": script, "model": model, "dataset": dataset, "longer": 4 * limit}
    flags |= {"slower": rate / 3, "faster": rate * 5}
    data, seed = start.data, start.training["seed"]
    of_model = read_start(start.reference, start.tokenizer, data.train, limit, seed)
    return look_at_pairs(data.train, data.held, flags, of_model)


def look_on_the_way(
    look: SecondLook, start: Start, step: int, policy, texts: list[list[str]], kl: np.ndarray
) -> None:
    """Print what a policy in training raises that was not asked before; texts and kl (P, n).

    At step 0 it is the reference, so that every pair of the training would cost ln 2.
    """
    rows = pick(start.data.held, range(min(ASKED, len(start.data.held))))
    logps, ref_logps = pair_logps(policy, start.tokenizer, rows)
    chosen, rejected = (logps - ref_logps).numpy().astype(float)
    numbers = read_distance(start.tokenizer, texts, kl)
    numbers |= read_displacement(start.tokenizer, rows, chosen)
    if step == 0:
        losses = np.logaddexp(0, -start.training["beta"] * (chosen - rejected))
        numbers = {"reference": abs(float(losses.mean()) - math.log(2))}
    asked = {question["check"] for question in look.questions}
    tell(look.ask(f"at step {step}", {k: v for k, v in numbers.items() if k not in asked}))


def look_after(
    look: SecondLook,
    start: Start,
    texts: list[list[str]],
    kl: np.ndarray,
    changes: np.ndarray | None = None,
    first_loss: float | None = None,
    when: str = "after",
) -> dict:
    """What the trained policy raises: `{"second_look": ...}` for the metrics.

    texts and kl (P, n) are of sampled answers, `changes` (2, N) of log p of held-out pairs, chosen
    and rejected, in nats; `first_loss` is TRL's, where a training starts at ln 2.
    """
    numbers = read_distance(start.tokenizer, texts, kl)
    if changes is not None:
        margins = changes[0] - changes[1]
        numbers |= read_displacement(start.tokenizer, start.data.held, changes[0])
        numbers |= read_ranking((1 + np.sign(margins)) / 2, margins)
    if first_loss is not None:
        numbers["reference"] = abs(first_loss - math.log(2))
    look.ask(when, numbers)
    return {"second_look": {"numbers": look.numbers, "questions": look.questions}}


# --- In words ---


def tell(raised: Sequence[dict]) -> None:
    """Print questions when they come up."""
    for question in raised:
        print(fill(_sentence(question), 100, subsequent_indent="  "))


def _sentence(question: dict) -> str:
    return f"Second look, {question['when']}: {question['asks']}"


def second_look_findings(second_look: dict) -> list[str]:
    """All questions, what no check can see, and the next command: that of the first question."""
    raised, numbers = second_look["questions"], second_look["numbers"]
    lines = [_sentence(question) for question in raised]
    if not raised:
        lines = [f"None of the {len(CHECKS)} checks of the second look has fired."]
    few = {when: seen["pairs"] for when, seen in numbers.items() if seen.get("pairs", FEW) < FEW}
    for when, pairs in few.items():
        lines.append(
            f"Of {pairs} held-out pairs ({when}) an accuracy says little: too few to tell."
        )
    lines.append(INVISIBLE)
    return [*lines, f"Next:\n  {raised[0]['next']}"] if raised else lines
