"""What may be deployed, and what every server's folder holds of it."""

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
    """A model file whose inputs and outputs are known.

    Attributes:
        path: the file.
        contract: what the detector promises.
        inputs, outputs: name, type and shape of each, -1 for an open batch.
        passport: of an engine; None of an ONNX.
    """

    path: Path
    contract: DetectorContract
    inputs: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]
    passport: Passport | None

    @classmethod
    def read(cls, path: Path | str) -> DeployableModel:
        """An engine with its passport, or a deployable ONNX.

        Raises:
            ModelFileError: missing, damaged, or not one of ours.
            DeploymentError: an engine of TensorRT-RTX, which no server loads.
        """
        path = Path(path)
        if path.suffix not in (".engine", ".onnx"):
            raise ModelFileError(
                f"{path}: expected MODEL.engine or MODEL.onnx; retina-edge export or build makes one of a checkpoint"
            )
        found = inspect_model(path)
        passport = read_engine(path) if path.suffix == ".engine" else None
        if passport is not None and passport.backend == TENSORRT_RTX:
            raise DeploymentError(
                f"{path}: expected an engine of tensorrt, found one of {TENSORRT_RTX}, which Triton and DeepStream do "
                "not load; build it with --backend tensorrt on the machine it is for"
            )
        return cls(path, found.contract, found.inputs, found.outputs, passport)

    @property
    def batch(self) -> int | None:
        """The batch it takes, None for any."""
        size: int = self.inputs[0]["shape"][0]
        return None if size == -1 else size

    @property
    def ends_at_heads(self) -> bool:
        """Whether raw heads come out, and decode and NMS are left to others."""
        return self.passport is not None and self.passport.postprocess == KERNELS


def write_text(path: Path, text: str) -> None:
    """A file in UTF-8, there whole or not at all."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_label_files(folder: Path, contract: DetectorContract) -> None:
    """``labels.txt``, a line for each class, label 0 first, and ``contract.json``."""
    write_text(folder / LABELS, "".join(f"{label_line(contract, label)}\n" for label in range(contract.num_classes)))
    write_text(folder / CONTRACT, contract.to_json() + "\n")


def label_line(contract: DetectorContract, label: int) -> str:
    """A class name on one line. DeepStream passes over empty ones, so later labels would shift, and splits at ``;``."""
    return " ".join(contract.class_names[label].replace(";", ",").split()) or f"class {label}"


def copy_model(model: DeployableModel, target: Path) -> None:
    """The model file under another name; an engine with its passport, so that ``retina-edge inspect`` knows it."""
    if target.resolve() != model.path.resolve():
        with model.path.open("rb") as source, atomic_file(target) as file:
            shutil.copyfileobj(source, file, 1 << 20)
    if model.passport is not None:
        write_text(passport_path(target), model.passport.to_json())
