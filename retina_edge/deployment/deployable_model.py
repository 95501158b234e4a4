"""Models that can be deployed, and the files about a model that the folders for all servers contain."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.core.atomic_file import atomic_file
from engines.core.contract import DetectorContract
from engines.core.errors import DeploymentError, ModelFileError
from engines.tensorrt.backend import TENSORRT_RTX
from engines.tensorrt.build_options import KERNELS
from engines.tensorrt.model_description import inspect_model
from engines.tensorrt.passport import Passport, passport_path, read_engine

LABELS, CONTRACT = "labels.txt", "contract.json"


@dataclass(frozen=True)
class DeployableModel:
    """A model file with known inputs and outputs.

    Attributes:
        path: path of the file.
        contract: contract of the detector.
        inputs, outputs: name, type and shape of each tensor; the first dimension is -1 for any batch size.
        passport: passport of an engine; None for an ONNX.
    """

    path: Path
    contract: DetectorContract
    inputs: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]
    passport: Passport | None

    @classmethod
    def read(cls, path: Path | str) -> DeployableModel:
        """Read an engine with its passport, or a deployable ONNX.

        Raises:
            ModelFileError: if the file is missing, damaged, or not a model of retina_edge.
            DeploymentError: if the engine was built by TensorRT-RTX, because no server loads such an engine.

        Examples:
            >>> from retina_edge.assets import MODEL
            >>> DeployableModel.read(MODEL).inputs
            ({'name': 'images', 'type': 'uint8', 'shape': [1, 416, 736, 3]},)
        """
        path = Path(path)
        if path.suffix not in (".engine", ".onnx"):
            raise ModelFileError(
                f"{path}: expected MODEL.engine or MODEL.onnx; make one from a checkpoint with retina-edge export or "
                "build"
            )
        description = inspect_model(path)
        passport = read_engine(path) if path.suffix == ".engine" else None
        if passport is not None and passport.backend == TENSORRT_RTX:
            raise DeploymentError(
                f"{path}: expected an engine of tensorrt, got one of {TENSORRT_RTX}, which Triton and DeepStream do "
                "not load; build it with --backend tensorrt on the machine it is for"
            )
        return cls(path, description.contract, description.inputs, description.outputs, passport)

    @property
    def batch(self) -> int | None:
        """Fixed batch size of the model; None for any."""
        size: int = self.inputs[0]["shape"][0]
        return None if size == -1 else size

    @property
    def outputs_raw_heads(self) -> bool:
        """True if the model outputs raw heads, so that the client must do decode and NMS."""
        return self.passport is not None and self.passport.postprocess == KERNELS


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, completely or not at all."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_label_files(folder: Path, contract: DetectorContract) -> None:
    """Write ``labels.txt``, with a line for each class from label 0 on, and ``contract.json``."""
    write_text(folder / LABELS, "".join(f"{label_line(contract, label)}\n" for label in range(contract.num_classes)))
    write_text(folder / CONTRACT, contract.to_json() + "\n")


def label_line(contract: DetectorContract, label: int) -> str:
    """Return a class name for a line of ``labels.txt``.

    DeepStream skips empty lines, which would shift later labels, and splits lines at ``;``.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> label_line(DeployableModel.read(MODEL).contract, 0)
        'tree'
    """
    return " ".join(contract.class_names[label].replace(";", ",").split()) or f"class {label}"


def copy_model(model: DeployableModel, target: Path) -> None:
    """Copy a model file, and the passport of an engine, so that ``retina-edge inspect`` can read the copy."""
    if target.resolve() != model.path.resolve():
        with model.path.open("rb") as source, atomic_file(target) as file:
            shutil.copyfileobj(source, file, 1 << 20)
    if model.passport is not None:
        write_text(passport_path(target), model.passport.to_json())
