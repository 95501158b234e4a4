"""The losses of every assigner and class loss: independent of batch and order, finite, and learned from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from engines.core.errors import ContractError, TrainingError
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import load_dataset
from retina_edge.detector import Detector
from retina_edge.model.checkpoint import load_checkpoint
from retina_edge.model.config import octave_sizes
from retina_edge.model.retinanet import RetinaNet
from retina_edge.model.torch_executor import TorchExecutor
from retina_edge.training.atss import atss_matches
from retina_edge.training.criterion import RetinaNetCriterion
from retina_edge.training.initialize import new_model
from retina_edge.training.train_options import TrainOptions
from retina_edge.training.trainer import Trainer
from tests.interruption import interrupt_at
from tests.models import TINY, lively
from tests.retina_edge.training.scenes import iou
from tests.retina_edge.training.test_trainer import CPU, OPTIONS, assert_equal, make_trainer

SIZE = (96, 128)
BOX_LOSSES = ("l1", "smooth_l1", "giou", "diou", "ciou")
# Every allowed pair of assigner and class loss.
LOSSES = [
    ("iou", "focal"),
    ("iou", "quality-focal"),
    ("atss", "focal"),
    ("atss", "quality-focal"),
    ("free-anchor", "focal"),
]
Heads = tuple[list[Tensor], list[Tensor]]
# Sums of the same numbers in another order.
SAME = 1e-5


@pytest.fixture(scope="module")
def data(tiny_coco: Path, treecrowns: Path) -> DetectionDataset:
    return load_dataset(tiny_coco, treecrowns / "images")


@pytest.fixture(scope="module")
def model() -> RetinaNet:
    torch.manual_seed(0)
    return lively(RetinaNet(dataclasses.replace(TINY, num_classes=3, anchor_sizes=octave_sizes((16, 32, 64)))))


@pytest.fixture
def heads(model: RetinaNet) -> Heads:
    """Raw heads of three images, with scores from 0 to 1."""
    with torch.no_grad():
        classes, boxes = model(torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(1)))
    return [level.requires_grad_() for level in classes], [level.requires_grad_() for level in boxes]


@pytest.fixture(params=BOX_LOSSES)
def box_loss(model: RetinaNet, request: pytest.FixtureRequest) -> Iterator[str]:
    """Every kind of box loss in turn, which the model then has."""
    head = model.head.regression_head
    before, head._loss_type = head._loss_type, request.param
    yield request.param
    head._loss_type = before


def targets_of(*images: list[list[float]]) -> list[dict[str, Tensor]]:
    """Return the targets of images with these boxes, of the classes 0, 1, 2, 0, ..."""
    return [{"boxes": torch.tensor(boxes).view(-1, 4), "labels": torch.arange(len(boxes)) % 3} for boxes in images]


ORDINARY = [[10.3, 20.1, 42.2, 51.7], [50.4, 30.9, 87.1, 88.8], [44.0, 12.5, 71.3, 39.9], [60.2, 35.7, 95.5, 80.1]]
TARGETS = targets_of(ORDINARY, [], ORDINARY[:1])


def flattened(head: list[Tensor]) -> Tensor:
    """Return raw heads as [N, anchors, values], in the order of the anchors."""
    values = {27: 3, 36: 4}[head[0].shape[1]]  # nine anchors, and three classes or four deltas
    return torch.cat([level.permute(0, 2, 3, 1).reshape(len(level), -1, values) for level in head], 1).detach()


def check_losses(losses: dict[str, Tensor], heads: Heads) -> None:
    """Check that losses and their gradients are finite, and that every head has a gradient."""
    assert sorted(losses) == ["bbox_regression", "classification"]
    sum(losses.values(), torch.zeros(())).backward()  # type: ignore[no-untyped-call]
    for value in (*losses.values(), *(level.grad for head in heads for level in head)):
        assert value is not None
        assert value.isfinite().all()


def test_the_default_is_that_of_torchvision_bit_for_bit(model: RetinaNet, box_loss: str) -> None:
    reference = TorchvisionRetinaNet(model.backbone, 3, anchor_generator=model.anchor_generator, head=model.head)
    images = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(2))
    features = list(model.backbone(images).values())
    anchors = model.anchor_generator(ImageList(images, [SIZE] * 3), features)
    expected = reference.compute_loss(TARGETS, model.head(features), anchors)
    actual = RetinaNetCriterion(model)(model(images), TARGETS, SIZE)
    for name, value in expected.items():
        assert value.item() > 0, (name, box_loss)
        assert torch.equal(actual[name], value), (name, box_loss)


@pytest.mark.parametrize(("assigner", "class_loss"), LOSSES)
def test_the_losses_of_a_batch_are_the_mean_of_those_of_its_images(
    model: RetinaNet, heads: Heads, assigner: str, class_loss: str
) -> None:
    criterion = RetinaNetCriterion(model, assigner=assigner, class_loss=class_loss)
    together = criterion(heads, TARGETS, SIZE)
    alone = [
        criterion(([c[n : n + 1] for c in heads[0]], [b[n : n + 1] for b in heads[1]]), TARGETS[n : n + 1], SIZE)
        for n in range(3)
    ]
    for name, value in together.items():
        mean = sum(losses[name].item() for losses in alone) / 3
        assert value.item() == pytest.approx(mean, rel=SAME), name
        assert mean > 0


@pytest.mark.parametrize(("assigner", "class_loss"), LOSSES)
def test_the_order_of_the_boxes_does_not_matter(model: RetinaNet, heads: Heads, assigner: str, class_loss: str) -> None:
    criterion = RetinaNetCriterion(model, assigner=assigner, class_loss=class_loss)
    one = criterion(heads, TARGETS, SIZE)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = [{name: value[order] for name, value in TARGETS[0].items()}, *TARGETS[1:]]
    for name, value in criterion(heads, shuffled, SIZE).items():
        assert value.item() == pytest.approx(one[name].item(), rel=SAME), name


@pytest.mark.parametrize(("assigner", "class_loss"), LOSSES)
@pytest.mark.parametrize(
    "images",
    [
        ([], [], []),
        ([[-200.0, -200, 400, 400]], [[0.0, 0, 128, 96]], []),  # larger than every anchor
        ([[61.0, 61, 63, 63]], [[60.2, 61, 60.3, 61.1], [8.0, 8, 8.5, 60]], []),  # between the centers of anchors
        ([ORDINARY[0]] * 3, ORDINARY, []),  # an object that is labeled three times
    ],
)
def test_losses_and_gradients_are_finite(
    model: RetinaNet, heads: Heads, box_loss: str, images: Any, assigner: str, class_loss: str
) -> None:
    criterion = RetinaNetCriterion(model, assigner=assigner, class_loss=class_loss)
    losses = criterion(heads, targets_of(*images), SIZE)
    check_losses(losses, heads)
    assert (losses["bbox_regression"].item() > 0) == any(images), box_loss


@pytest.mark.parametrize("assigner", ["iou", "atss", "free-anchor"])
def test_each_box_loss_is_used(model: RetinaNet, heads: Heads, assigner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = []
    for kind in BOX_LOSSES:
        monkeypatch.setattr(model.head.regression_head, "_loss_type", kind)
        values.append(RetinaNetCriterion(model, assigner=assigner)(heads, TARGETS, SIZE)["bbox_regression"].item())
    assert len(set(values)) == len(BOX_LOSSES), values


def test_with_atss_torchvision_computes_the_losses_of_other_matches(model: RetinaNet, heads: Heads) -> None:
    anchors = model.anchor_generator(ImageList(torch.zeros(0, 3, *SIZE), [SIZE] * 3), heads[0])
    grids = [(12, 16), (6, 8), (3, 4)]  # strides 8, 16 and 32
    matches = [atss_matches(target["boxes"], anchors[0], grids) for target in TARGETS]
    outputs = {"cls_logits": flattened(heads[0]), "bbox_regression": flattened(heads[1])}
    expected = model.head.compute_loss(TARGETS, outputs, anchors, matches)
    actual = RetinaNetCriterion(model, assigner="atss")(heads, TARGETS, SIZE)
    default = RetinaNetCriterion(model)(heads, TARGETS, SIZE)
    for name, value in expected.items():
        assert torch.equal(actual[name], value)
        assert not torch.equal(default[name], value)


def test_the_quality_focal_loss_equals_a_loop_over_the_anchors(model: RetinaNet, heads: Heads) -> None:
    """With the assignment of torchvision; the loss of the boxes is the same as with the focal loss."""
    criterion = RetinaNetCriterion(model, class_loss="quality-focal")
    losses = criterion(heads, TARGETS, SIZE)
    assert torch.equal(losses["bbox_regression"], RetinaNetCriterion(model)(heads, TARGETS, SIZE)["bbox_regression"])
    anchors = model.anchor_generator(ImageList(torch.zeros(0, 3, *SIZE), [SIZE]), heads[0])[0]
    logits, deltas = (flattened(head) for head in heads)
    expected = 0.0
    for n, target in enumerate(TARGETS):
        matches = torch.full((len(anchors),), -1)
        if len(target["boxes"]):
            matches = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(target["boxes"], anchors))
        predicted = model.head.regression_head.box_coder.decode_single(deltas[n], anchors).tolist()
        total, positives = 0.0, 0
        for match, row, box in zip(matches.tolist(), logits[n].tolist(), predicted, strict=True):
            positives += match >= 0
            for label, logit in enumerate(row if match != Matcher.BETWEEN_THRESHOLDS else []):
                quality = 0.0
                if match >= 0 and target["labels"][match] == label:
                    quality = iou(box, target["boxes"][match].tolist())
                score = 1 / (1 + math.exp(-logit))
                cross_entropy = -quality * math.log(score) - (1 - quality) * math.log(1 - score)
                total += (quality - score) ** 2 * cross_entropy
        expected += total / max(1, positives) / len(TARGETS)
    assert losses["classification"].item() == pytest.approx(expected, rel=1e-4)


def test_the_quality_focal_loss_ignores_the_anchors_that_the_focal_loss_ignores(model: RetinaNet, heads: Heads) -> None:
    """Anchors with an IoU between 0.4 and 0.5 that no object needs: their scores get no gradient."""
    ignored = {}
    for class_loss in ("focal", "quality-focal"):
        loss = RetinaNetCriterion(model, class_loss=class_loss)(heads, TARGETS, SIZE)["classification"]
        gradients = torch.autograd.grad(loss, heads[0])
        ignored[class_loss] = [gradient == 0 for gradient in gradients]
        assert any(level.any() for level in ignored[class_loss])
    assert_equal(ignored["focal"], ignored["quality-focal"])


@pytest.mark.parametrize(("assigner", "class_loss"), LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_heads_of_mixed_precision_give_the_losses_of_their_values(
    model: RetinaNet, heads: Heads, assigner: str, class_loss: str, dtype: torch.dtype
) -> None:
    """The losses are computed in float32, so they differ by nothing from those of the rounded heads in float32."""
    criterion = RetinaNetCriterion(model, assigner=assigner, class_loss=class_loss)
    half: Any = [[level.detach().to(dtype).requires_grad_() for level in head] for head in heads]
    losses = criterion(half, TARGETS, SIZE)
    expected = criterion(([level.float() for level in half[0]], [level.float() for level in half[1]]), TARGETS, SIZE)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name])
    check_losses(losses, half)


def test_the_quality_of_a_positive_is_the_iou_of_its_predicted_box(model: RetinaNet, heads: Heads) -> None:
    """The loss of a score is smallest at the IoU of the box that the model predicts, which gets no gradient from it."""
    criterion = RetinaNetCriterion(model, assigner="atss", class_loss="quality-focal")
    target = targets_of([[32.0, 32, 64, 64]])
    classes = [torch.full_like(level[:1], -60.0) for level in heads[0]]
    deltas = [torch.zeros_like(level[:1]).requires_grad_() for level in heads[1]]
    anchors = model.anchor_generator(ImageList(torch.zeros(0, 3, *SIZE), [SIZE]), classes)[0]
    # With zero deltas the predicted box is the anchor. The best anchor here is 32x32 around (48, 48).
    (best,) = torch.where((anchors == torch.tensor([32.0, 32, 64, 64])).all(1))[0].tolist()
    height, width = classes[0].shape[2:]
    per_position = classes[0].shape[1] // 3
    level, index = (0, best) if best < height * width * per_position else (1, best - height * width * per_position)
    width = classes[level].shape[3]
    position, anchor = divmod(index, per_position)
    place = (0, anchor * 3, position // width, position % width)  # the score of class 0 of that anchor
    values = {}
    for logit in (-60.0, 0.0, 60.0):
        classes[level][place] = logit
        losses = criterion((classes, deltas), target, SIZE)
        values[logit] = losses["classification"]
        assert losses["bbox_regression"].requires_grad
        assert not values[logit].requires_grad  # here only the deltas could give a gradient
    # The IoU is 1: a score of 1 costs nothing, one of 0.5 costs log(2) / 4, and one of exp(-60) costs 60, all divided
    # by the number of positives.
    count = round(60 / (values[-60.0] - values[60.0]).item())
    assert count >= 1
    assert (values[-60.0] - values[60.0]).item() == pytest.approx(60 / count, rel=1e-3)
    assert (values[0.0] - values[60.0]).item() == pytest.approx(0.1733 / count, rel=1e-3)


@pytest.mark.parametrize(("assigner", "class_loss"), LOSSES[1:])
@pytest.mark.parametrize(("amp", "steps"), [("bf16", 30), pytest.param("off", 120, marks=pytest.mark.slow)])
def test_training_on_two_images_lowers_the_loss_and_finds_their_objects(
    data: DetectionDataset, assigner: str, class_loss: str, amp: str, steps: int
) -> None:
    """The class losses of some begin almost at zero, so their sum with the box loss is compared."""
    size = (96, 96)
    config = dataclasses.replace(TINY, box_loss="giou", anchor_sizes=octave_sizes((8, 16, 32)))
    model, contract = new_model(config, data, size, seed=0)
    changes: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 2e-3, "schedule": "constant", "ema": 0.0}
    options = dataclasses.replace(OPTIONS, **changes, amp=amp, assigner=assigner, class_loss=class_loss)
    augment = AugmentOptions(size, size)
    trainer = Trainer(
        model, contract, data, data, augment=augment, options=options, output=Path("unused.pt"), group=CPU
    )
    trainer.model.train()
    images, targets = next(iter(trainer.loader))
    totals = []
    for trainer.step in range(steps):
        totals.append(sum(trainer.train_step(images, targets).values()))
    assert totals[-1] < 0.5 * totals[0]
    gradients = [parameter.grad for parameter in trainer.model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    if steps >= 120:
        detector = Detector(TorchExecutor(trainer.evaluated_model(), contract, device=CPU.device))
        for image, target in zip(images, targets, strict=True):
            found = detector(image.numpy())
            sure = torch.from_numpy(found.boxes[found.scores > 0.3])
            recall = (box_iou(target["boxes"], sure).amax(1) > 0.5).float().mean().item()
            assert recall > 0.8


@pytest.mark.parametrize(("assigner", "class_loss"), [("atss", "quality-focal"), ("free-anchor", "focal")])
def test_a_resumed_run_equals_an_uninterrupted_one(
    data: DetectionDataset, tmp_path: Path, assigner: str, class_loss: str
) -> None:
    losses: dict[str, Any] = {"assigner": assigner, "class_loss": class_loss, "epochs": 1}
    whole = make_trainer(data, tmp_path / "whole.pt", **losses)
    whole.run()
    broken = make_trainer(data, tmp_path / "broken.pt", **losses, on_step=interrupt_at(2))
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = make_trainer(data, tmp_path / "broken.pt", **losses)
    resumed.resume()
    resumed.run()
    actual, expected = load_checkpoint(resumed.last_path), load_checkpoint(whole.last_path)
    assert_equal(actual.training, expected.training)
    assert_equal(actual.weights, expected.weights)
    with pytest.raises(TrainingError, match=f"assigner: expected '{assigner}', got 'iou'"):
        make_trainer(data, tmp_path / "broken.pt", epochs=1).resume()


def test_a_state_without_losses_is_one_of_the_paper(data: DetectionDataset, tmp_path: Path) -> None:
    """Older files lack these settings."""
    trainer = make_trainer(data, tmp_path / "model.pt", epochs=1)
    trainer.save_last()
    content = torch.load(trainer.last_path, weights_only=True)
    for name in ("assigner", "class_loss"):
        del content["training"]["settings"][name]
    torch.save(content, trainer.last_path)
    trainer.resume()
    with pytest.raises(TrainingError, match="class_loss: expected 'focal', got 'quality-focal'"):
        make_trainer(data, tmp_path / "model.pt", epochs=1, class_loss="quality-focal").resume()


def test_losses_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(
        ContractError, match=r"class_loss: expected focal with the assigner free-anchor, .*, got quality"
    ):
        TrainOptions(assigner="free-anchor", class_loss="quality-focal")
    with pytest.raises(ContractError, match="assigner: expected one of iou, atss, free-anchor, got simota"):
        TrainOptions(assigner="simota")
    with pytest.raises(ContractError, match="class_loss: expected one of focal, quality-focal, got"):
        TrainOptions(class_loss="quality_focal")
