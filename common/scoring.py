"""Scoring text: rewards of responses by a reward model, A-or-B judgements by a language model.

A reward model sees the pair (prompt, response). Batches are sorted by length and shared among the
processes of `accelerate launch`.
"""

from typing import TYPE_CHECKING

from common.cli import UserError
from common.models import check_length, collect, format_prompt, my_batches, reads_pairs
from common.prompts import Prompt, as_text
from common.templates import is_plain

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

REWARD_LENGTH = 512  # tokens that a reward model reads at most

# --- Rewards ---


def score_responses(
    model, tokenizer, prompts: list[Prompt], responses: list[str], batch_size: int = 32
) -> "torch.Tensor":
    """Reward r(prompt, response) of each pair of texts: a float32 tensor (N,) in log-odds units."""
    import torch

    rows = zip(prompts, responses, strict=True)
    lengths = [len(as_text(prompt)) + len(text) for prompt, text in rows]
    order = sorted(range(len(prompts)), key=lambda i: lengths[i])
    rewards = {}
    with torch.inference_mode():
        for batch in my_batches(order, batch_size, "scoring"):
            texts = [prompts[i] for i in batch], [responses[i] for i in batch]
            inputs = encode_for_reward(tokenizer, *texts).to(model.device)
            scores = model(**inputs).logits.squeeze(-1)  # (B,)
            rewards |= zip(batch, scores.tolist(), strict=True)
    return torch.tensor(collect(rewards))


def encode_for_reward(tokenizer, prompts: list[Prompt], responses: list[str], cut: bool = True):
    """What a reward model reads, padded: a pair of texts, or a causal LM's question and answer.

    Of a conversation an encoder reads the text (`as_text`). `cut` shortens to the model's length:
    of a pair only the response, at its end.
    """
    limit = min(tokenizer.model_max_length, REWARD_LENGTH) if cut else None
    padded = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
    if not reads_pairs(tokenizer):
        texts = [format_answer(tokenizer, *row) for row in zip(prompts, responses, strict=True)]
        plain = {"add_special_tokens": False, "truncation": cut}
        return tokenizer(texts, max_length=limit, **plain, **padded)
    shorten = "only_second" if cut else False
    shown = [as_text(prompt) for prompt in prompts]
    try:
        return tokenizer(shown, responses, truncation=shorten, max_length=limit, **padded)
    except Exception as error:  # the tokenizers library has no exception of its own
        reason = f"a prompt leaves no room for its response in {limit} tokens"
        raise UserError(f"{reason}: {error}") from None


def format_answer(tokenizer: "PreTrainedTokenizerBase", prompt: Prompt, response: str) -> str:
    """A question and its answer as one text, up to the EOS."""
    return format_prompt(tokenizer, prompt) + (
        (" " if is_plain(tokenizer) else "") + response + (tokenizer.eos_token or "")
    )


# --- Judgements ---


def judge_first_better(
    model, tokenizer, judge_prompts: list[str], batch_size: int = 64
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """A language model as judge: P(A) / (P(A) + P(B)) as the next token, and P(A) + P(B); (N,).

    A chat model is asked in its template to answer with a letter, any other continues the prompt
    with " A" or " B".
    """
    import torch

    plain = is_plain(tokenizer)
    texts, letters = judge_prompts, (" A", " B")
    if not plain:
        asked = [f"{prompt}\nReply with A or B." for prompt in judge_prompts]
        texts, letters = [format_prompt(tokenizer, prompt) for prompt in asked], ("A", "B")
    ids = [tokenizer(letter, add_special_tokens=False)["input_ids"][-1] for letter in letters]
    padded = {"padding": True, "padding_side": "right", "return_tensors": "pt"}
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    probabilities = {}
    with torch.inference_mode():
        for batch in my_batches(order, batch_size, "judging"):
            inputs = tokenizer([texts[i] for i in batch], add_special_tokens=plain, **padded)
            check_length(inputs["input_ids"].shape[1], tokenizer)
            last = inputs["attention_mask"].sum(-1) - 1  # (B,)
            logits = model(**inputs.to(model.device)).logits[torch.arange(len(batch)), last]
            both = logits.float().softmax(-1)[:, ids]  # (B, 2)
            probabilities |= zip(batch, both.tolist(), strict=True)
    both = torch.tensor(collect(probabilities))
    mass = both.sum(-1)
    return both[:, 0] / mass, mass
