"""Load the teacher of a distillation from a file."""

from __future__ import annotations

from pathlib import Path

import torch

from retina_edge.training.checkpoint_teacher import CheckpointTeacher
from retina_edge.training.teacher import Teacher


def load_teacher(path: Path | str, device: torch.device) -> Teacher:
    """Load a checkpoint, or a deployable ONNX, as a teacher.

    Args:
        path: path of the model.
        device: device to run on.

    Raises:
        ModelFileError: if the file is missing or damaged, or neither of the two.
        MissingDependencyError: for an ONNX, if a package that reads it is not installed.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> load_teacher(MODEL, torch.device("cpu")).crop
        (416, 736)
    """
    path = Path(path)
    if path.suffix == ".onnx":
        from retina_edge.training.onnx_teacher import OnnxTeacher  # needs onnx

        return OnnxTeacher(path, device)
    return CheckpointTeacher(path, device)
