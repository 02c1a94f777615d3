"""Shapes of preference data: which columns hold the prompt, the better answer and the worse one.

A column that says which answer was chosen is understood as a whole or not at all.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import NamedTuple

from common.basics import UserError
from common.preferences import SIDES
from common.prompts import prompt_key
from own_data import conversations as talk
from own_data.conversations import NAMES, DroppedRow, is_texts, refuse

USUAL = NAMES["columns"]  # the lab's own first; of the others one may hold something in a row
EXPORTS = json.loads((talk.TABLES / "exports.json").read_text(encoding="utf-8"))  # by their keys
# What the name of a column tells of it; of some numbers the small ones are the good ones.
NAME_PARTS = ("answers", "choices", "scores", "writers", "small is good", "no score")
OF_ANSWERS, OF_CHOICES, OF_SCORES, OF_WRITERS, SMALL_IS_GOOD, NO_SCORE = (
    "|".join(NAMES["parts_of_names"][kind]) for kind in NAME_PARTS
)
FILLERS, TIES, BESIDE_TIES = ({*NAMES[what]} for what in ("fillers", "ties", "beside_ties"))
TIE, UNLABELLED = "tied", "not labelled"
FEW_ODD = 0.2  # the share of rows, or of texts, that may be unlike the others


def clean_name(name) -> str:
    """The name of a column in lower case; blanks at its ends and a byte order mark go."""
    return re.sub(r"[\s-]+", "_", str(name).strip("\ufeff \t\r\n")).lower()


def holds_something(cell) -> bool:
    """Whether a cell is not empty: a text, messages, a number."""
    return bool(cell.strip()) if isinstance(cell, str) else cell not in (None, [], {})


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
    """The column that holds `role` ("prompt", ...) in a row, if any does. Raises DroppedRow."""
    present = [name for name in USUAL[role] if name in row]
    filled = [name for name in present if holds_something(row[name])]
    if not present or present[0] == role:
        return role if present else None
    if {"instruction", "input"} == set(filled):
        return "instruction"  # the two are one prompt
    if len(filled) > 1:
        ordered = sorted(filled, key=lambda name: name not in ("context", "post"))
        joined = ' + "\\n\\n" + '.join(f'row["{name}"]' for name in ordered)
        why = "several" if role in ("prompt", "system") else "which one"
        raise refuse(why, role=role, names=" and ".join(filled[:3]), joined=joined)
    return (filled or present)[0]


class Column:
    """What a column holds, over all rows."""

    def __init__(self) -> None:
        self.filled, self.example = 0, None  # cells that are not empty, and the first of them
        self.values, self.texts = Counter(), 0  # short values; how many cells are texts
        self.ways, self.turns = Counter(), Counter()  # see `written_as`
        self.marks = Counter()  # of templates, in texts and at their ends

    def add(self, cell) -> None:
        if not holds_something(cell):
            return
        self.filled += 1
        self.example = cell if self.example is None else self.example
        shown = cell if isinstance(cell, int | float) else str(cell).strip()
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


def first_of(survey: Iterable[str], *roles: str) -> str | None:
    """The first of the usual names of these roles that is a column."""
    return next((name for role in roles for name in USUAL[role] if name in survey), None)


class TwoAnswers(NamedTuple):
    """Two columns of answers, and the tokens in which their names differ: a and b, 1 and 2."""

    first: str
    second: str
    tokens: tuple[str, str]


def tokens_of(text: str) -> set[str]:
    return {*re.findall(r"[a-z]+|\d+", text.lower())}


def twins(names: Iterable[str], word: str, tokens: tuple[str, str]) -> list[tuple[str, str]]:
    """The pairs of columns whose names hold `word` and are the same but for these tokens."""
    split = {tuple(re.findall(r"[a-z]+|\d+|[^a-z\d]+", name)): name for name in names}
    pairs = []
    for parts, name in split.items():
        for k in [k for k, part in enumerate(parts) if part == tokens[0]]:
            other = split.get((*parts[:k], tokens[1], *parts[k + 1 :]))
            pairs += [(name, other)] if other and re.search(word, name) else []
    return pairs


def find_two(survey: Survey) -> TwoAnswers | None:
    texts = [name for name, c in survey.items() if isinstance(c.example, str | list | dict)]
    texts = [name for name in texts if not re.search(NO_SCORE, name)]
    for tokens in map(tuple, NAMES["sides"]):
        for found in twins(texts, OF_ANSWERS, tokens):
            coded = all(is_code(survey[name], tokens) for name in found)
            if not coded and not re.search(OF_CHOICES, found[0]):
                return TwoAnswers(*found, tokens)
    return None


def is_code(column: Column, tokens: Iterable[str] = ()) -> bool:
    """Whether all that a column holds are codes of one of two answers, and no texts."""
    words = [tokens_of(str(value)) for value in column.values]
    codes = FILLERS | {"0", "1", "2", "a", "b", *tokens}
    return column.is_coded and all(said and said <= codes for said in words)


def meaning(value: str, two: TwoAnswers) -> int | str | None:
    """0 or 1 for the answer that a normalised word names; TIE, UNLABELLED; None where unknown."""
    if value in NAMES["no_label"]:
        return UNLABELLED
    signs = re.fullmatch(r"\[*\s*([\w ]+?)\s*(>+|<+|=)\s*([\w ]+?)\s*\]*", value)
    if signs:
        return TIE if signs[2] == "=" else meaning(signs[1 if signs[2][0] == ">" else 3], two)
    said, names = tokens_of(value), (tokens_of(two.first), tokens_of(two.second))
    if TIES & said or value == "no preference":
        return TIE if said <= FILLERS.union(TIES, BESIDE_TIES, *names) else None
    named = said - FILLERS - ((names[0] & names[1]) - {*"ab012"})
    numbers = two.tokens if two.tokens[0] in "01" else ("1", "2")
    for side, words in enumerate(({"a", "left", "first"}, {"b", "right", "second"})):
        if len(named) == 1 and named <= words | {two.tokens[side], numbers[side]}:
            return side
    return None


def read_coding(column: str, values: Iterable, two: TwoAnswers) -> dict[str, int | str] | None:
    """What each normalised value of a choice column says; None for no known coding, or two."""
    seen = {normalise(value) for value in values}
    numbers = {value for value in seen if as_number(value) is not None}
    words = {value: meaning(value, two) for value in ("", *(seen - numbers))}
    mixed = numbers and any(side in (0, 1) for side in words.values())
    if None in words.values() or mixed or any(isinstance(value, bool) for value in values):
        return None
    codings, tokens = NAMES["codings"], " ".join(two.tokens)
    code = codings.get(f"{column} of {two.first}") or codings.get(tokens, codings["others"])
    if column in NAMES["signed"] and tokens == "1 2":
        code = {n: TIE if float(n) == 0 else int(float(n) > 0) for n in numbers}
        code = code if 0 in code.values() else {}
    elif "2" in code and "2" not in numbers:  # 0 and 1 could also be the first and the second
        code = {}
    return {**words, **code} if numbers <= code.keys() else None


def choice_of(survey: Survey, two: TwoAnswers) -> str | None:
    """The column that says which of two answers was chosen: the first that is named so."""
    beside = f"_({'|'.join(NAMES['beside_choices'])})$"
    of_one = {name for pair in twins(survey, "", two.tokens) for name in pair}
    named = []
    for name, column in survey.items():
        text = column.example if isinstance(column.example, str) and not column.is_coded else ""
        long = len(text.split()) > 2 or (len(text) > 4 and not text.isascii())
        other = long or name in of_one or talk.is_message(column.example) or re.search(beside, name)
        if re.search(OF_CHOICES, name) and not other:
            named.append(name)
    simple = [name for name in named if isinstance(survey[name].example, str | int | float)]
    return next(iter(simple or named), None)


class Shape(NamedTuple):
    """What rows look like, and what makes pairs of them."""

    needs: tuple[str, ...]  # columns that hold something in a row of this shape
    make: Callable  # of a row: one with chosen and rejected; raises DroppedRow
    columns: tuple[str, ...] = ()  # that it reads; `read_row` finds those of texts
    said: str = ""  # for the user; nothing where that is said otherwise
    by_prompt: bool = False  # whether several rows make one


def find_shapes(source) -> list[Shape]:
    """The shapes of the rows of a `read.Source`, the most telling first; they count its choices."""
    survey, roles = source.survey, (*SIDES, "messages", "scores", "completion")
    chosen, rejected, messages, score, answer = (first_of(survey, role) for role in roles)
    two, shapes = find_two(survey), []
    if chosen and rejected:
        texts = Shape((chosen, rejected), dict)
        shapes.append(by_pointers(source, chosen, rejected, two) or texts)
    elif messages and rejected:
        said, both = f"chosen is the last turn of {messages}", (messages, rejected)
        shapes.append(Shape(both, lambda row: {**row, "chosen": row[messages]}, both, said))
    if {"info", "summaries", "choice"} <= survey.keys():
        said = "the shape of summarize_from_feedback: choice says which summary is chosen"
        columns = ("info", "summaries", "choice")
        shapes.append(Shape(columns[:2], choose_summary, columns, said))
    for whose, answers, text, score_of in NAMES["scored"]:
        example = survey[answers].example if answers in survey else None
        first = example[0] if isinstance(example, list) and example else None
        keys = first if text and isinstance(first, dict) else survey if is_texts(example) else {}
        if score_of in keys and (text is None or text in keys):
            said = f"the shape of {whose}: best and worst answer by {score_of}"
            make = partial(extremes, answers=answers, text=text, score=score_of)
            columns = (answers,) if text else (answers, score_of)
            shapes.append(Shape((answers,), make, columns, said))
            break
    if two and rejected not in two:
        others = {k: c for k, c in survey.items() if not shapes or k not in (chosen, rejected)}
        choice, rated = choice_of(others, two), twins(others, OF_SCORES, two.tokens)
        third = twins(survey, OF_ANSWERS, (two.tokens[0], {"b": "c", "2": "3"}.get(two.tokens[1])))
        try:
            if third and (choice or rated):
                shown = f'"{two.first}", "{two.second}", "{third[0][1]}"'
                words = {"first": two.first, "choice": choice or "best"}
                raise refuse("more answers", answers=shown, **words)
            if choice:
                shapes.append(by_choice(source, others, two, choice))
            elif rated:
                shapes.append(by_scores(source, others, two, rated))
        except UserError:  # of no interest where rows have another shape, too
            if not shapes:
                raise
    if not shapes and score and answer and as_number(survey[score].example) is not None:
        said = f"scored answers: of each prompt the best and the worst by {score}"
        make = partial(extremes, answers=answer, text=None, score=score)
        shapes.append(Shape((answer,), make, (answer, score), said, by_prompt=True))
    return shapes


def by_pointers(source, chosen: str, rejected: str, two: TwoAnswers | None) -> Shape | None:
    """The shape of rows whose chosen and rejected name the columns of the texts, if they do."""
    both = [source.survey[chosen], source.survey[rejected]]
    others = source.survey.keys() - {chosen, rejected}
    named, known = {}, 0  # value -> column, TIE, UNLABELLED or None; how many cells it explains
    for cell, count in chain(*(column.values.items() for column in both)):
        value, name = normalise(cell), clean_name(cell)
        side = meaning(value, two) if two else None
        pointed = two[side] if side in (0, 1) else side
        named[value] = name if name in others else pointed
        known += count * (named[value] is not None)
    columns, filled = others & {*named.values()}, both[0].filled + both[1].filled
    if not columns or known < filled:
        coded = all(is_code(column, two.tokens if two else ()) for column in both)
        if coded or (columns and known > FEW_ODD * filled):
            shown = {"values": both[0].shown(4), "others": both[1].shown(4)}
            raise refuse("codes", chosen=chosen, rejected=rejected, **shown)
        return None

    def make(row: dict) -> dict:
        sides = [named[normalise(row[column])] for column in (chosen, rejected)]
        if not columns.issuperset(sides):
            raise DroppedRow(TIE if TIE in sides else UNLABELLED)
        source.choices[chosen][f"{row[chosen]} = {sides[0]}"] += 1
        return {**row, "chosen": row[sides[0]], "rejected": row[sides[1]]}

    return Shape((chosen, rejected), make, (chosen, rejected, *columns))


def choose_summary(row: dict) -> dict:
    """A row of summarize_from_feedback, its prompt as TRL writes it (tldr-preference)."""
    info, texts = row["info"], [summary["text"] for summary in row["summaries"]]
    starts = {"subreddit": "SUBREDDIT: r/", "title": "TITLE: ", "post": "POST: ", "article": ""}
    parts = [start + info[name] for name, start in starts.items() if info.get(name)]
    if row["choice"] not in (0, 1):
        raise DroppedRow(UNLABELLED)
    sides = {"chosen": texts[row["choice"]], "rejected": texts[1 - row["choice"]]}
    return {"prompt": "\n\n".join([*parts, "TL;DR:"]), **sides}


def by_choice(source, survey: Survey, two: TwoAnswers, choice: str) -> Shape:
    """The shape of rows with a column that holds a known coding, or the name of a model."""
    held, models = survey[choice], next(iter(twins(survey, OF_WRITERS, two.tokens)), ())
    coding = read_coding(choice, held.values, two) if held.is_coded else None
    shown = {"values": held.shown(), "value": repr(next(iter(held.values), "..."))}
    unknown = refuse("coding", column=choice, first=two.first, second=two.second, **shown)
    if not coding and not (models and isinstance(held.example, str)):
        raise unknown
    prompt = NAMES["prompt_of"].get(two.first)

    def make(row: dict) -> dict:
        value = normalise(row.get(choice))
        said = str(row[choice]) if holds_something(row.get(choice)) else "empty"
        if coding:
            side = coding.get(value, UNLABELLED)
        else:
            names = [normalise(row[name]) for name in models]
            side = names.index(value) if names.count(value) == 1 else meaning(value, two)
            if side not in (TIE, UNLABELLED) and names.count(value) != 1:
                raise unknown
            said = f"the name in {models[side]}" if side in (0, 1) else said
        if side in (TIE, UNLABELLED):
            source.choices[choice][f"{said} dropped"] += 1
            raise DroppedRow(side)
        source.choices[choice][f"{said} = {two[side]}"] += 1
        asked = {"prompt": row[prompt]} if prompt in row else {}
        return {**row, "chosen": row[two[side]], "rejected": row[two[1 - side]], **asked}

    return Shape(two[:2], make, (*two[:2], choice, *models, prompt or ""))


def by_scores(source, survey: Survey, two: TwoAnswers, rated: list[tuple[str, str]]) -> Shape:
    """The shape of rows with two numbers: the higher one is better, or the lower one of ranks."""
    overall = [pair for pair in rated if re.search(r"overall|winner|^score|^rating", pair[0])]
    numbers = [name for name, column in survey.items() if as_number(column.example) is not None]
    others = [pair for pair in twins(numbers, "", two.tokens) if not re.search(NO_SCORE, pair[0])]
    first, second = scores = (overall or rated)[0]
    rivals = dict([*rated, *others])
    if len(rivals) > 1 and len(overall) != 1:
        words = {"names": ", ".join(rivals), "a": two.first, "b": two.second}
        raise refuse("which score", first=first, second=second, **words)
    for name in scores:
        if name not in numbers:
            shown = f"{survey[name].example!r:.60}"
            raise refuse("no number", name=name, shown=shown, first=first, second=second)
    better = "lower" if re.search(SMALL_IS_GOOD, first) else "higher"

    def make(row: dict) -> dict:
        lists = {name: [row[name], row[other]] for name, other in (two[:2], scores)}
        made = extremes({**row, **lists}, two.first, None, first)
        side = two.first if made["chosen"] == row[two.first] else two.second
        source.choices[f"{first}, {second}"][f"{better} = {side}"] += 1
        return made

    return Shape(two[:2], make, (*two[:2], *scores))


def extremes(row: dict, answers: str, text: str | None, score: str) -> dict:
    """The row with the best and the worst of its answers, the first of equal ones."""
    cells, scores = row.get(answers) or [], row.get(score) or []
    if text is not None:  # answers and scores are keys of the same dictionaries
        cells, scores = [cell[text] for cell in cells], [cell.get(score) for cell in cells]
    numbers = map(as_number, scores)
    known = [(n, cell) for n, cell in zip(numbers, cells, strict=False) if n is not None]
    if len({number for number, _ in known}) < 2:
        raise DroppedRow(TIE if len(known) > 1 else "with fewer than two scored answers")
    best, worst = (min, max) if re.search(SMALL_IS_GOOD, score) else (max, min)
    sides = (extreme(known, key=lambda pair: pair[0])[1] for extreme in (best, worst))
    return row | dict(zip(SIDES, sides, strict=True))


def gather_by_prompt(source, rows: Iterable[dict], answer: str, score: str) -> Iterator[dict]:
    """A row of lists for every prompt, at its first place, of rows that are held in memory."""
    groups: dict[str, list] = {}
    for row in rows:
        prompt = [row.get(name) for name in (*USUAL["prompt"], *USUAL["system"])]
        groups.setdefault(prompt_key(prompt), []).append((source.place, row))
    if all(len(group) == 1 for group in groups.values()):
        raise refuse("one answer", score=score)
    for group in groups.values():
        for source.place, _ in group[2:]:
            source.note("answers between the best and the worst of a prompt not used")
        source.place, first = group[0]
        yield first | {name: [row.get(name) for _, row in group] for name in (answer, score)}


def label_column(survey: Survey) -> str | None:
    """The column that says of one answer a row whether it is good, as KTO takes them."""
    return first_of(survey, "label") if first_of(survey, "completion", "messages") else None


def read_labels(survey: Survey) -> dict[str, bool]:
    """What each value of the label's column says: True for good. Raises UserError."""
    column = label_column(survey)
    if column is None:
        raise refuse("no label", columns=", ".join(survey))
    seen = {normalise(value) for value in survey[column].values} - {*NAMES["no_label"]}
    for good, bad in NAMES["labels"]:
        if survey[column].is_coded and seen <= {good, bad}:
            return {good: True, bad: False}
    raise refuse("no labels", column=column, values=survey[column].shown())


def explain_missing(survey: Survey) -> UserError:
    """The error for rows that are no pairs, with the way out."""
    examples = {name: c.example for name, c in survey.items() if not re.search(NO_SCORE, name)}
    answer, label = first_of(survey, "completion", "messages"), label_column(survey)
    missing = [side for side in SIDES if not first_of(survey, side)]
    texts = [name for name, cell in examples.items() if talk.texts_in(cell)]
    numbers = [name for name, cell in examples.items() if as_number(cell) is not None]
    bad = {name for name in examples if re.search(SMALL_IS_GOOD, name)}
    flags = [name for name, cell in examples.items() if isinstance(cell, bool) and name not in bad]
    answers = [name for name in texts if re.search(OF_ANSWERS, name)]
    says = [n for n in examples if re.search(f"{OF_CHOICES}|rank", n) and n not in answers]
    reason = f"no column {', '.join(missing)}; the columns are {', '.join(survey)}"
    reason += f"; {', '.join(says)} may say which answer is better" if says else ""
    told = {"reason": reason, "answer": answer, "prompt": first_of(survey, "prompt") or "prompt"}
    if label and len(missing) == 2:
        read_labels(survey)  # raises the error of a label that is none
        return refuse("label", label=label, **told)
    if not texts:
        return refuse("nothing", **told)
    if len(missing) == 2 and answer and numbers:
        best = ["idxmax", "idxmin"][:: -1 if numbers[0] in bad else 1]
        told |= {"scores": ", ".join(numbers), "best": best[0], "worst": best[1]}
        return refuse("scores", score=numbers[0], **told)
    if len(missing) == 2 and answer and flags:
        return refuse("label", label=flags[0], **told)
    if len(missing) == len(answers) == 2:
        return refuse("two answers", first=answers[0], second=answers[1], **told)
    return refuse("missing", flags=", ".join(f"--{side}-column" for side in missing), **told)
