"""Regions of a frame: zones and lines, where objects are counted, and masks, where objects are ignored.

This module holds their checks and the command-line syntax of zones and lines.
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
from retina_edge.system.printable import printable

Point = tuple[float, float]
Unit = Literal["relative", "px"]

ZONE_SYNTAX = '[STREAM:]NAME[@CLASS,...]=X,Y X,Y X,Y..., for instance "gate=0.1,0.2 0.5,0.2 0.5,0.9"'
LINE_SYNTAX = '[STREAM:]NAME[@CLASS,...]=X,Y X,Y, for instance "door=0.1,0.5 0.9,0.5"'
POINT_SYNTAX = (
    "X,Y from 0 to 1, relative to the frame's width and height, or all in pixels as X,Ypx, for instance 64,100px"
)
# A zone is flat if twice its area, divided by the square of its perimeter, is less than this limit for rounding errors.
FLAT = 1e-9
# Longest limit on the dwell time in a zone, seconds.
MAX_DWELL = 86400.0
# The separators in the command-line text of a region.
RESERVED = ":@="
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_POINT = re.compile(rf"({_NUMBER}),({_NUMBER})(px)?")

logger = logging.getLogger(__name__)


class ZoneError(RetinaEdgeError, ValueError):
    """A zone or line that is invalid, or that does not fit the streams or the model."""


@dataclass(frozen=True)
class Region:
    """The common part of zones, lines and masks.

    Attributes:
        name: name in events and on drawings.
        points: (x, y) of each point; x grows to the right and y downward from the top left corner of the frame.
        unit: unit of the points: "relative" to the width and height of the frame, 0 to 1, or "px", pixels of the frame.
        classes: names of the classes to count; empty for all classes.
        stream: name of the stream that the region belongs to; None for all streams.

    Raises:
        ZoneError: if the name, the points or another value is invalid.

    Examples:
        >>> region = Region("desk", ((0.25, 0.5), (0.75, 0.5)), stream="yard")
        >>> region.applies_to("yard"), region.applies_to("road")
        (True, False)
        >>> region.in_pixels((400, 600)).tolist()
        [[150.0, 200.0], [450.0, 200.0]]
    """

    name: str
    points: tuple[Point, ...]
    unit: Unit = "relative"
    classes: tuple[str, ...] = ()
    stream: str | None = None

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.name.isprintable() or set(RESERVED) & set(self.name):
            raise ZoneError(f"name: expected printable text without {' '.join(RESERVED)}, got {self.name!r}")
        if self.stream == "" or not all(self.classes):
            raise ZoneError(f"{self.name}: expected names of classes and of a stream, got an empty name; leave it out")
        if self.unit not in ("relative", "px"):
            raise ZoneError(f"{self.name}: unit: expected relative or px, got {self.unit!r}")
        most = 1.0 if self.unit == "relative" else math.inf
        for x, y in self.points:
            if not (math.isfinite(x) and math.isfinite(y) and 0 <= x <= most and 0 <= y <= most):
                raise ZoneError(f"{self.name}: expected points {POINT_SYNTAX}; got {_shown((x, y), self.unit)}")
        if len(set(self.points)) < len(self.points):
            twice = next(point for point in self.points if self.points.count(point) > 1)
            raise ZoneError(
                f"{self.name}: expected each point once, got {_shown(twice, self.unit)} twice; a zone closes "
                "automatically"
            )

    def applies_to(self, stream: str) -> bool:
        """True if the region belongs to the stream of that name, or to all streams."""
        return self.stream is None or self.stream == stream

    def in_pixels(self, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Return the points, float32 [N, 2], x and y in pixels of a frame of ``size`` (height, width)."""
        points = np.array(self.points, np.float64)
        return (points if self.unit == "px" else points * (size[1], size[0])).astype(np.float32)


@dataclass(frozen=True)
class Polygon(Region):
    """A polygon of three or more points that does not cross or touch itself. The last side closes it automatically."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.points) < 3:
            raise ZoneError(f"{self.name}: expected a zone of 3 points or more, got {len(self.points)}")
        sides = list(zip(self.points, (*self.points[1:], self.points[0]), strict=True))
        for i, (start, end) in enumerate(sides):
            following = sides[(i + 1) % len(sides)][1]
            if _turn(start, end, following) == 0 and _dot(start, end, following) < 0:
                raise ZoneError(
                    f"{self.name}: expected a zone with area, got sides that overlap at {_shown(end, self.unit)}"
                )
            for j in range(i + 2, len(sides) - (i == 0)):
                if _meet(sides[i], sides[j]):
                    raise ZoneError(
                        f"{self.name}: expected a polygon that does not cross itself, got sides from "
                        f"{_shown(start, self.unit)} and from {_shown(sides[j][0], self.unit)} that meet; give the "
                        "points in order around the zone"
                    )
        length = sum(math.dist(*side) for side in sides)
        if abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in sides)) < FLAT * length**2:
            raise ZoneError(f"{self.name}: expected a zone with area, got points on one line")


@dataclass(frozen=True)
class Zone(Polygon):
    """A polygon in which objects are counted.

    Attributes:
        dwell: seconds after which an object dwells in the zone, which is an event; None for the run's default.

    Examples:
        >>> Zone("gate", ((0.1, 0.2), (0.5, 0.2), (0.5, 0.9)), classes=("car",)).classes
        ('car',)
    """

    dwell: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dwell is not None:
            try:
                check_dwell(self.dwell)
            except ValueError as error:
                raise ZoneError(f"{self.name}: {error}") from error


@dataclass(frozen=True)
class Mask(Polygon):
    """A polygon in which objects are ignored: a detection with its anchor point inside is dropped before tracking.

    Examples:
        >>> Mask("street", ((0.1, 0.2), (0.5, 0.2), (0.5, 0.9))).classes
        ()
    """


@dataclass(frozen=True)
class Line(Region):
    """A straight line between two points.

    "In" is a crossing to the right, seen from the first point toward the second: downward across a line that is drawn
    from left to right.

    Examples:
        >>> door = Line("door", ((0.1, 0.5), (0.9, 0.5)))
        >>> door.start, door.end
        ((0.1, 0.5), (0.9, 0.5))
    """

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


def check_dwell(seconds: float) -> None:
    """Check a limit on the dwell time.

    Raises:
        ValueError: if it is not above 0 and at most ``MAX_DWELL`` seconds.

    Examples:
        >>> check_dwell(2.5)
    """
    if not 0 < seconds <= MAX_DWELL:
        raise ValueError(f"dwell: expected seconds above 0 and at most {MAX_DWELL:g}, got {seconds:g}")


def zone(text: str) -> Zone:
    """Parse a zone in ``ZONE_SYNTAX``, as the ``type`` of an argparse argument.

    Raises:
        ArgumentTypeError: if the text or the zone is invalid.

    Examples:
        >>> zone("gate@car=0.1,0.2 0.5,0.2 0.5,0.9").points
        ((0.1, 0.2), (0.5, 0.2), (0.5, 0.9))
    """
    return _parse(text, Zone, ZONE_SYNTAX)


def line(text: str) -> Line:
    """Parse a line in ``LINE_SYNTAX``, as the ``type`` of an argparse argument.

    Raises:
        ArgumentTypeError: if the text or the line is invalid.

    Examples:
        >>> line("yard:door=64,100px 640,100px").stream
        'yard'
    """
    return _parse(text, Line, LINE_SYNTAX)


def check_regions(regions: Sequence[Region], *, streams: Sequence[str], class_names: Sequence[str]) -> None:
    """Refuse regions in which nothing would be counted, or that have the same name, before any work.

    Args:
        regions: zones and lines of all streams.
        streams: names of the streams.
        class_names: names of the model's classes.

    Raises:
        ZoneError: if a region names an unknown stream or class, or two regions of a stream have the same name.

    Examples:
        >>> try:
        ...     check_regions([line("door@dog=0,0 1,1")], streams=["yard"], class_names=["person", "car"])
        ... except ZoneError as error:
        ...     print(error)
        door: expected classes among person, car; got dog
    """
    for region in regions:
        if region.stream is not None and region.stream not in streams:
            raise ZoneError(f"{region.name}: expected one of the streams {', '.join(streams)}; got {region.stream!r}")
        if unknown := [name for name in region.classes if name not in class_names]:
            known = ", ".join(class_names)
            raise ZoneError(f"{region.name}: expected classes among {known}; got {printable(', '.join(unknown))}")
    for stream in streams:
        names = [region.name for region in regions if region.applies_to(stream)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ZoneError(f"{stream}: expected regions with different names, got {twice[0]} twice")


def warn_if_outside(region: Region, size: tuple[int, int]) -> None:
    """Log a warning if points in pixels lie outside a frame of ``size`` (height, width).

    The points were probably chosen for another camera.
    """
    if region.unit == "px" and (region.in_pixels(size) > (size[1], size[0])).any():
        logger.warning(
            "%s: has points outside the frame of %dx%d pixels; give points from 0 to 1 if the frame size can change",
            region.name,
            size[1],
            size[0],
        )


def _parse(text: str, kind: Callable[..., AnyRegion], syntax: str) -> AnyRegion:
    # The name of a stream may be an address that contains separators. Points contain none, so split at the last ones.
    head, equals, tail = text.rpartition("=")
    stream, colon, label = head.rpartition(":")
    name, at, classes = label.partition("@")
    points = [_POINT.fullmatch(word) for word in tail.split()]
    if not equals or not points or None in points:
        wrong = next((word for word, point in zip(tail.split(), points, strict=True) if point is None), None)
        given = f"{wrong!r} in {text!r}" if equals and wrong is not None else repr(text)
        raise argparse.ArgumentTypeError(f"expected {syntax}; points {POINT_SYNTAX}; got {given}")
    parsed = [(float(point[1]), float(point[2]), point[3]) for point in points if point is not None]
    units = {unit for _, _, unit in parsed}
    if len(units) > 1:
        raise argparse.ArgumentTypeError(f"expected all points relative or all in pixels, got both in {text!r}")
    try:
        return kind(
            name,
            tuple((x, y) for x, y, _ in parsed),
            unit="px" if units == {"px"} else "relative",
            classes=tuple(part.strip() for part in classes.split(",")) if at else (),
            stream=stream if colon else None,
        )
    except ZoneError as error:
        raise argparse.ArgumentTypeError(f"{error}; in {text!r}") from error


def _shown(point: Point, unit: Unit) -> str:
    return f"{point[0]:g},{point[1]:g}{'px' if unit == 'px' else ''}"


def _turn(a: Point, b: Point, c: Point) -> float:
    """Return a positive number if the path a, b, c turns right in the image, negative if left, and 0 if straight."""
    return (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0])


def _dot(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[0] - b[0]) + (b[1] - a[1]) * (c[1] - b[1])


def _meet(first: tuple[Point, Point], second: tuple[Point, Point]) -> bool:
    """True if two sides have a point in common."""
    (a, b), (c, d) = first, second
    turns = (_turn(a, b, c), _turn(a, b, d), _turn(c, d, a), _turn(c, d, b))
    if turns[0] * turns[1] < 0 and turns[2] * turns[3] < 0:
        return True
    ends = ((a, b, c), (a, b, d), (c, d, a), (c, d, b))
    return any(turn == 0 and _within(*end) for turn, end in zip(turns, ends, strict=True))


def _within(a: Point, b: Point, c: Point) -> bool:
    """True if c lies in the rectangle around a and b."""
    return all(min(a[i], b[i]) <= c[i] <= max(a[i], b[i]) for i in (0, 1))
