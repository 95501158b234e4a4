"""ImageNet weights of the backbones: from torchvision's cache, a download, or a file."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from engines.core.errors import ModelFileError
from retina_edge.model.torch_file import check_weights, is_state_dict, read_torch_file

# Seconds without a byte after which a download has failed.
TIMEOUT = 20.0


def cached_weights(backbone: str) -> Path:
    """Return the path where torchvision keeps the ImageNet weights of a backbone, whether the file exists or not.

    Examples:
        >>> cached_weights("resnet18").name
        'resnet18-f37072fd.pth'
    """
    return Path(torch.hub.get_dir()) / "checkpoints" / _address(backbone).rpartition("/")[2]


def imagenet_weights(backbone: str) -> Mapping[str, Tensor]:
    """Return the ImageNet weights of a backbone from the cache, which is filled by a download if necessary.

    Raises:
        ModelFileError: if the file cannot be downloaded, or is damaged.
    """
    path, address = cached_weights(backbone), _address(backbone)
    if path.is_file():
        return read_weights(path)
    if path.parts[0] == "~":  # without a home, torch would make a folder of this name
        raise ModelFileError(
            f"{path.name}: expected a folder to keep it in, found no home of this user; set TORCH_HOME, or name the "
            "file with --backbone-weights FILE"
        )
    try:
        with _timeout(TIMEOUT):
            return torch.hub.load_state_dict_from_url(address, map_location="cpu", check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the digest differs
        reason = getattr(error, "reason", error)
        raise ModelFileError(
            f"{path.name}: cannot be downloaded from {address} ({reason}); download it elsewhere and put it into "
            f"{path.parent}, or name it with --backbone-weights FILE"
        ) from error


def read_weights(path: Path | str) -> Mapping[str, Tensor]:
    """Return the weights in a file of torchvision's classification models.

    Raises:
        ModelFileError: if the file is missing, or holds anything but tensors.
    """
    if not Path(path).is_file():
        raise ModelFileError(f"{path}: expected the weights of a backbone, found no file; correct the path")
    weights = read_torch_file(Path(path), "the weights of a backbone", fix="download it again")
    if not is_state_dict(weights):
        raise ModelFileError(f"{path}: expected a state dict of tensors, got something else; download it again")
    try:
        check_weights(weights, Path(path))
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}; download it again") from error
    return weights


def _address(backbone: str) -> str:
    return str(get_model_weights(backbone).DEFAULT.url)


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Limit the time that sockets wait in the block. ``torch.hub`` would wait forever."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
