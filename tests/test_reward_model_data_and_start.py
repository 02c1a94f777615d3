"""studies/reward_model_data_and_start.py: what is compared with what, the command."""

import json

import numpy as np
import pytest
import reward_model_data_and_start as study
from helpers import run_script

FACTS = np.tile([True, True, False, False, False], 20)


def test_ways_are_compared_pair_by_pair():
    hits = {
        "encoder": np.tile([1.0, 1.0, 1.0, 1.0, 0.0], 20),
        "sft": np.tile([0.0, 1.0, 1.0, 1.0, 1.0], 20),
        "dpo": np.ones(100),
    }
    compared = study.compare_rewards(hits, FACTS)
    assert compared["encoder_over_sft"]["mean"] == pytest.approx(0)
    assert compared["dpo_over_encoder"]["mean"] == pytest.approx(0.2)
    assert compared["sft_style_over_facts"]["mean"] == pytest.approx(0.5)


def test_accuracy_is_parted_by_whether_only_a_fact_tells():
    parts = study.by_fault(np.tile([0.0, 1.0, 1.0, 1.0, 1.0], 20), FACTS)
    means = {name: row["mean"] for name, row in parts.items()}
    assert means == pytest.approx({"all": 0.8, "style": 1.0, "facts": 0.5})


def test_the_study_takes_every_path(tmp_path):
    name = "reward_model_data_and_start"
    done = run_script(f"studies/{name}", "--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "outputs" / "studies" / f"{name}-smoke.json").read_text())
    curve = result["runs"][0]["metrics"]["curve"]
    assert [row["pairs"] for row in curve["encoder"]] == [16, 32, 64]
    assert [row["pairs"] for row in curve["dpo"]] == [16, 32]
    assert len(result["claims"]) == len(study.CLAIMS)
