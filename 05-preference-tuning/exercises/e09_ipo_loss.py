"""Exercise 9. DPO variants: IPO, a loss that stops.

On a pair that always wins, DPO's margin grows without end. IPO asks for a margin of 1 / (2 beta)
between the log-ratio of chosen (policy to reference) and that of rejected, and pays the squared
distance from it.
Predict first: what is the loss before training? Where is its gradient zero?
"""

import torch


def ipo_loss(
    policy_chosen_logps,
    policy_rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    beta: float,
    chosen_lengths=1,
    rejected_lengths=1,
) -> torch.Tensor:
    """IPO's loss of each pair, in nats squared: (B,), with a gradient to the policy's.

    All log-probabilities: tensors (B,), in nats, summed over the tokens of a response; the lengths
    (B,), in tokens, make a mean per token of each side's log-ratio, where they are given.
    """
    raise NotImplementedError
