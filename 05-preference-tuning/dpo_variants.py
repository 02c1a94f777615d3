"""DPO's variants: what do IPO, KTO, AI feedback and on-policy pairs change?

    python 05-preference-tuning/dpo_variants.py
    python 05-preference-tuning/dpo_variants.py --loss-type sigmoid sft   # a sum of TRL's losses
    python 05-preference-tuning/dpo_variants.py --judge FOLDER            # another annotator
    python 05-preference-tuning/dpo_variants.py --model FOLDER --dataset pairs.jsonl    # yours

First one pair of answers and a policy that is a table: where DPO, conservative DPO and IPO stop.
Then trainings of the SFT checkpoint, judged by sampled answers to held-out prompts: IPO and DPO on
clean, tied and one-sided pairs, KTO and DPO under label noise, long enough to differ; DPO on labels
of falling quality, and on those of a language model that reads two answers and says A or B; DPO on
written pairs, on samples of the SFT checkpoint, and on samples of the policy itself. Two controls:
SFT on the chosen answers, and DPO on labels drawn by a coin.

About two minutes on 2 cores for twenty short trainings. Writes outputs/dpo_variants.png.
Left out: rewards that are queried during training (online_rl.py), and training the judge.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from support.drawing.dpo_variants import draw_variants
from support.judging import ai_labels, study_judge
from support.own_pairs import load_own_pairs
from support.pair_table import study_table
from support.parity import difference_from_trl, ipo_inputs, kto_inputs
from support.policy_data import policy_data, tell_limits
from support.training import (
    Trained,
    load_sft_checkpoint,
    run_trainer,
    trainer_settings,
    training_settings,
)
from support.variant_data import flip_labels, one_sided_pairs, single_labels, tied_pairs, unpaired
from support.variant_results import compare_arms, frontier_points, label_quality, run_arms
from support.variant_training import LOSSES, UNPAIRED, train_in_rounds, train_sft_on_chosen

import numpy as np
from dpo_trainer import BETA, dpo_loss, lora_config, train_dpo

from common import cli
from common.models import load_causal_lm
from common.preferences import make_pairs
from common.reporting import Check, Claim, finish, interval, percent, summary

# beta, from 0.1, 0.3, 1 and 3, by sampled answers to validation prompts: the least KL among those
# within 0.02 of the best share of good answers. IPO's is tau, per token of the response. All other
# losses take DPO's 0.3.
BETAS = {"ipo": 1.0, "kto": 1.0, "apo_zero_unpaired": 1.0}
FLIPPED = (0, 10, 20, 30)  # per cent of the labels
WATCHED = ("dpo", "ipo", "kto", "dpo_ties", "ipo_ties", "dpo_noise", "kto_noise")
SHOWN = ("dpo", "ipo", "kto", "dpo_ties", "ipo_ties", "policy")  # in the terminal

SMALLEST = 0.1  # difference in gold utility (log-odds) that is worth calling one
SAME = 0.2  # distance in gold utility within which labels are as good as others
MEASURED = {
    "ipo_under_ties": (
        "IPO regularises better than DPO where many pairs are tied",
        "gold utility that 75 % ties cost DPO, minus what they cost IPO",
    ),
    "ipo_under_imbalance": (
        "IPO regularises better than DPO where the pairs are one-sided",
        "gold utility of IPO minus that of DPO, both on 48 one-sided pairs shown 8 times",
    ),
    "kto_no_pairs": (
        "KTO needs no pairs",
        "gold utility gained over SFT from single labels, one good to three bad",
    ),
    "kto_noise": (
        "KTO is more robust to noisy labels than DPO",
        "gold utility that 30 % flipped labels cost DPO, minus what they cost KTO",
    ),
    "data_bounds_quality": (
        "the quality of the preference data bounds that of the tuning",
        "gold utility that 30 % flipped labels cost DPO",
    ),
    "rlaif_is_dpo": (
        "RLAIF is DPO once the labels are there",
        "gold utility gained over SFT by DPO on the labels of a language model",
    ),
    "on_policy_is_better": (
        "pairs from the current policy are better than fixed ones",
        "gold utility of DPO on samples of the current policy, minus on those of the SFT model",
    ),
    "more_than_sft_on_chosen": (
        "comparisons teach more than the chosen answers alone",
        "gold utility of DPO minus that of SFT on the chosen answers, one pass over the same pairs",
    ),
}
CLAIMS = (
    *(Claim(i, *says, f"differences.{i}", smallest=SMALLEST) for i, says in MEASURED.items()),
    Claim(
        "dpo_extreme_margins",
        "DPO runs to extreme margins where IPO stops",
        "log-ratio margin (nats) of the one-sided pairs trained on, DPO minus IPO",
        path="differences.dpo_extreme_margins",
        smallest=0.5,
    ),
    Claim(
        "rlaif_is_its_judge",
        "RLAIF is as good as its judge's labels agree with the gold order",
        "gold utility of DPO on AI labels, minus on human labels that agree as often (their line)",
        path="differences.rlaif_is_its_judge",
        true=(-SAME, SAME),
    ),
)
CHECKS = (
    Check("ipo_is_trls", "ipo_loss is TRL's loss", "ipo_difference_from_trl", (0, 1e-5)),
    Check("kto_is_trls", "kto_loss is TRL's loss", "kto_difference_from_trl", (0, 1e-5)),
)


# --- 1. The losses ---


def ipo_loss(
    policy_chosen_logps,
    policy_rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    beta: float,
    chosen_lengths=1,
    rejected_lengths=1,
):
    """(h - 1 / (2 beta))^2 per pair, h the log-ratio of chosen minus that of rejected; (B,).

    Azar et al. 2023 (arXiv 2310.12036), Eq. 17, where beta is called tau. With the lengths (B,) of
    the responses in tokens, h is a difference of means per token, as in TRL and in the paper's own
    runs; without them, of sums.
    """
    chosen_logratios = (policy_chosen_logps - ref_chosen_logps) / chosen_lengths
    rejected_logratios = (policy_rejected_logps - ref_rejected_logps) / rejected_lengths
    return (chosen_logratios - rejected_logratios - 1 / (2 * beta)) ** 2


def kto_loss(
    policy_logps, ref_logps, labels, kl, beta: float, desirable_weight=1.0, undesirable_weight=1.0
):
    """w (1 - sigmoid(beta (log-ratio - kl))) for good responses, the negative for bad ones; (B,).

    Ethayarajh et al. 2024 (arXiv 2402.01306), Eq. 8. `labels` are True for good; `kl` >= 0 is the
    reference point z0, in nats: the mean log-ratio of mismatched prompts and responses, through
    which no gradient flows.
    """
    import torch

    gain = torch.where(labels, policy_logps - ref_logps - kl, kl - policy_logps + ref_logps)
    weight = torch.where(labels, desirable_weight, undesirable_weight)
    return weight * (1 - torch.sigmoid(beta * gain))


def stopping_points(p: float, beta: float, smoothing: float) -> dict[str, float]:
    """The margin h (nats) at which each expected loss is least on a pair won with probability p.

    DPO: logit(p) / beta; conservative DPO takes labels for wrong with probability `smoothing`;
    IPO: (p - 1/2) / beta.
    """
    believed = p * (1 - smoothing) + (1 - p) * smoothing
    with np.errstate(divide="ignore"):
        logit, smooth_logit = (float(np.log(q) - np.log(1 - q)) for q in (p, believed))
    return {"dpo": logit / beta, "cdpo": smooth_logit / beta, "ipo": (p - 0.5) / beta}


# --- 2. KTO with TRL and LoRA; every loss of pairs is dpo_trainer's train_dpo ---


def train_kto(
    model,
    tokenizer,
    rows: Sequence[dict],
    *,
    batch_size: int,
    seed: int,
    beta: float = BETAS["kto"],
    loss_type: str = "kto",
    name: str = "KTO",
    look=None,
    **training,
) -> Trained:
    """Train a LoRA adapter on pairs, or on rows of prompt, completion, label.

    A step reads twice as many responses as DPO reads pairs. The classes are weighed so that both
    count alike.
    """
    import torch
    from trl import KTOConfig, KTOTrainer

    data = unpaired(rows, seed)
    good = sum(data["label"])
    config = trainer_settings(model, batch_size=2 * batch_size, seed=seed, **training)
    weight = (len(data) - good) / good
    torch.manual_seed(seed)  # LoRA starts at random
    trainer = KTOTrainer(
        model=model,
        args=KTOConfig(loss_type=loss_type, beta=beta, desirable_weight=weight, **config),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora_config(model),
    )
    return run_trainer(trainer, name, look)


# --- 3. The arms ---


class Arm(NamedTuple):
    """One training: its key in the metrics, its name, what trains it on which pairs, and how."""

    key: str
    name: str
    method: Callable[..., Trained]
    pairs: Sequence[dict]
    settings: dict


def loss_arm(key: str, name: str, pairs, losses: Sequence[str], beta=None, **settings) -> Arm:
    """Training with the sum of TRL's losses of these names; beta is that of the first."""
    settings["beta"] = beta or BETAS.get(losses[0], BETA)
    if losses[0] in UNPAIRED:
        return Arm(key, name, train_kto, pairs, {**settings, "loss_type": losses[0]})
    if {"robust", "exo_pair"} & set(losses):
        settings["label_smoothing"] = 0.1
    return Arm(key, name, train_dpo, pairs, {**settings, "loss_type": losses})


def named_losses(pairs, losses: Sequence[str], beta: float | None) -> list[Arm]:
    """DPO, and beside it the losses of --loss-type, or else IPO and KTO."""
    arms = [loss_arm("dpo", "DPO", pairs, ("sigmoid",), beta)]
    if not losses:
        arms.append(loss_arm("ipo", "IPO", pairs, ("ipo",), beta))
        arms.append(loss_arm("kto", "KTO", pairs, ("kto",), beta))
    elif losses != ("sigmoid",):
        arms.append(loss_arm("_".join(losses), " + ".join(losses), pairs, losses, beta))
    return arms


def other_data(pairs: list[dict], once: list[dict], seed: int, beta: float | None) -> list[Arm]:
    """Ties and noise for as long as the clean pairs, one-sided pairs and single labels."""
    ties, noisy = tied_pairs(len(pairs), seed), flip_labels(pairs, 0.3, seed)
    singles = single_labels(make_pairs(2 * len(pairs), seed=seed + 500), 0.25, seed)
    return [
        loss_arm("dpo_ties", "DPO, 75 % ties", ties, ("sigmoid",), beta),
        loss_arm("ipo_ties", "IPO, 75 % ties", ties, ("ipo",), beta),
        loss_arm("dpo_noise", "DPO, 30 % flipped", noisy, ("sigmoid",), beta),
        loss_arm("kto_noise", "KTO, 30 % flipped", noisy, ("kto",), beta),
        loss_arm("dpo_one_sided", "DPO, one-sided", once * 8, ("sigmoid",), beta, epochs=1),
        loss_arm("ipo_one_sided", "IPO, one-sided", once * 8, ("ipo",), beta, epochs=1),
        loss_arm("kto_singles", "KTO without pairs", singles, ("kto",), beta, epochs=1),
    ]


def other_labels(pairs: list[dict], seed: int, beta: float | None) -> list[Arm]:
    """DPO on human labels of falling quality, in one pass over the pairs."""
    arms = []
    for share in FLIPPED:
        flipped, name = flip_labels(pairs, share / 100, seed), f"one pass, {share} % flipped"
        arms.append(loss_arm(f"flipped_{share}", name, flipped, ("sigmoid",), beta, epochs=1))
    return arms


def controls(pairs: list[dict], seed: int, beta: float | None) -> list[Arm]:
    """One pass over the same pairs that learns nothing from comparing their two answers."""
    coin, imitate = flip_labels(pairs, 0.5, seed), partial(train_sft_on_chosen, lora=lora_config)
    return [
        loss_arm("coin", "labels by a coin", coin, ("sigmoid",), beta, epochs=1),
        Arm("sft_on_chosen", "SFT on the chosen", imitate, pairs, {"epochs": 1}),
    ]


def judge_arms(annotator: tuple, pairs: Sequence[dict], beta, world: bool) -> list[Arm]:
    """DPO on a language model's labels; in the world in one pass, and with one order, too."""
    readers, epochs = [("ai_labels", "AI labels", 2)], {}
    if world:
        readers, epochs = [*readers, ("ai_one_order", "AI labels, one order", 1)], {"epochs": 1}
    arms = []
    for key, name, orders in readers:
        labelled = ai_labels(*annotator, pairs, orders)
        arms.append(loss_arm(key, name, labelled, ("sigmoid",), beta, **epochs))
    return arms


def other_sources(pairs: list[dict], beta: float | None, max_new_tokens: int) -> list[Arm]:
    """DPO in three rounds on written pairs, samples of the SFT checkpoint, and of the policy."""
    rounds = partial(train_in_rounds, train=train_dpo, max_new_tokens=max_new_tokens)
    settings, arms = {"beta": beta or BETA, "epochs": 1}, []
    names = {"written": "written pairs", "sft": "SFT samples", "policy": "on-policy DPO"}
    for source, name in names.items():
        arms.append(Arm(source, name, partial(rounds, source=source), pairs, settings))
    return arms


# --- 4. The study ---


def study(
    *,
    model: str,
    dataset: str | None,
    pairs: int | None,
    output_dir: Path,
    device: str,
    loss_type: Sequence[str] = (),
    judge: str | None = None,
    beta: float | None = None,
    sft_steps: int | None = None,
    max_new_tokens: int = 48,
    prompts: int | None = None,
    held_out: int = 300,
    table_steps: int = 3000,
    **training,
) -> dict:
    """The section's metrics; `training` are learning rate, epochs, batch size and seed.

    All of it on the world's pairs; with `loss_type`, or on the user's own pairs, which have no gold
    standard, DPO and the losses beside it, and DPO on the labels of a judge that is given.
    """
    rows, seed = load_own_pairs(dataset), training["seed"]
    sft = (model, dataset, sft_steps, seed, output_dir, device)
    _, tokenizer = load_sft_checkpoint(*sft)
    data = policy_data(rows, tokenizer, pairs, seed, max_new_tokens, prompts, held_out)
    tell_limits(model, dataset, data.train, training["epochs"], training["batch_size"])
    world = data.has_gold and not loss_type
    arms, human, by_judge = named_losses(data.train, tuple(loss_type), beta), [], []
    metrics, one_sided = {"train_pairs": len(data.train), "held_out_pairs": len(data.held)}, []
    if judge or world:
        annotator = load_causal_lm(judge or "tiny-gpt2", device)
        by_judge = judge_arms(annotator, data.train, beta, world)
        both = zip(by_judge[0].pairs, data.train, strict=True)
        metrics["judge_agrees"] = summary([ai["chosen"] == row["chosen"] for ai, row in both])
    if world:
        one_sided = one_sided_pairs(max(1, len(data.train) // 8), seed)
        human = other_labels(data.train, seed, beta)
        arms += other_data(data.train, one_sided, seed, beta) + controls(data.train, seed, beta)
        arms += other_sources(make_pairs(2 * pairs, seed=seed), beta, max_new_tokens)
        losses = {"dpo": dpo_loss, "ipo": ipo_loss}
        metrics["table"] = study_table(losses, stopping_points, table_steps)
        metrics["judge"] = study_judge(*annotator, data.held)

    def check(arm: Arm, trained: Trained) -> None:
        count = training["batch_size"]
        if arm.key == "ipo":
            ours = ipo_loss(**ipo_inputs(trained, tokenizer, arm.pairs[:count]))
            metrics["ipo_difference_from_trl"] = difference_from_trl(ours, trained)
        if arm.key == "kto":
            ours = kto_loss(**kto_inputs(trained, tokenizer, 2 * count))
            metrics["kto_difference_from_trl"] = difference_from_trl(ours, trained)

    results = run_arms(
        [*arms, *human, *by_judge],
        sft=sft,
        data=data,
        margin_pairs=one_sided or data.held,
        max_new_tokens=max_new_tokens,
        training=training,
        watched=WATCHED if world else (),
        shown=SHOWN if world else [arm.key for arm in arms],
        after=check,
    )
    metrics["arms"] = results.measured
    if world:
        gold = {key: answers["utility"].mean(1) for key, answers in results.answers.items()}
        labels = {"human": label_quality(human, results.measured)}
        labels["judge"] = label_quality(by_judge, results.measured)
        metrics["labels"] = labels
        metrics["differences"] = compare_arms(gold, results.margins, labels)
        annotations = {arm.key: len(arm.pairs) for arm in (*arms, *by_judge)}
        metrics["frontier"] = frontier_points(results.answers, annotations)
    return metrics


def findings(metrics: dict) -> list[str]:
    """What was found, in sentences."""
    arms, lines = metrics["arms"], []
    if "differences" not in metrics:
        for arm in list(arms.values())[1:]:
            accuracy, margin = percent(arm["implicit_reward_accuracy"]), interval(arm["margin"])
            gold = f", good answers {percent(arm['good'])}" if "good" in arm else ""
            lines.append(
                f"{arm['name']}: ranks {accuracy} of held-out pairs as labelled, margin {margin} "
                f"and KL {interval(arm['kl'])} nats{gold}."
            )
        if "judge_agrees" in metrics:
            agrees = percent(metrics["judge_agrees"])
            lines.append(f"The judge labels {agrees} of the pairs as the data do.")
        return lines

    def gold_at_kl(*keys: str) -> str:
        texts = []
        for key in keys:
            gold, kl = arms[key]["utility"]["mean"], arms[key]["kl"]["mean"]
            texts.append(f"{arms[key]['name']} {gold:.2f} at KL {kl:.1f}")
        return ", ".join(texts)

    stops = metrics["table"]["pairs"][1]["stops"]
    both, line = metrics["labels"]["judge"][0], metrics["differences"]["rlaif_is_its_judge"]
    return [
        f"One pair that wins in 80 %: DPO stops at h = {stops['dpo']:.2f} nats, IPO at "
        f"{stops['ipo']:.2f}; where it always wins, DPO never stops.",
        f"Gold utility and KL in nats: {gold_at_kl('reference', 'dpo', 'ipo', 'kto')}.",
        f"Other data: {gold_at_kl('dpo_ties', 'ipo_ties', 'dpo_one_sided', 'ipo_one_sided')}, "
        f"{gold_at_kl('dpo_noise', 'kto_noise', 'kto_singles')}.",
        f"The judge labels {percent(both['agreement'])} of the pairs in the gold order; DPO on its "
        f"labels lies {interval(line)} from what human labels predict.",
        f"Where pairs come from: {gold_at_kl('written', 'sft', 'policy')}.",
        f"Controls: {gold_at_kl('sft_on_chosen', 'coin')}.",
    ]


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__file__, __doc__)
    cli.add_model_flags(parser, model="tiny-gpt2")
    pairs, rate = "384 of the world, all of your own", "1.4e-3 embedded, 3e-4 other models"
    group = cli.add_training_flags(parser, pairs, rate, 8, epochs="3 on the world, else 1")
    losses = f"the sum of these beside DPO: {', '.join(LOSSES)}"
    group.add_argument("--loss-type", nargs="+", choices=LOSSES, metavar="LOSS", help=losses)
    judge = "language model that labels pairs; default: tiny-gpt2, for your own pairs none"
    group.add_argument("--judge", help=judge)
    beta = "default: 0.3; 1 for ipo (per token) and kto"
    group.add_argument("--beta", type=cli.positive_float, help=beta)
    cli.add_policy_flags(parser, prompts="256, of your own 16")
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Train every variant, judge, draw; returns the metrics."""
    smoke = {"pairs": 16, "num_train_epochs": 1, "prompts": 16}
    args = cli.start(build_parser(), argv, "dpo_variants", smoke)
    losses = args.loss_type or ()
    if len(losses) > 1 and set(losses) & set(UNPAIRED):
        reason = f"{' and '.join(UNPAIRED)} read single labels and stand alone"
        raise cli.UserError(f"--loss-type: {reason}")
    device = cli.init_compute(args.device)
    settings = training_settings("dpo variants", **args.settings)
    metrics = study(
        **settings,
        loss_type=losses,
        judge=args.judge,
        prompts=args.prompts,
        held_out=32 if args.smoke else 300,
        table_steps=300 if args.smoke else 3000,
        output_dir=args.output_dir,
        device=device,
    )
    return finish(
        args,
        metrics,
        draw_variants,
        findings(metrics),
        claims=CLAIMS if "differences" in metrics else (),
        checks=[check for check in CHECKS if check.path in metrics],
        settings=settings,
        device=device,
    )


if __name__ == "__main__":
    cli.run(main)
