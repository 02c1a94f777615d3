"""The commands as a reader types them: from another folder, offline, with good and bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import SCRIPTS, run_script

FIGURES = {
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
STUDIES = sorted(path.stem for path in (SCRIPTS / "studies").glob("*.py") if path.stem != "lessons")
TAKE_MODELS = ("reward_model", "online_rl", "dpo_trainer", "dpo_variants", "best_of_n")
TAKE_DATA = ("preference_data_explorer", *TAKE_MODELS)
KEYS = {"script", "settings", "versions", "seed", "device", "wall_seconds", "metrics"}
HEAVY = {"torch", "matplotlib", "transformers", "datasets", "trl", "peft", "accelerate", "pandas"}
MOST_LINES = 25  # of a lesson's terminal


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_one_line_error(done: subprocess.CompletedProcess, *parts: str) -> None:
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr


def strict_json(path: Path) -> dict:
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.mark.parametrize(
    "attempt",
    ["socket.getaddrinfo('a.test', 80)", "socket.socket().connect(('192.0.2.1', 80))"],
)
def test_nothing_reaches_the_network_unnoticed(attempt, network_log):
    code = f"import socket\ntry: {attempt}\nexcept OSError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "tests have no network" in done.stdout and done.stderr == ""
    noted = network_log.read_text()
    assert noted.count("\n") == 1 and ("a.test" in noted or "192.0.2.1" in noted)
    network_log.write_text("")


# --- --help ---


@pytest.mark.parametrize("name", [*FIGURES, "run_all", *(f"studies/{name}" for name in STUDIES)])
def test_help_answers_at_once(name, tmp_path):
    done = run_script(name, "--help", cwd=tmp_path, python=("-X", "importtime"))
    assert done.returncode == 0
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported and not imported & HEAVY
    assert f"python 05-preference-tuning/{name}.py" in done.stdout
    for flag in ("--output-dir", "--smoke"):
        assert flag in done.stdout
    assert names(tmp_path) == set()


# --- --smoke ---


@pytest.fixture(scope="module")
def lessons(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """(a reader's folder, what each lesson said) of run_all.py --smoke."""
    folder = tmp_path_factory.mktemp("a reader's folder")
    done = run_script("run_all", "--smoke", "--jobs", 2, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    logs = folder / "outputs" / "logs"
    return folder, {name: (logs / f"{name}.log").read_text(encoding="utf-8") for name in FIGURES}


@pytest.mark.parametrize("name", FIGURES)
def test_a_lesson_writes_what_it_says(lessons, name):
    folder, said = lessons
    results = strict_json(folder / "outputs" / f"{FIGURES[name]}-smoke.json")
    assert set(results) == KEYS and results["script"] == f"{name}.py"
    assert results["metrics"] and results["settings"]["smoke"] is True
    png = folder / "outputs" / f"{FIGURES[name]}-smoke.png"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert f"wrote outputs/{png.name}" in said[name]
    assert said[name].rstrip().splitlines()[-1].startswith("next  ")


@pytest.mark.parametrize("name", FIGURES)
def test_a_terminal_is_read_at_a_glance(lessons, name):
    lines = [line for line in lessons[1][name].splitlines() if line.strip()]
    assert len(lines) <= MOST_LINES, lessons[1][name]
    assert "Traceback" not in lessons[1][name] and "Warning" not in lessons[1][name]


def test_nothing_is_left_beside_outputs(lessons):
    folder, _ = lessons
    assert names(folder) == {"outputs"}
    hidden = list(folder.rglob(".*"))
    assert not hidden, hidden


def test_what_was_trained_is_used_again(lessons):
    """best_of_n needs a reward model and a policy: those of the lessons that were run before."""
    assert "training" not in lessons[1]["best_of_n"], lessons[1]["best_of_n"]


def test_best_of_n_takes_the_models_that_are_given(lessons):
    given = ("--reward-model", "outputs/reward_model-smoke", "--adapter", "outputs/dpo-smoke")
    done = run_script("best_of_n", "--smoke", "--n", 3, *given, cwd=lessons[0])
    assert done.returncode == 0, done.stderr
    assert "first (" not in done.stdout and "best of 3" in done.stdout
    assert lessons[1]["best_of_n"].count("  -> reward ") == 1  # of the run before: one is chosen
    curve = strict_json(lessons[0] / "outputs/best_of_n-smoke.json")["metrics"]["curve"]
    assert [means["n"] for means in curve] == [1, 2, 4]


def test_the_same_seed_gives_the_same_results(lessons, tmp_path):  # of DPO: test_dpo_trainer.py
    folder, _ = lessons
    run_script("rlhf_objectives", "--smoke", cwd=tmp_path)
    again = strict_json(tmp_path / "outputs" / "ppo_objectives-smoke.json")
    before = strict_json(folder / "outputs" / "ppo_objectives-smoke.json")
    assert again["metrics"] == before["metrics"]


# --- Own data ---

OWN_FLAGS = {
    "preference_data_explorer": (),
    "reward_model": (),
    "dpo_trainer": (),
    "dpo_variants": ("--loss-type", "sigmoid", "sft"),
    "best_of_n": (),
    "online_rl": (),
}


@pytest.mark.parametrize("name", OWN_FLAGS)
def test_own_pairs(name, tmp_path):
    rows = [
        {"prompt": f"Wie heißt Nr. {k}?", "chosen": f"Nr. {k} – “É”.", "rejected": "No idea. " * k}
        for k in range(1, 13)
    ]
    rows += [{"prompt": "p", "chosen": "same", "rejected": "same"}]
    (tmp_path / "my pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    flags = ("--smoke", "--dataset", "my pairs.jsonl", "--seed", 3, *OWN_FLAGS[name])
    done = run_script(name, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == {"my pairs.jsonl", "outputs"}
    (path,) = (tmp_path / "outputs").glob(f"{FIGURES[name]}-*.json")
    assert "dataset-my_pairs.jsonl" in path.name and "seed-3-smoke" in path.name
    results = strict_json(path)
    assert results["settings"]["dataset"] == "my pairs.jsonl"
    assert "second_look" in results["metrics"] or name in ("preference_data_explorer", "best_of_n")
    assert "identical" in done.stdout  # the row that says nothing is told
    assert name != "best_of_n" or done.stdout.count("first (") == 2  # trains what it needs, once
    assert "gold utility" not in done.stdout and "right and concise" not in done.stdout
    assert '"gold":' not in path.read_text(encoding="utf-8")  # nobody knows how good answers are


# --- Bad usage and bad input ---


@pytest.mark.parametrize("name", [*FIGURES, "run_all", "studies/too_much_dpo"])
def test_a_bad_flag(name, tmp_path):
    assert_one_line_error(run_script(name, "--smoke", "--nonsense", cwd=tmp_path), "--nonsense")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", [*TAKE_MODELS, "reward_hacking"])
def test_a_model_that_is_not_there(name, tmp_path):
    done = run_script(name, "--smoke", "--model", "./mistyped", cwd=tmp_path)
    assert_one_line_error(done, "./mistyped")
    assert names(tmp_path) == set()


def test_a_model_on_a_hub_that_cannot_be_reached(tmp_path, network_log):
    done = run_script("dpo_trainer", "--smoke", "--model", "distilgpt2", cwd=tmp_path)
    assert_one_line_error(done, "distilgpt2", "cannot be reached")
    assert names(tmp_path) == set()
    network_log.write_text("")


@pytest.mark.parametrize("name", TAKE_DATA)
def test_a_dataset_that_is_not_there(name, tmp_path):
    done = run_script(name, "--smoke", "--dataset", "mistyped.jsonl", cwd=tmp_path)
    assert_one_line_error(done, "mistyped.jsonl")
    assert names(tmp_path) == set()


def test_a_broken_row(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"p')
    done = run_script("dpo_trainer", "--smoke", "--dataset", "pairs.jsonl", cwd=tmp_path)
    assert_one_line_error(done, "pairs.jsonl", "2")
    assert names(tmp_path) == {"pairs.jsonl"}


def test_what_the_lab_did_not_write_is_not_replaced(tmp_path):
    place = tmp_path / "outputs" / "dpo-smoke"
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    done = run_script("dpo_trainer", "--smoke", cwd=tmp_path)
    assert_one_line_error(done, "notes.txt", "did not write")
    assert (place / "notes.txt").read_text() == "mine" and names(tmp_path / "outputs") == {
        "dpo-smoke"
    }


def test_a_run_with_other_settings_replaces_nothing(lessons):
    outputs = lessons[0] / "outputs"
    before = {path: path.read_bytes() for path in outputs.glob("*.json")}
    done = run_script("rlhf_objectives", "--smoke", "--beta", 0.1, cwd=lessons[0])
    assert done.returncode == 0, done.stderr
    new = {path.name for path in outputs.iterdir() if path not in before and "beta" in path.name}
    assert new == {"ppo_objectives-beta-0.1-smoke.json", "ppo_objectives-beta-0.1-smoke.png"}
    assert {path: path.read_bytes() for path in before} == before
