"""The comparison of candidates: rows, reasons, and candidates that are measured apart."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from benchmarks.comparison import FIRST_RUNS, SLOW_MS, Maker, Work, compare, not_run, reason_of
from engines.core.errors import BuildError


def maker(result: object = None) -> Maker:
    return lambda _: lambda: result


def failing(error: Exception) -> Maker:
    def make(_: ExitStack) -> Work:
        raise error

    return make


def test_every_candidate_has_a_row_and_a_failed_one_has_a_reason() -> None:
    def fails() -> None:
        raise RuntimeError("first line\nsecond")

    makers: dict[str, Maker] = {
        "no engine": failing(BuildError("expected TensorRT, found none")),
        "base": maker(),
        "no run": lambda _: fails,
        "wrong": maker("wrong"),
        "fine": maker("fine"),
    }

    def inspect(_: str, result: Any) -> dict[str, Any]:
        if result == "wrong":
            raise ValueError("expected fine, got wrong")
        return {"result": result}

    (rows,) = compare(makers, "base", rounds=4, inspect=inspect)
    by_name = {row["candidate"]: row for row in rows}
    assert list(by_name) == list(makers)
    assert by_name["no engine"]["not_run"] == "expected TensorRT, found none"
    assert by_name["no run"]["not_run"] == "RuntimeError: first line"
    assert by_name["wrong"]["not_run"] == "ValueError: expected fine, got wrong"
    assert by_name["base"]["ratio"] == 1.0
    fine = by_name["fine"]
    assert fine["result"] == "fine"
    assert fine["rounds"] == 4
    assert fine["min_ms"] <= fine["ms"] <= fine["p90_ms"]
    assert "not_run" not in fine


def test_a_candidate_that_fails_late_has_a_reason_and_no_times() -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(0)
        if len(runs) > FIRST_RUNS + 2:
            raise MemoryError("no room")

    (rows,) = compare({"base": maker(), "late": lambda _: work}, "base", rounds=3)
    assert rows[1] == {"candidate": "late", "not_run": "MemoryError: no room"}
    assert rows[0]["rounds"] == 3


def test_without_the_base_the_others_keep_their_times() -> None:
    (rows,) = compare({"base": failing(OSError("gone")), "other": maker()}, "base", rounds=2)
    assert rows[0] == {"candidate": "base", "not_run": "OSError: gone"}
    assert "ms" in rows[1]
    assert "ratio" not in rows[1]


def test_candidates_apart_follow_one_by_one_and_their_resources_are_closed() -> None:
    events: list[str] = []

    def opening(name: str) -> Maker:
        def make(stack: ExitStack) -> Work:
            events.append(f"{name} opens")
            stack.callback(events.append, f"{name} closes")
            return lambda: None

        return make

    names = []
    for rows in compare({name: opening(name) for name in "bxy"}, "b", rounds=1, apart=("x", "y")):
        names.append([row["candidate"] for row in rows])
        events.append("rows")
    assert names == [["b"], ["x"], ["y"]]
    first = ["b opens", "b closes", "rows"]
    pairs = [["b opens", f"{name} opens", f"{name} closes", "b closes"] for name in "xy"]
    assert events == [*first, *pairs[0], "rows", *pairs[1], "rows"]


def test_a_slow_candidate_gets_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000_000))
    # Every call of the clock advances it so far that all runs seem slow.
    monkeypatch.setattr("benchmarks.comparison.perf_counter", lambda: next(clock) * 2 * SLOW_MS / 1000)
    (rows,) = compare({"base": maker()}, "base", rounds=200)
    assert rows[0]["rounds"] == 50
    (rows,) = compare({"base": maker()}, "base", rounds=10)
    assert rows[0]["rounds"] == 10


def test_ctrl_c_ends_the_comparison() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(compare({"base": lambda _: interrupted}, "base", rounds=1))


def test_a_reason_is_one_line_without_folders() -> None:
    assert reason_of(BuildError("/a/b/c/d.onnx: expected x\nmore")) == "…/c/d.onnx: expected x"
    assert reason_of(KeyError()) == "KeyError: no message"
    assert len(reason_of(ValueError("x" * 1000))) == 300
    assert not_run("a", "because") == {"candidate": "a", "not_run": "because"}
