"""What a run starts from: random weights, torchvision's backbone, another checkpoint, or one to be quantized."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from engines.core.contract import DetectorContract, package_versions
from engines.core.errors import DataError
from engines.core.letterbox import letterbox_batch
from export.preprocess import Preprocess
from retina_edge.data.coco import CocoDataset
from retina_edge.model.checkpoint import Checkpoint
from retina_edge.model.config import ModelConfig
from retina_edge.model.retinanet import RetinaNet
from retina_edge.training.fake_quantization import add_fake_quantization

# Of the training images, how many the ranges of activations come from.
RANGE_IMAGES = 64


def new_model(
    config: ModelConfig,
    data: CocoDataset,
    input_size: tuple[int, int],
    *,
    seed: int,
    pretrained_backbone: bool = False,
) -> tuple[RetinaNet, DetectorContract]:
    """A model with random heads and the contract it will be trained to keep.

    Args:
        config: the architecture; its ``num_classes`` must be the data set's.
        data: names the classes.
        input_size: (height, width) of the contract, pixels.
        seed: of the random weights.
        pretrained_backbone: torchvision's ImageNet weights in the backbone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RetinaNet(config, pretrained_backbone=pretrained_backbone)
    stages = "".join(f"-C{level}" for level in config.backbone_levels)
    contract = DetectorContract(
        architecture=f"retinanet_{config.backbone}_fpn{config.fpn_channels}{stages}",
        input_size=input_size,
        class_names=data.class_names,
        category_ids=data.category_ids,
        levels=model.pyramid(input_size),
        produced_by=package_versions("retina-edge", "torch", "torchvision"),
    )
    return model, contract


def initialize_from(model: RetinaNet, contract: DetectorContract, source: Checkpoint) -> list[str]:
    """Copies every weight that fits from another checkpoint; what does not fit keeps its fresh values.

    The last layer of the class head is kept only if both have the same classes in the same order, the last of the
    box head only if both have as many anchors a position.

    Returns:
        One sentence for each part that starts afresh, to be said aloud.
    """
    fresh: list[str] = []
    weights = dict(source.weights)
    if source.contract.class_names != contract.class_names or source.contract.num_anchors != contract.num_anchors:
        fresh.append(f"class head re-initialized: {_summary(source.contract)} there, {_summary(contract)} here")
        weights = {name: value for name, value in weights.items() if ".cls_logits." not in name}
    if source.contract.num_anchors != contract.num_anchors:
        fresh.append("last layer of the box head re-initialized: another number of anchors a position")
        weights = {name: value for name, value in weights.items() if ".bbox_reg." not in name}
    own = model.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    unexpected = [name for name in weights if name not in fitting]
    if unexpected:
        fresh.append(f"{len(unexpected)} tensors do not fit and were left out, the first: {unexpected[0]}")
    missing = [n for n in own if n not in fitting and ".cls_logits." not in n and ".bbox_reg." not in n]
    if missing:
        fresh.append(f"{len(missing)} tensors keep their fresh values, the first: {missing[0]}")
    model.load_state_dict({**own, **fitting})
    return fresh


def quantized_model(source: Checkpoint, data: CocoDataset, *, batch: int, device: torch.device) -> RetinaNet:
    """A trained model under the rounding of INT8, with ranges from images spread over a data set.

    Args:
        source: the trained model.
        data: what it is fine-tuned on.
        batch: images it runs at a time.
        device: where.

    Raises:
        DataError: the data set has other classes.
    """
    contract = source.contract
    if (contract.class_names, contract.category_ids) != (data.class_names, data.category_ids):
        raise DataError(
            f"{data.annotations}: expected the classes of the model, {', '.join(contract.class_names)}, with its "
            f"category ids, found {', '.join(data.class_names)}"
        )
    model = source.build_model().to(device)
    count = min(RANGE_IMAGES, len(data))
    images = [data.images[index * len(data) // count] for index in range(count)]
    preprocess = Preprocess(contract).to(device)

    def batches() -> Iterator[Tensor]:
        for start in range(0, count, batch):
            frames, _ = letterbox_batch([image.read() for image in images[start : start + batch]], contract.input_size)
            yield preprocess(torch.from_numpy(frames).to(device))

    add_fake_quantization(model, batches())
    return model


def _summary(contract: DetectorContract) -> str:
    return f"{contract.num_classes} classes ({', '.join(contract.class_names[:3])}), {contract.num_anchors} anchors"
