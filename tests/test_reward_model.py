"""reward_model.py: the loss and its known answers, judging, contrasts, a small training."""

import json
import math
import random

import support.contrasts as contrasts_module
from support.artifacts import find_or_train, stored_settings, trained_settings
from support.contrasts import (
    absorbed_bias,
    contrast_rewards,
    contrasts,
    contrasts_of,
    planted_in,
    recovered,
)
from support.held_out_pairs import (
    bayes_ceilings,
    by_reason,
    calibration,
    gold_order,
    labelled_again,
    on_labels,
    pair_hits,
    utilities_of,
)
from support.own_loop import length_sorted_batches
from support.reward_study import Curve, compare_sizes
from support.training import training_settings

import numpy as np
import pytest
import reward_model as rm
import torch

from common.intervals import bootstrap_ci
from common.models import load_reward_model
from common.preferences import (
    BIASES,
    SIDES,
    annotator_utility,
    gold_utility,
    make_pairs,
    questions,
    read_response,
)

rng = np.random.default_rng(0)
FITTING = {"device": "cpu", "seed": 0, "learning_rate": 1e-3}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# --- The loss ---


def test_zero_margin_costs_ln_2():
    rewards = torch.randn(7, dtype=torch.float64)
    loss = rm.bradley_terry_loss(rewards, rewards).item()
    assert loss == pytest.approx(math.log(2), abs=1e-12)


def test_worked_loss_is_a_mean_over_pairs():
    chosen = torch.tensor([1.0, 0.0], dtype=torch.float64)
    rejected = torch.tensor([0.0, 2.0], dtype=torch.float64)
    expected = (-math.log(sigmoid(1.0)) - math.log(sigmoid(-2.0))) / 2
    assert rm.bradley_terry_loss(chosen, rejected).item() == pytest.approx(expected, abs=1e-12)


def test_only_differences_matter():
    chosen, rejected, per_prompt = torch.randn(3, 5, dtype=torch.float64)
    shifted = rm.bradley_terry_loss(chosen + per_prompt, rejected + per_prompt).item()
    assert shifted == pytest.approx(rm.bradley_terry_loss(chosen, rejected).item(), abs=1e-12)
    one_side = rm.bradley_terry_loss(chosen + 1, rejected).item()
    assert one_side < shifted


def test_the_check_of_the_level_would_see_a_loss_that_depends_on_it(monkeypatch):
    rewards = rng.normal(size=(50, 2))
    assert rm.loss_change(rewards, 0) < 1e-12
    monkeypatch.setattr(rm, "bradley_terry_loss", lambda chosen, rejected: chosen.mean())
    assert rm.loss_change(rewards, 0) > 0.01


def test_gradient_raises_chosen_by_the_probability_of_being_wrong():
    chosen = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-0.4], dtype=torch.float64, requires_grad=True)
    rm.bradley_terry_loss(chosen, rejected).backward()
    assert chosen.grad.item() == pytest.approx(-sigmoid(-0.7), abs=1e-12)
    assert rejected.grad.item() == pytest.approx(sigmoid(-0.7), abs=1e-12)


def test_training_free_rewards_recovers_the_utility_differences():
    # Of population preferences between four items the minimum has the utilities' differences.
    utility = torch.tensor([0.0, 1.0, 2.5, -1.0], dtype=torch.float64)
    i, j = torch.combinations(torch.arange(4)).T
    p = torch.sigmoid(utility[i] - utility[j])
    rewards = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([rewards], max_iter=200, tolerance_grad=1e-10)

    def closure():
        optimizer.zero_grad()
        loss = 0
        for a, b, q in zip(i, j, p, strict=True):
            loss = loss + q * rm.bradley_terry_loss(rewards[a, None], rewards[b, None])
            loss = loss + (1 - q) * rm.bradley_terry_loss(rewards[b, None], rewards[a, None])
        loss.backward()
        return loss

    optimizer.step(closure)
    learned = rewards.detach() - rewards.detach().mean()
    torch.testing.assert_close(learned, utility - utility.mean(), atol=1e-4, rtol=0)


# --- Judging ---


def test_ceilings_bound_what_the_true_utilities_reach():
    gaps = rng.normal(size=200_000) * 2
    won = rng.random(len(gaps)) < sigmoid(gaps)
    ceilings = bayes_ceilings(gaps)
    error = 0.5 / math.sqrt(len(gaps))
    assert np.mean((gaps > 0) == won) == pytest.approx(ceilings["accuracy"], abs=4 * error)
    assert np.mean((won - sigmoid(gaps)) ** 2) == pytest.approx(ceilings["brier"], abs=4 * error)

    def nll(margins):
        return np.where(won, np.logaddexp(0, -margins), np.logaddexp(0, margins)).mean()

    assert nll(gaps) == pytest.approx(ceilings["nll"], abs=8 * error)
    for other in (0.5 * gaps, 2 * gaps, gaps + 0.5):
        assert nll(other) > nll(gaps)


def test_ceilings_worked():
    ceilings = bayes_ceilings([math.log(4), -math.log(4)])  # p = 0.8 and 0.2
    assert ceilings["accuracy"] == pytest.approx(0.8)
    assert ceilings["brier"] == pytest.approx(0.16)
    assert ceilings["nll"] == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))


def test_temperature_of_calibrated_and_overconfident_margins():
    gaps = rng.normal(size=100_000) * 1.5
    signed = np.where(rng.random(len(gaps)) < sigmoid(gaps), gaps, -gaps)  # chosen over rejected
    assert calibration(signed)["temperature"] == pytest.approx(1, abs=0.03)
    assert calibration(2 * signed)["temperature"] == pytest.approx(2, abs=0.06)
    assert calibration(signed)["expected_calibration_error"] < 0.01
    assert calibration(2 * signed)["expected_calibration_error"] > 0.03


def test_reliability_counts_each_pair_from_both_sides():
    result = calibration(np.array([10.0, 10.0, -10.0]))
    assert sum(result["count"]) == 6
    assert result["observed"][-1] == pytest.approx(2 / 3)
    assert result["observed"][0] == pytest.approx(1 / 3)


def test_pair_hits_counts_ties_half():
    hits = pair_hits(np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0]]))
    assert hits.tolist() == [1.0, 0.0, 0.5]


def test_labels_of_true_utilities_reach_the_ceiling():
    pairs = make_pairs(2000, "test")
    utilities = utilities_of(pairs)
    measured = on_labels(utilities, pairs)
    ceiling = bayes_ceilings(utilities[:, 0] - utilities[:, 1])
    low, high = measured["label_accuracy"]["ci95"]
    assert low < ceiling["accuracy"] < high
    low, high = measured["label_nll"]["ci95"]
    assert low < ceiling["nll"] < high
    assert measured["control_length_labels"]["mean"] > 0.6  # the shorter response mostly wins


def test_accuracy_from_few_pairs_has_a_wilson_interval():
    low, high = on_labels(np.array([[1.0, 0.0]] * 12), make_pairs(12))["label_accuracy"]["ci95"]
    assert 0.7 < low < 0.8 and high == pytest.approx(1)


def test_gold_order_ignores_the_labels():
    pairs = make_pairs(300, "test")
    ordered = gold_order(pairs)
    utilities = {(r["prompt"], r[side]): r[f"{side}_utility"] for r in pairs for side in SIDES}
    for row in ordered:
        prompt = row["prompt"]
        assert utilities[prompt, row["chosen"]] > utilities[prompt, row["rejected"]]
    assert any(r["chosen_utility"] < r["rejected_utility"] for r in pairs)  # labels are noisy
    assert len(ordered) == sum(r["chosen_utility"] != r["rejected_utility"] for r in pairs)


def test_accuracy_is_parted_by_what_is_wrong_with_the_worse_response():
    ordered = gold_order(make_pairs(600, "test"))
    knows_style = np.array([0.5 if row["reason"] == "wrong" else 1.0 for row in ordered])
    measured = by_reason(knows_style, ordered)
    assert measured["style"]["mean"] == 1 and measured["facts"]["mean"] == 0.5
    assert measured["facts"]["count"] + measured["style"]["count"] == len(ordered)
    assert measured["facts"] == measured["wrong"]


def test_other_annotators_label_the_same_pairs_as_often_right():
    pairs = make_pairs(3000)
    again = labelled_again(pairs, 0)
    same = [a["chosen"] == b["chosen"] for a, b in zip(pairs, again, strict=True)]
    assert 0.7 < np.mean(same) < 0.95
    for a, b, kept in zip(pairs, again, same, strict=True):
        swapped = {**a, **{f"chosen{k}": a[f"rejected{k}"] for k in ("", "_style", "_utility")}}
        swapped |= {f"rejected{k}": a[f"chosen{k}"] for k in ("", "_style", "_utility")}
        assert b == (a if kept else swapped)
    right = [np.mean(utilities_of(rows) @ [1, -1] > 0) for rows in (pairs, again)]
    assert right[0] == pytest.approx(right[1], abs=0.03)
    assert labelled_again(pairs, 0) == again != labelled_again(pairs, 1)


def test_curves_are_compared_at_the_same_number_of_pairs():
    ordered = gold_order(make_pairs(200, "test"))
    facts = np.array([row["reason"] == "wrong" for row in ordered])
    zeros, ones = np.zeros(len(ordered)), np.ones(len(ordered))
    encoder = Curve([300, 800, 6400], [zeros, zeros, ones])
    sft = Curve([300, 800], [ones, (~facts).astype(float)])
    metrics = compare_sizes(encoder, sft, Curve([300, 800], [zeros, ones]), ordered)
    assert metrics["dpo_over_encoder"]["mean"] == 1  # at 800 pairs, not at 6400
    assert metrics["sft_style_over_facts"]["mean"] == 1
    assert metrics["encoder_over_sft"]["mean"] == pytest.approx(facts.mean() - 1)
    assert [row["pairs"] for row in metrics["curve"]["dpo"]] == [300, 800]


# --- What was absorbed ---


def by_text(value):
    """A synthetic reward model: the value of each (prompt, text)."""

    def score(prompts, texts):
        return np.array([value(*pair) for pair in zip(prompts, texts, strict=True)])

    return score


def no_filler(prompt, text):
    return gold_utility(prompt, text) + 0.15 * min(read_response(prompt, text).filler_words, 20)


def regression_on_utility(reward, pairs):
    """What the contrasts replace: least squares of rewards on 1, gold utility, words of filler."""
    rows = [(row["prompt"], row[side]) for row in pairs for side in SIDES]
    words = [read_response(*row).filler_words for row in rows]
    design = np.column_stack([np.ones(len(rows)), [gold_utility(*row) for row in rows], words])
    return np.linalg.lstsq(design, [reward(*row) for row in rows], rcond=None)[0][-1]


def test_a_model_that_scores_exactly_utility_recovers_all_of_gold_and_no_bias():
    result = recovered(contrast_rewards(by_text(gold_utility), questions("test"), 0))
    planted = {"right": 3, "on_topic": 1, "filler": -0.15, "style": 0, "agreement": 0}
    assert {name: row["planted"] for name, row in result.items()} == planted
    for name, row in result.items():
        share = 1.0 if planted[name] else 0.0
        assert row["share"]["mean"] == pytest.approx(share, abs=1e-9)
        assert row["share"]["ci95"] == pytest.approx((share, share), abs=1e-9)
        assert row["reward"]["mean"] == pytest.approx(planted[name], abs=1e-9)


@pytest.mark.parametrize("group", BIASES)
def test_a_model_of_biased_annotators_recovers_their_bias_and_no_other(group):
    def utility(prompt, text):
        return annotator_utility(prompt, text, group)

    values = contrast_rewards(by_text(utility), questions("test"), 0)
    for name, row in recovered(values, group).items():
        assert row["reward"]["mean"] == pytest.approx(planted_in(group, name), abs=1e-9)
    unbiased = contrast_rewards(by_text(gold_utility), questions("test"), 0)
    assert absorbed_bias(values, unbiased, group)["share"]["mean"] == pytest.approx(1)
    for other in BIASES:
        if other != group:
            assert absorbed_bias(values, unbiased, other)["share"]["mean"] == pytest.approx(0)


def test_a_model_that_ignores_filler_recovers_none_of_it_where_a_regression_sees_a_liking():
    result = recovered(contrast_rewards(by_text(no_filler), questions("test"), 0))
    assert result["filler"]["share"]["mean"] == pytest.approx(0, abs=1e-9)
    assert result["right"]["share"]["mean"] == pytest.approx(1)
    assert regression_on_utility(no_filler, make_pairs(400, "test")) == pytest.approx(0.15)


def test_contrasts_differ_in_one_thing():
    rows = [row for question in questions("test")[:150] for row in contrasts_of(question, 3)]
    assert {row.component for row in rows} == {"right", "on_topic", "filler", "style", "agreement"}
    for row in rows:
        more, less = (read_response(row.prompt, text) for text in (row.more, row.less))
        assert more.correct - less.correct == (row.component == "right")
        assert more.on_topic - less.on_topic == (row.component == "on_topic")
        filler = row.units if row.component == "filler" else 0
        assert more.filler_words - less.filler_words == filler
        expert = [reading.style == "expert" for reading in (more, less)]
        assert expert == [row.component == "style", False]


def test_contrasts_of_a_model_are_those_of_its_scores(monkeypatch):
    def score(model, tokenizer, prompts, texts):
        assert (model, tokenizer) == ("model", "tokenizer")
        return torch.tensor([2 * gold_utility(*row) for row in zip(prompts, texts, strict=True)])

    monkeypatch.setattr(contrasts_module, "score_responses", score)
    result = contrasts("model", "tokenizer", questions("test")[:60], 0)
    assert result["right"]["share"]["mean"] == pytest.approx(2, abs=1e-5)
    biased = contrasts("model", "tokenizer", questions("test")[:60], 0, annotator="length")
    assert biased["filler"]["planted"] == pytest.approx(0.15)
    assert biased["filler"]["share"]["mean"] == pytest.approx(-2, abs=1e-5)


def test_the_interval_of_a_contrast_is_over_prompts():
    values = contrast_rewards(by_text(lambda prompt, text: len(text)), questions("test"), 0)
    assert recovered(values)["right"]["reward"]["ci95"] == bootstrap_ci(values["right"])


# --- Training ---


def test_batches_hold_every_pair_once_and_similar_lengths():
    lengths = [len(row["prompt"] + row["chosen"] + row["rejected"]) for row in make_pairs(200)]
    batches = length_sorted_batches(lengths, 16, random.Random(0))
    assert sorted(i for batch in batches for i in batch) == list(range(200))

    def spread(groups):
        ends = [[lengths[i] for i in group] for group in groups]
        return np.mean([max(group) - min(group) for group in ends])

    assert spread(batches) < 0.5 * spread([range(i, min(i + 16, 200)) for i in range(0, 200, 16)])
    assert batches != length_sorted_batches(lengths, 16, random.Random(1))


@pytest.fixture(scope="module")
def trained():
    return rm.fit("tiny-gpt2", make_pairs(384, seed=3), **FITTING)


def test_a_short_training_learns_which_responses_are_chosen(trained):
    model, tokenizer, losses = trained
    assert losses[0] == pytest.approx(math.log(2), abs=0.15) and len(losses) == 24
    ordered = gold_order(make_pairs(200, "test"))
    assert pair_hits(rm.score_pairs(model, tokenizer, ordered)).mean() > 0.6


def test_swapped_labels_teach_the_opposite():
    pairs = make_pairs(384, seed=3)
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs]
    model, tokenizer, _ = rm.fit("tiny-gpt2", swapped, **FITTING)
    ordered = gold_order(make_pairs(200, "test"))
    assert pair_hits(rm.score_pairs(model, tokenizer, ordered)).mean() < 0.4


def test_the_first_column_of_scores_is_that_of_the_chosen_response(trained):
    model, tokenizer, _ = trained
    pairs = make_pairs(10, "test")
    scores = rm.score_pairs(model, tokenizer, pairs)
    score = contrasts_module.scorer(model, tokenizer)
    for k, side in enumerate(SIDES):
        alone = score([row["prompt"] for row in pairs], [row[side] for row in pairs])
        assert scores[:, k] == pytest.approx(alone, abs=1e-4)


def test_what_tune_trains_is_kept_and_used_again(tmp_path, capsys):
    settings = training_settings("reward model", model="tiny-distilbert", seed=2, pairs=32)
    where = {"device": "cpu", "output_dir": tmp_path}
    folder = tmp_path / "reward_model-annotator-length"
    biased = settings | {"annotator": "length"}
    kept = find_or_train(folder, biased, rm.tune, **where)
    assert kept == folder and trained_settings(folder) == stored_settings(biased)
    assert find_or_train(folder, biased, rm.tune, **where) == folder
    assert find_or_train(folder, settings, rm.tune, **where) != folder
    pairs = make_pairs(32, annotator="length", seed=2)
    training = {name: settings[name] for name in ("learning_rate", "epochs", "batch_size")}
    model, tokenizer, _ = rm.fit("tiny-distilbert", pairs, device="cpu", seed=2, **training)
    saved = rm.score_pairs(*load_reward_model(str(folder)), pairs)
    assert saved == pytest.approx(rm.score_pairs(model, tokenizer, pairs), abs=1e-4)


def test_own_pairs_take_every_path(tmp_path, capsys):
    path = tmp_path / "pairs.jsonl"
    rows = [{key: row[key] for key in ("prompt", *SIDES)} for row in make_pairs(160)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    output = tmp_path / "outputs"
    metrics = rm.main(["--dataset", str(path), "--smoke", "--output-dir", str(output)])
    assert "gold_order" not in metrics and metrics["label_accuracy"]["count"] >= 10
    said = capsys.readouterr().out
    assert "no gold standard" in said and "knows only the lab's own world" in said
    assert len(list(output.glob("reward_model-*.png"))) == 1
