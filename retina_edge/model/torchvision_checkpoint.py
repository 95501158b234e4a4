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
from engines.core.errors import ModelFileError
from retina_edge.model.checkpoint import Checkpoint
from retina_edge.model.config import ModelConfig
from retina_edge.model.retinanet import RetinaNet
from retina_edge.model.torch_file import read_torch_file

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
LOGITS = "head.classification_head.cls_logits.weight"
# Number of keys that an error message lists.
NAMED_KEYS = 3


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


def load_file(path: Path | str) -> tuple[dict[str, Tensor], float]:
    """Read weights from a file.

    The file holds a state dict, or a dict with the state dict under ``model``, as written by torchvision's reference
    training. Published files are recognized by the hash that torchvision puts into their names.

    Returns:
        The state dict, and the epsilon of the backbone's normalization.

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
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelFileError(
            f"{path}: expected a state dict, or a dict with one under 'model' as torchvision's reference "
            f"training writes it, got {type(content).__name__} with {_first(content)}"
        )
    return dict(state), _known_eps(path)


def convert(
    weights: Mapping[str, Tensor],
    architecture: str,
    *,
    input_size: tuple[int, int],
    class_names: Sequence[str] | None = None,
    norm_eps: float = DEFAULT_EPS,
) -> Checkpoint:
    """Convert torchvision's weights to a checkpoint of retina_edge.

    Args:
        weights: state dict of a RetinaNet of any torchvision version.
        architecture: one of ``ARCHITECTURES``.
        input_size: (height, width) of the network's input, pixels, multiples of 32.
        class_names: name of each label, label 0 first; by default the COCO names for 91 classes, else ``class_0``,
            ``class_1`` and so on.
        norm_eps: epsilon of the backbone's normalization.

    Raises:
        ModelFileError: if the weights belong to another architecture, or the number of class names is wrong.
    """
    if LOGITS not in weights:
        raise ModelFileError(f"expected weights of {architecture} with {LOGITS}, got {_first(weights)}")
    frozen = not any(key.endswith("num_batches_tracked") for key in weights)
    config = ModelConfig(num_classes=1, **ARCHITECTURES[architecture])
    anchors = len(config.anchor_sizes[0]) * len(config.aspect_ratios)
    num_classes, rest = divmod(len(weights[LOGITS]), anchors)
    if rest:
        raise ModelFileError(
            f"{LOGITS}: expected a multiple of {anchors} rows, the anchors at a position of {architecture}, "
            f"got {len(weights[LOGITS])}"
        )
    names = _class_names(num_classes, class_names)
    config = ModelConfig(
        num_classes=num_classes,
        backbone_norm="frozen" if frozen else "batch",
        norm_eps=norm_eps,
        **ARCHITECTURES[architecture],
    )
    model = RetinaNet(config).eval()
    _load(model, weights, architecture)
    contract = DetectorContract(
        architecture=architecture,
        input_size=input_size,
        class_names=names,
        # torchvision uses category ids as labels.
        category_ids=tuple(range(num_classes)),
        levels=model.pyramid(input_size),
        produced_by=package_versions("retina-edge", "torch", "torchvision"),
    )
    return Checkpoint(contract, config, dict(model.state_dict()))


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
            f"expected weights of {architecture}; missing: {_some(missing)}; unexpected: {_some(unexpected)}; "
            f"of another shape: {_some(other_shape)}"
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


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - NAMED_KEYS} more" if len(keys) > NAMED_KEYS else ""
    return (", ".join(keys[:NAMED_KEYS]) or "none") + more


def _first(content: object) -> str:
    return f"keys {_some([str(key) for key in content])}" if isinstance(content, Mapping) else "no keys"
