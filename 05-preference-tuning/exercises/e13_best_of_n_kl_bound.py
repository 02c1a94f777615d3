"""Exercise 13. Best-of-N: how far can it move?

If no two responses have the same reward and none is likely, the best of n draws has n u^(n - 1) as
its density, where u is the share of responses that are worse. Its KL from the uniform density is
the largest that best-of-n can have. Integrate.
Predict first: what is it for n = 1? By how many nats does it grow when a large n is doubled?
"""

import numpy as np


def best_of_n_kl_bound(n: int | np.ndarray) -> float | np.ndarray:
    """The largest KL of best-of-n from its reference, in nats; n: a number, or any shape."""
    raise NotImplementedError
