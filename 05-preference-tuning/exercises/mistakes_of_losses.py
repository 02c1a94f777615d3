"""The exercises in torch, on losses and on tokens: inputs, and the mistakes that one makes."""

import math
from functools import partial

import numpy as np
import torch
from dpo_trainer import dpo_loss as dpo
from dpo_variants import ipo_loss as ipo
from dpo_variants import kto_loss as kto
from grade import make_exercise
from mistakes_of_samples import OF_CLIPS
from online_rl import token_rewards
from reward_model import bradley_terry_loss as bt
from rlhf_objectives import clipped_surrogate as surrogate
from torch import sigmoid
from torch.nn.functional import logsigmoid

wide = partial(torch.tensor, dtype=torch.float64)
in_torch = partial(make_exercise, array=wide)

FOUR_PAIRS = [0.3, -1.2, 2, 0], [-0.4, 1, 1.5, 0]
REWARD_PAIRS = ([1], [0]), ([2, -1], [0.5, 1]), ([-900, 3], [0, 1]), FOUR_PAIRS
OF_REWARD_PAIRS = {  # c, r: the rewards of chosen and rejected
    "its sign is turned: this is the log-likelihood": lambda c, r: -bt(c, r),
    "chosen and rejected are swapped": lambda c, r: bt(r, c),
    "a sum over the pairs for a mean": lambda c, r: -logsigmoid(c - r).sum(),
    "one loss a pair, where their mean is asked": lambda c, r: -logsigmoid(c - r),
    "the mean is taken of the rewards; it is of the losses": lambda c, r: bt(c.mean(), r.mean()),
    "the logarithm is missing: this is minus the probability": lambda c, r: -sigmoid(c - r).mean(),
    "1 minus the probability, not minus its logarithm": lambda c, r: sigmoid(r - c).mean(),
    "the logarithm of a mean, not a mean of logarithms": lambda c, r: -sigmoid(c - r).mean().log(),
    "the rejected reward is missing": lambda c, r: bt(c, torch.zeros_like(r)),
    "this is in bits; nats take the natural logarithm": lambda c, r: bt(c, r) / math.log(2),
}

# Log-probabilities: of the policy, chosen and rejected, and of the reference, by pair.
ONE_PAIR = [-3], [-4], [-4], [-4.5]
THREE_PAIRS = [-3, -9, -2], [-6, -4, -2], [-5, -6, -2], [-5.5, -7, -2]

DPO_PAIRS = (*ONE_PAIR, 0.5), ([-9000], [0], [0], [0], 0.5), (*THREE_PAIRS, 0.3)
OF_DPO = {  # pw, pl: the policy on chosen and rejected; rw, rl: the reference; b: beta
    "its sign is turned": lambda *x: -dpo(*x),
    "chosen and rejected are swapped, or policy and reference": (
        lambda pw, pl, rw, rl, b: dpo(pl, pw, rl, rw, b)
    ),
    "beta is dropped": lambda pw, pl, rw, rl, b: dpo(pw, pl, rw, rl, 1.0),
    "beta is squared": lambda pw, pl, rw, rl, b: dpo(pw, pl, rw, rl, b**2),
    "beta divides the margin; it multiplies it": lambda *x: dpo(*x[:4], 1 / x[4]),
    "the log-ratios lack the reference": lambda pw, pl, rw, rl, b: dpo(pw, pl, 0, 0, b),
    "the rejected log-ratio is added": lambda pw, pl, rw, rl, b: dpo(pw, rl, rw, pl, b),
    "the reference of rejected has the wrong sign": lambda *x: dpo(*x[:3], -x[3], x[4]),
    "the rejected response is missing": lambda pw, pl, rw, rl, b: dpo(pw, 0, rw, 0, b),
    "the logarithm is missing: this is minus the probability": lambda *x: -torch.exp(-dpo(*x)),
    "the loss is multiplied by beta; the margin is": lambda *x: x[4] * dpo(*x[:4], 1.0),
    "a mean over the pairs, where each has its own loss": lambda *x: dpo(*x).mean(),
    "the rejected side is cut off from the gradient": lambda *x: dpo(x[0], x[1].detach(), *x[2:]),
}

ONE_IPO, THREE_IPO = (*ONE_PAIR, 0.4), (*THREE_PAIRS, 0.7)
IPO_PAIRS = ONE_IPO, (*ONE_IPO, [4], [8]), THREE_IPO, (*THREE_IPO, [5, 9, 2], [11, 3, 4])
OF_IPO = {  # x: the four log-probabilities, beta, and perhaps the lengths nw and nl
    "chosen and rejected are swapped, or 1 / (2 beta) is added where it is subtracted": (
        lambda pw, pl, rw, rl, b, nw=1, nl=1: ipo(pl, pw, rl, rw, b, nl, nw)
    ),
    "beta is dropped": lambda *x: ipo(*x[:4], 1.0, *x[5:]),
    "beta is squared": lambda *x: ipo(*x[:4], x[4] ** 2, *x[5:]),
    "the target is 1 / (2 beta), not 1 / beta": lambda *x: ipo(*x[:4], x[4] / 2, *x[5:]),
    "the target is 1 / (2 beta), not beta / 2": lambda *x: ipo(*x[:4], 1 / x[4], *x[5:]),
    "beta multiplies the margin; it only says how far to go": lambda *x: x[4] ** 2 * ipo(*x),
    "1 / (2 beta) is missing: a pull to 0": lambda *x: ipo(*x[:4], math.inf, *x[5:]),
    "the square is missing": (
        lambda pw, pl, rw, rl, b, nw=1, nl=1: (pw - rw) / nw - (pl - rl) / nl - 1 / (2 * b)
    ),
    "the log-ratios lack the reference": lambda *x: ipo(*x[:2], 0, 0, *x[4:]),
    "the lengths are ignored: a sum over tokens for a mean": lambda *x: ipo(*x[:5]),
    "the lengths of the two are exchanged": lambda *x: ipo(*x[:5], *reversed(x[5:])),
    "the policy's log-probabilities are divided by the lengths, the reference's are not": (
        lambda pw, pl, rw, rl, b, nw=1, nl=1: ipo(pw / nw, pl / nl, rw, rl, b)
    ),
    "a mean over the pairs, where each has its own loss": lambda *x: ipo(*x).mean(),
}

GOOD, GOOD_AND_BAD = torch.tensor([True]), torch.tensor([True, True, False, False])
FOUR = [-3, -6, -2, -8], [-5, -4, -2.5, -6.5], GOOD_AND_BAD, wide(0.4), 0.3
ONE, BAD_ONE = (([-3], [-4], label, wide(0.5), 0.4) for label in (GOOD, ~GOOD))
RESPONSES = ONE, BAD_ONE, FOUR, (*FOUR, 3.0, 0.5)


def kto_value(p, r, y, kl, b, *w) -> torch.Tensor:
    """w sigmoid(beta gain): loss and value add up to the weight w."""
    return kto(p, r, ~y, kl, b, *reversed(w))


OF_KTO = {  # p, r: log-probabilities of policy and reference; y: labels; w: weights, if any
    "good and bad are exchanged, or this is the value; the loss is the weight minus it": kto_value,
    "the weights of good and bad are exchanged": lambda *x: kto(*x[:5], *reversed(x[5:])),
    "the weights are ignored": lambda *x: kto(*x[:5]),
    "the reference point is missing": lambda p, r, y, kl, *rest: kto(p, r, y, 0 * kl, *rest),
    "the reference point has the wrong sign": lambda p, r, y, kl, *rest: kto(p, r, y, -kl, *rest),
    "the reference point has the wrong sign for bad responses": (
        lambda p, r, y, kl, *rest: kto(p, r, y, kl * (2 * y - 1), *rest)
    ),
    "the reference point lacks beta": lambda p, r, y, kl, b, *w: kto(p, r, y, kl / b, b, *w),
    "beta is dropped": lambda p, r, y, kl, b, *w: kto(p, r, y, kl, 1.0, *w),
    "beta is squared": lambda p, r, y, kl, b, *w: kto(p, r, y, kl, b**2, *w),
    "the log-ratio lacks the reference": lambda p, r, *rest: kto(p, 0 * r, *rest),
    "the weight is missing, from which the value is taken": lambda *x: -kto_value(*x),
    "a logarithm, which KTO lacks: a bad response counts without bound": (
        lambda *x: -(kto(*x) + kto_value(*x)) * kto_value(*x[:5]).log()
    ),
    "a mean over the responses, where each has its own loss": lambda *x: kto(*x).mean(),
}

# --- An answer's log-probability ---


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, shape))


def sums_of_answers(numbers, ids, attention, lengths) -> torch.Tensor:
    """The sum over each answer's tokens (B,) of numbers (B, T, V), V for each next token."""
    of_next = numbers.gather(-1, ids[:, 1:, None]).squeeze(-1)  # (B, T - 1)
    is_answer = attention * (torch.arange(ids.shape[1]) >= lengths[:, None])  # (B, T)
    return (of_next * is_answer[:, 1:]).sum(-1)


def answer_logps(logits, ids, attention_mask, prompt_lengths) -> torch.Tensor:
    return sums_of_answers(logits.log_softmax(-1), ids, attention_mask, prompt_lengths)


ONE_ANSWER = torch.tensor([[0, 1, 1]]), torch.tensor([[1, 1, 1]]), torch.tensor([1])
THREE_ANSWERS = (
    torch.tensor([[4, 1, 0, 2, 3, 0, 0], [2, 2, 1, 3, 0, 0, 0], [1, 3, 0, 4, 2, 4, 3]]),
    torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]]),
    torch.tensor([2, 1, 4]),
)
BATCHES = (numbers(0, 1, 3, 2), *ONE_ANSWER), (numbers(1, 3, 7, 5), *THREE_ANSWERS)
OF_LOGITS = {  # x: logits, i: token ids, m: attention mask, n: lengths of the prompts
    "no shift: the logits at a token are for the next one": (
        lambda x, *b: sums_of_answers(x[:, 1:].log_softmax(-1), *b)
    ),
    "the mask is not shifted along: the answer's first token is missing": (
        lambda x, i, m, n: answer_logps(x, i, m.roll(1, 1), n + 1)
    ),
    "the prompt is counted, too": lambda x, i, m, n: answer_logps(x, i, m, 0 * n),
    "the padding is counted, too": lambda x, i, m, n: answer_logps(x, i, 1, n),
    "every token is counted: prompt, answer, padding": (
        lambda x, i, m, n: answer_logps(x, i, 1, 0 * n)
    ),
    "a mean over the tokens for a sum": lambda *x: answer_logps(*x) / (x[2].sum(-1) - x[3]),
    "softmax over the wrong axis: it runs over the tokens, not over the vocabulary": (
        lambda x, *b: sums_of_answers(x[:, :-1].log_softmax(1), *b)
    ),
    "these are sums of logits: log_softmax is missing": sums_of_answers,
    "this is the probability, not its logarithm": lambda *x: answer_logps(*x).exp(),
    "its sign is turned: this is the cross-entropy": lambda *x: -answer_logps(*x),
    "one number for the batch: each answer has its own": lambda *x: answer_logps(*x).sum(),
}

# --- PPO's reward ---


def last_of(mask) -> torch.Tensor:
    return mask * (mask.cumsum(-1) == mask.sum(-1, keepdim=True))


def rewards_with(place=last_of, penalty=lambda gap, mask: mask * gap):
    """Rewards with the score, or the penalty, at other places."""
    return lambda s, p, r, mask, beta: place(mask) * s[:, None] - beta * penalty(p - r, mask)


NOW, THEN = numbers(2, 3, 5) / 4 - 2, numbers(3, 3, 5) / 4 - 2
MASK = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 1, 0, 0, 0]]).double()
SCORES = ([2], [[-1, -2]], [[-1.5, -1]], [[1, 1]], 0.5), ([1, -2, 0.5], NOW, THEN, MASK, 0.3)
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


def loss_of(objective):
    """Minus the mean over the answers' tokens of an objective of ratio, advantage, and epsilon."""
    return lambda p, o, a, m, e: -(m * objective((p - o).exp(), a, e)).sum() / m.sum()


def ppo_loss(logps, old_logps, advantages, mask, epsilon: float) -> torch.Tensor:
    return loss_of(surrogate)(logps, old_logps, advantages, mask, epsilon)


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
    "the mask is missing: prompt and padding count, too": (
        lambda p, o, a, m, e: ppo_loss(p, o, a, torch.ones_like(m), e)
    ),
    "divided by all places, not by the answers' tokens": lambda *x: ppo_loss(*x) * x[3].mean(),
    "a sum over the tokens for a mean": lambda *x: ppo_loss(*x) * x[3].sum(),
    "a mean of the answers' means: a token of a long answer counts less": (
        lambda p, o, a, m, e: ppo_loss(p, o, a, m / m.sum(-1, keepdim=True), e)
    ),
    "one loss a token, where one number is asked": (
        lambda p, o, a, m, e: -m * surrogate((p - o).exp(), a, e)
    ),
    "one ratio for a whole answer; each token has its own": (
        lambda p, old, a, m, e: ppo_loss((m * (p - old)).sum(-1, keepdim=True), 0 * old, a, m, e)
    ),
}

REWARDS = ["chosen_rewards", "rejected_rewards"]
POLICY = ["policy_chosen_logps", "policy_rejected_logps"]
LOSSES = (
    in_torch("e02_bradley_terry_loss", bt, REWARD_PAIRS, OF_REWARD_PAIRS, REWARDS),
    in_torch("e08_dpo_loss", dpo, DPO_PAIRS, OF_DPO, POLICY),
    in_torch("e09_ipo_loss", ipo, IPO_PAIRS, OF_IPO, POLICY),
    in_torch("e10_kto_loss", kto, RESPONSES, OF_KTO, ["policy_logps"]),
    in_torch("e15_answer_logps", answer_logps, BATCHES, OF_LOGITS, ["logits"]),
    in_torch("e16_token_rewards", token_rewards, SCORES, OF_SCORES),
    in_torch("e17_ppo_loss", ppo_loss, (FIRST_STEP, *LATER), OF_UPDATES, ["logps"]),
)
