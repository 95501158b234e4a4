"""Checkpoint files: contract, architecture and weights, and during training the state that resuming needs.

Checkpoints are read with ``weights_only=True``: an untrusted checkpoint can be wrong, but it cannot run code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from engines.core.atomic_file import atomic_file
from engines.core.contract import DetectorContract
from engines.core.errors import ModelFileError
from engines.core.json_form import OBJECT, TEXT, Form, check_form, short
from retina_edge.model.config import ModelConfig
from retina_edge.model.retinanet import RetinaNet, check_contract
from retina_edge.model.torch_file import check_weights, is_state_dict, read_torch_file

FORMAT = "retina_edge checkpoint 1"
_RECIPE: Form = {
    **dict.fromkeys(("model", "augment", "options"), OBJECT),
    "choices": [{"option": TEXT, "value": TEXT, "reason": TEXT}],
}


@dataclass(frozen=True)
class Checkpoint:
    """A model with its contract.

    Attributes:
        contract: contract of the model.
        config: the architecture of the model.
        weights: state dict of the model; with EMA, the averaged weights.
        training: state of an unfinished training run; None in a model to ship.
        recipe: options of the training run, and the reasons of those that were chosen; None if unknown.
    """

    contract: DetectorContract
    config: ModelConfig
    weights: dict[str, Tensor]
    training: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None

    def build_model(self) -> RetinaNet:
        """Return the model with its weights in float32, in evaluation mode."""
        model = RetinaNet(self.config)
        model.load_state_dict(self.weights)
        return model.eval()

    def save(self, path: Path | str, *, half: bool = False) -> None:
        """Write the checkpoint atomically: a reader finds either the complete old file or the complete new file.

        Args:
            path: path of the file to write.
            half: store the weights of convolutions in float16, which halves the file; loading converts them to float32.
        """
        weights = {
            # Biases and normalization stay in float32: they take little space, and a variance can be too small or too
            # large for float16. The statistics of the heads have a row for each level.
            name: value.detach()
            .cpu()
            .to(torch.float16 if half and value.ndim > 1 and ".running_" not in name else value.dtype)
            for name, value in self.weights.items()
        }
        content = {
            "format": FORMAT,
            "contract": self.contract.to_json(),
            "config": self.config.to_json(),
            "weights": weights,
            "training": self.training,
            "recipe": self.recipe,
        }
        with atomic_file(path) as file:
            writer = _Writer(file)
            try:
                torch.save(content, cast("BinaryIO", writer))
            except RuntimeError as error:  # torch reports only a failed write
                raise writer.error or error from None


class _Writer:
    """A file for ``torch.save`` that remembers the error of a write, such as a full disk."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.flush = file, file.flush
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise


def plain(value: Any) -> Any:
    """Return a value with Python's own numbers and text, which ``weights_only=True`` can load.

    Examples:
        >>> import numpy as np
        >>> plain({"rate": np.float64(0.5), "size": (np.int64(3), 4)})
        {'rate': 0.5, 'size': (3, 4)}
    """
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint into CPU memory.

    Raises:
        ModelFileError: if the file is missing, corrupt, not a checkpoint of retina_edge, or contains anything but
            tensors and plain values.

    Examples:
        >>> from retina_edge.assets import CHECKPOINT
        >>> checkpoint = load_checkpoint(CHECKPOINT)
        >>> checkpoint.contract.class_names, checkpoint.config.backbone
        (('tree',), 'resnet18')
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: expected a checkpoint, found no file; make one with retina-edge train")
    content = read_torch_file(path, "a checkpoint of retina_edge")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelFileError(
            f"{path}: expected a checkpoint of retina_edge ({FORMAT!r}), got another format; convert a checkpoint of "
            "torchvision with retina-edge convert"
        )
    try:
        return _checkpoint_of(content, path)
    except (ValueError, ModelFileError) as error:
        raise ModelFileError(f"{path}: damaged checkpoint: {error}") from error


def _checkpoint_of(content: dict[str, Any], path: Path) -> Checkpoint:
    """Check every part of a checkpoint before a later one is used.

    Raises:
        ValueError, ModelFileError: if a part is missing, damaged or contradicts another one.
    """
    contract = DetectorContract.from_json(content.get("contract", ""))
    config = ModelConfig.from_json(content.get("config", ""))
    check_contract(config, contract)
    weights, training, recipe = (content.get(name) for name in ("weights", "training", "recipe"))
    if not is_state_dict(weights):
        raise ModelFileError(f"weights: expected tensors by name, got {short(weights)}")
    check_weights(weights, path)
    weights = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    # The meta device computes shapes without allocating memory.
    with torch.device("meta"):
        check_kinds(RetinaNet(config).state_dict(), weights)
    if training is not None and (not isinstance(training, dict) or type(training.get("step")) is not int):
        raise ModelFileError("training: expected the state of a run after a number of steps, got something else")
    if recipe is not None:
        check_form(recipe, _RECIPE, "recipe")
    return Checkpoint(contract, config, weights, training, recipe)


def check_kinds(model: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Check that weights have the names, shapes and types of those of a model.

    Args:
        model: state dict of the model.
        weights: the weights of a file.

    Raises:
        ModelFileError: if a weight is missing, unknown, or has another shape or type.

    Examples:
        >>> check_kinds({"a": torch.zeros(3)}, {"a": torch.zeros(2)})
        Traceback (most recent call last):
        engines.core.errors.ModelFileError: 1 weights do not fit the architecture; the first, 'a': expected float32 ...
    """
    expected, actual = ({name: _kind(value) for name, value in part.items()} for part in (model, weights))
    wrong = sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))
    if wrong:
        name = wrong[0]
        raise ModelFileError(
            f"{len(wrong)} weights do not fit the architecture; the first, {short(name)}: expected "
            f"{expected.get(name, 'none')}, got {actual.get(name, 'none')}"
        )


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
