"""The outputs that a user asks for: checked before the work begins, then opened for the streams of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from retina_edge.pipeline.stream import Stream
from retina_edge.sinks.clip_options import ClipOptions
from retina_edge.sinks.clip_sink import ClipSink
from retina_edge.sinks.output_checks import check_outputs
from retina_edge.sinks.outputs import Outputs, open_outputs
from retina_edge.sinks.per_stream_sink import sink_for_stream
from retina_edge.sinks.retention import Retention, Sweeper
from retina_edge.sinks.retrying_sink import RetryingSink
from retina_edge.sinks.sink import Sink
from retina_edge.sources.frames import Source


@dataclass(frozen=True)
class OutputOptions:
    """Destinations of results and events.

    Attributes:
        save: annotated video (``.mp4``), or folder for videos and images; None for neither.
        jsonl: file for results as JSON lines; None for no file.
        csv: file for detections as a table; None for no file.
        receivers: addresses that events are delivered to, ``mqtt://`` or ``https://``.
        spool: folder for events that wait for delivery; None for the user's own.
        clips: folder of clips of events, and what they show; None for no clips.
        keep: what is kept of recordings in the folder ``save`` and of clips; None to keep all.

    Examples:
        >>> from retina_edge.sources.opening import open_sources
        >>> options = OutputOptions(save=Path("out.mp4"))
        >>> options.check(Path("model.onnx"), open_sources(["0"]), endless=True)
        Traceback (most recent call last):
        engines.core.errors.SinkError: --save out.mp4: each start would overwrite it; use a folder for an endless stream
    """

    save: Path | None = None
    jsonl: Path | None = None
    csv: Path | None = None
    receivers: Sequence[str] = ()
    spool: Path | None = None
    clips: ClipOptions | None = None
    keep: Retention | None = None

    def check(self, model: Path, sources: Sequence[Source], *, endless: bool) -> None:
        """Refuse outputs that would overwrite the model, a source or one another.

        Args:
            model: the model file.
            sources: the sources of the run.
            endless: True for a service, which restarts after an interruption.

        Raises:
            SinkError: if an output would overwrite one of these files, or has a name that does not fit the sources.
        """
        check_outputs(model, sources, save=self.save, jsonl=self.jsonl, csv=self.csv, endless=endless)

    def open(
        self, sources: Mapping[str, Source], streams: Sequence[Stream], *, strict: bool
    ) -> AbstractContextManager[Outputs]:
        """Open the outputs for the duration of the ``with`` block.

        Args:
            sources: the source of each stream, by name.
            streams: the streams of the run.
            strict: True if older files are overwritten and the first error ends the run; see ``open_outputs``.

        Raises:
            OSError: if a file cannot be opened.
            RetinaEdgeError: if an address cannot be used.
        """

        def open_sink(name: str) -> Sink:
            assert self.save is not None
            (stream,) = (stream for stream in streams if stream.name == name)
            make = partial(
                sink_for_stream,
                self.save,
                sources[name],
                name=name,
                live=stream.live,
                fps=stream.info.fps,
                duration=lambda: stream.duration,
            )
            return make() if strict else RetryingSink(f"{self.save}, {name}", make)

        clips = None if self.clips is None else (self.clips.folder, ClipSink(self.clips, sources))
        return open_outputs(
            jsonl=self.jsonl,
            csv=self.csv,
            save=self.save,
            open_sink=open_sink,
            receivers=self.receivers,
            spool=self.spool,
            clips=clips,
            sweeper=None if self.keep is None else Sweeper(self._kept_folders(), self.keep),
            strict=strict,
        )

    def _kept_folders(self) -> list[Path]:
        """Return the folders in which old files are deleted."""
        folders = [self.save, None if self.clips is None else self.clips.folder]
        return [folder for folder in folders if folder is not None and folder.suffix.lower() != ".mp4"]
