"""The regions of all streams during a run: those of the command line, and those that are drawn while it runs.

The threads of the web server change regions, and the pipeline's thread reads them before each frame. Each stream has an
immutable ``StreamRegions``, which a change replaces as a whole: so the pipeline needs no lock, and never waits for the
disk.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engines.core.errors import RetinaEdgeError
from retina_edge.tracking.region_file import (
    ID,
    MAX_REGIONS,
    MAX_REVISION,
    AnyRegion,
    StoredRegion,
    StreamRegions,
    read_regions,
    write_regions,
)
from retina_edge.tracking.zones import Line, Region, Zone, ZoneError, check_regions

# Largest difference between the aspect ratios of frames that show the same view.
ASPECT = 0.01

logger = logging.getLogger(__name__)


class NotEditableError(RetinaEdgeError):
    """A change of a region that cannot be changed."""


class NotSavedError(RetinaEdgeError):
    """A change that was not made, because it could not be saved."""


class RegionStore:
    """The regions of the streams of a run. Thread-safe.

    Args:
        streams: names of the streams.
        class_names: names of the model's classes.
        fixed: zones and lines of the command line, which cannot be changed.
        path: file of the regions that can be changed; it is created if it does not exist. None for no such regions.
        editable: False to read an existing file only.

    Raises:
        ZoneError: if the file is damaged, or a region names an unknown stream or class, or a name is used twice.
        OSError: if the file cannot be read or created.

    Examples:
        >>> door = Line("door", ((0.1, 0.5), (0.9, 0.5)))
        >>> store = RegionStore(["yard"], ["person"], fixed=[door])
        >>> [(stored.id, stored.region.name, stored.read_only) for stored in store.regions("yard").regions]
        [('fixed.0', 'door', True)]
    """

    def __init__(
        self,
        streams: Sequence[str],
        class_names: Sequence[str],
        *,
        fixed: Sequence[Zone | Line] = (),
        path: Path | None = None,
        editable: bool = True,
    ) -> None:
        self.class_names = tuple(class_names)
        self._path = path
        self._editable = editable and path is not None
        self._lock = threading.Lock()
        check_regions(fixed, streams=streams, class_names=class_names)
        if path is not None and self._editable and not path.exists():
            write_regions(path, {})  # a folder that cannot be written to shows now, not after the first drawing
        saved = {} if path is None else read_regions(path)
        # The file as this run knows it: what another program wrote there later must not be lost.
        self._content = b"" if path is None else path.read_bytes()
        self._streams = {
            name: replace(
                saved.get(name, StreamRegions()),
                regions=(*_fixed(fixed, name), *saved.get(name, StreamRegions()).regions),
            )
            for name in streams
        }
        # Streams of other runs stay in the file.
        self._others = {name: stream for name, stream in saved.items() if name not in self._streams}
        self._sizes: dict[str, tuple[int, int]] = {}
        for name, stream in self._streams.items():
            try:
                self._check(name, stream)
            except ZoneError as error:
                raise ZoneError(f"{path}: {error}") from error

    @property
    def why_not_editable(self) -> str:
        """The reason for which regions cannot be changed, and what to do; empty if they can."""
        if self._editable:
            return ""
        return "regions cannot be changed without a file to save them in; start serve with --regions FILE"

    def regions(self, stream: str) -> StreamRegions:
        """Return the current regions of a stream. The call never waits."""
        return self._streams[stream]

    def note_size(self, stream: str, size: tuple[int, int]) -> None:
        """Note the (height, width) of a stream's frames, which is saved with the next change. The call never waits."""
        drawn = self._streams[stream].size
        if self._sizes.get(stream) is None and drawn is not None:
            aspect = size[1] / size[0] * drawn[0] / drawn[1]
            if abs(aspect - 1) > ASPECT:
                logger.warning(
                    "%s: its regions were drawn on frames of %dx%d pixels, but frames have %dx%d; look at the regions",
                    *(stream, drawn[1], drawn[0], size[1], size[0]),
                )
        self._sizes[stream] = size

    def put(
        self, stream: str, region: AnyRegion, *, region_id: str | None = None, seen: int | None = None
    ) -> tuple[str, bool]:
        """Add a region, or replace the one with an id. The later of two changes wins.

        Args:
            stream: name of the stream.
            region: the region, with relative points.
            region_id: id of the region to replace, or to add again after it was removed; None for a new id.
            seen: revision that the author of the change has seen; None if not known.

        Returns:
            The id of the region, and True if the author has not seen an earlier change that this one replaces.

        Raises:
            ZoneError: if the region does not fit the stream or the model.
            NotEditableError: if the region cannot be changed.
            NotSavedError: if the change cannot be saved; it is not made then.
        """
        with self._lock:
            current = self._streams[stream]
            before = self._editable_region(current, region_id)
            if region_id is None:
                region_id, seen = secrets.token_hex(8), None
            if not re.fullmatch(ID, region_id):
                raise ZoneError(f"id: expected at most 32 letters, digits, _ and -, got {region_id!r}")
            stored = StoredRegion(region_id, region, _next(current.revision))
            if before is not None:
                regions = tuple(stored if other.id == region_id else other for other in current.regions)
            else:
                regions = (*current.regions, stored)
            self._change(stream, regions)
            newest = current.revision if before is None else before.revision
            return region_id, seen is not None and seen < newest

    def remove(self, stream: str, region_id: str, *, seen: int | None = None) -> bool:
        """Remove a region. Return True if the author has not seen its latest change.

        Args:
            stream: name of the stream.
            region_id: id of the region.
            seen: revision that the author of the change has seen; None if not known.

        Raises:
            KeyError: if no region has the id.
            NotEditableError: if the region cannot be changed.
            NotSavedError: if the change cannot be saved; it is not made then.
        """
        with self._lock:
            current = self._streams[stream]
            before = self._editable_region(current, region_id)
            if before is None:
                raise KeyError(region_id)
            self._change(stream, tuple(other for other in current.regions if other.id != region_id))
            return seen is not None and seen < before.revision

    def _editable_region(self, current: StreamRegions, region_id: str | None) -> StoredRegion | None:
        """Return the region with an id, or None if there is none; raise if it cannot be changed."""
        if not self._editable:
            raise NotEditableError(self.why_not_editable)
        stored = next((stored for stored in current.regions if stored.id == region_id), None)
        if stored is not None and stored.read_only:
            raise NotEditableError(f"{stored.region.name}: is read-only; change --zone or --line and start again")
        return stored

    def _change(self, name: str, regions: tuple[StoredRegion, ...]) -> None:
        """Save a change, and then make it: the file and the run never differ."""
        current = self._streams[name]
        changed = StreamRegions(_next(current.revision), regions, self._sizes.get(name, current.size))
        self._check(name, changed)
        assert self._path is not None
        streams = {**self._streams, name: changed}
        try:
            if self._path.exists() and self._path.read_bytes() != self._content:
                raise NotSavedError(
                    f"the change was not made, because another program has changed {self._path.name}; start serve "
                    "again, and let only one serve use the file"
                )
            self._content = write_regions(self._path, {**self._others, **streams})
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise NotSavedError(
                f"the change was not made, because it cannot be saved ({reason}); make the file of --regions and its "
                "folder writable"
            ) from error
        self._streams = streams

    def _check(self, name: str, stream: StreamRegions) -> None:
        drawn = [stored for stored in stream.regions if not stored.read_only]
        if len(drawn) > MAX_REGIONS:
            raise ZoneError(f"{name}: expected at most {MAX_REGIONS} regions, got one more; delete another one first")
        regions: list[Region] = [replace(stored.region, stream=name) for stored in stream.regions]
        check_regions(regions, streams=[name], class_names=self.class_names)


def _next(revision: int) -> int:
    return revision % MAX_REVISION + 1


def _fixed(regions: Sequence[Zone | Line], stream: str) -> tuple[StoredRegion, ...]:
    # With a dot, which no id in a file has.
    return tuple(
        StoredRegion(f"fixed.{number}", region, read_only=True)
        for number, region in enumerate(regions)
        if region.applies_to(stream)
    )
