"""The experiments around reward_model.py: its data, what gold says, groups, sizes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple

from support.contrasts import absorbed_bias, contrast_rewards, contrasts_of, recovered, scorer
from support.evaluation import in_short, marks, pair_logps
from support.held_out_pairs import (
    bayes_ceilings,
    by_reason,
    by_style,
    gold_order,
    is_about_facts,
    labelled_again,
    length_only,
    pair_hits,
    utilities_of,
)
from support.own_pairs import load_own_pairs, pick
from support.policy_data import split_for_reward_model
from support.training import DEFAULTS, training_settings

import numpy as np

from common.intervals import summary
from common.models import load_causal_lm, load_tokenizer
from common.preferences import SIDES, Question, make_pairs, questions
from common.prompts import Prompt
from common.scoring import score_responses

SIZES = (400, 1600)  # pairs, beside all of them
SFT = "tiny-gpt2"  # InstructGPT's reward model started from such a checkpoint
# The reward models that are compared, and the annotators of their labels.
GROUPS = {"people": "human", "others": "human", "length": "length", "sft": "human"}

# --- Data and scores ---


def reward_data(
    model: str,
    dataset: str | None,
    pairs: int | None,
    seed: int,
    held_out: int = 0,
    annotator: str = "human",
    reading: dict[str, str] | None = None,
) -> tuple[Sequence[dict], Sequence[dict]]:
    """(pairs to train on, held-out pairs): the user's, split by prompt, or the world's."""
    if dataset:
        rows = load_own_pairs(dataset, **(reading or {}))
        return split_for_reward_model(rows, load_tokenizer(model), seed, pairs)
    train = make_pairs(pairs, annotator=annotator, seed=seed)
    return train, make_pairs(held_out, "test", seed=seed)


def score_pairs(model, tokenizer, pairs: Sequence[dict]) -> np.ndarray:
    """Rewards (N, 2) of the chosen and the rejected response of each pair, in log-odds."""
    prompts = [row["prompt"] for row in pairs]
    responses = [row[side] for side in SIDES for row in pairs]
    rewards = score_responses(model, tokenizer, prompts * 2, responses).numpy()
    return rewards.astype(float).reshape(2, -1).T


def show_scores(model, tokenizer, prompt: Prompt, texts: Sequence[str]) -> None:
    """Print answers to a prompt, the one with the highest reward first, and what gold says."""
    rewards = score_responses(model, tokenizer, [prompt] * len(texts), texts).tolist()
    print(f"\n{prompt if isinstance(prompt, str) else in_short(prompt)}")
    for reward, text in sorted(zip(rewards, texts, strict=True), reverse=True):
        print(f"  {reward:+6.2f}  {shorten(text, 100, placeholder=' ...')}{marks(prompt, text)}")


def show_pairs(model, tokenizer, pairs: Sequence[dict]) -> None:
    """Print the answers of the first three pairs with their rewards."""
    for row in pick(pairs, range(min(3, len(pairs)))):
        show_scores(model, tokenizer, row["prompt"], [row["chosen"], row["rejected"]])


def answers_to(question: Question, seed: int) -> list[str]:
    """Right, wrong, off topic, padded, an expert's, an echo: each text of the contrasts, once."""
    texts = set()
    for contrast in contrasts_of(question, seed):
        texts |= {contrast.more, contrast.less}
    return sorted(texts)


# --- What gold utility says ---


def study_world(
    fit: Callable[..., tuple],
    train_dpo: Callable,
    backbone: str,
    models: dict[str, tuple],
    train: Sequence[dict],
    held: Sequence[dict],
    rewards: np.ndarray,
    **fitting,
) -> dict:
    """What gold says of reward models, and what other labels, backbones and numbers of pairs do.

    `models` are (model, tokenizer) of "people", whose `rewards` (N, 2) of held-out pairs are given,
    of "length" and "untrained"; the others are trained here, by reward_model.py's `fit` with
    `fitting` and by dpo_trainer.py's `train_dpo`.
    """
    seed, people, ordered = fitting["seed"], models["people"], gold_order(held)
    unseen = gold_order(make_pairs(2 * len(held) // 5, "test", seed=seed, unseen=True))
    asked = questions("test")[: len(held) // 5]
    with_belief = [question for question in asked if question.belief]
    for question in with_belief[:2]:
        show_scores(*people, question.prompt, answers_to(question, seed))
    *others, _ = fit(backbone, labelled_again(train, seed), name="other people", **fitting)
    encoder, _ = study_sizes(fit, backbone, train, ordered, **fitting)
    sft_fitting = {**fitting, "learning_rate": DEFAULTS["reward model"]["learning_rate"]}
    sft_curve, sft = study_sizes(fit, SFT, train, ordered, **sft_fitting)
    dpo = study_dpo_sizes(train_dpo, train, ordered, seed, fitting["device"])
    in_order, untrained = (score_pairs(*models[name], ordered) for name in ("people", "untrained"))
    encoder = Curve([*encoder.counts, len(train)], [*encoder.hits, pair_hits(in_order)])
    groups = {"people": people, "length": models["length"], "others": others, "sft": sft}
    return {
        **judge_by_gold(rewards, in_order, untrained, held),
        "gold_order_unseen_facts": summary(pair_hits(score_pairs(*people, unseen))),
        **study_groups(groups, held, asked, seed),
        **compare_sizes(encoder, sft_curve, dpo, ordered),
    }


def judge_by_gold(
    rewards: np.ndarray, in_order: np.ndarray, untrained: np.ndarray, held: Sequence[dict]
) -> dict:
    """What gold utility says of the rewards (N, 2) of held-out pairs, beside two controls.

    `in_order` are the rewards of these pairs in the gold order, `untrained` an untrained model's.
    """
    gaps, ordered = utilities_of(held), gold_order(held)
    shorter = pair_hits(length_only(ordered))
    return {
        "bayes_ceiling": bayes_ceilings(gaps[:, 0] - gaps[:, 1]),
        "gold_order": by_reason(pair_hits(in_order), ordered),
        "control_untrained": summary(pair_hits(untrained)),
        "control_length_only": summary(shorter),
        "above_length": summary(pair_hits(in_order) - shorter),
        "by_style": by_style(rewards, held),
    }


# --- Groups of annotators, and what their reward models absorbed ---


def study_groups(
    models: dict[str, tuple], held: Sequence[dict], asked: Sequence[Question], seed: int
) -> dict:
    """How often the models of `GROUPS` order pairs unlike, what they absorbed, and their level.

    `models` are (model, tokenizer); the level is the mean of reward minus gold utility, in
    log-odds, which the Bradley-Terry loss leaves free.
    """
    rewards = {group: score_pairs(*model, held) for group, model in models.items()}
    order = {group: np.sign(table[:, 0] - table[:, 1]) for group, table in rewards.items()}
    biased, control = (order[group] != order["people"] for group in ("length", "others"))
    absorbed = {
        group: contrast_rewards(scorer(*model), asked, seed) for group, model in models.items()
    }
    level = {group: (table - utilities_of(held)).mean(1) for group, table in rewards.items()}
    return {
        "disagreement": {
            "length": summary(biased),
            "others": summary(control),
            "difference": summary(biased.astype(float) - control),
        },
        "contrasts": {group: recovered(absorbed[group], GROUPS[group]) for group in models},
        "absorbed": absorbed_bias(absorbed["length"], absorbed["people"], "length"),
        "level": {group: summary(table) for group, table in level.items()},
    }


# --- Numbers of pairs ---


class Curve(NamedTuple):
    """Reward models by number of training pairs, and where each orders pairs as gold does."""

    counts: list[int]
    hits: list[np.ndarray]  # each (pairs in the gold order,)


def smaller(pairs: Sequence[dict]) -> list[int]:
    """The sizes to try beside all pairs; half of them where there are few."""
    return [size for size in SIZES if size < len(pairs)] or [len(pairs) // 2]


def study_sizes(
    fit: Callable[..., tuple],
    backbone: str,
    pairs: Sequence[dict],
    ordered: Sequence[dict],
    **fitting,
) -> tuple[Curve, tuple]:
    """The curve of reward models on `SIZES` of the pairs, and the last (model, tokenizer)."""
    curve, model = Curve(smaller(pairs), []), ()
    for count in curve.counts:
        name = f"{Path(backbone).name}, {count} pairs"
        *model, _ = fit(backbone, pairs[:count], name=name, **fitting)
        curve.hits.append(pair_hits(score_pairs(*model, ordered)))
    return curve, tuple(model)


def study_dpo_sizes(
    train_dpo: Callable, pairs: Sequence[dict], ordered: Sequence[dict], seed: int, device: str
) -> Curve:
    """The curve of policies that dpo_trainer.py's `train_dpo` trains, ordering by log(pi / pi_ref).

    That is the implicit reward but for beta, which changes no order.
    """
    settings, hits = training_settings("dpo", model=SFT, seed=seed), []
    training = {name: settings[name] for name in ("learning_rate", "epochs", "batch_size", "seed")}
    for count in smaller(pairs):
        start, tokenizer = load_causal_lm(SFT, device)
        name = f"DPO, {count} pairs"
        policy = train_dpo(start, tokenizer, pairs[:count], name=name, **training).policy
        logps, ref_logps = pair_logps(policy, tokenizer, ordered)
        hits.append(pair_hits((logps - ref_logps).numpy().T))
    return Curve(smaller(pairs), hits)


def compare_sizes(encoder: Curve, sft: Curve, dpo: Curve, ordered: Sequence[dict]) -> dict:
    """The curves, and what the claims compare, pair by pair: all at the last size of `dpo`."""
    last = len(dpo.hits) - 1  # the encoder's curve goes on from there
    facts = is_about_facts(ordered)
    curves = {"encoder": encoder, "sft": sft, "dpo": dpo}

    def style_minus_facts(table: np.ndarray, axis: int = 0) -> float:
        hits, about_facts = table[:, 0], table[:, 1] == 1
        return hits[~about_facts].mean() - hits[about_facts].mean()

    both = np.column_stack([sft.hits[last], facts])
    return {
        "curve": {name: curve_rows(curve, ordered) for name, curve in curves.items()},
        "encoder_over_sft": summary(encoder.hits[last] - sft.hits[last]),
        "dpo_over_encoder": summary(dpo.hits[last] - encoder.hits[last]),
        "sft_style_over_facts": summary(both, style_minus_facts),
    }


def curve_rows(curve: Curve, ordered: Sequence[dict]) -> list[dict]:
    """A curve as metrics: at each number of pairs the accuracies of `by_reason`."""
    points = zip(curve.counts, curve.hits, strict=True)
    return [{"pairs": count, **by_reason(hits, ordered)} for count, hits in points]
