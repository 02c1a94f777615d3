"""Rows in a file: what is packed is unpacked, and the ending of the name says the format."""

import bz2
import csv
import functools
import gzip
import io
import itertools
import lzma
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from support.json_rows import read_json

from common.cli import UserError


def read_file(path: Path, name: str, split: str | None = None) -> Iterator[dict]:
    """The rows of one file."""
    endings = [ending.lower() for ending in path.suffixes]
    packed = endings.pop() if endings and endings[-1] in OPENERS else ""
    if packed == ".zip":
        endings = [Path(_only_file(path, name)).suffix.lower()]
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


def _open_zip(path: Path):
    return zipfile.ZipFile(path).open(_only_file(path, str(path)))


def _only_file(path: Path, name: str) -> str:
    """The name of the one file in a ZIP archive. Raises UserError where there are more."""
    with zipfile.ZipFile(path) as archive:
        files = [file.filename for file in archive.infolist() if not file.is_dir()]
    files = [file for file in files if not file.startswith("__MACOSX/")]  # macOS's notes
    if len(files) != 1:
        raise UserError(f"{name}: the archive holds {len(files)} files; unpack it, and give one")
    return files[0]


def _open_with_arrow(path: Path, compression: str):
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression=compression))


def decode(file: Iterable[bytes], name: str) -> Iterator[str]:
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
    reader = csv.reader(decode(file, name), delimiter=delimiter, strict=True)
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


def _read_json(file: Iterable[bytes], name: str, split: str | None = None) -> Iterator[dict]:
    return read_json(decode(file, name), name, split)


OPENERS: dict[str, Callable] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": functools.partial(_open_with_arrow, compression="zstd"),
    ".lz4": functools.partial(_open_with_arrow, compression="lz4"),
    ".zip": _open_zip,
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
