"""DPO: what does it do to the answers of a model, and when does it go too far?

    python 05-preference-tuning/dpo_trainer.py
    python 05-preference-tuning/dpo_trainer.py --num-train-epochs 5                  # more of it
    python 05-preference-tuning/dpo_trainer.py --model FOLDER --dataset pairs.jsonl  # yours

TRL's DPOTrainer with LoRA on the SFT checkpoint. The loss stands in the open below and is compared
with TRL's. On the way answers to held-out prompts are sampled: the share of good ones, gold utility
and KL(policy || reference) stand beside the loss and the margins, because training metrics do not
show when answers break down. Then the same with ten times the learning rate: too much of it.

About 40 seconds on 2 cores. Expect good answers to rise from 36 % to 88 % at a KL of 1.2 nats, and
to fall back to 68 % at the high learning rate, whose margins look three times better. Writes
outputs/dpo_training.png and outputs/dpo/, a PEFT adapter with a README that says how to use it.
Left out: f-divergences other than the reverse KL, reference-free losses.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from support.artifacts import check_ours, keep_checkpoints, save_adapter
from support.drawing.dpo_training import draw_dpo
from support.evaluation import compare, pair_logps, sample_answers, show_answers, summarize
from support.own_pairs import load_own_pairs, policy_data, tell_limits
from support.training import (
    Trained,
    add_lengths,
    as_dataset,
    checkpoint_settings,
    group_by_length,
    load_sft_checkpoint,
    run_trainer,
    trainer_settings,
    training_settings,
)

import numpy as np

from common import cli
from common.reporting import Check, Claim, finish, interval, percent, summary

BETA = 0.3
TOO_FAR = 10  # times the learning rate

CLAIMS = (
    Claim(
        "dpo_raises_chosen_over_rejected",
        "DPO raises chosen relative to rejected responses",
        "margin of implicit rewards on held-out pairs, log-odds",
        path="held_out_pairs.margin",
        smallest=0.05,
    ),
    Claim(
        "dpo_is_stable_over_seeds",
        "DPO trains stably: every seed improves the answers alike",
        "share of good answers gained over the SFT checkpoint",
        path="good_gain",
        smallest=0.05,
    ),
    Claim(
        "style_more_than_substance",
        "preference tuning changes style more than substance",
        "change in the share of on-topic answers without filler, minus that of right ones",
        path="style_minus_substance",
        smallest=0.05,
    ),
    Claim(
        "optimal_amount_exists",
        "there is an optimal amount of preference tuning",
        f"share of good answers lost with {TOO_FAR} times the learning rate",
        path="good_lost_too_far",
        smallest=0.05,
    ),
)
CHECKS = (
    Check("starts_at_ln_2", "the first loss is ln 2", "first_loss", (0.6930, 0.6933)),
    Check("loss_is_trls", "dpo_loss is TRL's loss", "loss_difference_from_trl", (0, 1e-5)),
)


# --- 1. The loss ---


def dpo_loss(
    policy_chosen_logps,
    policy_rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    beta: float,
):
    """-log sigmoid(beta h) per pair in nats, h the log-ratio of chosen minus rejected; (B,).

    Log-probabilities are summed over the tokens of a response. At the start h = 0 and the loss is
    ln 2. Rafailov et al. 2023 (arXiv 2305.18290), Eq. 7.
    """
    from torch.nn.functional import logsigmoid

    chosen_logratios = policy_chosen_logps - ref_chosen_logps
    rejected_logratios = policy_rejected_logps - ref_rejected_logps
    return -logsigmoid(beta * (chosen_logratios - rejected_logratios))


def implicit_rewards(policy_logps, ref_logps, beta: float):
    """beta log(pi / pi_ref): the reward that the policy implies, up to a constant per prompt."""
    return beta * (policy_logps - ref_logps)


# --- 2. Training with TRL and LoRA ---


def lora_config(model):
    """The tutorial's LoRA. c_attn and c_proj are GPT-2's names; PEFT knows other models' own."""
    from peft import LoraConfig

    is_gpt2 = model.config.model_type == "gpt2"
    return LoraConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=0.1,
        target_modules=["c_attn", "c_proj"] if is_gpt2 else None,
        fan_in_fan_out=is_gpt2,  # GPT-2 stores its weights transposed
        task_type="CAUSAL_LM",
    )


def train_dpo(
    model,
    tokenizer,
    pairs: Sequence[dict],
    *,
    learning_rate: float,
    beta: float = BETA,
    epochs: int = 1,
    batch_size: int = 8,
    seed: int = 0,
    loss_type: Sequence[str] = ("sigmoid",),
    label_smoothing: float = 0.0,
    reference=None,
    name: str = "DPO",
    look=None,
    checkpoints=None,
) -> Trained:
    """Train a LoRA adapter on rows of prompt, chosen, rejected with any of TRL's losses of pairs.

    With `peft_config` TRL takes the base model with the adapter off as the reference: one model in
    memory, not two. A model that has its adapter already is trained on, against `reference`.
    """
    import torch
    from trl import DPOConfig, DPOTrainer

    config = {
        **trainer_settings(model, learning_rate, epochs, batch_size, seed),
        **group_by_length(model),
        **checkpoint_settings(checkpoints),
    }
    torch.manual_seed(seed)  # LoRA starts at random
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=DPOConfig(
            beta=beta, loss_type=list(loss_type), label_smoothing=label_smoothing, **config
        ),
        train_dataset=as_dataset(pairs),
        processing_class=tokenizer,
        peft_config=None if reference else lora_config(model),
    )
    add_lengths(trainer)
    return run_trainer(trainer, name, look, checkpoints)


def difference_from_trl(trained: Trained, tokenizer, pairs: Sequence[dict], beta: float) -> float:
    """|dpo_loss - TRL's loss| in nats on the same batch, the first of the training pairs."""
    import torch

    trainer = trained.trainer
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(pairs))])
    with torch.no_grad():
        trl_loss = trainer.compute_loss(trained.policy, trainer._prepare_inputs(batch)).item()
    policy, reference = pair_logps(trained.policy, tokenizer, pairs)
    return abs(dpo_loss(*policy, *reference, beta).mean().item() - trl_loss)


# --- 3. What became of held-out pairs, and of sampled answers ---


def held_out_rewards(policy, tokenizer, pairs: Sequence[dict], beta: float) -> dict:
    """Implicit rewards of pairs: accuracy, margin, each side; is chosen the likelier text?"""
    logps, ref_logps = pair_logps(policy, tokenizer, pairs)
    chosen, rejected = implicit_rewards(logps, ref_logps, beta).numpy()
    return {
        "implicit_reward_accuracy": summary(chosen > rejected),
        "margin": summary(chosen - rejected),
        "chosen_reward": summary(chosen),
        "rejected_reward": summary(rejected),
        "ranking_accuracy": summary(logps[0].numpy() > logps[1].numpy()),
    }


# --- 4. The study: train, look on the way, judge, and do too much of it ---


def tune(
    *,
    model: str,
    dataset: str | None,
    pairs: int | None,
    output_dir: Path,
    device: str,
    sft_steps: int | None = None,
    max_new_tokens: int = 48,
    **training,
) -> tuple:
    """(policy, tokenizer) trained as in `study`, for the scripts that need the default policy."""
    rows, seed = load_own_pairs(dataset), training["seed"]
    base, tokenizer = load_sft_checkpoint(model, dataset, sft_steps, seed, output_dir, device)
    data = policy_data(rows, tokenizer, pairs, seed, max_new_tokens)
    return train_dpo(base, tokenizer, data.train, **training).policy, tokenizer


def study(
    *,
    model: str,
    dataset: str | None,
    pairs: int | None,
    output_dir: Path,
    device: str,
    sft_steps: int | None = None,
    max_new_tokens: int = 48,
    prompts: int | None = None,
    held_out: int = 500,
    samples: int = 3,
    checkpoints=None,
    **training,
) -> tuple[dict, object, object]:
    """The section: (metrics, policy, tokenizer); `training` are the settings of `train_dpo`.

    On the world's pairs there is a gold standard, and a second training that goes too far.
    """
    rows, seed, beta = load_own_pairs(dataset), training["seed"], training["beta"]
    sft = (model, dataset, sft_steps, seed, output_dir, device)
    reference, tokenizer = load_sft_checkpoint(*sft)
    data = policy_data(rows, tokenizer, pairs, seed, max_new_tokens, prompts, held_out)
    tell_limits(model, dataset, data.train, training["epochs"], training["batch_size"])

    def look(step: int, policy) -> dict:
        if step == 0:
            logps, ref_logps = pair_logps(policy, tokenizer, data.train[: training["batch_size"]])
            loss = dpo_loss(*logps, *ref_logps, beta).mean().item()
            print(f"loss before training {loss:.4f}; ln 2 = {np.log(2):.4f}")
        return summarize(answer(policy, data.watched, 2, step)[1])

    def answer(policy, asked: list[str], n: int, seed: int) -> tuple:
        return sample_answers(policy, tokenizer, asked, n, max_new_tokens, seed)

    before_texts, before = answer(reference, data.prompts, samples, seed)
    name = "training 1 of 2" if data.has_gold else "DPO"
    watched = {"look": look, "checkpoints": checkpoints}
    trained = train_dpo(reference, tokenizer, data.train, **training, name=name, **watched)
    after_texts, after = answer(trained.policy, data.prompts, samples, seed)
    show_answers(data.prompts, {"before": before_texts, "after": after_texts})
    batch = data.train[: training["batch_size"]]
    metrics = {
        "train_pairs": len(data.train),
        "prompts": data.prompts,
        "first_loss": trained.history["loss"][0],
        "loss_difference_from_trl": difference_from_trl(trained, tokenizer, batch, beta),
        "reference": summarize(before),
        "policy": summarize(after),
        "held_out_pairs": held_out_rewards(trained.policy, tokenizer, data.held, beta),
        "training": trained.history,
        "curve": trained.curve,
    }
    if data.has_gold:
        metrics |= compare(before, after)
        too_far = {**training, "learning_rate": TOO_FAR * training["learning_rate"]}
        fresh, _ = load_sft_checkpoint(*sft)
        far = train_dpo(fresh, tokenizer, data.train, **too_far, name="training 2 of 2", look=look)
        far_answers = answer(far.policy, data.prompts, samples, seed)[1]
        metrics |= {"training_too_far": far.history, "curve_too_far": far.curve}
        metrics["policy_too_far"] = summarize(far_answers)
        metrics["good_lost_too_far"] = summary((after["good"] - far_answers["good"]).mean(1))
    return metrics, trained.policy, tokenizer


def findings(metrics: dict) -> list[str]:
    """What was found, in sentences."""
    before, after, held = (metrics[name] for name in ("reference", "policy", "held_out_pairs"))
    lines = [
        f"Of held-out pairs the implicit reward ranks {percent(held['implicit_reward_accuracy'])} "
        f"as labelled, with a margin of {interval(held['margin'])} in log-odds "
        f"(chosen {held['chosen_reward']['mean']:+.2f}, rejected "
        f"{held['rejected_reward']['mean']:+.2f}).",
        f"Sampled answers to held-out prompts lie {interval(after['kl'])} nats from the reference "
        f"and have {before['words']['mean']:.1f} words before, {after['words']['mean']:.1f} after.",
    ]
    if "good" not in after:
        return [*lines, "There is no gold standard for these pairs: read the answers."]
    far = metrics["policy_too_far"]
    return [
        f"Good answers: {percent(before['good'])} before, {percent(after['good'])} after; "
        f"gold utility {interval(before['utility'])} and {interval(after['utility'])}.",
        *lines,
        f"Of on-topic answers {metrics['style_change']['mean']:+.0%} have no filler, "
        f"{metrics['substance_change']['mean']:+.0%} are right.",
        f"Ten times the learning rate: good answers {percent(far['good'])}, "
        f"KL {interval(far['kl'])} nats.",
    ]


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__file__, __doc__)
    cli.add_model_flags(parser, model="tiny-gpt2")
    pairs, rate = "768 of the world, all of your own", "7e-4 embedded, 3e-4 other models"
    group = cli.add_training_flags(parser, pairs, rate, batch_size=8)
    beta = "strength of the pull towards the reference"
    group.add_argument("--beta", type=cli.positive_float, default=BETA, help=beta)
    group.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    merge = "also save the model with the adapter merged into it"
    group.add_argument("--merge", action="store_true", help=merge)
    cli.add_policy_flags(parser, prompts="256, of your own 16")
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Train, judge, draw, and save the adapter to outputs/dpo; returns the metrics."""
    smoke = {"pairs": 64, "num_train_epochs": 1, "prompts": 16}
    args = cli.start(build_parser(), argv, "dpo_training", smoke)
    adapter = args.output_dir / cli.name_run("dpo", args.changed)
    merged = [adapter.with_name(f"{adapter.name}-merged")] if args.merge else []
    check_ours(adapter, *merged)
    device = cli.init_compute(args.device)
    settings = training_settings("dpo", **args.settings)
    with keep_checkpoints(args.output_dir / "dpo-checkpoints", settings, args.resume) as kept:
        metrics, policy, tokenizer = study(
            **settings,
            prompts=args.prompts,
            held_out=32 if args.smoke else 500,
            samples=1 if args.smoke or args.dataset else 3,
            checkpoints=kept,
            output_dir=args.output_dir,
            device=device,
        )
    question = metrics["prompts"][0]
    save_adapter(adapter, settings, policy, tokenizer, question, *merged)
    return finish(
        args,
        metrics,
        draw_dpo,
        findings(metrics),
        claims=() if args.dataset else CLAIMS,
        checks=CHECKS,
        settings=settings,
        device=device,
        trained=[adapter, *merged],
    )


if __name__ == "__main__":
    cli.run(main)
