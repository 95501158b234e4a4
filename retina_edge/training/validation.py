"""The evaluation of a model on the validation images of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from engines.core.contract import DetectorContract
from retina_edge.data.dataset import DetectionDataset
from retina_edge.detections import DEFAULT_SCORE, Detections
from retina_edge.detector import Detector
from retina_edge.evaluation.coco_metrics import Evaluation, detect_all, evaluate_detections
from retina_edge.evaluation.confusion import confusion
from retina_edge.model.retinanet import RetinaNet
from retina_edge.model.torch_executor import TorchExecutor


@dataclass(frozen=True, eq=False)
class Validated:
    """The results of a model on the validation images.

    Attributes:
        evaluation: metrics of the model.
        found: number of objects that it finds.
        detections: detections in each image, in the order of the data set.
    """

    evaluation: Evaluation
    found: int
    detections: list[Detections]


def validate(
    model: RetinaNet,
    contract: DetectorContract,
    data: DetectionDataset,
    *,
    batch: int,
    device: torch.device,
    on_image: Callable[[int], None] = lambda _done: None,
) -> Validated:
    """Detect the objects of the validation images, and compute the metrics.

    Args:
        model: model to evaluate.
        contract: contract of the model.
        data: the validation images.
        batch: number of images in a batch.
        device: device of the model.
        on_image: called after each image with the number of images done; an exception ends the evaluation.
    """
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        on_image(done)

    executor = TorchExecutor(model, contract, device=device)
    detections = detect_all(Detector(executor), data, batch=batch, on_image=count)
    found = sum(row[2] for row in confusion(detections, data, DEFAULT_SCORE).rows())
    return Validated(evaluate_detections(detections, data), found, detections)
