"""Ties, wrong labels, many passes: which of DPO, IPO and KTO stands them best?

    python 05-preference-tuning/studies/ties_noise_and_margins.py  # one seed, 2 minutes

Being better on bad pairs is not enough: a loss may be better on clean ones, too. So each loss is
compared with itself on clean pairs, in gold utility (3 if right, 1 if on topic, -0.15 for a word of
filler; in log-odds). All get 384 pairs in three passes, with beta 1 (how strongly they are held to
the SFT model) and one learning rate: clean; 75 % of them ties (two answers of equal gold utility,
labelled by a coin; DPO and IPO); or 30 % with swapped labels (DPO and KTO, and robust DPO, which
knows that share and corrects the loss for it: Chowdhury et al. 2024, arXiv 2403.00409). DPO and IPO
also get 128 one-sided pairs: the concise answer always beats the one with filler. On swapped labels
DPO moves less far from the SFT model than KTO, so the figure also shows that distance, the KL in
nats.
"""

import copy
import random

import lessons  # noqa: F401

import numpy as np
from dpo_trainer import measure_pairs, train_dpo
from dpo_variants import train_kto

from common import preferences
from common.answers import answers_of_points, point_of, sample_answers
from common.claims import Claim, run_study
from common.figures import GOLD, legend_below, new_figure, seed_columns
from common.training import load_sft_model

# Of 0.1, 0.3, 1 and 3, for each of the losses: least KL within 0.02 of the best share of good
# answers to validation prompts, after many passes.
MANY_PASSES = {"beta": 1.0, "learning_rate": 1.4e-3}
FLIP_RATE = 0.3  # of the labels
LOOKS = (1 / 3, 2 / 3)  # shares of a training on swapped labels
LOSS_TYPES = {"dpo": "sigmoid", "ipo": "ipo", "robust": "robust"}  # TRL's names; KTO has a trainer
LOSS_NAMES = {"dpo": "DPO", "ipo": "IPO", "kto": "KTO", "robust": "robust DPO"}
ARMS = {  # which losses are trained on which pairs
    "clean": ("dpo", "ipo", "kto"),
    "ties": ("dpo", "ipo"),
    "flips": ("dpo", "kto", "robust"),
    "one_sided": ("dpo", "ipo"),
}
POINTS = ("ipo_clean", "kto_clean")  # for the plane of frontier.py


def cost_of(m: dict, kind: str, loss: str) -> float:
    """Gold utility that bad pairs cost a loss, against clean pairs; robust DPO against DPO's."""
    clean = "dpo_clean" if loss == "robust" else f"{loss}_clean"
    return m["gold"][clean] - m["gold"][f"{loss}_{kind}"]


CLAIMS = (
    Claim(
        "ipo_under_ties",
        "ties cost IPO less than DPO",
        "gold utility that 75 % ties cost DPO minus what they cost IPO, log-odds",
        of=lambda m: cost_of(m, "ties", "dpo") - cost_of(m, "ties", "ipo"),
        smallest=0.1,
        predicted="undecided",
    ),
    Claim(
        "kto_noise",
        "wrong labels cost KTO less than DPO",
        "gold utility that 30 % swapped labels cost DPO minus what they cost KTO",
        of=lambda m: cost_of(m, "flips", "dpo") - cost_of(m, "flips", "kto"),
        smallest=0.1,
    ),
    Claim(
        "many_passes",
        "after many passes IPO and KTO end above DPO, on clean pairs too",
        "gold utility after 3 passes over clean pairs, beta 1: the lower of IPO and KTO minus DPO",
        of=lambda m: min(m["gold"]["ipo_clean"], m["gold"]["kto_clean"]) - m["gold"]["dpo_clean"],
        smallest=0.1,
    ),
    Claim(
        "robust_dpo",
        "robust DPO repairs what wrong labels do to DPO",
        "gold utility of robust DPO minus that of DPO, both on pairs with 30 % swapped labels",
        of=lambda m: m["gold"]["robust_flips"] - m["gold"]["dpo_flips"],
        smallest=0.1,
    ),
    Claim(
        "dpo_extreme_margins",
        "DPO runs to larger margins than IPO",
        "margin (nats) of the one-sided pairs after 3 passes over them, DPO minus IPO",
        of=lambda m: m["margins"]["dpo"] - m["margins"]["ipo"],
        smallest=0.5,
    ),
)


def tied_pairs(count: int, seed: int) -> list[dict]:
    """Pairs of which 75 % are two answers of equal gold utility; a coin decides between them."""
    rng, pool, ties = random.Random(f"ties {seed}"), preferences.questions("train"), []
    while len(ties) < round(0.75 * count):
        question = rng.choice(pool)
        style = preferences.draw_style(question, rng)
        first, second = (preferences.write_response(question, style, rng) for _ in range(2))
        utilities = {preferences.gold_utility(question.prompt, text) for text in (first, second)}
        if first != second and len(utilities) == 1:
            ties.append({"prompt": question.prompt, "chosen": first, "rejected": second})
    rows = preferences.make_pairs(count - len(ties), seed=seed) + ties
    rng.shuffle(rows)
    return rows


def one_sided_pairs(count: int, seed: int) -> list[dict]:
    """Pairs with one winner: the concise answer always beats the one with filler."""
    rng, rows = random.Random(f"one-sided {seed}"), []
    for question in rng.sample(preferences.questions("train"), count):
        chosen = preferences.write_response(question, "concise", rng)
        rejected = preferences.write_response(question, "verbose", rng)
        rows.append({"prompt": question.prompt, "chosen": chosen, "rejected": rejected})
    return rows


def measure(seed: int, smoke: bool = False) -> dict:
    """Ten trainings: gold utility at the end, or margins of the one-sided pairs."""
    count, passes, most = (16, 1, 16) if smoke else (384, 3, 128)
    clean = preferences.make_pairs(count, seed=seed)
    data = {"clean": clean, "ties": tied_pairs(count, seed)}
    data |= {"flips": preferences.flip_labels(clean, FLIP_RATE, seed)}
    data |= {"one_sided": one_sided_pairs(count // 3, seed)}
    prompts = [question.prompt for question in preferences.questions("test", seed=seed)[:most]]
    model, tokenizer = load_sft_model()
    sft = sample_answers(model, tokenizer, prompts, 2, seed)
    looks, margins, gold, points, texts = {}, {}, {}, [], []
    for kind, losses in ARMS.items():
        for loss in losses:
            name, pairs = f"{loss}_{kind}", data[kind]
            start = copy.deepcopy(model), tokenizer, pairs  # each training starts from the same
            policy, seen = train_loss_arm(name, *start, prompts, passes, seed)
            if kind == "one_sided":
                margins[loss] = float(measure_pairs(policy, tokenizer, pairs, 1.0)["margin"].mean())
                continue
            gold[name] = float(seen[-1].gold.mean())
            if kind == "flips":
                means = [answers.means() for answers in (sft, *seen)]
                looks[loss] = {key: [each[key] for each in means] for key in ("kl", "gold")}
            if name in POINTS:
                points.append(point_of(LOSS_NAMES[loss], loss, f"{passes} passes", seen[-1], count))
                texts.append(seen[-1].texts)
    return {
        "looks": looks,
        "margins": margins,
        "gold": gold,
        "points": points,
        "answers": answers_of_points(prompts, points, texts),
    }


def train_loss_arm(name: str, model, tokenizer, pairs, prompts, passes: int, seed: int) -> tuple:
    """(policy, its answers): two to a prompt at the end; with swapped labels one on the way."""
    (loss, kind), steps, seen = name.split("_", 1), passes * -(-len(pairs) // 8), []
    with_kl = kind == "flips" or name in POINTS

    def look(step: int, policy) -> None:
        if step and kind != "one_sided":  # before training it is the SFT model
            n = 2 if step == steps else 1
            seen.append(sample_answers(policy, tokenizer, prompts, n, seed, with_kl=with_kl))

    settings = {**MANY_PASSES, "epochs": passes, "seed": seed, "name": name.replace("_", " ")}
    on_the_way = [int(part * steps) for part in LOOKS] if kind == "flips" else [steps]
    settings |= {"look": look, "look_at": on_the_way}
    if loss == "kto":
        return train_kto(model, tokenizer, pairs, **settings)[0], seen
    settings["loss_type"] = (LOSS_TYPES[loss],)
    settings["label_smoothing"] = FLIP_RATE if loss == "robust" else 0.0
    return train_dpo(model, tokenizer, pairs, **settings)[0], seen


def draw(runs: list[dict]):
    """What bad pairs cost; clean pairs; swapped labels on the way; margins."""
    ends = [np.mean([cost_of(run, "flips", loss) for run in runs]) for loss in ("dpo", "kto")]
    title = "Swapped labels cost DPO {:.2f} of gold utility, KTO {:.2f}".format(*ends)
    figure, (costs, clean, distance, margins) = new_figure(2, 2, title, height=3.5)
    columns = {
        "DPO, ties": ("ties", "dpo"),
        "IPO, ties": ("ties", "ipo"),
        "DPO, swapped": ("flips", "dpo"),
        "robust, swapped": ("flips", "robust"),
        "KTO, swapped": ("flips", "kto"),
    }
    values = {told: [cost_of(run, *arm) for run in runs] for told, arm in columns.items()}
    costs.axhline(0, color="black", lw=0.8)
    seed_columns(costs, values, ("lab:dpo", "lab:ipo", "lab:dpo", "lab:dpo", "lab:kto"))
    costs.set(title="What 75 % ties and 30 % swapped labels cost")
    costs.set_ylabel("gold utility lost\n(robust DPO: against DPO's)")
    columns = {
        LOSS_NAMES[loss]: [run["gold"][f"{loss}_clean"] for run in runs] for loss in ARMS["clean"]
    }
    seed_columns(clean, columns, [f"lab:{loss}" for loss in ARMS["clean"]])
    clean.set(title="After three passes over clean pairs", ylabel="gold utility (log-odds)")
    wrong_labels_panel(distance, runs)
    values = {LOSS_NAMES[loss]: [run["margins"][loss] for run in runs] for loss in ("dpo", "ipo")}
    seed_columns(margins, values, ("lab:dpo", "lab:ipo"), digits=1)
    margins.set(title="Margins of one-sided pairs", ylabel="margin of the pairs trained on (nats)")
    margins.set_ylim(0, 1.2 * max(map(max, values.values())))
    return figure


def wrong_labels_panel(ax, runs: list[dict]) -> None:
    """Gold utility against KL along the training on swapped labels."""
    for loss, color, line in (("dpo", "dpo", "-"), ("kto", "kto", "-"), ("robust", "dpo", "--")):
        looks = [run["looks"][loss] for run in runs]
        kl, gold = (np.array([of_run[name] for of_run in looks]).T for name in ("kl", "gold"))
        style = {"color": f"lab:{color}", "ls": line}
        ax.plot(kl, gold, lw=0.7, alpha=0.4, **style)
        ax.plot(kl.mean(1), gold.mean(1), marker="o", ms=3, lw=2, label=LOSS_NAMES[loss], **style)
    ax.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
    ax.set(title="On swapped labels, from KL 0 on", xlim=(0, None), xticks=(0, 0.5, 1, 2, 4, 8))
    ax.set_xlabel("measured KL from the SFT model (nats)")
    ax.set_ylabel(GOLD, fontsize=8)
    legend_below(ax, ncols=3)


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
