"""dpo_trainer.py: the loss and where it stops, parity with TRL, how what is saved is used."""

import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path

from support.amounts import epochs_looked_at, lost_after_peak
from support.drawing.dpo_training import draw_dpo
from support.evaluation import (
    compare,
    pair_logps,
    readings,
    response_logps,
    win_rate,
)
from support.parity import difference_from_trl
from support.policy_data import split_by_prompt
from support.training import training_settings

import dpo_trainer as dpo
import numpy as np
import pytest
import torch
from helpers import run_script
from rlhf_objectives import kl_regularized_optimum
from tokenizers.processors import TemplateProcessing

from common.cli import UserError
from common.intervals import over_seeds
from common.model_names import find_model, is_embedded
from common.models import (
    encode_prompt,
    encode_response,
    format_prompt,
    load_causal_lm,
)
from common.preferences import make_pairs, questions, write_response
from common.reporting import at, judge, run_checks
from common.sampling import sample

D = torch.float64
EXACT = {"max_iter": 500, "line_search_fn": "strong_wolfe", "tolerance_grad": 1e-12}


def margin_loss(h: torch.Tensor, beta: float) -> torch.Tensor:
    """The loss of a pair whose log-ratio margin is h."""
    zero = torch.zeros_like(h)
    return dpo.dpo_loss(h, zero, zero, zero, beta)


# --- The loss ---


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


STOPS = [(0.8, 0.1, 13.863), (0.6, 0.5, 0.811), (0.9, 1.0, 2.197)]


@pytest.mark.parametrize("p, beta, stop", STOPS)
def test_a_noisy_pair_stops_at_logit_p_over_beta(p, beta, stop):
    h = torch.zeros(1, dtype=D, requires_grad=True)
    optimizer = torch.optim.LBFGS([h], **EXACT)

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
    optimizer = torch.optim.LBFGS([logits], **EXACT)

    def closure():
        optimizer.zero_grad()
        logp, logq = logits.log_softmax(-1), ref.log()
        one = dpo.dpo_loss(logp[i], logp[j], logq[i], logq[j], beta)
        other = dpo.dpo_loss(logp[j], logp[i], logq[j], logq[i], beta)
        loss = (p * one + (1 - p) * other).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    reached = logits.softmax(-1).detach().numpy()
    optimum = kl_regularized_optimum(ref.numpy(), rewards.numpy(), beta)
    assert np.abs(reached - optimum).sum() / 2 < 1e-3
    assert np.abs(reached - ref.numpy()).sum() / 2 > 0.1


def test_implicit_rewards_are_beta_times_the_log_ratio():
    rewards = dpo.implicit_rewards(torch.tensor([-3.0]), torch.tensor([-5.0]), 0.1)
    assert rewards.item() == pytest.approx(0.2)


def test_implicit_reward_accuracy_is_not_likelihood_ranking():
    # The policy raised the rejected response less than the chosen one, yet it stays likelier.
    policy, reference = torch.tensor([[-9.0], [-5.0]]), torch.tensor([[-12.0], [-6.0]])
    rewards = dpo.implicit_rewards(policy, reference, 0.1)
    assert rewards[0] > rewards[1] and policy[0] < policy[1]


# --- TRL ---


@pytest.fixture(scope="module")
def trained():
    """(Trained, tokenizer, pairs) of a few steps at a high rate."""
    pairs = make_pairs(96, seed=5)
    model, tokenizer = load_causal_lm("tiny-gpt2")
    return dpo.train_dpo(model, tokenizer, pairs, learning_rate=3e-3, beta=0.2), tokenizer, pairs


def test_the_open_loss_equals_trl_after_training(trained):
    run, tokenizer, pairs = trained
    policy, reference = pair_logps(run.policy, tokenizer, pairs[:8])
    assert dpo.dpo_loss(*policy, *reference, 0.2).mean().item() < 0.66  # it has left the start
    assert difference_from_trl(dpo.dpo_loss(*policy, *reference, 0.2), run) < 1e-5
    assert difference_from_trl(dpo.dpo_loss(*policy, *reference, 0.1), run) > 1e-3
    assert (
        difference_from_trl(dpo.read_pairs(run.policy, tokenizer, pairs[:8], 0.2)["loss"], run)
        < 1e-5
    )


def test_the_first_loss_is_ln_2_and_margins_grow(trained):
    run, tokenizer, pairs = trained
    assert run.history["loss"][0] == pytest.approx(math.log(2), abs=1e-3)
    held = dpo.read_pairs(run.policy, tokenizer, pairs, 0.2)
    read = {name: values.mean() for name, values in held.items()}
    assert read["margin"] > 0.1 and read["accuracy"] > 0.7
    assert read["margin"] == pytest.approx(0.2 * (read["chosen"] - read["rejected"]), abs=1e-5)
    assert read["loss"] < math.log(2)
    assert len(run.trainer.train_dataset) == len(pairs)  # TRL dropped none


def test_expected_log_ratio_under_the_reference_is_negative(trained):
    # E_ref[beta log pi/pi_ref] = -beta KL(pi_ref || pi): why both rewards may fall below zero.
    run, tokenizer, _ = trained
    policy, prompts = run.policy, [q.prompt for q in questions("test")[:48]] * 4
    with policy.disable_adapter():
        responses = [row[0].token_ids for row in sample(policy, tokenizer, prompts, seed=1)]
        reference = response_logps(policy, tokenizer, prompts, responses)
    ratio = response_logps(policy, tokenizer, prompts, responses) - reference
    assert ratio.mean() < 2 * ratio.std() / math.sqrt(len(ratio))
    error = 4 * ratio.exp().std().item() / math.sqrt(len(ratio)) + 0.02
    assert ratio.exp().mean().item() == pytest.approx(1, abs=error)


def test_plain_peft_loads_the_adapter(trained, tmp_path):
    from peft import PeftModel

    run, tokenizer, pairs = trained
    run.policy.save_pretrained(tmp_path)
    base, _ = load_causal_lm("tiny-gpt2")
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    prompts = [row["prompt"] for row in pairs[:4]]
    texts = prompts, [encode_response(tokenizer, row["chosen"]) for row in pairs[:4]]
    ours, theirs = (response_logps(model, tokenizer, *texts) for model in (run.policy, loaded))
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)
    with loaded.disable_adapter():
        assert (response_logps(loaded, tokenizer, *texts) - ours).abs().max() > 0.05


def test_lora_is_the_tutorials():
    config = dpo.lora_config(load_causal_lm("tiny-gpt2")[0])
    assert (config.r, config.lora_alpha, config.lora_dropout) == (8, 16, 0.1)
    assert set(config.target_modules) == {"c_attn", "c_proj"}


@pytest.mark.parametrize("schedule, last", [("linear", 0.0), ("constant", 1.0)])
def test_the_schedule_of_the_learning_rate(schedule, last):
    model, tokenizer = load_causal_lm("tiny-gpt2")
    pairs = make_pairs(40)
    run = dpo.train_dpo(model, tokenizer, pairs, learning_rate=1e-3, schedule=schedule)
    rates = [entry["learning_rate"] for entry in run.trainer.state.log_history if "loss" in entry]
    assert rates[-1] / 1e-3 == pytest.approx(last, abs=0.25)
    assert (rates[0] == rates[-1]) == (schedule == "constant")


@pytest.mark.parametrize("look_at, steps", [((1, 3), [0, 1, 3, 5]), ((), [0, 1, 2, 3, 4, 5])])
def test_when_a_training_is_looked_at(look_at, steps):
    model, tokenizer = load_causal_lm("tiny-gpt2")
    seen = []

    def look(step: int, policy) -> dict:
        seen.append(step)
        assert hasattr(policy, "disable_adapter")
        return {"x": step}

    watched = {"look": look, "look_at": look_at}
    run = dpo.train_dpo(model, tokenizer, make_pairs(40), learning_rate=1e-4, **watched)
    assert seen == steps and run.curve == [{"step": step, "x": step} for step in steps]


# --- Judging sampled answers ---


def answers_in(style: str, count: int = 40) -> dict[str, np.ndarray]:
    """Readings of answers that are all of one style, two to each prompt."""
    rng = random.Random(0)
    asked = [q for q in questions("test") if q.belief not in (None, q.answer)][:count]
    texts = [[write_response(q, style, rng)] * 2 for q in asked]
    return {**readings([q.prompt for q in asked], texts), "kl": np.zeros((count, 2))}


def test_win_rate_counts_ties_half():
    ours, theirs = np.array([[2.0, 0.0]]), np.array([[1.0, 2.0]])
    assert win_rate(ours, theirs).tolist() == [(1 + 0.5 + 0 + 0) / 4]
    assert win_rate(ours, ours).tolist() == [0.5]
    assert win_rate(ours, theirs)[0] == pytest.approx(1 - win_rate(theirs, ours)[0])


def test_style_and_substance_are_told_apart():
    concise, verbose, wrong = (answers_in(style) for style in ("concise", "verbose", "wrong"))
    style = compare(verbose, concise)
    assert (style["style_change"]["mean"], style["substance_change"]["mean"]) == (1, 0)
    assert style["style_minus_substance"]["mean"] == 1 and style["win_rate"]["mean"] == 1
    substance = compare(wrong, concise)
    assert (substance["style_change"]["mean"], substance["substance_change"]["mean"]) == (0, 1)
    assert compare(concise, wrong)["substance_change"]["mean"] == -1
    assert substance["style_minus_substance"]["mean"] == -1


def test_style_and_substance_are_shares_of_their_own_room():
    """Half of the room is half, however little room there was."""

    def mix(*parts):
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    verbose, wrong = answers_in("verbose", 20), answers_in("wrong", 20)
    concise = answers_in("concise", 20)
    before = mix(verbose, verbose, wrong, concise)  # plain 1/2, right 3/4
    after = mix(verbose, concise, concise, concise)  # plain 3/4, right 1
    changed = compare(before, after)
    assert changed["style_of_room"]["mean"] == pytest.approx(0.5)
    assert changed["substance_of_room"]["mean"] == pytest.approx(1)
    assert changed["style_minus_substance"]["mean"] == pytest.approx(-0.5)


def test_split_needs_two_prompts():
    from datasets import Dataset

    with pytest.raises(UserError, match="at least 2"):
        split_by_prompt(Dataset.from_list([{"prompt": "p"}] * 5), 0)


# --- The right amount ---


def test_what_is_lost_after_the_peak_is_not_made_by_choosing_the_peak():
    """Where nothing changes, the best of noisy looks is no peak; where something does, it is."""
    rng = np.random.default_rng(0)
    level = np.full((8, 4000), 2.0)
    chance = [
        lost_after_peak(level[:, :100] + rng.normal(size=(8, 100)))["mean"] for _ in range(60)
    ]
    assert abs(np.mean(chance)) < 4 * np.std(chance) / math.sqrt(len(chance)) + 0.02
    level += np.array([0, 0.5, 1, 0.5, 0, -0.5, -1, -1.5])[:, None]
    lost = lost_after_peak(level + rng.normal(size=level.shape))
    assert lost["mean"] == pytest.approx(2.5, abs=0.1) and lost["ci95"][0] > 2.3
    rising = lost_after_peak(level[::-1][-3:] + np.arange(3)[:, None])
    assert rising["mean"] <= 0


def test_looks_are_early_and_late():
    assert epochs_looked_at(5) == (0.25, 0.5, 1, 2, 3, 4, 5)
    assert epochs_looked_at(1) == (0.25, 0.5, 1)


# --- Models of other makes ---

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}"
    "{{ eos_token if m['role'] == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def adds_bos(tokenizer):
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id


def no_template(tokenizer):
    tokenizer.chat_template = None


def adds_bos_without_template(tokenizer):
    adds_bos(tokenizer)
    no_template(tokenizer)


def chats(tokenizer):
    tokenizer.chat_template = CHAT


def adds_bos_and_chats(tokenizer):
    adds_bos(tokenizer)
    chats(tokenizer)


def no_pad(tokenizer):
    tokenizer.pad_token = None


def pads_with_eos(tokenizer):
    tokenizer.pad_token = tokenizer.eos_token


MAKES = (no_template, adds_bos_without_template, adds_bos, chats, adds_bos_and_chats)
MAKES += (no_pad, pads_with_eos)


def save_make(make, folder: Path) -> str:
    """The embedded model with another tokenizer, in a folder."""
    model, tokenizer = load_causal_lm("tiny-gpt2")
    make(tokenizer)
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
def test_log_probabilities_are_trls_whatever_the_tokenizer(tmp_path, make):
    model, tokenizer = load_causal_lm(save_make(make, tmp_path / "model"))
    pairs = make_pairs(24, seed=5)
    run = dpo.train_dpo(model, tokenizer, pairs, learning_rate=3e-3)
    rows = run.trainer.train_dataset
    assert len(rows) == 24
    losses = dpo.read_pairs(run.policy, tokenizer, pairs[:8], dpo.BETA)["loss"]
    assert difference_from_trl(losses, run) < 1e-5
    for row, pair in zip(rows, pairs, strict=True):
        assert row["prompt_ids"] == encode_prompt(tokenizer, pair["prompt"])
        assert row["chosen_ids"] == encode_response(tokenizer, pair["chosen"])
    answers = sample(run.policy, tokenizer, [row["prompt"] for row in pairs[:4]], n=2)
    ends = [answer.token_ids.count(tokenizer.eos_token_id) for row in answers for answer in row]
    assert max(ends) <= 1


@pytest.mark.parametrize("make", [None, no_template, adds_bos_without_template])
def test_a_plain_model_reads_question_and_answer(tmp_path, make):
    name = save_make(make, tmp_path) if make else "tiny-gpt2"
    _, tokenizer = load_causal_lm(name)
    for row in make_pairs(50):
        prompt = f"Question: {row['prompt']}\nAnswer:"
        assert encode_prompt(tokenizer, row["prompt"]) == tokenizer(prompt)["input_ids"]
        answer = tokenizer(" " + row["chosen"], add_special_tokens=False)["input_ids"]
        assert encode_response(tokenizer, row["chosen"]) == [*answer, tokenizer.eos_token_id]


def test_a_folder_named_tiny_something_is_not_the_embedded_model(tmp_path, monkeypatch):
    embedded = training_settings("dpo", model="tiny-gpt2")
    for name in ("tiny-mine", "tiny-gpt2-mine", str(tmp_path / "tiny-gpt2"), "./tiny-gpt2"):
        assert not is_embedded(name)
        rate = training_settings("dpo", model=name)["learning_rate"]
        assert rate == training_settings("dpo", model="distilgpt2")["learning_rate"]
        assert rate != embedded["learning_rate"]
    save_make(no_pad, tmp_path / "tiny-mine")
    monkeypatch.chdir(tmp_path)
    assert find_model("tiny-mine") == str(tmp_path / "tiny-mine")


# --- Using what was trained ---


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """outputs/ of a small run with --merge, in a folder whose name needs care."""
    folder = tmp_path_factory.mktemp("saved") / 'it\'s a "folder"'
    folder.mkdir()
    done = run_script("dpo_trainer", "--smoke", "--merge", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "dpo-smoke-merged" in done.stdout
    return folder / "outputs"


def test_the_readme_of_the_adapter_runs_as_it_stands(saved, tmp_path):
    readme = (saved / "dpo-smoke" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(code.splitlines()) <= 11
    (tmp_path / "answer.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-W", "error::SyntaxWarning", "answer.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\w+ \w+", done.stdout) and "Question:" not in done.stdout
    assert len(done.stdout.splitlines()) == 1


def greedy(model, tokenizer, prompt: str) -> str:
    """The greedy answer to a prompt that is formatted as in training."""
    ids = torch.tensor([encode_prompt(tokenizer, prompt)])
    plain = {"do_sample": False, "max_new_tokens": 48, "pad_token_id": tokenizer.pad_token_id}
    answer = model.generate(ids, **plain)[0, ids.shape[1] :]
    return tokenizer.decode(answer, skip_special_tokens=True)


@pytest.mark.parametrize("merged", [False, True])
def test_a_pipeline_formats_prompts_as_training_did(saved, merged):
    import transformers

    folder = str(saved / "dpo-smoke-merged") if merged else find_model("tiny-gpt2")
    pipe = transformers.pipeline("text-generation", model=folder, device="cpu")
    model, tokenizer = load_causal_lm("tiny-gpt2")
    if merged:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    for question in questions("test")[:5]:
        chat = [{"role": "user", "content": question.prompt}]
        (said,) = pipe(chat, do_sample=False, max_new_tokens=48)
        assert said["generated_text"][-1]["content"] == greedy(model, tokenizer, question.prompt)
        assert format_prompt(pipe.tokenizer, question.prompt) == (
            f"Question: {question.prompt}\nAnswer:"
        )


def test_the_merged_model_is_the_policy(saved):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    _, tokenizer = load_causal_lm("tiny-gpt2")
    exact = {"dtype": torch.float32}  # the embedded model is stored in half precision
    policy = AutoPeftModelForCausalLM.from_pretrained(saved / "dpo-smoke", **exact)
    merged = AutoModelForCausalLM.from_pretrained(saved / "dpo-smoke-merged", **exact)
    pairs = make_pairs(8)
    texts = (
        [row["prompt"] for row in pairs],
        [encode_response(tokenizer, r["chosen"]) for r in pairs],
    )
    ours, theirs = (response_logps(model.eval(), tokenizer, *texts) for model in (policy, merged))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    with policy.disable_adapter():
        assert (response_logps(policy, tokenizer, *texts) - ours).abs().max() > 1e-4


def test_what_every_method_is_compared_by(saved):
    """`frontier.py` reads these; the SFT checkpoint is where all start."""
    metrics = json.loads((saved / "dpo_training-smoke.json").read_text())["metrics"]
    rows = metrics["frontier"]
    assert rows[0]["method"] == "SFT" and rows[0]["kl"]["mean"] == 0
    assert {row["method"] for row in rows[1:]} == {"DPO", "on-policy DPO"}
    assert {row["biased"] for row in rows} == {True, False}
    for row in rows:
        for name in ("kl", "gold", "good"):
            assert set(row[name]) >= {"mean", "ci95"}
        assert row["annotations"] in ((0,) if row["method"] == "SFT" else (7, 14, 21, 64))


def test_the_figure_of_several_seeds_and_beside_the_default(saved, tmp_path):
    metrics = json.loads((saved / "dpo_training-smoke.json").read_text())["metrics"]
    draw_dpo(over_seeds([metrics] * 3), metrics).save(tmp_path / "seeds.png", "three seeds")
    older = {"policy": {}}  # results of another version
    draw_dpo(metrics, older).save(tmp_path / "older.png")
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_every_claim_has_its_quantity_over_seeds(saved):
    metrics = json.loads((saved / "dpo_training-smoke.json").read_text())["metrics"]
    merged = over_seeds([metrics, metrics])
    assert len(judge(dpo.CLAIMS, merged)) == len(dpo.CLAIMS) == 10
    for claim in dpo.CLAIMS:
        assert at(merged, claim.path)["by_seed"] == [at(metrics, claim.path)["mean"]] * 2
        assert claim.smallest > 0
    assert all(check["passes"] for check in run_checks(dpo.CHECKS, metrics))


def test_own_pairs_may_ask_questions_of_the_world(saved, tmp_path):
    """Then answers have readings of gold, but nothing was trained beyond the default."""
    metrics = json.loads((saved / "dpo_training-smoke.json").read_text())["metrics"]
    own = {key: value for key, value in metrics.items() if key not in ("amounts", "log_odds")}
    own["second_look"] = {"numbers": {}, "questions": []}
    assert "good" in own["policy"] and "no gold standard" in dpo.findings(own)[-1]
    draw_dpo(own).save(tmp_path / "own.png")
    assert (tmp_path / "own.png").is_file()
