"""The trainings that dpo_variants.py compares on the world's pairs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from support.judging import ai_labels
from support.training import Trained
from support.variant_data import flip_labels, single_labels, tied_pairs

from common.preferences import make_pairs

FLIPPED = (0, 10, 20, 30)  # per cent of the labels
HUMAN_LABELS = tuple(f"flipped_{share}" for share in FLIPPED)
AI_LABELS = ("ai_labels", "ai_one_order")
WATCHED = ("dpo", "ipo", "kto", "dpo_ties", "ipo_ties", "dpo_noise", "kto_noise")  # on the way
SHOWN = ("dpo", "ipo", "kto", "dpo_ties", "ipo_ties", "policy")  # in the terminal


class Arm(NamedTuple):
    """One training: its key in the metrics, its name, what trains it on which pairs, and how."""

    key: str
    name: str
    method: Callable[..., Trained]
    pairs: Sequence[dict]
    settings: dict


def world_arms(
    arm: Callable[..., Arm],
    pairs: list[dict],
    once: list[dict],
    seed: int,
    in_rounds: Callable[..., Trained],
    on_chosen: Callable[..., Trained],
) -> list[Arm]:
    """The arms beside DPO, IPO and KTO on `pairs`; `once` are one-sided pairs, shown 8 times.

    `arm(key, name, pairs, losses, **settings)` makes an arm of TRL's losses; `in_rounds` trains on
    pairs of a source, `on_chosen` on chosen answers alone.
    """
    many = make_pairs(2 * len(pairs), seed=seed)
    return [
        *other_data(arm, pairs, once, seed),
        *other_labels(arm, pairs, seed),
        Arm("sft_on_chosen", "SFT on the chosen", on_chosen, pairs, {"epochs": 1}),
        Arm("written", "written pairs", in_rounds, many, {"source": "written", "epochs": 1}),
        Arm("sft", "SFT samples", in_rounds, many, {"source": "sft", "epochs": 1}),
        Arm("policy", "on-policy DPO", in_rounds, many, {"source": "policy", "epochs": 1}),
    ]


def other_data(arm: Callable, pairs: list[dict], once: list[dict], seed: int) -> list[Arm]:
    """Ties and noise for as long as the clean pairs; one-sided pairs and single labels once."""
    ties, noisy = tied_pairs(len(pairs), seed), flip_labels(pairs, 0.3, seed)
    singles = single_labels(make_pairs(2 * len(pairs), seed=seed + 500), 0.25, seed)
    return [
        arm("dpo_ties", "DPO, 75 % ties", ties, ("sigmoid",)),
        arm("ipo_ties", "IPO, 75 % ties", ties, ("ipo",)),
        arm("dpo_noise", "DPO, 30 % flipped", noisy, ("sigmoid",)),
        arm("kto_noise", "KTO, 30 % flipped", noisy, ("kto",)),
        arm("dpo_one_sided", "DPO, one-sided", once * 8, ("sigmoid",), epochs=1),
        arm("ipo_one_sided", "IPO, one-sided", once * 8, ("ipo",), epochs=1),
        arm("kto_singles", "KTO without pairs", singles, ("kto",), epochs=1),
    ]


def other_labels(arm: Callable, pairs: list[dict], seed: int) -> list[Arm]:
    """DPO on human labels of falling quality, down to a coin's, in one pass over the pairs."""
    arms = []
    for key, share in zip(HUMAN_LABELS, FLIPPED, strict=True):
        flipped = flip_labels(pairs, share / 100, seed)
        arms.append(arm(key, f"one pass, {share} % flipped", flipped, ("sigmoid",), epochs=1))
    coin = flip_labels(pairs, 0.5, seed)
    return [*arms, arm("coin", "labels by a coin", coin, ("sigmoid",), epochs=1)]


def judge_arms(arm: Callable, annotator: tuple, pairs: Sequence[dict], world: bool) -> list[Arm]:
    """DPO on a language model's labels; in the world in one pass, and with one order as well."""
    labelled = ai_labels(*annotator, pairs)
    if not world:
        return [arm("ai_labels", "AI labels", labelled, ("sigmoid",))]
    one_order = ai_labels(*annotator, pairs, orders=1)
    return [
        arm("ai_labels", "AI labels", labelled, ("sigmoid",), epochs=1),
        arm("ai_one_order", "AI labels, one order", one_order, ("sigmoid",), epochs=1),
    ]
