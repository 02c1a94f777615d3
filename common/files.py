"""Files and folders that appear whole or not at all, and what killed runs leave behind.

A run holds a lock on whatever it will remove itself. The system opens the lock when the process
ends, however it ends, in a container or on another machine that shares the disk. So what bears the
lab's mark and is not locked belongs to no living run: `sweep` removes it. All else is left alone.
"""

import atexit
import contextlib
import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from common.cli import is_main_process

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing is swept
    fcntl = None

MARK = ".lab-"  # in the hidden names of what is being written: .NAME.lab-HEX
MAPPED = "preference-pairs-"  # in the temporary folder: tables that are mapped into memory
OWNER = "lab-owner.lock"  # in a folder: what its run holds locked
OLD = "old"  # in the folder of a replacement: what stood in the place before
AT_FDCWD, EXCHANGE = -100, 2  # of Linux: paths as usual; swap two of them

# --- Locks ---


def lock(path: Path) -> IO | None:
    """The open file, locked until it is closed; None where another process holds it."""
    try:
        file = path.open("a", encoding="utf-8")
    except OSError:
        return None
    if fcntl:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held; or a file system without locks, where nobody is known to be dead
            file.close()
            return None
    return file


def lock_new_folder(folder: Path) -> IO | None:
    """Mark a new folder as this run's, until the file is closed. It never shows an open lock."""
    unmarked = folder / f".{OWNER}"
    file = lock(unmarked)
    unmarked.rename(folder / OWNER)
    return file


def lock_left_folder(folder: Path) -> IO | None:
    """The lock of a folder that a dead run left; None where its run lives or it is not ours."""
    owner = folder / OWNER
    marked = owner.is_file() and not owner.is_symlink() and not folder.is_symlink()
    return lock(owner) if marked else None


# --- Scratch folders ---


@contextlib.contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder for a file or folder NAME that is being made; it goes at the end."""
    folder = _name_for(parent / name)
    folder.mkdir()
    with lock_new_folder(folder) or contextlib.nullcontext():
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def folder_for_mapped_files() -> Path:
    """A new folder in the temporary one, which goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix=MAPPED))
    owner = lock_new_folder(folder)

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if owner:
            owner.close()

    atexit.register(remove)
    return folder


def _name_for(path: Path) -> Path:
    """A hidden name beside a path, for what will take its place."""
    return path.with_name(f".{path.name}{MARK}{uuid.uuid4().hex}")


# --- Replacing in one step ---


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` in one step, or is gone when writing fails.

    Of several processes only the first one writes.
    """
    if not is_main_process():
        yield Path(os.devnull)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.resolve()  # what a symbolic link points to is replaced, not the link
    temporary = _name_for(path)
    with lock(temporary) or contextlib.nullcontext():
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def replace_folder(new: Path, folder: Path) -> None:
    """Put a whole folder in the place of another one, which then lies beside where the new one was.

    Where the system can swap two folders, there is no moment without one. Elsewhere the old one is
    moved away first; a run that is killed just then leaves both in its scratch folder, and `sweep`
    puts the new one in place.
    """
    while new.exists():
        if os.path.lexists(folder) and swap(new, folder):
            return
        with contextlib.suppress(FileNotFoundError):
            folder.rename(new.with_name(f"{OLD}-{uuid.uuid4().hex}"))
        try:
            new.rename(folder)
        except OSError as error:  # another run has put its own there in between
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def swap(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False, and nothing is done, where the system cannot."""
    names = os.fsencode(one), os.fsencode(other)
    try:
        library = ctypes.CDLL(None)
        if sys.platform == "darwin":
            return library.renamex_np(*names, EXCHANGE) == 0
        return library.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], EXCHANGE) == 0
    except (OSError, AttributeError, TypeError):  # no such function
        return False


# --- What killed runs left ---


def sweep(*places: Path) -> None:
    """Remove what killed runs left in these folders; finish a replacement that was cut in half."""
    if fcntl is None or not is_main_process():
        return
    for place in places:
        with contextlib.suppress(OSError):
            for path in [*place.glob(f".*{MARK}*"), *place.glob(f"{MAPPED}*")]:
                _sweep_one(path)


def _sweep_one(path: Path) -> None:
    being_written = re.fullmatch(rf"\.(.+){re.escape(MARK)}[0-9a-f]{{32}}", path.name)
    if path.is_dir():
        with lock_left_folder(path) or contextlib.nullcontext() as owner:
            if owner and being_written:
                _put_back(path, path.with_name(being_written[1]))
            if owner:
                shutil.rmtree(path, ignore_errors=True)
    elif being_written and path.is_file() and not path.is_symlink():
        with lock(path) or contextlib.nullcontext() as owner:
            if owner:
                path.unlink(missing_ok=True)


def _put_back(scratch: Path, folder: Path) -> None:
    """Finish a replacement: its run had moved the old folder away, and died."""
    if any(scratch.glob(f"{OLD}-*")) and not os.path.lexists(folder):
        with contextlib.suppress(OSError):
            (scratch / "new").rename(folder)
