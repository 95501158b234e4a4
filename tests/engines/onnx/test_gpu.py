"""ONNX Runtime on an NVIDIA GPU, with each provider that is installed; ``make gpu`` runs this."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from engines.core.errors import MissingDependencyError
from engines.core.machine import this_machine
from engines.onnx.onnx_executor import OnnxExecutor
from engines.onnx.providers import PROVIDERS, Provider
from retina_edge.assets import MODEL
from tests.parity import PIXELS, SHARE, partners


@pytest.mark.gpu
@pytest.mark.skipif(not this_machine().gpu, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.device)
def test_detections_on_a_gpu_are_those_of_the_cpu(provider: Provider, frames: list[npt.NDArray[np.uint8]]) -> None:
    try:
        executor = OnnxExecutor(MODEL, device=provider.device)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    reference = OnnxExecutor(MODEL)
    for frame in frames:
        found, expected = (one.result(one.submit([frame])) for one in (executor, reference))
        share, pixels = partners(found, expected, 0)
        assert share >= SHARE
        assert pixels <= PIXELS
