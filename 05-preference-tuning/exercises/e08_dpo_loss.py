"""Exercise 8. DPO: a loss without a reward model.

The policy itself implies a reward: beta times its log-probability of an answer, minus the
reference's. Put the rewards of both answers into Bradley and Terry's loss, which is
-log sigmoid(difference), and nothing else is needed.
Predict first: what is the loss before training, while policy and reference are the same? In which
direction does a step move log pi of chosen and of rejected?
"""

import torch


def dpo_loss(
    policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta
) -> torch.Tensor:
    """DPO's loss of each pair, in nats: (B,), with a gradient to the policy's log-probabilities.

    All four: tensors (B,), in nats, summed over the tokens of an answer; beta: a number. A
    margin of -9000 nats must not overflow.
    """
    raise NotImplementedError
