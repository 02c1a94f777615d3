"""The KL term: does it make PPO better, or does it only stop it earlier?

    python 05-preference-tuning/studies/kl_term.py  # one seed, 1.5 minutes

The KL term is a part of PPO's reward that falls as the policy moves away from the SFT model. PPO is
trained in small steps by a reward model of 6,400 labels of annotators who prefer long answers, once
with the term and once without. With it the policy moves less far; the question is whether it is
better once it has moved as far. So gold utility (3 if right, 1 if on topic, -0.15 for a word of
filler; in log-odds) is compared at equal KL (that distance, in nats), on 128 held-out questions
that are answered before, after every second update, and at the end.
"""

import lessons  # noqa: F401

import numpy as np
from online_rl import train_rl
from reward_model import reward_model_in

from common.answers import sample_answers
from common.claims import Claim, run_study, study_folder
from common.figures import GOLD, legend_below, new_figure, seed_columns
from common.preferences import make_pairs, questions
from common.training import load_sft_model

KL_TERM = {"with the KL term": 0.3, "without": 0.0}  # beta
# Steps small enough to look often.
SMALL = {"epochs": 1, "updates": 16, "prompts_per_update": 16, "look_at": range(2, 16, 2)}

CLAIMS = (
    Claim(
        "kl_term_holds_the_policy",
        "the KL term keeps the policy from the reward model's idiosyncrasies, also at equal KL",
        "gold utility at equal KL, length-biased rewards, with the KL term minus without, log-odds",
        of=lambda m: m["at_equal_kl"],
        smallest=0.2,
        predicted="no difference",
    ),
)


def measure(seed: int, smoke: bool = False) -> dict:
    """Both trainings of one seed as curves of KL and gold utility, and the gap at equal KL."""
    pairs = make_pairs(32 if smoke else 6400, annotator="length", seed=seed)
    folder = study_folder(seed, smoke) / "reward_model_length"
    judge = reward_model_in(folder, "tiny-distilbert", pairs, seed=seed)
    asked = questions("test", seed=seed)[: 8 if smoke else 128]
    curves = {
        name: train_and_read(judge, asked, beta, seed, smoke) for name, beta in KL_TERM.items()
    }
    return {"kl_term": curves, "at_equal_kl": gap_at_equal_kl(*curves.values())}


def train_and_read(judge, asked: list, beta: float, seed: int, smoke: bool) -> dict:
    """KL and gold utility on the way of one training, lists with an entry a look."""
    model, tokenizer = load_sft_model()
    prompts, looks = [question.prompt for question in asked], []

    def look(step: int, policy) -> None:
        looks.append(sample_answers(policy, tokenizer, prompts, 1, seed).means())

    how = SMALL | ({"updates": 2, "prompts_per_update": 8} if smoke else {})
    trained_on = [question.prompt for question in questions("train")]
    train_rl(model, tokenizer, judge, trained_on, **how, beta=beta, seed=seed, look=look)
    return {name: [seen[name] for seen in looks] for name in ("kl", "gold")}


def gap_at_equal_kl(ours: dict, theirs: dict) -> float:
    """Gold utility of our curve minus theirs, the mean over KLs that both have reached.

    Between looks it is interpolated. Both start at the same model, where they cannot differ: the
    first quarter of the KLs is left out.
    """
    reached = min(max(ours["kl"]), max(theirs["kl"]))
    at = np.linspace(reached / 4, reached, 100)
    gold = []
    for curve in (ours, theirs):
        order = np.argsort(curve["kl"])
        gold.append(np.interp(at, *(np.array(curve[name])[order] for name in ("kl", "gold"))))
    return float(np.mean(gold[0] - gold[1]))


def draw(runs: list[dict]):
    """Gold utility against KL of both trainings, and the difference at equal KL and at the end."""
    gaps = [run["at_equal_kl"] for run in runs]
    title = f"At equal KL the KL term changes gold utility by {np.mean(gaps):+.2f}"
    figure, (ax, differ) = new_figure(1, 2, title)
    for name, color in zip(KL_TERM, ("lab:rl", "lab:biased"), strict=True):
        for k, run in enumerate(runs):
            curve, label = run["kl_term"][name], name if k == 0 else None
            ax.plot(curve["kl"], curve["gold"], "o-", color=color, ms=2.5, lw=0.8, label=label)
    ax.set(title="On the way, from KL 0 on", ylabel=GOLD)
    ax.set_xlabel("measured KL from the SFT model (nats)")
    ax.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
    ax.set(xticks=(0, 1, 2, 4, 8), xlim=(0, None))
    legend_below(ax, ncols=2)
    ends = [[run["kl_term"][name]["gold"][-1] for name in KL_TERM] for run in runs]
    columns = {"at equal KL": gaps, "at the end": [ours - theirs for ours, theirs in ends]}
    seed_columns(differ, columns, ["lab:rl"] * 2)
    differ.axhline(0, color="black", lw=0.8)
    differ.set(title="With the KL term minus without", ylabel="gold utility (log-odds)")
    return figure


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
