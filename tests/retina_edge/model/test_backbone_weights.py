"""ImageNet weights come from the cache, a download or a file, and an error names file, address and folder."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import mobilenet_v3_large, resnet18

from engines.core.errors import ModelFileError
from retina_edge.model.backbone_weights import cached_weights, imagenet_weights, read_weights
from retina_edge.model.config import ModelConfig
from retina_edge.model.retinanet import RetinaNet

SMALL = ModelConfig(1, "resnet18", fpn_channels=32, head_depth=1)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder where torchvision looks for weights."""
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_weights_in_the_cache_are_not_downloaded(cache: Path) -> None:
    expected = resnet18().state_dict()
    path = cached_weights("resnet18")
    assert path == cache / "resnet18-f37072fd.pth"
    torch.save(expected, path)
    weights = imagenet_weights("resnet18")
    model = RetinaNet(SMALL, backbone_weights=weights)
    for name in ("conv1.weight", "layer4.1.bn2.running_var"):
        assert torch.equal(model.backbone.body.state_dict()[name], expected[name])


def test_a_failed_download_names_the_file_its_address_and_the_folder(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fail)
    with pytest.raises(ModelFileError) as caught:
        imagenet_weights("resnet18")
    message = str(caught.value)
    for part in (
        "resnet18-f37072fd.pth: cannot be downloaded from",
        "download.pytorch.org/models/resnet18-f37072fd.pth",
        str(cache),
        "(Name or service not known)",
        "--backbone-weights FILE",
    ):
        assert part in message


def test_a_file_with_another_number_of_classes_fits_and_another_backbone_does_not(tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    torch.save(resnet18(num_classes=7).state_dict(), path)
    RetinaNet(SMALL, backbone_weights=read_weights(path))
    torch.save(mobilenet_v3_large().state_dict(), path)
    with pytest.raises(ModelFileError, match="expected those of torchvision's resnet18, got others"):
        RetinaNet(SMALL, backbone_weights=read_weights(path))
    config = ModelConfig(1, "mobilenet_v3_large", fpn_channels=32, head_depth=1)
    RetinaNet(config, backbone_weights=read_weights(path))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda _path: None, "found no file"),
        (lambda path: path.write_bytes(b"<html>404</html>"), "torch cannot read it"),
        (lambda path: torch.save({"epoch": 3}, path), "expected a state dict of tensors"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(ModelFileError, match=message):
        read_weights(path)
