"""The exercises on RLHF's objective: inputs, and the mistakes that one makes."""

from support.grading.grade import Exercise

import numpy as np
from rlhf_objectives import (
    clipped_surrogate,
    generalized_advantage_estimate,
    kl_estimators,
    kl_regularized_optimum,
)

# --- The optimum with a KL term ---


def without_division(ref: np.ndarray, rewards: np.ndarray, beta: float) -> np.ndarray:
    return ref * np.exp(rewards / beta)


def divided_by_all(ref: np.ndarray, rewards: np.ndarray, beta: float) -> np.ndarray:
    """One Z for all prompts."""
    return kl_regularized_optimum(ref.ravel(), rewards.ravel(), beta).reshape(ref.shape)


OPTIMUM = Exercise(
    "e03_kl_regularized_optimum",
    kl_regularized_optimum,
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
        "beta multiplies the reward; it divides it": (
            lambda ref, rewards, beta: kl_regularized_optimum(ref, rewards, 1 / beta)
        ),
        "beta is dropped": lambda ref, rewards, beta: kl_regularized_optimum(ref, rewards, 1.0),
        "beta is squared": lambda ref, rewards, beta: kl_regularized_optimum(ref, rewards, beta**2),
        "the sign of the reward is turned": (
            lambda ref, rewards, beta: kl_regularized_optimum(ref, -rewards, beta)
        ),
        "the reference is missing: this is the softmax of r / beta": (
            lambda ref, rewards, beta: kl_regularized_optimum(np.ones_like(ref), rewards, beta)
        ),
        "the reference's log-probabilities are divided by beta, too": (
            lambda ref, rewards, beta: kl_regularized_optimum(ref ** (1 / beta), rewards, beta)
        ),
        "Z is missing: the probabilities do not add up to 1": without_division,
        "one Z for all prompts: the probabilities of each prompt add up to 1": divided_by_all,
        "this is the log-probability": (
            lambda ref, rewards, beta: np.log(kl_regularized_optimum(ref, rewards, beta))
        ),
    },
)

# --- PPO's clip ---


def clip(ratio: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(ratio, low, high)


CLIP = Exercise(
    "e04_clipped_surrogate",
    clipped_surrogate,
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
            lambda ratio, a, eps: np.maximum(ratio * a, clip(ratio, 1 - eps, 1 + eps) * a)
        ),
        "nothing is clipped": lambda ratio, a, eps: clipped_surrogate(ratio, a, np.inf),
        "only the clipped ratio counts: a move in the wrong direction must not be clipped": (
            lambda ratio, a, eps: clip(ratio, 1 - eps, 1 + eps) * a
        ),
        "its sign is turned: this is the loss, the surrogate is maximised": (
            lambda ratio, a, eps: -clipped_surrogate(ratio, a, eps)
        ),
        "the ratio is clipped from above only": (
            lambda ratio, a, eps: np.minimum(ratio * a, clip(ratio, -np.inf, 1 + eps) * a)
        ),
        "the ratio is clipped from below only": (
            lambda ratio, a, eps: np.minimum(ratio * a, clip(ratio, 1 - eps, np.inf) * a)
        ),
        "the product with the advantage is clipped, where only the ratio is": (
            lambda ratio, a, eps: np.minimum(ratio * a, clip(ratio * a, 1 - eps, 1 + eps))
        ),
        "the ratio is clipped to -epsilon ... epsilon, where it lies around 1": (
            lambda ratio, a, eps: np.minimum(ratio * a, clip(ratio, -eps, eps) * a)
        ),
        "a mean over all, where each has its own": (
            lambda ratio, a, eps: clipped_surrogate(ratio, a, eps).mean()
        ),
    },
)

# --- Generalised advantage estimation ---


def td_errors(rewards: np.ndarray, values: np.ndarray, gamma: float) -> np.ndarray:
    return generalized_advantage_estimate(rewards, values, gamma, 0.0)


def discounted(deltas: np.ndarray, factor: float) -> np.ndarray:
    """Sums of what comes later, discounted."""
    return generalized_advantage_estimate(deltas, np.zeros_like(deltas), 1.0, factor)


def one_step_ahead(rewards, values, gamma, lam) -> np.ndarray:
    deltas = td_errors(rewards, values, gamma)
    return deltas + gamma * lam * np.append(deltas[1:], 0.0)


def last_value_repeated(rewards, values, gamma, lam) -> np.ndarray:
    """As if the last state's value stood behind the end."""
    bootstrapped = rewards + gamma * np.append(np.zeros(len(values) - 1), values[-1])
    return generalized_advantage_estimate(bootstrapped, values, gamma, lam)


GAE = Exercise(
    "e05_generalized_advantage_estimate",
    generalized_advantage_estimate,
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
        "lambda and gamma are exchanged": lambda r, v, gamma, lam: generalized_advantage_estimate(
            r, v, lam, gamma
        ),
        "lambda is dropped: this is returns minus values": (
            lambda r, v, gamma, lam: generalized_advantage_estimate(r, v, gamma, 1.0)
        ),
        "these are the TD errors alone, as if lambda were 0": (
            lambda r, v, gamma, lam: td_errors(r, v, gamma)
        ),
        "gamma is dropped": lambda r, v, gamma, lam: generalized_advantage_estimate(r, v, 1.0, lam),
        "gamma is missing before the next value": (
            lambda r, v, gamma, lam: discounted(td_errors(r, v, 1.0), gamma * lam)
        ),
        "gamma is missing in the sum: later TD errors count (gamma lambda)^l": (
            lambda r, v, gamma, lam: discounted(td_errors(r, v, gamma), lam)
        ),
        "only the next TD error is added, not all later ones": one_step_ahead,
        "behind the last step stands its own value, where it is 0": last_value_repeated,
        "the next value is missing in the TD errors": (
            lambda r, v, gamma, lam: discounted(r - v, gamma * lam)
        ),
        "the values are missing: these are discounted rewards": (
            lambda r, v, gamma, lam: discounted(r, gamma * lam)
        ),
        "the value of the step itself is not subtracted": (
            lambda r, v, gamma, lam: generalized_advantage_estimate(r, v, gamma, lam) + v
        ),
        "the sum runs over earlier TD errors, where it is over later ones": (
            lambda r, v, gamma, lam: discounted(td_errors(r, v, gamma)[::-1], gamma * lam)[::-1]
        ),
        "its sign is turned": (
            lambda r, v, gamma, lam: -generalized_advantage_estimate(r, v, gamma, lam)
        ),
    },
)

# --- Estimators of the KL ---


def k3_of(logp: np.ndarray, ref_logp: np.ndarray, k3: np.ndarray) -> dict[str, np.ndarray]:
    """The right k1 and k2, and another k3."""
    return {**kl_estimators(logp, ref_logp), "k3": k3}


def averaged(logp: np.ndarray, ref_logp: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values.mean() for name, values in kl_estimators(logp, ref_logp).items()}


def whole_squares(logp: np.ndarray, ref_logp: np.ndarray) -> dict[str, np.ndarray]:
    return {**kl_estimators(logp, ref_logp), "k2": (ref_logp - logp) ** 2}


KL = Exercise(
    "e06_kl_estimators",
    kl_estimators,
    [
        {"logp": np.array([-1.0]), "ref_logp": np.array([-2.0])},
        {"logp": np.array([-1.0, -2.0, -0.3]), "ref_logp": np.array([-1.5, -1.0, -0.2])},
        {"logp": np.array([-2.0], np.float32), "ref_logp": np.array([-1.9997], np.float32)},
    ],
    {
        "policy and reference are exchanged": (
            lambda logp, ref_logp: kl_estimators(ref_logp, logp)
        ),
        "k1 has the wrong sign": (
            lambda logp, ref_logp: {**kl_estimators(logp, ref_logp), "k1": ref_logp - logp}
        ),
        "the half of k2 is missing": whole_squares,
        "k3 has x with the wrong sign": (
            lambda logp, ref_logp: k3_of(logp, ref_logp, kl_estimators(ref_logp, logp)["k3"])
        ),
        "the 1 of k3 is missing": (
            lambda logp, ref_logp: k3_of(logp, ref_logp, kl_estimators(logp, ref_logp)["k3"] + 1)
        ),
        "the x of k3 is missing": (
            lambda logp, ref_logp: k3_of(logp, ref_logp, np.expm1(ref_logp - logp))
        ),
        "k3 loses its digits near the reference, and may fall below 0: np.expm1 keeps them": (
            lambda logp, ref_logp: k3_of(
                logp, ref_logp, np.exp(ref_logp - logp) - 1 - (ref_logp - logp)
            )
        ),
        "these are means over the samples, where each sample has its own": averaged,
    },
)
