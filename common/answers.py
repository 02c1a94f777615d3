"""Sampled answers: what is read in them, the table before and after, points of the plane."""

import re
from collections.abc import Sequence
from functools import partial
from textwrap import shorten
from typing import NamedTuple, TypedDict

import numpy as np

from common.preferences import all_questions, gold_utility, read_response
from common.prompts import Prompt, as_text
from common.sampling import sample
from common.scoring import read_once, sequence_kl

# Scripts that set no spaces between words: Thai to Lao, Burmese, Khmer, kana, Chinese characters.
UNSPACED = re.compile(
    "[\u0e01-\u0e4e\u0e81-\u0ec6\u1000-\u104f\u1780-\u17d3\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff]"
)
MARKS = re.compile("[\u3000-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]")
# What an answer to a question of the world is: every answer is one of these.
KINDS = ("right and concise", "right, with filler", "wrong", "agrees with the user", "off topic")
SHOWN = 32  # prompts whose answers a study keeps, so that they can be read beside its numbers
FRONTIER_PROMPTS = 128  # the first test prompts, by which every point of the plane is measured


def has_gold(prompts: Sequence[Prompt]) -> bool:
    """Whether all prompts are questions of the world, so that gold utility can be read."""
    return all(isinstance(prompt, str) and prompt in all_questions() for prompt in prompts)


def marks(prompt: Prompt, text: str) -> str:
    """What the gold standard reads in an answer, in a few words; nothing where there is none."""
    if not has_gold([prompt]):
        return ""
    reading = read_response(prompt, text)
    if not reading.on_topic:
        return "  [off topic]"
    told, count = "right" if reading.correct else "wrong", reading.filler_words
    told += ", agrees with the user" if reading.style == "sycophantic" else ""
    told += f", {count} word{'s' * (count > 1)} of filler" if count else ""
    return f"  [{told}]"


def in_short(prompt: Prompt, width: int = 100) -> str:
    """A prompt in one line of at most `width` characters; of a conversation the last words."""
    if isinstance(prompt, str):
        return shorten(prompt, width, placeholder=" ...")
    words = " ".join(as_text(prompt).split())
    return words if len(words) <= width else f"... {words[4 - width :]}"


def count_words(text: str) -> int:
    """Words where there are spaces; of scripts that set none, characters."""
    spaced, characters = UNSPACED.subn(" ", text)
    return len((MARKS.sub(" ", spaced) if characters else spaced).split()) + characters


class Answers(NamedTuple):
    """n sampled answers to each prompt, and what is read in them: arrays (P, n)."""

    texts: list[list[str]]
    kl: np.ndarray  # nats, from the policy without its adapter
    words: np.ndarray
    gold: np.ndarray | None = None  # gold utility, log-odds; this and what follows: with gold only
    good: np.ndarray | None = None  # right and concise
    correct: np.ndarray | None = None
    on_topic: np.ndarray | None = None
    plain: np.ndarray | None = None  # without filler or preamble, whether right or wrong
    kind: np.ndarray | None = None  # of KINDS

    def means(self) -> dict:
        """Every reading as one number, the kinds as shares: for a table, a curve, a JSON."""
        names = ("kl", "words") if self.gold is None else ("kl", "words", "gold", "good")
        numbers = {name: float(getattr(self, name).mean()) for name in names}
        if self.gold is not None:
            numbers["kinds"] = {name: float((self.kind == name).mean()) for name in KINDS}
        return numbers


def sample_answers(
    policy, tokenizer, prompts: list[Prompt], n: int, seed=0, max_new_tokens=48, with_kl=True
) -> Answers:
    """n sampled answers to each prompt, read, with their exact KL along the text.

    The KL, in nats, is that of a PEFT model from its base; any other model is its own reference.
    Without `with_kl` it is not read, and 0: to read it takes longer than to sample.
    """
    sampled = sample(policy, tokenizer, prompts, n, max_new_tokens, seed=seed)
    texts = [[response.text for response in row] for row in sampled]
    token_ids = [[response.token_ids for response in row] for row in sampled]
    kl = None
    if with_kl and hasattr(policy, "disable_adapter"):
        kl = read_once(partial(sequence_kl, policy, tokenizer), prompts, token_ids)
    return read_answers(prompts, texts, kl)


def read_answers(prompts: list[Prompt], texts: list[list[str]], kl=None) -> Answers:
    """What is read in n texts to each prompt; kl (P, n), or 0."""
    shape = len(prompts), len(texts[0])
    kl = np.zeros(shape) if kl is None else kl
    words = np.array([[count_words(text) for text in row] for row in texts], dtype=float)
    if not has_gold(prompts):
        return Answers(texts, kl, words)
    pairs = [(prompt, text) for prompt, row in zip(prompts, texts, strict=True) for text in row]
    readings = [read_response(*pair) for pair in pairs]
    columns = {
        "gold": [gold_utility(*pair) for pair in pairs],
        "good": [reading.good for reading in readings],
        "correct": [reading.correct for reading in readings],
        "on_topic": [reading.on_topic for reading in readings],
        "plain": [reading.style not in ("verbose", "expert") for reading in readings],
    }
    table = {name: np.array(column, float).reshape(shape) for name, column in columns.items()}
    style = np.array([reading.style for reading in readings]).reshape(shape)
    tests = table["good"] > 0, table["correct"] > 0, style == "sycophantic", style == "off_topic"
    right, filler, wrong, agrees, off_topic = KINDS
    kind = np.select(tests, (right, filler, agrees, off_topic), wrong)  # the first test that is met
    return Answers(texts, kl, words, **table, kind=kind)


# --- For the reader ---


def print_before_after(
    prompts, before: list, after: list, rows: Sequence[tuple], most=3, head=("", "before", "after")
) -> None:
    """The first answers before and after (texts (P, n)) with their marks, then `print_table`."""
    for k, prompt in enumerate(prompts[:most]):
        print(f"\n{in_short(prompt)}")
        for when, texts in (("before", before), ("after", after)):
            print(f"  {when:<7} {in_short(texts[k][0], 66)}{marks(prompt, texts[k][0])}")
    print_table(head, rows)


def rows_of(columns: Sequence[dict]) -> list[tuple]:
    """Rows for `print_table` of `Answers.means`, a dictionary a column; some have a `reward`."""
    kinds = columns[0].get("kinds", ())
    rows = [(kind, *(c["kinds"][kind] for c in columns), "% of answers") for kind in kinds]
    named = {
        "gold": ("gold utility", "log-odds, at most 4"),
        "reward": ("reward", "log-odds, by the reward model"),
        "words": ("length", "words"),
        "kl": ("KL from the SFT model, measured", "nats"),
    }
    for name, (what, unit) in named.items():
        if name in columns[0]:
            rows.append((what, *(c[name] for c in columns), unit))
    return rows


def print_table(head: Sequence[str], rows: Sequence[tuple]) -> None:
    """Rows (what, number, ..., unit) under their heads, numbers in columns; None is a dash."""
    width = max(len(row[0]) for row in [head, *rows]) + 1
    column = max(11, *(len(name) + 2 for name in head[1:]))
    print(f"\n{head[0]:<{width}}" + "".join(f"{name:>{column}}" for name in head[1:]))
    for what, *values, unit in rows:
        told = f"{what:<{width}}"
        for value in values:
            if value is None or isinstance(value, int):  # nothing, or a count
                cell = "-" if value is None else f"{value:,}"
            else:
                cell = f"{100 * value:.0f}" if unit.startswith("%") else f"{value:.2f}"
            told += f"{cell:>{column}}"
        print(f"{told}  {unit}")


# --- Points of the plane: gold utility against KL ---


class Point(TypedDict, total=False):  # a policy, by one seed, as frontier.py and the page read it
    method: str
    series: str  # which of its trainings, or which reward model
    label: str
    annotations: int  # labels that were used, those of a reward model included
    kl: float  # nats, measured, from the SFT model
    gold: float
    good: float
    biased: bool  # whether annotators with a bias gave the labels
    beta: float | None
    n: int | None  # of best-of-n
    epoch: float | None


def point_of(method, series, label, answers: Answers, annotations: int, **rest) -> Point:
    """A policy as a point, by its answers to the first FRONTIER_PROMPTS."""
    point = {"method": method, "series": series, "label": label, "annotations": annotations}
    for name in ("kl", "gold", "good"):
        point[name] = float(getattr(answers, name)[:FRONTIER_PROMPTS].mean())
    return {**point, "biased": False, "beta": None, "n": None, "epoch": None, **rest}


def point_name(point: Point) -> str:
    """What the answers of a point are filed under; no two points of a run share it."""
    return ", ".join((point["method"], point["series"], point["label"]))


def answers_of_points(prompts: Sequence[str], points: Sequence[Point], texts, rewards=()) -> dict:
    """{prompts, texts, rewards}: the first answer of each point to each of the first prompts.

    `texts` are those of each point, (prompts, n); `rewards`, where there are any, arrays (prompts,)
    of the reward that chose or trained, in log-odds: "before" of the SFT model's answer and "after"
    of the point's. With the same seed the SFT model's first answer is the same in every study.
    """
    names = [point_name(point) for point in points]
    kept = {"prompts": list(prompts[:SHOWN]), "texts": {}, "rewards": {}}
    for name, of_point in zip(names, texts, strict=True):
        kept["texts"][name] = [row[0] for row in of_point[:SHOWN]]
    for name, of_point in zip(names, rewards, strict=False):
        shown = {when: np.asarray(values[:SHOWN], float) for when, values in of_point.items()}
        kept["rewards"][name] = {when: values.round(4).tolist() for when, values in shown.items()}
    return kept
