"""How the scripts judge a model: log-probabilities and KL, and sampled answers to held-out prompts.

Answers are read the same way everywhere: `readings` gives their length, and what the gold standard
says of them where there is one, that is, where the prompts are questions of the world.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np

from common.intervals import summary
from common.models import (
    check_length,
    collect,
    encode_answers,
    encode_prompt,
    my_batches,
)
from common.preferences import SIDES, all_questions, gold_utility, read_response
from common.prompts import Prompt, as_text, prompt_key
from common.sampling import Response, sample
from common.scoring import score_responses
from common.texts import count_words

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# --- Log-probabilities and KL ---


def response_logps(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: list[Prompt] | list[list[int]],
    responses: list[list[int]],
    batch_size: int = 64,
) -> "torch.Tensor":
    """log pi(response | prompt) in nats, summed over the response's tokens: float32 (N,), CPU.

    Prompts are texts, or their token ids; responses are token ids.
    """
    import torch

    logps = {}
    with torch.inference_mode():
        batches = response_batches(tokenizer, prompts, responses, batch_size)
        for batch, ids, mask, targets in batches:
            log_probs = _log_probs(model, ids, mask)
            chosen = ids[:, 1:, None].to(log_probs.device)
            token_logps = log_probs.gather(-1, chosen).squeeze(-1)  # (B, T-1)
            logps |= zip(batch, (token_logps.cpu() * targets).sum(-1).tolist(), strict=True)
    return torch.tensor(collect(logps))


def pair_logps(policy: "PreTrainedModel", tokenizer, pairs: Sequence[dict]) -> tuple:
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


def log_ratios(
    policy: "PreTrainedModel", tokenizer, prompts: list[Prompt], token_ids
) -> np.ndarray:
    """log pi/pi_ref in nats of n sampled responses per prompt: (P, n).

    The mean over samples of the policy is KL(pi || pi_ref), and it may be reweighted. A model
    without an adapter is its own reference: zeros.
    """

    def read(asked: list[Prompt], responses: list[list[int]]) -> "torch.Tensor":
        logps = response_logps(policy, tokenizer, asked, responses)
        with policy.disable_adapter():
            return logps - response_logps(policy, tokenizer, asked, responses)

    if not hasattr(policy, "disable_adapter"):
        return np.zeros((len(prompts), len(token_ids[0])))
    return read_once(read, prompts, token_ids)


def read_once(read: Callable, prompts: list[Prompt], token_ids) -> np.ndarray:
    """What `read(prompts, responses)`, (N,), says of n responses per prompt: (P, n).

    token_ids are lists (P, n) of lists. Equal responses to equal prompts are read once.
    """
    keys, prompt_of = [], {}
    for prompt, row in zip(prompts, token_ids, strict=True):
        key = prompt_key(prompt)
        prompt_of[key] = prompt
        keys += [(key, *ids) for ids in row]
    distinct = list(dict.fromkeys(keys))
    asked = [prompt_of[key[0]] for key in distinct]
    values = read(asked, [list(key[1:]) for key in distinct]).tolist()
    value_of = dict(zip(distinct, values, strict=True))
    return np.array([value_of[key] for key in keys]).reshape(len(prompts), -1)


def sequence_kl(
    policy: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: list[Prompt],
    responses: list[list[int]],
    reference: "PreTrainedModel | None" = None,
    batch_size: int = 64,
) -> "torch.Tensor":
    """KL(policy || reference) in nats for each response sampled from the policy: (N,), CPU.

    Sums the exact KL of the next-token distributions along the sampled text. Its mean over samples
    is the sequence-level KL, with less variance than log pi/pi_ref and never below 0. Without a
    `reference`, it is the policy, a PEFT model, with its adapter off.
    """
    import torch

    kls = {}
    with torch.inference_mode():
        batches = response_batches(tokenizer, prompts, responses, batch_size)
        for batch, ids, mask, targets in batches:
            log_p = _log_probs(policy, ids, mask)
            if reference is None:
                with policy.disable_adapter():
                    log_q = _log_probs(policy, ids, mask)
            else:
                log_q = _log_probs(reference, ids, mask)
            token_kl = (log_p.exp() * (log_p - log_q)).sum(-1)  # (B, T-1)
            kls |= zip(batch, (token_kl.cpu() * targets).sum(-1).tolist(), strict=True)
    return torch.tensor(collect(kls))


def _log_probs(model, ids: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
    return model(**inputs).logits[:, :-1].float().log_softmax(-1)


def response_batches(tokenizer, prompts, responses, batch_size) -> Iterator[tuple]:
    """Batches of this process: row indices, ids and attention mask (B, T), targets (B, T-1).

    `targets` is 1 where the next token belongs to the response.
    """
    import torch

    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]) + len(responses[i]))
    at_most = max(1, 2**19 // len(tokenizer))  # a large vocabulary fills the memory
    for batch in my_batches(order, min(batch_size, at_most), "log-probabilities"):
        rows = [encoded[i] + responses[i] for i in batch]
        width = max(map(len, rows))
        check_length(width, tokenizer)
        pad = tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        prompt_lengths = torch.tensor([len(encoded[i]) for i in batch])
        targets = mask[:, 1:] * (torch.arange(1, width) >= prompt_lengths[:, None])
        yield batch, ids, mask, targets


def largest_weight_change(before: dict, model) -> float:
    """Largest |change| of a weight of the model since `before`, a copy of its state_dict."""
    after = model.state_dict()
    return max(float((after[name] - before[name]).abs().max()) for name in before)


# --- Sampled answers ---


def sample_answers(
    model, tokenizer, prompts: list[Prompt], n: int, max_new_tokens: int, seed: int
) -> tuple[list[list[str]], dict[str, np.ndarray]]:
    """n answers to each prompt as texts, and their readings (prompts, n), with the KL.

    The KL, in nats, is that of a PEFT model from its base; any other model is its own reference.
    Without a gold standard, `ended` says which answers ended within `max_new_tokens`.
    """
    sampled = sample(model, tokenizer, prompts, n, max_new_tokens, seed=seed)
    texts, token_ids = [], []
    for row in sampled:  # of one prompt
        texts.append([response.text for response in row])
        token_ids.append([response.token_ids for response in row])
    kl = np.zeros((len(prompts), n))
    if hasattr(model, "disable_adapter"):
        kl = read_once(partial(sequence_kl, model, tokenizer), prompts, token_ids)
    return texts, {"kl": kl, **readings(prompts, texts), **which_ended(prompts, sampled)}


def which_ended(prompts: list[Prompt], sampled: list[list[Response]]) -> dict[str, np.ndarray]:
    """`ended` (P, n): 1 for a response that ended by itself, 0 for one that met the limit.

    Nothing where there is a gold standard, which has more to say.
    """
    ended = [[response.ended for response in row] for row in sampled]
    return {} if has_gold(prompts) else {"ended": np.array(ended, dtype=float)}


def readings(prompts: list[Prompt], texts: list[list[str]]) -> dict[str, np.ndarray]:
    """What is read in n texts to each prompt, arrays (prompts, n).

    `words` always; where there is a gold standard `utility`, `good`, `correct`, `on_topic` and
    `plain` (without filler or preamble, whether right or wrong).
    """
    gold, answers = has_gold(prompts), []
    for prompt, row in zip(prompts, texts, strict=True):
        answers += [_read_answer(prompt, text, gold) for text in row]
    table = {}
    for name in answers[0]:
        values = [answer[name] for answer in answers]
        table[name] = np.array(values, dtype=float).reshape(len(prompts), -1)
    return table


def _read_answer(prompt: Prompt, text: str, gold: bool) -> dict[str, float]:
    words = {"words": count_words(text)}
    if not gold:
        return words
    reading = read_response(prompt, text)
    return words | {
        "good": reading.good,
        "correct": reading.correct,
        "on_topic": reading.on_topic,
        "plain": reading.style not in ("verbose", "expert"),
        "utility": gold_utility(prompt, text),
    }


def has_gold(prompts: Sequence[Prompt]) -> bool:
    """Whether all prompts are questions of the world, so that gold utility can be read."""
    return all(isinstance(prompt, str) and prompt in all_questions() for prompt in prompts)


def score_texts(judge: tuple, prompts: list[Prompt], texts: list[list[str]]) -> np.ndarray:
    """Rewards (P, n) of sampled texts by (reward model, tokenizer); equal ones are scored once."""
    keys, pair_of = [], {}
    for prompt, row in zip(prompts, texts, strict=True):
        key = prompt_key(prompt)
        keys += [(key, text) for text in row]
        pair_of |= {(key, text): (prompt, text) for text in row}
    distinct = sorted(pair_of)
    asked, answers = zip(*(pair_of[key] for key in distinct), strict=True)
    rewards = score_responses(*judge, asked, answers).tolist()
    reward_of = dict(zip(distinct, rewards, strict=True))
    return np.array([reward_of[key] for key in keys]).reshape(len(prompts), -1)


def win_rate(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Per prompt, the share of pairs (one of ours, one of theirs) won, ties half; inputs (P, n)."""
    return (1 + np.sign(ours[:, :, None] - theirs[:, None, :])).mean((1, 2)) / 2


def summarize(values: dict[str, np.ndarray]) -> dict:
    """Every reading (P, n) with its interval over prompts, and what is right of the on-topic."""
    measured = {name: summary(array.mean(1)) for name, array in values.items()}
    if "on_topic" in values:
        right, on_topic = values["correct"] * values["on_topic"], values["on_topic"]
        table = np.column_stack([right.sum(1), on_topic.sum(1)])
        measured["right_of_on_topic"] = summary(table, _ratio)
    return measured


def _ratio(table: np.ndarray, axis: int = 0) -> float:
    """Sum of the first column over the sum of the second; table (N, 2)."""
    first, second = table.sum(axis)
    return first / max(second, 1)


def compare(before: dict, after: dict) -> dict:
    """What changed from the reference's answers to the policy's, with intervals over prompts.

    Style: the share without filler or preamble; substance: the share that is right; both among
    on-topic answers. `..._of_room` is the change as a share of what there was to gain.
    """
    columns = []
    for answers in (before, after):
        for name in ("on_topic", "plain", "correct"):
            columns.append((answers[name] * answers["on_topic"]).sum(1))
    table = np.column_stack(columns)  # on topic, plain, correct: before, then after

    def change(rows: np.ndarray, axis: int = 0, column: int = 1) -> float:
        sums = rows.sum(axis)
        return sums[3 + column] / max(sums[3], 1) - sums[column] / max(sums[0], 1)

    def of_room(rows: np.ndarray, axis: int = 0, column: int = 1) -> float:
        sums = rows.sum(axis)
        return change(rows, axis, column) / max(1 - sums[column] / max(sums[0], 1), 0.01)

    def difference(rows: np.ndarray, axis: int = 0) -> float:
        return of_room(rows, axis, column=1) - of_room(rows, axis, column=2)

    statistics = {
        "style_change": partial(change, column=1),
        "substance_change": partial(change, column=2),
        "style_of_room": partial(of_room, column=1),
        "substance_of_room": partial(of_room, column=2),
        "style_minus_substance": difference,
    }
    changes = {name: summary(table, statistic) for name, statistic in statistics.items()}
    gain = summary((after["good"] - before["good"]).mean(1))
    won = summary(win_rate(after["utility"], before["utility"]))
    return {"win_rate": won, "good_gain": gain, **changes}


# --- Answers for the reader ---


def show_answers(prompts: list[Prompt], answers: dict[str, list[list[str]]], most: int = 4) -> None:
    """Print who answered what to the first prompts, good or not, with marks where gold is known.

    `answers` are texts (prompts, n) by who gave them; the first of each row is shown.
    """
    longest, width = max(map(len, answers)) + 1, 84
    for k, prompt in enumerate(prompts[:most]):
        print(f"\n{in_short(prompt)}")
        for who, texts in answers.items():
            text = texts[k][0]
            shown = shorten(text, width, placeholder=" ...")
            print(f"  {who + ':':<{longest}} {shown}{marks(prompt, text)}")


def show_candidates(prompt: Prompt, texts: list[str], rewards: np.ndarray) -> None:
    """Print candidates for a prompt with their rewards (M,); an arrow marks the chosen one."""
    print(f"\n{in_short(prompt)}")
    for k, text in enumerate(texts):
        arrow = "->" if k == np.argmax(rewards) else "  "
        shown = shorten(text, 84, placeholder=" ...")
        print(f"  {arrow} reward {rewards[k]:+.2f}  {shown}{marks(prompt, text)}")


def in_short(prompt: Prompt, width: int = 100) -> str:
    """A prompt in one line of at most `width` characters; of a conversation the last words."""
    if isinstance(prompt, str):
        return shorten(prompt, width, placeholder=" ...")
    words = " ".join(as_text(prompt).split())
    return words if len(words) <= width else f"... {words[4 - width :]}"


def marks(prompt: Prompt, text: str) -> str:
    """What the gold standard reads in an answer, in a few words; nothing where there is none."""
    if not has_gold([prompt]):
        return ""
    reading = read_response(prompt, text)
    if not reading.on_topic:
        return "  [off topic]"
    parts = ["right" if reading.correct else "wrong"]
    if reading.style == "sycophantic":
        parts = ["wrong, agrees with the user"]
    if reading.filler_words:
        parts.append(f"{reading.filler_words} words of filler")
    return f"  [{', '.join(parts)}]"
