"""DPO: what does it do to the answers of a model, and when does it go too far?

    python 05-preference-tuning/dpo_trainer.py
    python 05-preference-tuning/dpo_trainer.py --num-train-epochs 5                 # drive it into over-optimisation
    python 05-preference-tuning/dpo_trainer.py --model FOLDER --dataset pairs.jsonl # your chat model, your pairs

TRL's DPOTrainer with LoRA on the SFT checkpoint. The loss stands in the open below and is compared with TRL's. Every
few steps answers to held-out prompts are sampled: the share of good ones, gold utility and KL(policy || reference)
stand beside the loss and the margins, because the training metrics do not show when answers break down.

About a minute on 2 cores, for four trainings: the default, two more seeds, and one with ten times the learning rate.
Expect good answers to rise from 0.36 to 0.88 at a KL of about 1.2 nats, and to fall back to 0.68 at the high learning
rate, whose margins look three times better. Writes dpo_training.png and outputs/dpo/, a PEFT adapter.
Left out: f-divergences other than the reverse KL, reference-free losses (dpo_variants.py has the relatives of DPO).
"""

import argparse
import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np
from drawing.dpo import dpo_figure, own_dpo_figure
from evaluation import (
    compare,
    interval,
    response_logps,
    sample_and_judge,
    sample_texts,
    summaries,
    summary,
)
from own_pairs import MAX_LENGTH, load_own_pairs, split_for_policy
from reward_model import shrink_for_smoke, training_key
from sft_checkpoint import load_sft_checkpoint

from common.cli import (
    UserError,
    add_batch_flag,
    add_model_flags,
    check_writable,
    is_main_process,
    make_parser,
    pick_device,
    positive_float,
    quiet_libraries,
    run,
    whole_number,
)
from common.models import gains_from_bfloat16, save_trained, trained_settings
from common.preferences import make_pairs, questions
from common.reporting import make_claim, print_claims, print_summary, seed_ci, write_json, write_results

if TYPE_CHECKING:
    from datasets import Dataset

SHOWN_PROMPTS = 4
WORLD_PAIRS = 768  # of the synthetic world
# Less padding, where answers are longer than the world's. Of all columns the trainer must keep that of the lengths.
GROUPED_BY_LENGTH = {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False}


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    add_model_flags(parser, model="tiny-gpt2")
    group = parser.add_argument_group("training")
    group.add_argument("--pairs", type=whole_number(1), help=f"to train on; default: {WORLD_PAIRS}, all of your own")
    group.add_argument("--beta", type=positive_float, default=0.3, help="strength of the pull towards the reference")
    group.add_argument("--learning-rate", type=positive_float, help="default: 7e-4 embedded, 3e-4 for other models")
    group.add_argument("--num-train-epochs", type=whole_number(1), default=1, help="passes over the pairs")
    add_batch_flag(group, 8)
    group.add_argument("--resume", action="store_true", help="go on from the last checkpoint of these settings")
    group.add_argument("--sft-steps", type=int, help="SFT of a base model first; default 300 on the world, else 0")
    group.add_argument("--max-new-tokens", type=whole_number(1), default=48, help="length limit of sampled answers")
    return parser


# --- 1. The loss ---


def dpo_loss(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta: float):
    """-log sigmoid(beta * h) per pair in nats, h the log-ratio of chosen minus that of rejected; tensors (B,).

    Log-probabilities are summed over the tokens of the response. At the start h = 0 and the loss is ln 2.
    Rafailov et al. 2023 (arXiv 2305.18290), Eq. 7.
    """
    from torch.nn.functional import logsigmoid

    chosen_logratios = policy_chosen_logps - ref_chosen_logps
    rejected_logratios = policy_rejected_logps - ref_rejected_logps
    return -logsigmoid(beta * (chosen_logratios - rejected_logratios))


def implicit_rewards(policy_logps, ref_logps, beta: float):
    """beta * log(pi / pi_ref): the reward that the policy implies, up to a constant per prompt; tensors (B,)."""
    return beta * (policy_logps - ref_logps)


# --- 2. Training with TRL and LoRA ---


def lora_config(model):
    """The tutorial's LoRA; c_attn and c_proj are GPT-2's names, for other models PEFT knows the usual ones."""
    from peft import LoraConfig

    targets = ["c_attn", "c_proj"] if model.config.model_type == "gpt2" else None
    return LoraConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=0.1,
        target_modules=targets,
        fan_in_fan_out=model.config.model_type == "gpt2",  # GPT-2 stores its weights transposed
        task_type="CAUSAL_LM",
    )


def training_settings(args: argparse.Namespace, device: str, **changes) -> dict:
    """What TRL's trainers share here; `changes` override it. Their own defaults suit large models on GPUs."""
    embedded = args.model.startswith("tiny-")
    settings = {
        "output_dir": str(args.output_dir / "dpo-checkpoints"),
        "beta": args.beta,
        "learning_rate": args.learning_rate or (7e-4 if embedded else 3e-4),
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,
        "num_train_epochs": args.num_train_epochs,
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "max_length": MAX_LENGTH,
        "eval_steps": 1 / 6,  # how often run_trainer looks at sampled answers, if asked to
        "bf16": gains_from_bfloat16(device) and not embedded,  # too small to gain
        "use_cpu": device == "cpu",
        "gradient_checkpointing": False,  # saves no memory worth having at this size, and costs a forward pass
        "logging_steps": 1,
        "save_strategy": "no",
        "ddp_find_unused_parameters": False,  # every weight of the adapter is used in every step
        "report_to": "none",
        "disable_tqdm": True,
        "seed": args.seed,
    }
    return {**settings, **changes}


def train_dpo(model, tokenizer, pairs: Sequence[dict], config, watch=None, reference=None, checkpoint=None):
    """Train a fresh LoRA adapter on rows of prompt, chosen, rejected; returns TRL's trainer.

    With `peft_config` TRL takes the base model with the adapter off as the reference: one model in memory, not two.
    A model that has its adapter already is trained on, against the `reference` model.
    """
    from trl import DPOTrainer

    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=config,
        train_dataset=formatted(tokenizer, pairs),
        processing_class=tokenizer,
        peft_config=None if reference else lora_config(model),
    )
    if config.train_sampling_strategy == "group_by_length":
        rows = trainer.train_dataset
        sides = zip(rows["prompt_ids"], rows["chosen_ids"], rows["rejected_ids"], strict=True)
        lengths = [len(prompt) + max(len(chosen), len(rejected)) for prompt, chosen, rejected in sides]
        trainer.train_dataset = rows.add_column(config.length_column_name, lengths)
    return run_trainer(trainer, watch, checkpoint)


def formatted(tokenizer, pairs: Sequence[dict]) -> "Dataset":
    """The pairs as TRL reads them; mapped where they are mapped."""
    from datasets import Dataset

    from common.models import format_pair

    if isinstance(pairs, list):
        return Dataset.from_list([format_pair(tokenizer, row) for row in pairs])
    return pairs.map(lambda row: format_pair(tokenizer, row), remove_columns=pairs.column_names)


def run_trainer(trainer, watch=None, checkpoint: Path | None = None):
    """Train behind one progress bar, from the start or from a checkpoint, and return the trainer.

    `watch(step, policy)` is called at the start, after every `eval_steps` (a share of all steps), and at the end.
    """
    from tqdm import tqdm
    from transformers import PrinterCallback, TrainerCallback
    from trl.trainer.utils import add_fused_lm_head

    from common.models import copy_weights, spare_copy

    whole = spare_copy(trainer.model)

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **_):
            name, done = type(trainer).__name__[:3], state.global_step
            hidden = None if state.is_world_process_zero else True  # None: only where there is no terminal
            self.bar = tqdm(total=state.max_steps, initial=done, desc=name, leave=False, disable=hidden)
            if watch and not done:
                watch(0, copy_weights(model, whole))

        def on_step_end(self, args, state, control, model=None, **_):
            self.bar.update()
            if watch and (state.global_step % state.eval_steps == 0 or state.global_step == state.max_steps):
                watch(state.global_step, copy_weights(model, whole))

        def on_train_end(self, args, state, control, **_):
            self.bar.close()

    trainer.add_callback(Watch())
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    with contextlib.suppress(OSError):
        Path(trainer.args.output_dir).rmdir()  # TRL makes the folder of checkpoints, though none are kept
    trained, trainer.model = trainer.model, copy_weights(trainer.model, whole).eval()
    if trained is not whole:  # what TRL's losses call
        add_fused_lm_head(whole.get_base_model(), outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return trainer


def history(trainer) -> dict[str, list[float]]:
    """TRL's training metrics per step; `rewards/*` are implicit rewards, beta included."""
    names = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {name: [float(entry[name]) for entry in logs] for name in ("step", *names)}


def check_against_trl(trainer, tokenizer, pairs: list[dict], beta: float) -> float:
    """Difference of `dpo_loss` from the loss of TRL's trainer on the same batch: the first of its training pairs."""
    import torch

    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(pairs))])
    with torch.no_grad():
        trl_loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)).item()
    policy, reference = pair_logps(trainer.model, tokenizer, pairs)
    return abs(dpo_loss(*policy, *reference, beta).mean().item() - trl_loss)


def pair_logps(model, tokenizer, pairs: list[dict]):
    """Log-probabilities (2, N) of chosen and rejected under the policy, and under the reference (adapter off)."""
    from common.models import encode_response

    prompts = [row["prompt"] for row in pairs] * 2
    responses = [encode_response(tokenizer, row[side]) for side in ("chosen", "rejected") for row in pairs]
    policy = response_logps(model, tokenizer, prompts, responses)
    with model.disable_adapter():
        reference = response_logps(model, tokenizer, prompts, responses)
    return policy.reshape(2, -1), reference.reshape(2, -1)


# --- 3. On the synthetic world: the default run, other seeds, and too much of it ---


def fit(
    args: argparse.Namespace,
    device: str,
    pairs: Sequence[dict] | None = None,
    prompts: list[str] = (),
    checkpoint: Path | None = None,
    **changes,
):
    """Train on the pairs (default: the world's) with DPOConfig `changes`; returns (trainer, tokenizer, curve).

    At every look during training the curve holds the step and, for answers sampled to `prompts`, the good share, gold
    utility and KL with their intervals over prompts. Without prompts nobody looks. `checkpoint` is where to go on.
    """
    import torch
    from trl import DPOConfig

    model, tokenizer = load_sft_checkpoint(args, device)
    if not args.model.startswith("tiny-"):
        changes = {**GROUPED_BY_LENGTH, **changes}
    config = DPOConfig(**training_settings(args, device, **changes))
    torch.manual_seed(config.seed)  # LoRA starts at random
    pairs = make_pairs(args.pairs or WORLD_PAIRS, seed=config.seed) if pairs is None else pairs
    looks, curve = Path(config.output_dir) / "curve.json", []
    if checkpoint and prompts:
        before = json.loads((checkpoint.parent / "curve.json").read_text(encoding="utf-8"))
        curve = [look for look in before if look["step"] <= int(checkpoint.name.split("-")[1])]

    def watch(step: int, policy) -> None:
        _, found = sample_and_judge(policy, tokenizer, prompts, 2, args.max_new_tokens, seed=step)
        curve.append({"step": step, **{name: summary(found[name].mean(1)) for name in ("good", "utility", "kl")}})
        if config.save_strategy != "no":
            write_json(looks, curve)

    trainer = train_dpo(model, tokenizer, pairs, config, watch if prompts else None, checkpoint=checkpoint)
    return trainer, tokenizer, curve


def fit_with_checkpoints(args: argparse.Namespace, device: str, pairs: Sequence[dict], prompts: list[str] = ()):
    """`fit` that leaves checkpoints behind while it runs, so that --resume can go on where a killed run stopped.

    Each run has a folder of its own, which goes when the run ends: outputs/dpo-checkpoints/RUN/checkpoint-STEP. (Not
    named by the process: in a container every run may have the same number.)
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    settings, folder = training_key(args), args.output_dir / "dpo-checkpoints"
    checkpoint = find_checkpoint(folder, settings)
    if args.resume and not checkpoint:
        raise UserError(f"--resume: {folder} holds no checkpoint of a run with these settings; leave --resume out")
    if checkpoint:
        done = (
            f"going on from {checkpoint}" if args.resume else f"{checkpoint} is left over; --resume would go on there"
        )
        print(done)
    folder.mkdir(exist_ok=True)
    PartialState().wait_for_everyone()  # all have looked for checkpoints before there is a new folder
    (own,) = broadcast_object_list([folder / f"run-{uuid.uuid4().hex[:8]}"])
    own.mkdir(exist_ok=True)
    write_json(own / "lab_settings.json", settings)
    if args.resume and prompts and is_main_process():
        shutil.copy(checkpoint.parent / "curve.json", own)
    often = {"save_strategy": "steps", "save_steps": 0.1, "save_total_limit": 2}
    resumed = checkpoint if args.resume else None
    found = fit(args, device, pairs, prompts, resumed, output_dir=str(own), **often)
    PartialState().wait_for_everyone()
    if is_main_process():
        for done in {own, checkpoint.parent} if args.resume else {own}:
            shutil.rmtree(done)
        with contextlib.suppress(OSError):
            folder.rmdir()
    return found


def find_checkpoint(folder: Path, settings: dict) -> Path | None:
    """The furthest checkpoint of a run with these settings, whatever became of the run. None: there is none.

    The trainer writes trainer_state.json last, so a checkpoint that was cut short lacks it or holds half of it.
    """
    found = {}
    for state in folder.glob("*/checkpoint-*/trainer_state.json"):
        if trained_settings(state.parents[1]) == settings:
            with contextlib.suppress(OSError, ValueError):
                found[json.loads(state.read_text(encoding="utf-8"))["global_step"]] = state.parent
    return found[max(found)] if found else None


def held_out_rewards(policy, tokenizer, pairs: list[dict], beta: float) -> dict:
    """Implicit rewards of held-out pairs: accuracy, margin, and each side; and how often chosen is likelier as text."""
    logps, ref_logps = pair_logps(policy, tokenizer, pairs)
    chosen, rejected = implicit_rewards(logps, ref_logps, beta).numpy()
    return {
        "implicit_reward_accuracy": summary(chosen > rejected),
        "margin": summary(chosen - rejected),
        "chosen_reward": summary(chosen),
        "rejected_reward": summary(rejected),
        "ranking_accuracy": summary(logps[0].numpy() > logps[1].numpy()),
    }


def run_world(args: argparse.Namespace, device: str, _rows: None) -> tuple[dict, list[dict], list[str]]:
    """The default run: (metrics, claims, lines of the summary)."""
    validation, test = ([q.prompt for q in questions(split)] for split in ("validation", "test"))
    validation, test = (validation[:8], test[:16]) if args.smoke else (validation[:80], test[:256])
    n = 1 if args.smoke else 3
    reference, tokenizer = load_sft_checkpoint(args, device)
    before_texts, before = sample_and_judge(reference, tokenizer, test, n, args.max_new_tokens, args.seed)
    pairs = make_pairs(args.pairs or WORLD_PAIRS, seed=args.seed)
    trainer, tokenizer, curve = fit_with_checkpoints(args, device, pairs, validation)
    save_trained(args.output_dir / "dpo", training_key(args), trainer.model, tokenizer)
    after_texts, after = sample_and_judge(trainer.model, tokenizer, test, n, args.max_new_tokens, args.seed)
    show_answers(test, {"before": firsts(before_texts), "after": firsts(after_texts)})
    held = make_pairs(32 if args.smoke else 500, "test", seed=args.seed)
    metrics = {
        "loss_difference_from_trl": check_against_trl(trainer, tokenizer, pairs[:8], args.beta),
        "reference": summaries(before),
        "policy": summaries(after),
        **compare(before, after),
        "held_out_pairs": held_out_rewards(trainer.model, tokenizer, held, args.beta),
        "training": history(trainer),
        "curve": curve,
    }

    # The same with other seeds (data, order and LoRA's start), and with a learning rate ten times as high.
    gains = [after["good"].mean() - before["good"].mean()]
    for seed in (args.seed + 1, args.seed + 2):
        trainer, *_ = fit(args, device, seed=seed)
        _, other = sample_and_judge(trainer.model, tokenizer, test, 1, args.max_new_tokens, args.seed)
        gains.append(other["good"].mean() - before["good"].mean())
    metrics["good_share_gain_by_seed"] = [float(gain) for gain in gains]
    too_high = 10 * training_settings(args, device)["learning_rate"]
    trainer, _, metrics["curve_too_far"] = fit(args, device, prompts=validation, learning_rate=too_high)
    metrics["training_too_far"] = history(trainer)
    _, too_far = sample_and_judge(trainer.model, tokenizer, test, n, args.max_new_tokens, args.seed)
    metrics["policy_too_far"] = summaries(too_far)
    metrics["loss_by_going_too_far"] = summary((after["good"] - too_far["good"]).mean(1))

    dpo_figure(args.figures_dir / "dpo_training.png", metrics)
    return metrics, world_claims(metrics), world_lines(metrics)


def world_claims(metrics: dict) -> list[dict]:
    """The section's claims, each with the region in which it is true."""
    margin, gains = metrics["held_out_pairs"]["margin"], metrics["good_share_gain_by_seed"]
    style, too_far = metrics["style_minus_substance"], metrics["loss_by_going_too_far"]
    return [
        make_claim(
            "dpo_raises_chosen_over_rejected",
            "DPO raises chosen relative to rejected responses",
            "held-out margin of implicit rewards above 0",
            margin["mean"],
            margin["ci95"],
        ),
        make_claim(
            "dpo_is_stable_over_seeds",
            "DPO trains stably: every seed improves the answers alike",
            "gain in the share of good answers over three seeds: t interval above 0",
            float(np.mean(gains)),
            seed_ci(gains),
        ),
        make_claim(
            "style_more_than_substance",
            "preference tuning changes style more than substance",
            "|change of answers without filler| - |change of right answers|, both on topic, above 0",
            style["mean"],
            style["ci95"],
        ),
        make_claim(
            "optimal_amount_exists",
            "there is an optimal amount of preference tuning",
            "share of good answers lost with ten times the learning rate above 0",
            too_far["mean"],
            too_far["ci95"],
        ),
    ]


def world_lines(metrics: dict) -> list[str]:
    """The summary of the default run."""
    before, after, held = metrics["reference"], metrics["policy"], metrics["held_out_pairs"]
    return [
        f"first loss {metrics['training']['loss'][0]:.4f} (ln 2 = 0.6931); on one batch the loss differs from TRL's by "
        f"{metrics['loss_difference_from_trl']:.0e}",
        f"good answers   {interval(before['good'])} -> {interval(after['good'])}; KL {interval(after['kl'])} nats",
        f"gold utility   {interval(before['utility'])} -> {interval(after['utility'])}",
        f"win rate       {interval(metrics['win_rate'])} against the reference, ties half",
        f"on topic       without filler {metrics['style_change']['mean']:+.3f}, "
        f"right {before['right_of_on_topic']:.3f} -> {after['right_of_on_topic']:.3f}",
        f"held-out pairs implicit-reward accuracy {interval(held['implicit_reward_accuracy'])}, "
        f"chosen {held['chosen_reward']['mean']:+.2f}, rejected {held['rejected_reward']['mean']:+.2f}",
        f"too far        learning rate x10: good answers {interval(metrics['policy_too_far']['good'])}",
    ]


def show_answers(prompts: list[str], answers: dict[str, list[str]]) -> None:
    """Print answers, good or not, to the same prompts: {who gave them: one answer per prompt}."""
    longest, width = max(map(len, answers)) + 1, 100
    for k, prompt in enumerate(prompts[:SHOWN_PROMPTS]):
        print(f"\n{shorten(prompt, width)}")
        for who, texts in answers.items():
            print(f"  {who + ':':<{longest}} {shorten(texts[k], width)}")


def firsts(texts: list[list[str]]) -> list[str]:
    """The first sampled answer to each prompt."""
    return [row[0] for row in texts]


# --- 4. Your own model and pairs ---


def run_own(args: argparse.Namespace, device: str, rows) -> tuple[dict, list[dict], list[str]]:
    """Train on the user's own pairs: without a gold standard, held-out implicit rewards, KL, lengths and answers."""
    model, tokenizer = load_sft_checkpoint(args, device)
    train, held = split_for_policy(rows, tokenizer, args.dataset, args.seed, args.max_new_tokens, args.pairs)
    prompts = sorted({row["prompt"] for row in held})[:16]
    before_texts, _ = sample_texts(model, tokenizer, prompts, 1, args.max_new_tokens, args.seed)
    trainer, *_ = fit_with_checkpoints(args, device, train)
    save_trained(args.output_dir / "dpo", training_key(args), trainer.model, tokenizer)
    after_texts, kl = sample_texts(trainer.model, tokenizer, prompts, 1, args.max_new_tokens, args.seed)
    show_answers(prompts, {"before": firsts(before_texts), "after": firsts(after_texts)})
    found = held_out_rewards(trainer.model, tokenizer, held, args.beta)
    words = [float(np.mean([len(t.split()) for row in texts for t in row])) for texts in (before_texts, after_texts)]
    metrics = {"train_pairs": len(train), "held_out_pairs": found, "kl": summary(kl), "words": words}
    metrics["training"] = history(trainer)
    own_dpo_figure(args.figures_dir / "dpo_training.png", metrics)
    return (
        metrics,
        [],
        [
            f"{len(train)} pairs to train on, {len(held)} held out (split by prompt); no gold standard for these",
            f"held-out implicit-reward accuracy {interval(found['implicit_reward_accuracy'])}, "
            f"margin {interval(found['margin'])}",
            f"chosen {found['chosen_reward']['mean']:+.2f}, rejected {found['rejected_reward']['mean']:+.2f}; "
            f"KL of {len(prompts)} sampled answers {interval(metrics['kl'])} nats",
            f"words per sampled answer {words[0]:.1f} -> {words[1]:.1f}",
        ],
    )


# --- Main ---


def fit_and_save(args: argparse.Namespace, device: str, folder: Path) -> None:
    """Train as the settings say, on the world's pairs or the user's, and keep the adapter for scripts that need it."""
    from common.models import load_tokenizer

    pairs = None
    if args.dataset:
        rows, tokenizer = load_own_pairs(args.dataset), load_tokenizer(args.model)
        pairs, _ = split_for_policy(rows, tokenizer, args.dataset, args.seed, args.max_new_tokens, args.pairs)
    trainer, tokenizer, _ = fit(args, device, pairs)
    save_trained(folder, training_key(args), trainer.model, tokenizer)


def main(argv: list[str] | None = None) -> dict:
    """Train, judge, draw, and save the adapter to outputs/dpo; returns the metrics."""
    from common.models import find_model

    args = build_parser().parse_args(argv)
    started = time.time()
    check_writable(args.output_dir, args.figures_dir)
    rows = load_own_pairs(args.dataset) if args.dataset else None
    shrink_for_smoke(args)
    find_model(args.model)  # before any work is done
    quiet_libraries()
    device = pick_device(args.device)
    metrics, claims, lines = (run_world if rows is None else run_own)(args, device, rows)
    results = args.figures_dir / "dpo_training.json"
    write_results(results, "dpo_trainer.py", vars(args), started, metrics, claims, device)
    print_claims(claims)
    print_summary(lines, [args.output_dir / "dpo", results.with_suffix(".png"), results])
    return metrics


if __name__ == "__main__":
    run(main)
