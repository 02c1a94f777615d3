"""Every contestant of the benchmarks runs, and the texts show the committed run.

How fast the lab is no test says: here the embedded models stand in for the large ones.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.models import load_causal_lm, load_reward_model, quiet_libraries
from common.preferences import make_pairs

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def contests(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import contests

    def small_encoder():
        model, tokenizer = load_reward_model("tiny-distilbert")
        tokenizer.eos_token = tokenizer.sep_token
        return model, tokenizer

    quiet_libraries()
    monkeypatch.setattr(contests, "large_gpt2", lambda: load_causal_lm("tiny-gpt2"))
    monkeypatch.setattr(contests, "large_encoder", small_encoder)
    monkeypatch.setattr(contests, "long_pairs", lambda count, most: make_pairs(8))
    for name, value in {"NEW_TOKENS": 8, "PROMPTS": 2, "CANDIDATES": 2, "SAMPLES": 2}.items():
        monkeypatch.setattr(contests, name, value)
    return contests


@pytest.mark.parametrize("name", ["reward_training", "rl_training", "scoring"])
def test_contestants_run(contests, name):
    (row,) = getattr(contests, name)(1)
    assert row["lab"] > 0 and row["plain"] > 0 and row["best"] > 0


@pytest.mark.parametrize("kind", ["lab", "plain", "best", "full"])
def test_contestants_of_dpo_run(contests, kind):
    contests.train_dpo(kind, make_pairs(8))


def test_ratios_are_the_lab_over_the_library(contests):
    row = contests.row("a / b", "pairs/s", 3.0, 4.0, 1.5)
    assert row["ratio"] == 0.75 and row["ratio_to_best"] == 2.0
    assert contests.row("a / b", "s", 3.0, 4.0)["ratio_to_best"] is None


@pytest.mark.parametrize("name", ["bench", "second_look"])
def test_it_finds_what_it_imports(name, tmp_path):
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--help"]
    subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL, check=True, timeout=600)


def test_the_second_look_is_asked_about_known_checks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import second_look

    for case in second_look.PLANTS:
        assert case.fires and set(case.fires) <= set(second_look.QUESTIONS)
    run = {"fired": ["cut", "length"], "gold": [2.0, 1.5], "words": ["yes"]}
    row = second_look.row_of(second_look.PLANTS[0], [run])
    assert row.endswith("| length | 1 of 1 | cut (1) | 2.0 to 1.5 | yes |")


def test_the_table_of_speed_is_that_of_the_committed_run(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench

    table = (BENCHMARKS / "results.md").read_text(encoding="utf-8")
    assert table.strip() in (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    results = json.loads((BENCHMARKS / "results.json").read_text(encoding="utf-8"))
    assert table == bench.markdown(results)
