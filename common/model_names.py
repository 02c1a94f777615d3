"""Which model a name stands for: an embedded one, a folder, an adapter on its base, the hub's."""

import contextlib
import json
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

from common.cli import UserError

TINY = Path(__file__).resolve().parent / "tiny"
EMBEDDED = ("tiny-gpt2", "tiny-distilbert")


def is_embedded(name: str) -> bool:
    """Whether this is the name of a model that comes with the lab."""
    return name in EMBEDDED


def local_folder(name: str) -> Path | None:
    """The folder of an embedded or local model, or of an adapter in the hub's cache, if any."""
    folder = TINY / name if is_embedded(name) else Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    cached = cached_folder(name, "adapter_config.json")
    return cached if cached and adapter_base(str(cached)) else None


def cached_folder(name: str, file: str = "config.json") -> Path | None:
    """Where the hub's cache has a model with this file, if it has."""
    from huggingface_hub import try_to_load_from_cache

    with contextlib.suppress(ValueError):  # no name that a hub can have
        cached = try_to_load_from_cache(name, file)
        return Path(cached).parent if isinstance(cached, str) else None


def find_base(name: str) -> str | None:
    """The model that an adapter was made for; None where the name is not that of an adapter."""
    folder = local_folder(name)
    return adapter_base(str(folder)) if folder else None


def adapter_base(path: str) -> str | None:
    """The model that the adapter in a folder was made for; None where there is no adapter."""
    file = Path(path, "adapter_config.json")
    if not file.is_file() or Path(path, "config.json").is_file():
        return None
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    if not base:
        raise UserError(f"cannot use the adapter {path}: {file.name} names no base model")
    return str(base)


def find_model(name: str) -> str:
    """The folder of an embedded or local model, or a hub id that is cached or can be fetched.

    The folder of an adapter is one too. Raises UserError otherwise, within 4 seconds: the library
    itself would retry for a minute.
    """
    from huggingface_hub import try_to_load_from_cache

    folder = local_folder(name)
    if folder:
        check_folder(name, folder)
        return str(folder)
    path = Path(name).expanduser()
    is_path = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if path.exists() or is_path:
        raise UserError(f"no model {name}: there is no such folder")
    try:
        cached = try_to_load_from_cache(name, "config.json")
    except ValueError:
        raise UserError(
            f"no model {name}: no such folder, and not a name that a model hub can have"
        ) from None
    if isinstance(cached, str):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    elif not hub_answers():
        raise UserError(
            f"no model {name}: no such folder, and the model hub cannot be reached; "
            "give the folder of a downloaded model, or leave the flag out to use the embedded one"
        )
    return name


def check_folder(name: str, folder: Path) -> None:
    """Raise UserError for a folder without a model, and for an adapter without its base."""
    if (folder / "config.json").is_file():
        return
    base = adapter_base(str(folder))
    if base is None:
        gguf = " but GGUF files, which cannot be trained" if [*folder.glob("*.gguf")] else ""
        reason = f"the folder holds no model{gguf} (config.json is missing)"
        raise UserError(f"no model {name}: {reason}")
    try:
        find_model(base)
    except UserError as error:
        reason = f"it was made for {base}, which is not there ({error})"
        remedy = "write its place into base_model_name_or_path of adapter_config.json"
        raise UserError(f"cannot use the adapter {name}: {reason}; {remedy}") from None


def hub_answers(seconds: float = 4.0) -> bool:
    """Whether the hub answers at all, decided within `seconds` (name resolution included)."""
    answers = []

    def ask() -> None:
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        with contextlib.suppress(OSError, ValueError):  # ValueError: no URL
            request = urllib.request.Request(endpoint, method="HEAD")
            with contextlib.suppress(urllib.error.HTTPError):  # "not allowed" is an answer
                urllib.request.urlopen(request, timeout=seconds)
            answers.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)
