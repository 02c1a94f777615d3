"""The exercises on losses, in torch: inputs, and the mistakes that one makes."""

import math

from support.grading.grade import Exercise

import torch
from dpo_trainer import dpo_loss
from dpo_variants import ipo_loss, kto_loss
from reward_model import bradley_terry_loss


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- Bradley-Terry ---


def bradley_terry_each(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """The loss of every pair alone."""
    losses = [bradley_terry_loss(*pair) for pair in zip(chosen, rejected, strict=True)]
    return torch.stack(losses)


def probability(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """How probable it is that chosen wins, by pair."""
    return torch.exp(-bradley_terry_each(chosen, rejected))


BRADLEY_TERRY = Exercise(
    "e02_bradley_terry_loss",
    bradley_terry_loss,
    [
        {"chosen_rewards": numbers(1), "rejected_rewards": numbers(0)},
        {"chosen_rewards": numbers(2, -1), "rejected_rewards": numbers(0.5, 1)},
        {"chosen_rewards": numbers(-900, 3), "rejected_rewards": numbers(0, 1)},
        {"chosen_rewards": numbers(0.3, -1.2, 2, 0), "rejected_rewards": numbers(-0.4, 1, 1.5, 0)},
    ],
    {
        "its sign is turned: this is the log-likelihood": (
            lambda chosen, rejected: -bradley_terry_loss(chosen, rejected)
        ),
        "chosen and rejected are swapped": (
            lambda chosen, rejected: bradley_terry_loss(rejected, chosen)
        ),
        "a sum over the pairs for a mean": (
            lambda chosen, rejected: bradley_terry_each(chosen, rejected).sum()
        ),
        "one loss a pair, where their mean is asked": bradley_terry_each,
        "the mean is taken of the rewards; it is of the losses": (
            lambda chosen, rejected: bradley_terry_loss(chosen.mean(), rejected.mean())
        ),
        "the logarithm is missing: this is minus the probability": (
            lambda chosen, rejected: -probability(chosen, rejected).mean()
        ),
        "this is 1 minus the probability, not minus its logarithm": (
            lambda chosen, rejected: 1 - probability(chosen, rejected).mean()
        ),
        "the logarithm is taken of the mean probability; the mean is of the logarithms": (
            lambda chosen, rejected: -probability(chosen, rejected).mean().log()
        ),
        "the rejected reward is missing": (
            lambda chosen, rejected: bradley_terry_loss(chosen, 0 * rejected)
        ),
        "this is in bits; nats take the natural logarithm": (
            lambda chosen, rejected: bradley_terry_loss(chosen, rejected) / math.log(2)
        ),
    },
    trained=("chosen_rewards", "rejected_rewards"),
)

# --- DPO ---


def four_logps(*rows: tuple[float, float, float, float]) -> dict:
    """Log-probabilities by pair, as the losses take them: policy and reference, both sides."""
    names = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
    columns = zip(*rows, strict=True)
    return {f"{name}_logps": numbers(*column) for name, column in zip(names, columns, strict=True)}


POLICY = ("policy_chosen_logps", "policy_rejected_logps")
ONE = four_logps((-3, -4, -4, -4.5))
THREE = four_logps((-3, -6, -5, -5.5), (-9, -4, -6, -7), (-2, -2, -2, -2))

DPO = Exercise(
    "e08_dpo_loss",
    dpo_loss,
    [{**ONE, "beta": 0.5}, {**four_logps((-9000, 0, 0, 0)), "beta": 0.5}, {**THREE, "beta": 0.3}],
    {
        "its sign is turned": lambda *inputs: -dpo_loss(*inputs),
        "chosen and rejected are swapped, or policy and reference": (
            lambda pw, pl, rw, rl, beta: dpo_loss(pl, pw, rl, rw, beta)
        ),
        "beta is dropped": lambda pw, pl, rw, rl, beta: dpo_loss(pw, pl, rw, rl, 1.0),
        "beta is squared": lambda pw, pl, rw, rl, beta: dpo_loss(pw, pl, rw, rl, beta**2),
        "beta divides the margin; it multiplies it": (
            lambda pw, pl, rw, rl, beta: dpo_loss(pw, pl, rw, rl, 1 / beta)
        ),
        "the log-ratios lack the reference": (
            lambda pw, pl, rw, rl, beta: dpo_loss(pw, pl, 0 * rw, 0 * rl, beta)
        ),
        "the rejected log-ratio is added; it is subtracted": (
            lambda pw, pl, rw, rl, beta: dpo_loss(pw, rl, rw, pl, beta)
        ),
        "the rejected response is missing": (
            lambda pw, pl, rw, rl, beta: dpo_loss(pw, 0 * pl, rw, 0 * rl, beta)
        ),
        "the logarithm is missing: this is minus the probability": (
            lambda *inputs: -torch.exp(-dpo_loss(*inputs))
        ),
        "the loss is multiplied by beta; the margin is": (
            lambda pw, pl, rw, rl, beta: beta * dpo_loss(pw, pl, rw, rl, 1.0)
        ),
        "a mean over the pairs, where each has its own loss": (
            lambda *inputs: dpo_loss(*inputs).mean()
        ),
        "the rejected side is cut off from the gradient": (
            lambda pw, pl, rw, rl, beta: dpo_loss(pw, pl.detach(), rw, rl, beta)
        ),
    },
    trained=POLICY,
)


# --- IPO ---


def margin(pw, pl, rw, rl, chosen_lengths=1, rejected_lengths=1) -> torch.Tensor:
    """How far the log-ratio of chosen lies above that of rejected."""
    return (pw - rw) / chosen_lengths - (pl - rl) / rejected_lengths


IPO = Exercise(
    "e09_ipo_loss",
    ipo_loss,
    [
        {**ONE, "beta": 0.4},
        {**ONE, "beta": 0.4, "chosen_lengths": numbers(4), "rejected_lengths": numbers(8)},
        {**THREE, "beta": 0.7},
        {
            **THREE,
            "beta": 0.7,
            "chosen_lengths": numbers(5, 9, 2),
            "rejected_lengths": numbers(11, 3, 4),
        },
    ],
    {
        "chosen and rejected are swapped, or 1 / (2 beta) is added where it is subtracted": (
            lambda pw, pl, rw, rl, beta, nw=1, nl=1: ipo_loss(pl, pw, rl, rw, beta, nl, nw)
        ),
        "beta is dropped": (
            lambda pw, pl, rw, rl, beta, nw=1, nl=1: ipo_loss(pw, pl, rw, rl, 1.0, nw, nl)
        ),
        "beta is squared": (
            lambda pw, pl, rw, rl, beta, nw=1, nl=1: ipo_loss(pw, pl, rw, rl, beta**2, nw, nl)
        ),
        "the margin should reach 1 / (2 beta), not 1 / beta": (
            lambda pw, pl, rw, rl, beta, nw=1, nl=1: ipo_loss(pw, pl, rw, rl, beta / 2, nw, nl)
        ),
        "the margin should reach 1 / (2 beta), not beta / 2": (
            lambda pw, pl, rw, rl, beta, nw=1, nl=1: ipo_loss(pw, pl, rw, rl, 1 / beta, nw, nl)
        ),
        "beta multiplies the margin, as in DPO; here it says only how far the margin should go": (
            lambda pw, pl, rw, rl, beta, nw=1, nl=1: (
                beta**2 * ipo_loss(pw, pl, rw, rl, beta, nw, nl)
            )
        ),
        "1 / (2 beta) is missing: the margin is pulled to 0": (
            lambda pw, pl, rw, rl, beta, nw=1, nl=1: ipo_loss(pw, pl, rw, rl, math.inf, nw, nl)
        ),
        "the square is missing": (
            lambda pw, pl, rw, rl, beta, nw=1, nl=1: margin(pw, pl, rw, rl, nw, nl) - 1 / (2 * beta)
        ),
        "the log-ratios lack the reference": (
            lambda pw, pl, rw, rl, beta, nw=1, nl=1: ipo_loss(pw, pl, 0 * rw, 0 * rl, beta, nw, nl)
        ),
        "the lengths are ignored: a sum over tokens for a mean": (
            lambda pw, pl, rw, rl, beta, nw=1, nl=1: ipo_loss(pw, pl, rw, rl, beta)
        ),
        "the lengths of chosen and rejected are exchanged": (
            lambda pw, pl, rw, rl, beta, nw=1, nl=1: ipo_loss(pw, pl, rw, rl, beta, nl, nw)
        ),
        "the policy's log-probabilities are divided by the lengths, the reference's are not": (
            lambda pw, pl, rw, rl, beta, nw=1, nl=1: ipo_loss(pw / nw, pl / nl, rw, rl, beta)
        ),
        "a mean over the pairs, where each has its own loss": (
            lambda *inputs: ipo_loss(*inputs).mean()
        ),
    },
    trained=POLICY,
)

# --- KTO ---


def kto_weights(labels: torch.Tensor, good=1.0, bad=1.0) -> torch.Tensor:
    return torch.where(labels, good, bad).double()


def one_sign_of_kl(p, r, labels, kl, beta, good=1.0, bad=1.0) -> torch.Tensor:
    """As if the reference point were subtracted from the gain of bad responses, too."""
    for_good, for_bad = (kto_loss(p, r, labels, sign * kl, beta, good, bad) for sign in (1, -1))
    return torch.where(labels, for_good, for_bad)


def value(p, r, labels, kl, beta, good=1.0, bad=1.0) -> torch.Tensor:
    """w sigmoid(beta gain): what the loss is to be small of."""
    return kto_weights(labels, good, bad) - kto_loss(p, r, labels, kl, beta, good, bad)


def logistic(p, r, labels, kl, beta, good=1.0, bad=1.0) -> torch.Tensor:
    """-w log sigmoid(beta gain)."""
    weights = kto_weights(labels, good, bad)
    return -weights * (value(p, r, labels, kl, beta, good, bad) / weights).log()


LABELLED = {
    "policy_logps": numbers(-3, -6, -2, -8),
    "ref_logps": numbers(-5, -4, -2.5, -6.5),
    "labels": torch.tensor([True, True, False, False]),
    "kl": numbers(0.4)[0],
}
KTO = Exercise(
    "e10_kto_loss",
    kto_loss,
    [
        {
            "policy_logps": numbers(-3),
            "ref_logps": numbers(-4),
            "labels": torch.tensor([True]),
            "kl": numbers(0.5)[0],
            "beta": 0.4,
        },
        {
            "policy_logps": numbers(-3),
            "ref_logps": numbers(-4),
            "labels": torch.tensor([False]),
            "kl": numbers(0.5)[0],
            "beta": 0.4,
        },
        {**LABELLED, "beta": 0.3},
        {**LABELLED, "beta": 0.3, "desirable_weight": 3.0, "undesirable_weight": 0.5},
    ],
    {
        "good and bad are exchanged, or this is the value, where the loss is the weight minus it": (
            lambda p, r, y, kl, beta, good=1.0, bad=1.0: kto_loss(p, r, ~y, kl, beta, bad, good)
        ),
        "the weights of good and bad are exchanged": (
            lambda p, r, y, kl, beta, good=1.0, bad=1.0: kto_loss(p, r, y, kl, beta, bad, good)
        ),
        "the weights are ignored": (
            lambda p, r, y, kl, beta, good=1.0, bad=1.0: kto_loss(p, r, y, kl, beta)
        ),
        "the reference point is missing": (
            lambda p, r, y, kl, beta, good=1.0, bad=1.0: kto_loss(p, r, y, 0 * kl, beta, good, bad)
        ),
        "the reference point has the wrong sign": (
            lambda p, r, y, kl, beta, good=1.0, bad=1.0: kto_loss(p, r, y, -kl, beta, good, bad)
        ),
        "the reference point has the wrong sign for bad responses": one_sign_of_kl,
        "the reference point is not multiplied by beta": (
            lambda p, r, y, kl, beta, good=1.0, bad=1.0: kto_loss(
                p, r, y, kl / beta, beta, good, bad
            )
        ),
        "beta is dropped": (
            lambda p, r, y, kl, beta, good=1.0, bad=1.0: kto_loss(p, r, y, kl, 1.0, good, bad)
        ),
        "beta is squared": (
            lambda p, r, y, kl, beta, good=1.0, bad=1.0: kto_loss(p, r, y, kl, beta**2, good, bad)
        ),
        "the log-ratio lacks the reference": (
            lambda p, r, y, kl, beta, good=1.0, bad=1.0: kto_loss(p, 0 * r, y, kl, beta, good, bad)
        ),
        "the 1 is missing: the gradient is right, but a loss of 0 should be the best": (
            lambda *inputs: -value(*inputs)
        ),
        "a logarithm that KTO does not have: a bad response would count without bound": logistic,
        "a mean over the responses, where each has its own loss": (
            lambda *inputs: kto_loss(*inputs).mean()
        ),
    },
    trained=("policy_logps",),
)
