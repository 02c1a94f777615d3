"""The commands as a reader types them: from another folder, offline, with good and bad input."""

import importlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import SCRIPTS, run_script

from common.cli import UserError, check_writable

RESULTS = {
    "preference_data_explorer": "preference_data",
    "reward_model": "reward_model",
    "rlhf_objectives": "ppo_objectives",
    "online_rl": "online_rl",
    "dpo_trainer": "dpo_training",
    "dpo_variants": "dpo_variants",
    "best_of_n": "best_of_n",
    "reward_hacking": "reward_hacking",
    "frontier": "frontier",
}
COMMANDS = [*RESULTS, "run_all", "page"]
ANSWERING = ("online_rl", "dpo_trainer", "dpo_variants", "best_of_n", "reward_hacking")
NO_MODEL = ("preference_data_explorer", "rlhf_objectives", "frontier")
MODEL_COMMANDS = [name for name in RESULTS if name not in NO_MODEL]
DATASET_COMMANDS = [
    "preference_data_explorer",
    "reward_model",
    "online_rl",
    "dpo_trainer",
    "dpo_variants",
    "best_of_n",
]
KEYS = {
    *("script", "settings", "versions", "seed", "device"),
    *("wall_seconds", "metrics", "claims", "checks"),
}
CLAIM_KEYS = {
    *("id", "says", "measured", "path", "true", "smallest"),
    *("mean", "ci95", "verdict"),
}
VERDICTS = {"holds", "does not hold", "no difference", "undecided"}
HEAVY = {
    *("torch", "matplotlib", "transformers", "datasets", "trl", "peft"),
    *("accelerate", "pandas"),
}


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_one_line_error(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert (
        done.stderr.startswith("error: ")
        and done.stderr.endswith("\n")
        and done.stderr.count("\n") == 1
    ), done.stderr


# -------------------------------------------------------------------------------------------------
# The tests themselves
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.getaddrinfo('a.test', 80)",
        "socket.socket().connect(('192.0.2.1', 80))",
        "urlopen('http://a.test')",
    ],
)
def test_nothing_reaches_the_network_unnoticed(attempt, network_log):
    imports = "import socket\nfrom urllib.request import urlopen"
    code = f"{imports}\ntry: {attempt}\nexcept OSError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "tests have no network" in done.stdout and done.stderr == ""
    noted = network_log.read_text()
    assert noted.count("\n") == 1 and ("a.test" in noted or "192.0.2.1" in noted)
    network_log.write_text("")


# -------------------------------------------------------------------------------------------------
# --help
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_no_heavy_library(name, tmp_path):
    done = run_script(name, "--help", cwd=tmp_path, python=("-X", "importtime"))
    assert done.returncode == 0
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & HEAVY
    assert f"python 05-preference-tuning/{name}.py" in done.stdout
    for flag in ("--seed", "--output-dir", "--figures-dir", "--smoke"):
        assert flag in done.stdout
    assert name == "page" or "--claims" in done.stdout
    assert names(tmp_path) == set()


# -------------------------------------------------------------------------------------------------
# --smoke
# -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> dict:
    """All scripts by run_all.py --smoke: its own output, and what each of them printed."""
    folder = tmp_path_factory.mktemp("a reader's folder")
    done = run_script("run_all", "--smoke", "--jobs", 2, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    logs = folder / "outputs" / "logs"
    printed = {name: (logs / f"{name}-seed-0.txt").read_text(encoding="utf-8") for name in RESULTS}
    return {"folder": folder, "run_all": done.stdout, **printed}


def read_results(folder, name: str, ending: str = "-smoke") -> dict:
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    path = folder / "outputs" / f"{RESULTS[name]}{ending}.json"
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.mark.parametrize("name", RESULTS)
def test_smoke_run(smoke, name):
    printed, folder = smoke[name], smoke["folder"]
    assert "Traceback" not in printed and "Warning" not in printed
    (wrote,) = [line for line in printed.splitlines() if line.startswith("wrote ")]
    for ending in ("png", "json"):
        assert f"outputs/{RESULTS[name]}-smoke.{ending}" in wrote
    figure = folder / "outputs" / f"{RESULTS[name]}-smoke.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    results = read_results(folder, name)
    assert set(results) - {"answers"} == KEYS and ("answers" in results) == (name in ANSWERING)
    assert results["script"] == f"{name}.py" and results["seed"] == 0
    assert results["settings"]["smoke"] is True and results["wall_seconds"]["total"] >= 0
    assert {"python", "numpy"} <= results["versions"].keys() and results["metrics"]


@pytest.mark.parametrize("name", RESULTS)
def test_claims(smoke, name):
    results = read_results(smoke["folder"], name)
    claims = results["claims"]
    assert claims and len({claim["id"] for claim in claims}) == len(claims)
    for claim in claims:
        assert set(claim) == CLAIM_KEYS and claim["verdict"] in VERDICTS
        assert all(isinstance(claim[key], str) and claim[key] for key in ("id", "says", "measured"))
        assert math.isfinite(claim["mean"])
        assert claim["ci95"] is None or claim["ci95"][0] <= claim["ci95"][1]
    made = [check["id"] for check in results["checks"]]
    known = getattr(importlib.import_module(name), "CHECKS", ())
    assert made == [check.id for check in known]  # none is left out
    for check in results["checks"]:
        assert check["passes"], check
    assert "claims   with this seed alone: " in smoke[name]
    assert "--claims lists them" in smoke[name]


def test_every_claim_is_listed_on_demand(tmp_path):
    done = run_script("rlhf_objectives", "--smoke", "--claims", cwd=tmp_path)
    for claim in read_results(tmp_path, "rlhf_objectives")["claims"]:
        assert f"  {claim['verdict'].upper()}: {claim['says']}\n" in done.stdout
        assert f"    {claim['measured']}: " in done.stdout


def test_nothing_is_left_beside_outputs(smoke):
    files = {f"{name}-smoke.{ending}" for name in RESULTS.values() for ending in ("png", "json")}
    assert names(smoke["folder"]) == {"outputs"}
    left = names(smoke["folder"] / "outputs") - files
    assert {"reward_model-smoke", "dpo-smoke", "logs", "run_all.json"} <= left
    assert all(name in ("logs", "run_all.json") or "-smoke" in name for name in left)


def test_outputs_are_what_the_libraries_load(smoke):
    outputs = smoke["folder"] / "outputs"
    model = names(outputs / "reward_model-smoke")
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= model
    adapter = names(outputs / "dpo-smoke")
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= adapter
    unsafe = {".bin", ".pt", ".pkl"}
    assert not [path for path in outputs.rglob("*") if path.suffix in unsafe]


@pytest.mark.parametrize("name", ["best_of_n", "online_rl"])
def test_what_was_trained_is_used_again(smoke, name):
    used = [line for line in smoke[name].splitlines() if line.startswith("using ")]
    assert any("reward_model-smoke" in line for line in used), smoke[name]
    assert any("dpo-smoke" in line for line in used), smoke[name]


def test_the_page_of_a_run_has_its_answers_with_rewards(smoke):
    done = run_script("page", "--smoke", cwd=smoke["folder"])
    assert done.returncode == 0, done.stderr
    assert "using outputs/reward_model-smoke" in done.stdout
    page = smoke["folder"] / "outputs" / "lab-smoke.html"
    text = page.read_text(encoding="utf-8")
    page.unlink()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert len(data["policies"]) == 15 and len(data["pools"]) == 6
    assert all(point["answers"] in data["places"] for point in data["points"])
    assert all(isinstance(reward, float) for _, _, reward, *_ in data["answers"])


@pytest.mark.parametrize("name", ["rlhf_objectives", "dpo_trainer"])
def test_the_same_seed_gives_the_same_results(smoke, name, tmp_path):
    assert run_script(name, "--smoke", cwd=tmp_path).returncode == 0
    alone, together = read_results(tmp_path, name), read_results(smoke["folder"], name)
    assert alone.pop("wall_seconds").keys() == together.pop("wall_seconds").keys()
    assert alone == together


def test_run_all_sums_up(smoke):
    assert all(f"({name}.py, " in smoke["run_all"] for name in RESULTS)
    path = smoke["folder"] / "outputs/run_all.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    assert summary["seeds"] == [0] and set(summary["seconds"]) == {f"{name}.py" for name in RESULTS}


def test_a_run_with_other_settings_replaces_nothing(tmp_path):
    for flags in ((), ("--beta", 2), ("--beta", 0.5, "--seed", 1)):
        assert run_script("rlhf_objectives", "--smoke", *flags, cwd=tmp_path).returncode == 0
    stems = ("", "beta-2.0-", "beta-0.5-seed-1-")
    expected = {f"ppo_objectives-{stem}smoke" for stem in stems}
    assert {name.removesuffix(".png") for name in names(tmp_path / "outputs")} >= expected


OWN_FLAGS = {
    "reward_model": (),
    "online_rl": (),
    "dpo_trainer": (),
    "dpo_variants": ("--judge", "tiny-gpt2", "--loss-type", "sigmoid", "sft"),
    "best_of_n": (),
}


@pytest.mark.parametrize("name", OWN_FLAGS)
def test_own_pairs(name, tmp_path):
    rows = [
        {"prompt": f"Wie heißt Nr. {k}?", "chosen": f"Nr. {k} – “É”.", "rejected": "No idea. " * k}
        for k in range(1, 13)
    ]
    rows += [{"prompt": "p", "chosen": "same", "rejected": "same"}]
    rows += [{"prompt": "p", "chosen": "", "rejected": "r"}]
    rows[4]["chosen"] = "very " * 600
    (tmp_path / "my pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    flags = ("--smoke", "--dataset", "my pairs.jsonl", "--seed", 3, *OWN_FLAGS[name])
    done = run_script(name, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == {"my pairs.jsonl", "outputs"}
    (path,) = (tmp_path / "outputs").glob(f"{RESULTS[name]}-*.json")
    assert "dataset-my_pairs.jsonl" in path.name and "seed-3-smoke" in path.name
    results = json.loads(path.read_text(encoding="utf-8"))
    assert set(results) == KEYS and results["seed"] == 3
    assert results["claims"] == []  # no gold standard, no verdict
    assert results["settings"]["dataset"] == "my pairs.jsonl"
    assert "1 empty (row 14), 1 identical (row 13)" in done.stdout
    assert (
        " rows left out: 1 longer than" in done.stdout and "the first is row 5 with " in done.stdout
    )
    if name != "reward_model":
        assert "knows only the lab's own world" in done.stdout
    assert ("The judge labels " in done.stdout) == (name == "dpo_variants")


# -------------------------------------------------------------------------------------------------
# Bad usage and bad input
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bad_flag(name, tmp_path):
    assert_one_line_error(run_script(name, "--smoke", "--nonsense", cwd=tmp_path))
    assert names(tmp_path) == set()


BAD_VALUES = [
    ("best_of_n", "--n", "1"),
    ("dpo_trainer", "--sft-steps", "-5"),
    ("dpo_trainer", "--seed", "4294967296"),
    ("dpo_trainer", "--dataset", ""),
    ("dpo_trainer", "--model", " "),
    ("dpo_variants", "--judge", ""),
    ("best_of_n", "--adapter", ""),
    ("online_rl", "--reward-model", ""),
    ("reward_hacking", "--reward-backbone", ""),
    ("rlhf_objectives", "--output-dir", ""),
    ("rlhf_objectives", "--figures-dir", ""),
]


@pytest.mark.parametrize(("name", "flag", "value"), BAD_VALUES, ids=lambda part: part or "empty")
def test_a_value_that_cannot_be(name, flag, value, capsys):
    """Refused by the parser, with the name of the flag, before anything is written or loaded."""
    with pytest.raises(SystemExit) as stopped:
        __import__(name).build_parser().parse_args([flag, value])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith(f"error: argument {flag}: ")
    assert said.count("\n") == 1


def test_equal_seeds_count_once(tmp_path):
    assert_one_line_error(run_script("run_all", "--seeds", 0, 1, 0, cwd=tmp_path))
    assert names(tmp_path) == set()


def test_a_beta_with_which_ppo_diverges(tmp_path):
    done = run_script("rlhf_objectives", "--beta", "1e300", cwd=tmp_path)
    assert_one_line_error(done)
    assert "with beta 1e+300 PPO's policy diverges; take a smaller --beta" in done.stderr
    assert names(tmp_path) == set()


LINKS = [
    ("dpo_trainer", "outputs"),
    ("dpo_trainer", "outputs/dpo-checkpoints"),
    ("dpo_trainer", "outputs/dpo-smoke"),
    ("dpo_trainer", "outputs/dpo_training-smoke.json"),
    ("run_all", "outputs/all-seeds"),
    ("run_all", "outputs/all-seeds/dpo_training.png"),
]


@pytest.mark.parametrize(("name", "place"), LINKS)
def test_a_link_to_nothing_is_found_before_any_work(name, place, tmp_path, monkeypatch):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).symlink_to(tmp_path / "nothing")
    monkeypatch.chdir(tmp_path)
    script = __import__(name)
    monkeypatch.setattr(script, "study" if name == "dpo_trainer" else "run_jobs", pytest.fail)
    seeds = ["--seeds", "0", "1"] if name == "run_all" else []
    with pytest.raises(UserError, match=re.escape(place)):
        script.main(["--smoke", *seeds])
    assert (tmp_path / place).is_symlink() and not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("name", MODEL_COMMANDS)
def test_a_model_that_is_not_there(name, tmp_path):
    done = run_script(name, "--smoke", "--model", "./no such model", cwd=tmp_path)
    assert_one_line_error(done)
    assert "./no such model" in done.stderr and done.stdout == ""
    assert names(tmp_path) == set()


def test_a_model_on_a_hub_that_cannot_be_reached(tmp_path, network_log):
    done = run_script("dpo_trainer", "--smoke", "--model", "some/model-of-a-hub", cwd=tmp_path)
    assert_one_line_error(done)
    assert "the model hub cannot be reached" in done.stderr and "embedded" in done.stderr
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    assert network_log.read_text().count("\n") == 1  # asked once, and left it at that
    network_log.write_text("")


@pytest.mark.parametrize("name", DATASET_COMMANDS)
def test_a_dataset_that_is_not_there(name, tmp_path):
    done = run_script(name, "--smoke", "--dataset", "no such file.jsonl", cwd=tmp_path)
    assert_one_line_error(done)
    assert "no such file.jsonl" in done.stderr and done.stdout == ""
    assert names(tmp_path) == set()


def test_a_dataset_without_enough_in_it(tmp_path):
    row = {"prompt": "Why?", "chosen": "So.", "rejected": "Because."}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert_one_line_error(
        run_script("reward_model", "--smoke", "--dataset", "pairs.jsonl", cwd=tmp_path)
    )
    assert names(tmp_path) == {"pairs.jsonl"}  # no empty folder for results either


@pytest.mark.parametrize("name", COMMANDS)
def test_a_figures_folder_that_cannot_be_made(name, tmp_path):
    (tmp_path / "file").touch()
    assert_one_line_error(
        run_script(name, "--smoke", "--figures-dir", "file/figures", cwd=tmp_path)
    )
    assert not any(path.is_file() for path in tmp_path.rglob("*") if path.name != "file")


def test_a_folder_behind_a_symbolic_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "elsewhere")
    done = run_script("rlhf_objectives", "--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs").is_symlink()
    assert (tmp_path / "elsewhere/ppo_objectives-smoke.png").is_file()


def test_what_the_lab_did_not_write_is_not_replaced(tmp_path):
    (tmp_path / "outputs").mkdir()
    mine = tmp_path / "outputs/ppo_objectives-smoke.png"
    mine.write_text("mine")
    done = run_script("rlhf_objectives", "--smoke", cwd=tmp_path)
    assert_one_line_error(done)
    assert mine.name in done.stderr and mine.read_text() == "mine"


def test_a_folder_that_is_read_only(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("outputs", "figures")]
    for folder in folders:
        folder.mkdir()
    # Root may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "figures")
    with pytest.raises(UserError, match=r"cannot write to the folder .*figures; choose another"):
        check_writable(*folders)


def test_the_scripts_are_all_here():
    assert all((SCRIPTS / f"{name}.py").is_file() for name in COMMANDS)
