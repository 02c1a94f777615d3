"""Exercise 15. DPO: how probable is an answer to the model?

A language model gives, at each token, the logits of the next one. Every loss of preference tuning
starts with the log-probability of an answer: shift, mask, gather, and sum over its tokens.
Predict first: at which place are the logits of the answer's first token? And which of two equally
good answers gets the lower log-probability, a short or a long one?
"""

import torch


def answer_logps(logits, ids, attention_mask, prompt_lengths) -> torch.Tensor:
    """log pi(answer | prompt) in nats, summed over each answer's tokens: (B,), with a gradient.

    logits: (B, T, V); ids: (B, T), token ids: the prompt, the answer with its EOS, padding;
    attention_mask: (B, T), 1 on prompt and answer, 0 on padding; prompt_lengths: (B,), in tokens.
    """
    raise NotImplementedError
