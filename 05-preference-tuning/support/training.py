"""Training with TRL in one or more processes: settings, trainers, the SFT checkpoint to start from.

What is particular to a method stands in its script; here is what all of them share.
"""

import contextlib
import copy
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from support.artifacts import find_or_train
from support.lora import lora_targets
from support.model_limits import MAX_LENGTH
from support.resuming import CURVE, Checkpoints, looks_before
from support.watching import training_history, watch

from common.cli import process_count
from common.model_names import is_embedded
from common.models import (
    format_pair,
    gains_from_bfloat16,
    is_wide,
    load_causal_lm,
)
from common.preferences import draw_style, questions, write_response
from common.reporting import write_json

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SFT_STEPS = 300  # of a base model, before it is tuned on the world's pairs

# --- Defaults ---

# Settings that were chosen on validation prompts, for the embedded models on the world's pairs.
DEFAULTS = {
    "reward model": {"pairs": 6400, "epochs": 1, "learning_rate": 5e-4, "batch_size": 16},
    "dpo": {"pairs": 768, "epochs": 1, "learning_rate": 7e-4, "batch_size": 8},
    # Steps of twice the size of those of "dpo", and passes enough for the losses to differ.
    "dpo variants": {"pairs": 384, "epochs": 8, "learning_rate": 1.4e-3, "batch_size": 8},
    # Long enough for beta to act and for a bias of the labels to show. Its reward models start from
    # tiny-gpt2, as InstructGPT's did from the SFT checkpoint: 1,200 pairs teach it 90, 91 and 78 %
    # of the three planted biases (by contrasts, on validation prompts) in 6 seconds.
    "hacked policy": {"pairs": 384, "epochs": 3, "learning_rate": 1.4e-3, "batch_size": 8},
    "hacked reward model": {"pairs": 1200, "epochs": 1, "learning_rate": 5e-4, "batch_size": 16},
    # Of 1.5e-3, 3e-3 and 6e-3 the last two did alike on validation prompts (94 and 95 % good
    # answers at a KL of 2.2 and 2.0), the first less well; likewise beta 0.1 to 1, see BETA.
    "online rl": {"learning_rate": 3e-3, "updates": 20, "prompts_per_update": 32, "samples": 4},
}
FLAGS_OF_A_TRAINING = ("pairs", "beta", "learning_rate", "sft_steps", "max_new_tokens", "seed")
FLAGS_OF_A_TRAINING += ("reading", "updates", "prompts_per_update", "samples", "lora_r")
# What other models take instead, and what the user's own pairs take.
OTHER_MODELS = {
    "reward model": 1e-4,
    "dpo": 3e-4,
    "dpo variants": 3e-4,
    "hacked policy": 3e-4,
    "hacked reward model": 1e-4,
    "online rl": 3e-4,
}
OWN_PAIRS = {"reward model": {"pairs": None, "epochs": 3}, "dpo variants": {"epochs": 1}}


def training_settings(
    method: str,
    *,
    model: str,
    dataset: str | None = None,
    num_train_epochs: int | None = None,
    per_device_train_batch_size: int | None = None,
    **flags,
) -> dict:
    """Every setting that shapes a training, of the command line's flags; defaults for None.

    `method` is a key of DEFAULTS. The batch size is that of all processes together.
    """
    settings = dict(DEFAULTS[method])
    if not is_embedded(model):
        settings["learning_rate"] = OTHER_MODELS[method]
    if dataset:
        settings |= {"pairs": None, **OWN_PAIRS.get(method, {})}
    given = {name: flags.get(name) for name in FLAGS_OF_A_TRAINING}
    given["epochs"] = num_train_epochs
    if per_device_train_batch_size:
        given["batch_size"] = per_device_train_batch_size * process_count()
    settings |= {name: value for name, value in given.items() if value is not None}
    return {"model": model, "dataset": dataset, **settings}


# --- TRL's trainers ---


class Trained(NamedTuple):
    """What a training leaves: the policy, TRL's trainer, and what was seen on the way."""

    policy: "PreTrainedModel"
    trainer: object
    history: dict[str, list[float]]  # TRL's metrics per step; `rewards/*` include beta
    curve: list[dict]  # what `look` returned, with its step


def trainer_settings(
    model,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    seed: int,
    schedule: str = "linear",
    checkpoints: Checkpoints | None = None,
    by_length: bool = False,
    has_reference: bool = False,
) -> dict:
    """What TRL's trainers share here. Their own defaults suit large models on GPUs."""
    device = model.device.type
    return {
        "learning_rate": learning_rate,
        "lr_scheduler_type": schedule,
        "warmup_steps": 0.1,  # a share of all steps; "constant" has none
        "num_train_epochs": epochs,
        "per_device_train_batch_size": -(-batch_size // process_count()),
        "max_length": MAX_LENGTH,
        "eval_steps": 1 / 6,  # how often `look` is called
        "bf16": is_wide(model) and gains_from_bfloat16(device),
        "use_cpu": device == "cpu",
        "router_aux_loss_coef": 0.0,  # no part of the losses that the scripts show
        "gradient_checkpointing": False,  # saves little memory at this size, costs a forward pass
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would hide that a training diverges
        "save_strategy": "no",
        "ddp_find_unused_parameters": False,  # every weight of the adapter is used in every step
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        "output_dir": str(Path(tempfile.gettempdir(), "lab-trainer")),  # nothing is written there
        **checkpoint_settings(checkpoints),
        **(group_by_length(model) if by_length else {}),
        **(read_reference_once(epochs) if has_reference else {}),
    }


def group_by_length(model) -> dict:
    """Settings for less padding, where answers are longer than the world's: see `add_lengths`."""
    if not is_wide(model):
        return {}
    # Of all columns the trainer must keep that of the lengths.
    return {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False}


def read_reference_once(epochs: int) -> dict:
    """For more than one pass: the reference's log-probabilities are computed once, beforehand.

    TRL keeps them in a file that other processes would not find, so several processes compute them
    in every step.
    """
    return {"precompute_ref_log_probs": epochs > 1 and process_count() == 1}


def checkpoint_settings(checkpoints: Checkpoints | None) -> dict:
    """Checkpoints ten times in a training, of which the last two are kept; none for None."""
    if checkpoints is None:
        return {}
    often = {"save_strategy": "steps", "save_steps": 0.1, "save_total_limit": 2}
    return {"output_dir": str(checkpoints.folder), **often}


def as_dataset(
    pairs: Sequence[dict], format_row: Callable[[dict], dict] = format_pair
) -> "Dataset":
    """Rows as TRL reads them, in messages; mapped where they are mapped."""
    from datasets import Dataset

    if isinstance(pairs, list):
        return Dataset.from_list([format_row(row) for row in pairs])
    return pairs.map(format_row, remove_columns=pairs.column_names)


def add_lengths(trainer) -> None:
    """The column of lengths in tokens by which a trainer of pairs groups them, where it does."""
    if trainer.args.train_sampling_strategy == "group_by_length":
        rows = trainer.train_dataset
        sides = zip(rows["prompt_ids"], rows["chosen_ids"], rows["rejected_ids"], strict=True)
        lengths = [len(prompt) + max(len(a), len(b)) for prompt, a, b in sides]
        trainer.train_dataset = rows.add_column(trainer.args.length_column_name, lengths)


def run_trainer(
    trainer,
    name: str,
    look: Callable[[int, "PreTrainedModel"], dict] | None = None,
    checkpoints: Checkpoints | None = None,
    look_at: Sequence[int] = (),
) -> Trained:
    """Train behind one progress bar that says `name`, from the start or from a checkpoint.

    `look(step, policy)` is called at the start, and at the steps of `look_at`; where there are none
    given, every sixth of the way and at the end.
    """
    from transformers import PrinterCallback

    add_lengths(trainer)
    policy = spare_copy(trainer.model)
    last = checkpoints.last if checkpoints else None
    curve = looks_before(last) if last and look else []

    def see(step: int, model) -> None:
        copy_weights(model, policy)
        curve.append({"step": step, **look(step, policy)})
        if checkpoints:
            write_json(checkpoints.folder / CURVE, curve)

    trainer.add_callback(watch(name, see if look else None, look_at))
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last and str(last))
    with contextlib.suppress(OSError):
        Path(trainer.args.output_dir).rmdir()  # TRL makes it, though nothing is kept there
    leave_undivided(trainer, policy)
    return Trained(trainer.model, trainer, training_history(trainer), curve)


# --- FSDP cuts a model up while it trains ---


def spare_copy(model: "PreTrainedModel") -> "PreTrainedModel":
    """Where FSDP will cut up the model that it trains, a copy that stays whole; else the model."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return model
    spare = copy.deepcopy(model)
    for module in spare.modules():
        module.__dict__.pop("forward", None)  # the one that TRL puts there would call the original
    return spare


def copy_weights(model: "PreTrainedModel", spare: "PreTrainedModel") -> "PreTrainedModel":
    """The spare copy with the model's present weights; every process calls it, for its part."""
    if spare is not model:
        weights = model.state_dict()
        for name, part in weights.items():
            weights[name] = part.full_tensor() if hasattr(part, "full_tensor") else part
        spare.load_state_dict(weights)
    return spare


def leave_undivided(trainer, spare: "PreTrainedModel") -> None:
    """Where the trainer's model was cut up, its spare copy in its place; ready to be evaluated."""
    from trl.trainer.utils import add_fused_lm_head

    in_parts = spare is not trainer.model
    trainer.model = copy_weights(trainer.model, spare).eval()
    if in_parts:  # what TRL's losses call
        outputs = ("log_probs", "entropy", "mean_logits", "is_top1")
        add_fused_lm_head(spare.get_base_model(), outputs=outputs)


# --- What preference tuning starts from ---


def load_sft_checkpoint(
    model: str, dataset: str | None, sft_steps: int | None, seed: int, output_dir: Path, device: str
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """(model, tokenizer) to start from; a base model is first fine-tuned for `sft_steps`.

    DPO's reference is an SFT checkpoint: a model that does not answer questions yet has no style to
    prefer. The embedded one is that; any other model is made one on the world's answers, unless the
    user's own pairs are used. What was fine-tuned is kept in the output folder and used again.
    Raises UserError, before any work, for a model that LoRA cannot adapt.
    """
    if sft_steps is None:
        sft_steps = 0 if is_embedded(model) or dataset else SFT_STEPS
    if sft_steps:
        settings = {"model": model, "sft_steps": sft_steps, "seed": seed}
        folder = output_dir / f"sft-{Path(model).name}"
        model = str(find_or_train(folder, settings, train_sft, device=device))
    policy, tokenizer = load_causal_lm(model, device)
    lora_targets(policy.config)
    return policy, tokenizer


def train_sft(model: str, sft_steps: int, seed: int, device: str) -> tuple:
    """Supervised fine-tuning of all weights on answers in every style: (model, tokenizer)."""
    from support.evaluation import sample_answers, show_answers

    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    policy, tokenizer = load_causal_lm(model, device)
    lora_targets(policy.config)  # what comes after it must be possible
    prompts = [question.prompt for question in questions("validation")[:2]]
    before, _ = sample_answers(policy, tokenizer, prompts, 1, 48, seed)
    rng, rows = random.Random(seed), []
    for _ in range(16 * sft_steps):
        question = rng.choice(questions("train", unseen=None))
        text = write_response(question, draw_style(question, rng), rng)
        row = format_pair({"prompt": question.prompt, "chosen": text, "rejected": text})
        rows.append({"prompt": row["prompt"], "completion": row["chosen"]})
    trainer = SFTTrainer(
        model=policy,
        args=SFTConfig(**trainer_settings(policy, 2e-4, 1, 16, seed)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trained = run_trainer(trainer, f"SFT of {model}")
    after, _ = sample_answers(trained.policy, tokenizer, prompts, 1, 48, seed)
    show_answers(prompts, {"before SFT": before, "after SFT": after})
    return trained.policy, tokenizer
