"""The comparison of a runner with a reference: it accepts the rounding of float16, and rejects faults of a runner."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from engines.core.contract import DetectorContract
from engines.core.letterbox import letterbox_batch
from engines.plugins.specification import detections_of
from export.network import Network
from retina_edge.assets import MODEL
from retina_edge.model.checkpoint import load_checkpoint
from tests.parity import DECIBELS, PIXELS, SHARE, Heads, least_decibels, partners

Images = npt.NDArray[np.uint8]
# Noise of raw heads, logits and deltas, that is less than the rounding of float16.
LOGITS, DELTAS = 0.005, 0.0005


class Sample:
    """The sample model with three letterboxed images."""

    def __init__(self, frames: list[Images]) -> None:
        checkpoint = load_checkpoint(MODEL.with_suffix(".pt"))
        self.contract: DetectorContract = checkpoint.contract
        self._network = Network(checkpoint.build_model(), self.contract).eval()
        self.images, _ = letterbox_batch(frames[:3], self.contract.input_size)
        self.heads = self.run(self.images)

    def run(self, images: Images) -> Heads:
        with torch.inference_mode():
            return [head.numpy() for head in self._network(torch.from_numpy(np.ascontiguousarray(images)))]

    def accepts(self, heads: Heads) -> tuple[bool, bool]:
        """Return the verdicts on raw heads: by decibels, and by the partners of the sure detections of every image."""
        found, expected = detections_of(heads, self.contract), detections_of(self.heads, self.contract)
        matches = [partners(found, expected, image) for image in range(len(self.images))]
        paired = all(share >= SHARE and distance < PIXELS for share, distance in matches)
        return least_decibels(heads, self.heads) > DECIBELS, paired


@pytest.fixture(scope="module")
def sample(frames: list[Images]) -> Sample:
    return Sample(frames)


@pytest.mark.parametrize("seed", range(3))
def test_the_rounding_of_float16_is_accepted(sample: Sample, seed: int) -> None:
    generator, levels = np.random.default_rng(seed), len(sample.contract.levels)
    noise = [LOGITS] * levels + [DELTAS] * levels
    noisy = [
        head + generator.normal(0, spread, head.shape).astype(np.float32)
        for head, spread in zip(sample.heads, noise, strict=True)
    ]
    assert sample.accepts(noisy) == (True, True)


def test_a_wrong_picture_is_rejected(sample: Sample) -> None:
    images = sample.images.copy()
    images[2] = images[0]
    assert sample.accepts(sample.run(images)) == (False, False)


def test_a_letterbox_that_is_two_pixels_off_is_rejected(sample: Sample) -> None:
    assert sample.accepts(sample.run(np.roll(sample.images, 2, axis=2))) == (False, False)


def test_exchanged_rows_of_the_batch_are_rejected(sample: Sample) -> None:
    assert sample.accepts([head[[1, 0, 2]] for head in sample.heads]) == (False, False)


def test_a_head_that_is_not_a_number_is_rejected(sample: Sample) -> None:
    heads = [head.copy() for head in sample.heads]
    heads[-1][0, 0, 0, 0] = np.nan
    with pytest.raises(AssertionError):
        least_decibels(heads, sample.heads)
