"""Best-of-N: how good is the best of N answers, and what does each further candidate buy and cost?

    python 05-preference-tuning/best_of_n.py
    python 05-preference-tuning/best_of_n.py --n 4            # choose among fewer
    python 05-preference-tuning/best_of_n.py --model FOLDER --dataset pairs.jsonl   # yours
                          (--reward-model FOLDER and --adapter FOLDER: what you trained yourself)

trained on   nothing: the reward model that chooses has learned from 6,400 labelled pairs (983,000
             tokens through it), and DPO, which is compared, from 768 (both trained here if missing)
judged by    the candidates themselves: 32 answers to each of 256 held-out questions, whose right
             answers are known; every n up to 16 is estimated from them without bias
writes       outputs/best_of_n.png, outputs/best_of_n.json

About 40 seconds on one core. Left out: a biased reward model, equal labels for all, how much could
be had at best (studies/best_of_n_and_the_limit.py); voting, training on the chosen answers.
"""

import math
from functools import cache
from typing import NamedTuple

import installed  # noqa: F401

import numpy as np
from dpo_trainer import dpo_policy
from online_rl import find_reward_model
from own_data import read

from common import answers, figures, models, preferences, runs, sampling, scoring, training

# --- 1. Best-of-n in closed form ---


def expected_best_of_n(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    """Unbiased estimate of the expected value of the best of n by reward, from a pool of M >= n.

    rewards (M,) rank the pool, values (M,) are averaged (default: the rewards); within ties values
    count equally. The binary case is pass@k (Chen et al. 2021, arXiv 2107.03374). Raises ValueError
    for n outside 1 ... M.
    """
    rewards = np.asarray(rewards, dtype=float)
    if not 1 <= n <= len(rewards):
        raise ValueError(f"n = {n} must lie between 1 and the pool size {len(rewards)}")
    _, tie_group = np.unique(rewards, return_inverse=True)
    sums = np.bincount(tie_group, rewards if values is None else values)
    means = sums / np.bincount(tie_group)
    return float(best_of_n_weights(len(rewards), n) @ means[np.sort(tie_group)])  # worst first


@cache
def best_of_n_weights(size: int, n: int) -> np.ndarray:
    """The chance C(i, n-1) / C(size, n) that the one with i others below it is the best of n."""
    return np.array([math.comb(i, n - 1) / math.comb(size, n) for i in range(size)])


def best_of_n_policy(ref_probs: np.ndarray, rewards: np.ndarray, n: int) -> np.ndarray:
    """Exact distribution (K,) of the best of n draws from ref_probs (K,), by reward.

    F^n - F_-^n, shared by ref_probs within ties: F is the probability of a reward up to this one,
    F_- of a lower one (Beirami et al. 2024, arXiv 2401.01879).
    """
    ref_probs = np.asarray(ref_probs, dtype=float)
    _, group = np.unique(rewards, return_inverse=True)
    mass = np.bincount(group, ref_probs)
    up_to = np.minimum(np.cumsum(mass), 1.0)
    win = up_to**n - np.concatenate([[0.0], up_to[:-1]]) ** n
    return ref_probs * np.divide(win, mass, out=np.zeros_like(mass), where=mass > 0)[group]


def best_of_n_kl_bound(n: int | np.ndarray) -> float | np.ndarray:
    """Upper bound of KL(best-of-n || reference) in nats, reached without ties (Beirami et al.)."""
    return np.log(n) - (n - 1) / n


# --- 2. A pool of candidates, scored once ---


class Pool(NamedTuple):
    """Candidates for every prompt, arrays (P, M): what is read in them, and their rewards."""

    answers: answers.Answers  # its `kl` is log pi/pi_ref of the text, whose mean is the KL
    rewards: np.ndarray  # log-odds


def make_pool(model, tokenizer, judge, prompts, size: int, seed: int, max_new_tokens=48) -> Pool:
    """`size` candidates for each prompt, scored by `judge`, a (reward model, tokenizer)."""
    sampled = sampling.sample(model, tokenizer, prompts, size, max_new_tokens, seed=seed)
    texts = [[candidate.text for candidate in row] for row in sampled]
    token_ids = [[candidate.token_ids for candidate in row] for row in sampled]
    kl = scoring.log_ratios(model, tokenizer, prompts, token_ids)
    rewards = scoring.score_texts(judge, prompts, texts)
    return Pool(answers.read_answers(prompts, texts, kl), rewards)


def best_of_n_curve(rewards: np.ndarray, values: np.ndarray, ns: list[int]) -> np.ndarray:
    """Expected value of the best of n by reward: (P, len(ns)); rewards and values (P, M)."""
    rows = zip(rewards, values, strict=True)
    return np.array([[expected_best_of_n(r, n, v) for n in ns] for r, v in rows])


def best_probs(pool: Pool, n: int) -> np.ndarray:
    """The chance of each candidate (P, M) to be the best of n draws from its pool."""
    even = np.full(pool.rewards.shape[1], 1 / pool.rewards.shape[1])
    return np.array([best_of_n_policy(even, rewards, n) for rewards in pool.rewards])


def measured_kl(pool: Pool, probs: np.ndarray) -> np.ndarray:
    """KL from the SFT model, in nats for each prompt (P,), of candidates with these probs (P, M).

    Equal texts have equal rewards and share their weight, so best-of-n lies below its bound.
    """
    log_weights = np.log(np.where(probs > 0, probs * probs.shape[1], 1))  # log p M: 1 / M is even
    return (probs * (log_weights + pool.answers.kl)).sum(1)


def best_of(pool: Pool, n: int) -> dict:
    """What the best of n by reward is, as means over prompts; the kinds of answers as shares."""

    def mean_of(values: np.ndarray) -> float:
        return float(best_of_n_curve(pool.rewards, values, [n]).mean())

    seen, kl = pool.answers, float(measured_kl(pool, best_probs(pool, n)).mean())
    means = {"n": n, "kl": kl, "reward": mean_of(pool.rewards), "words": mean_of(seen.words)}
    if seen.gold is not None:
        means["gold"] = mean_of(seen.gold)
        means["kinds"] = {kind: mean_of(seen.kind == kind) for kind in answers.KINDS}
    return means


# --- 3. What candidates cost ---


def measure_cost(model, tokenizer, judge, prompts: list, most: int, max_new_tokens=48) -> dict:
    """Millions of operations for up to `most` candidates to each prompt, lists (P, ns), with "n".

    "alone": every candidate is sampled and scored by itself. "shared": all n at once, so that the
    prompt is read once and equal texts are scored once. PyTorch counts while the models run.
    """
    from torch.utils.flop_counter import FlopCounterMode

    def count(prompt, n: int, seed: int) -> float:
        with FlopCounterMode(display=False) as counter:
            make_pool(model, tokenizer, judge, [prompt], n, seed, max_new_tokens)
        return counter.get_total_flops() / 1e6

    ns = powers_of_two(min(most, 16))
    each = np.array([[count(prompt, 1, seed) for seed in range(ns[-1])] for prompt in prompts])
    alone = each.cumsum(1)[:, np.array(ns) - 1]
    shared = [[count(prompt, n, 0) for n in ns] for prompt in prompts]
    return {"n": ns, "alone": alone.tolist(), "shared": shared}


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return [*(2**k for k in range(most.bit_length()) if 2**k < most), most]


# --- 4. What is shown, and the run ---


def print_candidates(prompt, pool: Pool) -> None:
    """The first candidates for the first prompt, with rewards; an arrow marks the chosen one."""
    rewards = pool.rewards[0, :4]
    print(f"\n{answers.in_short(prompt)}")
    for k, text in enumerate(pool.answers.texts[0][:4]):
        arrow = "->" if k == rewards.argmax() else "  "
        shown = answers.in_short(text, 60)
        print(f"  {arrow} reward {rewards[k]:+.2f}  {shown}{answers.marks(prompt, text)}")


def draw(curve: list[dict], methods: dict[str, dict], cost: dict):
    """Four panels: what n candidates buy, how far that goes, the ways to answer, the cost."""
    figure, axes = figures.new_figure(2, 2, f"Best of N: choosing among up to {curve[-1]['n']}")
    worth = {"gold": figures.GOLD, "reward": "reward: what chooses"}
    by_n_panel(axes[0], curve, worth, "The chosen answer by n", "log-odds")
    fine = np.geomspace(1, curve[-1]["n"], 100)
    axes[1].plot(fine, best_of_n_kl_bound(fine), "k--", lw=1, label="bound: log n - (n - 1)/n")
    by_n_panel(axes[1], curve, {"kl": "measured"}, "KL from the SFT model by n", "nats")
    if "kinds" in methods["SFT"]:
        methods_panel(axes[2], methods)
    else:  # nobody knows what the answers are
        by_n_panel(axes[2], curve, {"words": "of the chosen answer"}, "Length by n", "words")
        axes[2].set_ylim(bottom=0)

    # The computing that one answer takes, and what one more candidate adds.
    ax, ns = axes[3], cost["n"]
    lines = {"alone": "each candidate by itself", "shared": "prompt read once, equal texts once"}
    for (name, label), color in zip(lines.items(), ("lab:sft", "lab:best_of_n"), strict=True):
        costs = np.mean(cost[name], axis=0)
        one_more = (costs[-1] - costs[0]) / (ns[-1] - 1)
        ax.plot(ns, costs, "o-", color=color, label=f"{label}: one more costs {one_more:.0f}")
    ax.set(title="What one answer costs by n", xlabel="n: candidates to choose among", xticks=ns)
    ax.set(ylabel="million operations (counted)", ylim=(0, None))
    if "labels" in cost:
        told = f"{cost['labels']:,} labels, {cost['token_passes']:,} tokens through it"
        ax.plot([], [], " ", label=f"not in it, the reward model's training:\n{told}")
    figures.legend_below(ax)
    return figure


def by_n_panel(ax, curve: list[dict], labels: dict[str, str], title: str, unit: str) -> None:
    """What the chosen answers are on average, by n: those of `labels` that were measured."""
    ns = [means["n"] for means in curve]
    colors = {"gold": "gold", "reward": "reward", "kl": "best_of_n", "words": "length"}
    for name in [name for name in labels if name in curve[0]]:
        values, style = [means[name] for means in curve], "o" if name == "kl" else "o-"
        ax.plot(ns, values, style, color=f"lab:{colors[name]}", label=labels[name])
        for n, value in ((ns[0], values[0]), (ns[-1], values[-1])):
            ax.text(n, value, f"{value:.1f}\n", ha="center", va="bottom", linespacing=0.7)
    ax.set_xscale("log", base=2, subs=[])
    ax.set_xticks(ns, ns)
    ax.margins(y=0.15)
    ax.set(title=title, xlabel="n: candidates to choose among", ylabel=unit)
    figures.legend_below(ax)


def methods_panel(ax, methods: dict[str, dict]) -> None:
    """What the answers of each method are, with their gold utility at the end of the bar."""
    left = np.zeros(len(methods))
    for kind in answers.KINDS:
        shares = np.array([100 * means["kinds"][kind] for means in methods.values()])
        ax.barh(list(methods), shares, 0.7, left, color=f"lab:{kind}", label=kind)
        left += shares
    for place, means in enumerate(methods.values()):
        good = 100 * means["kinds"][answers.KINDS[0]]
        ax.text(good / 2, place, f"{good:.0f} %", ha="center", va="center", color="white")
        ax.text(101, place, f"{means['gold']:.2f}", va="center", color="lab:gold")
    ax.text(101, -0.7, "gold", va="center", color="lab:gold")
    ax.invert_yaxis()
    ax.set(title="What the answers are", xlabel="% of answers", xlim=(0, 112))
    ax.grid(visible=False)
    figures.legend_below(ax, ncols=2)


def build_parser():
    parser = runs.make_parser(__file__, __doc__)
    parser.add_argument("--model", default="tiny-gpt2", help="hub id or folder of a causal LM")
    parser.add_argument("--reward-model", type=runs.folder, help="default: that of reward_model.py")
    parser.add_argument("--reward-backbone", default="tiny-distilbert", help="what it starts from")
    parser.add_argument("--adapter", type=runs.folder, help="default: that of dpo_trainer.py")
    parser.add_argument("--n", type=runs.whole_number(2), default=16, help="the largest n")
    parser.add_argument("--prompts", type=runs.whole_number(1), help="default: 256, of your own 16")
    parser.add_argument("--max-new-tokens", type=runs.whole_number(1), default=48, help="at most")
    parser.add_argument("--sft-steps", type=runs.whole_number(0), help="before; default: 300")
    runs.add_dataset_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Sample, score, choose, compare, draw; returns the metrics."""
    args = runs.start(build_parser(), argv, "best_of_n", smoke={"n": 4, "prompts": 8})
    model, tokenizer = training.load_sft_model(args.model, args.device, **args.sft)
    ask = {"seed": args.seed, "max_new_tokens": args.max_new_tokens}
    if args.dataset:
        limits = {"prompts": args.prompts or 16, "alone": bool(args.reward_model), **args.reading}
        pairs, _, prompts = read.own_pairs(args.dataset, tokenizer, **ask, **limits)
    else:
        pairs = preferences.make_pairs(64 if args.smoke else 768, seed=args.seed)
        prompts = [q.prompt for q in preferences.questions("test")[: args.prompts or 256]]
    folder = runs.trained_folder(args, "reward_model", without=("model", "sft_steps"))
    about = (args.reward_backbone, args.dataset, args.reading, args.smoke, args.seed, args.device)
    judge = find_reward_model(args.reward_model, folder, *about)
    count = 2 * args.n
    print(f"{args.model}: {count} answers each to {len(prompts)} prompts; a reward model chooses")
    pool = make_pool(model, tokenizer, judge, prompts, count, **ask)
    print_candidates(prompts[0], pool)
    cost = measure_cost(model, tokenizer, judge, prompts[:2], args.n, args.max_new_tokens)
    if not args.dataset and not args.reward_model:  # what it was trained on is known
        labelled = preferences.make_pairs(64 if args.smoke else 6400, seed=args.seed)
        asked = [row["prompt"] for row in labelled] * 2
        texts = [row[side] for side in preferences.SIDES for row in labelled]
        tokens = int(scoring.encode_for_reward(judge[1], asked, texts)["attention_mask"].sum())
        cost |= {"labels": len(labelled), "token_passes": 3 * tokens}  # backwards counts twice
    curve = [best_of(pool, n) for n in powers_of_two(args.n)]
    methods = {"SFT": curve[0], f"best of {args.n}": curve[-1]}
    policy = models.load_adapter(model, args.adapter) if args.adapter else None
    if not policy and "chosen" in pairs[0]:
        folder = runs.trained_folder(args, "dpo", without=("reward_backbone",))
        policy = dpo_policy(folder, model, tokenizer, pairs, seed=args.seed)
    if policy:
        dpo_pool = make_pool(policy, tokenizer, judge, prompts, count, **ask)
        methods |= {"DPO": best_of(dpo_pool, 1), "both": best_of(dpo_pool, args.n)}
    answers.print_table(["", *methods], answers.rows_of(list(methods.values())))
    metrics = {"curve": curve, "methods": methods, "cost": cost}
    next_step = "python 05-preference-tuning/studies/best_of_n_and_the_limit.py: what could be had?"
    return runs.finish(args, metrics, draw(curve, methods, cost), next_step)


if __name__ == "__main__":
    runs.run(main)
