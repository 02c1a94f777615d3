"""Exercise 7. Online RL: better than what?

The policy has answered every prompt K times. A response was good if it was better than its
siblings: the baseline of a response is the mean reward of the other responses to the same prompt.
Write the advantages.
Predict first: what do the advantages of a prompt add up to? What is learned from a prompt whose
responses all have the same reward?
"""

import numpy as np


def leave_one_out_advantages(rewards: np.ndarray) -> np.ndarray:
    """Advantages (P, K) from rewards (P, K): of K responses to each of P prompts."""
    raise NotImplementedError
