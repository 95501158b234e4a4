"""Where in a stream's picture something is counted: zones and lines, checked and read from the command line.

``counting`` counts with them, ``draw`` draws them.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from engines.core.errors import RetinaEdgeError

Point = tuple[float, float]
Unit = Literal["relative", "px"]

ZONE_SYNTAX = '[STREAM:]NAME[@CLASS,...]=X,Y X,Y X,Y..., for instance "gate=0.1,0.2 0.5,0.2 0.5,0.9"'
LINE_SYNTAX = '[STREAM:]NAME[@CLASS,...]=X,Y X,Y, for instance "door=0.1,0.5 0.9,0.5"'
POINT_SYNTAX = "X,Y from 0 to 1 of the frame's width and height, or all in pixels as X,Ypx, for instance 64,100px"
# Twice the area over the squared length of the sides, below which it is a rounding error.
FLAT = 1e-9
# They part a region's text.
RESERVED = ":@="
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_POINT = re.compile(rf"({_NUMBER}),({_NUMBER})(px)?")

logger = logging.getLogger(__name__)


class ZoneError(RetinaEdgeError, ValueError):
    """A zone or line that nothing could be counted with."""


@dataclass(frozen=True)
class Region:
    """What zones and lines have in common.

    Attributes:
        name: for people and events.
        points: (x, y) each, x to the right and y down from the frame's top left corner.
        unit: of the points: "relative" to the frame's width and height, 0 to 1, or "px", pixels of the frame.
        classes: names of those counted; empty for all.
        stream: the name of the only stream it is for; None for every one.

    Raises:
        ZoneError: a name or points that cannot be.
    """

    name: str
    points: tuple[Point, ...]
    unit: Unit = "relative"
    classes: tuple[str, ...] = ()
    stream: str | None = None

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.name.isprintable() or set(RESERVED) & set(self.name):
            raise ZoneError(f"name: expected text without {' '.join(RESERVED)}, got {self.name!r}")
        if self.stream == "" or not all(self.classes):
            raise ZoneError(f"{self.name}: expected names of classes and of a stream, or none; got an empty one")
        if self.unit not in ("relative", "px"):
            raise ZoneError(f"{self.name}: unit: expected relative or px, got {self.unit!r}")
        most = 1.0 if self.unit == "relative" else math.inf
        for x, y in self.points:
            if not (math.isfinite(x) and math.isfinite(y) and 0 <= x <= most and 0 <= y <= most):
                raise ZoneError(f"{self.name}: expected points {POINT_SYNTAX}; got {_shown((x, y), self.unit)}")
        if len(set(self.points)) < len(self.points):
            twice = next(point for point in self.points if self.points.count(point) > 1)
            raise ZoneError(
                f"{self.name}: expected each point once, got {_shown(twice, self.unit)} twice; a zone closes by itself"
            )

    def applies_to(self, stream: str) -> bool:
        """Whether it is for the stream of that name."""
        return self.stream is None or self.stream == stream

    def in_pixels(self, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """The points, float32 [N, 2], x and y in pixels of a frame of ``size`` (height, width)."""
        points = np.array(self.points, np.float64)
        return (points if self.unit == "px" else points * (size[1], size[0])).astype(np.float32)


@dataclass(frozen=True)
class Zone(Region):
    """A polygon of three points or more, closed by itself, that does not cross or touch itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.points) < 3:
            raise ZoneError(f"{self.name}: expected a zone of 3 points or more, got {len(self.points)}")
        sides = list(zip(self.points, (*self.points[1:], self.points[0]), strict=True))
        for i, (start, end) in enumerate(sides):
            following = sides[(i + 1) % len(sides)][1]
            if _turn(start, end, following) == 0 and _dot(start, end, following) < 0:
                raise ZoneError(
                    f"{self.name}: expected a zone with area, the side to {_shown(end, self.unit)} comes back"
                )
            for j in range(i + 2, len(sides) - (i == 0)):
                if _meet(sides[i], sides[j]):
                    raise ZoneError(
                        f"{self.name}: expected a polygon that does not cross itself, its sides from "
                        f"{_shown(start, self.unit)} and from {_shown(sides[j][0], self.unit)} meet; give the points "
                        "in order around it"
                    )
        length = sum(math.dist(*side) for side in sides)
        if abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in sides)) < FLAT * length**2:
            raise ZoneError(f"{self.name}: expected a zone with area, all its points lie on one line")


@dataclass(frozen=True)
class Line(Region):
    """A straight line between two points. "In" is to the right hand of whoever looks from the first to the second:
    down across a line drawn from left to right."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.points) != 2:
            raise ZoneError(f"{self.name}: expected a line of 2 points, got {len(self.points)}")

    @property
    def start(self) -> Point:
        """The first point."""
        return self.points[0]

    @property
    def end(self) -> Point:
        """The second point."""
        return self.points[1]


AnyRegion = TypeVar("AnyRegion", Zone, Line)


def zone(text: str) -> Zone:
    """An argparse type: ``ZONE_SYNTAX``."""
    return _parse(text, Zone, ZONE_SYNTAX)


def line(text: str) -> Line:
    """An argparse type: ``LINE_SYNTAX``."""
    return _parse(text, Line, LINE_SYNTAX)


def check_regions(regions: Sequence[Region], *, streams: Sequence[str], class_names: Sequence[str]) -> None:
    """Refuses, before any work, regions that would count nothing or could not be told apart.

    Args:
        regions: the zones and lines of all streams.
        streams: the names of the streams.
        class_names: the classes of the model.

    Raises:
        ZoneError: a stream or class that is not there, two regions of one name in one stream.
    """
    for region in regions:
        if region.stream is not None and region.stream not in streams:
            raise ZoneError(f"{region.name}: expected a stream of {', '.join(streams)}; got {region.stream!r}")
        if unknown := [name for name in region.classes if name not in class_names]:
            raise ZoneError(f"{region.name}: expected classes of {', '.join(class_names)}; got {', '.join(unknown)}")
    for stream in streams:
        names = [region.name for region in regions if region.applies_to(stream)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ZoneError(f"{stream}: expected zones and lines of different names, got {twice[0]} twice")


def warn_if_outside(region: Region, size: tuple[int, int]) -> None:
    """Logs a warning when points in pixels lie outside a frame of ``size`` (height, width): another camera's?"""
    if region.unit == "px" and (region.in_pixels(size) > (size[1], size[0])).any():
        logger.warning(
            "%s: has points outside the frame of %dx%d pixels; give them as 0 to 1 if the size can change",
            region.name,
            size[1],
            size[0],
        )


def _parse(text: str, kind: Callable[..., AnyRegion], syntax: str) -> AnyRegion:
    # A stream may be an address, with any of the separators in it: so the last of each counts, and points have none.
    head, equals, tail = text.rpartition("=")
    stream, colon, label = head.rpartition(":")
    name, at, classes = label.partition("@")
    points = [_POINT.fullmatch(word) for word in tail.split()]
    if not equals or not points or None in points:
        wrong = next((word for word, point in zip(tail.split(), points, strict=True) if point is None), None)
        where = f"{wrong!r} in {text!r}" if equals and wrong is not None else repr(text)
        raise argparse.ArgumentTypeError(f"expected {syntax}; points {POINT_SYNTAX}; got {where}")
    found = [(float(point[1]), float(point[2]), point[3]) for point in points if point is not None]
    units = {unit for _, _, unit in found}
    if len(units) > 1:
        raise argparse.ArgumentTypeError(f"expected points all relative or all in pixels, got both in {text!r}")
    try:
        return kind(
            name,
            tuple((x, y) for x, y, _ in found),
            unit="px" if units == {"px"} else "relative",
            classes=tuple(part.strip() for part in classes.split(",")) if at else (),
            stream=stream if colon else None,
        )
    except ZoneError as error:
        raise argparse.ArgumentTypeError(f"{error}; in {text!r}") from error


def _shown(point: Point, unit: Unit) -> str:
    return f"{point[0]:g},{point[1]:g}{'px' if unit == 'px' else ''}"


def _turn(a: Point, b: Point, c: Point) -> float:
    """Above 0 where the way from a over b to c turns right as seen in the picture, 0 on a straight line."""
    return (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0])


def _dot(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[0] - b[0]) + (b[1] - a[1]) * (c[1] - b[1])


def _meet(first: tuple[Point, Point], second: tuple[Point, Point]) -> bool:
    """Whether two sides have a point in common."""
    (a, b), (c, d) = first, second
    turns = (_turn(a, b, c), _turn(a, b, d), _turn(c, d, a), _turn(c, d, b))
    if turns[0] * turns[1] < 0 and turns[2] * turns[3] < 0:
        return True
    ends = ((a, b, c), (a, b, d), (c, d, a), (c, d, b))
    return any(turn == 0 and _within(*end) for turn, end in zip(turns, ends, strict=True))


def _within(a: Point, b: Point, c: Point) -> bool:
    """Whether c lies in the rectangle around a and b."""
    return all(min(a[i], b[i]) <= c[i] <= max(a[i], b[i]) for i in (0, 1))
