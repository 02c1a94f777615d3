"""dpo_trainer.py: the loss and its stops, tabular DPO against the closed form, parity with TRL, the saved adapter."""

import math

import dpo_trainer as dpo
import numpy as np
import pytest
import torch
from evaluation import compare, judge_responses, response_logps, win_rate
from own_pairs import split_by_prompt
from rlhf_objectives import kl_regularized_optimum
from tokenizers.processors import TemplateProcessing

from common.cli import UserError
from common.models import load_causal_lm, sample
from common.preferences import make_pairs, questions, write_response

D = torch.float64


def margin_loss(h: torch.Tensor, beta: float) -> torch.Tensor:
    """The loss of a pair whose log-ratio margin is h."""
    zero = torch.zeros_like(h)
    return dpo.dpo_loss(h, zero, zero, zero, beta)


# ---------------------------------------------------------------------------------------------------------
# The loss
# ---------------------------------------------------------------------------------------------------------


def test_loss_is_ln_2_at_the_reference_and_per_pair():
    logps = torch.randn(2, 5, dtype=D)
    loss = dpo.dpo_loss(*logps, *logps, 0.3)
    torch.testing.assert_close(loss, torch.full((5,), math.log(2), dtype=D))


def test_worked_loss():
    values = [torch.tensor([x], dtype=D) for x in (-4.0, -7.0, -5.0, -6.0)]
    # h = (-4 + 5) - (-7 + 6) = 2, beta h = 0.2
    assert dpo.dpo_loss(*values, 0.1).item() == pytest.approx(math.log1p(math.exp(-0.2)), abs=1e-12)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_gradient_at_the_start_is_minus_half_beta(beta):
    h = torch.zeros(1, dtype=D, requires_grad=True)
    margin_loss(h, beta).sum().backward()
    assert h.grad.item() == pytest.approx(-beta / 2, abs=1e-12)


@pytest.mark.parametrize("p, beta, stop", [(0.8, 0.1, 13.863), (0.6, 0.5, 0.811), (0.9, 1.0, 2.197)])
def test_a_noisy_pair_stops_at_logit_p_over_beta(p, beta, stop):
    h = torch.zeros(1, dtype=D, requires_grad=True)
    optimizer = torch.optim.LBFGS([h], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = (p * margin_loss(h, beta) + (1 - p) * margin_loss(-h, beta)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert h.item() == pytest.approx(stop, abs=1e-3)
    assert h.item() == pytest.approx(math.log(p / (1 - p)) / beta, abs=1e-3)


def test_a_certain_pair_never_stops():
    h = torch.tensor([0.0, 10.0, 100.0, 300.0], dtype=D, requires_grad=True)
    margin_loss(h, 0.1).sum().backward()
    assert (h.grad < 0).all()


def test_conservative_labels_stop_at_logit_of_their_certainty():
    # p = 1 with labels smoothed by 0.1 is the loss of p = 0.9: it stops at logit(0.9)/0.1 = 21.972.
    h = torch.tensor([21.972], dtype=D, requires_grad=True)
    (0.9 * margin_loss(h, 0.1) + 0.1 * margin_loss(-h, 0.1)).sum().backward()
    assert abs(h.grad.item()) < 1e-6


def test_tabular_dpo_reaches_the_kl_regularised_optimum():
    rewards = torch.tensor([1.0, -0.5, 0.3, 2.0], dtype=D)
    ref = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=D)
    beta, i, j = 0.7, *torch.combinations(torch.arange(4)).T
    p = torch.sigmoid(rewards[i] - rewards[j])
    logits = ref.log().clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        logp, logq = logits.log_softmax(-1), ref.log()
        one = dpo.dpo_loss(logp[i], logp[j], logq[i], logq[j], beta)
        other = dpo.dpo_loss(logp[j], logp[i], logq[j], logq[i], beta)
        loss = (p * one + (1 - p) * other).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = logits.softmax(-1).detach().numpy()
    optimum = kl_regularized_optimum(ref.numpy(), rewards.numpy(), beta)
    assert np.abs(found - optimum).sum() / 2 < 1e-3
    assert np.abs(found - ref.numpy()).sum() / 2 > 0.1


def test_implicit_rewards_are_beta_times_the_log_ratio():
    rewards = dpo.implicit_rewards(torch.tensor([-3.0]), torch.tensor([-5.0]), 0.1)
    assert rewards.item() == pytest.approx(0.2)


def test_implicit_reward_accuracy_is_not_likelihood_ranking():
    # The policy raised the rejected response less than the chosen one, yet it stays the likelier text.
    policy, reference = torch.tensor([[-9.0], [-5.0]]), torch.tensor([[-12.0], [-6.0]])
    rewards = dpo.implicit_rewards(policy, reference, 0.1)
    assert rewards[0] > rewards[1] and policy[0] < policy[1]


# ---------------------------------------------------------------------------------------------------------
# TRL
# ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dpo")
    args = dpo.build_parser().parse_args(["--output-dir", str(folder), "--learning-rate", "0.003", "--beta", "0.2"])
    pairs = make_pairs(96, seed=5)
    trainer, tokenizer, _ = dpo.fit(args, "cpu", pairs)
    dpo.save_trained(folder / "dpo", dpo.training_key(args), trainer.model, tokenizer)
    return trainer, tokenizer, pairs, folder


def test_the_open_loss_equals_trl_after_training(trained):
    trainer, tokenizer, pairs, _ = trained
    policy, reference = dpo.pair_logps(trainer.model, tokenizer, pairs[:8])
    assert dpo.dpo_loss(*policy, *reference, 0.2).mean().item() < 0.66  # the batch is not at its starting point
    assert dpo.check_against_trl(trainer, tokenizer, pairs[:8], 0.2) < 1e-5
    assert dpo.check_against_trl(trainer, tokenizer, pairs[:8], 0.1) > 1e-3


def test_the_first_loss_is_ln_2_and_margins_grow(trained):
    trainer, tokenizer, pairs, _ = trained
    log = dpo.history(trainer)
    assert log["loss"][0] == pytest.approx(math.log(2), abs=1e-3)
    rewards = dpo.held_out_rewards(trainer.model, tokenizer, pairs, 0.2)
    assert rewards["margin"]["mean"] > 0.1 and rewards["implicit_reward_accuracy"]["mean"] > 0.7
    assert len(trainer.train_dataset) == len(pairs)  # TRL dropped none


def test_expected_log_ratio_under_the_reference_is_negative(trained):
    # E_ref[beta log pi/pi_ref] = -beta KL(pi_ref || pi): why the rewards of both sides may fall below zero.
    from common.models import sample

    trainer, tokenizer, *_ = trained
    policy, prompts = trainer.model, [q.prompt for q in questions("test")[:48]] * 4
    with policy.disable_adapter():
        responses = [row[0].token_ids for row in sample(policy, tokenizer, prompts, seed=1)]
        reference = response_logps(policy, tokenizer, prompts, responses)
    ratio = response_logps(policy, tokenizer, prompts, responses) - reference
    assert ratio.mean() < 2 * ratio.std() / math.sqrt(len(ratio))
    assert ratio.exp().mean().item() == pytest.approx(
        1, abs=4 * ratio.exp().std().item() / math.sqrt(len(ratio)) + 0.02
    )


def test_plain_peft_loads_the_adapter(trained):
    from peft import PeftModel

    from common.models import encode_response, load_causal_lm

    trainer, tokenizer, pairs, folder = trained
    base, _ = load_causal_lm("tiny-gpt2")
    loaded = PeftModel.from_pretrained(base, folder / "dpo").eval()
    prompts = [row["prompt"] for row in pairs[:4]]
    responses = [encode_response(tokenizer, row["chosen"]) for row in pairs[:4]]
    ours = response_logps(trainer.model, tokenizer, prompts, responses)
    torch.testing.assert_close(response_logps(loaded, tokenizer, prompts, responses), ours, atol=1e-4, rtol=0)
    with loaded.disable_adapter():
        assert (response_logps(loaded, tokenizer, prompts, responses) - ours).abs().max() > 0.05


def test_lora_is_the_tutorials():
    from common.models import load_causal_lm

    config = dpo.lora_config(load_causal_lm("tiny-gpt2")[0])
    assert (config.r, config.lora_alpha, config.lora_dropout) == (8, 16, 0.1)
    assert set(config.target_modules) == {"c_attn", "c_proj"}


# ---------------------------------------------------------------------------------------------------------
# Judging sampled answers
# ---------------------------------------------------------------------------------------------------------


def readings(style: str, count: int = 40) -> dict[str, np.ndarray]:
    import random

    rng = random.Random(0)
    asked = [q for q in questions("test") if q.belief not in (None, q.answer)][:count]
    found = judge_responses([q.prompt for q in asked], [[write_response(q, style, rng)] * 2 for q in asked])
    return {**found, "kl": np.zeros((count, 2))}


def test_win_rate_counts_ties_half():
    ours, theirs = np.array([[2.0, 0.0]]), np.array([[1.0, 2.0]])
    assert win_rate(ours, theirs).tolist() == [(1 + 0.5 + 0 + 0) / 4]
    assert win_rate(ours, ours).tolist() == [0.5]
    assert win_rate(ours, theirs)[0] == pytest.approx(1 - win_rate(theirs, ours)[0])


def test_style_and_substance_are_told_apart():
    concise, verbose, wrong = readings("concise"), readings("verbose"), readings("wrong")
    style = compare(verbose, concise)
    assert (style["style_change"]["mean"], style["substance_change"]["mean"]) == (1, 0)
    assert style["style_minus_substance"]["mean"] == 1 and style["win_rate"]["mean"] == 1
    substance = compare(wrong, concise)
    assert (substance["style_change"]["mean"], substance["substance_change"]["mean"]) == (0, 1)
    assert compare(concise, wrong)["substance_change"]["mean"] == -1
    assert substance["style_minus_substance"]["mean"] == -1


def test_split_needs_two_prompts():
    from datasets import Dataset

    with pytest.raises(UserError, match="at least 2"):
        split_by_prompt(Dataset.from_list([{"prompt": "p"}] * 5), 0)


# ---------------------------------------------------------------------------------------------------------
# Models of other makes
# ---------------------------------------------------------------------------------------------------------

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token if m['role'] == 'assistant' }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def adds_bos(tokenizer):
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id


MAKES = {
    "adds bos": adds_bos,
    "no pad": lambda tokenizer: setattr(tokenizer, "pad_token", None),
    "pad is eos": lambda tokenizer: setattr(tokenizer, "pad_token", tokenizer.eos_token),
    "chat template": lambda tokenizer: setattr(tokenizer, "chat_template", CHAT),
    "bos and chat template": lambda tokenizer: (adds_bos(tokenizer), setattr(tokenizer, "chat_template", CHAT)),
}


@pytest.mark.parametrize("make", MAKES)
def test_log_probabilities_are_trls_whatever_the_tokenizer(tmp_path, make):
    model, tokenizer = load_causal_lm("tiny-gpt2")
    MAKES[make](tokenizer)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    flags = ["--output-dir", str(tmp_path), "--learning-rate", "0.003", "--model", str(tmp_path / "model")]
    args = dpo.build_parser().parse_args([*flags, "--sft-steps", "0"])
    pairs = make_pairs(24, seed=5)
    trainer, tokenizer, _ = dpo.fit(args, "cpu", pairs)
    assert len(trainer.train_dataset) == 24
    assert dpo.check_against_trl(trainer, tokenizer, pairs[:8], args.beta) < 1e-5
    answers = sample(trainer.model, tokenizer, [row["prompt"] for row in pairs[:4]], n=2)
    assert all(response.token_ids.count(tokenizer.eos_token_id) <= 1 for row in answers for response in row)
