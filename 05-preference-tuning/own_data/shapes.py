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
from itertools import pairwise
from typing import NamedTuple

from own_data.conversations import (
    HERE,
    LIST,
    TABLES,
    DroppedRow,
    end_mark,
    find_markup,
    is_message,
    is_texts,
    odd,
    refuse,
    take_apart,
    texts_in,
    written_as,
)

from common.preferences import COLUMNS, SIDES
from common.prompts import prompt_key
from common.runs import UserError

# The usual names of columns, the lab's own first; of the others one may hold something in a row.
NAMES = TABLES["columns"]
# Keys that tell an export, the tool's name, and the line that converts it (`rows` as Python has
# them), or what to export instead.
EXPORTS = json.loads((HERE / "exports.json").read_text(encoding="utf-8"))
# In names of columns: numbers of which the small ones are the good ones, and what is no score.
SMALL_IS_GOOD = re.compile(
    r"(^|_)(ranks?|ranking|loss|position|place|order|errors?|perplexity|ppl|toxicity|distance)(_|$)"
)
NO_SCORE = re.compile(
    r"(^|_)(ids?|idx|index|hash|seed|turn|time|date|year|created|updated|timestamp|length|tokens|"
    r"count|num|number|worker|annotator|user|row|batch|version)(_|$)|id$"
)
FEW_ODD = 0.2  # the share of rows, or of texts, that may be unlike the others


def clean_name(name) -> str:
    """The name of a column in lower case; blanks at its ends and a byte order mark go."""
    return re.sub(r"[\s-]+", "_", str(name).strip("\ufeff \t\r\n")).lower()


def holds_something(cell) -> bool:
    """Whether a cell is not empty: a text, messages, a number."""
    return bool(cell.strip()) if isinstance(cell, str) else cell not in (None, [], {})


def is_prose(cell) -> bool:
    """Whether a cell is a text of some words, and so could be a prompt."""
    if not isinstance(cell, str):
        return False
    return len(cell.split()) > 2 or (len(cell) > 4 and not cell.isascii())


def as_number(cell) -> float | None:
    """The number that a cell is, or that its text is; a hash like 12e4567 is none."""
    if isinstance(cell, str):
        return float(cell) if re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*", cell) else None
    return float(cell) if isinstance(cell, int | float) and not isinstance(cell, bool) else None


def normalise(value) -> str:
    """A value as text: 1.0 is 1, True is true."""
    number = as_number(value)
    whole = number is not None and number == int(number)
    return str(int(number)) if whole else str(value).strip().lower()


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
        names = sorted(
            filled, key=lambda name: (name not in ("context", "post"), filled.index(name))
        )
        joined = ' + "\\n\\n" + '.join(f'row["{name}"]' for name in names)
        key = "several prompts" if role == "prompt" else "several"
        raise odd(key, role=role, names=" and ".join(filled[:3]), joined=joined)
    return (filled or present)[0]


# --- A look over the whole file ---


@dataclass
class Column:
    """What a column holds, over all rows."""

    filled: int = 0
    example: object = None  # the first cell that is not empty
    values: Counter = field(default_factory=Counter)  # of numbers, booleans, short texts
    texts: int = 0  # that cells are
    ways: Counter = field(default_factory=Counter)  # in which they hold turns, see `written_as`
    turns: Counter = field(default_factory=Counter)  # how many these are
    marks: Counter = field(default_factory=Counter)  # of templates, in texts and at their ends

    def add(self, cell) -> None:
        if not holds_something(cell):
            return
        self.filled += 1
        self.example = cell if self.example is None else self.example
        short = isinstance(cell, int | float) or (isinstance(cell, str) and len(cell) <= 80)
        if short and len(self.values) < 200:
            self.values[cell.strip() if isinstance(cell, str) else cell] += 1
        marks = {mark(text) for text in texts_in(cell) for mark in (find_markup, end_mark)}
        self.marks.update(filter(None, marks))
        if isinstance(cell, str):
            self.texts += 1
            way, turns = written_as(cell)
            self.ways[way] += bool(way)
            self.turns[way] += turns

    @property
    def way(self) -> str:
        """How the texts hold turns, where more than a fifth do; of one turn each, nearly all."""
        way, count = max(self.ways.items(), key=lambda item: item[1], default=("", 0))
        needed = FEW_ODD if way == LIST or self.turns[way] > count else 0.8
        return way if count > needed * self.texts and (count > 1 or needed == FEW_ODD) else ""

    @property
    def usual_marks(self) -> set[str]:
        """The marks of templates in more than a fifth of the cells."""
        return {mark for mark, count in self.marks.items() if count > FEW_ODD * self.filled}

    @property
    def is_coded(self) -> bool:
        """Whether the column holds few short values, and nothing else."""
        return 0 < len(self.values) < 200 and self.values.total() == self.filled

    def shown(self, most: int = 9) -> str:
        """The values with their counts, the most frequent first."""
        shown = [f"{value!r} ({count})" for value, count in self.values.most_common(most)]
        more = [", ..."] if len(self.values) > most else []
        return "".join([", ".join(shown), *more]) or f"{self.example!r:.60}"


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

FILLERS, TIES, BESIDE_TIES = (set(TABLES[n]) for n in ("fillers", "ties", "beside_ties"))
SIDE_WORDS = ({"a", "left", "first"}, {"b", "right", "second"})
TOKENS = (("a", "b"), ("1", "2"), ("0", "1"), ("left", "right"), ("first", "second"))
ANSWER = r"(^|_|\.)(response|answer|output|completion|reply|conversation|conv|human_ref|generation"
ANSWER += r"|candidate|summary|option)"
CHOICE = r"winner|prefer|choice|better|verdict|vote|selected|comparison|best|chosen|^labels?$"
SIGNED = ("preference_strength", "overall_preference")  # HelpSteer2 and 3: below 0 is the first
SCORE = r"score|rating|reward|grade|points|winner|win|votes|helpfulness|quality|rank"
MODEL = r"model|generator|llm|policy|source"
TIE, UNLABELLED = "tied", "not labelled"
# Of answers under these names: the prompt, where another column looks like it.
PROMPT_OF = {"human_ref_a": "history", "orig_response_a": "orig_instruction"}


class TwoAnswers(NamedTuple):
    """Two columns of answers, and the tokens in which their names differ: a and b, 1 and 2."""

    first: str
    second: str
    tokens: tuple[str, str]


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


def find_two(survey: Survey) -> TwoAnswers | None:
    """The two columns of answers of a file, if there are such."""
    texts = []
    for name, column in survey.items():
        if isinstance(column.example, str | list | dict) and not NO_SCORE.search(name):
            texts.append(name)
    for tokens in TOKENS:
        found = twins(texts, ANSWER, tokens)
        if found and not re.search(CHOICE, found[0]):
            coded = all(is_code(survey[name], tokens) for name in found)
            return None if coded else TwoAnswers(*found, tokens)
    return None


def is_code(column: Column, tokens: Sequence[str]) -> bool:
    """Whether all that a column holds are codes of one of two answers, and no texts."""
    words = [set(tokens_of(str(value))) for value in column.values]
    codes = {"0", "1", "2", "a", "b", *tokens}
    return column.is_coded and all(said and said - FILLERS <= codes for said in words)


def meaning(value: str, two: TwoAnswers) -> int | str | None:
    """0 or 1 for the answer that a normalised word names; TIE, UNLABELLED; None where unknown."""
    if value in TABLES["no_label"]:
        return UNLABELLED
    said = set(tokens_of(value))
    if said & TIES or value in ("a=b", "no preference"):
        known = FILLERS | TIES | BESIDE_TIES | {*tokens_of(two.first), *tokens_of(two.second)}
        return TIE if said <= known else None
    signs = re.fullmatch(r"\[*\s*([\w ]+?)\s*(>+|<+)\s*([\w ]+?)\s*\]*", value)
    if signs:
        return meaning(signs[1 if signs[2][0] == ">" else 3], two)
    stem = {*tokens_of(two.first)} & {*tokens_of(two.second)}
    named = [token for token in tokens_of(value) if token not in FILLERS | stem - {*"ab012"}]
    sides = []
    for side in (0, 1):
        known = SIDE_WORDS[side] | {two.tokens[side]}
        known |= {str(side + 1)} if two.tokens[0] in ("a", "left", "first") else set()
        sides.append(len(named) == 1 and named[0] in known)
    return sides.index(True) if sum(sides) == 1 else None


def read_coding(column: str, values: Iterable, two: TwoAnswers) -> dict[str, int | str] | None:
    """What each normalised value of a choice column says; None where the column is no known coding.

    Numbers are 1 and 2, with 0 or 3 for a tie where the answers bear these numbers, and 1.5; or 0
    and 1 where the answers do; in HelpSteer's columns the sign decides. Words are letters, names of
    the columns, left and right. What fits two ways is no coding.
    """
    seen = {normalise(value) for value in values}
    numbers = {value for value in seen if as_number(value) is not None}
    words = {value: meaning(value, two) for value in seen - numbers}
    mixed = numbers and any(side in (0, 1) for side in words.values())
    if None in words.values() or mixed or any(isinstance(value, bool) for value in values):
        return None
    if not numbers:
        return words
    if column in SIGNED and two.tokens == ("1", "2"):
        signs = {n: TIE if float(n) == 0 else int(float(n) > 0) for n in numbers}
        return {**words, **signs} if 0 in signs.values() else None
    code = {"1": 0, "2": 1, "1.5": TIE}
    if column == "labels" and two.first == "human_ref_a":  # SHP
        code = {"1": 0, "0": 1}
    elif two.tokens == ("0", "1"):
        code = {"0": 0, "1": 1}
    elif "2" not in numbers:  # 0 and 1 could also be the first and the second
        return None
    elif two.tokens == ("1", "2"):
        code |= {"0": TIE, "3": TIE}
    return {**words, **code} if numbers <= code.keys() else None


def choice_of(survey: Survey, two: TwoAnswers) -> str | None:
    """The column that says which of two answers was chosen: the first that is named so."""
    for name, column in survey.items():
        cell = isinstance(column.example, str | int | float) and not is_prose(column.example)
        of_one = re.search(r"_(model|text|score|name)$", name) or twins(survey, name, two.tokens)
        told = re.search(CHOICE, name) and column.filled and not of_one
        if told and (cell or column.is_coded) and name not in (two.first, two.second):
            return name
    return None


# --- Shapes ---

Note = Callable[..., None]  # what was done to a row; a second argument gathers what is alike


class Shape(NamedTuple):
    """What rows look like, and what makes pairs of them."""

    said: str  # for the user; nothing where rows are pairs already
    columns: tuple[str, ...]  # that are read
    needs: tuple[str, ...]  # that hold something in a row of this shape
    make: Callable[[dict], dict]  # a row with chosen and rejected; raises DroppedRow
    by_prompt: Callable | None = None  # (rows, note) -> pairs, where several rows make one


def find_shapes(survey: Survey, note: Note) -> list[Shape]:
    """The shapes that rows of the file may have, the most telling first; none where none is known.

    Raises UserError for a column of choices that is not understood.
    """
    chosen, rejected, messages, score, answer = (
        next((name for name in NAMES[role] if name in survey), None)
        for role in (*SIDES, "messages", "scores", "completion")
    )
    two, shapes = find_two(survey), []
    if chosen and rejected:
        pointers = find_pointers(survey, chosen, rejected, two, note)
        if pointers:
            return [pointers]
        shapes.append(Shape("", (), (chosen, rejected), dict))
    elif messages and rejected:
        said = f"chosen is the last turn of {messages}"
        columns = (messages, rejected)
        shapes.append(Shape(said, columns, columns, lambda row: {**row, "chosen": row[messages]}))
    if {"info", "summaries", "choice"} <= survey.keys():
        said = "the shape of summarize_from_feedback: choice says which summary is chosen"
        columns = ("info", "summaries", "choice")
        shapes.append(Shape(said, columns, columns[:2], choose_summary))
    shapes += scored_shapes(survey)
    if two and rejected not in two:
        shapes += chosen_of_two(survey, two, note, sure=not shapes)
    if not shapes and score and answer and as_number(survey[score].example) is not None:
        said = f"scored answers: of each prompt the best and the worst by {score}"
        by_prompt = partial(pair_by_prompt, answer=answer, score=score)
        shapes.append(Shape(said, (answer, score), (answer,), dict, by_prompt))
    return shapes


def find_pointers(
    survey: Survey, chosen: str, rejected: str, two: TwoAnswers | None, note: Note
) -> Shape | None:
    """The shape of rows whose chosen and rejected name other columns, where the texts stand."""
    both = [survey[chosen], survey[rejected]]
    values = both[0].values + both[1].values
    columns = {name: name for name in survey if name not in (chosen, rejected)}
    if not all(column.is_coded for column in both):
        return None
    if not {clean_name(value) for value in values} <= columns.keys():
        if not all(is_code(column, two.tokens if two else ()) for column in both):
            return None
        coding = two and read_coding(chosen, values, two)
        if not coding:
            shown = {"values": both[0].shown(4), "others": both[1].shown(4)}
            raise refuse("codes", chosen=chosen, rejected=rejected, **shown)
        columns = {clean_name(v): two[side] for v, side in coding.items() if side in (0, 1)}
    places = tuple(dict.fromkeys(columns[name] for name in map(clean_name, map(normalise, values))))

    def follow(row: dict) -> dict:
        named = [columns.get(clean_name(normalise(row[name]))) for name in (chosen, rejected)]
        if None in named or named[0] == named[1]:
            shown = f"{row[chosen]!r:.40} and {row[rejected]!r:.40}"
            raise odd("pointer", chosen=chosen, rejected=rejected, shown=shown)
        note(f"{row[chosen]} = {named[0]}", chosen)
        rest = {name: cell for name, cell in row.items() if name not in (chosen, rejected)}
        return rest | {side: row[name] for side, name in zip(SIDES, named, strict=True)}

    return Shape("", places, (chosen, rejected), follow)


def chosen_of_two(survey: Survey, two: TwoAnswers, note: Note, sure: bool) -> list[Shape]:
    """The shape of rows with two answers and what says which is the better one, if it is known.

    Raises UserError where that is not understood, if it is `sure` to be what the rows are.
    """
    others = [name for name in survey if name not in two]
    choice, scores = choice_of(survey, two), twins(others, SCORE, two.tokens)
    models, third = twins(others, MODEL, two.tokens), {"b": "c", "2": "3"}.get(two.tokens[1])
    if third and twins(survey, ANSWER, (two.tokens[0], third)):
        return []  # more than two answers
    columns, choose, problem = (), None, None
    if choice:
        columns, held = (choice,), survey[choice]
        shown = {"values": held.shown(), "value": repr(next(iter(held.values), "..."))}
        problem = refuse("coding", column=choice, first=two.first, second=two.second, **shown)
        coding = read_coding(choice, held.values, two) if held.is_coded else None
        if coding:
            choose = partial(choose_by_code, column=choice, coding=coding)
        elif models and isinstance(held.example, str):
            columns = (choice, *models)
            choose = partial(choose_by_name, column=choice, models=models, two=two, problem=problem)
    elif scores:
        columns, choose = scores, partial(choose_by_score, scores=scores)
        for name in scores:
            if as_number(survey[name].example) is None:
                shown, choose = f"{survey[name].example!r:.60}", None
                problem = refuse(
                    "no number", name=name, shown=shown, first=scores[0], second=scores[1]
                )
    if problem and not choose and sure:
        raise problem
    prompt = PROMPT_OF.get(two.first)
    prompt = prompt if prompt in survey else None

    def make(row: dict) -> dict:
        side, said = choose(row)
        note(f"{said} = {two[side]}" if side in (0, 1) else f"{said} dropped", columns[0])
        if side not in (0, 1):
            raise DroppedRow(side)
        texts = dict(zip(SIDES, (row[two[side]], row[two[1 - side]]), strict=True))
        if prompt or isinstance(
            row.get("question"), dict
        ):  # WebGPT's says where it comes from, too
            cell = row.get(prompt or "question")
            texts["prompt"] = cell["full_text"] if isinstance(cell, dict) else cell
        return row | texts

    read = (*two[:2], *columns, *filter(None, [prompt]))
    return [Shape("", read, two[:2], make)] if choose else []


def choose_by_code(row: dict, column: str, coding: dict) -> tuple:
    cell = row.get(column)
    filled = holds_something(cell)
    return coding[normalise(cell)] if filled else UNLABELLED, str(cell) if filled else "empty"


def choose_by_name(
    row: dict, column: str, models: tuple, two: TwoAnswers, problem: UserError
) -> tuple:
    """By the name of the model that wrote the better answer."""
    value, names = normalise(row[column] or ""), [normalise(row[name]) for name in models]
    if value in names and names[0] != names[1]:
        return names.index(value), f"the name in {models[names.index(value)]}"
    side = meaning(value, two)
    if value in names or side not in (TIE, UNLABELLED):
        raise problem
    return side, value or "empty"


def choose_by_score(row: dict, scores: tuple[str, str]) -> tuple:
    """By two numbers: the higher one, or the lower one of ranks."""
    first, second = (as_number(row[name]) for name in scores)
    if first is None or second is None:
        return UNLABELLED, f"{scores[0]} or {scores[1]} empty"
    if first == second:
        return TIE, f"{scores[0]} equal to {scores[1]}"
    low = bool(SMALL_IS_GOOD.search(scores[0]))
    return int((first > second) == low), f"{'below' if first < second else 'above'} {scores[1]}"


def choose_summary(row: dict) -> dict:
    """A row of summarize_from_feedback, its prompt as TRL writes it (tldr-preference)."""
    info, choice = row["info"], row["choice"]
    if choice not in (0, 1):
        raise DroppedRow(UNLABELLED)
    texts = [summary["text"] for summary in row["summaries"]]
    lines = [f"TITLE: {info['title']}"] if info.get("title") else []
    if info.get("post"):
        lines = [f"SUBREDDIT: r/{info.get('subreddit')}", *lines, f"POST: {info['post']}"]
    else:
        lines.append(info.get("article") or "")
    prompt = "\n\n".join([*lines, "TL;DR:"])
    return {"prompt": prompt, "chosen": texts[choice], "rejected": texts[1 - choice]}


# --- Several answers with scores ---


def scored_shapes(survey: Survey) -> list[Shape]:
    """The shape of rows with several answers and their scores, if it is known."""
    for whose, answers, text, score in TABLES["scored"]:
        example = survey[answers].example if answers in survey else None
        first = example[0] if isinstance(example, list) and example else None
        keys = first if text and isinstance(first, dict) else survey if is_texts(example) else {}
        if score not in keys or not (text is None or text in keys):
            continue

        def make(row: dict, answers=answers, text=text, score=score) -> dict:
            cells, scores = row.get(answers) or [], row.get(score) or []
            if text is not None:
                cells, scores = [c[text] for c in cells], [c.get(score) for c in cells]
            return {**row, **extremes(zip(scores, cells, strict=False), score)}

        said = f"the shape of {whose}: best and worst answer by {score}"
        return [Shape(said, (answers, *([] if text else [score])), (answers,), make)]
    return []


def extremes(scored: Iterable[tuple], score: str) -> dict:
    """chosen and rejected of (score, answer); the first one of those that are equally good."""
    known = [(as_number(number), text) for number, text in scored if as_number(number) is not None]
    numbers = [number for number, _ in known]
    if len(set(numbers)) < 2:
        raise DroppedRow(TIE if len(numbers) > 1 else "with fewer than two scored answers")
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
        raise refuse("one answer", score=score)
    for group in groups.values():
        for place, _ in group[2:]:
            note("answers between the best and the worst of a prompt not used", place=place)
        place, first = group[0]
        try:
            pair = extremes([(row.get(score), row.get(answer)) for _, row in group], score)
            yield place, {**first, **pair}
        except DroppedRow as drop:
            yield place, drop


# --- One answer and its label ---


def label_column(survey: Survey) -> str | None:
    """The column that says of one answer on each row whether it is good, as KTO takes them."""
    answers = any(name in survey for name in (*NAMES["completion"], *NAMES["messages"]))
    return next((name for name in NAMES["label"] if answers and name in survey), None)


def read_labels(survey: Survey) -> dict[str, bool]:
    """What each value of the label's column says: True for good. Raises UserError."""
    column = label_column(survey)
    seen = {normalise(value) for value in survey[column].values} - {*TABLES["no_label"]}
    for good, bad in TABLES["labels"]:
        if survey[column].is_coded and seen <= {good, bad}:
            return {good: True, bad: False}
    raise refuse("no labels", column=column, values=survey[column].shown())


# --- What cannot be read, and the way out ---


def refuse_export(survey: Survey) -> None:
    """Raise UserError for what another tool exports and no reader should guess."""
    for export in EXPORTS:
        if {*export["keys"]} <= survey.keys():
            raise refuse("export", tool=export["tool"], line=export["line"])


def explain_missing(survey: Survey) -> UserError:
    """The error for rows that are no pairs, with the way out."""
    words = {role: next((name for name in NAMES[role] if name in survey), None) for role in NAMES}
    answer = words["completion"] or words["messages"]
    missing = [side for side in SIDES if not words[side]]
    reason = f"no column {', '.join(missing)}; the columns are {', '.join(survey)}"
    told = {"reason": reason, "answer": answer, "prompt": words["prompt"] or "prompt"}
    texts = [name for name, column in survey.items() if texts_in(column.example)]
    prose = [name for name in texts if is_message(survey[name].example)]
    prose += [name for name in texts if any(map(is_prose, texts_in(survey[name].example)))]
    if label_column(survey):
        read_labels(survey)
        return refuse("labels", **told, label=label_column(survey))
    if not prose:
        return refuse("nothing", **told)
    if words["completion"] and len(missing) == 1:
        return refuse("one side", **told, missing=missing[0])
    numbers = [name for name, column in survey.items() if as_number(column.example) is not None]
    numbers = [name for name in numbers if not NO_SCORE.search(name)]
    if answer and numbers and len(missing) == 2:
        best = ("idxmin", "idxmax") if SMALL_IS_GOOD.search(numbers[0]) else ("idxmax", "idxmin")
        told |= {"scores": ", ".join(numbers), "score": numbers[0]}
        return refuse("scores", **told, best=best[0], worst=best[1])
    flags = [name for name, column in survey.items() if isinstance(column.example, bool)]
    if answer and flags and len(missing) == 2:
        return refuse("flag", **told, label=flags[0])
    answers = [name for name in texts if re.search(ANSWER, name)]
    if len(answers) == 2 and len(missing) == 2:
        return refuse("two answers", **told, first=answers[0], second=answers[1])
    return refuse("missing", **told, flags=", ".join(f"--{side}-column" for side in missing))


def refuse_misspelt(row: dict) -> None:
    """Raise DroppedRow for a row without a prompt or an answer, but with it under a like name."""
    known = {name for names in NAMES.values() for name in names}
    for role in COLUMNS:
        if any(holds_something(row.get(name)) for name in NAMES[role]):
            continue
        for name, cell in row.items():
            if name not in known and holds_something(cell) and edits(name, role) <= 2:
                raise odd("misspelt", role=role, name=name)


def edits(one: str, other: str) -> int:
    """How many letters must be put in, left out or replaced to make one word of the other."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        new = [i]
        for (corner, above), wanted in zip(pairwise(row), other, strict=True):
            new.append(min(new[-1] + 1, above + 1, corner + (letter != wanted)))
        row = new
    return row[-1]
