"""The content of result files, and the timing of candidates."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import record
from benchmarks.record import LOAD, MAX_LOAD, Times, begin, interleaved, is_busy, save, without_folders


def test_a_result_file_has_command_machine_versions_and_conditions(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter([{LOAD: 0.1}, {LOAD: 0.9}])
    monkeypatch.setattr(record, "conditions", lambda: next(taken))
    monkeypatch.setattr(
        sys,
        "argv",
        ["x", "--work", "/tmp/here", "--rounds", "3", "--work=/tmp", "--treecrowns", "/tmp/t", "--data", "tree crowns"],
    )
    path = save("scaling", [{"ms": 1.0}], suffix="_gpu", before=begin())
    assert path == results / "scaling_gpu.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["command"] == "python -m benchmarks.scaling --rounds 3 --treecrowns DIR --data 'tree crowns'"
    assert content["conditions"] == {"before": {LOAD: 0.1}, "after": {LOAD: 0.9}}
    assert content["figures"] == [{"ms": 1.0}]
    assert content["machine"]["cores"] == os.cpu_count()
    assert "numpy" in content["versions"]


def test_each_script_and_device_has_its_own_file(results: Path) -> None:
    for suffix in ("", "_gpu"):
        save("gpu", suffix, suffix=suffix)
    assert sorted(path.name for path in results.iterdir()) == ["gpu.json", "gpu_gpu.json"]
    assert json.loads((results / "gpu.json").read_text())["figures"] == ""


@pytest.mark.parametrize(("load", "warns"), [(0.0, False), (1.0, False), (1.01, True)])
def test_a_machine_that_is_busy_at_the_start_causes_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], load: float, warns: bool
) -> None:
    monkeypatch.setattr(record, "conditions", lambda: {LOAD: load})
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert begin() == {LOAD: load}
    printed = capsys.readouterr().err
    assert ("do not trust the figures" in printed) == warns
    assert is_busy({LOAD: load}, 2) == warns


def test_a_system_that_reports_no_load_is_not_busy() -> None:
    assert not is_busy({}, 1)
    assert is_busy({LOAD: MAX_LOAD + 0.01}, 1)


def test_times_have_a_median_and_a_spread() -> None:
    times = Times.of([float(value) for value in range(1, 12)])
    assert times.row() == {"ms": 6.0, "min_ms": 1.0, "p10_ms": 2.0, "p90_ms": 10.0, "rounds": 11}
    assert Times.of([3.0]).row() == {"ms": 3.0, "min_ms": 3.0, "p10_ms": 3.0, "p90_ms": 3.0, "rounds": 1}


def test_candidates_run_in_turn_each_after_an_uncounted_run() -> None:
    order: list[str] = []
    times = interleaved({name: partial(order.append, name) for name in "ab"}, rounds=2)
    assert order == list("aabbaabb")
    assert {name: value.rounds for name, value in times.items()} == {"a": 2, "b": 2}


def test_fewer_rounds_of_one_candidate_are_spread_over_those_of_the_other() -> None:
    order: list[str] = []
    candidates = {name: partial(order.append, name) for name in "ab"}
    times = interleaved(candidates, rounds={"a": 6, "b": 2})
    assert "".join(order) == "aaaaaabbaaaaaabb"
    assert (times["a"].rounds, times["b"].rounds) == (6, 2)


def test_a_candidate_that_fails_is_reported_and_the_others_go_on() -> None:
    calls: list[int] = []

    def fails() -> None:
        calls.append(0)
        if len(calls) == 3:
            raise MemoryError("no room")

    failed: dict[str, Exception] = {}
    times = interleaved(
        {"good": int, "bad": fails}, rounds=5, on_failure=lambda name, error: failed.update({name: error})
    )
    assert set(times) == {"good"}
    assert times["good"].rounds == 5
    assert str(failed["bad"]) == "no room"
    calls.clear()
    with pytest.raises(MemoryError):
        interleaved({"bad": fails}, rounds=5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/one/project/model.engine: expected", "…/project/model.engine: expected"),
        ('File "/opt/lib/python3.12/site-packages/torch/nn.py", line 3', 'File "…/torch/nn.py", line 3'),
        ("benchmarks/results/gpu.json and 1/2 of https://docs.nvidia.com/a/b/c", None),
        ("--work", None),
    ],
)
def test_folders_of_the_machine_are_removed_from_paths(text: str, expected: Any) -> None:
    assert without_folders(text) == (expected or text)
