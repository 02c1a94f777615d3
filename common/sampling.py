"""Sampling responses from a causal language model: many prompts, n responses to each, in batches.

The library's `generate` gives the same text (tests compare greedy answers); this is several times
as fast on a CPU, because a prompt is read once for all its responses, responses that have ended
leave the batch, and a token costs one random number instead of one per vocabulary entry.
"""

import inspect
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from common.basics import show_progress
from common.models import autocast
from common.preferences import annotate, gold_utility, questions
from common.prompts import Prompt, check_length, encode_prompt, tokens_after_answer


class Response(NamedTuple):
    """A sampled response: its text, its tokens with the one that ended it, and whether one did."""

    text: str
    token_ids: list[int]
    ended: bool


def sample(
    model,
    tokenizer,
    prompts: list[Prompt] | list[list[int]],
    n: int = 1,
    max_new_tokens: int = 48,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 512,
) -> list[list[Response]]:
    """Sample n responses to every prompt; temperature 0 is greedy. Returns n per prompt.

    Prompts are texts, lists of messages, or the token ids of what is to be continued.
    A response ends at one of `end_tokens`, or after `max_new_tokens`. Random numbers come from a
    stream that belongs to `seed` and the place of the prompt: how prompts are batched changes
    nothing. `batch_size` counts rows, prompts x n.
    """
    import torch

    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    lengths = [len(ids) for ids in encoded]
    check_length(max(lengths) + max_new_tokens, tokenizer)
    ends, responses, was_training = end_tokens(model, tokenizer), {}, model.training
    sample_batch, prompts_at_once = _sample_batch, max(1, batch_size // n)
    if not keeps_keys_and_values(model):
        sample_batch, prompts_at_once = _generate_batch, 1  # a state would also read the padding
    model.eval()
    with torch.inference_mode(), autocast(model):
        for batch in batches_by_length(lengths, prompts_at_once, "sampling"):
            streams = [np.random.default_rng([seed, place]) for place in batch]
            numbers = [stream.random((n, max_new_tokens), np.float32) for stream in streams]
            uniforms = torch.from_numpy(np.concatenate(numbers))  # one for every token: (B n, T)
            shown = [encoded[i] for i in batch]
            rows = sample_batch(model, tokenizer, shown, n, temperature, uniforms, ends)
            answers = [_read_response(tokenizer, row, ends) for row in rows]
            responses |= {i: answers[k * n : (k + 1) * n] for k, i in enumerate(batch)}
    model.train(was_training)
    return [responses[place] for place in range(len(prompts))]


def batches_by_length(lengths: list[int], size: int, what: str) -> Iterator[list[int]]:
    """Row numbers in batches of similar length; work that takes a while shows a progress bar."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    for start in show_progress(range(0, len(order), size), what):
        yield order[start : start + size]


def sample_pairs(model, tokenizer, count: int, seed: int) -> list[dict]:
    """`count` pairs of two different answers of the model to one prompt, labelled without bias."""
    rng, noise, rows = random.Random(f"on-policy {seed}"), np.random.default_rng([1, seed]), []
    while len(rows) < count:
        asked = rng.sample(questions("train"), min(count, 256))
        prompts = [question.prompt for question in asked]
        sampled = sample(model, tokenizer, prompts, 4, 48, seed=len(rows) + seed)
        for prompt, answers in zip(prompts, sampled, strict=True):
            texts = list(dict.fromkeys(answer.text for answer in answers))[:2]  # that differ
            if len(texts) == 2:
                utilities = np.array([gold_utility(prompt, text) for text in texts])
                best = int(np.argmax(annotate(utilities, noise)))
                rows.append({"prompt": prompt, "chosen": texts[best], "rejected": texts[1 - best]})
    return rows[:count]


def end_tokens(model, tokenizer) -> list[int]:
    """The tokens that end an answer: EOS, those that the model names, and the template's own."""
    named = model.generation_config.eos_token_id
    named = named if isinstance(named, list) else [named]
    special = tokenizer.added_tokens_decoder
    of_template = [token for token in tokens_after_answer(tokenizer) if token in special]
    return sorted({tokenizer.eos_token_id, *named, *of_template[:1]} - {None})


def keeps_keys_and_values(model) -> bool:
    """Whether keys and values are all that the model keeps of a text: its rows can be taken out."""
    from transformers.cache_utils import DynamicCache, LinearAttentionCacheLayerMixin

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    takes_cache = "past_key_values" in inspect.signature(type(base).forward).parameters
    if base._is_stateful or not takes_cache:
        return False
    layers = DynamicCache(config=base.config).layers
    return not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def _read_response(tokenizer, token_ids: list[int], ends: list[int]) -> Response:
    """What was said up to the first token that ends an answer."""
    ended = next((place for place, token in enumerate(token_ids) if token in ends), None)
    text = tokenizer.decode(token_ids[:ended], skip_special_tokens=True).strip()
    if ended is None:
        return Response(text, token_ids, False)
    return Response(text, token_ids[: ended + 1], True)


def _sample_batch(model, tokenizer, encoded, n: int, temperature: float, uniforms, ends) -> list:
    """n sequences of token ids for each encoded prompt, in order; uniforms (B n, tokens)."""
    import torch

    padding = {"padding_side": "left", "return_tensors": "pt", "return_attention_mask": True}
    padded = tokenizer.pad({"input_ids": encoded}, **padding).to(model.device)
    ids, mask = padded["input_ids"], padded["attention_mask"]  # (B, T)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    inputs = {"attention_mask": mask, "position_ids": positions}
    out = model(ids, **inputs, use_cache=True, logits_to_keep=1)
    cache = out.past_key_values
    cache.batch_repeat_interleave(n)
    logits = out.logits[:, -1].repeat_interleave(n, 0)  # (B n, V)
    mask = mask.repeat_interleave(n, 0)  # (B n, T)
    sequences: list[list[int]] = [[] for _ in range(len(logits))]
    rows = torch.arange(len(logits))  # the sequence that each row of the batch belongs to

    last, ends = uniforms.shape[1] - 1, torch.tensor(ends, device=model.device)
    for step, u in enumerate(uniforms.T):  # (B n,)
        tokens = draw_tokens(logits, temperature, u[rows])
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            sequences[row].append(token)
        alive = torch.isin(tokens, ends, invert=True).nonzero().squeeze(-1)
        if len(alive) == 0 or step == last:
            break
        if len(alive) < len(tokens):
            cache.batch_select_indices(alive)
            rows, tokens, mask = rows[alive.cpu()], tokens[alive], mask[alive]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        inputs = {"attention_mask": mask, "position_ids": mask.sum(-1, keepdim=True) - 1}
        out = model(tokens[:, None], **inputs, past_key_values=cache, use_cache=True)
        logits = out.logits[:, -1]
    return sequences


def _generate_batch(model, tokenizer, encoded, n: int, temperature: float, uniforms, ends) -> list:
    """The same for one encoded prompt, through `generate`."""
    import torch

    ids = torch.tensor(encoded * n, device=model.device)  # (n, T)
    columns = iter(uniforms.T)

    def draw(_, logits):
        """Scores (n, V) of which the drawn token has the highest."""
        tokens = draw_tokens(logits, temperature, next(columns))
        return torch.zeros_like(logits).scatter(1, tokens[:, None], 1.0)

    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        logits_processor=[draw],
        num_beams=1,  # a model may name settings of its own
        repetition_penalty=1.0,
        max_new_tokens=uniforms.shape[1],
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    return out[:, ids.shape[1] :].tolist()


def draw_tokens(logits, temperature: float, u):
    """One token per row of logits (B, V) by inversion, with u (B,) in [0, 1).

    The first token whose cumulative probability exceeds u: the same distribution as
    `torch.multinomial`, which draws an exponential variable for every vocabulary entry.
    """
    import torch

    if temperature == 0:
        return logits.argmax(-1)
    tokens, few = [], 32  # as many rows as a processor's cache holds
    u = u.to(logits.device)
    for some, numbers in zip(logits.split(few), u.split(few), strict=True):
        cumulative = (some.float() / temperature).softmax(-1).cumsum(-1)
        targets = numbers[:, None] * cumulative[:, -1:]
        tokens.append(torch.searchsorted(cumulative, targets, right=True).squeeze(-1))
    return torch.cat(tokens).clamp(max=logits.shape[-1] - 1)
