"""The implementation of ``retina_edge.api.evaluate``: COCO metrics, confusion, and comparison of two models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.core.contract import DetectorContract
from engines.core.errors import ContractError, DataError
from engines.core.option_checks import check_integer, check_number
from retina_edge.api.tiles import TileOptions
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import VAL, load_dataset
from retina_edge.detections import DEFAULT_SCORE, Detections
from retina_edge.detector import Detector
from retina_edge.evaluation.coco_metrics import MAX_DETECTIONS, Evaluation, detect_all, evaluate_detections
from retina_edge.evaluation.comparison import Comparison, ModelResult, compare
from retina_edge.evaluation.confusion import Confusion, confusion


@dataclass(frozen=True)
class EvaluationOptions:
    """The options of an evaluation.

    Attributes:
        score: score above which a box counts in the confusion and in the comparison; AP counts all boxes.
        batch: images, or tiles, in a batch; None for the model's own, or 1.
        max_detections: number of best boxes of an image that count; 100 as in COCO.
        tiles: tiles to cut images into; None to detect in whole images.
        device: device to run the models on, as for ``Detector.load``.
        skip_invalid: leave out images that cannot be used, and skip boxes that have no area or lie outside their image,
            instead of raising an error.

    Raises:
        ContractError: if an option is out of range.

    Examples:
        >>> options = EvaluationOptions(score=0.5, tiles=TileOptions(overlap=96))
    """

    score: float = DEFAULT_SCORE
    batch: int | None = None
    max_detections: int = MAX_DETECTIONS
    tiles: TileOptions | None = None
    device: str = "auto"
    skip_invalid: bool = False

    def __post_init__(self) -> None:
        check_number("score", self.score, "0 <= score < 1", lambda score: 0 <= score < 1)
        if self.batch is not None:
            check_integer("batch", self.batch, 1)
        check_integer("max_detections", self.max_detections, 1)
        if self.tiles is not None and not isinstance(self.tiles, TileOptions):
            raise ContractError(f"tiles: expected TileOptions, got {self.tiles!r}; write TileOptions(size=...)")


@dataclass(frozen=True)
class EvaluationResult:
    """The result of an evaluation.

    Attributes:
        dataset: the data set.
        evaluation: COCO metrics.
        confusion: which objects were found, missed, badly located or given another class.
        best_score: best score of all detections; 0 if there are none.
        model_threshold: the score that every detection of the model exceeds.
        comparison: the comparison with another model; None without one.
    """

    dataset: DetectionDataset
    evaluation: Evaluation
    confusion: Confusion
    best_score: float
    model_threshold: float
    comparison: Comparison | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, as ``--json`` writes them."""
        values = {**self.evaluation.to_dict(), "confusion": self.confusion.to_dict()}
        if self.comparison is not None:
            values["against"] = self.comparison.to_dict()
        return values


def evaluate(
    model: Path | str,
    annotations: Path | str,
    images: Path | str | None = None,
    options: EvaluationOptions | None = None,
    *,
    against: Path | str | None = None,
    on_message: Callable[[str], None] = lambda _line: None,
    on_dataset: Callable[[DetectionDataset], None] = lambda _dataset: None,
    on_image: Callable[[Path, int], None] = lambda _model, _images: None,
) -> EvaluationResult:
    """Run a model over labeled images and compute COCO metrics.

    Args:
        model: path of a ``.pt``, ``.onnx`` or ``.engine``.
        annotations: path of a COCO file, of a YOLO ``data.yaml``, or of the folder of a data set.
        images: folder of the images; None to look for it near the annotations.
        options: options of the evaluation.
        against: path of another model to compare with on the same images, for instance the FP32 model.
        on_message: called with each line of text for the user.
        on_dataset: called with the data set after it has been read and checked.
        on_image: called after each image with the model and the number of images in the data set.

    Raises:
        DataError: if the annotations or images cannot be used, or model and data set share no class.
        ModelFileError, DeviceError, MissingDependencyError: if the model cannot run on this machine.

    Examples:
        >>> from retina_edge.api import evaluate
        >>> from retina_edge.assets import MODEL
        >>> result = evaluate(MODEL, "tests/data/treecrowns/val.json", "tests/data/treecrowns/images")
        >>> f"{result.evaluation.metrics['AP50']:.2f}"
        '0.70'
    """
    options = options or EvaluationOptions()
    models = [Path(path) for path in (against, model) if path is not None]
    dataset = load_dataset(
        annotations,
        images,
        part=VAL,
        skip_invalid=options.skip_invalid,
        bit_depth=min(_bit_depth(path, options) for path in models),  # values that all models take
        on_message=on_message,
    )
    if not dataset.has_objects():
        raise DataError(
            f"{dataset.annotations}: expected objects to measure on, found none outside of crowds; add annotations"
        )
    for remark in dataset.remarks:
        on_message(remark)
    on_dataset(dataset)
    # Run the other model first, so that an error in it is raised before this model has run over all images.
    others = _detect(Path(against), dataset, options, on_image)[0] if against else None
    detections, contract = _detect(Path(model), dataset, options, on_image)
    evaluation = evaluate_detections(detections, dataset, max_detections=options.max_detections)
    comparison = None
    if against is not None and others is not None:
        other = evaluate_detections(others, dataset, max_detections=options.max_detections)
        comparison = compare(
            ModelResult(Path(against).name, other, others),
            ModelResult(Path(model).name, evaluation, detections, contract.bit_depth),
            dataset,
            options.score,
        )
    return EvaluationResult(
        dataset,
        evaluation,
        confusion(detections, dataset, options.score),
        max((float(item.scores.max(initial=0.0)) for item in detections), default=0.0),
        contract.score_threshold,
        comparison,
    )


def _bit_depth(model: Path, options: EvaluationOptions) -> int:
    """Return the bit depth of a model, which is closed again: two models at once may need more memory than there is."""
    # A provider of ONNX Runtime may build an engine when it opens a model.
    device = "cpu" if model.suffix == ".onnx" else options.device
    with Detector.load(model, device=device, in_flight=1, cuda_graph=False) as detector:
        return detector.contract.bit_depth


def _detect(
    model: Path, dataset: DetectionDataset, options: EvaluationOptions, on_image: Callable[[Path, int], None]
) -> tuple[list[Detections], DetectorContract]:
    """Return the detections in each image, and the contract of the model."""
    with Detector.load(model, device=options.device) as loaded:
        detector, batch = loaded, 1
        if options.tiles is not None:
            detector = options.tiles.apply(loaded, batch=options.batch)
        else:
            batch = loaded.choose_batch(options.batch)
        detections = detect_all(detector, dataset, batch=batch, on_image=lambda: on_image(model, len(dataset)))
        return detections, detector.contract
