"""Describe a model file without running the model.

An engine is described by its passport, a deployable ONNX by its graph.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.core.contract import DetectorContract
from engines.core.errors import ModelFileError, reason_of
from engines.core.tensor_names import ACCURACY_KEY, QUANTIZATION_KEY
from engines.tensorrt.passport import Passport, read_engine, sha256

# Triton's name for an engine is model.plan.
SUFFIXES = (".onnx", ".engine", ".plan")


@dataclass(frozen=True)
class Inspection:
    """The description of a model file.

    Attributes:
        path: path of the file.
        size: size of the file, bytes.
        sha256: SHA-256 of the file, hexadecimal.
        contract: contract of the model.
        inputs, outputs: name, type and shape of each input and output; -1 stands for an open batch size.
        layers: number of layers by kind and precision; for an ONNX only its convolutions.
        convolutions: precision of each convolution by name.
        facts: further facts as text, by label.
        quantization: record of the INT8 calibration; None in other precisions.
        accuracy: record of what the precision costs; None if the cost was not measured.
    """

    path: Path
    size: int
    sha256: str
    contract: DetectorContract
    inputs: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]
    layers: Mapping[str, Mapping[str, int]]
    convolutions: Mapping[str, str]
    facts: Mapping[str, str]
    quantization: Mapping[str, Any] | None
    accuracy: Mapping[str, Any] | None

    def to_json(self) -> str:
        """Return the description as a JSON object."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps({**fields, "path": str(self.path), "contract": json.loads(self.contract.to_json())}, indent=2)


def inspect_model(path: Path | str) -> Inspection:
    """Describe an engine or a deployable ONNX.

    Raises:
        ModelFileError: if the file is missing, damaged, or not a model of retina_edge.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> description = inspect_model(MODEL)
        >>> description.layers, description.outputs[1]
        ({'convolution': {'fp32': 61}}, {'name': 'boxes', 'type': 'float', 'shape': [1, 300, 4]})
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ModelFileError(
            f"{path}: expected a model ending in .pt, {', '.join(SUFFIXES)}, got {path.suffix or 'no suffix'!r}"
        )
    if not path.is_file():
        raise ModelFileError(
            f"{path}: expected an engine or an ONNX model, found no file; make one with retina-edge build or "
            "retina-edge export"
        )
    return _inspect_onnx(path) if path.suffix == ".onnx" else _inspect_engine(path)


def _inspect_engine(path: Path) -> Inspection:
    passport = read_engine(path)
    return Inspection(
        path,
        passport.plan_bytes,
        passport.plan_sha256,
        passport.contract,
        passport.inputs,
        passport.outputs,
        passport.precision_found,
        passport.convolutions,
        _facts(passport),
        passport.quantization,
        passport.accuracy,
    )


def _facts(passport: Passport) -> dict[str, str]:
    machine = passport.machine
    smallest, best, largest = passport.batch
    return {
        "built by": f"{passport.backend} {passport.backend_version}, {passport.built_at}, "
        f"in {passport.build_seconds:.1f} s",
        "built for": ", ".join(passport.targets) or f"{machine.gpu} (compute capability {machine.compute_capability})",
        "runs on": passport.runs_on,
        "runs with": passport.runs_with,
        "built on": ", ".join(filter(None, (machine.gpu or "no GPU", machine.driver, machine.jetpack))),
        "batch": str(best) if smallest == largest else f"{smallest} to {largest}, tuned for {best}",
        "post-processing": {"plugin": "in the engine", "kernels": "after the engine, which ends at the raw heads"}[
            passport.postprocess
        ],
        "precision asked": passport.precision_asked,
        "precision read from": passport.precision_source,
        "verified": _in_words(passport.verified),
        "checked": _in_words(passport.checked),
        "ONNX sha256": passport.onnx_sha256,
    }


def _inspect_onnx(path: Path) -> Inspection:
    from engines.onnx.deployable import (  # needs onnx
        contract_of,
        convolution_precisions,
        describe,
        name_convolutions,
        read_deployable,
        record_of,
    )

    content = path.read_bytes()
    try:
        model = read_deployable(content)
        contract = contract_of(model)
        name_convolutions(model)
        convolutions = convolution_precisions(model)
        return Inspection(
            path,
            len(content),
            sha256(path),
            contract,
            describe(model.graph.input),
            describe(model.graph.output),
            {"convolution": dict(Counter(convolutions.values()))},
            convolutions,
            {"opset": ", ".join(f"{item.domain or 'onnx'} {item.version}" for item in model.opset_import)},
            record_of(model, QUANTIZATION_KEY),
            record_of(model, ACCURACY_KEY),
        )
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    except (IndexError, KeyError) as error:  # a node without weights, a tensor of an unknown type
        raise ModelFileError(
            f"{path}: expected the graph of a deployable ONNX, got a damaged one ({reason_of(error)}); export it again"
        ) from error


def _in_words(record: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in record.items()) if record else "no"
