"""A sink that writes a clip of each event: a short video that begins before the event."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType

import cv2

from engines.core.errors import SinkError
from engines.core.letterbox import BgrImage
from retina_edge.imaging.scaling import scaled
from retina_edge.pipeline.result import Result
from retina_edge.sinks.clip_files import clip_name, remove_left
from retina_edge.sinks.clip_options import ClipOptions, bytes_per_stream
from retina_edge.sinks.clip_ring import Clip, ClipFrame, ClipRing
from retina_edge.sinks.clip_writer import ClipWriter
from retina_edge.sinks.sink import Sink
from retina_edge.tracking.region_counter import Tally

# Longer side of the frames of a clip in pixels, JPEG quality from 0 to 100, and most frames per second.
CLIP_SIDE, JPEG_QUALITY, MAX_FPS = 960, 80, 10.0
# Seconds between two frames, and the part of them that a frame may come early: cameras are not even.
INTERVAL, EARLY = 1 / MAX_FPS, 0.25
# A frame is kept as pixels if the memory holds as many as there are in the time before an event and these seconds, in
# which the writer takes them; else as JPEG, which is an eighth as large and takes three times as long.
SPARE_SECONDS = 2.0
# Frames that the writer takes from a clip before it turns to the next one.
TURN = 4
# Frames of a file that may wait for the writer.
MAX_WAITING_OF_FILE = 32
# Seconds after the end of a clip in which its frames may still come. After that, the camera is lost.
LATE_SECONDS = 3.0
# Seconds at the end for the clips that are being written.
CLOSE_SECONDS = 10.0
# How much the writer's thread yields to other threads, where threads have a priority (Linux).
NICENESS = 10


class ClipSink(Sink):
    """A sink that keeps the newest frames of all streams, and writes clips of events in a background thread.

    A clip is a WebM video (VP8), which browsers play, of at most 10 frames per second and 960 pixels: 640x360 for 720p,
    960x540 for 1080p. Its boxes are drawn when it is written. An event that falls into the clip of an earlier event
    extends it, up to 30 s. A frame of another size is fitted into the clip. A clip has its final name only if it is
    complete.

    A clip that cannot be written is an error in the log and in ``error``, and ends neither the run nor other clips.

    Args:
        options: folder, and seconds before and after an event.
        streams: names of the streams, which share the memory.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from retina_edge.detections import Detections
        >>> from retina_edge.sources.frames import Frame
        >>> frame = Frame(np.zeros((48, 64, 3), np.uint8), index=0, timestamp=0.0, name="yard.mp4")
        >>> with TemporaryDirectory() as folder, ClipSink(ClipOptions(Path(folder)), ["yard"]) as sink:
        ...     sink.write(Result(frame, Detections.empty((), ()), stream="yard"))
        >>> sink.written
        ()
    """

    def __init__(self, options: ClipOptions, streams: Iterable[str]) -> None:
        self._options = options
        names = list(dict.fromkeys(streams))
        share = bytes_per_stream(len(names))
        self._most_pixels = share / ((options.before + SPARE_SECONDS) * MAX_FPS) / 3
        self._rings = {name: ClipRing(before=options.before, after=options.after, max_bytes=share) for name in names}
        # Protects the rings. The detector's thread holds it too, so nothing slow may happen inside.
        self._changed = threading.Condition()
        # Time from which the next frame of each stream is kept.
        self._due: dict[str, float] = {}
        self._writer = ClipWriter(options.folder, fps=MAX_FPS)
        self._live: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="clips", daemon=True)
        self._closing = self._abandoned = False

    @property
    def lost(self) -> int:
        """Frames that clips lack, because memory was short or a clip could not be written."""
        return self._writer.lost

    @property
    def error(self) -> BaseException | None:
        return self._writer.error

    @property
    def failing(self) -> bool:
        """True if the latest clip could not be written."""
        return self._writer.failing

    def name_clips(self, result: Result) -> Result:
        """Return the result with events that name their clips, which begin to be made. Returns at once; thread-safe."""
        if not result.events:
            return result
        moment = _time(result)
        with self._changed:
            name = clip_name(result.stream, result.events[0].captured)
            clip = self._rings[result.stream].clip_at(moment, name)
            events = tuple(replace(event, clip=clip.name) for event in result.events)
            clip.events += events
            if result.live:
                self._live.add(result.stream)
            self._changed.notify_all()
        return replace(result, events=events)

    def __enter__(self) -> ClipSink:
        self._options.folder.mkdir(parents=True, exist_ok=True)
        remove_left(self._options.folder, frozenset(self._rings))
        self._thread.start()
        return self

    def write(self, result: Result) -> None:
        ring, moment = self._rings[result.stream], _time(result)
        due = self._due.get(result.stream, moment)
        if not due - 2 * INTERVAL < moment < due + INTERVAL:  # after a gap, or the clock was set back
            due = moment
        early = moment < due - EARLY * INTERVAL
        if early and not result.events:
            return
        frame = _kept(result, self._most_pixels)
        # From the time when the frame was due, so that any rate of the source gives the same rate on average.
        self._due[result.stream] = due if early else due + INTERVAL
        with self._changed:
            if not result.live:
                self._changed.wait_for(
                    lambda: self._abandoned or (ring.waiting < MAX_WAITING_OF_FILE and ring.has_room(frame.bytes))
                )
            ring.add(frame)
            if ring.clips:
                self._changed.notify_all()

    def end(self, stream: str) -> None:
        with self._changed:
            self._rings[stream].end()
            self._changed.notify_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            for ring in self._rings.values():
                ring.end()
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            with self._changed:
                self._abandoned = True
            self._thread.join(CLOSE_SECONDS / 4)
        if self._writer.finished:
            self.written = (self._options.folder,)

    def _run(self) -> None:
        with suppress(AttributeError, OSError):  # not on every system
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (work := self._next()) is not None:
            for stream, clip, frames, complete in work:
                self._writer.write(clip, frames)
                if complete:
                    self._writer.finish(stream, clip)

    def _next(self) -> list[tuple[str, Clip, list[ClipFrame], bool]] | None:
        """Wait for frames of clips and take a few of each clip; None at the end."""
        with self._changed:
            while True:
                if work := list(self._take()):
                    self._changed.notify_all()
                    return work
                if self._closing:
                    return None
                self._changed.wait(LATE_SECONDS / 4)

    def _take(self) -> Iterable[tuple[str, Clip, list[ClipFrame], bool]]:
        now = time.monotonic()
        for stream, ring in self._rings.items():
            for clip in list(ring.clips):
                if stream in self._live and now > clip.end + LATE_SECONDS:
                    clip.ended = True
                frames = ring.take(clip, TURN)
                complete = clip.ended and len(frames) < TURN
                if self._abandoned:
                    clip.lost += len(frames) + len(ring.take(clip, len(ring)))
                    frames, complete = [], True
                if complete:
                    ring.clips.remove(clip)
                if frames or complete:
                    yield stream, clip, frames, complete


def _time(result: Result) -> float:
    """Return the time of a result by the clock of its stream."""
    return result.frame.captured if result.live else result.frame.seconds


def _kept(result: Result, most_pixels: float) -> ClipFrame:
    """Return a frame of at most ``CLIP_SIDE`` pixels a side, which does not hold the memory of the result.

    Args:
        result: the result.
        most_pixels: largest number of pixels that are not compressed.

    Raises:
        SinkError: if the frame cannot be compressed.
    """
    image = result.frame.image
    # OpenCV scales by 1/2 or 1/3 at a sixth of the cost of other factors.
    scale = 1 / math.ceil(max(image.shape[:2]) / CLIP_SIDE)
    small = image if scale == 1 else scaled(image, scale)
    picture: BgrImage | bytes
    if small.shape[0] * small.shape[1] <= most_pixels:
        picture = small.copy() if small is image else small
    else:
        ok, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not ok:
            raise SinkError(
                f"clip of {result.stream}: JPEG cannot hold a frame of {image.shape[1]}x{image.shape[0]} pixels"
            )
        picture = data.tobytes()
    detections = result.detections.with_boxes(result.detections.boxes * scale)
    tallies = tuple(_scaled_tally(tally, scale) for tally in result.tallies)
    return ClipFrame(_time(result), picture, detections, result.tracks, tallies)


def _scaled_tally(tally: Tally, scale: float) -> Tally:
    region = tally.region
    if region.unit == "relative" or scale == 1:
        return tally
    return replace(tally, region=replace(region, points=tuple((x * scale, y * scale) for x, y in region.points)))
