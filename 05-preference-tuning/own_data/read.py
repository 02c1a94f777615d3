"""Your own data: pairs, or answers with a label, read from a file or the hub, counted and split.

Rows are read one after the other, twice: once to find their shape (shapes.py), once to take them
apart (conversations.py). They lie in a mapped file, so that memory does not grow with their number.
"""

import atexit
import bz2
import contextlib
import csv
import glob
import gzip
import hashlib
import io
import itertools
import json
import lzma
import re
import shutil
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common import models, prompts, scoring
from common.basics import UserError, show_progress
from common.preferences import COLUMNS, SIDES
from common.prompts import Prompt, as_messages, as_text, distinct_prompts
from own_data import conversations as talk
from own_data import shapes
from own_data.conversations import DroppedRow, Turn, odd, refuse
from own_data.shapes import FEW_ODD, Survey, clean_name, find_column, holds_something

if TYPE_CHECKING:
    from datasets import Dataset

MOST_HELD = 1000  # pairs at most: an accuracy is then known to 0.03
LONGEST = 1024  # tokens of a prompt with its answer, as DPOTrainer reads it
TYPES = {
    "pairs": {"chosen": "string", "rejected": "string"},
    "labels": {"completion": "string", "label": "bool"},
    "prompts": {},
}
SAYS_MORE = re.compile(r"status|rating|score|prefer|winner|label|tie|agree|choice|vote|rank")

# --- What lessons call ---


def load_preferences(
    path: str,
    *,
    split=None,
    config=None,
    prompt_column=None,
    chosen_column=None,
    rejected_column=None,
) -> "Dataset":
    """Your own pairs: a `datasets.Dataset` of prompt, chosen, rejected.

    Answers are texts as they stand. A prompt is a text, or a list of messages where it has several
    turns or a system message. A missing answer is an empty one. Rows are mapped, not in memory.
    Raises UserError with the file, the row (from 1) and the reason.
    """
    named = {"prompt_column": prompt_column, "chosen_column": chosen_column}
    named["rejected_column"] = rejected_column
    return read_data(path, "pairs", split, config, **named).rows.remove_columns("row")


def own_pairs(
    path: str,
    tokenizer,
    seed: int,
    *,
    pairs: int | None = None,
    prompts: int = 16,
    max_new_tokens: int = 48,
    max_length: int = LONGEST,
    labelled: bool = False,
    alone: bool = False,
    held_out: str | None = None,
    **reading: str | None,
) -> tuple["Dataset", "Dataset", list[Prompt]]:
    """(training rows, held-out rows, held-out prompts) for a language model.

    Rows are prompt, chosen, rejected. Where the file holds other rows, they are prompt, completion,
    label if `labelled`, and prompts alone if these will do (`alone`). What is left out is said in
    one line. `held_out` is another file.
    """
    kind, fits = "pairs", {"tokenizer": tokenizer, "room": max_new_tokens, "limit": max_length}
    if labelled or alone:
        found = kind_of_data(path, **reading)
        kind = found if {"labels": labelled, "prompts": alone}.get(found) else kind
    files = [file and usable(file, kind, **reading) for file in (path, held_out)]
    train, held = split_rows(*(rows and keep_readable(rows, **fits) for rows in files), seed, pairs)
    for rows in (train, held):
        if kind == "labels" and len(set(rows["label"])) < 2:
            reason = f"of {len(rows)} training or held-out answers all have the same label"
            raise UserError(f"--dataset: {reason}; more rows, or another --seed, are needed")
    return train, held, distinct_prompts(held["prompt"])[:prompts]


def own_reward_pairs(
    path: str, tokenizer, seed: int, *, pairs=None, held_out=None, max_length=LONGEST, **reading
) -> tuple["Dataset", "Dataset"]:
    """(training rows, held-out rows) for a reward model."""
    fits = {"tokenizer": tokenizer, "limit": max_length}
    files = [file and usable(file, "pairs", **reading) for file in (path, held_out)]
    return split_rows(*(rows and keep_readable(rows, **fits) for rows in files), seed, pairs)


# --- ReadData a data set ---


class ReadData(NamedTuple):
    """Rows with their place in the file (`row`, from 1), and what to say of them."""

    rows: "Dataset"
    dropped: dict[str, list[int]]  # the places of rows that were left out, by reason
    remarks: list[str]  # what was done to the rows, and what of them was not read


class Notes:
    """What was done to rows while they were read, counted."""

    def __init__(self, survey: Survey, total: int) -> None:
        self.survey, self.total, self.place, self.used = survey, total, 0, {""}
        self.counts: dict[tuple, list[int]] = {}  # what was done: rows, the first one, the last one
        self.marks = set()  # of templates, in more than a fifth of the cells of a column
        for column in survey.values():
            self.marks |= {m for m, n in column.marks.items() if n > FEW_ODD * column.filled}
        # Columns of numbers, of which the one of the chosen answer should be higher.
        self.rated = shapes.twins(survey, shapes.OF_SCORES, SIDES)
        self.derived = [0, 0, ""]  # characters of prompts, of all texts, an example

    def __call__(self, done: str, under: str = "", place: int | None = None) -> None:
        """Count something that was done to the row at this place."""
        place = place or self.place
        count = self.counts.setdefault((under, done), [0, place, 0])
        count[0], count[2] = count[0] + (count[2] != place), place

    def remarks(self) -> list[str]:
        """What to say of it, in phrases; choices under their column: A = response_a (9), ..."""
        said: dict[str, list[str]] = {}
        for (under, done), (count, first, _) in self.counts.items():
            start = f" rows, from row {first}" if first > 1 and not under else ""
            counted = f" ({count}{start})" if count < self.total or under else ""
            said.setdefault(under or done, []).append(done + counted)
        alone = {key for under, key in self.counts if not under}
        remarks = [("" if key in alone else f"{key}: ") + ", ".join(said[key]) for key in said]
        shared, characters, example = self.derived
        if shared:
            share = f'{shared / characters:.0%} of the text, such as "{example}"'
            remarks.append(f"no column prompt: what both texts begin with is the prompt, {share}")
        unread = [name for name in self.survey if name not in self.used]
        rated = [name for pair in self.rated for name in pair]
        for name in unread:
            column = self.survey[name]
            few = column.is_coded and len(column.values) <= 6 and name not in rated
            if few and SAYS_MORE.search(name):
                remarks.append(f"{name}, which is not read, holds {column.shown()}")
        unread = [name + " (texts)" * shapes.is_prose(self.survey[name].example) for name in unread]
        return remarks + ([f"columns not read: {', '.join(unread)}"] if unread else [])


def read_data(
    path: str, kind: str, split: str | None = None, config: str | None = None, **columns
) -> ReadData:
    """Rows of pairs, labels or prompts, in a mapped file. Raises UserError."""
    datasets = import_datasets()
    from datasets.arrow_writer import ArrowWriter

    beside: dict[str, int] = {}
    rows = partial(named_rows, path, split, config, columns, beside)
    survey, total = shapes.look_over(rows())
    notes = Notes(survey, total)
    types = {name: datasets.Value(of) for name, of in {**TYPES[kind], "row": "int64"}.items()}
    features = datasets.Features({"prompt": datasets.Json(), **types})
    file = str(folder_for_mapped_files() / "rows.arrow")
    dropped, why, wrong = {}, {}, 0
    with ArrowWriter(path=file, features=features) as writer, of_file(path):
        for place, row in show_progress(pairs_of(kind, notes, rows, columns), "reading rows"):
            if isinstance(row, DroppedRow):
                dropped.setdefault(row.reason, []).append(place)
                why.setdefault(row.reason, f"row {place}: {row.why}")
                wrong += row.odd
            else:
                prompt = json.dumps(row["prompt"])  # else Json() would read the text 007 as 7
                writer.write({**row, "prompt": prompt, "row": place})
        count, _ = writer.finalize()
    if wrong > FEW_ODD * total or not count:
        worst = max(dropped, key=lambda reason: len(dropped[reason]))
        others = f" ({wrong} of {total} rows are so)" if wrong > 1 else ""
        raise UserError(f"{path}, {why[worst]}{others}")
    done = [f"{count} {what}" if count else what for what, count in beside.items()]
    return ReadData(datasets.Dataset.from_file(file), dropped, [*done, *notes.remarks()])


@contextlib.contextmanager
def of_file(path: str) -> Iterator[None]:
    """Have what is refused say of which file."""
    try:
        yield
    except UserError as error:
        raise UserError(error if str(error).startswith(path) else f"{path}: {error}") from None


def named_rows(
    path: str, split: str | None, config: str | None, columns: dict, beside: dict
) -> Iterator[tuple[int, dict]]:
    """The rows with their place, and with the columns of the command line under our names.

    Line ends become \\n, NaN becomes empty. What was done to the file goes to `beside`, counted.
    """

    def plain(cell):
        if isinstance(cell, str) and "\r\n" in cell:
            done = "texts whose lines ended in \\r\\n have \\n"
            beside[done] = beside.get(done, 0) + 1
            return cell.replace("\r\n", "\n")
        if isinstance(cell, list):
            return [plain(part) for part in cell]
        if isinstance(cell, dict):
            return {key: plain(part) for key, part in cell.items()}
        return None if isinstance(cell, float) and cell != cell else cell

    beside.clear()
    for place, cells in enumerate(read_rows(path, split, config, beside), start=1):
        row = {clean_name(name): plain(cell) for name, cell in cells.items()}
        if not any(map(holds_something, row.values())):
            beside["empty rows left out"] = beside.get("empty rows left out", 0) + 1
            continue
        for flag, column in columns.items():
            name, role = clean_name(column or ""), flag.removesuffix("_column")
            if column and name not in row and place == 1:
                known = f"the columns are {', '.join(row)}"
                raise UserError(f"--{flag.replace('_', '-')}: {path} has no {column}; {known}")
            if column:
                both = (role, name) == ("prompt", "instruction") and row.get("input")
                row[role] = f"{row[name]}\n{row['input']}" if both else row.get(name)
        yield place, row


def pairs_of(kind: str, notes: Notes, rows: partial, columns: dict) -> Iterator:
    """(place, row as TYPES has it, or why it is left out) of all rows; several of one row, too."""
    survey, found, coding = notes.survey, [], None
    ways = {name: column.way for name, column in survey.items() if column.way}
    if kind == "labels":
        coding = shapes.read_labels(survey)
    elif kind == "pairs" or not shapes.first_of(survey, "prompt"):
        if not any(columns.values()):
            shapes.refuse_export(survey)
        found = shapes.find_shapes(survey, notes)
        if not found:
            raise shapes.explain_missing(survey)

    def parted() -> Iterator[tuple[int, dict]]:
        for place, row in rows():
            notes.place = place
            for name, way in ways.items():
                whole = row.get(name)
                row[name] = talk.take_apart(whole, way)
                if row[name] is not whole:
                    notes(f"{name} written as {way}, taken apart")
            yield place, row

    by_prompt = found and found[0].by_prompt
    for place, row in by_prompt(parted()) if by_prompt else parted():
        notes.place = place
        try:
            if isinstance(row, DroppedRow):
                raise row
            for one in pairs_in(row, found, notes) if found else [row]:
                made = read_row(one, "pairs" if found else kind, notes, coding)
                yield place, {name: made[name] for name in ("prompt", *TYPES[kind])}
        except DroppedRow as drop:
            yield place, drop


def pairs_in(row: dict, found: list[shapes.Shape], notes: Notes) -> list[dict]:
    """The row with chosen and rejected, by the first of the shapes that it has.

    Of lists of answers there is one for each chosen with each rejected.
    """
    fits = [shape for shape in found if all(holds_something(row.get(n)) for n in shape.needs)]
    fits += [shape for shape in found if any(name in row for name in shape.needs)]
    if not fits:
        shapes.refuse_misspelt(row)
        raise odd("another shape", columns=", ".join(row))
    kind = f"rows of {' and '.join(fits[0].needs)}" if len(found) > 1 else fits[0].said
    if kind:
        notes(kind)
    notes.used |= {*fits[0].columns}
    try:
        row = fits[0].make(row)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise odd("not as others", needs=" and ".join(fits[0].needs)) from None
    shapes.refuse_misspelt(row)
    for better, worse in notes.rated:
        numbers = [shapes.as_number(row.get(name)) for name in (better, worse)]
        if None not in numbers and numbers[0] <= numbers[1]:
            notes(f"{better} is {'below' if numbers[0] < numbers[1] else 'equal to'} {worse}")
    names = [find_column(row, role) for role in COLUMNS]
    prompt, *sides = (row.get(name) for name in names)
    if talk.is_texts(prompt) and all(map(talk.is_texts, sides)):
        if any(len(side) != len(prompt) for side in sides):
            raise odd("unlike lists")
        notes.used.add(names[0])
        del row[names[0]]
        sides = [[alternate(prompt, side)] for side in sides]
    else:
        sides = [cell if talk.is_several(cell) else [cell] for cell in sides]
    if any(text in sides[1] for text in sides[0]) and max(map(len, sides)) > 1:
        raise odd("shared lists")
    pairs = list(itertools.product(*sides))
    if len(pairs) > 1:
        notes(f"lists of answers: each chosen with each rejected, {len(pairs)} pairs a row")
    return [{**row, **dict(zip(names[1:], pair, strict=True))} for pair in pairs]


def alternate(questions: list[str], answers: list[str]) -> list[dict]:
    """A conversation as messages, from lists of texts; a text that is missing is empty."""
    roles = itertools.cycle(("user", "assistant"))
    texts = itertools.chain.from_iterable(zip(questions, answers, strict=True))
    return [{"role": role, "content": text or ""} for role, text in zip(roles, texts, strict=False)]


# --- One row ---


def read_row(row: dict, kind: str, notes: Notes, coding: dict[str, bool] | None = None) -> dict:
    """A row as TYPES has it: a prompt with its answers. Raises DroppedRow for what is no such row.

    `coding` says which labels are good.
    """
    talk.refuse_other_inputs(row)
    columns = {role: find_column(row, role) for role in ("prompt", "system", *TYPES[kind])}
    for role, name in columns.items():
        notes.used.add(name)
        if name not in (role, None) and role != "system":
            notes(f"{role} is column {name}")
    label = coding.get(shapes.normalise(row.get(columns["label"]))) if coding else None
    if coding and label is None:
        raise DroppedRow("without a label")
    sides = [role for role in (*SIDES, "completion") if role in columns]
    answers = [talk.read_turns(row.get(columns[side]), "assistant", side) for side in sides]
    turns = prompt_turns(row, columns["prompt"], notes)
    goes_on = turns[1:] and turns[-1][0] == "assistant"  # a conversation that holds its answer
    if kind == "labels" and columns["completion"] is None:
        turns, answers = turns[:-1], [turns[-1:]]
    elif kind == "prompts" and goes_on:
        turns = turns[:-1]
    elif kind == "pairs" and not turns and all(len(answer) == 1 for answer in answers):
        texts = [answer[0][1] for answer in answers]
        shared = derive_prompt(row, texts, notes)
        turns = [("user", shared.strip())]
        answers = [[("assistant", text[len(shared) :])] for text in texts]
    said = talk.read_turns(row.get(columns["system"]), "system", "system")
    system = "\n".join(text for _, text in said)
    if system.strip():
        notes(f"system message from column {columns['system']}")
    prompt = talk.prompt_of_turns(turns, answers, system)
    texts = clean_answers(prompt, [answer[-1][1] for answer in answers], notes)
    if turns[-1:] == [("assistant", "")] and any(text.startswith(" ") for text in texts):
        texts = [text.removeprefix(" ") for text in texts]
        notes("the blank behind the speaker's name cut from answers")
    check_texts([as_text(prompt), *texts], notes)
    made = {"prompt": prompt, **dict(zip(sides, texts, strict=True))}
    return made if label is None else {**made, "label": label}


def check_texts(texts: Sequence[str], notes: Notes) -> None:
    """Raise DroppedRow for half a character, and for marks that many rows of the file hold."""
    for text in texts:
        mark = talk.find_markup(text)
        if re.search("[\ud800-\udfff]", text):
            raise odd("half a character")
        if mark in notes.marks:
            raise odd("template mark", mark=mark)
        for what in filter(None, (mark, "a NUL" if "\0" in text else "")):
            notes(f"{what} in a text, kept as it stands")


def prompt_turns(row: dict, column: str | None, notes: Notes) -> list[Turn]:
    """The turns of the prompt's column, behind those of `history`; none without a column."""
    if column is None:
        return []
    cell, history = row[column], row.get("history")
    if column == "instruction":
        notes.used.add("input")
        if holds_something(row.get("input")):
            notes("prompt is columns instruction and input")
            cell = f"{cell}\n{row['input']}"
    turns = talk.read_turns(cell, "user", column)
    if isinstance(history, list) and column != "history":
        notes.used.add("history")
        if not all(talk.is_texts(exchange) and len(exchange) == 2 for exchange in history):
            raise odd("history", shown=f"{history!r:.60}")
        pairs = [zip(("user", "assistant"), exchange, strict=True) for exchange in history]
        turns = [*itertools.chain.from_iterable(pairs), *turns]
    return turns


def clean_answers(prompt: Prompt, texts: list[str], notes: Notes) -> list[str]:
    """The answers without a token that ends many, and without a prompt that all of them repeat."""
    cleaned = []
    for text in texts:
        mark = talk.end_mark(text)
        if mark in notes.marks:
            notes(f"{mark} cut from the end of answers")
            text = talk.without_marks(text)
        cleaned.append(text)
    asked = prompt.strip() if isinstance(prompt, str) else ""
    repeated = texts and all(text.lstrip().startswith(asked) for text in cleaned)
    if len(asked) < 12 or not repeated:  # a short prompt may well begin an answer
        return cleaned
    notes("prompt cut from the beginning of answers")
    rests = [text.lstrip()[len(asked) :] for text in cleaned]
    return [re.sub(r"\A(\s*\n| )", "", rest) for rest in rests]  # an indented line stays indented


def derive_prompt(row: dict, texts: list[str], notes: Notes) -> str:
    """A prompt that stands in no column: what both texts begin with. Raises DroppedRow."""
    rest = {name: cell for name, cell in row.items() if name not in notes.used}
    others = [n for n, cell in rest.items() if shapes.is_prose(cell) or talk.is_message(cell)]
    if others:
        raise odd("could be prompt", names=", ".join(others))
    shared = shared_beginning(*texts)
    if not shared:
        why = f"the columns are {', '.join(row)}, which do not begin with one prompt"
        raise DroppedRow("that do not begin with one prompt", f"no column prompt; {why}")
    notes.derived[0] += 2 * len(shared)
    notes.derived[1] += sum(map(len, texts))
    notes.derived[2] = notes.derived[2] or shorten(shared, 60, placeholder=" ...")
    return shared


def shared_beginning(one: str, other: str) -> str:
    """What two texts begin with, up to a blank or a CJK mark: never within a word."""
    breaks = r"\s\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f\uff5e\u300d\u300f"
    beginning = one[: prompts.shared_length(one, other)]
    shared = re.match(rf".*[{breaks}]|", beginning, re.DOTALL)[0]
    return shared if shared.strip() else ""


# --- Rows of a file, a folder, the hub ---


def read_rows(name: str, split: str | None, config: str | None, beside: dict) -> Iterator[dict]:
    """The rows of a file (its ending says the format), a folder, or a hub id. Raises UserError."""
    path, empty = Path(name).expanduser(), True
    try:
        if path.is_file() and config:
            raise UserError(f"--config: {name} is a file, which has one configuration")
        if path.is_file():
            rows = read_file(path, name, split)
        elif path.is_dir():
            rows = read_folder(path, name, split, config, beside)
        else:
            rows = read_hub(name, split, config)
        for row in rows:
            empty = False
            yield row
    except UserError:
        raise
    except Exception as error:  # whatever the reader of a format raises
        raise UserError(f"{name}: cannot be read: {error.__cause__ or error}") from None
    if empty:
        raise UserError(f"{name}: there are no rows")


def read_folder(path: Path, name: str, split: str | None, config: str | None, beside: dict):
    """What `save_to_disk` wrote, or a folder of shards laid out as on the hub."""
    import datasets

    saved = (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
    if saved:
        parts = datasets.load_from_disk(str(path))
        parts = parts if isinstance(parts, dict) else {"train": parts}
    else:
        try:
            cache = folder_for_mapped_files()
            builder = datasets.load_dataset_builder(str(path), config, cache_dir=cache)
        except Exception as error:  # whatever the library raises where it finds nothing
            check_part(datasets.get_dataset_config_names, name, "config", config, str(path))
            reason = f"the folder holds no data that can be read ({', '.join(READERS)})"
            if glob.escape(str(path)) != str(path):
                reason = "a name with [, ] or * is read as a pattern; rename the folder"
            raise UserError(f"{name}: {reason}: {error}") from None
        parts = {str(part): files for part, files in (builder.config.data_files or {}).items()}
    chosen = choose_split(list(parts), name, split)
    others = [part for part in parts if part != chosen]
    if others and not split:
        beside[f"of the splits only {chosen} is read, not {', '.join(others)}"] = 0
    if saved:
        yield from parts[chosen]
    for file in () if saved else parts[chosen]:
        yield from read_file(Path(file), f"{name}, {Path(file).name}")


def read_hub(name: str, split: str | None, config: str | None) -> Iterable[dict]:
    """A data set of the hub, or of its cache where the hub cannot be reached."""
    import datasets
    from huggingface_hub import constants

    hub_id = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name)
    if not hub_id or Path(name).suffix.lower() in (*READERS, *PACKED, *SPREADSHEETS):
        raise UserError(f"{name}: there is no such file or folder")
    online = models.hub_answers()
    if not online:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    options = {"name": config} if config else {}
    try:
        return datasets.load_dataset(name, split=split or "train", **options)
    except Exception as error:  # whatever the library raises
        check_part(datasets.get_dataset_config_names, name, "config", config, name)
        check_part(datasets.get_dataset_split_names, name, "split", split or "train", name, config)
        reason = "no such file, and the hub cannot be reached; give a file or a folder"
        reason = f"cannot be read: {error.__cause__ or error}" if online else reason
        raise UserError(f"{name}: {reason} ({', '.join(READERS)})") from None


def check_part(list_names, name: str, what: str, asked: str | None, *of) -> None:
    """Raise UserError where a data set has configurations, or splits, and this is none of them."""
    try:
        names = list_names(*of)
    except Exception:  # there is no such data set, which is said elsewhere
        return
    if asked not in names and names != ["default"]:
        kind = {"config": "configuration", "split": "split"}[what]
        none = f"no {kind} {asked}" if asked else f"several {kind}s"
        raise UserError(f"{name}: {none}; choose with --{what}: {', '.join(names)}")


def choose_split(names: list[str], where: str, split: str | None, usual=("train",)) -> str:
    """The split of --split; else "train", or the only one there is. Raises UserError."""
    only = names if len(names) == 1 else []
    chosen = split or next((name for name in (*usual, *only) if name in names), "train")
    if chosen not in names:
        raise UserError(f"{where}: no split {chosen}; choose with --split: {', '.join(names)}")
    return chosen


def import_datasets():
    try:
        import datasets
        from huggingface_hub.utils import logging
    except ImportError:
        raise UserError('--dataset needs the package datasets: pip install -e ".[hf]"') from None
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    logging.set_verbosity_error()
    return datasets


def folder_for_mapped_files() -> Path:
    """A new folder in the temporary one, which goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="preference-pairs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# --- Formats ---


def read_file(path: Path, name: str, split: str | None = None) -> Iterator[dict]:
    """The rows of one file."""
    endings = [ending.lower() for ending in path.suffixes]
    packed = endings.pop() if endings and endings[-1] in PACKED else ""
    opened = PACKED[packed](path) if packed else path.open("rb")
    with opened as file:
        if packed == ".zip":
            inside = [entry.filename for entry in file.infolist() if not entry.is_dir()]
            inside = [entry for entry in inside if not entry.startswith("__MACOSX/")]
            if len(inside) != 1:
                raise refuse("archive", name=name, count=len(inside))
            endings, file = [Path(inside[0]).suffix.lower()], file.open(inside[0])
        ending = endings[-1] if endings else ""
        if ending in SPREADSHEETS:
            raise refuse("spreadsheet", name=name)
        if ending not in READERS:
            raise refuse("ending", name=name, known=", ".join(READERS), packed=", ".join(PACKED))
        if split and READERS[ending] is not read_objects:
            raise UserError(f"--split: {name} is a file, which has one split")
        yield from READERS[ending](file, name, split)


def open_with_arrow(path: Path):
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression="detect"))


def decode(file, name: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark."""
    content = file.read()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content[:100].partition(b"\n")[0]:
        raise refuse("utf-16", name=name)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise refuse("utf-8", name=name, k=line, error=error.reason) from None


def read_csv(file, name: str, _, delimiter: str = ",") -> Iterator[dict]:
    """Cells are texts as they stand: 007 is no 7, and None no gap."""
    csv.field_size_limit(2**31 - 1)
    text, count = decode(file, name), 0
    told = re.match(r"\"?sep=(.)\"?\r?\n", text)  # for Excel
    lines = io.StringIO(text[told.end() :] if told else text, newline="")  # \r ends one, too
    rows = csv.reader(lines, delimiter=told[1] if told else delimiter, strict=True)
    try:
        rows = filter(None, rows)  # no blank lines
        header = next(rows, [])
        for mark, what in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
            if len(header) == 1 and mark in header[0]:
                place = {"file": Path(name).name, "mark": repr(mark)}
                raise refuse("separator", name=name, what=what, **place)
        for column in header:
            if column.strip() and header.count(column) > 1:
                raise refuse("same name", name=name, column=repr(column))
        for count, cells in enumerate(rows, start=1):
            if any(cell.strip() for cell in cells[len(header) :]):
                raise refuse("cells", name=name, k=count)
            row = dict(itertools.zip_longest(header, cells[: len(header)]))
            yield {k: cell for k, cell in row.items() if k.strip() or holds_something(cell)}
    except csv.Error as error:
        raise refuse("quote", name=name, k=count + 1, error=error) from None


def read_parquet(file, name: str, _) -> Iterator[dict]:
    from pyarrow import parquet

    for batch in parquet.ParquetFile(file).iter_batches(1000):
        yield from batch.to_pylist()


def read_arrow(file, name: str, _) -> Iterator[dict]:
    from pyarrow import ipc

    is_stream = file.read(6) != b"ARROW1"
    file.seek(0)
    whole = ipc.open_stream(file) if is_stream else ipc.open_file(file)
    for batch in whole if is_stream else map(whole.get_batch, range(whole.num_record_batches)):
        yield from batch.to_pylist()


def read_objects(file, name: str, split: str | None) -> Iterator[dict]:
    """Rows in JSON: one object after the other, a list of them, columns, or rows under a key.

    `split` names the key where there are several.
    """
    values = json_values(decode(file, name), name)
    head = list(itertools.islice(values, 2))
    only = head[0] if len(head) == 1 else None
    by_key = rows_in(only) if isinstance(only, dict) else {}
    values = only if isinstance(only, list) else itertools.chain(head, values)
    if by_key:
        values = by_key[choose_split(list(by_key), name, split, ("train", "data", ""))]
    if split and not by_key:
        raise UserError(f"--split: {name} is a list of rows, or has one on each line: one split")
    for k, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise refuse("no object", name=name, k=k, shown=f"{value!r:.40}")
        yield value


def json_values(text: str, name: str) -> Iterator:
    """The JSON values of a text, one after the other, on lines or as `jq .` writes them."""
    decoder, blank, count = json.JSONDecoder(), re.compile(r"\s*"), 0
    place = blank.match(text).end()
    while place < len(text):
        if count and text[place] == ",":
            raise refuse("comma", name=name, k=count)
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            where = {"line": error.lineno, "column": error.colno, "error": error.msg}
            raise refuse("json", name=name, k=count + 1, **where) from None
        count, place = count + 1, blank.match(text, place).end()
        yield value


def rows_in(content: dict) -> dict[str, list[dict]]:
    """Lists of rows by their key ("data", "train"), or under "" where the object holds columns.

    Columns are lists of one length, or, as pandas writes, objects by row number. Empty for an
    object that is a row itself.
    """
    cells, listed = list(content.values()), {}
    for key, cell in content.items():
        if isinstance(cell, list) and cell and isinstance(cell[0], dict):
            listed[key] = cell
    if listed:
        known = len(listed) == len(content) or any(k.lower() in ("train", "data") for k in listed)
        return listed if known and not any(map(talk.is_message, listed.values())) else {}
    numbered = bool(cells) and all(isinstance(cell, dict) and "0" in cell for cell in cells)
    lists = bool(cells) and all(isinstance(cell, list) and cell for cell in cells)
    if not (numbered or lists) or len(set(map(len, cells))) > 1:
        return {}
    columns = [cell.values() if numbered else cell for cell in cells]
    return {"": [dict(zip(content, row, strict=True)) for row in zip(*columns, strict=True)]}


PACKED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zip": zipfile.ZipFile}
PACKED |= {".zst": open_with_arrow, ".lz4": open_with_arrow}
READERS = dict.fromkeys((".json", ".jsonl", ".ndjson"), read_objects)
READERS |= {".csv": read_csv, ".tsv": partial(read_csv, delimiter="\t")}
READERS |= {".parquet": read_parquet, ".arrow": read_arrow}
SPREADSHEETS = (".xlsx", ".xls", ".ods")

# --- Counting ---


def kind_of_data(path: str, split=None, config=None, **columns: str | None) -> str:
    """Whether the rows of a data set are "pairs", answers with "labels", or "prompts" alone."""
    survey, _ = shapes.look_over(named_rows(path, split, config, columns, {}))
    with of_file(path):
        if shapes.find_shapes(survey, print):
            return "pairs"
    if shapes.label_column(survey):
        return "labels"
    return "prompts" if shapes.first_of(survey, "prompt") else "pairs"


def usable(path: str, kind: str, **reading: str | None) -> "Dataset":
    """The rows of a data set that teach something; what they are is said in one line."""
    rows, dropped, remarks = leave_out_unusable(read_data(path, kind, **reading))
    reasons = count_by_reason(dropped)
    if not len(rows):
        raise UserError(f"{path}: no row is left to learn from (dropped: {reasons})")
    counts = [f"{len(rows)} {kind}"]
    if kind == "labels":
        good = sum(rows["label"])
        counts = [f"{len(rows)} answers, {good} good and {len(rows) - good} bad"]
        if not 0 < good < len(rows):
            raise UserError(f"{path}: {good} of {len(rows)} answers are good; KTO needs both kinds")
    counts += [f"dropped: {reasons}"] if reasons else []
    against = contradictory(rows) if kind == "pairs" else []
    if against:
        first = rows[against[0]]["row"]
        counts.append(f"{len(against)} contradict another one (row {first}; kept)")
    print(f"{path}: {'; '.join([*counts, *remarks])}")
    return rows


def leave_out_unusable(reading: ReadData) -> ReadData:
    """The reading without pairs that teach nothing, which are counted among the dropped rows.

    Those are empty, identical or an exact duplicate of a row before.
    """
    kept, known = [], set()
    dropped = {**reading.dropped, "empty": [], "identical": [], "duplicate": []}
    for k, row in enumerate(show_progress(reading.rows, "reading pairs")):
        answers = [row[name] for name in (*SIDES, "completion") if name in row]
        same = key_of(*(cell for name, cell in row.items() if name != "row"))
        if not all(answer.strip() for answer in answers):
            dropped["empty"].append(row["row"])
        elif len(answers) == 2 and answers[0] == answers[1]:
            dropped["identical"].append(row["row"])
        elif same in known:
            dropped["duplicate"].append(row["row"])
        else:
            known.add(same)
            kept.append(k)
    return ReadData(reading.rows.select(kept), dropped, reading.remarks)


def contradictory(rows: Sequence[dict]) -> list[int]:
    """Which rows (from 0) say of two answers the contrary of what another row says."""
    labelled = {key_of(*(row[name] for name in COLUMNS)) for row in rows}
    contrary = ("prompt", "rejected", "chosen")
    return [k for k, row in enumerate(rows) if key_of(*map(row.get, contrary)) in labelled]


def count_by_reason(dropped: dict[str, list[int]]) -> str:
    """How many rows were dropped for each reason, and the first of their places, from 1."""
    found = {reason: places for reason, places in dropped.items() if places}
    return ", ".join(f"{len(at)} {reason} (row {min(at)})" for reason, at in found.items())


def key_of(*texts: Prompt | bool) -> int:
    """A number for the texts, the same in every process: what is remembered of a row."""
    joined = json.dumps(texts).encode()
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "big")


# --- Splitting, and what a model can read ---


def split_rows(rows: "Dataset", held: "Dataset | None", seed: int, most: int | None) -> tuple:
    """(training rows, held-out rows) in random order, all rows of a prompt on one side.

    An eighth of the prompts is held out, unless there are rows of another file. At most `most` rows
    are to train on. Which prompts are held out depends on them and the seed alone.
    """

    def keys_of(rows: "Dataset") -> np.ndarray:
        return np.array([key_of(str(seed), row["prompt"]) for row in rows], dtype=np.uint64)

    keys = keys_of(rows)
    distinct = np.unique(keys)
    if held is None and len(distinct) < 2:
        reason = f"{len(distinct)} distinct prompts; at least 2 are needed to hold some out"
        raise UserError(f"--dataset: {reason}, or another file: --held-out")
    an_eighth = distinct[: max(1, round(len(distinct) / 8))]
    inside = np.isin(keys, an_eighth if held is None else keys_of(held))
    order = np.random.default_rng(seed).permutation(len(rows))
    train, others = rows.select(order[~inside[order]][:most]), rows.select(order[inside[order]])
    if held is not None and len(others):
        print(f"{len(others)} rows left out of training: their prompts are held out")
    if not len(train):
        raise UserError("--held-out: all prompts of --dataset are held out")
    others = others if held is None else held
    known = {bare_prompt(prompt) for prompt in train["prompt"]}
    near = sum(bare_prompt(prompt) in known for prompt in distinct_prompts(others["prompt"]))
    if near:
        print(f"{near} held-out prompts are in training but for case, marks or blanks")
    return train, others.select(range(min(MOST_HELD, len(others))))


def bare_prompt(prompt: Prompt) -> str:
    """A prompt without case, marks, blanks, NULs, and ways to write a letter."""
    text = unicodedata.normalize("NFKC", as_text(prompt)).casefold()
    return re.sub(r"[\W\0]+", " ", text).strip()


def keep_readable(rows: "Dataset", tokenizer, room: int | None = None, limit=LONGEST) -> "Dataset":
    """The rows that a model can read; what is left out is said in one line."""
    kept, reasons = find_readable(rows, tokenizer, room, limit)
    if not kept:
        raise UserError(f"--dataset: the model can read none of the rows: {', '.join(reasons)}")
    if reasons:
        print(f"{len(rows) - len(kept)} of {len(rows)} rows left out: {', '.join(reasons)}")
    return rows.select(kept)


def find_readable(
    rows: Sequence[dict], tokenizer, room: int | None = None, limit: int = LONGEST
) -> tuple[list[int], list[str]]:
    """(which rows, from 0, a model can read, why it cannot read others, with the first of them).

    A language model keeps `room` for answers that it samples; without one it is a reward model.
    """
    kept, left_out, cut = [], {}, 0
    for k, row in enumerate(show_progress(rows, "counting tokens")):
        place = row.get("row", k + 1)
        try:
            fault = find_fault(row, tokenizer, room, limit)
            cut += fault is None and room is not None and cuts_blanks(row, tokenizer)
        except UserError as error:  # of the chat template
            raise UserError(f"--dataset, row {place}: {error}") from None
        if fault is None:
            kept.append(k)
        else:
            left_out.setdefault(fault[0], []).append((place, fault[1]))
    if cut:
        print(f"the model's template cuts blanks at the ends of answers in {cut} rows")
    reasons = []
    for reason, places in left_out.items():
        place, detail = min(places)
        reasons.append(f"{len(places)} {reason} (the first is row {place}{detail})")
    return kept, reasons


def answers_of(row: dict) -> list[str]:
    return [row[side] for side in (*SIDES, "completion") if side in row]


def cuts_blanks(row: dict, tokenizer) -> bool:
    """Whether the chat template takes blanks away with which an answer begins or ends."""
    for text in answers_of(row):
        turns = [*as_messages(row["prompt"]), {"role": "assistant", "content": text}]
        if text != text.strip() and text not in prompts.write_turns(tokenizer, turns):
            return True
    return False


def find_fault(row: dict, tokenizer, room: int | None, limit: int) -> tuple[str, str] | None:
    """(why a model cannot read a row as it stands, a detail of it); None where it can.

    A cut answer would be another answer; a token of the model's own in a text would end a turn or
    begin one; and what is unknown to a tokenizer may be all that tells two answers apart.
    """
    asked, answers = row["prompt"], answers_of(row)
    for token in tokenizer.all_special_tokens:
        if re.match(r"[<\[|]", token) and any(token in t for t in (as_text(asked), *answers)):
            return f"with {token}, a token of the model", ""
    if room is None:
        both = scoring.encode_for_reward(tokenizer, [asked] * len(answers), answers, cut=False)
        lengths = both["attention_mask"].sum(1).tolist()
        encoded = [ids[:n] for ids, n in zip(both["input_ids"].tolist(), lengths, strict=True)]
        prompt, limit = [], min(limit, scoring.REWARD_LENGTH)
    else:
        prompt, *encoded = prompts.encode_answers(tokenizer, asked, answers)
        shown, turns = prompts.format_prompt(tokenizer, asked), as_messages(asked)
        kept = [turns[-1]["content"], *(m["content"] for m in turns if m["role"] == "system")]
        parted = tokenizer.decode(prompts.encode_prompt(tokenizer, asked)[len(prompt) :]).strip()
        if parted or not all(text.strip() in shown for text in kept):
            return "whose prompt the model's template writes otherwise before an answer", ""
    limit = min(limit, LONGEST, tokenizer.model_max_length)
    length = len(prompt) + max([room or 0, *map(len, encoded)])
    if length > limit:
        reserved = f", {room} of them reserved for sampling" if room else ""
        return f"longer than the {limit} tokens that the model reads{reserved}", f" with {length}"
    if len(encoded) > 1 and encoded[0] == encoded[1]:
        return "with answers that are the same to the model (unknown characters)", ""
    return None
