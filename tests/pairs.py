"""All pairs of the values of several parameters, in fewer cases than their full product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from allpairspy import AllPairs


def all_pairs(**values: Sequence[Any]) -> tuple[str, list[tuple[Any, ...]]]:
    """Return the arguments of ``pytest.mark.parametrize``: the names, and cases with each pair of values at least once.

    Most defects that depend on parameters depend on one or two of them.

    Examples:
        >>> names, cases = all_pairs(at=[0, 1, 10], batch=[1, 4], pause=[0, 5])
        >>> names, len(cases)
        ('at,batch,pause', 6)
    """
    return ",".join(values), [tuple(case) for case in AllPairs(list(values.values()))]
