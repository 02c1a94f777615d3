"""Exercise 16. Online RL: the reward that PPO sees.

A reward model scores a whole answer, but PPO wants a reward for each token. Every token pays
beta (log pi - log pi_ref), the KL penalty; on the last token of the answer its score is added.
Predict first: what do the rewards of one answer add up to? Which of its tokens is rewarded while
policy and reference are still the same?
"""

import torch


def token_rewards(scores, logps, ref_logps, mask, beta: float) -> torch.Tensor:
    """The reward of every token, (B, T); 0 where there is no answer.

    scores: (B,), of whole answers; logps, ref_logps: (B, T), of each token under policy and
    reference, in nats; mask: (B, T), 1 on the answer's tokens, 0 on those of the prompt (in front)
    and on padding (behind), where logps hold any number; beta: in units of the score per nat.
    """
    raise NotImplementedError
