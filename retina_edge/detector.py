"""The front door: images in, detections out, the same for a checkpoint, an ONNX model and an engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload
from weakref import WeakSet

from engines.core.batch_choice import choose_batch
from engines.core.errors import ContractError, RetinaEdgeError
from engines.core.executor import Executor, RawDetections, Ticket
from engines.core.frame_region import Frame
from engines.core.gpu_frame import GpuFrame
from engines.core.letterbox import BgrImage, Letterbox
from engines.core.option_checks import check_number
from retina_edge.detections import DEFAULT_SCORE, Detections
from retina_edge.imaging.frame_input import ImageInput, to_frames
from retina_edge.model.model_file import open_executor

if TYPE_CHECKING:
    from retina_edge.pipeline.frame_stream import FrameStream, SourceName
    from retina_edge.tracking.tracker_names import TrackerName
    from retina_edge.tracking.zones import Line, Zone

T = TypeVar("T")
# Merges the detections of everything that was submitted, for instance of tiles, into the detections of each frame.
Merge = Callable[[list[Detections]], list[Detections]]


@dataclass(frozen=True)
class DetectionTicket(Generic[T]):
    """A submission in flight; ``Detector.result`` takes it.

    Attributes:
        parts: the executor's tickets, one for each batch.
        assemble: turns the detections of everything that was submitted into the value that ``Detector.result`` returns.
    """

    parts: Sequence[Ticket]
    assemble: Callable[[list[Detections]], T]


class Borrower(Protocol):
    """A user of a detector, which must end before the executor is closed."""

    def close(self) -> None: ...


class Detector:
    """A detector that letterboxes frames, runs a model on them, and returns boxes in frame pixels.

    Args:
        executor: runs the model; the detector closes it.
        name: name of the model file, for ``repr``.
        device: where the model runs, for ``repr``.

    Attributes:
        executor: the executor.
        contract: contract of the model.
        score_threshold: score that every detection of the model exceeds, 0 to 1.
        borrowers: streams and tiled detectors that ``close`` ends; weak references.

    Examples:
        >>> from retina_edge import Detector
        >>> from retina_edge.assets import FOREST, MODEL
        >>> with Detector.load(MODEL) as detector:
        ...     detector(FOREST)
        ...     detector(FOREST, score=detector.score_threshold)
        Detections(84: 84 tree; best 0.83)
        Detections(255: 255 tree; best 0.83)
    """

    def __init__(self, executor: Executor, *, name: str = "", device: str = "") -> None:
        self.executor, self.contract = executor, executor.contract
        self.score_threshold = executor.contract.score_threshold
        self.borrowers: WeakSet[Borrower] = WeakSet()
        self._name, self._device = name, device
        self._closed = False

    @classmethod
    def load(cls, path: Path | str, *, device: str = "auto", in_flight: int = 2, cuda_graph: bool = True) -> Detector:
        """Open a model file by its suffix: ``.pt`` (torch), ``.onnx`` (ONNX Runtime) or ``.engine`` (TensorRT).

        Args:
            path: the model file.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. ``auto`` is the CPU for an ``.onnx``, and a GPU for a
                ``.pt`` if torch sees one. An ``.onnx`` also runs on ``tensorrt`` and ``tensorrt-rtx``, ONNX Runtime's
                other providers for NVIDIA GPUs; an ``.engine`` only on a GPU.
            in_flight: submissions that an engine keeps in flight.
            cuda_graph: launch the work of an engine as one CUDA graph, if possible.

        Raises:
            ModelFileError: if the file is missing, corrupt, or not a model of retina_edge.
            MissingDependencyError: if torch (for a checkpoint), TensorRT or pycuda (for an engine), or ONNX Runtime's
                provider (for an ONNX) is not installed.
            DeviceError: if ``device`` cannot be used, or an engine was built for another GPU or another TensorRT.
        """
        executor, name = open_executor(Path(path), device=device, in_flight=in_flight, cuda_graph=cuda_graph)
        return cls(executor, name=Path(path).name, device=name)

    def __repr__(self) -> str:
        contract = self.contract
        height, width = contract.input_size
        names = ", ".join(contract.class_names[:3]) + (", ..." if contract.num_classes > 3 else "")
        classes = f"{contract.num_classes} class{'es' if contract.num_classes > 1 else ''} ({names})"
        parts = [contract.precision, f"input {height}x{width}", classes, self._device]
        label = f"{self._name}: " if self._name else ""
        return f"{type(self).__name__}({label}{', '.join(part for part in parts if part)})"

    # A str is an Iterable[str], too, but as an image it is one path.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, images: ImageInput, *, score: float | None = None
    ) -> Detections: ...

    @overload
    def __call__(self, images: Iterable[ImageInput], *, score: float | None = None) -> list[Detections]: ...

    def __call__(
        self, images: ImageInput | Iterable[ImageInput], *, score: float | None = None
    ) -> Detections | list[Detections]:
        """Detect in one image, or in several of any sizes.

        Args:
            images: a BGR array, uint8 [height, width, 3], as OpenCV delivers it (grayscale and BGRA are converted); a
                path to an image file; a PIL image; a ``GpuFrame`` (engines only); a stack [N, height, width, 3]; or an
                iterable of these. Several images run in one batch, or in as many as the model's batch size requires.
                Arrays of an iterator are copied, because it may reuse its buffer. Of 16 bits, the upper 8 are used.
            score: keep only detections that score more than this; by default ``default_score``. With
                ``score=detector.score_threshold``, all detections of the model are kept.

        Returns:
            Detections for one image; a list of them, in order, for a stack or an iterable.

        Raises:
            ValueError: if ``images`` is something else, or on a GPU and the model is not an engine, or ``score`` is
                below the model's threshold or not below 1.
            SourceError: if a file cannot be read.
            DeviceError: if the GPU fails, or a frame is on another GPU.
        """
        ticket: DetectionTicket[Any] = self.submit(images, score=score)
        detections: Detections | list[Detections] = self.result(ticket)
        return detections

    @overload
    def submit(  # type: ignore[overload-overlap]
        self, images: ImageInput, *, score: float | None = None
    ) -> DetectionTicket[Detections]: ...

    @overload
    def submit(
        self, images: Iterable[ImageInput], *, score: float | None = None
    ) -> DetectionTicket[list[Detections]]: ...

    def submit(
        self, images: ImageInput | Iterable[ImageInput], *, score: float | None = None
    ) -> DetectionTicket[Detections] | DetectionTicket[list[Detections]]:
        """Start detecting and return a ticket for ``result``.

        Images in host memory may be modified afterwards, frames of ``new_frame`` and ``stream`` after ``result``.
        An engine works in the background. Other executors only letterbox here and run the network in ``result``.

        Args:
            images: as for a call.
            score: as for a call.

        Raises:
            ValueError, SourceError, DeviceError: as for a call.

        Examples:
            >>> from retina_edge.assets import FOREST, MODEL
            >>> with Detector.load(MODEL) as detector:
            ...     ticket = detector.submit(FOREST)
            ...     detector.result(ticket)
            Detections(84: 84 tree; best 0.83)
        """
        given = to_frames(images, self.contract.bit_depth)
        threshold = self.default_score if score is None else self.check_score(score)
        own = given.own  # only the frames that were made here: the ticket must not keep the caller's arrays alive

        def finish(detections: list[Detections]) -> list[Detections]:
            if threshold > self.score_threshold:
                detections = [item.above(threshold) for item in detections]
            return [
                item if frame is None else dataclasses.replace(item, frame=frame)
                for item, frame in zip(detections, own, strict=True)
            ]

        parts, merge = self._submit(given.frames)
        if given.single:
            return DetectionTicket(parts, lambda detections: finish(merge(detections))[0])
        return DetectionTicket(parts, lambda detections: finish(merge(detections)))

    def result(self, ticket: DetectionTicket[T]) -> T:
        """Wait for a submission and return its detections: ``Detections`` for one image, else a list of them."""
        detections: list[Detections] = []
        for part in ticket.parts:
            detections += self._to_detections(self.executor.result(part), part.letterboxes)
        return ticket.assemble(detections)

    def new_frame(self, height: int, width: int) -> BgrImage:
        """Return a frame to fill: uint8 [height, width, 3], BGR. Its pixels have arbitrary values.

        The detector reads the frame from where it lies, so do not modify it between ``submit`` and ``result``. The
        memory is used again once nothing refers to the frame or a view of it. It remains valid after ``close``.

        Raises:
            RetinaEdgeError: if a side is less than 1 pixel, or the detector is closed.

        Examples:
            >>> from retina_edge.assets import MODEL
            >>> Detector.load(MODEL).new_frame(720, 1280).shape
            (720, 1280, 3)
        """
        if self.closed:
            raise RetinaEdgeError("expected an open detector, got a closed one; load it again")
        return self.executor.pool.take(height, width)

    def stream(
        self,
        sources: SourceName | Iterable[SourceName],
        *,
        score: float | None = None,
        track: bool | TrackerName = False,
        regions: Sequence[Zone | Line] = (),
        max_frames: int | None = None,
        fps: float | None = None,
    ) -> FrameStream:
        """Detect in videos, cameras, URLs, image folders or GStreamer pipelines, frame by frame.

        Every frame of a file is processed, in order. From a live source, the newest frame wins: if the loop is slow,
        older frames are dropped. A lost connection is opened again. The sources are closed at the end of the stream, by
        its ``close``, when it is deleted (a loop deletes a stream without a name), and by the detector's ``close``.

        Args:
            sources: one or several sources as ``retina-edge detect`` takes them: a path, a glob, a camera index, a URL,
                ``gst:...``, ``csi://0``; ``NAME=SOURCE`` names the stream.
            score: keep only detections that score more than this; by default ``default_score``.
            track: follow objects from frame to frame and give each an id; ``botsort`` for cameras that move. This needs
                the extra ``track``.
            regions: zones and lines at which objects are counted; they turn tracking on.
            max_frames: end each source after this many frames, at least 1; None for all frames.
            fps: frames per second of image files and video files; None for the times in them.

        Returns:
            An iterator and context manager of ``StreamedFrame``: ``(frame, detections)`` with time, tracks, events.

        Raises:
            SourceError: if a source cannot be opened; at the end, if part of a source could not be read.
            RetinaEdgeError: if a number is out of range, or the detector is closed.

        Examples:
            >>> from retina_edge.assets import FOREST, MODEL
            >>> with Detector.load(MODEL) as detector:
            ...     for frame, detections in detector.stream(FOREST):
            ...         print(frame.shape, len(detections) > 0)
            (622, 2299, 3) True
        """
        from retina_edge.pipeline.frame_stream import FrameStream

        return FrameStream(self, sources, score=score, track=track, regions=regions, max_frames=max_frames, fps=fps)

    def set_thresholds(self, *, score_threshold: float | None = None, iou_threshold: float | None = None) -> None:
        """Change the thresholds from the next frame on; None leaves a threshold as it is.

        Checkpoints support this, and engines whose decode and NMS run after the network (``--postprocess kernels``).

        Args:
            score_threshold: score that detections must exceed, 0 to 1.
            iou_threshold: IoU above which NMS suppresses a box, 0 to 1.

        Raises:
            ValueError: if a threshold is out of range, or built into the model.
        """
        self.executor.set_thresholds(score_threshold=score_threshold, iou_threshold=iou_threshold)
        if score_threshold is not None:
            self.score_threshold = score_threshold

    @property
    def default_score(self) -> float:
        """The score that detections exceed by default: 0.4, or the model's own threshold if it is higher."""
        return max(DEFAULT_SCORE, self.score_threshold)

    def check_score(self, score: float) -> float:
        """Return a score threshold if the model can give it.

        Raises:
            ContractError: if the score is not a number, is below the model's threshold, or is not below 1.
        """
        expected = f"{(least := self.score_threshold):g} <= score < 1"
        check_number("score", score, expected, lambda value: 0 <= value < 1)
        if score < least:
            advice = f"the model drops scores of {least:g} and less: export it with a lower threshold"
            raise ContractError(f"score: expected {expected}, got {score!r}; {advice}")
        return float(score)

    def choose_batch(self, requested: int | None, *, frames: int = 1) -> int:
        """Return the number of frames in a batch: the requested number, else the model's own, else those there are.

        A warning says if an engine is tuned for another number than the requested one. ``frames`` is the number of
        frames that are there at once, such as the number of streams.

        Raises:
            RetinaEdgeError: if the model cannot take the requested number.
        """
        return choose_batch(self.executor, requested, frames=frames)

    def close(self) -> None:
        """End all streams and release the executor. The detector cannot be used afterwards."""
        self._closed = True
        self._end_borrowers()
        self.executor.close()

    @property
    def closed(self) -> bool:
        """True after ``close``."""
        return self._closed

    def _end_borrowers(self) -> None:
        for borrower in list(self.borrowers):
            borrower.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, frames: Sequence[BgrImage | GpuFrame]) -> tuple[list[Ticket], Merge]:
        """Submit frames; return the tickets, and the function that merges their detections into those of each frame."""
        batch = self.executor.max_batch or max(1, len(frames))
        return self._submit_batches(frames, batch), lambda detections: detections

    def _submit_batches(self, frames: Sequence[Frame], batch: int) -> list[Ticket]:
        return [self.executor.submit(frames[start : start + batch]) for start in range(0, len(frames), batch)]

    def _to_detections(self, raw: RawDetections, letterboxes: Sequence[Letterbox]) -> list[Detections]:
        names, ids = self.contract.class_names, self.contract.category_ids
        results = []
        for n, letterbox in enumerate(letterboxes):
            rows = slice(int(raw.num_detections[n]))
            boxes = letterbox.to_frame(raw.boxes[n, rows])
            results.append(Detections(boxes, raw.scores[n, rows].copy(), raw.labels[n, rows].copy(), names, ids))
        return results
