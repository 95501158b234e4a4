"""Candidates beside each other: rows, reasons, and what is measured apart."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from benchmarks.comparison import FIRST_RUNS, SLOW_MS, Maker, Work, compare, not_run, reason_of
from engines.core.errors import BuildError


def maker(result: object = None) -> Maker:
    return lambda _: lambda: result


def broken(error: Exception) -> Maker:
    def make(_: ExitStack) -> Work:
        raise error

    return make


def test_every_candidate_has_a_row_and_those_that_fail_say_why() -> None:
    def fails() -> None:
        raise RuntimeError("first line\nsecond")

    makers: dict[str, Maker] = {
        "no engine": broken(BuildError("expected TensorRT, found none")),
        "base": maker(),
        "no run": lambda _: fails,
        "wrong": maker("wrong"),
        "fine": maker("fine"),
    }

    def inspect(_: str, found: Any) -> dict[str, Any]:
        if found == "wrong":
            raise ValueError("expected fine, got wrong")
        return {"found": found}

    (rows,) = compare(makers, "base", rounds=4, inspect=inspect)
    by_name = {row["candidate"]: row for row in rows}
    assert list(by_name) == list(makers)
    assert by_name["no engine"]["not_run"] == "expected TensorRT, found none"
    assert by_name["no run"]["not_run"] == "RuntimeError: first line"
    assert by_name["wrong"]["not_run"] == "ValueError: expected fine, got wrong"
    assert by_name["base"]["ratio"] == 1.0
    fine = by_name["fine"]
    assert fine["found"] == "fine"
    assert fine["rounds"] == 4
    assert fine["min_ms"] <= fine["ms"] <= fine["p90_ms"]
    assert "not_run" not in fine


def test_one_that_fails_late_has_the_reason_and_no_times() -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(0)
        if len(runs) > FIRST_RUNS + 2:
            raise MemoryError("no room")

    (rows,) = compare({"base": maker(), "late": lambda _: work}, "base", rounds=3)
    assert rows[1] == {"candidate": "late", "not_run": "MemoryError: no room"}
    assert rows[0]["rounds"] == 3


def test_without_the_base_the_others_keep_their_times() -> None:
    (rows,) = compare({"base": broken(OSError("gone")), "other": maker()}, "base", rounds=2)
    assert rows[0] == {"candidate": "base", "not_run": "OSError: gone"}
    assert "ms" in rows[1]
    assert "ratio" not in rows[1]


def test_those_apart_come_after_the_rest_one_by_one_and_what_they_open_is_closed() -> None:
    events: list[str] = []

    def opening(name: str) -> Maker:
        def make(stack: ExitStack) -> Work:
            events.append(f"{name} opens")
            stack.callback(events.append, f"{name} closes")
            return lambda: None

        return make

    found = []
    for rows in compare({name: opening(name) for name in "bxy"}, "b", rounds=1, apart=("x", "y")):
        found.append([row["candidate"] for row in rows])
        events.append("rows")
    assert found == [["b"], ["x"], ["y"]]
    first = ["b opens", "b closes", "rows"]
    pairs = [
        [f"{b} {what}" for b, what in (("b", "opens"), (n, "opens"), (n, "closes"), ("b", "closes"))] for n in "xy"
    ]
    assert events == [*first, *pairs[0], "rows", *pairs[1], "rows"]


def test_many_rounds_are_for_what_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000_000))
    # Every look at the clock is a little later: all runs are slow.
    monkeypatch.setattr("benchmarks.comparison.perf_counter", lambda: next(clock) * 2 * SLOW_MS / 1000)
    (rows,) = compare({"base": maker()}, "base", rounds=200)
    assert rows[0]["rounds"] == 50
    (rows,) = compare({"base": maker()}, "base", rounds=10)
    assert rows[0]["rounds"] == 10


def test_ctrl_c_is_no_reason() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(compare({"base": lambda _: interrupted}, "base", rounds=1))


def test_reasons_are_one_line_without_folders() -> None:
    assert reason_of(BuildError("/a/b/c/d.onnx: expected x\nmore")) == "…/c/d.onnx: expected x"
    assert reason_of(KeyError()) == "KeyError: no message"
    assert len(reason_of(ValueError("x" * 1000))) == 300
    assert not_run("a", "because") == {"candidate": "a", "not_run": "because"}
