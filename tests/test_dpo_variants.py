"""dpo_variants.py: its losses against known answers and against TRL's, the judge, the command."""

import json
import math

import dpo_variants as variants
import numpy as np
import pytest
import torch
from datasets import Dataset
from dpo_trainer import dpo_loss

from common import runs, training
from common.models import load_causal_lm
from common.preferences import make_pairs, make_unpaired, swap_sides
from common.prompts import encode_response
from common.scoring import pair_logps, response_logps

D = torch.float64
PAIRS = make_pairs(64, seed=3)
ZERO = torch.zeros(1, dtype=D)


# --- The losses: known answers ---


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_ipo_starts_at_its_known_value_and_stops_at_half_over_beta(beta):
    logps = torch.randn(2, 4, dtype=D)
    loss = variants.ipo_loss(*logps, *logps, beta)
    torch.testing.assert_close(loss, torch.full((4,), 1 / (4 * beta**2), dtype=D))
    h = torch.tensor([1 / (2 * beta)], dtype=D, requires_grad=True)
    stop = variants.ipo_loss(h, ZERO, ZERO, ZERO, beta)
    assert stop.item() == pytest.approx(0)
    assert torch.autograd.grad(stop, h)[0].item() == pytest.approx(0)
    swapped = variants.ipo_loss(ZERO, h.detach(), ZERO, ZERO, beta)
    assert swapped.item() == pytest.approx(1 / beta**2)


def test_worked_ipo_loss():
    logps = [torch.tensor([x], dtype=D) for x in (-4.0, -9.0, -6.0, -6.0)]
    # sums: h = (-4 + 6) - (-9 + 6) = 5; per token of 2 and 6: 1 + 0.5 = 1.5
    # the target is 1 / (2 * 0.25) = 2
    assert variants.ipo_loss(*logps, 0.25).item() == pytest.approx(9)
    lengths = (torch.tensor([2]), torch.tensor([6]))
    assert variants.ipo_loss(*logps, 0.25, *lengths).item() == pytest.approx(0.25)


def test_worked_kto_loss():
    policy, reference = torch.tensor([-3.0, -3.0], dtype=D), torch.tensor([-5.0, -5.0], dtype=D)
    loss = variants.kto_loss(policy, reference, torch.tensor([True, False]), 0.5, 0.2, 2.0, 3.0)
    # both log-ratios are 2, above the reference point by 1.5: beta * 1.5 = 0.3
    assert loss[0].item() == pytest.approx(2 * (1 - 1 / (1 + math.exp(-0.3))))
    assert loss[1].item() == pytest.approx(3 * (1 - 1 / (1 + math.exp(0.3))))


def test_kto_raises_good_and_lowers_bad_answers():
    policy = torch.full((2,), -4.0, dtype=D, requires_grad=True)
    labels, ref = torch.tensor([True, False]), torch.full((2,), -4.0, dtype=D)
    variants.kto_loss(policy, ref, labels, 0.0, 0.4, 3.0, 2.0).sum().backward()
    # At the start sigmoid' = 1/4: minus w beta / 4 for good, plus w beta / 4 for bad.
    np.testing.assert_allclose(policy.grad.numpy(), [-0.3, 0.2], rtol=1e-6)


def test_conservative_dpo_is_dpo_on_labels_of_which_one_in_ten_is_wrong():
    chosen, rejected, zero = torch.randn(5, dtype=D), torch.randn(5, dtype=D), torch.zeros(5)
    ours = variants.cdpo_loss(chosen, rejected, zero, zero, 0.5)
    right, wrong = (
        dpo_loss(*pair, zero, zero, 0.5) for pair in ((chosen, rejected), (rejected, chosen))
    )
    torch.testing.assert_close(ours, 0.9 * right + 0.1 * wrong)


# Where gradient descent stops on one pair that wins in a share p, by the theory.
STOPS = {
    (dpo_loss, 0.8): math.log(4) / 0.1,
    (variants.cdpo_loss, 1.0): math.log(9) / 0.1,
    (variants.ipo_loss, 1.0): 5.0,
    (variants.ipo_loss, 0.8): 3.0,  # (p - 1/2) / beta
}


def train_table(loss, p: float, steps: int, beta: float = 0.1) -> float:
    """The margin after gradient descent on the expected loss; the policy is a softmax over two."""
    logits = torch.zeros(2, dtype=D, requires_grad=True)
    zero, rate = torch.zeros((), dtype=D), None
    for _ in range(steps):
        logps = logits.log_softmax(-1)
        won, lost = (loss(*sides, zero, zero, beta) for sides in (logps, logps.flip(0)))
        (gradient,) = torch.autograd.grad(p * won + (1 - p) * lost, logits)
        rate = rate or 0.1 / (gradient[1] - gradient[0]).item()  # the first step moves h by 0.1
        logits = (logits - rate * gradient).detach().requires_grad_()
    return (logits[0] - logits[1]).item()


@pytest.mark.parametrize("loss, p", STOPS)
def test_training_on_one_pair_stops_where_the_theory_says(loss, p):
    assert train_table(loss, p, 5000) == pytest.approx(STOPS[loss, p], abs=1e-2)


def test_on_a_pair_that_always_wins_dpo_never_stops():
    grown = train_table(dpo_loss, 1.0, 2000) - train_table(dpo_loss, 1.0, 1000)
    assert grown == pytest.approx(math.log(2) / 0.1, rel=0.1)  # as log(steps) / beta


# --- The losses: TRL's on the same batch ---


@pytest.fixture
def trainer_of(monkeypatch):
    """The trainer that a training function makes, not trained; its adapter moved away from 0."""
    made = []

    def stop(trainer, *_, **__) -> list:
        made.append(trainer)
        return []

    monkeypatch.setattr(training, "run_trainer", stop)

    def make(losses, rows, spread: float = 0.05, **settings):
        model, tokenizer = load_causal_lm("tiny-gpt2")
        variants.train_variant(losses, model, tokenizer, rows, name="test", **settings)
        trainer, generator = made[-1], torch.Generator().manual_seed(0)
        for name, weights in trainer.model.named_parameters():
            if "lora_B" in name:
                weights.data.normal_(0, 1, generator=generator).mul_(spread)
        trainer.model.eval()
        return trainer, tokenizer

    return make


def loss_of(trainer, count: int) -> float:
    """The trainer's loss on its first rows."""
    batch = trainer.data_collator([trainer.train_dataset[k] for k in range(count)])
    with torch.no_grad():
        return trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)).item()


def inputs_of(trainer, tokenizer, pairs: list[dict]) -> dict:
    """What a loss of pairs takes for these, apart from beta."""
    policy, reference = pair_logps(trainer.model, tokenizer, pairs)
    names = ("policy_chosen_logps", "policy_rejected_logps", "ref_chosen_logps")
    inputs = dict(zip((*names, "ref_rejected_logps"), (*policy, *reference), strict=True))
    for side in ("chosen", "rejected"):
        lengths = [len(encode_response(tokenizer, row[side], row["prompt"])) for row in pairs]
        inputs[f"{side}_lengths"] = torch.tensor(lengths)
    return inputs


STARTS = {"sigmoid": math.log(2), "hinge": 1, "ipo": 1 / 4, "kto": 0.5, "cdpo": math.log(2)}


@pytest.mark.parametrize("loss", STARTS)
def test_where_the_losses_start(loss, trainer_of):
    trainer, _ = trainer_of((loss,), PAIRS[:4], spread=0.0)
    assert loss_of(trainer, 4) == pytest.approx(STARTS[loss], abs=1e-5)


@pytest.mark.parametrize("epochs", [1, 2])  # in two passes the reference is read once, beforehand
def test_ipo_loss_is_trls_and_no_other_is(epochs, trainer_of):
    trainer, tokenizer = trainer_of(("ipo",), PAIRS[:8], epochs=epochs)
    assert trainer.beta == 1.0 and trainer.precompute_ref_logps == (epochs == 2)
    inputs, trls = {**inputs_of(trainer, tokenizer, PAIRS[:8]), "beta": 1.0}, loss_of(trainer, 8)
    assert variants.ipo_loss(**inputs).mean().item() == pytest.approx(trls, abs=1e-5)
    lengths = {side: inputs[f"{side}_lengths"] for side in ("chosen", "rejected")}
    wrong = (
        {"chosen_lengths": 1, "rejected_lengths": 1},  # sums
        {"chosen_lengths": lengths["rejected"], "rejected_lengths": lengths["chosen"]},
        {"chosen_lengths": lengths["chosen"] - 1},  # EOS left out
        {"beta": 0.5},
    )
    for change in wrong:
        ours = variants.ipo_loss(**{**inputs, **change}).mean().item()
        assert abs(ours - trls) > 1e-4, change


@pytest.mark.parametrize("loss", ["robust", "hinge"])
def test_other_losses_of_trl_are_what_their_names_say(loss, trainer_of):
    trainer, tokenizer = trainer_of((loss,), PAIRS[:8])
    inputs = inputs_of(trainer, tokenizer, PAIRS[:8])
    chosen, rejected, *ref = list(inputs.values())[:4]
    right = dpo_loss(chosen, rejected, *ref, 0.3)
    wrong = dpo_loss(rejected, chosen, *ref[::-1], 0.3)
    h = (chosen - ref[0]) - (rejected - ref[1])
    ours = {"hinge": torch.relu(1 - 0.3 * h), "robust": (0.9 * right - 0.1 * wrong) / 0.8}[loss]
    assert ours.mean().item() == pytest.approx(loss_of(trainer, 8), abs=1e-5)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_loss_of_this_file_trains_as_it_stands(epochs, trainer_of, monkeypatch):
    trainer, tokenizer = trainer_of(("cdpo",), PAIRS[:8], epochs=epochs)
    inputs = inputs_of(trainer, tokenizer, PAIRS[:8])
    ours = variants.cdpo_loss(*list(inputs.values())[:4], 0.3).mean().item()
    assert ours == pytest.approx(loss_of(trainer, 8), abs=1e-5)
    monkeypatch.setitem(variants.OWN_LOSSES, "cdpo", variants.ipo_loss)  # the lengths arrive, too
    trainer, tokenizer = trainer_of(("cdpo",), PAIRS[:8], beta=1.0, epochs=epochs)
    trls, _ = trainer_of(("ipo",), PAIRS[:8])
    assert loss_of(trainer, 8) == pytest.approx(loss_of(trls, 8), abs=1e-5)


def kto_inputs(trainer, tokenizer, count: int) -> dict:
    """What `kto_loss` takes for the first rows.

    For the reference point every prompt gets the answer to the prompt before it.
    """
    rows = [trainer.train_dataset[k] for k in range(count)]
    prompts = [row["prompt_ids"] for row in rows]
    answers = [row["completion_ids"] for row in rows]
    mismatched = answers[-1:] + answers[:-1]
    logps = response_logps(trainer.model, tokenizer, prompts, answers)
    kl_logps = response_logps(trainer.model, tokenizer, prompts, mismatched)
    with trainer.model.disable_adapter():
        ref_logps = response_logps(trainer.model, tokenizer, prompts, answers)
        kl = (kl_logps - response_logps(trainer.model, tokenizer, prompts, mismatched)).mean()
    labels = torch.tensor([row["label"] for row in rows])
    weight = trainer.desirable_weight
    return {"policy_logps": logps, "ref_logps": ref_logps, "labels": labels, "kl": kl} | {
        "beta": trainer.beta,
        "desirable_weight": weight,
    }


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("spread", [0.003, -0.003])  # a reference point above 0, and one below
def test_kto_loss_is_trls_and_both_kinds_count_alike(epochs, spread, trainer_of):
    rows = make_unpaired(PAIRS[:8])
    rows = [row | {"label": k in (1, 2, 4, 9, 12)} for k, row in enumerate(rows)]
    trainer, tokenizer = trainer_of(("kto",), rows, spread, epochs=epochs)
    assert trainer.args.per_device_train_batch_size == 16
    inputs, trls = kto_inputs(trainer, tokenizer, 16), loss_of(trainer, 16)
    assert inputs["desirable_weight"] == pytest.approx(11 / 5)
    labels = inputs["labels"].tolist()
    assert labels != [row["label"] for row in rows] and sum(labels) == 5  # shuffled
    seen, inputs["kl"] = inputs["kl"].item(), inputs["kl"].clamp(min=0)
    assert abs(seen) > 1e-4
    assert variants.kto_loss(**inputs).mean().item() == pytest.approx(trls, abs=1e-5)
    for change in ({"labels": ~inputs["labels"]}, {"desirable_weight": 1.0}):
        assert abs(variants.kto_loss(**{**inputs, **change}).mean().item() - trls) > 3e-5, change


def test_rows_for_kto_are_the_answers_of_the_pairs_with_their_labels():
    data = variants.single_answers(PAIRS[:8], 3)
    assert len(data) == 16 and sum(data["label"]) == 8
    assert list(data["label"]) != [True, False] * 8
    label_of = {}
    for row in data:
        text = row["prompt"][0]["content"], row["completion"][0]["content"]
        label_of[text] = row["label"]
    for pair in PAIRS[:8]:
        assert label_of[pair["prompt"], pair["chosen"]]
        assert not label_of[pair["prompt"], pair["rejected"]]


# --- What is trained ---


def test_dpo_stands_beside_every_loss_but_not_beside_answers_with_a_label():
    def names(*losses: str) -> list[str]:
        return [name for name, _, _ in variants.choose_variants(losses, PAIRS)]

    assert names() == ["DPO", "IPO", "KTO"] and names("sigmoid") == ["DPO"]
    assert names("sigmoid", "sft") == ["DPO", "sigmoid+sft"] and names("cdpo") == ["DPO", "cdpo"]
    rows = make_unpaired(PAIRS[:4])
    assert variants.choose_variants(("kto",), rows) == [("kto", ("kto",), rows)]


def test_training_with_each_kind_of_loss_raises_good_answers_over_bad_ones():
    model, tokenizer = load_causal_lm("tiny-gpt2")
    for losses in (("cdpo",), ("kto",), ("sigmoid", "sft")):
        settings = {"learning_rate": 3e-3, "name": losses[0]}
        policy, history = variants.train_variant(losses, model, tokenizer, PAIRS, **settings)
        assert len(history) == 8 and all(math.isfinite(row["loss"]) for row in history)
        changes = variants.changes_of(policy, tokenizer, PAIRS)
        margin = (changes["chosen"] - changes["rejected"]).mean()
        assert margin > 0.3, losses
        swapped = variants.changes_of(policy, tokenizer, [swap_sides(row) for row in PAIRS])
        other = (swapped["chosen"] - swapped["rejected"]).mean()
        assert other == pytest.approx(-margin, abs=1e-5)
    assert not hasattr(model, "peft_config")  # every variant starts from the same model


def test_changes_of_labelled_answers_are_those_of_the_pairs():
    model, tokenizer = load_causal_lm("tiny-gpt2")
    settings = {"learning_rate": 3e-3, "name": "DPO"}
    policy, _ = variants.train_variant(("sigmoid",), model, tokenizer, PAIRS[:16], **settings)
    of_pairs = variants.changes_of(policy, tokenizer, PAIRS[:6])
    rows = Dataset.from_list(make_unpaired(PAIRS[:6]))
    of_answers = variants.changes_of(policy, tokenizer, rows)
    for side in ("chosen", "rejected"):
        np.testing.assert_allclose(of_answers[side], of_pairs[side], atol=1e-4)


def test_margins_are_told_by_their_mean_share_above_0_and_spread(monkeypatch, capsys):
    model, tokenizer = load_causal_lm("tiny-gpt2")
    changes = {"chosen": np.arange(101.0), "rejected": np.full(101, 30.0)}
    monkeypatch.setattr(variants, "train_variant", lambda *_, **__: (model, [{"loss": 0.7}]))
    monkeypatch.setattr(variants, "changes_of", lambda *_: changes)
    trained, sampling = [("DPO", ("sigmoid",), PAIRS)], ([PAIRS[0]["prompt"]], 1)
    how = PAIRS, sampling, {"learning_rate": 1e-3}
    measured, answers, last = variants.train_and_judge(trained, model, tokenizer, *how)
    h = measured["DPO"]
    assert (h["margin"], h["ranked"]) == (20, 70 / 101) and h["margins"] == [-25, -5, 20, 45, 65]
    assert last is changes and answers.texts[0][0][:20] in capsys.readouterr().out


# --- The judge ---


@pytest.mark.parametrize("b", [-2.0, 0.5, 3.0])
def test_averaging_both_orders_cancels_the_position_bias(b):
    def averaged(d: float, bias: float) -> float:
        forward, backward = (1 / (1 + math.exp(-x)) for x in (d + bias, -d + bias))
        return variants.averaged_preference(forward, backward)

    assert averaged(0.0, b) == pytest.approx(0.5, abs=1e-12)
    assert averaged(1.0, b) > 0.5 > averaged(-1.0, b)
    assert averaged(1.0, 1e-4) == pytest.approx(averaged(1.0, 0.0), abs=1e-8)  # no first-order term


def test_the_judge_sees_both_orders(monkeypatch):
    shown = []

    def first_better(model, tokenizer, asked):
        shown.extend(asked)
        return torch.linspace(0, 1, len(asked)), torch.ones(len(asked))

    monkeypatch.setattr(variants.scoring, "judge_first_better", first_better)
    pair = {"prompt": "p", "chosen": "good", "rejected": "bad"}
    labelled = variants.label_with_judge(None, None, [pair])  # it said B, then A: the bad one
    assert "A: good\nB: bad" in shown[0] and "A: bad\nB: good" in shown[1]
    assert labelled == [{"prompt": "p", "chosen": "bad", "rejected": "good"}]


def test_the_embedded_model_is_a_judge():
    labelled = variants.label_with_judge(*load_causal_lm("tiny-gpt2"), PAIRS)
    gaps = np.array([row["chosen_utility"] - row["rejected_utility"] for row in labelled])
    assert (gaps[np.abs(gaps) > 1] > 0).mean() > 0.65


# --- The command ---


def test_the_command(tmp_path, capsys):
    metrics = variants.main(["--smoke", "--output-dir", str(tmp_path)])
    assert list(metrics["variants"]) == ["SFT", "DPO", "IPO", "KTO", "AI labels"]
    starts = [of.get("first_loss") for of in metrics["variants"].values()]
    assert starts[1:4] == pytest.approx([math.log(2), 0.25, 0.5], abs=1e-3)
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) <= 25 and "right and concise" in printed
    saved = json.loads((tmp_path / "dpo_variants-smoke.json").read_text())
    assert saved["metrics"] == json.loads(json.dumps(metrics))
    assert (tmp_path / "dpo_variants-smoke.png").stat().st_size > 20_000


def test_losses_of_single_answers_stand_alone(tmp_path):
    with pytest.raises(runs.UserError, match="cannot be part of a sum"):
        variants.main(["--loss-type", "kto", "sft", "--output-dir", str(tmp_path)])


@pytest.mark.parametrize("labelled", [True, False])
def test_the_command_on_own_data(labelled, tmp_path, capsys):
    rows = make_pairs(48, seed=1)
    sides = ("chosen", "rejected")
    rows = [{"prompt": f"Well, {r['prompt']}", **{s: r[s] for s in sides}} for r in rows]
    rows = make_unpaired(rows) if labelled else rows
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--smoke", "--dataset", str(file), "--output-dir", str(tmp_path / "out")]
    metrics = variants.main([*flags, "--loss-type", "kto"])
    assert list(metrics["variants"]) == ["SFT", *([] if labelled else ["DPO"]), "kto"]
    assert "good" not in metrics["variants"]["kto"]
    assert "right and concise" not in capsys.readouterr().out
