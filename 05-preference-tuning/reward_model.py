"""Reward models: can one number per answer say what annotators prefer?

    python 05-preference-tuning/reward_model.py
    python 05-preference-tuning/reward_model.py --pairs 400                           # fewer
    python 05-preference-tuning/reward_model.py --model FOLDER --dataset pairs.jsonl  # yours

trained on   6,400 pairs of answers, labelled by noisy annotators without a bias
by           the loop below with bradley_terry_loss: a DistilBERT with a scalar head on [CLS]
judged by    1,000 held-out pairs, whose better answer and whose noise are known here
writes       outputs/reward_model.png, outputs/reward_model.json, outputs/reward_model/

About 40 seconds on one core. Left out: biased annotators and what the model takes over from them
(studies/what_a_reward_model_absorbs.py), fewer pairs (studies/reward_model_data_and_start.py).
"""

import random
from collections.abc import Sequence
from pathlib import Path

from common import runs, saving
from common.models import autocast, is_embedded, load_reward_model
from common.prompts import as_text
from common.scoring import encode_for_reward

# --- 1. The loss ---


def bradley_terry_loss(chosen_rewards, rejected_rewards):
    """Mean of -log sigmoid(r_chosen - r_rejected) in nats; tensors (B,). A margin of 0 costs ln 2.

    The margin is the difference of the two rewards: the model says that chosen wins with
    probability sigmoid(margin). Only differences enter, so the level of the rewards stays free.
    Bradley & Terry 1952.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(chosen_rewards - rejected_rewards).mean()


# --- 2. Training ---


def train_reward_model(
    model,
    tokenizer,
    pairs: Sequence[dict],
    *,
    learning_rate: float | None = None,
    epochs: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    name: str = "reward model",
) -> list[float]:
    """Train all weights in place on rows of prompt, chosen, rejected; the loss of every step.

    One forward pass reads chosen and rejected together. Under `accelerate launch` the processes
    share each batch, and a last one that cannot be shared evenly repeats a row.
    """
    import torch
    from accelerate import Accelerator

    if learning_rate is None:
        learning_rate = 5e-4 if is_embedded(model.name_or_path) else 1e-4
    rng, batches = random.Random(seed), []
    for _ in range(epochs):
        batches += batches_of_similar_length(pairs, batch_size, rng)
    accelerator = Accelerator(device_placement=False)  # the model is where it shall be
    weights = model.parameters()
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.01, fused=True)
    one_cycle = {"total_steps": len(batches) + 1, "pct_start": 0.1}
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, **one_cycle)
    shared, optimizer = accelerator.prepare(model, optimizer)
    shared.eval()  # no dropout, as in TRL: a fifth of the time, and pairs are hardly read twice
    losses = []
    for batch in runs.show_progress(batches, name):
        with accelerator.split_between_processes(batch, apply_padding=True) as mine:
            rows = [pairs[i] for i in mine]
        prompts = [row["prompt"] for row in rows]
        responses = [row["chosen"] for row in rows] + [row["rejected"] for row in rows]
        inputs = encode_for_reward(tokenizer, prompts * 2, responses).to(model.device)
        with autocast(model):
            rewards = shared(**inputs).logits.squeeze(-1).float()  # (2 B,)
        loss = bradley_terry_loss(*rewards.chunk(2))
        accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(accelerator.reduce(loss.detach(), "mean").item())
    model.eval()
    return losses


def batches_of_similar_length(
    pairs: Sequence[dict], batch_size: int, rng: random.Random
) -> list[list[int]]:
    """All row numbers once, for little padding: shuffled, sorted within 16 batches, shuffled."""
    lengths = []  # in characters
    for row in pairs:
        longer = max(len(row["chosen"]), len(row["rejected"]))
        lengths.append(len(as_text(row["prompt"])) + longer)
    order = rng.sample(range(len(pairs)), len(pairs))
    batches, run_length = [], 16 * batch_size
    for start in range(0, len(order), run_length):
        block = sorted(order[start : start + run_length], key=lambda i: lengths[i])
        batches += [block[i : i + batch_size] for i in range(0, len(block), batch_size)]
    rng.shuffle(batches)
    return batches


def fresh_reward_model(backbone: str, device: str, seed: int) -> tuple:
    """(model, tokenizer): the backbone with a scalar head that starts at random."""
    import torch

    torch.manual_seed(seed)
    return load_reward_model(backbone, device)


def reward_model_in(
    folder: Path, backbone: str, pairs: Sequence[dict], *, device: str = "cpu", **training
) -> tuple:
    """(model, tokenizer) trained on the pairs: found in the folder, or trained into it."""

    def train() -> tuple:
        model, tokenizer = fresh_reward_model(backbone, device, settings["seed"])
        train_reward_model(model, tokenizer, pairs, **training)
        return model, tokenizer

    settings = training_of_reward_model(backbone, pairs, **training)
    return load_reward_model(str(saving.load_or_train(folder, settings, train)), device)


def training_of_reward_model(backbone: str, pairs: Sequence[dict], **training) -> dict:
    """What a reward model is trained with: it is found again only where all of it is the same."""
    start = {"backbone": saving.fingerprint(backbone), "pairs": saving.fingerprint(pairs)}
    settings = {**start, **train_reward_model.__kwdefaults__, **training}
    return {key: value for key, value in settings.items() if key != "name"}
