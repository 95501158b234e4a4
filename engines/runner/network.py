"""What the runner runs between the letterbox and the detections: TensorRT's engine, or another network in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from engines.core.contract import DetectorContract


class Context(Protocol):
    """A network of one batch size on one set of addresses; after its first run nothing of it changes."""

    def enqueue(self, stream: Any) -> None:
        """Puts it on a pycuda stream; waits for nothing.

        Raises:
            DeviceError: it does not run.
        """
        ...

    def close(self) -> None:
        """Gives it back; it must not be running."""
        ...


class Network(Protocol):
    """A network, loaded; contexts of it run one after another, on one stream.

    Attributes:
        contract: what it promises.
        half: its raw heads are float16.
        raw: raw heads come out, for the kernels behind it; detections otherwise.
        batches: the smallest and the largest.
        tensors: names of its inputs and outputs.
        records_itself: it brings CUDA graphs of its own, and is not to be recorded in another.
    """

    contract: DetectorContract
    half: bool
    raw: bool
    batches: tuple[int, int]
    tensors: frozenset[str]
    records_itself: bool

    def context(self, batch: int, addresses: Mapping[str, int]) -> Context:
        """Makes one.

        Args:
            batch: images.
            addresses: on the device, of each of ``tensors``.

        Raises:
            DeviceError: too little memory, or the shape or an address is not taken.
        """
        ...

    def save_cache(self) -> None:
        """Keeps what made the start slow for the next one, if there is anything."""
        ...

    def close(self) -> None:
        """Gives everything back; every context must be closed."""
        ...
