"""The benchmark of scaling, with fake detectors that take no time."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scaling
from engines.core.errors import BuildError
from retina_edge import Detector


class FakeDetector:
    """A detector that takes no time."""

    def __call__(self, frames: Any) -> list[Any]:
        return list(frames)


def test_rows_are_written_as_soon_as_they_are_measured(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[list[str]] = []

    def detector(settings: dict[str, int], *_: object) -> FakeDetector:
        if settings["classes"] == 365:
            raise MemoryError("no room")
        path = results / "scaling.json"
        written.append([row["varied"] for row in json.loads(path.read_text())["figures"]] if path.exists() else [])
        return FakeDetector()

    monkeypatch.setattr(scaling, "_detector", detector)
    assert scaling.main(["--device", "cpu", "--rounds", "2", "--work", str(tmp_path / "models")]) == 0
    rows = json.loads((results / "scaling.json").read_text(encoding="utf-8"))["figures"]
    assert [(row["varied"], row["value"]) for row in rows] == [
        (name, value) for name, values in scaling.VARIED["cpu"].items() for value in values
    ]
    assert written[0] == []
    assert set(written[-1]) == {"batch", "input", "classes"}
    (failed,) = (row for row in rows if "not_run" in row)
    assert (failed["varied"], failed["value"], failed["not_run"]) == ("classes", 365, "MemoryError: no room")
    assert {row["cost"] for row in rows if row.get("value") in (320, 20) or row["value"] == 0} == {1.0}


def test_onnx_runtime_runs_the_networks_if_no_engine_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[str] = []

    def detector(
        _settings: object, _frame: object, on: str, _work: Path, _stack: ExitStack, *_: object
    ) -> FakeDetector:
        requested.append(on)
        if on == scaling.ENGINE:
            raise BuildError("expected TensorRT, found none")
        return FakeDetector()

    monkeypatch.setattr(scaling, "_detector", detector)
    on = scaling.runs_on("cuda", tmp_path)
    assert on == {"on": "ONNX Runtime", "why": "expected TensorRT, found none"}
    rows = scaling.measure("candidates", (0, 1000), 1, on, tmp_path)
    assert requested == [scaling.ENGINE, "ONNX Runtime", "ONNX Runtime"]
    assert all(row["why"] == "expected TensorRT, found none" and "ms" in row for row in rows)
    assert scaling.runs_on("cpu", tmp_path) == {"on": "ONNX Runtime"}


def test_on_a_gpu_one_engine_serves_every_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines: list[tuple[str, int | None]] = []

    def build_once(export: Callable[[], Path], precision: str, *, max_batch: int | None) -> Path:
        assert precision == "fp16"
        path = export()
        engines.append((path.name, max_batch))
        return path

    monkeypatch.setattr(scaling, "build_once", build_once)
    monkeypatch.setattr(scaling, "random_retinanet", lambda *_, **__: (None, None))
    monkeypatch.setattr(scaling, "export_once", lambda *_, **__: None)
    monkeypatch.setattr(Detector, "load", lambda _: _ClosingDetector())
    on = {"on": scaling.ENGINE}
    scaling.measure("batch", (1, 4, 16), 1, on, tmp_path)
    assert set(engines) == {("scaling_batch1to16_input320_classes20_candidates0.onnx", 16)}
    engines.clear()
    scaling.measure("input", (320, 800), 1, on, tmp_path)
    assert [batch for _, batch in engines] == [None, None]
    assert sum(len(values) for values in scaling.VARIED["cuda"].values()) <= 12


class _ClosingDetector(FakeDetector):
    def __enter__(self) -> _ClosingDetector:
        return self

    def __exit__(self, *_: object) -> None: ...
