"""The exercises on rankings and on samples of a policy: inputs, and the mistakes that one makes."""

from math import comb

from support.grading.grade import Exercise

import numpy as np
from best_of_n import best_of_n_kl_bound, best_of_n_policy, expected_best_of_n
from online_rl import leave_one_out_advantages
from preference_data_explorer import plackett_luce_nll

# --- Plackett-Luce ---


def pairwise_losses(scores: np.ndarray) -> np.ndarray:
    """Bradley-Terry losses of all pairs of a ranking: (..., K) -> (..., K (K - 1) / 2)."""
    better, worse = np.triu_indices(scores.shape[-1], 1)
    return plackett_luce_nll(np.stack([scores[..., better], scores[..., worse]], -1))


def choices_from_all(scores: np.ndarray) -> np.ndarray:
    """As if what was chosen could be chosen again."""
    return (np.logaddexp.reduce(scores, -1, keepdims=True) - scores).sum(-1)


PLACKETT_LUCE = Exercise(
    "e01_plackett_luce_nll",
    plackett_luce_nll,
    [
        {"scores_in_rank_order": np.array([1.0, 0.0])},
        {"scores_in_rank_order": np.array([2.0, 0.5, -1.0])},
        {"scores_in_rank_order": np.array([1000.0, 0.0, -1000.0])},
        {"scores_in_rank_order": np.array([[0.3, 1.2, -0.7, 2.0], [1.0, 0.9, 0.4, -2.0]])},
    ],
    {
        "its sign is turned: this is the log-probability": lambda s: -plackett_luce_nll(s),
        "the ranking is read from its wrong end": lambda s: plackett_luce_nll(s[..., ::-1]),
        "what was chosen stays in the pool; the next is chosen among the rest": choices_from_all,
        "this is the mean of the pairwise losses; a ranking is K - 1 choices among ever fewer": (
            lambda s: pairwise_losses(s).mean(-1)
        ),
        "this is the sum of the pairwise losses; a ranking is K - 1 choices among ever fewer": (
            lambda s: pairwise_losses(s).sum(-1)
        ),
        "a mean over the K items where the losses of the choices add up": (
            lambda s: plackett_luce_nll(s) / s.shape[-1]
        ),
        "a mean over the K - 1 choices where their losses add up": (
            lambda s: plackett_luce_nll(s) / (s.shape[-1] - 1)
        ),
        "only the first choice counts": (
            lambda s: plackett_luce_nll(s) - plackett_luce_nll(s[..., 1:])
        ),
        "one number for all rankings, where each has its own": lambda s: plackett_luce_nll(s).sum(),
    },
)

# --- Leave one out ---


def with_itself(rewards: np.ndarray) -> np.ndarray:
    return rewards - rewards.mean(-1, keepdims=True)


LEAVE_ONE_OUT = Exercise(
    "e07_leave_one_out_advantages",
    leave_one_out_advantages,
    [
        {"rewards": np.array([[1.0, 0.0, 0.0]])},
        {"rewards": np.array([[1.0, 2.0, 4.0], [0.0, 5.0, -1.0]])},
        {"rewards": np.random.default_rng(0).normal(size=(3, 4))},
    ],
    {
        "the response's own reward is in its baseline": with_itself,
        "the others are those of the same column: average over a prompt's responses": (
            lambda rewards: leave_one_out_advantages(rewards.T).T
        ),
        "the baseline is the mean of all prompts' rewards": lambda rewards: (
            rewards - rewards.mean()
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
            lambda rewards: rewards - leave_one_out_advantages(rewards)
        ),
        "its sign is turned": lambda rewards: -leave_one_out_advantages(rewards),
    },
)

# --- Best of n ---


def uniform(rewards: np.ndarray) -> np.ndarray:
    return np.full(len(rewards), 1 / len(rewards))


def with_replacement(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    """As if one response of the pool could be drawn several times."""
    return float(best_of_n_policy(uniform(rewards), rewards, n) @ _values(rewards, values))


def of_the_worst(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    return expected_best_of_n(-rewards, n, _values(rewards, values))


def of_one_subset(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    return float(_values(rewards, values)[np.argmax(rewards[:n])])


def of_the_best(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    return float(_values(rewards, values)[np.argmax(rewards)])


def best_value(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    """As if the values chose."""
    return expected_best_of_n(_values(rewards, values), n)


def first_of_ties(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    return expected_best_of_n(without_ties(rewards), n, _values(rewards, values))


def last_of_ties(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    latest = without_ties(rewards[::-1])[::-1]
    return expected_best_of_n(latest, n, _values(rewards, values))


def one_more(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    return expected_best_of_n(rewards, min(n + 1, len(rewards)), values)


def not_divided(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    return expected_best_of_n(rewards, n, values) * comb(len(rewards), n)


def _values(rewards: np.ndarray, values: np.ndarray | None) -> np.ndarray:
    return rewards if values is None else values


def without_ties(rewards: np.ndarray) -> np.ndarray:
    """Ranks (K,) of rewards; of equal ones the earlier is the better."""
    order = np.lexsort([-np.arange(len(rewards)), rewards])
    return np.argsort(order).astype(float)


POOL = np.array([1.0, 3.0, 2.0, 2.0, 0.0])
GOLD = np.array([2.0, -1.0, 5.0, 1.0, 0.5])
EXPECTED = Exercise(
    "e11_expected_best_of_n",
    expected_best_of_n,
    [
        {"rewards": np.array([0.0, 1.0]), "n": 1},
        {"rewards": np.array([0.0, 1.0, 3.0]), "n": 2},
        {"rewards": np.array([0.0, 1.0, 3.0]), "n": 2, "values": np.array([4.0, 2.0, -1.0])},
        {"rewards": np.array([0.0, 1.0]), "n": 3},
        {"rewards": np.array([0.0, 1.0]), "n": 0},
        {"rewards": POOL, "n": 3, "values": GOLD},
        {"rewards": np.random.default_rng(0).normal(size=400), "n": 64},
    ],
    {
        "the pool is drawn from with replacement: no response is drawn twice": with_replacement,
        "this is the worst of n": of_the_worst,
        "this is the best of one subset, the first n; the mean is over all subsets": of_one_subset,
        "this is the best of the whole pool, whatever n is": of_the_best,
        "the values choose; the rewards do": best_value,
        "the values are ignored: the rewards only choose": (
            lambda rewards, n, values=None: expected_best_of_n(rewards, n)
        ),
        "of equal rewards the first is taken, where they share": first_of_ties,
        "of equal rewards the last is taken, where they share": last_of_ties,
        "n is one too large": one_more,
        "not divided by the number of subsets, C(M, n)": not_divided,
    },
)

# --- The policy of best-of-n ---


def up_to(ref: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """The probability of a reward up to each one."""
    return (ref * (rewards <= rewards[:, None])).sum(-1)


def shared_equally(ref: np.ndarray, rewards: np.ndarray, n: int) -> np.ndarray:
    """Equal rewards share alike, whatever their probabilities."""
    policy = best_of_n_policy(ref, rewards, n)
    equal = rewards == rewards[:, None]
    return (equal * policy).sum(-1) / equal.sum(-1)


POLICY = Exercise(
    "e12_best_of_n_policy",
    best_of_n_policy,
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
        "this is the worst of n": lambda ref, rewards, n: best_of_n_policy(ref, -rewards, n),
        "the responses are ranked by their places, not by their rewards": (
            lambda ref, rewards, n: best_of_n_policy(ref, np.arange(len(ref)), n)
        ),
        "the responses are ranked by their probabilities, not by their rewards": (
            lambda ref, rewards, n: best_of_n_policy(ref, ref, n)
        ),
        "of equal rewards the first is taken, where they share by their probabilities": (
            lambda ref, rewards, n: best_of_n_policy(ref, without_ties(rewards), n)
        ),
        "of equal rewards the last is taken, where they share by their probabilities": (
            lambda ref, rewards, n: best_of_n_policy(ref, without_ties(rewards[::-1])[::-1], n)
        ),
        "equal rewards share alike, where they share by their probabilities": shared_equally,
        "equal rewards are all given their common probability, which they share": (
            lambda ref, rewards, n: (
                best_of_n_policy(ref, rewards, n) @ (rewards == rewards[:, None])
            )
        ),
        "n is one too large": lambda ref, rewards, n: best_of_n_policy(ref, rewards, n + 1),
        "the reference is missing: as if all responses were equally likely": (
            lambda ref, rewards, n: best_of_n_policy(uniform(rewards), rewards, n)
        ),
    },
)

# --- How far best-of-n moves ---

BOUND = Exercise(
    "e13_best_of_n_kl_bound",
    best_of_n_kl_bound,
    [{"n": 1}, {"n": 2}, {"n": 4}, {"n": np.array([1, 8, 64])}],
    {
        "this is log n, without what is taken off": lambda n: np.log(n),
        "its sign is turned": lambda n: -best_of_n_kl_bound(n),
        "(n - 1) / n is added, where it is subtracted": lambda n: np.log(n) + (n - 1) / n,
        "n - 1 is not divided by n": lambda n: np.log(n) - (n - 1),
        "1 / n is subtracted, where it is (n - 1) / n": lambda n: np.log(n) - 1 / n,
        "n / (n + 1) is subtracted, where it is (n - 1) / n": lambda n: np.log(n) - n / (n + 1),
        "this is in bits; nats take the natural logarithm": lambda n: np.log2(n) - (n - 1) / n,
    },
)
