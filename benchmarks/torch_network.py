"""Torch in TensorRT's place inside the runner, for a GPU that no TensorRT at hand runs on.

Copies, letterbox, kernels and streams stay as they are. The network runs in FP16, channels last, and is recorded as a
CUDA graph by torch itself.
"""

from __future__ import annotations

import ctypes
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
        model: float [N, 3, H, W] to class logits and box deltas of each level, as two lists; is changed.
        contract: what it promises.
        max_batch: images at a time, at most.
        device: ``cuda``; the tests take ``cpu``, where an address is one of the host's.
    """

    half = raw = records_itself = True

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
        """There is none."""

    def close(self) -> None:
        self._network.cpu()


class TorchContext:
    """A ``Context``: the network from one tensor to others, at the addresses of the runner."""

    def __init__(self, network: nn.Module, images: Tensor, heads: list[Tensor]) -> None:
        self._network, self._images, self._heads = network, images, heads
        self._graph: torch.cuda.CUDAGraph | None = None
        if images.is_cuda:
            self._record()

    def run(self) -> None:
        """Once, kernel by kernel, on torch's current stream."""
        with torch.inference_mode():
            for found, head in zip(self._network(self._images), self._heads, strict=True):
                head.copy_(found)

    def enqueue(self, stream: Any) -> None:
        assert self._graph is not None
        with torch.cuda.stream(torch.cuda.ExternalStream(stream.handle)):  # type: ignore[no-untyped-call]
            self._graph.replay()

    def close(self) -> None:
        self._graph = None

    def _record(self) -> None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):  # cuDNN chooses its kernels
                self.run()
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self.run()
        torch.cuda.synchronize()


def _view(address: int, shape: tuple[int, ...], dtype: str, device: torch.device) -> Tensor:
    """Memory that somebody else holds, as a tensor."""
    kind = np.dtype(dtype)
    if device.type == "cuda":
        described = {"shape": shape, "typestr": kind.str, "data": (address, False), "version": 3}
        return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=described), device=device)
    memory = (ctypes.c_uint8 * (int(np.prod(shape)) * kind.itemsize)).from_address(address)
    array: npt.NDArray[Any] = np.frombuffer(memoryview(memory), kind).reshape(shape)
    return torch.from_numpy(array)
