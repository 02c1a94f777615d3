"""Rows in JSON: an object on each line, a list of objects, columns, or rows under a key."""

import itertools
import json
from collections.abc import Iterable, Iterator

from common.cli import UserError

KEYS = ("train", "data")  # where the rows of an object stand, unless --split names another


def read_json(lines: Iterator[str], name: str, split: str | None = None) -> Iterator[dict]:
    """The rows in the lines of a file; `split` names the key where there are several."""
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
