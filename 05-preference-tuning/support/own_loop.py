"""The lab's own training loop, in one or more processes: AdamW, one cycle, sorted batches."""

import contextlib
import os
import random
from collections.abc import Iterator, Sequence

from support.divergence import check_finite
from support.training import copy_weights, spare_copy

from common.cli import is_main_process, process_count


@contextlib.contextmanager
def optimizing(model, learning_rate: float, steps: int, name: str) -> Iterator[tuple]:
    """(model to call, function that takes a step): AdamW, one cycle, any number of processes.

    `step(loss, weight)` follows the gradient, averaged over the processes by weight (`my_share`),
    and returns the loss of the whole batch, or raises Diverged. At the end the trained weights are
    in `model`.
    """
    import torch
    from accelerate import Accelerator
    from tqdm import tqdm

    accelerator = Accelerator(device_placement=False)
    trained = spare_copy(model)
    weights = trained.parameters()
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.01, fused=True)
    one_cycle = {"total_steps": steps + 1, "pct_start": 0.1}
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, **one_cycle)
    parallel, optimizer = accelerator.prepare(trained, optimizer)
    parallel.eval()  # no dropout, as in TRL: a fifth of the time, and pairs are hardly read twice
    hidden = None if is_main_process() else True
    with tqdm(total=steps, desc=name, leave=False, disable=hidden) as bar:

        def step(loss, weight: float) -> float:
            """Follow the gradient of this batch; the mean loss over all processes."""
            weighted = weight * loss
            accelerator.backward(weighted)
            torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            bar.update()
            value = accelerator.reduce(weighted.detach(), "mean").item()
            at = schedule.last_epoch
            check_finite(name, at, {"loss": value}, {"learning rate": learning_rate})
            return value

        yield parallel, step
    copy_weights(trained, model).eval()


def my_share(rows: Sequence[dict], batch: list[int]) -> tuple[list[dict], float]:
    """The rows of a batch that this process reads, and the weight of their mean loss.

    The average of the weighted losses over all processes is the mean over the batch. A process for
    which nothing is left reads a row with weight 0, since all must take part.
    """
    index, count = int(os.environ.get("RANK", 0)), process_count()
    mine = batch[index::count]
    return [rows[i] for i in mine or batch[:1]], count * len(mine) / len(batch)


def length_sorted_batches(
    lengths: Sequence[int], batch_size: int, rng: random.Random
) -> list[list[int]]:
    """All rows once, in batches of similar length: shuffled, sorted within 16 batches, shuffled."""
    order = rng.sample(range(len(lengths)), len(lengths))
    batches, run_length = [], 16 * batch_size
    for start in range(0, len(order), run_length):
        block = sorted(order[start : start + run_length], key=lambda i: lengths[i])
        batches += [block[i : i + batch_size] for i in range(0, len(block), batch_size)]
    rng.shuffle(batches)
    return batches
