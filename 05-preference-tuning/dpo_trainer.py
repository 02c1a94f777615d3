"""DPO: what does it do to the answers of a model, and when is it too much?

    python 05-preference-tuning/dpo_trainer.py
    python 05-preference-tuning/dpo_trainer.py --beta 0.1                            # a weaker pull
    python 05-preference-tuning/dpo_trainer.py --model FOLDER --dataset pairs.jsonl  # yours

TRL's DPOTrainer with LoRA on the SFT checkpoint; the loss stands in the open and is compared with
TRL's. Then more of it at a constant learning rate: more epochs, other beta, labels that love
length. Answers are sampled on the way: training metrics do not show when they break down. Last, DPO
on as many pairs that the SFT checkpoint sampled, or that the policy samples anew in every round.

About two minutes on one core. Good answers rise from 36 % to 87 % at a KL of 1 nat; over 5 epochs
they fall while training accuracy grows. Writes outputs/dpo/. Not here: reference-free losses.
"""

import argparse
from collections.abc import Sequence
from functools import partial

from support.amounts import AMOUNTS, study_amounts
from support.answers import join_studies
from support.artifacts import adapter_folders, save_adapter
from support.drawing.dpo_training import draw_dpo
from support.evaluation import compare, pair_logps, show_answers, summarize
from support.findings.dpo_training import findings
from support.lora import lora_targets
from support.own_pairs import pick
from support.parity import loss_difference
from support.resuming import keep_checkpoints
from support.second_look import look_after, look_before, look_on_the_way
from support.sources import ROUNDS_TRAINED, study_sources
from support.start import Start, start_from_sft, tune_with
from support.style import log_odds
from support.training import Trained, as_dataset, run_trainer, trainer_settings, training_settings
from support.win_rates import add_judge_flags, load_judges, win_rates_without_gold

import numpy as np

from common import cli
from common.intervals import summary
from common.reporting import Check, Claim, finish

BETA = 0.3
ROSE, FELL = "how far log p rose, held-out pairs, nats", "how far log p fell, held-out pairs, nats"
LATE = "how far log p rose after 5 epochs at a constant rate, pairs of the training, nats"
LOST = "gold utility lost from the best look to the last, log-odds"
FRESH = "gold utility of DPO on samples of the current policy, minus on those of the SFT model"
MOVES = (  # id, what the tutorial says, what is measured, where it stands
    ("dpo_raises_chosen", "DPO raises log p of chosen responses", ROSE, "chosen_rose"),
    ("dpo_lowers_rejected", "DPO lowers log p of rejected responses", FELL, "rejected_fell"),
    ("dpo_raises_chosen_to_the_end", "longer training still raises chosen", LATE, "rose_late"),
    ("optimal_amount_exists", "there is an optimal amount of tuning", LOST, "unbiased_lost"),
    ("optimal_amount_of_biased_labels", "beyond it a bias is exploited", LOST, "biased_lost"),
    ("on_policy_is_better", "on-policy pairs are better than fixed ones", FRESH, "fresh_minus_old"),
)

CLAIMS = (
    Claim(
        "dpo_raises_chosen_over_rejected",
        "DPO raises chosen relative to rejected responses",
        "margin of implicit rewards on held-out pairs, log-odds",
        path="held_out_pairs.margin",
        smallest=0.05,
    ),
    *(Claim(*row, smallest=0.1) for row in MOVES),
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
        "share of its room that style gained (answers without filler), minus that of right answers",
        path="style_minus_substance",
        smallest=0.05,
    ),
    Claim(
        "training_does_not_show_it",
        "training metrics do not show that answers decay (labels that love length)",
        "share of training pairs ranked as labelled, gained since gold utility was best",
        path="amounts.biased.accuracy_gained",
        smallest=0.02,
    ),
)
CHECKS = (
    Check("starts_at_ln_2", "the first loss is ln 2", "first_loss", (0.6930, 0.6933)),
    Check("loss_is_trls", "dpo_loss is TRL's loss", "loss_difference_from_trl", (0, 1e-5)),
)


# --- 1. The loss ---


def dpo_loss(
    policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta: float
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
    """beta log(pi / pi_ref), log-odds: the implied reward, up to a constant per prompt; Eq. 5."""
    return beta * (policy_logps - ref_logps)


# --- 2. Training with TRL and LoRA ---


def lora_config(model, r: int = 8):
    """The tutorial's LoRA, of rank r. c_attn and c_proj are GPT-2's; others have other names."""
    from peft import LoraConfig

    gpt2 = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}  # stored transposed
    targets = gpt2 if model.config.model_type == "gpt2" else lora_targets(model.config)
    scale = {"r": r, "lora_alpha": 2 * r, "lora_dropout": 0.1}
    return LoraConfig(**scale, **targets, task_type="CAUSAL_LM")


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
    lora_r: int = 8,
    schedule: str = "linear",
    loss_type: Sequence[str] = ("sigmoid",),
    label_smoothing: float = 0.0,
    reference=None,
    name: str = "DPO",
    look=None,
    look_at: Sequence[int] = (),
    checkpoints=None,
) -> Trained:
    """Train a LoRA adapter on rows of prompt, chosen, rejected with any of TRL's losses of pairs.

    With `peft_config` TRL takes the base model with the adapter off as the reference: one model in
    memory, not two. A model that has its adapter already is trained on, against `reference`.
    """
    import torch
    from trl import DPOConfig, DPOTrainer

    settings = (learning_rate, epochs, batch_size, seed, schedule, checkpoints)
    config = trainer_settings(model, *settings, by_length=True, has_reference=True)
    losses = {"loss_type": list(loss_type), "label_smoothing": label_smoothing}
    torch.manual_seed(seed)  # LoRA starts at random
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=DPOConfig(beta=beta, **losses, **config),
        train_dataset=as_dataset(pairs),
        processing_class=tokenizer,
        peft_config=None if reference else lora_config(model, lora_r),
    )
    return run_trainer(trainer, name, look, checkpoints, look_at)


tune = partial(tune_with, train_dpo)  # for the scripts that start from a policy tuned with DPO


# --- 3. What pairs show: both sides, the margin, the loss ---


def read_pairs(policy, tokenizer, pairs: Sequence[dict], beta: float) -> dict[str, np.ndarray]:
    """What the policy makes of pairs, arrays (N,). `chosen`, `rejected`: change of log p, nats.

    `accuracy` and `margin` (log-odds) are the implicit reward's; `likelier` says whether the chosen
    text is the likelier one.
    """
    logps, ref_logps = pair_logps(policy, tokenizer, pairs)  # each (2, N): chosen, rejected
    chosen, rejected = implicit_rewards(logps, ref_logps, beta)
    measured = {
        "accuracy": chosen > rejected,
        "margin": chosen - rejected,
        "chosen": chosen / beta,
        "rejected": rejected / beta,
        "loss": dpo_loss(*logps, *ref_logps, beta),
        "likelier": logps[0] > logps[1],
    }
    return {name: values.numpy().astype(float) for name, values in measured.items()}


# --- 4. The study: train, look on the way, judge; do more of it, take other pairs ---


def study(start: Start, checkpoints=None, judges: dict | None = None) -> tuple[dict, object]:
    """The section: metrics, and the policy of the default training.

    On the world's pairs there is a gold standard: the trainings of AMOUNTS show too much of it, and
    others take pairs that the model sampled itself. The `judges`, (model, tokenizer) by name,
    compare the answers before and after.
    """
    data, tokenizer, training = start.data, start.tokenizer, start.training
    beta, seed = training["beta"], training["seed"]
    first_batch = pick(data.train, range(min(training["batch_size"], len(data.train))))

    def look(step: int, policy) -> dict:
        if step == 0:
            loss = read_pairs(policy, tokenizer, first_batch, beta)["loss"].mean()
            print(f"loss before training {loss:.4f}; ln 2 = {np.log(2):.4f}")
        answers, readings = start.answer(policy, data.watched, 2, step)
        look_on_the_way(second_look, start, step, policy, answers, readings)
        return summarize(readings)

    second_look = look_before(start)
    texts, before = start.answer(start.reference, data.prompts, start.samples, seed)
    count = 1 + len(AMOUNTS) + ROUNDS_TRAINED  # on the world's pairs
    bars = (f"training {k} of {count}" for k in range(1, count + 1))
    name = next(bars) if data.has_gold else "DPO"
    watched = {"name": name, "look": look, "checkpoints": checkpoints}
    trained = train_dpo(start.reference, tokenizer, data.train, **training, **watched)
    policy = trained.policy
    tuned_texts, after = start.answer(policy, data.prompts, start.samples, seed)
    show_answers(data.prompts, {"before": texts, "after": tuned_texts})
    losses = read_pairs(policy, tokenizer, first_batch, beta)["loss"]
    held_out = read_pairs(policy, tokenizer, data.held, beta)
    metrics = {
        "train_pairs": len(data.train),
        "first_loss": trained.history["loss"][0],
        **loss_difference(losses, trained),
        "reference": summarize(before),
        "policy": summarize(after),
        "held_out_pairs": {key: summary(values) for key, values in held_out.items()},
        "chosen_rose": summary(held_out["chosen"]),
        "rejected_fell": summary(-held_out["rejected"]),
        "training": trained.history,
        "curve": trained.curve,
    }
    metrics |= look_after(second_look, start, tuned_texts, after, held_out, metrics["first_loss"])
    sides = (tuned_texts, after), (texts, before)
    metrics |= win_rates_without_gold(judges or {}, data.prompts, *sides)
    if data.has_gold:
        amounts = study_amounts(train_dpo, read_pairs, start, after, (texts, tuned_texts), bars)
        sources = study_sources(train_dpo, start, bars)
        metrics |= join_studies(amounts, sources)
        metrics |= {"log_odds": log_odds(policy, start), **compare(before, after)}
    return metrics, policy


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__file__, __doc__)
    cli.add_model_flags(parser, model="tiny-gpt2")
    pairs, rate = "768 of the world, all of your own", "7e-4 embedded, 3e-4 other models"
    group = cli.add_training_flags(parser, pairs, rate, batch_size=8)
    group.add_argument("--beta", type=cli.positive_float, default=BETA, help="pull to the start")
    group.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    group.add_argument("--merge", action="store_true", help="also save the merged model")
    add_judge_flags(cli.add_policy_flags(parser, prompts="256, of your own 16"))
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Train, judge, draw, and save the adapter to outputs/dpo; returns the metrics."""
    smoke = {"pairs": 64, "num_train_epochs": 1, "prompts": 16}
    args = cli.start(build_parser(), argv, "dpo_training", smoke)
    folders = adapter_folders(args.output_dir / cli.name_run("dpo", args.changed), args.merge)
    checkpoints = args.output_dir / "dpo-checkpoints"
    cli.check_writable(checkpoints)
    device = cli.init_compute(args.device)
    settings = training_settings("dpo", **args.settings)
    options = {"device": device, "prompts": args.prompts, "smoke": args.smoke}
    start = start_from_sft(**settings, **options, output_dir=args.output_dir)
    judges = load_judges(args.judge, args.reward_model, device)
    with keep_checkpoints(checkpoints, settings, args.resume) as kept:
        metrics, policy = study(start, kept, judges)
        save_adapter(folders, settings, policy, start.tokenizer, start.data.prompts[0])
    lines, claims = findings(metrics), () if args.dataset else CLAIMS
    return finish(args, metrics, draw_dpo, lines, claims, CHECKS, settings, device, folders)


if __name__ == "__main__":
    cli.run(main)
