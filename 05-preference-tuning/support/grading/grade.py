"""Is an answer right, and if not, which mistake is it?

A reader's function and the right one are called on the same cases, small ones first. What comes out
is compared: exceptions, type, shape, dtype, values, gradients. Where they differ, the same cases
are given to the named mistakes.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from support.grading.running import Failed, NotBegun, careful, load_function

import numpy as np

DIGITS = {4: 1e-3, 8: 1e-6}  # relative tolerance by bytes of a number: float32, float64
SECONDS = 10  # for all cases of a formula


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

    @property
    def function(self) -> str:
        return self.right.__name__


class Verdict(NamedTuple):
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


def grade(exercise: Exercise, folder: Path) -> Verdict:
    """The verdict on the answer in a reader's folder."""
    file = folder / f"{exercise.file}.py"
    try:
        function = load_function(file, exercise.function)
        return compare(exercise, function, file)
    except NotBegun:
        return Verdict("not begun")
    except Failed as error:
        return Verdict("wrong", f"it {error}")


def compare(exercise: Exercise, function: Callable, file: Path) -> Verdict:
    """The verdict on a function. Raises Failed where it raises unasked, NotBegun for a gap."""
    rows = []
    for case in exercise.cases:
        right = expected(exercise, exercise.right, case)
        rows.append((case, right, attempt(exercise, function, file, case, right)))
    faults = []
    for case, right, theirs in rows:
        fault = difference(right, theirs)
        if fault:
            faults.append(f"{fault}, for {shown(case)}")
    if not faults:
        return Verdict("right")
    names = [name for name in exercise.mistakes if is_mistake(exercise, name, rows)]
    if names:
        return Verdict("wrong", names[0])
    return Verdict("wrong", f"it {faults[0]}")


def attempt(
    exercise: Exercise, function: Callable, file: Path, case: dict, right: Outcome
) -> Outcome:
    """What a reader's function makes of a case; where an error is right, one is no failure."""
    try:
        with careful(file, SECONDS):
            return outcome(function, case, exercise.trained)
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
            return outcome(function, case, exercise.trained)
    except ValueError as error:
        return Outcome(error=error)


# --- What a function gives ---


def outcome(function: Callable, case: dict, trained: Sequence[str]) -> Outcome:
    """Call a function on copies of the inputs, in their order."""
    inputs = copy.deepcopy(case)
    for name in trained:
        inputs[name].requires_grad_(True)
    answer = function(*inputs.values())
    parts = answer if isinstance(answer, dict) else {"": answer}
    values = {str(name): as_array(part) for name, part in parts.items()}
    changed = [name for name in case if not same(as_array(inputs[name]), as_array(case[name]))]
    gradients = gradients_of(answer, [inputs[name] for name in trained])
    found = dict(zip(trained, gradients, strict=True))
    return Outcome(values, found, type(answer), changed[0] if changed else None)


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


# --- In words ---


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
            return f"{name}: {fault}" if name else fault
    is_tensor = hasattr(right.kind, "detach")
    if is_tensor and not hasattr(theirs.kind, "detach"):
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
    if np.isfinite(right).all() and not np.isfinite(theirs).all():
        return (
            f"gives {numbers(theirs)}, right is {numbers(right)}: an exp overflows or a log meets 0"
        )
    return f"gives {numbers(theirs)}, right is {numbers(right)}"


def difference_of_gradients(right: dict, theirs: dict) -> str | None:
    """Where a gradient is missing or another one."""
    missing = [name for name in right if right[name] is not None and theirs[name] is None]
    if missing and len(missing) == len(right):
        return "right values, but no gradient flows: .detach(), .item(), float() or NumPy cut it"
    for name, gradient in right.items():
        if name in missing or (gradient is not None and not same(gradient, theirs[name])):
            return f"right values, but the gradient of {name} is not"
    return None


def numbers(array: np.ndarray) -> str:
    """Numbers to four digits: [0.3133, -1]; how many, where they are many."""
    if array.size > 12:
        return f"{array.size} numbers"
    rounded = np.vectorize(lambda value: f"{value:.4g}", otypes=[object])(array)
    return str(rounded.tolist()).replace("'", "")


def shown(case: dict) -> str:
    """Inputs by name, to four digits."""
    return ", ".join(f"{name} = {numbers(as_array(value))}" for name, value in case.items())
