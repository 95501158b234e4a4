"""Tests of the preprocessing: from BGR pixels to the normalized channels that the network was trained on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from engines.core.contract import DetectorContract
from export.preprocess import Preprocess
from tests.export.heads import make_contract

# Rounding of float32 in another order of operations, on values of about 1.
ATOL = 1e-6


@pytest.mark.parametrize("color_order", ["RGB", "BGR"])
def test_preprocessing_equals_torchvisions_normalization(color_order: str) -> None:
    contract: DetectorContract = dataclasses.replace(
        make_contract(), color_order=color_order, mean=(0.1, 0.4, 0.7), std=(0.2, 0.3, 0.5)
    )
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), np.uint8))
    channels = images.permute(0, 3, 1, 2)
    ordered = channels.flip(1) if color_order == "RGB" else channels
    expected = F.normalize(ordered.float() / 255, contract.mean, contract.std)
    torch.testing.assert_close(Preprocess(contract)(images), expected, rtol=0, atol=ATOL)
