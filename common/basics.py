"""What every module may need: the one-line error, and a progress bar."""

import contextlib
from collections.abc import Iterable
from textwrap import shorten


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong, where, what to do."""


@contextlib.contextmanager
def in_one_line(problem: str):
    """A UserError with what a library says first; further on it lists classes and gives advice."""
    try:
        yield
    except Exception as error:  # the libraries raise many kinds for a broken model
        first, *others = (str(error).strip() or type(error).__name__).splitlines()
        if first.endswith(":") and others:
            first = f"{first} {others[0]}"
        raise UserError(f"{problem}: {shorten(first, 200, placeholder=' ...')}") from None


def show_progress(items: Iterable, what: str) -> Iterable:
    """The items, behind a progress bar in a terminal once two seconds have passed."""
    from tqdm import tqdm

    return tqdm(items, desc=what, delay=2, leave=False, disable=None)  # None: only in a terminal
