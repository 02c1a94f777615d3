"""studies/ppo_settings.py: which trainings are finished, the command."""

import json

import ppo_settings as study
import pytest
from helpers import run_script

# --- Stability ---


def end(validation: float, gold: float) -> dict:
    return {"validation": validation, "gold": gold, "kl": 1.0}


def test_a_training_is_not_finished_where_more_of_it_is_better():
    ends = {
        (1, 1): end(3.0, 2.0),  # more of it reaches 3.6
        (1, 4): end(3.6, 3.5),
        (4, 1): end(3.5, 3.4),  # of (1, 4) it has less of the passes, of (4, 4) more is worse
        (4, 4): end(3.0, 3.1),  # worse, but there is no more of it
    }
    rows = study.with_finished(ends)
    assert [row["finished"] for row in rows] == [False, True, True, True]
    assert study.range_of_finished({"settings": {"PPO": rows}}, "PPO") == pytest.approx(3.5 - 3.1)


def test_too_much_training_is_not_unfinished_training():
    ends = {(1, 1): end(3.6, 3.6), (1, 3): end(3.2, 3.2), (10 / 3, 1): end(3.7, 3.7)}
    assert all(row["finished"] for row in study.with_finished(ends))


def test_a_small_difference_on_validation_prompts_does_not_count():
    ends = {(1, 1): end(3.0, 2.0), (1, 4): end(3.0 + study.UNFINISHED - 0.01, 3.5)}
    assert [row["finished"] for row in study.with_finished(ends)] == [True, True]


# --- The command ---


def test_the_study(tmp_path):
    done = run_script("studies/ppo_settings", "--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    saved = tmp_path / "outputs/studies/ppo_settings-smoke.json"
    results = json.loads(saved.read_text(encoding="utf-8"))
    assert saved.with_suffix(".png").is_file()
    metrics = results["runs"][0]["metrics"]
    assert {method: len(rows) for method, rows in metrics["settings"].items()} == {
        method: len(grid) for method, grid in study.GRID.items()
    }
    found = {claim["id"]: claim["mean"] for claim in results["claims"]}
    assert set(found) == {claim.id for claim in study.CLAIMS}
    clipped = metrics["clipped"] - metrics["unclipped"]
    assert found["clipping_helps_at_high_rates"] == pytest.approx(clipped, abs=1e-6)
