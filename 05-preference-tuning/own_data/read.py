"""Your own data: pairs, or answers with a label, read from a file or the hub, counted and split.

Rows are read one after the other, twice: once to find their shape (shapes.py), once to take them
apart (conversations.py). They lie in a mapped file, so that memory does not grow with their number.
"""

import atexit
import bz2
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, NamedTuple

from own_data import conversations as talk
from own_data import shapes
from own_data.conversations import DroppedRow, odd
from own_data.shapes import NAMES, Survey, clean_name, find_column, holds_something

import numpy as np

from common.preferences import COLUMNS, SIDES
from common.prompts import Prompt, as_text, distinct_prompts, encode_answers
from common.runs import UserError, show_progress

if TYPE_CHECKING:
    from datasets import Dataset

HELD_OUT = 1000  # pairs at most: an accuracy is then known to 0.03
MAX_LENGTH = 1024  # tokens of a prompt with its answer, as DPOTrainer reads it
FEW_ODD = 0.2  # the share of rows that may be unlike the others

# --- What lessons call ---


def load_preferences(
    path: str,
    *,
    split: str | None = None,
    config: str | None = None,
    prompt_column: str | None = None,
    chosen_column: str | None = None,
    rejected_column: str | None = None,
) -> "Dataset":
    """Your own pairs: a `datasets.Dataset` of prompt, chosen, rejected.

    Answers are texts as they stand. A prompt is a text, or a list of messages where it has several
    turns or a system message. A missing answer is an empty one. Rows are mapped, not in memory.
    Raises UserError with the file, the row (from 1) and the reason.
    """
    columns = {"chosen_column": chosen_column, "rejected_column": rejected_column}
    columns["prompt_column"] = prompt_column
    return read_data(path, "pairs", split, config, **columns).rows.remove_columns("row")


def own_pairs(
    path: str,
    tokenizer,
    seed: int,
    *,
    pairs: int | None = None,
    prompts: int = 16,
    max_new_tokens: int = 48,
    max_length: int = MAX_LENGTH,
    labelled: bool = False,
    held_out: str | None = None,
    **reading: str | None,
) -> tuple["Dataset", "Dataset", list[Prompt]]:
    """(training rows, held-out rows, held-out prompts) for a language model.

    Rows are prompt, chosen, rejected; with `labelled` they are prompt, completion, label where the
    file holds such. What is left out is said in one line. `held_out` is another file.
    """
    kind = "labels" if labelled and holds_labels(path, **reading) else "pairs"
    read = partial(_usable, kind=kind, **reading)
    keep = partial(keep_readable, tokenizer=tokenizer, room=max_new_tokens, limit=max_length)
    train, held = _split(keep(read(path)), held_out and keep(read(held_out)), seed, pairs)
    for rows in (train, held):
        if kind == "labels" and len(set(rows["label"])) < 2:
            reason = f"of {len(rows)} training or held-out answers all have the same label"
            raise UserError(f"--dataset: {reason}; more rows, or another --seed, are needed")
    return train, held, distinct_prompts(held["prompt"])[:prompts]


def own_reward_pairs(
    path: str,
    tokenizer,
    seed: int,
    *,
    pairs: int | None = None,
    held_out: str | None = None,
    **reading: str | None,
) -> tuple["Dataset", "Dataset"]:
    """(training rows, held-out rows) for a reward model."""
    read = partial(_usable, kind="pairs", **reading)
    keep = partial(keep_readable, tokenizer=tokenizer, room=0, limit=0)
    return _split(keep(read(path)), held_out and keep(read(held_out)), seed, pairs)


def own_prompts(
    path: str,
    tokenizer,
    seed: int,
    *,
    most: int | None = None,
    max_new_tokens: int = 48,
    held_out: str | None = None,
    **reading: str | None,
) -> list[Prompt]:
    """Distinct prompts of a file, in an order drawn by the seed; answers are not needed."""
    reading_of = read_data(held_out or path, "prompts", **reading)
    print(tell_counts(held_out or path, reading_of, "prompts"))
    rows = keep_readable(reading_of.rows, tokenizer, max_new_tokens, MAX_LENGTH)
    prompts = distinct_prompts(rows["prompt"])
    order = np.random.default_rng(seed).permutation(len(prompts))
    return [prompts[i] for i in order[:most]]


# --- Reading a data set ---


class Reading(NamedTuple):
    """Rows with their place in the file (`row`, from 1), and what to say of them."""

    rows: "Dataset"
    dropped: dict[str, list[int]]  # the places of rows that were left out, by reason
    remarks: list[str]  # what was done to the rows, and what of them was not read


class Notes:
    """What was done to rows while they were read, counted."""

    def __init__(self, survey: Survey) -> None:
        self.survey, self.used, self.parted, self.place = survey, {""}, {}, 0
        self.counts: dict[str, list[int]] = {}  # what was done: rows, the first one, the last one
        self.marks = {mark for column in survey.values() for mark in frequent_marks(column)}
        self.shared, self.characters, self.example = 0, 0, ""

    def __call__(self, done: str) -> None:
        """Count something that was done to a row."""
        count = self.counts.setdefault(done, [0, self.place, 0])
        count[0], count[2] = count[0] + (count[2] != self.place), self.place

    def note_derived(self, shared: str, texts: list[str]) -> None:
        """Count the characters of a prompt that was taken from the texts."""
        self.shared += len(texts) * len(shared)
        self.characters += sum(map(len, texts))
        self.example = self.example or shorten(shared, 60, placeholder=" ...")

    def remarks(self) -> list[str]:
        """What to say of it, in phrases."""
        remarks = []
        for done, (count, first, _) in self.counts.items():
            remarks.append(f"{done} ({count} rows{f', from row {first}' if first > 1 else ''})")
        if self.shared:
            share = self.shared / self.characters
            remarks.append(
                f"no column prompt: what both texts begin with is the prompt, {share:.0%} of the "
                f'text, such as "{self.example}"'
            )
        unread = [name for name in self.survey if name not in self.used]
        telling = r"status|rating|score|prefer|winner|label|tie|agree|choice|vote|rank"
        for name in unread:
            column = self.survey[name]
            if re.search(telling, name) and column.is_coded and len(column.values) <= 6:
                remarks.append(f"column {name}, which is not read, holds {column.shown()}")
        if unread:
            remarks.append(f"columns not read: {', '.join(unread)}")
        return remarks


def frequent_marks(column: shapes.Column) -> list[str]:
    """The marks of templates that more than a fifth of the texts of a column hold."""
    return [m for m, count in column.marks.items() if m and count > FEW_ODD * column.texts]


TYPES = {
    "pairs": {"chosen": "string", "rejected": "string"},
    "labels": {"completion": "string", "label": "bool"},
    "prompts": {},
}


def read_data(
    path: str, kind: str, split: str | None = None, config: str | None = None, **columns
) -> Reading:
    """Rows of pairs, labels or prompts, in a mapped file. Raises UserError."""
    datasets = _import_datasets()
    from datasets.arrow_writer import ArrowWriter

    beside: dict[str, int] = {}
    rows = partial(_named_rows, path, split, config, columns, beside)
    survey, total = shapes.look_over(rows())
    notes = Notes(survey)
    try:
        made = _rows_of(kind, survey, rows, notes, given=any(columns.values()))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    types = {"prompt": datasets.Json(), **TYPES[kind], "row": "int64"}
    features = {name: datasets.Value(t) if isinstance(t, str) else t for name, t in types.items()}
    file = str(_folder_for_mapped_files() / "rows.arrow")
    dropped, why, wrong = {}, {}, 0
    with ArrowWriter(path=file, features=datasets.Features(features)) as writer:
        for place, row in show_progress(made, "reading rows"):
            if isinstance(row, DroppedRow):
                dropped.setdefault(row.reason, []).append(place)
                why.setdefault(row.reason, f"row {place}: {row.why}")
                wrong += row.odd
                continue
            prompt = json.dumps(row["prompt"])  # else Json() would read the text 007 as 7
            writer.write({**row, "prompt": prompt, "row": place})
        count, _ = writer.finalize()
    if wrong > FEW_ODD * total or not count:
        worst = max(dropped, key=lambda reason: len(dropped[reason]))
        others = f" ({wrong} of {total} rows are so)" if wrong > 1 else ""
        raise UserError(f"{path}, {why[worst]}{others}")
    done = [f"{count} {what}" if count else what for what, count in beside.items()]
    return Reading(datasets.Dataset.from_file(file), dropped, [*done, *notes.remarks()])


def _named_rows(
    path: str, split: str | None, config: str | None, columns: dict, beside: dict
) -> Iterator[tuple[int, dict]]:
    """The rows with their place, and with the columns of the command line under our names.

    What was done to the file as a whole goes to `beside`, with a count.
    """
    beside.clear()
    for place, cells in enumerate(read_rows(path, split, config, beside), start=1):
        row = {clean_name(name): _plain(cell, beside) for name, cell in cells.items()}
        if not any(map(holds_something, row.values())):
            beside["empty rows left out"] = beside.get("empty rows left out", 0) + 1
            continue
        for flag, column in columns.items():
            name, role = clean_name(column or ""), flag.removesuffix("_column")
            if not column:
                continue
            if name not in row and place == 1:
                known = f"the columns are {', '.join(row)}"
                raise UserError(f"--{flag.replace('_', '-')}: {path} has no {column}; {known}")
            text = row.get(name)
            if (role, name) == ("prompt", "instruction") and holds_something(row.get("input")):
                text = f"{text}\n{row['input']}"
            row[role] = text
        yield place, row


def _plain(cell, beside: dict):
    """A cell as it stands, but for line ends, which are \\n in Python's texts, and for NaN."""
    if isinstance(cell, str) and "\r\n" in cell:
        done = "texts with \\r\\n at the ends of lines have \\n now"
        beside[done] = beside.get(done, 0) + 1
        return cell.replace("\r\n", "\n")
    if isinstance(cell, list):
        return [_plain(part, beside) for part in cell]
    if isinstance(cell, dict):
        return {key: _plain(part, beside) for key, part in cell.items()}
    return None if isinstance(cell, float) and cell != cell else cell


def _rows_of(kind: str, survey: Survey, rows: Callable, notes: Notes, given: bool) -> Iterator:
    """(place, row as TYPES has it, or why it is left out) of all rows; several of one row, too."""
    ways = {name: column.way for name, column in survey.items() if column.way}
    parted = _take_apart(rows(), ways, notes)
    if kind == "labels":
        read = partial(read_labelled, coding=shapes.read_labels(survey), notes=notes)
        return _each(parted, read, notes)
    if kind == "prompts" and any(name in survey for name in NAMES["prompt"]):
        return _each(parted, partial(read_prompt, notes=notes), notes)
    if not given:
        shapes.refuse_export(survey)
    found = shapes.find_shapes(survey, notes)
    if not found:
        labelled = shapes.label_column(survey)
        raise shapes.explain_labels(survey) if labelled else shapes.explain_missing(survey)
    if found[0].by_prompt:
        notes(found[0].said)
        notes.used |= {*found[0].columns}
        grouped = found[0].by_prompt(parted, notes)
        pairs = _each(grouped, partial(read_pair, notes=notes), notes)
    else:
        pairs = _each(parted, partial(_read_shape, found=found, notes=notes), notes)
    return pairs if kind == "pairs" else ((k, _only_prompt(row)) for k, row in pairs)


def _only_prompt(row: dict | DroppedRow):
    return {"prompt": row["prompt"]} if isinstance(row, dict) else row


def _take_apart(rows: Iterable, ways: dict[str, str], notes: Notes) -> Iterator[tuple[int, dict]]:
    """The rows, with texts that hold turns or lists taken apart."""
    for place, row in rows:
        notes.place = place
        for name, way in ways.items():
            cell = talk.take_apart(row.get(name), way)
            if cell is not row.get(name):
                notes.parted[name] = way
                row[name] = cell
        yield place, row


def _each(rows: Iterable, read: Callable[[dict], dict | list[dict]], notes: Notes) -> Iterator:
    """What `read` makes of each row; why it is left out, in the place of a row that is."""
    for place, row in rows:
        notes.place = place
        try:
            if isinstance(row, DroppedRow):
                raise row
            made = read(row)
            for one in made if isinstance(made, list) else [made]:
                yield place, one
        except DroppedRow as drop:
            yield place, drop


def _read_shape(row: dict, found: list[shapes.Shape], notes: Notes) -> list[dict]:
    """The pairs of a row, by the first of the shapes that it has."""
    fits = [shape for shape in found if all(holds_something(row.get(n)) for n in shape.needs)]
    fits += [shape for shape in found if any(name in row for name in shape.needs)]
    if not fits:
        shapes.refuse_misspelt(row)
        why = f"no column {' or '.join(SIDES)}; the columns are {', '.join(row)}"
        raise odd(why, "of another shape")
    said = fits[0].said or ("rows of chosen and rejected" if len(found) > 1 else "")
    if said:
        notes(said)
    notes.used |= {*fits[0].columns}
    try:
        made = fits[0].make(row)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise odd(f"not as the rows are of which {said}", "of another shape") from None
    return [read_pair(pair, notes) for pair in _several(made, notes)]


def _several(row: dict, notes: Notes) -> list[dict]:
    """The row, or, where it has lists of answers, one row for each chosen with each rejected."""
    names = [find_column(row, role) for role in COLUMNS]
    prompt, *sides = (row.get(name) for name in names)
    if talk.is_texts(prompt) and all(map(talk.is_texts, sides)):
        if any(len(side) != len(prompt) for side in sides):
            raise odd("prompt, chosen and rejected are lists of unlike lengths")
        rest = {name: cell for name, cell in row.items() if name != names[0]}
        notes.used |= {*filter(None, names)}
        return [rest | dict(zip(names[1:], (_alternate(prompt, side) for side in sides)))]
    lists = [_alternatives(side) for side in sides]
    if max(map(len, lists)) == 1:
        return [{**row, **{n: one[0] for n, one in zip(names[1:], lists) if n}}]
    if any(text in lists[1] for text in lists[0]):
        raise odd("chosen and rejected are lists that share texts: turns? Write them as messages")
    pairs = list(itertools.product(*lists))
    notes(f"chosen or rejected are lists: each chosen with each rejected, {len(pairs)} pairs a row")
    return [{**row, **dict(zip(names[1:], pair, strict=True))} for pair in pairs]


def _alternatives(cell) -> list:
    """The answers that a cell holds: several texts or conversations, or one."""
    of_turns = isinstance(cell, list) and cell and all(isinstance(one, list) for one in cell)
    return cell if talk.is_texts(cell) or of_turns else [cell]


def _alternate(questions: list[str], answers: list[str]) -> list[dict]:
    """A conversation as messages, from lists of texts; a text that is missing is empty."""
    messages = []
    for question, answer in zip(questions, answers, strict=True):
        messages.append({"role": "user", "content": question or ""})
        messages.append({"role": "assistant", "content": answer or ""})
    return messages


# --- One row ---


def read_pair(row: dict, notes: Notes) -> dict:
    """One prompt and its two answers. Raises DroppedRow for a row that is not that."""
    shapes.refuse_misspelt(row)
    talk.refuse_other_inputs(row)
    columns = {role: _column(row, role, notes) for role in COLUMNS}
    answers = [talk.read_turns(row.get(columns[side]), "assistant", side) for side in SIDES]
    turns, system = _prompt_turns(row, columns["prompt"], notes), _system(row, notes)
    if not turns and all(len(answer) == 1 for answer in answers):
        turns, texts = _derive(row, [answer[0][1] for answer in answers], notes)
        answers = [[("assistant", text)] for text in texts]
    return _finish(turns, answers, system, SIDES, notes)


def read_labelled(row: dict, coding: dict[str, bool], notes: Notes) -> dict:
    """One prompt, one answer and whether it is good. Raises DroppedRow."""
    talk.refuse_other_inputs(row)
    columns = {role: _column(row, role, notes) for role in ("prompt", "completion", "label")}
    label = coding.get(shapes.normalise(row.get(columns["label"])))
    if label is None:
        raise DroppedRow("without a label")
    turns = _prompt_turns(row, columns["prompt"], notes)
    answer = talk.read_turns(row.get(columns["completion"]), "assistant", "completion")
    if columns["completion"] is None:
        turns, answer = turns[:-1], turns[-1:]
    made = _finish(turns, [answer], _system(row, notes), ("completion",), notes)
    return {**made, "label": label}


def read_prompt(row: dict, notes: Notes) -> dict:
    """One prompt. Raises DroppedRow."""
    talk.refuse_other_inputs(row)
    turns = _prompt_turns(row, _column(row, "prompt", notes), notes)
    if len(turns) > 1 and turns[-1][0] == "assistant":
        turns = turns[:-1]  # of a conversation that goes on to its answer
    notes.used |= {*row}
    return _finish(turns, [], _system(row, notes), (), notes)


def _finish(turns: list, answers: list, system: str, names: Sequence[str], notes: Notes) -> dict:
    """The row of these turns of the prompt's column and of the answers."""
    prompt = talk.shared_prompt(turns, answers, system)
    texts = talk.clean_answers(prompt, [answer[-1][1] for answer in answers], notes)
    if turns and turns[-1] == ("assistant", "") and any(t.startswith(" ") for t in texts):
        texts = [text.removeprefix(" ") for text in texts]
        notes("the blank behind the speaker's name cut from answers")
    talk.check_texts([as_text(prompt), *texts], notes.marks, notes)
    return {"prompt": prompt, **dict(zip(names, texts, strict=True))}


def _column(row: dict, role: str, notes: Notes) -> str | None:
    """The column of a role; another name than the role's own is noted."""
    name = find_column(row, role)
    if name is not None:
        notes.used.add(name)
        if name != role:
            notes(f"{role} is column {name}")
        if name in notes.parted:
            notes(f"texts of {name}, written as {notes.parted[name]}, taken apart")
    return name


def _prompt_turns(row: dict, column: str | None, notes: Notes) -> list[talk.Turn]:
    """The turns of the prompt's column, behind those of `history`; none without a column."""
    if column is None:
        return []
    cell = row[column]
    if column == "instruction":
        notes.used.add("input")
        if holds_something(row.get("input")):
            notes("prompt is columns instruction and input")
            cell = f"{cell}\n{row['input']}"
    turns = talk.read_turns(cell, "user", column)
    if isinstance(row.get("history"), list) and column != "history":
        notes.used.add("history")
        turns = talk.past_turns(row["history"]) + turns
    return turns


def _system(row: dict, notes: Notes) -> str:
    """The system message of a row, from a column of its own."""
    column = find_column(row, "system")
    if column is None:
        return ""
    notes.used.add(column)
    text = "\n".join(text for _, text in talk.read_turns(row[column], "system", column))
    if text.strip():
        notes(f"system message from column {column}")
    return text


def _derive(row: dict, texts: list[str], notes: Notes) -> tuple[list[talk.Turn], list[str]]:
    """A prompt that stands in no column: what both texts begin with, and what is left of them."""
    rest = {name: cell for name, cell in row.items() if name not in notes.used}
    others = [n for n, cell in rest.items() if shapes.is_prose(cell) or talk.is_message(cell)]
    if others:
        could = f"{', '.join(others)} could be it"
        raise odd(f"no column prompt; name it with --prompt-column: {could}")
    shared = talk.derive_prompt(*texts)
    if not shared:
        why = f"the columns are {', '.join(row)}, which do not begin with one prompt"
        raise DroppedRow("that do not begin with one prompt", f"no column prompt; {why}")
    notes.note_derived(shared, texts)
    return [("user", shared.strip())], [text[len(shared) :] for text in texts]


# --- Rows of a file, a folder, the hub ---


def read_rows(name: str, split: str | None, config: str | None, beside: dict) -> Iterator[dict]:
    """The rows of a file (its ending says the format), a folder, or a hub id. Raises UserError."""
    path = Path(name).expanduser()
    if path.is_file():
        if config:
            raise UserError(f"--config: {name} is a file, which has one configuration")
        rows = read_file(path, name, split)
    elif path.is_dir():
        rows = _read_folder(path, name, split, config, beside)
    else:
        rows = _read_hub(name, split, config)
    count = 0
    try:
        for count, row in enumerate(rows, start=1):
            yield row
    except UserError:
        raise
    except Exception as error:  # whatever the reader of a format raises
        raise UserError(f"{name}: cannot be read: {error.__cause__ or error}") from None
    if not count:
        raise UserError(f"{name}: there are no rows")


def _read_folder(path: Path, name: str, split: str | None, config: str | None, beside: dict):
    """What `save_to_disk` wrote, or a folder of shards laid out as on the hub."""
    import datasets

    if (path / "state.json").is_file():
        if split:
            raise UserError(f"--split: {name} holds one split")
        yield from datasets.load_from_disk(str(path))
        return
    if (path / "dataset_dict.json").is_file():
        parts = datasets.load_from_disk(str(path))
    else:
        parts = _data_files(path, name, config)
    chosen = choose_split(list(map(str, parts)), name, split)
    others = [str(part) for part in parts if part != chosen]
    if others and not split:
        beside[f"of the splits only {chosen} is read, not {', '.join(others)}"] = 0
    if isinstance(parts, datasets.DatasetDict):
        yield from parts[chosen]
        return
    for file in parts[chosen]:
        yield from read_file(Path(file), f"{name}, {Path(file).name}")


def _data_files(path: Path, name: str, config: str | None) -> dict[str, list[str]]:
    """The data files of a folder by split, as `datasets` finds them."""
    import datasets

    cache = _folder_for_mapped_files()
    try:
        builder = datasets.load_dataset_builder(str(path), config, cache_dir=cache)
    except Exception as error:  # whatever the library raises where it finds nothing
        _check_part(datasets.get_dataset_config_names, name, "config", config, str(path))
        reason = f"the folder holds no data that can be read ({', '.join(READERS)})"
        if glob.escape(str(path)) != str(path):
            reason = "a name with [, ] or * is read as a pattern; rename the folder"
        raise UserError(f"{name}: {reason}: {error}") from None
    return builder.config.data_files or {}


def _check_part(list_names: Callable, name: str, what: str, asked: str | None, *of: str) -> None:
    """Raise UserError where a data set has configurations, or splits, and this is none of them."""
    try:
        names = list_names(*of)
    except Exception:  # there is no such data set, which is said elsewhere
        return
    wanted = asked or ("train" if what == "split" else None)
    if wanted not in names and names != ["default"]:
        kind = {"config": "configuration", "split": "split"}[what]
        none = f"no {kind} {wanted}" if wanted else f"several {kind}s"
        raise UserError(f"{name}: {none}; choose with --{what}: {', '.join(names)}")


def _read_hub(name: str, split: str | None, config: str | None) -> Iterable[dict]:
    """A data set of the hub, or of its cache where the hub cannot be reached."""
    import datasets
    from huggingface_hub import constants

    from common import models

    hub_id = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name)
    if not hub_id or Path(name).suffix.lower() in (*READERS, *OPENERS, *SPREADSHEETS):
        raise UserError(f"{name}: there is no such file or folder")
    online = models.hub_answers()
    if not online:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    options = {"name": config} if config else {}
    try:
        return datasets.load_dataset(name, split=split or "train", **options)
    except Exception as error:  # whatever the library raises
        _check_part(datasets.get_dataset_config_names, name, "config", config, name)
        _check_part(datasets.get_dataset_split_names, name, "split", split, name, config)
        if online:
            raise UserError(f"{name}: cannot be read: {error.__cause__ or error}") from None
        reason = "no such file, and the hub cannot be reached; give a file or a folder"
        raise UserError(f"{name}: {reason} ({', '.join(READERS)})") from None


def choose_split(names: list[str], where: str, split: str | None, usual=("train",)) -> str:
    """The split of --split; else "train", or the only one there is. Raises UserError."""
    chosen = next((name for name in usual if name in names), None)
    if split or len(names) == 1:
        chosen = split or names[0]
    if chosen not in names:
        asked = f"no split {split}" if split else "no split train"
        raise UserError(f"{where}: {asked}; choose with --split: {', '.join(names)}")
    return chosen


def _import_datasets():
    try:
        import datasets
        from huggingface_hub.utils import logging
    except ImportError:
        raise UserError('--dataset needs the package datasets: pip install -e ".[hf]"') from None
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    logging.set_verbosity_error()
    return datasets


def _folder_for_mapped_files() -> Path:
    """A new folder in the temporary one, which goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="preference-pairs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# --- Formats ---


def read_file(path: Path, name: str, split: str | None = None) -> Iterator[dict]:
    """The rows of one file."""
    endings = [ending.lower() for ending in path.suffixes]
    packed = endings.pop() if endings and endings[-1] in OPENERS else ""
    if packed == ".zip":
        endings = [Path(_only_file(path)).suffix.lower()]
    ending = endings[-1] if endings else ""
    if ending in SPREADSHEETS:
        raise UserError(f"{name}: a spreadsheet; save it as CSV (in Excel: CSV UTF-8)")
    if ending not in READERS:
        known = f"{', '.join(READERS)}, or in one of these and {', '.join(OPENERS)}"
        raise UserError(f"{name}: the name of the file must end in {known}")
    if split and READERS[ending] is not _read_json:
        raise UserError(f"--split: {name} is a file, which has one split")
    with OPENERS.get(packed, lambda path: path.open("rb"))(path) as file:
        yield from READERS[ending](file, name, split)


def _open_zip(path: Path):
    return zipfile.ZipFile(path).open(_only_file(path))


def _only_file(path: Path) -> str:
    """The name of the one file in a ZIP archive. Raises UserError where there are more."""
    with zipfile.ZipFile(path) as archive:
        files = [file.filename for file in archive.infolist() if not file.is_dir()]
    files = [file for file in files if not file.startswith("__MACOSX/")]  # macOS's notes
    if len(files) != 1:
        raise UserError(f"{path}: the archive holds {len(files)} files; unpack it, and give one")
    return files[0]


def _open_with_arrow(path: Path, compression: str):
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression=compression))


def _decode(file: Iterable[bytes], name: str) -> Iterator[str]:
    """The lines of a file in UTF-8, with or without a byte order mark."""
    for k, line in enumerate(file, start=1):
        if k == 1 and (line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in line[:100]):
            raise UserError(
                f"{name}: the file is in UTF-16, not UTF-8; save it in UTF-8 (in Excel: CSV UTF-8)"
            )
        try:
            yield line.decode("utf-8-sig" if k == 1 else "utf-8")
        except UnicodeDecodeError as error:
            reason = f"not UTF-8 ({error.reason}); save the file in UTF-8 (in Excel: CSV UTF-8)"
            raise UserError(f"{name}, line {k}: {reason}") from None


def _read_csv(file, name: str, _, delimiter: str = ",") -> Iterator[dict]:
    """Cells are texts as they stand: 007 is no 7, and None no gap."""
    csv.field_size_limit(2**31 - 1)
    parts = (
        re.split(r"(?<=\r)(?!\n)", line) for line in _decode(file, name)
    )  # \r ends a line, too
    lines = filter(None, itertools.chain.from_iterable(parts))
    first = next(lines, "")
    told = re.fullmatch(r"\"?sep=(.)\"?\s*", first)  # for Excel
    lines, delimiter = (lines, told[1]) if told else (itertools.chain([first], lines), delimiter)
    rows = filter(None, csv.reader(lines, delimiter=delimiter, strict=True))  # no blank lines
    count = 0
    try:
        header = next(rows, [])
        _check_header(header, name)
        for count, cells in enumerate(rows, start=1):
            while len(cells) > len(header) and not cells[-1].strip():
                cells.pop()
            if len(cells) > len(header):
                reason = "more cells than columns; a text that holds a comma must stand in quotes"
                raise UserError(f"{name}, row {count}: {reason}")
            row = dict(itertools.zip_longest(header, cells))
            yield {k: cell for k, cell in row.items() if k.strip() or holds_something(cell)}
    except csv.Error as error:
        reason = f"{error}; a quote within a text must be doubled, and the text stand in quotes"
        raise UserError(f"{name}, row {count + 1}: {reason}") from None


def _check_header(header: list[str], name: str) -> None:
    """Raise UserError for columns that something else separates, and for those of one name."""
    for mark, what in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(header) == 1 and mark in header[0]:
            raise UserError(
                f"{name}: the cells are separated by {what}; separate them by commas, in Python: "
                f"pandas.read_csv({Path(name).name!r}, sep={mark!r}, dtype=str)"
                '.to_csv("pairs.csv", index=False)'
            )
    twice = [column for column in header if column.strip() and header.count(column) > 1]
    if twice:
        raise UserError(f"{name}: two columns have the name {twice[0]!r}; rename one")


def _read_parquet(file, name: str, _) -> Iterator[dict]:
    from pyarrow import parquet

    for batch in parquet.ParquetFile(file).iter_batches(1000):
        yield from batch.to_pylist()


def _read_arrow(file, name: str, _) -> Iterator[dict]:
    from pyarrow import ipc

    is_stream = file.read(6) != b"ARROW1"
    file.seek(0)
    whole = ipc.open_stream(file) if is_stream else ipc.open_file(file)
    batches = whole if is_stream else map(whole.get_batch, range(whole.num_record_batches))
    for batch in batches:
        yield from batch.to_pylist()


KEYS = ("train", "data")  # where the rows of a JSON object stand, unless --split names another


def _read_json(file, name: str, split: str | None) -> Iterator[dict]:
    """An object on each line, a list of objects, columns, rows under a key, or object after object.

    `split` names the key where there are several.
    """
    lines = _decode(file, name)
    first = next((line for line in lines if line.strip()), "")
    row = _parse(first)
    if isinstance(row, dict) and not _rows_by_key(row) and not _is_columns(row):
        if split:
            raise UserError(f"--split: {name} has a row on each line, and so one split")
        yield from _read_json_lines(itertools.chain([first], lines), name)
        return
    text = first + "".join(lines)
    content = _parse(text)
    if content is not None:
        yield from _objects(_rows_of_json(content, name, split), name)
    elif first.rstrip().endswith(("}", "},")) and row is None and first.strip() != "{}":
        yield from _read_json_lines(iter(text.splitlines()), name)  # which says what is wrong
    elif first:
        yield from _objects(_one_after_the_other(text, name), name)


def _parse(text: str):
    """The JSON value that a text is, or None where it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _read_json_lines(lines: Iterable[str], name: str) -> Iterator[dict]:
    for k, line in enumerate((line for line in lines if line.strip()), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            reason = f"cannot be read as JSON: {error.msg} in column {error.colno}"
            if _parse(line.rstrip().rstrip(",")) is not None:
                reason = (
                    "a comma behind the object; take the commas at the ends of the lines away, or "
                    "put [ before the first line and ] behind the last one"
                )
            raise UserError(f"{name}, row {k}: {reason}") from None
        yield from _objects([row], name, k)


def _one_after_the_other(text: str, name: str) -> Iterator:
    """The JSON values of a text that holds one after the other, as `jq .` writes them."""
    decoder, place = json.JSONDecoder(), 0
    while text[place:].strip():
        place += len(text[place:]) - len(text[place:].lstrip())
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            reason = f"{error.msg} (line {error.lineno}, column {error.colno})"
            raise UserError(f"{name}: cannot be read as JSON: {reason}") from None
        yield value


def _objects(rows: Iterable, name: str, first: int = 1) -> Iterator[dict]:
    for k, row in enumerate(rows, start=first):
        if not isinstance(row, dict):
            raise UserError(f"{name}, row {k}: not an object with columns but {row!r:.40}")
        yield row


def _rows_of_json(content, name: str, split: str | None) -> list:
    """The rows in a JSON value."""
    if not isinstance(content, dict):
        if split:
            raise UserError(f"--split: {name} is a list of rows, and so one split")
        return content if isinstance(content, list) else [content]
    by_key = _rows_by_key(content)
    if by_key:
        return by_key[choose_split(list(by_key), name, split, KEYS)]
    if not _is_columns(content):
        return [content]
    columns = [c.values() if isinstance(c, dict) else c for c in content.values()]
    return [dict(zip(content, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _rows_by_key(content: dict) -> dict[str, list[dict]]:
    """Lists of rows by their key ("data", "train"); empty for an object that is a row itself."""
    rows = {key: value for key, value in content.items() if _is_rows(value)}
    others = [value for key, value in content.items() if key not in rows]
    known = any(key.lower() in KEYS for key in rows) or len(rows) == len(content)
    messages = any(talk.is_message(value[0]) for value in rows.values())
    return {} if messages or not known or any(_is_rows(value) for value in others) else rows


def _is_rows(value) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _is_columns(content: dict) -> bool:
    """Whether an object holds columns: lists of one length, or, as pandas writes, by row number."""
    cells = list(content.values())
    if not cells or not all(isinstance(column, list | dict) for column in cells):
        return False
    if all(isinstance(column, dict) for column in cells):
        return all(column.keys() == cells[0].keys() and "0" in column for column in cells)
    if not all(isinstance(column, list) for column in cells) or not cells[0]:
        return False
    of_dicts = any(isinstance(column[0], dict) for column in cells if column)  # messages of a row
    return not of_dicts and len({len(column) for column in cells}) == 1


OPENERS: dict[str, Callable] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": partial(_open_with_arrow, compression="zstd"),
    ".lz4": partial(_open_with_arrow, compression="lz4"),
    ".zip": _open_zip,
}
READERS: dict[str, Callable[..., Iterator[dict]]] = {
    ".json": _read_json,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".csv": _read_csv,
    ".tsv": partial(_read_csv, delimiter="\t"),
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
SPREADSHEETS = (".xlsx", ".xls", ".ods")

# --- Counting ---


def holds_labels(path: str, split=None, config=None, **columns: str | None) -> bool:
    """Whether the rows of a data set are answers with a label, not pairs."""
    survey, _ = shapes.look_over(_named_rows(path, split, config, columns, {}))
    return bool(shapes.label_column(survey)) and not shapes.find_shapes(survey, lambda done: None)


def _usable(path: str, kind: str, **reading: str | None) -> "Dataset":
    """The rows of a data set that teach something, counted in one line."""
    reading_of = leave_out_unusable(read_data(path, kind, **reading))
    if not len(reading_of.rows):
        reasons = count_by_reason(reading_of.dropped)
        raise UserError(f"{path}: no row is left to learn from (dropped: {reasons})")
    print(tell_counts(path, reading_of, kind))
    return reading_of.rows


def tell_counts(path: str, reading: Reading, kind: str) -> str:
    """How many rows there are, what was left out and what was done, in one line."""
    rows, reasons = reading.rows, count_by_reason(reading.dropped)
    counts = [f"{len(rows)} {kind}"]
    if kind == "labels":
        good = sum(rows["label"])
        counts = [f"{len(rows)} answers, {good} good and {len(rows) - good} bad"]
        if not 0 < good < len(rows):
            raise UserError(f"{path}: {good} of {len(rows)} answers are good; KTO needs both kinds")
    if reasons:
        counts.append(f"dropped: {reasons}")
    against = contradictory(rows) if kind == "pairs" else []
    if against:
        first = rows[against[0]]["row"]
        counts.append(f"{len(against)} contradict another one (row {first}; kept)")
    return f"{path}: {'; '.join([*counts, *reading.remarks])}"


def leave_out_unusable(reading: Reading) -> Reading:
    """The reading without pairs that teach nothing, which are counted among the dropped rows.

    Those are empty, identical or an exact duplicate of a row before.
    """
    kept, known = [], set()
    dropped = {**reading.dropped, "empty": [], "identical": [], "duplicate": []}
    for k, row in enumerate(show_progress(reading.rows, "reading pairs")):
        cells = {name: cell for name, cell in row.items() if name != "row"}
        answers = [row[name] for name in (*SIDES, "completion") if name in row]
        same, reason = key_of(*cells.values()), None
        if not all(answer.strip() for answer in answers):
            reason = "empty"
        elif len(answers) == 2 and answers[0] == answers[1]:
            reason = "identical"
        elif same in known:
            reason = "duplicate"
        if reason:
            dropped[reason].append(row["row"])
        else:
            known.add(same)
            kept.append(k)
    return Reading(reading.rows.select(kept), dropped, reading.remarks)


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


def _split(rows: "Dataset", held: "Dataset | None", seed: int, most: int | None) -> tuple:
    """(training rows, held-out rows) in random order, all rows of a prompt on one side.

    An eighth of the prompts is held out, unless there is a file of held-out rows. At most `most`
    rows are to train on. Which prompts are held out depends on them and the seed alone.
    """
    keys = np.array([key_of(str(seed), row["prompt"]) for row in rows], dtype=np.uint64)
    if held is not None:
        seen = {key_of(str(seed), row["prompt"]) for row in held}
        inside = np.array([key in seen for key in keys.tolist()])
        if inside.any():
            print(f"{inside.sum()} rows left out of training: their prompts are held out")
        if inside.all():
            raise UserError("--held-out: all prompts of --dataset are held out")
        order = np.random.default_rng(seed).permutation(np.flatnonzero(~inside))
        held = held.select(np.random.default_rng(seed).permutation(len(held))[:HELD_OUT])
        return rows.select(order[:most]), held
    distinct = np.unique(keys)
    if len(distinct) < 2:
        reason = f"{len(distinct)} distinct prompts; at least 2 are needed to hold some out"
        raise UserError(f"--dataset: {reason}, or another file with --held-out")
    inside = np.isin(keys, distinct[: max(1, round(len(distinct) / 8))])
    order = np.random.default_rng(seed).permutation(len(rows))
    train, held = rows.select(order[~inside[order]][:most]), rows.select(order[inside[order]])
    tell_near_twins(train["prompt"], held["prompt"])
    return train, held.select(range(min(HELD_OUT, len(held))))


def tell_near_twins(train: Iterable[Prompt], held: Iterable[Prompt]) -> None:
    """Say how many held-out prompts differ from one in training by case, marks or blanks alone."""
    known = {_skeleton(prompt) for prompt in train}
    near = sum(_skeleton(prompt) in known for prompt in distinct_prompts(held))
    if near:
        print(f"{near} held-out prompts are in training but for case, marks or blanks")


def _skeleton(prompt: Prompt) -> str:
    text = unicodedata.normalize("NFKC", as_text(prompt)).casefold()
    return re.sub(r"\W+", " ", text.replace("\0", "")).strip()


def keep_readable(rows: "Dataset", tokenizer, room: int, limit: int) -> "Dataset":
    """The rows that a model can read; what is left out is said in one line.

    A language model keeps `room` for answers that it samples; `limit` 0 is a reward model.
    """
    kept, reasons = find_readable(rows, tokenizer, room, limit)
    if not kept:
        raise UserError(f"--dataset: the model can read none of the rows: {', '.join(reasons)}")
    if reasons:
        print(f"{len(rows) - len(kept)} of {len(rows)} rows left out: {', '.join(reasons)}")
    return rows.select(kept)


def find_readable(
    rows: Sequence[dict], tokenizer, room: int, limit: int
) -> tuple[list[int], list[str]]:
    """(which rows, from 0, a model can read, why it cannot read others, with the first of them)."""
    kept, left_out = [], {}
    for k, row in enumerate(show_progress(rows, "counting tokens")):
        place = row.get("row", k + 1)
        try:
            fault = find_fault(row, tokenizer, room, limit)
        except UserError as error:  # of the chat template
            raise UserError(f"--dataset, row {place}: {error}") from None
        if fault is None:
            kept.append(k)
        else:
            left_out.setdefault(fault[0], []).append((place, fault[1]))
    reasons = []
    for reason, places in left_out.items():
        place, detail = min(places)
        reasons.append(f"{len(places)} {reason} (the first is row {place}{detail})")
    return kept, reasons


def find_fault(row: dict, tokenizer, room: int, limit: int) -> tuple[str, str] | None:
    """(why a model cannot read a row as it stands, a detail of it); None where it can.

    A cut answer would be another answer; a token of the model's own in a text would end a turn or
    begin one; and what is unknown to a tokenizer may be all that tells two answers apart.
    """
    answers = [row[side] for side in (*SIDES, "completion") if side in row]
    for token in tokenizer.all_special_tokens:
        if re.match(r"[<\[|]", token) and any(
            token in t for t in (as_text(row["prompt"]), *answers)
        ):
            return f"with {token}, a token of the model", ""
    if limit:
        limit = min(limit, tokenizer.model_max_length)
        prompt, *encoded = encode_answers(tokenizer, row["prompt"], answers)
    else:
        from common.scoring import REWARD_LENGTH, encode_for_reward

        limit = min(REWARD_LENGTH, tokenizer.model_max_length)
        both = encode_for_reward(tokenizer, [row["prompt"]] * len(answers), answers, cut=False)
        ids = zip(both["input_ids"].tolist(), both["attention_mask"].sum(1).tolist(), strict=True)
        prompt, encoded = [], [answer[:length] for answer, length in ids]
    length = len(prompt) + max([room, *map(len, encoded)])
    if length > limit:
        reserved = f", {room} of them reserved for sampling" if room else ""
        return f"longer than the {limit} tokens that the model reads{reserved}", f" with {length}"
    if len(encoded) > 1 and encoded[0] == encoded[1]:
        return "with answers that are the same to the model (unknown characters)", ""
    return None
