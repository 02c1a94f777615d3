"""What a reward model absorbs: does it learn what its annotators want, their faults included?

    python 05-preference-tuning/studies/what_a_reward_model_absorbs.py     # one seed, 2 minutes
    python 05-preference-tuning/studies/what_a_reward_model_absorbs.py --seeds 0 1 2 3 4 5 6 7
    python 05-preference-tuning/studies/what_a_reward_model_absorbs.py --claims   # what is claimed

The reward model of reward_model.py (6,400 pairs of unbiased annotators) beside two more on the same
pairs: of other annotators, who have no bias either, and of annotators who prefer long answers. They
are compared on 1,000 held-out pairs, and by contrasts: two texts to one question that differ in one
thing alone, a right answer or a word of filler. The reward that this thing adds stands beside what
is planted in the annotators. (A regression of rewards on gold utility would not do: it charges a
model that ignores filler with a liking for it.)

Then each of the three biases of the lab, in reward models of 1,200 pairs in which the user is
wrong, so that they can also please by agreeing.
"""

import lessons  # noqa: F401

import numpy as np
from reward_hacking import more_minus_less
from reward_model import pair_hits, prefer_shorter, reward_model_in

from common import preferences
from common.claims import Claim, run_study, study_folder
from common.figures import new_figure, seed_dots
from common.intervals import mean_of, summary
from common.preferences import BIASES, COMPONENT_OF, make_pairs
from common.scoring import contrast_rewards, score_pairs

# Reward models of 6,400 pairs: whose labels, with which bias, in which colour.
WHOSE_LABELS = {
    "unbiased": ("unbiased annotators", "human", "lab:human"),
    "others": ("other unbiased annotators", "human", "lab:other"),
    "length": ("annotators who prefer length", "length", "lab:length"),
}
HACKED = {"length": "filler", "style": "expert's\npreamble", "agreement": "echo of\nthe user"}
COMPONENTS = {  # how many units are drawn, and their name
    "right": (1, "right answer"),
    "on_topic": (1, "on topic"),
    "filler": (10, "10 words\nof filler"),
    "style": (1, HACKED["style"]),
    "agreement": (1, HACKED["agreement"]),
}

CLAIMS = (
    Claim(
        "reward_recovers_order",
        "a reward model learns to score better answers higher",
        "share of held-out pairs in the gold order, minus that of preferring the shorter answer",
        of=lambda m: m["above_length"],
        smallest=0.02,
    ),
    Claim(
        "length_bias_is_absorbed",
        "labels that favour length give a reward model that favours length",
        "reward of a word of filler, log-odds: annotators who prefer length minus unbiased ones",
        of=lambda m: m["absorbed"],
        smallest=0.03,
        published="agrees: Singhal et al. 2023 (arXiv 2310.03716)",
    ),
    Claim(
        "annotator_groups_disagree",
        "reward models of two groups of annotators may disagree",
        "share of pairs ordered unlike: length-lovers and unbiased, minus two unbiased groups",
        of=lambda m: m["disagreement"]["difference"],
        smallest=0.02,
    ),
    Claim(
        "every_bias_is_encoded",
        "a writing style or another liking is absorbed like length",
        "share of the planted bias in the reward model, mean of length, style and agreement",
        of=lambda m: mean_of([m["encoded"][group]["share"] for group in BIASES]),
        smallest=0.05,
    ),
)

# --- The experiment ---


def measure(seed: int, smoke: bool = False) -> dict:
    """Reward models of several groups of annotators, and what each made of its labels."""
    count, size = (64, 100) if smoke else (6400, 1000)
    held, asked = make_pairs(size, "test", seed=seed), preferences.questions("test")[: size // 5]
    unbiased = make_pairs(count, seed=seed)
    pairs = {
        "unbiased": unbiased,
        "others": labelled_again(unbiased, seed),
        "length": make_pairs(count, annotator="length", seed=seed),
    }
    rewards, contrasts = {}, {}
    for name, rows in pairs.items():  # that of unbiased annotators is of use to other studies
        folder = f"reward_model_{'6400' if name == 'unbiased' else name}"
        place = study_folder(seed, smoke) / folder
        model = reward_model_in(place, "tiny-distilbert", rows, seed=seed)
        rewards[name] = score_pairs(*model, held)
        contrasts[name] = contrast_rewards(*model, asked, seed)
    hits = [in_gold_order(table, held) for table in (rewards["unbiased"], prefer_shorter(held))]
    return {
        "above_length": summary(hits[0] - hits[1]),
        "disagreement": read_disagreement(rewards),
        "contrasts": {
            name: {component: summary(values) for component, values in read.items()}
            for name, read in contrasts.items()
        },
        "absorbed": summary(contrasts["length"]["filler"] - contrasts["unbiased"]["filler"]),
        "encoded": read_encoded(seed, smoke),
    }


def labelled_again(pairs: list[dict], seed: int) -> list[dict]:
    """The same pairs with the labels of other annotators, who have no bias either."""
    noise = np.random.default_rng([seed, 1])
    first, second = preferences.annotate(utilities_of(pairs), noise).T
    rows = zip(pairs, second > first, strict=True)
    return [preferences.swap_sides(row) if swapped else row for row, swapped in rows]


def utilities_of(pairs: list[dict]) -> np.ndarray:
    """Gold utilities (N, 2) of the chosen and the rejected response of each pair."""
    return np.array([[row["chosen_utility"], row["rejected_utility"]] for row in pairs])


def in_gold_order(rewards: np.ndarray, pairs: list[dict]) -> np.ndarray:
    """Where rewards (N, 2) have the order of gold utility: 1, 0, or 1/2 at a tie of theirs."""
    gaps = utilities_of(pairs) @ [1, -1]
    return pair_hits(rewards * np.sign(gaps)[:, None])[np.abs(gaps) > 1e-9]


def read_disagreement(rewards: dict[str, np.ndarray]) -> dict:
    """How often the models of two groups order held-out pairs unlike; rewards (N, 2) by group."""
    order = {name: np.sign(table[:, 0] - table[:, 1]) for name, table in rewards.items()}
    biased, control = (1.0 * (order[name] != order["unbiased"]) for name in ("length", "others"))
    unlike = {"length": biased, "others": control, "difference": biased - control}
    return {name: summary(values) for name, values in unlike.items()}


def read_encoded(seed: int, smoke: bool) -> dict:
    """Each planted bias, beside unbiased annotators: in the labels, and in the reward model.

    `labels`: the share of pairs in which the answer with more of what the group likes is chosen.
    `share`: what the reward model has of the planted bias, by contrasts.
    """
    count, asked = (32, 10) if smoke else (1200, 64)
    asked, contrasts, encoded = preferences.wrong_users("test", asked), {}, {}
    groups = ("human", *BIASES)
    pairs = {group: preferences.pairs_of_wrong_users(count, group, seed) for group in groups}
    for group, rows in pairs.items():
        folder = study_folder(seed, smoke) / f"wrong_users_{group}"
        model = reward_model_in(folder, "tiny-gpt2", rows, seed=seed)
        contrasts[group] = contrast_rewards(*model, asked, seed)
    for group, bias in BIASES.items():
        component, labels = COMPONENT_OF[group], {}
        for name in ("human", group):
            chosen = more_minus_less(pairs[name], np.tile([1.0, 0.0], (count, 1)), group)
            labels[name] = summary(chosen > 0)
        share = (contrasts[group][component] - contrasts["human"][component]) / bias
        encoded[group] = {"labels": labels, "share": summary(share)}
    return encoded


# --- The figure ---


def draw(runs: list[dict]):
    """What was planted and what was absorbed; every seed is a dot."""
    unbiased, length = (
        np.mean([run["contrasts"][name]["filler"]["mean"] for run in runs])
        for name in ("unbiased", "length")
    )
    title = f"A word of filler counts {unbiased:+.2f} by unbiased labels, "
    figure, axes = new_figure(2, 2, f"{title}{length:+.2f} by labels that favour length")
    components_panel(axes[0], runs)
    disagreement_panel(axes[1], runs)
    biased_labels_panel(axes[2], runs)
    encoded_panel(axes[3], runs)
    for ax in axes[2:]:
        ax.set_xticks(range(len(HACKED)), HACKED.values())
    return figure


def components_panel(ax, runs: list[dict]) -> None:
    """The reward that each thing adds alone, beside what is planted in the annotators."""
    for place, (component, (units, _)) in enumerate(COMPONENTS.items()):
        for k, (name, (label, annotator, color)) in enumerate(WHOSE_LABELS.items()):
            values = [units * run["contrasts"][name][component]["mean"] for run in runs]
            at, planted = place + (k - 1) * 0.27, preferences.planted_in(annotator, component)
            seed_dots(ax, at, values, color, None if place else label)
            ax.plot(at, units * planted, "_", color="black", ms=11)
    ax.plot([], [], "_", color="black", ms=11, label="planted in the annotators")
    ax.axhline(0, color="black", lw=0.8)
    ax.set_xticks(range(len(COMPONENTS)), [name for _, name in COMPONENTS.values()], fontsize=7)
    ax.set(title="Reward of one thing alone", ylabel="reward that it adds (log-odds)")
    ax.legend(loc="upper right", fontsize=7)


def disagreement_panel(ax, runs: list[dict]) -> None:
    """How often two groups' reward models order held-out pairs unlike."""
    for place, name in enumerate(("others", "length")):
        values = [100 * run["disagreement"][name]["mean"] for run in runs]
        seed_dots(ax, place, values, WHOSE_LABELS[name][-1])
    ax.set_xticks(range(2), ["other unbiased\nannotators", "annotators who\nprefer length"])
    ax.set(title="Two reward models disagree", xlim=(-0.6, 1.6), ylim=(0, None))
    ax.set_ylabel("% of held-out pairs ordered unlike\nthe model of unbiased annotators")


def biased_labels_panel(ax, runs: list[dict]) -> None:
    """The biases in the labels: how often the answer with more of it is chosen."""
    for place, group in enumerate(BIASES):
        for name, color, at in (("human", "lab:human", -0.15), (group, "lab:biased", 0.15)):
            values = [100 * run["encoded"][group]["labels"][name]["mean"] for run in runs]
            label = "unbiased annotators" if name == "human" else "annotators who like it"
            seed_dots(ax, place + at, values, color, None if place else label)
    ax.set(title="Labels: the answer with more of it is chosen", ylabel="% of pairs", ylim=(0, 100))
    ax.legend(loc="upper left", fontsize=7)


def encoded_panel(ax, runs: list[dict]) -> None:
    """How much of each planted bias the reward model has."""
    for place, group in enumerate(BIASES):
        values = [100 * run["encoded"][group]["share"]["mean"] for run in runs]
        seed_dots(ax, place, values, "lab:biased")
    ax.axhline(100, color="black", lw=0.8, ls=":")
    ax.text(-0.25, 101, "all that is planted", va="bottom")
    ax.set(title="Reward models have taken over the bias", ylim=(0, 140))
    ax.set_ylabel("% of the planted bias, by contrasts")


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
