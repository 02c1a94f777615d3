"""Which weights a model has: a hash of its files, so that what came of them is known again."""

import hashlib
from functools import lru_cache
from pathlib import Path

from common.model_names import adapter_base, cached_folder, local_folder

READ_BY_LOADING = (".safetensors", ".json", ".jinja", ".model", ".txt")  # what makes a model


def model_fingerprint(name: str) -> str | None:
    """A hash of the files that make a model, of an adapter its base's too. None: not at hand."""
    folder = local_folder(name) or cached_folder(name)
    if folder is None:
        return None
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in READ_BY_LOADING and path.is_file():
            stat = path.stat()
            content = hash_file(path, stat.st_size, stat.st_mtime_ns)
            digest.update(f"{path.name} {content}\n".encode())
    base = adapter_base(str(folder))
    if base is not None:
        digest.update(str(model_fingerprint(base)).encode())
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def hash_file(path: Path, size: int, changed: int) -> str:
    """The hash of a file; read once, as long as its size and its time of change stay."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
