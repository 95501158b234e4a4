"""The options of clips: their folder, and the seconds before and after an event."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.core.option_checks import check_number

# Largest size of the frames that all streams keep for clips, bytes; each stream has an equal share.
MEMORY_BYTES = 256 << 20
# Longest time before or after an event, seconds.
MAX_SECONDS = 60.0


@dataclass(frozen=True)
class ClipOptions:
    """The folder of clips, and what they show.

    Attributes:
        folder: folder of the clips; created if it does not exist.
        before, after: seconds before and after an event, 0 to 60.

    Raises:
        ContractError: if a number is out of range.

    Examples:
        >>> ClipOptions(Path("clips"), before=10).describe(streams=4)
        'clips: 10 s before and 5 s after each event, in clips; at most 64 MiB of memory for each of 4 streams'
    """

    folder: Path
    before: float = 5.0
    after: float = 5.0

    def __post_init__(self) -> None:
        for name in ("before", "after"):
            check_number(name, getattr(self, name), "0 to 60 seconds", lambda seconds: 0 <= seconds <= MAX_SECONDS)

    def describe(self, *, streams: int) -> str:
        """Return one line that states the clips and the bound of their memory."""
        each = "" if streams == 1 else f" for each of {streams} streams"
        return (
            f"clips: {self.before:g} s before and {self.after:g} s after each event, in {self.folder}; at most "
            f"{bytes_per_stream(streams) >> 20} MiB of memory{each}"
        )


def bytes_per_stream(streams: int) -> int:
    """Return a stream's share of the memory for clips.

    Examples:
        >>> bytes_per_stream(2) >> 20
        128
    """
    return MEMORY_BYTES // streams
