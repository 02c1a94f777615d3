"""Shapes of preference data: which columns hold the prompt, the better answer and the worse one.

A file is looked over once before it is read: what its columns are and hold decides the shape, and a
column that says which answer was chosen is understood as a whole or not at all.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from common.basics import UserError
from common.preferences import COLUMNS, SIDES
from common.prompts import prompt_key
from own_data import conversations as talk
from own_data.conversations import DroppedRow, is_texts, odd, refuse

# The usual names of columns, the lab's own first; of the others one may hold something in a row.
USUAL = talk.NAMES["columns"]
# Keys that tell an export, the tool's name, and the line that converts it (`rows` as Python has
# them), or what to export instead.
EXPORTS = json.loads((talk.TABLES / "exports.json").read_text(encoding="utf-8"))
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
    present = [name for name in USUAL[role] if name in row]
    if not present or present[0] == role:
        return present[0] if present else None
    filled = [name for name in present if holds_something(row[name])]
    if {"instruction", "input"} == set(filled):
        return "instruction"  # the two are one prompt
    if len(filled) > 1:
        ordered = sorted(filled, key=lambda name: name not in ("context", "post"))
        joined = ' + "\\n\\n" + '.join(f'row["{name}"]' for name in ordered)
        key = "several prompts" if role == "prompt" else "several"
        raise odd(key, role=role, names=" and ".join(filled[:3]), joined=joined)
    return (filled or present)[0]


# --- A look over the whole file ---


@dataclass
class Column:
    """What a column holds, over all rows."""

    filled: int = 0
    example: object = None  # the first cell that is not empty
    values: Counter = field(default_factory=Counter)  # that are short
    texts: int = 0  # that cells are
    ways: Counter = field(default_factory=Counter)  # in which they hold turns, see `written_as`
    turns: Counter = field(default_factory=Counter)  # how many these are
    marks: Counter = field(default_factory=Counter)  # of templates, in texts and at their ends

    def add(self, cell) -> None:
        if not holds_something(cell):
            return
        self.filled += 1
        self.example = cell if self.example is None else self.example
        shown = cell.strip() if isinstance(cell, str) else cell
        shown = str(cell) if isinstance(cell, list | dict) else shown
        if len(str(shown)) <= 80 and len(self.values) < 200:
            self.values[shown] += 1
        for text in talk.texts_in(cell):
            self.marks.update({talk.find_markup(text), talk.end_mark(text)} - {""})
        if isinstance(cell, str):
            self.texts += 1
            way, turns = talk.written_as(cell)
            self.ways[way] += bool(way)
            self.turns[way] += turns

    @property
    def way(self) -> str:
        """How the texts hold turns, where more than a fifth do; of one turn each, nearly all."""
        way, count = max(self.ways.items(), key=lambda item: item[1], default=("", 0))
        needed = FEW_ODD if way == talk.IN_A_LIST or self.turns[way] > count else 0.8
        return way if count > needed * self.texts and (count > 1 or needed == FEW_ODD) else ""

    @property
    def is_coded(self) -> bool:
        """Whether the column holds few short values, and nothing else."""
        return 0 < len(self.values) < 200 and self.values.total() == self.filled

    def shown(self, most: int = 9) -> str:
        """The values with their counts, the most frequent first."""
        shown = [f"{value!r} ({count})" for value, count in self.values.most_common(most)]
        return ", ".join(shown + ["..."] * (len(self.values) > most)) or f"{self.example!r:.60}"


Survey = dict[str, Column]


def look_over(rows: Iterable[tuple[int, dict]]) -> tuple[Survey, int]:
    """(what the columns of the file hold, how many rows there are)."""
    survey, count = {}, 0
    for _, row in rows:
        count += 1
        for name, cell in row.items():
            survey.setdefault(name, Column()).add(cell)
    for column in survey.values():
        column.example = talk.take_apart(column.example, column.way)
    return survey, count


def first_of(survey: Iterable[str], *roles: str) -> str | None:
    """The first of the usual names of these roles that is a column."""
    names = [name for role in roles for name in USUAL[role]]
    return next((name for name in names if name in survey), None)


# --- Which of two answers was chosen ---

FILLERS, TIES, BESIDE_TIES = (set(talk.NAMES[n]) for n in ("fillers", "ties", "beside_ties"))
SIDE_WORDS = ({"a", "left", "first"}, {"b", "right", "second"})
TOKENS = (("a", "b"), ("1", "2"), ("0", "1"), ("left", "right"), ("first", "second"))
OF_ANSWERS = r"(^|_|\.)(response|answer|output|completion|reply|conversation|conv|human_ref"
OF_ANSWERS += r"|generation|candidate|summary|option)"
OF_CHOICES = r"winner|prefer|choice|better|verdict|vote|selected|comparison|best|chosen|^labels?$"
OF_SCORES = r"overall|score|rating|reward|grade|points|winner|win|votes|helpfulness|quality|rank"
OF_WRITERS = r"model|generator|llm|policy|source"
SIGNED = ("preference_strength", "overall_preference")  # HelpSteer2 and 3: below 0 is the first
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


def twins(names: Iterable[str], word: str, tokens: tuple[str, str]) -> list[tuple[str, str]]:
    """The pairs of columns whose names hold `word` and are the same but for these tokens."""
    split = {tuple(re.findall(r"[a-z]+|\d+|[^a-z\d]+", name)): name for name in names}
    pairs = []
    for parts, name in split.items():
        for k, part in enumerate(parts):
            other = split.get((*parts[:k], tokens[1], *parts[k + 1 :]))
            if part == tokens[0] and other and re.search(word, name):
                pairs.append((name, other))
    return pairs


def find_two(survey: Survey) -> TwoAnswers | None:
    """The two columns of answers of a file, if there are such."""
    texts = []
    for name, column in survey.items():
        if isinstance(column.example, str | list | dict) and not NO_SCORE.search(name):
            texts.append(name)
    for tokens in TOKENS:
        for found in twins(texts, OF_ANSWERS, tokens):
            coded = all(is_code(survey[name], tokens) for name in found)
            if not coded and not re.search(OF_CHOICES, found[0]):
                return TwoAnswers(*found, tokens)
    return None


def is_code(column: Column, tokens: Iterable[str] = ()) -> bool:
    """Whether all that a column holds are codes of one of two answers, and no texts."""
    words = [set(tokens_of(str(value))) for value in column.values]
    codes = {"0", "1", "2", "a", "b", *tokens}
    return column.is_coded and all(said and said - FILLERS <= codes for said in words)


def meaning(value: str, two: TwoAnswers) -> int | str | None:
    """0 or 1 for the answer that a normalised word names; TIE, UNLABELLED; None where unknown."""
    if value in talk.NAMES["no_label"]:
        return UNLABELLED
    signs = re.fullmatch(r"\[*\s*([\w ]+?)\s*(>+|<+|=)\s*([\w ]+?)\s*\]*", value)
    if signs:
        return TIE if signs[2] == "=" else meaning(signs[1 if signs[2][0] == ">" else 3], two)
    said, names = tokens_of(value), (tokens_of(two.first), tokens_of(two.second))
    if TIES & {*said} or value == "no preference":
        return TIE if {*said} <= FILLERS | TIES | BESIDE_TIES | {*names[0], *names[1]} else None
    stem = {*names[0]} & {*names[1]} - {*"ab012"}
    named = {token for token in said if token not in FILLERS | stem}
    numbers = ("1", "2") if two.tokens[0] in ("a", "left", "first") else two.tokens
    for side in (0, 1):
        if len(named) == 1 and named <= SIDE_WORDS[side] | {two.tokens[side], numbers[side]}:
            return side
    return None


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
    of_one = {name for pair in twins(survey, "", two.tokens) for name in pair}
    beside = r"_(text|score|tie|reason|reasoning|explanation|rationale|time|confidence)$"
    named = []
    for name, column in survey.items():
        if re.search(OF_CHOICES, name) and name not in of_one and not re.search(beside, name):
            long = column.filled and not column.is_coded and is_prose(column.example)
            named += [] if long or talk.is_message(column.example) else [name]
    simple = [name for name in named if isinstance(survey[name].example, str | int | float)]
    return next(iter(simple or named), None)


# --- Shapes ---


class Shape(NamedTuple):
    """What rows look like, and what makes pairs of them."""

    said: str  # for the user; nothing where that is said otherwise
    columns: tuple[str, ...]  # that are read
    needs: tuple[str, ...]  # that hold something in a row of this shape
    make: partial | type  # of a row: one with chosen and rejected; raises DroppedRow
    by_prompt: partial | None = None  # of rows: pairs, where several rows make one


def find_shapes(survey: Survey, note) -> list[Shape]:
    """The shapes that rows of the file may have, the most telling first; none where none is known.

    Raises UserError for a column of choices that is not understood. `note(what, column)` counts
    what was done to a row.
    """
    roles = (*SIDES, "messages", "scores", "completion")
    chosen, rejected, messages, score, answer = (first_of(survey, role) for role in roles)
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
        others = {k: c for k, c in survey.items() if not shapes or k not in (chosen, rejected)}
        shapes += chosen_of_two(others, two, note, sure=not shapes)
    if not shapes and score and answer and as_number(survey[score].example) is not None:
        said = f"scored answers: of each prompt the best and the worst by {score}"
        by_prompt = partial(pair_by_prompt, note=note, answer=answer, score=score)
        shapes.append(Shape(said, (answer, score), (answer,), dict, by_prompt))
    return shapes


def find_pointers(survey: Survey, chosen: str, rejected: str, two, note) -> Shape | None:
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

    def follow(row: dict) -> dict:
        named = [columns.get(clean_name(normalise(row[name]))) for name in (chosen, rejected)]
        if None in named or named[0] == named[1]:
            shown = f"{row[chosen]!r:.40} and {row[rejected]!r:.40}"
            raise odd("pointer", chosen=chosen, rejected=rejected, shown=shown)
        note(f"{row[chosen]} = {named[0]}", chosen)
        rest = {name: cell for name, cell in row.items() if name not in (chosen, rejected)}
        return rest | {side: row[name] for side, name in zip(SIDES, named, strict=True)}

    return Shape("", tuple(columns.values()), (chosen, rejected), follow)


def chosen_of_two(survey: Survey, two: TwoAnswers, note, sure: bool) -> list[Shape]:
    """The shape of rows with two answers and what says which is the better one, if it is known.

    Raises UserError where that is not understood, if it is `sure` to be what the rows are.
    """
    choice, choose, problem = choice_of(survey, two), None, None
    third = twins(survey, OF_ANSWERS, (two.tokens[0], {"b": "c", "2": "3"}.get(two.tokens[1], "")))
    if third and sure:
        shown = f'"{two.first}", "{two.second}", "{third[0][1]}"'
        raise refuse("more answers", answers=shown, first=two.first, choice=choice or "winner")
    rated = twins(survey, OF_SCORES, two.tokens)
    overall = [pair for pair in rated if re.search(r"overall|winner|^score|^rating", pair[0])]
    scores = next(iter(overall or rated), ())
    models = next(iter(twins(survey, OF_WRITERS, two.tokens)), ())
    columns = (choice,) if choice else scores
    if choice:
        held = survey[choice]
        shown = {"values": held.shown(), "value": repr(next(iter(held.values), "..."))}
        problem = refuse("coding", column=choice, first=two.first, second=two.second, **shown)
        coding = read_coding(choice, held.values, two) if held.is_coded else None
        by_name = models and isinstance(held.example, str)
        if coding or by_name:
            columns = columns if coding else (choice, *models)
            choose = partial(choose_by, column=choice, coding=coding, models=models, two=two)
    elif scores:
        names = dict(zip(("first", "second"), scores, strict=True))
        wrong = [name for name in scores if as_number(survey[name].example) is None]
        others = [pair for pair in twins(survey, "", two.tokens) if pair not in rated]
        others = [pair for pair in others if as_number(survey[pair[0]].example) is not None]
        rivals = rated + [pair for pair in others if not NO_SCORE.search(pair[0])]
        if len(rivals) > 1 and len(overall) != 1:
            numbers = ", ".join(first for first, _ in rivals)
            problem = refuse("which score", names=numbers, **names, a=two.first, b=two.second)
        elif wrong:
            shown = f"{survey[wrong[0]].example!r:.60}"
            problem = refuse("no number", name=wrong[0], shown=shown, **names)
        else:
            choose = partial(choose_by_score, scores=scores)
    if problem and not choose and sure:
        raise problem
    prompt = PROMPT_OF.get(two.first)

    def make(row: dict) -> dict:
        side, said = choose(row)
        if side is None:
            raise problem
        note(f"{said} = {two[side]}" if side in (0, 1) else f"{said} dropped", columns[0])
        if side not in (0, 1):
            raise DroppedRow(side)
        texts = dict(zip(SIDES, (row[two[side]], row[two[1 - side]]), strict=True))
        asked = row.get(prompt or "question")
        if prompt in row or isinstance(asked, dict):  # WebGPT's says where it comes from, too
            texts["prompt"] = asked["full_text"] if isinstance(asked, dict) else asked
        return row | texts

    return [Shape("", (*two[:2], *columns, prompt or ""), two[:2], make)] if choose else []


def choose_by(row: dict, column: str, coding: dict | None, models: tuple, two: TwoAnswers) -> tuple:
    """(the side, what says so) by the coding of a column, else by the name of its model."""
    value = normalise(row[column]) if holds_something(row.get(column)) else ""
    said = str(row[column]) if value else "empty"
    if coding:
        return coding[value] if value else UNLABELLED, said
    names = [normalise(row[name]) for name in models]
    if value in names and names[0] != names[1]:
        return names.index(value), f"the name in {models[names.index(value)]}"
    side = meaning(value, two)
    return (side if side in (TIE, UNLABELLED) and value not in names else None), said


def choose_by_score(row: dict, scores: tuple[str, str]) -> tuple:
    """(the side, what says so) by two numbers: the higher one, or the lower one of ranks."""
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


def scored_shapes(survey: Survey) -> list[Shape]:
    """The shape of rows with several answers and their scores, if it is known."""
    for whose, answers, text, score in talk.NAMES["scored"]:
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


def pair_by_prompt(rows: Iterable[tuple[int, dict]], note, answer: str, score: str) -> Iterator:
    """(place, best and worst answer) of every prompt, from rows of one answer and its score.

    They stand at the place of the prompt's first row. All rows are held in memory.
    """
    groups: dict[str, list] = {}
    for place, row in rows:
        prompt = [row.get(name) for name in (*USUAL["prompt"], *USUAL["system"])]
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
    return first_of(survey, "label") if first_of(survey, "completion", "messages") else None


def read_labels(survey: Survey) -> dict[str, bool]:
    """What each value of the label's column says: True for good. Raises UserError."""
    column = label_column(survey)
    seen = {normalise(value) for value in survey[column].values} - {*talk.NAMES["no_label"]}
    for good, bad in talk.NAMES["labels"]:
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
    answer, label = first_of(survey, "completion", "messages"), label_column(survey)
    missing = [side for side in SIDES if not first_of(survey, side)]
    reason = f"no column {', '.join(missing)}; the columns are {', '.join(survey)}"
    told = {"reason": reason, "answer": answer, "prompt": first_of(survey, "prompt") or "prompt"}
    both = len(missing) == 2
    names = [name for name in survey if not NO_SCORE.search(name)]
    texts = [name for name in names if talk.texts_in(survey[name].example)]
    numbers = [name for name in names if as_number(survey[name].example) is not None]
    flags = [name for name in names if isinstance(survey[name].example, bool)]
    answers = [name for name in texts if re.search(OF_ANSWERS, name)]
    says = [name for name in names if re.search(f"{OF_CHOICES}|rank", name) and name not in answers]
    told["reason"] += f"; {', '.join(says)} may say which answer is better" if says else ""
    try:
        refuse_misspelt({name: column.example for name, column in survey.items()})
    except DroppedRow as drop:
        return UserError(drop.why)
    if label and both:
        read_labels(survey)
        return refuse("labels", **told, label=label)
    if not texts:
        return refuse("nothing", **told)
    if first_of(survey, "completion") and not both:
        return refuse("one side", **told, missing=missing[0])
    if answer and numbers and both:
        best = ("idxmin", "idxmax") if SMALL_IS_GOOD.search(numbers[0]) else ("idxmax", "idxmin")
        told |= {"scores": ", ".join(numbers), "score": numbers[0]}
        return refuse("scores", **told, best=best[0], worst=best[1])
    if answer and flags and both:
        return refuse("flag", **told, label=flags[0])
    if len(answers) == 2 and both:
        return refuse("two answers", **told, first=answers[0], second=answers[1])
    return refuse("missing", **told, flags=", ".join(f"--{side}-column" for side in missing))


def refuse_misspelt(row: dict) -> None:
    """Raise DroppedRow for a row without a prompt or an answer, but with it under a like name."""
    known = {name for names in USUAL.values() for name in names}
    for role in COLUMNS:
        if any(holds_something(row.get(name)) for name in USUAL[role]):
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
