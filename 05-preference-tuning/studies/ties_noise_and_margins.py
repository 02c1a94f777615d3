"""Ties, wrong labels, one-sided pairs: which of DPO, IPO and KTO stands them?

    python 05-preference-tuning/studies/ties_noise_and_margins.py            # one seed, 100 seconds
    python 05-preference-tuning/studies/ties_noise_and_margins.py --seeds 0 1 2 3 4 5 6 7
    python 05-preference-tuning/studies/ties_noise_and_margins.py --claims    # what is claimed

The tutorial says that IPO is better than DPO where many pairs are tied or one-sided, and KTO where
labels are noisy. Each loss gets 128 pairs in eight passes, since in one pass all losses still go
the same way: clean pairs; pairs of which 75 % are ties (two answers of equal gold utility, labelled
by a coin); pairs of which 30 % have the labels swapped. DPO and IPO also get 48 one-sided pairs, in
which the concise answer always beats the one with filler. Each model gives two answers to each of
256 held-out questions; after 1, 2, 4 and 8 passes also to 32 validation questions.
"""

import copy
import random

import lessons  # noqa: F401

import numpy as np
from dpo_trainer import read_pairs, train_dpo
from dpo_variants import train_kto

from common.answers import Answers, answers_of_points, point_of, sample_answers, summarize
from common.claims import Claim, run_study
from common.figures import GOLD, legend_below, new_figure, seed_dots, seed_lines
from common.intervals import summary
from common.preferences import (
    draw_style,
    flip_labels,
    gold_utility,
    make_pairs,
    questions,
    write_response,
)
from common.training import load_sft_model

# Of 0.1, 0.3, 1 and 3, for each of the losses: least KL within 0.02 of the best share of good
# answers to validation prompts, after eight passes over 128 pairs.
MANY_PASSES = {"beta": 1.0, "learning_rate": 1.4e-3}
LOSS_NAMES = {"dpo": "DPO", "ipo": "IPO", "kto": "KTO"}

CLAIMS = (
    Claim(
        "ipo_under_ties",
        "IPO regularises better than DPO where many pairs are tied",
        "gold utility of IPO minus that of DPO, both on 128 pairs, 75 % ties, shown 8 times",
        of=lambda m: m["differences"]["ipo_under_ties"],
        smallest=0.1,
        published="not as superiority: the hub's comparison finds IPO on par with DPO",
    ),
    Claim(
        "ipo_under_imbalance",
        "IPO regularises better than DPO where the pairs are one-sided",
        "gold utility of IPO minus that of DPO, both on 48 one-sided pairs shown 8 times",
        of=lambda m: m["differences"]["ipo_under_imbalance"],
        smallest=0.1,
    ),
    Claim(
        "dpo_extreme_margins",
        "DPO runs to extreme margins where IPO stops",
        "margin (nats) of the one-sided pairs trained on, DPO minus IPO",
        of=lambda m: m["differences"]["dpo_extreme_margins"],
        smallest=0.5,
    ),
    Claim(
        "kto_noise",
        "KTO is more robust to noisy labels than DPO",
        "gold utility of KTO minus that of DPO, both on 128 pairs, 30 % flipped, shown 8 times",
        of=lambda m: m["differences"]["kto_noise"],
        smallest=0.1,
        published="mixed: DPO suffers (Chowdhury et al. 2024, arXiv 2403.00409)",
    ),
)


# --- The pairs ---


def tied_pairs(count: int, seed: int, share: float = 0.75) -> list[dict]:
    """The world's pairs, but a `share` of them are two answers of equal gold utility.

    Which of these is chosen, a coin decides.
    """
    rng, pool, ties = random.Random(f"ties {seed}"), questions("train"), []
    while len(ties) < round(share * count):
        question = rng.choice(pool)
        style = draw_style(question, rng)
        first = write_response(question, style, rng)
        second = write_response(question, style, rng)
        utilities = {gold_utility(question.prompt, text) for text in (first, second)}
        if first != second and len(utilities) == 1:
            ties.append({"prompt": question.prompt, "chosen": first, "rejected": second})
    rows = make_pairs(count - len(ties), seed=seed) + ties
    rng.shuffle(rows)
    return rows


def one_sided_pairs(count: int, seed: int) -> list[dict]:
    """Pairs with one winner: the concise answer always beats the one with filler."""
    rng, rows = random.Random(f"one-sided {seed}"), []
    for question in rng.sample(questions("train"), count):
        chosen = write_response(question, "concise", rng)
        rejected = write_response(question, "verbose", rng)
        rows.append({"prompt": question.prompt, "chosen": chosen, "rejected": rejected})
    return rows


# --- The trainings ---


def measure(seed: int, smoke: bool = False) -> dict:
    """Nine trainings: their looks on the way, and the differences that the claims are about."""
    count, passes, most = (16, 1, 16) if smoke else (128, 8, 256)
    clean, one_sided = make_pairs(count, seed=seed), one_sided_pairs(3 * count // 8, seed)
    ties, noise = tied_pairs(count, seed), flip_labels(clean, 0.3, seed)
    data = dict.fromkeys(LOSS_NAMES, clean)
    data |= {"dpo_ties": ties, "ipo_ties": ties, "dpo_noise": noise, "kto_noise": noise}
    data |= {"dpo_one_sided": one_sided, "ipo_one_sided": one_sided}
    prompts = [question.prompt for question in questions("test")[:most]]
    model, tokenizer = load_sft_model()
    found, looks, margins = {"sft": sample_answers(model, tokenizer, prompts, 2, seed)}, {}, {}
    for name, pairs in data.items():
        policy, looks[name] = train_loss_arm(model, tokenizer, name, pairs, passes, seed)
        found[name] = sample_answers(policy, tokenizer, prompts, 2, seed)
        if "one_sided" in name:
            margins[name] = read_pairs(policy, tokenizer, pairs, beta=1.0)["margin"]
    points = []
    for key in ("ipo", "kto"):
        points.append(point_of(LOSS_NAMES[key], key, LOSS_NAMES[key], found[key], count))
    return {
        "passes": passes,
        "answers_of": {name: summarize(answers) for name, answers in found.items()},
        "looks": looks,
        "margins": {name: summary(h) for name, h in margins.items()},
        "differences": loss_differences(found, margins),
        "points": points,
        "answers": answers_of_points(prompts, points, [found[key].texts for key in ("ipo", "kto")]),
    }


def train_loss_arm(model, tokenizer, name: str, pairs, passes: int, seed: int) -> tuple:
    """(policy, looks): the training of an arm, whose name begins with its loss.

    On the way validation questions are answered after an eighth, a quarter and half of the steps.
    """
    loss, looks, settings = name.split("_")[0], [], {**MANY_PASSES, "epochs": passes, "seed": seed}
    prompts = [question.prompt for question in questions("validation")[:32]]
    steps = passes * -(-len(pairs) // 8)

    def look(step: int, policy) -> None:
        seen = sample_answers(policy, tokenizer, prompts, 2, seed)
        looks.append({"passes": passes * step / steps, "gold": float(seen.gold.mean())})

    if "one_sided" not in name:
        settings |= {"look": look, "look_at": (steps // 8, steps // 4, steps // 2)}
    settings |= {"name": name.replace("_", " ")}
    model = copy.deepcopy(model)  # each training starts from the same
    if loss == "kto":
        return train_kto(model, tokenizer, pairs, **settings)[0], looks
    loss_type = ("sigmoid" if loss == "dpo" else loss,)
    return train_dpo(model, tokenizer, pairs, loss_type=loss_type, **settings)[0], looks


def loss_differences(found: dict[str, Answers], margins: dict[str, np.ndarray]) -> dict:
    """Gold utility of one policy minus that of another, paired by prompt; margins by pair."""
    gold = {name: answers.gold.mean(1) for name, answers in found.items()}
    return {
        "ipo_under_ties": summary(gold["ipo_ties"] - gold["dpo_ties"]),
        "ipo_under_imbalance": summary(gold["ipo_one_sided"] - gold["dpo_one_sided"]),
        "dpo_extreme_margins": summary(margins["dpo_one_sided"] - margins["ipo_one_sided"]),
        "kto_noise": summary(gold["kto_noise"] - gold["dpo_noise"]),
        "ipo_on_clean_pairs": summary(gold["ipo"] - gold["dpo"]),
        "kto_on_clean_pairs": summary(gold["kto"] - gold["dpo"]),
    }


# --- The figure ---


def draw(runs: list[dict]):
    """Gold utility on the way, on clean and on bad pairs; margins of one-sided pairs; the end."""
    ends = [how_far(runs, name) for name in ("ipo_under_ties", "kto_noise")]
    title = f"{runs[0]['passes']} passes: with ties IPO ends {ends[0]} DPO, "
    title += f"with wrong labels KTO {ends[1]}"
    figure, (ties, noise, margins, end) = new_figure(2, 2, title, height=3.6)
    decay_panel(ties, runs, "ipo", "ties", "75 % ties")
    decay_panel(noise, runs, "kto", "noise", "30 % flipped")
    one_sided_panel(margins, runs)
    end_panel(end, runs)
    return figure


def how_far(runs: list[dict], name: str) -> str:
    """On which side a difference lies, and how far, over the seeds: 0.5 above."""
    mean = np.mean([run["differences"][name]["mean"] for run in runs])
    return f"{abs(mean):.1f} {'above' if mean > 0 else 'below'}"


def decay_panel(ax, runs: list[dict], other: str, bad: str, told: str) -> None:
    """Gold utility over the passes: DPO and another loss, on clean pairs (dashed) and bad ones."""
    for loss in ("dpo", other):
        for name, label, line in ((loss, "clean", "--"), (f"{loss}_{bad}", told, "-")):
            gold = [[look["gold"] for look in run["looks"][name]] for run in runs]
            x = [look["passes"] for look in runs[0]["looks"][name]]
            seed_lines(ax, x, gold, f"lab:{loss}", f"{LOSS_NAMES[loss]}, {label}", ls=line)
    title = f"DPO and {LOSS_NAMES[other]} on pairs with {told} (solid),\nand on clean ones (dashed)"
    ax.set(title=title, xlabel="passes over the pairs")
    ax.set_ylabel(GOLD, fontsize=8)
    ax.set_ylim(bottom=ax.get_ylim()[0] - 1.1)
    ax.legend(loc="lower left", ncols=2)


def one_sided_panel(ax, runs: list[dict]) -> None:
    """Margins of the one-sided pairs that were trained on."""
    values = {}
    for place, loss in enumerate(("dpo", "ipo")):
        values[loss] = [run["margins"][f"{loss}_one_sided"]["mean"] for run in runs]
        seed_dots(ax, place, values[loss], f"lab:{loss}")
    ax.set_xticks((0, 1), ("DPO", "IPO"))
    dpo, ipo = map(np.mean, values.values())
    ax.set(title=f"One-sided pairs, pushed apart by\n{dpo:.0f} nats (DPO) and {ipo:.0f} nats (IPO)")
    ax.set(ylabel="margin of the pairs trained on (nats)", xlim=(-0.6, 1.6), ylim=(0, None))


def end_panel(ax, runs: list[dict]) -> None:
    """Gold utility of the answers to held-out questions after the last pass."""
    place, ticks = 0.0, {}
    for label, ending in (
        ("clean", ""),
        ("75 %\nties", "_ties"),
        ("30 %\nflipped", "_noise"),
        ("one-\nsided", "_one_sided"),
    ):
        losses = [loss for loss in LOSS_NAMES if f"{loss}{ending}" in runs[0]["answers_of"]]
        ticks[label] = place + (len(losses) - 1) * 0.35
        for loss in losses:
            values = [run["answers_of"][f"{loss}{ending}"]["gold"]["mean"] for run in runs]
            seed_dots(ax, place, values, f"lab:{loss}", LOSS_NAMES[loss] if not ending else None)
            place += 0.7
        place += 0.6
    sft = np.mean([run["answers_of"]["sft"]["gold"]["mean"] for run in runs])
    ax.axhline(sft, color="lab:sft", ls=":", label="SFT model")
    ax.set_xticks(list(ticks.values()), list(ticks))
    ipo, kto = (how_far(runs, f"{loss}_on_clean_pairs") for loss in ("ipo", "kto"))
    ax.set(title=f"The end: on clean pairs, IPO {ipo}\nand KTO {kto} DPO")
    ax.set_ylabel(GOLD, fontsize=8)
    legend_below(ax, ncols=4)


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
