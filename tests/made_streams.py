"""Fake sources of any length and frame rate."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

from engines.core.errors import SourceError
from retina_edge.sources.frames import Frame, Source
from tests.stand_in import patch_frame


class Made(Source):
    """A source of frames with a white patch.

    Args:
        name: name of the source.
        count: number of frames; None for no end.
        rate: frames per second; None for as fast as possible.
        live: True for a live source.
        size: (height, width) of the frames, pixels.
        script: called with the index before each frame; it may raise or wait.
    """

    def __init__(
        self,
        name: str = "made",
        *,
        count: int | None = None,
        rate: float | None = None,
        live: bool = False,
        size: tuple[int, int] = (64, 96),
        script: Callable[[int], None] = lambda _: None,
    ) -> None:
        super().__init__()
        self.name, self.live, self.output_names = name, live, (f"{name}.mp4",)
        self._count, self._rate, self._size, self._script = count, rate, size, script

    def __iter__(self) -> Iterator[Frame]:
        start = time.monotonic()
        for index in itertools.count() if self._count is None else range(self._count):
            if self._rate:
                time.sleep(max(0.0, start + index / self._rate - time.monotonic()))
            self._script(index)
            yield Frame(patch_frame(self._size, (index % 60, 8)), index, index / 25, self.name)


def dead() -> Source:
    """Return a camera that cannot be reached."""

    def script(_index: int) -> None:
        raise SourceError("camera: no route to host")

    return Made("camera", live=True, script=script)
