"""Torch inside the runner, on a simulated GPU, compared with torch in FP32."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from benchmarks import runner
from benchmarks.torch_network import TorchContext, TorchNetwork
from engines.core.contract import DetectorContract
from engines.core.executor import GPU, POSTPROCESS
from engines.runner.gpu_executor import GpuExecutor
from export.network import Network
from retina_edge import Detector
from retina_edge.assets import MODEL
from retina_edge.measurement.bench_frames import sample_frames
from retina_edge.model.checkpoint import load_checkpoint
from tests.conftest import SMALL_INPUT
from tests.engines.plugins.emulated import needs_compiler
from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.runner.world import World
from tests.parity import Heads, check_runner


class NetworkOnStandIn(TorchNetwork):
    """A torch network that enqueues its work on the stream of the simulated GPU."""

    def __init__(self, driver: Driver, model: Any, contract: DetectorContract) -> None:
        super().__init__(model, contract, max_batch=2, device="cpu")
        self._driver = driver

    def context(self, batch: int, addresses: Mapping[str, int]) -> TorchContext:
        context, driver = super().context(batch, addresses), self._driver

        def enqueue(stream: Any) -> None:
            for address in addresses.values():
                driver.check(address)
            driver.streams[stream.handle].put("torch", context.run)

        context.enqueue = enqueue  # type: ignore[method-assign]
        return context


@needs_compiler
def test_heads_and_detections_are_those_of_torch_in_fp32(
    monkeypatch: pytest.MonkeyPatch, engine: Path, tmp_path: Path, small_frames: list[npt.NDArray[np.uint8]]
) -> None:
    world = World(monkeypatch, Driver(seed=1), engine, tmp_path)
    checkpoint = load_checkpoint(MODEL.with_suffix(".pt"))
    model = checkpoint.build_model()
    contract = dataclasses.replace(checkpoint.contract, input_size=SMALL_INPUT, levels=model.pyramid(SMALL_INPUT))
    network = Network(model, contract).eval()

    def reference(images: npt.NDArray[np.uint8]) -> Heads:
        with torch.inference_mode():
            return [head.numpy() for head in network(torch.from_numpy(images))]

    executor = GpuExecutor(lambda driver: NetworkOnStandIn(driver, copy.deepcopy(model), contract))
    with Detector(executor) as detector:
        for batch in (small_frames[:2], small_frames[2:3]):
            check_runner(executor, batch, reference)
        measured = runner._measure(detector, 0.1)
        assert {POSTPROCESS, GPU, runner.WHOLE} <= set(measured["milliseconds"])
        assert measured["detections"] == len(detector(sample_frames()[0], score=detector.score_threshold))
    assert world.bindings.graphs == []
    world.check_nothing_is_left()
