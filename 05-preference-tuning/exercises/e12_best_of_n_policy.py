"""Exercise 12. Best-of-N: the policy that it is.

Best-of-n trains nothing, yet its answers have a distribution of their own. Of a handful of
responses it can be written down: how probable is each to be the best of n draws from the reference?
Predict first: the reference says a bad response with probability 0.75 and a good one with 0.25. How
probable is the good one with n = 2?
"""

import numpy as np


def best_of_n_policy(ref_probs: np.ndarray, rewards: np.ndarray, n: int) -> np.ndarray:
    """The probability (K,) of each response to be the best of n independent draws.

    ref_probs: (K,), add up to 1; rewards: (K,); equal ones share by their probabilities.
    """
    raise NotImplementedError
