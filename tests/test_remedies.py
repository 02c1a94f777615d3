"""studies/remedies.py: what is compared with what, length regressed out, win rates."""

import numpy as np
import pytest
import remedies as study
from best_of_n import best_of_n_curve

from common.preferences import BIASES


def slope_within_prompts(rewards: np.ndarray, words: np.ndarray) -> float:
    centred = words - words.mean(1, keepdims=True)
    return (centred * rewards).sum() / (centred**2).sum()


def test_regressing_takes_all_of_length_and_nothing_else():
    rng = np.random.default_rng(0)
    words = rng.integers(3, 30, (8, 12)) + 20.0 * np.arange(8)[:, None]  # prompts differ, too
    quality = rng.normal(size=(8, 12)) - 3.0 * np.arange(8)[:, None]
    rewards = quality + 0.4 * words
    left, slope = study.without_length(rewards, words), slope_within_prompts(rewards, words)
    assert slope > 0.3 and slope_within_prompts(left, words) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(left - rewards, -slope * words, atol=1e-9)
    np.testing.assert_allclose(study.without_length(7 - 0.4 * words, words), 7.0, atol=1e-9)
    np.testing.assert_allclose(study.without_length(quality, np.full((8, 12), 5.0)), quality)


class Pool:
    """Words, and gold utility that goes against them."""

    words = np.random.default_rng(0).permuted(np.tile(np.arange(3.0, 15.0), (6, 1)), axis=1)
    gold = -words + np.random.default_rng(1).normal(0, 0.1, words.shape)


@pytest.fixture(scope="module")
def cells() -> dict:
    """Cells where the rewards of length and agreement count words, and the others are right."""
    names = ("length", "agreement", "length_2", "length_3")
    right = ("mixed", "style", "human", "human_2", "human_3")
    rewards = {**dict.fromkeys(names, Pool.words), **dict.fromkeys(right, -Pool.words)}
    return study.compare_choices(rewards, Pool, 12)


WORST, BEST = Pool.gold[Pool.words == 14].mean(), Pool.gold[Pool.words == 3].mean()


def test_remedies_are_compared_with_the_flawed_reward(cells):
    one = best_of_n_curve(Pool.words, Pool.gold, [1])[:, 0].mean()
    assert cells["fewer"]["length"] == pytest.approx(one - WORST)  # 12 // 16, but at least 1
    assert cells["mixed_reward"]["length"] == pytest.approx(BEST - WORST)
    assert cells["mixed_reward"]["style"] == pytest.approx(0)
    assert cells["regressed"]["length"] > 1 and cells["three_groups"]["length"] > 1
    assert cells["same_labels"]["length"] == pytest.approx(0)  # all members have the flaw
    assert set(cells["three_groups"]) == {*BIASES, "human"}


def test_where_nothing_is_wrong_a_remedy_is_compared_with_the_unbiased_reward(cells):
    one = best_of_n_curve(Pool.words, Pool.gold, [1])[:, 0].mean()
    assert cells["fewer"]["human"] == pytest.approx(one - BEST)
    assert cells["regressed"]["human"] < -1  # gold goes against words: all that it knows is gone
    assert cells["three_groups"]["human"] < -1  # two of three members count words
    for remedy in ("same_labels", "mixed_reward"):
        assert cells[remedy]["human"] == pytest.approx(0)


def test_per_word_over_levels(cells):
    # words / words is a tie: any of the pool. A mean of 10 instead of 8.5: the shortest wins.
    assert cells["per_word"]["length"] == pytest.approx(Pool.gold.mean() - WORST)
    assert cells["levels"][-1] == cells["shortest"] == pytest.approx(BEST)
    assert cells["levels"][0] == cells["without"] == pytest.approx(WORST)


def test_claims_compare_what_they_name():
    cell = {"length": 1.0, "style": 2.0, "agreement": 3.0, "human": -1.0}
    metrics = {remedy: dict(cell) for remedy in study.REMEDIES}
    metrics |= {"levels": [0, 0, 1.5, 0, 0], "shortest": 2.0, "win_rate_inflation": 0.2}
    metrics["regressed"]["length"], metrics["same_labels"]["length"] = 2.0, 0.25
    metrics["mixed_dpo"] = {**cell, "style": 8.0}
    found = {claim.id: claim.of(metrics) for claim in study.CLAIMS}
    assert found == pytest.approx(
        {
            "kl_mitigates_dpo": 1.0,
            "length_control_mitigates": 1.5,
            "per_word_beats_shortest": -0.5,
            "ensembles_need_other_flaws": 0.75,
            "mixed_labels_mitigate": 3.0,
            "remedies_cost_where_nothing_is_wrong": 1.0,
            "length_inflates_win_rates": 0.2,
        }
    )


# --- Win rates ---


@pytest.mark.parametrize("k", [0.3, 0.5])
def test_control_sees_through_a_judge_of_length(k):
    difference = np.random.default_rng(0).normal(5, 6, 4000)
    wins = 1 / (1 + np.exp(-k * difference))
    assert wins.mean() > 0.7
    inflation = study.inflation_by_length(wins, difference)
    assert inflation == pytest.approx(wins.mean() - 0.5, abs=0.03)


def test_control_leaves_a_judge_of_quality():
    rng = np.random.default_rng(0)
    wins, difference = (rng.random(8000) < 0.7).astype(float), rng.normal(5, 6, 8000)
    inflation = study.inflation_by_length(wins, difference)
    assert wins.mean() - inflation == pytest.approx(0.7, abs=0.03)
    mirrored = study.inflation_by_length(1 - wins, -difference)
    assert mirrored == pytest.approx(-inflation, abs=1e-9)
    longer_wins = (difference > 0).astype(float)
    only_counts = longer_wins.mean() - study.inflation_by_length(longer_wins, difference)
    assert 0.05 < only_counts < 0.95  # finite


def test_ties_count_half_and_what_length_won_is_taken_off():
    wins = study.pair_hits(np.array([[1.0, 0.0], [2.0, 2.0], [2.0, 0.0], [-1.0, 0.0]]))
    assert wins.tolist() == [1, 0.5, 1, 0]
    # 2.5 of 4 are won. At equal length one answer wins and one loses, 5 words more win 3/4.
    found = study.inflation_by_length(wins, np.array([5.0, 5.0, 0.0, 0.0]))
    assert found == pytest.approx(0.625 - 0.5, abs=0.01)


# --- The command ---
