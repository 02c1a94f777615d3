"""Files and folders appear whole or not at all; what killed runs leave is swept, nothing else."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common import files
from common.files import (
    folder_for_mapped_files,
    lock_new_folder,
    replace_folder,
    replacing,
    scratch_folder,
    sweep,
)

HOLD = """
import sys, time, tempfile
from pathlib import Path
from common.files import *
place = tempfile.tempdir = sys.argv[1]
mapped = folder_for_mapped_files()
with scratch_folder(Path(place), "dpo") as scratch, replacing(Path(place, "run.json")) as half:
    for path in (mapped / "pairs.arrow", scratch / "half", half):
        path.write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def living(tmp_path):
    """A process that holds one of each kind in tmp_path."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    root = Path(files.__file__).parents[1]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
    assert run.stdout.readline() == "ready\n"
    yield run
    run.kill()
    run.wait()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_leftovers_of_a_killed_run_are_swept_and_those_of_a_living_one_are_not(living, tmp_path):
    before = names(tmp_path)
    assert len(before) == 3
    sweep(tmp_path)
    assert names(tmp_path) == before
    living.send_signal(signal.SIGKILL)
    assert living.wait() == -signal.SIGKILL and names(tmp_path) == before
    sweep(tmp_path)
    assert names(tmp_path) == set()


def test_what_is_not_marked_is_never_swept(tmp_path):
    """Names alone prove nothing of a folder, nor half of a name of a file; no link is followed."""
    for name in ("preference-pairs-mine", f".dpo{files.MARK}{'0' * 32}", f".a{files.MARK}thesis"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("mine")
    for name in (".notes.tmp", f".notes{files.MARK}draft", f"notes{files.MARK}{'0' * 32}"):
        (tmp_path / name).write_text("mine")
    target = tmp_path / "elsewhere"
    target.mkdir()
    lock_new_folder(target).close()
    (tmp_path / f".link{files.MARK}{'1' * 32}").symlink_to(target)
    before = names(tmp_path)
    sweep(tmp_path, tmp_path / "nowhere")
    assert names(tmp_path) == before and (target / files.OWNER).is_file()


def test_nothing_is_left_where_all_goes_well(tmp_path, monkeypatch):
    with scratch_folder(tmp_path, "dpo") as scratch, replacing(tmp_path / "run.json") as half:
        half.write_text("whole")
        (scratch / "new").mkdir()
    assert names(tmp_path) == {"run.json"} and (tmp_path / "run.json").read_text() == "whole"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    at_exit = []
    monkeypatch.setattr("atexit.register", at_exit.append)
    mapped = folder_for_mapped_files()
    assert mapped.is_dir()
    at_exit[0]()
    assert not mapped.exists()


# --- Replacing a folder ---

WATCH = """
import sys
from pathlib import Path
folder, missed, seen = Path(sys.argv[1]), 0, 0
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    missed += not folder.exists()
    seen += 1
print(missed, seen)
"""


def make_folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "weights").write_text(text)
    return path


def replace(folder: Path, text: str) -> None:
    with scratch_folder(folder.parent, folder.name) as scratch:
        replace_folder(make_folder(scratch / "new", text), folder)


def can_swap(folder: Path) -> bool:
    one, other = make_folder(folder / "one", "1"), make_folder(folder / "other", "2")
    return files.swap(one, other) and (one / "weights").read_text() == "2"


def test_there_is_no_moment_without_the_folder(tmp_path):
    (tmp_path / "tried").mkdir()
    if not can_swap(tmp_path / "tried"):
        pytest.skip("this file system cannot swap two folders")
    folder, stop = make_folder(tmp_path / "dpo", "0"), tmp_path / "stop"
    command = [sys.executable, "-c", WATCH, str(folder), str(stop)]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watcher.stdout.readline()
    for k in range(300):
        replace(folder, str(k))
    stop.touch()
    missed, seen = map(int, watcher.communicate()[0].split())
    assert missed == 0 and seen > 100 and (folder / "weights").read_text() == "299"


@pytest.mark.parametrize("swap", [files.swap, lambda one, other: False], ids=["swap", "two steps"])
def test_a_folder_is_replaced_with_and_without_a_swap(tmp_path, monkeypatch, swap):
    monkeypatch.setattr(files, "swap", swap)
    for text in ("first", "second", "third"):
        replace(tmp_path / "dpo", text)
        assert (tmp_path / "dpo" / "weights").read_text() == text
    assert names(tmp_path) == {"dpo"}


KILLED_BETWEEN = """
import os, signal, sys
from pathlib import Path
from common import files
files.swap = lambda one, other: False
rename = Path.rename
def rename_and_die(self, target):
    if self.name == "new":
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = rename_and_die
folder = Path(sys.argv[1])
with files.scratch_folder(folder.parent, folder.name) as scratch:
    (scratch / "new").mkdir()
    (scratch / "new" / "weights").write_text("new")
    files.replace_folder(scratch / "new", folder)
"""


def test_a_run_killed_between_two_steps_is_finished_by_the_next_one(tmp_path):
    folder = make_folder(tmp_path / "dpo", "old")
    root = Path(files.__file__).parents[1]
    killed = subprocess.run([sys.executable, "-c", KILLED_BETWEEN, str(folder)], cwd=root)
    assert killed.returncode == -signal.SIGKILL and not folder.exists()
    sweep(tmp_path)
    assert names(tmp_path) == {"dpo"} and (folder / "weights").read_text() == "new"
