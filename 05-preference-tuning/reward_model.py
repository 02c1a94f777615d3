"""Reward models: can a scalar head learn what annotators prefer, and does it learn their faults?

    python 05-preference-tuning/reward_model.py
    python 05-preference-tuning/reward_model.py --pairs 400                           # fewer
    python 05-preference-tuning/reward_model.py --model FOLDER --dataset pairs.jsonl  # yours
"""

import random
from collections.abc import Sequence
from pathlib import Path

from support.own_pairs import load_own_pairs
from support.policy_data import split_for_reward_model
from support.training import length_sorted_batches, my_share, optimizing

import numpy as np

from common.models import (
    autocast,
    encode_for_reward,
    load_reward_model,
    load_tokenizer,
    score_responses,
)
from common.preferences import SIDES, make_pairs

# --- 1. The Bradley-Terry loss ---


def bradley_terry_loss(chosen_rewards, rejected_rewards):
    """Mean of -log sigmoid(r_chosen - r_rejected) in nats; tensors (B,). A margin of 0 costs ln 2.

    The negative log-likelihood of Bradley & Terry (1952): only differences of rewards enter.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(chosen_rewards - rejected_rewards).mean()


# --- 2. Training ---


def train_reward_model(
    model,
    tokenizer,
    pairs: Sequence[dict],
    *,
    learning_rate: float,
    epochs: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    name: str = "reward model",
) -> list[float]:
    """Train all weights in place on rows of prompt, chosen, rejected; the loss of every step.

    One forward pass reads chosen and rejected together, in batches of similar length.
    """
    lengths = [len(row["prompt"]) + max(len(row[side]) for side in SIDES) for row in pairs]
    steps, rng, losses = epochs * -(-len(pairs) // batch_size), random.Random(seed), []
    with optimizing(model, learning_rate, steps, name) as (trained, step):
        for _ in range(epochs):
            for batch in length_sorted_batches(lengths, batch_size, rng):
                rows, weight = my_share(pairs, batch)
                prompts = [row["prompt"] for row in rows]
                responses = [row[side] for side in SIDES for row in rows]
                inputs = encode_for_reward(tokenizer, prompts * 2, responses).to(model.device)
                with autocast(model):
                    rewards = trained(**inputs).logits.squeeze(-1).float()  # (2 B,)
                loss = bradley_terry_loss(*rewards.chunk(2))
                losses.append(step(loss, weight))
    return losses


def fit(backbone: str, pairs: Sequence[dict], *, device: str, seed: int, **training) -> tuple:
    """(model, tokenizer, losses): a fresh scalar head on the backbone, trained on the pairs."""
    import torch

    torch.manual_seed(seed)  # the scalar head starts at random
    model, tokenizer = load_reward_model(backbone, device)
    losses = train_reward_model(model, tokenizer, pairs, seed=seed, **training)
    return model, tokenizer, losses


def tune(
    *,
    model: str,
    dataset: str | None,
    pairs: int | None,
    seed: int,
    device: str,
    output_dir: Path,
    annotator: str = "human",
    **training,
) -> tuple:
    """(model, tokenizer) trained as in `study`, for the scripts that need a reward model.

    `annotator` is a group of the world: "human", or one of the biased ones.
    """
    train = make_pairs(pairs, annotator=annotator, seed=seed) if dataset is None else None
    if dataset:
        rows = load_own_pairs(dataset)
        train, _ = split_for_reward_model(rows, load_tokenizer(model), seed, pairs)
    return fit(model, train, device=device, seed=seed, **training)[:2]


# --- 3. Judging it on held-out pairs ---


def score_pairs(model, tokenizer, pairs: Sequence[dict]) -> np.ndarray:
    """Rewards (N, 2) of the chosen and the rejected response of each pair, in log-odds."""
    prompts = [row["prompt"] for row in pairs]
    responses = [row[side] for side in SIDES for row in pairs]
    rewards = score_responses(model, tokenizer, prompts * 2, responses).numpy()
    return rewards.astype(float).reshape(2, -1).T


def pair_hits(rewards: np.ndarray) -> np.ndarray:
    """Per pair (N, 2): 1 where the first response scores higher, 0 where lower, 1/2 at a tie."""
    return (1 + np.sign(rewards[:, 0] - rewards[:, 1])) / 2
