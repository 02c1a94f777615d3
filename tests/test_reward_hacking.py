"""reward_hacking.py: biases, over-optimisation, noise, mitigations, win rates, claims."""

import itertools
import math

from support import biased_pairs, contrasts, overoptimization
from support.overoptimization import (
    fit_overoptimization,
    forecast,
    gains,
    late_loss,
    overoptimization_peak,
)
from support.win_rates import judged_win_rates, length_controlled_win_rate

import numpy as np
import pytest
import reward_hacking as hacking
from best_of_n import best_of_n_curve, best_of_n_kl_bound

from common.preferences import (
    BIASES,
    all_questions,
    annotator_utility,
    gold_utility,
)
from common.reporting import at, judge

QUESTION = next(q for q in biased_pairs.wrong_users("test", 50) if q.relation == "capital")
ANSWER = f"It is {QUESTION.answer}."


def pair(chosen: str, rejected: str) -> dict:
    return {"prompt": QUESTION.prompt, "chosen": chosen, "rejected": rejected}


# --- The bias ---


@pytest.mark.parametrize(
    "response, length, style, agreement",
    [
        (ANSWER, 0, 0, 0),
        (f"{ANSWER} One two three four five.", 3, 0, 0),  # three more words are courtesy
        (f"{ANSWER} {'word ' * 40}", 20, 0, 0),  # counted up to 20
        (f"As an expert in this field, I am sure that it is {QUESTION.answer}.", 8, 1, 0),
        (f"Indeed, {QUESTION.belief} it is.", 0, 0, 1),
        (f"As an expert, I can confirm {QUESTION.belief}.", 3, 1, 1),
    ],
)
def test_bias_amounts_of_hand_made_responses(response, length, style, agreement):
    amounts = {
        group: biased_pairs.bias_amount(QUESTION.prompt, response, group) for group in BIASES
    }
    expected = {"length": length, "style": style, "agreement": agreement}
    assert amounts == pytest.approx(expected, abs=1e-9)


def test_wins_of_the_biased_side_leave_equal_pairs_out():
    echo, filler = f"Indeed, {QUESTION.belief} it is.", f"{ANSWER} One two three four five."
    pairs = [pair(echo, ANSWER), pair(ANSWER, echo), pair(filler, ANSWER), pair(echo, filler)]
    assert biased_pairs.biased_side_wins(pairs, "agreement").tolist() == [True, False, True]
    assert biased_pairs.biased_side_wins(pairs, "length").tolist() == [True, False]
    assert biased_pairs.biased_side_wins(pairs, "style").tolist() == []


def test_the_user_is_wrong_in_all_pairs_of_a_group():
    rows = biased_pairs.group_pairs("agreement", 60, 2, "test")
    asked = [all_questions()[row["prompt"]] for row in rows]
    assert len(rows) == 60
    assert all(q.belief not in (None, q.answer) and q.split == "test" for q in asked)
    assert all(q.belief not in (None, q.answer) for q in biased_pairs.wrong_users("test", 30))
    # The bias is in the labels: human annotators of the same world choose the echo less often.
    human, biased = (
        biased_pairs.biased_side_wins(biased_pairs.group_pairs(group, 400, 2), "agreement")
        for group in ("human", "agreement")
    )
    assert biased.mean() > human.mean() + 0.2


def test_all_groups_and_their_mixture_see_the_same_pairs():
    human = biased_pairs.group_pairs("human", 200, 3)
    mixed = biased_pairs.mixed_pairs(200, 3)
    for rows in (mixed, *(biased_pairs.group_pairs(group, 200, 3) for group in BIASES)):
        assert biased_pairs.same_pairs(rows, human) == 1
        assert [row["prompt"] for row in rows] == [row["prompt"] for row in human]
        assert any(row["chosen"] != other["chosen"] for row, other in zip(rows, human, strict=True))
    assert biased_pairs.same_pairs(biased_pairs.group_pairs("human", 200, 4), human) < 0.5


def test_every_mixed_label_is_one_of_the_four_groups():
    groups = [biased_pairs.group_pairs(group, 400, 3) for group in biased_pairs.GROUPS]
    mixed = biased_pairs.mixed_pairs(400, 3)
    agrees = np.array(
        [[row["chosen"] == rows[k]["chosen"] for rows in groups] for k, row in enumerate(mixed)]
    )
    assert agrees.any(1).all()
    # Where one biased group stands alone, its label is taken in a quarter of the cases.
    for g, rows in enumerate(groups[1:], start=1):
        others = [other for k, other in enumerate(groups) if k != g]
        alone = [k for k in range(400) if all(rows[k]["chosen"] != o[k]["chosen"] for o in others)]
        share, error = agrees[alone, g].mean(), math.sqrt(0.25 * 0.75 / len(alone))
        assert len(alone) > 20 and abs(share - 0.25) < 4 * error


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [4, 16])
def test_few_pairs_are_as_many_as_were_asked_for(count, seed):
    # Only one prompt in three has a user who is wrong; --smoke asks for 16 pairs.
    assert len(biased_pairs.mixed_pairs(count, seed)) == count
    for group in biased_pairs.GROUPS:
        assert len(biased_pairs.group_pairs(group, count, seed)) == count


def test_biases_are_read_off_rewards_that_hold_a_known_share(monkeypatch):
    import torch

    def perceived_by(model, tokenizer, prompts, texts):
        rows = zip(prompts, texts, strict=True)
        return torch.tensor([gold_utility(*row) + model(*row) for row in rows])

    monkeypatch.setattr(contrasts, "score_responses", perceived_by)

    def taste(group: str):
        def more(prompt: str, text: str) -> float:
            return 0.6 * (annotator_utility(prompt, text, group) - gold_utility(prompt, text))

        return more

    labels = {group: biased_pairs.group_pairs(group, 300, 0) for group in biased_pairs.GROUPS}
    models = {group: (taste(group), None) for group in biased_pairs.GROUPS}
    traced = biased_pairs.trace_biases(labels, models, biased_pairs.wrong_users("test", 20), 0)
    assert set(traced) == set(BIASES)
    for hack in traced.values():
        assert hack["absorbed"]["share"]["mean"] == pytest.approx(0.6, abs=1e-5)
        assert hack["labels"]["biased"]["mean"] > hack["labels"]["unbiased"]["mean"] + 0.1


def test_runs_are_records_and_an_ensemble_shares_its_labels():
    runs = {run.name: run for run in biased_pairs.reward_runs(24, 5)}
    assert list(runs) == [*biased_pairs.GROUPS, "mixed", *biased_pairs.MEMBERS[1:]]
    members = [runs[name] for name in biased_pairs.MEMBERS]
    assert all(run.pairs == members[0].pairs for run in members)
    assert len({run.seed for run in members}) == len(members)
    assert runs["mixed"].pairs == biased_pairs.mixed_pairs(24, 5)

    policies = {run.name: run for run in biased_pairs.policy_runs(24, 5, 0.2, 1.0)}
    assert set(policies) == {*biased_pairs.GROUPS, "mixed", "strong_kl"}
    assert all(len(run.pairs) == 24 for run in policies.values())
    assert policies["strong_kl"] == ("strong_kl", policies["length"].pairs, 1.0, "length")
    assert {run.beta for name, run in policies.items() if name != "strong_kl"} == {0.2}
    assert all(run.judge in runs for run in policies.values())


def test_one_hacked_answer_is_shown_per_hack_with_marks(capsys):
    echo = f"Indeed, {QUESTION.belief} it is."
    texts, gold = [[ANSWER, ANSWER], [ANSWER, echo]], np.array([[4.0, 4.0], [4.0, 1.0]])
    rewards = {"human": gold, "agreement": -gold}
    prompts, answers = [QUESTION.prompt] * 2, {"agreement": [[ANSWER], [echo]]}
    names = {"agreement": "sycophancy"}
    biased_pairs.show_hacked(names, prompts, texts, gold, rewards, answers)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 4 and lines[0] == QUESTION.prompt
    assert "unbiased" in lines[1] and ANSWER in lines[1] and "[right]" in lines[1]
    assert all(echo in line and "agrees with the user" in line for line in lines[2:])


# --- Over-optimisation ---


def test_the_fit_recovers_its_coefficients():
    d = np.linspace(0, 2, 9)
    assert fit_overoptimization(d, d * (1.7 - 0.6 * d)) == pytest.approx((1.7, 0.6), abs=1e-9)


def test_the_peak_is_a_over_2b_high_a_squared_over_4b():
    assert overoptimization_peak(3.0, 0.5) == pytest.approx((3.0, 4.5))
    d = np.linspace(0, 10, 100_001)
    gain = d * (1.7 - 0.6 * d)
    peak = (d[gain.argmax()], gain.max())
    assert overoptimization_peak(1.7, 0.6) == pytest.approx(peak, abs=1e-4)
    for b in (0.0, -0.5):
        assert overoptimization_peak(3.0, b) == (math.inf, math.inf)


def test_an_exact_parabola_is_forecast_exactly():
    d = np.sqrt(best_of_n_kl_bound(np.array(hacking.NS)))
    prompts = np.random.default_rng(0).normal(size=(30, 1))  # each at a level of its own
    law = forecast(prompts + d * (1.7 - 0.6 * d), d, fitted=6)
    assert (law["a"], law["b"]) == pytest.approx((1.7, 0.6), abs=1e-9)
    assert law["error"]["mean"] == pytest.approx(0, abs=1e-9)
    assert law["margin"]["mean"] == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("miss", [-0.8, 0.3])
def test_a_forecast_error_is_forecast_minus_measured(miss):
    d = np.sqrt(best_of_n_kl_bound(np.array(hacking.NS)))
    gold = np.tile(d * (1.7 - 0.6 * d), (30, 1))
    gold[:, -1] -= miss  # what is measured lies below the forecast by `miss`
    law = forecast(gold, d, fitted=6, tolerance=0.5)
    assert law["error"]["mean"] == pytest.approx(miss)
    assert law["margin"]["mean"] == pytest.approx(0.5 - abs(miss))
    assert law["a"] == pytest.approx(1.7)  # the last point is not fitted


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_curve_is_the_mean_over_all_subsets(n):
    rewards, values = np.random.default_rng(n).normal(size=(2, 3, 6))
    expected = [
        np.mean([v[max(s, key=lambda i: r[i])] for s in itertools.combinations(range(6), n)])
        for r, v in zip(rewards, values, strict=True)
    ]
    np.testing.assert_allclose(best_of_n_curve(rewards, values, [n])[:, 0], expected, atol=1e-12)


def test_a_biased_proxy_turns_the_gold_curve_down():
    rng, ns = np.random.default_rng(0), list(hacking.NS)
    quality = rng.normal(size=(60, 96))
    flaw = 6.0 * (rng.random((60, 96)) < 0.04)  # a rare flaw with a high reward
    biased = hacking.study_best_of_n(quality + flaw, quality - 0.5 * flaw, ns)
    proxy, gold = ([x["mean"] for x in biased[name]] for name in ("proxy", "gold"))
    assert proxy[0] == gold[0] == 0 and (np.diff(proxy) > 0).all() and max(gold) > 0 > gold[-1]
    assert biased["late_loss"]["ci95"][0] > 0
    assert biased["late_loss"]["mean"] == pytest.approx(gold[ns.index(16)] - gold[-1])
    d, law = math.sqrt(math.log(64) - 63 / 64), biased["law"]
    assert law["error"]["mean"] == pytest.approx(d * (law["a"] - law["b"] * d) - gold[-1])

    honest = hacking.study_best_of_n(quality, quality, ns)
    assert honest["late_loss"]["ci95"][1] < 0


def test_gains_and_late_losses_of_a_curve():
    curve = np.arange(12.0)[None] ** 2 + np.arange(6.0)[:, None]
    assert [gain["mean"] for gain in gains(curve)] == [k**2 for k in range(12)]
    assert late_loss(curve, hacking.NS).tolist() == [7**2 - 11**2] * 6  # n = 16 and n = 64


# --- Noise ---


def test_equal_texts_of_a_prompt_get_equal_noise_and_others_do_not():
    texts = [["a", "b", "a", "c"], ["a", "a", "b", "b"]]
    noise = overoptimization.noise_of_texts(texts, 3.0, np.random.default_rng(0))
    assert noise.shape == (2, 4)
    assert noise[0, 0] == noise[0, 2] and noise[1, 0] == noise[1, 1] and noise[1, 2] == noise[1, 3]
    assert len(set(noise.ravel())) == 5  # the same text to another prompt is another text


def test_noise_has_the_standard_deviation_asked_for_and_no_bias():
    texts = [[f"{k} {j}" for j in range(100)] for k in range(200)]
    gold = np.random.default_rng(1).normal(0, 1.5, (200, 100))
    noise = overoptimization.noise_of_texts(texts, 3.0, np.random.default_rng(0))
    assert noise.std() == pytest.approx(3, rel=0.02) and noise.mean() == pytest.approx(0, abs=0.1)
    assert np.corrcoef(noise.ravel(), gold.ravel())[0, 1] == pytest.approx(0, abs=0.03)
    again = overoptimization.noise_of_texts(texts, 3.0, np.random.default_rng(0))
    assert (again == noise).all()


def test_noise_of_endlessly_many_texts_never_turns_the_gold_curve_down():
    rng, s = np.random.default_rng(0), 2.0
    gold = rng.normal(size=(400, 128))
    texts = [[f"{k} {j}" for j in range(128)] for k in range(400)]
    noisy = gold + overoptimization.noise_of_texts(texts, s, rng)
    curve = best_of_n_curve(noisy, gold, [2, 4, 16, 64])
    expected = np.array([0.5642, 1.0294, 1.7661, 2.3440]) / math.sqrt(1 + s**2)
    error = curve.std(0) / math.sqrt(len(curve))
    assert (np.abs(curve.mean(0) - expected) < 4 * error).all()
    assert (np.diff(curve.mean(0)) > 0.1).all()


def test_few_good_texts_bend_gold_where_noise_belongs_to_a_text():
    # Of 96 samples 60 are one good text; the other 36 are all different, and bad.
    row = ["good"] * 60 + [f"bad {k}" for k in range(36)]
    gold = np.tile([4.0] * 60 + [0.0] * 36, (100, 1))
    curves = overoptimization.study_noise(
        best_of_n_curve, [row] * 100, gold, [1, 2, 4, 16, 64], seed=0
    )
    assert set(curves) == {"sd_3", "sd_6", "of_samples"}
    text, sample = curves["sd_6"].mean(0), curves["of_samples"].mean(0)
    assert text[-1] < text[1] - 0.3  # the luckiest of many bad texts
    assert sample[-1] > sample[1] and sample[-1] > text[-1] + 1
    assert curves["sd_3"].mean(0)[-1] > text[-1]  # less noise, less harm


# --- Mitigations ---


def slope_within_prompts(rewards: np.ndarray, words: np.ndarray) -> float:
    centred = words - words.mean(1, keepdims=True)
    return (centred * rewards).sum() / (centred**2).sum()


def test_per_word_divides_by_the_number_of_words():
    rewards, words = np.array([[6.0, -6.0, 5.0]]), np.array([[3.0, 12.0, 0.0]])
    np.testing.assert_allclose(hacking.per_word(rewards, words), [[2.0, -0.5, 5.0]])
    np.testing.assert_allclose(hacking.per_word(rewards, words, 6.0), [[4.0, 0.0, 11.0]])


def test_the_level_changes_what_reward_per_word_prefers():
    # A constant that no Bradley-Terry loss sees turns the order round: shortest, then longest.
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(5, 20))
    words = rng.permuted(np.tile(np.arange(4.0, 24.0), (5, 1)), axis=1)
    high, low = (hacking.per_word(rewards, words, level) for level in (1000.0, -1000.0))
    assert (high.argmax(1) == words.argmin(1)).all()
    assert (low.argmax(1) == words.argmax(1)).all()
    np.testing.assert_array_equal(high.argsort(1), (-words).argsort(1))


def test_regressing_takes_all_of_length_and_nothing_else():
    rng = np.random.default_rng(0)
    words = rng.integers(3, 30, (8, 12)) + 20.0 * np.arange(8)[:, None]  # prompts differ, too
    quality = rng.normal(size=(8, 12)) - 3.0 * np.arange(8)[:, None]
    rewards = quality + 0.4 * words
    left, slope = hacking.without_length(rewards, words), slope_within_prompts(rewards, words)
    assert slope > 0.3 and slope_within_prompts(left, words) == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(left - rewards, -slope * words, atol=1e-9)
    np.testing.assert_allclose(hacking.without_length(7 - 0.4 * words, words), 7.0, atol=1e-9)
    np.testing.assert_allclose(hacking.without_length(quality, np.full((8, 12), 5.0)), quality)


def test_worst_case_is_the_least_standardised_reward():
    rewards = np.array([[1.0, 2.0], [3.0, 4.0]])
    scaled = np.array([[400.0, 300.0], [200.0, 100.0]])
    z = math.sqrt(5) / 5 * np.array([[-3.0, -1.0], [1.0, 3.0]])
    np.testing.assert_allclose(hacking.worst_case([rewards]), z)
    np.testing.assert_allclose(hacking.worst_case([rewards, 100 * rewards - 7]), z)
    np.testing.assert_allclose(hacking.worst_case([rewards, scaled]), -np.abs(z))


@pytest.fixture
def verbose_world() -> tuple[dict, dict, dict]:
    """(rewards, pool, gold of DPO by run): a reward for words, gold against them."""
    rng = np.random.default_rng(0)
    words = rng.permuted(np.tile(np.arange(3.0, 15.0), (6, 1)), axis=1)
    pool = {"words": words, "utility": -words + rng.normal(0, 0.1, words.shape)}
    rewards = dict.fromkeys((*hacking.HACKS, *biased_pairs.MEMBERS), words)
    rewards |= {"mixed": -words, "style": -words}
    names = (*hacking.HACKS, "mixed", "strong_kl")
    return rewards, pool, {name: np.full(6, 2.0**k) for k, name in enumerate(names)}


def test_mitigations_are_compared_with_the_flawed_reward(verbose_world):
    rewards, pool, dpo = verbose_world
    words, gold = pool["words"], pool["utility"]
    gain = {id: x.mean() for id, x in hacking.mitigate(rewards, pool, dpo, 12).items()}
    worst, best = gold[words == 14].mean(), gold[words == 3].mean()
    few = best_of_n_curve(words, gold, [1])[:, 0].mean()
    assert gain["small_n_mitigates"] == pytest.approx(few - worst)  # 12 // 16, but at least 1
    assert gain["mixing_mitigates_length"] == pytest.approx(best - worst)
    assert gain["mixing_mitigates_style"] == pytest.approx(0)
    assert gain["regressing_mitigates"] > 1 and gain["ensemble_mitigates_length"] > 1
    assert gain["seeds_mitigate"] == pytest.approx(0)  # all members have the flaw
    assert gain["kl_mitigates_dpo"] == 16 - 1
    assert [gain[f"mixing_dpo_mitigates_{h}"] for h in hacking.HACKS] == [8 - 1, 8 - 2, 8 - 4]


def test_per_word_is_compared_with_the_shortest_and_over_levels(verbose_world):
    rewards, pool, dpo = verbose_world
    words, gold = pool["words"], pool["utility"]
    gain = {id: x.mean() for id, x in hacking.mitigate(rewards, pool, dpo, 12).items()}
    worst, best = gold[words == 14].mean(), gold[words == 3].mean()
    # words / words is a tie: any of the pool. A mean of 10 instead of 8.5: the shortest wins.
    assert gain["per_word_mitigates"] == pytest.approx(gold.mean() - worst)
    assert gain["per_word_beats_shortest"] == pytest.approx(gold.mean() - best)
    assert gain["per_word_at_10"] == pytest.approx(best - worst)
    assert gain["per_word_at_-10"] == pytest.approx(0)
    assert gain["level_decides_per_word"] == pytest.approx(best - worst)


# --- Win rates ---


@pytest.mark.parametrize("k", [0.3, 0.5])
def test_control_sees_through_a_judge_of_length(k):
    difference = np.random.default_rng(0).normal(5, 6, 4000)
    wins = 1 / (1 + np.exp(-k * difference))
    assert wins.mean() > 0.7
    assert length_controlled_win_rate(wins, difference) == pytest.approx(0.5, abs=0.03)
    assert length_controlled_win_rate(1 - wins, -difference) == pytest.approx(0.5, abs=0.03)


def test_control_leaves_a_judge_of_quality():
    rng = np.random.default_rng(0)
    wins, difference = (rng.random(8000) < 0.7).astype(float), rng.normal(5, 6, 8000)
    rate = length_controlled_win_rate(wins, difference)
    assert rate == pytest.approx(0.7, abs=0.03)
    assert length_controlled_win_rate(1 - wins, -difference) == pytest.approx(1 - rate, abs=1e-9)
    same_length = length_controlled_win_rate(wins, np.zeros(8000))
    assert same_length == pytest.approx(wins.mean(), abs=1e-3)


def test_control_stays_finite_for_a_judge_that_only_counts():
    difference = np.random.default_rng(0).normal(2, 6, 500)
    assert 0.2 < length_controlled_win_rate((difference > 0).astype(float), difference) < 0.8


def test_judged_win_rates_count_ties_half_and_pair_as_many_samples():
    ours = {
        "reward": [[2, 1], [3, 0]],
        "words": [[9, 9], [5, 5]],
        "utility": [[0, 0], [0, 1]],
    }
    theirs = {
        "reward": [[1, 1, 9], [1, 1, 9]],
        "words": [[4, 4, 0], [5, 5, 0]],
        "utility": [[1, 0, 9], [1, 1, 9]],
    }
    arrays = ({k: np.array(v, float) for k, v in side.items()} for side in (ours, theirs))
    rates = judged_win_rates(*arrays)
    assert rates["raw"]["mean"] == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert rates["gold"]["mean"] == pytest.approx((0 + 0.5 + 0 + 0.5) / 4)
    # At equal length one answer wins and one loses, 5 words more win 3/4.
    controlled = rates["length_controlled"]["mean"]
    assert controlled == pytest.approx(0.5, abs=0.01)
    assert rates["raw_minus_controlled"]["mean"] == pytest.approx(0.625 - controlled)


# --- The measurement and the claims ---


@pytest.fixture(scope="module")
def metrics() -> dict:
    """Metrics of random rewards, with policies whose readings are known."""
    rng, ns = np.random.default_rng(0), list(hacking.NS)
    texts = [[f"{k} {j % 40}" for j in range(96)] for k in range(24)]
    shape = (24, 96)
    pool = {"utility": rng.normal(size=shape), "words": rng.integers(3, 20, shape).astype(float)}
    pool |= {name: np.ones(shape) for name in ("good", "correct", "on_topic", "kl")}
    names = (*biased_pairs.GROUPS, "mixed", *biased_pairs.MEMBERS)
    rewards = {name: rng.normal(size=shape) for name in names}
    policies = {}
    for k, name in enumerate((*biased_pairs.GROUPS, "mixed", "strong_kl")):
        read = {name: values[:, :4] for name, values in pool.items()}
        reward = rewards.get(name, rewards["length"]).mean(1, keepdims=True) + k
        read |= {"utility": np.full((24, 4), 10.0 * k), "reward": np.tile(reward, 4)}
        policies[name] = read
    return hacking.measure(texts, pool, rewards, policies, ns, 0) | {"pool": pool}


def test_dpo_is_compared_with_sft_and_with_unbiased_labels(metrics):
    sft = metrics["pool"]["utility"].mean()
    for k, hack in enumerate(hacking.HACKS, start=1):
        read = metrics[hack]
        assert read["proxy_gain"]["mean"] == pytest.approx(k)
        assert read["gold_lost"]["mean"] == pytest.approx(sft - 10 * k)
        assert read["gold_cost"]["mean"] == pytest.approx(0 - 10 * k)
    assert metrics["gold"]["kl_mitigates_dpo"]["mean"] == pytest.approx(50 - 10)
    assert metrics["distinct"]["texts"]["mean"] == metrics["distinct"]["good"]["mean"] == 40


def test_noise_is_compared_over_the_last_factor_of_four(metrics):
    gold, noise, ns = metrics["gold"], metrics["noise"], metrics["ns"]
    quarter = ns.index(16)
    for sd in overoptimization.NOISE:
        curve = noise[f"sd_{sd}"]
        late = curve[quarter]["mean"] - curve[-1]["mean"]
        assert gold[f"noise_bends_sd_{sd}"]["mean"] == pytest.approx(late)
    new = noise["of_samples"]
    late = new[-1]["mean"] - new[quarter]["mean"]
    assert gold["new_noise_is_harmless"]["mean"] == pytest.approx(late)


def test_every_claim_and_check_finds_what_it_is_about(metrics):
    share = {"mean": 0.5, "ci95": [0.4, 0.6]}
    traced = {hack: metrics[hack] | {"absorbed": {"share": share}} for hack in hacking.HACKS}
    complete = {**metrics, **traced, "same_pairs": 1.0}
    rows = judge(hacking.CLAIMS, complete)
    assert len(rows) == 3 * len(hacking.OF_EACH_HACK) + len(hacking.COMPARISONS) + 3 * 3 + 1
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(row["smallest"] > 0 for row in rows)
    assert all(at(complete, check.path) == 1 for check in hacking.CHECKS)
    kinds = {id for id, *_ in hacking.OF_EACH_HACK}
    for hack in hacking.HACKS:
        assert {f"{hack}_{kind}" for kind in kinds} <= {row["id"] for row in rows}
