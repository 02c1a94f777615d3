"""Interruption: a killed DPO training goes on and ends at the same weights; stale work is not taken for current."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import best_of_n
import dpo_trainer
import pytest
from helpers import SCRIPTS, run_script
from reward_model import training_key
from safetensors.numpy import load_file

from common.models import trained_settings

FLAGS = ("--dataset", "pairs.jsonl", "--num-train-epochs", 4, "--per-device-train-batch-size", 4)


@pytest.fixture
def pairs(tmp_path):
    rows = [{"prompt": f"Number {k}?", "chosen": f"It is {k}.", "rejected": f"Well, {k} or so."} for k in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def test_a_killed_training_goes_on_and_ends_at_the_same_weights(pairs):
    command = [sys.executable, str(SCRIPTS / "dpo_trainer.py"), *map(str, FLAGS), "--output-dir", "killed"]
    run = subprocess.Popen(command, cwd=pairs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while run.poll() is None and len(list(pairs.glob("killed/dpo-checkpoints/*/checkpoint-*/trainer_state.json"))) < 2:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL and not (pairs / "killed/dpo").exists()

    resumed = run_script("dpo_trainer", *FLAGS, "--output-dir", "killed", "--resume", cwd=pairs)
    whole = run_script("dpo_trainer", *FLAGS, "--output-dir", "whole", cwd=pairs)
    assert resumed.returncode == whole.returncode == 0, resumed.stderr + whole.stderr
    assert "going on from " in resumed.stdout and "going on from " not in whole.stdout
    ours, theirs = (load_file(pairs / folder / "dpo/adapter_model.safetensors") for folder in ("killed", "whole"))
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
    assert not (pairs / "killed/dpo-checkpoints").exists() and not (pairs / "whole/dpo-checkpoints").exists()


def test_nothing_to_resume_is_an_error(pairs):
    done = run_script("dpo_trainer", *FLAGS, "--resume", cwd=pairs)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--resume" in done.stderr


def test_only_whole_checkpoints_of_the_same_settings_count(tmp_path):
    settings = {"seed": 1}
    for process, step, state in (
        ("1", 5, '{"global_step": 5}'),
        ("1", 10, '{"global_'),
        ("2", 20, '{"global_step": 20}'),
    ):
        folder = tmp_path / process / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text(state)
    (tmp_path / "1" / "checkpoint-15").mkdir()  # cut short before its last file
    (tmp_path / "1" / "lab_settings.json").write_text(json.dumps(settings))
    (tmp_path / "2" / "lab_settings.json").write_text(json.dumps({"seed": 2}))
    assert dpo_trainer.find_checkpoint(tmp_path, settings) == tmp_path / "1" / "checkpoint-5"
    assert dpo_trainer.find_checkpoint(tmp_path, {"seed": 3}) is None
    assert dpo_trainer.find_checkpoint(tmp_path / "nowhere", settings) is None


@pytest.mark.parametrize("flags", [["--beta", "0.1"], ["--seed", "1"], ["--learning-rate", "1e-4"], ["--pairs", "8"]])
def test_a_changed_setting_is_another_training(flags):
    parse = dpo_trainer.build_parser().parse_args
    assert training_key(parse(flags)) != training_key(parse([]))
    assert training_key(parse(["--figures-dir", "elsewhere", "--device", "cpu"])) == training_key(parse([]))


def test_a_changed_dataset_is_another_training(pairs):
    args = dpo_trainer.build_parser().parse_args(["--dataset", str(pairs / "pairs.jsonl")])
    before = training_key(args)
    (pairs / "pairs.jsonl").write_text("{}", encoding="utf-8")
    assert training_key(args) != before


def test_work_with_other_settings_is_left_alone(tmp_path, capsys, monkeypatch):
    mine = tmp_path / "dpo"
    mine.mkdir()
    (mine / "lab_settings.json").write_text('{"beta": 7}')
    args = best_of_n.build_parser().parse_args(["--output-dir", str(tmp_path), "--smoke"])

    def train(other, device, folder):
        folder.mkdir()
        (folder / "lab_settings.json").write_text(json.dumps(training_key(other)))

    monkeypatch.setattr(dpo_trainer, "fit_and_save", train)
    for said in ("training ", "using "):
        folder = best_of_n.find_trained(args, "cpu", dpo_trainer, "dpo", "adapter", [])
        assert folder == tmp_path / "dpo-default" and (mine / "lab_settings.json").read_text() == '{"beta": 7}'
        out = capsys.readouterr().out
        assert "left alone (--adapter" in out and said in out


# ---------------------------------------------------------------------------------------------------------
# Killed, interrupted, out of disk, two at once
# ---------------------------------------------------------------------------------------------------------

SAVE = """
import os, signal, sys
from pathlib import Path
from common.models import save_trained

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
    return subprocess.Popen([sys.executable, "-c", SAVE, name, str(times), str(folder)], cwd=SCRIPTS.parent)


def test_killed_during_a_save(tmp_path):
    model = tmp_path / "model"
    assert save_in_another_process("killed", 1, model).wait() == -signal.SIGKILL
    assert trained_settings(model) is None and not model.exists()
    for name, code in (("first", 0), ("killed", -signal.SIGKILL)):
        assert save_in_another_process(name, 1, model).wait() == code
        assert trained_settings(model) == {"by": "first"} and (model / "whole").read_text() == "first"


def test_two_saves_at_once_leave_the_whole_of_one(tmp_path):
    runs = [save_in_another_process(name, 300, tmp_path / "model") for name in "ab"]
    assert [run.wait() for run in runs] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (by,) = trained_settings(tmp_path / "model").values()
    assert {(tmp_path / "model" / name).read_text() for name in ("half", "whole")} == {by}


def test_two_runs_at_once_over_one_folder(pairs):
    command = [sys.executable, str(SCRIPTS / "dpo_trainer.py"), "--smoke", "--dataset", "pairs.jsonl"]
    runs = [subprocess.Popen(command, cwd=pairs, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    assert load_file(pairs / "outputs/dpo/adapter_model.safetensors")
    assert json.loads((pairs / "figures/dpo_training.json").read_text(encoding="utf-8"))["metrics"]
    assert {path.name for folder in ("outputs", "figures") for path in (pairs / folder).iterdir()} == {
        *("dpo", "dpo_training.png", "dpo_training.json")
    }


def test_ctrl_c_is_one_line(pairs):
    command = [sys.executable, str(SCRIPTS / "dpo_trainer.py"), *map(str, FLAGS)]
    run = subprocess.Popen(command, cwd=pairs, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while run.poll() is None and not list(pairs.glob("outputs/dpo-checkpoints/*/checkpoint-*")):
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate()
    assert run.returncode == 130 and said == "interrupted\n"
    assert not (pairs / "outputs/dpo").exists() and list((pairs / "figures").iterdir()) == []


@pytest.mark.parametrize(("name", "size"), [("dpo_trainer", 20), ("dpo_trainer", 200), ("reward_model", 500)])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, name, size):
    resource = pytest.importorskip("resource")  # a limit on the size of files fails as a full disk does

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * size, 1024 * size))

    command = [sys.executable, str(SCRIPTS / f"{name}.py"), "--smoke"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: a file could not be written, is the disk full? ")
    assert list((tmp_path / "figures").iterdir()) == []
    assert {path.name for path in (tmp_path / "outputs").iterdir()} <= {"dpo-checkpoints"}
