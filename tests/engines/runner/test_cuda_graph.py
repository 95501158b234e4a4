"""Tests that the stand-in for cuda-bindings has the same calls and numbers as the real library.

``test_graphs.py`` tests the effect of the calls, on the stand-in.
"""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from cuda.bindings import driver

from engines.core.errors import DeviceError
from engines.core.machine import this_machine
from engines.runner.cuda_graph import CudaGraph
from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.runner.cuda_bindings import Bindings


@pytest.mark.parametrize("name", [name for name in vars(Bindings) if name.startswith("cu")])
def test_the_stand_in_has_the_calls_of_cuda_bindings(name: str) -> None:
    signature = re.match(rf"{name}\((.*?)\)", getattr(driver, name).__doc__)
    assert signature is not None
    parameters = getattr(Bindings, name).__code__.co_argcount - 1
    assert len(signature.group(1).split(", ")) == parameters


@pytest.mark.parametrize("kind", ["CUresult", "CUstreamCaptureMode"])
def test_the_stand_in_has_the_numbers_of_cuda_bindings(kind: str) -> None:
    for member in getattr(Bindings, kind):
        expected = getattr(getattr(driver, kind), member.name)
        assert (member.name, member.value) == (expected.name, expected.value)


@pytest.mark.skipif(bool(this_machine().gpu), reason="needs a machine without an NVIDIA driver")
def test_without_a_driver_it_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match=r"cuStreamBeginCapture: .*driver"):
        CudaGraph(Driver(), SimpleNamespace(handle=7), lambda: None)
