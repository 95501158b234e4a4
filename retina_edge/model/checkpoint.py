"""Checkpoint files: contract, architecture and weights, and in training everything that resuming needs.

They are read with ``weights_only=True``: a checkpoint from a stranger can be wrong, but cannot run code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.core.atomic_file import atomic_file
from engines.core.contract import DetectorContract
from engines.core.errors import ModelFileError
from retina_edge.model.config import ModelConfig
from retina_edge.model.retinanet import RetinaNet, check_contract

FORMAT = "retina_edge checkpoint 1"


@dataclass(frozen=True)
class Checkpoint:
    """A model with its contract.

    Attributes:
        contract: what the model promises.
        config: its architecture.
        weights: state dict of the model to run (with EMA, the averaged weights).
        training: state of an interrupted training, or None in a model to ship.
    """

    contract: DetectorContract
    config: ModelConfig
    weights: dict[str, Tensor]
    training: dict[str, Any] | None = None

    def build_model(self) -> RetinaNet:
        """The model with its weights in float32, in evaluation mode."""
        model = RetinaNet(self.config)
        model.load_state_dict(self.weights)
        return model.eval()

    def save(self, path: Path | str, *, half: bool = False) -> None:
        """Writes the file atomically: a reader finds the old one or the new one, whole.

        Args:
            path: where to.
            half: store the convolutions' weights in float16, half the size; they load as float32 again.
        """
        weights = {
            # Biases and normalization stay whole: they are small, and a variance can be too small for float16.
            name: value.detach().cpu().to(torch.float16 if half and value.ndim > 1 else value.dtype)
            for name, value in self.weights.items()
        }
        content = {
            "format": FORMAT,
            "contract": self.contract.to_json(),
            "config": self.config.to_json(),
            "weights": weights,
            "training": self.training,
        }
        with atomic_file(path) as file:
            torch.save(content, file)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Reads a checkpoint onto the CPU.

    Raises:
        ModelFileError: missing, corrupt, not ours, or holding more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: expected a checkpoint, found no file; make one with retina-edge train")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a damaged file
        reason = f"{type(error).__name__} {str(error).partition(chr(10))[0][:120]}"
        raise ModelFileError(f"{path}: expected a checkpoint of retina_edge, torch cannot read it: {reason}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelFileError(
            f"{path}: expected a checkpoint of retina_edge ({FORMAT!r}); a checkpoint of torchvision becomes one "
            "with retina-edge convert"
        )
    try:
        contract = DetectorContract.from_json(content["contract"])
        config = ModelConfig.from_json(content["config"])
        check_contract(config, contract)
        weights = {
            name: value.float() if value.is_floating_point() else value for name, value in content["weights"].items()
        }
        _check_weights(config, weights)
        return Checkpoint(contract, config, weights, content.get("training"))
    except (KeyError, AttributeError, ValueError, ModelFileError) as error:
        raise ModelFileError(f"{path}: damaged checkpoint: {error}") from error


def _check_weights(config: ModelConfig, weights: dict[str, Tensor]) -> None:
    """Raises ModelFileError unless the weights are those of the architecture, by name and shape."""
    with torch.device("meta"):  # shapes only, no memory
        expected = {name: tuple(value.shape) for name, value in RetinaNet(config).state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise ModelFileError(
            f"{len(wrong)} weights do not fit the architecture; the first, {name}: expected "
            f"{expected.get(name, 'none')}, got {found.get(name, 'none')}"
        )
