"""What candidates cost: operations, counted by PyTorch while the models run, and seconds.

Unlike seconds, operations are the same in every run. Those of all processes are summed.
"""

import time
from collections.abc import Callable, Sequence

from support.policy_data import PolicyData

import numpy as np

from common.intervals import summary


def study_cost(
    answer: Callable, data: PolicyData, n: int, ns: Sequence[int], few: int
) -> tuple[dict, dict]:
    """Cost of up to n candidates at the `ns`, as `measure_cost` gives it.

    In the world of eight prompts; of your own pairs of two, and of a `few` candidates.
    """
    prompts, largest = (data.prompts[:8], 16) if data.has_gold else (data.prompts[:2], few)
    ns = [k for k in ns if k <= min(n, largest)]
    return measure_cost(answer, [[prompt] for prompt in prompts], ns)


def measure_cost(answer: Callable, prompts: Sequence, ns: Sequence[int]) -> tuple[dict, dict]:
    """Cost of n candidates for a prompt: (metrics in MFLOPs, seconds of the largest n).

    answer(prompt, n, seed) samples and scores. "alone": one call for every candidate; "shared": one
    call for all n, so that the prompt is read once and equal texts are scored once.
    """
    largest, each, together = ns[-1], [], []
    for prompt in prompts:
        each.append([count_flops(answer, prompt, 1, seed) for seed in range(largest)])
    for prompt in prompts:
        together.append([count_flops(answer, prompt, n, 0) for n in ns])
    alone = np.cumsum(each, axis=1)[:, np.array(ns) - 1] / 1e6  # (P, len(ns))
    shared = np.array(together) / 1e6  # (P, len(ns))
    seconds = {
        "alone": sum(count_seconds(answer, prompts[0], 1, seed) for seed in range(largest)),
        "shared": count_seconds(answer, prompts[0], largest, 0),
    }

    def exponent(costs: np.ndarray, axis: int = 0) -> float:
        return fitted_exponent(ns, costs.sum(axis))

    def saved(costs: np.ndarray, axis: int = 0) -> float:
        total_shared, total_alone = costs.sum(axis)
        return float(1 - total_shared / total_alone)

    metrics = {
        "n": list(ns),
        "alone": [summary(column) for column in alone.T],
        "shared": [summary(column) for column in shared.T],
        "one_more_alone": summary((alone[:, -1] - alone[:, 0]) / (largest - 1)),
        "one_more_shared": summary((shared[:, -1] - shared[:, 0]) / (largest - 1)),
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
