"""The user's folders for cached and persistent files, as the XDG Base Directory Specification names them.

A service or a container may run as a user without a home. Then there is no such folder, and only what needs one fails.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path | None:
    """Return ``retina_edge/NAME`` in the user's cache folder, which may not exist yet; None without a home.

    Examples:
        >>> cache_folder("calibration").parts[-2:]
        ('retina_edge', 'calibration')
    """
    return _folder(os.environ.get("XDG_CACHE_HOME"), ".cache", name)


def event_spool() -> Path | None:
    """Return ``retina_edge/events`` in the state folder of the systemd service or of the user; None without a home.

    The folder may not exist yet.

    Examples:
        >>> event_spool().parts[-2:]
        ('retina_edge', 'events')
    """
    # systemd separates several folders by colons.
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or os.environ.get("XDG_STATE_HOME")
    return _folder(given, ".local/state", "events")


def _folder(given: str | None, in_home: str, name: str) -> Path | None:
    if given:
        return Path(given) / "retina_edge" / name
    try:
        return Path.home() / in_home / "retina_edge" / name
    except RuntimeError:  # no HOME, and no entry for this user in passwd
        return None
