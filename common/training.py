"""Training with TRL: the model to start from, what all configs share, one progress bar, looks.

What is particular to a method stands in its lesson; here is what no lesson is about.
"""

import math
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from common.basics import UserError
from common.models import fingerprint, gains_from_bfloat16, is_embedded, is_wide, load_causal_lm
from common.preferences import draw_style, questions, write_response
from common.prompts import format_pair
from common.saving import load_or_train

# --- Several processes, which share each batch of their first training ---


def process_count() -> int:
    """How many processes `accelerate launch` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main_process() -> bool:
    """Whether this is the process that speaks: the first."""
    return int(os.environ.get("RANK", 0)) == 0


def batch_share(batch_size: int) -> int:
    """What each process takes of a batch."""
    return -(-batch_size // process_count())


def go_on_alone() -> None:
    """End all processes but the first, which goes on as if `accelerate launch` had started no more.

    Until then all do the same: what follows their first training is measured and written once.
    """
    if process_count() > 1:
        from accelerate.state import AcceleratorState, PartialState

        PartialState().wait_for_everyone()
        if not is_main_process():
            os._exit(0)  # at once: an orderly end can abort in the threads of the process group
        PartialState().destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            os.environ.pop(name, None)


# --- What TRL's configs share ---


def trl_settings(model, seed: int) -> dict:
    """What all configs share: the defaults of TRL suit large models on GPUs."""
    device = model.device.type
    return {
        "max_length": None,  # TRL cuts nothing: own_data leaves out the rows that are too long
        "bf16": is_wide(model) and gains_from_bfloat16(device),
        "use_cpu": device == "cpu",
        "router_aux_loss_coef": 0.0,  # no part of the losses that the lessons show
        "gradient_checkpointing": False,  # saves little memory at this size, costs a forward pass
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would hide that a training diverges
        "save_strategy": "no",
        "ddp_find_unused_parameters": False,  # every weight of the adapter is used in every step
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        "output_dir": str(Path(tempfile.gettempdir(), "lab-trainer")),  # checkpoints, if any
    }


def pair_settings(model, epochs: int) -> dict:
    """What DPOTrainer's configs add to `trl_settings`.

    For more than one pass the reference's log-probabilities are computed once, beforehand; TRL
    keeps them in a file that other processes would not find. Wide models read pairs of similar
    length together: their answers are longer than the world's, and padding costs.
    """
    settings = {"precompute_ref_log_probs": epochs > 1 and process_count() == 1}
    if is_wide(model):  # of all columns the trainer must keep that of the lengths
        settings |= {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
    return settings


def as_dataset(rows: Sequence[dict], format_row: Callable[[dict], dict] = format_pair):
    """Rows as TRL reads them, in messages. A list is written to disk, for this process.

    For data on disk TRL finds again what it has computed of them with the same reference.
    """
    from datasets import Dataset
    from datasets.fingerprint import get_temporary_cache_files_directory as folder_that_goes

    if not isinstance(rows, list):
        return rows.map(format_row, remove_columns=rows.column_names)
    data = Dataset.from_list([format_row(row) for row in rows])
    if process_count() > 1:  # all but the first end without cleaning up
        return data
    place = Path(folder_that_goes(), fingerprint(data))
    if not (place / "dataset_info.json").is_file():  # the last file that is written
        data.save_to_disk(place)
    return Dataset.load_from_disk(place)


# --- Running a trainer ---


def run_trainer(trainer, name: str, look=None, look_at=(), resume_from=None) -> list[dict]:
    """Train behind one progress bar that says `name`; returns what TRL logged of every step.

    `look(step, policy)` is called before the first step, at the steps of `look_at` (without them
    every sixth of the way), and at the end. Raises UserError at a loss that is not a number.
    With several processes the first one looks, and goes on alone when the training is over.
    """
    from transformers import PrinterCallback

    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise UserError("a model cut up by FSDP or DeepSpeed cannot be looked at; use plain DDP")
    if trainer.args.train_sampling_strategy == "group_by_length":  # of pairs, see `pair_settings`
        rows = trainer.train_dataset
        sides = zip(rows["prompt_ids"], rows["chosen_ids"], rows["rejected_ids"], strict=True)
        lengths = [len(prompt) + max(len(a), len(b)) for prompt, a, b in sides]
        trainer.train_dataset = rows.add_column(trainer.args.length_column_name, lengths)
    trainer.add_callback(watch(name, look, look_at))
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume_from and str(resume_from))
    go_on_alone()
    trainer.model.eval()
    return [row for row in trainer.state.log_history if "loss" in row]


def watch(name: str, look: Callable | None, look_at: Sequence[int]):
    """What transformers calls back: the bar, the looks, the end of a training that diverges."""
    from tqdm import tqdm
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **_):
            bar = {"total": state.max_steps, "initial": state.global_step, "desc": name}
            self.bar = tqdm(**bar, leave=False, disable=None)  # None: only in a terminal
            sixth = math.ceil(state.max_steps / 6)
            self.at = {*(look_at or range(sixth, state.max_steps, sixth)), state.max_steps}
            if not state.global_step:
                self.see(0, model)

        def on_log(self, args, state, control, logs=None, model=None, **_):
            if "loss" in logs:  # not at the very end: how long it took
                self.bar.update()
                check_finite(name, state.global_step, logs["loss"], args.learning_rate)
                if state.global_step in self.at:
                    self.see(state.global_step, model)

        def on_train_end(self, *_, **__):
            self.bar.close()

        def see(self, step: int, model) -> None:
            if look and is_main_process():
                was_training = model.training
                look(step, model.eval())
                model.train(was_training)

    return Watch()


def check_finite(name: str, step: int, loss: float, learning_rate: float) -> None:
    """Raise UserError where a loss is not a number: the training has diverged."""
    if not math.isfinite(loss):
        reason = f"{name} diverged at step {step}: the loss is {loss}"
        raise UserError(f"{reason}; try --learning-rate {min(learning_rate / 3, 1e-3):.1g}")


# --- The model that preference tuning starts from ---


def load_sft_model(
    name: str = "tiny-gpt2",
    device: str = "cpu",
    *,
    sft_steps: int | None = None,
    own_data: bool = False,
    seed: int = 0,
    output_dir: Path = Path("outputs"),
) -> tuple:
    """(model, tokenizer) that answers questions: what DPO starts from and is held to.

    The embedded model is one. Any other is first fine-tuned on the world's answers for `sft_steps`
    (default: 300), and kept in the output folder; on your own data it is taken as it is.
    """
    if sft_steps is None:
        sft_steps = 0 if is_embedded(name) or own_data else 300

    def train() -> tuple:  # all weights, on answers in every style
        model, tokenizer = load_causal_lm(name, device)
        rng, rows = random.Random(seed), []
        for _ in range(16 * sft_steps):
            question = rng.choice(questions("train", unseen=None))
            text = write_response(question, draw_style(question, rng), rng)
            rows.append({"prompt": question.prompt, "chosen": text, "rejected": text})
        settings = {"learning_rate": 2e-4, "per_device_train_batch_size": 16}
        settings |= {"seed": seed, "name": f"SFT of {name}"}
        return train_on_chosen(model, tokenizer, rows, **settings), tokenizer

    if sft_steps == 0:
        return load_causal_lm(name, device)
    settings = {"base": fingerprint(name), "sft_steps": sft_steps, "seed": seed}
    folder = output_dir / f"sft-{Path(name).name}-{sft_steps}-seed-{seed}"
    return load_causal_lm(str(load_or_train(folder, settings, train)), device)


def train_on_chosen(model, tokenizer, pairs, *, seed: int, name: str, lora=None, **settings):
    """The model, or its adapter, after one pass over the chosen answers; rejected are not read."""
    import torch
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        lr_scheduler_type="linear",
        warmup_steps=0.1,  # a share of all steps
        num_train_epochs=1,
        **trl_settings(model, seed),
        **settings,
    )
    rows = as_dataset(pairs).remove_columns("rejected")
    torch.manual_seed(seed)  # LoRA starts at random
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=rows.rename_column("chosen", "completion"),
        processing_class=tokenizer,
        peft_config=lora,
    )
    run_trainer(trainer, name)
    return trainer.model
