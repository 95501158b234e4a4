"""A result, and what takes results: each sink is a context manager."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import RetinaEdgeError
from retina_edge.detections import Detections
from retina_edge.sinks.draw import annotate
from retina_edge.sources.frames import Frame, captured_at, iso
from retina_edge.tracking.counting import Tally
from retina_edge.tracking.events import Event
from retina_edge.tracking.tracker import Tracks

Picture = npt.NDArray[np.uint8]


class SinkError(RetinaEdgeError):
    """Results cannot be written or shown."""


@dataclass(frozen=True, eq=False)
class Result:
    """A frame and what was found in it.

    Attributes:
        frame: as read.
        detections: in frame pixels.
        stream: its name among several.
        live: whether it is one of a stream whose newest frame wins, so that not every frame counts.
        age_at_inference: seconds from its capture until the detector began with it; None where nobody measures.
        age_at_output: seconds from its capture until the detections were there.
        tracks: int64 [N], the detections' ids in their stream; None where nobody follows them.
        events: what happened in the frame.
        tallies: of the stream's zones and lines.
    """

    frame: Frame
    detections: Detections
    stream: str = ""
    live: bool = False
    age_at_inference: float | None = None
    age_at_output: float | None = None
    tracks: Tracks | None = None
    events: tuple[Event, ...] = ()
    tallies: tuple[Tally, ...] = ()

    @cached_property
    def picture(self) -> Picture:
        """uint8 [height, width, 3], BGR, annotated; drawn when the first sink asks. Not to be written into: all share
        it, and where nothing was found it is the frame's own image."""
        if not len(self.detections) and not self.tallies:
            return self.frame.image
        return annotate(self.frame.image, self.detections, tracks=self.tracks, tallies=self.tallies)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: boxes xyxy in frame pixels, ``captured`` in UTC, ``timestamp`` and ages in seconds."""
        frame, found = self.frame, self.detections
        rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), found.names, strict=True)
        detections = [
            {"box": [round(side, 2) for side in box], "score": round(score, 4), "label": label, "name": name}
            for box, score, label, name in rows
        ]
        if self.tracks is not None:
            for row, track in zip(detections, self.tracks.tolist(), strict=True):
                row["track"] = track
        return {
            "stream": self.stream,
            "source": frame.name,
            "frame": frame.index,
            "timestamp": None if frame.timestamp is None else round(frame.timestamp, 6),
            "captured": iso(captured_at(frame)),
            "age_at_inference": _rounded(self.age_at_inference),
            "age_at_output": _rounded(self.age_at_output),
            "width": frame.image.shape[1],
            "height": frame.image.shape[0],
            "detections": detections,
            "events": [event.to_dict() for event in self.events],
            "regions": {tally.region.name: tally.counts for tally in self.tallies},
        }


class Sink(ABC):
    """Takes results in order, from one thread at a time, inside its ``with`` block.

    Attributes:
        written: the files or folders that this sink has finished.
        resumable: whether after an error another one can go on in its place.
    """

    written: tuple[Path, ...] = ()
    resumable = True

    @property
    def lost(self) -> int:
        """Results that were taken and could not be written; of most an error says so instead."""
        return 0

    @property
    def error(self) -> BaseException | None:
        """What keeps it from writing, or did so last; None where nothing did."""
        return None

    @property
    def failing(self) -> bool:
        """Whether results are lost at present."""
        return self.error is not None

    def takes(self, result: Result) -> bool:
        """Whether a result leaves anything in what is written."""
        del result
        return True

    @abstractmethod
    def write(self, result: Result) -> None:
        """Takes one frame."""

    def end(self, stream: str) -> None:  # noqa: B027 -- most have nothing to do
        """No more results of this stream come."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
