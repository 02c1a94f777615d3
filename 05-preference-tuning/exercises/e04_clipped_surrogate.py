"""Exercise 4. PPO-based RLHF: the clip.

PPO reads a batch several times. The ratio says how much more probable the policy has made a sample
since it was drawn; once the policy has moved by epsilon in the direction that the advantage asks
for, moving further should not pay. A move in the wrong direction should always cost. Write what PPO
maximises.
Predict first: in which of the four cases (advantage up or down, ratio above 1 + epsilon or below
1 - epsilon) is the gradient zero?
"""

import numpy as np


def clipped_surrogate(ratio: np.ndarray, advantage: np.ndarray, epsilon: float) -> np.ndarray:
    """What PPO maximises, for each sample: in the shape of the inputs.

    ratio: pi / pi_old; advantage: in units of the reward; epsilon: how far the ratio may move.
    """
    raise NotImplementedError
