"""Checks of output files before any work, so that no input is overwritten and no work is lost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from engines.core.errors import SinkError

# A word for an input file, and its path; None for an input that was not given.
Input = tuple[str, Path | str | None]


def check_output(name: str, path: Path | str, *, suffix: str = "", inputs: Sequence[Input] = ()) -> None:
    """Check that a file can be written, and that it is none of the inputs. Nothing is created.

    Args:
        name: name of the parameter or of the option, for the message.
        path: the file to write. Its folder may be missing.
        suffix: the suffix that the file must have; empty for any.
        inputs: files that must not be overwritten, under any of their names.

    Raises:
        SinkError: if the file is a folder, has another suffix, cannot be written, or is an input.

    Examples:
        >>> check_output("output", "out/model.onnx", suffix=".onnx", inputs=[("checkpoint", "model.pt")])
        >>> check_output("output", "model.pt", suffix=".onnx")
        Traceback (most recent call last):
        engines.core.errors.SinkError: output: expected a file ending in .onnx, got model.pt; change the name
    """
    path = Path(path)
    expected = f"a file ending in {suffix}" if suffix else "a file"
    if path.is_dir():
        raise SinkError(f"{name}: expected {expected}, got the folder {path}; add the name of a file")
    if (identity := file_identity(path)) is not None:  # only an output that exists can also be an input
        for kind, file in inputs:
            if file is not None and file_identity(file) == identity:
                raise SinkError(f"{name}: {path} would overwrite the {kind} {file}; use another name")
    if suffix and path.suffix != suffix:
        raise SinkError(f"{name}: expected {expected}, got {path}; change the name")
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise SinkError(f"{name}: expected a folder that {path.name} can be written to, got {folder}; use another one")


def file_identity(path: Path | str) -> tuple[int, int] | None:
    """Return device and inode of an existing file or folder; None for anything else.

    All names of a file have the same identity: links, and upper and lower case on some disks.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> file_identity(MODEL) == file_identity(MODEL.parent / ".." / "assets" / MODEL.name)
        True
        >>> file_identity("missing.onnx")
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
