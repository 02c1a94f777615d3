"""Reward models: can a scalar head learn what annotators prefer, and does it learn their faults?

    python 05-preference-tuning/reward_model.py
    python 05-preference-tuning/reward_model.py --pairs 400                           # fewer
    python 05-preference-tuning/reward_model.py --model FOLDER --dataset pairs.jsonl  # yours

Trains a DistilBERT with a scalar head on [CLS] with the Bradley-Terry loss, and judges it on
unseen prompts: against noisy labels, whose ceiling is known here, and against the gold order.
What it absorbed of right and wrong, of filler and of its annotators' bias is read by contrasts of
two texts that differ in one thing. Beside it: people who like length, other people without a bias,
a model that starts from the SFT checkpoint, and DPO's implicit reward on as many pairs.

About three minutes on one core. Writes outputs/reward_model.png, outputs/reward_model/ and, of
people who like length, outputs/reward_model-annotator-length/. Left out: margins between ratings, a
penalty on the level of the reward; ensembles, which reward_hacking.py has.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from support.artifacts import check_ours, find_or_train, save_trained, stored_settings
from support.drawing.reward_model import draw_reward_model
from support.evidence import read_ranking
from support.findings.reward_model import findings
from support.held_out_pairs import on_labels
from support.own_loop import length_sorted_batches, my_share, optimizing
from support.policy_data import tell_limits
from support.reward_study import SIZES, reward_data, score_pairs, show_pairs, study_world
from support.second_look import look_at_pairs
from support.training import training_settings

import numpy as np
from dpo_trainer import train_dpo

from common import cli
from common.models import autocast, load_reward_model
from common.preferences import SIDES
from common.prompts import as_text
from common.reporting import INFINITY, Check, Claim, finish
from common.scoring import encode_for_reward

CLAIMS = (
    Claim(
        "reward_recovers_order",
        "a reward model learns to score better answers higher",
        "share of held-out pairs in the gold order, minus that of preferring the shorter answer",
        path="above_length",
        smallest=0.02,
    ),
    Claim(
        "length_bias_is_absorbed",
        "labels that favour length give a reward model that favours length",
        "reward per word of filler, log-odds: trained on length-lovers' labels minus on others'",
        path="absorbed.reward",
        smallest=0.03,
    ),
    Claim(
        "annotator_groups_disagree",
        "reward models of two groups of annotators may disagree",
        "share of pairs ordered unlike: length-lovers and others, minus two unbiased groups",
        path="disagreement.difference",
        smallest=0.02,
    ),
    Claim(
        "sft_start_learns_style_first",
        "from the SFT checkpoint a reward model learns style, right from wrong hardly",
        f"share in the gold order ({SIZES[-1]} pairs): where style differs, minus only facts",
        path="sft_style_over_facts",
        smallest=0.05,
    ),
    Claim(
        "encoder_over_sft_start",
        "an encoder that read about the facts is the better backbone",
        f"share of pairs in the gold order, {SIZES[-1]} pairs: encoder minus SFT checkpoint",
        path="encoder_over_sft",
        smallest=0.02,
    ),
    Claim(
        "dpo_needs_no_reward_model",
        "DPO needs no reward model: its implicit reward is as good a one",
        f"share of pairs in the gold order, {SIZES[-1]} pairs: implicit reward minus encoder's",
        path="dpo_over_encoder",
        true=(-0.05, INFINITY),
        smallest=0.02,
    ),
)
CHECKS = (
    Check(
        "reward_level_is_free",
        "a constant per prompt leaves the loss unchanged",
        "loss_change",
        (0, 1e-12),
    ),
)


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
    lengths = []  # in characters
    for row in pairs:
        lengths.append(len(as_text(row["prompt"])) + max(len(row[side]) for side in SIDES))
    steps = epochs * -(-len(pairs) // batch_size)
    rng, losses = random.Random(seed), []
    with optimizing(model, learning_rate, steps, name) as (trained, step):
        for _ in range(epochs):
            for batch in length_sorted_batches(lengths, batch_size, rng):
                share, weight = my_share(pairs, batch)  # of this process
                prompts = [row["prompt"] for row in share]
                responses = [row["chosen"] for row in share] + [row["rejected"] for row in share]
                inputs = encode_for_reward(tokenizer, prompts * 2, responses).to(model.device)
                with autocast(model):
                    rewards = trained(**inputs).logits.squeeze(-1).float()  # (2 B,)
                loss = bradley_terry_loss(*rewards.chunk(2))
                losses.append(step(loss, weight))
    return losses


def fresh_model(backbone: str, device: str, seed: int) -> tuple:
    """(model, tokenizer): the backbone with a scalar head that starts at random."""
    import torch

    torch.manual_seed(seed)
    return load_reward_model(backbone, device)


def fit(backbone: str, pairs: Sequence[dict], *, device: str, seed: int, **training) -> tuple:
    """(model, tokenizer, losses): a fresh model trained on the pairs, see train_reward_model."""
    model, tokenizer = fresh_model(backbone, device, seed)
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
    reading: dict[str, str] | None = None,
    **training,
) -> tuple:
    """(model, tokenizer) trained as in `study`, for the scripts that need a reward model.

    `annotator` is a group of the world: "human", or one of the biased ones.
    """
    train, _ = reward_data(model, dataset, pairs, seed, annotator=annotator, reading=reading)
    return fit(model, train, device=device, seed=seed, name=f"{annotator} labels", **training)[:2]


# --- 3. Judging it on held-out pairs ---


def loss_change(rewards: np.ndarray, seed: int) -> float:
    """|change of the loss| in nats when a constant per prompt is added to its rewards (N, 2)."""
    import torch

    constants = np.random.default_rng(seed).normal(scale=5, size=(len(rewards), 1))
    before, after = (torch.tensor(table).T for table in (rewards, rewards + constants))
    return abs(bradley_terry_loss(*after) - bradley_terry_loss(*before)).item()


# --- 4. The study ---


def study(
    *,
    model: str,
    dataset: str | None,
    pairs: int | None,
    seed: int,
    output_dir: Path,
    device: str,
    length_folder: Path,
    held_out: int = 1000,
    reading: dict[str, str] | None = None,
    **training,
) -> tuple[dict, object, object]:
    """The section: (metrics, reward model, tokenizer); `training` is what train_reward_model takes.

    The world has a gold standard, and other models to compare by it; the one of people who like
    length is found in `length_folder`, or trained into it.
    """
    train, held = reward_data(model, dataset, pairs, seed, held_out, reading=reading)
    tell_limits(model, dataset, train, training["epochs"], training["batch_size"])
    second_look = look_at_pairs(train, held, dataset, reading) if dataset else None
    fitting = {"device": device, "seed": seed, **training}
    reward_model, tokenizer, losses = fit(model, train, **fitting)
    rewards = score_pairs(reward_model, tokenizer, held)
    metrics = {
        "train_pairs": len(train),
        "loss": losses,
        "loss_change": loss_change(rewards, seed),
        **on_labels(rewards, held),
    }
    if dataset:
        show_pairs(reward_model, tokenizer, held)
        metrics |= second_look.after("after", read_ranking(rewards[:, 0] - rewards[:, 1]))
        return metrics, reward_model, tokenizer
    settings = {"model": model, "dataset": None, "pairs": pairs, "seed": seed, **training}
    settings["annotator"] = "length"
    folder = find_or_train(length_folder, settings, tune, device=device, output_dir=output_dir)
    models = {
        "people": (reward_model, tokenizer),
        "length": load_reward_model(str(folder), device),
        "untrained": fresh_model(model, device, seed),
    }
    metrics |= study_world(fit, train_dpo, model, models, train, held, rewards, **fitting)
    return metrics, reward_model, tokenizer


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__file__, __doc__)
    cli.add_model_flags(parser, model="tiny-distilbert")
    pairs, rate = "6400 of the world, all of your own", "5e-4 embedded, 1e-4 other models"
    cli.add_training_flags(parser, pairs, rate, batch_size=16, epochs="1, of your own pairs 3")
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Train, judge, draw, and save the model to outputs/reward_model; returns the metrics."""
    args = cli.start(build_parser(), argv, "reward_model", {"pairs": 64, "num_train_epochs": 1})
    folder = args.output_dir / cli.name_run("reward_model", args.changed)
    length_folder = cli.name_run("reward_model", {**args.changed, "annotator": "length"})
    check_ours(folder)
    device = cli.init_compute(args.device)
    settings = training_settings("reward model", **args.settings)
    metrics, model, tokenizer = study(
        **settings,
        output_dir=args.output_dir,
        device=device,
        length_folder=args.output_dir / length_folder,
        held_out=100 if args.smoke else 1000,
    )
    save_trained(folder, stored_settings(settings), model, tokenizer)
    lines, claims = findings(metrics), () if args.dataset else CLAIMS
    return finish(
        args, metrics, draw_reward_model, lines, claims, CHECKS, settings, device, [folder]
    )


if __name__ == "__main__":
    cli.run(main)
