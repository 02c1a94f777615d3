"""What a reward model absorbs: does it learn what its annotators want, their faults included?

    python 05-preference-tuning/studies/what_a_reward_model_absorbs.py  # one seed, 2 minutes

The reward model of reward_model.py (6,400 pairs of unbiased annotators) orders 1,000 held-out
pairs. Then reward models that start from the SFT model, of 1,200 pairs in which the user is wrong
(annotators can also like agreement): of unbiased annotators, of each group with a bias, and of
other unbiased ones who label the same pairs. All are read by contrasts: two texts to one question
that differ in one thing alone. The reward that this thing adds stands beside what is planted. For
being on topic, worth 1, it depends on the text off topic: the reward model knows chatter by its
words, and a fact that answers another question hardly (one pair in a hundred compares two wrong
answers of which one is on topic; more of them, tried once, did not help).
"""

import random

import lessons  # noqa: F401

import numpy as np
from reward_hacking import more_minus_less
from reward_model import gold_order, pair_hits, prefer_shorter, reward_model_in

from common import preferences
from common.claims import Claim, run_study, study_folder
from common.figures import new_figure, seed_columns
from common.preferences import BIASES, CHATTER, SIDES, WORTH, make_pairs
from common.scoring import contrast_rewards, score_pairs

HACKED = {"length": "filler", "style": "expert's\npreamble", "agreement": "echo of\nthe user"}
OTHER_GROUPS = {  # whose reward model is compared with that of unbiased annotators: name, colour
    "others": ("unbiased, too", "lab:other"),
    "length": ("prefer length", "lab:length"),
    "style": ("prefer an\nexpert's tone", "lab:style"),
    "agreement": ("prefer\nagreement", "lab:agreement"),
}
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


def measure(seed: int, smoke: bool = False) -> dict:
    """Reward models of several groups of annotators, and what each made of its labels."""
    count, size = (64, 100) if smoke else (6400, 1000)
    pairs, held = make_pairs(count, seed=seed), gold_order(make_pairs(size, "test", seed=seed))
    asked = preferences.questions("test", seed=seed)[: size // 5]
    place = study_folder(seed, smoke) / "reward_model_6400"
    model = reward_model_in(place, "tiny-distilbert", pairs, seed=seed)
    more_hits = pair_hits(score_pairs(*model, held)) - pair_hits(prefer_shorter(held))
    contrasts = contrast_rewards(*model, asked, seed)
    return {
        "above_length": float(more_hits.mean()),
        "contrasts": {name: float(values.mean()) for name, values in contrasts.items()},
        "on_topic_above": on_topic_above(model, asked, seed),
        **compare_groups(seed, smoke),
    }


def on_topic_above(model: tuple, asked: list, seed: int) -> dict[str, dict]:
    """What a wrong answer on topic has above chatter, and above a fact of another question.

    By `reward`, and by `gold` utility: chatter has a few words of filler, too.
    """
    rows = [row for question in asked for row in preferences.contrasts_of(question, seed)]
    rows = [row for row in rows if row.component == "on_topic" and row.less not in CHATTER]
    chatter = random.Random(seed).choices(CHATTER, k=len(rows))
    above = {}
    for what, texts in (("chatter", chatter), ("fact", [row.less for row in rows])):
        pairs = []
        for row, text in zip(rows, texts, strict=True):
            pairs.append({"prompt": row.prompt, "chosen": row.more, "rejected": text})
        gold = [[preferences.gold_utility(p["prompt"], p[side]) for side in SIDES] for p in pairs]
        both = {"reward": score_pairs(*model, pairs), "gold": np.array(gold)}
        above[what] = {by: float((of @ [1, -1]).mean()) for by, of in both.items()}
    return above


def labelled_again(pairs: list[dict], seed: int) -> list[dict]:
    """The same pairs with the labels of other annotators, who have no bias either."""
    utilities = np.array([[row["chosen_utility"], row["rejected_utility"]] for row in pairs])
    first, second = preferences.annotate(utilities, np.random.default_rng([seed, 1])).T
    rows = zip(pairs, second > first, strict=True)
    return [preferences.swap_sides(row) if swapped else row for row, swapped in rows]


def compare_groups(seed: int, smoke: bool) -> dict:
    """Each planted bias in the labels and in the reward model, and how often two models disagree.

    `labels`: the share of pairs in which the answer with more of what the group likes is chosen.
    `share`: what the reward model has of the planted bias, by contrasts. `unlike`: the share of
    held-out pairs that the model of a group orders unlike that of unbiased annotators.
    """
    count, size = (32, 10) if smoke else (1200, 64)
    of_users, asked = preferences.pairs_of_wrong_users, preferences.wrong_users("test", size, seed)
    pairs = {group: of_users(count, group, seed) for group in ("human", *BIASES)}
    pairs["others"] = labelled_again(pairs["human"], seed)
    held, contrasts, order, encoded = of_users(10 * size, "human", seed, "test"), {}, {}, {}
    for group, rows in pairs.items():
        place = study_folder(seed, smoke) / f"wrong_users_{group}"
        model = reward_model_in(place, "tiny-gpt2", rows, seed=seed)
        contrasts[group] = contrast_rewards(*model, asked, seed)
        order[group] = np.sign(score_pairs(*model, held) @ [1, -1])
    for group, bias in BIASES.items():
        labels, component = {}, preferences.COMPONENT_OF[group]
        for name in ("human", group):
            chosen = more_minus_less(pairs[name], np.tile([1.0, 0.0], (count, 1)), group)
            labels[name] = float((chosen > 0).mean())
        more = contrasts[group][component].mean() - contrasts["human"][component].mean()
        encoded[group] = {"labels": labels, "share": float(more / bias)}
    unlike = {group: float((order[group] != order["human"]).mean()) for group in OTHER_GROUPS}
    return {"encoded": encoded, "unlike": unlike}


def draw(runs: list[dict]):
    """What was planted and what was absorbed; every seed is a dot."""
    unlike = {group: [100 * run["unlike"][group] for run in runs] for group in OTHER_GROUPS}
    unbiased, length = np.mean(unlike["others"]), np.mean(unlike["length"])
    title = f"Reward models of two unbiased groups order {unbiased:.0f} % of pairs unlike; "
    title += f"\nwhere one of the groups prefers length, {length:.0f} %"
    figure, (components, disagree, labels, share) = new_figure(2, 2, title)
    # The reward that each thing adds alone, beside what is planted in the annotators.
    adds, planted = {}, []
    for component, (units, name) in COMPONENTS.items():
        if component in WORTH:
            adds[name] = [units * run["contrasts"][component] for run in runs]
            planted.append(units * WORTH[component])
        else:
            above = [run["on_topic_above"][component] for run in runs]
            adds[name] = [of_run["reward"] for of_run in above]
            planted.append(np.mean([of_run["gold"] for of_run in above]))
    seed_columns(components, adds, ["lab:human"] * len(adds), digits=1)
    mark = {"color": "black", "ms": 11, "mew": 2, "label": "planted in the annotators"}
    components.plot(range(len(adds)), planted, "_", **mark)
    components.axhline(0, color="black", lw=0.8)
    components.set_title("What one thing adds, unbiased annotators")
    components.set_ylabel("reward that it adds (log-odds)")
    components.legend(loc="upper right", fontsize=7)
    columns = {name: unlike[group] for group, (name, _) in OTHER_GROUPS.items()}
    seed_columns(disagree, columns, [color for _, color in OTHER_GROUPS.values()], digits=0)
    disagree.set(title="Two reward models disagree", ylim=(0, None))
    disagree.set_ylabel("% of held-out pairs ordered unlike\nthe model of unbiased annotators")
    chosen, absorbed = {}, {}
    for group, name in HACKED.items():
        encoded = [run["encoded"][group] for run in runs]
        for annotators, told in (("human", "unbiased"), (group, "like it")):
            chosen[f"{name}, {told}"] = [100 * seen["labels"][annotators] for seen in encoded]
        absorbed[name] = [100 * seen["share"] for seen in encoded]
    seed_columns(labels, chosen, ("lab:human", "lab:biased") * len(HACKED), digits=0)
    labels.set(title="Labels: the answer with more of it is chosen", ylabel="% of pairs")
    seed_columns(share, absorbed, ["lab:biased"] * len(HACKED), digits=0)
    share.axhline(100, color="black", lw=0.8, ls=":")
    share.text(2.4, 101, "all that is planted", ha="right", fontsize=8)
    share.set(title="Reward models have taken over the bias", ylim=(0, 140))
    share.set_ylabel("% of the planted bias, by contrasts")
    for ax in (components, labels):
        ax.tick_params(axis="x", labelsize=6.5)
    return figure


if __name__ == "__main__":
    run_study(CLAIMS, measure, draw)
