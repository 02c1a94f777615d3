"""Best-of-N: how good is the best of N answers, and what does each further candidate buy and cost?

    python 05-preference-tuning/best_of_n.py
    python 05-preference-tuning/best_of_n.py --n 4            # choose among fewer
    python 05-preference-tuning/best_of_n.py --model FOLDER --dataset pairs.jsonl   # yours
                          (--reward-model FOLDER and --adapter FOLDER: what you trained yourself)

trained on   nothing: no weight changes. A reward model of 6,400 labelled pairs chooses among the
             answers; DPO, which is compared, learned from 768 such pairs
by           reward_model.py and dpo_trainer.py, or here first, where outputs/ has none of theirs
judged by    the candidates themselves: 32 answers to each of 256 held-out questions, whose right
             answers are known; every n up to 16 is estimated from them without bias
writes       outputs/best_of_n.png, outputs/best_of_n.json

About 40 seconds on one core. Shares of answers may differ by a percent from dpo_trainer.py's, which
reads three of these 32 answers. Left out: a biased reward model, as few labels as DPO has, and how
much could be had at best (studies/best_of_n_and_the_limit.py); voting, training on the chosen
answers.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import installed  # noqa: F401

import numpy as np
import reward_model
from dpo_trainer import dpo_policy
from own_data import read

from common import answers, figures, models, preferences, runs, scoring
from common.sampling import sample
from common.training import load_sft_model

# --- 1. Best-of-n in closed form ---


def expected_best_of_n(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    """Unbiased estimate of the expected value of the best of n by reward, from a pool of M >= n.

    rewards (M,) rank the pool, values (M,) are averaged (default: the rewards); within ties values
    count equally. The i-th smallest reward is the largest of a random subset of n with probability
    C(i-1, n-1) / C(M, n); its binary case is pass@k (Chen et al. 2021, arXiv 2107.03374). Raises
    ValueError for n outside 1 ... M.
    """
    rewards = np.asarray(rewards, dtype=float)
    if not 1 <= n <= len(rewards):
        raise ValueError(f"n = {n} must lie between 1 and the pool size {len(rewards)}")
    _, tie_group = np.unique(rewards, return_inverse=True)
    sums = np.bincount(tie_group, rewards if values is None else values)
    means = sums / np.bincount(tie_group)
    return float(best_of_n_weights(len(rewards), n) @ means[np.sort(tie_group)])


def best_of_n_weights(size: int, n: int) -> np.ndarray:
    """The chance that the i-th smallest of a pool is the best of n: (size,).

    C(i-1, n-1) / C(size, n) for i = 1 ... size.
    """
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size + 1)))])

    def log_choose(a: np.ndarray | int, b: int) -> np.ndarray:
        return log_factorial[a] - log_factorial[b] - log_factorial[np.asarray(a) - b]

    weights = np.zeros(size)
    below = np.arange(n - 1, size)
    weights[n - 1 :] = np.exp(log_choose(below, n - 1) - log_choose(size, n))
    return weights


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


def make_pool(
    model, tokenizer, judge: tuple, prompts: list, size: int, seed: int, max_new_tokens: int = 48
) -> Pool:
    """`size` candidates for each prompt, scored by `judge`, a (reward model, tokenizer)."""
    sampled = sample(model, tokenizer, prompts, size, max_new_tokens, seed=seed)
    texts, token_ids, ended = [], [], []
    for candidates in sampled:  # of one prompt
        texts.append([candidate.text for candidate in candidates])
        token_ids.append([candidate.token_ids for candidate in candidates])
        ended.append([float(candidate.ended) for candidate in candidates])
    log_ratios = scoring.log_ratios(model, tokenizer, prompts, token_ids)
    read_in_them = answers.read_answers(prompts, texts, log_ratios, np.array(ended))
    return Pool(read_in_them, scoring.score_texts(judge, prompts, texts))


def best_of_n_curve(rewards: np.ndarray, values: np.ndarray, ns: Sequence[int]) -> np.ndarray:
    """Expected value of the best of n by reward: (P, len(ns)); rewards and values (P, M)."""
    curve = np.empty((len(rewards), len(ns)))
    for row, (of_rewards, of_values) in enumerate(zip(rewards, values, strict=True)):
        curve[row] = [expected_best_of_n(of_rewards, n, of_values) for n in ns]
    return curve


def measured_kl(pool: Pool, n: int) -> np.ndarray:
    """KL(best-of-n || SFT model) in nats of each prompt, (P,): the pool's texts, weighted exactly.

    Equal texts have equal rewards and share their weight, so this lies below the bound.
    """
    size = pool.rewards.shape[1]
    uniform, kl = np.full(size, 1 / size), []
    for rewards, log_ratios in zip(pool.rewards, pool.answers.kl, strict=True):
        probs = best_of_n_policy(uniform, rewards, n)
        log_weights = np.log(np.where(probs > 0, probs * size, 1))
        kl.append(probs @ (log_weights + log_ratios))
    return np.array(kl)


def best_of(pool: Pool, n: int) -> dict:
    """What the best of n by reward is, as means over prompts; the kinds of answers as shares."""

    def mean_of(values: np.ndarray) -> float:
        return float(best_of_n_curve(pool.rewards, values, [n]).mean())

    means = {"n": n, "reward": mean_of(pool.rewards), "words": mean_of(pool.answers.words)}
    means["kl"] = float(measured_kl(pool, n).mean())
    if pool.answers.gold is not None:
        means["gold"] = mean_of(pool.answers.gold)
        kind = pool.answers.kind
        means["kinds"] = {name: mean_of((kind == name).astype(float)) for name in answers.KINDS}
    return means


# --- 3. What candidates cost ---


def measure_cost(
    model, tokenizer, judge: tuple, prompts: list, most: int, max_new_tokens: int = 48
) -> dict:
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


# --- 4. What is printed ---


def print_candidates(prompt, pool: Pool) -> None:
    """The first candidates for the first prompt, with rewards; an arrow marks the chosen one."""
    rewards = pool.rewards[0, :4]
    print(f"\n{answers.in_short(prompt)}")
    for k, text in enumerate(pool.answers.texts[0][:4]):
        arrow = "->" if k == rewards.argmax() else "  "
        shown = answers.in_short(text, 60)
        print(f"  {arrow} reward {rewards[k]:+.2f}  {shown}{answers.marks(prompt, text)}")


# --- 5. The figure ---


def draw(curve: list[dict], methods: dict[str, dict], cost: dict):
    """Four panels: what n candidates buy, how far that goes, the ways to answer, the cost."""
    figure, axes = figures.new_figure(2, 2, f"Best of N: choosing among up to {curve[-1]['n']}")
    buy_panel(axes[0], curve)
    bound_panel(axes[1], curve)
    if "kinds" in methods["SFT"]:
        methods_panel(axes[2], methods)
    else:
        length_panel(axes[2], curve)
    cost_panel(axes[3], cost)
    return figure


def over_n(ax, curve: list[dict]) -> list[int]:
    """An axis for n with its powers of two; returns the n."""
    ns = [means["n"] for means in curve]
    ax.set_xscale("log", base=2)
    ax.set_xticks(ns, ns)
    ax.minorticks_off()
    ax.set_xlabel("n: candidates to choose among")
    return ns


def buy_panel(ax, curve: list[dict]) -> None:
    """The reward that chooses, and what the chosen answers are worth, where that is known."""
    ns = over_n(ax, curve)
    names = {
        "gold": ("lab:gold", "gold utility: 3 if right, 1 if on topic, -0.15 a word of filler")
    }
    names["reward"] = ("lab:reward", "reward: what chooses")
    for name, (color, label) in names.items():
        if name in curve[0]:
            values = [means[name] for means in curve]
            ax.plot(ns, values, "o-", color=color, label=label)
            for k in (0, -1):
                ax.annotate(f"{values[k]:.2f}", (ns[k], values[k]), (0, 6), **ABOVE)
    ax.margins(y=0.15)
    ax.set(title="The chosen answer by n", ylabel="log-odds")
    figures.legend_below(ax)


ABOVE = {"textcoords": "offset points", "ha": "center"}


def bound_panel(ax, curve: list[dict]) -> None:
    """How far the chosen answers lie from the SFT model's: measured, and the bound."""
    ns = over_n(ax, curve)
    fine = np.geomspace(1, ns[-1], 100)
    ax.plot(fine, best_of_n_kl_bound(fine), "k--", lw=1, label="bound: log n - (n - 1)/n")
    kl = [means["kl"] for means in curve]
    ax.plot(ns, kl, "o", color="lab:best_of_n", label="measured on the candidates")
    ax.set(title="KL from the SFT model by n", ylabel="nats")
    figures.legend_below(ax)


def methods_panel(ax, methods: dict[str, dict]) -> None:
    """What the answers of each method are, with their gold utility at the end of the bar."""
    names = list(methods)
    left = np.zeros(len(names))
    for kind in answers.KINDS:
        shares = np.array([100 * means["kinds"][kind] for means in methods.values()])
        ax.barh(names, shares, 0.7, left, color=f"lab:{kind}", label=kind)
        left += shares
    for place, means in enumerate(methods.values()):
        good = 100 * means["kinds"][answers.KINDS[0]]
        ax.text(good / 2, place, f"{good:.0f} %", ha="center", va="center", color="white")
        ax.text(101, place, f"{means['gold']:.2f}", va="center", color="lab:gold")
    ax.text(101, -0.7, "gold", va="center", color="lab:gold")
    ax.invert_yaxis()
    ax.set(title="What the answers are", xlabel="% of answers", xlim=(0, 112))
    ax.set_xticks(range(0, 101, 25))
    ax.grid(visible=False)
    figures.legend_below(ax, ncols=2)


def length_panel(ax, curve: list[dict]) -> None:
    """The length of the chosen answers."""
    ns = over_n(ax, curve)
    words = [means["words"] for means in curve]
    ax.plot(ns, words, "o-", color="lab:length")
    ax.set(title="Length of the chosen answer by n", ylabel="words", ylim=(0, 1.1 * max(words)))


def cost_panel(ax, cost: dict) -> None:
    """The computing that one answer takes, and what one more candidate adds."""
    ns = cost["n"]
    lines = {"alone": "each candidate by itself", "shared": "prompt read once, equal texts once"}
    for (name, label), color in zip(lines.items(), ("lab:sft", "lab:best_of_n"), strict=True):
        costs = np.mean(cost[name], axis=0)
        one_more = (costs[-1] - costs[0]) / (ns[-1] - 1)
        ax.plot(ns, costs, "o-", color=color, label=f"{label}: one more costs {one_more:.0f}")
    ax.set_xticks(ns)
    ax.set(title="What one answer costs by n", xlabel="n: candidates to choose among")
    ax.set(ylabel="million operations (counted)", ylim=(0, None))
    figures.legend_below(ax)


# --- Main ---


def build_parser() -> argparse.ArgumentParser:
    parser = runs.make_parser(__file__, __doc__)
    at_least_1 = runs.whole_number(1)
    model = "hub id or folder of a causal LM; default: tiny-gpt2"
    parser.add_argument("--model", type=runs.non_empty, default="tiny-gpt2", help=model)
    given = "a trained reward model; default: the one of reward_model.py, found or trained"
    parser.add_argument("--reward-model", type=runs.folder, help=given)
    backbone = {"default": "tiny-distilbert", "help": "what a reward model is trained from"}
    parser.add_argument("--reward-backbone", type=runs.non_empty, **backbone)
    given = "a trained DPO adapter; default: the one of dpo_trainer.py, found or trained"
    parser.add_argument("--adapter", type=runs.folder, help=given)
    n = "the largest n, of twice as many candidates; default: 16"
    parser.add_argument("--n", type=runs.whole_number(2), default=16, help=n)
    parser.add_argument("--prompts", type=at_least_1, help="default: 256, of your own 16")
    tokens = "of a candidate at most; default: 48"
    parser.add_argument("--max-new-tokens", type=at_least_1, default=48, help=tokens)
    parser.add_argument("--sft-steps", type=runs.whole_number(0), help="before; default: 300")
    runs.add_dataset_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> dict:
    """Sample, score, choose, compare, draw; returns the metrics."""
    args = runs.start(build_parser(), argv, "best_of_n", smoke={"n": 4, "prompts": 8})
    sft = {"own_data": bool(args.dataset), "sft_steps": args.sft_steps, "seed": args.seed}
    sft |= {"device": args.device, "output_dir": args.output_dir}
    model, tokenizer = load_sft_model(args.model, **sft)
    if args.dataset:
        own, epochs = (args.dataset, tokenizer, args.seed), reward_model.OWN_EPOCHS
        limits = {"prompts": args.prompts or 16, "max_new_tokens": args.max_new_tokens}
        limits["alone"] = bool(args.reward_model)  # then prompts without answers are enough
        pairs, _, prompts = read.own_pairs(*own, **limits, **args.reading)
        pairs = pairs if "chosen" in pairs.column_names else None
        if not args.reward_model:
            own = (args.dataset, models.load_tokenizer(args.reward_backbone), args.seed)
            labelled, _ = read.own_reward_pairs(*own, **args.reading)
    else:
        pairs = preferences.make_pairs(64 if args.smoke else 768, seed=args.seed)
        labelled, epochs = preferences.make_pairs(64 if args.smoke else 6400, seed=args.seed), 1
        questions = preferences.questions("test")[: args.prompts or 256]
        prompts = [question.prompt for question in questions]
    if args.reward_model:
        judge = models.load_reward_model(str(args.reward_model), args.device)
    else:
        folder = runs.trained_folder(args, "reward_model", without=("model", "sft_steps"))
        options = {"device": args.device, "seed": args.seed, "epochs": epochs}
        judge = reward_model.reward_model_in(folder, args.reward_backbone, labelled, **options)

    learned = args.reward_model or f"{len(labelled):,} labelled pairs"
    print(f"{args.model} writes {2 * args.n} answers to each of {len(prompts)} prompts; ", end="")
    print(f"a reward model of {learned} chooses")
    ask = {"seed": args.seed, "max_new_tokens": args.max_new_tokens}
    pool = make_pool(model, tokenizer, judge, prompts, 2 * args.n, **ask)
    print_candidates(prompts[0], pool)
    cost = measure_cost(model, tokenizer, judge, prompts[:2], args.n, args.max_new_tokens)
    if args.adapter:
        policy = models.load_adapter(model, args.adapter)
    elif pairs is not None:
        folder = runs.trained_folder(args, "dpo", without=("reward_backbone",))
        policy = dpo_policy(folder, model, tokenizer, pairs, seed=args.seed)

    curve = [best_of(pool, n) for n in powers_of_two(args.n)]
    methods = {"SFT": curve[0], f"best of {args.n}": curve[-1]}
    if args.adapter or pairs is not None:
        dpo_pool = make_pool(policy, tokenizer, judge, prompts, 2 * args.n, **ask)
        methods |= {"DPO": best_of(dpo_pool, 1), "both": best_of(dpo_pool, args.n)}
    answers.print_table(["", *methods], answers.rows_of(list(methods.values())))
    metrics = {"curve": curve, "methods": methods, "cost": cost}
    next_step = "python 05-preference-tuning/studies/best_of_n_and_the_limit.py: what could be had?"
    return runs.finish(args, metrics, draw(curve, methods, cost), next_step)


if __name__ == "__main__":
    runs.run(main)
