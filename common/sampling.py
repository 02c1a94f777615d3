"""Sampling responses from a causal language model: many prompts, n responses to each, in batches.

The library's `generate` gives the same text (tests compare greedy answers); this is several times
as fast on a CPU, because a prompt is read once for all its responses, responses that have ended
leave the batch, and a token costs one random number instead of one per vocabulary entry.
"""

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
    # A state would also read the padding of shorter prompts.
    prompts_at_once = max(1, batch_size // n) if keeps_keys_and_values(model) else 1
    model.eval()
    with torch.inference_mode(), autocast(model):
        for batch in batches_by_length(lengths, prompts_at_once, "sampling"):
            uniforms = _uniform_numbers(seed, batch, n, max_new_tokens)
            shown = [encoded[i] for i in batch]
            rows = _sample_batch(model, tokenizer, shown, n, temperature, uniforms, ends)
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
    """Whether keys and values are all that the model keeps of a text; Mamba, LFM2, ... do not."""
    from transformers.cache_utils import DynamicCache, LinearAttentionCacheLayerMixin

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers = DynamicCache(config=base.config).layers
    states = [layer for layer in layers if isinstance(layer, LinearAttentionCacheLayerMixin)]
    return not (base._is_stateful or states)


def _read_response(tokenizer, token_ids: list[int], ends: list[int]) -> Response:
    """The text of the tokens up to the one that ended it."""
    ended = token_ids[-1] in ends
    shown = token_ids[:-1] if ended else token_ids
    return Response(tokenizer.decode(shown, skip_special_tokens=True).strip(), token_ids, ended)


def _uniform_numbers(seed: int, places: list[int], n: int, tokens: int):
    """A number in [0, 1) for every token to be drawn: (B n, tokens)."""
    import torch

    streams = [np.random.default_rng([seed, place]) for place in places]
    numbers = [stream.random((n, tokens), np.float32) for stream in streams]
    return torch.from_numpy(np.concatenate(numbers))


def _sample_batch(model, tokenizer, encoded, n: int, temperature: float, uniforms, ends) -> list:
    """n sequences of token ids for each encoded prompt, in order; uniforms (B n, tokens)."""
    import torch

    def read(ids, mask, **cache):
        """Logits (B, V) behind the last of `ids`, and what is kept of the text, by its name."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        inputs = {"attention_mask": mask, "position_ids": positions} if len(encoded) > 1 else {}
        out = model(ids, **inputs, **cache, use_cache=True, logits_to_keep=1)
        kept = "past_key_values" if "past_key_values" in out else "cache_params"
        return out.logits[:, -1], {kept: out[kept]}

    padded = tokenizer.pad({"input_ids": encoded}, padding_side="left", return_tensors="pt")
    mask = padded["attention_mask"].to(model.device)  # (B, T)
    logits, kept = read(padded["input_ids"].to(model.device), mask)
    (cache,) = kept.values()
    repeated = torch.arange(len(encoded), device=model.device).repeat_interleave(n)
    cache.reorder_cache(repeated)
    logits, mask = logits[repeated], mask[repeated]  # (B n, V), (B n, T)
    sequences: list[list[int]] = [[] for _ in repeated]
    rows = torch.arange(len(repeated))  # the sequence that each row of the batch belongs to

    last, ends = uniforms.shape[1] - 1, torch.tensor(ends, device=model.device)
    for step, u in enumerate(uniforms.T):  # (B n,)
        tokens = draw_tokens(logits, temperature, u[rows])
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            sequences[row].append(token)
        alive = torch.isin(tokens, ends, invert=True).nonzero().squeeze(-1)
        if len(alive) == 0 or step == last:
            break
        if len(alive) < len(tokens):
            cache.reorder_cache(alive)
            rows, tokens, mask = rows[alive.cpu()], tokens[alive], mask[alive]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits, _ = read(tokens[:, None], mask, **kept)
    return sequences


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
