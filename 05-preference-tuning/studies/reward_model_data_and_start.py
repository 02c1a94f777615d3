"""Data and start of a reward model: how many pairs, from which model, or none at all?

    python 05-preference-tuning/studies/reward_model_data_and_start.py      # one seed, 2 minutes
    python 05-preference-tuning/studies/reward_model_data_and_start.py --seeds 0 1 2 3 4 5 6 7
    python 05-preference-tuning/studies/reward_model_data_and_start.py --claims  # what is claimed

Three ways to a reward from the first 400 and 1,600 pairs of unbiased annotators: an encoder that
read about the facts in its pre-training, and gets a scalar head (reward_model.py; 6,400 pairs,
too); the SFT model with such a head, as InstructGPT's reward model started; and the implicit reward
of a DPO policy, log(pi / pi_ref), which needs no reward model. Each is judged by how many of 1,000
held-out pairs it puts in the order of gold utility: where only a fact tells which answer is better
(the other one is wrong and nothing else), and where style gives it away (filler, a preamble,
another topic, an echo of the user).
"""

import lessons  # noqa: F401

import numpy as np
from dpo_trainer import train_dpo
from reward_model import (
    fresh_reward_model,
    gold_order,
    pair_hits,
    reward_model_in,
    train_reward_model,
)

from common.claims import INFINITY, Claim, run_study, study_folder
from common.figures import new_figure, seed_lines
from common.intervals import summary
from common.preferences import make_pairs
from common.scoring import pair_logps, score_pairs
from common.training import load_sft_model

SIZES = (400, 1600)  # pairs, beside all of them
WAYS = {  # to a reward: colour, name
    "encoder": ("lab:reward", "encoder that read the facts"),
    "sft": ("lab:sft", "SFT model with a scalar head"),
    "dpo": ("lab:dpo", "DPO's implicit reward"),
}

CLAIMS = (
    Claim(
        "sft_start_learns_style_first",
        "from the SFT model a reward model learns style, right from wrong hardly",
        f"share in the gold order ({SIZES[-1]} pairs): where style differs, minus only facts",
        of=lambda m: m["sft_style_over_facts"],
        smallest=0.05,
    ),
    Claim(
        "encoder_over_sft_start",
        "an encoder that read about the facts is the better backbone",
        f"share of pairs in the gold order, {SIZES[-1]} pairs: encoder minus SFT model",
        of=lambda m: m["encoder_over_sft"],
        smallest=0.02,
    ),
    Claim(
        "dpo_needs_no_reward_model",
        "DPO needs no reward model: its implicit reward is as good a one",
        f"share of pairs in the gold order, {SIZES[-1]} pairs: implicit reward minus encoder's",
        of=lambda m: m["dpo_over_encoder"],
        true=(-0.05, INFINITY),
        smallest=0.02,
        published="not under shift: Lin et al. 2024 (arXiv 2409.03650), 3 % worse in the mean",
    ),
)

# --- The experiment ---


def measure(seed: int, smoke: bool = False) -> dict:
    """Each way to a reward at each number of pairs, judged by the same held-out pairs."""
    sizes, most, held = ((16, 32), 64, 100) if smoke else (SIZES, 6400, 1000)
    pairs = make_pairs(most, seed=seed)
    ordered = gold_order(make_pairs(held, "test", seed=seed))
    hits = {way: {} for way in WAYS}  # {way: {pairs: (held-out pairs,)}}
    for count in sizes:
        for way, backbone in (("encoder", "tiny-distilbert"), ("sft", "tiny-gpt2")):
            model = fresh_reward_model(backbone, "cpu", seed)
            train_reward_model(*model, pairs[:count], seed=seed, name=f"{way}, {count} pairs")
            hits[way][count] = pair_hits(score_pairs(*model, ordered))
        hits["dpo"][count] = implicit_hits(pairs[:count], ordered, seed)
    folder = study_folder(seed, smoke) / "reward_model_6400"
    model = reward_model_in(folder, "tiny-distilbert", pairs, seed=seed)
    hits["encoder"][most] = pair_hits(score_pairs(*model, ordered))
    facts = np.array([row["reason"] == "wrong" for row in ordered])
    return {
        "curve": {
            way: [{"pairs": count, **by_fault(of[count], facts)} for count in of]
            for way, of in hits.items()
        },
        **compare_rewards({way: of[sizes[-1]] for way, of in hits.items()}, facts),
    }


def implicit_hits(pairs: list[dict], ordered: list[dict], seed: int) -> np.ndarray:
    """Where a DPO policy orders pairs right by log(pi / pi_ref): its reward but for beta; (N,)."""
    model, tokenizer = load_sft_model()
    policy, _ = train_dpo(model, tokenizer, pairs, seed=seed, name=f"DPO, {len(pairs)} pairs")
    logps, ref_logps = pair_logps(policy, tokenizer, ordered)
    return pair_hits((logps - ref_logps).numpy().T)


def by_fault(hits: np.ndarray, facts: np.ndarray) -> dict:
    """Pairs in the gold order, hits (N,): all, and by whether only a fact tells; facts (N,)."""
    measured = {"all": hits, "style": hits[~facts], "facts": hits[facts]}
    return {name: summary(values) for name, values in measured.items()}


def compare_rewards(hits: dict[str, np.ndarray], facts: np.ndarray) -> dict:
    """What the claims compare, pair by pair, at the same number of training pairs."""

    def style_minus_facts(table: np.ndarray, axis: int = 0) -> float:
        right, about_facts = table[:, 0], table[:, 1] == 1
        return right[~about_facts].mean() - right[about_facts].mean()

    of_sft = np.column_stack([hits["sft"], facts])
    return {
        "encoder_over_sft": summary(hits["encoder"] - hits["sft"]),
        "dpo_over_encoder": summary(hits["dpo"] - hits["encoder"]),
        "sft_style_over_facts": summary(of_sft, style_minus_facts),
    }


# --- The figure ---


def draw(runs: list[dict]):
    """Right order by the number of pairs, where style tells and where only a fact does."""
    last = {
        way: np.mean([run["curve"][way][1]["facts"]["mean"] for run in runs])
        for way in ("encoder", "dpo")
    }
    count, dpo, encoder = runs[0]["curve"]["dpo"][1]["pairs"], 100 * last["dpo"], last["encoder"]
    title = f"{count:,} pairs: DPO's implicit reward tells right from wrong in {dpo:.0f} %, "
    title += f"an encoder in {100 * encoder:.0f} %"
    figure, axes = new_figure(1, 2, title)
    sizes_panel(axes[0], runs, "style")
    axes[0].set(title="Where style gives the worse answer away")
    sizes_panel(axes[1], runs, "facts")
    axes[1].set(title="Where only a fact tells which is better")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(WAYS))
    return figure


def sizes_panel(ax, runs: list[dict], kind: str) -> None:
    """Held-out pairs in the right order, by the number of training pairs."""
    for way, (color, label) in WAYS.items():
        counts = [row["pairs"] for row in runs[0]["curve"][way]]
        shares = [[100 * row[kind]["mean"] for row in run["curve"][way]] for run in runs]
        seed_lines(ax, counts, np.array(shares), color, label)
    ticks = [row["pairs"] for row in runs[0]["curve"]["encoder"]]
    ax.axhline(50, color="black", lw=0.8, ls=":")
    ax.text(ticks[-1], 50, "by chance ", ha="right", va="top")
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()
    ax.set(xlabel="training pairs", ylabel="% of held-out pairs in the right order", ylim=(40, 102))


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
