"""dpo_variants.py: the losses and where they stop, parity with TRL, its data, the judge."""

import math

from support import judging
from support.evaluation import pair_logps, response_logps
from support.judging import ai_labels, averaged_preference, judge_pairs, study_judge
from support.pair_table import study_table, train_table
from support.parity import difference_from_trl, ipo_inputs, kto_inputs
from support.training import Trained, as_dataset, trainer_settings
from support.variant_arms import LOSSES, UNPAIRED
from support.variant_data import (
    flip_labels,
    gold_agreement,
    one_sided_pairs,
    single_labels,
    swap_sides,
    tied_pairs,
    unpaired,
)
from support.variant_results import line_weights

import dpo_variants as variants
import numpy as np
import pytest
import torch
from dpo_trainer import dpo_loss, implicit_rewards, lora_config

from common.models import encode_response, load_causal_lm
from common.preferences import gold_utility, make_pairs, make_unpaired, questions, read_response

D = torch.float64
PAIRS = make_pairs(200)


# --- The losses ---


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_ipo_starts_at_its_known_value_and_stops_at_half_over_tau(beta):
    logps = torch.randn(2, 4, dtype=D)
    loss = variants.ipo_loss(*logps, *logps, beta)
    torch.testing.assert_close(loss, torch.full((4,), 1 / (4 * beta**2), dtype=D))
    h = torch.tensor([1 / (2 * beta)], dtype=D, requires_grad=True)
    zero = torch.zeros(1, dtype=D)
    stop = variants.ipo_loss(h, zero, zero, zero, beta)
    assert stop.item() == pytest.approx(0) and torch.autograd.grad(stop, h)[
        0
    ].item() == pytest.approx(0)
    assert variants.ipo_loss(zero, h.detach(), zero, zero, beta).item() == pytest.approx(
        1 / beta**2
    )  # swapped sides


def test_worked_ipo_loss():
    logps = [torch.tensor([x], dtype=D) for x in (-4.0, -9.0, -6.0, -6.0)]
    # sums: h = (-4 + 6) - (-9 + 6) = 5; per token of 2 and 6: 1 + 0.5 = 1.5
    # the target is 1 / (2 * 0.25) = 2
    assert variants.ipo_loss(*logps, 0.25).item() == pytest.approx(9)
    lengths = (torch.tensor([2]), torch.tensor([6]))
    assert variants.ipo_loss(*logps, 0.25, *lengths).item() == pytest.approx(0.25)


def test_kto_starts_at_a_half():
    logps, labels = torch.randn(6, dtype=D), torch.tensor([True, False] * 3)
    loss = variants.kto_loss(logps, logps, labels, torch.tensor(0.0, dtype=D), 0.3)
    torch.testing.assert_close(loss, torch.full((6,), 0.5, dtype=D))


def test_worked_kto_loss():
    policy, reference = torch.tensor([-3.0, -3.0], dtype=D), torch.tensor([-5.0, -5.0], dtype=D)
    loss = variants.kto_loss(policy, reference, torch.tensor([True, False]), 0.5, 0.2, 2.0, 3.0)
    # both log-ratios are 2, above the reference point by 1.5: beta * 1.5 = 0.3
    assert loss[0].item() == pytest.approx(2 * (1 - 1 / (1 + math.exp(-0.3))))
    assert loss[1].item() == pytest.approx(3 * (1 - 1 / (1 + math.exp(0.3))))


def test_kto_raises_good_and_lowers_bad_responses():
    logps = torch.zeros(2, dtype=D, requires_grad=True)
    loss = variants.kto_loss(logps, torch.zeros(2, dtype=D), torch.tensor([True, False]), 0.0, 0.4)
    (gradient,) = torch.autograd.grad(loss.sum(), logps)
    assert gradient.tolist() == pytest.approx([-0.1, 0.1])  # beta / 4 each


def test_robust_dpo_is_unbiased():
    e, h = 0.2, torch.linspace(-3, 3, 7, dtype=D)
    zero = torch.zeros_like(h)

    def loss(x):
        return dpo_loss(x, zero, zero, zero, 0.5)

    def robust(x):
        return ((1 - e) * loss(x) - e * loss(-x)) / (1 - 2 * e)

    torch.testing.assert_close((1 - e) * robust(h) + e * robust(-h), loss(h))


def test_expected_implicit_reward_of_the_reference_is_minus_beta_kl():
    reference, policy = (torch.tensor(p, dtype=D) for p in ([0.5, 0.3, 0.2], [0.2, 0.2, 0.6]))
    expected = (reference * implicit_rewards(policy.log(), reference.log(), 0.3)).sum().item()
    kl = (reference * (reference / policy).log()).sum().item()
    assert expected == pytest.approx(-0.3 * kl) and expected < 0


# --- One pair and a table ---


def test_stopping_points():
    noisy, sure = variants.stopping_points(0.8, 0.1, 0.1), variants.stopping_points(1.0, 0.1, 0.1)
    assert noisy["dpo"] == pytest.approx(13.863, abs=1e-3) and noisy["ipo"] == pytest.approx(3.0)
    assert sure["dpo"] == math.inf and sure["cdpo"] == pytest.approx(21.972, abs=1e-3)
    assert sure["ipo"] == pytest.approx(5.0)


LOST = {"dpo": 0.2, "cdpo": 0.8 * 0.1 + 0.2 * 0.9, "ipo": 0.2}  # the pair wins in 80 %


@pytest.mark.parametrize("name", LOST)
def test_the_table_stops_where_it_should(name):
    loss = variants.ipo_loss if name == "ipo" else dpo_loss
    h = train_table(loss, LOST[name], 0.1, np.array([0, 1, 5000]))
    stop = variants.stopping_points(0.8, 0.1, 0.1)[name]
    assert h[0] == 0 and h[1] == pytest.approx(0.1) and h[2] == pytest.approx(stop, abs=1e-2)


def test_on_a_sure_pair_dpo_never_stops_and_the_others_do():
    h = train_table(dpo_loss, 0.0, 0.1, np.array([500, 1000, 2000]))
    assert np.diff(h) == pytest.approx([math.log(2) / 0.1] * 2, rel=0.1)  # log(steps) / beta
    stops = variants.stopping_points(1.0, 0.1, 0.1)
    assert train_table(variants.ipo_loss, 0.0, 0.1, [5000])[0] == pytest.approx(stops["ipo"])
    assert train_table(dpo_loss, 0.1, 0.1, [5000])[0] == pytest.approx(stops["cdpo"], abs=1e-2)


def test_the_study_of_the_table_pairs_losses_with_their_stops():
    table = study_table(dpo_loss, variants.ipo_loss, variants.stopping_points, 3000)
    sure, noisy = table["pairs"]
    assert (sure["p"], noisy["p"]) == (1.0, 0.8) and sure["stops"]["dpo"] is None
    for pair in table["pairs"]:
        for name, stop in pair["stops"].items():
            if stop is not None:
                assert pair["h"][name][-1] == pytest.approx(stop, rel=0.01)


# --- The data ---


def test_flipped_labels_are_nested_and_of_the_right_share():
    few, many = (flip_labels(PAIRS, share, 1) for share in (0.1, 0.3))
    changed = [
        {k for k, row in enumerate(rows) if row["chosen"] != PAIRS[k]["chosen"]}
        for rows in (few, many)
    ]
    assert len(changed[0]) == 20 and len(changed[1]) == 60 and changed[0] < changed[1]
    k = min(changed[0])
    assert (few[k]["chosen"], few[k]["rejected"]) == (PAIRS[k]["rejected"], PAIRS[k]["chosen"])
    assert few[k]["prompt"] == PAIRS[k]["prompt"] and flip_labels(PAIRS, 0.0, 1) == PAIRS


def test_single_labels_have_one_response_per_pair():
    rows = single_labels(PAIRS, 0.25, 1)
    assert len(rows) == 200 and sum(row["label"] for row in rows) == 50
    for row, pair in zip(rows, PAIRS, strict=True):
        assert row["prompt"] == pair["prompt"]
        assert row["completion"] == pair["chosen" if row["label"] else "rejected"]


def test_tied_pairs_are_ties():
    rows = tied_pairs(80, 3)
    tied = [row for row in rows if "chosen_style" not in row]
    assert len(rows) == 80 and len(tied) == 60
    for row in tied:
        assert row["chosen"] != row["rejected"]
        assert gold_utility(row["prompt"], row["chosen"]) == gold_utility(
            row["prompt"], row["rejected"]
        )
    assert {row["prompt"] for row in rows} <= {q.prompt for q in questions("train")}


def test_one_sided_pairs_always_choose_the_concise_answer():
    rows = one_sided_pairs(40, 3)
    assert len({row["prompt"] for row in rows}) == 40
    for row in rows:
        assert read_response(row["prompt"], row["chosen"]).good
        assert read_response(row["prompt"], row["rejected"]).style == "verbose"


# --- TRL, the policy and the judge ---


def make_trainer(data, loss: str, moved: bool = True, **changes) -> Trained:
    """TRL's trainer for the loss, not trained, but with an adapter that has already moved."""
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    model, tokenizer = load_causal_lm("tiny-gpt2")
    trainer_class, config = (KTOTrainer, KTOConfig) if loss == "kto" else (DPOTrainer, DPOConfig)
    loss_type = loss if loss == "kto" else [loss]
    settings = trainer_settings(model, 1e-3, 1, 16, 0)
    trainer = trainer_class(
        model=model,
        args=config(loss_type=loss_type, beta=0.4, **settings, **changes),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora_config(model),
    )
    generator = torch.Generator().manual_seed(0)
    for name, weights in trainer.model.named_parameters():
        if moved and "lora_B" in name:
            weights.data.normal_(0, 0.05, generator=generator)
    trainer.model.eval()
    return Trained(trainer.model, trainer, {}, [])


def trl_loss(trained: Trained) -> float:
    return difference_from_trl(torch.zeros(len(trained.trainer.train_dataset)), trained)


STARTS = {"sigmoid": math.log(2), "hinge": 1, "ipo": 1 / (4 * 0.4**2), "kto": 0.5}


@pytest.mark.parametrize("loss", STARTS)
def test_where_the_losses_of_trl_start(loss):
    data = unpaired(PAIRS[:4], 0) if loss == "kto" else as_dataset(PAIRS[:4])
    assert trl_loss(make_trainer(data, loss, moved=False)) == pytest.approx(STARTS[loss], abs=1e-5)


@pytest.mark.parametrize("loss", ["robust", "hinge"])
def test_pair_losses_are_those_of_trl(loss):
    smoothing = {"label_smoothing": 0.1} if loss == "robust" else {}
    trained = make_trainer(as_dataset(PAIRS[:8]), loss, **smoothing)
    policy, reference = pair_logps(trained.policy, load_causal_lm("tiny-gpt2")[1], PAIRS[:8])
    h = (policy[0] - reference[0]) - (policy[1] - reference[1])
    right = dpo_loss(*policy, *reference, 0.4)
    wrong = dpo_loss(*policy.flip(0), *reference.flip(0), 0.4)
    ours = {"hinge": torch.relu(1 - 0.4 * h), "robust": (0.9 * right - 0.1 * wrong) / 0.8}[loss]
    assert difference_from_trl(ours, trained) < 1e-5


def test_ipo_loss_is_that_of_trl_and_no_other_is():
    tokenizer = load_causal_lm("tiny-gpt2")[1]
    trained = make_trainer(as_dataset(PAIRS[:8]), "ipo")
    inputs = ipo_inputs(trained, tokenizer, PAIRS[:8])
    assert difference_from_trl(variants.ipo_loss(**inputs), trained) < 1e-5
    lengths = {side: inputs[f"{side}_lengths"] for side in ("chosen", "rejected")}
    wrong = (
        {"chosen_lengths": 1, "rejected_lengths": 1},  # sums
        {"chosen_lengths": lengths["rejected"], "rejected_lengths": lengths["chosen"]},
        {"chosen_lengths": lengths["chosen"] - 1},  # EOS left out
        {"beta": 0.5},
    )
    for change in wrong:
        ours = variants.ipo_loss(**{**inputs, **change})
        assert difference_from_trl(ours, trained) > 1e-4, change


def test_kto_loss_is_that_of_trl():
    tokenizer = load_causal_lm("tiny-gpt2")[1]
    rows = single_labels(PAIRS[:16], 0.25, 0)
    trained = make_trainer(unpaired(rows, 0), "kto", desirable_weight=3.0)
    inputs = kto_inputs(trained, tokenizer, 16)
    assert inputs["kl"] > 0 and inputs["desirable_weight"] == 3 and inputs["labels"].sum() == 4
    assert difference_from_trl(variants.kto_loss(**inputs), trained) < 1e-5
    for change in ({"kl": 0.0}, {"labels": ~inputs["labels"]}, {"desirable_weight": 1.0}):
        ours = variants.kto_loss(**{**inputs, **change})
        assert difference_from_trl(ours, trained) > 3e-5, change


def test_kto_inputs_are_of_the_rows_as_trl_has_them():
    tokenizer = load_causal_lm("tiny-gpt2")[1]
    trained = make_trainer(unpaired(PAIRS[:8], 1), "kto")
    inputs = kto_inputs(trained, tokenizer, 16)
    first = unpaired(PAIRS[:8], 1)[0]
    prompt, answer = (first[key][0]["content"] for key in ("prompt", "completion"))
    logp = response_logps(trained.policy, tokenizer, [prompt], [encode_response(tokenizer, answer)])
    assert logp.item() == pytest.approx(inputs["policy_logps"][0].item(), abs=1e-4)


@pytest.mark.parametrize("b", [-2.0, 0.5, 3.0])
def test_averaging_both_orders_cancels_the_position_bias(b):
    def averaged(d: float, bias: float) -> float:
        forward, backward = (1 / (1 + math.exp(-x)) for x in (d + bias, -d + bias))
        return averaged_preference(forward, backward)

    assert averaged(0.0, b) == pytest.approx(0.5, abs=1e-12)
    assert averaged(1.0, b) > 0.5 > averaged(-1.0, b)
    assert averaged(1.0, 1e-4) == pytest.approx(averaged(1.0, 0.0), abs=1e-8)  # no first-order term


def test_the_judge_sees_both_orders():
    judge, pairs = load_causal_lm("tiny-gpt2"), PAIRS[:24]
    verdicts = judge_pairs(*judge, pairs)
    swapped = judge_pairs(*judge, [swap_sides(row) for row in pairs])
    assert verdicts["forward"] == pytest.approx(swapped["backward"], abs=1e-5)
    labels = ai_labels(*judge, pairs)
    preferred = averaged_preference(verdicts["forward"], verdicts["backward"]) > 0.5
    for row, pair, kept in zip(labels, pairs, preferred, strict=True):
        assert {row["chosen"], row["rejected"]} == {pair["chosen"], pair["rejected"]}
        assert (row["chosen"] == pair["chosen"]) == kept
    good = [row["chosen_utility"] > row["rejected_utility"] + 1 for row in pairs]
    assert preferred[np.array(good)].mean() > 0.65  # and it is a judge


def test_one_order_labels_by_what_is_seen_once(monkeypatch):
    ones = np.ones(8)
    always_a = {"forward": 0.9 * ones, "backward": 0.9 * ones, "same": ones, "answered": ones}
    monkeypatch.setattr(judging, "judge_pairs", lambda *_: always_a)
    labelled = ai_labels(None, None, PAIRS[:8], orders=1)
    kept = [row["chosen"] == pair["chosen"] for row, pair in zip(labelled, PAIRS, strict=False)]
    assert kept == [False, True] * 4  # chosen is shown as A in every second pair


def test_a_perfect_judge_and_one_that_always_says_a(monkeypatch):
    gold = np.array([float(row["chosen_utility"] > row["rejected_utility"]) for row in PAIRS])
    half, ones = np.full(len(PAIRS), 0.5), np.ones(len(PAIRS))
    perfect = {"forward": gold, "backward": 1 - gold, "same": half, "answered": ones}
    monkeypatch.setattr(judging, "judge_pairs", lambda *_: perfect)
    measured = study_judge(None, None, PAIRS)
    agrees = {who: row["mean"] for who, row in measured["agrees_with_gold"].items()}
    human = gold_agreement(PAIRS).mean()
    assert agrees == pytest.approx({"human": human, "one_order": 1, "both_orders": 1})
    assert measured["verdict_depends_on_order"]["mean"] == 0
    always = {"forward": 0.9 * ones, "backward": 0.9 * ones, "same": 0.9 * ones, "answered": ones}
    monkeypatch.setattr(judging, "judge_pairs", lambda *_: always)
    measured = study_judge(None, None, PAIRS)
    assert measured["verdict_depends_on_order"]["mean"] == 1
    assert measured["says_a_in_one_order"]["mean"] == 1
    assert measured["says_a_of_equal_answers"]["mean"] == pytest.approx(0.9)


def test_a_judge_of_pairs_without_gold(monkeypatch):
    rows = [{"prompt": "p", "chosen": f"a {k}", "rejected": f"b {k}"} for k in range(6)]
    ones = np.ones(6)
    verdicts = {"forward": ones, "backward": 0 * ones, "same": ones, "answered": ones}
    monkeypatch.setattr(judging, "judge_pairs", lambda *_: verdicts)
    measured = study_judge(None, None, rows)
    assert measured["agrees_with_labels"]["mean"] == 1 and "agrees_with_gold" not in measured


def test_gold_agreement_leaves_ties_out_and_falls_with_flips():
    clear = [row for row in PAIRS if row["chosen_utility"] != row["rejected_utility"]]
    right = np.mean([row["chosen_utility"] > row["rejected_utility"] for row in clear])
    assert len(gold_agreement(PAIRS)) == len(clear)
    assert gold_agreement(PAIRS).mean() == pytest.approx(right)
    flipped = gold_agreement(flip_labels(PAIRS, 1.0, 0)).mean()
    assert flipped == pytest.approx(1 - right)
    assert gold_agreement(flip_labels(PAIRS, 0.5, 0)).mean() == pytest.approx(0.5, abs=0.08)


def test_the_line_through_points_on_a_line():
    x = [0.9, 0.8, 0.7, 0.6]
    weights = line_weights(x, 0.65)
    assert weights.sum() == pytest.approx(1)
    assert weights @ (2 + 3 * np.array(x)) == pytest.approx(2 + 3 * 0.65)
    y = np.array([1.0, 5.0, 2.0, 2.0])
    assert weights @ y == pytest.approx(np.polyval(np.polyfit(x, y, 1), 0.65))


def test_rows_for_kto_are_shuffled_messages():
    data = unpaired(PAIRS[:8], 3)
    assert len(data) == 16 and sum(data["label"]) == 8 and data["label"] != [True] * 8 + [False] * 8
    texts = {
        (row["prompt"][0]["content"], row["completion"][0]["content"]): row["label"] for row in data
    }
    for pair in PAIRS[:8]:
        assert texts[pair["prompt"], pair["chosen"]] and not texts[pair["prompt"], pair["rejected"]]


def test_unpaired_losses_get_all_annotations():
    assert len(make_unpaired(PAIRS)) == 2 * len(PAIRS)
    assert set(UNPAIRED) < set(LOSSES) and {"sigmoid", "ipo", "hinge"} < set(LOSSES)
