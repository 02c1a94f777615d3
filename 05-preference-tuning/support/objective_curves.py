"""What rlhf_objectives.py draws of its formulas, which it hands over."""

from collections.abc import Callable

from support.bandit import moments

import numpy as np


def clip_curves(clipped_surrogate: Callable, epsilon: float) -> dict:
    """The surrogate for advantages +1 and -1, at its ends and kinks."""
    ratio = np.array([0, 1 - epsilon, 1, 1 + epsilon, 2])
    up, down = (clipped_surrogate(ratio, sign, epsilon) for sign in (1, -1))
    return {"epsilon": epsilon, "ratio": ratio.tolist(), "up": up.tolist(), "down": down.tolist()}


def advantage_curves(estimate: Callable, gamma: float) -> dict:
    """Advantages (lam, T) of three steps with rewards 0, 0, 1 and values .5, .6, .7."""
    rewards, values = np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.6, 0.7])
    lams = np.linspace(0, 1, 21).round(2)
    rows = [estimate(rewards, values, gamma, lam).tolist() for lam in lams]
    return {"gamma": gamma, "lam": lams.tolist(), "advantages": rows}


def expected_estimates(kl_estimators: Callable, log_probs: np.ndarray, log_ref: np.ndarray) -> dict:
    """Mean of each estimator over samples of the policy, and its spread, in nats; both (N, K)."""
    log_probs = np.maximum(log_probs, -300)  # lower where the policy diverged
    estimates = kl_estimators(log_probs, log_ref)
    return {name: moments(np.exp(log_probs), values) for name, values in estimates.items()}
