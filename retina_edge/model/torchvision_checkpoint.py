"""Conversion of torchvision's RetinaNet checkpoints; weights, anchors and thresholds stay the same."""

from __future__ import annotations

import argparse
import hashlib
import urllib.error
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.retinanet import (
    RetinaNet_ResNet50_FPN_V2_Weights,
    RetinaNet_ResNet50_FPN_Weights,
)

from engines.core.contract import DetectorContract, package_versions
from engines.core.errors import ContractError, ModelFileError
from retina_edge.model.checkpoint import Checkpoint
from retina_edge.model.config import ModelConfig, octave_sizes
from retina_edge.model.retinanet import RetinaNet
from retina_edge.model.torch_file import check_weights, read_torch_file
from retina_edge.model.wrapped_weights import LOGITS, WrappedWeights, find_weights, first_keys, some

# The architecture of each builder function of torchvision, as values of those fields of ModelConfig that differ.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "retinanet_resnet50_fpn": {"extra_levels": "p", "head_norm": "none", "box_loss": "l1"},
    "retinanet_resnet50_fpn_v2": {"extra_levels": "c", "head_norm": "group", "box_loss": "giou"},
}
# Published weights and their architecture, by a name that only this project uses: torchvision calls both COCO_V1.
PUBLISHED = {
    "coco_v1": ("retinanet_resnet50_fpn", RetinaNet_ResNet50_FPN_Weights.COCO_V1),
    "coco_v2": ("retinanet_resnet50_fpn_v2", RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1),
}
# Epsilon of the frozen normalization: coco_v1 was trained before torchvision introduced an epsilon.
PUBLISHED_EPS = {"coco_v1": 0.0, "coco_v2": 1e-5}
DEFAULT_EPS = 1e-5
# Number of anchor sizes on a level of torchvision's own RetinaNets.
OCTAVE = 3
BOXES = "head.regression_head.bbox_reg.weight"


def load_published(name: str, architecture: str) -> tuple[dict[str, Tensor], float]:
    """Download published weights with torchvision.

    Args:
        name: one of ``PUBLISHED``.
        architecture: architecture that the weights must have.

    Returns:
        The state dict, and the epsilon of the backbone's normalization.

    Raises:
        ModelFileError: if the weights belong to another architecture, or the download fails.
    """
    expected, weights = PUBLISHED[name]
    if architecture != expected:
        raise ModelFileError(
            f"{name}: expected --arch {expected}, the architecture of these weights, got {architecture}"
        )
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True)), PUBLISHED_EPS[name]
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise ModelFileError(
            f"{name}: torchvision could not download {weights.url} ({error}); download the file on another "
            "computer and give its path instead of the name"
        ) from error


def load_file(path: Path | str, *, ema: bool = False) -> tuple[WrappedWeights, float]:
    """Read weights from a file.

    The file holds a state dict, or a dict with the state dict in it, as training programs write it; see
    ``find_weights``. Published files are recognized by the hash that torchvision puts into their names.

    Args:
        path: path of the file.
        ema: take the averaged weights of training instead of the last ones.

    Returns:
        The weights, and the epsilon of the backbone's normalization.

    Raises:
        ModelFileError: if the file is missing, cannot be read without running code, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(
            f"{path}: expected a checkpoint of torchvision or one of {', '.join(PUBLISHED)}, found no such file"
        )
    # The reference training stores its command line in the file, as a Namespace of plain values.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = read_torch_file(path, "a checkpoint of torchvision")
    try:
        found = find_weights(content, ema=ema)
        check_weights(found.weights, path)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    return found, _known_eps(path)


def convert(
    weights: Mapping[str, Tensor],
    architecture: str,
    *,
    input_size: tuple[int, int],
    class_names: Sequence[str] | None = None,
    norm_eps: float = DEFAULT_EPS,
    anchor_sizes: Sequence[Sequence[float]] | None = None,
    aspect_ratios: Sequence[float] | None = None,
) -> Checkpoint:
    """Convert torchvision's weights to a checkpoint of retina_edge.

    Args:
        weights: state dict of a RetinaNet of any torchvision version.
        architecture: one of ``ARCHITECTURES``.
        input_size: (height, width) of the network's input, pixels, multiples of 32.
        class_names: name of each label, label 0 first; by default the COCO names for 91 classes, else ``class_0``,
            ``class_1`` and so on.
        norm_eps: epsilon of the backbone's normalization.
        anchor_sizes: anchor sizes of each pyramid level in training, input pixels; a single size stands for three if
            the checkpoint has three, as in ``octave_sizes``. By default those of torchvision.
        aspect_ratios: height / width of the anchors in training; by default 0.5, 1 and 2.

    Raises:
        ModelFileError: if the weights belong to another architecture or to other anchors, or the number of class names
            is wrong.
        ContractError: if an anchor is out of range.
    """
    rows = [len(weights[name]) if name in weights and weights[name].ndim else 0 for name in (LOGITS, BOXES)]
    if not all(rows):
        raise ModelFileError(f"expected weights of {architecture} with {LOGITS} and {BOXES}, got {first_keys(weights)}")
    sizes, ratios = _anchors(rows[1], anchor_sizes, aspect_ratios)
    num_classes, rest = divmod(rows[0], len(sizes[0]) * len(ratios))
    if rest:
        raise ModelFileError(
            f"{LOGITS}: expected a multiple of {len(sizes[0]) * len(ratios)} rows, the anchors at a position, got "
            f"{rows[0]}"
        )
    names = _class_names(num_classes, class_names)
    try:
        config = ModelConfig(
            num_classes=num_classes,
            backbone_norm="batch" if any(key.endswith("num_batches_tracked") for key in weights) else "frozen",
            norm_eps=norm_eps,
            anchor_sizes=sizes,
            aspect_ratios=ratios,
            **ARCHITECTURES[architecture],
        )
    except ValueError as error:
        raise ContractError(str(error)) from error
    model = RetinaNet(config).eval()
    _load(model, weights, architecture)
    contract = DetectorContract(
        architecture=architecture,
        input_size=input_size,
        class_names=names,
        # torchvision uses category ids as labels.
        category_ids=tuple(range(num_classes)),
        levels=model.pyramid(input_size),
        produced_by=package_versions("torch", "torchvision"),
    )
    return Checkpoint(contract, config, dict(model.state_dict()))


def _anchors(
    rows: int, sizes: Sequence[Sequence[float]] | None, ratios: Sequence[float] | None
) -> tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]:
    """Return the anchor sizes of each level, and the aspect ratios.

    Args:
        rows: rows of the last layer of the box head, four for each anchor at a position.
        sizes, ratios: those of the user; None for those of torchvision.
    """
    default = ModelConfig(num_classes=1)
    ratios = default.aspect_ratios if ratios is None else tuple(ratios)
    levels = default.anchor_sizes if sizes is None else tuple(map(tuple, sizes))
    count, rest = divmod(rows, 4 * len(ratios))
    # A single size stands for three, as in torchvision's own anchors.
    if count == OCTAVE and all(len(level) == 1 for level in levels):
        levels = octave_sizes([level[0] for level in levels])
    if rest or any(len(level) != count for level in levels):
        raise ModelFileError(
            f"anchors: expected the {rows // 4} at a position that the weights have, got {len(levels[0])} sizes on a "
            f"level and {len(ratios)} aspect ratios; give those of training with --anchors and --aspect-ratios, "
            "for instance --anchors 32 64 128 256 512 for one size on each level, or 32,40 64,80 ... for two"
        )
    return levels, ratios


def _load(model: RetinaNet, weights: Mapping[str, Tensor], architecture: str) -> None:
    """Load weights into a model; torchvision's modules rename the keys of older versions.

    Raises:
        ModelFileError: if keys or shapes differ from the architecture.
    """
    own = model.state_dict()
    other_shape = [
        f"{key} {list(value.shape)} instead of {list(own[key].shape)}"
        for key, value in weights.items()
        if key in own and value.shape != own[key].shape
    ]
    keys = {key.partition(" ")[0] for key in other_shape}
    fitting = {key: value for key, value in weights.items() if key not in keys}
    missing, unexpected = model.load_state_dict(fitting, strict=False)
    missing = [key for key in missing if key not in keys]
    if missing or unexpected or other_shape:
        raise ModelFileError(
            f"expected weights of {architecture}; missing: {some(missing)}; unexpected: {some(unexpected)}; "
            f"of another shape: {some(other_shape)}"
        )


def _class_names(num_classes: int, names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        coco = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
        return tuple(coco) if len(coco) == num_classes else tuple(f"class_{i}" for i in range(num_classes))
    if len(names) != num_classes:
        raise ModelFileError(
            f"class names: expected {num_classes}, one for each label of the checkpoint (torchvision's label 0 "
            f"is the background), got {len(names)}"
        )
    return tuple(names)


def _known_eps(path: Path) -> float:
    """Return the epsilon of a published file, recognized by its hash; for other files the default."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for name, (_, weights) in PUBLISHED.items():
        prefix = Path(weights.url).stem.rpartition("-")[2]
        if digest.startswith(prefix):
            return PUBLISHED_EPS[name]
    return DEFAULT_EPS
