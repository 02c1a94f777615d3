"""What candidates cost: operations, counted by PyTorch while the models run, and seconds.

Unlike seconds, operations are the same in every run. Those of all processes are summed.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from common.intervals import summary


def measure_cost(answer: Callable, prompts: list[str], ns: Sequence[int]) -> tuple[dict, dict]:
    """Cost of n candidates for a prompt: (metrics in MFLOPs, seconds of the largest n).

    answer(prompt, n, seed) samples and scores. "alone": one call for every candidate; "shared": one
    call for all n, so that the prompt is read once and equal texts are scored once.
    """
    most = ns[-1]
    each = [[count_flops(answer, prompt, 1, k) for k in range(most)] for prompt in prompts]
    alone = np.cumsum(each, axis=1)[:, np.array(ns) - 1] / 1e6  # (P, len(ns))
    shared = np.array([[count_flops(answer, prompt, n, 0) for n in ns] for prompt in prompts]) / 1e6
    seconds = {
        "alone": sum(count_seconds(answer, prompts[0], 1, k) for k in range(most)),
        "shared": count_seconds(answer, prompts[0], most, 0),
    }

    def exponent(rows: np.ndarray, axis: int = 0) -> float:
        return fitted_exponent(ns, rows.sum(axis))

    def saved(rows: np.ndarray, axis: int = 0) -> float:
        together, apart = rows.sum(axis)
        return float(1 - together / apart)

    metrics = {
        "n": list(ns),
        "alone": [summary(column) for column in alone.T],
        "shared": [summary(column) for column in shared.T],
        "one_more_alone": summary((alone[:, -1] - alone[:, 0]) / (most - 1)),
        "one_more_shared": summary((shared[:, -1] - shared[:, 0]) / (most - 1)),
        "exponent": summary(alone, exponent),
        "exponent_shared": summary(shared, exponent),
        "saved": summary(np.column_stack([shared[:, -1], alone[:, -1]]), saved),
    }
    return metrics, {name: round(value, 3) for name, value in seconds.items()}


def fitted_exponent(ns: Sequence[int], cost: np.ndarray) -> float:
    """Slope of log cost against log n; cost (len(ns),)."""
    return float(np.polyfit(np.log(ns), np.log(cost), 1)[0])


def count_flops(action: Callable, *arguments) -> float:
    """Floating-point operations of all matrix products in action(*arguments)."""
    from accelerate.utils import gather_object
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        action(*arguments)
    return float(sum(gather_object([counter.get_total_flops()])))


def count_seconds(action: Callable, *arguments) -> float:
    """Wall time of action(*arguments)."""
    started = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - started
