"""Conversion of torchvision's checkpoints, and refusal of other files. tests/export compares the detections."""

from __future__ import annotations

import argparse
import copy
import hashlib
import re
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from engines.core.errors import ModelFileError
from retina_edge import Detector, convert
from retina_edge.model import torchvision_checkpoint
from retina_edge.model.checkpoint import load_checkpoint
from retina_edge.model.config import octave_sizes
from retina_edge.model.torchvision_checkpoint import BOXES, load_file
from retina_edge.model.wrapped_weights import LOGITS, find_weights
from tests.export.torchvision_models import Images, as_torchvision, largest_differences, lively

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


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a conversion that must fail, and return its error message of one line."""
    assert convert.main([*arguments, "--input", "64x96", "-o", "never.pt"]) == 1
    assert not Path("never.pt").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def assert_same_weights(actual: Mapping[str, Tensor], expected: Weights) -> None:
    assert set(actual) == set(expected)
    for name, value in actual.items():
        assert torch.equal(value, expected[name]), name


def test_a_converted_checkpoint_keeps_weights_and_anchors(weights: Weights, tmp_path: Path) -> None:
    source, names, path = (tmp_path / name for name in ("source.pth", "names.txt", "model.pt"))
    torch.save(weights, source)
    names.write_text("background\nfir tree \nÉrable\n\n", encoding="utf-8-sig")
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
    assert torchvision.__version__.startswith(contract.produced_by["torchvision"])
    # torchvision's defaults.
    settings = (contract.score_threshold, contract.iou_threshold, contract.top_k, contract.max_detections)
    assert settings == (0.05, 0.5, 1000, 300)


def test_a_file_of_the_reference_training_is_read(weights: Weights, tmp_path: Path) -> None:
    source = tmp_path / "model_25.pth"
    arguments = argparse.Namespace(lr=0.01, output_dir="runs", lr_steps=[16, 22])
    torch.save({"model": weights, "optimizer": {"state": {}}, "args": arguments, "epoch": 25}, source)
    found, eps = load_file(source)
    assert_same_weights(found.weights, weights)
    assert found.place == "under 'model'"
    assert eps == 1e-5


class Wrapper(nn.Module):
    """A module of a training program, such as a LightningModule, with the model and something else in it."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def test_the_wrappers_of_training_programs_are_taken_off(
    torchvision_model: TorchvisionRetinaNet, weights: Weights
) -> None:
    model = torchvision_model
    lightning = Wrapper(model=model, loss=nn.Linear(1, 1)).state_dict()
    compiled = {f"_orig_mod.{name}": value for name, value in weights.items()}
    for content, place, left_out in (
        (weights, "", ()),
        (nn.DataParallel(model).state_dict(), "without the prefix 'module.'", ()),
        (compiled, "without the prefix '_orig_mod.'", ()),
        ({"epoch": 3, "state_dict": lightning}, "'state_dict', without the .* 'model.'", ("loss.weight", "loss.bias")),
        ({"epoch": 3, "loss": torch.ones(1), "model_state_dict": weights}, "under 'model_state_dict'", ()),
        ({"model": {"state_dict": weights}}, "under 'model.state_dict'", ()),
    ):
        found = find_weights(content, ema=False)
        assert re.search(place, found.place)
        assert (found.left_out, found.averaged) == (left_out, "")
        assert_same_weights(found.weights, weights)
        with pytest.raises(ModelFileError, match=r"expected averaged weights under 'model_ema', .* leave --ema"):
            find_weights(content, ema=True)


def test_averaged_weights_are_taken_if_asked_for(torchvision_model: TorchvisionRetinaNet, weights: Weights) -> None:
    """torch's AveragedModel is what torchvision's reference training stores under ``model_ema``."""
    averaged = AveragedModel(torchvision_model)
    moved = {name: value + 1 if value.is_floating_point() else value for name, value in weights.items()}
    averaged.module.load_state_dict(moved)
    as_module = Wrapper(model=torchvision_model, ema_model=averaged.module).state_dict()
    for content, place in (
        ({"model": weights, "model_ema": averaged.state_dict()}, "model_ema"),
        ({"model": weights, "ema": {"module": moved, "updates": 7}}, "ema"),
        ({"state_dict": weights, "state_dict_ema": moved}, "state_dict_ema"),
        ({"state_dict": as_module}, "ema_model."),
    ):
        assert_same_weights(find_weights(content, ema=True).weights, moved)
        last = find_weights(content, ema=False)
        assert_same_weights(last.weights, weights)
        assert last.averaged == repr(place)
    for ema in (False, True):  # there is no other choice
        found = find_weights(averaged.state_dict(), ema=ema)
        assert_same_weights(found.weights, moved)
        assert (found.left_out, found.averaged) == ((), "")


# Differences that the project guarantees, as in tests/export/test_torchvision_parity.py.
PIXELS, SCORE = 0.05, 1e-4
DEFAULT_RATIOS = (0.5, 1.0, 2.0)


@pytest.mark.parametrize(
    ("sizes", "ratios", "options"),
    [
        # Half of torchvision's own sizes, and as many anchors: nothing in the file tells them apart.
        pytest.param(
            octave_sizes((16, 32, 64, 128, 256)),
            DEFAULT_RATIOS,
            ["--anchors", "16", "32", "64", "128", "256"],
            id="half",
        ),
        # Three sizes for each of three ratios, but not in steps of a third of an octave.
        pytest.param(
            tuple((float(size), 1.5 * size, 2.0 * size) for size in (20, 40, 80, 160, 320)),
            (0.3, 1.0, 3.0),
            "--anchors 20,30,40 40,60,80 80,120,160 160,240,320 320,480,640 --aspect-ratios 0.3 1 3".split(),
            id="own",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_model_with_own_anchors_gives_the_boxes_of_torchvision(
    torchvision_model: TorchvisionRetinaNet,
    frames: list[Images],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    sizes: tuple[tuple[float, ...], ...],
    ratios: tuple[float, ...],
    options: list[str],
) -> None:
    image = frames[0][:128, :160].copy()
    reference = copy.copy(torchvision_model)
    reference.anchor_generator = AnchorGenerator(sizes, (ratios,) * 5)
    normal = torchvision_model.transform
    reference.transform = GeneralizedRCNNTransform(128, 160, normal.image_mean, normal.image_std)
    source, path = tmp_path / "last.ckpt", tmp_path / "model.pt"
    state = nn.DataParallel(torchvision_model).state_dict()
    torch.save({"epoch": 7, "model_state_dict": state}, source)
    assert convert.main([str(source), "--arch", V1, "--input", "128x160", "-o", str(path), *options]) == 0
    printed = capsys.readouterr().out
    assert "taken: the weights under 'model_state_dict', without the prefix 'module.'" in printed
    assert "assumed: class names class_0, class_1, class_2 (--class-names)" in printed
    assert ("assumed: anchors" in printed) == ("--aspect-ratios" not in options)
    with torch.inference_mode():
        (expected,) = reference([as_torchvision(image)])
    assert len(expected["labels"]) > 50
    with Detector.load(path) as detector:
        pixels, score = largest_differences(detector(image, score=detector.score_threshold), expected)
    assert pixels <= PIXELS
    assert score <= SCORE


def test_the_number_of_anchors_is_that_of_the_checkpoint(weights: Weights) -> None:
    """torchvision's tutorial has one size on each level. Single sizes then mean what they say."""
    single = dict(weights)
    for part, rows in (("classification_head.cls_logits", 3 * 3), ("regression_head.bbox_reg", 3 * 4)):
        for name in (f"head.{part}.weight", f"head.{part}.bias"):
            single[name] = weights[name][:rows]
    options = {"input_size": (64, 96), "anchor_sizes": ((24,), (48,), (96,), (192,), (384,))}
    checkpoint = torchvision_checkpoint.convert(single, V1, **options)  # type: ignore[arg-type]
    assert checkpoint.contract.num_classes == 3
    assert checkpoint.config.anchor_sizes == options["anchor_sizes"]
    with pytest.raises(ModelFileError, match=r"anchors: expected the 3 at a position .* got 3 sizes .* --anchors 32"):
        torchvision_checkpoint.convert(single, V1, input_size=(64, 96))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--anchors", "16", "32"], "anchor_sizes: expected sizes for 5 levels"),
        (["--anchors", "1e300", "32", "64", "128", "256"], r"anchor_sizes\[0\]: expected anchor sizes"),
        (["--aspect-ratios", "1", "2"], "anchors: expected the 9 at a position .* got 3 sizes .* and 2 aspect ratios"),
        (["--norm-eps", "nan"], "norm_eps: expected 0 to 1, got nan"),
    ],
)
def test_anchors_that_do_not_fit_are_refused(
    capsys: pytest.CaptureFixture[str], frozen_file: Path, options: list[str], message: str
) -> None:
    assert re.search(message, error_of(capsys, str(frozen_file), "--arch", V1, *options))


def test_what_is_assumed_is_said(frozen_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.pt"
    assert convert.main([str(frozen_file), "--arch", V1, "--input", "64x96", "-o", str(path)]) == 0
    lines = [line.partition(": ") for line in capsys.readouterr().out.splitlines()]
    assert [what for word, _, what in lines if word == "assumed"] == [
        "anchors of 32,40,50 64,80,101 128,161,203 256,322,406 512,645,812 pixels with aspect ratios 0.5 1 2 "
        "(--anchors, --aspect-ratios)",
        "class names class_0, class_1, class_2 (--class-names)",
        "epsilon 1e-05 of the backbone's normalization (--norm-eps)",
        "RGB images with ImageNet's mean and standard deviation, in which an input of 64x96 shows objects as large as "
        "in training (--input)",
    ]


def test_heads_with_the_names_of_torchvision_before_0_12_are_converted(weights: Weights) -> None:
    old = {}
    for name, value in weights.items():
        new = re.fullmatch(r"(head\..*_head\.conv)\.(\d)\.0\.(weight|bias)", name)
        old[f"{new[1]}.{2 * int(new[2])}.{new[3]}" if new else name] = value
    assert len(set(old) - set(weights)) == 16
    checkpoint = torchvision_checkpoint.convert(old, V1, input_size=(64, 96))
    assert_same_weights(checkpoint.weights, weights)


@pytest.fixture(scope="module")
def frozen(weights: Weights) -> Weights:
    """Weights as published by torchvision, without the counters of batch normalization that only training needs."""
    return {name: value for name, value in weights.items() if "num_batches" not in name}


@pytest.fixture(scope="module")
def frozen_file(frozen: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("frozen") / "source.pth"
    torch.save(frozen, source)
    return source


def test_frozen_normalization_computes_what_torchvision_computes(
    torchvision_model: TorchvisionRetinaNet, frozen: Weights
) -> None:
    """The epsilon is so large that ignoring it would change the result."""
    eps = 0.25
    checkpoint = torchvision_checkpoint.convert(frozen, V1, input_size=(64, 96), norm_eps=eps)
    assert (checkpoint.config.backbone_norm, checkpoint.config.norm_eps) == ("frozen", eps)
    image = torch.rand(1, 3, 64, 96)
    reference = copy.deepcopy(torchvision_model)
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
    with torch.inference_mode():
        logits, _ = checkpoint.build_model()(image)
        features = list(reference.backbone(image).values())
        expected = reference.head.classification_head
        for actual, level in zip(logits, features, strict=True):
            torch.testing.assert_close(actual, expected.cls_logits(expected.conv(level)), rtol=0, atol=1e-4)


def test_norm_eps_overrides_the_known_epsilon(frozen_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    options = ["--arch", V1, "--input", "64x96", "--norm-eps", "0.125", "-o", str(path)]
    assert convert.main([str(frozen_file), *options]) == 0
    assert load_checkpoint(path).config.norm_eps == 0.125


def test_the_second_architecture_has_the_training_settings_of_torchvision() -> None:
    v2 = "retinanet_resnet50_fpn_v2"
    assert torchvision_checkpoint.PUBLISHED_EPS["coco_v2"] == 1e-5
    reference = retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=3)
    config = torchvision_checkpoint.convert(reference.state_dict(), v2, input_size=(64, 96)).config
    assert config.box_loss == reference.head.regression_head._loss_type == "giou"
    assert (config.head_norm, config.extra_levels, config.norm_eps) == ("group", "c", 1e-5)


def test_a_published_file_is_recognized_by_its_hash(frozen_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published coco_v1 needs an epsilon of 0, which is not stored in the file."""
    assert load_file(frozen_file)[1] == 1e-5
    _, published = torchvision_checkpoint.PUBLISHED["coco_v1"]
    assert published.url.endswith("retinanet_resnet50_fpn_coco-eeacb38b.pth")
    digest = hashlib.sha256(frozen_file.read_bytes()).hexdigest()
    stand_in = SimpleNamespace(url=f"https://example.org/retinanet_coco-{digest[:8]}.pth")
    monkeypatch.setitem(torchvision_checkpoint.PUBLISHED, "coco_v1", (V1, stand_in))
    assert load_file(frozen_file)[1] == 0


class FakeWeights:
    """A stand-in for torchvision's published weights that downloads nothing."""

    url = "https://example.org/weights-00000000.pth"

    def __init__(self, answer: Weights | Exception) -> None:
        self.answer = answer

    def get_state_dict(self, *, progress: bool, check_hash: bool) -> Weights:
        assert progress
        assert check_hash
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_published_weights_are_loaded_by_name(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torchvision_checkpoint.PUBLISHED, "coco_v1", (V1, FakeWeights(weights)))
    loaded, eps = torchvision_checkpoint.load_published("coco_v1", V1)
    assert eps == 0
    assert_same_weights(loaded, weights)


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), TimeoutError("no answer"), RuntimeError("invalid hash value")]
)
def test_a_failed_download_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setitem(torchvision_checkpoint.PUBLISHED, "coco_v1", (V1, FakeWeights(error)))
    line = error_of(capsys, "coco_v1", "--arch", V1)
    assert "could not download https://example.org/weights-00000000.pth" in line
    assert "give its path instead of the name" in line


def test_published_weights_of_another_architecture_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "coco_v2", "--arch", V1)
    assert (
        "coco_v2: expected --arch retinanet_resnet50_fpn_v2, the architecture of these weights, got retinanet" in line
    )


def test_the_error_for_another_architecture_names_the_keys(
    capsys: pytest.CaptureFixture[str], frozen_file: Path
) -> None:
    line = error_of(capsys, str(frozen_file), "--arch", "retinanet_resnet50_fpn_v2")
    assert "expected weights of retinanet_resnet50_fpn_v2; missing: " in line
    assert "head.classification_head.conv.0.1.weight" in line
    assert re.search(r"missing: (\S+, ){2}\S+ and \d+ more; unexpected: head\S+\.conv\.0\.0\.bias, ", line)
    assert "backbone.fpn.extra_blocks.p6.weight [256, 256, 3, 3] instead of [256, 2048, 3, 3]" in line


def contains_itself() -> dict[str, object]:
    content: dict[str, object] = {}
    content["model"] = content
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rpn.head.conv.weight": torch.zeros(1)}, "with head.classification_head.cls_logits.weight, got keys rpn"),
        ({LOGITS: torch.zeros(20, 256, 3, 3)}, f"with {LOGITS} and {BOXES}, got keys head"),
        ({LOGITS: torch.zeros(20, 256), BOXES: torch.zeros(36, 256)}, "expected a multiple of 9 rows, .* got 20"),
        ({LOGITS: torch.zeros(9, 256), BOXES: torch.zeros(12, 256)}, "anchors: expected the 3 at a position"),
        ({LOGITS: torch.tensor(1.0), BOXES: torch.zeros(36, 256)}, f"with {LOGITS} and {BOXES}"),
        ({f"model.{LOGITS}": torch.full((1,), torch.nan)}, f"{LOGITS}': expected finite numbers, got NaN"),
        ({f"a.{LOGITS}": torch.ones(1), f"b.{LOGITS}": torch.ones(1)}, "expected one RetinaNet, got 2, .* 'a.', 'b.'"),
        ({"model": {"weight": "text"}}, "expected a state dict, .* got dict with keys model"),
        ({"ema": {LOGITS: torch.ones(1)}}, "got dict with keys ema; take the averaged weights with --ema"),
        ({"\x1b[31mred": torch.zeros(1)}, r"got keys \?\[31mred"),
        (contains_itself(), "expected a state dict, .* got dict with keys model"),
        ([torch.zeros(1)], "expected a state dict, .* got list with no keys"),
        (nn.Linear(2, 2), r"got a pickled 'torch.nn.modules.linear.Linear', .* torch.save\(model.state_dict\(\)"),
        ({"state_dict": {}, "hparams": Path("runs")}, "got a pickled 'pathlib.*torch.save"),
        (b"not a checkpoint", "torch cannot read it: .*"),
    ],
)
def test_foreign_files_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: object, message: str
) -> None:
    source = tmp_path / "foreign.pth"
    if isinstance(content, bytes):
        source.write_bytes(content)
    else:
        torch.save(content, source)
    line = error_of(capsys, str(source), "--arch", V1)
    assert re.search(message, line)
    assert line.isprintable()


def test_a_missing_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "missing.pth", "--arch", V1)
    assert "missing.pth: expected a checkpoint of torchvision or one of coco_v1, coco_v2" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\n\nb\n", "names.txt, line 2: expected a class name"),
        (b"a\nb\n", "class names: expected 3, .* got 2"),
        ("Érable\n".encode("latin-1"), "names.txt: expected class names in UTF-8"),
    ],
)
def test_wrong_class_names_are_refused(
    capsys: pytest.CaptureFixture[str], frozen_file: Path, tmp_path: Path, text: bytes, message: str
) -> None:
    names = tmp_path / "names.txt"
    names.write_bytes(text)
    assert re.search(message, error_of(capsys, str(frozen_file), "--arch", V1, "--class-names", str(names)))


def test_91_classes_have_the_coco_names() -> None:
    names = torchvision_checkpoint._class_names(91, None)
    assert (names[0], names[1], names[90]) == ("__background__", "person", "toothbrush")
    assert torchvision_checkpoint._class_names(3, None) == ("class_0", "class_1", "class_2")
