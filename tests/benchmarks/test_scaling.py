"""Cost against batch, size, classes and candidates, of detectors that take no time."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scaling
from engines.core.errors import BuildError
from retina_edge import Detector


class Counts:
    """A detector that takes no time."""

    def __call__(self, frames: Any) -> list[Any]:
        return list(frames)


def test_a_row_of_scaling_is_written_as_soon_as_it_is_there(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def detector(settings: dict[str, int], *_: object) -> Counts:
        if settings["classes"] == 365:
            raise MemoryError("no room")
        path = results / "scaling.json"
        seen.append([row["varied"] for row in json.loads(path.read_text())["figures"]] if path.exists() else [])
        return Counts()

    monkeypatch.setattr(scaling, "_detector", detector)
    assert scaling.main(["--device", "cpu", "--rounds", "2", "--work", str(tmp_path / "models")]) == 0
    rows = json.loads((results / "scaling.json").read_text(encoding="utf-8"))["figures"]
    assert [(row["varied"], row["value"]) for row in rows] == [
        (name, value) for name, values in scaling.VARIED["cpu"].items() for value in values
    ]
    assert seen[0] == []
    assert set(seen[-1]) == {"batch", "input", "classes"}
    (failed,) = (row for row in rows if "not_run" in row)
    assert (failed["varied"], failed["value"], failed["not_run"]) == ("classes", 365, "MemoryError: no room")
    assert {row["cost"] for row in rows if row.get("value") in (320, 20) or row["value"] == 0} == {1.0}


def test_scaling_takes_onnx_runtime_where_no_engine_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def detector(_settings: object, _frame: object, on: str, _work: Path, _stack: ExitStack, *_: object) -> Counts:
        asked.append(on)
        if on == scaling.ENGINE:
            raise BuildError("expected TensorRT, found none")
        return Counts()

    monkeypatch.setattr(scaling, "_detector", detector)
    on = scaling.runs_on("cuda", tmp_path)
    assert on == {"on": "ONNX Runtime", "why": "expected TensorRT, found none"}
    rows = scaling.measure("candidates", (0, 1000), 1, on, tmp_path)
    assert asked == [scaling.ENGINE, "ONNX Runtime", "ONNX Runtime"]
    assert all(row["why"] == "expected TensorRT, found none" and "ms" in row for row in rows)
    assert scaling.runs_on("cpu", tmp_path) == {"on": "ONNX Runtime"}


def test_on_a_gpu_one_engine_takes_every_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int | None]] = []

    def built(path: Path, precision: str, *, max_batch: int | None) -> Path:
        assert precision == "fp16"
        made.append((path.name, max_batch))
        return path

    monkeypatch.setattr(scaling, "built", built)
    monkeypatch.setattr(scaling, "random_retinanet", lambda *_, **__: (None, None))
    monkeypatch.setattr(scaling, "exported", lambda *_, **__: None)
    monkeypatch.setattr(Detector, "load", lambda _: _Closing())
    on = {"on": scaling.ENGINE}
    scaling.measure("batch", (1, 4, 16), 1, on, tmp_path)
    assert set(made) == {("scaling_batch1to16_input320_classes20_candidates0.onnx", 16)}
    made.clear()
    scaling.measure("input", (320, 800), 1, on, tmp_path)
    assert [batch for _, batch in made] == [None, None]
    assert sum(len(values) for values in scaling.VARIED["cuda"].values()) <= 12


class _Closing(Counts):
    def __enter__(self) -> _Closing:
        return self

    def __exit__(self, *_: object) -> None: ...
