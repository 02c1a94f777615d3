"""Killed, interrupted, out of disk, two at once; and nothing that is somebody's is ever deleted."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from support.artifacts import (
    check_ours,
    find_or_train,
    save_trained,
    stored_settings,
    trained_settings,
)
from support.divergence import Diverged, check_finite
from support.resuming import find_checkpoint, keep_checkpoints, note_sizes
from support.training import training_settings

import dpo_trainer
import pytest
from helpers import SCRIPTS, run_script
from safetensors.numpy import load_file

from common.cli import UserError
from common.files import lock_new_folder

FLAGS = ("--dataset", "pairs.jsonl", "--num-train-epochs", 4, "--per-device-train-batch-size", 4)
NAMED = "dataset-pairs.jsonl-num-train-epochs-4-per-device-train-batch-size-4"
ADAPTER = Path(f"dpo-{NAMED}", "adapter_model.safetensors")
RESULTS = Path(f"dpo_training-{NAMED}.json")


# --- Going on, and what counts as the same training ---


@pytest.fixture
def pairs(tmp_path):
    rows = [
        {"prompt": f"Number {k}?", "chosen": f"It is {k}.", "rejected": f"Well, {k} or so."}
        for k in range(40)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def test_a_killed_training_goes_on_and_ends_at_the_same_weights(pairs):
    command = [sys.executable, str(SCRIPTS / "dpo_trainer.py"), *map(str, FLAGS)]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen([*command, "--output-dir", "killed"], cwd=pairs, **silent)
    whole = "killed/dpo-checkpoints/*/checkpoint-*/lab_sizes.json"
    while run.poll() is None and len(list(pairs.glob(whole))) < 2:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL and not (pairs / "killed" / ADAPTER).exists()
    *_, before, last = sorted(
        pairs.glob("killed/dpo-checkpoints/*/checkpoint-*/lab_sizes.json"),
        key=lambda path: int(path.parent.name.split("-")[1]),
    )
    with (last.parent / "optimizer.pt").open("r+b") as file:
        file.truncate(1000)

    resumed = run_script("dpo_trainer", *FLAGS, "--output-dir", "killed", "--resume", cwd=pairs)
    whole = run_script("dpo_trainer", *FLAGS, "--output-dir", "whole", cwd=pairs)
    assert resumed.returncode == whole.returncode == 0, resumed.stderr + whole.stderr
    assert f"going on from {before.parent.relative_to(pairs)}\n" in resumed.stdout
    assert "going on from " not in whole.stdout
    ours, theirs = (load_file(pairs / folder / ADAPTER) for folder in ("killed", "whole"))
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
    for folder in ("killed", "whole"):
        assert not (pairs / folder / "dpo-checkpoints").exists()
    curves = [
        json.loads((pairs / folder / RESULTS).read_text())["metrics"]["curve"]
        for folder in ("killed", "whole")
    ]
    assert curves[0] == curves[1] and len(curves[0]) == 7


def test_nothing_to_resume_is_an_error(pairs):
    done = run_script("dpo_trainer", *FLAGS, "--resume", cwd=pairs)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--resume" in done.stderr
    assert not list(pairs.glob("outputs/*"))


def make_run(parent: Path, name: str, settings: dict, *steps: int) -> Path:
    """What a run leaves that was killed after these steps."""
    run = parent / f"run-{name}"
    for step in steps:
        checkpoint = run / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        for file in ("weights", "trainer_state.json"):
            (checkpoint / file).write_text("whole")
        note_sizes(checkpoint)
    (run / "lab_settings.json").write_text(json.dumps({"settings": settings}))
    (run / "curve.json").write_text("[]")
    lock_new_folder(run).close()
    return run


def test_only_whole_checkpoints_of_the_same_settings_count(tmp_path):
    one, two = {"seed": 1}, {"seed": 2}
    run = make_run(tmp_path, "a", one, 5, 10, 15, 20)
    make_run(tmp_path, "b", two, 25)
    assert find_checkpoint(tmp_path, one) == run / "checkpoint-20"
    (run / "checkpoint-20" / "weights").write_text("wh")  # cut short
    (run / "checkpoint-15" / "weights").unlink()
    (run / "checkpoint-10" / "lab_sizes.json").unlink()  # killed before its last file
    assert find_checkpoint(tmp_path, one) == run / "checkpoint-5"
    assert find_checkpoint(tmp_path, {"seed": 3}) is None
    assert find_checkpoint(tmp_path / "nowhere", one) is None


def test_checkpoints_of_a_living_run_are_left_alone(tmp_path):
    """One run goes on from a dead one; a second one finds no dead one, and no run is disturbed."""
    settings = {"seed": 1}
    dead = make_run(tmp_path, "dead", settings, 5)
    with keep_checkpoints(tmp_path, settings, resume=True) as kept:
        assert kept.last == dead / "checkpoint-5"
        refused = pytest.raises(UserError, match="no whole checkpoint of an ended run")
        with refused, keep_checkpoints(tmp_path, settings, resume=True):
            pytest.fail("it goes on from a living run")
        with keep_checkpoints(tmp_path, settings, resume=False) as fresh:
            assert fresh.last is None
        assert kept.folder.is_dir() and kept.last.is_dir() and not fresh.folder.exists()
    assert not tmp_path.exists()


def test_a_run_sweeps_what_dead_ones_left_and_keeps_what_can_be_gone_on_with(tmp_path, capsys):
    for name in ("begun", "same", "other"):
        make_run(tmp_path, name, {"seed": 2 if name == "other" else 1}, 5)
    (tmp_path / "run-begun" / "checkpoint-5" / "weights").unlink()
    mine = tmp_path / "run-mine"
    mine.mkdir()
    (mine / "notes").write_text("mine")
    with keep_checkpoints(tmp_path, {"seed": 1}, resume=False):
        there = {path.name for path in tmp_path.iterdir()}
        assert {"run-same", "run-other", "run-mine"} < there and "run-begun" not in there
    said = capsys.readouterr().out
    assert "run-same/checkpoint-5 is left over; --resume would go on there" in said
    assert "holds checkpoints of 1 killed run(s) with other settings" in said
    assert {path.name for path in tmp_path.iterdir()} == {"run-other", "run-mine"}


def test_checkpoints_of_a_training_that_diverged_go(tmp_path):
    with pytest.raises(Diverged), keep_checkpoints(tmp_path / "c", {}, resume=False) as kept:
        (kept.folder / "checkpoint-1").mkdir()
        check_finite("DPO", 2, {"loss": float("nan")}, {"learning rate": 1.0})
    assert not (tmp_path / "c").exists()


def settings_of(*flags: str) -> dict:
    """What a command line of dpo_trainer.py trains with."""
    return training_settings("dpo", **vars(dpo_trainer.build_parser().parse_args(flags)))


@pytest.mark.parametrize(
    "flags",
    [
        ["--beta", "0.1"],
        ["--seed", "1"],
        ["--learning-rate", "1e-4"],
        ["--pairs", "8"],
        ["--num-train-epochs", "2"],
        ["--max-new-tokens", "9"],
        ["--model", "tiny-mine"],
    ],
)
def test_a_changed_setting_is_another_training(flags):
    assert settings_of(*flags) != settings_of()
    assert settings_of("--figures-dir", "elsewhere", "--device", "cpu") == settings_of()


def test_an_edited_data_file_is_another_training(pairs):
    settings = settings_of("--dataset", str(pairs / "pairs.jsonl"))
    before = stored_settings(settings)
    assert before == stored_settings(settings)
    (pairs / "pairs.jsonl").write_text("{}", encoding="utf-8")
    assert stored_settings(settings) != before


class Part:
    """Something to be saved."""

    def __init__(self, text: str):
        self.text = text

    def save_pretrained(self, folder):
        folder.mkdir(exist_ok=True)
        (folder / "weights").write_text(self.text)


def test_what_is_there_is_used_and_other_work_left_alone(tmp_path, capsys):
    """Other settings get another folder, equal ones the same; the training sees its settings."""
    trainings = []

    def train(device: str, **settings) -> tuple:
        trainings.append(settings)
        assert device == "cpu"
        return (Part(f"{settings}"),)

    def find(**settings) -> Path:
        return find_or_train(tmp_path / "dpo", settings, train, device="cpu")

    first = find(seed=0, loss_type=("sigmoid", "sft"))
    assert first == tmp_path / "dpo" and "training it now" in capsys.readouterr().out
    assert find(seed=0, loss_type=("sigmoid", "sft")) == first and len(trainings) == 1
    assert f"using {first}" in capsys.readouterr().out
    weights = (first / "weights").read_text()
    other = find(seed=1)
    assert other != first and len(trainings) == 2 and (first / "weights").read_text() == weights
    assert find(seed=1) == other and find(seed=0, loss_type=["sigmoid", "sft"]) == first
    assert len(trainings) == 2


def test_an_edited_data_file_is_trained_on_anew(pairs):
    seen = []

    def train(dataset: str) -> tuple:
        seen.append(Path(dataset).read_text())
        return (Part("x"),)

    settings = {"dataset": str(pairs / "pairs.jsonl")}
    first = find_or_train(pairs / "dpo", settings, train)
    assert find_or_train(pairs / "dpo", settings, train) == first
    (pairs / "pairs.jsonl").write_text("{}", encoding="utf-8")
    second = find_or_train(pairs / "dpo", settings, train)
    assert second != first and len(seen) == 2 and seen[1] == "{}"


def test_a_folder_with_brackets_in_its_name_is_found_again(tmp_path):
    trainings = []

    def train(seed: int) -> tuple:
        trainings.append(seed)
        return (Part("x"),)

    for _ in range(2):
        assert find_or_train(tmp_path / "sft-[x]", {"seed": 0}, train) == tmp_path / "sft-[x]"
    assert trainings == [0]


# --- Nothing that is somebody's is deleted ---


def contents(folder: Path) -> dict[str, str]:
    """Everything below a folder: files with their texts, links with what they point to."""
    seen = {}
    for path in sorted(folder.rglob("*")):
        link = path.is_symlink()
        text = str(path.readlink()) if link else path.is_file() and path.read_text()
        seen[str(path.relative_to(folder))] = text
    return seen


def a_file(place: Path):
    place.write_text("mine")


def a_folder_with_a_file(place: Path):
    place.mkdir()
    (place / "thesis.txt").write_text("mine")


def a_link_to_a_folder_with_strangers(place: Path):
    target = place.parent / "elsewhere"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    place.symlink_to(target)


def a_link_to_nothing(place: Path):
    place.symlink_to(place.parent / "nothing")


def an_adapter_with_an_extra_file(place: Path):
    save_trained(place, {"seed": 0}, Part("old"))
    (place / "notes").mkdir()
    (place / "notes" / "mine.txt").write_text("mine")


def an_adapter_with_a_link(place: Path):
    save_trained(place, {"seed": 0}, Part("old"))
    (place / "data").symlink_to(place.parent)


OBSTACLES = (a_file, a_folder_with_a_file, a_link_to_a_folder_with_strangers, a_link_to_nothing)
OBSTACLES += (an_adapter_with_an_extra_file, an_adapter_with_a_link)


@pytest.mark.parametrize("place", ["dpo-smoke", "dpo-smoke-merged"])
@pytest.mark.parametrize("obstacle", OBSTACLES, ids=lambda obstacle: obstacle.__name__)
def test_what_is_somebodys_is_an_error_before_training(tmp_path, monkeypatch, obstacle, place):
    """Whatever stands where the adapter or the merged model goes: nothing runs or changes."""
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    obstacle(outputs / place)
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dpo_trainer, "study", lambda **_: pytest.fail("it trains"))
    with pytest.raises(UserError) as said:
        dpo_trainer.main(["--smoke", "--merge"])
    assert place in str(said.value) and "\n" not in str(said.value)
    assert contents(tmp_path) == before


def test_what_the_lab_wrote_is_replaced(tmp_path):
    folder = tmp_path / "dpo"
    for text in ("old", "new"):
        check_ours(folder)
        save_trained(folder, {"by": text}, Part(text), readme="# How to use it")
        assert (folder / "weights").read_text() == text
        assert trained_settings(folder) == {"by": text}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dpo"]


def test_what_a_link_points_to_is_replaced_and_not_the_link(tmp_path):
    target, link = tmp_path / "large-disk", tmp_path / "dpo"
    save_trained(target, {"by": "old"}, Part("old"))
    link.symlink_to(target)
    save_trained(link, {"by": "new"}, Part("new"))
    assert link.is_symlink() and (target / "weights").read_text() == "new"


# --- Killed, interrupted, out of disk, two at once ---

SAVE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, "05-preference-tuning")
from support.artifacts import save_trained

class Part:
    def __init__(self, name): self.name = name
    def save_pretrained(self, folder):
        folder.mkdir(exist_ok=True)
        (folder / "half").write_text(self.name)
        if self.name == "killed": os.kill(os.getpid(), signal.SIGKILL)
        (folder / "whole").write_text(self.name)

name, times, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
for _ in range(times): save_trained(folder, {"by": name}, Part(name))
"""


def save_in_another_process(name: str, times: int, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", SAVE, name, str(times), str(folder)]
    return subprocess.Popen(command, cwd=SCRIPTS.parent)


def test_killed_during_a_save(tmp_path):
    model = tmp_path / "model"
    assert save_in_another_process("killed", 1, model).wait() == -signal.SIGKILL
    assert trained_settings(model) is None and not model.exists()
    for name, code in (("first", 0), ("killed", -signal.SIGKILL)):
        assert save_in_another_process(name, 1, model).wait() == code
        assert trained_settings(model) == {"by": "first"}
        assert (model / "whole").read_text() == "first"


def test_two_saves_at_once_leave_the_whole_of_one(tmp_path):
    runs = [save_in_another_process(name, 300, tmp_path / "model") for name in "ab"]
    assert [run.wait() for run in runs] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (by,) = trained_settings(tmp_path / "model").values()
    assert {(tmp_path / "model" / name).read_text() for name in ("half", "whole")} == {by}


def test_two_runs_at_once_over_one_folder(pairs):
    script = str(SCRIPTS / "dpo_trainer.py")
    command = [sys.executable, script, "--smoke", "--dataset", "pairs.jsonl"]
    runs = [subprocess.Popen(command, cwd=pairs, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    adapter, results = "dpo-dataset-pairs.jsonl-smoke", "dpo_training-dataset-pairs.jsonl-smoke"
    assert load_file(pairs / "outputs" / adapter / "adapter_model.safetensors")
    path = pairs / "outputs" / f"{results}.json"
    assert json.loads(path.read_text(encoding="utf-8"))["metrics"]
    written = {path.name for path in (pairs / "outputs").iterdir()}
    assert written == {adapter, f"{results}.png", f"{results}.json"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_end_is_one_line_and_cleans_up(pairs, monkeypatch, number):
    """Only checkpoints stay, which a later run may go on from."""
    monkeypatch.setenv("TMPDIR", str(pairs / "temporary"))
    (pairs / "temporary").mkdir()
    command = [sys.executable, str(SCRIPTS / "dpo_trainer.py"), *map(str, FLAGS)]
    piped = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}

    def listen():  # a job in the background of a shell ignores Ctrl-C, and so would its children
        signal.signal(signal.SIGINT, signal.default_int_handler)

    run = subprocess.Popen(command, cwd=pairs, preexec_fn=listen, **piped)
    while run.poll() is None and not list(pairs.glob("outputs/dpo-checkpoints/*/checkpoint-*")):
        time.sleep(0.02)
    assert list(pairs.glob("temporary/preference-pairs-*"))
    run.send_signal(number)
    _, said = run.communicate()
    assert run.returncode == 128 + number and said == "interrupted\n"
    assert [path.name for path in (pairs / "outputs").iterdir()] == ["dpo-checkpoints"]
    assert not list(pairs.glob("temporary/preference-pairs-*"))


FULL = [("dpo_trainer", 20), ("dpo_trainer", 200), ("reward_model", 500)]


@pytest.mark.parametrize(("name", "size"), FULL)
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, name, size):
    resource = pytest.importorskip(
        "resource"
    )  # a limit on the size of files fails as a full disk does

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * size, 1024 * size))

    command = [sys.executable, str(SCRIPTS / f"{name}.py"), "--smoke"]
    piped = {"capture_output": True, "text": True, "preexec_fn": limit}
    done = subprocess.run(command, cwd=tmp_path, **piped)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: a file could not be written, is the disk full? ")
    assert {path.name for path in tmp_path.glob("outputs/*")} <= {"dpo-checkpoints"}
