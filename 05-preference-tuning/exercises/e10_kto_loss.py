"""Exercise 10. DPO variants: KTO, without pairs.

Every response is either good or bad. The gain of a good one is how far its log-ratio (policy to
reference) lies above a reference point, that of a bad one how far it lies below. Its value is
sigmoid(beta gain), times the weight of its kind; the loss is the weight minus the value.
Predict first: what is the loss before training, if the reference point is 0?
"""

import torch


def kto_loss(
    policy_logps, ref_logps, labels, kl, beta: float, desirable_weight=1.0, undesirable_weight=1.0
) -> torch.Tensor:
    """KTO's loss of each response: (B,), with a gradient to policy_logps.

    policy_logps, ref_logps: tensors (B,), in nats, summed over tokens; labels: (B,), True for good
    responses; kl: (), the reference point in nats, at least 0.
    """
    raise NotImplementedError
