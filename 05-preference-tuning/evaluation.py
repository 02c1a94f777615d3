"""How the scripts judge a model: log-probabilities and KL, and sampled answers to held-out prompts read by the gold
standard."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from common.preferences import gold_utility, read_response
from common.reporting import bootstrap_ci

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# --- Log-probabilities and KL ---


def response_logps(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: list[str],
    responses: list[list[int]],
    batch_size: int = 64,
) -> "torch.Tensor":
    """log pi(response | prompt) in nats, summed over the response's tokens: a float32 tensor (N,) on the CPU."""
    import torch

    from common.models import collect

    found = {}
    with torch.inference_mode():
        for batch, ids, mask, targets in _response_batches(tokenizer, prompts, responses, batch_size):
            log_probs = _log_probs(model, ids, mask)
            token_logps = log_probs.gather(-1, ids[:, 1:, None].to(log_probs.device)).squeeze(-1)  # (B, T-1)
            found |= zip(batch, (token_logps.cpu() * targets).sum(-1).tolist(), strict=True)
    return torch.tensor(collect(found))


def sequence_kl(
    policy: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: list[str],
    responses: list[list[int]],
    reference: "PreTrainedModel | None" = None,
    batch_size: int = 64,
) -> "torch.Tensor":
    """KL(policy || reference) in nats for each response sampled from the policy: a tensor (N,) on the CPU.

    Sums the exact KL of the next-token distributions along the sampled text. Its mean over samples is the
    sequence-level KL, with less variance than log pi/pi_ref and never below 0. Without a `reference`, it is the
    policy, a PEFT model, with its adapter off.
    """
    import torch

    from common.models import collect

    found = {}
    with torch.inference_mode():
        for batch, ids, mask, targets in _response_batches(tokenizer, prompts, responses, batch_size):
            log_p = _log_probs(policy, ids, mask)
            if reference is None:
                with policy.disable_adapter():
                    log_q = _log_probs(policy, ids, mask)
            else:
                log_q = _log_probs(reference, ids, mask)
            token_kl = (log_p.exp() * (log_p - log_q)).sum(-1)  # (B, T-1)
            found |= zip(batch, (token_kl.cpu() * targets).sum(-1).tolist(), strict=True)
    return torch.tensor(collect(found))


def _log_probs(model, ids: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
    logits = model(ids.to(model.device), attention_mask=mask.to(model.device)).logits[:, :-1]
    return logits.float().log_softmax(-1)


def _response_batches(tokenizer, prompts, responses, batch_size) -> Iterator[tuple]:
    """Yield (row indices, ids (B, T), attention mask (B, T), mask of response targets (B, T-1)) for this process."""
    import torch

    from common.models import check_length, encode_prompt, my_batches

    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]) + len(responses[i]))
    batch_size = min(batch_size, max(1, 2**19 // len(tokenizer)))  # a large vocabulary fills the memory
    for batch in my_batches(order, batch_size, "log-probabilities"):
        rows = [encoded[i] + responses[i] for i in batch]
        width = max(map(len, rows))
        check_length(width, tokenizer)
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        prompt_lengths = torch.tensor([len(encoded[i]) for i in batch])
        targets = mask[:, 1:] * (torch.arange(1, width) >= prompt_lengths[:, None])
        yield batch, ids, mask, targets


# --- Sampled answers ---


def judge_responses(prompts: list[str], responses: list[list[str]]) -> dict[str, np.ndarray]:
    """Gold readings of sampled responses, each an array (prompts, n): utility, good, correct, on_topic, plain, words.

    `plain` means without filler or preamble, whether right or wrong.
    """
    readings = [[read_response(p, text) for text in texts] for p, texts in zip(prompts, responses, strict=True)]
    found = {
        name: np.array([[float(getattr(reading, name)) for reading in row] for row in readings])
        for name in ("good", "correct", "on_topic")
    }
    found["plain"] = np.array([[float(r.style not in ("verbose", "expert")) for r in row] for row in readings])
    found["words"] = np.array([[float(len(text.split())) for text in texts] for texts in responses])
    found["utility"] = np.array(
        [[gold_utility(p, text) for text in texts] for p, texts in zip(prompts, responses, strict=True)]
    )
    return found


def sample_and_judge(model, tokenizer, prompts: list[str], n: int, max_new_tokens: int, seed: int):
    """Sampled responses (prompts, n) as texts, and their gold readings, with the KL from the reference in `kl`."""
    texts, kl = sample_texts(model, tokenizer, prompts, n, max_new_tokens, seed)
    return texts, {**judge_responses(prompts, texts), "kl": kl}


def sample_texts(model, tokenizer, prompts: list[str], n: int, max_new_tokens: int, seed: int):
    """Sampled responses (prompts, n) as texts, and KL(policy || reference) in nats of each (0 without an adapter)."""
    from common.models import sample

    sampled = sample(model, tokenizer, prompts, n, max_new_tokens, seed=seed)
    kl = np.zeros((len(prompts), n))
    if hasattr(model, "disable_adapter"):
        repeated = [prompt for prompt in prompts for _ in range(n)]
        token_ids = [response.token_ids for row in sampled for response in row]
        kl = sequence_kl(model, tokenizer, repeated, token_ids).numpy().reshape(len(prompts), n)
    return [[response.text for response in row] for row in sampled], kl


def score_texts(judge: tuple, prompts: list[str], texts: list[list[str]]) -> np.ndarray:
    """Rewards (P, n) of sampled texts by (reward model, tokenizer); equal ones are scored once."""
    from common.models import score_responses

    distinct = sorted({(prompt, text) for prompt, row in zip(prompts, texts, strict=True) for text in row})
    scores = dict(zip(distinct, score_responses(*judge, *zip(*distinct, strict=True)).tolist(), strict=True))
    return np.array([[scores[prompt, text] for text in row] for prompt, row in zip(prompts, texts, strict=True)])


def win_rate(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Per prompt, the share of all pairs (one of ours, one of theirs) won by ours, ties half; inputs (P, n)."""
    return (1 + np.sign(ours[:, :, None] - theirs[:, None, :])).mean((1, 2)) / 2


def compare(before: dict, after: dict) -> dict:
    """What changed from the reference's sampled answers to the policy's, with intervals over prompts.

    Style: the share without filler or preamble; substance: the share that is right; both among on-topic answers.
    """
    columns = [
        found[name] * found["on_topic"] for found in (before, after) for name in ("on_topic", "plain", "correct")
    ]
    table = np.column_stack([column.sum(1) for column in columns])

    def changes(rows: np.ndarray, axis: int = 0) -> tuple[float, float]:
        total = rows.sum(axis)
        return total[4] / total[3] - total[1] / total[0], total[5] / total[3] - total[2] / total[0]

    def style_minus_substance(rows: np.ndarray, axis: int = 0) -> float:
        style, substance = changes(rows, axis)
        return abs(style) - abs(substance)

    style, substance = changes(table)
    return {
        "win_rate": summary(win_rate(after["utility"], before["utility"])),
        "style_change": {"mean": style, "ci95": bootstrap_ci(table, lambda rows, axis: changes(rows)[0])},
        "substance_change": {"mean": substance, "ci95": bootstrap_ci(table, lambda rows, axis: changes(rows)[1])},
        "style_minus_substance": {
            "mean": abs(style) - abs(substance),
            "ci95": bootstrap_ci(table, style_minus_substance),
        },
    }


def summaries(found: dict[str, np.ndarray]) -> dict:
    """Mean with interval over prompts of every reading (P, n), and the share that is right among on-topic answers."""
    right = (found["correct"] * found["on_topic"]).sum() / max(found["on_topic"].sum(), 1)
    return {**{name: summary(values.mean(1)) for name, values in found.items()}, "right_of_on_topic": float(right)}


# --- Small things ---


def summary(values: np.ndarray) -> dict:
    """Mean, 95 % bootstrap interval and count."""
    values = np.asarray(values, dtype=float)
    return {"mean": float(values.mean()), "ci95": bootstrap_ci(values), "count": len(values)}


def interval(result: dict) -> str:
    """A mean with its 95 % interval."""
    return f"{result['mean']:.3f} [{result['ci95'][0]:.3f}, {result['ci95'][1]:.3f}]"
