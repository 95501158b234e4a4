"""The passport of an engine, ``model.engine.json``: what it is, what it was made of, where it runs.

It stands beside the engine and not in it: the engine is TensorRT's plan and nothing else, so that trtexec, Triton and
DeepStream load it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.core.contract import DetectorContract
from engines.core.errors import ContractError, DeviceError, ModelFileError
from engines.core.machine import Machine
from engines.tensorrt.backend import TENSORRT_RTX
from engines.tensorrt.build_options import PORTABLE, PORTABLE_SM, runs_on_sm

SCHEMA = 1
PARSED, INSPECTED = "parsed network", "engine inspector"
_AMPERE = "an NVIDIA GPU of compute capability 8.0 or later"


@dataclass(frozen=True)
class Passport:
    """Everything known of an engine.

    Attributes:
        contract: what the detector promises, as in the ONNX.
        plan_sha256: of the engine file.
        plan_bytes: its size.
        onnx_sha256: of the deployable ONNX it was built from.
        request: what was asked for and of what; the same request again builds nothing.
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        backend_version: of the library that built it.
        targets: TensorRT-RTX: architectures such as ``sm86``, or ``portable``; empty with TensorRT, which builds for
            the GPU in ``machine``.
        machine: where it was built.
        precision_asked: fp32, fp16 or int8.
        precision_found: kind of layer, then precision, then how many layers.
        precision_source: who said so: ``parsed network`` or ``engine inspector``.
        convolutions: precision of each convolution of the parsed network, by the name of its ONNX node.
        postprocess: ``plugin``: detections come out; ``kernels``: raw heads come out.
        inputs, outputs: name, type and shape of each, -1 for an open batch.
        batch: smallest, best and largest batch.
        quantization: how INT8 was calibrated, as the ONNX says; None in other precisions.
        verified: what was compared before the build, on ONNX Runtime; None where nothing was. An engine itself has not
            been run on a GPU by this project yet.
        build_seconds: how long TensorRT took.
        built_at: ISO 8601, UTC.
        accuracy: AP of FP32 and of the ONNX it was built from, as that says; None where it was not measured.
    """

    contract: DetectorContract
    plan_sha256: str
    plan_bytes: int
    onnx_sha256: str
    request: Mapping[str, Any]
    backend: str
    backend_version: str
    targets: tuple[str, ...]
    machine: Machine
    precision_asked: str
    precision_found: Mapping[str, Mapping[str, int]]
    precision_source: str
    convolutions: Mapping[str, str]
    postprocess: str
    inputs: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]
    batch: tuple[int, int, int]
    quantization: Mapping[str, Any] | None
    verified: Mapping[str, Any] | None
    build_seconds: float
    built_at: str
    accuracy: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        """The passport as a JSON object; ``from_json`` gives an equal one back."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["contract"] = json.loads(self.contract.to_json())
        fields["machine"] = dataclasses.asdict(self.machine)
        return json.dumps({"schema": SCHEMA, **fields}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Passport:
        """Reads what ``to_json`` wrote.

        Raises:
            ContractError: not JSON, another schema, or fields missing.
        """
        try:
            values = json.loads(text)
            if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
                raise ContractError(f"expected schema {SCHEMA}")
            values["contract"] = DetectorContract.from_json(json.dumps(values["contract"]))
            values["machine"] = Machine(**values["machine"])
            for name in ("targets", "inputs", "outputs", "batch"):
                values[name] = tuple(values[name])
            return cls(**values)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ContractError(f"damaged or incomplete ({type(error).__name__}: {error})") from error


def passport_path(engine: Path | str) -> Path:
    """``model.engine.json`` of ``model.engine``."""
    return Path(f"{engine}.json")


def cache_path(engine: Path | str) -> Path:
    """``model.engine.cache`` of ``model.engine``: what TensorRT-RTX compiled for the machine that ran it."""
    return Path(f"{engine}.cache")


def read_passport(engine: Path | str) -> Passport:
    """The passport beside an engine.

    Raises:
        ModelFileError: there is none, or it is damaged.
    """
    path = passport_path(engine)
    try:
        return Passport.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFileError(
            f"{path}: expected the engine's passport, found none; copy it along with the engine, or build the engine "
            "again with retina-edge build"
        ) from error
    except (ContractError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: {error}; build the engine again with retina-edge build --force") from error


def read_engine(engine: Path | str) -> Passport:
    """The passport of an engine that is there, whole and the one its passport describes.

    Raises:
        ModelFileError: a file is missing or damaged, or they do not belong together.
    """
    engine = Path(engine)
    if not engine.is_file():
        raise ModelFileError(f"{engine}: expected an engine, found none; make it with retina-edge build")
    passport = read_passport(engine)
    if (found := sha256(engine)) != passport.plan_sha256:
        raise ModelFileError(
            f"{engine}: expected the engine of its passport (sha256 {passport.plan_sha256[:12]}, "
            f"{passport.plan_bytes} bytes), found {found[:12]}, {engine.stat().st_size} bytes: damaged, or exchanged; "
            "build it again with retina-edge build --force"
        )
    return passport


def check_runs_here(passport: Passport, engine: Path | str, *, backend: str, version: str, machine: Machine) -> None:
    """Whether an engine may be loaded here.

    Args:
        passport: of the engine, from ``read_engine``.
        engine: the engine file.
        backend: what is to load it: ``tensorrt`` or ``tensorrt-rtx``.
        version: of that library.
        machine: where it is to run.

    Raises:
        DeviceError: it was built for another GPU or another TensorRT.
    """
    mismatch = _backend_mismatch(passport, backend, version) or _gpu_mismatch(passport, machine)
    if mismatch:
        raise DeviceError(f"{engine}: {mismatch}; fix it with {rebuild_command(passport, engine)}")


def rebuild_command(passport: Passport, engine: Path | str) -> str:
    """The command that builds the engine anew for the machine it is given on."""
    source = passport.request.get("source", "MODEL.onnx")
    # An ONNX that was INT8 already brings its ranges along; anything else is calibrated again.
    was_int8 = passport.quantization is not None and "calibration" not in passport.request.get("inputs", {})
    calibration = " --calibration DIR" if passport.precision_asked == "int8" and not was_int8 else ""
    return f"retina-edge build {source} -o {engine} --precision {passport.precision_asked}{calibration} --force"


def sha256(path: Path | str) -> str:
    """Of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _backend_mismatch(passport: Passport, backend: str, version: str) -> str:
    if backend != passport.backend:
        return f"expected {passport.backend}, which built it, found {backend}"
    if version == passport.backend_version:
        return ""
    built, here = _numbers(passport.backend_version), _numbers(version)
    if passport.request.get("options", {}).get("version_compatible") and built[0] == here[0] and built <= here:
        return ""
    return f"expected {passport.backend} {passport.backend_version}, which built it, found {version}"


def _gpu_mismatch(passport: Passport, machine: Machine) -> str:
    here = f"{machine.gpu} (compute capability {machine.compute_capability})" if machine.gpu else "no GPU"
    if passport.backend == TENSORRT_RTX:
        fits = runs_on_sm(passport.targets, machine.sm)
        portable = passport.targets == (PORTABLE,)
        expected = _AMPERE if portable else f"a GPU of {', '.join(passport.targets)}"
    elif passport.request.get("options", {}).get("hardware_compatible"):
        fits, expected = machine.sm >= PORTABLE_SM, _AMPERE
    else:
        fits = machine.sm != 0 and machine.sm == passport.machine.sm
        expected = f"compute capability {passport.machine.compute_capability} as of {passport.machine.gpu}"
    return "" if fits else f"expected {expected}, for which it was built, found {here}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
