"""The exercises on losses, in torch: inputs, and the mistakes that one makes."""

import math
from functools import partial

import torch
from dpo_trainer import dpo_loss as dpo
from dpo_variants import ipo_loss as ipo
from dpo_variants import kto_loss as kto
from grade import Exercise, cases
from reward_model import bradley_terry_loss as bt
from torch import sigmoid
from torch.nn.functional import logsigmoid

wide = partial(torch.tensor, dtype=torch.float64)
in_torch = partial(cases, array=wide)

FOUR_PAIRS = [0.3, -1.2, 2, 0], [-0.4, 1, 1.5, 0]
REWARD_PAIRS = in_torch(bt, ([1], [0]), ([2, -1], [0.5, 1]), ([-900, 3], [0, 1]), FOUR_PAIRS)
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

DPO_PAIRS = in_torch(dpo, (*ONE_PAIR, 0.5), ([-9000], [0], [0], [0], 0.5), (*THREE_PAIRS, 0.3))
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
    "the rejected response is missing": lambda pw, pl, rw, rl, b: dpo(pw, 0, rw, 0, b),
    "the logarithm is missing: this is minus the probability": lambda *x: -torch.exp(-dpo(*x)),
    "the loss is multiplied by beta; the margin is": lambda *x: x[4] * dpo(*x[:4], 1.0),
    "a mean over the pairs, where each has its own loss": lambda *x: dpo(*x).mean(),
    "the rejected side is cut off from the gradient": (
        lambda pw, pl, rw, rl, b: dpo(pw, pl.detach(), rw, rl, b)
    ),
}

ONE_IPO, THREE_IPO = (*ONE_PAIR, 0.4), (*THREE_PAIRS, 0.7)
WITH_LENGTHS = (*ONE_IPO, [4], [8]), (*THREE_IPO, [5, 9, 2], [11, 3, 4])
IPO_PAIRS = in_torch(ipo, ONE_IPO, WITH_LENGTHS[0], THREE_IPO, WITH_LENGTHS[1])
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
RESPONSES = in_torch(kto, ONE, BAD_ONE, FOUR, (*FOUR, 3.0, 0.5))


def kto_value(p, r, y, kl, b, *w) -> torch.Tensor:
    """w sigmoid(beta gain): what the loss is to be small of."""
    return kto(p, r, ~y, kl, b, *reversed(w))


def kto_with_logarithm(p, r, y, kl, b, good=1.0, bad=1.0) -> torch.Tensor:
    """-w log sigmoid(beta gain)."""
    return -torch.where(y, good, bad) * torch.log(1 - kto(p, r, y, kl, b))


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
    "a logarithm, which KTO lacks: a bad response counts without bound": kto_with_logarithm,
    "a mean over the responses, where each has its own loss": lambda *x: kto(*x).mean(),
}

BOTH = ("policy_chosen_logps", "policy_rejected_logps")
LOSSES = (
    Exercise("e02_bradley_terry_loss", bt, REWARD_PAIRS, OF_REWARD_PAIRS, [*REWARD_PAIRS[0]]),
    Exercise("e08_dpo_loss", dpo, DPO_PAIRS, OF_DPO, BOTH),
    Exercise("e09_ipo_loss", ipo, IPO_PAIRS, OF_IPO, BOTH),
    Exercise("e10_kto_loss", kto, RESPONSES, OF_KTO, ["policy_logps"]),
)
