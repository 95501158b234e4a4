"""The compiled kernels (PTX) that are part of the package."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
PTX = FOLDER / "ptx"


def ptx_file(entry: str) -> Path:
    """Return the path of the PTX file of a kernel.

    Examples:
        >>> ptx_file("nms").relative_to(FOLDER).as_posix()
        'ptx/nms.ptx'
    """
    return PTX / f"{entry}.ptx"


def read_ptx(entry: str) -> bytes:
    """Return the PTX of a kernel, text in UTF-8.

    Raises:
        ValueError: if there is no such kernel.

    Examples:
        >>> b".visible .entry nms(" in read_ptx("nms")
        True
    """
    try:
        return ptx_file(entry).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"kernel: expected one of {PTX.name}/*.ptx, got {entry!r}") from error
