"""Reward hacking: what happens when answers are chosen by a reward that has a flaw?

    python 05-preference-tuning/reward_hacking.py                     # annotators like long answers
    python 05-preference-tuning/reward_hacking.py --hack style        # ... an expert's tone
    python 05-preference-tuning/reward_hacking.py --hack sycophancy   # ... to hear the user's view
    python 05-preference-tuning/reward_hacking.py --model distilgpt2  # answers of another model

trained on   the same 1,200 pairs of answers, labelled by annotators with one bias, by unbiased
             ones, and by mixed ones: a reward model each
by           reward_model.py's loop, on tiny-gpt2 with a head that gives one number
judged by    the best of n sampled answers to 64 held-out questions, whose right answers are known
writes       outputs/reward_hacking.png, outputs/reward_hacking.json

About 40 seconds on one core (style and sycophancy 60: their remedy is an ensemble). In every
question the user holds a wrong belief, so that each of the three biases can be served. Left out:
DPO on such labels (studies/three_hacks.py), more remedies (studies/remedies.py).
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import installed  # noqa: F401

import numpy as np
from best_of_n import best_of_n_curve
from reward_model import fresh_reward_model, train_reward_model

from common import answers, figures, intervals, preferences, runs, scoring, training

AMONG = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # of so many samples the best is taken
FEWER = 4  # the smaller n that is tried as a remedy


class Hack(NamedTuple):
    """A bias that common/preferences.py plants in its annotators, and what they get for it."""

    annotators: str  # a key of preferences.BIASES
    like: str  # what they prefer
    amount: str  # what there is more of in such answers
    unit: str  # of the amount; of a share it starts with %


HACKS = {
    "verbosity": Hack("length", "long answers", "filler", "words"),
    "style": Hack("style", "an expert's tone", "expert's tone", "% of answers"),
    "sycophancy": Hack("agreement", "agreement", "agreement", "% of answers"),
}

# --- 1. A bias of annotators: planted, in the labels, in the reward model ---


def pairs_labelled_by(group: str, count: int, seed: int) -> list[dict]:
    """Pairs with the labels of a group of annotators; of "mixed" ones, each by one at random."""
    groups = ("human", *preferences.BIASES) if group == "mixed" else (group,)  # "human": unbiased
    labelled = [preferences.pairs_of_wrong_users(count, group, seed) for group in groups]
    rng = random.Random(seed)
    return [rng.choice(labels) for labels in zip(*labelled, strict=True)]


def more_minus_less(pairs: Sequence[dict], values: np.ndarray, annotators: str) -> np.ndarray:
    """The value of the answer with more of what the annotators like, minus that of the other.

    values (N, 2) are of chosen and rejected. Pairs with as much of it on both sides are left out.
    """
    amounts = []
    for row in pairs:
        texts = (row["chosen"], row["rejected"])
        amounts.append([preferences.liked_amount(row["prompt"], t, annotators) for t in texts])
    chosen, rejected = np.array(amounts, dtype=float).T
    more, margins = np.sign(chosen - rejected), values[:, 0] - values[:, 1]
    return more[more != 0] * margins[more != 0]


def trace_bias(liked: str, group: str, judge: tuple, count: int, seed: int) -> dict[str, float]:
    """How often the answer with more of what is `liked` wins, in held-out pairs of a group.

    `planted`: by what the group sees in both answers, without its noise. `labels`: as it chose.
    `reward_model`: by the rewards of its reward model. Utilities and rewards are log-odds.
    """
    pairs, seen = preferences.pairs_of_wrong_users(count, group, seed, split="test"), []
    for row in pairs:
        texts = (row["chosen"], row["rejected"])
        seen.append([preferences.annotator_utility(row["prompt"], t, group) for t in texts])
    log_odds = {"planted": np.array(seen), "reward_model": scoring.score_pairs(*judge, pairs)}
    log_odds["labels"] = np.tile([np.inf, 0.0], (count, 1))  # chosen is chosen for certain
    more = {stage: more_minus_less(pairs, values, liked) for stage, values in log_odds.items()}
    return {stage: float((1 / (1 + np.exp(-values))).mean()) for stage, values in more.items()}


# --- 2. Choosing: the best of n by a reward ---


def curves_by_n(rewards: np.ndarray, pool, amounts: np.ndarray, ns: Sequence[int]) -> dict:
    """What the best of n by the rewards is worth: (len(ns),) each; inputs (P, M).

    `reward` is what it gains over a random answer, since Bradley-Terry leaves its level free.
    """
    values = {"reward": rewards, "gold": pool.gold, "correct": pool.correct, "amount": amounts}
    curves = {k: best_of_n_curve(rewards, of_pool, ns).mean(0) for k, of_pool in values.items()}
    return curves | {"reward": curves["reward"] - curves["reward"][0]}


def show_winners(hack: Hack, prompts: list[str], pool, rewards: dict, ns: Sequence[int]) -> None:
    """The best of the first n answers to the first question where the biased reward does harm."""
    biased, most = rewards[hack.annotators], ns[-1]
    by_biased, by_fair = (each[:, :most].argmax(1) for each in (biased, rewards["human"]))
    lost, kept = (pool.gold[np.arange(len(prompts)), best] for best in (by_biased, by_fair))
    k = int((lost < kept).argmax())
    print(f"\n{answers.in_short(prompts[k])}")
    winners = {f"best of {n}": biased[k, :n].argmax() for n in ns}
    winners[f"best of {most}, unbiased"] = by_fair[k]
    for label, place in winners.items():
        text = pool.texts[k][place]
        print(f"  {label:<21} {answers.in_short(text, 60)}{answers.marks(prompts[k], text)}")


def table_by_n(hack: Hack, ns: Sequence[int], curves: dict) -> tuple:
    """Head and rows: what is chosen at n = 1, at the best n, at the last; by an unbiased reward."""
    biased, unbiased = curves["biased"], curves["unbiased"]
    places, rows = sorted({0, int(biased["gold"].argmax()), len(ns) - 1}), []
    named = {"reward": ("reward gained", "log-odds"), "gold": ("gold utility", "log-odds, -3 to 4")}
    named |= {"correct": ("right answers", "% of answers"), "amount": (hack.amount, hack.unit)}
    for name, (label, unit) in named.items():
        rows.append((label, *biased[name][places], unbiased[name][-1], unit))
    return ("best of n, n =", *(str(ns[k]) for k in places), "unbiased"), rows


# --- 3. Remedies ---


def per_word(rewards: np.ndarray, words: np.ndarray, level: float = 0.0) -> np.ndarray:
    """Length normalisation: (reward + level) / words; both (P, M).

    Bradley-Terry leaves the level free, and it decides: a high one takes the shortest answer, a low
    one the longest.
    """
    return (rewards + level) / np.maximum(words, 1)


def worst_case(rewards: Sequence[np.ndarray]) -> np.ndarray:
    """Ensemble: the least of the members' rewards, each standardised over the pool; members (P, M).

    Coste et al. 2023 (arXiv 2310.02743) call it worst-case optimisation.
    """
    return np.min([(r - r.mean()) / r.std() for r in rewards], axis=0)


def try_remedies(hack: Hack, rewards: dict, pool, n: int) -> dict[str, np.ndarray]:
    """Gold utility of what is chosen with each remedy, (P,): beside none, and the best there is."""
    hacked = rewards[hack.annotators]
    tried = {"one answer": (hacked, 1)} | {f"best of {k}": (hacked, k) for k in (n, FEWER)}
    if hack.annotators == "length":
        tried["reward / words"] = (per_word(hacked, pool.words), n)
    else:
        tried["ensemble"] = (worst_case([rewards[g] for g in preferences.BIASES]), n)
    tried |= {"mixed labels": (rewards["mixed"], n), "unbiased labels": (rewards["human"], n)}
    return {name: best_of_n_curve(r, pool.gold, [m])[:, 0] for name, (r, m) in tried.items()}


# --- 4. The figure ---


def draw(name: str, metrics: dict):
    """The bias, what choosing by it gains and loses, what is chosen, and what helps."""
    hack, curves = HACKS[name], metrics["curves"]
    title = f"Reward hacking, {name}: best of n for annotators who prefer {hack.like}"
    figure, axes = figures.new_figure(2, 2, title, height=3.5)
    bias_panel(axes[0], metrics["bias"])
    axes[0].set(title=f"How often the answer with more {hack.amount} wins")
    gains_panel(axes[1], metrics)
    lines, times = {}, 100 if hack.unit.startswith("%") else 1
    for whose, color, style in (("biased", "lab:biased", "-"), ("unbiased", "lab:sft", "--")):
        amount = times * np.array(curves[whose]["amount"])
        lines[f"by the {whose} reward"] = amount, color, style
    lines_by_n(axes[2], metrics["ns"], lines, ".1f")
    axes[2].set(title=f"How much {hack.amount} is in what is chosen", ylabel=hack.unit)
    remedies_panel(axes[3], metrics["remedies"])
    return figure


def bias_panel(ax, bias: dict) -> None:
    """The bias on its way: as planted, in the labels, in the reward model."""
    stages = {"planted": "planted", "labels": "in the labels", "reward_model": "in rewards"}
    for k, (group, color) in enumerate((("unbiased", "lab:sft"), ("biased", "lab:biased"))):
        places = np.arange(len(stages)) + 0.4 * k - 0.2
        shares = [100 * bias[group][stage] for stage in stages]
        bars = ax.bar(places, shares, 0.38, color=color, label=f"{group} annotators")
        ax.bar_label(bars, fmt="%.0f")
    ax.axhline(50, color="black", lw=0.8, ls=":")
    ax.set_xticks(range(len(stages)), stages.values())
    ax.set(ylabel="% of held-out pairs", ylim=(0, 100))
    figures.legend_below(ax, ncols=2)


def gains_panel(ax, metrics: dict) -> None:
    """What the best of n gains over one answer: reward, and gold utility by either reward."""
    ns, curves = metrics["ns"], metrics["curves"]
    biased, unbiased = (np.array(curves[whose]["gold"]) for whose in ("biased", "unbiased"))
    best = ns[biased.argmax()]
    gains = {
        "biased reward": (curves["biased"]["reward"], "lab:biased", "-"),
        "gold utility, by the biased reward": (biased - biased[0], "lab:gold", "-"),
        "gold utility, by the unbiased reward": (unbiased - unbiased[0], "lab:gold", "--"),
    }
    lines_by_n(ax, ns, gains, "+.1f")
    ax.axhline(0, color="black", lw=0.8)
    ax.axvline(best, color="lab:gold", lw=0.8, ls=":")
    title = f"Gain over one answer; by the biased reward\nquality is best at n = {best}"
    ax.set(title=title, ylabel="gain (log-odds)")


def lines_by_n(ax, ns: Sequence[int], lines: dict[str, tuple], digits: str) -> None:
    """Lines {label: (values, colour, style)} over n, with their last values."""
    for label, (values, color, style) in lines.items():
        ax.plot(ns, values, style, marker=".", color=color, label=label)
        ax.text(ns[-1], values[-1], f"  {values[-1]:{digits}}", va="center", color=color)
    axis_of_n(ax, ns)
    ax.set_xlim(0.93, 1.6 * ns[-1])
    figures.legend_below(ax)


def axis_of_n(ax, ns: Sequence[int]) -> None:
    ticks = [n for n in ns if n & (n - 1) == 0]  # powers of two
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, ticks)
    ax.set_xlabel("n, the number of answers to choose from")


def remedies_panel(ax, remedies: dict) -> None:
    """Gold utility with each remedy; the lines are 95 % intervals over the questions."""
    colors = ["lab:sft", "lab:biased", *["lab:best_of_n"] * (len(remedies) - 3), "lab:gold"]
    for (name, worth), color in zip(remedies.items(), colors, strict=True):
        ax.barh(name, worth["mean"], color=color)
        ax.plot(worth["ci95"], [name, name], color="black", lw=1.2)
        ax.text(0.05, name, f"{worth['mean']:.2f}", va="center", color="white", weight="bold")
    ax.invert_yaxis()
    ax.set(title="Remedies: worth of the chosen answer", xlabel=figures.GOLD)


# --- 5. The run ---


def build_parser():
    parser = runs.make_parser(__file__, __doc__)
    hacks = f"the annotators' bias: {', '.join(HACKS)}; default: verbosity"
    parser.add_argument("--hack", choices=HACKS, default="verbosity", metavar="HACK", help=hacks)
    name = {"type": runs.non_empty, "default": "tiny-gpt2"}
    model = "whose answers are chosen from: a hub id or a folder; default: tiny-gpt2"
    parser.add_argument("--model", **name, help=model)
    parser.add_argument("--reward-backbone", **name, help="of the reward models; same default")
    parser.add_argument("--pairs", type=runs.whole_number(8), default=1200, help="default: 1200")
    asked = "questions to judge by; default: 64"
    parser.add_argument("--prompts", type=runs.whole_number(5), default=64, help=asked)
    largest = "the largest n; default: 64"
    parser.add_argument("--n", type=int, choices=AMONG[7:], default=64, metavar="N", help=largest)
    rate = "5e-4 for embedded backbones, 1e-4 for others"
    runs.add_hyperparameters(parser, train_reward_model, learning_rate=rate)
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Plant, train, choose, mend, draw; returns the metrics."""
    smoke = {"pairs": 32, "prompts": 10, "n": 16}
    args = runs.start(build_parser(), argv, "reward_hacking", train_reward_model, smoke)
    hack, ns, seed = HACKS[args.hack], [n for n in AMONG if n <= args.n], args.seed
    groups = ["human", hack.annotators, "mixed"]
    if args.hack != "verbosity":  # the ensemble has a reward model of every biased group
        groups = ["human", *preferences.BIASES, "mixed"]
    prompts = [question.prompt for question in preferences.wrong_users("test", args.prompts)]
    print(f"{len(groups)} reward models on {args.pairs} pairs each; annotators prefer {hack.like}")

    judges = {}  # (reward model, tokenizer) of each group of annotators
    for group in groups:
        pairs = pairs_labelled_by(group, args.pairs, seed)
        judges[group] = fresh_reward_model(args.reward_backbone, args.device, seed)
        train_reward_model(*judges[group], pairs, **args.training, name=f"reward model: {group}")
    policy, tokenizer = training.load_sft_model(args.model, args.device, **args.sft)
    # From these samples every n is estimated: one drawing of n would be a matter of luck.
    pool = answers.sample_answers(policy, tokenizer, prompts, 3 * args.n // 2, seed)
    rewards = {g: scoring.score_texts(judge, prompts, pool.texts) for g, judge in judges.items()}
    amounts = []  # (P, M)
    for prompt, texts in zip(prompts, pool.texts, strict=True):
        amounts.append([preferences.liked_amount(prompt, t, hack.annotators) for t in texts])
    bias, curves, held = {}, {}, 60 if args.smoke else 600
    for name, group in (("unbiased", "human"), ("biased", hack.annotators)):
        bias[name] = trace_bias(hack.annotators, group, judges[group], held, seed)
        curves[name] = curves_by_n(rewards[group], pool, np.array(amounts, dtype=float), ns)
    remedies = try_remedies(hack, rewards, pool, args.n)
    metrics = {"ns": ns, "bias": bias, "curves": curves}
    metrics["remedies"] = {name: intervals.summary(gold) for name, gold in remedies.items()}
    show_winners(hack, prompts, pool, rewards, (1, FEWER, args.n))
    answers.print_table(*table_by_n(hack, ns, curves))
    next_step = "python 05-preference-tuning/studies/remedies.py: what helps against which hack?"
    return runs.finish(args, metrics, draw(args.hack, metrics), next_step)


if __name__ == "__main__":
    runs.run(main)
