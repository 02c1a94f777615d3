"""Is an answer right, and if not, which mistake is it?

A reader's function and the right one are called on the same cases, small ones first. Compared are
shape, dtype, values and gradients. Where they differ, the named mistakes get the same cases.
"""

import contextlib
import copy
import inspect
import runpy
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

SECONDS_OF_A_FORMULA = 10  # for each of its cases


class Exercise(NamedTuple):
    file: str
    right: Callable
    cases: Sequence[dict]  # inputs by name, small ones first
    mistakes: dict[str, Callable]
    trained: Sequence[str] = ()  # the inputs that gradients flow to


class Graded(NamedTuple):
    state: str  # "right", "wrong" or "not begun"
    reason: str = ""


def make_exercise(file, right, rows, mistakes, trained=0, array=np.float64) -> Exercise:
    """An exercise with rows of inputs, the first `trained`; of lists arrays of floats are made."""
    names = list(inspect.signature(right).parameters)
    made = [[array(value) if isinstance(value, list) else value for value in row] for row in rows]
    cases = [dict(zip(names, row, strict=False)) for row in made]
    return Exercise(file, right, cases, mistakes, names[:trained])


def grade(exercise: Exercise, folder: Path) -> Graded:
    """What is said of the answer in a reader's folder."""
    file = folder / f"{exercise.file}.py"
    try:
        return compare(exercise, load_function(file, exercise.right.__name__), file)
    except Failed as error:
        return Graded(*error.args)


def compare(exercise: Exercise, function: Callable, file: Path) -> Graded:
    """What is said of a function. Raises Failed where it is a gap, raises, or does not end.

    A mistake is named that gives the same wherever that is finite: an exp may overflow besides.
    """
    faults, finite = [], []
    for case in exercise.cases:
        right = outcome_of(exercise.right, case, exercise.trained)
        theirs = outcome_of(function, case, exercise.trained, file)
        if fault := difference(right, theirs):
            faults.append(f"it {fault}, for {shown(case)}")
        if all(np.isfinite(array).all() for array in theirs[0].values()):
            finite.append((case, theirs))
    if not faults:
        return Graded("right")
    for name, mistake in exercise.mistakes.items():
        mistaken = ((outcome_of(mistake, case, exercise.trained), given) for case, given in finite)
        if finite and not any(difference(*outcomes) for outcomes in mistaken):
            return Graded("wrong", name)
    return Graded("wrong", faults[0])


# --- What a function gives ---


def outcome_of(function: Callable, case: dict, trained: Sequence[str], file=Path()) -> tuple:
    """(arrays by name, "" for a bare one; gradients of their sum by input, None where none flow).

    The function gets copies of the inputs. Raises Failed where it gives no array.
    """
    inputs, gradients = copy.deepcopy(case), None
    leaves = [inputs[name].requires_grad_(True) for name in trained]
    with careful(file, SECONDS_OF_A_FORMULA, f", for {shown(case)}"):
        answer = function(*inputs.values())
        if getattr(answer, "requires_grad", False):
            unused = {"allow_unused": True, "materialize_grads": True}
            found = torch.autograd.grad(answer.sum(), leaves, **unused) if leaves else ()
            gradients = dict(zip(trained, map(as_array, found), strict=True))
    parts = answer if isinstance(answer, dict) else {"": answer}
    values = {str(name): as_array(part) for name, part in parts.items()}
    if any(array.dtype.kind not in "biuf" for array in values.values()):
        told = f"a {type(answer).__name__}, which is no array of numbers"
        told = "None: is there a return?" if answer is None else told
        raise Failed("wrong", f"it returns {told}")
    return values, gradients


def as_array(value) -> np.ndarray:
    """An array of a number, list, array or tensor; of anything else one of another dtype."""
    try:
        return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # a tuple of a tensor and a number, say
        return np.array(None)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    tolerance = 1e-3 if one.dtype == np.float32 else 1e-6
    return np.allclose(one, other, rtol=tolerance, atol=1e-9, equal_nan=True)


def difference(right: tuple, theirs: tuple) -> str | None:
    """What is wrong with an outcome, in words that go on from "it ..."; None where nothing is."""
    (values, gradients), (their_values, their_gradients) = right, theirs
    if values.keys() != their_values.keys():
        given, wanted = (", ".join(each) or "one array" for each in (their_values, values))
        return f"returns {given} where {wanted} is right"
    for name, wanted in values.items():
        given, where = their_values[name], f", in {name}" if name else ""
        if given.shape != wanted.shape:
            return f"returns shape {given.shape} where {wanted.shape} is right{where}"
        if not same(wanted, given):
            overflow = np.isfinite(wanted).all() and not np.isfinite(given).all()
            why = ": an exp overflows or a log meets 0" if overflow else ""
            return f"gives {in_digits(given)}, right is {in_digits(wanted)}{why}{where}"
        if given.dtype.kind == "f" and given.dtype.itemsize < wanted.dtype.itemsize:
            return f"returns {given.dtype} where {wanted.dtype} came in{where}"
    if gradients is not None and their_gradients is None:
        cut = ".detach(), .item(), float() or NumPy cuts it"
        return f"has the right values, but no gradient flows: {cut}"
    for name, gradient in (gradients or {}).items():
        if not same(gradient, their_gradients[name]):
            return f"has the right values, but another gradient of {name}"
    return None


def in_digits(array: np.ndarray) -> str:
    """Numbers to four digits: [0.3133, -1]; how many, where they are many."""
    if array.size > 12 or array.dtype.kind not in "biuf":
        return f"{array.size} {'numbers' if array.dtype.kind in 'biuf' else 'texts'}"
    rounded = np.vectorize(lambda value: f"{value:.4g}", otypes=[object])(array)
    return str(rounded.tolist()).replace("'", "")


def shown(case: dict) -> str:
    return ", ".join(f"{name} = {in_digits(as_array(value))}" for name, value in case.items())


# --- A reader's code, run with care ---


class Failed(BaseException):  # so that no `except Exception` of the reader's holds up the alarm
    """A reader's code is a gap, raised, or did not end: state and reason, as of Graded."""


@contextlib.contextmanager
def careful(file: Path, seconds: float, told: str = "") -> Iterator[None]:
    """Run what is inside, for so long at most where the system has signals.

    Raises Failed for a gap and for errors, whose reasons end with `told`.
    """

    def stop(*_) -> None:
        raise Failed("wrong", f"it does not end: stopped after {seconds:.0f} s{told}")

    def set_alarm(seconds: float) -> None:
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, seconds)

    try:
        set_alarm(seconds)
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            yield
    except (Exception, SystemExit) as error:
        if isinstance(error, NotImplementedError) and not error.args:  # torch's own says something
            raise Failed("not begun") from None
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f"line {frame.lineno} of " for frame in frames if frame.filename == str(file)]
        said = ": ".join(filter(None, [type(error).__name__, " ".join(str(error).split())[:160]]))
        place = f"({''.join(lines[-1:])}{file.name})"
        raise Failed("wrong", f"it raises {said} {place}{told}") from error
    finally:
        set_alarm(0)


def load_function(file: Path, name: str, seconds: float = 30) -> Callable:
    if not file.is_file():
        remedy = f"git checkout {file.name} in its folder brings it back"
        raise Failed("wrong", f"it is not there: {remedy}")
    with careful(file, seconds):
        function = runpy.run_path(str(file), run_name=file.stem).get(name)
    if not callable(function):
        raise Failed("wrong", f"it has no function {name}")
    return function
