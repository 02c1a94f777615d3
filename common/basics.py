"""What every module may need: the one-line error, which process this is, a progress bar."""

import os
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong, where, what to do."""


def is_main_process() -> bool:
    """Whether this process speaks and writes files: the first that `accelerate launch` starts."""
    return int(os.environ.get("RANK", 0)) == 0


def process_count() -> int:
    """How many processes `accelerate launch` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def show_progress(items: Iterable, what: str) -> Iterable:
    """The items, behind a progress bar in a terminal once two seconds have passed."""
    from tqdm import tqdm

    hidden = None if is_main_process() else True  # None: shown where there is a terminal
    return tqdm(items, desc=what, delay=2, leave=False, disable=hidden)
