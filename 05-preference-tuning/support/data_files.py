"""Rows of the user's data as they stand: in a file, a folder, or a data set of the hub.

A row is a dictionary of its cells. Rows are read one after the other, so that memory does not grow
with their number; only JSON that is one value as a whole is held in memory.
"""

import bz2
import csv
import functools
import gzip
import io
import itertools
import json
import lzma
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from common.cli import UserError
from common.files import folder_for_mapped_files
from common.model_names import hub_answers

KEYS = ("train", "data")  # where the rows of a JSON object stand, unless --split names another


def read_rows(name: str, split: str | None = None, config: str | None = None) -> Iterator[dict]:
    """The rows of a file (its ending says the format), a folder, or a hub id.

    Raises UserError with the name, the place and the reason.
    """
    path = Path(name).expanduser()
    if path.is_file():
        if config:
            raise UserError(f"--config: {name} is a file, which has one configuration")
        rows = read_file(path, name, split)
    elif path.is_dir():
        rows = _read_folder(path, name, split, config)
    else:
        rows = _read_hub(name, split, config)
    rows = _readable(rows, name)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{name}: there are no rows")
    return itertools.chain([first], rows)


def _readable(rows: Iterable[dict], name: str) -> Iterator[dict]:
    """The rows; whatever the reader of a format raises becomes a UserError."""
    try:
        yield from rows
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name}: cannot be read: {error.__cause__ or error}") from None


# --- Files ---


def read_file(path: Path, name: str, split: str | None = None) -> Iterator[dict]:
    """The rows of one file."""
    endings = [ending.lower() for ending in path.suffixes]
    packed = endings.pop() if endings and endings[-1] in OPENERS else ""
    reader = READERS.get(endings[-1] if endings else "")
    if reader is None:
        known = ", ".join(READERS)
        raise UserError(
            f"{name}: the name of the file must end in {known}, or in one of these and "
            f"{', '.join(OPENERS)}"
        )
    if split and reader is not _read_json:
        raise UserError(f"--split: {name} is a file, which has one split")
    with OPENERS.get(packed, _open_plain)(path) as file:
        options = {"split": split} if split else {}
        yield from reader(file, name, **options)


def _open_plain(path: Path):
    return path.open("rb")


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
            reason = f"not UTF-8 ({error.reason}); save the file in UTF-8"
            raise UserError(f"{name}, line {k}: {reason}") from None


def _read_csv(file: Iterable[bytes], name: str, delimiter: str = ",") -> Iterator[dict]:
    """Cells are texts as they stand: 007 is no 7, and None no gap."""
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(_decode(file, name), delimiter=delimiter, strict=True)
    rows = filter(None, reader)  # without blank lines
    header = next(rows, [])
    _check_header(header, name)
    count = 0
    try:
        for count, cells in enumerate(rows, start=1):
            if len(cells) > len(header):
                reason = "more cells than columns; a text that holds a comma must stand in quotes"
                raise UserError(f"{name}, row {count}: {reason}")
            yield dict(itertools.zip_longest(header, cells))
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
    twice = [column for column in header if header.count(column) > 1]
    if twice:
        raise UserError(f"{name}: two columns have the name {twice[0]!r}; rename one")


def _read_tsv(file: Iterable[bytes], name: str) -> Iterator[dict]:
    return _read_csv(file, name, delimiter="\t")


def _read_parquet(file, name: str) -> Iterator[dict]:
    from pyarrow import parquet

    for batch in parquet.ParquetFile(file).iter_batches(1000):
        yield from batch.to_pylist()


def _read_arrow(file, name: str) -> Iterator[dict]:
    from pyarrow import ipc

    is_stream = file.read(6) != b"ARROW1"
    file.seek(0)
    if is_stream:
        batches = ipc.open_stream(file)
    else:
        whole = ipc.open_file(file)
        batches = map(whole.get_batch, range(whole.num_record_batches))
    for batch in batches:
        yield from batch.to_pylist()


# --- JSON: an object a line, a list of objects, columns, or rows under a key ---


def _read_json(file: Iterable[bytes], name: str, split: str | None = None) -> Iterator[dict]:
    lines = _decode(file, name)
    first = next((line for line in lines if line.strip()), "")
    row = _parse(first)
    if isinstance(row, dict) and not _rows_by_key(row) and not _is_columns(row):
        if split:
            raise UserError(f"--split: {name} has a row on each line, and so one split")
        yield from _read_json_lines(itertools.chain([first], lines), name)
        return
    whole = [first, *lines]
    content = _parse("".join(whole))
    if content is not None:
        yield from _rows_of(content, name, split)
    elif first.rstrip().endswith(("}", "},")):
        yield from _read_json_lines(whole, name)  # which says what is wrong
    elif first:
        _raise_reason("".join(whole), name)


def _parse(text: str):
    """The JSON value that a text is, or None where it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _raise_reason(text: str, name: str) -> None:
    """Raise UserError for a text that is no JSON."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} (line {error.lineno}, column {error.colno})"
        raise UserError(f"{name}: cannot be read as JSON: {reason}") from None


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
        if not isinstance(row, dict):
            raise UserError(f"{name}, row {k}: not an object with columns but {line.strip():.40}")
        yield row


def _rows_of(content, name: str, split: str | None) -> Iterator[dict]:
    """The rows in a JSON value."""
    if isinstance(content, dict):
        by_key = _rows_by_key(content)
        if by_key:
            content = by_key[choose_split(list(by_key), name, split, KEYS)]
        elif _is_columns(content):
            content = _transpose(content)
        else:
            content = [content]
    elif split:
        raise UserError(f"--split: {name} is a list of rows, and so one split")
    for k, row in enumerate(content, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{name}, row {k}: not an object with columns but {row!r:.40}")
        yield row


def _rows_by_key(content: dict) -> dict[str, list[dict]]:
    """Lists of rows by their key ("data", "train"); empty for an object that is a row itself."""
    rows = {key: value for key, value in content.items() if _is_rows(value)}
    others = [value for key, value in content.items() if key not in rows]
    known = any(key.lower() in KEYS for key in rows) or len(rows) == len(content)
    messages = any(_has_message(value[0]) for value in rows.values())
    return {} if messages or not known or any(_is_rows(value) for value in others) else rows


def _is_rows(value) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _has_message(row: dict) -> bool:
    return {"role", "content"} <= row.keys() or {"from", "value"} <= row.keys()


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


def _transpose(content: dict) -> list[dict]:
    columns = [c.values() if isinstance(c, dict) else c for c in content.values()]
    return [dict(zip(content, cells, strict=True)) for cells in zip(*columns, strict=True)]


OPENERS: dict[str, Callable] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": functools.partial(_open_with_arrow, compression="zstd"),
    ".lz4": functools.partial(_open_with_arrow, compression="lz4"),
}
READERS: dict[str, Callable[..., Iterator[dict]]] = {
    ".json": _read_json,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}


# --- Folders and the hub ---


def choose_split(
    names: list[str], where: str, split: str | None, usual: tuple[str, ...] = ("train",)
) -> str:
    """The split of --split; else "train", or the only one there is. Raises UserError."""
    chosen = next((name for name in usual if name in names), None)
    if split or len(names) == 1:
        chosen = split or names[0]
    if chosen not in names:
        asked = f"no split {split}" if split else "no split train"
        raise UserError(f"{where}: {asked}; choose with --split: {', '.join(names)}")
    return chosen


def _read_folder(path: Path, name: str, split: str | None, config: str | None) -> Iterator[dict]:
    """What `save_to_disk` wrote, or a folder of shards laid out as on the hub."""
    import datasets

    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        saved = datasets.load_from_disk(str(path))
        if isinstance(saved, datasets.Dataset):
            if split:
                raise UserError(f"--split: {name} holds one split")
            yield from saved
        else:
            yield from saved[choose_split(list(saved), name, split)]
        return
    files = _data_files(path, name, config)
    for file in files[choose_split(list(files), name, split)]:
        yield from read_file(Path(file), f"{name}, {Path(file).name}")


def _data_files(path: Path, name: str, config: str | None) -> dict[str, list[str]]:
    """The data files of a folder by split, as `datasets` finds them."""
    import datasets

    cache = folder_for_mapped_files()
    try:
        builder = datasets.load_dataset_builder(str(path), config, cache_dir=cache)
    except Exception as error:  # whatever the library raises where it finds nothing
        _check_config(str(path), name, config)
        reason = f"the folder holds no data that can be read ({', '.join(READERS)})"
        raise UserError(f"{name}: {reason}: {error}") from None
    return builder.config.data_files or {}


def _check_config(path: str, name: str, config: str | None) -> None:
    """Raise UserError where a data set has configurations and this is none of them."""
    import datasets

    try:
        names = datasets.get_dataset_config_names(path)
    except Exception:  # there is no such data set, which is said elsewhere
        return
    if config not in names and names != ["default"]:
        asked = f"no configuration {config}" if config else "several configurations"
        raise UserError(f"{name}: {asked}; choose with --config: {', '.join(names)}")


def _read_hub(name: str, split: str | None, config: str | None) -> Iterable[dict]:
    """A data set of the hub, or of its cache where the hub cannot be reached."""
    import datasets
    from huggingface_hub import constants

    hub_id = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name)
    if not hub_id or Path(name).suffix.lower() in (*READERS, *OPENERS):
        raise UserError(f"{name}: there is no such file or folder")
    online = hub_answers()
    if not online:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    options = {"name": config} if config else {}
    try:
        return datasets.load_dataset(name, split=split or "train", **options)
    except Exception as error:  # whatever the library raises
        _check_config(name, name, config)
        _check_split(name, split, config)
        if online:
            raise UserError(f"{name}: cannot be read: {error.__cause__ or error}") from None
        endings = ", ".join(READERS)
        reason = "no such file, and the hub cannot be reached; give a file or a folder"
        raise UserError(f"{name}: {reason} ({endings})") from None


def _check_split(name: str, split: str | None, config: str | None) -> None:
    """Raise UserError where a data set of the hub has splits and this is none of them."""
    import datasets

    try:
        names = datasets.get_dataset_split_names(name, config)
    except Exception:  # there is no such data set, which is said elsewhere
        return
    choose_split(names, name, split)
