"""Exercise 17. Online RL: PPO's update.

The answers of a batch were sampled by the policy as it was then (old), which is now trained on
them. Put together: the ratio from log-probabilities, the clip of exercise 4, the mask. What comes
out is what an optimiser makes small.
Predict first: what is the loss of the first step, when nothing has moved yet? Does its gradient
vanish, too?
"""

import torch


def ppo_loss(logps, old_logps, advantages, mask, epsilon: float) -> torch.Tensor:
    """PPO's loss of a batch, a mean over all tokens of its answers: a tensor (), with a gradient.

    logps, old_logps: (B, T), of each token now and when it was sampled, in nats; advantages:
    (B, T); mask: (B, T), 1 on the answers' tokens, where the others hold any number.
    """
    raise NotImplementedError
