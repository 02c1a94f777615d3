"""What DPO does: which answers become likelier, which answers are given, and is it style or facts?

    python 05-preference-tuning/studies/what_dpo_does.py                # one seed, 20 seconds
    python 05-preference-tuning/studies/what_dpo_does.py --seeds 0 1 2 3 4 5 6 7
    python 05-preference-tuning/studies/what_dpo_does.py --claims       # what is claimed and found

The default training of dpo_trainer.py: one pass over 768 pairs of unbiased annotators. Judged by
500 held-out pairs, by three sampled answers to each of 256 held-out questions before and after, and
by pairs of texts that differ in one thing alone: a right and a wrong answer in the same sentence,
the right answer with and without filler.
"""

from functools import partial

import lessons  # noqa: F401

import numpy as np
from dpo_trainer import dpo_policy, read_pairs

from common.answers import Answers, sample_answers
from common.claims import Claim, run_study, study_folder
from common.figures import new_figure, seed_dots
from common.preferences import WORTH, contrasts_of, make_pairs, questions
from common.scoring import pair_logps
from common.training import load_sft_model

CLAIMS = (
    Claim(
        "dpo_raises_chosen",
        "DPO raises log p of chosen responses",
        "how far log p rose in one pass, held-out pairs, nats",
        of=lambda m: m["pairs"]["chosen"],
        smallest=0.1,
    ),
    Claim(
        "dpo_lowers_rejected",
        "DPO lowers log p of rejected responses",
        "how far log p fell in one pass, held-out pairs, nats",
        of=lambda m: -m["pairs"]["rejected"],
        smallest=0.1,
    ),
    Claim(
        "style_more_than_substance",
        "preference tuning changes style more than substance",
        "share of its room that style gained (answers without filler), minus that of right answers",
        of=lambda m: m["of_room"]["style"] - m["of_room"]["substance"],
        smallest=0.05,
    ),
)


# --- The experiment ---


def measure(seed: int, smoke: bool = False) -> dict:
    """The default policy of a seed beside the SFT model."""
    pairs = make_pairs(64 if smoke else 768, seed=seed)
    held = make_pairs(32 if smoke else 500, "test", seed=seed)
    asked = questions("test", seed=seed)[: 16 if smoke else 256]
    prompts, n = [question.prompt for question in asked], 1 if smoke else 3
    model, tokenizer = load_sft_model()
    before = sample_answers(model, tokenizer, prompts, n, seed)
    policy = dpo_policy(study_folder(seed, smoke) / "dpo", model, tokenizer, pairs, seed=seed)
    after = sample_answers(policy, tokenizer, prompts, n, seed)
    of_pairs = read_pairs(policy, tokenizer, held, beta=0.3)  # the default of train_dpo
    contrasts = [pair for question in asked[:96] for pair in contrasts_of(question, seed)]
    read = partial(read_contrasts, policy, tokenizer, contrasts)
    return {
        "before": before.means(),
        "after": after.means(),
        "pairs": {name: float(values.mean()) for name, values in of_pairs.items()},
        "contrasts": {name: read(name) for name in ("right", "filler")},
        "of_room": gained_of_room(before, after),
    }


def read_contrasts(policy, tokenizer, contrasts: list, component: str, beta: float = 0.3) -> dict:
    """log p of a text minus that of one that differs in one thing, before and after, nats a unit.

    `share` is what the implicit reward, beta times the change, has of the gold utility of that
    difference: 1 is where DPO ends on pairs without limit.
    """
    chosen = [contrast for contrast in contrasts if contrast.component == component]
    rows = [{"prompt": c.prompt, "chosen": c.more, "rejected": c.less} for c in chosen]
    units = np.array([contrast.units for contrast in chosen])
    read = pair_logps(policy, tokenizer, rows)
    after, before = ((logps[0] - logps[1]).numpy() / units for logps in read)
    share = beta * (after - before) / WORTH[component]
    found = {"before": before, "after": after, "share": share}
    return {name: float(values.mean()) for name, values in found.items()}


def gained_of_room(before: Answers, after: Answers) -> dict[str, float]:
    """What answers gained from the SFT model to the policy, as a share of what there was to gain.

    Style: the share without filler or preamble of on-topic answers; substance: that of right ones.
    """
    gained = {}
    for name, read in (("style", "plain"), ("substance", "correct")):
        then, now = (
            (getattr(answers, read) * answers.on_topic).sum() / max(answers.on_topic.sum(), 1)
            for answers in (before, after)
        )
        gained[name] = float((now - then) / max(1 - then, 0.01))
    return gained


# --- The figure ---


def draw(runs: list[dict]):
    """Answers, log-probabilities, style beside substance; a dot is a seed."""
    good = [[run[when]["good"] for run in runs] for when in ("before", "after")]
    before, after = 100 * np.mean(good, axis=1)
    title = f"DPO takes right and concise answers from {before:.0f} % to {after:.0f} %"
    figure, axes = new_figure(2, 2, title)
    gain_panel(axes[0], 100 * np.array(good))
    likelier_panel(axes[1], runs)
    gained = [[run["of_room"][name] for run in runs] for name in ("style", "substance")]
    means = both_panel(axes[2], gained, "no filler, no preamble", "right answers")
    axes[2].set_title(f"Mended: style {means[0]:.0f} %, wrong facts {means[1]:.0f} %")
    axes[2].set_ylabel("% of what there was to gain")
    names = ("filler", "right")
    learned = [[run["contrasts"][name]["share"] for run in runs] for name in names]
    means = both_panel(axes[3], learned, "a word of filler", "right instead of wrong")
    axes[3].set_title(f"In DPO's reward: filler {means[0]:.0f} %, facts {means[1]:.0f} %")
    axes[3].set_ylabel("% of its gold utility in the implicit\nreward beta log(pi / SFT model)")
    return figure


def gain_panel(ax, values: np.ndarray) -> None:
    """Right and concise answers, a line a seed; values (before and after, seeds)."""
    ax.plot([0, 1], values, "o-", color="lab:dpo", lw=1, alpha=0.6)
    ax.set_xticks([0, 1], ["SFT model", "after DPO"])
    gained = values[1] - values[0]
    spread = f" to {gained.max():.0f}" if len(gained) > 1 else ""
    ax.set_title(f"Good answers: {gained.min():.0f}{spread} points more")
    ax.set_ylabel("% of answers right and concise")
    ax.set(xlim=(-0.3, 1.3), ylim=(0, 100))


def likelier_panel(ax, runs: list[dict]) -> None:
    """What became of the probabilities of held-out answers."""
    means = []
    for place, side in enumerate(("chosen", "rejected")):
        values = [run["pairs"][side] for run in runs]
        seed_dots(ax, place, values, f"lab:{side}")
        means.append(f"{np.mean(values):+.1f}".replace("-", "\N{MINUS SIGN}"))
    ax.axhline(0, color="black", lw=0.8)
    ax.set_xticks([0, 1], ["chosen answers", "rejected answers"])
    ax.set(title=f"log p: chosen {means[0]}, rejected {means[1]} nats")
    ax.set(ylabel="change of log p, held-out pairs (nats)", xlim=(-0.6, 1.6))


def both_panel(ax, shares: list[list[float]], style: str, substance: str) -> np.ndarray:
    """Style beside substance, in percent by seed; their means."""
    percent = 100 * np.array(shares)
    seed_dots(ax, 0, percent[0], "lab:dpo")
    seed_dots(ax, 1, percent[1], "lab:gold")
    ax.set_xticks([0, 1], [f"style:\n{style}", f"substance:\n{substance}"])
    ax.set(xlim=(-0.6, 1.6), ylim=(0, 100))
    return percent.mean(1)


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
