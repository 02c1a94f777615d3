"""Exercise 6. PPO-based RLHF: how far has the policy moved?

The KL from the reference is an expectation over the policy's own samples. Of each sample its two
log-probabilities are known. Write the three estimators that are in use; with x = the reference's
log-probability minus the policy's they are -x, x^2 / 2 and e^x - 1 - x.
Predict first: which of them can be negative for a single sample? Which are right on average?
"""

import numpy as np


def kl_estimators(logp: np.ndarray, ref_logp: np.ndarray) -> dict[str, np.ndarray]:
    """KL(pi || pi_ref) in nats, by each sample of pi alone: {"k1": ..., "k2": ..., "k3": ...}.

    logp, ref_logp: of samples, under policy and reference, in nats, any shape; each estimator has
    it, too. In float32 k3 must not fall below 0 where the two are nearly equal.
    """
    raise NotImplementedError
