"""Several ways to do the same, measured against one of them; one that cannot run becomes a row that says why."""

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
# Is given what closes things afterwards, and gives a function without arguments.
Maker: TypeAlias = Callable[[ExitStack], Work]
FIRST_RUNS = 3
# Many rounds are for what takes a millisecond or two; of anything slower the median settles sooner.
SLOW_MS, SLOW_ROUNDS = 5.0, 50
LONGEST_REASON = 300
# Seconds, above which somebody who waits is told what for.
SLOW_TO_MAKE = 2.0


def compare(
    makers: Mapping[str, Maker],
    base: str,
    *,
    rounds: int,
    inspect: Callable[[str, Any], Row] | None = None,
    apart: Collection[str] = (),
) -> Iterator[list[Row]]:
    """Measures candidates in turn, and gives rows as soon as there are some.

    A row has ``candidate``, and either its times and ``ratio``, times as fast as the base, or ``not_run``, the reason.

    Args:
        makers: by name; what fails in making, in running, or under ``inspect`` has no times.
        base: the name of the one that the others are set against.
        rounds: counted runs of each, at most.
        inspect: is given name and result of each candidate, and gives what goes into its row; raises where the result
            is wrong, because what is wrong has no speed.
        apart: those measured after the rest, each alone with the base, so that rows are there before the last is made.
    """
    together = [name for name in makers if name not in apart]
    yield _group({name: makers[name] for name in together}, base, rounds, inspect)
    for name in apart:
        rows = _group({base: makers[base], name: makers[name]}, base, rounds, inspect)
        yield [row for row in rows if row["candidate"] == name]


def not_run(candidate: str, reason: Exception | str) -> Row:
    """The row of a candidate that could not be measured."""
    return {"candidate": candidate, "not_run": reason if isinstance(reason, str) else reason_of(reason)}


def reason_of(error: Exception) -> str:
    """An error in one line: ours speak for themselves, others by their kind."""
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
                    found = work()
                    milliseconds = 1000 * (perf_counter() - begun)
                facts[name] = inspect(name, found) if inspect is not None else {}
            except Exception as error:  # torch.compile, for one, has many ways to fail
                failed[name] = error
                continue
            finally:
                if (seconds := perf_counter() - start) > SLOW_TO_MAKE:
                    print(f"{name}: {seconds:.0f} s to make it and for its first runs", file=sys.stderr)
            ready[name] = work
            counts[name] = min(rounds, SLOW_ROUNDS) if milliseconds > SLOW_MS else rounds
        times = interleaved(ready, rounds=counts, put_aside=lambda name, error: failed.update({name: error}))
        ready.clear()  # before the stack closes what they use
    rows = []
    for name in makers:
        if name in times:
            ratio = {"ratio": round(times[base].median / times[name].median, 3)} if base in times else {}
            rows.append({"candidate": name, **times[name].row(), **ratio, **facts[name]})
        else:
            rows.append(not_run(name, failed[name]))
    return rows
