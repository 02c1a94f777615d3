"""How the cost of training and sampling grows with their size, and the figure of it."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from best_of_n import make_pool
from contests import seconds

from common.figures import legend_below, new_figure, save_figure
from common.preferences import make_pairs, questions


def measure_growth(repeats: int) -> list[dict]:
    """Median seconds of four jobs at three sizes, on the embedded models, and the exponents."""
    from common.models import load_causal_lm, load_reward_model
    from common.sampling import sample

    policy, judge = load_causal_lm("tiny-gpt2"), load_reward_model("tiny-distilbert")
    prompts = [question.prompt for question in questions("test")]

    def answer(count: int) -> None:
        sample(*policy, (prompts * 4)[:count], 16)

    def best_of(n: int) -> None:
        make_pool(*policy, judge, prompts[:64], n, seed=0)

    jobs = (
        ("reward-model training", "pairs", (256, 512, 1024), train_reward),
        ("DPO training", "pairs", (96, 192, 384), train_dpo),
        ("sampling", "prompts", (32, 64, 128), answer),
        ("best of n", "n", (8, 16, 32), best_of),
    )
    return [grow(*job, repeats) for job in jobs]


def grow(
    what: str, unit: str, sizes: Sequence[int], job: Callable[[int], object], repeats: int
) -> dict:
    """Median seconds of job(size) for each size, in turn and after a run to warm up; exponent."""
    job(sizes[0])
    rounds = []
    for _ in range(repeats):
        rounds.append([seconds(lambda size=size: job(size)) for size in sizes])
    times = [statistics.median(column) for column in zip(*rounds, strict=True)]
    exponent = round(float(np.polyfit(np.log(sizes), np.log(times), 1)[0]), 3)
    return {"what": what, "unit": unit, "sizes": sizes, "seconds": times, "exponent": exponent}


def train_reward(count: int) -> None:
    """One pass of the embedded reward model over `count` pairs."""
    from reward_model import train_reward_model

    from common.models import load_reward_model

    train_reward_model(*load_reward_model("tiny-distilbert"), make_pairs(count))


def train_dpo(count: int) -> None:
    """One pass of DPO with LoRA on the embedded model over `count` pairs."""
    import dpo_trainer

    from common.models import load_causal_lm

    dpo_trainer.train_dpo(*load_causal_lm("tiny-gpt2"), make_pairs(count))


# --- The figure ---


def growth_figure(path: Path, growth: list[dict], machine: dict) -> None:
    """Seconds against size on logarithmic axes, with the fitted power law; a panel per unit."""
    exponents = [row["exponent"] for row in growth]
    steepest = max(exponents)
    finding = "no faster than the work" if steepest <= 1.1 else f"as fast as size^{steepest:.2f}"
    title = f"Time grows {finding}: fitted exponents {min(exponents):.2f} to {steepest:.2f}"
    figure, axes = new_figure(1, 3, title)
    panels = {"pairs": "Training", "prompts": "Sampling 16 answers each"}
    panels |= {"n": "Best of n for 64 prompts"}
    colors = {"reward-model training": "reward", "DPO training": "dpo"}
    colors |= {"sampling": "sft", "best of n": "best_of_n"}
    for ax, (unit, title) in zip(axes, panels.items(), strict=True):
        rows = [row for row in growth if row["unit"] == unit]
        for row in rows:
            draw_growth(ax, row, f"lab:{colors[row['what']]}")
        ticks = sorted({size for row in rows for size in row["sizes"]})
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        shown = ticks[:: len(ticks) // 3]
        ax.set_xticks(shown, shown)
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.set(title=title, xlabel=unit, ylabel="seconds")
        legend_below(ax)
    caption = f"{machine['processor']}, {machine['cores']} cores, load {machine['load']:g}"
    figure.supxlabel(caption, fontsize=8)
    save_figure(figure, path)


def draw_growth(ax, row: dict, color: str) -> None:
    """Measured points and the fitted line of one job; the legend has the exponent."""
    sizes, times = np.array(row["sizes"]), np.array(row["seconds"])
    slope, level = np.polyfit(np.log(sizes), np.log(times), 1)
    ax.plot(sizes, times, "o", color=color, ms=7)
    ax.plot(
        sizes, np.exp(level) * sizes**slope, color=color, label=f"{row['what']}: size^{slope:.2f}"
    )
