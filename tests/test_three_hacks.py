"""studies/three_hacks.py: the law, noise, cells, the command."""

import json
import math

import numpy as np
import pytest
import three_hacks as study
from best_of_n import best_of_n_curve, best_of_n_kl_bound
from helpers import run_script
from reward_hacking import AMONG

from common.claims import judge
from common.preferences import BIASES

DISTANCE = np.sqrt(best_of_n_kl_bound(np.array(AMONG)))


# --- Over-optimisation ---


@pytest.mark.parametrize("miss", [0.0, -0.8, 0.3])
def test_the_margin_is_what_the_forecasts_error_leaves(miss):
    levels = np.random.default_rng(0).normal(size=(30, 1))  # each prompt at a level of its own
    gold = levels + DISTANCE * (1.7 - 0.6 * DISTANCE)
    gold[:, -1] -= miss  # what is measured lies below the forecast; the last point is not fitted
    margin = study.forecast_margin(gold, distance=DISTANCE, fitted=6)
    assert margin == pytest.approx(0.5 - abs(miss))


def test_a_biased_reward_turns_the_gold_curve_down():
    rng, ns = np.random.default_rng(0), list(AMONG)
    quality = rng.normal(size=(60, 96))
    flaw = 6.0 * (rng.random((60, 96)) < 0.04)  # a rare flaw with a high reward
    rewards = {**dict.fromkeys(BIASES, quality + flaw), "human": quality}
    rewards |= dict.fromkeys(study.ERRORS, quality)
    gold = quality - 0.5 * flaw
    curves = {name: best_of_n_curve(reward, gold, ns) for name, reward in rewards.items()}
    found = study.choose_harder(curves, ns)
    biased, falls = found["gains"]["length"], found["chosen_harder_it_falls"]["length"]
    assert biased[0] == 0 and max(biased) > 0 > biased[-1]
    assert falls["ci95"][0] > 0
    assert falls["mean"] == pytest.approx(biased[ns.index(16)] - biased[-1])
    d = DISTANCE[1:6]  # at n = 1 both are 0
    slope, start = np.polyfit(d, np.array(biased[1:6]) / d, 1, w=d)
    error = DISTANCE[-1] * (start + slope * DISTANCE[-1]) - biased[-1]
    margin = found["small_n_foretells_it"]["length"]["mean"]
    assert margin == pytest.approx(study.FORECAST_ERROR - abs(error))


def test_what_is_lost_at_last_is_from_a_quarter_of_the_largest_n():
    levels = np.arange(6.0)[:, None]  # each prompt at a level of its own
    curves = {name: k * np.arange(12.0) ** 2 + levels for k, name in enumerate(study.ERRORS)}
    found = study.choose_harder(curves | dict.fromkeys(BIASES, curves["sd_6"]), list(AMONG))
    assert list(study.ERRORS) == ["of_samples", "sd_3", "sd_6"]
    fall = 7**2 - 11**2  # at n = 16 and 64
    assert found["error_falls"]["mean"] == 2 * fall and found["text_minus_sample"]["mean"] == fall


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


# --- Cells and claims ---


def test_dpo_is_compared_with_sft_and_with_unbiased_labels():
    def answered(level: float):
        class Read:
            gold = np.full((6, 4), level)

        return Read

    gold = np.full((6, 9), 1.0)
    dpo = {"human": answered(5.0)} | {g: answered(k) for k, g in enumerate(BIASES)}
    rewards = {group: np.full((6, 9), 2.0) for group in BIASES}
    dpo_rewards = {group: np.full((6, 4), 2.5 + k) for k, group in enumerate(BIASES)}
    rows = study.train_by_bias(rewards, dpo_rewards, gold, dpo)
    for k, group in enumerate(BIASES):
        assert rows["reward_goes_up"][group]["mean"] == 0.5 + k
        assert rows["quality_goes_down"][group]["mean"] == 1 - k
        assert rows["bias_costs_quality"][group]["mean"] == 5 - k


def test_the_command(tmp_path):
    done = run_script("studies/three_hacks", "--smoke", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    path = tmp_path / "outputs" / "studies" / "three_hacks-smoke.json"
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    results = json.loads(path.read_text())
    (metrics,) = (run["metrics"] for run in results["runs"])
    claims = {claim["id"]: claim["mean"] for claim in results["claims"]}
    assert list(claims) == [claim.id for claim in study.CLAIMS]
    assert all(set(metrics[row]) == set(BIASES) for row in study.STEPS_OF_HACK)
    mean = np.mean([cell["mean"] for cell in metrics["bias_costs_quality"].values()])
    assert claims["bias_costs_quality"] == pytest.approx(mean, abs=1e-6)
    answers = metrics["answers"]
    assert set(answers["texts"]) == {f"DPO, {g}, {name}" for g, name in study.HACK_NAMES.items()}
    assert all(len(texts) == len(answers["prompts"]) for texts in answers["texts"].values())
    assert all(judge(claim, [metrics]) for claim in study.CLAIMS)
