"""Tests of INT8 models on a CPU. The layout for TensorRT must run without ONNX Runtime's optimizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from engines.core.letterbox import letterbox_batch
from engines.core.tensor_names import INPUT
from engines.onnx.deployable import contract_of, heads_only
from engines.onnx.onnx_executor import OnnxExecutor
from export.half_weights import restore_weights
from export.precision.calibration import audit
from export.precision.conversion import Calibration, convert_file
from export.precision.drift import signal_to_noise
from export.torch_export import ExportReport
from export.verify import onnx_heads
from retina_edge.imaging.image_file import read_image

Frames = list[npt.NDArray[np.uint8]]
# Decibels of the worst raw head of the sample model. With ONNX Runtime's optimizer it has 9 to 13.
LEAST = 16.0


@pytest.fixture(scope="module", params=["tiny", pytest.param("sample", marks=pytest.mark.slow)])
def models(
    request: pytest.FixtureRequest,
    report: ExportReport,
    treecrowns: Path,
    frames: Frames,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """The tiny model or the sample model: fp32, int8-tensorrt, int8-cpu."""
    if request.param == "sample":
        models: dict[str, Path] = request.getfixturevalue("sample_models")
        return models
    paths = {"fp32": report.path}
    images = audit(sorted((treecrowns / "images").iterdir()), read_image)
    for layout in ("tensorrt", "cpu"):
        paths[f"int8-{layout}"] = tmp_path_factory.mktemp("int8") / f"{layout}.onnx"
        calibration = Calibration(images, layout, "minmax")
        convert_file(report.path, paths[f"int8-{layout}"], "int8", images=frames, calibration=calibration)
    return paths


@pytest.mark.parametrize("name", ["int8-tensorrt", "int8-cpu"])
def test_a_quantized_network_runs_with_little_noise(models: dict[str, Path], frames: Frames, name: str) -> None:
    fp32, int8 = (heads_only(onnx.load(models[key])) for key in ("fp32", name))
    contract = contract_of(onnx.load(models["fp32"]))
    batches = [letterbox_batch([frame], contract.input_size)[0] for frame in frames[:2]]
    decibels = signal_to_noise(onnx_heads(restore_weights(fp32), batches), onnx_heads(int8, batches), contract)
    assert min(decibels.values()) > LEAST


def test_the_executor_does_not_optimize_the_layout_for_tensorrt(models: dict[str, Path], frames: Frames) -> None:
    path = models["int8-tensorrt"]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    executor = OnnxExecutor(path)
    images, _ = letterbox_batch(frames[:1], executor.contract.input_size)
    expected = session.run(["boxes", "scores"], {INPUT: images})
    detections = executor.result(executor.submit(frames[:1]))
    np.testing.assert_allclose(detections.boxes, expected[0], atol=1e-3)
    np.testing.assert_allclose(detections.scores, expected[1], atol=1e-5)
