"""The API of the zones, lines and masks of a stream: read them, draw them, change them, delete them.

The later of two changes wins. Every change increases the revision of the stream, which viewers are told
(``retina_edge.web.live_video``), so that every page shows the same regions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from retina_edge.pipeline.stream import Stream
from retina_edge.tracking.region_file import (
    MAX_NAME,
    MAX_POINTS,
    MAX_REVISION,
    VERSION,
    AnyRegion,
    StoredRegion,
    region_from,
    region_values,
)
from retina_edge.tracking.region_store import NotEditableError, NotSavedError, RegionStore
from retina_edge.tracking.zones import MAX_DWELL, ZoneError

NAME = Path(description="name of a stream", max_length=64)
REGION = Path(description="id of a region", max_length=32)
SEEN = Query(
    ge=0,
    le=MAX_REVISION,
    description="revision on which the change is based; the answer then says if the change replaced a newer one",
)

Kind = Literal["zone", "line", "mask"]
Coordinate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
Point = Annotated[list[Coordinate], Field(min_length=2, max_length=2)]
Points = Annotated[
    list[Point],
    Field(min_length=2, max_length=MAX_POINTS, description="[x, y] of each point, relative to the frame, 0 to 1"),
]


class Problem(BaseModel):
    """The reason for which a request was refused."""

    detail: str = Field(description="the reason, and what to do")


class Drawing(BaseModel):
    """A region to draw: a zone of three points or more, a line of two points, or a mask, in which objects are ignored.

    A crossing of a line to the right, seen from the first point toward the second, counts as "in".
    """

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    name: str = Field(min_length=1, max_length=MAX_NAME, description="name, unique in the stream, without : @ =")
    points: Points
    classes: list[str] = Field(
        default=[], max_length=1000, description="classes that are counted or ignored; empty for all"
    )
    dwell: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DWELL,
        strict=True,
        description="seconds after which an object dwells in a zone; null for the run's default",
    )


class Drawn(BaseModel):
    """A region of a stream.

    Attributes:
        id: id that stays when the region changes.
        revision: revision of the stream with which the region was last changed.
        read_only: true for a region of the command line.
        kind: zone, line or mask.
        name: name in results and events.
        points: [x, y] of each point.
        unit: ``relative``, 0 to 1; ``px`` for a region of the command line in pixels, before the first frame.
        classes: classes that are counted or ignored; empty for all.
        dwell: seconds after which an object dwells in a zone; null for the run's default.
    """

    id: str
    revision: int
    read_only: bool
    kind: Kind
    name: str
    points: list[list[float]]
    unit: Literal["relative", "px"]
    classes: list[str]
    dwell: float | None


class Regions(BaseModel):
    """The regions of a stream.

    Attributes:
        version: version of this format.
        stream: name of the stream.
        revision: number of changes so far.
        editable: true if regions can be drawn.
        why_not: the reason if they cannot, and what to do; empty if they can.
        classes: classes of the model.
        regions: the regions, those of the command line first.
    """

    version: int
    stream: str
    revision: int
    editable: bool
    why_not: str
    classes: list[str]
    regions: list[Drawn]


class Changed(Regions):
    """The regions of a stream after a change.

    Attributes:
        id: id of the region that was changed.
        replaced_newer: true if the change replaced one that its author had not seen.
    """

    id: str
    replaced_newer: bool


def add_region_routes(app: FastAPI, store: RegionStore, stream_of: Callable[[str], Stream]) -> None:
    """Add the routes for regions to an application.

    Args:
        app: the application.
        store: the regions.
        stream_of: function that returns the stream of a name, or raises an HTTPException with status 404.
    """
    refused: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in (400, 403, 404, 422, 429, 503)}
    unknown: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in (404, 422)}

    def answer(name: str) -> dict[str, Any]:
        current, latest = store.regions(name), stream_of(name).latest
        size = latest.frame.image.shape[:2] if latest else None
        return {
            "version": VERSION,
            "stream": name,
            "revision": current.revision,
            "editable": not store.why_not_editable,
            "why_not": store.why_not_editable,
            "classes": list(store.class_names),
            "regions": [_drawn(stored, size) for stored in current.regions],
        }

    def put(name: str, drawing: Drawing, region_id: str | None, seen: int | None) -> Changed:
        stream_of(name)
        with _refusals():
            region_id, newer = store.put(name, _region(drawing), region_id=region_id, seen=seen)
        return Changed(**answer(name), id=region_id, replaced_newer=newer)

    @app.get("/api/streams/{name}/regions", responses=unknown)
    def regions(name: Annotated[str, NAME]) -> Regions:
        """Return the zones, lines and masks of a stream, and their revision."""
        stream_of(name)
        return Regions(**answer(name))

    @app.post("/api/streams/{name}/regions", status_code=201, responses=refused)
    def draw(name: Annotated[str, NAME], drawing: Drawing) -> Changed:
        """Draw a region. It counts from the next frame on and is saved; the answer has its id."""
        return put(name, drawing, None, None)

    @app.put("/api/streams/{name}/regions/{region}", responses=refused)
    def change(
        name: Annotated[str, NAME],
        region: Annotated[str, REGION],
        drawing: Drawing,
        revision: Annotated[int | None, SEEN] = None,
    ) -> Changed:
        """Change a region, from the next frame on; its counts stay. A deleted region is drawn again."""
        return put(name, drawing, region, revision)

    @app.delete("/api/streams/{name}/regions/{region}", responses=refused)
    def delete(
        name: Annotated[str, NAME], region: Annotated[str, REGION], revision: Annotated[int | None, SEEN] = None
    ) -> Changed:
        """Delete a region and its counts."""
        stream_of(name)
        with _refusals():
            newer = store.remove(name, region, seen=revision)
        return Changed(**answer(name), id=region, replaced_newer=newer)


@contextmanager
def _refusals() -> Iterator[None]:
    """Answer a change that is not possible with its reason."""
    try:
        yield
    except ZoneError as error:
        raise HTTPException(422, str(error)) from error
    except NotEditableError as error:
        raise HTTPException(403, str(error)) from error
    except NotSavedError as error:
        raise HTTPException(503, str(error)) from error
    except KeyError as error:
        raise HTTPException(404, "no region of this stream has this id; it may have been deleted") from error


def _region(drawing: Drawing) -> AnyRegion:
    return region_from(drawing.model_dump())


def _drawn(stored: StoredRegion, size: tuple[int, ...] | None) -> Drawn:
    values, unit = region_values(stored.region), stored.region.unit
    if unit == "px" and size is not None:
        unit = "relative"
        values["points"] = [[x / size[1], y / size[0]] for x, y in values["points"]]
    return Drawn(
        id=stored.id,
        revision=stored.revision,
        read_only=stored.read_only,
        unit=unit,
        **{"dwell": None, **values},
    )
