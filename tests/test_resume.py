"""Interruption: a killed DPO training goes on and ends at the same weights; stale work is not taken for current."""

import json
import signal
import subprocess
import sys
import time

import best_of_n
import dpo_trainer
import pytest
from helpers import SCRIPTS, run_script
from reward_model import training_key
from safetensors.numpy import load_file

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
