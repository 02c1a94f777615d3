"""What an action costs: operations, counted by PyTorch while the models run, and seconds.

Unlike seconds, operations are the same in every run. Those of all processes are summed.
"""

import time
from collections.abc import Callable


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
