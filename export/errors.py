"""The error that users see if an export fails."""

from __future__ import annotations

from engines.core.errors import RetinaEdgeError


class ExportError(RetinaEdgeError):
    """The model cannot be exported as requested, or its ONNX gives other results than the model. Nothing is written."""
