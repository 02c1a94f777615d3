"""Is an answer right, and if not, which mistake is it?

A reader's function and the right one are called on the same cases, small ones first. Compared are
exceptions, type, shape, dtype, values and gradients. Where they differ, the same cases are given to
the named mistakes.
"""

import contextlib
import copy
import functools
import importlib.util
import inspect
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

DIGITS = {4: 1e-3, 8: 1e-6}  # relative tolerance by bytes of a number: float32, float64
SECONDS_OF_A_FORMULA = 10  # for each of its cases


class Exercise(NamedTuple):
    """A formula: the right function, inputs by name (small ones first), and its mistakes.

    `trained` names the inputs that gradients flow to. Where the right function raises a ValueError,
    so must the answer.
    """

    file: str
    right: Callable
    cases: Sequence[dict]
    mistakes: dict[str, Callable]
    trained: Sequence[str] = ()


class Graded(NamedTuple):
    """What is said of an answer: "right", "wrong" or "not begun", and how it is."""

    state: str
    reason: str = ""


class Outcome(NamedTuple):
    """What a function made of a case: arrays by name ("" for a bare one), or an error."""

    values: dict[str, np.ndarray] | None = None
    gradients: dict[str, np.ndarray | None] | None = None
    kind: type | None = None
    changed: str | None = None  # the input that was changed in place
    error: Exception | None = None


def grade(exercise: Exercise, folder: Path) -> Graded:
    """What is said of the answer in a reader's folder."""
    file = folder / f"{exercise.file}.py"
    try:
        function = load_function(file, exercise.right.__name__)
        return compare(exercise, function, file)
    except NotBegun:
        return Graded("not begun")
    except Failed as error:
        return Graded("wrong", f"it {error}")


def compare(exercise: Exercise, function: Callable, file: Path) -> Graded:
    """What is said of a function. Raises Failed where it raises unasked, NotBegun for a gap."""
    rows, faults = [], []
    for case in exercise.cases:
        right = expected(exercise, exercise.right, case)
        theirs = attempt(exercise, function, file, case, right)
        rows.append((case, right, theirs))
        fault = difference(right, theirs)
        if fault:
            faults.append(f"{fault}, for {shown(case)}")
    if not faults:
        return Graded("right")
    names = (name for name in exercise.mistakes if is_mistake(exercise, name, rows))
    return Graded("wrong", next(names, f"it {faults[0]}"))


def attempt(
    exercise: Exercise, function: Callable, file: Path, case: dict, right: Outcome
) -> Outcome:
    """What a reader's function makes of a case; where an error is right, one is no failure."""
    try:
        with careful(file, SECONDS_OF_A_FORMULA):
            return call_on(function, case, exercise.trained)
    except Failed as failed:
        if right.error is None or failed.__cause__ is None:
            raise Failed(f"{failed}, for {shown(case)}") from None
        return Outcome(error=failed.__cause__)


def is_mistake(exercise: Exercise, name: str, rows: Sequence[tuple]) -> bool:
    """Whether a named mistake gives what was given, wherever that is finite and no error is right.

    So a mistake has its name also where an exp overflows besides.
    """
    compared = []
    for case, right, theirs in rows:
        if right.error is None and is_finite(theirs):
            mistaken = expected(exercise, exercise.mistakes[name], case)
            given = theirs._replace(kind=mistaken.kind, changed=None)
            compared.append(difference(mistaken, given))
    return bool(compared) and not any(compared)


def is_finite(outcome: Outcome) -> bool:
    arrays = [array for array in outcome.values.values() if array.dtype.kind == "f"]
    return all(np.isfinite(array).all() for array in arrays)


def expected(exercise: Exercise, function: Callable, case: dict) -> Outcome:
    """What one of the lab's own functions makes of a case."""
    try:
        with np.errstate(all="ignore"):
            return call_on(function, case, exercise.trained)
    except ValueError as error:
        return Outcome(error=error)


# --- Mistakes, made of the right function ---


def changed(function: Callable, **changes) -> Callable:
    """`function` with other inputs: each a value, or a function of what the input was."""

    @functools.wraps(function)
    def mistaken(*inputs, **named):
        given = inspect.signature(function).bind(*inputs, **named).arguments
        for name in changes.keys() & given.keys():
            change = changes[name]
            given[name] = change(given[name]) if callable(change) else change
        return function(**given)

    return mistaken


def exchanged(function: Callable, one: str, other: str) -> Callable:
    """`function` with inputs exchanged: those named `one` and `other`, or whose names hold them."""

    @functools.wraps(function)
    def mistaken(*inputs, **named):
        given = inspect.signature(function).bind(*inputs, **named).arguments
        partner = {n: n.replace(one, other) for n in given if one in n and other not in n}
        partner |= {its: name for name, its in partner.items()}
        return function(**{partner.get(name, name): value for name, value in given.items()})

    return mistaken


def negated(function: Callable) -> Callable:
    return lambda *inputs: -function(*inputs)


def averaged(function: Callable) -> Callable:
    return lambda *inputs: function(*inputs).mean()


def squared(x):
    return x**2


def inverse(x):
    return 1 / x


def zeroed(x):
    return 0 * x


# --- What a function gives ---


def call_on(function: Callable, case: dict, trained: Sequence[str]) -> Outcome:
    """Call a function on copies of the inputs, in their order."""
    inputs = copy.deepcopy(case)
    for name in trained:
        inputs[name].requires_grad_(True)
    answer = function(*inputs.values())
    parts = answer if isinstance(answer, dict) else {"": answer}
    values = {str(name): as_array(part) for name, part in parts.items()}
    moved = [name for name in case if not same(as_array(inputs[name]), as_array(case[name]))]
    gradients = gradients_of(answer, [inputs[name] for name in trained])
    found = dict(zip(trained, gradients, strict=True))
    return Outcome(values, found, type(answer), moved[0] if moved else None)


def as_array(value) -> np.ndarray:
    """An array of a number, list, array or tensor; of anything else one of dtype object."""
    if hasattr(value, "detach"):
        return value.detach().cpu().numpy()
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # a tuple of a tensor and a number, say
        return np.array(None)


def gradients_of(answer, inputs: Sequence) -> list[np.ndarray | None]:
    """The gradient of the sum of a tensor with respect to each input; None where none flows."""
    if not getattr(answer, "requires_grad", False):
        return [None] * len(inputs)
    import torch

    found = torch.autograd.grad(answer.sum(), inputs, allow_unused=True)
    return [None if gradient is None else gradient.numpy() for gradient in found]


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays have the same shape and nearly the same numbers."""
    if one.shape != other.shape or one.dtype == object or other.dtype == object:
        return False
    digits = DIGITS.get(one.dtype.itemsize, DIGITS[8])
    return np.allclose(one, other, rtol=digits, atol=1e-9, equal_nan=True)


# --- In words: each goes on from "it ..." ---


def difference(right: Outcome, theirs: Outcome) -> str | None:
    """What is wrong with an outcome, in a few words; None where nothing is."""
    if right.error is not None:
        if isinstance(theirs.error, type(right.error)):
            return None
        raised = type(theirs.error).__name__ if theirs.error else "nothing"
        return f"raises {raised} where {type(right.error).__name__} is right"
    if theirs.changed:
        return f"changes its input {theirs.changed}: work on a copy"
    if theirs.kind is type(None):
        return "returns None: is there a return?"
    if right.values.keys() != theirs.values.keys():
        return f"returns {kinds(theirs)} where {kinds(right)} is right"
    if any(array.dtype.kind not in "biuf" for array in theirs.values.values()):
        return f"returns a {theirs.kind.__name__}, which is no array of numbers"
    for name, wanted in right.values.items():
        fault = difference_of_arrays(wanted, theirs.values[name])
        if fault:
            return f"{fault}, in {name}" if name else fault
    if hasattr(right.kind, "detach") and not hasattr(theirs.kind, "detach"):
        return f"returns {theirs.kind.__name__} where a tensor is right"
    return difference_of_gradients(right.gradients, theirs.gradients)


def kinds(outcome: Outcome) -> str:
    names = ", ".join(outcome.values)
    return f"a dictionary of {names}" if names else "one array"


def difference_of_arrays(right: np.ndarray, theirs: np.ndarray) -> str | None:
    """Shape, dtype, values."""
    if theirs.shape != right.shape:
        return f"returns shape {theirs.shape} where {right.shape} is right"
    if same(right, theirs):
        narrow = theirs.dtype.kind == "f" and theirs.dtype.itemsize < right.dtype.itemsize
        return f"returns {theirs.dtype} where {right.dtype} came in" if narrow else None
    both = f"gives {in_digits(theirs)}, right is {in_digits(right)}"
    overflows = np.isfinite(right).all() and not np.isfinite(theirs).all()
    return f"{both}: an exp overflows or a log meets 0" if overflows else both


def difference_of_gradients(right: dict, theirs: dict) -> str | None:
    """Where a gradient is missing or another one."""
    missing = [name for name in right if right[name] is not None and theirs[name] is None]
    if missing and len(missing) == len(right):
        cut = ".detach(), .item(), float() or NumPy cuts it"
        return f"has the right values, but no gradient flows: {cut}"
    for name, gradient in right.items():
        if name in missing or (gradient is not None and not same(gradient, theirs[name])):
            return f"has the right values, but another gradient of {name}"
    return None


def in_digits(array: np.ndarray) -> str:
    """Numbers to four digits: [0.3133, -1]; how many, where they are many."""
    if array.size > 12:
        return f"{array.size} numbers"
    rounded = np.vectorize(lambda value: f"{value:.4g}", otypes=[object])(array)
    return str(rounded.tolist()).replace("'", "")


def shown(case: dict) -> str:
    """Inputs by name, to four digits."""
    return ", ".join(f"{name} = {in_digits(as_array(value))}" for name, value in case.items())


# --- A reader's code, run with care ---


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
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise Failed(f"has no function {name}")
    code = getattr(function, "__code__", None)
    if code is not None and code.co_names == ("NotImplementedError",):  # all that it does
        raise NotBegun
    return function
