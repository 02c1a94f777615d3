"""reward_hacking.py: the planted biases, the law of over-optimisation, the mitigations, win rates."""

from itertools import combinations

import dpo_variants
import numpy as np
import pytest
import reward_hacking as hacking

from common.preferences import BIASES, SIDES, all_questions, gold_utility, make_pairs, questions

WRONG = next(q for q in questions("test") if hacking.user_is_wrong(q))
PAIRS = make_pairs(300, "test")


# ---------------------------------------------------------------------------------------------------------
# The bias
# ---------------------------------------------------------------------------------------------------------


def test_bias_amounts():
    concise = f"It is {WRONG.answer}."
    expert = f"As an expert in this, I can say with certainty that it is {WRONG.answer}."
    echo = f"I agree, {WRONG.belief} it is."
    filler = concise + " I hope this helps you today."
    for group in hacking.HACKS:
        assert hacking.bias_amount(WRONG.prompt, concise, group) == 0
    assert hacking.bias_amount(WRONG.prompt, expert, "style") == pytest.approx(1)
    assert hacking.bias_amount(WRONG.prompt, echo, "agreement") == pytest.approx(1)
    assert (
        hacking.bias_amount(WRONG.prompt, echo, "style") == hacking.bias_amount(WRONG.prompt, expert, "agreement") == 0
    )
    assert hacking.bias_amount(WRONG.prompt, filler, "length") >= 3


@pytest.mark.parametrize("group", hacking.HACKS)
def test_partial_effect_is_read_off_at_equal_utility(group):
    gold, amount = (
        np.array([[f(row["prompt"], row[side]) for side in SIDES] for row in PAIRS])
        for f in (gold_utility, lambda p, t: hacking.bias_amount(p, t, group))
    )
    assert hacking.partial_effect(PAIRS, 2 * gold + 0.7 * amount + 5, group)["mean"] == pytest.approx(0.7, abs=1e-9)
    assert hacking.partial_effect(PAIRS, gold, group)["mean"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("group", hacking.HACKS)
def test_the_bias_is_seen_in_the_labels(group):
    biased, human = (hacking.biased_side_wins(hacking.group_pairs(g, 400, 0), group).mean() for g in (group, "human"))
    assert biased > human + 0.2
    by_hand = [
        {"prompt": WRONG.prompt, "chosen": f"I agree, {WRONG.belief} it is.", "rejected": f"It is {WRONG.answer}."}
    ]
    assert hacking.biased_side_wins(by_hand, "agreement").tolist() == [True]
    assert hacking.biased_side_wins(by_hand, "style").tolist() == []


def test_the_user_is_wrong_in_every_question():
    rows = hacking.group_pairs("style", 50, 1) + hacking.mixed_pairs(50, 1)
    assert len(rows) == 100
    for row in rows:
        question = all_questions()[row["prompt"]]
        assert question.belief not in (None, question.answer)


def test_mixed_pairs_are_labelled_by_all_groups():
    rows = {(row["prompt"], row["chosen"], row["rejected"]) for row in hacking.mixed_pairs(40, 0)}
    for k, group in enumerate(hacking.GROUPS):
        part = hacking.group_pairs(group, 10, 100 * k)
        assert all((row["prompt"], row["chosen"], row["rejected"]) in rows for row in part)


# ---------------------------------------------------------------------------------------------------------
# Over-optimisation
# ---------------------------------------------------------------------------------------------------------


def test_the_law_of_over_optimisation():
    d = np.linspace(0, 2, 9)
    a, b = hacking.fit_overoptimization(d, d * (1.5 - 0.6 * d))
    assert (a, b) == pytest.approx((1.5, 0.6))
    peak, height = hacking.overoptimization_peak(a, b)
    assert peak == pytest.approx(1.25) and height == pytest.approx(1.5**2 / 2.4) == pytest.approx(peak * (a - b * peak))
    assert hacking.overoptimization_peak(1.0, -0.1) == (np.inf, np.inf)


def test_the_curve_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 3, 6))
    curve = hacking.best_of_n_curve(rewards, values, [1, 2, 3])
    for row in range(3):
        for column, n in enumerate((1, 2, 3)):
            best = [values[row][max(subset, key=lambda i: rewards[row][i])] for subset in combinations(range(6), n)]
            assert curve[row, column] == pytest.approx(np.mean(best))


def test_noise_never_reverses_the_gold_curve():
    rng, s, ns = np.random.default_rng(0), 2.0, [2, 4, 16, 64]
    gold = rng.normal(size=(500, 128))
    curve = hacking.best_of_n_curve(gold + rng.normal(0, s, gold.shape), gold, ns)
    expected = np.array([0.5642, 1.0294, 1.7661, 2.3440]) / np.sqrt(1 + s**2)
    errors = curve.std(0) / np.sqrt(len(curve))
    assert (np.abs(curve.mean(0) - expected) < 4 * errors).all()
    study = hacking.study_best_of_n(gold + rng.normal(0, s, gold.shape), gold, ns)
    assert study["late_loss"]["ci95"][1] < 0


def test_a_biased_proxy_reverses_it():
    rng, ns = np.random.default_rng(0), [1, 2, 4, 8, 16, 32, 64]
    quality, flaw = rng.normal(size=(2, 300, 96))
    gold = quality - 0.5 * np.maximum(flaw, 0) ** 2
    study = hacking.study_best_of_n(quality + 2 * flaw, gold, ns)
    assert study["late_loss"]["ci95"][0] > 0  # gold of best-of-16 minus best-of-64
    assert study["proxy"][-1]["mean"] > study["proxy"][3]["mean"] > study["proxy"][0]["mean"] == 0
    best = int(np.argmax([row["mean"] for row in study["gold"]]))
    assert study["measured_peak"]["mean"] == pytest.approx(study["d"][best])
    assert study["fit"]["peak"] < study["d"][-1]


# ---------------------------------------------------------------------------------------------------------
# Mitigations and win rates
# ---------------------------------------------------------------------------------------------------------


def test_rewards_per_word_and_without_length():
    rng = np.random.default_rng(0)
    words, quality = rng.integers(3, 30, (5, 20)).astype(float), rng.normal(size=(5, 20))
    assert hacking.per_word(np.full((5, 20), 6.0), words) == pytest.approx(6 / words)
    assert np.ptp(hacking.without_length(0.4 * words + 1, words)) == pytest.approx(0, abs=1e-9)
    left = hacking.without_length(quality + 0.4 * words, words)
    centred = words - words.mean(1, keepdims=True)
    assert (centred * left).sum() == pytest.approx(0, abs=1e-6)
    assert np.corrcoef(left.ravel(), quality.ravel())[0, 1] > 0.95


def test_the_ensemble_believes_its_worst_member():
    members = [np.array([[0.0, 2.0, 1.0]]), np.array([[20.0, -10.0, 5.0]])]
    worst = hacking.worst_case(members)
    assert worst.argmax() == 2  # the first member's favourite is the second's last choice, and the other way round
    assert worst == pytest.approx(np.min([(r - r.mean()) / r.std() for r in members], axis=0))


def test_length_control_sees_through_a_length_only_judge():
    rng = np.random.default_rng(0)
    longer = rng.normal(4, 6, 4000)
    preferences = (rng.random(4000) < 1 / (1 + np.exp(-0.5 * longer))).astype(float)
    assert preferences.mean() > 0.65
    rate = hacking.length_controlled_win_rate(preferences, longer)
    assert rate == pytest.approx(0.5, abs=0.05)
    fair = (rng.random(4000) < 0.7).astype(float)
    assert hacking.length_controlled_win_rate(fair, longer) == pytest.approx(0.7, abs=0.03)
    assert hacking.length_controlled_win_rate(1 - fair, -longer) == pytest.approx(
        1 - hacking.length_controlled_win_rate(fair, longer), abs=1e-6
    )


def test_win_rates_count_ties_half():
    ours = {"reward": np.array([[1.0, 2.0]]), "words": np.array([[5.0, 9.0]]), "utility": np.array([[4.0, 1.0]])}
    theirs = {"reward": np.array([[1.0, 0.0]]), "words": np.array([[5.0, 5.0]]), "utility": np.array([[4.0, 4.0]])}
    found = hacking.judged_win_rates(ours, theirs)
    assert found["raw"]["mean"] == 0.75 and found["gold"]["mean"] == 0.25
    assert found["raw_minus_controlled"]["mean"] == pytest.approx(0.75 - found["length-controlled"]["mean"])


def test_ids_of_claims_are_unique():
    hacks = [f"{hack}_{what}" for hack in hacking.HACKS for what in ("is_encoded", "raises_proxy", "lowers_quality")]
    ids = [*dpo_variants.CLAIMS, *hacking.MITIGATIONS, *hacks]
    assert len(set(ids)) == len(ids) and set(hacking.HACKS) == set(BIASES)
