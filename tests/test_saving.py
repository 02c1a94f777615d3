"""Files and folders that appear whole, and models that are found or trained (common/saving.py)."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.basics import UserError
from common.figures import COLORS, new_figure, save_figure
from common.saving import (
    SETTINGS,
    check_ours,
    check_results,
    check_writable,
    load_or_train,
    read_json,
    save_model,
    write_json,
)


class Part:
    """Something that can be saved, as a model can."""

    def __init__(self, text: str):
        self.text = text

    def save_pretrained(self, folder) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "weights.txt").write_text(self.text)


def draw(path: Path) -> None:
    save_figure(new_figure(1, 1, "A title")[0], path)


def write_number(path: Path) -> None:
    write_json(path, {"number": 1, "text": "β ≤ 1"})


# --- Files ---


@pytest.mark.parametrize(("write", "name"), [(draw, "a.png"), (write_number, "a.json")])
def test_files_are_replaced_in_one_step(tmp_path, monkeypatch, write, name):
    path, replace, steps = tmp_path / name, Path.replace, []
    path.write_text("old")

    def watched(temporary, target):
        steps.append((path.read_bytes(), temporary.read_bytes(), temporary.parent))
        return replace(temporary, target)

    monkeypatch.setattr(Path, "replace", watched)
    write(path)
    (before, complete, folder), *more = steps
    assert not more and before == b"old" and complete == path.read_bytes() and folder == tmp_path
    assert [p.name for p in tmp_path.iterdir()] == [name]
    monkeypatch.undo()
    write(path)
    assert path.read_bytes() == complete  # the same content, the same bytes


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    write_number(tmp_path / "a.json")
    for broken in (object(), float("nan")):
        with pytest.raises((TypeError, ValueError)):
            write_json(tmp_path / "a.json", {"number": broken})
    assert read_json(tmp_path / "a.json") == {"number": 1, "text": "β ≤ 1"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert read_json(tmp_path / "nothing.json") == {}


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "real" / "a.json")
    write_number(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "real" / "a.json").is_file()


def test_colours_of_one_figure_are_told_apart():
    methods = ("sft", "dpo", "ipo", "kto", "ai", "rl", "best_of_n", "dpo_best_of_n", "gold")
    assert len({COLORS[name] for name in methods}) == len(methods)


def test_folders_are_refused_before_any_work(tmp_path):
    check_writable(tmp_path / "a" / "b", tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "at all")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "link" / "x"):
        with pytest.raises(UserError, match="cannot write to the folder"):
            check_writable(folder)


def test_only_the_labs_results_are_replaced(tmp_path):
    check_results(tmp_path, "a")
    (tmp_path / "a.json").write_text('{"script": "x.py", "settings": {}, "metrics": {}}')
    (tmp_path / "a.png").touch()
    check_results(tmp_path, "a")
    for content in ('{"scripts": {"build": "x"}}', '["script"]', "7", "no json"):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(UserError, match=r"a\.json was not written by the lab"):
            check_results(tmp_path, "a")
    (tmp_path / "a.json").unlink()
    with pytest.raises(UserError, match=r"a\.png was not written by the lab"):
        check_results(tmp_path, "a")


# --- Models ---


def test_a_folder_of_the_labs_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "outputs" / "dpo"
    save_model(folder, {"seed": 2}, Part("one"), readme="Read me.")
    assert (folder / "README.md").read_text() == "Read me."
    save_model(folder, {"seed": 3}, Part("two"))
    assert read_json(folder / SETTINGS)["settings"] == {"seed": 3}
    assert sorted(path.name for path in folder.iterdir()) == [SETTINGS, "weights.txt"]
    assert [path.name for path in folder.parent.iterdir()] == ["dpo"]


@pytest.mark.parametrize("holds", ["their file", "a file in a folder of the lab", "no folder"])
def test_what_is_not_the_labs_is_never_replaced(tmp_path, holds):
    folder = tmp_path / "dpo"
    if holds == "no folder":
        theirs = folder
    else:
        if holds != "their file":
            save_model(folder, {"seed": 0}, Part("ours"))
        folder.mkdir(exist_ok=True)
        theirs = folder / "notes.txt"
    theirs.write_text("mine")
    for refuse in (
        check_ours,
        lambda path: save_model(path, {"seed": 1}, Part("new")),
        lambda path: load_or_train(path, {"seed": 1}, lambda: [Part("new")]),
    ):
        with pytest.raises(UserError, match=r"dpo.*; move it, or choose another folder"):
            refuse(folder)
    assert theirs.read_text() == "mine"


def test_what_was_trained_before_stays_until_the_new_one_is_complete(tmp_path):
    class Broken(Part):
        def save_pretrained(self, folder):
            super().save_pretrained(folder)
            raise OSError("disk full")

    save_model(tmp_path / "dpo", {"seed": 0}, Part("old"))
    with pytest.raises(OSError, match="disk full"):
        save_model(tmp_path / "dpo", {"seed": 1}, Broken("new"))
    assert read_json(tmp_path / "dpo" / SETTINGS)["settings"] == {"seed": 0}
    assert (tmp_path / "dpo" / "weights.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["dpo"]


KILLED = """
import sys, time
from pathlib import Path
from common.saving import save_model

class Slow:
    def save_pretrained(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "half.txt").write_text("half")
        print("saving", flush=True)
        time.sleep(60)

save_model(Path(sys.argv[1]), {"seed": 1}, Slow())
"""


def test_a_killed_save_leaves_nothing_half_written_under_the_name(tmp_path):
    save_model(tmp_path / "dpo", {"seed": 0}, Part("old"))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "dpo")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / "dpo" / "weights.txt").read_text() == "old"
    assert read_json(tmp_path / "dpo" / SETTINGS)["settings"] == {"seed": 0}
    check_ours(tmp_path / "dpo")


def test_what_is_there_is_used_and_what_is_stale_is_trained_again(tmp_path, capsys):
    folder, trained = tmp_path / "reward_model", []

    def train() -> list[Part]:
        trained.append(time.time())
        return [Part(str(len(trained)))]

    settings = {"base": "abc", "pairs": "123", "rate": 1e-3, "place": Path("x")}
    assert load_or_train(folder, settings, train) == folder
    assert "training reward model first" in capsys.readouterr().out
    assert load_or_train(folder, dict(settings), train) == folder and len(trained) == 1
    assert capsys.readouterr().out == ""
    for change in ({"base": "other weights"}, {"pairs": "edited"}, {"rate": 2e-3}):
        load_or_train(folder, settings | change, train)
    assert len(trained) == 4 and (folder / "weights.txt").read_text() == "4"


TWO_TRAININGS = """
import os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from common import models, runs, training

def main():
    models.init_compute("cpu")
    counts = [training.process_count()]
    for seed in (1, 2):
        training.load_sft_model(sft_steps=2, seed=seed, output_dir=Path("out"))
        counts.append(training.process_count())
    print("processes", *counts, "of", os.getpid())

runs.run(main)
"""


def test_of_several_processes_the_first_goes_on_alone_after_their_first_training(tmp_path):
    (tmp_path / "script.py").write_text(TWO_TRAININGS.format(root=str(Path(__file__).parents[1])))
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command = [sys.executable, *launch, "--main_process_port", "0", "script.py"]
    piped = {"capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run(command, cwd=tmp_path, **piped)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("processes 2 1 1 of") == 1 == done.stdout.count("processes")
    folders = sorted((tmp_path / "out").iterdir())
    assert [folder.name[-6:] for folder in folders] == ["seed-1", "seed-2"]
    assert all(read_json(folder / SETTINGS)["settings"]["sft_steps"] == 2 for folder in folders)
