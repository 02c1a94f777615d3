"""Exercise 2. Reward models: the loss of a comparison.

A reward model gives the chosen response one number and the rejected response another. Write the
loss that it is trained with: the negative log-likelihood of the choices.
Predict first: what is the loss of a reward model that knows nothing and gives every response the
same number? And what becomes of the loss when 5 is added to all rewards?
"""

import torch


def bradley_terry_loss(chosen_rewards, rejected_rewards) -> torch.Tensor:
    """Mean of the negative log-probability that chosen beats rejected, in nats: a tensor ().

    Both rewards: tensors (B,), log-odds. A margin of -900 must not overflow.
    """
    raise NotImplementedError
