"""Exercise 1. Preference data formats: how probable is a ranking?

Three responses are ranked. The best was chosen among three, the second among the two that were
left. Write the negative log of the probability that this happens, if a response of score s is
chosen with a probability proportional to exp(s).
Predict first: what does a ranking of three cost when all scores are equal? (log 6: why?)
"""

import numpy as np


def plackett_luce_nll(scores_in_rank_order: np.ndarray) -> np.ndarray:
    """Negative log-probability of each ranking, in nats: (...).

    scores_in_rank_order: (..., K), log-odds, the best first. Scores of 1000 must not overflow.
    """
    raise NotImplementedError
