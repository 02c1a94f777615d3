"""What preference tuning starts from: the embedded SFT checkpoint, or one made of a base model on the spot."""

import argparse
import contextlib
import random
from pathlib import Path

from common.cli import process_count
from common.preferences import draw_style, questions, write_response


def load_sft_checkpoint(args: argparse.Namespace, device: str):
    """(model, tokenizer) of --model; a base model is first fine-tuned on the world's answers for --sft-steps.

    DPO's reference is an SFT checkpoint: a model that does not answer questions yet has no style to prefer. The result
    is kept in outputs/ and used again.
    """
    from common.models import load_causal_lm, save_trained, trained_settings

    embedded_or_own = args.model.startswith("tiny-") or args.dataset
    steps = args.sft_steps if args.sft_steps is not None else 0 if embedded_or_own else 300
    if steps == 0:
        return load_causal_lm(args.model, device)
    settings = {"model": args.model, "sft_steps": steps, "seed": args.seed}
    folder = args.output_dir / f"sft-{Path(args.model).name}"
    if trained_settings(folder) != settings:
        model, tokenizer = load_causal_lm(args.model, device)
        print(f"{folder} is not there yet: fine-tuning {args.model} on the world for {steps} steps")
        train_sft(model, tokenizer, steps, args, device)
        save_trained(folder, settings, model, tokenizer)
    return load_causal_lm(str(folder), device)


def train_sft(model, tokenizer, steps: int, args: argparse.Namespace, device: str) -> None:
    """Supervised fine-tuning of all weights on answers in every style, with TRL's SFTTrainer."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from common.models import copy_weights, format_pair, gains_from_bfloat16, spare_copy

    rng, rows = random.Random(args.seed), []
    for _ in range(16 * steps):
        question = rng.choice(questions("train", unseen=None))
        text = write_response(question, draw_style(question, rng), rng)
        row = format_pair(tokenizer, {"prompt": question.prompt, "chosen": text, "rejected": text})
        rows.append({"prompt": row["prompt"], "completion": row["chosen"]})
    config = SFTConfig(
        output_dir=str(args.output_dir / "sft-checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=-(-16 // process_count()),
        learning_rate=2e-4,
        bf16=gains_from_bfloat16(device),
        use_cpu=device == "cpu",
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        seed=args.seed,
    )
    rows, trained = Dataset.from_list(rows), spare_copy(model)
    SFTTrainer(model=trained, args=config, train_dataset=rows, processing_class=tokenizer).train()
    copy_weights(trained, model)
    with contextlib.suppress(OSError):
        Path(config.output_dir).rmdir()
