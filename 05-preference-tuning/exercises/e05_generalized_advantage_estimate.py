"""Exercise 5. PPO-based RLHF: how good was each token?

The reward comes at the end, the value model guesses on the way. The TD error of a step is how much
better things look one step later. The advantage of a step adds up its own TD error and all later
ones, each later step discounted by gamma lambda. Write it.
Predict first: what is left for lambda = 0, and what for lambda = 1 and gamma = 1?
"""

import numpy as np


def generalized_advantage_estimate(rewards, values, gamma: float, lam: float) -> np.ndarray:
    """The advantage of every step of one response.

    rewards, values: (T,), in units of the reward; behind the last step the value is 0. gamma
    discounts later rewards, lam trusts the values (0) or the rewards that came (1). Returns (T,).
    """
    raise NotImplementedError
