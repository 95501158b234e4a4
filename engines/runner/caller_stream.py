"""The order between the runner's stream and the streams on which callers write their frames on the GPU.

pycuda cannot use streams of others, so these calls go through cuda-bindings. The primary context must be current in all
of them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from engines.core.errors import DeviceError
from engines.core.gpu_frame import GpuFrame
from engines.runner.bindings import call, load_bindings


def check_is_on(frame: GpuFrame, device: int) -> None:
    """Check that the memory of a frame belongs to a GPU.

    Raises:
        MissingDependencyError: if cuda-bindings is not installed.
        DeviceError: if the frame is on another GPU, or its address is not one of a GPU.
    """
    bindings = load_bindings("frames on the GPU")
    ordinal = bindings.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    pixels = frame.pixels
    for address in (pixels.address, pixels.chroma) if pixels.chroma else (pixels.address,):
        status, found = bindings.cuPointerGetAttribute(ordinal, address)
        if status != bindings.CUresult.CUDA_SUCCESS:
            raise DeviceError(
                f"{frame}: expected memory of GPU {device}, got address {address:#x}, which the driver does not know "
                f"({status.name}); pass an array that is on the GPU and not freed"
            )
        if found != device:
            raise DeviceError(
                f"{frame}: expected a frame on GPU {device}, where the engine runs, got one on GPU {found}; load the "
                f"engine with device='cuda:{found}', or copy the frame to cuda:{device}"
            )


def wait_for_writers(frame: GpuFrame, stream: int) -> None:
    """Let a stream wait until a frame is written.

    Args:
        frame: the frame.
        stream: handle of the stream.
    """
    for writer in frame.streams:
        _wait_for(stream, writer)
    if not frame.streams:
        for owner in frame.owners:
            _let_producer_order(owner, stream)


def let_writers_wait(frame: GpuFrame, stream: int) -> None:
    """Let the streams that write a frame wait for the work on a stream, so that they do not overwrite it too early."""
    for writer in frame.streams:
        _wait_for(writer, stream)


def _let_producer_order(owner: Any, stream: int) -> None:
    """Ask the producer of an array to let a stream wait for its work, which is a part of an export by DLPack."""
    array = owner[0] if isinstance(owner, tuple) else owner
    if hasattr(array, "__dlpack__"):
        array.__dlpack__(stream=stream)


def _wait_for(later: int, earlier: int) -> None:
    """Let the stream ``later`` wait for what the stream ``earlier`` has to do so far."""
    if later == earlier:
        return
    bindings = load_bindings("frames on the GPU")
    ask = partial(call, bindings, advice="; the stream of a GpuFrame must belong to the GPU of the engine")
    event = ask("cuEventCreate", bindings.CUevent_flags.CU_EVENT_DISABLE_TIMING)
    try:
        ask("cuEventRecord", event, bindings.CUstream(earlier))
        ask("cuStreamWaitEvent", bindings.CUstream(later), event, 0)
    finally:
        ask("cuEventDestroy", event)  # the driver keeps it until the streams have passed it
