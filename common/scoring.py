"""Numbers of texts: log-probabilities, KL, rewards, and judgements by a language model.

All in batches of similar length, and equal texts are read once.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from common.basics import in_one_line
from common.models import autocast
from common.preferences import SIDES, WORTH, Question, contrasts_of
from common.prompts import (
    Prompt,
    as_messages,
    as_text,
    check_length,
    encode_answers,
    encode_prompt,
    format_prompt,
    is_plain,
    prompt_key,
    reads_pairs,
    write_turns,
)
from common.sampling import batches_by_length

REWARD_LENGTH = 512  # tokens that a reward model reads at most
PADDED = {
    "padding": True,
    "padding_side": "right",
    "return_tensors": "pt",
    "return_attention_mask": True,  # some tokenizers make none by themselves
}

# --- Log-probabilities and KL ---


def response_logps(model, tokenizer, prompts, responses, batch_size: int = 64):
    """log pi(response | prompt) in nats, summed over the response's tokens: float32 (N,), CPU.

    Prompts are texts or token ids, responses token ids.
    """
    import torch

    logps = torch.empty(len(prompts))
    with torch.inference_mode():
        batches = response_batches(tokenizer, prompts, responses, batch_size)
        for batch, ids, mask, targets in batches:
            log_probs = _log_probs(model, ids, mask)
            chosen = ids[:, 1:, None].to(log_probs.device)
            token_logps = log_probs.gather(-1, chosen).squeeze(-1)  # (B, T-1)
            logps[batch] = (token_logps.cpu() * targets).sum(-1)
    return logps


def pair_logps(policy, tokenizer, pairs: Sequence[dict]) -> tuple:
    """Log-probabilities (2, N) of chosen and rejected: under the policy, and the reference.

    The policy is a PEFT model; the reference is the policy with its adapter off.
    """
    encoded = []
    for row in pairs:
        encoded.append(encode_answers(tokenizer, row["prompt"], [row[side] for side in SIDES]))
    shown, chosen, rejected = map(list, zip(*encoded, strict=True))
    prompts, responses = shown * 2, chosen + rejected
    logps = response_logps(policy, tokenizer, prompts, responses)
    with policy.disable_adapter():
        ref_logps = response_logps(policy, tokenizer, prompts, responses)
    return logps.reshape(2, -1), ref_logps.reshape(2, -1)


def log_ratios(policy, tokenizer, prompts: list[Prompt], token_ids) -> np.ndarray:
    """log pi/pi_ref (P, n) in nats of n responses a prompt; for the policy's the mean is KL."""
    if not hasattr(policy, "disable_adapter"):  # it is its own reference
        return np.zeros((len(prompts), len(token_ids[0])))
    read = partial(response_logps, policy, tokenizer)
    logps = read_once(read, prompts, token_ids)
    with policy.disable_adapter():
        return logps - read_once(read, prompts, token_ids)


def read_once(read: Callable, prompts: list[Prompt], answers: Sequence[Sequence]) -> np.ndarray:
    """What `read(prompts, answers)`, (N,), says of n answers per prompt: (P, n).

    Answers are texts or lists of token ids. Equal ones to equal prompts are read once.
    """
    keys, row_of = [], {}
    for prompt, row in zip(prompts, answers, strict=True):
        for answer in row:
            keys.append((prompt_key(prompt), answer if isinstance(answer, str) else tuple(answer)))
            row_of[keys[-1]] = prompt, answer
    distinct = sorted(row_of) if isinstance(answers[0][0], str) else list(row_of)
    asked, rows = map(list, zip(*(row_of[key] for key in distinct), strict=True))
    value_of = dict(zip(distinct, read(asked, rows).tolist(), strict=True))
    return np.array([value_of[key] for key in keys]).reshape(len(prompts), -1)


def sequence_kl(policy, tokenizer, prompts, responses, reference=None, batch_size: int = 64):
    """KL(policy || reference) in nats for each response sampled from the policy: (N,), CPU.

    Sums the exact KL of the next-token distributions along the sampled text. Its mean over samples
    is the sequence-level KL, with less variance than log pi/pi_ref and never below 0. Without a
    `reference`, it is the policy, a PEFT model, with its adapter off.
    """
    import torch

    kls = torch.empty(len(prompts))
    with torch.inference_mode():
        batches = response_batches(tokenizer, prompts, responses, batch_size)
        for batch, ids, mask, targets in batches:
            log_p = _log_probs(policy, ids, mask)
            with contextlib.nullcontext() if reference else policy.disable_adapter():
                log_q = _log_probs(reference or policy, ids, mask)
            token_kl = (log_p.exp() * (log_p - log_q)).sum(-1)  # (B, T-1)
            kls[batch] = (token_kl.cpu() * targets).sum(-1)
    return kls


def _log_probs(model, ids, mask):
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
    return model(**inputs).logits[:, :-1].float().log_softmax(-1)


def response_batches(tokenizer, prompts, responses, batch_size) -> Iterator[tuple]:
    """Batches: rows, ids and mask (B, T), targets (B, T-1): 1 before a token of the response."""
    import torch

    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    texts = [prompt + response for prompt, response in zip(encoded, responses, strict=True)]
    lengths = [len(text) for text in texts]
    check_length(max(lengths, default=0), tokenizer)
    at_most = max(1, 2**19 // len(tokenizer))  # a large vocabulary fills the memory
    for batch in batches_by_length(lengths, min(batch_size, at_most), "log-probabilities"):
        padded = tokenizer.pad({"input_ids": [texts[i] for i in batch]}, **PADDED)
        ids, mask = padded["input_ids"], padded["attention_mask"]
        prompt_lengths = torch.tensor([len(encoded[i]) for i in batch])
        targets = mask[:, 1:] * (torch.arange(1, ids.shape[1]) >= prompt_lengths[:, None])
        yield batch, ids, mask, targets


# --- Rewards and judgements ---


def score_responses(
    model, tokenizer, prompts: list[Prompt], responses: list[str], batch_size: int = 32
):
    """Reward r(prompt, response) of each pair of texts: a float32 tensor (N,) in log-odds units.

    A wide model may compute in bfloat16: one of 1,000 held-out pairs has another order then.
    """
    import torch

    rows = zip(prompts, responses, strict=True)
    lengths = [len(as_text(prompt)) + len(text) for prompt, text in rows]
    rewards = torch.empty(len(prompts))
    with torch.inference_mode(), autocast(model):
        for batch in batches_by_length(lengths, batch_size, "scoring"):
            texts = [prompts[i] for i in batch], [responses[i] for i in batch]
            inputs = encode_for_reward(tokenizer, *texts).to(model.device)
            scores = model(**inputs).logits.squeeze(-1)  # (B,)
            rewards[batch] = scores.float().cpu()
    return rewards


def encode_for_reward(tokenizer, prompts: list[Prompt], responses: list[str], cut: bool = True):
    """What a reward model reads, padded: a pair of texts, or a causal LM's question and answer.

    Of a conversation an encoder reads the text (`as_text`). `cut` shortens to the model's length:
    of a pair only the response, at its end.
    """
    limit = min(tokenizer.model_max_length, REWARD_LENGTH) if cut else None
    if not reads_pairs(tokenizer):
        texts = [format_answer(tokenizer, *row) for row in zip(prompts, responses, strict=True)]
        plain = {"add_special_tokens": False, "truncation": cut}
        return tokenizer(texts, max_length=limit, **plain, **PADDED)
    shorten = "only_second" if cut else False
    shown = [as_text(prompt) for prompt in prompts]
    with in_one_line(f"a prompt leaves no room for its response in {limit} tokens"):
        return tokenizer(shown, responses, truncation=shorten, max_length=limit, **PADDED)


def format_answer(tokenizer, prompt: Prompt, response: str) -> str:
    """A question and its answer as one text, up to what ends an answer in the model's template."""
    if response and not is_plain(tokenizer):
        turns = [*as_messages(prompt), {"role": "assistant", "content": response}]
        return write_turns(tokenizer, turns)
    blank = " " if is_plain(tokenizer) else ""  # some templates refuse an empty message
    return format_prompt(tokenizer, prompt) + blank + response + (tokenizer.eos_token or "")


def score_texts(judge: tuple, prompts: list[Prompt], texts: list[list[str]]) -> np.ndarray:
    """Rewards (P, n) of sampled texts by (reward model, tokenizer)."""
    return read_once(partial(score_responses, *judge), prompts, texts)


def score_pairs(model, tokenizer, pairs: Sequence[dict]) -> np.ndarray:
    """Rewards (N, 2) of the chosen and the rejected response of each pair, in log-odds."""
    prompts = [row["prompt"] for row in pairs]
    responses = [row[side] for side in SIDES for row in pairs]
    rewards = score_responses(model, tokenizer, prompts * 2, responses).numpy()
    return rewards.astype(float).reshape(2, -1).T


def contrast_rewards(model, tokenizer, questions: Sequence[Question], seed: int) -> dict:
    """The reward that one unit of each component adds, by contrast: {component: (contrasts,)}.

    The components are those of WORTH, in log-odds per word of filler, right answer, ...
    """
    asked = [contrast for question in questions for contrast in contrasts_of(question, seed)]
    prompts = [contrast.prompt for contrast in asked]
    texts = [contrast.more for contrast in asked] + [contrast.less for contrast in asked]
    rewards = score_responses(model, tokenizer, prompts * 2, texts).numpy().astype(float)
    more, less = rewards.reshape(2, -1)
    per_unit = (more - less) / [contrast.units for contrast in asked]
    components = np.array([contrast.component for contrast in asked])
    return {name: per_unit[components == name] for name in WORTH if name in components}


def judge_first_better(model, tokenizer, judge_prompts: list[str], batch_size: int = 64) -> tuple:
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
    both = torch.empty(len(texts), 2)
    with torch.inference_mode():
        for batch in batches_by_length([len(text) for text in texts], batch_size, "judging"):
            inputs = tokenizer([texts[i] for i in batch], add_special_tokens=plain, **PADDED)
            check_length(inputs["input_ids"].shape[1], tokenizer)
            last = inputs["attention_mask"].sum(-1) - 1  # (B,)
            logits = model(**inputs.to(model.device)).logits[torch.arange(len(batch)), last]
            both[batch] = logits.float().softmax(-1)[:, ids].cpu()  # (B, 2)
    mass = both.sum(-1)
    return both[:, 0] / mass, mass
