"""The compiled kernels that come along."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
PTX = FOLDER / "ptx"


def ptx_file(entry: str) -> Path:
    """Where the PTX of a kernel is."""
    return PTX / f"{entry}.ptx"


def read_ptx(entry: str) -> bytes:
    """The PTX of a kernel, as text in UTF-8.

    Raises:
        ValueError: there is no such kernel.
    """
    try:
        return ptx_file(entry).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"kernel: expected one of {PTX.name}/*.ptx, got {entry!r}") from error
