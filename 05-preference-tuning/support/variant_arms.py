"""The trainings that dpo_variants.py compares: losses, data, labels, and SFT beside them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from support.judging import ai_labels
from support.training import Trained, as_dataset, run_trainer, trainer_settings
from support.variant_data import flip_labels, one_sided_pairs, single_labels, tied_pairs

from common.preferences import make_pairs

UNPAIRED = ("kto", "apo_zero_unpaired")  # losses of single labels, which stand alone
LOSSES = (  # all of TRL's
    *("sigmoid", "ipo", "hinge", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard"),
    *("aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sigmoid_norm", "sft"),
    *UNPAIRED,
)
FLIPPED = (0, 15, 30)  # per cent of the labels
HUMAN_LABELS = tuple(f"flipped_{share}" for share in FLIPPED)
AI_LABELS = ("ai_labels", "ai_one_order")
ONE_SIDED = ("dpo_one_sided", "ipo_one_sided")  # of them margins are read
WATCHED = ("dpo", "ipo", "kto", "dpo_ties", "ipo_ties", "dpo_noise", "kto_noise")  # on the way
SHOWN = ("dpo", "ipo", "kto", "dpo_ties", "ipo_ties", "ai_labels")  # in the terminal


class Arm(NamedTuple):
    """One training: its key in the metrics, its name, what trains it on which pairs, and how."""

    key: str
    name: str
    method: Callable[..., Trained]
    pairs: Sequence[dict]
    settings: dict


# --- The arms ---
# In all of them `arm(key, name, pairs, losses)` makes an arm of TRL's losses.


def named_losses(arm: Callable[..., Arm], pairs, losses: Sequence[str]) -> list[Arm]:
    """DPO, and beside it the losses of --loss-type, or else IPO and KTO.

    Of answers with a label only the loss of --loss-type, which is one of UNPAIRED.
    """
    if "label" in pairs[0]:
        return [arm(losses[0], losses[0], pairs, losses)]
    arms = [arm("dpo", "DPO", pairs, ("sigmoid",))]
    if not losses:
        arms += [arm("ipo", "IPO", pairs, ("ipo",)), arm("kto", "KTO", pairs, ("kto",))]
    elif losses != ("sigmoid",):
        arms.append(arm("_".join(losses), " + ".join(losses), pairs, losses))
    return arms


def world_arms(
    often: Callable[..., Arm],
    few: list[dict],
    once: Callable[..., Arm],
    pairs: list[dict],
    seed: int,
    lora: Callable,
) -> list[Arm]:
    """The arms beside DPO, IPO and KTO: a `few` pairs shown `often`, or all `pairs` `once`.

    `lora` makes the adapter for SFT.
    """
    settings, singles = {"lora": lora, "epochs": 1}, make_pairs(2 * len(pairs), seed=seed + 500)
    return [
        *hard_pairs(often, few, one_sided_pairs(max(1, len(pairs) // 8), seed), seed),
        once("kto_singles", "KTO without pairs", single_labels(singles, 0.25, seed), ("kto",)),
        Arm("sft_on_chosen", "SFT on the chosen", train_sft_on_chosen, pairs, settings),
        *label_arms(once, pairs, seed),
    ]


def hard_pairs(arm: Callable, pairs: list[dict], one_sided: list[dict], seed: int) -> list[Arm]:
    """Ties, noise and one-sided pairs, in as many passes as the clean pairs."""
    ties, noisy = tied_pairs(len(pairs), seed), flip_labels(pairs, 0.3, seed)
    return [
        arm("dpo_ties", "DPO, 75 % ties", ties, ("sigmoid",)),
        arm("ipo_ties", "IPO, 75 % ties", ties, ("ipo",)),
        arm("dpo_noise", "DPO, 30 % flipped", noisy, ("sigmoid",)),
        arm("kto_noise", "KTO, 30 % flipped", noisy, ("kto",)),
        arm("dpo_one_sided", "DPO, one-sided", one_sided, ("sigmoid",)),
        arm("ipo_one_sided", "IPO, one-sided", one_sided, ("ipo",)),
    ]


def label_arms(arm: Callable, pairs: list[dict], seed: int) -> list[Arm]:
    """DPO on human labels of falling quality, down to a coin's."""
    arms = [arm("coin", "labels by a coin", flip_labels(pairs, 0.5, seed), ("sigmoid",))]
    for key, share in zip(HUMAN_LABELS, FLIPPED, strict=True):
        flipped = flip_labels(pairs, share / 100, seed)
        arms.append(arm(key, f"one pass, {share} % flipped", flipped, ("sigmoid",)))
    return arms


def judge_arms(arm: Callable, pairs: Sequence[dict], annotator: tuple, world: bool) -> list[Arm]:
    """DPO on a language model's labels; in the world on those of one order as well."""
    labelled = ai_labels(*annotator, pairs)
    arms = [arm("ai_labels", "AI labels", labelled, ("sigmoid",))]
    if world:
        labelled = ai_labels(*annotator, pairs, orders=1)
        arms.append(arm("ai_one_order", "AI labels, one order", labelled, ("sigmoid",)))
    return arms


# --- Another way to train ---


def train_sft_on_chosen(
    model,
    tokenizer,
    pairs: Sequence[dict],
    *,
    lora,
    seed: int,
    name: str,
    lora_r: int = 8,
    look=None,
    **training,
) -> Trained:
    """Imitate the chosen answers with an adapter `lora`; the rejected answers are not read."""
    import torch
    from trl import SFTConfig, SFTTrainer

    data = as_dataset(pairs).remove_columns("rejected").rename_column("chosen", "completion")
    torch.manual_seed(seed)  # LoRA starts at random
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**trainer_settings(model, seed=seed, **training)),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora(model, lora_r),
    )
    return run_trainer(trainer, name, look)
