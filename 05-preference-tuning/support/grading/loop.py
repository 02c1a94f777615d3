"""The last exercise: DPO from scratch on the embedded model, beside TRL's trainer.

First the log-probabilities; then a few steps, whose losses must be TRL's; then the whole training,
judged by sampled answers. A mistake in the loop is looked for by training with TRL the same way.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest import mock

from support.evaluation import pair_logps, response_batches, response_logps, sample_answers
from support.grading.grade import Verdict, as_array, difference_of_arrays, numbers
from support.grading.running import Failed, NotBegun, careful, load_function
from support.training import training_settings
from support.variant_data import swap_sides

import dpo_trainer
import numpy as np
import torch

from common.cli import quiet_libraries
from common.intervals import student_t
from common.models import encode_response, load_causal_lm
from common.preferences import make_pairs, questions
from common.reporting import COMMITTED, read_results

FILE = "e14_train_dpo"
MODEL, SEED = "tiny-gpt2", 0
BATCH, STEPS = 8, 12  # of the training that is compared step by step
TOLERANCE = 1e-3  # in nats; rounding makes 1e-6
SECONDS = {"log-probabilities": 30, "steps": 120, "training": 600}


def grade_loop(folder: Path) -> Verdict:
    """The verdict on a reader's `response_logps` and `train_dpo`; half a minute where it trains."""
    file, begun = folder / f"{FILE}.py", ""
    try:
        logps = load_function(file, "response_logps")
        quiet_libraries()
        fault = fault_of_logps(logps, file)
        if fault:
            return Verdict("wrong", fault)
        begun = "response_logps is right"
        train = load_function(file, "train_dpo")
        fault = fault_of_steps(train, file)
        return Verdict("wrong", fault) if fault else judge_training(train, file)
    except NotBegun:
        return Verdict("not begun", begun)
    except Failed as error:
        return Verdict("wrong", f"it {error}")


def close(values: Sequence[float], others: Sequence[float]) -> bool:
    return bool(np.allclose(values, others, rtol=0, atol=TOLERANCE))


# --- 1. Log-probabilities ---


def fault_of_logps(function: Callable, file: Path) -> str | None:
    """What is wrong with log-probabilities (N,) of responses of different lengths."""
    model, tokenizer = load_causal_lm(MODEL)
    rows = make_pairs(3, seed=SEED)
    prompts, texts = [row["prompt"] for row in rows], [row["chosen"] for row in rows]
    responses = [encode_response(tokenizer, text) for text in texts]
    with careful(file, SECONDS["log-probabilities"]):
        given = function(model, tokenizer, prompts, texts)
    right, theirs = as_array(response_logps(model, tokenizer, prompts, responses)), as_array(given)
    if theirs.shape != right.shape:
        return f"response_logps {difference_of_arrays(right, theirs)}"
    if close(theirs, right):
        flows = getattr(given, "requires_grad", False)
        return None if flows else "response_logps: no gradient flows: no_grad is for the reference"
    for name, mistaken in mistaken_logps(model, tokenizer, prompts, responses).items():
        if close(theirs, as_array(mistaken)):
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

    model, tokenizer = load_causal_lm(MODEL)
    torch.manual_seed(SEED)  # LoRA starts at random
    policy = get_peft_model(model, dpo_trainer.lora_config(model))
    for module in policy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return policy, tokenizer


def settings() -> dict:
    """How dpo_trainer.py trains."""
    defaults = training_settings("dpo", model=MODEL)
    return {"learning_rate": defaults["learning_rate"], "beta": dpo_trainer.BETA}


def trace_of_trl(pairs: list[dict], labelled: list[dict] | None = None, **changed) -> np.ndarray:
    """TRL's loss of every step, all pairs in each, then the margins: see `trace_of`.

    It trains on `labelled`, if that is given, and is judged by `pairs`.
    """
    model, tokenizer = load_causal_lm(MODEL)
    training = {**settings(), "batch_size": BATCH, "epochs": STEPS, "seed": SEED, **changed}
    rows, name = labelled or pairs, "TRL, to compare with"
    trained = dpo_trainer.train_dpo(model, tokenizer, rows, **training, name=name)
    return trace_of(trained.history["loss"], trained.policy, tokenizer, pairs)


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
    with careful(file, SECONDS["steps"]):
        losses = train(policy, tokenizer, pairs * STEPS, **settings(), batch_size=BATCH)
    after = list(policy.parameters())
    moved = any(not torch.equal(*pair) for pair in zip(before, after, strict=True))
    fault = fault_at_sight(losses, moved)
    if fault:
        return f"train_dpo: {fault}"
    theirs, right = trace_of(losses, policy.eval(), tokenizer, pairs), trace_of_trl(pairs)
    if close(theirs, right):
        return None
    for name, run in mistaken_traces(pairs).items():
        if close(theirs, run()):
            return f"train_dpo: {name}"
    step = int(np.argmax(np.abs(theirs - right) > TOLERANCE))
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
        return f"a loss is not finite: {numbers(array)}"
    if not moved:
        return "no weight has changed: is the loss followed backward, and the optimiser stepped?"
    if abs(array[0] - BATCH * math.log(2)) < TOLERANCE:
        return "a sum over the batch for a mean: the first loss is 8 ln 2"
    if abs(array[0] - math.log(2)) > TOLERANCE:
        return (
            f"the first loss is {array[0]:.4f}; policy and reference are still the same, "
            "so that it is ln 2: are all four log-probabilities in it?"
        )
    if np.abs(array - math.log(2)).max() < TOLERANCE:
        return "the loss stays ln 2 though weights change: the reference moves with the policy"
    return None


def mistaken_traces(pairs: list[dict]) -> dict[str, Callable[[], np.ndarray]]:
    """What TRL gives by each mistake."""
    train, beta = partial(trace_of_trl, pairs), settings()["beta"]
    return {
        "chosen and rejected are swapped": partial(train, [swap_sides(row) for row in pairs]),
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


def judge_training(train: Callable, file: Path) -> Verdict:
    """Answers to held-out prompts after the default number of steps, beside TRL's over seeds.

    The pairs are those of dpo_trainer.py with seed 0, and so are prompts and sampling.
    """
    defaults = training_settings("dpo", model=MODEL)
    pairs = make_pairs(defaults["pairs"], seed=SEED)
    policy, tokenizer = fresh_policy()
    print(f"{FILE} trains on {len(pairs)} pairs, half a minute", flush=True)
    with careful(file, SECONDS["training"]):
        train(policy, tokenizer, pairs, **settings(), batch_size=defaults["batch_size"])
    prompts = [question.prompt for question in questions("test")[:256]]
    answers = sample_answers(policy.eval(), tokenizer, prompts, 3, 48, SEED)[1]
    good, kl = answers["good"].mean(), answers["kl"].mean()
    of_trl = read_results(COMMITTED / "dpo_training.json")["metrics"]["policy"]
    good_low, good_high = next_seed(of_trl["good"]["by_seed"])
    kl_low, kl_high = next_seed(of_trl["kl"]["by_seed"])
    said = (
        f"{good:.0%} good answers at a KL of {kl:.2f} nats; TRL's trainer gives, in 95 of 100 "
        f"seeds, {good_low:.0%} to {good_high:.0%} at {kl_low:.2f} to {kl_high:.2f}"
    ).replace("%", " %")
    is_right = good_low <= good <= good_high and kl_low <= kl <= kl_high
    return Verdict("right" if is_right else "wrong", said)


def next_seed(values: Sequence[float]) -> tuple[float, float]:
    """Where one more seed lies in 95 of 100 cases, by those of the seeds that were run."""
    count = len(values)
    reach = student_t(count - 1) * np.std(values, ddof=1) * math.sqrt(1 + 1 / count)
    return float(np.mean(values) - reach), float(np.mean(values) + reach)
