"""What can go wrong in an export, as a user meets it."""

from __future__ import annotations

from engines.core.errors import RetinaEdgeError


class ExportError(RetinaEdgeError):
    """The model cannot be exported as asked, or its ONNX does not compute what it computes; nothing is written."""
