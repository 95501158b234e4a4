"""The interface between the runner and the network that it runs: a TensorRT engine, or another network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from engines.core.contract import DetectorContract


class Context(Protocol):
    """A network for one batch size and one set of addresses; it does not change after its first run."""

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
        records_itself: True if the network captures CUDA graphs itself and must not be captured in another graph.
    """

    contract: DetectorContract
    half: bool
    raw: bool
    batches: tuple[int, int]
    tensors: frozenset[str]
    records_itself: bool

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
        """Save what was slow to compute at this start, if anything, for the next start."""
        ...

    def close(self) -> None:
        """Release the network; every context must be closed."""
        ...
