"""``retina-edge bench`` on real models; an engine runs on the stand-ins of driver and TensorRT."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from engines.build_options import PLUGIN
from engines.names import OUTPUTS
from retina_edge import bench
from retina_edge.sample import MODEL
from tests.engines.plugins.emulated import needs_compiler
from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.runner.world import World
from tests.media import write_video


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retina_edge.measurement.timing.WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr("retina_edge.measurement.loadgen.PROBE_SECONDS", 0.0)


def run(arguments: Sequence[object], folder: Path) -> dict[str, Any]:
    path = folder / "bench.json"
    assert bench.main([*map(str, arguments), "--seconds", "0.2", "--json", str(path)]) == 0
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_an_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run([MODEL], tmp_path)
    assert list(report["milliseconds"]) == ["preprocess", "engine", "whole frame"]
    assert (report["precision"], report["input"], report["frame"]) == ("fp32", [416, 736], [1080, 1920])
    assert report["host_overhead"] is None
    for latency in report["milliseconds"].values():
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
        assert latency["runs"] >= 3
    whole, network = report["milliseconds"]["whole frame"], report["milliseconds"]["engine"]
    assert report["jitter"] == pytest.approx(whole["p99"] / whole["p50"], abs=1e-3)
    assert 0.3 < whole["p50"] / network["p50"] < 3
    throughput = report["throughput"]
    assert throughput["frames_per_second"] == pytest.approx(throughput["frames"] / throughput["seconds"], rel=1e-3)
    assert {"numpy", "onnxruntime"} <= set(report["versions"])
    assert report["contract"]["score_threshold"] == 0.05
    printed = capsys.readouterr().out
    assert "engine, decode and NMS inside" in printed
    assert "jitter, p99/p50" in printed


def test_a_checkpoint_has_a_stage_of_its_own_for_postprocessing(checkpoint: Path, tmp_path: Path) -> None:
    report = run([checkpoint, "--batch", 3, "--streams", 2], tmp_path)
    assert list(report["milliseconds"]) == ["preprocess", "engine", "postprocess", "whole frame"]
    assert (report["batch"], report["throughput"]["streams"]) == (3, 2)
    assert report["throughput"]["frames"] % 3 == 0


def test_decoding_is_measured_where_there_is_something_to_decode(checkpoint: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mp4", count=5)
    report = run([checkpoint, "--source", video], tmp_path)
    assert next(iter(report["milliseconds"])) == "decode"
    assert report["milliseconds"]["decode"]["runs"] == 5
    assert report["frame"] == [64, 96]


@needs_compiler
@pytest.mark.parametrize("plugin", [False, True])
def test_an_engine(monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path, *, plugin: bool) -> None:
    boxes = [{"name": name, "type": "float", "shape": []} for name in OUTPUTS]
    changes: dict[str, Any] = {"backend": "tensorrt", "postprocess": PLUGIN, "outputs": boxes} if plugin else {}
    world = World(monkeypatch, Driver(), engine, **changes)
    report = run([world.engine], tmp_path)
    stages = ["pack", "H2D", "preprocess", "engine", "postprocess", "D2H", "GPU", "whole frame"]
    assert list(report["milliseconds"]) == [stage for stage in stages if not (plugin and stage == "postprocess")]
    whole, gpu = report["milliseconds"]["whole frame"], report["milliseconds"]["GPU"]
    assert report["host_overhead"] == pytest.approx(whole["p50"] / gpu["p50"] - 1, abs=1e-3)
    world.check_nothing_is_left()


@pytest.mark.parametrize("scenario", bench.SCENARIOS)
def test_mlperf(checkpoint: Path, tmp_path: Path, scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs = tmp_path / "logs"
    report = run([checkpoint, "--mlperf", scenario, "--mlperf-logs", logs], tmp_path)
    assert report["mlperf"]["Scenario"] == scenario
    assert "milliseconds" not in report
    assert (logs / scenario / "mlperf_log_summary.txt").is_file()
    assert "Result is" in capsys.readouterr().out


def test_what_cannot_be_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([str(tmp_path / "none.onnx")]) == 1
    assert "expected an ONNX file, found none" in capsys.readouterr().err
    assert bench.main([str(MODEL), "--source", str(tmp_path / "none.mp4")]) == 1
    assert "none.mp4" in capsys.readouterr().err
    copy = tmp_path / "model.onnx"
    copy.write_bytes(MODEL.read_bytes())
    assert bench.main([str(copy), "--json", str(copy)]) == 1
    assert "would replace the model" in capsys.readouterr().err
    for arguments in (["--seconds", "0"], ["--seconds", "nan"], ["--batch", "0"], ["--mlperf", "Edge"]):
        with pytest.raises(SystemExit):
            bench.main([str(MODEL), *arguments])
    assert bench.main([str(MODEL), "--batch", "4", "--seconds", "0.1"]) == 1
    assert "batch: expected 1, got 4" in capsys.readouterr().err


def test_an_empty_video_is_no_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((10, 10, 3), np.uint8))
    (tmp_path / "a.png").write_bytes(b"")
    assert bench.main([str(MODEL), "--source", str(tmp_path / "a.png")]) == 1
    assert "a.png" in capsys.readouterr().err
