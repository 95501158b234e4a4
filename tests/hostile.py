"""JSON that a hostile or careless program wrote, for tests of readers."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hypothesis import strategies as st

from engines.core.errors import RetinaEdgeError

T = TypeVar("T")
Key = str | int

# Values that break a reader that trusts types, sizes or encodings.
_VALUES: list[Any] = [
    *(None, True, -1, 0, 1.5, 10**400, 2**63, 2**31, -(10**30), 1e308, 5e-324, math.nan, math.inf, -math.inf),
    *("", "x", "\x1b[31m", "a\nb", "\ud800", "cuda:0", "9" * 5000, [], {}, [[]], [None], {"": {}}),
    json.loads("[" * 100 + "]" * 100),
    [10**400, "a"],
    list(range(3000)),
]
VALUES = st.sampled_from(_VALUES) | st.integers() | st.floats() | st.text(max_size=8)


def places(value: Any) -> Iterator[tuple[Key, ...]]:
    """Yield the path of each value inside a JSON object."""
    items: list[tuple[Key, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, item in items:
        yield (key,)
        yield from ((key, *rest) for rest in places(item))


@st.composite
def damaged(draw: st.DrawFn, valid: dict[str, Any]) -> str:
    """Return the text of a valid object in which one value is replaced, removed or added."""
    values = copy.deepcopy(valid)
    *outer, last = draw(st.sampled_from([*places(valid), ("added",)]))
    inner: Any = values
    for key in outer:
        inner = inner[key]
    if last != "added" and draw(st.integers(0, 4)) == 0:
        del inner[last]
    else:
        inner[last] = draw(VALUES)
    return json.dumps(values)


def accepted(read: Callable[[], T]) -> T | None:
    """Return what a reader returns, or None if it refuses its input in one line of a bearable length."""
    try:
        return read()
    except RetinaEdgeError as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) < 600
    return None
