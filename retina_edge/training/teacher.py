"""The teacher of a distillation: a trained model whose outputs a smaller one learns to give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from engines.core.contract import DetectorContract
from engines.core.errors import ContractError
from engines.core.json_form import short
from engines.tensorrt.passport import sha256
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.summary import DataSummary
from retina_edge.model.config import pyramid_levels

# Objects are as large for the student as they were for the teacher up to this factor, which is less than random scales.
SAME_SCALE = 0.1


@dataclass(frozen=True)
class TeacherOutput:
    """What a teacher says about a batch.

    Attributes:
        logits, deltas: class logits [N, A * C, h, w] and box deltas [N, A * 4, h, w] of each level.
        features: features [N, channels, h, w] of each level; empty if the teacher has none to give.
    """

    logits: list[Tensor]
    deltas: list[Tensor]
    features: list[Tensor]


class Teacher(ABC):
    """A trained model that is only read.

    Args:
        path: file of the model.
        contract: contract of the model.

    Attributes:
        name: name of the file.
        sha256: SHA-256 of the file.
        channels: number of channels of the features; 0 if the teacher has none to give.
        crop: (height, width) that crops must have, pixels; None for any size.
    """

    channels = 0
    crop: tuple[int, int] | None = None

    def __init__(self, path: Path, contract: DetectorContract) -> None:
        self.name, self.sha256, self.contract = path.name, sha256(path), contract

    @abstractmethod
    def __call__(self, images: Tensor) -> TeacherOutput:
        """Run the teacher without gradients.

        Args:
            images: crops, BGR, uint8 [N, H, W, 3]. Each teacher normalizes them as its own contract says.
        """


def introduce(teacher: Teacher, contract: DetectorContract, augment: AugmentOptions, data: DataSummary) -> list[str]:
    """Check that a teacher suits a student, and return what the user should know about it.

    Args:
        teacher: the teacher.
        contract: contract of the student.
        augment: augmentation of the training images, with both sizes set.
        data: numbers of the training set.

    Raises:
        ContractError: if classes, anchors, bit depth or the size of the crops differ.

    Examples:
        >>> import torch
        >>> from retina_edge.assets import CHECKPOINT
        >>> from retina_edge.training.load_teacher import load_teacher
        >>> teacher = load_teacher(CHECKPOINT, torch.device("cpu"))
        >>> data = DataSummary(10, 0, (400, 400), {"tree": 90}, (20.0, 40.0, 60.0))
        >>> introduce(teacher, teacher.contract, AugmentOptions().for_input((416, 736)), data)
        ['learning logits, boxes and features from the teacher treecrowns.pt, retinanet_resnet18_fpn96-C3-C4']
    """
    own = teacher.contract
    if own.class_names != contract.class_names:
        raise ContractError(
            f"teacher {teacher.name}: expected the classes of the data set in the same order, "
            f"{short(contract.class_names)}, got {short(own.class_names)}; train a teacher on this data set"
        )
    if (expected := _anchors(own)) != (got := _anchors(contract)):
        raise ContractError(
            f"teacher {teacher.name}: expected a student with the same anchors, {expected}, got {got}; leave out "
            "--anchors, --aspect-ratios and --backbone-levels, or give those of the teacher"
        )
    levels = pyramid_levels(own.input_size, [level.anchor_sizes for level in own.levels], own.levels[0].aspect_ratios)
    if levels != own.levels:
        raise ContractError(
            f"teacher {teacher.name}: expected the strides of a RetinaNet, {short([each.stride for each in levels])}, "
            f"got {short([each.stride for each in own.levels])}; take the teacher's checkpoint, or export it again"
        )
    if own.bit_depth != contract.bit_depth:
        raise ContractError(
            f"teacher {teacher.name}: expected a student with the same bit depth, {own.bit_depth}, got "
            f"{contract.bit_depth}; give --bit-depth {own.bit_depth}"
        )
    if teacher.crop not in (None, augment.size):
        raise ContractError(
            f"teacher {teacher.name}: expected crops of the one size that an ONNX takes, {_size(teacher.crop)}, got "
            f"{_size(augment.size)}; give --crop {_size(teacher.crop)}, or the teacher's checkpoint, which takes any"
        )
    gives = "logits, boxes and features" if teacher.channels else "logits and boxes"
    lines = [f"learning {gives} from the teacher {teacher.name}, {own.architecture}"]
    factor = data.scale_to(contract.input_size) / data.scale_to(own.input_size)
    if abs(factor - 1) > SAME_SCALE:
        lines.append(
            f"warning: in the student's input of {_size(contract.input_size)} pixels, objects are {factor:.2g} times "
            f"as large as in the teacher's of {_size(own.input_size)}, so the teacher sees unusual sizes: omit --input "
            "to take the teacher's"
        )
    return lines


def _anchors(contract: DetectorContract) -> str:
    """Return the anchors of each level as text."""
    levels = (level.anchor_sizes for level in contract.levels)
    sizes = ", ".join("/".join(f"{size:g}" for size in level) for level in levels)
    ratios = {tuple(f"{ratio:g}" for ratio in level.aspect_ratios) for level in contract.levels}
    return f"{sizes} pixels with ratios {' or '.join(' '.join(each) for each in sorted(ratios))}"


def _size(size: tuple[int, int] | None) -> str:
    assert size is not None
    return f"{size[0]}x{size[1]}"
