"""``retina-edge bench`` on real models; an engine runs on stand-ins for the driver and TensorRT."""

from __future__ import annotations

import inspect
import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from engines.core.errors import ModelFileError
from engines.core.tensor_names import OUTPUTS
from engines.tensorrt.build_options import PLUGIN
from retina_edge import bench
from retina_edge.assets import MODEL
from retina_edge.detector import Detector
from retina_edge.measurement.bench_frames import sample_frames
from retina_edge.measurement.bench_report import print_report
from retina_edge.measurement.timing import measure_throughput
from retina_edge.system.console import Console
from tests.engines.plugins.emulated import needs_compiler
from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.runner.world import World
from tests.media import write_video

STREAMS = ["--mlperf", "Offline", "--streams", "2"]


@pytest.fixture(scope="module")
def forest() -> list[npt.NDArray[np.uint8]]:
    """The frames that bench uses by default, made once."""
    return sample_frames()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch, forest: list[npt.NDArray[np.uint8]]) -> None:
    """Shorten the warm-up and the preparation of the frames."""
    monkeypatch.setattr("retina_edge.measurement.timing.WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr("retina_edge.measurement.timing.WARM_UP_RUNS", 1)
    monkeypatch.setattr("retina_edge.measurement.loadgen_settings.PROBE_SECONDS", 0.0)
    monkeypatch.setattr(bench, "sample_frames", lambda: forest)


def run(arguments: Sequence[object], folder: Path) -> dict[str, Any]:
    """Run the verb for 0.2 s and return its report."""
    path = folder / "bench.json"
    assert bench.main([*map(str, arguments), "--seconds", "0.2", "--json", str(path)]) == 0
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_an_onnx_is_measured_as_a_whole(tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run([tiny_onnx], tmp_path)
    assert list(report["milliseconds"]) == ["preprocess", "engine", "whole frame"]
    assert (report["precision"], report["input"], report["frame"]) == ("fp32", [128, 160], [1080, 1920])
    assert report["host_overhead"] is None
    for latency in report["milliseconds"].values():
        assert latency["p50"] > 0
        assert 3 <= latency["runs"] < 100
        assert latency["p99"] is None
    whole, network = report["milliseconds"]["whole frame"], report["milliseconds"]["engine"]
    assert whole["runs"] == network["runs"]
    assert report["jitter"] is None
    assert 0.3 < whole["p50"] / network["p50"] < 3
    throughput = report["throughput"]
    assert throughput["frames_per_second"] == pytest.approx(throughput["frames"] / throughput["seconds"], rel=1e-3)
    assert {"numpy", "onnxruntime"} <= set(report["versions"])
    assert report["contract"]["score_threshold"] == 0.05
    assert set(report["conditions"]) == {"before", "during", "after"}
    assert set(report["conditions"]["during"]) >= {"load average"}
    printed = capsys.readouterr().out
    assert "engine, with decode and NMS" in printed
    assert report["notes"] == {"engine": "with decode and NMS"}
    assert "jitter, p99/p50" in printed
    assert report["seconds"] == 0.2
    assert report["frames_mb"] == 99.5  # 16 frames of 1080p
    assert "including 100 MB of frames to measure with" in " ".join(printed.replace("│", " ").split())


def test_a_gpu_may_not_report_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_onnx: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\necho "[Not Supported], 2100, 9501, 61.20, 450, 48, [Unknown Error], 24564, P2"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    report = run([tiny_onnx], tmp_path)
    for sample in report["conditions"].values():
        assert not {"clocks.sm", "memory.used"} & set(sample)
        assert (sample["memory.total"], sample["pstate"]) == (24564, "P2")
    assert "gpu_memory_mib" not in report


@pytest.mark.parametrize(
    ("arguments", "streams", "cuda_graph"), [([], 1, True), (["--streams", "3", "--no-cuda-graph"], 3, False)]
)
def test_an_engine_has_slots_for_the_submissions_of_every_stream(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], streams: int, *, cuda_graph: bool
) -> None:
    requested: dict[str, Any] = {}

    def record(_path: Path, **options: Any) -> Detector:
        requested.update(options)
        raise ModelFileError("end of the test")

    monkeypatch.setattr(Detector, "load", record)
    assert bench.main([str(MODEL), *arguments]) == 1
    each = inspect.signature(measure_throughput).parameters["in_flight"].default
    assert requested == {"device": "auto", "in_flight": streams * each, "cuda_graph": cuda_graph}


def test_the_table_has_a_dash_for_unknown_percentiles(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=200)
    latency = {"runs": 12, "mean": 1.0, "p50": 2.0, "p90": 3.0, "p99": None}
    report = {
        **dict.fromkeys(("model", "precision", "classes", "batch"), "x"),
        **dict.fromkeys(("load_seconds", "peak_memory_mb", "frames_mb"), 1.0),
        "input": [32, 32],
        "frame": [32, 32],
        "milliseconds": {"engine": latency},
        "notes": {"engine": "with copies to the GPU and back"},
        "throughput": {"streams": 1, "in_flight": 2, "frames_per_second": 3.0},
        "jitter": None,
        "host_overhead": None,
        "conditions": {"before": {"clocks.sm": 210.0}, "during": {"clocks.sm": 1980.0}, "after": {"clocks.sm": 210.0}},
        "machine": {},
        "versions": {"numpy": "2"},
    }
    print_report(console, report)
    lines = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert "engine, with copies to the GPU and back 12 1.000 2.000 3.000 -" in lines
    assert "jitter, p99/p50 -" in lines
    assert "clocks.sm 210.0 → 1980.0 → 210.0" in lines


@pytest.mark.parametrize(("device", "noted"), [("cpu", False), ("cuda", True)])
def test_a_checkpoint_on_a_gpu_notes_the_copies(monkeypatch: pytest.MonkeyPatch, device: str, *, noted: bool) -> None:
    monkeypatch.setattr("retina_edge.model.torch_executor.select_device", lambda _name: SimpleNamespace(type=device))
    notes = bench._notes(
        Namespace(model=Path("model.pt"), device="auto"), dict.fromkeys(("preprocess", "engine", "postprocess"))
    )
    assert ("copies to the GPU" in notes.get("engine", "")) is noted
    assert bench._notes(Namespace(model=Path("model.engine")), dict.fromkeys(("engine", "postprocess"))) == {}


def test_a_checkpoint_has_a_stage_for_postprocessing(checkpoint: Path, tmp_path: Path) -> None:
    report = run([checkpoint, "--batch", 2, "--streams", 2], tmp_path)
    assert list(report["milliseconds"]) == ["preprocess", "engine", "postprocess", "whole frame"]
    assert (report["batch"], report["throughput"]["streams"]) == (2, 2)
    assert report["throughput"]["frames"] % 2 == 0


def test_decoding_of_a_video_is_measured(tiny_onnx: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mp4", count=5)
    report = run([tiny_onnx, "--source", video], tmp_path)
    assert next(iter(report["milliseconds"])) == "decode of one frame"
    assert report["milliseconds"]["decode of one frame"]["runs"] == 5
    assert report["frame"] == [64, 96]


@needs_compiler
@pytest.mark.parametrize("plugin", [False, True])
def test_an_engine_is_measured_stage_by_stage(
    monkeypatch: pytest.MonkeyPatch, tiny_engine: Path, tmp_path: Path, *, plugin: bool
) -> None:
    boxes = [{"name": name, "type": "float", "shape": []} for name in OUTPUTS]
    changes: dict[str, Any] = {"backend": "tensorrt", "postprocess": PLUGIN, "outputs": boxes} if plugin else {}
    world = World(monkeypatch, Driver(), tiny_engine, tmp_path, **changes)
    report = run([world.engine], tmp_path)
    stages = ["pack", "H2D", "preprocess", "engine", "postprocess", "D2H", "GPU", "whole frame"]
    assert list(report["milliseconds"]) == [stage for stage in stages if not (plugin and stage == "postprocess")]
    whole, gpu = report["milliseconds"]["whole frame"], report["milliseconds"]["GPU"]
    assert report["host_overhead"] == pytest.approx(whole["p50"] / gpu["p50"] - 1, abs=1e-3)
    assert report["cuda_graph_allowed"] is True
    world.check_nothing_is_left()


TENSORRT: dict[str, Any] = {"backend": "tensorrt", "batch": (1, 2, 3)}


@needs_compiler
def test_an_engine_says_if_its_graph_ran_and_which_batch_it_is_tuned_for(
    monkeypatch: pytest.MonkeyPatch,
    tiny_engine: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(monkeypatch, Driver(), tiny_engine, tmp_path, **TENSORRT)
    report = run([world.engine, "--require-cuda-graph", "--batch", "2"], tmp_path)
    use = report["cuda_graph"]
    assert use["with_graph"] > use["without_graph"] == 0
    assert world.bindings.launches >= use["with_graph"]
    assert report["tuned_batch"] == 2
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"CUDA graph yes, {use['with_graph']} of {use['with_graph']} batches" in printed
    assert "tuned for batch 2 " in printed
    assert "tuned for" not in caplog.text
    run([world.engine, "--batch", "3"], tmp_path)
    assert "tuned for batch 2; measured with 3" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "batch: the engine is tuned for 2, but runs 3, which may be slower; choose a batch of 2" in caplog.text
    world.check_nothing_is_left()


@needs_compiler
@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        (TENSORRT, [], "cuGraphInstantiate: Function"),
        ({}, [], "TensorRT-RTX captures CUDA graphs itself, and does not say if it does"),
        (TENSORRT, ["--mlperf", "Offline"], "cuGraphInstantiate: Function"),
    ],
    ids=["capture fails", "TensorRT-RTX", "MLPerf"],
)
def test_a_required_graph_that_does_not_run_is_an_error_after_the_report(
    monkeypatch: pytest.MonkeyPatch,
    tiny_engine: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    options: list[str],
    reason: str,
) -> None:
    world = World(monkeypatch, Driver(), tiny_engine, tmp_path, **changes)
    world.bindings.fails = "cuGraphInstantiate"
    path = tmp_path / "bench.json"
    options = [*options, "--mlperf-logs", str(tmp_path / "logs"), "--seconds", "0.1", "--json", str(path)]
    assert bench.main([str(world.engine), "--require-cuda-graph", *options]) == 1
    captured = capsys.readouterr()
    words = f"model.engine: expected batches launched as a CUDA graph, got none: {reason}"
    assert words in " ".join(captured.err.split())
    use = json.loads(path.read_text())["cuda_graph"]
    assert use["with_graph"] == 0 < use["without_graph"]
    assert f"CUDA graph no: {reason}" in " ".join(captured.out.replace("│", " ").split())
    world.check_nothing_is_left()


@needs_compiler
def test_a_graph_that_is_off_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, tiny_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(monkeypatch, Driver(), tiny_engine, tmp_path, **TENSORRT)
    run([world.engine, "--no-cuda-graph"], tmp_path)
    assert "CUDA graph off (--no-cuda-graph)" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    with pytest.raises(SystemExit):
        bench.main([str(world.engine), "--no-cuda-graph", "--require-cuda-graph"])
    assert "expected no --no-cuda-graph beside it" in capsys.readouterr().err
    assert bench.main([str(MODEL), "--require-cuda-graph"]) == 1
    assert "expected an engine, because only engines have CUDA graphs" in " ".join(capsys.readouterr().err.split())
    world.check_nothing_is_left()


@pytest.mark.parametrize("scenario", bench.SCENARIOS)
def test_mlperf_scenarios_write_logs_and_report(
    tiny_onnx: Path, tmp_path: Path, scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "logs"
    report = run([tiny_onnx, "--mlperf", scenario, "--mlperf-logs", logs], tmp_path)
    assert report["mlperf"]["Scenario"] == scenario
    assert report["mlperf"]["rules"] == "rules of v5.1, the last round with RetinaNet"
    assert "milliseconds" not in report
    assert report["seconds"] == 0.2
    assert report["mlperf"]["as the rules ask"] is False
    assert (logs / scenario / "mlperf_log_summary.txt").is_file()
    printed = capsys.readouterr().out
    assert "VALID, but not under MLPerf's rules" in printed
    assert "0.2 s instead of 600" in printed


def test_wrong_arguments_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([str(tmp_path / "none.onnx")]) == 1
    assert "expected an ONNX file, found none" in capsys.readouterr().err
    assert bench.main([str(MODEL), "--source", str(tmp_path / "none.mp4")]) == 1
    assert "none.mp4" in capsys.readouterr().err
    copy = tmp_path / "model.onnx"
    copy.write_bytes(MODEL.read_bytes())
    assert bench.main([str(copy), "--json", str(copy)]) == 1
    assert "would overwrite the model" in capsys.readouterr().err
    for arguments in (["--seconds", "0"], ["--seconds", "nan"], ["--batch", "0"], ["--mlperf", "Edge"], STREAMS):
        with pytest.raises(SystemExit):
            bench.main([str(MODEL), *arguments])
    assert bench.main([str(MODEL), "--batch", "4", "--seconds", "0.1"]) == 1
    assert "batch: expected 1, got 4" in capsys.readouterr().err


def test_an_unreadable_image_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((10, 10, 3), np.uint8))
    (tmp_path / "a.png").write_bytes(b"")
    assert bench.main([str(MODEL), "--source", str(tmp_path / "a.png")]) == 1
    assert "a.png" in capsys.readouterr().err
