"""Your own data: pairs, or answers with a label, read from a file or the hub, and counted.

Where rows come from stands in data_files.py, their shapes in data_columns.py and data_shapes.py,
and what a row is made of in pair_rows.py and conversations.py. Rows stay in a mapped file, so that
memory does not grow with their number.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from support.conversations import DroppedRow
from support.data_columns import (
    clean_name,
    clean_names,
    explain_labels,
    explain_missing,
    refuse_misspelt,
)
from support.data_files import read_rows
from support.data_shapes import find_shape, is_labelled
from support.pair_rows import Notes, read_labelled_row, read_pair

from common.cli import UserError, show_progress
from common.files import folder_for_mapped_files
from common.preferences import COLUMNS
from common.prompts import Prompt

if TYPE_CHECKING:
    from datasets import Dataset

# --- Reading ---


def load_preferences(path_or_hub_id: str, **reading: str | None) -> "Dataset":
    """Your own pairs: a `datasets.Dataset` of prompt, chosen, rejected.

    Answers are stripped texts. A prompt is a text, or a list of messages where it has several turns
    or a system message. A missing answer is an empty one. `reading` may hold `split`, `config`,
    `prompt_column`, `chosen_column`, `rejected_column`, as on the command line. Rows are mapped,
    not in memory.

    Raises UserError with the file, the row (from 1) and the reason.
    """
    return read_pairs(path_or_hub_id, **reading).rows.remove_columns("row")


class Reading(NamedTuple):
    """Rows with their place in the file (`row`, from 1), and what to say of them."""

    rows: "Dataset"
    dropped: dict[str, list[int]]  # the places of rows that were left out, by reason
    remarks: list[str]  # what was done to the rows, and what of them was not read


def read_pairs(path: str, **reading: str | None) -> Reading:
    """The pairs of a file, a folder or a data set of the hub. Raises UserError."""
    return _read(path, read_pair, {"chosen": "string", "rejected": "string"}, **reading)


def read_labelled(path: str, **reading: str | None) -> Reading:
    """Rows of prompt, completion, label (True: good), as KTO takes them. Raises UserError."""
    return _read(path, read_labelled_row, {"completion": "string", "label": "bool"}, **reading)


def holds_labels(path: str, split: str | None = None, config: str | None = None, **_) -> bool:
    """Whether the rows of a data set are answers with a label, not pairs."""
    row = clean_names(next(read_rows(path, split, config)))
    return is_labelled(row) and find_shape(row) is None


def _read(
    path: str,
    read_row: Callable[[dict, str, Notes], dict],
    types: dict[str, str],
    split: str | None = None,
    config: str | None = None,
    **columns: str | None,
) -> Reading:
    """The rows of a data set as `read_row` reads them, in a mapped file."""
    datasets = _import_datasets()
    from datasets.arrow_writer import ArrowWriter

    features = {name: datasets.Value(kind) for name, kind in {**types, "row": "int64"}.items()}
    features = datasets.Features({"prompt": datasets.Json(), **features})
    notes, dropped, why = Notes(), {}, {}
    rows = _named_rows(read_rows(path, split, config), path, columns, notes)
    if read_row is read_pair:
        rows = _as_pairs(rows, path, notes)
    file = str(folder_for_mapped_files() / "rows.arrow")
    with ArrowWriter(path=file, features=features) as writer:
        for place, row in show_progress(rows, "reading rows"):
            where = f"{path}, row {place}"
            try:
                kept = read_row(row, where, notes)
                prompt = json.dumps(kept["prompt"])  # else Json() would read the text 007 as 7
                writer.write({**kept, "prompt": prompt, "row": place})
            except DroppedRow as drop:
                dropped.setdefault(drop.reason, []).append(place)
                why.setdefault(drop.reason, f"{where}: {drop.why}")
        count, _ = writer.finalize()
    if not count:
        raise UserError(next(iter(why.values())))
    return Reading(datasets.Dataset.from_file(file), dropped, notes.remarks())


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


def _named_rows(
    rows: Iterable[dict], path: str, columns: dict[str, str | None], notes: Notes
) -> Iterator[tuple[int, dict]]:
    """The rows with their place, and with the columns of the command line under our names."""
    for place, cells in enumerate(rows, start=1):
        row = clean_names(cells)
        notes.columns |= dict.fromkeys(row)
        for flag, column in columns.items():
            if column is None:
                continue
            name = clean_name(column)
            if place == 1 and name not in row:
                known = f"the columns are {', '.join(row)}"
                raise UserError(f"--{flag.replace('_', '-')}: {path} has no {column}; {known}")
            notes.used.add(name)
            row[flag.removesuffix("_column")] = row.get(name)
        yield place, row


def _as_pairs(
    rows: Iterator[tuple[int, dict]], path: str, notes: Notes
) -> Iterator[tuple[int, dict | DroppedRow]]:
    """Rows of any shape as rows that have a chosen and a rejected answer."""
    place, first = next(rows)
    where = f"{path}, row {place}"
    refuse_misspelt(first, where)
    shape = find_shape(first)
    if shape is None:
        raise explain_labels(first, where) if is_labelled(first) else explain_missing(first, where)
    notes.shape = shape.said
    notes.used |= set(shape.columns)
    return shape.pair(itertools.chain([(place, first)], rows))


# --- Counting ---


def load_own_pairs(
    path: str | None, labelled: bool = False, **reading: str | None
) -> "Dataset | None":
    """The pairs of --dataset that teach something, or None where there is no --dataset.

    With `labelled`, rows of one answer with a label, where the data are such (`load_own_labels`).

    `row` is their place in the file, from 1. What is dropped, and what was done to the rows, is
    said in one line. Contradictory pairs (the same two answers, both ways round) are kept, since
    people do disagree, and counted.
    """
    if path is None:
        return None
    if labelled and holds_labels(path, **reading):
        return load_own_labels(path, **reading)
    rows, dropped, remarks = leave_out_unusable(read_pairs(path, **reading))
    reasons = count_by_reason(dropped)
    if not len(rows):
        raise UserError(f"{path}: no pair is left to learn from (dropped: {reasons})")
    against = contradictory(rows)
    counts = [f"{len(rows)} pairs"]
    if reasons:
        counts.append(f"dropped: {reasons}")
    if against:
        first = rows[against[0]]["row"]
        counts.append(f"{len(against)} contradict another one (row {first}; kept)")
    print(f"{path}: {'; '.join([*counts, *remarks])}")
    return rows


def load_own_labels(path: str, **reading: str | None) -> "Dataset":
    """The rows of prompt, completion, label of --dataset, counted in one line."""
    rows, dropped, remarks = leave_out_unusable(read_labelled(path, **reading))
    good = sum(rows["label"])
    if not 0 < good < len(rows):
        raise UserError(f"{path}: {good} of {len(rows)} answers are good; KTO needs both kinds")
    counts = [f"{len(rows)} answers, {good} good and {len(rows) - good} bad"]
    if any(dropped.values()):
        counts.append(f"dropped: {count_by_reason(dropped)}")
    print(f"{path}: {'; '.join([*counts, *remarks])}")
    return rows


def leave_out_unusable(reading: Reading) -> Reading:
    """The reading without pairs that teach nothing, which are counted among the dropped rows."""
    kept, unusable = usable_pairs(reading.rows)
    dropped = {**reading.dropped, **places_of(reading.rows, unusable)}
    return Reading(reading.rows.select(kept), dropped, reading.remarks)


def places_of(rows: Sequence[dict], dropped: dict[str, list[int]]) -> dict[str, list[int]]:
    """Where in the file, from 1, the rows of these numbers (from 0) stand."""
    return {
        reason: [rows[k].get("row", k + 1) for k in numbers] for reason, numbers in dropped.items()
    }


def usable_pairs(rows: Sequence[dict]) -> tuple[list[int], dict[str, list[int]]]:
    """Which rows (from 0) teach something, and which do not, by reason.

    Those are empty, identical or an exact duplicate of a row before. Rows are pairs, or answers
    with a label.
    """
    kept, known, dropped = [], set(), {"empty": [], "identical": [], "duplicate": []}
    for k, row in enumerate(show_progress(rows, "reading pairs")):
        columns = [key for key in (*COLUMNS, "completion", "label") if key in row]
        same = fingerprint(*(row[key] for key in columns))
        answers = [row[key] for key in columns if key not in ("prompt", "label")]
        if not all(answers):
            dropped["empty"].append(k)
        elif len(answers) == 2 and answers[0] == answers[1]:
            dropped["identical"].append(k)
        elif same in known:
            dropped["duplicate"].append(k)
        else:
            known.add(same)
            kept.append(k)
    return kept, dropped


def contradictory(rows: Sequence[dict]) -> list[int]:
    """Which rows (from 0) say of two answers the contrary of what another row says."""
    labelled = set()
    for row in show_progress(rows, "comparing pairs"):
        labelled.add(fingerprint(*(row[key] for key in COLUMNS)))
    contrary = ("prompt", "rejected", "chosen")
    return [k for k, row in enumerate(rows) if fingerprint(*map(row.get, contrary)) in labelled]


def pick(rows: Sequence[dict], indices: Sequence[int]) -> Sequence[dict]:
    """The rows of these numbers: a list of a list, a mapped dataset of a mapped dataset."""
    return [rows[i] for i in indices] if isinstance(rows, list) else rows.select(indices)


def count_by_reason(dropped: dict[str, list[int]]) -> str:
    """How many rows were dropped for each reason, and the first of their places, from 1."""
    counts = [
        f"{len(places)} {reason} (row {min(places)})"
        for reason, places in dropped.items()
        if places
    ]
    return ", ".join(counts)


def fingerprint(*texts: Prompt | bool) -> int:
    """A number for the texts, the same in every process: what is remembered of a row."""
    joined = json.dumps(texts).encode()
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "big")
