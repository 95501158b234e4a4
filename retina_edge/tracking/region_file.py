"""The file of ``--regions``: regions that were drawn, for each stream, as JSON.

    {"format": "retina-edge regions", "version": 1, "streams": {"yard": {"revision": 3, "width": 640, "height": 480,
     "regions": [{"id": "gate-1", "revision": 3, "kind": "zone", "name": "gate", "points": [[0.1, 0.2], [0.5, 0.2],
     [0.5, 0.9]], "classes": ["car"], "dwell": 5.0}]}}}

Coordinates are relative to the frame, 0 to 1. The size is that of the frames on which the regions were drawn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.core.atomic_file import atomic_file
from retina_edge.tracking.zones import Line, Mask, Zone, ZoneError

FORMAT, VERSION = "retina-edge regions", 1
# Regions that can be drawn on a stream, points of a region, characters of its name, and bytes of the file.
MAX_REGIONS, MAX_POINTS, MAX_NAME, MAX_BYTES = 50, 64, 64, 8 << 20
# Larger revisions are not exact in JavaScript.
MAX_REVISION = 2**53 - 1
ID = "[A-Za-z0-9_-]{1,32}"
KINDS: dict[str, type[Zone | Line | Mask]] = {"zone": Zone, "line": Line, "mask": Mask}

AnyRegion = Zone | Line | Mask


@dataclass(frozen=True)
class StoredRegion:
    """A region of a stream.

    Attributes:
        id: id that stays when the region changes; unique in its stream.
        region: the zone, line or mask; it belongs to its stream, whatever its own ``stream`` says.
        revision: revision of the stream with which the region was last changed.
        read_only: True for a region of the command line, which cannot be changed.
    """

    id: str
    region: AnyRegion
    revision: int = 0
    read_only: bool = False


@dataclass(frozen=True)
class StreamRegions:
    """The regions of a stream at one moment.

    Attributes:
        revision: number of changes so far.
        regions: the regions, those of the command line first.
        size: (height, width) of the frames on which the regions were last drawn, pixels; None if not known.
    """

    revision: int = 0
    regions: tuple[StoredRegion, ...] = ()
    size: tuple[int, int] | None = None


def kind_of(region: AnyRegion) -> str:
    """Return ``zone``, ``line`` or ``mask``."""
    return next(kind for kind, made in KINDS.items() if type(region) is made)


def region_from(values: object) -> AnyRegion:
    """Return the region that plain values describe.

    Args:
        values: a dict with ``kind``, ``name`` and ``points`` and, if wanted, ``classes`` and, for a zone, ``dwell``.

    Raises:
        ZoneError: if the values are not those of a region.

    Examples:
        >>> region_from({"kind": "line", "name": "door", "points": [[0.1, 0.5], [0.9, 0.5]]})
        Line(name='door', points=((0.1, 0.5), (0.9, 0.5)), unit='relative', classes=(), stream=None)
    """
    known = {"kind", "name", "points", "classes", "dwell"}
    if not isinstance(values, dict) or not {"kind", "name", "points"} <= set(values) <= known:
        raise ZoneError(f"region: expected an object of kind, name, points, classes and dwell, got {values!r:.80}")
    kind, name, dwell = values["kind"], values["name"], values.get("dwell")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ZoneError(f"kind: expected {', '.join(KINDS)}, got {kind!r:.80}")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise ZoneError(f"name: expected text of at most {MAX_NAME} characters, got {name!r:.80}")
    points = _points(name, values["points"])
    classes = values.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(text, str) for text in classes):
        raise ZoneError(f"{name}: classes: expected a list of names, got {classes!r:.80}")
    if len(set(classes)) < len(classes):
        raise ZoneError(f"{name}: classes: expected each class once, got {classes!r:.80}")
    if dwell is None:
        return KINDS[kind](name, points, classes=tuple(classes))
    if kind != "zone" or isinstance(dwell, bool) or not isinstance(dwell, (int, float)):
        raise ZoneError(f"{name}: dwell: expected seconds, for a zone only, got {dwell!r:.80} for a {kind}")
    return Zone(name, points, classes=tuple(classes), dwell=dwell)


def region_values(region: AnyRegion) -> dict[str, Any]:
    """Return plain values for JSON, which ``region_from`` reads if the points are relative.

    Examples:
        >>> region_values(Line("door", ((0.1, 0.5), (0.9, 0.5))))
        {'kind': 'line', 'name': 'door', 'points': [[0.1, 0.5], [0.9, 0.5]], 'classes': []}
    """
    values: dict[str, Any] = {
        "kind": kind_of(region),
        "name": region.name,
        "points": [list(point) for point in region.points],
        "classes": list(region.classes),
    }
    if isinstance(region, Zone) and region.dwell is not None:
        values["dwell"] = region.dwell
    return values


def read_regions(path: Path) -> dict[str, StreamRegions]:
    """Read the regions of all streams, by name of the stream.

    Raises:
        ZoneError: if the file is not a file of regions of this version, or is damaged; the message is one line.
        OSError: if the file cannot be read.
    """
    if not path.is_file() and path.exists():
        raise ZoneError(f"{path}: expected a file of regions, got something else")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    try:
        if len(content) > MAX_BYTES:
            raise ZoneError(f"expected at most {MAX_BYTES} bytes, got more")
        values = json.loads(content)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ZoneError(f'expected JSON with "format": "{FORMAT}", got another file')
        if values.get("version") != VERSION or isinstance(values["version"], bool):
            raise ZoneError(f"expected version {VERSION}, got {values.get('version')!r:.40}; use a newer retina-edge")
        streams = values.get("streams")
        if not isinstance(streams, dict) or set(values) != {"format", "version", "streams"}:
            raise ZoneError("expected an object of format, version and streams, got other keys")
        return {name: _stream_from(name, stream) for name, stream in streams.items()}
    except ZoneError as error:
        raise ZoneError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise ZoneError(f"{path}: expected JSON in UTF-8, got a damaged file ({reason}); restore a copy") from error


def write_regions(path: Path, streams: Mapping[str, StreamRegions]) -> bytes:
    """Write the regions that are not read-only, atomically.

    Returns:
        The content of the file.

    Raises:
        OSError: if the file cannot be written; the old file is unchanged.
    """
    values = {
        "format": FORMAT,
        "version": VERSION,
        "streams": {
            name: {
                "revision": stream.revision,
                "width": stream.size[1] if stream.size else None,
                "height": stream.size[0] if stream.size else None,
                "regions": [
                    {"id": stored.id, "revision": stored.revision, **region_values(stored.region)}
                    for stored in stream.regions
                    if not stored.read_only
                ],
            }
            for name, stream in streams.items()
        },
    }
    content = json.dumps(values, indent=1).encode() + b"\n"
    with atomic_file(path) as file:
        file.write(content)
    return content


def _points(name: str, values: object) -> tuple[tuple[float, float], ...]:
    if not isinstance(values, list) or len(values) > MAX_POINTS:
        raise ZoneError(f"{name}: points: expected a list of at most {MAX_POINTS} points, got {values!r:.80}")
    for point in values:
        numbers = isinstance(point, list) and len(point) == 2
        if not numbers or any(
            isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= 1 for number in point
        ):
            raise ZoneError(f"{name}: points: expected [x, y] with numbers from 0 to 1, got {point!r:.80}")
    return tuple((float(x), float(y)) for x, y in values)


def _stream_from(name: str, values: object) -> StreamRegions:
    if not isinstance(values, dict) or set(values) != {"revision", "width", "height", "regions"}:
        raise ZoneError(f"{name!r:.80}: expected an object of revision, width, height and regions, got {values!r:.80}")
    size: tuple[int, int] | None = None
    if (values["height"], values["width"]) != (None, None):
        size = _whole("height", values["height"], 1), _whole("width", values["width"], 1)
    if not isinstance(values["regions"], list) or len(values["regions"]) > MAX_REGIONS:
        raise ZoneError(f"{name!r:.80}: expected a list of at most {MAX_REGIONS} regions")
    regions = tuple(_stored_from(region) for region in values["regions"])
    for what, texts in (("id", [stored.id for stored in regions]), ("name", [one.region.name for one in regions])):
        if twice := _twice(texts):
            raise ZoneError(f"{name!r:.80}: expected regions with different {what}s, got {twice!r} twice")
    return StreamRegions(_whole("revision", values["revision"], 0), regions, size)


def _stored_from(values: object) -> StoredRegion:
    if not isinstance(values, dict) or not isinstance(values.get("id"), str) or not re.fullmatch(ID, values["id"]):
        raise ZoneError(f"region: expected an object with an id of letters, digits, _ and -, got {values!r:.80}")
    own = {"id", "revision"}
    region = region_from({key: value for key, value in values.items() if key not in own})
    return StoredRegion(values["id"], region, _whole("revision", values.get("revision"), 0))


def _whole(what: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_REVISION:
        raise ZoneError(f"{what}: expected a whole number from {least} to 2^53 - 1, got {value!r:.80}")
    return value


def _twice(texts: Sequence[str]) -> str | None:
    return next((text for text in texts if texts.count(text) > 1), None)
