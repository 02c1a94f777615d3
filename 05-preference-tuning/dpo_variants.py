"""DPO's variants: what do IPO, KTO and AI feedback change?

    python 05-preference-tuning/dpo_variants.py
    python 05-preference-tuning/dpo_variants.py --loss-type sigmoid sft   # a sum of TRL's losses
    python 05-preference-tuning/dpo_variants.py --model FOLDER --dataset pairs.jsonl    # yours

First one pair of answers and a policy that is a table: where DPO, conservative DPO and IPO stop.
Then the SFT checkpoint is trained and judged by sampled answers to held-out prompts. In 8 passes
over few pairs: IPO and DPO on clean, tied and one-sided ones, KTO and DPO under label noise. In one
pass: labels of falling quality and those of a language model that says A or B; two controls, SFT on
the chosen answers and labels drawn by a coin.

About three minutes on one core for 17 short trainings. Left out: training the judge.
"""

import argparse
from collections.abc import Sequence
from functools import partial

from support.drawing.dpo_variants import draw_variants
from support.findings.dpo_variants import findings
from support.judging import study_judge
from support.pair_table import study_table
from support.parity import loss_differences
from support.start import Start, start_from_sft
from support.training import Trained, run_trainer, trainer_settings, training_settings
from support.variant_arms import LOSSES, UNPAIRED, Arm, judge_arms, named_losses, world_arms
from support.variant_data import unpaired
from support.variant_results import compare_arms, run_arms

import numpy as np
from dpo_trainer import BETA, dpo_loss, lora_config, train_dpo

from common import cli
from common.models import load_causal_lm
from common.reporting import Check, Claim, finish

# beta, of 0.1, 0.3, 1 and 3, by sampled answers to validation prompts: least KL within 0.02 of the
# best share of good ones. After two passes over 384 pairs it is 0.3 for DPO, and 1 for KTO and for
# IPO, whose beta is tau, per token; after eight passes over 128 pairs it is 1 for all three.
BETAS = {"ipo": 1.0, "kto": 1.0, "apo_zero_unpaired": 1.0}
BETA_REPEATED = 1.0
REPEATED = 128  # of the world's pairs so many are shown in every pass
SMALLEST, SAME = 0.1, 0.2  # gold utility (log-odds): worth calling a difference; as good as equal
DIFFERENCES = {  # id: what the tutorial says, what is measured, in log-odds
    "ipo_under_ties": (
        "IPO regularises better than DPO where many pairs are tied",
        "gold utility of IPO minus that of DPO, both on 128 pairs, 75 % ties, shown 8 times",
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
        "gold utility of KTO minus that of DPO, both on 128 pairs, 30 % flipped, shown 8 times",
    ),
    "data_bounds_quality": (
        "the quality of the preference data bounds that of the tuning",
        "gold utility that 30 % flipped labels cost DPO in one pass",
    ),
    "rlaif_is_dpo": (
        "RLAIF is DPO once the labels are there",
        "gold utility gained over SFT by DPO on the labels of a language model",
    ),
    "more_than_sft_on_chosen": (
        "comparisons teach more than the chosen answers alone",
        "gold utility of DPO minus that of SFT on the chosen answers, one pass over the same pairs",
    ),
}
CLAIMS = (
    *(Claim(id, *row, f"differences.{id}", smallest=SMALLEST) for id, row in DIFFERENCES.items()),
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
    """w (1 - sigmoid(beta gain)), gain = log-ratio - kl for good responses, its negative for bad.

    All (B,) but `kl` >= 0, the reference point z0 in nats: the mean log-ratio of mismatched prompts
    and responses, through which no gradient flows. `labels` are True for good ("desirable") ones.
    Ethayarajh et al. 2024 (arXiv 2402.01306), Eq. 8.
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

    def logit(q: float) -> float:
        return float(np.log(q) - np.log(1 - q))

    with np.errstate(divide="ignore"):  # p = 1: DPO never stops
        return {"dpo": logit(p) / beta, "cdpo": logit(believed) / beta, "ipo": (p - 0.5) / beta}


# --- 2. KTO with TRL and LoRA; every loss of pairs is dpo_trainer's train_dpo ---


def train_kto(
    model,
    tokenizer,
    rows,
    *,
    batch_size,
    seed,
    beta,
    loss_type="kto",
    lora_r=8,
    name,
    look=None,
    look_at=(),
    **training,
) -> Trained:
    """Train a LoRA adapter on pairs, or on rows of prompt, completion, label.

    A step reads as many responses as DPO's. Good responses are weighed by how many bad ones there
    are to each, so that both classes count alike.
    """
    import torch
    from trl import KTOConfig, KTOTrainer

    data = unpaired(rows, seed)
    good = sum(data["label"])
    weight = (len(data) - good) / good
    shared = {"batch_size": 2 * batch_size, "seed": seed, "has_reference": True}
    config = trainer_settings(model, **shared, **training)
    torch.manual_seed(seed)  # LoRA starts at random
    trainer = KTOTrainer(
        model=model,
        args=KTOConfig(loss_type=loss_type, beta=beta, desirable_weight=weight, **config),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora_config(model, lora_r),
    )
    return run_trainer(trainer, name, look, look_at=look_at)


# --- 3. The arms ---


def loss_arm(key: str, name: str, pairs, losses: Sequence[str], *, beta=None, **settings) -> Arm:
    """Training with the sum of TRL's losses of these names; beta is that of the first."""
    settings["beta"] = beta or BETAS.get(losses[0], BETA)
    if losses[0] in UNPAIRED:
        return Arm(key, name, train_kto, pairs, {**settings, "loss_type": losses[0]})
    if {"robust", "exo_pair"} & set(losses):
        settings["label_smoothing"] = 0.1
    return Arm(key, name, train_dpo, pairs, {**settings, "loss_type": losses})


# --- 4. The study ---


def study(
    start: Start,
    losses: Sequence[str] = (),
    judge: str | None = None,
    beta: float | None = None,
    table_steps: int = 3000,
) -> dict:
    """The section's metrics; a `beta` that is given takes the place of every loss's own.

    With `losses`, or on the user's own pairs, which have no gold standard, only DPO, the losses
    beside it, and DPO on the labels of a `judge` that is given.
    """
    data, seed = start.data, start.training["seed"]
    world = data.has_gold and not losses
    few, usual = (data.train[:REPEATED], BETA_REPEATED) if data.has_gold else (data.train, None)
    often = partial(loss_arm, beta=beta or usual)
    arms = named_losses(often, few, tuple(losses))
    metrics = {"train_pairs": len(few), "held_out_pairs": len(data.held)}
    if world:
        once = partial(loss_arm, beta=beta, epochs=1)
        arms += world_arms(often, few, once, data.train, seed, lora_config)
        metrics["passes"] = start.training["epochs"]
        metrics["table"] = study_table(dpo_loss, ipo_loss, stopping_points, table_steps)
    if judge or world:
        annotator = load_causal_lm(judge or "tiny-gpt2", str(start.reference.device))
        labelled = (once, data.train) if world else (often, few)
        arms += judge_arms(*labelled, annotator, world)
        metrics["judge"] = study_judge(*annotator, data.held)
    results = run_arms(arms, start, None if world else data.held)
    metrics |= {"reference": results.measured.pop("reference"), "arms": results.measured}
    metrics |= results.second_look | loss_differences(results.trained, ipo_loss, kto_loss)
    return metrics | compare_arms(arms, results, data.prompts) if world else metrics


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__file__, __doc__)
    cli.add_model_flags(parser, model="tiny-gpt2")
    pairs, rate = "384 of the world, all of your own", "1.4e-3 embedded, 3e-4 other models"
    epochs = f"8 over {REPEATED} of the world's, else 1"
    group = cli.add_training_flags(parser, pairs, rate, 8, epochs=epochs)
    losses = f"the sum of these beside DPO: {', '.join(LOSSES)}"
    group.add_argument("--loss-type", nargs="+", choices=LOSSES, metavar="LOSS", help=losses)
    judge = "a language model; default: tiny-gpt2, of your own none"
    group.add_argument("--judge", type=cli.non_empty, help=judge)
    group.add_argument("--beta", type=cli.positive_float, help="default: 1; DPO in one pass 0.3")
    cli.add_policy_flags(parser, prompts="256, of your own 16")
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Train every variant, judge, draw; returns the metrics."""
    smoke = {"pairs": 16, "num_train_epochs": 1, "prompts": 16}
    args = cli.start(build_parser(), argv, "dpo_variants", smoke)
    losses = args.loss_type or ()
    if len(losses) > 1 and set(losses) & set(UNPAIRED):
        raise cli.UserError(f"--loss-type: {' and '.join(UNPAIRED)} stand alone: single labels")
    device = cli.init_compute(args.device)
    settings = training_settings("dpo variants", **{**args.settings, "beta": None})  # see BETAS
    options = {"device": device, "output_dir": args.output_dir, "smoke": args.smoke}
    options["labelled"] = bool(set(losses) & set(UNPAIRED)) and not args.judge
    start = start_from_sft(**settings, **options, prompts=args.prompts, held_out=300)
    metrics = study(start, losses, args.judge, args.beta, table_steps=300 if args.smoke else 3000)
    lines, claims = findings(metrics), CLAIMS if "differences" in metrics else ()
    return finish(args, metrics, draw_variants, lines, claims, CHECKS, settings, device)


if __name__ == "__main__":
    cli.run(main)
