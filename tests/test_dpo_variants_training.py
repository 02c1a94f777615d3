"""dpo_variants.py: what its trainings start from and read, who labels what, and the claims."""

import math
from functools import partial
from types import SimpleNamespace

from support import judging, variant_arms, variant_results
from support.evaluation import response_logps
from support.judging import judge_pairs, study_judge
from support.parity import difference_from_trl, ipo_inputs, kto_inputs
from support.policy_data import PolicyData
from support.start import Start
from support.training import Trained
from support.variant_arms import (
    AI_LABELS,
    FLIPPED,
    HUMAN_LABELS,
    ONE_SIDED,
    SHOWN,
    WATCHED,
    Arm,
    judge_arms,
    named_losses,
    train_sft_on_chosen,
    world_arms,
)
from support.variant_data import unpaired
from support.variant_results import FRONTIER, Results, compare_arms, run_arms

import dpo_trainer as dpo
import dpo_variants as variants
import numpy as np
import pytest
import torch

from common.intervals import over_seeds, summary
from common.models import encode_response, load_causal_lm
from common.preferences import make_pairs, make_unpaired
from common.reporting import judge

D = torch.float64
TRAINING = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 8, "seed": 0}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_weights_and_signs_of_the_kto_gradient():
    policy = torch.full((2,), -4.0, dtype=D, requires_grad=True)
    labels, ref = torch.tensor([True, False]), torch.full((2,), -4.0, dtype=D)
    variants.kto_loss(policy, ref, labels, 0.0, 0.4, 3.0, 2.0).sum().backward()
    # At the start sigmoid' = 1/4: minus w beta / 4 for good, plus w beta / 4 for bad.
    np.testing.assert_allclose(policy.grad.numpy(), [-0.3, 0.2], rtol=1e-6)


# --- What is trained ---


@pytest.fixture
def untrained(monkeypatch):
    """The script's trainings make TRL's trainers but do not train."""

    def stop(trainer, *_, **__) -> Trained:
        return Trained(trainer.model.eval(), trainer, {}, [])

    for module in (dpo, variants, variant_arms):
        monkeypatch.setattr(module, "run_trainer", stop)


def perturb(model, sign: float = 1.0) -> None:
    """Move the adapter away from zero, so that policy and reference differ."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.003).mul_(sign)


def train(arm: Arm) -> tuple[Trained, object]:
    model, tokenizer = load_causal_lm("tiny-gpt2")
    settings = {**TRAINING, **arm.settings, "name": arm.name}
    return arm.method(model, tokenizer, arm.pairs, **settings), tokenizer


def test_ipo_is_trained_per_token_with_its_own_beta(untrained):
    pairs = make_pairs(8, seed=3)
    trained, tokenizer = train(variants.loss_arm("ipo", "IPO", pairs, ("ipo",)))
    assert trained.trainer.beta == variants.BETAS["ipo"]
    assert trained.trainer.loss_types == ["ipo"]
    perturb(trained.policy)
    ours = variants.ipo_loss(**ipo_inputs(trained, tokenizer, pairs))
    assert difference_from_trl(ours, trained) < 1e-5


def test_several_passes_read_the_reference_once_and_leave_the_losses(untrained, monkeypatch):
    pairs = make_pairs(8, seed=3)
    ipo = variants.loss_arm("ipo", "IPO", pairs, ("ipo",), epochs=2)
    trained, tokenizer = train(ipo)
    assert trained.trainer.precompute_ref_logps
    perturb(trained.policy)
    ours = variants.ipo_loss(**ipo_inputs(trained, tokenizer, pairs))
    assert difference_from_trl(ours, trained) < 1e-5
    trained, tokenizer = train(variants.loss_arm("kto", "KTO", pairs, ("kto",), epochs=2))
    assert trained.trainer.precompute_ref_logps
    perturb(trained.policy)
    ours = variants.kto_loss(**kto_inputs(trained, tokenizer, 16))
    assert difference_from_trl(ours, trained) < 1e-5
    once, _ = train(variants.loss_arm("ipo", "IPO", pairs, ("ipo",)))
    assert not once.trainer.precompute_ref_logps
    # TRL's file of them is that of one process.
    monkeypatch.setattr("support.training.process_count", lambda: 2)
    several, _ = train(ipo)
    assert not several.trainer.precompute_ref_logps


def test_a_sum_of_losses_takes_the_beta_of_the_first_or_the_users():
    pairs = make_pairs(4)
    arm = variants.loss_arm("x", "X", pairs, ("sigmoid", "sft"))
    assert arm.method is dpo.train_dpo and arm.settings["beta"] == dpo.BETA
    assert arm.settings["loss_type"] == ("sigmoid", "sft")
    assert variants.loss_arm("x", "X", pairs, ("ipo",), beta=0.7).settings["beta"] == 0.7
    robust = variants.loss_arm("x", "X", pairs, ("robust",))
    assert robust.settings["label_smoothing"] == 0.1
    assert "label_smoothing" not in arm.settings
    zero = variants.loss_arm("x", "X", pairs, ("apo_zero_unpaired",))
    assert zero.method is variants.train_kto and zero.settings["loss_type"] == "apo_zero_unpaired"


def test_dpo_stands_beside_every_loss():
    def keys(*losses: str) -> list[str]:
        arms = named_losses(variants.loss_arm, make_pairs(4), losses)
        return [arm.key for arm in arms]

    assert keys() == ["dpo", "ipo", "kto"]
    assert keys("sigmoid", "sft") == ["dpo", "sigmoid_sft"]
    assert keys("hinge") == ["dpo", "hinge"] and keys("sigmoid") == ["dpo"]


def test_kto_equals_trls_with_unequal_classes(untrained):
    rows = make_unpaired(make_pairs(8, seed=3))
    rows = [row | {"label": k in (1, 2, 4, 9, 12)} for k, row in enumerate(rows)]
    trained, tokenizer = train(variants.loss_arm("kto", "KTO", rows, ("kto",)))
    trainer, shuffled = trained.trainer, unpaired(rows, 0)
    assert trainer.args.per_device_train_batch_size == 16
    assert trainer.desirable_weight == pytest.approx(11 / 5)
    assert trainer.args.train_sampling_strategy == "sequential"
    labels = torch.tensor(list(shuffled["label"]))
    assert labels.tolist() == list(trainer.train_dataset["label"])
    assert labels.tolist() != [row["label"] for row in rows]
    prompts = [row["prompt"][0]["content"] for row in shuffled]
    own = [encode_response(tokenizer, row["completion"][0]["content"]) for row in shuffled]

    def log_ratios(responses: list) -> tuple:
        policy = response_logps(trained.policy, tokenizer, prompts, responses)
        with trained.policy.disable_adapter():
            return policy, response_logps(trained.policy, tokenizer, prompts, responses)

    points = []
    for sign in (1.0, -1.0):
        perturb(trained.policy, sign)
        policy_kl, ref_kl = log_ratios(own[-1:] + own[:-1])
        points.append((policy_kl - ref_kl).mean().item())
        kl = max(points[-1], 0.0)
        ours = variants.kto_loss(*log_ratios(own), labels, kl, trainer.beta, 11 / 5)
        assert difference_from_trl(ours, trained) < 1e-5
    assert min(points) < 0 < max(points)  # clamped, and not


def test_sft_reads_the_chosen_answers_alone(untrained):
    pairs = make_pairs(8, seed=3)
    model, tokenizer = load_causal_lm("tiny-gpt2")
    lora = dpo.lora_config
    trained = train_sft_on_chosen(model, tokenizer, pairs, lora=lora, name="SFT", **TRAINING)
    texts = [tokenizer.decode(row["input_ids"]) for row in trained.trainer.train_dataset]
    for text, pair in zip(texts, pairs, strict=True):
        assert pair["prompt"] in text and pair["chosen"] in text and pair["rejected"] not in text
    trainable = {name for name, x in trained.policy.named_parameters() if x.requires_grad}
    assert trainable and all("lora" in name for name in trainable)


# --- The judge ---


def test_forward_shows_the_chosen_answer_as_a(monkeypatch):
    shown = []

    def first_better(model, tokenizer, prompts):
        shown.extend(prompts)
        return torch.linspace(0, 1, len(prompts)), torch.ones(len(prompts))

    monkeypatch.setattr(judging, "judge_first_better", first_better)
    pair = {"prompt": "p", "chosen": "good", "rejected": "bad"}
    verdicts = judge_pairs(None, None, [pair])
    orders = ("A: good\nB: bad", "A: bad\nB: good", "A: good\nB: good")
    assert all(order in text for order, text in zip(orders, shown, strict=True))
    read = verdicts["forward"], verdicts["backward"], verdicts["same"]
    assert read == (0, 0.5, 1)


def judged(monkeypatch, pairs: list[dict], forward: np.ndarray, backward: np.ndarray) -> dict:
    verdicts = {"forward": forward, "backward": backward, "same": np.full(len(pairs), 0.7)}
    verdicts["answered"] = np.array([1.0] * 9 + [0.2])
    monkeypatch.setattr(judging, "judge_pairs", lambda *_: verdicts)
    return study_judge(None, None, pairs)


def mean(table: dict) -> dict:
    return {name: measured["mean"] for name, measured in table.items()}


@pytest.fixture
def clear():
    """Pairs of unequal gold utility, and chosen minus rejected."""
    pairs = make_pairs(200, "test", seed=1)
    pairs = [row for row in pairs if row["chosen_utility"] != row["rejected_utility"]]
    gaps = np.array([row["chosen_utility"] - row["rejected_utility"] for row in pairs])
    assert (gaps < 0).sum() > 10
    return pairs, gaps


def test_a_perfect_judge_and_its_opposite(clear, monkeypatch):
    pairs, gaps = clear
    forward, right = (gaps > 0) * 0.98 + 0.01, (gaps > 0).mean()
    for p, agreement in ((forward, 1), (1 - forward, 0)):
        measured = judged(monkeypatch, pairs, p, 1 - p)
        expected = {"human": right, "one_order": agreement, "both_orders": agreement}
        assert mean(measured["agrees_with_gold"]) == pytest.approx(expected)
        agrees = right if agreement else 1 - right
        assert measured["agrees_with_labels"]["mean"] == pytest.approx(agrees)
        assert measured["human_minus_judge"]["mean"] == pytest.approx(right - agreement)
        assert measured["verdict_depends_on_order"]["mean"] == 0
    assert measured["answers_a_or_b"]["mean"] == pytest.approx(0.9)
    assert measured["says_a_of_equal_answers"]["mean"] == pytest.approx(0.7)
    worse = ["rejected_style" if gap > 0 else "chosen_style" for gap in gaps]
    kinds = np.array([row[side] for row, side in zip(pairs, worse, strict=True)])
    by_fault = measured["agrees_with_gold_by_fault"]["human"]["wrong"]
    assert by_fault["count"] == (kinds == "wrong").sum() > 0
    assert by_fault["mean"] == pytest.approx((gaps > 0)[kinds == "wrong"].mean())


def test_both_orders_see_through_a_position_bias(clear, monkeypatch):
    pairs, gaps = clear
    forward = np.array([sigmoid(x + 3) for x in 2 * np.sign(gaps)])
    backward = np.array([sigmoid(x + 3) for x in -2 * np.sign(gaps)])
    measured = judged(monkeypatch, pairs, forward, backward)
    assert measured["verdict_depends_on_order"]["mean"] == 1
    assert measured["says_a_in_one_order"]["mean"] == 1
    assert measured["agrees_with_gold"]["both_orders"]["mean"] == 1
    # chosen is A in every second pair
    expected = np.where(np.arange(len(pairs)) % 2, gaps > 0, gaps < 0).mean()
    assert measured["agrees_with_gold"]["one_order"]["mean"] == pytest.approx(expected)


# --- The arms and their comparison ---


FEW = 8


def all_arms(monkeypatch, pairs: list[dict]) -> list[Arm]:
    """The arms of the default run, with a judge that agrees with every label."""
    ones = np.ones(len(pairs))
    verdicts = {"forward": ones, "backward": 0 * ones, "same": ones, "answered": ones}
    monkeypatch.setattr(judging, "judge_pairs", lambda *_: verdicts)
    often, once = variants.loss_arm, partial(variants.loss_arm, epochs=1)
    arms = named_losses(often, pairs[:FEW], ())
    arms += world_arms(often, pairs[:FEW], once, pairs, 0, None)
    return arms + judge_arms(once, pairs, (None, None), world=True)


def test_the_arms_are_of_equal_length_where_they_are_compared(monkeypatch):
    pairs = make_pairs(32)
    arms = {arm.key: arm for arm in all_arms(monkeypatch, pairs)}
    listed = {*FRONTIER, *HUMAN_LABELS, *AI_LABELS, *WATCHED, *SHOWN}
    assert listed <= set(arms) and all(key.isidentifier() for key in arms)
    long = [arms[key] for key in WATCHED]
    assert all(len(arm.pairs) == FEW and "epochs" not in arm.settings for arm in long)
    once = [arms[key] for key in (*HUMAN_LABELS, *AI_LABELS, "coin", "sft_on_chosen")]
    assert all(len(arm.pairs) == 32 and arm.settings["epochs"] == 1 for arm in once)
    one_sided = [arms[key] for key in ONE_SIDED]
    assert all(len(arm.pairs) == 4 and "epochs" not in arm.settings for arm in one_sided)
    assert one_sided[0].pairs == one_sided[1].pairs
    for key, share in zip(HUMAN_LABELS, FLIPPED, strict=True):
        same = [a["chosen"] == b["chosen"] for a, b in zip(arms[key].pairs, pairs, strict=True)]
        assert sum(same) == 32 - round(0.32 * share)
    flipped = [a["chosen"] == b["rejected"] for a, b in zip(arms["coin"].pairs, pairs, strict=True)]
    assert sum(flipped) == 16


class Stopped(Exception):
    """Raised where the arms of a study would be run."""


def arms_of_study(monkeypatch, has_gold: bool, *flags) -> dict[str, Arm]:
    """The arms that `study` makes of 160 pairs."""
    made = []

    def stop(arms, start, held):
        made.extend(arms)
        raise Stopped

    monkeypatch.setattr(variants, "run_arms", stop)
    monkeypatch.setattr(variants, "study_judge", lambda *_: {})
    verdicts = {"forward": np.ones(160), "backward": np.zeros(160)}
    monkeypatch.setattr(judging, "judge_pairs", lambda *_: verdicts)
    data = PolicyData(make_pairs(160), make_pairs(4, "test"), ["p"], ["q"], has_gold)
    reference = SimpleNamespace(device="cpu")
    training = {"epochs": 8, "seed": 0}
    start = Start(reference, None, data, training, (), 8, samples=1, smoke=False)
    with pytest.raises(Stopped):
        variants.study(start, *flags, table_steps=2)
    return {arm.key: arm for arm in made}


def test_few_pairs_are_repeated_and_all_shown_once_each_with_its_beta(monkeypatch):
    arms = arms_of_study(monkeypatch, True)
    for key in (*WATCHED, *ONE_SIDED):
        assert arms[key].settings["beta"] == variants.BETA_REPEATED
        assert "epochs" not in arms[key].settings  # those of the command line
    assert arms["dpo"].pairs == make_pairs(160)[: variants.REPEATED]
    for key in (*HUMAN_LABELS, *AI_LABELS, "coin"):
        assert len(arms[key].pairs) == 160 and arms[key].settings["epochs"] == 1
        assert arms[key].settings["beta"] == dpo.BETA
    assert arms["kto_singles"].settings["beta"] == variants.BETAS["kto"]
    given = arms_of_study(monkeypatch, True, (), None, 0.7)
    betas = {arm.settings["beta"] for key, arm in given.items() if key != "sft_on_chosen"}
    assert betas == {0.7}


def test_of_own_pairs_all_are_shown_as_often_as_asked(monkeypatch):
    arms = arms_of_study(monkeypatch, False)
    assert list(arms) == ["dpo", "ipo", "kto"]
    assert all(len(arm.pairs) == 160 and "epochs" not in arm.settings for arm in arms.values())
    assert arms["dpo"].settings["beta"] == dpo.BETA
    few = arms_of_study(monkeypatch, True, ("sigmoid", "sft"))  # the world's, but not the study
    assert len(few["sigmoid_sft"].pairs) == variants.REPEATED


def test_every_arm_starts_from_the_checkpoint_with_its_own_settings(monkeypatch):
    started, answered, checkpoint = [], [], ["sft"]

    def method(model, tokenizer, pairs, *, name, look=None, look_at=(), **settings):
        assert model == checkpoint and model is not checkpoint  # a copy: each starts from there
        model.append("trained")
        started.append((name, settings, look is not None, look_at))
        return Trained(f"policy of {name}", None, {}, [])

    def sample(model, tokenizer, prompts, n, max_new_tokens, seed):
        answered.append(model)
        return [["a", "b"]] * len(prompts), {"kl": np.zeros((len(prompts), n))}

    monkeypatch.setattr("support.start.sample_answers", sample)
    changes = {"chosen": np.ones(6), "rejected": np.zeros(6)}
    monkeypatch.setattr(variant_results, "changes_of", lambda *_: changes)
    arms = [
        Arm("dpo", "DPO", method, make_pairs(20), {"beta": 0.3, "epochs": 4}),
        Arm("other", "Other", method, make_pairs(4), {"beta": 0.5}),
    ]
    data = PolicyData(make_pairs(4), make_pairs(6), ["p"] * 6, ["q"], has_gold=True)
    training = {"epochs": 3, "seed": 1, "batch_size": 8}
    start = Start(checkpoint, "tokenizer", data, training, (), 8, samples=1, smoke=False)
    results = run_arms(arms, start, data.held)
    names = ["training 1 of 2: DPO", "training 2 of 2: Other"]
    assert [entry[0] for entry in started] == names
    assert [entry[1]["epochs"] for entry in started] == [4, 3]
    assert [entry[1]["beta"] for entry in started] == [0.3, 0.5]
    assert [entry[2] for entry in started] == [True, False]  # only watched arms are looked at
    assert started[0][3] == (1, 3, 6)  # of 12 steps
    assert answered == [checkpoint, *(f"policy of {name}" for name in names)]
    assert results.measured["other"]["implicit_reward_accuracy"]["mean"] == 1


UTILITY = {
    **{"reference": 0.0, "dpo": 1.0, "ipo": 2.0, "kto": 4.0, "dpo_noise": 8.0, "kto_noise": 16.0},
    **{"dpo_ties": 32.0, "ipo_ties": 64.0, "dpo_one_sided": 128.0, "ipo_one_sided": 256.0},
    **{"kto_singles": 512.0, "ai_labels": 2048.0, "ai_one_order": 4096.0},
    **{"sft_on_chosen": 65536.0, "coin": 131072.0},
    **{"flipped_0": 3.0, "flipped_15": 4.0, "flipped_30": 5.0},
}


@pytest.fixture
def compared(monkeypatch) -> dict:
    """The comparisons of arms with the gold utilities of UTILITY."""
    arms = all_arms(monkeypatch, make_pairs(40))
    names = ("utility", "kl", "good")
    answers = {k: {name: np.full((200, 2), u) for name in names} for k, u in UTILITY.items()}
    measured = {}
    for key, readings in answers.items():
        measured[key] = {name: summary(values.mean(1)) for name, values in readings.items()}
    margins = {"dpo_one_sided": np.full(5, 7.0), "ipo_one_sided": np.full(5, 2.0)}
    texts = {key: [] for key in UTILITY}
    return compare_arms(arms, Results(answers, margins, measured, {}, texts, {}), [])


def test_every_claim_is_about_its_own_difference(compared):
    agreements = [point["agreement"]["mean"] for point in compared["labels"]["human"]]
    # The judge agrees with every label, so that its point lies above the first of the line.
    on_line = np.polyval(np.polyfit(agreements, (3, 4, 5), 1), agreements[0])
    assert mean(compared["differences"]) == pytest.approx(
        {
            "ipo_under_ties": 64 - 32,
            "ipo_on_clean_pairs": 2 - 1,
            "ties_cost_ipo_less": (1 - 32) - (2 - 64),
            "ipo_under_imbalance": 256 - 128,
            "dpo_extreme_margins": 7 - 2,
            "kto_no_pairs": 512,
            "kto_noise": 16 - 8,
            "kto_on_clean_pairs": 4 - 1,
            "noise_costs_kto_less": (1 - 8) - (4 - 16),
            "data_bounds_quality": 3 - 5,
            "rlaif_is_dpo": 2048,
            "rlaif_is_its_judge": 2048 - on_line,
            "one_order_off_line": 4096 - on_line,
            "more_than_sft_on_chosen": 3 - 65536,
            "coin_minus_reference": 131072,
        }
    )
    verdicts = {claim["id"]: claim["verdict"] for claim in judge(variants.CLAIMS, compared)}
    assert len(verdicts) == len(variants.CLAIMS)
    assert verdicts["kto_noise"] == "holds" and verdicts["data_bounds_quality"] == "does not hold"
    assert verdicts["rlaif_is_its_judge"] == "does not hold"


def test_the_judge_is_on_the_line_within_a_stated_distance():
    claim = next(row for row in variants.CLAIMS if row.id == "rlaif_is_its_judge")
    for mean_, verdict in ((0.05, "holds"), (-0.05, "holds"), (0.4, "does not hold")):
        quantity = {"mean": mean_, "ci95": (mean_ - 0.02, mean_ + 0.02)}
        metrics = {"differences": {"rlaif_is_its_judge": quantity}}
        assert judge([claim], metrics)[0]["verdict"] == verdict


def test_label_quality_and_the_points_of_the_frontier(compared):
    human = compared["labels"]["human"]
    agreements = [point["agreement"]["mean"] for point in human]
    assert agreements == sorted(agreements, reverse=True) and agreements[0] > 0.75
    assert [point["arm"] for point in compared["labels"]["judge"]] == list(AI_LABELS)
    points = {point["method"]: point for point in compared["frontier"]}
    assert set(points) == set(FRONTIER.values())
    assert points["IPO"]["gold"]["mean"] == 2 and points["IPO"]["gold"]["count"] == 128
    assert points["AI labels"]["annotations"] == 40 and points["KTO"]["annotations"] == FEW
    assert not any(point["biased"] for point in points.values())


def test_runs_of_several_seeds_merge(compared):
    merged = over_seeds([compared, compared])
    assert merged["frontier"][0]["method"] == compared["frontier"][0]["method"]
    assert merged["differences"]["kto_no_pairs"]["mean"] == 512
