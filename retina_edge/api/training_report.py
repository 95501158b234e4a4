"""The implementation of ``retina_edge.api.write_training_report``, which a training run also ends with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from engines.core.errors import RetinaEdgeError
from retina_edge.api.training_data import TrainingData
from retina_edge.data.dataset import DetectionDataset
from retina_edge.detections import Detections


def write_training_report(
    checkpoint: Path | str,
    data: TrainingData | Path | str,
    *,
    device: str = "auto",
    on_message: Callable[[str], None] = lambda _line: None,
) -> Path:
    """Write the report of a training run again, and return its path, ``NAME.report.html`` beside the checkpoint.

    Args:
        checkpoint: the best checkpoint of the run; its log, ``NAME.csv``, lies beside it.
        data: data sets of the run; a path stands for ``TrainingData(path)``.
        device: ``auto``, ``cpu`` or ``cuda``.
        on_message: called with each line of text for the user.

    Raises:
        DataError: if the annotations or images cannot be used.
        ModelFileError: if the checkpoint cannot be used.
        OSError: if the report cannot be written.
    """
    from retina_edge.model.checkpoint import load_checkpoint
    from retina_edge.model.torch_executor import select_device

    checkpoint = Path(checkpoint)
    data = data if isinstance(data, TrainingData) else TrainingData(data)
    if data.bit_depth is None:
        data = dataclasses.replace(data, bit_depth=load_checkpoint(checkpoint).contract.bit_depth)
    chosen = str(select_device(device))
    train_data, val_data = data.load(on_message)
    return _write(checkpoint, train_data, val_data, None, chosen)


def report_run(
    checkpoint: Path,
    train_data: DetectionDataset,
    val_data: DetectionDataset,
    detections: Sequence[Detections] | None,
    *,
    device: str,
    on_message: Callable[[str], None],
) -> None:
    """Write the report of a run that has ended. If that fails, say so: the model is whole.

    Args:
        checkpoint: the best checkpoint of the run.
        train_data, val_data: data sets of the run.
        detections: detections of the checkpoint in each validation image; None to detect again.
        device: device to detect on.
        on_message: called with each line of text for the user.
    """
    try:
        _write(checkpoint, train_data, val_data, detections, device)
    except (RetinaEdgeError, OSError) as error:
        on_message(f"warning: the report of the run could not be written: {error}")
    except ImportError as error:
        on_message(f"the run has no report, which needs matplotlib ({error}): pip install 'retina-edge[train]'")


def _write(
    path: Path,
    train_data: DetectionDataset,
    val_data: DetectionDataset,
    detections: Sequence[Detections] | None,
    device: str,
) -> Path:
    import torch

    from retina_edge.detector import Detector
    from retina_edge.evaluation.coco_metrics import detect_all
    from retina_edge.model.checkpoint import load_checkpoint
    from retina_edge.model.torch_executor import TorchExecutor
    from retina_edge.training.report import write_report

    checkpoint = load_checkpoint(path)
    if detections is None:
        model = checkpoint.build_model().to(device)
        with Detector(TorchExecutor(model, checkpoint.contract, device=torch.device(device))) as detector:
            detections = detect_all(detector, val_data)
    return write_report(path, checkpoint, train_data, val_data, detections)
