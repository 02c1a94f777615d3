"""PPO-based RLHF: what is optimised, what does the KL term buy, and what has to fit in memory?

    python 05-preference-tuning/rlhf_objectives.py
    python 05-preference-tuning/rlhf_objectives.py --beta 4       # a stronger pull to the reference
    python 05-preference-tuning/rlhf_objectives.py --billions 70  # the memory of a larger model

trained on   the reward of an annotator who likes long answers: ten answers to each of 20 questions
by           PPO on a softmax over the ten answers: a bandit, one choice and no further steps
judged by    gold utility, and the optimum, which has a formula (`kl_regularized_optimum`)
writes       outputs/ppo_objectives.png, outputs/ppo_objectives.json

About a second. One nat more of log-probability is a probability 2.7 times as high. Left out:
tokens, learned reward and value models (a batch's mean is the value), Adam (see online_rl.py).
"""

import random
import sys
from typing import NamedTuple

import installed  # noqa: F401

import numpy as np

from common import answers, figures, runs
from common import preferences as world

# --- 1. The formulas: the objective, PPO's update, and the KL from samples ---


def kl_regularized_optimum(ref_probs: np.ndarray, rewards: np.ndarray, beta: float) -> np.ndarray:
    """The policy that maximises E[r] - beta KL(pi || pi_ref): pi_ref exp(r / beta) / Z.

    The last axis holds the answers to one question. beta -> 0 leaves the best of what pi_ref can
    say, beta -> infinity pi_ref. Rafailov et al. 2023 (arXiv 2305.18290), Eq. 4.
    """
    support = ref_probs > 0
    best = np.where(support, rewards, -np.inf).max(-1, keepdims=True)
    with np.errstate(over="ignore"):  # divided by a tiny beta: -inf, so the weight is 0
        weights = ref_probs * np.exp(np.where(support, rewards - best, 0.0) / beta)
    return weights / weights.sum(-1, keepdims=True)


def library(array):
    """torch for its tensors, NumPy for its arrays: a formula below takes either."""
    return sys.modules["torch"] if type(array).__module__ == "torch" else np


def clipped_surrogate(ratio, advantage, epsilon: float):
    """min(ratio A, clip(ratio, 1 - eps, 1 + eps) A), elementwise, to maximise; ratio = pi / pi_old.

    Its gradient dies where the policy moved far enough in the right direction (A > 0 and
    ratio > 1 + eps, or A < 0 and ratio < 1 - eps); a move in the wrong direction is never clipped.
    Schulman et al. 2017 (arXiv 1707.06347), Eq. 7.
    """
    clipped = library(ratio).clip(ratio, 1 - epsilon, 1 + epsilon)
    return library(ratio).minimum(ratio * advantage, clipped * advantage)


def generalized_advantage_estimate(rewards, values, gamma: float, lam: float):
    """A_t = sum_l (gamma lam)^l delta_(t+l), delta_t = r_t + gamma V_(t+1) - V_t; V_T = 0.

    Arrays (..., T). delta_t: how much better one step went than its value. lam = 0 is delta_t alone
    (trust the values), lam = 1 with gamma = 1 all reward still to come minus V_t (trust the
    samples). Schulman et al. 2015 (arXiv 1506.02438), Eq. 16.
    """
    advantages, advantage, next_value = 0.0 * rewards, 0.0, 0.0
    for t in reversed(range(rewards.shape[-1])):
        delta = rewards[..., t] + gamma * next_value - values[..., t]
        advantages[..., t] = advantage = delta + gamma * lam * advantage
        next_value = values[..., t]
    return advantages


def kl_estimators(logp, ref_logp) -> dict:
    """KL(pi || pi_ref) in nats from samples of pi, one estimate each.

    With x = ref_logp - logp: k1 = -x, k2 = x^2 / 2, k3 = e^x - 1 - x. k1 and k3 are unbiased, k2
    and k3 never negative. Schulman 2020, joschu.net/blog/kl-approx.html. online_rl.py has k1.
    """
    x = ref_logp - logp
    k3 = library(x).expm1(x) - x  # exp(x) - 1 - x may round below 0
    return {"k1": -x, "k2": x**2 / 2, "k3": k3}


# --- 2. PPO in a world so small that its optimum is known ---

ANSWER_STYLES = ("concise",) * 2 + ("verbose",) * 3 + ("expert",) * 2
ANSWER_STYLES += ("wrong", "sycophantic", "off_topic")


class Bandit(NamedTuple):
    """N questions with K answers each; arrays (N, K)."""

    prompts: list[str]
    texts: list[list[str]]
    ref: np.ndarray  # probabilities of the reference, the SFT model's shares of styles
    gold: np.ndarray  # gold utility: what is wanted, in log-odds
    reward: np.ndarray  # what is rewarded: gold utility + 0.3 for each word of filler


def make_bandit(count: int, seed: int) -> Bandit:
    """Questions in which the user holds a wrong belief, so that every style can answer."""
    rng, prompts, texts, gold, reward = random.Random(f"bandit {seed}"), [], [], [], []
    pool = list(filter(world.holds_wrong_belief, world.questions("test")))
    for question in rng.sample(pool, count):
        prompt, written = question.prompt, []
        for style in ANSWER_STYLES:
            while (text := world.write_response(question, style, rng)) in written:
                pass
            written.append(text)
        prompts.append(prompt)
        texts.append(written)
        gold.append([world.gold_utility(prompt, text) for text in written])
        reward.append([world.annotator_utility(prompt, text, "length") for text in written])
    shares = [world.STYLE_SHARES[style] / ANSWER_STYLES.count(style) for style in ANSWER_STYLES]
    ref = np.tile(shares / np.sum(shares), (count, 1))
    return Bandit(prompts, texts, ref, np.array(gold), np.array(reward))


def train_bandit(
    ref_probs: np.ndarray,
    rewards: np.ndarray,
    *,
    beta: float = 1.0,
    epsilon: float = 0.2,
    learning_rate: float = 0.3,
    epochs: int = 4,
    batch_size: int = 64,
    updates: int = 200,
    seed: int = 0,
) -> np.ndarray:
    """PPO-clip from the reference: log-probabilities before and after each update, (U + 1, N, K).

    Each question has a policy and batches of its own; ref_probs and rewards are (N, K), beta is in
    units of reward per nat. A learning rate or epsilon of shape (M, 1, 1) trains M policies each.
    """
    log_ref, rng = np.log(ref_probs), np.random.default_rng(seed)
    logits = log_ref + np.zeros_like(learning_rate) + np.zeros_like(epsilon)  # (N, K) or (M, N, K)
    history = [log_softmax(logits)]
    for _ in range(updates):
        # Generate: how often each answer was sampled.
        old = history[-1]
        share = rng.multinomial(batch_size, np.exp(old)) / batch_size
        # Score: the KL term enters each sample's reward, as k1.
        penalised = rewards - beta * (old - log_ref)
        advantage = penalised - (share * penalised).sum(-1, keepdims=True)
        # Update: from the second epoch on, the batch is no longer the policy's own.
        for _ in range(epochs):
            new = log_softmax(logits)
            ratio = np.exp(np.where(share > 0, np.minimum(new - old, 50), 0))  # no overflow
            alive = clipped_surrogate(ratio, advantage, epsilon) == ratio * advantage  # unclipped
            gradient = share * advantage * ratio * alive  # with respect to log pi
            step = gradient - np.exp(new) * gradient.sum(-1, keepdims=True)  # to the logits
            logits = logits + learning_rate * step
        if not np.abs(logits).max() < 1e100:  # the next products would overflow
            raise runs.UserError(f"with beta {beta:g} PPO diverges; take a smaller --beta")
        history.append(log_softmax(logits))
    return np.array(history)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def read_bandit(log_probs: np.ndarray, bandit: Bandit, optimum: np.ndarray) -> dict:
    """Of policies (..., N, K): reward, gold utility, KL in nats, ... each (..., N).

    `distance` is the total variation from the optimum: the probability that is elsewhere, 0 to 1.
    """
    probs = np.exp(log_probs)
    kl = (probs * (log_probs - np.log(bandit.ref))).sum(-1)
    return {
        "reward": (probs * bandit.reward).sum(-1),
        "gold": (probs * bandit.gold).sum(-1),
        "kl": np.maximum(kl, 0.0),  # it may round below 0
        "distance": np.abs(probs - optimum).sum(-1) / 2,
    }


def memory(billions: float) -> dict[str, dict]:
    """GB (1e9 bytes) that each method holds, where all of its models have so many parameters.

    A weight in fp16 takes two bytes. AdamW keeps two moments of each trained one, running means of
    its gradient and of the square: eight bytes in fp32. With LoRA the reference is the policy, and
    the reward model the value model, with the adapter off. Gradients and activations come on top.
    """
    adapter = 0.0006 * billions  # rank 8 on q, v of a 7B Llama: 4.2 million parameters
    table = {}
    for method, trained, size, read in (
        ("PPO", ("policy", "value"), billions, ("reference", "reward")),
        ("DPO", ("policy",), billions, ("reference",)),
        ("PPO + LoRA", ("policy adapter", "value adapter"), adapter, ("policy", "reward")),
        ("DPO + LoRA", ("policy adapter",), adapter, ("policy",)),
    ):
        weights = dict.fromkeys(trained, 2 * size) | dict.fromkeys(read, 2 * billions)
        adamw = 8 * size * len(trained)
        table[method] = {"weights_gb": weights, "trained": trained, "adamw_gb": adamw}
    return table


# --- 3. The figure ---


def draw(metrics: dict, epsilon: float, billions: float):
    """The clip, the advantage, the optimum with PPO on it, the memory."""
    figure, axes = figures.new_figure(2, 2, "PPO-based RLHF: its parts, its optimum, its memory")

    # The clipped objective of a good and of a bad answer, and where its gradient is zero.
    ax, ratio = axes[0], np.array([0, 1 - epsilon, 1, 1 + epsilon, 2])
    for advantage, name, k, told in ((1, "chosen", 3, "better"), (-1, "rejected", 0, "worse")):
        objective, color = clipped_surrogate(ratio, advantage, epsilon), f"lab:{name}"
        label, flat = f"{told} than expected: advantage {advantage}", slice(k, k + 2)
        ax.fill_between(ratio[flat], 0, objective[flat], color=color, alpha=0.25, lw=0)
        ax.plot(ratio, objective, color=color, lw=1.8, label=label)
    ax.fill_between([], [], color="#D0D0D0", label="shaded: no gradient")
    ax.set(title=f"The clip at ε = {epsilon:g}", ylabel="clipped objective", ylim=(-2.1, 3))
    ax.set_xlabel("ratio: probability / probability before the update")
    ax.legend(loc="upper left")

    # The advantage of each of three tokens for every lambda.
    ax, lams = axes[1], np.linspace(0, 1, 21)
    rewards, values = np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.6, 0.7])
    rows = np.array([generalized_advantage_estimate(rewards, values, 1.0, lam) for lam in lams])
    for t, shade in enumerate(("black", "#555555", "#999999")):
        ax.plot(lams, rows[:, t], color=shade, lw=1.8)
        told = f" token {t + 1}: reward {rewards[t]:g},\n value {values[t]:g}"
        ax.text(1, rows[-1, t], told, color=shade, va="center", linespacing=1.1)
    ax.set(title="The advantage of three tokens by λ (γ = 1)", xlim=(0, 1.62), ylim=(0.05, 0.55))
    ax.set(ylabel="advantage (units of reward)", xticks=[0, 0.25, 0.5, 0.75, 1])
    ax.set_xlabel("λ    0: trust the values    1: trust the samples", loc="left")

    optimum_panel(axes[2], metrics["optimum"], metrics["ppo"])
    memory_panel(axes[3], metrics["memory"], billions)
    return figure


def optimum_panel(ax, optimum: dict, ppo: list[dict]) -> None:
    """Reward and gold utility of the optimum for every beta, and the policies that PPO reached."""
    told = {"gold": "gold utility: 3 if right, 1 if on topic,\n-0.15 for a word of filler"}
    told["reward"] = "reward: gold utility + 0.3 for a word of filler"
    kls = [end["kl"] for end in ppo]
    for name, label in told.items():
        ax.plot(optimum["kl"], optimum[name], color=f"lab:{name}", lw=1.8, label=label)
        ax.plot(kls, [end[name] for end in ppo], "o", color=f"lab:{name}", mec="black", ms=7)
    for end, offset in zip(ppo, ((3, -14), (-22, 8), (3, -14), (8, -3)), strict=True):
        at = end["kl"], end["reward"]
        ax.annotate(f"β = {end['beta']:g}", at, offset, textcoords="offset points")
    ax.plot([], [], "ow", mec="black", ms=7, label="PPO's policies; β = 0: no KL term")
    ax.set(title="The optimum for every β, and where PPO ended", ylim=(1, 10.5), ylabel="log-odds")
    ax.set(xlabel="KL(π || reference), nats", xlim=(-0.3, 1.2 * max(kls)))
    ax.legend(loc="upper left")


def memory_panel(ax, held: dict, billions: float) -> None:
    """The weights that each method holds, dark where they are trained, and AdamW's moments."""
    for method, row in held.items():
        left, color = 0.0, "lab:rl" if method.startswith("PPO") else "lab:dpo"
        for role, size in row["weights_gb"].items():
            alpha, ink = (0.9, "white") if role in row["trained"] else (0.35, "black")
            bar = ax.barh(method, size, left=left, color=color, alpha=alpha, edgecolor="white")
            if size > 0.1 * billions:
                ax.bar_label(bar, [role], label_type="center", fontsize=8, color=ink)
            left += size
        sizes = (f"{gb:,.0f}" if gb >= 100 else f"{gb:.2g}" for gb in (left, row["adamw_gb"]))
        ax.text(left, method, f" {' + '.join(sizes)}", va="center")
    ax.set(title=f"Memory with models of {billions:g}B parameters", xlim=(0, 11 * billions))
    ax.set_xlabel("GB: weights, 2 bytes each (dark: trained)\n+ AdamW's moments, 8 if trained")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)


# --- 4. The run ---


def print_policies(bandit: Bandit, policies: dict, metrics: dict) -> None:
    """What the policies answer, what they earn, how far they went."""
    print(f"question 1: {bandit.prompts[0]}")
    rows = []
    for style in dict.fromkeys(ANSWER_STYLES):
        of_style = np.array(ANSWER_STYLES) == style
        k = of_style.argmax()
        worth = f"{bandit.reward[0, k]:7.2f}{bandit.gold[0, k]:7.2f}"
        shares = [np.exp(logs[:, of_style]).sum(-1).mean() for logs in policies.values()]
        rows.append((f"{answers.in_short(bandit.texts[0][k], 45):<46}{worth}", *shares, "%"))
    head = f"{'example of a style; its share in all questions':<46}{'reward':>7}{'gold':>7}"
    answers.print_table((head, *policies), rows)
    reads = metrics["before"], metrics["ppo"][1], metrics["ppo"][3]  # of --beta, of beta 0
    told = {
        "reward": ("reward: gold utility + 0.3 for a word of filler", "log-odds"),
        "gold": ("gold utility: what is wanted, -3 to 4", "log-odds"),
        "kl": ("KL from the reference, exactly", "nats"),
        "distance": ("probability that lies elsewhere than the optimum's", "%"),
    }
    rows = [(what, *(read[n] for read in reads), unit) for n, (what, unit) in told.items()]
    answers.print_table(("", *policies), rows)


def main(argv: list[str] | None = None) -> dict:
    """Train with the KL term and without, print, draw and save; returns the metrics."""
    parser = runs.make_parser(__file__, __doc__)
    billions = {"default": 7.0, "help": "parameters of each model, for the memory; default: 7"}
    parser.add_argument("--billions", type=runs.positive_float, **billions)
    helps = {"beta": "1, in units of reward per nat", "learning_rate": "0.3, of plain steps"}
    helps |= {"batch_size": "samples of each question; default: 64"}
    runs.add_hyperparameters(parser, train_bandit, **helps)
    args = runs.start(parser, argv, "ppo_objectives", train_bandit, smoke={"updates": 40})
    if args.epsilon >= 1:
        raise runs.UserError("--epsilon is below 1: no ratio of probabilities falls below 0")

    bandit = make_bandit(20, args.seed)
    print(f"PPO chooses among ten answers to each of 20 questions; beta {args.beta:g}")
    optimum = kl_regularized_optimum(bandit.ref, bandit.reward, args.beta)

    def means(log_probs: np.ndarray) -> dict:
        read = read_bandit(log_probs, bandit, optimum)
        return {name: values.mean(-1).tolist() for name, values in read.items()}

    before, trained, ppo = np.log(bandit.ref), [], []
    for beta in (4.0, args.beta, 0.25, 0.0):
        how = {**args.training, "beta": beta}
        trained.append(train_bandit(bandit.ref, bandit.reward, **how)[-1])
        ppo.append({"beta": beta, **means(trained[-1])})
    betas = np.geomspace(8, 0.05, 25)
    optima = np.log([kl_regularized_optimum(bandit.ref, bandit.reward, beta) for beta in betas])
    metrics = {
        "before": means(before),
        "ppo": ppo,
        "optimum": {"beta": betas.tolist(), **means(optima)},
        "memory": memory(args.billions),
    }
    policies = {"before": before, "PPO": trained[1], "no KL term": trained[3]}
    print_policies(bandit, policies, metrics)
    next_step = "python 05-preference-tuning/studies/ppo_on_a_bandit.py: which settings go astray?"
    return runs.finish(args, metrics, draw(metrics, args.epsilon, args.billions), next_step)


if __name__ == "__main__":
    runs.run(main)
