"""Your own pairs: read from a file or the hub, as plain text, and counted.

Rows stay in a mapped file, so that memory does not grow with their number.
"""

import difflib
import functools
import glob
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.cli import UserError, show_progress
from common.files import folder_for_mapped_files
from common.models import hub_answers
from common.preferences import COLUMNS, SIDES

if TYPE_CHECKING:
    from datasets import Dataset

ENDINGS = (".json", ".jsonl", ".csv", ".parquet")

# --- Reading ---


def load_preferences(path_or_hub_id: str) -> "Dataset":
    """Your own pairs: a `datasets.Dataset` of prompt, chosen, rejected as plain stripped text.

    Reads JSON, JSONL, CSV or Parquet by file ending, otherwise the hub's split "train". Answers are
    texts or messages; the prompt is a column, or what both answers begin with. A missing answer
    becomes an empty one. Rows are mapped, not in memory.

    Raises UserError with the file, the row (from 1) and the reason.
    """
    table = _read_table(path_or_hub_id)
    return table.map(
        lambda row, k: _plain_row(row, f"{path_or_hub_id}, row {k + 1}"),
        with_indices=True,
        remove_columns=table.column_names,
        cache_file_name=str(folder_for_mapped_files() / "pairs.arrow"),
        new_fingerprint=uuid.uuid4().hex,
    )


def _read_table(name: str) -> "Dataset":
    """At least one row as it stands in a file or on the hub."""
    try:
        import datasets
    except ImportError:
        raise UserError('--dataset needs the package datasets: pip install -e ".[hf]"') from None
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    read = _find_reader(name)
    table: Sequence = ()
    try:
        table = read()
    except Exception as error:  # whatever the reader of the format raises
        reason = _count_rows_from_1(str(error.__cause__ or error))
        if not (isinstance(error, StopIteration) or "corresponds to no data" in reason):
            raise UserError(f"{name}: cannot be read: {reason}") from None
    if not len(table):
        raise UserError(f"{name}: there are no rows")
    shifted = "__index_level_0__" in table.column_names  # what pandas does with too many cells
    if shifted and Path(name).suffix.lower() == ".csv":
        reason = "more cells than columns; a text that holds a comma must stand in quotes"
        raise UserError(f"{name}, row 1: {reason}")
    return table


def _find_reader(name: str) -> Callable[[], "Dataset"]:
    """What reads the table of this name. Raises UserError where nothing can."""
    import datasets

    path, ending = Path(name).expanduser(), Path(name).suffix.lower()
    if path.is_file() and ending in ENDINGS:
        as_text = dict.fromkeys(COLUMNS, str)  # pandas would make 007 a 7 and "None" a gap
        readers = {
            ".csv": functools.partial(
                datasets.Dataset.from_csv, converters=as_text, keep_default_na=False
            ),
            ".parquet": datasets.Dataset.from_parquet,
        }
        reader = readers.get(ending, datasets.Dataset.from_json)
        if ending != ".parquet":
            _check_encoding(path)
        cache = str(folder_for_mapped_files())
        return functools.partial(reader, glob.escape(str(path)), cache_dir=cache)
    endings = ", ".join(ENDINGS)
    if path.is_file():
        raise UserError(f"{name}: the name of the file must end in {endings}")
    hub_id = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name)
    if path.exists() or ending in ENDINGS or not hub_id:
        raise UserError(f"{name}: there is no such file")
    if not hub_answers():
        reason = f"no such file, and the hub cannot be reached; give a file ({endings})"
        raise UserError(f"{name}: {reason}")
    return functools.partial(datasets.load_dataset, name, split="train")


def _count_rows_from_1(message: str) -> str:
    """A message of the library, which counts rows from 0."""
    return re.sub(r"row (\d+)", lambda row: f"row {int(row[1]) + 1}", message)


def _check_encoding(path: Path) -> None:
    with path.open("rb") as lines:
        for k, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                reason = f"not UTF-8 ({error.reason}); save the file in UTF-8"
                raise UserError(f"{path}, line {k}: {reason}") from None


# --- One row ---


def _plain_row(row: dict, where: str) -> dict:
    """One question and its two answers as plain text. UserError: the row is not that."""
    _check_columns(row, where)
    if "prompt" not in row and all(isinstance(row[side], str) for side in SIDES):
        row = _split_off_prompt(row, where)
    chosen, rejected = (_turns(row[side], "assistant", f"{where}: {side}") for side in SIDES)
    prompt = _turns(row["prompt"], "user", f"{where}: prompt") if "prompt" in row else chosen[:-1]
    if rejected[:-1] != chosen[:-1] or chosen[:-1] not in ([], prompt):
        raise UserError(f"{where}: chosen and rejected do not answer the same prompt")
    roles, texts = zip(*prompt, chosen[-1], rejected[-1], strict=True)
    if roles != ("user", "assistant", "assistant"):
        supported = "supported is one user turn and one assistant turn a side"
        raise UserError(f"{where}: {supported}, not {list(roles)}")
    if not texts[0]:
        raise UserError(f"{where}: the prompt is empty")
    return dict(zip(COLUMNS, texts, strict=True))


def _check_columns(row: dict, where: str) -> None:
    """Raise UserError for a row without answers, and for one that has them under another name.

    Where only some rows of a file misspell a column, `datasets` adds it and leaves a gap.
    """
    others = [name for name, cell in row.items() if name not in COLUMNS and _holds_text(cell)]
    for name in COLUMNS:
        if not _holds_text(row.get(name)):
            for misspelt in difflib.get_close_matches(name, others, n=1, cutoff=0.82):
                raise UserError(f"{where}: no {name}, but a column {misspelt}: misspelt?")
    missing = [side for side in SIDES if side not in row]
    if missing:
        columns = ", ".join(row)
        raise UserError(f"{where}: no column {', '.join(missing)}; the columns are {columns}")


def _holds_text(cell: object) -> bool:
    """Whether there is a text, or messages, in a cell."""
    return bool(cell.strip() if isinstance(cell, str) else isinstance(cell, list) and cell)


def _split_off_prompt(row: dict, where: str) -> dict:
    """The row with what both texts begin with, up to the end of a word, as their prompt."""
    letters = zip(row["chosen"], row["rejected"], strict=False)
    same = "".join(a for a, _ in takewhile(lambda two: two[0] == two[1], letters))
    shared = re.match(r".*\s|", same, re.DOTALL)[0]
    if not shared.strip():
        columns = f"the columns are {', '.join(row)}, which do not begin with one prompt"
        raise UserError(f"{where}: no column prompt; {columns}")
    return {"prompt": shared, **{side: row[side][len(shared) :] for side in SIDES}}


def _turns(cell: str | list | None, role: str, where: str) -> list[tuple[str, str]]:
    """The (role, text) turns of a cell: messages, or a text, which is one turn of that role."""
    if cell is None or isinstance(cell, str):
        return [(role, (cell or "").strip())]
    try:
        return [(message["role"], message["content"].strip()) for message in cell] or [(role, "")]
    except (TypeError, KeyError, AttributeError):
        raise UserError(f"{where} is {cell!r:.60}, neither a text nor a list of messages") from None


# --- Counting ---


def load_own_pairs(path: str | None) -> "Dataset | None":
    """The pairs of --dataset that teach something, or None where there is no --dataset.

    `row` is their place in the file, from 1. What is dropped is counted in one line, by reason,
    with a first row. Contradictory pairs (the same two answers, both ways round) are kept, since
    people do disagree, and counted.
    """
    if path is None:
        return None
    rows = load_preferences(path)
    kept, dropped = usable_pairs(rows)
    reasons = count_by_reason(dropped)
    if not kept:
        raise UserError(f"{path}: no pair is left to learn from (dropped: {reasons})")
    rows = rows.add_column("row", np.arange(1, len(rows) + 1)).select(kept)
    against = contradictory(rows)
    counts = [f"{len(rows)} pairs"]
    if reasons:
        counts.append(f"dropped: {reasons}")
    if against:
        first = rows[against[0]]["row"]
        counts.append(f"{len(against)} contradict another one (row {first}; kept)")
    print(f"{path}: {'; '.join(counts)}")
    return rows


def usable_pairs(rows: Sequence[dict]) -> tuple[list[int], dict[str, list[int]]]:
    """Which rows (from 0) teach something, and which do not, by reason.

    Those are empty, identical or an exact duplicate of a row before.
    """
    kept, known, dropped = [], set(), {"empty": [], "identical": [], "duplicate": []}
    for k, row in enumerate(show_progress(rows, "reading pairs")):
        same = fingerprint(*(row[key] for key in COLUMNS))
        if not (row["chosen"] and row["rejected"]):
            dropped["empty"].append(k)
        elif row["chosen"] == row["rejected"]:
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
    """How many rows were dropped for each reason, and the first of them, counted from 1."""
    counts = [
        f"{len(places)} {reason} (row {places[0] + 1})"
        for reason, places in dropped.items()
        if places
    ]
    return ", ".join(counts)


def fingerprint(*texts: str) -> int:
    """A number for the texts, the same in every process: what is remembered of a row."""
    joined = json.dumps(texts).encode()
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "big")
