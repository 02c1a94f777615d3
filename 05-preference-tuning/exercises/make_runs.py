"""The runs of "Debug a run": four trainings in which one thing was made wrong on purpose.

    python 05-preference-tuning/exercises/make_runs.py    # two minutes on one core; writes runs/

It says below what is wrong in which of them: solve d1 to d4 before you read on.
"""

import contextlib
import io
from pathlib import Path
from unittest import mock

import check  # noqa: F401  # the lessons are found from here on
import dpo_trainer
import numpy as np

from common import answers, figures
from common.models import init_compute
from common.preferences import SIDES, make_pairs, questions, swap_sides
from common.saving import write_json
from common.training import load_sft_model

FOLDER = Path(__file__).resolve().parent / "runs"
FAULTS = {  # of each run what is wrong, its pairs, beta, passes; else it is dpo_trainer.py's
    "d1": ("marks", 768, 0.1, 1),
    "d2": ("labels", 768, 0.3, 1),
    "d3": ("reference", 1024, 0.3, 1),
    "d4": ("passes", 256, 0.01, 5),
}


def train_badly(fault: str, count: int, beta: float, epochs: int) -> tuple[list[dict], list[dict]]:
    """(the log of every step, what is seen on the way)."""
    looks, spoilt = [], {"labels": swap_sides}
    spoilt["marks"] = lambda row: {**row, "chosen": "Answer: " + row["chosen"]}
    spoil = spoilt.get(fault, dict)
    pairs = [spoil(row) for row in make_pairs(count, seed=0)]
    held = [spoil(row) for row in make_pairs(100, "test", seed=0)]
    asked = [question.prompt for question in questions("test")[:100]]
    model, tokenizer = load_sft_model()

    def look(step: int, policy) -> None:
        sampled = answers.sample_answers(policy, tokenizer, asked, 1)
        of_pairs = dpo_trainer.measure_pairs(policy, tokenizer, held, beta)
        means = {name: float(values.mean()) for name, values in of_pairs.items()}
        ten = [answers.in_short(row[0], 100) for row in sampled.texts[:10]]
        marked = sum("Answer" in text for text in ten)
        means |= {"step": step, "marked": marked, "first_pairs": {"count": 100, **means}}
        looks.append(sampled.means() | means | {"asked": asked[:10], "texts": ten})

    nothing = contextlib.nullcontext
    always_on = mock.patch("trl.trainer.dpo_trainer.use_adapter", lambda *_, **__: nothing())
    settings = {"beta": beta, "epochs": epochs, "look": look}
    with always_on if fault == "reference" else nothing():  # nobody turns the adapter off
        _, log = dpo_trainer.train_dpo(model, tokenizer, pairs, **settings)
    return log, looks


def report(name: str, count: int, log: list[dict], before: dict, after: dict) -> None:
    """Print what the reader gets to see, in Markdown: what the run said, curves, answers."""
    print(f"# {name}: what is wrong with this training?\n\n```")
    print(f"tiny-gpt2 on {count} pairs, {len(log)} steps of 8")
    print("judged by one answer to each of 100 questions")
    print(f"loss before training {before['loss']:.4f}\n")
    print("     steps    loss   pairs of these steps ranked as labelled")
    for part in np.array_split(np.arange(len(log)), 6):
        lost, ranked = mean_of_log([log[k] for k in part])
        print(f"{part[0] + 1:4} to {part[-1] + 1:3}  {lost:.4f}   {100 * ranked:3.0f} %")
    rows = answers.rows_of([before, after])
    nats, margins = "nats, held-out pairs", (before["margin"], after["margin"])
    rows += [(f"change of log p, {side}", before[side], after[side], nats) for side in SIDES]
    rows.append(("margin: beta x the gap of these two", *margins, "log-odds, held-out pairs"))
    rows.append(("ranked as labelled", None, after["ranked"], "% of held-out pairs"))
    answers.print_table(("", "before", "after"), rows)
    print(f"```\n\n![Curves of the run]({name}.png)\n")
    for asked, old, new in zip(before["asked"], before["texts"], after["texts"], strict=True):
        print(f"- {asked}\n  - before: {old}\n  - after: {new}")


def mean_of_log(rows: list[dict]) -> tuple:
    """The loss, and the share of pairs that are ranked as labelled."""
    return tuple(np.mean([row[key] for row in rows]) for key in ("loss", "rewards/accuracies"))


def main() -> None:
    from PIL import Image

    init_compute("cpu")
    for name, (fault, count, beta, epochs) in FAULTS.items():
        log, looks = train_badly(fault, count, beta, epochs)
        text = (FOLDER / f"{name}.md").open("w", encoding="utf-8")
        with text, contextlib.redirect_stdout(text):
            report(name, count, log, looks[0], looks[-1])
        # Three panels of the lesson's figure, in few colours so that the file is small.
        figure, axes = figures.new_figure(1, 3, "The run, step by step")
        dpo_trainer.log_panel(axes[0], log)
        dpo_trainer.sides_panel(axes[1], looks)
        dpo_trainer.kinds_panel(axes[2], looks)
        for ax, title in zip(axes, ("Log", "Held-out pairs", "Answers"), strict=True):
            ax.set(title=title, xlabel="step")
        raw = io.BytesIO()
        figure.savefig(raw, dpi=80)
        few = Image.open(raw).convert("RGB").quantize(48, Image.Quantize.FASTOCTREE)
        few.save(FOLDER / f"{name}.png", optimize=True)
        loss, trained = mean_of_log(log[-12:])
        kept = {"fault": fault, "pairs": count, "steps": len(log), "loss": loss, "trained": trained}
        for when, look in (("before", looks[0]), ("after", looks[-1])):
            kept[when] = {key: value for key, value in look.items() if np.isscalar(value)}
        write_json(FOLDER / f"{name}.json", kept)
        print(f"{name}: {FOLDER / name}.md", flush=True)


if __name__ == "__main__":
    main()
