"""Exercise 11. Best-of-N: one pool for every n.

A pool holds M responses with their rewards. Draw n of them, no response twice, and keep the one
with the largest reward: what is its value on average over all subsets of n? Write the exact mean,
without drawing. (Sort by reward. In how many subsets is the i-th smallest the largest?)
Predict first: what is it for n = 1, and for n = M? Its binary case has a name in code evaluation.
"""

import numpy as np


def expected_best_of_n(rewards: np.ndarray, n: int, values: np.ndarray | None = None) -> float:
    """The mean over all subsets of n of the value of the response with the largest reward.

    rewards: (M,), rank the pool; values: (M,), are averaged (default: the rewards). Responses with
    equal rewards share: each counts with their mean value. M = 400 and n = 64 must not overflow.
    """
    raise NotImplementedError
