"""The exercises on formulas, in their order: inputs, small ones first, and named mistakes."""

import math
from functools import partial

import numpy as np
import torch
from best_of_n import best_of_n_kl_bound as bound
from best_of_n import best_of_n_policy as policy_of
from best_of_n import expected_best_of_n as best_of
from dpo_trainer import dpo_loss as dpo
from dpo_variants import ipo_loss as ipo
from dpo_variants import kto_loss as kto
from grade import make_exercise
from online_rl import leave_one_out_advantages as leave_one_out
from online_rl import token_rewards
from preference_data_explorer import plackett_luce_nll as nll
from reward_model import bradley_terry_loss as bt
from rlhf_objectives import clipped_surrogate as surrogate
from rlhf_objectives import generalized_advantage_estimate as gae
from rlhf_objectives import kl_estimators as estimators
from rlhf_objectives import kl_regularized_optimum as optimum
from rlhf_objectives import library
from torch import sigmoid
from torch.nn.functional import logsigmoid

wide = partial(torch.tensor, dtype=torch.float64)
in_torch = partial(make_exercise, array=wide)


def pairwise(scores: np.ndarray) -> np.ndarray:
    """Bradley-Terry losses of all pairs of a ranking: (..., K) -> (..., K (K - 1) / 2)."""
    better, worse = np.triu_indices(scores.shape[-1], 1)
    return nll(np.stack([scores[..., better], scores[..., worse]], -1))


MANY_SCORES = [[0.3, 1.2, -0.7, 2.0], [1.0, 0.9, 0.4, -2.0]]
RANKINGS = [[1, 0]], [[2, 0.5, -1]], [[1000, 0, -1000]], [MANY_SCORES]
OF_RANKINGS = {
    "its sign is turned: this is the log-probability": lambda s: -nll(s),
    "the ranking is read from its wrong end": lambda s: nll(s[..., ::-1]),
    "what was chosen stays in the pool; the next is chosen among the rest": (
        lambda s: (np.logaddexp.reduce(s, -1, keepdims=True) - s).sum(-1)
    ),
    "the mean of pairwise losses; a ranking is K - 1 choices": lambda s: pairwise(s).mean(-1),
    "the sum of pairwise losses; a ranking is K - 1 choices": lambda s: pairwise(s).sum(-1),
    "a mean over the K items where the choices' losses add up": lambda s: nll(s) / s.shape[-1],
    "a mean over the K - 1 choices; their losses add up": lambda s: nll(s) / (s.shape[-1] - 1),
    "only the first choice counts": lambda s: nll(s) - nll(s[..., 1:]),
    "one number for all rankings, where each has its own": lambda s: nll(s).sum(),
}

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

ONE_PROMPT, UNSAID = ([0.6, 0.4], [0, 1], 0.5), ([0.5, 0.5, 0], [0, 1, 9], 2.0)
TWO_PROMPTS = [[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], [[1, -0.5, 0.2], [0, 2, 1]], 0.7
OPTIMA = ONE_PROMPT, UNSAID, TWO_PROMPTS, ([0.6, 0.4], [1, 1.1], 0.001)
OF_OPTIMA = {  # p: the reference's probabilities, r: rewards, b: beta
    "beta multiplies the reward; it divides it": lambda p, r, b: optimum(p, r, 1 / b),
    "beta is dropped": lambda p, r, b: optimum(p, r, 1.0),
    "beta is squared": lambda p, r, b: optimum(p, r, b**2),
    "the sign of the reward is turned": lambda p, r, b: optimum(p, -r, b),
    "the reference is missing: softmax(r / beta)": lambda p, r, b: optimum(np.ones_like(p), r, b),
    "log pi_ref is divided by beta, too": lambda p, r, b: optimum(p ** (1 / b), r, b),
    "Z is missing: the probabilities do not add up to 1": lambda p, r, b: p * np.exp(r / b),
    "one Z for all prompts: the probabilities of each prompt add up to 1": (
        lambda p, r, b: optimum(p.ravel(), r.ravel(), b).reshape(p.shape)
    ),
    "this is the log-probability": lambda *x: np.log(optimum(*x)),
}


def smaller_of(ratio: np.ndarray, a: np.ndarray, low: float, high: float) -> np.ndarray:
    """The surrogate with the ratio clipped to these borders."""
    return library(ratio).minimum(ratio * a, ratio.clip(low, high) * a)


SIDES = [([ratio], [a], 0.2) for ratio, a in ((1.5, 1), (0.5, 1), (0.5, -1), (1.5, -1))]
SIX_RATIOS = [[0.2, 0.9, 1.1], [0.6, 1.4, 2.5]], [[-2, 0.5, 3], [0.7, -0.4, 1.2]], 0.3
RATIOS = *SIDES, SIX_RATIOS
OF_CLIPS = {  # r: the ratio, a: the advantage, e: epsilon; exercise 17 has them in torch
    "the larger of the two is taken, not the smaller": lambda r, a, e: -surrogate(r, -a, e),
    "nothing is clipped": lambda r, a, e: r * a,
    "a move in the wrong direction is clipped, too": lambda r, a, e: r.clip(1 - e, 1 + e) * a,
    "the ratio is clipped from above only": lambda r, a, e: smaller_of(r, a, None, 1 + e),
    "the ratio is clipped from below only": lambda r, a, e: smaller_of(r, a, 1 - e, None),
    "the product is clipped, not the ratio": lambda r, a, e: smaller_of(r * a, 1, 1 - e, 1 + e),
    "clipped to -epsilon ... epsilon, not around 1": lambda r, a, e: smaller_of(r, a, -e, e),
}
OF_RATIOS = OF_CLIPS | {
    "its sign is turned: this is the loss, the surrogate is maximised": lambda *x: -surrogate(*x),
    "a mean over all, where each has its own": lambda *x: surrogate(*x).mean(),
}


def later_sums(deltas: np.ndarray, factor: float) -> np.ndarray:
    return gae(deltas, 0 * deltas, 1.0, factor)


FIVE_STEPS = [0.3, -1, 0, 0.5, 2], [0.4, 1.2, -0.3, 0.8, 0.1], 0.9, 0.7
STEPS = ([2], [0.5], 0.5, 0.5), ([0, 1], [0.5, 0.6], 0.9, 0.5), FIVE_STEPS
OF_STEPS = {  # r: rewards, v: values, g: gamma; gae(r, v, g, 0) are the TD errors
    "lambda and gamma are exchanged": lambda r, v, g, lam: gae(r, v, lam, g),
    "lambda is dropped: returns minus values": lambda r, v, g, lam: gae(r, v, g, 1.0),
    "the TD errors alone, as if lambda were 0": lambda r, v, g, lam: gae(r, v, g, 0.0),
    "gamma is dropped": lambda r, v, g, lam: gae(r, v, 1.0, lam),
    "the next value lacks gamma": lambda r, v, g, lam: later_sums(gae(r, v, 1.0, 0.0), g * lam),
    "gamma is missing in (gamma lambda)^l": lambda r, v, g, lam: later_sums(gae(r, v, g, 0.0), lam),
    "only the next TD error is added, not all later ones": (
        lambda r, v, g, lam: np.convolve(gae(r, v, g, 0.0), [g * lam, 1.0])[1:]
    ),
    "behind the last step stands its own value, where it is 0": (
        lambda r, v, g, lam: gae(np.append(r, v[-1]), np.append(v, v[-1]), g, lam)[:-1]
    ),
    "the next value is missing in the TD errors": lambda r, v, g, lam: later_sums(r - v, g * lam),
    "the values are missing: discounted rewards": lambda r, v, g, lam: gae(r, 0 * v, g, lam),
    "the value of the step itself is not subtracted": lambda r, v, g, lam: gae(r, v, g, lam) + v,
    "the sum runs over earlier TD errors, where it is over later ones": (
        lambda r, v, g, lam: later_sums(gae(r, v, g, 0.0)[::-1], g * lam)[::-1]
    ),
    "its sign is turned": lambda *x: -gae(*x),
}


def with_other(name: str, formula):
    """The estimators, one of them by another formula of x = ref_logp - logp."""
    return lambda logp, ref_logp: estimators(logp, ref_logp) | {name: formula(ref_logp - logp)}


NEARLY_EQUAL = np.array([-2.0], np.float32), np.array([-1.9997], np.float32)
LOGPS = ([-1], [-2]), ([-1, -2, -0.3], [-1.5, -1, -0.2]), NEARLY_EQUAL
OF_LOGPS = {
    "policy and reference are exchanged": lambda logp, ref_logp: estimators(ref_logp, logp),
    "k1 has the wrong sign": with_other("k1", lambda x: x),
    "the half of k2 is missing": with_other("k2", np.square),
    "k3 has x with the wrong sign": with_other("k3", lambda x: np.expm1(-x) + x),
    "the 1 of k3 is missing": with_other("k3", lambda x: np.expm1(x) - x + 1),
    "the x of k3 is missing": with_other("k3", np.expm1),
    "k3 loses digits near 0: np.expm1 keeps them": with_other("k3", lambda x: np.exp(x) - 1 - x),
    "these are means over the samples, where each sample has its own": (
        lambda *logps: {name: each.mean() for name, each in estimators(*logps).items()}
    ),
}

mean_of = partial(np.mean, axis=-1, keepdims=True)
TWELVE_REWARDS = np.random.default_rng(0).normal(size=(3, 4))
REWARDS = [[[1, 0, 0]]], [[[1, 2, 4], [0, 5, -1]]], [TWELVE_REWARDS]
OF_REWARDS = {
    "the response's own reward is in its baseline": lambda r: r - mean_of(r),
    "the others are of the same column: average over a prompt": lambda r: leave_one_out(r.T).T,
    "the baseline is the mean of all prompts' rewards": lambda r: r - r.mean(),
    "the others' sum is subtracted, not their mean": lambda r: 2 * r - r.sum(-1, keepdims=True),
    "the others' sum is divided by K, not K - 1": lambda r: r - mean_of(r) + r / r.shape[-1],
    "divided by the std, as GRPO does": lambda r: (r - mean_of(r)) / r.std(-1, keepdims=True),
    "this is the baseline; the advantage is the reward minus it": lambda r: r - leave_one_out(r),
    "its sign is turned": lambda r: -leave_one_out(r),
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


def with_values(formula):
    """A formula of rewards, n and values, which are the rewards where none are given."""
    return lambda r, n, values=None: formula(r, n, r if values is None else values)


def untie(rewards: np.ndarray, sign: int) -> np.ndarray:
    """Rewards of which the later (+1) or the earlier (-1) of equal ones is a little better."""
    return rewards + sign * 1e-12 * np.arange(len(rewards))


def evenly(rewards: np.ndarray) -> np.ndarray:
    return np.full(len(rewards), 1 / len(rewards))


OF_FIVE = [1, 3, 2, 2, 0], 3, [2, -1, 5, 1, 0.5]
OF_MANY = np.random.default_rng(0).normal(size=400), 64
POOLS = ([0, 1], 1), ([0, 1, 3], 2), ([0, 1, 3], 2, [4, 2, -1]), OF_FIVE, OF_MANY
OF_POOLS = {  # r: rewards, v: values
    "this draws with replacement": with_values(lambda r, n, v: policy_of(evenly(r), r, n) @ v),
    "this is the worst of n": with_values(lambda r, n, v: best_of(-r, n, v)),
    "the best of the first n, not of all subsets": with_values(lambda r, n, v: v[r[:n].argmax()]),
    "this is the best of the whole pool, whatever n is": with_values(lambda r, n, v: v[r.argmax()]),
    "the values choose; the rewards do": with_values(lambda r, n, v: best_of(v, n)),
    "the values are ignored: the rewards only choose": lambda r, n, v=None: best_of(r, n),
    "equal rewards share; the first is taken": lambda r, n, *v: best_of(untie(r, -1), n, *v),
    "equal rewards share; the last is taken": lambda r, n, *v: best_of(untie(r, 1), n, *v),
    "n is one too large": lambda r, n, *v: best_of(r, min(n + 1, len(r)), *v),
    "not divided by C(M, n) subsets": lambda r, n, *v: best_of(r, n, *v) * math.comb(len(r), n),
}


def all_equal(ref: np.ndarray, rewards: np.ndarray, n: int) -> np.ndarray:
    """The common probability of all responses with the same reward."""
    return (rewards == rewards[:, None]) @ policy_of(ref, rewards, n)


TIES, UNSAID_BEST = ([0.4, 0.1, 0.3, 0.2], [1, 1, 0, 2], 4), ([0.5, 0.5, 0], [0, 1, 2], 2)
POLICIES = ([0.75, 0.25], [0, 1], 2), ([0.5, 0.3, 0.2], [2, 0, 1], 3), TIES, UNSAID_BEST
OF_POLICIES = {  # p: the reference's probabilities, r: rewards
    "this is F^n, the probability that the best is no better: subtract that of a lower one": (
        lambda p, r, n: ((r <= r[:, None]) @ p) ** n
    ),
    "this is the probability to be among the n, best or not": lambda p, r, n: 1 - (1 - p) ** n,
    "this is the worst of n": lambda p, r, n: policy_of(p, -r, n),
    "ranked by their places, not by rewards": lambda p, r, n: policy_of(p, np.arange(len(r)), n),
    "ranked by their probabilities, not by rewards": lambda p, r, n: policy_of(p, p, n),
    "equal rewards share; the first is taken": lambda p, r, n: policy_of(p, untie(r, -1), n),
    "equal rewards share; the last is taken": lambda p, r, n: policy_of(p, untie(r, 1), n),
    "equal rewards share alike, where they share by their probabilities": (
        lambda p, r, n: all_equal(p, r, n) / (r == r[:, None]).sum(-1)
    ),
    "equal rewards are all given their common probability, which they share": all_equal,
    "n is one too large": lambda p, r, n: policy_of(p, r, n + 1),
    "the reference is missing, as if it were uniform": lambda p, r, n: policy_of(evenly(r), r, n),
}

NUMBERS = (1,), (2,), (4,), (np.array([1, 8, 64]),)
OF_NUMBERS = {
    "this is log n, without what is taken off": lambda n: np.log(n),
    "its sign is turned": lambda n: -bound(n),
    "(n - 1) / n is added, where it is subtracted": lambda n: np.log(n) + (n - 1) / n,
    "n - 1 is not divided by n": lambda n: np.log(n) - (n - 1),
    "1 / n is subtracted, where it is (n - 1) / n": lambda n: np.log(n) - 1 / n,
    "n / (n + 1) is subtracted, where it is (n - 1) / n": lambda n: np.log(n) - n / (n + 1),
    "this is in bits; nats take the natural logarithm": lambda n: np.log2(n) - (n - 1) / n,
}


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
IDS = torch.tensor([[4, 1, 0, 2, 3, 0, 0], [2, 2, 1, 3, 0, 0, 0], [1, 3, 0, 4, 2, 4, 3]])
ATTENTION = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
LENGTHS = torch.tensor([2, 1, 4])
BATCHES = (numbers(0, 1, 3, 2), *ONE_ANSWER), (numbers(1, 3, 7, 5), IDS, ATTENTION, LENGTHS)
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

FORMULAS = (
    make_exercise("e01_plackett_luce_nll", nll, RANKINGS, OF_RANKINGS),
    in_torch("e02_bradley_terry_loss", bt, REWARD_PAIRS, OF_REWARD_PAIRS, trained=2),
    make_exercise("e03_kl_regularized_optimum", optimum, OPTIMA, OF_OPTIMA),
    make_exercise("e04_clipped_surrogate", surrogate, RATIOS, OF_RATIOS),
    make_exercise("e05_generalized_advantage_estimate", gae, STEPS, OF_STEPS),
    make_exercise("e06_kl_estimators", estimators, LOGPS, OF_LOGPS),
    make_exercise("e07_leave_one_out_advantages", leave_one_out, REWARDS, OF_REWARDS),
    in_torch("e08_dpo_loss", dpo, DPO_PAIRS, OF_DPO, trained=2),
    in_torch("e09_ipo_loss", ipo, IPO_PAIRS, OF_IPO, trained=2),
    in_torch("e10_kto_loss", kto, RESPONSES, OF_KTO, trained=1),
    make_exercise("e11_expected_best_of_n", best_of, POOLS, OF_POOLS),
    make_exercise("e12_best_of_n_policy", policy_of, POLICIES, OF_POLICIES),
    make_exercise("e13_best_of_n_kl_bound", bound, NUMBERS, OF_NUMBERS),
    in_torch("e15_answer_logps", answer_logps, BATCHES, OF_LOGITS, trained=1),
    in_torch("e16_token_rewards", token_rewards, SCORES, OF_SCORES),
    in_torch("e17_ppo_loss", ppo_loss, (FIRST_STEP, *LATER), OF_UPDATES, trained=1),
)
