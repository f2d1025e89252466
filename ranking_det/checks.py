"""Checks of plain arguments, in the words that all errors share."""

from torch import Tensor


def describe(value: object) -> str:
    """What came, in the words of an error message."""
    if not isinstance(value, Tensor):
        return repr(value)
    return f"{value.dtype} of shape {tuple(value.shape)} on {value.device}"


def check_at_least(name: str, value: float, low: float, *, strictly: bool = False) -> None:
    """Raise unless ``value`` is a finite number of at least ``low``."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (value > low if strictly else value >= low) or value == float("inf"):
        relation = "above" if strictly else "of at least"
        raise ValueError(f"{name}: expected a finite number {relation} {low:g}, got {value!r}")


def check_integer(name: str, value: int, low: int) -> None:
    """Raise unless ``value`` is an integer of at least ``low``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name}: expected an integer of at least {low}, got {value!r}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
