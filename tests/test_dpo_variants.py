"""dpo_variants.py: the losses and where they stop, parity with TRL, the data it makes, the judge."""

import math

import dpo_variants as variants
import numpy as np
import pytest
import torch
from dpo_trainer import dpo_loss, implicit_rewards, lora_config, pair_logps, training_settings
from evaluation import response_logps

from common.models import encode_response, format_pair, load_causal_lm
from common.preferences import gold_utility, make_pairs, make_unpaired, questions, read_response

D = torch.float64
PAIRS = make_pairs(200)


# ---------------------------------------------------------------------------------------------------------
# The losses
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_ipo_starts_at_its_known_value_and_stops_at_half_over_tau(beta):
    logps = torch.randn(2, 4, dtype=D)
    loss = variants.ipo_loss(*logps, *logps, beta)
    torch.testing.assert_close(loss, torch.full((4,), 1 / (4 * beta**2), dtype=D))
    h = torch.tensor([1 / (2 * beta)], dtype=D, requires_grad=True)
    zero = torch.zeros(1, dtype=D)
    stop = variants.ipo_loss(h, zero, zero, zero, beta)
    assert stop.item() == pytest.approx(0) and torch.autograd.grad(stop, h)[0].item() == pytest.approx(0)
    assert variants.ipo_loss(zero, h.detach(), zero, zero, beta).item() == pytest.approx(1 / beta**2)  # swapped sides


def test_worked_ipo_loss():
    logps = [torch.tensor([x], dtype=D) for x in (-4.0, -9.0, -6.0, -6.0)]
    # sums: h = (-4 + 6) - (-9 + 6) = 5; per token of 2 and 6: 1 + 0.5 = 1.5; the target is 1 / (2 * 0.25) = 2
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


# ---------------------------------------------------------------------------------------------------------
# One pair and a table
# ---------------------------------------------------------------------------------------------------------


def test_stopping_points():
    noisy, sure = variants.stopping_points(0.8, 0.1, 0.1), variants.stopping_points(1.0, 0.1, 0.1)
    assert noisy["dpo"] == pytest.approx(13.863, abs=1e-3) and noisy["ipo"] == pytest.approx(3.0)
    assert sure["dpo"] == math.inf and sure["cdpo"] == pytest.approx(21.972, abs=1e-3)
    assert sure["ipo"] == pytest.approx(5.0)


@pytest.mark.parametrize("p, losses", [(0.8, ("dpo", "cdpo", "ipo")), (1.0, ("cdpo", "ipo"))])
def test_the_table_stops_where_it_should(p, losses):
    stops = variants.stopping_points(p, 0.1, 0.1)
    for loss in losses:
        h = variants.train_table(loss, p, 0.1, 0.1, np.array([0, 1, 5000]))
        assert h[0] == 0 and h[1] == pytest.approx(0.1) and h[2] == pytest.approx(stops[loss], abs=1e-2)


def test_dpo_never_stops_on_a_sure_pair():
    h = variants.train_table("dpo", 1.0, 0.1, 0.1, np.array([500, 1000, 2000]))
    assert np.diff(h) == pytest.approx([math.log(2) / 0.1] * 2, rel=0.1)  # log(steps) / beta


# ---------------------------------------------------------------------------------------------------------
# The data
# ---------------------------------------------------------------------------------------------------------


def test_flipped_labels_are_nested_and_of_the_right_share():
    few, many = (variants.flip_labels(PAIRS, share, 1) for share in (0.1, 0.3))
    changed = [{k for k, row in enumerate(rows) if row["chosen"] != PAIRS[k]["chosen"]} for rows in (few, many)]
    assert len(changed[0]) == 20 and len(changed[1]) == 60 and changed[0] < changed[1]
    k = min(changed[0])
    assert (few[k]["chosen"], few[k]["rejected"]) == (PAIRS[k]["rejected"], PAIRS[k]["chosen"])
    assert few[k]["prompt"] == PAIRS[k]["prompt"] and variants.flip_labels(PAIRS, 0.0, 1) == PAIRS


def test_single_labels_have_one_response_per_pair():
    rows = variants.single_labels(PAIRS, 0.25, 1)
    assert len(rows) == 200 and sum(row["label"] for row in rows) == 50
    for row, pair in zip(rows, PAIRS, strict=True):
        assert row["prompt"] == pair["prompt"]
        assert row["completion"] == pair["chosen" if row["label"] else "rejected"]


def test_tied_pairs_are_ties():
    rows = variants.tied_pairs(80, 3)
    tied = [row for row in rows if "chosen_style" not in row]
    assert len(rows) == 80 and len(tied) == 60
    for row in tied:
        assert row["chosen"] != row["rejected"]
        assert gold_utility(row["prompt"], row["chosen"]) == gold_utility(row["prompt"], row["rejected"])
    assert {row["prompt"] for row in rows} <= {q.prompt for q in questions("train")}


def test_one_sided_pairs_always_choose_the_concise_answer():
    rows = variants.one_sided_pairs(40, 3)
    assert len({row["prompt"] for row in rows}) == 40
    for row in rows:
        assert read_response(row["prompt"], row["chosen"]).good
        assert read_response(row["prompt"], row["rejected"]).style == "verbose"


# ---------------------------------------------------------------------------------------------------------
# TRL, the policy and the judge
# ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def args(tmp_path_factory):
    flags = ["--output-dir", str(tmp_path_factory.mktemp("outputs")), "--beta", "0.4"]
    args = variants.build_parser().parse_args(flags)
    args.learning_rate = 1e-3
    return args


def make_trainer(args, rows, loss: str, moved: bool = True, **changes):
    """TRL's trainer for the loss, not trained, but with an adapter that has already moved."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    model, tokenizer = load_causal_lm("tiny-gpt2")
    trainer_class, config = (KTOTrainer, KTOConfig) if loss == "kto" else (DPOTrainer, DPOConfig)
    loss_type = loss if loss == "kto" else [loss]
    settings = training_settings(args, "cpu", loss_type=loss_type, per_device_train_batch_size=16, **changes)
    options = {"processing_class": tokenizer, "peft_config": lora_config(model)}
    trainer = trainer_class(model=model, args=config(**settings), train_dataset=Dataset.from_list(rows), **options)
    generator = torch.Generator().manual_seed(0)
    for name, weights in trainer.model.named_parameters():
        if moved and "lora_B" in name:
            weights.data.normal_(0, 0.05, generator=generator)
    trainer.model.eval()
    return trainer, tokenizer


def trl_loss(trainer) -> float:
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))])
    with torch.no_grad():
        return trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)).item()


@pytest.mark.parametrize(
    "loss, value", [("sigmoid", math.log(2)), ("hinge", 1), ("ipo", 1 / (4 * 0.4**2)), ("kto", 0.5)]
)
def test_where_the_losses_of_trl_start(args, loss, value):
    _, tokenizer = load_causal_lm("tiny-gpt2")
    rows = [format_pair(tokenizer, row) for row in PAIRS[:4]]
    if loss == "kto":
        rows = [{"prompt": r["prompt"], "completion": r["chosen"], "label": k % 2 == 0} for k, r in enumerate(rows)]
    assert trl_loss(make_trainer(args, rows, loss, moved=False)[0]) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("loss", ["ipo", "robust", "hinge"])
def test_pair_losses_are_those_of_trl(args, loss):
    _, tokenizer = load_causal_lm("tiny-gpt2")
    smoothing = {"label_smoothing": 0.1} if loss == "robust" else {}
    trainer, _ = make_trainer(args, [format_pair(tokenizer, row) for row in PAIRS[:8]], loss, **smoothing)
    policy, reference = pair_logps(trainer.model, tokenizer, PAIRS[:8])
    if loss == "ipo":
        sides = ("chosen", "rejected")
        lengths = [torch.tensor([len(encode_response(tokenizer, row[side])) for row in PAIRS[:8]]) for side in sides]
        ours = variants.ipo_loss(*policy, *reference, 0.4, *lengths).mean().item()
        assert abs(ours - variants.ipo_loss(*policy, *reference, 0.4).mean().item()) > 0.01  # sums are another loss
    elif loss == "hinge":
        h = (policy[0] - reference[0]) - (policy[1] - reference[1])
        ours = torch.relu(1 - 0.4 * h).mean().item()
    else:
        right, wrong = dpo_loss(*policy, *reference, 0.4), dpo_loss(*policy.flip(0), *reference.flip(0), 0.4)
        ours = ((0.9 * right - 0.1 * wrong) / 0.8).mean().item()
    assert ours == pytest.approx(trl_loss(trainer), abs=1e-5)


def test_kto_loss_is_that_of_trl(args):
    _, tokenizer = load_causal_lm("tiny-gpt2")
    rows = variants.single_labels(PAIRS[:16], 0.25, 0)
    texts = [format_pair(tokenizer, {"prompt": r["prompt"], "chosen": r["completion"], "rejected": ""}) for r in rows]
    data = [
        {"prompt": text["prompt"], "completion": text["chosen"], "label": row["label"]}
        for text, row in zip(texts, rows, strict=True)
    ]
    trainer, _ = make_trainer(args, data, "kto", desirable_weight=3.0)
    prompts, labels = [row["prompt"] for row in rows], torch.tensor([row["label"] for row in rows])
    responses = [encode_response(tokenizer, row["completion"]) for row in rows]

    def both(answers):
        policy = response_logps(trainer.model, tokenizer, prompts, answers)
        with trainer.model.disable_adapter():
            return policy, response_logps(trainer.model, tokenizer, prompts, answers)

    policy, reference = both(responses[-1:] + responses[:-1])  # every prompt with the response of the one before
    kl = (policy - reference).mean().clamp(min=0)
    assert kl > 0
    ours = variants.kto_loss(*both(responses), labels, kl, 0.4, 3.0).mean().item()
    assert ours == pytest.approx(trl_loss(trainer), abs=1e-5)


def test_pairs_are_sampled_from_the_policy(args):
    rows = variants.sample_pairs(args, *load_causal_lm("tiny-gpt2"), 6, 0)
    assert len(rows) == 6 and all(row["chosen"] != row["rejected"] for row in rows)
    assert {row["prompt"] for row in rows} <= {q.prompt for q in questions("train")}


@pytest.mark.parametrize("b", [-2.0, 0.5, 3.0])
def test_averaging_both_orders_cancels_the_position_bias(b):
    def averaged(d: float, bias: float) -> float:
        forward, backward = (1 / (1 + math.exp(-x)) for x in (d + bias, -d + bias))
        return variants.averaged_preference(forward, backward)

    assert averaged(0.0, b) == pytest.approx(0.5, abs=1e-12)
    assert averaged(1.0, b) > 0.5 > averaged(-1.0, b)
    assert averaged(1.0, 1e-4) == pytest.approx(averaged(1.0, 0.0), abs=1e-8)  # no first-order term


def test_the_judge_sees_both_orders():
    judge = load_causal_lm("tiny-gpt2")
    found, swapped = (
        variants.judge_pairs(*judge, rows) for rows in (PAIRS[:24], variants.flip_labels(PAIRS[:24], 1, 0))
    )
    assert found["forward"] == pytest.approx(swapped["backward"], abs=1e-5)
    labels = variants.ai_labels(*judge, PAIRS[:24])
    preferred = variants.averaged_preference(found["forward"], found["backward"]) > 0.5
    for row, pair, kept in zip(labels, PAIRS, preferred, strict=False):
        assert {row["chosen"], row["rejected"]} == {pair["chosen"], pair["rejected"]}
        assert (row["chosen"] == pair["chosen"]) == kept
    good = np.array([row["chosen_utility"] > row["rejected_utility"] + 1 for row in PAIRS[:24]])
    assert preferred[good].mean() > 0.7  # and it is a judge


def test_a_perfect_judge_and_one_that_always_says_a(monkeypatch):
    gold = np.array([float(row["chosen_utility"] > row["rejected_utility"]) for row in PAIRS])
    half, ones = np.full(len(PAIRS), 0.5), np.ones(len(PAIRS))
    perfect = {"forward": gold, "backward": 1 - gold, "same": half, "answered": ones}
    monkeypatch.setattr(variants, "judge_pairs", lambda *_: perfect)
    found = variants.study_judge(None, None, PAIRS)
    assert found["agrees_with_gold"]["judge, both orders"]["mean"] == 1
    assert found["agrees_with_gold"]["judge, one order"]["mean"] == 1
    assert found["position_bias"]["verdict depends on the order"]["mean"] == 0
    clear = [row["chosen_utility"] != row["rejected_utility"] for row in PAIRS]
    assert found["agrees_with_gold"]["human labels"]["mean"] == pytest.approx(gold[clear].mean())
    always = {"forward": 0.9 * ones, "backward": 0.9 * ones, "same": 0.9 * ones, "answered": ones}
    monkeypatch.setattr(variants, "judge_pairs", lambda *_: always)
    bias = variants.study_judge(None, None, PAIRS)["position_bias"]
    assert bias["verdict depends on the order"]["mean"] == 1 and bias["P(A) in one order"]["mean"] == 1
    assert bias["P(A) for two equal answers"]["mean"] == pytest.approx(0.9)


def test_unpaired_losses_get_all_annotations():
    assert len(make_unpaired(PAIRS)) == 2 * len(PAIRS)
    assert set(variants.UNPAIRED) < set(variants.LOSSES) and {"sigmoid", "ipo", "hinge"} < set(variants.LOSSES)
