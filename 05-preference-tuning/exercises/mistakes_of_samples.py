"""The exercises in NumPy: inputs, small ones first, and the mistakes that one makes."""

from functools import partial
from math import comb

import numpy as np
from best_of_n import best_of_n_kl_bound as bound
from best_of_n import best_of_n_policy as policy_of
from best_of_n import expected_best_of_n as best_of
from grade import make_exercise
from online_rl import leave_one_out_advantages as leave_one_out
from preference_data_explorer import plackett_luce_nll as nll
from rlhf_objectives import clipped_surrogate as surrogate
from rlhf_objectives import generalized_advantage_estimate as gae
from rlhf_objectives import kl_estimators as estimators
from rlhf_objectives import kl_regularized_optimum as optimum
from rlhf_objectives import library


def pairwise(scores: np.ndarray) -> np.ndarray:
    """Bradley-Terry losses of all pairs of a ranking: (..., K) -> (..., K (K - 1) / 2)."""
    better, worse = np.triu_indices(scores.shape[-1], 1)
    return nll(np.stack([scores[..., better], scores[..., worse]], -1))


MANY_SCORES = [[0.3, 1.2, -0.7, 2.0], [1.0, 0.9, 0.4, -2.0]]
RANKINGS = [[1, 0]], [[2, 0.5, -1]], [[1000, 0, -1000]], [MANY_SCORES]
OF_RANKINGS = {
    "its sign is turned: this is the log-probability": lambda s: -nll(s),
    "the ranking is read from its wrong end": lambda s: nll(s[..., ::-1]),
    "what was chosen stays in the pool; the next is chosen among the rest": (
        lambda s: (np.logaddexp.reduce(s, -1, keepdims=True) - s).sum(-1)
    ),
    "the mean of pairwise losses; a ranking is K - 1 choices": lambda s: pairwise(s).mean(-1),
    "the sum of pairwise losses; a ranking is K - 1 choices": lambda s: pairwise(s).sum(-1),
    "a mean over the K items where the choices' losses add up": lambda s: nll(s) / s.shape[-1],
    "a mean over the K - 1 choices; their losses add up": lambda s: nll(s) / (s.shape[-1] - 1),
    "only the first choice counts": lambda s: nll(s) - nll(s[..., 1:]),
    "one number for all rankings, where each has its own": lambda s: nll(s).sum(),
}

ONE_PROMPT, UNSAID = ([0.6, 0.4], [0, 1], 0.5), ([0.5, 0.5, 0], [0, 1, 9], 2.0)
TWO_PROMPTS = [[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], [[1, -0.5, 0.2], [0, 2, 1]], 0.7
OPTIMA = ONE_PROMPT, UNSAID, TWO_PROMPTS, ([0.6, 0.4], [1, 1.1], 0.001)
OF_OPTIMA = {  # p: the reference's probabilities, r: rewards, b: beta
    "beta multiplies the reward; it divides it": lambda p, r, b: optimum(p, r, 1 / b),
    "beta is dropped": lambda p, r, b: optimum(p, r, 1.0),
    "beta is squared": lambda p, r, b: optimum(p, r, b**2),
    "the sign of the reward is turned": lambda p, r, b: optimum(p, -r, b),
    "the reference is missing: softmax(r / beta)": lambda p, r, b: optimum(np.ones_like(p), r, b),
    "log pi_ref is divided by beta, too": lambda p, r, b: optimum(p ** (1 / b), r, b),
    "Z is missing: the probabilities do not add up to 1": lambda p, r, b: p * np.exp(r / b),
    "one Z for all prompts: the probabilities of each prompt add up to 1": (
        lambda p, r, b: optimum(p.ravel(), r.ravel(), b).reshape(p.shape)
    ),
    "this is the log-probability": lambda *x: np.log(optimum(*x)),
}


def smaller_of(ratio: np.ndarray, a: np.ndarray, low: float, high: float) -> np.ndarray:
    """The surrogate with the ratio clipped to these borders."""
    return library(ratio).minimum(ratio * a, ratio.clip(low, high) * a)


SIDES = [([ratio], [a], 0.2) for ratio, a in ((1.5, 1), (0.5, 1), (0.5, -1), (1.5, -1))]
SIX_RATIOS = [[0.2, 0.9, 1.1], [0.6, 1.4, 2.5]], [[-2, 0.5, 3], [0.7, -0.4, 1.2]], 0.3
RATIOS = *SIDES, SIX_RATIOS
OF_CLIPS = {  # r: the ratio, a: the advantage, e: epsilon; exercise 17 has them in torch
    "the larger of the two is taken, not the smaller": lambda r, a, e: -surrogate(r, -a, e),
    "nothing is clipped": lambda r, a, e: r * a,
    "a move in the wrong direction is clipped, too": lambda r, a, e: r.clip(1 - e, 1 + e) * a,
    "the ratio is clipped from above only": lambda r, a, e: smaller_of(r, a, None, 1 + e),
    "the ratio is clipped from below only": lambda r, a, e: smaller_of(r, a, 1 - e, None),
    "the product is clipped, not the ratio": lambda r, a, e: smaller_of(r * a, 1, 1 - e, 1 + e),
    "clipped to -epsilon ... epsilon, not around 1": lambda r, a, e: smaller_of(r, a, -e, e),
}
OF_RATIOS = OF_CLIPS | {
    "its sign is turned: this is the loss, the surrogate is maximised": lambda *x: -surrogate(*x),
    "a mean over all, where each has its own": lambda *x: surrogate(*x).mean(),
}


def later_sums(deltas: np.ndarray, factor: float) -> np.ndarray:
    return gae(deltas, 0 * deltas, 1.0, factor)


FIVE_STEPS = [0.3, -1, 0, 0.5, 2], [0.4, 1.2, -0.3, 0.8, 0.1], 0.9, 0.7
STEPS = ([2], [0.5], 0.5, 0.5), ([0, 1], [0.5, 0.6], 0.9, 0.5), FIVE_STEPS
OF_STEPS = {  # r: rewards, v: values, g: gamma; gae(r, v, g, 0) are the TD errors
    "lambda and gamma are exchanged": lambda r, v, g, lam: gae(r, v, lam, g),
    "lambda is dropped: returns minus values": lambda r, v, g, lam: gae(r, v, g, 1.0),
    "the TD errors alone, as if lambda were 0": lambda r, v, g, lam: gae(r, v, g, 0.0),
    "gamma is dropped": lambda r, v, g, lam: gae(r, v, 1.0, lam),
    "the next value lacks gamma": lambda r, v, g, lam: later_sums(gae(r, v, 1.0, 0.0), g * lam),
    "gamma is missing in (gamma lambda)^l": lambda r, v, g, lam: later_sums(gae(r, v, g, 0.0), lam),
    "only the next TD error is added, not all later ones": (
        lambda r, v, g, lam: np.convolve(gae(r, v, g, 0.0), [g * lam, 1.0])[1:]
    ),
    "behind the last step stands its own value, where it is 0": (
        lambda r, v, g, lam: gae(np.append(r, v[-1]), np.append(v, v[-1]), g, lam)[:-1]
    ),
    "the next value is missing in the TD errors": lambda r, v, g, lam: later_sums(r - v, g * lam),
    "the values are missing: discounted rewards": lambda r, v, g, lam: gae(r, 0 * v, g, lam),
    "the value of the step itself is not subtracted": lambda r, v, g, lam: gae(r, v, g, lam) + v,
    "the sum runs over earlier TD errors, where it is over later ones": (
        lambda r, v, g, lam: later_sums(gae(r, v, g, 0.0)[::-1], g * lam)[::-1]
    ),
    "its sign is turned": lambda *x: -gae(*x),
}


def with_other(name: str, formula):
    """The estimators, one of them by another formula of x = ref_logp - logp."""
    return lambda logp, ref_logp: estimators(logp, ref_logp) | {name: formula(ref_logp - logp)}


NEARLY_EQUAL = np.array([-2.0], np.float32), np.array([-1.9997], np.float32)
LOGPS = ([-1], [-2]), ([-1, -2, -0.3], [-1.5, -1, -0.2]), NEARLY_EQUAL
OF_LOGPS = {
    "policy and reference are exchanged": lambda logp, ref_logp: estimators(ref_logp, logp),
    "k1 has the wrong sign": with_other("k1", lambda x: x),
    "the half of k2 is missing": with_other("k2", np.square),
    "k3 has x with the wrong sign": with_other("k3", lambda x: np.expm1(-x) + x),
    "the 1 of k3 is missing": with_other("k3", lambda x: np.expm1(x) - x + 1),
    "the x of k3 is missing": with_other("k3", np.expm1),
    "k3 loses digits near 0: np.expm1 keeps them": with_other("k3", lambda x: np.exp(x) - 1 - x),
    "these are means over the samples, where each sample has its own": (
        lambda *logps: {name: each.mean() for name, each in estimators(*logps).items()}
    ),
}


mean_of = partial(np.mean, axis=-1, keepdims=True)
TWELVE_REWARDS = np.random.default_rng(0).normal(size=(3, 4))
REWARDS = [[[1, 0, 0]]], [[[1, 2, 4], [0, 5, -1]]], [TWELVE_REWARDS]
OF_REWARDS = {
    "the response's own reward is in its baseline": lambda r: r - mean_of(r),
    "the others are of the same column: average over a prompt": lambda r: leave_one_out(r.T).T,
    "the baseline is the mean of all prompts' rewards": lambda r: r - r.mean(),
    "the others' sum is subtracted, not their mean": lambda r: 2 * r - r.sum(-1, keepdims=True),
    "the others' sum is divided by K, not K - 1": lambda r: r - mean_of(r) + r / r.shape[-1],
    "divided by the std, as GRPO does": lambda r: (r - mean_of(r)) / r.std(-1, keepdims=True),
    "this is the baseline; the advantage is the reward minus it": lambda r: r - leave_one_out(r),
    "its sign is turned": lambda r: -leave_one_out(r),
}


def with_values(formula):
    """A formula of rewards, n and values, which are the rewards where none are given."""
    return lambda r, n, values=None: formula(r, n, r if values is None else values)


def untie(rewards: np.ndarray, sign: int) -> np.ndarray:
    """Rewards of which the later (+1) or the earlier (-1) of equal ones is a little better."""
    return rewards + sign * 1e-12 * np.arange(len(rewards))


def evenly(rewards: np.ndarray) -> np.ndarray:
    return np.full(len(rewards), 1 / len(rewards))


OF_FIVE = [1, 3, 2, 2, 0], 3, [2, -1, 5, 1, 0.5]
OF_MANY = np.random.default_rng(0).normal(size=400), 64
POOLS = ([0, 1], 1), ([0, 1, 3], 2), ([0, 1, 3], 2, [4, 2, -1]), OF_FIVE, OF_MANY
OF_POOLS = {  # r: rewards, v: values
    "this draws with replacement": with_values(lambda r, n, v: policy_of(evenly(r), r, n) @ v),
    "this is the worst of n": with_values(lambda r, n, v: best_of(-r, n, v)),
    "the best of the first n, not of all subsets": with_values(lambda r, n, v: v[r[:n].argmax()]),
    "this is the best of the whole pool, whatever n is": with_values(lambda r, n, v: v[r.argmax()]),
    "the values choose; the rewards do": with_values(lambda r, n, v: best_of(v, n)),
    "the values are ignored: the rewards only choose": lambda r, n, v=None: best_of(r, n),
    "equal rewards share; the first is taken": lambda r, n, *v: best_of(untie(r, -1), n, *v),
    "equal rewards share; the last is taken": lambda r, n, *v: best_of(untie(r, 1), n, *v),
    "n is one too large": lambda r, n, *v: best_of(r, min(n + 1, len(r)), *v),
    "not divided by C(M, n) subsets": lambda r, n, *v: best_of(r, n, *v) * comb(len(r), n),
}


def all_equal(ref: np.ndarray, rewards: np.ndarray, n: int) -> np.ndarray:
    """The common probability of all responses with the same reward."""
    return (rewards == rewards[:, None]) @ policy_of(ref, rewards, n)


TIES, UNSAID_BEST = ([0.4, 0.1, 0.3, 0.2], [1, 1, 0, 2], 4), ([0.5, 0.5, 0], [0, 1, 2], 2)
POLICIES = ([0.75, 0.25], [0, 1], 2), ([0.5, 0.3, 0.2], [2, 0, 1], 3), TIES, UNSAID_BEST
OF_POLICIES = {  # p: the reference's probabilities, r: rewards
    "this is F^n, the probability that the best is no better: subtract that of a lower one": (
        lambda p, r, n: ((r <= r[:, None]) @ p) ** n
    ),
    "this is the probability to be among the n, best or not": lambda p, r, n: 1 - (1 - p) ** n,
    "this is the worst of n": lambda p, r, n: policy_of(p, -r, n),
    "ranked by their places, not by rewards": lambda p, r, n: policy_of(p, np.arange(len(r)), n),
    "ranked by their probabilities, not by rewards": lambda p, r, n: policy_of(p, p, n),
    "equal rewards share; the first is taken": lambda p, r, n: policy_of(p, untie(r, -1), n),
    "equal rewards share; the last is taken": lambda p, r, n: policy_of(p, untie(r, 1), n),
    "equal rewards share alike, where they share by their probabilities": (
        lambda p, r, n: all_equal(p, r, n) / (r == r[:, None]).sum(-1)
    ),
    "equal rewards are all given their common probability, which they share": all_equal,
    "n is one too large": lambda p, r, n: policy_of(p, r, n + 1),
    "the reference is missing, as if it were uniform": lambda p, r, n: policy_of(evenly(r), r, n),
}

NUMBERS = (1,), (2,), (4,), (np.array([1, 8, 64]),)
OF_NUMBERS = {
    "this is log n, without what is taken off": lambda n: np.log(n),
    "its sign is turned": lambda n: -bound(n),
    "(n - 1) / n is added, where it is subtracted": lambda n: np.log(n) + (n - 1) / n,
    "n - 1 is not divided by n": lambda n: np.log(n) - (n - 1),
    "1 / n is subtracted, where it is (n - 1) / n": lambda n: np.log(n) - 1 / n,
    "n / (n + 1) is subtracted, where it is (n - 1) / n": lambda n: np.log(n) - n / (n + 1),
    "this is in bits; nats take the natural logarithm": lambda n: np.log2(n) - (n - 1) / n,
}

SAMPLES = (
    make_exercise("e01_plackett_luce_nll", nll, RANKINGS, OF_RANKINGS),
    make_exercise("e03_kl_regularized_optimum", optimum, OPTIMA, OF_OPTIMA),
    make_exercise("e04_clipped_surrogate", surrogate, RATIOS, OF_RATIOS),
    make_exercise("e05_generalized_advantage_estimate", gae, STEPS, OF_STEPS),
    make_exercise("e06_kl_estimators", estimators, LOGPS, OF_LOGPS),
    make_exercise("e07_leave_one_out_advantages", leave_one_out, REWARDS, OF_REWARDS),
    make_exercise("e11_expected_best_of_n", best_of, POOLS, OF_POOLS),
    make_exercise("e12_best_of_n_policy", policy_of, POLICIES, OF_POLICIES),
    make_exercise("e13_best_of_n_kl_bound", bound, NUMBERS, OF_NUMBERS),
)
