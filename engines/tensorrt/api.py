"""The part of TensorRT's Python API that this package uses. TensorRT-RTX has the same API in another module.

TensorRT's lean runtime has the part of it that runs engines: no builder, parser and progress monitor.

The protocol is for type checkers, because neither package has type hints. A test checks every call against published
type stubs of TensorRT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import tensorrt


class TensorRT(Protocol):
    """The module ``tensorrt``, ``tensorrt_rtx`` or ``tensorrt_lean``."""

    Builder: type[tensorrt.Builder]
    BuilderFlag: type[tensorrt.BuilderFlag]
    ComputeCapability: Any  # only in TensorRT-RTX
    DeviceType: type[tensorrt.DeviceType]
    ExecutionContextAllocationStrategy: type[tensorrt.ExecutionContextAllocationStrategy]
    HardwareCompatibilityLevel: type[tensorrt.HardwareCompatibilityLevel]
    ILogger: type[tensorrt.ILogger]
    IProgressMonitor: type[tensorrt.IProgressMonitor]
    LayerInformationFormat: type[tensorrt.LayerInformationFormat]
    MemoryPoolType: type[tensorrt.MemoryPoolType]
    NetworkDefinitionCreationFlag: type[tensorrt.NetworkDefinitionCreationFlag]
    OnnxParser: type[tensorrt.OnnxParser]
    ProfilingVerbosity: type[tensorrt.ProfilingVerbosity]
    Runtime: type[tensorrt.Runtime]
    __name__: str
    __version__: str
