"""Ties, wrong labels, many passes: which of DPO, IPO and KTO loses least?

    python 05-preference-tuning/studies/ties_noise_and_margins.py            # one seed, 100 seconds
    python 05-preference-tuning/studies/ties_noise_and_margins.py --seeds 0 1 2 3 4 5 6 7
    python 05-preference-tuning/studies/ties_noise_and_margins.py --claims    # what is claimed

The tutorial says that IPO is better than DPO where many pairs are tied or one-sided, and KTO where
labels are noisy. Being better on bad pairs is not enough: a loss may be better on clean ones too.
So this study asks what bad pairs cost each loss, against the same loss on clean pairs. All losses
get 384 pairs in three passes, with beta 1 and one learning rate: clean pairs; pairs of which 75 %
are ties (two answers of equal gold utility, labelled by a coin); pairs of which 30 % have their
labels swapped. Robust DPO knows that share and corrects the loss for it (Chowdhury et al. 2024,
arXiv 2403.00409). DPO and IPO also get 128 one-sided pairs: the concise answer always beats the one
with filler. Each model gives two answers to each of 128 held-out questions.

On swapped labels DPO moves less far from the SFT model than KTO. KL, in nats, says how far a model
has moved, so the figure also shows gold utility against KL: at equal KL the losses are closer.
"""

import copy
import random
from collections.abc import Sequence

import lessons  # noqa: F401

import numpy as np
from dpo_trainer import read_pairs, train_dpo
from dpo_variants import train_kto

from common.answers import Answers, answers_of_points, point_of, sample_answers
from common.claims import Claim, run_study
from common.figures import GOLD, legend_below, new_figure, seed_columns, seed_lines
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
# answers to validation prompts, after many passes.
MANY_PASSES = {"beta": 1.0, "learning_rate": 1.4e-3}
FLIP_RATE = 0.3  # of the labels
EQUAL_KL = 0.3  # nats
LOOKS = {"clean": (1 / 3, 2 / 3), "flips": (1 / 3, 5 / 12, 1 / 2, 2 / 3)}  # of a training
LOSS_TYPES = {"dpo": "sigmoid", "ipo": "ipo", "robust": "robust"}  # TRL's names; KTO has a trainer
LOSS_NAMES = {"dpo": "DPO", "ipo": "IPO", "kto": "KTO", "robust": "robust DPO"}
ARMS = {  # which losses are trained on which pairs
    "clean": ("dpo", "ipo", "kto"),
    "ties": ("dpo", "ipo"),
    "flips": ("dpo", "kto", "robust"),
    "one_sided": ("dpo", "ipo"),
}

CLAIMS = (
    Claim(
        "ipo_under_ties",
        "ties cost IPO less than DPO",
        "gold utility that 75 % ties cost DPO minus what they cost IPO (at most: the upper end)",
        of=lambda m: m["differences"]["ipo_under_ties"],
        smallest=0.1,
        predicted="undecided",
    ),
    Claim(
        "kto_noise",
        "wrong labels cost KTO less than DPO",
        "gold utility that 30 % swapped labels cost DPO minus what they cost KTO",
        of=lambda m: m["differences"]["kto_noise"],
        smallest=0.1,
    ),
    Claim(
        "many_passes",
        "after many passes IPO and KTO end above DPO, on clean pairs too",
        "gold utility after 3 passes over clean pairs: the lower of IPO's and KTO's minus DPO's",
        of=lambda m: m["differences"]["many_passes"],
        smallest=0.1,
    ),
    Claim(
        "robust_dpo",
        "robust DPO repairs what wrong labels do to DPO",
        "gold utility of robust DPO minus that of DPO, both on pairs with 30 % swapped labels",
        of=lambda m: m["differences"]["robust_dpo"],
        smallest=0.1,
    ),
    Claim(
        "dpo_extreme_margins",
        "DPO runs to extreme margins where IPO stops",
        "margin (nats) of the one-sided pairs trained on, DPO minus IPO",
        of=lambda m: m["differences"]["dpo_extreme_margins"],
        smallest=0.5,
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
    """Ten trainings: their looks on the way, and the differences that the claims are about."""
    count, passes, most = (16, 1, 16) if smoke else (384, 3, 128)
    clean = make_pairs(count, seed=seed)
    data = {"clean": clean, "ties": tied_pairs(count, seed)}
    data |= {"flips": flip_labels(clean, FLIP_RATE, seed)}
    data |= {"one_sided": one_sided_pairs(count // 3, seed)}
    prompts = [question.prompt for question in questions("test", seed=seed)[:most]]
    model, tokenizer = load_sft_model()
    sft, found, looks, margins = sample_answers(model, tokenizer, prompts, 2, seed), {}, {}, {}
    for kind, losses in ARMS.items():
        for loss in losses:
            name, pairs = f"{loss}_{kind}", data[kind]
            start = copy.deepcopy(model), tokenizer, pairs  # each training starts from the same
            settings = {"passes": passes, "name": name.replace("_", " "), "seed": seed}
            settings["looks"] = LOOKS.get(kind, (1,))
            policy, seen = train_loss_arm(loss, *start, prompts, **settings)
            looks[name], found[name] = looks_of({0: sft, **seen}), seen[passes]
            if kind == "one_sided":
                margins[loss] = float(read_pairs(policy, tokenizer, pairs, 1.0)["margin"].mean())
    points = []
    for key in ("ipo", "kto"):
        told = LOSS_NAMES[key], key, f"{passes} passes"
        points.append(point_of(*told, found[f"{key}_clean"], count))
    texts = [found[f"{point['series']}_clean"].texts for point in points]
    gold = {name: look["gold"][-1] for name, look in looks.items()}
    return {
        "passes": passes,
        "looks": looks,
        "margins": margins,
        "gold": {"sft": float(sft.gold.mean()), **gold},
        "gold_at_equal_kl": {loss: gold_at(looks[f"{loss}_flips"]) for loss in ARMS["flips"]},
        "costs": costs_of(gold),
        "differences": loss_differences(gold, margins),
        "points": points,
        "answers": answers_of_points(prompts, points, texts),
    }


def train_loss_arm(
    loss: str, model, tokenizer, pairs, prompts, *, passes: int, looks: Sequence[float], **settings
) -> tuple:
    """(policy, answers by pass): two answers to a prompt at the end, one on the way."""
    steps, seen = passes * -(-len(pairs) // 8), {}

    def look(step: int, policy) -> None:
        if step:  # before training it is the SFT model
            n, seed = 2 if step == steps else 1, settings["seed"]
            seen[passes * step / steps] = sample_answers(policy, tokenizer, prompts, n, seed)

    settings |= {**MANY_PASSES, "epochs": passes, "look": look}
    settings |= {"look_at": [int(part * steps) for part in looks]}
    if loss == "kto":
        return train_kto(model, tokenizer, pairs, **settings)[0], seen
    settings |= {"loss_type": (LOSS_TYPES[loss],)}
    settings |= {"label_smoothing": FLIP_RATE if loss == "robust" else 0.0}
    return train_dpo(model, tokenizer, pairs, **settings)[0], seen


def looks_of(seen: dict[float, Answers]) -> dict:
    """Passes so far, measured KL and gold utility of each look."""
    rows = [(passes, row.kl.mean(), row.gold.mean()) for passes, row in seen.items()]
    return dict(zip(("passes", "kl", "gold"), np.transpose(rows).tolist(), strict=True))


def gold_at(looks: dict, kl: float = EQUAL_KL) -> float:
    """Gold utility on the way at a KL, between looks on a straight line."""
    reached = int(np.argmax(np.array(looks["kl"]) >= kl)) or len(looks["kl"]) - 1
    until = slice(reached - 1, reached + 1)
    return float(np.interp(kl, looks["kl"][until], looks["gold"][until]))


def costs_of(gold: dict[str, float]) -> dict[str, float]:
    """Gold utility that bad pairs cost a loss, against clean pairs; robust DPO against DPO's."""
    costs = {name: gold["dpo_clean"] - gold[name] for name in ("dpo_ties", "dpo_flips")}
    costs |= {"ipo_ties": gold["ipo_clean"] - gold["ipo_ties"]}
    costs |= {"kto_flips": gold["kto_clean"] - gold["kto_flips"]}
    return costs | {"robust_flips": gold["dpo_clean"] - gold["robust_flips"]}


def loss_differences(gold: dict[str, float], margins: dict[str, float]) -> dict:
    """What the claims are about."""
    costs = costs_of(gold)
    return {
        "ipo_under_ties": costs["dpo_ties"] - costs["ipo_ties"],
        "kto_noise": costs["dpo_flips"] - costs["kto_flips"],
        "many_passes": min(gold["ipo_clean"], gold["kto_clean"]) - gold["dpo_clean"],
        "robust_dpo": gold["robust_flips"] - gold["dpo_flips"],
        "dpo_extreme_margins": margins["dpo"] - margins["ipo"],
    }


# --- The figure ---


def draw(runs: list[dict]):
    """What bad pairs cost; clean pairs pass by pass; swapped labels at equal KL; margins."""
    ends = [np.mean([run["costs"][name] for run in runs]) for name in ("dpo_flips", "kto_flips")]
    title = "Swapped labels cost DPO {:.2f} of gold utility, KTO {:.2f}".format(*ends)
    figure, (costs, clean, distance, margins) = new_figure(2, 2, title, height=3.5)
    costs_panel(costs, runs)
    passes_panel(clean, runs)
    equal_kl_panel(distance, runs)
    one_sided_panel(margins, runs)
    return figure


def costs_panel(ax, runs: list[dict]) -> None:
    """Gold utility that ties and swapped labels cost each loss."""
    columns, colors = {}, ("lab:dpo", "lab:ipo", "lab:dpo", "lab:dpo", "lab:kto")
    for told, name in (
        ("DPO, ties", "dpo_ties"),
        ("IPO, ties", "ipo_ties"),
        ("DPO, swapped", "dpo_flips"),
        ("robust, swapped", "robust_flips"),
        ("KTO, swapped", "kto_flips"),
    ):
        columns[told] = [run["costs"][name] for run in runs]
    ax.axhline(0, color="black", lw=0.8)
    seed_columns(ax, columns, colors)
    ax.set(title="What 75 % ties and 30 % swapped labels cost")
    ax.set_ylabel("gold utility lost\n(robust DPO: against DPO's)")


def passes_panel(ax, runs: list[dict]) -> None:
    """Gold utility over the passes on clean pairs."""
    for loss in ARMS["clean"]:
        of_loss = [run["looks"][f"{loss}_clean"] for run in runs]
        gold = [looks["gold"] for looks in of_loss]
        seed_lines(ax, of_loss[0]["passes"], gold, f"lab:{loss}", LOSS_NAMES[loss])
    ax.set(title="Clean pairs, pass by pass", xlabel="passes over the pairs")
    ax.set_ylabel(GOLD, fontsize=8)
    legend_below(ax, ncols=3)


def equal_kl_panel(ax, runs: list[dict]) -> None:
    """Gold utility against KL along the training on swapped labels."""
    for loss, color, line in (("dpo", "dpo", "-"), ("kto", "kto", "-"), ("robust", "dpo", "--")):
        looks = [run["looks"][f"{loss}_flips"] for run in runs]
        kl, gold = (np.array([of_run[name] for of_run in looks]).T for name in ("kl", "gold"))
        style = {"color": f"lab:{color}", "ls": line}
        ax.plot(kl, gold, lw=0.7, alpha=0.4, **style)
        ax.plot(kl.mean(1), gold.mean(1), marker="o", ms=3, lw=2, label=LOSS_NAMES[loss], **style)
    ax.axvline(EQUAL_KL, color="black", lw=0.8, ls=":")
    at = {loss: np.mean([run["gold_at_equal_kl"][loss] for run in runs]) for loss in ("dpo", "kto")}
    ax.set(title=f"Swapped labels at equal KL: DPO {at['dpo']:.1f}, KTO {at['kto']:.1f}")
    ax.set_xlabel("measured KL from the SFT model (nats)")
    ax.set_ylabel(GOLD, fontsize=8)
    legend_below(ax, ncols=3)


def one_sided_panel(ax, runs: list[dict]) -> None:
    """Margins of the one-sided pairs that were trained on."""
    values = {LOSS_NAMES[loss]: [run["margins"][loss] for run in runs] for loss in ("dpo", "ipo")}
    seed_columns(ax, values, ("lab:dpo", "lab:ipo"), digits=1)
    ax.set(title="Margins of one-sided pairs")
    ax.set(ylabel="margin of the pairs trained on (nats)")
    ax.set_ylim(0, 1.2 * max(map(max, values.values())))


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
