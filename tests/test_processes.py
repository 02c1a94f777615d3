"""Several processes: the same commands, started by `accelerate launch`, end where one process ends."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import SCRIPTS, run_script
from reward_model import score_pairs
from safetensors.numpy import load_file

from common.models import load_reward_model
from common.preferences import make_pairs

TOLERANCE = 1e-3  # of every metric; sums in another order differ in the last digits, and training carries that on


def launch(name: str, *flags: object, cwd, config: str = "ddp", processes: int = 2) -> subprocess.CompletedProcess:
    """`accelerate launch` with a configuration file of the repository; without a GPU the processes share the CPU."""
    how = ["--config_file", SCRIPTS / "accelerate" / f"{config}.yaml", "--num_processes", processes]
    how += ["--main_process_port", 0]  # any that is free
    script = [Path(__file__).with_name("fsdp_on_cpu.py")] * (config == "fsdp") + [SCRIPTS / f"{name}.py"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *how, *script, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )


def numbers(value, path: str = "") -> dict[str, float]:
    """Every number of nested metrics, by its path."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: x for name, inner in items for key, x in numbers(inner, f"{path}.{name}").items()}
    return {path: value}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict:
    """A reader's run in one process and in two: best_of_n trains what it needs, a policy from five batches of eight."""
    rows = [{"prompt": f"Why {k}?", "chosen": f"So {k}.", "rejected": f"Not {k} " * (k % 5)} for k in range(46)]
    flags, found = ("--smoke", "--dataset", "pairs.jsonl"), {}
    for name in ("one", "ddp", "fsdp"):
        folder = tmp_path_factory.mktemp(name)
        (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        if name == "one":
            done = run_script("best_of_n", *flags, cwd=folder)
        else:
            done = launch("best_of_n", *flags, cwd=folder, config=name)
        found[name] = folder, done
    return found


@pytest.mark.parametrize("config", ["ddp", "fsdp"])
def test_two_processes_speak_and_write_once(runs, config):
    (one, alone), (two, together) = runs["one"], runs[config]
    assert alone.returncode == together.returncode == 0, alone.stderr + together.stderr
    said = [
        re.sub(r"-?[0-9.]+", "#", done.stdout) for done in (alone, together)
    ]  # numbers may differ in the last digit
    assert said[0] == said[1] and said[0].count("wrote ") == 1
    files = [{p.relative_to(folder) for p in folder.rglob("*") if p.is_file()} for folder in (one, two)]
    assert files[0] == files[1]


@pytest.mark.parametrize("config", ["ddp", "fsdp"])
def test_two_processes_measure_what_one_measures(runs, config):
    one, two = (
        numbers(json.loads((runs[name][0] / "figures/best_of_n.json").read_text())["metrics"])
        for name in ("one", config)
    )
    differences = {key: (one[key], two[key]) for key in one if not key.startswith((".cost", ".frontiers"))}
    assert differences and one.keys() == two.keys()
    for key, (alone, together) in differences.items():
        assert together == pytest.approx(alone, abs=TOLERANCE), key
    for key in (k for k in one if k.startswith(".cost.flops")):
        assert two[key] == pytest.approx(one[key], rel=0.2), key  # each pads its own batches


@pytest.mark.parametrize("config", ["ddp", "fsdp"])
def test_two_processes_train_the_adapter_of_one(runs, config):
    one, two = (load_file(runs[name][0] / "outputs/dpo/adapter_model.safetensors") for name in ("one", config))
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].shape == two[name].shape and abs(one[name] - two[name]).max() < 1e-5, name
    assert max(abs(one[name]).max() for name in one if "lora_B" in name) > 1e-4  # it starts at 0


def margins(folder) -> np.ndarray:
    """Reward differences of a trained reward model: its level, and weights without a gradient, drift freely."""
    rewards = score_pairs(*load_reward_model(str(folder)), make_pairs(50, "test"))
    return rewards[:, 0] - rewards[:, 1]


@pytest.mark.parametrize("config", ["ddp", "fsdp"])
def test_two_processes_train_the_reward_model_of_one(runs, config):
    one, two = (margins(runs[name][0] / "outputs/reward_model") for name in ("one", config))
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_a_last_batch_that_cannot_be_shared_evenly(tmp_path):
    flags = ("--smoke", "--pairs", 19, "--learning-rate", "1e-3")  # 16 pairs, and three for two processes
    for run, folder in ((run_script, "one"), (launch, "two")):
        done = run("reward_model", *flags, "--output-dir", folder, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = (margins(tmp_path / f"{folder}/reward_model") for folder in ("one", "two"))
    np.testing.assert_allclose(one, two, atol=1e-4)
    assert abs(one).max() > 0.01


def test_two_processes_run_every_variant(runs, tmp_path):
    """KTO sees other batches when two processes share its rows, so only DPO and IPO must end where one process does."""
    flags = ("--smoke", "--dataset", runs["one"][0] / "pairs.jsonl", "--max-new-tokens", 16)
    arms = []
    for run, figures in ((run_script, "one"), (launch, "two")):
        done = run("dpo_variants", *flags, "--figures-dir", figures, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        arms.append(json.loads((tmp_path / figures / "dpo_variants.json").read_text())["metrics"]["arms"])
    assert [set(found) for found in arms] == [{"sigmoid", "ipo", "kto"}] * 2
    one, two = ({key: x for key, x in numbers(found).items() if "kto" not in key} for found in arms)
    assert [two[key] for key in one] == pytest.approx([one[key] for key in one], abs=TOLERANCE)


def test_the_default_batch_is_shared_and_an_own_one_is_per_process(monkeypatch):
    import reward_model

    for processes, flags, batch in ((1, [], 16), (2, [], 16), (4, [], 16), (2, ["16"], 32)):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        flag = ["--per-device-train-batch-size", *flags] if flags else []
        args = reward_model.build_parser().parse_args(flag)
        assert reward_model.global_batch_size(args) == batch
        assert args.per_device_train_batch_size == batch // processes
        assert reward_model.training_key(args)["batch_size"] == batch


def test_an_error_is_said_once(tmp_path):
    done = launch("reward_model", "--smoke", "--dataset", "nowhere.jsonl", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("error: nowhere.jsonl: there is no such file") == 1


@pytest.mark.parametrize("name", ["ddp", "fsdp", "nodes"])
def test_configuration_files_say_all_that_accelerate_asks(name):
    from accelerate.commands.config.config_args import load_config_from_file

    path = SCRIPTS / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.num_processes > 1 and config.mixed_precision == "no"
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) <= {*vars(config), "distributed_type"}
