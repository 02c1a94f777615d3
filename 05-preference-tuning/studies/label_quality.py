"""Whose labels, and how good: what do wrong labels, AI feedback and single labels leave of DPO?

    python 05-preference-tuning/studies/label_quality.py  # one seed, 50 seconds

One pass of DPO over 384 pairs, labelled by people (unbiased, noisy annotators of the world), by
people of whose labels 15 or 30 % are swapped, by a coin, or by a language model that says A or B,
asked in both orders. Beside it two ways without pairs of labels: KTO on 768 single answers, one
good to three bad, and SFT on the chosen answers alone. Each model gives two answers to each of 128
held-out questions. Labels agree with the gold order where they prefer the answer of higher gold
utility; ties are left out. Left out, too: training the judge.
"""

import copy
import random
from functools import partial

import lessons  # noqa: F401

import numpy as np
from dpo_trainer import lora_config, train_dpo
from dpo_variants import label_with_judge, train_kto

from common import training
from common.answers import answers_of_points, point_of, sample_answers
from common.claims import Claim, run_study
from common.figures import GOLD, legend_below, new_figure, seed_columns
from common.preferences import flip_labels, make_pairs, make_unpaired, questions

OF_PLANE = {  # for frontier.py, under its names
    "sft_on_chosen": ("SFT on chosen", "SFT on the chosen"),
    "coin": ("random labels", "labels by a coin"),
    "ai_labels": ("AI labels", "AI labels"),
}

claim_on_gold = partial(Claim, smallest=0.1)
CLAIMS = (
    claim_on_gold(
        "data_bounds_quality",
        "the quality of the preference data bounds that of the tuning",
        "gold utility that 30 % swapped labels cost DPO in one pass",
        of=lambda m: m["gold"]["flipped_0"] - m["gold"]["flipped_30"],
    ),
    claim_on_gold(
        "rlaif_is_dpo",
        "RLAIF is DPO once the labels are there",
        "gold utility gained over SFT by DPO on the labels of a language model",
        of=lambda m: m["gold"]["ai_labels"] - m["gold"]["sft"],
    ),
    claim_on_gold(
        "kto_no_pairs",
        "KTO needs no pairs",
        "gold utility gained over SFT from single labels, one good to three bad",
        of=lambda m: m["gold"]["kto_singles"] - m["gold"]["sft"],
    ),
    claim_on_gold(
        "more_than_sft_on_chosen",
        "comparisons teach more than the chosen answers alone",
        "gold utility of DPO minus that of SFT on the chosen answers, one pass over the same pairs",
        of=lambda m: m["gold"]["flipped_0"] - m["gold"]["sft_on_chosen"],
    ),
)


def single_labels(pairs: list[dict], good_share: float, seed: int) -> list[dict]:
    """One answer of each pair with its label: the chosen one in `good_share` of the pairs."""
    order = random.Random(f"single {seed}").sample(range(len(pairs)), len(pairs))
    good = set(order[: round(good_share * len(pairs))])
    answers = [make_unpaired([pair]) for pair in pairs]
    return [chosen if k in good else rejected for k, (chosen, rejected) in enumerate(answers)]


def gold_agreement(pairs: list[dict]) -> float:
    """The share of labels that follow the gold order, among pairs that are no ties in gold."""
    gaps = np.array([row["chosen_utility"] - row["rejected_utility"] for row in pairs])
    return float((gaps[gaps != 0] > 0).mean())


def measure(seed: int, smoke: bool = False) -> dict:
    """Seven trainings, the quality of their labels, the answers of each policy."""
    count, most = (16, 16) if smoke else (384, 128)
    pairs = make_pairs(count, seed=seed)
    prompts = [question.prompt for question in questions("test", seed=seed)[:most]]
    model, tokenizer = training.load_sft_model()
    labels = {f"flipped_{share}": flip_labels(pairs, share / 100, seed) for share in (0, 15, 30)}
    labels["coin"] = flip_labels(pairs, 0.5, seed)
    labels["ai_labels"] = label_with_judge(model, tokenizer, pairs)  # tiny-gpt2 is the judge, too
    singles = single_labels(make_pairs(2 * count, seed=seed + 500), 0.25, seed)
    others = {"kto_singles": singles, "sft_on_chosen": pairs}
    found = {"sft": sample_answers(model, tokenizer, prompts, 2, seed)}
    for name, rows in {**labels, **others}.items():
        start = copy.deepcopy(model), tokenizer, rows  # each training starts from the same
        settings = {"learning_rate": 1.4e-3, "seed": seed, "name": name.replace("_", " ")}
        if name == "kto_singles":
            policy, _ = train_kto(*start, beta=1.0, **settings)
        elif name == "sft_on_chosen":
            lora = {"per_device_train_batch_size": 8, "lora": lora_config(model)}
            policy = training.train_on_chosen(*start, **lora, **settings)
        else:
            policy, _ = train_dpo(*start, beta=0.3, **settings)
        found[name] = sample_answers(policy, tokenizer, prompts, 2, seed)
    points = []
    for key, (method, label) in OF_PLANE.items():
        points.append(point_of(method, key, label, found[key], count))
    return {
        "gold": {name: float(answers.gold.mean()) for name, answers in found.items()},
        "agreement": {name: gold_agreement(rows) for name, rows in labels.items()},
        "points": points,
        "answers": answers_of_points(prompts, points, [found[key].texts for key in OF_PLANE]),
    }


TEACHERS = {  # name, colour
    "sft": ("SFT", "lab:sft"),
    "flipped_0": ("DPO, people", "lab:dpo"),
    "ai_labels": ("DPO, AI", "lab:ai"),
    "kto_singles": ("KTO, singles", "lab:kto"),
    "sft_on_chosen": ("SFT, chosen", "lab:chosen"),
    "coin": ("DPO, coin", "lab:other"),
}


def draw(runs: list[dict]):
    """Labels and what comes of them; gold utility of every way."""
    gold = {name: [run["gold"][name] for run in runs] for name in runs[0]["gold"]}
    ends = np.mean(gold["flipped_0"]), np.mean(gold["ai_labels"])
    title = "Gold utility after DPO on people's labels {:.2f}, on a language model's {:.2f}"
    figure, (quality, ways) = new_figure(1, 2, title.format(*ends))
    for name, label, marker, color in (
        ("flipped_0", "people's, 0 to 30 % swapped", "o", "lab:dpo"),
        ("flipped_15", None, "o", "lab:dpo"),
        ("flipped_30", None, "o", "lab:dpo"),
        ("ai_labels", "a language model's", "s", "lab:ai"),
        ("coin", "a coin's", "x", "lab:sft"),
    ):
        agrees = [100 * run["agreement"][name] for run in runs]
        quality.plot(agrees, gold[name], marker, color=color, ms=5, label=label)
    quality.set(title="DPO by the quality of its labels", ylabel=GOLD)
    quality.set(xlabel="labels that agree with the gold order (%)")
    legend_below(quality, ncols=2)
    columns = {told: gold[name] for name, (told, _) in TEACHERS.items()}
    seed_columns(ways, columns, [color for _, color in TEACHERS.values()])
    ways.set(title="Without training, and after one pass", ylabel="gold utility (log-odds)")
    return figure


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
