"""The user's folders for cached and persistent files, as the XDG Base Directory Specification names them."""

from __future__ import annotations

import os
from pathlib import Path


def calibration_cache() -> Path:
    """Return ``retina_edge/calibration`` in the user's cache folder. The folder may not exist yet.

    Examples:
        >>> calibration_cache().parts[-2:]
        ('retina_edge', 'calibration')
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retina_edge" / "calibration"


def event_spool() -> Path:
    """Return ``retina_edge/events`` in the state folder of the systemd service or of the user.

    The folder may not exist yet.

    Examples:
        >>> event_spool().parts[-2:]
        ('retina_edge', 'events')
    """
    state = os.environ.get("STATE_DIRECTORY") or os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "retina_edge" / "events"
