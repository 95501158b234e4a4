"""An ONNX runs on the device that was asked for, or says what is missing; ONNX Runtime never falls back in silence.

No GPU takes part: the CPU's provider stands in where a test needs one that works, and ONNX Runtime itself fails where a
test needs one that does not.
"""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

import retina_edge.detect
from engines.core.errors import DeviceError, MissingDependencyError
from engines.onnx import onnx_executor, providers
from engines.onnx.onnx_executor import OnnxExecutor
from engines.onnx.providers import CPU, PROVIDERS, BoundRun, nodes_on_cpu, open_on_gpu, provider_of
from engines.onnx.session import open_session
from export.attach import attach
from retina_edge.assets import FOREST, MODEL
from retina_edge.detector import Detector
from tests.export.heads import make_contract, network_of_heads, random_heads

CUDA, TENSORRT, RTX = PROVIDERS
SIZE = (416, 736)


def images(seed: int, count: int = 1) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 255, (count, *SIZE, 3), np.uint8)


@pytest.mark.parametrize(
    ("device", "provider", "gpu"),
    [
        ("auto", None, 0),
        ("cpu", None, 0),
        ("cuda", CUDA, 0),
        ("cuda:3", CUDA, 3),
        ("tensorrt", TENSORRT, 0),
        ("tensorrt-rtx:12", RTX, 12),
    ],
)
def test_a_device_has_a_provider_and_a_number(device: str, provider: object, gpu: int) -> None:
    assert provider_of(device) == (provider, gpu)


@pytest.mark.parametrize("device", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:1:2", "cpu:0", "tensorrt-rtx:a"])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(DeviceError, match="expected auto or cpu, or cuda, tensorrt, tensorrt-rtx, also with :N"):
        provider_of(device)


def test_a_bound_run_gives_what_the_session_gives() -> None:
    session = open_session(MODEL, onnxruntime.SessionOptions())
    run = BoundRun(session, (1, *SIZE, 3), 0, memory="cpu")
    results = [run(images(seed)) for seed in (1, 2)]  # the second run must not change the first result
    for seed, result in zip((1, 2), results, strict=True):
        for output, expected in zip(result, session.run(None, {"images": images(seed)}), strict=True):
            np.testing.assert_array_equal(output, expected)
    assert not np.array_equal(results[0][1], results[1][1])


def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU's provider stand in for one of a GPU."""

    def open_on_cpu(path: Path, options: onnxruntime.SessionOptions, *_: object, **__: object) -> object:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        return onnxruntime.InferenceSession(str(path), options, providers=[CPU])

    monkeypatch.setattr(onnx_executor, "open_on_gpu", open_on_cpu)
    monkeypatch.setattr(onnx_executor, "BoundRun", partial(BoundRun, memory="cpu"))


def test_detections_on_another_provider_are_those_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Detector.load(MODEL) as detector:
        expected = detector(FOREST)
    on_the_cpu(monkeypatch)
    with caplog.at_level(logging.WARNING), Detector.load(MODEL, device="cuda:1") as detector:
        assert detector(FOREST).boxes.tolist() == expected.boxes.tolist()
        nodes = detector.executor.nodes_on_cpu  # type: ignore[attr-defined]
    assert "Conv" in nodes
    assert f"{nodes.count('Conv')} Conv" in caplog.text
    assert "CUDAExecutionProvider leaves nodes to the CPU" in caplog.text


def test_batches_of_several_sizes_run_on_another_provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    contract, path = make_contract(), tmp_path / "model.onnx"
    onnx.save(attach(network_of_heads(contract, random_heads(contract, seed=0, batch=1), batch="N"), contract), path)
    reference = OnnxExecutor(path)
    on_the_cpu(monkeypatch)
    executor = OnnxExecutor(path, device="cuda")
    random = np.random.default_rng(5)
    for count in (1, 3, 1, 2, 3):
        batch = random.integers(0, 255, (count, *executor.contract.input_size, 3), np.uint8)
        for output, expected in zip(executor.infer(batch), reference.infer(batch), strict=True):
            np.testing.assert_array_equal(output, expected)
    executor.close()
    with pytest.raises(ValueError, match="the detector is closed"):
        executor.infer(batch)


@pytest.mark.parametrize("device", ["cuda", "tensorrt:1"])
def test_a_provider_that_is_not_installed_is_named_with_what_to_install(device: str) -> None:
    provider, _ = provider_of(device)
    assert provider is not None
    if provider.name in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    with pytest.raises(MissingDependencyError, match=rf"{provider.name}: expected it .*; replace onnxruntime: pip un"):
        Detector.load(MODEL, device=device)


@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_a_fallback_to_the_cpu_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], provider: providers.Provider
) -> None:
    """This ONNX Runtime has no such provider, so it really opens the session on the CPU instead."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider.name, CPU])
    with (
        pytest.warns(UserWarning, match="is not in available provider names"),
        pytest.raises(DeviceError, match=f"{provider.name}: expected a GPU and the libraries .* cannot load it"),
    ):
        Detector.load(MODEL, device=provider.device)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "\x1b" not in shown.err


def test_what_a_failing_provider_says_stands_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Please install TensorRT libraries\nand more")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT.name, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(
        DeviceError, match=r"cannot load it \(RuntimeError Please install TensorRT libraries\); look at nvidia-smi"
    ):
        open_on_gpu(MODEL, onnxruntime.SessionOptions(), TENSORRT, 0, precision="fp16")


def test_the_package_of_a_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, RTX.plugin, None)
    with pytest.raises(MissingDependencyError, match=r"pip install onnxruntime-ep-nv-tensorrt-rtx-cu13"):
        Detector.load(MODEL, device="tensorrt-rtx")


def test_a_plugin_that_cannot_be_loaded_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "libprovider.so"
    library.write_bytes(b"no library")
    monkeypatch.setitem(sys.modules, RTX.plugin, SimpleNamespace(get_library_path=lambda: str(library)))
    with pytest.raises(DeviceError, match=r"cannot load it \(.*libprovider\.so.*\); look at nvidia-smi"):
        Detector.load(MODEL, device="tensorrt-rtx")


def test_a_plugin_without_a_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, RTX.plugin, SimpleNamespace(get_library_path=lambda: "library"))
    registered = []
    monkeypatch.setattr(
        onnxruntime, "register_execution_provider_library", lambda *names: registered.append(names), raising=False
    )
    with pytest.raises(DeviceError, match="expected a GPU 0 that it supports, found 0 GPUs"):
        Detector.load(MODEL, device="tensorrt-rtx")
    assert registered == [(RTX.plugin, "library")]


def test_an_old_onnx_runtime_cannot_load_plugins_and_does_not_tell_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(onnxruntime, "register_execution_provider_library", raising=False)
    with pytest.raises(MissingDependencyError, match=r"expected ONNX Runtime 1\.23 or later"):
        Detector.load(MODEL, device="tensorrt-rtx")
    assert nodes_on_cpu(SimpleNamespace()) is None


def test_the_command_line_says_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    if CUDA.name in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    assert retina_edge.detect.main([str(MODEL), str(FOREST), "--device", "cuda"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: CUDAExecutionProvider: expected it in ONNX Runtime")
    assert len(error.splitlines()) == 1
