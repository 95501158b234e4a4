"""The verbs of ``retina-edge`` as Python functions: the same options, the same checks, the same results.

Examples:
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from retina_edge import api
    >>> from retina_edge.assets import CHECKPOINT
    >>> with TemporaryDirectory() as folder:
    ...     options = api.ExportOptions(input_size=(128, 160))
    ...     result = api.export(CHECKPOINT, Path(folder) / "treecrowns.onnx", options)
    >>> result.contract.input_size
    (128, 160)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engines.tensorrt.build_options import BuildOptions
    from retina_edge.api.accuracy import AccuracyOptions
    from retina_edge.api.building import BuildResult, build
    from retina_edge.api.calibration import CalibrationOptions
    from retina_edge.api.evaluating import EvaluationOptions, EvaluationResult, evaluate
    from retina_edge.api.exporting import ExportOptions, ExportResult, export
    from retina_edge.api.running import RunOptions, StreamRun, open_run
    from retina_edge.api.tiles import TileOptions
    from retina_edge.api.training import TrainingResult, train
    from retina_edge.api.training_data import TrainingData
    from retina_edge.api.training_report import write_training_report
    from retina_edge.api.training_seeds import SeedsResult, train_seeds
    from retina_edge.data.augment_options import AugmentOptions
    from retina_edge.evaluation.track_metrics import TrackEvaluation, evaluate_tracks
    from retina_edge.sinks.output_options import OutputOptions
    from retina_edge.tracking.analysis import TrackingOptions
    from retina_edge.training.model_options import ModelOptions
    from retina_edge.training.train_options import TrainOptions

__all__ = [
    "AccuracyOptions",
    "AugmentOptions",
    "BuildOptions",
    "BuildResult",
    "CalibrationOptions",
    "EvaluationOptions",
    "EvaluationResult",
    "ExportOptions",
    "ExportResult",
    "ModelOptions",
    "OutputOptions",
    "RunOptions",
    "SeedsResult",
    "StreamRun",
    "TileOptions",
    "TrackEvaluation",
    "TrackingOptions",
    "TrainOptions",
    "TrainingData",
    "TrainingResult",
    "build",
    "evaluate",
    "evaluate_tracks",
    "export",
    "open_run",
    "train",
    "train_seeds",
    "write_training_report",
]

# These modules are imported on first use: training needs torch, exporting needs onnx, and a machine that only detects
# has neither.
_MODULES = {
    "AccuracyOptions": "retina_edge.api.accuracy",
    "AugmentOptions": "retina_edge.data.augment_options",
    "BuildOptions": "engines.tensorrt.build_options",
    "BuildResult": "retina_edge.api.building",
    "CalibrationOptions": "retina_edge.api.calibration",
    "EvaluationOptions": "retina_edge.api.evaluating",
    "EvaluationResult": "retina_edge.api.evaluating",
    "ExportOptions": "retina_edge.api.exporting",
    "ExportResult": "retina_edge.api.exporting",
    "ModelOptions": "retina_edge.training.model_options",
    "OutputOptions": "retina_edge.sinks.output_options",
    "RunOptions": "retina_edge.api.running",
    "SeedsResult": "retina_edge.api.training_seeds",
    "StreamRun": "retina_edge.api.running",
    "TileOptions": "retina_edge.api.tiles",
    "TrackEvaluation": "retina_edge.evaluation.track_metrics",
    "TrackingOptions": "retina_edge.tracking.analysis",
    "TrainOptions": "retina_edge.training.train_options",
    "TrainingData": "retina_edge.api.training_data",
    "TrainingResult": "retina_edge.api.training",
    "build": "retina_edge.api.building",
    "evaluate": "retina_edge.api.evaluating",
    "evaluate_tracks": "retina_edge.evaluation.track_metrics",
    "export": "retina_edge.api.exporting",
    "open_run": "retina_edge.api.running",
    "train": "retina_edge.api.training",
    "train_seeds": "retina_edge.api.training_seeds",
    "write_training_report": "retina_edge.api.training_report",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
