"""studies/reward_model_data_and_start.py: which pairs are judged, by which rewards, the command."""

import json

import numpy as np
import pytest
import reward_model_data_and_start as study
from helpers import run_script

from common.preferences import SIDES, make_pairs
from common.prompts import encode_answers
from common.scoring import response_logps
from common.training import load_sft_model

PAIRS = make_pairs(200)


def test_ties_count_half_and_a_flipped_sign_shows():
    rewards = np.array([[2.0, 1.0], [1.0, 2.0], [3.0, 3.0], [5.0, -5.0]])
    shares = [study.pair_hits(table).mean() for table in (rewards, -rewards)]
    assert shares == pytest.approx([0.625, 0.375])


def test_pairs_without_hidden_styles_show_neither():
    hidden = [row for row in PAIRS if study.shows_hidden(row)]
    assert 0.2 < len(hidden) / len(PAIRS) < 0.5
    for row in PAIRS:
        texts = row["chosen"] + row["rejected"]
        assert ("expert" in texts.lower()) <= study.shows_hidden(row)


def test_where_only_a_fact_tells_one_answer_is_wrong_and_neither_has_filler():
    rows = study.gold_order(PAIRS)
    rows = [
        row for row in rows if tuple(row[f"{side}_style"] for side in SIDES) == study.FACT_ALONE
    ]
    assert len(rows) > 20
    assert {row["chosen_utility"] for row in rows} == {4.0}
    assert {row["rejected_utility"] for row in rows} == {1.0}


def test_the_implicit_reward_is_the_log_ratio_of_policy_and_sft_model():
    labelled = PAIRS[:16]
    rewards = study.rewards_by(labelled, 0, {}, {"same": labelled})["same"]
    implicit, log_p = rewards["implicit"], rewards["log_p"]
    assert (implicit @ [1, -1]).mean() > 0  # trained on these: chosen gains on rejected
    assert (log_p < 0).all() and np.abs(implicit).max() < np.abs(log_p).max()
    model, tokenizer = load_sft_model()
    for side, column in zip(SIDES, log_p.T, strict=True):
        ids = [encode_answers(tokenizer, row["prompt"], [row[side]]) for row in labelled]
        shown, answers = [prompt for prompt, _ in ids], [answer for _, answer in ids]
        np.testing.assert_allclose(
            response_logps(model, tokenizer, shown, answers), column, atol=1e-3
        )


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("study")
    name = "reward_model_data_and_start"
    done = run_script(f"studies/{name}", "--smoke", cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "outputs" / "studies" / f"{name}-smoke.json").read_text())


def test_the_study_takes_every_path(result):
    (run,) = result["runs"]
    shares = run["metrics"]["all"]
    assert set(shares) == set(study.TESTS)
    assert set(shares["held"]) == set(run["metrics"]["facts"]) == set(study.REWARDS)
    assert len(result["claims"]) == len(study.CLAIMS)


def test_the_sft_model_tells_right_from_wrong_before_any_preference(result):
    metrics = result["runs"][0]["metrics"]
    assert metrics["facts"]["log_p"] > 0.9
    assert metrics["all"]["new_facts"]["log_p"] > 0.6


def test_claims_compare_the_rewards_that_they_name():
    shares = {
        "held": {"implicit": 0.9, "explicit": 0.8, "encoder_many": 0.85, "explicit_many": 0.8},
        "new_facts": {"implicit": 0.7, "explicit": 0.6},
        "new_style": {"implicit": 0.5, "explicit": 0.9},
    }
    found = {claim.id: claim.of({"all": shares}) for claim in study.CLAIMS}
    assert found == pytest.approx(
        {
            "dpo_needs_no_reward_model": 0.1,
            "implicit_is_worse_on_new_facts": -0.1,
            "implicit_is_worse_on_new_styles": 0.4,
            "encoder_over_sft_start": 0.05,
        }
    )
