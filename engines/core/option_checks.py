"""Checks of option values, which all classes of options share. Each message names the option."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real

from engines.core.errors import ContractError
from engines.core.json_form import short

# The class of the error that a check raises.
ErrorClass = Callable[[str], Exception]


def check_choice(name: str, value: object, allowed: Sequence[object], *, error: ErrorClass = ContractError) -> None:
    """Check that an option is one of the allowed values.

    Examples:
        >>> check_choice("precision", "fp8", ("fp32", "fp16"))
        Traceback (most recent call last):
        engines.core.errors.ContractError: precision: expected one of fp32, fp16, got fp8
    """
    if value not in allowed:
        raise error(f"{name}: expected one of {', '.join(map(str, allowed))}, got {value}")


def check_integer(
    name: str, value: object, least: int, most: int | None = None, *, unit: str = "", error: ErrorClass = ContractError
) -> None:
    """Check that an option is an integer in a range.

    Args:
        name: name of the option.
        value: value of the option.
        least, most: the range; None for no upper bound.
        unit: unit for the message.
        error: class of the error.

    Examples:
        >>> check_integer("epochs", 1.5, 1)
        Traceback (most recent call last):
        engines.core.errors.ContractError: epochs: expected an integer, got 1.5
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise error(f"{name}: expected an integer, got {value!r}")
    if value < least or (most is not None and value > most):
        expected = f"at least {least}" if most is None else f"{least} to {most}"
        raise error(f"{name}: expected {expected}{unit and ' '}{unit}, got {value}")


def check_number(name: str, value: object, expected: str, allowed: Callable[[float], bool]) -> None:
    """Check that an option is a number in a range. NaN is in no range.

    Args:
        name: name of the option.
        value: value of the option.
        expected: the range in words, for the message.
        allowed: function that is true in the range, a chain of comparisons.

    Raises:
        ContractError: if it is not.

    Examples:
        >>> check_number("score", 2, "0 <= score < 1", lambda score: 0 <= score < 1)
        Traceback (most recent call last):
        engines.core.errors.ContractError: score: expected 0 <= score < 1, got 2
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not allowed(float(value)):
        raise ContractError(f"{name}: expected {expected}, got {value!r}")


def check_text(name: str, value: object) -> None:
    """Check that an option is text.

    Raises:
        ContractError: if it is not.

    Examples:
        >>> check_text("teacher", "big.pt")
    """
    if not isinstance(value, str):
        raise ContractError(f"{name}: expected text, got {value!r}")


def check_pair(name: str, value: object, meaning: str) -> None:
    """Check that an option is a tuple or a list of two numbers.

    Args:
        name: name of the option.
        value: value of the option.
        meaning: names of the two numbers, for the message.

    Raises:
        ContractError: if it is not.

    Examples:
        >>> check_pair("size", 640, "height and width")
        Traceback (most recent call last):
        engines.core.errors.ContractError: size: expected two numbers, height and width, got 640
    """
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(isinstance(item, Real) for item in value):
        raise ContractError(f"{name}: expected two numbers, {meaning}, got {short(value)}")


def check_size(name: str, value: object) -> None:
    """Check that an option is (height, width), two integers of at least 1 pixel.

    Raises:
        ContractError: if it is not.

    Examples:
        >>> check_size("size", (400, 640))
    """
    check_pair(name, value, "height and width")
    assert isinstance(value, tuple | list)
    for side in value:
        check_integer(name, side, 1, unit="pixel")
