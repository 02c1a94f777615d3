"""The exercises in NumPy: rankings, RLHF's objective, samples; inputs, and mistakes one makes."""

from math import comb

import numpy as np
from best_of_n import best_of_n_kl_bound as bound
from best_of_n import best_of_n_policy as policy_of
from best_of_n import expected_best_of_n as best_of
from grade import Exercise, averaged, changed, exchanged, inverse, negated, squared, zeroed
from online_rl import leave_one_out_advantages as leave_one_out
from preference_data_explorer import plackett_luce_nll as nll
from rlhf_objectives import clipped_surrogate as surrogate
from rlhf_objectives import generalized_advantage_estimate as gae
from rlhf_objectives import kl_estimators as estimators
from rlhf_objectives import kl_regularized_optimum as optimum

# --- Plackett-Luce ---


def pairwise_losses(scores: np.ndarray) -> np.ndarray:
    """Bradley-Terry losses of all pairs of a ranking: (..., K) -> (..., K (K - 1) / 2)."""
    better, worse = np.triu_indices(scores.shape[-1], 1)
    return nll(np.stack([scores[..., better], scores[..., worse]], -1))


def choices_from_all(scores: np.ndarray) -> np.ndarray:
    """As if what was chosen could be chosen again."""
    return (np.logaddexp.reduce(scores, -1, keepdims=True) - scores).sum(-1)


RANKING = Exercise(
    "e01_plackett_luce_nll",
    nll,
    [
        {"scores_in_rank_order": np.array([1.0, 0.0])},
        {"scores_in_rank_order": np.array([2.0, 0.5, -1.0])},
        {"scores_in_rank_order": np.array([1000.0, 0.0, -1000.0])},
        {"scores_in_rank_order": np.array([[0.3, 1.2, -0.7, 2.0], [1.0, 0.9, 0.4, -2.0]])},
    ],
    {
        "its sign is turned: this is the log-probability": negated(nll),
        "the ranking is read from its wrong end": lambda s: nll(s[..., ::-1]),
        "what was chosen stays in the pool; the next is chosen among the rest": choices_from_all,
        "this is the mean of the pairwise losses; a ranking is K - 1 choices among ever fewer": (
            lambda s: pairwise_losses(s).mean(-1)
        ),
        "this is the sum of the pairwise losses; a ranking is K - 1 choices among ever fewer": (
            lambda s: pairwise_losses(s).sum(-1)
        ),
        "a mean over the K items where the losses of the choices add up": (
            lambda s: nll(s) / s.shape[-1]
        ),
        "a mean over the K - 1 choices where their losses add up": (
            lambda s: nll(s) / (s.shape[-1] - 1)
        ),
        "only the first choice counts": lambda s: nll(s) - nll(s[..., 1:]),
        "one number for all rankings, where each has its own": lambda s: nll(s).sum(),
    },
)

# --- The optimum with a KL term ---


def one_z_for_all(ref: np.ndarray, rewards: np.ndarray, beta: float) -> np.ndarray:
    return optimum(ref.ravel(), rewards.ravel(), beta).reshape(ref.shape)


OPTIMUM = Exercise(
    "e03_kl_regularized_optimum",
    optimum,
    [
        {"ref_probs": np.array([0.6, 0.4]), "rewards": np.array([0.0, 1.0]), "beta": 0.5},
        {"ref_probs": np.array([0.5, 0.5, 0]), "rewards": np.array([0, 1.0, 9]), "beta": 2.0},
        {
            "ref_probs": np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]),
            "rewards": np.array([[1.0, -0.5, 0.2], [0.0, 2.0, 1.0]]),
            "beta": 0.7,
        },
        {"ref_probs": np.array([0.6, 0.4]), "rewards": np.array([1.0, 1.1]), "beta": 0.001},
    ],
    {
        "beta multiplies the reward; it divides it": changed(optimum, beta=inverse),
        "beta is dropped": changed(optimum, beta=1.0),
        "beta is squared": changed(optimum, beta=squared),
        "the sign of the reward is turned": changed(optimum, rewards=np.negative),
        "the reference is missing: this is the softmax of r / beta": (
            changed(optimum, ref_probs=np.ones_like)
        ),
        "the reference's log-probabilities are divided by beta, too": (
            lambda ref, rewards, beta: optimum(ref ** (1 / beta), rewards, beta)
        ),
        "Z is missing: the probabilities do not add up to 1": (
            lambda ref, rewards, beta: ref * np.exp(rewards / beta)
        ),
        "one Z for all prompts: the probabilities of each prompt add up to 1": one_z_for_all,
        "this is the log-probability": lambda *inputs: np.log(optimum(*inputs)),
    },
)

# --- PPO's clip ---


def smaller_of(ratio: np.ndarray, advantage: np.ndarray, low: float, high: float) -> np.ndarray:
    """The surrogate with the ratio clipped to these borders."""
    return np.minimum(ratio * advantage, np.clip(ratio, low, high) * advantage)


CLIP = Exercise(
    "e04_clipped_surrogate",
    surrogate,
    [
        {"ratio": np.array([1.5]), "advantage": np.array([1.0]), "epsilon": 0.2},
        {"ratio": np.array([0.5]), "advantage": np.array([1.0]), "epsilon": 0.2},
        {"ratio": np.array([0.5]), "advantage": np.array([-1.0]), "epsilon": 0.2},
        {"ratio": np.array([1.5]), "advantage": np.array([-1.0]), "epsilon": 0.2},
        {
            "ratio": np.array([[0.2, 0.9, 1.1], [0.6, 1.4, 2.5]]),
            "advantage": np.array([[-2.0, 0.5, 3.0], [0.7, -0.4, 1.2]]),
            "epsilon": 0.3,
        },
    ],
    {
        "the larger of the two is taken, where the smaller one is the cautious one": (
            lambda ratio, a, eps: np.maximum(ratio * a, np.clip(ratio, 1 - eps, 1 + eps) * a)
        ),
        "nothing is clipped": changed(surrogate, epsilon=np.inf),
        "only the clipped ratio counts: a move in the wrong direction must not be clipped": (
            lambda ratio, a, eps: np.clip(ratio, 1 - eps, 1 + eps) * a
        ),
        "its sign is turned: this is the loss, the surrogate is maximised": negated(surrogate),
        "the ratio is clipped from above only": (
            lambda ratio, a, eps: smaller_of(ratio, a, -np.inf, 1 + eps)
        ),
        "the ratio is clipped from below only": (
            lambda ratio, a, eps: smaller_of(ratio, a, 1 - eps, np.inf)
        ),
        "the product with the advantage is clipped, where only the ratio is": (
            lambda ratio, a, eps: np.minimum(ratio * a, np.clip(ratio * a, 1 - eps, 1 + eps))
        ),
        "the ratio is clipped to -epsilon ... epsilon, where it lies around 1": (
            lambda ratio, a, eps: smaller_of(ratio, a, -eps, eps)
        ),
        "a mean over all, where each has its own": averaged(surrogate),
    },
)

# --- Generalised advantage estimation ---


def td_errors(rewards: np.ndarray, values: np.ndarray, gamma: float) -> np.ndarray:
    return gae(rewards, values, gamma, 0.0)


def later_sums(deltas: np.ndarray, factor: float) -> np.ndarray:
    """Sums of what comes later, discounted."""
    return gae(deltas, np.zeros_like(deltas), 1.0, factor)


def one_step_ahead(rewards, values, gamma, lam) -> np.ndarray:
    deltas = td_errors(rewards, values, gamma)
    return deltas + gamma * lam * np.append(deltas[1:], 0.0)


def last_value_repeated(rewards, values, gamma, lam) -> np.ndarray:
    """As if the last state's value stood behind the end."""
    bootstrapped = rewards + gamma * np.append(np.zeros(len(values) - 1), values[-1])
    return gae(bootstrapped, values, gamma, lam)


ADVANTAGES = Exercise(
    "e05_generalized_advantage_estimate",
    gae,
    [
        {"rewards": np.array([2.0]), "values": np.array([0.5]), "gamma": 0.5, "lam": 0.5},
        {"rewards": np.array([0, 1.0]), "values": np.array([0.5, 0.6]), "gamma": 0.9, "lam": 0.5},
        {
            "rewards": np.array([0.3, -1.0, 0.0, 0.5, 2.0]),
            "values": np.array([0.4, 1.2, -0.3, 0.8, 0.1]),
            "gamma": 0.9,
            "lam": 0.7,
        },
    ],
    {
        "lambda and gamma are exchanged": exchanged(gae, "lam", "gamma"),
        "lambda is dropped: this is returns minus values": changed(gae, lam=1.0),
        "these are the TD errors alone, as if lambda were 0": changed(gae, lam=0.0),
        "gamma is dropped": changed(gae, gamma=1.0),
        "gamma is missing before the next value": (
            lambda r, v, gamma, lam: later_sums(td_errors(r, v, 1.0), gamma * lam)
        ),
        "gamma is missing in the sum: later TD errors count (gamma lambda)^l": (
            lambda r, v, gamma, lam: later_sums(td_errors(r, v, gamma), lam)
        ),
        "only the next TD error is added, not all later ones": one_step_ahead,
        "behind the last step stands its own value, where it is 0": last_value_repeated,
        "the next value is missing in the TD errors": (
            lambda r, v, gamma, lam: later_sums(r - v, gamma * lam)
        ),
        "the values are missing: these are discounted rewards": changed(gae, values=zeroed),
        "the value of the step itself is not subtracted": (
            lambda r, v, gamma, lam: gae(r, v, gamma, lam) + v
        ),
        "the sum runs over earlier TD errors, where it is over later ones": (
            lambda r, v, gamma, lam: later_sums(td_errors(r, v, gamma)[::-1], gamma * lam)[::-1]
        ),
        "its sign is turned": negated(gae),
    },
)

# --- Estimators of the KL ---


def other_k3(logp: np.ndarray, ref_logp: np.ndarray, k3: np.ndarray) -> dict[str, np.ndarray]:
    """The right k1 and k2, and another k3."""
    return {**estimators(logp, ref_logp), "k3": k3}


KL = Exercise(
    "e06_kl_estimators",
    estimators,
    [
        {"logp": np.array([-1.0]), "ref_logp": np.array([-2.0])},
        {"logp": np.array([-1.0, -2.0, -0.3]), "ref_logp": np.array([-1.5, -1.0, -0.2])},
        {"logp": np.array([-2.0], np.float32), "ref_logp": np.array([-1.9997], np.float32)},
    ],
    {
        "policy and reference are exchanged": exchanged(estimators, "logp", "ref_logp"),
        "k1 has the wrong sign": (
            lambda logp, ref_logp: {**estimators(logp, ref_logp), "k1": ref_logp - logp}
        ),
        "the half of k2 is missing": (
            lambda logp, ref_logp: {**estimators(logp, ref_logp), "k2": (ref_logp - logp) ** 2}
        ),
        "k3 has x with the wrong sign": (
            lambda logp, ref_logp: other_k3(logp, ref_logp, estimators(ref_logp, logp)["k3"])
        ),
        "the 1 of k3 is missing": (
            lambda logp, ref_logp: other_k3(logp, ref_logp, estimators(logp, ref_logp)["k3"] + 1)
        ),
        "the x of k3 is missing": (
            lambda logp, ref_logp: other_k3(logp, ref_logp, np.expm1(ref_logp - logp))
        ),
        "k3 loses its digits near the reference, and may fall below 0: np.expm1 keeps them": (
            lambda logp, ref_logp: other_k3(
                logp, ref_logp, np.exp(ref_logp - logp) - 1 - (ref_logp - logp)
            )
        ),
        "these are means over the samples, where each sample has its own": (
            lambda *logps: {name: each.mean() for name, each in estimators(*logps).items()}
        ),
    },
)

# --- Leave one out ---


def with_itself(rewards: np.ndarray) -> np.ndarray:
    return rewards - rewards.mean(-1, keepdims=True)


LEAVE_ONE_OUT = Exercise(
    "e07_leave_one_out_advantages",
    leave_one_out,
    [
        {"rewards": np.array([[1.0, 0.0, 0.0]])},
        {"rewards": np.array([[1.0, 2.0, 4.0], [0.0, 5.0, -1.0]])},
        {"rewards": np.random.default_rng(0).normal(size=(3, 4))},
    ],
    {
        "the response's own reward is in its baseline": with_itself,
        "the others are those of the same column: average over a prompt's responses": (
            lambda rewards: leave_one_out(rewards.T).T
        ),
        "the baseline is the mean of all prompts' rewards": (
            lambda rewards: rewards - rewards.mean()
        ),
        "the others' sum is subtracted, where it is their mean": (
            lambda rewards: 2 * rewards - rewards.sum(-1, keepdims=True)
        ),
        "the others' sum is divided by K; there are K - 1 of them": (
            lambda rewards: rewards - (rewards.sum(-1, keepdims=True) - rewards) / rewards.shape[-1]
        ),
        "divided by the standard deviation: that is GRPO's advantage": (
            lambda rewards: with_itself(rewards) / rewards.std(-1, keepdims=True)
        ),
        "this is the baseline; the advantage is the reward minus it": (
            lambda rewards: rewards - leave_one_out(rewards)
        ),
        "its sign is turned": negated(leave_one_out),
    },
)

# --- Best of n ---


def evenly(rewards: np.ndarray) -> np.ndarray:
    return np.full(len(rewards), 1 / len(rewards))


def with_replacement(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    """As if one response of the pool could be drawn several times."""
    policy = policy_of(evenly(rewards), rewards, n)
    return float(policy @ (rewards if values is None else values))


def of_the_worst(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    return best_of(-rewards, n, rewards if values is None else values)


def of_the_first(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    return float((rewards if values is None else values)[np.argmax(rewards[:n])])


def values_choose(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    return best_of(rewards if values is None else values, n)


def first_of_ties(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    return best_of(ranks(rewards), n, rewards if values is None else values)


def last_of_ties(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    return best_of(ranks(rewards[::-1])[::-1], n, rewards if values is None else values)


def ranks(rewards: np.ndarray) -> np.ndarray:
    """Ranks (K,) of rewards; of equal ones the earlier is the better."""
    order = np.lexsort([-np.arange(len(rewards)), rewards])
    return np.argsort(order).astype(float)


FIVE_REWARDS = np.array([1.0, 3.0, 2.0, 2.0, 0.0])
FIVE_VALUES = np.array([2.0, -1.0, 5.0, 1.0, 0.5])
EXPECTED = Exercise(
    "e11_expected_best_of_n",
    best_of,
    [
        {"rewards": np.array([0.0, 1.0]), "n": 1},
        {"rewards": np.array([0.0, 1.0, 3.0]), "n": 2},
        {"rewards": np.array([0.0, 1.0, 3.0]), "n": 2, "values": np.array([4.0, 2.0, -1.0])},
        {"rewards": np.array([0.0, 1.0]), "n": 3},
        {"rewards": np.array([0.0, 1.0]), "n": 0},
        {"rewards": FIVE_REWARDS, "n": 3, "values": FIVE_VALUES},
        {"rewards": np.random.default_rng(0).normal(size=400), "n": 64},
    ],
    {
        "the pool is drawn from with replacement: no response is drawn twice": with_replacement,
        "this is the worst of n": of_the_worst,
        "this is the best of one subset, the first n; the mean is over all subsets": of_the_first,
        "this is the best of the whole pool, whatever n is": changed(of_the_first, n=10**6),
        "the values choose; the rewards do": values_choose,
        "the values are ignored: the rewards only choose": changed(best_of, values=None),
        "of equal rewards the first is taken, where they share": first_of_ties,
        "of equal rewards the last is taken, where they share": last_of_ties,
        "n is one too large": (
            lambda rewards, n, *values: best_of(rewards, min(n + 1, len(rewards)), *values)
        ),
        "not divided by the number of subsets, C(M, n)": (
            lambda rewards, n, *values: best_of(rewards, n, *values) * comb(len(rewards), n)
        ),
    },
)

# --- The policy of best-of-n ---


def up_to(ref: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """The probability of a reward up to each one."""
    return (ref * (rewards <= rewards[:, None])).sum(-1)


def shared_equally(ref: np.ndarray, rewards: np.ndarray, n: int) -> np.ndarray:
    """Equal rewards share alike, whatever their probabilities."""
    policy = policy_of(ref, rewards, n)
    equal = rewards == rewards[:, None]
    return (equal * policy).sum(-1) / equal.sum(-1)


POLICY = Exercise(
    "e12_best_of_n_policy",
    policy_of,
    [
        {"ref_probs": np.array([0.75, 0.25]), "rewards": np.array([0.0, 1.0]), "n": 2},
        {"ref_probs": np.array([0.5, 0.3, 0.2]), "rewards": np.array([2.0, 0.0, 1.0]), "n": 3},
        {
            "ref_probs": np.array([0.4, 0.1, 0.3, 0.2]),
            "rewards": np.array([1.0, 1.0, 0.0, 2.0]),
            "n": 4,
        },
        {"ref_probs": np.array([0.5, 0.5, 0.0]), "rewards": np.array([0.0, 1.0, 2.0]), "n": 2},
    ],
    {
        "this is F^n, the probability that the best is no better: subtract that of a lower one": (
            lambda ref, rewards, n: up_to(ref, rewards) ** n
        ),
        "this is the probability of being among the n, best or not": (
            lambda ref, rewards, n: 1 - (1 - ref) ** n
        ),
        "this is the worst of n": changed(policy_of, rewards=np.negative),
        "the responses are ranked by their places, not by their rewards": (
            changed(policy_of, rewards=lambda rewards: np.arange(len(rewards)))
        ),
        "the responses are ranked by their probabilities, not by their rewards": (
            lambda ref, rewards, n: policy_of(ref, ref, n)
        ),
        "of equal rewards the first is taken, where they share by their probabilities": (
            changed(policy_of, rewards=ranks)
        ),
        "of equal rewards the last is taken, where they share by their probabilities": (
            changed(policy_of, rewards=lambda rewards: ranks(rewards[::-1])[::-1])
        ),
        "equal rewards share alike, where they share by their probabilities": shared_equally,
        "equal rewards are all given their common probability, which they share": (
            lambda ref, rewards, n: policy_of(ref, rewards, n) @ (rewards == rewards[:, None])
        ),
        "n is one too large": changed(policy_of, n=lambda n: n + 1),
        "the reference is missing: as if all responses were equally likely": (
            changed(policy_of, ref_probs=evenly)
        ),
    },
)

# --- How far best-of-n moves ---

BOUND = Exercise(
    "e13_best_of_n_kl_bound",
    bound,
    [{"n": 1}, {"n": 2}, {"n": 4}, {"n": np.array([1, 8, 64])}],
    {
        "this is log n, without what is taken off": lambda n: np.log(n),
        "its sign is turned": negated(bound),
        "(n - 1) / n is added, where it is subtracted": lambda n: np.log(n) + (n - 1) / n,
        "n - 1 is not divided by n": lambda n: np.log(n) - (n - 1),
        "1 / n is subtracted, where it is (n - 1) / n": lambda n: np.log(n) - 1 / n,
        "n / (n + 1) is subtracted, where it is (n - 1) / n": lambda n: np.log(n) - n / (n + 1),
        "this is in bits; nats take the natural logarithm": lambda n: np.log2(n) - (n - 1) / n,
    },
)

SAMPLES = (
    *(RANKING, OPTIMUM, CLIP, ADVANTAGES, KL),
    *(LEAVE_ONE_OUT, EXPECTED, POLICY, BOUND),
)
