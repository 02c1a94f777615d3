"""Rows of the user's data as they stand: in a file, a folder, or a data set of the hub.

A row is a dictionary of its cells. Rows are read one after the other, so that memory does not grow
with their number; only JSON that is one value as a whole is held in memory.
"""

import glob
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from support.data_formats import OPENERS, READERS, read_file
from support.json_rows import choose_split

from common.cli import UserError
from common.files import folder_for_mapped_files
from common.model_names import hub_answers


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


# --- Folders and the hub ---


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
        if glob.escape(str(path)) != str(path):
            reason = "a name with [, ] or * is read as a pattern; rename the folder"
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
