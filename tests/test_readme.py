"""The README promises only what the committed run gave."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBERS = {
    "reward_model": ("gold_order_accuracy", "label_accuracy", "gold_order_unseen_facts"),
    "dpo_training": ("reference.good", "policy.good", "policy.utility", "policy.kl", "win_rate"),
    "best_of_n": ("methods.best_of_n.good", "methods.dpo_best_of_n.good", "share_of_dpo_gain"),
}


def test_the_table_of_claims_is_that_of_the_committed_run():
    assert (ROOT / "figures" / "run_all.md").read_text(encoding="utf-8") in README


@pytest.mark.parametrize("name", NUMBERS)
def test_the_headline_numbers_are_those_of_the_committed_run(name):
    metrics = json.loads((ROOT / "figures" / f"{name}.json").read_text(encoding="utf-8"))["metrics"]
    for path in NUMBERS[name]:
        value = metrics
        for key in path.split("."):
            value = value[key]
        low, high = value["ci95"]
        assert f"| {value['mean']:.3f} | {low:.3f} ... {high:.3f} |" in README, path


def test_every_figure_that_the_readme_shows_is_there():
    for name in ("preference_data", "reward_model", "ppo_objectives", "dpo_training", "best_of_n"):
        assert f"figures/{name}.png" in README
        assert (ROOT / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
