"""torchvision's checkpoints: what they detect there, they detect here, and what is none is refused."""

from __future__ import annotations

import argparse
import copy
import hashlib
import re
import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.retinanet import RetinaNet as TorchvisionRetinaNet

from retina_edge import convert, export
from retina_edge.detections import Detections
from retina_edge.detector import Detector
from retina_edge.model import torchvision_checkpoint
from retina_edge.model.checkpoint import load_checkpoint
from retina_edge.model.torchvision_checkpoint import load_file

Images = npt.NDArray[np.uint8]

INPUT_SIZE = (256, 320)
BUILDERS: dict[str, Callable[..., TorchvisionRetinaNet]] = {
    "retinanet_resnet50_fpn": retinanet_resnet50_fpn,
    "retinanet_resnet50_fpn_v2": retinanet_resnet50_fpn_v2,
}
# What the project promises. Convolutions summed in another order move logits by some 1e-5.
PIXELS = 0.05
SCORE = 1e-4
# A batch may be summed in another order than its images.
BATCH_PIXELS = 1e-3
BATCH_SCORE = 1e-6


def lively(model: TorchvisionRetinaNet, image: Tensor, seed: int) -> TorchvisionRetinaNet:
    """Random weights and statistics, the last layers scaled so that many boxes pass: logits spread by 1.2 around
    -4.5 and deltas by 0.4."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.7, 1.4),
                (module.weight, 0.5, 1.0),
                (module.bias, -0.2, 0.2),
            ):
                nn.init.uniform_(values, low, high, generator=generator)  # type: ignore[arg-type]
    classes, boxes = model.head.classification_head, model.head.regression_head
    for layer in (*classes.conv.modules(), *boxes.conv.modules()):
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.constant_(classes.cls_logits.bias, -4.5)
    model.eval()
    with torch.inference_mode():
        images, _ = model.transform([image])
        outputs = model.head(list(model.backbone(images.tensors).values()))
        classes.cls_logits.weight *= 1.2 / outputs["cls_logits"].std()
        boxes.bbox_reg.weight *= 0.4 / outputs["bbox_regression"].std()
    return model


def as_torchvision(image: Images) -> Tensor:
    """BGR uint8 [h, w, 3] to RGB float [3, h, w], 0 to 1."""
    return torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1).float() / 255


def match(ours: Detections, theirs: dict[str, Tensor]) -> tuple[float, float]:
    """Greatest difference of boxes and of scores, each detection paired with one of torchvision's of its label.

    In pairs, not row by row: where two scores differ by less than the convolutions' rounding, either may come
    first.
    """
    boxes, scores, labels = (theirs[key].numpy() for key in ("boxes", "scores", "labels"))
    assert len(ours) == len(labels)
    np.testing.assert_array_equal(np.sort(ours.labels), np.sort(labels))
    free = np.ones(len(labels), bool)
    pixels, score = 0.0, 0.0
    for i in range(len(ours)):
        distance = np.abs(boxes - ours.boxes[i]).max(axis=1)
        distance[~free | (labels != ours.labels[i])] = np.inf
        nearest = int(distance.argmin())
        free[nearest] = False
        pixels = max(pixels, float(distance[nearest]))
        score = max(score, abs(float(scores[nearest] - ours.scores[i])))
    return pixels, score


@pytest.fixture(scope="module")
def images(frames: list[Images]) -> list[Images]:
    """Two real images and two of noise, as large as the input, so that nobody resizes them."""
    noise = np.random.default_rng(0).integers(0, 256, (2, *INPUT_SIZE, 3), np.uint8)
    height, width = INPUT_SIZE
    return [*(frame[:height, :width].copy() for frame in frames[:2]), *noise]


# Three classes give fewer detections than the 300 allowed, 91 more, and top_k cuts on all levels but the last.
@pytest.mark.parametrize(
    ("arch", "num_classes", "seed", "batch"),
    [("retinanet_resnet50_fpn", 3, 2, "dynamic"), ("retinanet_resnet50_fpn_v2", 91, 0, "dynamic")],
)
def test_torchvisions_detections(
    arch: str, num_classes: int, seed: int, batch: str, images: list[Images], tmp_path: Path
) -> None:
    """convert, export and ONNX Runtime against torchvision's model in evaluation mode."""
    torch.manual_seed(seed)
    height, width = INPUT_SIZE
    model = BUILDERS[arch](
        weights=None, weights_backbone=None, num_classes=num_classes, min_size=height, max_size=width
    )
    lively(model, as_torchvision(images[0]), seed)
    source, checkpoint, onnx = (tmp_path / name for name in ("source.pth", "model.pt", "model.onnx"))
    torch.save(model.state_dict(), source)
    assert convert.main([str(source), "--arch", arch, "--input", "256x320", "-o", str(checkpoint)]) == 0
    picture = tmp_path / "real.png"
    assert cv2.imwrite(str(picture), images[0])
    arguments = [str(checkpoint), "-o", str(onnx), "--batch", batch, "--images", str(picture)]
    assert export.main(arguments) == 0

    with torch.inference_mode():
        expected = model([as_torchvision(image) for image in images])
    with Detector.load(onnx) as detector:
        together = detector(images)
        alone = [detector(image) for image in images]
    for ours, theirs in zip(together, expected, strict=True):
        assert len(ours) > 200
        pixels, score = match(ours, theirs)
        assert pixels <= PIXELS
        assert score <= SCORE
    for ours, one in zip(together, alone, strict=True):
        np.testing.assert_array_equal(ours.labels, one.labels)
        np.testing.assert_allclose(ours.boxes, one.boxes, rtol=0, atol=BATCH_PIXELS)
        np.testing.assert_allclose(ours.scores, one.scores, rtol=0, atol=BATCH_SCORE)


Weights = dict[str, Tensor]
V1 = "retinanet_resnet50_fpn"


@pytest.fixture(scope="module")
def torchvision_model() -> TorchvisionRetinaNet:
    torch.manual_seed(0)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    return lively(model, torch.rand(3, 64, 64), 0)


@pytest.fixture(scope="module")
def weights(torchvision_model: TorchvisionRetinaNet) -> Weights:
    return dict(torchvision_model.state_dict())


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a conversion that fails."""
    assert convert.main([*arguments, "--input", "64x96", "-o", "never.pt"]) == 1
    assert not Path("never.pt").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def assert_same_weights(found: Mapping[str, Tensor], expected: Weights) -> None:
    assert set(found) == set(expected)
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_the_checkpoint(weights: Weights, tmp_path: Path) -> None:
    source, names, path = (tmp_path / name for name in ("source.pth", "names.txt", "model.pt"))
    torch.save(weights, source)
    names.write_text("background\nfir tree \nÉrable\n\n", encoding="utf-8")
    options = ["--arch", V1, "--input", "64x96", "--class-names", str(names), "-o", str(path)]
    assert convert.main([str(source), *options]) == 0
    checkpoint = load_checkpoint(path)
    assert_same_weights(checkpoint.weights, weights)
    assert (checkpoint.config.backbone_norm, checkpoint.config.norm_eps) == ("batch", 1e-5)
    contract = checkpoint.contract
    assert (contract.architecture, contract.input_size) == (V1, (64, 96))
    assert contract.class_names == ("background", "fir tree", "Érable")
    assert contract.category_ids == (0, 1, 2)
    assert [level.anchor_sizes for level in contract.levels] == [
        (32, 40, 50),
        (64, 80, 101),
        (128, 161, 203),
        (256, 322, 406),
        (512, 645, 812),
    ]
    assert [level.feature_size for level in contract.levels] == [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    assert contract.produced_by["torchvision"] == torchvision.__version__
    # torchvision's defaults.
    settings = (contract.score_threshold, contract.iou_threshold, contract.top_k, contract.max_detections)
    assert settings == (0.05, 0.5, 1000, 300)


def test_a_checkpoint_of_the_reference_training(weights: Weights, tmp_path: Path) -> None:
    source = tmp_path / "model_25.pth"
    arguments = argparse.Namespace(lr=0.01, output_dir="runs", lr_steps=[16, 22])
    torch.save({"model": weights, "optimizer": {"state": {}}, "args": arguments, "epoch": 25}, source)
    found, eps = load_file(source)
    assert_same_weights(found, weights)
    assert eps == 1e-5


def test_heads_named_as_before_torchvision_0_12(weights: Weights) -> None:
    old = {}
    for name, value in weights.items():
        new = re.fullmatch(r"(head\..*_head\.conv)\.(\d)\.0\.(weight|bias)", name)
        old[f"{new[1]}.{2 * int(new[2])}.{new[3]}" if new else name] = value
    assert len(set(old) - set(weights)) == 16
    checkpoint = torchvision_checkpoint.convert(old, V1, input_size=(64, 96))
    assert_same_weights(checkpoint.weights, weights)


@pytest.fixture(scope="module")
def frozen(weights: Weights) -> Weights:
    """As torchvision publishes it: batch normalisation without the counters, which only training needs."""
    return {name: value for name, value in weights.items() if "num_batches" not in name}


@pytest.fixture(scope="module")
def frozen_file(frozen: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("frozen") / "source.pth"
    torch.save(frozen, source)
    return source


def test_frozen_normalisation(torchvision_model: TorchvisionRetinaNet, frozen: Weights) -> None:
    """The same numbers as torchvision's, with an epsilon so great that ignoring it would show."""
    eps = 0.25
    checkpoint = torchvision_checkpoint.convert(frozen, V1, input_size=(64, 96), norm_eps=eps)
    assert (checkpoint.config.backbone_norm, checkpoint.config.norm_eps) == ("frozen", eps)
    image = torch.rand(1, 3, 64, 96)
    theirs = copy.deepcopy(torchvision_model)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    with torch.inference_mode():
        logits, _ = checkpoint.build_model()(image)
        features = list(theirs.backbone(image).values())
        expected = theirs.head.classification_head
        for ours, level in zip(logits, features, strict=True):
            torch.testing.assert_close(ours, expected.cls_logits(expected.conv(level)), rtol=0, atol=1e-4)


def test_the_published_file_is_known_by_its_hash(frozen_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its frozen normalisation has no epsilon, which nothing inside the file tells."""
    assert load_file(frozen_file)[1] == 1e-5
    _, published = torchvision_checkpoint.PUBLISHED["coco_v1"]
    assert published.url.endswith("retinanet_resnet50_fpn_coco-eeacb38b.pth")
    digest = hashlib.sha256(frozen_file.read_bytes()).hexdigest()
    stand_in = SimpleNamespace(url=f"https://example.org/retinanet_coco-{digest[:8]}.pth")
    monkeypatch.setitem(torchvision_checkpoint.PUBLISHED, "coco_v1", (V1, stand_in))
    assert load_file(frozen_file)[1] == 0


class StandIn:
    """torchvision's weights, without its server."""

    url = "https://example.org/weights-00000000.pth"

    def __init__(self, answer: Weights | Exception) -> None:
        self.answer = answer

    def get_state_dict(self, *, progress: bool, check_hash: bool) -> Weights:
        assert progress
        assert check_hash
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_weights_by_name(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torchvision_checkpoint.PUBLISHED, "coco_v1", (V1, StandIn(weights)))
    found, eps = torchvision_checkpoint.load_published("coco_v1", V1)
    assert eps == 0
    assert_same_weights(found, weights)


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), TimeoutError("no answer"), RuntimeError("invalid hash value")]
)
def test_a_download_that_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setitem(torchvision_checkpoint.PUBLISHED, "coco_v1", (V1, StandIn(error)))
    line = refused(capsys, "coco_v1", "--arch", V1)
    assert "could not download https://example.org/weights-00000000.pth" in line
    assert "give the file instead" in line


def test_a_name_of_the_other_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "coco_v2", "--arch", V1)
    assert "coco_v2: these weights are of retinanet_resnet50_fpn_v2, got --arch retinanet_resnet50_fpn" in line


def test_another_architecture_names_the_keys(capsys: pytest.CaptureFixture[str], frozen_file: Path) -> None:
    line = refused(capsys, str(frozen_file), "--arch", "retinanet_resnet50_fpn_v2")
    assert "expected weights of retinanet_resnet50_fpn_v2; missing: " in line
    assert "head.classification_head.conv.0.1.weight" in line
    assert re.search(r"missing: (\S+, ){2}\S+ and \d+ more; unexpected: head\S+\.conv\.0\.0\.bias, ", line)
    assert "backbone.fpn.extra_blocks.p6.weight [256, 256, 3, 3] instead of [256, 2048, 3, 3]" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rpn.head.conv.weight": torch.zeros(1)}, "with head.classification_head.cls_logits.weight, got keys rpn"),
        ({torchvision_checkpoint.LOGITS: torch.zeros(20, 256, 3, 3)}, "expected rows for 9 anchors .* got 20"),
        ({"model": {"weight": "text"}}, "expected a state dict, .* got dict with keys model"),
        ([torch.zeros(1)], "expected a state dict, .* got list with no keys"),
        (Path("a pickled object"), "torch cannot read it: .*"),
        (b"not a checkpoint", "torch cannot read it: .*"),
    ],
)
def test_foreign_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: object, message: str) -> None:
    source = tmp_path / "foreign.pth"
    if isinstance(content, bytes):
        source.write_bytes(content)
    else:
        torch.save(content, source)
    assert re.search(message, refused(capsys, str(source), "--arch", V1))


def test_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "missing.pth", "--arch", V1)
    assert "missing.pth: expected a checkpoint of torchvision or one of coco_v1, coco_v2" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\n\nb\n", "names.txt, line 2: expected a class name"), ("a\nb\n", "class names: expected 3, .* got 2")],
)
def test_wrong_class_names(
    capsys: pytest.CaptureFixture[str], frozen_file: Path, tmp_path: Path, text: str, message: str
) -> None:
    names = tmp_path / "names.txt"
    names.write_text(text)
    assert re.search(message, refused(capsys, str(frozen_file), "--arch", V1, "--class-names", str(names)))


def test_91_classes_are_cocos() -> None:
    names = torchvision_checkpoint._class_names(91, None)
    assert (names[0], names[1], names[90]) == ("__background__", "person", "toothbrush")
    assert torchvision_checkpoint._class_names(3, None) == ("class_0", "class_1", "class_2")
