"""The last exercise: DPO from scratch on the embedded model, beside TRL's trainer.

First the log-probabilities; then a few steps, whose losses must be TRL's; then the whole training,
judged by sampled answers. A mistake in the loop is looked for by training with TRL the same way.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from dpo_trainer import lora_config, train_dpo
from grade import (
    Failed,
    Graded,
    NotBegun,
    as_array,
    careful,
    difference_of_arrays,
    in_digits,
    load_function,
)

from common import runs
from common.answers import sample_answers
from common.intervals import over_seeds, student_t
from common.models import load_causal_lm, quiet_libraries
from common.preferences import make_pairs, questions
from common.prompts import encode_response
from common.saving import read_json
from common.scoring import pair_logps, response_batches, response_logps

FILE = "e14_train_dpo"
TINY = "tiny-gpt2"
SETTINGS_OF_DPO = {"learning_rate": 7e-4, "beta": 0.3}  # dpo_trainer.py's for the embedded model
WHOLE = 768  # pairs of the whole training
BATCH, STEPS = 8, 12  # of the training that is compared step by step
NATS = 1e-3  # two numbers are the same that differ by less; rounding makes 1e-6
MEASURED = runs.COMMITTED / "studies" / "what_dpo_does.json"
SECONDS_OF_DPO = {"log-probabilities": 30, "steps": 120, "training": 600}


def grade_training(folder: Path) -> Graded:
    """What is said of a reader's `response_logps` and `train_dpo`; trains half a minute."""
    file, begun = folder / f"{FILE}.py", ""
    try:
        logps = load_function(file, "response_logps")
        quiet_libraries()
        fault = fault_of_logps(logps, file)
        if fault:
            return Graded("wrong", fault)
        begun = "response_logps is right"
        train = load_function(file, "train_dpo")
        fault = fault_of_steps(train, file)
        return Graded("wrong", fault) if fault else judge_training(train, file)
    except NotBegun:
        return Graded("not begun", begun)
    except Failed as error:
        return Graded("wrong", f"it {error}")


def equal_nats(values: Sequence[float], others: Sequence[float]) -> bool:
    return bool(np.allclose(values, others, rtol=0, atol=NATS))


# --- 1. Log-probabilities ---


def fault_of_logps(function: Callable, file: Path) -> str | None:
    """What is wrong with log-probabilities (N,) of responses of different lengths."""
    model, tokenizer = load_causal_lm(TINY)
    rows = make_pairs(3, seed=0)
    prompts, texts = [row["prompt"] for row in rows], [row["chosen"] for row in rows]
    responses = [encode_response(tokenizer, text) for text in texts]
    with careful(file, SECONDS_OF_DPO["log-probabilities"]):
        given = function(model, tokenizer, prompts, texts)
    right, theirs = as_array(response_logps(model, tokenizer, prompts, responses)), as_array(given)
    if theirs.shape != right.shape:
        return f"response_logps {difference_of_arrays(right, theirs)}"
    if equal_nats(theirs, right):
        flows = getattr(given, "requires_grad", False)
        return None if flows else "response_logps: no gradient flows: no_grad is for the reference"
    for name, mistaken in mistaken_logps(model, tokenizer, prompts, responses).items():
        if equal_nats(theirs, as_array(mistaken)):
            return f"response_logps: {name}"
    return f"response_logps {difference_of_arrays(right, theirs)}, for three chosen responses"


def mistaken_logps(model, tokenizer, prompts: list[str], responses: list) -> dict:
    """What comes out by each mistake, tensors (N,)."""
    order, ids, mask, targets = next(response_batches(tokenizer, prompts, responses, len(prompts)))
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask).logits
    log_probs, to_come = logits.log_softmax(-1), ids[:, 1:, None]
    picked = log_probs[:, :-1].gather(-1, to_come).squeeze(-1)  # (B, T-1)
    unshifted = log_probs[:, 1:].gather(-1, to_come).squeeze(-1)
    scores = logits[:, :-1].gather(-1, to_come).squeeze(-1)
    answered = (targets.cumsum(-1) > 0).long()  # the response, and the padding behind it
    last = (targets.cumsum(-1) == targets.sum(-1, keepdim=True)) * targets
    first = (targets.cumsum(-1) == 1) * targets
    counts = targets.sum(-1)
    mistakes = {
        "a mean over the tokens for a sum": (picked * targets).sum(-1) / counts,
        "the prompt's tokens are counted, too": (picked * mask[:, 1:]).sum(-1),
        "the padding is counted, too": (picked * answered).sum(-1),
        "every token is counted: the prompt's, the response's, and the padding": picked.sum(-1),
        "the EOS that ends the response is missing": (picked * (targets - last)).sum(-1),
        "the first token of the response is missing": (picked * (targets - first)).sum(-1),
        "the logits at a token are for the next one: shift them": (unshifted * targets).sum(-1),
        "these are sums of logits: log_softmax is missing": (scores * targets).sum(-1),
        "these are probabilities, not their logarithms": (picked * targets).sum(-1).exp(),
        "its sign is turned": -(picked * targets).sum(-1),
    }
    back = torch.tensor(order).argsort()
    return {name: values[back] for name, values in mistakes.items()}


# --- 2. A few steps ---


def fresh_policy() -> tuple:
    """(policy, tokenizer): the embedded model with LoRA as TRL makes it, without dropout."""
    from peft import get_peft_model

    model, tokenizer = load_causal_lm(TINY)
    torch.manual_seed(0)  # LoRA starts at random
    policy = get_peft_model(model, lora_config(model, r=8))
    for module in policy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return policy, tokenizer


def trace_of_trl(pairs: list[dict], labelled: list[dict] | None = None, **other) -> np.ndarray:
    """TRL's loss of every step, all pairs in each, then the margins: see `trace_of`.

    It trains on `labelled`, if that is given, and is judged by `pairs`.
    """
    model, tokenizer = load_causal_lm(TINY)
    training = {**SETTINGS_OF_DPO, "batch_size": BATCH, "epochs": STEPS, "seed": 0, **other}
    name = "TRL, to compare with"
    policy, history = train_dpo(model, tokenizer, labelled or pairs, **training, name=name)
    return trace_of([row["loss"] for row in history], policy, tokenizer, pairs)


def trace_of(losses: Sequence[float], policy, tokenizer, pairs: list[dict]) -> np.ndarray:
    """The losses, and how far each pair's log-ratios lie apart at the end, in nats."""
    logps, ref_logps = pair_logps(policy, tokenizer, pairs)
    chosen, rejected = (logps - ref_logps).numpy()
    return np.concatenate([losses, chosen - rejected])


def fault_of_steps(train: Callable, file: Path) -> str | None:
    """What is wrong with a few steps."""
    policy, tokenizer = fresh_policy()
    pairs = make_pairs(BATCH, seed=1)
    before = [weight.detach().clone() for weight in policy.parameters()]
    with careful(file, SECONDS_OF_DPO["steps"]):
        losses = train(policy, tokenizer, pairs * STEPS, **SETTINGS_OF_DPO, batch_size=BATCH)
    after = list(policy.parameters())
    moved = any(not torch.equal(*pair) for pair in zip(before, after, strict=True))
    fault = fault_at_sight(losses, moved)
    if fault:
        return f"train_dpo: {fault}"
    theirs, right = trace_of(losses, policy.eval(), tokenizer, pairs), trace_of_trl(pairs)
    if equal_nats(theirs, right):
        return None
    for name, run in mistaken_traces(pairs).items():
        if equal_nats(theirs, run()):
            return f"train_dpo: {name}"
    step = int(np.argmax(np.abs(theirs - right) > NATS))
    if step >= STEPS:
        return "train_dpo: the losses are TRL's, but the policy is another one"
    loss, wanted = theirs[step], right[step]
    return f"train_dpo: the loss of step {step + 1} is {loss:.4f}, TRL's is {wanted:.4f}"


def fault_at_sight(losses, moved: bool) -> str | None:
    """What a look at the losses tells; `moved`: whether any weight has changed."""
    array = as_array(losses if losses is not None else [])
    if array.shape != (STEPS,) or array.dtype.kind != "f":
        return f"returns {array.size} losses for {STEPS} steps: append loss.item() in each"
    if not np.isfinite(array).all():
        return f"a loss is not finite: {in_digits(array)}"
    if not moved:
        return "no weight has changed: is the loss followed backward, and the optimiser stepped?"
    if abs(array[0] - BATCH * math.log(2)) < NATS:
        return "a sum over the batch for a mean: the first loss is 8 ln 2"
    if abs(array[0] - math.log(2)) > NATS:
        return (
            f"the first loss is {array[0]:.4f}; policy and reference are still the same, "
            "so that it is ln 2: are all four log-probabilities in it?"
        )
    if np.abs(array - math.log(2)).max() < NATS:
        return "the loss stays ln 2 though weights change: the reference moves with the policy"
    return None


def mistaken_traces(pairs: list[dict]) -> dict[str, Callable[[], np.ndarray]]:
    """What TRL gives by each mistake."""
    train, beta = partial(trace_of_trl, pairs), SETTINGS_OF_DPO["beta"]
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs]
    return {
        "chosen and rejected are swapped": partial(train, swapped),
        "beta is dropped": partial(train, beta=1.0),
        "beta is squared": partial(train, beta=beta**2),
        "a mean over the tokens for a sum": partial(train, loss_type=["sigmoid_norm"]),
        "the learning rate stays the same: it rises for a tenth of the steps, then falls to 0": (
            partial(train, schedule="constant")
        ),
        "gradients add up from step to step: zero_grad is missing": (
            partial(without_zero_grad, train)
        ),
    }


def without_zero_grad(train: Callable) -> np.ndarray:
    with mock.patch.object(torch.nn.Module, "zero_grad", lambda *_, **__: None):
        return train()


# --- 3. The whole training ---


def judge_training(train: Callable, file: Path) -> Graded:
    """Answers to held-out prompts after the default number of steps, beside TRL's over seeds.

    The pairs are those of dpo_trainer.py with seed 0, and so are prompts and sampling.
    """
    pairs = make_pairs(WHOLE, seed=0)
    policy, tokenizer = fresh_policy()
    print(f"{FILE} trains on {len(pairs)} pairs, half a minute", flush=True)
    with careful(file, SECONDS_OF_DPO["training"]):
        train(policy, tokenizer, pairs, **SETTINGS_OF_DPO, batch_size=8)
    prompts = [question.prompt for question in questions("test")[:256]]
    answers = sample_answers(policy.eval(), tokenizer, prompts, n=3, seed=0)
    good, kl = answers.good.mean(), answers.kl.mean()
    good_low, good_high = next_seed(measured_of_trl("good"))
    kl_low, kl_high = next_seed(measured_of_trl("kl"))
    said = (
        f"{good:.0%} good answers at a KL of {kl:.2f} nats; TRL's trainer gives, in 95 of 100 "
        f"seeds, {good_low:.0%} to {good_high:.0%} at {kl_low:.2f} to {kl_high:.2f}"
    ).replace("%", " %")
    is_right = good_low <= good <= good_high and kl_low <= kl <= kl_high
    return Graded("right" if is_right else "wrong", said)


def measured_of_trl(quantity: str) -> list[float]:
    """What the committed run measured of dpo_trainer.py's training, by seed."""
    after = [run["metrics"]["after"] for run in read_json(MEASURED).get("runs", ())]
    if not after:
        raise runs.UserError(f"{MEASURED} holds no results; git checkout figures brings them back")
    return over_seeds(after)[quantity]["by_seed"]


def next_seed(values: Sequence[float]) -> tuple[float, float]:
    """Where one more seed lies in 95 of 100 cases, by those of the seeds that were run."""
    count = len(values)
    reach = student_t(count - 1) * np.std(values, ddof=1) * math.sqrt(1 + 1 / count)
    return float(np.mean(values) - reach), float(np.mean(values) + reach)
