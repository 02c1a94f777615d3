"""Several processes: the same commands under `accelerate launch` end where one process ends."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from support.training import training_settings

import numpy as np
import pytest
import yaml
from helpers import SCRIPTS, run_script
from reward_model import score_pairs
from safetensors.numpy import load_file

from common.models import load_reward_model
from common.preferences import make_pairs

# Of every metric: sums in another order differ in the last digits, and training carries that on.
TOLERANCE = 1e-3
CONFIGURATIONS = SCRIPTS / "support" / "accelerate"


def launch(
    name: str, *flags: object, cwd, config: str = "ddp", processes: int = 2
) -> subprocess.CompletedProcess:
    """`accelerate launch` with a configuration file of the repository; processes share the CPU."""
    options = ["--config_file", CONFIGURATIONS / f"{config}.yaml", "--num_processes", processes]
    options += ["--main_process_port", 0]  # any that is free
    script = [SCRIPTS / f"{name}.py"]
    if config == "fsdp":
        script.insert(0, Path(__file__).with_name("fsdp_on_cpu.py"))
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, *script, *flags]
    piped = {"capture_output": True, "text": True, "timeout": 600}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), cwd=cwd, env=environment, **piped)


def numbers(value, path: str = "") -> dict[str, float]:
    """Every number of nested metrics, by its path."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        by_path = {}
        for name, inner in items:
            by_path |= numbers(inner, f"{path}.{name}")
        return by_path
    return {path: value} if isinstance(value, int | float) else {}


NAMED = "dataset-pairs.jsonl-smoke"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict:
    """A reader's run in one process and in two: best_of_n trains what it needs, in batches of 8."""
    rows = [
        {"prompt": f"Why {k}?", "chosen": f"So {k}.", "rejected": f"Not {k} " * (k % 5)}
        for k in range(46)
    ]
    flags, done = ("--smoke", "--dataset", "pairs.jsonl"), {}
    for name in ("one", "ddp", "fsdp"):
        folder = tmp_path_factory.mktemp(name)
        (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        if name == "one":
            done[name] = folder, run_script("best_of_n", *flags, cwd=folder)
        else:
            done[name] = folder, launch("best_of_n", *flags, cwd=folder, config=name)
    return done


def trained_folder(folder: Path, method: str) -> Path:
    """Where best_of_n put what it trained, whatever its name says of the settings."""
    (settings,) = folder.glob(f"outputs/{method}*/lab_settings.json")
    return settings.parent


@pytest.mark.parametrize("config", ["ddp", "fsdp"])
def test_two_processes_speak_and_write_once(runs, config):
    (one, alone), (two, together) = runs["one"], runs[config]
    assert alone.returncode == together.returncode == 0, alone.stderr + together.stderr
    # Numbers may differ in the last digit, and with them how many blanks fill a column.
    said = [" ".join(re.sub(r"-?[0-9.]+", "#", done.stdout).split()) for done in (alone, together)]
    assert said[0] == said[1] and said[0].count("wrote ") == 1
    files = [
        {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        for folder in (one, two)
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize("config", ["ddp", "fsdp"])
def test_two_processes_measure_what_one_measures(runs, config):
    results = [runs[name][0] / f"outputs/best_of_n-{NAMED}.json" for name in ("one", config)]
    one, two = (numbers(json.loads(path.read_text())["metrics"]) for path in results)
    costs = (".cost", ".frontier")
    differences = {key: (one[key], two[key]) for key in one if not key.startswith(costs)}
    assert differences and one.keys() == two.keys()
    for key, (alone, together) in differences.items():
        assert together == pytest.approx(alone, abs=TOLERANCE), key
    for key in (key for key in one if "flops" in key):
        assert two[key] == pytest.approx(one[key], rel=0.2), key  # each pads its own batches


@pytest.mark.parametrize("config", ["ddp", "fsdp"])
def test_two_processes_train_the_adapter_of_one(runs, config):
    one, two = (
        load_file(trained_folder(runs[name][0], "dpo") / "adapter_model.safetensors")
        for name in ("one", config)
    )
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].shape == two[name].shape, name
        assert abs(one[name] - two[name]).max() < 1e-5, name
    assert max(abs(one[name]).max() for name in one if "lora_B" in name) > 1e-4  # it starts at 0


def margins(folder) -> np.ndarray:
    """Reward differences of a trained reward model: its level drifts freely."""
    rewards = score_pairs(*load_reward_model(str(folder)), make_pairs(50, "test"))
    return rewards[:, 0] - rewards[:, 1]


@pytest.mark.parametrize("config", ["ddp", "fsdp"])
def test_two_processes_train_the_reward_model_of_one(runs, config):
    one, two = (margins(trained_folder(runs[name][0], "reward_model")) for name in ("one", config))
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_a_last_batch_that_cannot_be_shared_evenly(tmp_path):
    flags = ("--smoke", "--pairs", 19, "--learning-rate", "1e-3")  # 16, and three for two
    for run, folder in ((run_script, "one"), (launch, "two")):
        done = run("reward_model", *flags, "--output-dir", folder, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = (
        margins(next((tmp_path / folder).glob("reward_model*/lab_settings.json")).parent)
        for folder in ("one", "two")
    )
    np.testing.assert_allclose(one, two, atol=1e-4)
    assert abs(one).max() > 0.01


def test_two_processes_run_every_variant(runs, tmp_path):
    """KTO sees other batches when two processes share its rows; DPO and IPO end where one does."""
    flags = ("--smoke", "--dataset", runs["one"][0] / "pairs.jsonl", "--max-new-tokens", 16)
    arms = []
    for run, output in ((run_script, "one"), (launch, "two")):
        done = run("dpo_variants", *flags, "--output-dir", output, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (results,) = (tmp_path / output).glob("dpo_variants*.json")
        arms.append(json.loads(results.read_text())["metrics"]["arms"])
    assert [set(measured) for measured in arms] == [{"dpo", "ipo", "kto"}] * 2
    one, two = (
        {key: value for key, value in numbers(measured).items() if "kto" not in key}
        for measured in arms
    )
    assert [two[key] for key in one] == pytest.approx([one[key] for key in one], abs=TOLERANCE)


def test_the_default_batch_is_shared_and_an_own_one_is_per_process(monkeypatch):
    import reward_model

    for processes, flags, batch in ((1, [], 16), (2, [], 16), (4, [], 16), (2, ["16"], 32)):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        flag = ["--per-device-train-batch-size", *flags] if flags else []
        args = vars(reward_model.build_parser().parse_args(flag))
        model = args.pop("model", "tiny-distilbert")
        assert training_settings("reward model", model=model, **args)["batch_size"] == batch
        assert args["per_device_train_batch_size"] == batch // processes


def launch_in_one_line(*flags: object, cwd) -> subprocess.Popen:
    """launch.py with two processes."""
    options = ["ddp", "--num_processes", 2, "--main_process_port", 0]
    launcher = SCRIPTS / "support" / "accelerate" / "launch.py"
    command = [sys.executable, launcher, *options, *flags]
    piped = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, command)), cwd=cwd, env=environment, **piped)


def test_an_error_is_said_once(tmp_path):
    flags = (SCRIPTS / "reward_model.py", "--smoke", "--dataset", "nowhere.jsonl")
    run = launch_in_one_line(*flags, cwd=tmp_path)
    assert run.communicate()[1] == "error: nowhere.jsonl: there is no such file or folder\n"
    assert run.returncode == 2


RANK = """
import os, sys, time
sys.path[:0] = sys.argv[1:]
from common import cli

def main():
    import torch.distributed
    torch.distributed.init_process_group("gloo")
    torch.distributed.barrier()
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), 9)
    torch.distributed.barrier()

cli.run(main)
"""


def test_a_rank_that_dies_ends_the_run_in_one_line(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    run = launch_in_one_line("rank.py", SCRIPTS.parent, cwd=tmp_path)
    said = run.communicate()[1]
    assert said.startswith("error: process 1 was killed (SIGKILL): ") and said.count("\n") == 1
    assert run.returncode == 128 + 9


@pytest.mark.parametrize("name", ["ddp", "fsdp", "nodes"])
def test_configuration_files_say_all_that_accelerate_asks(name):
    from accelerate.commands.config.config_args import load_config_from_file

    path = CONFIGURATIONS / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.num_processes > 1 and config.mixed_precision == "no"
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) <= {
        *vars(config),
        "distributed_type",
    }
