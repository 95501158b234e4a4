"""The accuracy budget of a conversion: AP of both models, measured on labeled images."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.core.contract import BIT_DEPTH
from engines.core.errors import ContractError
from engines.core.option_checks import check_number
from retina_edge.api.progress import Progress
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import VAL, load_dataset
from retina_edge.detector import Detector
from retina_edge.evaluation.coco_metrics import evaluate

if TYPE_CHECKING:
    import onnx

    from export.precision.accuracy_budget import AccuracyBudget

# Number of images that layers are compared on. It is small, because every layer is tried on all of these images.
COMPARED_IMAGES = 4


@dataclass(frozen=True)
class AccuracyOptions:
    """The accuracy that a conversion to FP16 or INT8 may cost, and the images that it is measured on.

    Attributes:
        points: AP points (AP times 100) that may be lost against FP32.
        annotations: data set that AP is measured on: a COCO file, a YOLO ``data.yaml``, or a folder.
        images: folder of its images; None to look for it near the annotations.
        fallback: let INT8 layers fall back to a higher precision, to stay within the budget.

    Raises:
        ContractError: if the points are out of range.

    Examples:
        >>> options = AccuracyOptions(points=0.5, annotations="val.json", images="images")
    """

    points: float
    annotations: Path | str
    images: Path | str | None = None
    fallback: bool = True

    def __post_init__(self) -> None:
        check_number("points", self.points, "AP points from 0 to 100", lambda points: 0 <= points <= 100)


def accuracy_budget(
    options: AccuracyOptions | None,
    *,
    precision: str,
    source_precision: str,
    bit_depth: int = BIT_DEPTH,
    progress: Progress,
) -> AccuracyBudget | None:
    """Return the budget of a conversion, with a function that measures AP; None without options.

    Args:
        options: the budget, and the images to measure it on.
        precision: precision of the model to make.
        source_precision: precision of the model that is converted.
        bit_depth: bits that image files of 16 bits use.
        progress: callback that reports the current step.

    Raises:
        ContractError: if nothing is converted, so that there is nothing to compare.
        DataError: if the data set cannot be used.

    Examples:
        >>> from retina_edge.api.progress import no_progress
        >>> options = AccuracyOptions(points=0.5, annotations="tests/data/treecrowns/val.json")
        >>> budget = accuracy_budget(options, precision="fp16", source_precision="fp32", progress=no_progress)
        >>> budget.points, budget.data["images"]
        (0.5, 16)
    """
    if options is None:
        return None
    if precision in ("fp32", source_precision):
        raise ContractError(
            f"accuracy: expected a conversion from fp32 to fp16 or int8, got precision {precision} for a model in "
            f"{source_precision}; leave the accuracy budget out, or start from an fp32 model"
        )
    from export.precision.accuracy_budget import AccuracyBudget  # needs onnx

    annotations = Path(options.annotations)
    dataset = load_dataset(annotations, options.images, part=VAL, bit_depth=bit_depth)
    measure = _Measurement(dataset, progress)
    busiest = sorted(dataset.images, key=lambda image: -len(image.boxes))[:COMPARED_IMAGES]
    return AccuracyBudget(
        options.points,
        measure,
        {"annotations": annotations.name, **dataset_digests(dataset), "by": "ONNX Runtime on a CPU"},
        [image.read(bit_depth) for image in busiest],
        options.fallback,
        measure.tell,
    )


def dataset_digests(dataset: DetectionDataset) -> dict[str, Any]:
    """Return the number of images, and the sha256 of the annotations and of the images in the order of the data set.

    The sha256 of several files is that of their digests.

    Examples:
        >>> dataset = load_dataset("tests/data/treecrowns/val.json", "tests/data/treecrowns/images")
        >>> digests = dataset_digests(dataset)
        >>> digests["images"], digests["images_sha256"][:8]
        (16, '396c00d8')
    """
    annotations = [_digest(path) for path in dataset.files]
    images = [_digest(image.path) for image in dataset.images]
    return {
        "images": len(dataset),
        "annotations_sha256": (annotations[0] if len(annotations) == 1 else _combined(annotations)).hex(),
        "images_sha256": _combined(images).hex(),
    }


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _combined(digests: Sequence[bytes]) -> bytes:
    return hashlib.sha256(b"".join(digests)).digest()


class _Measurement:
    """A function that measures the AP of a deployable ONNX on a data set, in the same way as ``evaluate``."""

    def __init__(self, dataset: DetectionDataset, progress: Progress) -> None:
        self._dataset, self._progress, self._step = dataset, progress, ""

    def tell(self, step: str) -> None:
        """Report a new step."""
        self._step = step
        self._progress(step, None, None)

    def __call__(self, model: onnx.ModelProto) -> float:
        done, count = 0, len(self._dataset)

        def on_image() -> None:
            nonlocal done
            done += 1
            self._progress(self._step, done, count)

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model.SerializeToString())
            with Detector.load(path) as detector:
                batch = detector.choose_batch(None)
                return evaluate(detector, self._dataset, batch=batch, on_image=on_image).metrics["AP"]
