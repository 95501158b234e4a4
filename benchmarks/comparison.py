"""Measurement of several candidates against one of them; a candidate that cannot run gets a row with the reason."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from time import perf_counter
from typing import Any, TypeAlias

from benchmarks.record import interleaved, without_folders
from engines.core.errors import RetinaEdgeError

Row: TypeAlias = dict[str, Any]
Work: TypeAlias = Callable[[], Any]
# A function that prepares a candidate: it takes a stack for the resources to close afterwards, and returns the function
# to measure.
Maker: TypeAlias = Callable[[ExitStack], Work]
FIRST_RUNS = 3
# Many rounds are only for candidates of a millisecond or two; the median of slower ones settles sooner.
SLOW_MS, SLOW_ROUNDS = 5.0, 50
LONGEST_REASON = 300
# Seconds of preparation and first runs, above which the user is told which candidate takes so long.
SLOW_TO_MAKE = 2.0


def compare(
    makers: Mapping[str, Maker],
    base: str,
    *,
    rounds: int,
    inspect: Callable[[str, Any], Row] | None = None,
    apart: Collection[str] = (),
) -> Iterator[list[Row]]:
    """Measure candidates in turn, and yield their rows as soon as they are measured.

    A row has ``candidate`` and either times with ``ratio`` (how many times as fast as the base the candidate is) or
    ``not_run``, the reason why it has no times.

    Args:
        makers: functions that prepare the candidates, by name. A candidate that fails while it is prepared, run or
            inspected has no times.
        base: name of the candidate that the others are compared with.
        rounds: largest number of counted runs of each candidate.
        inspect: function that takes the name and the result of a candidate and returns further entries of its row. It
            raises if the result is wrong, because the speed of a wrong result means nothing.
        apart: names of candidates that are measured after the others, each one with the base alone, so that the first
            rows need not wait until the last candidate is prepared.
    """
    together = [name for name in makers if name not in apart]
    yield _group({name: makers[name] for name in together}, base, rounds, inspect)
    for name in apart:
        rows = _group({base: makers[base], name: makers[name]}, base, rounds, inspect)
        yield [row for row in rows if row["candidate"] == name]


def not_run(candidate: str, reason: Exception | str) -> Row:
    """Return the row of a candidate that could not be measured."""
    return {"candidate": candidate, "not_run": reason if isinstance(reason, str) else reason_of(reason)}


def reason_of(error: Exception) -> str:
    """Return an error as one line without folders; an error of another library begins with its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    text = lines[0] if isinstance(error, RetinaEdgeError) else f"{type(error).__name__}: {lines[0]}"
    return without_folders(text)[:LONGEST_REASON]


def _group(makers: Mapping[str, Maker], base: str, rounds: int, inspect: Callable[[str, Any], Row] | None) -> list[Row]:
    facts: dict[str, Row] = {}
    failed: dict[str, Exception] = {}
    ready: dict[str, Work] = {}
    counts: dict[str, int] = {}
    with ExitStack() as stack:
        for name, make in makers.items():
            start = perf_counter()
            try:
                work = make(stack)
                for _ in range(FIRST_RUNS):
                    begun = perf_counter()
                    result = work()
                    milliseconds = 1000 * (perf_counter() - begun)
                facts[name] = inspect(name, result) if inspect is not None else {}
            except Exception as error:  # torch.compile, for example, fails in many ways
                failed[name] = error
                continue
            finally:
                if (seconds := perf_counter() - start) > SLOW_TO_MAKE:
                    print(f"{name}: preparation and first runs took {seconds:.0f} s", file=sys.stderr)
            ready[name] = work
            counts[name] = min(rounds, SLOW_ROUNDS) if milliseconds > SLOW_MS else rounds
        times = interleaved(ready, rounds=counts, on_failure=lambda name, error: failed.update({name: error}))
        ready.clear()  # before the stack closes the resources of the candidates
    rows = []
    for name in makers:
        if name in times:
            ratio = {"ratio": round(times[base].median / times[name].median, 3)} if base in times else {}
            rows.append({"candidate": name, **times[name].row(), **ratio, **facts[name]})
        else:
            rows.append(not_run(name, failed[name]))
    return rows
