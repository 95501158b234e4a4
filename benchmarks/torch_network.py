"""Torch in place of TensorRT inside the runner, for a GPU that the installed TensorRT does not support.

Copies, letterbox, kernels and streams are still those of the runner. The network runs in FP16 with channels last, and
torch captures it as a CUDA graph.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from engines.core.contract import DetectorContract
from engines.core.tensor_names import INPUT
from engines.plugins.launch import Geometry
from export.network import Network

WARM_UP = 3


class TorchNetwork:
    """A ``Network`` for the runner.

    Args:
        model: model that takes float [N, 3, H, W] and returns two lists, the class logits and the box deltas of each
            level. The model is modified.
        contract: contract of the model.
        max_batch: largest number of images in a batch.
        device: ``cuda``; in tests ``cpu``, where addresses are those of host memory.
    """

    half = raw = captures_graphs = True

    def __init__(
        self, model: nn.Module, contract: DetectorContract, *, max_batch: int = 1, device: str = "cuda"
    ) -> None:
        self.contract = contract
        self.batches = (1, max_batch)
        self._geometry = Geometry.of(contract, half=True)
        self._heads = [name for name, tensor in self._geometry.inputs(1).items() if tensor.dtype == "float16"]
        self.tensors = frozenset((INPUT, *self._heads))
        self._device = torch.device(device)
        network = Network(model, contract).eval().requires_grad_(False)
        self._network = network.to(self._device, torch.half, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def context(self, batch: int, addresses: Mapping[str, int]) -> TorchContext:
        tensors = self._geometry.inputs(batch)
        images = _view(addresses[INPUT], (batch, *self.contract.input_size, 3), "uint8", self._device)
        heads = [_view(addresses[name], tensors[name].shape, "float16", self._device) for name in self._heads]
        return TorchContext(self._network, images, heads)

    def save_cache(self) -> None:
        """Do nothing: torch has no cache file."""

    def close(self) -> None:
        self._network.cpu()


class TorchContext:
    """A ``Context``: the network, with its input and outputs at the addresses of the runner."""

    def __init__(self, network: nn.Module, images: Tensor, heads: list[Tensor]) -> None:
        self._network, self._images, self._heads = network, images, heads
        self._graph: torch.cuda.CUDAGraph | None = None
        if images.is_cuda:
            self._record()

    def run(self) -> None:
        """Run the network once, kernel by kernel, on torch's current stream."""
        with torch.inference_mode():
            for output, head in zip(self._network(self._images), self._heads, strict=True):
                head.copy_(output)

    def enqueue(self, stream: Any) -> None:
        assert self._graph is not None
        with torch.cuda.stream(torch.cuda.ExternalStream(stream.handle)):  # type: ignore[no-untyped-call]
            self._graph.replay()

    def close(self) -> None:
        self._graph = None

    def _record(self) -> None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):  # lets cuDNN choose its kernels
                self.run()
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self.run()
        torch.cuda.synchronize()


def host_array(address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array that shares the host memory at an address; the caller keeps the memory alive."""
    kind = np.dtype(dtype)
    memory = (ctypes.c_uint8 * (math.prod(shape) * kind.itemsize)).from_address(address)
    return np.frombuffer(memoryview(memory), kind).reshape(shape)


def _view(address: int, shape: tuple[int, ...], dtype: str, device: torch.device) -> Tensor:
    """Return a tensor that shares the memory at an address; the caller keeps the memory alive."""
    if device.type != "cuda":
        return torch.from_numpy(host_array(address, shape, dtype))
    interface = {"shape": shape, "typestr": np.dtype(dtype).str, "data": (address, False), "version": 3}
    return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface), device=device)
