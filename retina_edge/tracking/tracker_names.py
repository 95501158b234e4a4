"""The trackers by name, as ``--tracker`` takes them."""

from __future__ import annotations

from typing import Literal, get_args

from engines.core.errors import ContractError
from retina_edge.tracking.botsort import BotSort
from retina_edge.tracking.tracker import ByteTrack

TrackerName = Literal["bytetrack", "botsort"]
TRACKERS: tuple[TrackerName, ...] = get_args(TrackerName)


def check_tracker(name: str) -> None:
    """Refuse a name that is no tracker's.

    Raises:
        ContractError: if there is no such tracker.

    Examples:
        >>> check_tracker("deepsort")
        Traceback (most recent call last):
        engines.core.errors.ContractError: tracker: expected bytetrack or botsort, got 'deepsort'
    """
    if name not in TRACKERS:
        raise ContractError(f"tracker: expected {' or '.join(TRACKERS)}, got {name!r}")


def make_tracker(name: TrackerName) -> ByteTrack:
    """Return a new tracker for one stream.

    Raises:
        MissingDependencyError: if the trackers package is not installed.

    Examples:
        >>> type(make_tracker("botsort")).__name__
        'BotSort'
    """
    return BotSort() if name == "botsort" else ByteTrack()
