"""The exercises on losses, in torch: inputs, and the mistakes that one makes."""

import math

import torch
from dpo_trainer import dpo_loss
from dpo_variants import ipo_loss, kto_loss
from grade import Exercise, averaged, changed, exchanged, inverse, negated, squared, zeroed
from reward_model import bradley_terry_loss


def wide(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- Bradley-Terry ---


def bradley_terry_each(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """The loss of every pair alone."""
    losses = [bradley_terry_loss(*pair) for pair in zip(chosen, rejected, strict=True)]
    return torch.stack(losses)


def chosen_wins(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """How probable it is that chosen wins, by pair."""
    return torch.exp(-bradley_terry_each(chosen, rejected))


BRADLEY_TERRY = Exercise(
    "e02_bradley_terry_loss",
    bradley_terry_loss,
    [
        {"chosen_rewards": wide(1), "rejected_rewards": wide(0)},
        {"chosen_rewards": wide(2, -1), "rejected_rewards": wide(0.5, 1)},
        {"chosen_rewards": wide(-900, 3), "rejected_rewards": wide(0, 1)},
        {"chosen_rewards": wide(0.3, -1.2, 2, 0), "rejected_rewards": wide(-0.4, 1, 1.5, 0)},
    ],
    {
        "its sign is turned: this is the log-likelihood": negated(bradley_terry_loss),
        "chosen and rejected are swapped": exchanged(bradley_terry_loss, "chosen", "rejected"),
        "a sum over the pairs for a mean": lambda *sides: bradley_terry_each(*sides).sum(),
        "one loss a pair, where their mean is asked": bradley_terry_each,
        "the mean is taken of the rewards; it is of the losses": (
            lambda chosen, rejected: bradley_terry_loss(chosen.mean(), rejected.mean())
        ),
        "the logarithm is missing: this is minus the probability": (
            lambda *sides: -chosen_wins(*sides).mean()
        ),
        "this is 1 minus the probability, not minus its logarithm": (
            lambda *sides: 1 - chosen_wins(*sides).mean()
        ),
        "the logarithm is taken of the mean probability; the mean is of the logarithms": (
            lambda *sides: -chosen_wins(*sides).mean().log()
        ),
        "the rejected reward is missing": changed(bradley_terry_loss, rejected_rewards=zeroed),
        "this is in bits; nats take the natural logarithm": (
            lambda *sides: bradley_terry_loss(*sides) / math.log(2)
        ),
    },
    trained=("chosen_rewards", "rejected_rewards"),
)

# --- DPO ---


def four_logps(*rows: tuple[float, float, float, float]) -> dict:
    """Log-probabilities by pair, as the losses take them: policy and reference, both sides."""
    names = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
    columns = zip(*rows, strict=True)
    return {f"{name}_logps": wide(*column) for name, column in zip(names, columns, strict=True)}


ONE_PAIR = four_logps((-3, -4, -4, -4.5))
THREE_PAIRS = four_logps((-3, -6, -5, -5.5), (-9, -4, -6, -7), (-2, -2, -2, -2))
OF_POLICY = ("policy_chosen_logps", "policy_rejected_logps")
NO_REFERENCE = {"ref_chosen_logps": zeroed, "ref_rejected_logps": zeroed}
NO_REJECTED = {"policy_rejected_logps": zeroed, "ref_rejected_logps": zeroed}

DPO = Exercise(
    "e08_dpo_loss",
    dpo_loss,
    [
        {**ONE_PAIR, "beta": 0.5},
        {**four_logps((-9000, 0, 0, 0)), "beta": 0.5},
        {**THREE_PAIRS, "beta": 0.3},
    ],
    {
        "its sign is turned": negated(dpo_loss),
        "chosen and rejected are swapped, or policy and reference": (
            exchanged(dpo_loss, "chosen", "rejected")
        ),
        "beta is dropped": changed(dpo_loss, beta=1.0),
        "beta is squared": changed(dpo_loss, beta=squared),
        "beta divides the margin; it multiplies it": changed(dpo_loss, beta=inverse),
        "the log-ratios lack the reference": changed(dpo_loss, **NO_REFERENCE),
        "the rejected log-ratio is added; it is subtracted": (
            exchanged(dpo_loss, "policy_rejected_logps", "ref_rejected_logps")
        ),
        "the rejected response is missing": changed(dpo_loss, **NO_REJECTED),
        "the logarithm is missing: this is minus the probability": (
            lambda *inputs: -torch.exp(-dpo_loss(*inputs))
        ),
        "the loss is multiplied by beta; the margin is": (
            lambda *logps_and_beta: logps_and_beta[4] * dpo_loss(*logps_and_beta[:4], 1.0)
        ),
        "a mean over the pairs, where each has its own loss": averaged(dpo_loss),
        "the rejected side is cut off from the gradient": (
            changed(dpo_loss, policy_rejected_logps=torch.detach)
        ),
    },
    trained=OF_POLICY,
)

# --- IPO ---


def ipo_distance(pw, pl, rw, rl, beta, chosen_lengths=1, rejected_lengths=1) -> torch.Tensor:
    """How far the margin is from 1 / (2 beta)."""
    return (pw - rw) / chosen_lengths - (pl - rl) / rejected_lengths - 1 / (2 * beta)


IPO = Exercise(
    "e09_ipo_loss",
    ipo_loss,
    [
        {**ONE_PAIR, "beta": 0.4},
        {**ONE_PAIR, "beta": 0.4, "chosen_lengths": wide(4), "rejected_lengths": wide(8)},
        {**THREE_PAIRS, "beta": 0.7},
        {
            **THREE_PAIRS,
            "beta": 0.7,
            "chosen_lengths": wide(5, 9, 2),
            "rejected_lengths": wide(11, 3, 4),
        },
    ],
    {
        "chosen and rejected are swapped, or 1 / (2 beta) is added where it is subtracted": (
            exchanged(ipo_loss, "chosen", "rejected")
        ),
        "beta is dropped": changed(ipo_loss, beta=1.0),
        "beta is squared": changed(ipo_loss, beta=squared),
        "the margin should reach 1 / (2 beta), not 1 / beta": (
            changed(ipo_loss, beta=lambda beta: beta / 2)
        ),
        "the margin should reach 1 / (2 beta), not beta / 2": changed(ipo_loss, beta=inverse),
        "beta multiplies the margin, as in DPO; here it says only how far the margin should go": (
            lambda *inputs: inputs[4] ** 2 * ipo_loss(*inputs)
        ),
        "1 / (2 beta) is missing: the margin is pulled to 0": changed(ipo_loss, beta=math.inf),
        "the square is missing": ipo_distance,
        "the log-ratios lack the reference": changed(ipo_loss, **NO_REFERENCE),
        "the lengths are ignored: a sum over tokens for a mean": (
            changed(ipo_loss, chosen_lengths=1, rejected_lengths=1)
        ),
        "the lengths of chosen and rejected are exchanged": (
            exchanged(ipo_loss, "chosen_lengths", "rejected_lengths")
        ),
        "the policy's log-probabilities are divided by the lengths, the reference's are not": (
            lambda pw, pl, rw, rl, beta, nw=1, nl=1: ipo_loss(pw / nw, pl / nl, rw, rl, beta)
        ),
        "a mean over the pairs, where each has its own loss": averaged(ipo_loss),
    },
    trained=OF_POLICY,
)

# --- KTO ---


def kto_weights(labels: torch.Tensor, good=1.0, bad=1.0) -> torch.Tensor:
    return torch.where(labels, good, bad).double()


def one_sign_of_kl(p, r, labels, kl, beta, *weights) -> torch.Tensor:
    """As if the reference point were subtracted from the gain of bad responses, too."""
    for_good, for_bad = (kto_loss(p, r, labels, sign * kl, beta, *weights) for sign in (1, -1))
    return torch.where(labels, for_good, for_bad)


def kto_value(p, r, labels, kl, beta, *weights) -> torch.Tensor:
    """w sigmoid(beta gain): what the loss is to be small of."""
    return kto_weights(labels, *weights) - kto_loss(p, r, labels, kl, beta, *weights)


def kto_with_logarithm(p, r, labels, kl, beta, *weights) -> torch.Tensor:
    """-w log sigmoid(beta gain)."""
    w = kto_weights(labels, *weights)
    return -w * (kto_value(p, r, labels, kl, beta, *weights) / w).log()


def one_response(is_good: bool) -> dict:
    logps = {"policy_logps": wide(-3), "ref_logps": wide(-4)}
    return {**logps, "labels": torch.tensor([is_good]), "kl": wide(0.5)[0], "beta": 0.4}


FOUR_RESPONSES = {
    "policy_logps": wide(-3, -6, -2, -8),
    "ref_logps": wide(-5, -4, -2.5, -6.5),
    "labels": torch.tensor([True, True, False, False]),
    "kl": wide(0.4)[0],
    "beta": 0.3,
}
KTO = Exercise(
    "e10_kto_loss",
    kto_loss,
    [
        one_response(True),
        one_response(False),
        FOUR_RESPONSES,
        {**FOUR_RESPONSES, "desirable_weight": 3.0, "undesirable_weight": 0.5},
    ],
    {
        "good and bad are exchanged, or this is the value, where the loss is the weight minus it": (
            exchanged(
                changed(kto_loss, labels=torch.logical_not),
                "desirable_weight",
                "undesirable_weight",
            )
        ),
        "the weights of good and bad are exchanged": (
            exchanged(kto_loss, "desirable_weight", "undesirable_weight")
        ),
        "the weights are ignored": changed(kto_loss, desirable_weight=1.0, undesirable_weight=1.0),
        "the reference point is missing": changed(kto_loss, kl=zeroed),
        "the reference point has the wrong sign": changed(kto_loss, kl=torch.neg),
        "the reference point has the wrong sign for bad responses": one_sign_of_kl,
        "the reference point is not multiplied by beta": (
            lambda p, r, y, kl, beta, *weights: kto_loss(p, r, y, kl / beta, beta, *weights)
        ),
        "beta is dropped": changed(kto_loss, beta=1.0),
        "beta is squared": changed(kto_loss, beta=squared),
        "the log-ratio lacks the reference": changed(kto_loss, ref_logps=zeroed),
        "the 1 is missing: the gradient is right, but a loss of 0 should be the best": (
            negated(kto_value)
        ),
        "a logarithm that KTO does not have: a bad response would count without bound": (
            kto_with_logarithm
        ),
        "a mean over the responses, where each has its own loss": averaged(kto_loss),
    },
    trained=("policy_logps",),
)

LOSSES = (BRADLEY_TERRY, DPO, IPO, KTO)
