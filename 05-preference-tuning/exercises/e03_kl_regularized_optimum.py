"""Exercise 3. PPO-based RLHF: where does it want to go?

RLHF maximises E[r] - beta KL(pi || pi_ref). For a handful of responses the best policy can be
written down, without any training. Write it.
Predict first: which policy is it for a very large beta, and which for a very small one? Can it say
what the reference never says?
"""

import numpy as np


def kl_regularized_optimum(ref_probs: np.ndarray, rewards: np.ndarray, beta: float) -> np.ndarray:
    """The probabilities (..., K) with the largest E[r] - beta KL(pi || pi_ref).

    ref_probs, rewards: (..., K), of K responses to each prompt; beta: in units of the reward. A
    beta of 0.001 must not overflow.
    """
    raise NotImplementedError
