"""dpo_trainer.py: the loss and where it stops, parity with TRL, what is saved and gone on with."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import dpo_trainer as dpo
import numpy as np
import pytest
import torch
from helpers import SCRIPTS, run_script
from rlhf_objectives import kl_regularized_optimum
from safetensors.numpy import load_file
from tokenizers.processors import TemplateProcessing

from common.models import load_causal_lm
from common.preferences import make_pairs, questions
from common.prompts import encode_prompt, encode_response, format_prompt
from common.runs import UserError
from common.sampling import sample
from common.scoring import pair_logps, response_logps

D = torch.float64
EXACT = {"max_iter": 500, "line_search_fn": "strong_wolfe", "tolerance_grad": 1e-12}
ADAPTER = "adapter_model.safetensors"


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


# --- TRL ---


class Watched:
    """A DPO training of which the trainer is kept, for its batches and its loss."""

    def __init__(self, monkeypatch, model, tokenizer, pairs, **settings):
        import trl

        made = []

        class Kept(trl.DPOTrainer):
            def __init__(self, *args, **options):
                super().__init__(*args, **options)
                made.append(self)

        monkeypatch.setattr(trl, "DPOTrainer", Kept)
        self.policy, self.history = dpo.train_dpo(model, tokenizer, pairs, **settings)
        self.trainer, self.tokenizer, self.pairs = made[0], tokenizer, pairs

    def trl_loss(self, count: int) -> float:
        """TRL's loss of the first `count` rows."""
        rows = [self.trainer.train_dataset[i] for i in range(count)]
        batch = self.trainer._prepare_inputs(self.trainer.data_collator(rows))
        with torch.no_grad():
            return self.trainer.compute_loss(self.policy, batch).item()


@pytest.fixture(scope="module")
def trained():
    """A few steps at a high rate."""
    with pytest.MonkeyPatch.context() as patch:
        settings = {"learning_rate": 3e-3, "beta": 0.2}
        yield Watched(patch, *load_causal_lm("tiny-gpt2"), make_pairs(96, seed=5), **settings)


def test_the_open_loss_equals_trl_after_training(trained):
    policy, reference = pair_logps(trained.policy, trained.tokenizer, trained.pairs[:8])
    loss = dpo.dpo_loss(*policy, *reference, 0.2).mean().item()
    assert loss < 0.66  # it has left the start
    assert loss == pytest.approx(trained.trl_loss(8), abs=1e-5)
    other = dpo.dpo_loss(*policy, *reference, 0.1).mean().item()
    assert abs(other - trained.trl_loss(8)) > 1e-3
    read = dpo.measure_pairs(trained.policy, trained.tokenizer, trained.pairs[:8], 0.2)
    assert read["loss"].mean() == pytest.approx(loss, abs=1e-6)


def test_the_first_loss_is_ln_2_and_margins_grow(trained):
    assert trained.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    held = dpo.measure_pairs(trained.policy, trained.tokenizer, trained.pairs, 0.2)
    read = {name: values.mean() for name, values in held.items()}
    assert read["margin"] > 0.1 and read["ranked"] > 0.7 and read["loss"] < math.log(2)
    assert read["margin"] == pytest.approx(0.2 * (read["chosen"] - read["rejected"]), abs=1e-5)
    assert len(trained.trainer.train_dataset) == len(trained.pairs)  # TRL dropped none


def test_the_ranking_of_margins_is_not_that_of_likelihoods(monkeypatch):
    """A pair may be ranked as labelled while its rejected answer is still the likelier one."""
    logps, ref = (
        torch.tensor([[-9.0, -2.0], [-5.0, -3.0]]),
        torch.tensor([[-12.0, -1.0], [-6.0] * 2]),
    )
    monkeypatch.setattr(dpo, "pair_logps", lambda *_: (logps, ref))
    read = dpo.measure_pairs(None, None, [], 0.1)
    assert read["ranked"].tolist() == [1, 0]  # though its rejected answer is the likelier one
    assert read["chosen"].tolist() == [3, -1] and read["rejected"].tolist() == [1, 3]
    np.testing.assert_allclose(read["margin"], [0.2, -0.4], atol=1e-6)


def test_expected_log_ratio_under_the_reference_is_negative(trained):
    # E_ref[beta log pi/pi_ref] = -beta KL(pi_ref || pi): why both rewards may fall below zero.
    policy, tokenizer = trained.policy, trained.tokenizer
    prompts = [q.prompt for q in questions("test")[:48]] * 4
    with policy.disable_adapter():
        responses = [row[0].token_ids for row in sample(policy, tokenizer, prompts, seed=1)]
        reference = response_logps(policy, tokenizer, prompts, responses)
    ratio = response_logps(policy, tokenizer, prompts, responses) - reference
    assert ratio.mean() < 2 * ratio.std() / math.sqrt(len(ratio))
    error = 4 * ratio.exp().std().item() / math.sqrt(len(ratio)) + 0.02
    assert ratio.exp().mean().item() == pytest.approx(1, abs=error)


def test_lora_is_the_tutorials_and_all_matrices_of_other_models():
    config = dpo.lora_config(load_causal_lm("tiny-gpt2")[0], 8)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (8, 16, 0.1)
    assert set(config.target_modules) == {"c_attn", "c_proj"}


def test_what_peft_refuses_is_one_line_before_training():
    from transformers import MambaConfig, MambaForCausalLM

    small = {"vocab_size": 50, "hidden_size": 8, "state_size": 4, "num_hidden_layers": 1}
    with pytest.raises(
        UserError, match="--model: PEFT cannot adapt a model of the type mamba"
    ) as said:
        dpo.lora_config(MambaForCausalLM(MambaConfig(**small)), 8)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_the_schedule_of_the_learning_rate(schedule):
    model, tokenizer = load_causal_lm("tiny-gpt2")
    settings = {"learning_rate": 1e-3, "schedule": schedule}
    _, history = dpo.train_dpo(model, tokenizer, make_pairs(40), **settings)
    rates = [row["learning_rate"] for row in history]
    assert rates[-1] / 1e-3 == pytest.approx(float(schedule == "constant"), abs=0.26)
    assert (rates[0] == rates[-1]) == (schedule == "constant")


@pytest.mark.parametrize("look_at, steps", [((1, 3), [0, 1, 3, 5]), ((), [0, 1, 2, 3, 4, 5])])
def test_when_a_training_is_looked_at(look_at, steps):
    model, tokenizer = load_causal_lm("tiny-gpt2")
    seen = []

    def look(step: int, policy) -> None:
        seen.append(step)
        assert hasattr(policy, "disable_adapter") and not policy.training

    dpo.train_dpo(model, tokenizer, make_pairs(40), look=look, look_at=look_at)
    assert seen == steps


def test_the_default_rate_is_that_of_the_model(tmp_path):
    model, tokenizer = load_causal_lm("tiny-gpt2")
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "tiny-gpt2")
    for name, rate in (("tiny-gpt2", 7e-4), (str(tmp_path / "tiny-gpt2"), 3e-4)):
        _, history = dpo.train_dpo(*load_causal_lm(name), make_pairs(8), schedule="constant")
        assert history[-1]["learning_rate"] == pytest.approx(rate)


@pytest.mark.parametrize("settings", [{"learning_rate": 1e20}, {"beta": 1e308}])
def test_a_training_that_diverges_stops_in_one_line(settings):
    model, tokenizer = load_causal_lm("tiny-gpt2")
    with pytest.raises(UserError, match=r"DPO diverged at step \d+: the loss is") as said:
        dpo.train_dpo(model, tokenizer, make_pairs(12), batch_size=2, **settings)
    assert "\n" not in str(said.value)


# --- Tokenizers of other makes ---

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


def no_template(tokenizer):
    tokenizer.chat_template = None


def adds_bos_and_chats(tokenizer):
    adds_bos(tokenizer)
    tokenizer.chat_template = CHAT


def pads_with_eos(tokenizer):
    tokenizer.pad_token = tokenizer.eos_token


MAKES = (no_template, adds_bos, adds_bos_and_chats, pads_with_eos)


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
def test_log_probabilities_are_trls_whatever_the_tokenizer(tmp_path, monkeypatch, make):
    model, tokenizer = load_causal_lm("tiny-gpt2")
    make(tokenizer)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    model, tokenizer = load_causal_lm(str(tmp_path))
    pairs = make_pairs(24, seed=5)
    run = Watched(monkeypatch, model, tokenizer, pairs, learning_rate=3e-3)
    losses = dpo.measure_pairs(run.policy, tokenizer, pairs[:8], 0.3)["loss"]
    assert losses.mean() == pytest.approx(run.trl_loss(8), abs=1e-5)
    for row, pair in zip(run.trainer.train_dataset, pairs, strict=True):
        assert row["prompt_ids"] == encode_prompt(tokenizer, pair["prompt"])
        assert row["chosen_ids"] == encode_response(tokenizer, pair["chosen"])


# --- A policy is found, or trained ---


def test_the_reference_reads_the_same_pairs_once(monkeypatch):
    from trl import DPOTrainer

    read, batches = DPOTrainer.compute_ref_log_probs, []

    def counted(self, model, batch):
        batches.append(len(batch["input_ids"]))
        return read(self, model, batch)

    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", counted)
    pairs, weights = make_pairs(16, seed=71), []
    for rows, loss_type in ((pairs, "sigmoid"), (pairs, "ipo"), (pairs[:8], "sigmoid")):
        model, tokenizer = load_causal_lm("tiny-gpt2")
        policy, _ = dpo.train_dpo(model, tokenizer, rows, epochs=2, loss_type=(loss_type,))
        weights.append(next(w.sum().item() for n, w in policy.named_parameters() if "lora_B" in n))
    assert batches == [16, 16, 16]  # both sides of 8 pairs: twice for the first, not for IPO, once
    assert len(set(weights)) == 3


def test_a_policy_is_trained_once_and_found_as_it_was(tmp_path, capsys):
    pairs, folder = make_pairs(16), tmp_path / "dpo"

    def read(**settings) -> np.ndarray:
        model, tokenizer = load_causal_lm("tiny-gpt2")
        policy = dpo.dpo_policy(folder, model, tokenizer, pairs, **settings)
        return dpo.measure_pairs(policy, tokenizer, pairs, 0.3)["margin"]

    first = read(seed=1)
    np.testing.assert_array_equal(read(seed=1), first)
    assert capsys.readouterr().out.count("training dpo first") == 1
    assert abs(read(seed=1, beta=0.1) - first).max() > 1e-6  # another setting is another training
    assert json.loads((folder / "lab_settings.json").read_text())["settings"]["beta"] == 0.1
    pairs[0] = {**pairs[0], "chosen": "Other data."}
    read(seed=1, beta=0.1)
    assert capsys.readouterr().out.count("training dpo first") == 2


# --- The command, and what it leaves ---


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """outputs/ of a small run with --merge, in a folder whose name needs care."""
    folder = tmp_path_factory.mktemp("saved") / 'it\'s a "folder"'
    folder.mkdir()
    done = run_script("dpo_trainer", "--smoke", "--merge", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) <= 25 and "loss before training 0.6931" in done.stdout
    return folder / "outputs"


def test_what_a_run_writes(saved):
    written = {path.name for path in saved.iterdir()}
    results = {"dpo_training-smoke.png", "dpo_training-smoke.json"}
    assert written == {*results, "dpo-smoke", "dpo-merged-smoke"}
    metrics = json.loads((saved / "dpo_training-smoke.json").read_text())["metrics"]
    steps = [look["step"] for look in metrics["looks"]]
    assert steps == [0, 2, 4, 6, 8] and metrics["after"] == metrics["looks"][-1]
    assert {look["first_pairs"]["count"] for look in metrics["looks"]} == {32}  # all there are
    assert metrics["after"]["first_pairs"]["chosen"] == pytest.approx(metrics["after"]["chosen"])
    assert metrics["before"]["kl"] == 0 and metrics["after"]["kl"] > 0
    assert sum(metrics["after"]["kinds"].values()) == pytest.approx(1)
    assert [row["step"] for row in metrics["training"]] == list(range(1, 9))


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


def test_an_adapter_to_an_adapter_is_loaded_by_the_readme_of_the_second(saved, tmp_path):
    first = str(saved / "dpo-smoke")
    model, tokenizer = load_causal_lm(first)
    policy, _ = dpo.train_dpo(model, tokenizer, make_pairs(8))
    dpo.save_adapter(tmp_path / "second", {"beta": 0.3}, policy, tokenizer, "Why?")
    (code,) = re.findall(
        r"```python\n(.*?)```", (tmp_path / "second/README.md").read_text(), re.DOTALL
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_the_merged_model_is_the_policy(saved):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, tokenizer = load_causal_lm("tiny-gpt2")
    exact = {"dtype": torch.float32}  # the embedded model is stored in half precision
    policy = AutoPeftModelForCausalLM.from_pretrained(saved / "dpo-smoke", **exact)
    merged = AutoModelForCausalLM.from_pretrained(saved / "dpo-merged-smoke", **exact)
    prompts = [row["prompt"] for row in make_pairs(8)]
    texts = [encode_response(tokenizer, row["chosen"]) for row in make_pairs(8)]
    ours, theirs = (
        response_logps(model.eval(), tokenizer, prompts, texts) for model in (policy, merged)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    with policy.disable_adapter():
        assert (response_logps(policy, tokenizer, prompts, texts) - ours).abs().max() > 1e-4
    theirs = AutoTokenizer.from_pretrained(saved / "dpo-merged-smoke")
    assert format_prompt(theirs, "Why?") == "Question: Why?\nAnswer:"


@pytest.mark.parametrize("place", ["dpo-smoke", "dpo-merged-smoke", "dpo-beta-0.1-smoke"])
def test_what_is_somebodys_is_an_error_before_training(tmp_path, monkeypatch, place):
    flags = ["--smoke", "--merge", *(["--beta", "0.1"] if "beta" in place else [])]
    (tmp_path / "outputs" / place).mkdir(parents=True)
    (tmp_path / "outputs" / place / "thesis.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dpo, "train_and_look", lambda *_: pytest.fail("it trains"))
    with pytest.raises(UserError, match=f"{place} holds thesis.txt") as said:
        dpo.main(flags)
    assert "\n" not in str(said.value)
    assert [path.name for path in (tmp_path / "outputs").rglob("*")] == [place, "thesis.txt"]


# --- A killed training goes on ---


def test_a_killed_training_goes_on_and_ends_at_the_same_weights(saved, tmp_path):
    command = [sys.executable, str(SCRIPTS / "dpo_trainer.py"), "--smoke"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen(command, cwd=tmp_path, **silent)
    outputs = tmp_path / "outputs"
    checkpoints = outputs / "dpo-checkpoints-smoke"  # one after every step of 8
    while run.poll() is None and len(list(checkpoints.glob("*/trainer_state.json"))) < 2:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL and not (outputs / "dpo-smoke").exists()
    (checkpoints / "checkpoint-999").mkdir()  # killed before its last file
    (checkpoints / "notes.txt").write_text("mine")

    resumed = run_script("dpo_trainer", "--smoke", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert re.search(r"going on from \S+checkpoint-(?!999)", resumed.stdout)
    ours, whole = (load_file(folder / "dpo-smoke" / ADAPTER) for folder in (outputs, saved))
    assert ours.keys() == whole.keys() and all((ours[name] == whole[name]).all() for name in ours)
    results = (folder / "dpo_training-smoke.json" for folder in (outputs, saved))
    metrics = [json.loads(path.read_text())["metrics"] for path in results]
    assert metrics[0] == metrics[1] and len(metrics[0]["looks"]) == 5
    assert not (saved / "dpo-checkpoints-smoke").exists()
    assert (checkpoints / "notes.txt").read_text() == "mine"


def leave(folder: Path, settings: dict, *steps: int) -> None:
    """What a training leaves that was killed after these steps."""
    for step in steps:
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(
            f'{{"global_step": {step}}}'
        )
    looks = [{"step": step} for step in (0, 5, 10, 15)]
    (folder / "looks.json").write_text(json.dumps({"settings": settings, "looks": looks}))


def test_the_last_whole_checkpoint_counts_with_the_looks_before_it(tmp_path):
    settings = {"seed": 1, "beta": 0.3}
    leave(tmp_path, settings, 5, 10, 15)
    (tmp_path / "checkpoint-15" / "trainer_state.json").write_text('{"gl')  # cut short
    last, looks = dpo.find_killed_training(tmp_path, settings, resume=True)
    assert last == str(tmp_path / "checkpoint-10") and [look["step"] for look in looks] == [
        0,
        5,
        10,
    ]
    for folder, other in ((tmp_path, {"seed": 2}), (tmp_path / "nowhere", settings)):
        with pytest.raises(UserError, match="no killed training with these settings"):
            dpo.find_killed_training(folder, other, resume=True)
    assert dpo.find_killed_training(tmp_path, settings, resume=False) == (None, [])
    assert not tmp_path.exists()


# --- Several processes ---


def test_two_processes_train_what_one_trains(saved, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += ["--num_processes", 2]  # which share the CPU where there is no GPU
    launch += ["--main_process_port", 0]  # any that is free
    command = [*launch, SCRIPTS / "dpo_trainer.py", "--smoke"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    piped = {"capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, env=environment, **piped)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote ") == done.stdout.count("loss before training") == 1
    one, two = (
        load_file(folder / "dpo-smoke" / ADAPTER) for folder in (saved, tmp_path / "outputs")
    )
    assert one.keys() == two.keys()
    assert max(abs(one[name] - two[name]).max() for name in one) < 1e-5
    assert max(abs(one[name]).max() for name in one if "lora_B" in name) > 1e-4  # it starts at 0
    name = "dpo_training-smoke.json"
    one, two = (
        json.loads((f / name).read_text())["metrics"] for f in (saved, tmp_path / "outputs")
    )
    for key in ("chosen", "rejected", "margin", "loss", "kl", "gold"):
        assert two["after"][key] == pytest.approx(one["after"][key], abs=1e-3), key
