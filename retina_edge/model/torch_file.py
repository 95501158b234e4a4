"""Files that torch wrote, read without running any code in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engines.core.errors import ModelFileError


def read_torch_file(path: Path, what: str, *, fix: str = "") -> Any:
    """Return the content of a file in CPU memory, read with ``weights_only=True``.

    Args:
        path: path of an existing file.
        what: the expected content, for the message of an error.
        fix: the way out, for the message, a clause.

    Raises:
        ModelFileError: if torch cannot read the file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for a damaged file
        reason = f"{type(error).__name__} {str(error).partition(chr(10))[0][:120]}"
        advice = f"; {fix}" if fix else ""
        raise ModelFileError(f"{path}: expected {what}, but torch cannot read it: {reason}{advice}") from error
