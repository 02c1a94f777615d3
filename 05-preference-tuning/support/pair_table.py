"""One pair of answers and a policy that is a table: gradient descent on an expected loss."""

from collections.abc import Callable

import numpy as np


def train_table(loss_of: Callable, lost: float, beta: float, looks) -> np.ndarray:
    """The margin h (nats) after each of the (rising) numbers of steps in `looks`; (looks,).

    The policy is a softmax over two answers; `loss_of` takes the four log-probabilities of dpo_loss
    and beta, and the first answer loses with probability `lost`. A first step moves h by 0.1 nats,
    whatever the loss, so that curves of several losses can share an axis.
    """
    import torch

    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros((), dtype=torch.float64)
    rate, margins = None, []
    for step in range(int(looks[-1]) + 1):
        logps = logits.log_softmax(-1)
        if step in looks:
            margins.append((logps[0] - logps[1]).item())
        as_won = loss_of(*logps, zero, zero, beta)
        as_lost = loss_of(*logps.flip(0), zero, zero, beta)
        (gradient,) = torch.autograd.grad((1 - lost) * as_won + lost * as_lost, logits)
        rate = rate or 0.1 / (gradient[1] - gradient[0]).item()
        logits = (logits - rate * gradient).detach().requires_grad_()
    return np.array(margins)


def study_table(
    dpo_loss: Callable, ipo_loss: Callable, stopping_points: Callable, steps: int
) -> dict:
    """h over training for a pair that always wins and one that wins in 80 %, and where it stops.

    "cdpo" is conservative DPO, which takes 10 % of the labels for wrong.
    """
    beta, smoothing, pairs = 0.1, 0.1, []
    looks = np.unique(np.geomspace(1, steps, 40).astype(int))
    for p in (1.0, 0.8):
        lost = {"dpo": 1 - p, "cdpo": p * smoothing + (1 - p) * (1 - smoothing), "ipo": 1 - p}
        margins, stops = {}, stopping_points(p, beta, smoothing)
        for name in stops:
            loss = ipo_loss if name == "ipo" else dpo_loss
            margins[name] = train_table(loss, lost[name], beta, looks).tolist()
        finite = {name: stop if np.isfinite(stop) else None for name, stop in stops.items()}
        pairs.append({"p": p, "h": margins, "stops": finite})
    return {"steps": looks.tolist(), "beta": beta, "smoothing": smoothing, "pairs": pairs}
