"""How the cost of training and sampling grows with their size, and the figure of it; bench.py calls this."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from best_of_n import fitted_exponent, make_pool
from drawing import COLORS, new_figure, save_figure

from common.preferences import make_pairs, questions


def measure_growth(repeats: int) -> list[dict]:
    """Median seconds at 1x, 2x and 4x the size, on the embedded models, and the fitted exponent, of four jobs."""
    from common.models import load_causal_lm, load_reward_model, sample

    policy, judge = load_causal_lm("tiny-gpt2"), load_reward_model("tiny-distilbert")
    prompts = [question.prompt for question in questions("test")]
    with tempfile.TemporaryDirectory() as folder:
        jobs = (
            ("reward-model training", "pairs", (256, 512, 1024), train_reward),
            ("DPO training", "pairs", (96, 192, 384), lambda count: train_dpo(count, folder)),
            ("sampling", "prompts", (32, 64, 128), lambda count: sample(*policy, (prompts * 4)[:count], 16)),
            ("best of n", "n", (8, 16, 32), lambda n: make_pool(*policy, judge, prompts[:64], n, 48, 0)),
        )
        return [grow(*job, repeats) for job in jobs]


def grow(what: str, unit: str, sizes: tuple[int, ...], job: Callable[[int], object], repeats: int) -> dict:
    """Median seconds of job(size) for each size, in turn and after one run to warm up, and the exponent."""
    job(sizes[0])
    rounds = [[seconds(job, size) for size in sizes] for _ in range(repeats)]
    times = [statistics.median(column) for column in zip(*rounds, strict=True)]
    exponent = fitted_exponent(list(sizes), np.array(times))
    return {"what": what, "unit": unit, "sizes": sizes, "seconds": times, "exponent": round(exponent, 3)}


def seconds(job: Callable[[int], object], size: int) -> float:
    """Wall time of job(size)."""
    started = time.perf_counter()
    job(size)
    return time.perf_counter() - started


def train_reward(count: int) -> None:
    """One pass of the embedded reward model over `count` pairs."""
    from reward_model import train_reward_model

    from common.models import load_reward_model

    train_reward_model(*load_reward_model("tiny-distilbert"), make_pairs(count), 1, 16, 5e-4, 0, "reward model")


def train_dpo(count: int, folder: str) -> None:
    """One pass of DPO with LoRA on the embedded model over `count` pairs."""
    import dpo_trainer
    from trl import DPOConfig

    from common.models import load_causal_lm

    args = dpo_trainer.build_parser().parse_args(["--output-dir", folder])
    config = DPOConfig(**dpo_trainer.training_settings(args, "cpu"))
    dpo_trainer.train_dpo(*load_causal_lm("tiny-gpt2"), make_pairs(count), config)


# --- The figure ---


def growth_figure(path: Path, growth: list[dict]) -> None:
    """Seconds against size on logarithmic axes, with the fitted power law, one panel per unit of size."""
    fig, axes = new_figure(1, 3, height=3.4)
    panels = (("pairs", "Training"), ("prompts", "Sampling 16 answers each"), ("n", "Best of n for 64 prompts"))
    colors = {"reward-model training": "proxy", "DPO training": "dpo", "sampling": "sft", "best of n": "best_of_n"}
    for ax, (unit, title) in zip(axes[0], panels, strict=True):
        rows = [row for row in growth if row["unit"] == unit]
        for row in rows:
            draw_growth(ax, row, COLORS[colors[row["what"]]])
        ticks = sorted({size for row in rows for size in row["sizes"]})
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        ax.set_xticks(ticks, ticks)
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.set(title=title, xlabel=unit, ylabel="seconds")
        ax.margins(y=0.35)
        ax.legend(loc="upper left")
    exponents = [row["exponent"] for row in growth]
    steepest = max(exponents)
    finding = "no faster than the work" if steepest <= 1.1 else f"as fast as size^{steepest:.2f}"
    save_figure(fig, path, f"Time grows {finding}: fitted exponents {min(exponents):.2f} to {steepest:.2f}")


def draw_growth(ax, row: dict, color: str) -> None:
    """Measured points and the fitted line of one job; the legend has the exponent."""
    sizes, times = np.array(row["sizes"]), np.array(row["seconds"])
    slope, level = np.polyfit(np.log(sizes), np.log(times), 1)
    ax.plot(sizes, times, "o", color=color, ms=7)
    ax.plot(sizes, np.exp(level) * sizes**slope, color=color, label=f"{row['what']}: size^{slope:.2f}")
