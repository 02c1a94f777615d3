"""How fast the lab is, as ratios to the library's plain use, measured side by side in one run.

    python benchmarks/bench.py            # or: make bench; writes benchmarks/results.json

Every pair of contestants gets the same model, data and number of steps, and runs in turn, three times each; the
ratio is that of the medians. Only the ratios travel to another machine. About four minutes on 2 cores.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "05-preference-tuning"
sys.path.insert(0, str(SCRIPTS))

from common.cli import quiet_libraries  # noqa: E402
from common.preferences import make_pairs, questions  # noqa: E402
from common.reporting import write_json  # noqa: E402

NAMES = ("preference_data_explorer", "reward_model", "rlhf_objectives", "dpo_trainer", "best_of_n", "run_all")


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def contest(ours: Callable[[], object], theirs: Callable[[], object], amount: int, repeats: int) -> dict:
    """Amounts per second of both, medians of `repeats` runs in turn, and their ratio."""
    times = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    mine, other = (amount / statistics.median(column) for column in zip(*times, strict=True))
    return {"lab_per_second": round(mine, 1), "library_per_second": round(other, 1), "ratio": round(mine / other, 2)}


# ---------------------------------------------------------------------------------------------------------
# Contests
# ---------------------------------------------------------------------------------------------------------


def help_times(repeats: int) -> dict:
    """Median seconds until `--help` of each script has answered."""
    return {
        name: round(
            statistics.median(
                seconds(
                    lambda name=name: subprocess.run(
                        [sys.executable, SCRIPTS / f"{name}.py", "--help"], stdout=subprocess.DEVNULL, check=True
                    )
                )
                for _ in range(repeats)
            ),
            3,
        )
        for name in NAMES
    }


def candidates(count: int, n: int, repeats: int) -> dict:
    """Candidates per second of `sample` over all prompts at once, against one `generate` per prompt."""
    import torch

    from common.models import encode_prompt, load_causal_lm, sample

    model, tokenizer = load_causal_lm("tiny-gpt2")
    prompts = [question.prompt for question in questions("test")][:count]

    def library() -> None:
        for prompt in prompts:
            ids = torch.tensor([encode_prompt(tokenizer, prompt)])
            model.generate(ids, do_sample=True, top_k=0, max_new_tokens=48, num_return_sequences=n)

    return contest(lambda: sample(model, tokenizer, prompts, n), library, count * n, repeats)


def reward_pairs(count: int, repeats: int) -> dict:
    """Pairs per second of the lab's reward-model training, against TRL's RewardTrainer with its defaults."""
    from datasets import Dataset
    from reward_model import train_reward_model
    from trl import RewardConfig, RewardTrainer

    from common.models import load_reward_model

    pairs = make_pairs(count)
    rows = Dataset.from_list([{key: f"{row['prompt']} {row[key]}" for key in ("chosen", "rejected")} for row in pairs])

    def lab() -> None:
        train_reward_model(*load_reward_model("tiny-distilbert"), pairs, 1, 16, 1e-3, 0, "reward model")

    def library(folder: str) -> None:
        model, tokenizer = load_reward_model("tiny-distilbert")
        config = RewardConfig(
            folder,
            use_cpu=True,
            num_train_epochs=1,
            per_device_train_batch_size=16,
            disable_tqdm=True,
            report_to="none",
        )
        RewardTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer).train()

    with tempfile.TemporaryDirectory() as folder:
        return contest(lab, lambda: library(folder), count, repeats)


def dpo_pairs(count: int, repeats: int) -> dict:
    """Pairs per second of dpo_trainer.py's settings of TRL, against TRL's defaults, LoRA in both."""
    from datasets import Dataset
    from dpo_trainer import build_parser, lora_config, training_settings
    from trl import DPOConfig, DPOTrainer

    from common.models import format_pair, load_causal_lm

    def train(config: DPOConfig) -> None:
        model, tokenizer = load_causal_lm("tiny-gpt2")
        rows = Dataset.from_list([format_pair(tokenizer, row) for row in make_pairs(count)])
        DPOTrainer(
            model=model, args=config, train_dataset=rows, processing_class=tokenizer, peft_config=lora_config(model)
        ).train()

    with tempfile.TemporaryDirectory() as folder:
        args = build_parser().parse_args(["--output-dir", folder])
        defaults = {
            "use_cpu": True,
            "num_train_epochs": 1,
            "per_device_train_batch_size": 16,
            "disable_tqdm": True,
            "report_to": "none",
        }
        return contest(
            lambda: train(DPOConfig(**training_settings(args, "cpu"))),
            lambda: train(DPOConfig(folder, **defaults)),
            count,
            repeats,
        )


def main() -> dict:
    """Run all contests, print them, write results.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each contestant (default: 3)")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).with_name("results.json"), help="the results file"
    )
    args = parser.parse_args()
    results = {"repeats": args.repeats, "help_seconds": help_times(args.repeats)}
    print("--help:", results["help_seconds"], flush=True)
    quiet_libraries()
    for name, contestants in (
        ("candidates: one batch / one generate per prompt", lambda: candidates(32, 16, args.repeats)),
        ("reward-model pairs: the lab's loop / TRL's RewardTrainer", lambda: reward_pairs(256, args.repeats)),
        ("DPO pairs: the lab's settings / TRL's defaults", lambda: dpo_pairs(192, args.repeats)),
    ):
        results[name] = contestants()
        print(f"{name}: {results[name]}", flush=True)
    write_json(args.output, results)
    print(f"wrote {args.output}")
    return results


if __name__ == "__main__":
    main()
