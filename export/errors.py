"""The error of exports, for users."""

from __future__ import annotations

from engines.core.errors import RetinaEdgeError


class ExportError(RetinaEdgeError):
    """The model cannot be exported as requested, or its ONNX computes something else. Nothing is written."""
