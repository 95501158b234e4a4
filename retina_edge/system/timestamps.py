"""Points in time as text, in UTC and ISO 8601."""

from __future__ import annotations

from datetime import datetime, timezone


def utc_iso(moment: datetime) -> str:
    """Format a point in time as ISO 8601 in UTC, to the millisecond, with Z.

    Examples:
        >>> utc_iso(datetime(2026, 11, 26, 7, 0, tzinfo=timezone.utc))
        '2026-11-26T07:00:00.000Z'
    """
    return f"{moment.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def file_time(moment: datetime) -> str:
    """Format a point in time in UTC for a file name, to the millisecond: ISO 8601 without colons, with Z.

    Examples:
        >>> file_time(datetime(2026, 11, 26, 7, 0, tzinfo=timezone.utc))
        '20261126T070000.000Z'
    """
    return f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03d}Z"
