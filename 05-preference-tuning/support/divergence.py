"""Trainings that diverge stop at once: nothing is saved of them."""

import math

from common.cli import UserError


class Diverged(UserError):
    """A loss, or the gradient of one, that is no longer a number."""


def check_finite(name: str, step: int, values: dict, settings: dict) -> None:
    """Raise Diverged where one of the values of a step, by name, is not a finite number.

    `settings` are those of which less may help, by name.
    """
    broken = [what for what, value in values.items() if not math.isfinite(value)]
    if broken:
        less = " or ".join(f"{what} (here {value:g})" for what, value in settings.items())
        raise Diverged(
            f"{name}: the training diverged, at step {step} the {broken[0]} is "
            f"{values[broken[0]]}; nothing of it is saved; take a smaller {less}"
        )
