"""Exercise 14. DPO from scratch: the loop itself.

Two functions, about forty lines: what a model thinks of responses, and the training. Batches,
log-probabilities, reference, loss, optimiser; no trainer. It is trained on the lab's tiny-gpt2 and
compared with TRL's DPOTrainer: the losses of a few steps, then the share of good answers and the KL
after a whole training.

What may be used: encode_prompt(tokenizer, prompt) and encode_response(tokenizer, response) give
lists of token ids, a response's with the EOS that ends it.
Predict first: the loss of the first step, and the share of good answers at the end (36 % before).
"""

import torch

from common.prompts import encode_prompt, encode_response  # noqa: F401


def response_logps(model, tokenizer, prompts: list[str], responses: list[str]) -> torch.Tensor:
    """log pi(response | prompt) in nats, summed over the response's tokens: (N,), with a gradient.

    Model and tokenizer are those of transformers. Rows have different lengths: pad them with
    tokenizer.pad_token_id, and let the attention mask say so. The EOS counts; prompt and padding do
    not.
    """
    raise NotImplementedError


def train_dpo(
    policy, tokenizer, pairs: list[dict], *, learning_rate: float, beta: float, batch_size: int
) -> list[float]:
    """Train the policy in place with DPO; returns the mean loss of every step.

    pairs: rows of "prompt", "chosen", "rejected", to be read once, in their order, batch_size of
    them in each step. The policy is a model with a LoRA adapter; inside `with
    policy.disable_adapter():` it is the reference. Only the adapter's weights require gradients.

    As TRL does it: AdamW without weight decay; gradients clipped to a norm of 1 (few steps reach
    it, and the checker does not see whether you clip); a learning rate
    that rises for a tenth of the steps (rounded up) and falls linearly to 0, which is
    transformers.get_linear_schedule_with_warmup. Dropout is off: TRL's DPOTrainer turns it off
    (disable_dropout), and the checker has done so in this policy.
    """
    raise NotImplementedError
