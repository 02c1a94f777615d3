"""studies/three_hacks.py: the law, planted and trained strengths, noise, the command."""

import json
import math
import random
import re

import numpy as np
import pytest
import remedies
import three_hacks as study
from best_of_n import best_of_n_curve, best_of_n_kl_bound
from helpers import run_script
from reward_hacking import AMONG

from common.answers import read_answers
from common.claims import judge
from common.preferences import (
    BIASES,
    all_questions,
    liked_amount,
    pairs_of_wrong_users,
    write_response,
    wrong_users,
)

DISTANCE = np.sqrt(best_of_n_kl_bound(np.array(AMONG)))


# --- Over-optimisation ---


@pytest.mark.parametrize("miss", [0.0, -0.8, 0.3])
def test_the_margin_is_what_the_forecasts_error_leaves(miss):
    gain = DISTANCE * (1.7 - 0.6 * DISTANCE)
    gain[-1] -= miss  # what is measured lies below the forecast; the last point is not fitted
    margin = study.forecast_margin(gain, DISTANCE, fitted=6)
    assert margin == pytest.approx(0.5 - abs(miss))


def test_a_hump_rises_first_and_falls_by_as_much():
    humps = {(0, 0.2, -1): True, (0, 0.05, -1): False, (0, 0.2, 0.15): False, (0, -1, -2): False}
    humps |= {(0, 0.4, 0.2): True, (0, 0.1, 0.3): False}
    for gain, expected in humps.items():
        assert study.has_hump(np.array(gain)) == expected


def test_a_biased_reward_turns_the_gold_curve_down():
    rng, ns = np.random.default_rng(0), list(AMONG)
    quality = rng.normal(size=(60, 96))
    flaw = 6.0 * (rng.random((60, 96)) < 0.04)  # a rare flaw with a high reward
    rewards, gold = {"length": quality + flaw, "human": quality}, quality - 0.5 * flaw
    curves = {name: best_of_n_curve(reward, gold, ns) for name, reward in rewards.items()}
    found = study.choose_harder(curves | dict.fromkeys(study.ERRORS, curves["human"]), ns)
    gain, lost = found["gains"]["length"], found["chosen_harder_it_falls"]
    assert gain[0] == 0 and max(gain) > 0 > gain[-1]
    assert lost["length"] > 1 and lost["human"] == lost["sd_6"] == pytest.approx(0, abs=0.1)
    assert lost["length"] == pytest.approx(found["rises_first"]["length"] - gain[-1])
    humps = [name for name in curves if study.has_hump(np.array(found["gains"][name]))]
    assert humps == ["length"]  # so the law is judged by this curve alone
    d = DISTANCE[1:6]  # at n = 1 both are 0
    slope, start = np.polyfit(d, np.array(gain[1:6]) / d, 1, w=d)
    error = DISTANCE[-1] * (start + slope * DISTANCE[-1]) - gain[-1]
    assert found["forecast_margin"] == pytest.approx(study.FORECAST_ERROR - abs(error))


def test_a_bias_is_planted_exactly_and_up_to_the_cost_of_filler_it_does_no_harm():
    prompts = [question.prompt for question in wrong_users("test", 40)]
    pool = read_answers(prompts, answers_in_all_lengths(prompts))
    rewards = study.planted_rewards(prompts, pool)
    rows = zip(prompts, pool.texts, strict=True)
    filler = [[liked_amount(prompt, text, "length") for text in row] for prompt, row in rows]
    assert (rewards["planted_0.0"] == pool.gold).all() and np.max(filler) > 10
    np.testing.assert_allclose(rewards["planted_0.5"] - pool.gold, 0.5 * np.array(filler))
    last = {name: best_of_n_curve(r, pool.gold, [16]).mean() for name, r in rewards.items()}
    assert last["planted_0.1"] == pytest.approx(last["planted_0.0"])
    assert last["planted_0.2"] < last["planted_0.1"] - 0.5


def answers_in_all_lengths(prompts: list[str]) -> list[list[str]]:
    """Twenty answers to each prompt: right and wrong ones, with and without filler."""
    rng, texts = random.Random(0), []
    for prompt in prompts:
        styles = ("concise", "verbose", "wrong", "expert") * 5
        texts.append([write_response(all_questions()[prompt], style, rng) for style in styles])
    return texts


def test_strengths_are_trained_on_the_same_pairs_with_other_labels():
    weak, usual, strong = (
        pairs_of_wrong_users(300, "length", 1, strength=strength) for strength in (0.0, 0.3, 2.0)
    )
    assert usual == pairs_of_wrong_users(300, "length", 1)
    assert weak == pairs_of_wrong_users(300, "human", 1)
    sides = [[{row["chosen"], row["rejected"]} for row in rows] for rows in (weak, usual, strong)]
    assert sides[0] == sides[1] == sides[2]
    longer = [
        np.mean([row["chosen_style"] == "verbose" for row in rows])
        for rows in (weak, usual, strong)
    ]
    assert longer[0] < longer[1] < longer[2]


# --- Noise ---


def test_equal_texts_of_a_prompt_get_equal_noise_and_others_do_not():
    texts = [["a", "b", "a", "c"], ["a", "a", "b", "b"]]
    noise = study.noise_of_texts(texts, 3.0, np.random.default_rng(0))
    assert noise[0, 0] == noise[0, 2] and noise[1, 0] == noise[1, 1] and noise[1, 2] == noise[1, 3]
    assert len(set(noise.ravel())) == 5  # the same text to another prompt is another text
    many = [[f"{k} {j}" for j in range(100)] for k in range(200)]
    noise = study.noise_of_texts(many, 3.0, np.random.default_rng(0))
    assert noise.std() == pytest.approx(3, rel=0.02) and noise.mean() == pytest.approx(0, abs=0.1)


def test_noise_of_endlessly_many_texts_never_turns_the_gold_curve_down():
    rng, sd = np.random.default_rng(0), 2.0
    gold = rng.normal(size=(400, 128))
    texts = [[f"{k} {j}" for j in range(128)] for k in range(400)]
    curve = best_of_n_curve(gold + study.noise_of_texts(texts, sd, rng), gold, [2, 4, 16, 64])
    expected = np.array([0.5642, 1.0294, 1.7661, 2.3440]) / math.sqrt(1 + sd**2)
    error = curve.std(0) / math.sqrt(len(curve))
    assert (np.abs(curve.mean(0) - expected) < 4 * error).all()


def test_few_good_texts_bend_gold_where_noise_belongs_to_a_text():
    # Of 96 samples 60 are one good text; the other 36 are all different, and bad.
    row = ["good"] * 60 + [f"bad {k}" for k in range(36)]
    gold = np.tile([4.0] * 60 + [0.0] * 36, (100, 1))
    curves = study.curves_by_errors([row] * 100, gold, [1, 2, 4, 16, 64], seed=0)
    text, sample = (curves[name].mean(0) for name in ("sd_6", "of_samples"))
    assert text[-1] < text[1] - 0.3  # the luckiest of many bad texts
    assert sample[-1] > sample[1] and sample[-1] > text[-1] + 1


def test_dpo_is_compared_with_sft_and_with_unbiased_labels(monkeypatch):
    gold = {"sft": 1.0, "human": 5.0, "length": 0.5, "style": 2.0, "agreement": -1.0}
    gained = {"human": 0.0, "length": 3.0, "style": 2.0, "agreement": 1.0}

    def sample(policy, tokenizer, prompts, n, seed, **_):
        read = read_answers(prompts, [[policy] * n] * len(prompts))
        return read._replace(gold=np.full(read.gold.shape, gold[policy]))

    def score(judge, prompts, texts):
        """Of the answers of a group's own policy, and of SFT's."""
        worth = {"sft": 7.0, judge: 7.0 + gained.get(judge, 0)}
        return np.array([[worth[text] for text in row] for row in texts])

    monkeypatch.setattr(study, "load_sft_model", lambda: ("sft", None))
    monkeypatch.setattr(study, "train_models", lambda *_: 2 * ({g: g for g in gained},))
    monkeypatch.setattr(study, "sample_answers", sample)
    monkeypatch.setattr(study, "score_texts", score)
    metrics = study.measure(0, smoke=True)
    assert metrics["reward_goes_up"] == {"length": 3, "style": 2, "agreement": 1}
    assert metrics["quality_goes_down"] == {"length": 0.5, "style": -1, "agreement": 2}
    assert metrics["bias_costs_quality"] == {"length": 4.5, "style": 3, "agreement": 6}
    assert study.mean_of_hacks(metrics["quality_goes_down"] | {"human": 99}) == 0.5


# --- The command ---


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What the study writes with --smoke."""
    folder = tmp_path_factory.mktemp("hacks")
    done = run_script("studies/three_hacks", "--smoke", cwd=folder)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return folder / "outputs" / "studies"


def test_the_command(outputs):
    path = outputs / "three_hacks-smoke.json"
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    results = json.loads(path.read_text())
    (metrics,) = (run["metrics"] for run in results["runs"])
    claims = {claim["id"]: claim["mean"] for claim in results["claims"]}
    assert list(claims) == [claim.id for claim in study.CLAIMS]
    assert all(set(metrics[row]) >= set(BIASES) for row in study.STEPS_OF_HACK)
    lost, more = metrics["quality_goes_down"], metrics["bias_costs_quality"]
    differ = [more[group] - lost[group] for group in BIASES]  # human minus sft, whatever the bias
    assert differ == pytest.approx([differ[0]] * 3)
    assert study.mean_of_hacks(lost | {"human": 99}) == np.mean([lost[g] for g in BIASES])
    for name, row in (
        ("biased_quality_goes_down", "quality_goes_down"),
        ("biased_reward_is_overoptimised", "chosen_harder_it_falls"),
    ):
        mean = np.mean([metrics[row][group] for group in BIASES])
        assert claims[name] == pytest.approx(mean, abs=1e-6)
    by_gold = metrics["gains"]["planted_0.0"]
    assert (np.diff(by_gold) >= -1e-9).all()  # by gold utility itself more is never worse
    assert set(study.TRAINED.values()) <= set(metrics["gains"])
    answers = metrics["answers"]
    assert set(answers["texts"]) == {f"DPO, {g}, {name}" for g, name in study.HACK_NAMES.items()}
    assert all(len(texts) == len(answers["prompts"]) for texts in answers["texts"].values())
    assert all(judge(claim, [metrics]) for claim in study.CLAIMS)


def test_remedies_use_its_models(outputs):
    done = run_script("studies/remedies", "--smoke", cwd=outputs.parents[1])
    assert done.returncode == 0 and done.stderr == "", done.stderr
    trained = re.findall(r"training (.+) first", done.stdout)
    assert trained and not {f"wrong users {group}" for group in BIASES} & set(trained)
    path = outputs / "remedies-smoke.json"
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    results = json.loads(path.read_text())
    (metrics,) = (run["metrics"] for run in results["runs"])
    claims = {claim["id"]: claim["mean"] for claim in results["claims"]}
    assert list(claims) == [claim.id for claim in remedies.CLAIMS]
    assert all("human" in metrics[remedy] for remedy in remedies.REMEDIES)
    lost = -np.mean([metrics[remedy]["human"] for remedy in remedies.REMEDIES])
    assert claims["remedies_cost_where_nothing_is_wrong"] == pytest.approx(lost, abs=1e-6)
