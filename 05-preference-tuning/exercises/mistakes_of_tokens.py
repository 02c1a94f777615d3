"""The exercises on tokens, in torch: an answer's log-probability, PPO's reward, PPO's update."""

import numpy as np
import torch
from grade import Exercise
from mistakes_of_losses import in_torch
from mistakes_of_samples import OF_CLIPS
from rlhf_objectives import clipped_surrogate as surrogate


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, shape))


# --- An answer's log-probability ---


def of_answer(ids, attention, lengths) -> torch.Tensor:
    """1 on the tokens of the answers: (B, T)."""
    return attention * (torch.arange(ids.shape[1]) >= lengths[:, None])


def of_next(logits, ids, axis: int = -1) -> torch.Tensor:
    """log pi of every token but the first: (B, T - 1)."""
    return logits[:, :-1].log_softmax(axis).gather(-1, ids[:, 1:, None]).squeeze(-1)


def answer_logps(logits, ids, attention_mask, prompt_lengths) -> torch.Tensor:
    answer = of_answer(ids, attention_mask, prompt_lengths)
    return (of_next(logits, ids) * answer[:, 1:]).sum(-1)


def summed(pick=of_next, count=lambda *batch: of_answer(*batch)[:, 1:]):
    """Sums of other numbers, (B, T - 1), over other tokens."""
    return lambda logits, *batch: (pick(logits, batch[0]) * count(*batch)).sum(-1)


def unshifted(logits, ids) -> torch.Tensor:
    """What the logits at a token say of that token itself."""
    return logits.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)[:, 1:]


ONE_ANSWER = torch.tensor([[0, 1, 1]]), torch.tensor([[1, 1, 1]]), torch.tensor([1])
THREE_ANSWERS = (
    torch.tensor([[4, 1, 0, 2, 3, 0, 0], [2, 2, 1, 3, 0, 0, 0], [1, 3, 0, 4, 2, 4, 3]]),
    torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]]),
    torch.tensor([2, 1, 4]),
)
LOGITS = (numbers(0, 1, 3, 2), *ONE_ANSWER), (numbers(1, 3, 7, 5), *THREE_ANSWERS)
OF_LOGITS = {  # i: token ids, m: attention mask, n: lengths of the prompts
    "no shift: the logits at a token are for the next one": summed(unshifted),
    "the mask is not shifted along: the answer's first token is missing": summed(
        count=lambda *batch: of_answer(*batch)[:, :-1]
    ),
    "the prompt is counted, too": summed(count=lambda i, m, n: m[:, 1:]),
    "the padding is counted, too": summed(
        count=lambda i, m, n: of_answer(i, torch.ones_like(m), n)[:, 1:]
    ),
    "every token is counted: prompt, answer, padding": summed(count=lambda *_: 1),
    "a mean over the tokens for a sum": lambda x, *b: answer_logps(x, *b) / of_answer(*b).sum(-1),
    "softmax over the wrong axis: it runs over the tokens, not over the vocabulary": summed(
        lambda logits, ids: of_next(logits, ids, 1)
    ),
    "these are sums of logits: log_softmax is missing": summed(
        lambda logits, ids: logits[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    ),
    "this is the probability, not its logarithm": lambda *x: answer_logps(*x).exp(),
    "its sign is turned: this is the cross-entropy": lambda *x: -answer_logps(*x),
    "one number for the batch: each answer has its own": lambda *x: answer_logps(*x).sum(),
}

# --- PPO's reward ---


def last_of(mask) -> torch.Tensor:
    """1 on the last token of each answer."""
    return mask * (mask.cumsum(-1) == mask.sum(-1, keepdim=True))


def token_rewards(scores, logps, ref_logps, mask, beta: float) -> torch.Tensor:
    return last_of(mask) * scores[:, None] - beta * mask * (logps - ref_logps)


def rewards_with(place=last_of, penalty=lambda gap, mask: mask * gap):
    """Rewards with the score, or the penalty, at other places."""
    return lambda s, p, r, mask, beta: place(mask) * s[:, None] - beta * penalty(p - r, mask)


NOW, THEN = numbers(2, 3, 5) / 4 - 2, numbers(3, 3, 5) / 4 - 2
MASK = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 1, 0, 0, 0]]).double()
TWO_TOKENS = [2], [[-1, -2]], [[-1.5, -1]], [[1, 1]], 0.5
THREE_SCORES = [1, -2, 0.5], NOW, THEN, MASK, 0.3
OF_SCORES = {  # s: scores, p, r: log-probabilities of policy and reference, m: mask, b: beta
    "policy and reference are exchanged, or the penalty is added": (
        lambda s, p, r, m, b: token_rewards(s, r, p, m, b)
    ),
    "beta is dropped": lambda s, p, r, m, b: token_rewards(s, p, r, m, 1.0),
    "the penalty is missing": lambda s, p, r, m, b: token_rewards(s, p, r, m, 0.0),
    "the score is missing": lambda s, p, r, m, b: token_rewards(0 * s, p, r, m, b),
    "the score is multiplied by beta; the penalty is": lambda *x: x[4] * token_rewards(*x[:4], 1.0),
    "the score stands on every token; it is of the last one": rewards_with(lambda m: m),
    "the score stands on the answer's first token, not on its last": rewards_with(
        lambda m: m * (m.cumsum(-1) == 1)
    ),
    "the score stands at the end of the row, behind the padding": rewards_with(
        lambda m: torch.eye(m.shape[-1])[-1]
    ),
    "prompt and padding pay, too: the mask is missing": rewards_with(penalty=lambda gap, m: gap),
    "the last token lacks its penalty": rewards_with(penalty=lambda gap, m: (m - last_of(m)) * gap),
    "the whole penalty stands on the last token; each token pays its own": rewards_with(
        penalty=lambda gap, m: last_of(m) * (m * gap).sum(-1, keepdim=True)
    ),
    "a sum over the tokens: each token has its own": lambda *x: token_rewards(*x).sum(-1),
}

# --- PPO's update ---


def objectives(logps, old_logps, advantages, mask, epsilon) -> torch.Tensor:
    """What is maximised, of every token, prompt and padding too: (B, T)."""
    return surrogate((logps - old_logps).exp(), advantages, epsilon)


def ppo_loss(logps, old_logps, advantages, mask, epsilon: float) -> torch.Tensor:
    return -(mask * objectives(logps, old_logps, advantages, mask, epsilon)).sum() / mask.sum()


def loss_of(objective):
    """The loss of another objective, by ratio, advantage, and epsilon."""
    return lambda p, o, a, m, e: -(m * objective((p - o).exp(), a, e)).sum() / m.sum()


def with_one_ratio(p, old, a, m, e) -> torch.Tensor:
    gap = (m * (p - old)).sum(-1, keepdim=True).expand_as(p)
    return ppo_loss(gap, 0 * old, a, m, e)


FIRST_STEP = [[-1, -2]], [[-1, -2]], [[1, -0.5]], [[1, 1]], 0.2
LATER = (NOW, THEN, numbers(4, 3, 5), MASK, 0.2), (THEN, NOW, numbers(5, 3, 5), MASK, 0.3)
OF_UPDATES = {  # r: the ratio, a: the advantage, e: epsilon
    **{name: loss_of(objective) for name, objective in OF_CLIPS.items()},
    "its sign is turned: an optimiser makes this small": lambda *x: -ppo_loss(*x),
    "the ratio is upside down": loss_of(lambda r, a, e: surrogate(1 / r, a, e)),
    "exp is missing: this is a log-ratio": loss_of(lambda r, a, e: surrogate(r.log(), a, e)),
    "the log-probability stands where the ratio does": (
        lambda p, old, a, m, e: -(m * p * a).sum() / m.sum()
    ),
    "the mask is missing: prompt and padding count, too": lambda *x: -objectives(*x).mean(),
    "divided by all places, not by the answers' tokens": lambda *x: ppo_loss(*x) * x[3].mean(),
    "a sum over the tokens for a mean": lambda *x: ppo_loss(*x) * x[3].sum(),
    "a mean of the answers' means: a token of a long answer counts less": (
        lambda *x: -((x[3] * objectives(*x)).sum(-1) / x[3].sum(-1)).mean()
    ),
    "one loss a token, where one number is asked": lambda *x: -x[3] * objectives(*x),
    "one ratio for a whole answer; each token has its own": with_one_ratio,
}

BATCHES = in_torch(answer_logps, *LOGITS)
REWARDS = in_torch(token_rewards, TWO_TOKENS, THREE_SCORES)
UPDATES = in_torch(ppo_loss, FIRST_STEP, *LATER)
TOKENS = (
    Exercise("e15_answer_logps", answer_logps, BATCHES, OF_LOGITS, ["logits"]),
    Exercise("e16_token_rewards", token_rewards, REWARDS, OF_SCORES),
    Exercise("e17_ppo_loss", ppo_loss, UPDATES, OF_UPDATES, ["logps"]),
)
