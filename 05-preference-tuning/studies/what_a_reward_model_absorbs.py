"""What a reward model absorbs: does it learn what its annotators want, their faults included?

    python 05-preference-tuning/studies/what_a_reward_model_absorbs.py     # one seed, 2 minutes
    python 05-preference-tuning/studies/what_a_reward_model_absorbs.py --seeds 0 1 2 3 4 5 6 7
    python 05-preference-tuning/studies/what_a_reward_model_absorbs.py --claims   # what is claimed

The reward model of reward_model.py (6,400 pairs of unbiased annotators) orders 1,000 held-out
pairs. Then reward models of 1,200 pairs in which the user is wrong, so that annotators can also
like agreement: one of unbiased annotators, one of each group with a bias, and one of other unbiased
annotators who label the same pairs. All are read by contrasts: two texts to one question that
differ in one thing alone, a right answer or a word of filler. The reward that this thing adds
stands beside what is planted in the annotators. (A regression of rewards on gold utility would not
do: it charges a model that ignores filler with a liking for it.)

A wrong answer on topic is worth 1 more than one off topic. The reward model gives that where the
other text is chatter, which it knows by its words, and next to nothing where it is a fact that
answers another question: both do not belong to this one, and only one pair in a hundred compares
such wrong answers (`on_topic_pairs`). Many more such pairs, tried once, did not change it.
"""

import random

import lessons  # noqa: F401

import numpy as np
from reward_hacking import more_minus_less
from reward_model import pair_hits, prefer_shorter, reward_model_in

from common import preferences
from common.claims import Claim, run_study, study_folder
from common.figures import new_figure, seed_columns, seed_dots
from common.preferences import (
    BIASES,
    CHATTER,
    COLUMNS,
    COMPONENT_OF,
    SIDES,
    WORTH,
    gold_utility,
    make_pairs,
)
from common.scoring import contrast_rewards, score_pairs

HACKED = {"length": "filler", "style": "expert's\npreamble", "agreement": "echo of\nthe user"}
OTHER_GROUPS = {  # whose reward model is compared with that of unbiased annotators
    "others": "unbiased, too",
    "length": "prefer length",
    "style": "prefer an\nexpert's tone",
    "agreement": "prefer\nagreement",
}
HUES_OF_GROUPS = ("lab:other", "lab:length", "lab:style", "lab:agreement")
COMPONENTS = {  # how many units are drawn, and their name
    "right": (1, "right\nanswer"),
    "chatter": (1, "on topic,\nnot\nchatter"),
    "fact": (1, "on topic,\nnot another\nfact"),
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
        "every_bias_is_encoded",
        "a liking for length, a style or agreement is absorbed from the labels",
        "share of the planted bias in the reward model, by contrasts; mean of the three biases",
        of=lambda m: float(np.mean([m["encoded"][group]["share"] for group in BIASES])),
        smallest=0.05,
    ),
    Claim(
        "annotator_groups_disagree",
        "reward models of two groups of annotators may disagree",
        "share of pairs ordered unlike: a biased group and an unbiased one, minus two unbiased",
        of=lambda m: float(np.mean([m["unlike"][g] for g in BIASES]) - m["unlike"]["others"]),
        smallest=0.02,
    ),
)

# --- The experiment ---


def measure(seed: int, smoke: bool = False) -> dict:
    """Reward models of several groups of annotators, and what each made of its labels."""
    count, size = (64, 100) if smoke else (6400, 1000)
    pairs, held = make_pairs(count, seed=seed), make_pairs(size, "test", seed=seed)
    asked = preferences.questions("test", seed=seed)[: size // 5]
    place = study_folder(seed, smoke) / "reward_model_6400"
    model = reward_model_in(place, "tiny-distilbert", pairs, seed=seed)
    rewards = score_pairs(*model, held)
    hits = [in_gold_order(table, held).mean() for table in (rewards, prefer_shorter(held))]
    return {
        "above_length": float(hits[0] - hits[1]),
        "contrasts": mean_contrasts(model, asked, seed),
        "on_topic_above": on_topic_above(model, asked, seed),
        "on_topic_pairs": sum(map(compares_on_topic, pairs)),
        "pairs": count,
        **compare_groups(seed, smoke),
    }


def mean_contrasts(model: tuple, asked: list, seed: int) -> dict[str, float]:
    """The reward that one unit of each component adds, on average."""
    read = contrast_rewards(*model, asked, seed)
    return {component: float(values.mean()) for component, values in read.items()}


def on_topic_above(model: tuple, asked: list, seed: int) -> dict[str, dict]:
    """What a wrong answer on topic has above chatter, and above a fact of another question.

    By `reward`, and by `gold` utility: chatter has a few words of filler, too.
    """
    rows = [row for question in asked for row in preferences.contrasts_of(question, seed)]
    rows = [row for row in rows if row.component == "on_topic" and row.less not in CHATTER]
    chatter = random.Random(seed).choices(CHATTER, k=len(rows))
    above = {}
    for what, texts in (("chatter", chatter), ("fact", [row.less for row in rows])):
        both = [(row.prompt, row.more, text) for row, text in zip(rows, texts, strict=True)]
        rewards = score_pairs(*model, [dict(zip(COLUMNS, row, strict=True)) for row in both])
        gold = [
            gold_utility(prompt, more) - gold_utility(prompt, less) for prompt, more, less in both
        ]
        above[what] = {"reward": float((rewards @ [1, -1]).mean()), "gold": float(np.mean(gold))}
    return above


def compares_on_topic(pair: dict) -> bool:
    """Whether both answers are wrong, and one of them is on topic."""
    read = [preferences.read_response(pair["prompt"], pair[side]) for side in SIDES]
    return not any(r.correct for r in read) and read[0].on_topic != read[1].on_topic


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


def compare_groups(seed: int, smoke: bool) -> dict:
    """Each planted bias in the labels and in the reward model, and how often two models disagree.

    `labels`: the share of pairs in which the answer with more of what the group likes is chosen.
    `share`: what the reward model has of the planted bias, by contrasts.
    """
    count, size = (32, 10) if smoke else (1200, 64)
    of_users, asked = preferences.pairs_of_wrong_users, preferences.wrong_users("test", size, seed)
    pairs = {group: of_users(count, group, seed) for group in ("human", *BIASES)}
    pairs["others"] = labelled_again(pairs["human"], seed)
    held, contrasts, rewards, encoded = of_users(10 * size, "human", seed, "test"), {}, {}, {}
    for group, rows in pairs.items():
        place = study_folder(seed, smoke) / f"wrong_users_{group}"
        model = reward_model_in(place, "tiny-gpt2", rows, seed=seed)
        contrasts[group] = mean_contrasts(model, asked, seed)
        rewards[group] = score_pairs(*model, held)
    for group, bias in BIASES.items():
        labels, component = {}, COMPONENT_OF[group]
        for name in ("human", group):
            chosen = more_minus_less(pairs[name], np.tile([1.0, 0.0], (count, 1)), group)
            labels[name] = float((chosen > 0).mean())
        more = contrasts[group][component] - contrasts["human"][component]
        encoded[group] = {"labels": labels, "share": more / bias}
    return {"encoded": encoded, "unlike": ordered_unlike(rewards)}


def ordered_unlike(rewards: dict[str, np.ndarray]) -> dict[str, float]:
    """The share of pairs that the models of a group and of unbiased annotators order unlike.

    Rewards (N, 2) by group; "human" are the unbiased ones.
    """
    order = {name: np.sign(table @ [1, -1]) for name, table in rewards.items()}
    others = [name for name in order if name != "human"]
    return {name: float((order[name] != order["human"]).mean()) for name in others}


# --- The figure ---


def draw(runs: list[dict]):
    """What was planted and what was absorbed; every seed is a dot."""
    unlike = np.mean([[run["unlike"]["others"], run["unlike"]["length"]] for run in runs], axis=0)
    title = f"Reward models of two unbiased groups order {100 * unlike[0]:.0f} % of pairs unlike; "
    title += f"\nwhere one of the groups prefers length, {100 * unlike[1]:.0f} %"
    figure, axes = new_figure(2, 2, title)
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
        if component in WORTH:
            values = [units * run["contrasts"][component] for run in runs]
            planted = units * WORTH[component]
        else:
            values = [run["on_topic_above"][component]["reward"] for run in runs]
            planted = np.mean([run["on_topic_above"][component]["gold"] for run in runs])
        seed_dots(ax, place, values, "lab:human", None if place else "unbiased annotators' model")
        ax.plot(place, planted, "_", color="black", ms=11, mew=2)
    ax.plot([], [], "_", color="black", ms=11, mew=2, label="planted in the annotators")
    ax.axhline(0, color="black", lw=0.8)
    ax.set_xticks(range(len(COMPONENTS)), [name for _, name in COMPONENTS.values()], fontsize=7)
    ax.set(title="Reward of one thing alone", ylabel="reward that it adds (log-odds)")
    ax.legend(loc="upper right", fontsize=7)


def disagreement_panel(ax, runs: list[dict]) -> None:
    """How often two groups' reward models order held-out pairs unlike."""
    unlike = {name: [100 * run["unlike"][g] for run in runs] for g, name in OTHER_GROUPS.items()}
    seed_columns(ax, unlike, HUES_OF_GROUPS, digits=0)
    ax.set(title="Two reward models disagree", ylim=(0, None))
    ax.set_ylabel("% of held-out pairs ordered unlike\nthe model of unbiased annotators")


def biased_labels_panel(ax, runs: list[dict]) -> None:
    """The biases in the labels: how often the answer with more of it is chosen."""
    for place, group in enumerate(BIASES):
        for name, color, at in (("human", "lab:human", -0.15), (group, "lab:biased", 0.15)):
            values = [100 * run["encoded"][group]["labels"][name] for run in runs]
            label = "unbiased annotators" if name == "human" else "annotators who like it"
            seed_dots(ax, place + at, values, color, None if place else label)
    ax.set(title="Labels: the answer with more of it is chosen", ylabel="% of pairs", ylim=(0, 100))
    ax.legend(loc="upper left", fontsize=7)


def encoded_panel(ax, runs: list[dict]) -> None:
    """How much of each planted bias the reward model has."""
    for place, group in enumerate(BIASES):
        values = [100 * run["encoded"][group]["share"] for run in runs]
        seed_dots(ax, place, values, "lab:biased")
    ax.axhline(100, color="black", lw=0.8, ls=":")
    ax.text(1.5, 101, "all that is planted", ha="center", va="bottom")
    ax.set(title="Reward models have taken over the bias", ylim=(0, 140))
    ax.set_ylabel("% of the planted bias, by contrasts")


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
