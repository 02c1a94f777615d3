"""reward_hacking.py: the planted biases, over-optimisation with and without a bias, mitigations, win rates, claims."""

import itertools
import math

import dpo_variants
import numpy as np
import pytest
import reward_hacking as hacking
from rlhf_objectives import kl_regularized_optimum

from common.preferences import BIASES, SIDES, all_questions, gold_utility, questions

QUESTION = next(q for q in questions("test") if hacking.user_is_wrong(q) and q.relation == "capital")
ANSWER = f"It is {QUESTION.answer}."


def pair(chosen: str, rejected: str) -> dict:
    return {"prompt": QUESTION.prompt, "chosen": chosen, "rejected": rejected}


# ---------------------------------------------------------------------------------------------------------
# The bias
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response, length, style, agreement",
    [
        (ANSWER, 0, 0, 0),
        (f"{ANSWER} One two three four five.", 3, 0, 0),  # "is" and the answer are needed, three more are courtesy
        (f"{ANSWER} {'word ' * 40}", 20, 0, 0),  # counted up to 20
        (f"As an expert in this field, I am sure that it is {QUESTION.answer}.", 8, 1, 0),
        (f"Indeed, {QUESTION.belief} it is.", 0, 0, 1),
        (f"As an expert, I can confirm {QUESTION.belief}.", 3, 1, 1),
    ],
)
def test_bias_amounts_of_hand_made_responses(response, length, style, agreement):
    found = {group: hacking.bias_amount(QUESTION.prompt, response, group) for group in BIASES}
    assert found == pytest.approx({"length": length, "style": style, "agreement": agreement}, abs=1e-9)


def test_wins_of_the_biased_side_leave_equal_pairs_out():
    echo, filler = f"Indeed, {QUESTION.belief} it is.", f"{ANSWER} One two three four five."
    pairs = [pair(echo, ANSWER), pair(ANSWER, echo), pair(filler, ANSWER), pair(echo, filler)]
    assert hacking.biased_side_wins(pairs, "agreement").tolist() == [True, False, True]
    assert hacking.biased_side_wins(pairs, "length").tolist() == [True, False]
    assert hacking.biased_side_wins(pairs, "style").tolist() == []


@pytest.mark.parametrize("group", hacking.HACKS)
def test_partial_effect_is_read_at_equal_gold_utility(group):
    pairs = hacking.group_pairs("human", 60, 1)
    gold, amount = (
        np.array([[f(row["prompt"], row[side]) for side in SIDES] for row in pairs])
        for f in (gold_utility, lambda prompt, text: hacking.bias_amount(prompt, text, group))
    )
    found = hacking.partial_effect(pairs, 2 * gold + 0.7 * amount + 5, group)
    assert found["mean"] == pytest.approx(0.7, abs=1e-9) and found["ci95"] == pytest.approx((0.7, 0.7), abs=1e-9)
    assert hacking.partial_effect(pairs, gold, group)["mean"] == pytest.approx(0, abs=1e-9)


def test_the_user_is_wrong_in_all_pairs_of_a_group():
    rows = hacking.group_pairs("agreement", 60, 2, "test")
    asked = [all_questions()[row["prompt"]] for row in rows]
    assert len(rows) == 60
    assert all(q.belief is not None and q.belief != q.answer and q.split == "test" for q in asked)
    # The group's bias is in the labels: human annotators of the same world choose the echo less often.
    human = hacking.biased_side_wins(hacking.group_pairs("human", 400, 2), "agreement")
    biased = hacking.biased_side_wins(hacking.group_pairs("agreement", 400, 2), "agreement")
    assert biased.mean() > human.mean() + 0.2


def test_mixed_pairs_come_from_all_groups_in_equal_parts():
    rows = hacking.mixed_pairs(80, 3)
    parts = [hacking.group_pairs(group, 20, 3 + 100 * k) for k, group in enumerate(hacking.GROUPS)]
    assert len(rows) == 80 and [sum(row in part for row in rows) for part in parts] == [20] * 4
    assert rows != [row for part in parts for row in part]  # shuffled
    assert len(hacking.mixed_pairs(78, 3)) == 78


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [4, 16])
def test_few_pairs_are_as_many_as_were_asked_for(count, seed):
    # Only one prompt in three has a user who is wrong; --smoke asks for 16 pairs, --reward-pairs allows 4.
    assert len(hacking.mixed_pairs(count, seed)) == count
    assert [len(hacking.group_pairs(g, count // 4, seed)) for g in hacking.GROUPS] == [count // 4] * 4


# ---------------------------------------------------------------------------------------------------------
# Over-optimisation
# ---------------------------------------------------------------------------------------------------------


def test_the_fit_recovers_its_coefficients():
    d = np.linspace(0, 2, 9)
    assert hacking.fit_overoptimization(d, d * (1.7 - 0.6 * d)) == pytest.approx((1.7, 0.6), abs=1e-9)


def test_the_peak_is_a_over_2b_high_a_squared_over_4b():
    assert hacking.overoptimization_peak(3.0, 0.5) == pytest.approx((3.0, 4.5))
    d = np.linspace(0, 10, 100_001)
    gain = d * (1.7 - 0.6 * d)
    assert hacking.overoptimization_peak(1.7, 0.6) == pytest.approx((d[gain.argmax()], gain.max()), abs=1e-4)
    for b in (0.0, -0.5):
        assert hacking.overoptimization_peak(3.0, b) == (math.inf, math.inf)


def test_the_measured_peak_is_where_mean_gold_is_largest():
    d = np.array([0.0, 0.5, 1.0, 1.5, 2.0])
    gold = d * (1.3 - 0.5 * d) + np.random.default_rng(0).normal(0, 0.01, (40, 5))
    found = hacking.measured_peak(gold, d)
    assert found["mean"] == 1.5 and found["ci95"] == pytest.approx((1.5, 1.5))
    assert hacking.measured_peak(-gold, d)["mean"] == 0


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_curve_is_the_mean_over_all_subsets(n):
    rewards, values = np.random.default_rng(n).normal(size=(2, 3, 6))
    expected = [
        np.mean([v[max(subset, key=lambda i: r[i])] for subset in itertools.combinations(range(6), n)])
        for r, v in zip(rewards, values, strict=True)
    ]
    np.testing.assert_allclose(hacking.best_of_n_curve(rewards, values, [n])[:, 0], expected, atol=1e-12)


def test_noise_alone_never_turns_the_gold_curve_down():
    rng, s = np.random.default_rng(0), 2.0
    gold = rng.normal(size=(400, 128))
    curve = hacking.best_of_n_curve(gold + rng.normal(0, s, gold.shape), gold, [2, 4, 16, 64])
    expected = np.array([0.5642, 1.0294, 1.7661, 2.3440]) / math.sqrt(1 + s**2)
    assert (np.abs(curve.mean(0) - expected) < 4 * curve.std(0) / math.sqrt(len(curve))).all()
    assert (np.diff(curve.mean(0)) > 0.1).all()


def test_the_noise_of_the_study_is_three():
    gold = np.random.default_rng(1).normal(0, 1.5, (200, 100))
    noise = hacking.add_noise(gold, 0) - gold
    assert noise.std() == pytest.approx(3, rel=0.02) and noise.mean() == pytest.approx(0, abs=0.1)
    assert np.corrcoef(noise.ravel(), gold.ravel())[0, 1] == pytest.approx(0, abs=0.03)
    assert (hacking.add_noise(gold, 0) == gold + noise).all() and (hacking.add_noise(gold, 1) != gold + noise).any()


def test_a_biased_proxy_turns_the_gold_curve_down():
    rng, ns = np.random.default_rng(0), (1, 2, 4, 8, 16, 32, 64)
    quality, flaw = rng.normal(size=(60, 96)), 6.0 * (rng.random((60, 96)) < 0.04)  # a rare flaw with a high reward
    found = hacking.study_best_of_n(quality + flaw, quality - 0.5 * flaw, ns)
    assert found["n"] == list(ns) and found["d"] == pytest.approx([math.sqrt(math.log(n) - (n - 1) / n) for n in ns])
    proxy, gold = ([x["mean"] for x in found[name]] for name in ("proxy", "gold"))
    assert proxy[0] == gold[0] == 0 and (np.diff(proxy) > 0).all() and max(gold) > 0 > gold[-1]
    assert found["late_loss"]["ci95"][0] > 0 and found["late_loss"]["mean"] == pytest.approx(gold[4] - gold[-1])
    assert found["measured_peak"]["mean"] == found["d"][int(np.argmax(gold))]
    assert 0 < found["fit"]["peak"] < found["d"][-1] and found["fit"]["height"] > 0

    honest = hacking.study_best_of_n(quality, quality, ns)
    assert honest["late_loss"]["ci95"][1] < 0 and honest["fit"]["peak"] is None
    assert honest["measured_peak"]["mean"] == honest["d"][-1]


# ---------------------------------------------------------------------------------------------------------
# Mitigations
# ---------------------------------------------------------------------------------------------------------


def slope_within_prompts(rewards: np.ndarray, words: np.ndarray) -> float:
    centred = words - words.mean(1, keepdims=True)
    return (centred * rewards).sum() / (centred**2).sum()


def test_per_word_divides_by_the_number_of_words():
    found = hacking.per_word(np.array([[6.0, -6.0, 5.0]]), np.array([[3.0, 12.0, 0.0]]))
    np.testing.assert_allclose(found, [[2.0, -0.5, 5.0]])


def test_regressing_takes_all_of_length_and_nothing_else():
    rng = np.random.default_rng(0)
    words = rng.integers(3, 30, (8, 12)) + 20.0 * np.arange(8)[:, None]  # prompts differ in length, too
    quality = rng.normal(size=(8, 12)) - 3.0 * np.arange(8)[:, None]
    rewards = quality + 0.4 * words
    left = hacking.without_length(rewards, words)
    assert slope_within_prompts(rewards, words) > 0.3
    assert slope_within_prompts(left, words) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(left - rewards, -slope_within_prompts(rewards, words) * words, atol=1e-9)
    np.testing.assert_allclose(hacking.without_length(7 - 0.4 * words, words), 7.0, atol=1e-9)
    np.testing.assert_allclose(hacking.without_length(quality, np.full((8, 12), 5.0)), quality)


def test_worst_case_is_the_least_standardised_reward():
    rewards, scaled = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[400.0, 300.0], [200.0, 100.0]])
    z = math.sqrt(5) / 5 * np.array([[-3.0, -1.0], [1.0, 3.0]])
    np.testing.assert_allclose(hacking.worst_case([rewards]), z)
    np.testing.assert_allclose(hacking.worst_case([rewards, 100 * rewards - 7]), z)
    np.testing.assert_allclose(hacking.worst_case([rewards, scaled]), -np.abs(z))


def test_mitigations_are_compared_with_the_flawed_reward():
    rng = np.random.default_rng(0)
    words = rng.permuted(np.tile(np.arange(3.0, 15.0), (6, 1)), axis=1)
    gold = -words + rng.normal(0, 0.1, words.shape)
    pool = {"words": words, "utility": gold}
    proxy = dict.fromkeys(hacking.HACKS, words) | {"mixed": -words, "style": -words}
    names = (*hacking.HACKS, "mixed", "length, strong KL term", "length, normalised")
    dpo = {name: {"utility": np.full((6, 4), 2.0**k)} for k, name in enumerate(names)}
    found = hacking.study_mitigations(proxy, pool, dpo, 12)
    assert {row for _, row in hacking.MITIGATIONS.values()} == set(found)
    gain = {name: x["gain"]["mean"] for name, x in found.items()}
    assert all(x["gain"]["mean"] == pytest.approx(x["with"]["mean"] - x["without"]["mean"]) for x in found.values())

    worst, best = gold[words == 14].mean(), gold[words == 3].mean()
    assert found["small n, length"]["without"]["mean"] == pytest.approx(worst)
    assert found["small n, length"]["with"]["mean"] == pytest.approx(
        hacking.best_of_n_curve(words, gold, [4])[:, 0].mean()
    )
    uniform = np.full(12, 1 / 12)
    optima = [
        np.mean([kl_regularized_optimum(uniform, w, b) @ g for w, g in zip(words, gold, strict=True)])
        for b in (0.1, 1.0)
    ]
    assert gain["optimum at larger beta, length"] == pytest.approx(optima[1] - optima[0])
    assert gain["mixed annotators, length"] == pytest.approx(best - worst)
    assert gain["mixed annotators, style"] == pytest.approx(0)
    assert gain["per word, length"] > 1 and gain["regressed, length"] > 1 and gain["ensemble, length"] > 1
    assert gain["DPO strong KL term, length"] == 16 - 1 and gain["DPO normalised, length"] == 32 - 1
    assert [gain[f"DPO mixed annotators, {h}"] for h in hacking.HACKS] == [8 - 1, 8 - 2, 8 - 4]


def test_dpo_is_compared_with_sft_and_with_unbiased_labels():
    def arm(utility: float, kl: float, good: float) -> dict:
        return {name: np.full((5, 2), x) for name, x in (("utility", utility), ("kl", kl), ("good", good))}

    policies = {"length": arm(1.0, 3.0, 0.2) | {"reward": np.full((5, 2), 9.0)}, "human": arm(4.0, 2.0, 0.8)}
    found = hacking.study_dpo("length", policies, arm(1.5, 0.0, 0.4), {"length": np.full((5, 96), 2.0)})
    good = {name: x["mean"] for name, x in found.pop("good").items()}
    assert good == pytest.approx({"sft": 0.4, "biased": 0.2, "control": 0.8})
    assert {name: x["mean"] for name, x in found.items()} == {
        "kl": 3.0,
        "control_kl": 2.0,
        "proxy_gain": 7.0,
        "gold_gain": -0.5,
        "control_gold_gain": 2.5,
        "gold_below_control": 3.0,
    }


def test_dpo_runs_are_named_after_the_reward_that_judges_them():
    args = hacking.build_parser().parse_args(["--pairs", "40", "--beta", "0.2"])
    runs = {name: (pairs, changes) for name, pairs, changes in hacking.dpo_runs(args)}
    assert {name.split(",")[0] for name in runs} == {*hacking.GROUPS, "mixed"} and len(runs) == 7
    assert all(len(pairs) == 40 for pairs, _ in runs.values())
    assert runs["length, strong KL term"] == (runs["length"][0], {"beta": pytest.approx(1.0)})
    assert runs["length, normalised"] == (runs["length"][0], {"loss_type": ["sigmoid_norm"], "beta": pytest.approx(2)})


# ---------------------------------------------------------------------------------------------------------
# Win rates
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0.3, 0.5])
def test_control_sees_through_a_judge_of_length(k):
    difference = np.random.default_rng(0).normal(5, 6, 4000)
    preferences = 1 / (1 + np.exp(-k * difference))
    assert preferences.mean() > 0.7
    assert hacking.length_controlled_win_rate(preferences, difference) == pytest.approx(0.5, abs=0.03)
    assert hacking.length_controlled_win_rate(1 - preferences, -difference) == pytest.approx(0.5, abs=0.03)


def test_control_leaves_a_judge_of_quality():
    rng = np.random.default_rng(0)
    preferences, difference = (rng.random(8000) < 0.7).astype(float), rng.normal(5, 6, 8000)
    rate = hacking.length_controlled_win_rate(preferences, difference)
    assert rate == pytest.approx(0.7, abs=0.03)
    assert hacking.length_controlled_win_rate(1 - preferences, -difference) == pytest.approx(1 - rate, abs=1e-9)
    assert hacking.length_controlled_win_rate(preferences, np.zeros(8000)) == pytest.approx(
        preferences.mean(), abs=1e-3
    )


def test_control_stays_finite_for_a_judge_that_only_counts():
    difference = np.random.default_rng(0).normal(2, 6, 500)
    assert 0.2 < hacking.length_controlled_win_rate((difference > 0).astype(float), difference) < 0.8


def test_judged_win_rates_count_ties_half_and_pair_as_many_samples():
    ours = {"reward": [[2, 1], [3, 0]], "words": [[9, 9], [5, 5]], "utility": [[0, 0], [0, 1]]}
    theirs = {"reward": [[1, 1, 9], [1, 1, 9]], "words": [[4, 4, 0], [5, 5, 0]], "utility": [[1, 0, 9], [1, 1, 9]]}
    found = hacking.judged_win_rates(*({k: np.array(v, float) for k, v in x.items()} for x in (ours, theirs)))
    assert found["raw"]["mean"] == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert found["gold"]["mean"] == pytest.approx((0 + 0.5 + 0 + 0.5) / 4)
    # At equal length one answer wins and one loses, 5 words more win 3/4.
    assert found["length-controlled"]["mean"] == pytest.approx(0.5, abs=0.01)
    assert found["raw_minus_controlled"]["mean"] == pytest.approx(0.625 - found["length-controlled"]["mean"])


# ---------------------------------------------------------------------------------------------------------
# The claims
# ---------------------------------------------------------------------------------------------------------


def measured(mean: float) -> dict:
    return {"mean": mean, "ci95": (mean - 0.1, mean + 0.2)}


def fake_metrics() -> dict:
    """Metrics whose every number is another one."""
    metrics = {"effects": {}, "dpo": {}, "best_of_n": {}, "mitigations": {}}
    for k, hack in enumerate(hacking.HACKS):
        metrics["effects"][hack] = {"difference": measured(1 + 10 * k)}
        names = ("proxy_gain", "gold_gain", "gold_below_control")
        metrics["dpo"][hack] = {name: measured(2 + i + 10 * k) for i, name in enumerate(names)}
        metrics["best_of_n"][hack] = {"late_loss": measured(5 + 10 * k)}
    for k, (_, row) in enumerate(hacking.MITIGATIONS.values()):
        metrics["mitigations"][row] = {"gain": measured(k + 1)}
    metrics["noise"] = {"late_loss": measured(-0.5)}
    metrics["win_rates"] = {"raw_minus_controlled": measured(0.4)}
    return metrics


def test_claims_report_what_was_measured_with_the_sign_of_their_prediction():
    metrics = fake_metrics()
    claims = {claim["id"]: claim for claim in hacking.hack_claims(metrics) + hacking.mitigation_claims(metrics)}
    for k, hack in enumerate(hacking.HACKS):
        kinds = ("is_encoded", "raises_proxy", "lowers_quality", "costs_quality", "overoptimised")
        found = [claims[f"{hack}_{kind}"]["measured"] for kind in kinds]
        assert found == pytest.approx([1 + 10 * k, 2 + 10 * k, -3 - 10 * k, 4 + 10 * k, 5 + 10 * k])
        worse = claims[f"{hack}_lowers_quality"]
        assert worse["ci95"] == pytest.approx([-3.2 - 10 * k, -2.9 - 10 * k]) and worse["verdict"] == "does not hold"
    assert [claims[id]["measured"] for id in hacking.MITIGATIONS] == list(range(1, len(hacking.MITIGATIONS) + 1))
    assert claims["noise_alone_is_harmless"]["verdict"] == "holds"
    assert claims["length_inflates_win_rates"]["verdict"] == "holds"
    metrics["noise"]["late_loss"] = measured(0.5)
    harmless = {c["id"]: c for c in hacking.mitigation_claims(metrics)}["noise_alone_is_harmless"]
    assert harmless["verdict"] == "does not hold"


def test_ids_of_claims_are_unique_in_both_scripts():
    metrics = fake_metrics()
    ids = [claim["id"] for claim in hacking.hack_claims(metrics) + hacking.mitigation_claims(metrics)]
    ids += dpo_variants.CLAIMS
    assert len(ids) == len(set(ids)) == 15 + len(hacking.MITIGATIONS) + 2 + len(dpo_variants.CLAIMS)
