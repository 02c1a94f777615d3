"""What every module may need: the one-line error, and a progress bar."""

from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong, where, what to do."""


def show_progress(items: Iterable, what: str) -> Iterable:
    """The items, behind a progress bar in a terminal once two seconds have passed."""
    from tqdm import tqdm

    return tqdm(items, desc=what, delay=2, leave=False, disable=None)  # None: only in a terminal
