"""The model that a training run starts from: new, initialized from another checkpoint, or prepared for QAT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from engines.core.contract import BIT_DEPTH, DetectorContract, package_versions
from engines.core.errors import ContractError, DataError
from engines.core.letterbox import letterbox_batch
from export.preprocess import Preprocess
from retina_edge.data.dataset import DetectionDataset
from retina_edge.model.checkpoint import Checkpoint
from retina_edge.model.config import ModelConfig
from retina_edge.model.retinanet import RetinaNet
from retina_edge.training.fake_quantization import add_fake_quantization

# Number of training images that the ranges of the activations are measured on.
RANGE_IMAGES = 64


def new_model(
    config: ModelConfig,
    data: DetectionDataset,
    input_size: tuple[int, int],
    *,
    seed: int,
    bit_depth: int = BIT_DEPTH,
    backbone_weights: Mapping[str, Tensor] | None = None,
) -> tuple[RetinaNet, DetectorContract]:
    """Make a model with random weights, and its contract.

    Args:
        config: the architecture; ``num_classes`` must be the number of classes in the data set.
        data: data set that gives the class names and category ids.
        input_size: (height, width) of the network's input, pixels.
        bit_depth: bits that image files of 16 bits use.
        seed: seed of the random weights.
        backbone_weights: state dict of torchvision's classification model that the backbone starts from; None for
            random weights.

    Examples:
        >>> from pathlib import Path
        >>> data = DetectionDataset(Path("train.json"), ("tree",), (1,), images=())
        >>> config = ModelConfig(1, "resnet18", fpn_channels=32, head_depth=1)
        >>> model, contract = new_model(config, data, (64, 96), seed=0)
        >>> contract.architecture
        'retinanet_resnet18_fpn32-C3-C4-C5'
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RetinaNet(config, backbone_weights=backbone_weights)
    stages = "".join(f"-C{level}" for level in config.backbone_levels)
    contract = DetectorContract(
        architecture=f"retinanet_{config.backbone}_fpn{config.fpn_channels}{stages}",
        input_size=input_size,
        class_names=data.class_names,
        category_ids=data.category_ids,
        levels=model.pyramid(input_size),
        bit_depth=bit_depth,
        produced_by=package_versions("torch", "torchvision"),
    )
    return model, contract


def initialize_from(model: RetinaNet, contract: DetectorContract, source: Checkpoint) -> list[str]:
    """Copy the weights of another checkpoint into a new model. Weights that do not fit keep their new values.

    The last layer of the class head is copied only if both models have the same classes in the same order. The last
    layers of both heads are copied only if the models have equally many anchors at each position.

    Args:
        model: model to copy the weights into.
        contract: contract of that model.
        source: checkpoint to copy the weights from.

    Returns:
        One sentence for the user about each part that was not copied.
    """
    fresh: list[str] = []
    weights = dict(source.weights)
    if source.contract.class_names != contract.class_names or source.contract.num_anchors != contract.num_anchors:
        old, new = _summary(source.contract), _summary(contract)
        fresh.append(f"class head re-initialized: the checkpoint has {old}, the new model has {new}")
        weights = {name: value for name, value in weights.items() if ".cls_logits." not in name}
    if source.contract.num_anchors != contract.num_anchors:
        fresh.append("last layer of the box head re-initialized: the number of anchors at each position differs")
        weights = {name: value for name, value in weights.items() if ".bbox_reg." not in name}
    own = model.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    unexpected = [name for name in weights if name not in fitting]
    if unexpected:
        fresh.append(f"{len(unexpected)} tensors do not fit and were skipped; the first is {unexpected[0]}")
    missing = [n for n in own if n not in fitting and ".cls_logits." not in n and ".bbox_reg." not in n]
    if missing:
        fresh.append(f"{len(missing)} tensors keep their new values; the first is {missing[0]}")
    model.load_state_dict({**own, **fitting})
    return fresh


def check_statistics(model: RetinaNet, source: Checkpoint | None) -> None:
    """Check that heads whose statistics are frozen take them from the checkpoint that a new run starts from.

    Args:
        model: the new model.
        source: the checkpoint; None for random heads.

    Raises:
        ContractError: if the heads are frozen, and a statistic is not in the checkpoint, or does not fit.
    """
    own = model.state_dict()
    statistics = {name for name in own if name.startswith("head.") and ".running_" in name}
    weights = source.weights if source else {}
    fitting = {name for name in statistics & weights.keys() if weights[name].shape == own[name].shape}
    if model.config.head_norm == "frozen" and fitting != statistics:
        got = f"head_norm {source.config.head_norm} or other levels or channels" if source else "none"
        raise ContractError(
            f"head_norm: frozen: expected a checkpoint for --init with head_norm batch or frozen and the same heads, "
            f"whose statistics stay as they are, got {got}; choose --head-norm batch or group"
        )


def quantized_model(source: Checkpoint, data: DetectionDataset, *, batch: int, device: torch.device) -> RetinaNet:
    """Return a trained model with the rounding of INT8, whose ranges are measured on images spread over a data set.

    Args:
        source: checkpoint of the trained model.
        data: data set to fine-tune on.
        batch: number of images that the model runs at once.
        device: device of the model.

    Raises:
        DataError: if the data set has other classes or category ids than the model.
        SourceError: if an image cannot be decoded.
    """
    contract = source.contract
    if (contract.class_names, contract.category_ids) != (data.class_names, data.category_ids):
        raise DataError(
            f"{data.annotations}: expected the classes and category ids of the model, "
            f"{_classes(contract.class_names, contract.category_ids)}, got "
            f"{_classes(data.class_names, data.category_ids)}; correct the categories of the data set"
        )
    model = source.build_model().to(device)
    count = min(RANGE_IMAGES, len(data))
    images = [data.images[index * len(data) // count] for index in range(count)]
    preprocess = Preprocess(contract).to(device)

    def batches() -> Iterator[Tensor]:
        for start in range(0, count, batch):
            pixels = [image.read(contract.bit_depth) for image in images[start : start + batch]]
            frames, _ = letterbox_batch(pixels, contract.input_size)
            yield preprocess(torch.from_numpy(frames).to(device))

    add_fake_quantization(model, batches())
    return model


def _classes(names: Sequence[str], category_ids: Sequence[int]) -> str:
    return ", ".join(f"{name} ({category_id})" for name, category_id in zip(names, category_ids, strict=True))


def _summary(contract: DetectorContract) -> str:
    return f"{contract.num_classes} classes ({', '.join(contract.class_names[:3])}), {contract.num_anchors} anchors"
