"""Shapes of preference data: which columns hold the prompt, the better answer and the worse one.

A file is looked over once before it is read: what its columns are and hold decides the shape, and a
column that says which answer was chosen is understood as a whole or not at all.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from own_data.conversations import (
    DroppedRow,
    find_markup,
    is_message,
    is_texts,
    odd,
    take_apart,
    written_as,
)

from common.preferences import COLUMNS, SIDES
from common.prompts import prompt_key
from common.runs import UserError

# --- Names of columns ---

NAMES = {  # the usual names, the lab's own first; of the others one may hold a text in a row
    "prompt": (
        *("prompt", "question", "instruction", "query", "user_prompt", "user_input", "problem"),
        *("prompts", "questions", "instructions", "conversations", "conversation", "messages"),
        *("dialogue", "dialog", "trajectory", "context", "input", "inputs", "post"),
    ),
    "chosen": (
        *("chosen", "accepted", "preferred", "chosen_response", "response_chosen"),
        *("chosen_answer", "answer_chosen", "preferred_response", "better", "better_response"),
        *("positive", "pos", "accept", "winning_response", "response_w", "y_w", "response_j"),
        *("preferred_output", "chosen_conversations", "chosen_conversation", "chosen_messages"),
        *("response_preferred", "preferred_answer", "chosen_output", "chosen_completion"),
    ),
    "rejected": (
        *("rejected", "dispreferred", "nonpreferred", "non_preferred", "rejected_response"),
        *("response_rejected", "rejected_answer", "answer_rejected", "dispreferred_response"),
        *("worse", "worse_response", "negative", "neg", "reject", "losing_response"),
        *("response_l", "y_l", "response_k", "non_preferred_output", "rejected_conversations"),
        *("rejected_conversation", "rejected_messages", "response_non_preferred"),
        *("response_dispreferred", "non_preferred_answer", "non_preferred_response"),
        *("rejected_output", "rejected_completion"),
    ),
    "system": ("system", "system_prompt", "system_message", "system_instruction"),
    "completion": ("completion", "response", "output", "answer", "text", "model_response"),
    "label": ("label", "kto_tag", "is_good", "desirable", "thumbs_up", "feedback"),
}
MESSAGES = ("messages", "conversations", "conversation")
# One answer on each row: the columns that may hold its score, in the order of preference.
SCORES = ("helpfulness", "overall_score", "score", "reward", "rating")
# In names of columns: numbers of which the small ones are the good ones, and what is no score.
SMALL_IS_GOOD = re.compile(
    r"(^|_)(rank|ranks|ranking|loss|position|place|order|error|errors|perplexity|ppl|toxicity)(_|$)"
)
NO_SCORE = re.compile(
    r"(^|_)(ids?|idx|index|hash|seed|turn|time|date|year|created|updated|timestamp|length|tokens|"
    r"count|num|number|worker|annotator|user|row|batch|version)(_|$)|id$"
)


def clean_name(name) -> str:
    """The name of a column in lower case; blanks at its ends and a byte order mark go."""
    return re.sub(r"[\s-]+", "_", str(name).strip("\ufeff \t\r\n")).lower()


def holds_something(cell) -> bool:
    """Whether a cell is not empty: a text, messages, a number."""
    if isinstance(cell, float) and cell != cell:  # NaN
        return False
    return bool(cell.strip()) if isinstance(cell, str) else cell not in (None, [], {})


def is_prose(cell) -> bool:
    """Whether a cell is a text of some words, and so could be a prompt."""
    if not isinstance(cell, str):
        return False
    return len(cell.split()) > 2 or (len(cell) > 4 and not cell.isascii())


def as_number(cell) -> float | None:
    """The number that a cell is, or that its text is; a hash like 12e4567 is none."""
    if isinstance(cell, str) and re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*", cell):
        return float(cell)
    number = isinstance(cell, int | float) and not isinstance(cell, bool) and cell == cell
    return float(cell) if number else None


def find_column(row: dict, role: str) -> str | None:
    """The column that holds `role` ("prompt", ...) in a row: the one of that name, or another.

    None where there is none. Raises DroppedRow where several columns could be it.
    """
    present = [name for name in NAMES[role] if name in row]
    if not present or present[0] == role:
        return present[0] if present else None
    filled = [name for name in present if holds_something(row[name])]
    if {"instruction", "input"} == set(filled):
        return "instruction"  # the two are one prompt
    if len(filled) > 1:
        reason = f"no column {role}; {' and '.join(filled[:3])} could each be it"
        if role != "prompt":
            flag = f"choose one with --{role}-column" if role in SIDES else "rename one"
            raise odd(f"{reason}: {flag}")
        joined = ' + "\\n\\n" + '.join(f'row["{name}"]' for name in filled[:2])
        raise odd(
            f"{reason}: choose one with --prompt-column, which loses the other, or join them, in "
            f'Python: [{{**row, "prompt": {joined}}} for row in rows]'
        )
    return (filled or present)[0]


# --- A look over the whole file ---

MANY = 200  # distinct short values, from which on a column is no coding


@dataclass
class Column:
    """What a column holds, over all rows."""

    filled: int = 0
    example: object = None  # the first cell that is not empty
    values: Counter = field(default_factory=Counter)  # of numbers, booleans, short texts
    texts: int = 0
    ways: Counter = field(default_factory=Counter)  # in which texts hold turns, see `written_as`
    turns: Counter = field(default_factory=Counter)  # how many these are
    marks: Counter = field(default_factory=Counter)  # of templates

    def add(self, cell) -> None:
        if not holds_something(cell):
            return
        self.filled += 1
        self.example = cell if self.example is None else self.example
        short = isinstance(cell, int | float) or (isinstance(cell, str) and len(cell) <= 80)
        if short and len(self.values) < MANY:
            self.values[cell.strip() if isinstance(cell, str) else cell] += 1
        if isinstance(cell, str):
            self.texts += 1
            way, turns = written_as(cell)
            self.ways[way] += bool(way)
            self.turns[way] += turns
            self.marks[find_markup(cell)] += 1

    @property
    def way(self) -> str:
        """How the texts hold turns, where more than a fifth do; of one turn each, nearly all."""
        way, count = max(self.ways.items(), key=lambda item: item[1], default=("", 0))
        needed = 0.2 if self.turns[way] > count or way == "a list as text" else 0.8
        alone = self.turns[way] <= count and count < 3 and way != "a list as text"
        return way if count > needed * self.texts and not alone else ""

    @property
    def is_coded(self) -> bool:
        """Whether the column holds few short values, and nothing else."""
        return 0 < len(self.values) < MANY and self.values.total() == self.filled

    def shown(self, most: int = 9) -> str:
        """The values with their counts, the most frequent first."""
        shown = [f"{value!r} ({count})" for value, count in self.values.most_common(most)]
        return ", ".join(shown) + (", ..." if len(self.values) > most else "")


Survey = dict[str, Column]


def look_over(rows: Iterable[tuple[int, dict]]) -> tuple[Survey, int]:
    """(what the columns of the file hold, how many rows there are)."""
    survey, count = {}, 0
    for _, row in rows:
        count += 1
        for name, cell in row.items():
            survey.setdefault(name, Column()).add(cell)
    for column in survey.values():
        column.example = take_apart(column.example, column.way)
    return survey, count


# --- Which of two answers was chosen ---

# Words of a value that say nothing of which answer is the better one.
FILLERS = set(
    "response answer model assistant reply output completion option candidate text conversation is "
    "better best much slight slightly strongly strong significantly far more wins win winner won "
    "preferred prefer the was vote human choice".split()
)
TIES = set("tie ties tied both neither equal equally same draw bothbad similar".split())
OF_TIES = FILLERS | set("a b and nor or good bad are about no difference preference".split())
NO_LABEL = ("", "none", "null", "nan", "n/a", "na")
SIDE_WORDS = ({"a", "left", "first"}, {"b", "right", "second"})
PAIRS_OF_TOKENS = (("a", "b"), ("1", "2"), ("0", "1"), ("left", "right"), ("first", "second"))
ANSWER = r"response|answer|output|completion|reply|conversation|conv|human_ref|generation|candidate"
ANSWER += r"|summary|option"
CHOICE = r"winner|prefer|choice|better|verdict|vote|selected|comparison|best|chosen"
SIGNED = ("preference_strength", "overall_preference")  # HelpSteer2 and 3: below 0 is the first
SCORE = r"score|rating|reward|grade|points|winner|win|votes|helpfulness|quality|rank"
MODEL = r"model|generator|llm|policy|source"
TIE, UNLABELLED = "dropped as a tie", "without a label"


class TwoAnswers(NamedTuple):
    """Two columns of answers, and the tokens in which their names differ: a and b, 1 and 2."""

    first: str
    second: str
    tokens: tuple[str, str]

    @property
    def names(self) -> tuple[str, str]:
        return self.first, self.second


def tokens_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", text.lower())


def twins(names: Iterable[str], word: str, tokens: tuple[str, str]) -> tuple[str, str] | None:
    """Two columns whose names hold `word` and are the same but for these tokens."""
    split = {tuple(re.findall(r"[a-z]+|\d+|[^a-z\d]+", name)): name for name in names}
    for parts, name in split.items():
        for k, part in enumerate(parts):
            other = split.get((*parts[:k], tokens[1], *parts[k + 1 :]))
            if part == tokens[0] and other and re.search(word, name):
                return name, other
    return None


def two_answers(survey: Survey) -> TwoAnswers | None:
    """The two columns of answers of a file, if there are such."""
    texts = []
    for name, column in survey.items():
        if isinstance(column.example, str | list | dict) and not NO_SCORE.search(name):
            texts.append(name)
    for tokens in PAIRS_OF_TOKENS:
        found = twins(texts, rf"(^|_|\.)({ANSWER})", tokens)
        wordy = found and any(not _is_code(survey[name], tokens) for name in found)
        if wordy and not re.search(CHOICE, found[0]):
            return TwoAnswers(*found, tokens)
    return None


def _is_code(column: Column, tokens: Sequence[str]) -> bool:
    """Whether all that a column holds are codes of one of two answers, and no texts."""
    if not column.is_coded or not all(isinstance(v, str | int) for v in column.values):
        return False
    codes = {"0", "1", "2", "a", "b", *tokens}
    return all(set(tokens_of(str(value))) - FILLERS <= codes for value in column.values) and all(
        tokens_of(str(value)) for value in column.values
    )


def normalise(value) -> str:
    """A value of a choice column as text: 1.0 is 1, True is true."""
    number = as_number(value)
    if number is not None:
        return str(int(number)) if number == int(number) else str(number)
    return str(value).strip().lower()


def meaning(value: str, two: TwoAnswers) -> int | str | None:
    """0 or 1 for the answer that a normalised word names; TIE, UNLABELLED; None where unknown."""
    if value in NO_LABEL:
        return UNLABELLED
    words = set(tokens_of(value)) - set(tokens_of(two.first)) - set(tokens_of(two.second))
    if words & TIES or value in ("a=b", "no preference"):
        return TIE if words <= OF_TIES | TIES else None
    signs = re.fullmatch(r"\[*\s*([\w ]+?)\s*(>+|<+)\s*([\w ]+?)\s*\]*", value)
    if signs:
        return meaning(signs[1 if signs[2][0] == ">" else 3], two)
    named = [token for token in tokens_of(value) if token not in FILLERS | _stem(two)]
    sides = []
    for side in (0, 1):
        known = SIDE_WORDS[side] | {two.tokens[side]}
        if two.tokens[0] in ("a", "left", "first"):
            known |= {str(side + 1)}
        sides.append(len(named) == 1 and named[0] in known)
    return sides.index(True) if sum(sides) == 1 else None


def _stem(two: TwoAnswers) -> set[str]:
    return set(tokens_of(two.first)) & set(tokens_of(two.second)) - {*"ab012"}


def read_coding(column: str, values: Counter, two: TwoAnswers) -> dict[str, int | str] | None:
    """What each normalised value of a choice column says; None where the column is no known coding.

    Numbers are 1 and 2, with 0, 3 or 1.5 for a tie where the answers bear these numbers, or 0 and 1
    where the answers do; in HelpSteer's columns the sign decides. Words are all letters, names of
    the columns, left and right. What fits two ways is no coding.
    """
    seen = {normalise(value) for value in values}
    numbers = {value for value in seen if as_number(value) is not None}
    if any(isinstance(value, bool) for value in values):
        return None
    words = {value: meaning(value, two) for value in seen - numbers}
    if None in words.values():
        return None
    if not numbers:
        return words
    if any(side in (0, 1) for side in words.values()):
        return None
    if column in SIGNED and two.tokens == ("1", "2"):
        below = any(float(value) < 0 for value in numbers)
        signs = {value: _sign(float(value)) for value in numbers}
        return {**words, **signs} if below else None
    if column == "labels" and two.first == "human_ref_a":  # SHP
        code = {"1": 0, "0": 1}
    elif two.tokens == ("0", "1"):
        code = {"0": 0, "1": 1}
    else:
        code = {"1": 0, "2": 1, "1.5": TIE}
        code |= {"0": TIE, "3": TIE} if two.tokens == ("1", "2") else {}
        if "2" not in numbers:  # 0 and 1 could also be the first and the second
            return None
    return {**words, **code} if numbers <= code.keys() else None


def _sign(number: float) -> int | str:
    return TIE if number == 0 else int(number > 0)


def choice_column(survey: Survey, two: TwoAnswers) -> str | None:
    """The column that says which of two answers was chosen: the first that is named so."""
    words = (CHOICE, r"^labels?$")
    for word in words:
        for name, column in survey.items():
            cell = isinstance(column.example, str | int | float) and not is_prose(column.example)
            if (
                (cell or column.is_coded)
                and name not in two.names
                and re.search(word, name)
                and column.filled
            ):
                is_scored = twins(survey, word, two.tokens) or (None,)
                if name not in is_scored and not re.search(r"(_model|_text|_score|_name)$", name):
                    return name
    return None


def refuse_coding(column: str, held: Column, two: TwoAnswers) -> UserError:
    """The error for a choice column that is no known coding, with the line that makes pairs."""
    first = next(iter(held.values), "...")
    made = (
        f'better = {{{first!r}: "{two.first}", ...}}; pairs = [{{**row, "chosen": '
        f'row[better[row["{column}"]]], "rejected": row[({{"{two.first}", "{two.second}"}} - '
        f'{{better[row["{column}"]]}}).pop()]}} for row in rows if row["{column}"] in better]'
    )
    return UserError(
        f"{column} holds {held.shown()}: the lab knows no coding of {two.first} and {two.second} "
        f"that says this, or it fits two ways. Say what each value means, in Python: {made}"
    )


# --- Shapes ---


class Shape(NamedTuple):
    """What rows look like, and what makes pairs of them."""

    said: str  # for the user; nothing where rows are pairs already
    columns: tuple[str, ...]  # that are read
    needs: tuple[str, ...]  # that hold something in a row of this shape
    make: Callable[[dict], dict]  # a row with chosen and rejected; raises DroppedRow
    by_prompt: Callable | None = None  # (rows, note) -> pairs, where several rows make one


Note = Callable[[str], None]


def find_shapes(survey: Survey, note: Note) -> list[Shape]:
    """The shapes that rows of the file may have, the most telling first; none where none is known.

    Raises UserError for a column of choices that is not understood.
    """
    names = {side: [name for name in NAMES[side] if name in survey] for side in SIDES}
    chosen, rejected = (next(iter(names[side]), None) for side in SIDES)
    two, shapes = two_answers(survey), []
    if chosen and rejected:
        pointers = find_pointers(survey, chosen, rejected, two, note)
        if pointers:
            return [pointers]
        shapes.append(Shape("", (), (chosen, rejected), dict))
    messages = next((name for name in MESSAGES if name in survey), None)
    if messages and rejected and not chosen:
        said = f"chosen is the last turn of {messages}"
        made = partial(_add, column=messages)
        shapes.append(Shape(said, (messages,), (messages, rejected), made))
    if {"info", "summaries", "choice"} <= survey.keys():
        said = "the shape of summarize_from_feedback: choice says which summary is chosen"
        columns = ("info", "summaries", "choice")
        shapes.append(Shape(said, columns, columns[:2], choose_summary))
    shapes += scored_shapes(survey)
    if two and rejected not in two.names:
        shapes += chosen_of_two(survey, two, note, sure=not shapes)
    score = next((name for name in SCORES if name in survey), None)
    answer = next((name for name in NAMES["completion"] if name in survey), None)
    if not shapes and score and answer and as_number(survey[score].example) is not None:
        said = f"scored answers: of each prompt the best and the worst by {score}"
        by_prompt = partial(pair_by_prompt, answer=answer, score=score)
        shapes.append(Shape(said, (answer, score), (answer,), dict, by_prompt))
    return shapes


def _add(row: dict, column: str) -> dict:
    return {**row, "chosen": row[column]}


def find_pointers(
    survey: Survey, chosen: str, rejected: str, two: TwoAnswers | None, note: Note
) -> Shape | None:
    """The shape of rows whose chosen and rejected name other columns, where the texts stand."""
    both = [survey[chosen], survey[rejected]]
    targets = {normalise(value) for column in both for value in column.values}
    columns = {name: name for name in survey if name not in (chosen, rejected)}
    named = all(column.is_coded for column in both) and {*map(clean_name, targets)} <= {*columns}
    tokens = two.tokens if two else ()
    if not named and not all(_is_code(column, tokens) for column in both):
        return None
    if not named:
        coding = two and read_coding(chosen, both[0].values + both[1].values, two)
        if not coding:
            raise UserError(
                f"{chosen} holds {both[0].shown(4)} and {rejected} {both[1].shown(4)}, which "
                "are no texts: name the columns of the texts with --chosen-column and "
                '--rejected-column, or put the texts there, in Python: [{**row, "chosen": '
                f'row[text_of[row["{chosen}"]]], "rejected": row[text_of[row["{rejected}"]]]}} for '
                "row in rows], where text_of names a column for each value"
            )
        columns = {value: two.names[side] for value, side in coding.items() if side in (0, 1)}
    said = f"{chosen} and {rejected} name the columns that hold the texts"
    read = tuple(dict.fromkeys(columns[name] for name in targets if name in columns))

    def follow(row: dict) -> dict:
        places = [columns.get(clean_name(normalise(row[name]))) for name in (chosen, rejected)]
        if None in places or places[0] == places[1]:
            raise odd(f"{chosen} is {row[chosen]!r:.40} and {rejected} {row[rejected]!r:.40}")
        note(f"{chosen} {row[chosen]} = {places[0]}")
        rest = {name: cell for name, cell in row.items() if name not in (chosen, rejected)}
        return rest | {side: row[name] for side, name in zip(SIDES, places, strict=True)}

    return Shape(said, read, (chosen, rejected), follow)


# Of answers under these names: the prompt, where another column looks like it.
PROMPT_OF = {"human_ref_a": "history", "orig_response_a": "orig_instruction"}


def chosen_of_two(survey: Survey, two: TwoAnswers, note: Note, sure: bool) -> list[Shape]:
    """The shape of rows with two answers and what says which is the better one, if it is known.

    Raises UserError where that is not understood, if it is `sure` to be what the rows are.
    """
    others = [name for name in survey if name not in two.names]
    third = {"b": "c", "2": "3"}.get(two.tokens[1])
    more = third and twins([two.first, *others], ANSWER, (two.tokens[0], third))
    choice, scores = choice_column(survey, two), twins(others, SCORE, two.tokens)
    models = twins(others, MODEL, two.tokens)
    columns, choose, problem = (), None, None
    if choice and not more:
        columns, held = (choice,), survey[choice]
        coding = held.is_coded and read_coding(choice, held.values, two)
        if coding:
            choose = partial(_by_coding, column=choice, coding=coding)
        elif models and isinstance(held.example, str):
            columns = (choice, *models)
            choose = partial(_by_name, column=choice, models=models, two=two, held=held)
        else:
            problem = refuse_coding(choice, held, two)
    elif scores and not more:
        columns, choose = scores, partial(_by_score, scores=scores)
        wrong = [name for name in scores if as_number(survey[name].example) is None]
        if wrong:
            example = f"{survey[wrong[0]].example!r:.60}"
            problem = UserError(
                f"{wrong[0]} holds {example}, no number: put the number that decides in its place, "
                f'in Python: [{{**row, "{scores[0]}": row["{scores[0]}"]["overall"], "{scores[1]}": '
                f'row["{scores[1]}"]["overall"]}} for row in rows]'
            )
    if problem and sure:
        raise problem
    if problem or not choose:
        return []
    made = partial(choose_answer, two=two, choose=choose, note=note)
    said = f"{' and '.join(columns[:2])} says which of {two.first} and {two.second} is chosen"
    prompt = PROMPT_OF.get(two.first)
    read = (*two.names, *columns, *([prompt] if prompt in survey else []))
    return [Shape(said, read, two.names, partial(made, prompt=prompt if prompt in survey else ""))]


def choose_answer(row: dict, two: TwoAnswers, choose: Callable, note: Note, prompt: str) -> dict:
    """The row with its two answers as chosen and rejected. Raises DroppedRow for a tie."""
    side, said = choose(row)
    if side not in (0, 1):
        note(f"{said}: {side}")
        raise DroppedRow("tied" if side == TIE else "not labelled")
    note(f"{said} = {two.names[side]}")
    texts = dict(zip(SIDES, (row[two.names[side]], row[two.names[1 - side]]), strict=True))
    if prompt or isinstance(row.get("question"), dict):  # WebGPT's says where it comes from, too
        cell = row.get(prompt or "question")
        texts["prompt"] = cell["full_text"] if isinstance(cell, dict) else cell
    return row | texts


def _by_coding(row: dict, column: str, coding: dict) -> tuple:
    value = normalise(row[column]) if holds_something(row[column]) else ""
    return coding.get(value, UNLABELLED), f"{column} {row[column] if value else 'empty'}"


def _by_name(row: dict, column: str, models: tuple, two: TwoAnswers, held: Column) -> tuple:
    """By the name of the model that wrote the better answer."""
    value, names = normalise(row[column] or ""), [normalise(row[name]) for name in models]
    if value in names and names[0] != names[1]:
        return names.index(value), f"{column} the name in {models[names.index(value)]}"
    words = meaning(value, two)
    if value in names or words not in (TIE, UNLABELLED):
        raise refuse_coding(column, held, two)
    return words, f"{column} {row[column] or 'empty'}"


def _by_score(row: dict, scores: tuple[str, str]) -> tuple:
    first, second = (as_number(row[name]) for name in scores)
    if first is None or second is None:
        return UNLABELLED, f"{scores[0]} or {scores[1]} empty"
    if first == second:
        return TIE, f"{scores[0]} equal to {scores[1]}"
    low = bool(SMALL_IS_GOOD.search(scores[0]))
    words = ("below", "above") if first < second else ("above", "below")
    return int((first > second) == low), f"{scores[0]} {words[0]} {scores[1]}"


def choose_summary(row: dict) -> dict:
    """A row of summarize_from_feedback, its prompt as TRL writes it (tldr-preference)."""
    info, choice = row["info"], row["choice"]
    if choice not in (0, 1):
        raise DroppedRow("not labelled")
    texts = [summary["text"] for summary in row["summaries"]]
    lines = [f"TITLE: {info['title']}"] if info.get("title") else []
    if info.get("post"):
        lines.insert(0, f"SUBREDDIT: r/{info.get('subreddit')}")
        lines.append(f"POST: {info['post']}")
    else:
        lines.append(info.get("article") or "")
    prompt = "\n\n".join([*lines, "TL;DR:"])
    return {"prompt": prompt, "chosen": texts[choice], "rejected": texts[1 - choice]}


# --- Several answers with scores ---

# (whose, the column of answers, the key of an answer's text, where the score stands). Where the key
# is None the answers are texts, and the scores stand in another column, as many numbers.
SCORED_ANSWERS = (
    ("UltraFeedback", "completions", "response", "overall_score"),
    ("UltraFeedback", "completions", "response", "score"),
    ("NeMo", "completions", "completion", "rank"),
    ("Nectar", "answers", "answer", "rank"),
    ("Stack Exchange", "answers", "text", "pm_score"),
    ("Stack Exchange", "answers", "text", "score"),
    *(
        ("scored answers", answers, None, scores)
        for answers in ("generations", "responses", "completions")
        for scores in ("ratings", "rating", "scores", "ranks")
    ),
)


def scored_shapes(survey: Survey) -> list[Shape]:
    """The shape of rows with several answers and their scores, if it is known."""
    for whose, answers, text, score in SCORED_ANSWERS:
        example = survey[answers].example if answers in survey else None
        first = example[0] if isinstance(example, list) and example else None
        keys = first if text and isinstance(first, dict) else survey if is_texts(example) else {}
        if score in keys and (text is None or text in keys):
            said = f"the shape of {whose}: best and worst answer by {score}"
            made = partial(best_and_worst, answers=answers, text=text, score=score)
            return [Shape(said, (answers, *([] if text else [score])), (answers,), made)]
    return []


def best_and_worst(row: dict, answers: str, text: str | None, score: str) -> dict:
    """The row with the best and the worst of its answers as chosen and rejected."""
    cells = row.get(answers) or []
    if text is None:
        scored = list(zip(row.get(score) or [], cells, strict=False))
    else:
        scored = [(cell.get(score), cell[text]) for cell in cells]
    return {**row, **extremes(scored, score)}


def extremes(scored: Sequence[tuple], score: str) -> dict:
    """chosen and rejected of (score, answer); the first one of those that are equally good."""
    known = [(as_number(number), text) for number, text in scored if as_number(number) is not None]
    numbers = [number for number, _ in known]
    if len(set(numbers)) < 2:
        raise DroppedRow("tied" if len(numbers) > 1 else "with fewer than two scored answers")
    best, worst = (min, max) if SMALL_IS_GOOD.search(score) else (max, min)
    sides = known[numbers.index(best(numbers))][1], known[numbers.index(worst(numbers))][1]
    return dict(zip(SIDES, sides, strict=True))


def pair_by_prompt(
    rows: Iterable[tuple[int, dict]], note: Note, answer: str, score: str
) -> Iterator[tuple[int, dict | DroppedRow]]:
    """The best and the worst answer of every prompt, from rows of one answer and its score.

    They stand at the place of the prompt's first row. All rows are held in memory.
    """
    groups: dict[str, list] = {}
    for place, row in rows:
        prompt = [row.get(name) for name in (*NAMES["prompt"], *NAMES["system"])]
        groups.setdefault(prompt_key(prompt), []).append((place, row))
    if all(len(group) == 1 for group in groups.values()):
        raise UserError(
            "every prompt has one answer, so there is nothing to compare: give two answers to a "
            "prompt, or for dpo_variants.py --loss-type kto a label, in Python: "
            f'[{{**row, "label": row["{score}"] > 5}} for row in rows]'
        )
    for group in groups.values():
        place, first = group[0]
        try:
            pair = extremes([(row.get(score), row.get(answer)) for _, row in group], score)
        except DroppedRow as drop:
            yield place, drop
            continue
        for _ in group[2:]:
            note("answers between the best and the worst not used")
        yield place, {**first, **pair}


# --- One answer and its label ---

LABELS = (("true", "false"), ("1", "0"), ("1", "-1"), ("good", "bad"), ("yes", "no"))
LABELS += (("desirable", "undesirable"), ("chosen", "rejected"), ("positive", "negative"))
LABELS += (("thumbs_up", "thumbs_down"), ("up", "down"), ("like", "dislike"), ("accept", "reject"))
LABELS += (("accepted", "rejected"), ("liked", "disliked"), ("thumbs up", "thumbs down"))


def label_column(survey: Survey) -> str | None:
    """The column that says of one answer on each row whether it is good, as KTO takes them."""
    answers = [name for name in (*NAMES["completion"], *MESSAGES) if name in survey]
    return next((name for name in NAMES["label"] if answers and name in survey), None)


def read_labels(survey: Survey) -> dict[str, bool]:
    """What each value of the label's column says: True for good. Raises UserError."""
    column = label_column(survey)
    held = survey[column]
    seen = {normalise(value) for value in held.values} - {*NO_LABEL}
    for good, bad in LABELS:
        if held.is_coded and seen <= {good, bad}:
            return {good: True, bad: False}
    raise UserError(
        f"{column} holds {held.shown() or repr(held.example)[:60]}: no pair of labels for good and "
        "bad that the lab knows. Which of them are good is yours to say, in Python, for example: "
        f'[{{**row, "{column}": row["{column}"] >= 4}} for row in rows]'
    )


# --- What cannot be read, and the way out ---

# Keys that tell an export, the tool's name, and the line that converts it (`rows` as Python has
# them), or what to export instead.
EXPORTS = json.loads(Path(__file__).with_name("exports.json").read_text(encoding="utf-8"))
BY_RANK = (
    '[{{"prompt": p, "chosen": g["{answer}"][g["{score}"].{best}()], "rejected": g["{answer}"]'
    '[g["{score}"].{worst}()]}} for p, g in table.groupby("{prompt}")]'
)
PAIR_LABELS = (
    '[{{"prompt": p, "chosen": good, "rejected": bad}} for p, g in table.groupby("{prompt}") for '
    'good, bad in zip(g["{answer}"][g["{label}"]], g["{answer}"][~g["{label}"]])]'
)


def refuse_export(survey: Survey) -> None:
    """Raise UserError for what another tool exports and no reader should guess."""
    for export in EXPORTS:
        if {*export["keys"]} <= survey.keys():
            raise UserError(
                "looks like an export of {tool}; to make pairs: {line}".format(**export)
            )


def explain_missing(survey: Survey) -> UserError:
    """The error for rows that are no pairs, with the way out."""
    texts = [name for name, column in survey.items() if is_text(column)]
    missing = [side for side in SIDES if not any(name in survey for name in NAMES[side])]
    reason = f"no column {', '.join(missing)}; the columns are {', '.join(survey)}"
    if not texts:
        return UserError(f"{reason}, and none of them holds texts")
    prompt = next((name for name in NAMES["prompt"] if name in survey), "prompt")
    answer = next((name for name in NAMES["completion"] if name in survey), None)
    if answer and "rejected" not in missing:
        return UserError(
            f"{reason}; if {answer} is the chosen answer, say --chosen-column {answer}"
        )
    names = {"prompt": prompt, "answer": answer}
    scores = [name for name, column in survey.items() if is_score(name, column)]
    if answer and scores and missing == list(SIDES):
        small = bool(SMALL_IS_GOOD.search(scores[0]))
        best, worst = ("idxmin", "idxmax") if small else ("idxmax", "idxmin")
        line = BY_RANK.format(score=scores[0], best=best, worst=worst, **names)
        which = f"What is better is your choice; {', '.join(scores)} could say it"
        return UserError(f"{reason}. {which}; with a pandas table, for example: {line}")
    flags = [name for name, column in survey.items() if isinstance(column.example, bool)]
    if answer and flags and missing == list(SIDES):
        return UserError(
            f"{reason}. One answer a row, no pair: if {flags[0]} says whether it is good, train "
            f"with dpo_variants.py --loss-type kto --label-column {flags[0]}, or make pairs, with "
            f"a pandas table: {PAIR_LABELS.format(label=flags[0], **names)}"
        )
    answers = [name for name in texts if re.search(ANSWER, name)]
    if len(answers) == 2 and missing == list(SIDES):
        sides = f'"chosen": row["{answers[0]}"], "rejected": row["{answers[1]}"]'
        other = f'"chosen": row["{answers[1]}"], "rejected": row["{answers[0]}"]'
        line = (
            f"[{{**row, {sides}}} if first_is_better(row) else {{**row, {other}}} for row in rows]"
        )
        return UserError(
            f"{reason}. Which of {' and '.join(answers)} is better is yours to say: with "
            f"--chosen-column and --rejected-column if it is always one, else in Python: {line}"
        )
    flags = ", ".join(f"--{side}-column" for side in missing)
    return UserError(
        f"{reason}; if it has another name, give it with {flags}; else make pairs, in Python: "
        '[{"prompt": row["..."], "chosen": row["..."], "rejected": row["..."]} for row in rows]'
    )


def is_text(column: Column) -> bool:
    """Whether a column holds texts of some words, or messages."""
    example = column.example
    return (
        is_prose(example)
        or is_message(example)
        or is_texts(example)
        or column.texts > 0
        and (max(map(len, (str(value) for value in column.values)), default=99) > 24)
    )


def is_score(name: str, column: Column) -> bool:
    """Whether a column could say how good an answer is: numbers that are no ids."""
    return as_number(column.example) is not None and not NO_SCORE.search(name)


def explain_labels(survey: Survey) -> UserError:
    """The error for rows of one answer with a label, where pairs are needed."""
    answers = (*NAMES["completion"], *MESSAGES)
    names = {
        "prompt": next((name for name in NAMES["prompt"] if name in survey), "prompt"),
        "answer": next((name for name in answers if name in survey), "completion"),
        "label": label_column(survey),
    }
    return UserError(
        f"one answer with a label on each row ({', '.join(names.values())}), no pair; such rows "
        "are for dpo_variants.py --loss-type kto. With a pandas table of them, labels True or "
        f"False, this makes pairs: {PAIR_LABELS.format(**names)}"
    )


def refuse_misspelt(row: dict) -> None:
    """Raise DroppedRow for a row without a prompt or an answer, but with it under a like name."""
    known = {name for names in NAMES.values() for name in names}
    others = [name for name, cell in row.items() if name not in known and holds_something(cell)]
    for role in COLUMNS:
        if not any(holds_something(row.get(name)) for name in NAMES[role]):
            for name in others:
                if edits(name, role) <= 2:
                    raise odd(f"no {role}, but a column {name}: misspelt?")


def edits(one: str, other: str) -> int:
    """How many letters must be put in, left out or replaced to make one word of the other."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        left, row = row, [i]
        for j, wanted in enumerate(other, start=1):
            row.append(min(row[-1] + 1, left[j] + 1, left[j - 1] + (letter != wanted)))
    return row[-1]
