"""Files and folders that appear whole or not at all, and models that are found or trained.

What is written stands beside its place first and is renamed at the end. A folder that the lab wrote
holds `lab_settings.json`: the settings of the training and the names of the files. Whatever else
stands in a folder is somebody's, and is never deleted.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from common.basics import UserError

SETTINGS = "lab_settings.json"
REMEDY = "move it, or choose another folder with --output-dir"
PACKAGES = ("numpy", "torch", "transformers", "datasets", "trl", "peft", "accelerate", "matplotlib")


def name_run(name: str, changed: dict, longest: int = 150) -> str:
    """A file name that says what differs: dpo_training, dpo_training-beta-0.1, ...-smoke.

    Two different values never share a name: what a name cannot hold is told apart by a hash.
    """

    def short_hash(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    parts = [name]
    for flag, value in sorted(changed.items()):
        parts.append(flag.replace("_", "-"))
        values = value if isinstance(value, list | tuple) else [value]
        for text in map(str, values if value is not True else ()):
            slug = re.sub(r"[^\w.-]+", "_", text).strip("_.")[-40:]
            parts.append(slug if slug == text else f"{slug}_{short_hash(text)}")
    full = "-".join(parts)
    return full if len(full.encode()) <= longest else f"{full[:100]}-{short_hash(full)}"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` at the end, or is gone when writing fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.resolve()  # what a symbolic link points to is replaced, not the link
    temporary = _beside(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


def write_json(path: Path, content: dict | list) -> None:
    """Write JSON, whole or not at all; NaN is refused."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, default=_as_json)
    with whole_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _as_json(value: object):
    """A number or an array of NumPy, or a path; TypeError for anything else."""
    return value.tolist() if hasattr(value, "tolist") else os.fspath(value)


def read_json(path: Path) -> dict:
    """The content of a JSON file that the lab wrote; {} where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def check_writable(*folders: Path) -> None:
    """Raise UserError, before any work is done, where a folder cannot be made or written to."""
    for folder in folders:
        full = folder.absolute()
        there = next(path for path in (full, *full.parents) if os.path.lexists(path))
        if not (there.is_dir() and os.access(there, os.W_OK)):
            reason = f"cannot write to the folder {folder}: {there} is no folder, or is read-only"
            raise UserError(f"{reason}; choose another one")


def check_results(folder: Path, name: str) -> None:
    """Raise UserError where results cannot be written, or NAME.json or .png is not the lab's."""
    check_writable(folder)
    results = folder / f"{name}.json"
    present = [path for path in (results, folder / f"{name}.png") if os.path.lexists(path)]
    ours = {"script", "claims", "metrics"} & read_json(results).keys()
    if present and not (ours and all(path.is_file() for path in present)):
        raise UserError(f"{present[0]} was not written by the lab, so it is not replaced; {REMEDY}")


def versions() -> dict[str, str]:
    """Of Python and of the libraries."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def save_model(folder: Path, settings: dict, *parts, readme: str = "") -> None:
    """Save model, tokenizer, ..., a README and the settings that made them, all or nothing.

    Replaces what the lab wrote there before; anything else in the way is a UserError.
    """
    check_ours(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()  # what a symbolic link points to is replaced, not the link
    new, old = _beside(folder), _beside(folder)
    try:
        for part in parts:
            part.save_pretrained(new)
        if readme:
            (new / "README.md").write_text(readme, encoding="utf-8")
        write_json(new / SETTINGS, {"settings": settings, "files": files_below(new)})
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not folder.exists():  # stopped between the two renames
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def check_ours(*folders: Path) -> None:
    """Raise UserError where a folder to be replaced holds what the lab did not write."""
    for folder in folders:
        if os.path.lexists(folder) and not folder.is_dir():
            raise UserError(f"{folder} is not a folder, so it is not replaced; {REMEDY}")
        ours = {*read_json(folder / SETTINGS).get("files", ()), SETTINGS}
        strangers = [name for name in files_below(folder) if name not in ours]
        if strangers:
            reason = f"{folder} holds {strangers[0]}, which the lab did not write"
            raise UserError(f"{reason}; {REMEDY}")


def files_below(folder: Path) -> list[str]:
    """The names of all files and links below a folder, relative to it."""
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return sorted(str(path.relative_to(folder)) for path in paths)


def load_or_train(folder: Path, settings: dict, train: Callable[[], Sequence]) -> Path:
    """The folder of a model: as it is where its settings are these, else trained into it now.

    `train()` returns what is to be saved: model, tokenizer. The settings should hold a
    `fingerprint` of the base model and of the data, so that what is stale is trained again.
    """
    settings = json.loads(json.dumps(settings, default=_as_json))
    if read_json(folder / SETTINGS).get("settings") == settings:
        return folder
    check_ours(folder)
    print(f"training {folder.name.replace('_', ' ')} first ({folder})")
    save_model(folder, settings, *train())
    return folder
