"""Shapes of preference data: which columns hold the prompt, the better answer and the worse one.

A table each: two answers with a choice, and several answers with scores.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from support.conversations import DroppedRow
from support.data_columns import NAMES, is_number

from common.preferences import SIDES

# --- Two answers and a choice ---


def by_last_letter(choice) -> int | None:
    """Which answer is the better one by its number or letter: 1, "response_1", "model_b"."""
    return {"0": 0, "1": 1, "a": 0, "b": 1}.get(_text_of(choice)[-1:])


def by_number_from_one(choice) -> int | None:
    """The same, where answers are counted from 1."""
    return {"1": 0, "2": 1}.get(_text_of(choice)[-1:])


def one_is_first(choice) -> int | None:
    """1: the first answer is the better one; 0: the second."""
    return {"1": 0, "0": 1}.get(_text_of(choice))


def by_sign(choice) -> int | None:
    """Below 0 the first answer is the better one, above 0 the second."""
    return by_scores(0, choice)


def by_scores(first, second) -> int | None:
    """The answer with the higher number is the better one."""
    first, second = float(first), float(second)
    return 0 if first > second else 1 if second > first else None


def _text_of(choice) -> str:
    return str(choice).strip().lower().removesuffix(".0")


class TwoAnswers(NamedTuple):
    """Two columns of answers, and what says which of them is the better one."""

    name: str
    first: str
    second: str
    choice: tuple[str, ...]  # columns
    better: Callable[..., int | None]  # of their values: 0 or 1, None for a tie
    prompt: str | None = None  # its column, where only data of this shape hold it so
    in_lists: bool = False  # prompt and answers are lists of texts as JSON, one text a turn


TWO_ANSWERS = (
    TwoAnswers("PKU-SafeRLHF", "response_0", "response_1", ("better_response_id",), by_last_letter),
    TwoAnswers("SHP", "human_ref_a", "human_ref_b", ("labels",), one_is_first, "history"),
    TwoAnswers("HelpSteer2", "response_1", "response_2", ("preference_strength",), by_sign),
    TwoAnswers("HelpSteer3", "response1", "response2", ("overall_preference",), by_sign),
    TwoAnswers("WebGPT", "answer_0", "answer_1", ("score_0", "score_1"), by_scores, "question"),
    TwoAnswers("Chatbot Arena", "response_a", "response_b", ("winner",), by_last_letter),
    TwoAnswers("Chatbot Arena", "conversation_a", "conversation_b", ("winner",), by_last_letter),
    TwoAnswers(
        *("Chatbot Arena", "response_a", "response_b", ("winner_model_a", "winner_model_b")),
        *(by_scores, "prompt", True),
    ),
    TwoAnswers(
        *("Unified-Feedback", "conv_a", "conv_b"),
        *(("conv_a_rating", "conv_b_rating"), by_scores),
    ),
    TwoAnswers(
        *("Preference Collection", "orig_response_a", "orig_response_b", ("orig_preference",)),
        *(by_last_letter, "orig_instruction"),
    ),
    TwoAnswers("AlpacaFarm", "output_1", "output_2", ("preference",), by_number_from_one),
    TwoAnswers("two answers", "response_a", "response_b", ("preference",), by_last_letter),
    TwoAnswers("two answers", "response_a", "response_b", ("choice",), by_last_letter),
    TwoAnswers("two answers", "response_a", "response_b", ("score_a", "score_b"), by_scores),
    TwoAnswers("two answers", "response_0", "response_1", ("preference",), by_last_letter),
    TwoAnswers("two answers", "response_1", "response_2", ("preference",), by_number_from_one),
    TwoAnswers("two answers", "response_1", "response_2", ("winner",), by_number_from_one),
    TwoAnswers("two answers", "response_1", "response_2", ("score_1", "score_2"), by_scores),
)


# --- Several answers with scores on one row ---


class ScoredAnswers(NamedTuple):
    """A column of several answers, and where their scores stand.

    `text` and `score` are keys of an answer; where `text` is None, the answers are texts, and
    `score` is another column, of as many numbers.
    """

    name: str
    answers: str
    text: str | None
    score: str
    best: Callable = max  # min where the lowest number is the best: a rank
    worst: Callable = min


SCORED_ANSWERS = (
    ScoredAnswers("UltraFeedback", "completions", "response", "overall_score"),
    ScoredAnswers("UltraFeedback", "completions", "response", "score"),
    ScoredAnswers("Nectar", "answers", "answer", "rank", min, max),
    ScoredAnswers("Stack Exchange", "answers", "text", "pm_score"),
    ScoredAnswers("Stack Exchange", "answers", "text", "score"),
    ScoredAnswers("distilabel", "generations", None, "ratings"),
    ScoredAnswers("distilabel", "generations", None, "rating"),
    ScoredAnswers("scored responses", "responses", None, "scores"),
    ScoredAnswers("scored responses", "responses", None, "ratings"),
    ScoredAnswers("scored completions", "completions", None, "scores"),
    ScoredAnswers("ranked responses", "responses", None, "ranks", min, max),
)
# One answer on each row: the columns that may hold its score, in the order of preference.
SCORES = ("helpfulness", "overall_score", "score", "reward", "rating")
MESSAGES = ("messages", "conversations", "conversation")
GOOD = ("true", "1", "good", "desirable", "yes", "+1", "chosen", "positive")
BAD = ("false", "0", "bad", "undesirable", "no", "-1", "rejected", "negative")


# --- What a row is ---


def is_pair(row: dict) -> bool:
    """Whether a row has a better and a worse answer, under whatever names."""
    return all(any(name in row for name in NAMES[side]) for side in SIDES)


def is_labelled(row: dict) -> bool:
    """Whether a row has one answer, and whether it is good: what KTO trains on."""
    label = next((row[name] for name in NAMES["label"] if name in row), None)
    answers = [*NAMES["completion"], *MESSAGES]
    return read_label(label) is not None and any(name in row for name in answers)


def read_label(cell) -> bool | None:
    """True for good, False for bad; None for what is neither."""
    label = _text_of(cell)
    return True if label in GOOD else False if label in BAD else None


def answer_in_messages(row: dict) -> str | None:
    """The column of messages that end with the chosen answer, where only the other has a column."""
    has_rejected = any(name in row for name in NAMES["rejected"])
    return next((name for name in MESSAGES if has_rejected and name in row), None)


def two_answers_of(row: dict) -> TwoAnswers | None:
    """The shape of a row with two answers and a choice."""
    for shape in TWO_ANSWERS:
        if {shape.first, shape.second, *shape.choice} <= row.keys():
            return shape
    return None


def scored_answers_of(row: dict) -> ScoredAnswers | None:
    """The shape of a row with several answers and their scores."""
    for shape in SCORED_ANSWERS:
        answers = row.get(shape.answers)
        if not (isinstance(answers, list) and answers):
            continue
        scores = answers[0] if shape.text else row
        texts = isinstance(answers[0], str) if shape.text is None else shape.text in answers[0]
        if texts and shape.score in scores:
            return shape
    return None


def score_of(row: dict) -> str | None:
    """The column of the score of a row with one answer."""
    has_answer = any(name in row for name in NAMES["completion"])
    return next((name for name in SCORES if has_answer and name in row), None)


# --- Pairs of any shape ---


class Shape(NamedTuple):
    """What rows of a data set look like, and what makes pairs of them."""

    said: str  # for the user; nothing where rows are pairs already
    columns: tuple[str, ...]  # that are read
    pair: Callable[[Iterable], Iterable]  # (place, row) -> (place, pair or DroppedRow)


def find_shape(row: dict) -> Shape | None:
    """The shape of a row, or None where no table knows it."""
    if is_pair(row):
        return Shape("", (), iter)
    messages = answer_in_messages(row)
    if messages:
        said = f"chosen is the last turn of {messages}"
        return Shape(
            said, (messages,), partial(each_row, make=partial(add_chosen, column=messages))
        )
    two = two_answers_of(row)
    if two:
        columns = (two.first, two.second, *two.choice, *filter(None, [two.prompt]))
        said = f"the shape of {two.name}: {' and '.join(two.choice)} says which answer is chosen"
        return Shape(said, columns, partial(each_row, make=partial(choose_answer, shape=two)))
    if {"info", "summaries", "choice"} <= row.keys():
        said = "the shape of summarize_from_feedback: choice says which summary is chosen"
        return Shape(said, ("info", "summaries", "choice"), partial(each_row, make=choose_summary))
    scored = scored_answers_of(row)
    if scored:
        said = f"the shape of {scored.name}: best and worst answer by {scored.score}"
        columns = (scored.answers, scored.score)
        return Shape(said, columns, partial(each_row, make=partial(best_and_worst, shape=scored)))
    score = None if is_labelled(row) else score_of(row)
    if score:
        said = f"scored answers: of each prompt the best and the worst by {score}"
        answer = next(name for name in NAMES["completion"] if name in row)
        return Shape(said, (answer, score), partial(pair_by_prompt, answer=answer, score=score))
    return None


def each_row(
    rows: Iterable[tuple[int, dict]], make: Callable[[dict], dict]
) -> Iterator[tuple[int, dict | DroppedRow]]:
    """Pairs from rows that each make one; a DroppedRow is passed on in the place of its row."""
    for place, row in rows:
        try:
            yield place, make(row)
        except DroppedRow as drop:
            yield place, drop
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            yield place, DroppedRow("not of the shape of the first row")


def add_chosen(row: dict, column: str) -> dict:
    """The row with the conversation of a column as chosen: its last turn is the answer."""
    return {**row, "chosen": row[column]}


def choose_answer(row: dict, shape: TwoAnswers) -> dict:
    """The row with its two answers as chosen and rejected. Raises DroppedRow for a tie."""
    try:
        better = shape.better(*(row[column] for column in shape.choice))
    except (TypeError, ValueError):
        better = None
    if better is None:
        raise DroppedRow("tied or not labelled")
    first, second = row[shape.first], row[shape.second]
    sides = dict(zip(SIDES, (second, first) if better else (first, second), strict=True))
    if shape.in_lists:
        rest = {name: cell for name, cell in row.items() if name != shape.prompt}
        return rest | {side: _turns_of(row[shape.prompt], sides[side]) for side in SIDES}
    if shape.prompt:
        prompt = row[shape.prompt]  # WebGPT's also says where the question comes from
        sides["prompt"] = prompt["full_text"] if isinstance(prompt, dict) else prompt
    return row | sides


def _turns_of(questions: str, answers: str) -> list[dict]:
    """A conversation as messages, from lists of texts as JSON; a text that is missing is empty."""
    messages = []
    for question, answer in zip(json.loads(questions), json.loads(answers), strict=True):
        messages.append({"role": "user", "content": question or ""})
        messages.append({"role": "assistant", "content": answer or ""})
    return messages


def choose_summary(row: dict) -> dict:
    """A row of summarize_from_feedback, its prompt as TRL writes it (tldr-preference)."""
    info, choice = row["info"], row["choice"]
    if choice not in (0, 1):
        raise DroppedRow("tied or not labelled")
    texts = [summary["text"] for summary in row["summaries"]]
    lines = [f"TITLE: {info['title']}"] if info.get("title") else []
    if info.get("post"):
        lines.insert(0, f"SUBREDDIT: r/{info.get('subreddit')}")
        lines.append(f"POST: {info['post']}")
    else:
        lines.append(info.get("article") or "")
    prompt = "\n\n".join([*lines, "TL;DR:"])
    return {"prompt": prompt, "chosen": texts[choice], "rejected": texts[1 - choice]}


def best_and_worst(row: dict, shape: ScoredAnswers) -> dict:
    """The row with the best and the worst of its answers as chosen and rejected."""
    answers = row[shape.answers]
    if shape.text is None:
        scored = list(zip(row[shape.score] or [], answers, strict=False))
    else:
        scored = [(answer.get(shape.score), answer[shape.text]) for answer in answers]
    return {**row, **_extremes([pair for pair in scored if is_number(pair[0])], shape)}


def _extremes(scored: list[tuple], shape: ScoredAnswers | None = None) -> dict:
    """chosen and rejected of (score, answer); the first one of those that are equally good."""
    best, worst = (shape.best, shape.worst) if shape else (max, min)
    scores = [float(score) for score, _ in scored]
    if len(set(scores)) < 2:
        raise DroppedRow("tied or not labelled")
    chosen, rejected = scored[scores.index(best(scores))], scored[scores.index(worst(scores))]
    return {"chosen": chosen[1], "rejected": rejected[1]}


def pair_by_prompt(
    rows: Iterable[tuple[int, dict]], answer: str, score: str
) -> Iterator[tuple[int, dict | DroppedRow]]:
    """The best and the worst answer of every prompt, from rows of one answer and its score.

    They stand at the place of the prompt's first row. All rows are held in memory.
    """
    groups: dict[str, list] = {}
    for place, row in rows:
        prompt = [row.get(name) for name in (*NAMES["prompt"], *NAMES["system"])]
        groups.setdefault(json.dumps(prompt), []).append((place, row))
    for group in groups.values():
        place, first = group[0]
        scored = [(row[score], row[answer]) for _, row in group if is_number(row[score])]
        try:
            yield place, {**first, **_extremes(scored)}
        except DroppedRow as drop:
            yield place, drop
