"""A reader's code, run with care: loaded from its file, stopped in time, its errors in one line."""

import contextlib
import importlib.util
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np


class Failed(Exception):
    """A reader's code raised, or did not end: what is said of it, in one line."""


class NotBegun(Exception):
    """The gap is still there."""


class _OutOfTime(BaseException):  # no `except Exception` of the reader's holds it up
    pass


@contextlib.contextmanager
def careful(file: Path, seconds: float) -> Iterator[None]:
    """Run what is inside for so long at most. Raises NotBegun for a gap, Failed for errors.

    The limit needs a system with signals; elsewhere there is none. Ctrl-C is left alone.
    """
    try:
        with time_limit(seconds), np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _OutOfTime:
        raise Failed(f"does not end: stopped after {seconds:.0f} s") from None
    except SystemExit:
        raise Failed(f"ends Python{place_in(file, None)}: return the answer instead") from None
    except Exception as error:
        if isinstance(error, NotImplementedError) and not error.args:  # torch's own says something
            raise NotBegun from None
        said = " ".join(str(error).split())[:160]
        reason = f"raises {type(error).__name__}" + (f": {said}" if said else "")
        raise Failed(reason + place_in(file, error)) from error


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise _OutOfTime in the code inside once so many seconds have passed."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def place_in(file: Path, error: Exception | None) -> str:
    """Where in a reader's file an error arose: " (line 12 of e08_dpo_loss.py)"."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f" (line {error.lineno} of {file.name})"
    frames = traceback.extract_tb(error.__traceback__) if error else []
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    return f" (line {lines[-1]} of {file.name})" if lines else f" ({file.name})"


def load_function(file: Path, name: str, seconds: float = 30) -> Callable:
    """The function of this name in a reader's file. Raises NotBegun for a gap, else Failed."""
    if not file.is_file():
        raise Failed(f"is not there: git checkout {file.name} in its folder brings it back")
    with careful(file, seconds):
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise Failed(f"has no function {name}")
    if is_gap(function):
        raise NotBegun
    return function


def is_gap(function: Callable) -> bool:
    """Whether all that a function does is `raise NotImplementedError`."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_names == ("NotImplementedError",)
