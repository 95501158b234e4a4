"""The interface between the runner and the network that it runs: a TensorRT engine, or another network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from engines.core.contract import DetectorContract


class Context(Protocol):
    """An execution context: the network for one batch size and one set of addresses.

    A context does not change after its first run, so it can be captured in a CUDA graph.
    """

    def enqueue(self, stream: Any) -> None:
        """Enqueue the network on a pycuda stream, without waiting.

        Raises:
            DeviceError: if the network cannot run.
        """
        ...

    def close(self) -> None:
        """Release the context, which must not be running."""
        ...


class Network(Protocol):
    """A loaded network. Its contexts run one after another, on one stream.

    Attributes:
        contract: contract of the model.
        half: True if the raw heads are float16.
        raw: True if the outputs are raw heads, which the kernels must post-process; False if they are detections.
        batches: smallest and largest batch size.
        tensors: names of the inputs and outputs.
        captures_graphs: True if the network captures CUDA graphs itself, and so must not be captured in another graph.
    """

    contract: DetectorContract
    half: bool
    raw: bool
    batches: tuple[int, int]
    tensors: frozenset[str]
    captures_graphs: bool

    def context(self, batch: int, addresses: Mapping[str, int]) -> Context:
        """Create a context.

        Args:
            batch: number of images.
            addresses: device address of each of ``tensors``.

        Raises:
            DeviceError: if there is too little memory, or the network refuses the shape or an address.
        """
        ...

    def save_cache(self) -> None:
        """Save the results of slow computations, such as compiled kernels, to speed up the next start."""
        ...

    def close(self) -> None:
        """Release the network; every context must be closed."""
        ...
