"""The model has torchvision's modules and anchors, and the paper's initialization."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.image_list import ImageList

from engines.core.errors import ModelFileError
from retina_edge.model.config import BACKBONES, ModelConfig, octave_sizes
from retina_edge.model.retinanet import RetinaNet
from tests.models import TINY


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_makes_raw_heads_of_all_levels(backbone: str) -> None:
    config = ModelConfig(3, backbone, fpn_channels=32, head_depth=2)
    model = RetinaNet(config).eval()
    logits, deltas = model(torch.zeros(2, 3, 64, 96))
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    assert [tuple(level.shape) for level in logits] == [(2, 27, *size) for size in sizes]
    assert [tuple(level.shape) for level in deltas] == [(2, 36, *size) for size in sizes]


def test_initialization_follows_the_paper() -> None:
    """arXiv 1708.02002, section 4.1: a prior of 0.01 in the class bias, weights with a standard deviation of 0.01."""
    head = RetinaNet(ModelConfig(2, "resnet18")).head
    assert torch.sigmoid(head.classification_head.cls_logits.bias).allclose(torch.tensor(0.01))
    for branch in (head.classification_head, head.regression_head):
        convolutions = [module for module in branch.modules() if isinstance(module, nn.Conv2d)]
        assert len(convolutions) == 5
        for convolution in convolutions:
            assert convolution.weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_octave_sizes_equal_those_of_torchvision() -> None:
    expected = torchvision.models.detection.retinanet._default_anchorgen().sizes
    assert octave_sizes((32, 64, 128, 256, 512)) == tuple(tuple(map(float, sizes)) for sizes in expected)


@pytest.mark.parametrize("input_size", [(800, 800), (320, 320), (544, 960), (416, 736)])
def test_the_anchors_of_the_pyramid_equal_those_of_torchvision(input_size: tuple[int, int]) -> None:
    model = RetinaNet(ModelConfig(1, "resnet18", fpn_channels=32, head_depth=1))
    levels = model.pyramid(input_size)
    features = [torch.zeros(1, 1, *level.feature_size) for level in levels]
    expected = model.anchor_generator(ImageList(torch.zeros(1, 3, *input_size), [input_size]), features)[0]
    ours = []
    for level in levels:
        y, x = np.mgrid[: level.feature_size[0], : level.feature_size[1]].reshape(2, -1)
        shift = np.stack([x * level.stride[1], y * level.stride[0]] * 2, axis=1)
        ours.append((shift[:, None] + level.cell_anchors()[None]).reshape(-1, 4))
    np.testing.assert_array_equal(np.concatenate(ours), expected.numpy())


def test_strides_at_800_are_not_powers_of_two() -> None:
    model = RetinaNet(ModelConfig(1, "resnet18", fpn_channels=32, head_depth=1))
    assert [level.stride for level in model.pyramid((800, 800))] == [(8, 8), (16, 16), (32, 32), (61, 61), (114, 114)]


def test_pyramid_does_not_change_the_model() -> None:
    model = RetinaNet(TINY).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.pyramid((64, 64))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_extra_levels_have_the_configured_origin() -> None:
    # Both origins have 256 channels, so that torchvision's guess from the counts would be wrong for one of them.
    for source in ("p", "c"):
        config = ModelConfig(1, "resnet18", (3, 4), extra_levels=source, anchor_sizes=octave_sizes((16, 32, 64, 128)))
        assert RetinaNet(config).backbone.fpn.extra_blocks.use_P5 is (source == "p")


def test_configuration_survives_json_and_refuses_bad_values() -> None:
    assert ModelConfig.from_json(TINY.to_json()) == TINY
    for changes, message in (
        ({"backbone": "vgg"}, "backbone: expected one of resnet18"),
        ({"fpn_channels": 100}, "multiple of 32"),
        ({"head_depth": 5}, "head_depth"),
        ({"num_classes": 0}, "num_classes"),
        ({"anchor_sizes": ((32.0,),)}, "expected sizes for 5 levels"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelConfig(**{"num_classes": 1, **changes})  # type: ignore[arg-type]
    for text in ("", "{}", "[]", '{"num_classes": 1, "other": 2}'):
        with pytest.raises(ModelFileError, match="model configuration"):
            ModelConfig.from_json(text)
