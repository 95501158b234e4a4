"""Reading of JSON that others may have written: types and ranges are checked before any code uses a value.

A form describes a JSON value. It is one of the constants below, ``[x]`` for a list of x, ``{"a": x}`` for an object
with the key a, or ``OrNull(x)``. The key "a?" may be missing, and "*" stands for any other key. Types are compared
exactly, so True is not a number.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.core.errors import CONTROL, ContractError

Form = Any  # recursive, which a type alias cannot express in Python 3.10
TEXT, INTEGER, NUMBER, BOOLEAN = (str,), (int,), (int, float), (bool,)
# ANY is a value that no code interprets, only prints.
ANY: tuple[type, ...] = ()
OBJECT: Form = {"*": ANY}
_WORDS: Mapping[tuple[type, ...], str] = {
    TEXT: "text",
    INTEGER: "an integer",
    NUMBER: "a finite number",
    BOOLEAN: "true or false",
}
# Integers of NumPy, CUDA and ONNX have at most 64 bits.
_INTEGERS = range(-(2**63), 2**63)
# The files of this project are nested less than half as deep. Code that walks through a value must not recurse without
# an end.
MAX_DEPTH = 16
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


@dataclass(frozen=True)
class OrNull:
    """The form of a value that may be null.

    Attributes:
        form: form of any other value.
    """

    form: Form


def read_json(text: object, form: Form, *, what: str, fix: str = "", schema: int | None = None) -> dict[str, Any]:
    """Parse a JSON object and check that it has a form.

    Args:
        text: text of the JSON; anything but text is refused.
        form: form of the object.
        what: name of the object, for the message of an error.
        fix: the way out, for the message, a clause; empty if the caller adds one.
        schema: expected value under the key ``schema``, which is not part of the form; None for an object without it.

    Raises:
        ContractError: if the text is not JSON, or has another schema or another form.

    Examples:
        >>> read_json('{"sides": [3, 4]}', {"sides": [INTEGER]}, what="triangle", fix="draw it again")
        {'sides': [3, 4]}
        >>> read_json('{"sides": [3, 4.5]}', {"sides": [INTEGER]}, what="triangle", fix="draw it again")
        Traceback (most recent call last):
        engines.core.errors.ContractError: triangle: sides[1]: expected an integer, got 4.5; draw it again
    """
    advice = f"; {fix}" if fix else ""
    try:
        if not isinstance(text, str):
            raise ValueError("no text")
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and numbers of too many digits are ValueErrors
        reason = "nested too deep" if isinstance(error, RecursionError) else error
        raise ContractError(f"{what}: expected JSON, got {short(text)} ({reason}){advice}") from error
    try:
        if schema is not None:
            found = values.pop("schema", None) if isinstance(values, dict) else None
            require(type(found) is int and found == schema, "", f"schema {schema}", found)
        check_form(values, form)
    except ContractError as error:
        raise ContractError(f"{what}: {error}{advice}") from error
    return dict(values)


def check_form(value: object, form: Form, name: str = "") -> None:
    """Check that a value has a form.

    Args:
        value: a value of JSON, or of a checkpoint.
        form: the form.
        name: name of the value, for the message of an error.

    Raises:
        ContractError: if the value has another form; the message names the value inside that is wrong.

    Examples:
        >>> check_form({"step": 3, "rate": 0.1}, {"step": INTEGER, "epoch?": INTEGER, "*": ANY})
    """
    if isinstance(form, OrNull):
        if value is not None:
            check_form(value, form.form, name)
    elif isinstance(form, list):
        require(type(value) is list, name, "a list", value)
        assert isinstance(value, list)
        for index, item in enumerate(value):
            check_form(item, form[0], f"{name}[{index}]")
    elif isinstance(form, Mapping):
        require(type(value) is dict, name, "an object", value)
        assert isinstance(value, dict)
        inner = {key.rstrip("?"): form[key] for key in form if key != "*"}
        missing = [key for key in form if key != "*" and not key.endswith("?") and key not in value]
        unknown = [] if "*" in form else [key for key in value if key not in inner]
        if missing or unknown:
            parts = [f"{word} {short(keys)}" for word, keys in (("missing", missing), ("unknown", unknown)) if keys]
            raise ContractError(f"{name and name + ': '}expected other fields: {', '.join(parts)}")
        for key, item in value.items():
            label = CONTROL.sub("?", str(key))[:60]
            check_form(item, inner.get(key, form.get("*")), f"{name}.{label}" if name else label)
    elif form == ANY:
        _check_plain(value, name)
    else:
        require(_fits(value, form), name, _WORDS[form], value)


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """Raise an error unless a condition on a value is true.

    Args:
        condition: the condition.
        name: name of the value, for the message; empty for none.
        expected: what the condition means, for the message.
        got: the value.

    Raises:
        ContractError: if the condition is false.

    Examples:
        >>> require(3 >= 1, "batch", "at least 1", 3)
    """
    if not condition:
        raise ContractError(f"{name and name + ': '}expected {expected}, got {short(got)}")


def short(value: object) -> str:
    """Return the ``repr`` of a value, cut to a length that fits into a message.

    Examples:
        >>> short(list(range(1000)))
        '[0, 1, 2, 3, 4, 5, ...]'
    """
    return _SHORT.repr(value)


def _fits(value: Any, form: tuple[type, ...]) -> bool:
    if type(value) not in form:
        return False
    if type(value) is int:
        return value in _INTEGERS
    return type(value) is not float or math.isfinite(value)


def _check_plain(value: object, name: str, depth: int = 1) -> None:
    """Raise ContractError if a value is not made of JSON's types and tuples, or is nested too deep."""
    if depth > MAX_DEPTH:
        raise ContractError(f"{name}: expected at most {MAX_DEPTH} levels of lists and objects, got more")
    plain = value is None or type(value) in (str, int, float, bool, list, tuple, dict)
    require(plain, name, "text, a number, true, false, null, a list or an object", value)
    if isinstance(value, dict):
        for key, item in value.items():
            require(type(key) is str, name, "an object with keys of text", key)
            _check_plain(item, name, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item, name, depth + 1)
