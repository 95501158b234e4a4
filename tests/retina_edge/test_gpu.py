"""Tests of torch on an NVIDIA GPU, detection and mixed-precision training; ``make gpu`` runs them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

import retina_edge
from retina_edge import Detector
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.load import load_dataset
from retina_edge.evaluation.partners import agreement, find_partners
from retina_edge.training.initialize import new_model
from retina_edge.training.processes import ProcessGroup
from retina_edge.training.train_options import TrainOptions
from retina_edge.training.trainer import Trainer
from tests.models import TINY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
]
MODEL = Path(retina_edge.__file__).parent / "assets" / "treecrowns.pt"
SIZE = (128, 160)


def test_detections_agree_with_the_cpu(frames: list[npt.NDArray[np.uint8]]) -> None:
    # Without TF32, because its 10 bits are too few for the tolerances below. These are for means, because the rounding
    # of convolutions can exchange two overlapping boxes in NMS.
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with Detector.load(MODEL, device="cuda") as gpu, Detector.load(MODEL, device="cpu") as cpu:
            for actual, expected in zip(gpu(frames), cpu(frames), strict=True):
                sure = expected.above(0.5)
                partners = find_partners(sure.boxes, sure.labels, actual.boxes, actual.labels)
                share, displacement = agreement([partners])
                assert partners.sure > 3
                assert share is not None
                assert share >= 0.95
                assert displacement is not None
                assert displacement < 0.05
                drift = actual.scores[partners.pairs[:, 1]] - sure.scores[partners.pairs[:, 0]]
                assert np.abs(drift).mean() < 1e-4
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_training_changes_all_weights_and_can_be_resumed(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, amp: str
) -> None:
    pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval, which measures each epoch")
    data = load_dataset(tiny_coco, treecrowns / "images")
    options = TrainOptions(epochs=2, epoch_samples=16, batch=4, warmup_steps=2, amp=amp, ema=0.9, workers=1)

    def make_trainer() -> Trainer:
        model, contract = new_model(TINY, data, SIZE, seed=0)
        return Trainer(
            model,
            contract,
            data,
            data,
            augment=AugmentOptions(SIZE, SIZE),
            options=options,
            output=tmp_path / "model.pt",
            group=ProcessGroup(0, 1, torch.device("cuda")),
        )

    trainer = make_trainer()
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    result = trainer.run()
    assert result is not None
    assert math.isfinite(result.metrics["AP"])
    # A gradient scaler that skips every step would not change the weights.
    assert all(not torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())
    resumed = make_trainer()
    resumed.resume()
    assert resumed.step == resumed.total_steps == 8
