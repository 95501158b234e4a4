"""CUDA graphs: the calls against cuda-bindings themselves; what they do is in ``test_executor.py``, on a stand-in."""

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
    theirs = re.match(rf"{name}\((.*?)\)", getattr(driver, name).__doc__)
    assert theirs is not None
    ours = getattr(Bindings, name).__code__.co_argcount - 1
    assert len(theirs.group(1).split(", ")) == ours


@pytest.mark.parametrize("kind", ["CUresult", "CUstreamCaptureMode"])
def test_the_stand_in_has_their_numbers(kind: str) -> None:
    for member in getattr(Bindings, kind):
        theirs = getattr(getattr(driver, kind), member.name)
        assert (theirs.name, theirs.value) == (member.name, member.value)


@pytest.mark.skipif(bool(this_machine().gpu), reason="there is a driver")
def test_without_a_driver_it_is_an_error_of_ours() -> None:
    with pytest.raises(DeviceError, match=r"cuStreamBeginCapture: .*driver"):
        CudaGraph(Driver(), SimpleNamespace(handle=7), lambda: None)
