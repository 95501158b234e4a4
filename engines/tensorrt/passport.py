"""The passport of an engine, ``model.engine.json``: what the engine is, how it was built and where it runs.

The passport lies beside the engine and not inside it. The engine file is only TensorRT's plan, so that trtexec, Triton
and DeepStream can load it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.core.contract import DetectorContract
from engines.core.errors import ContractError, ModelFileError
from engines.core.json_form import ANY, BOOLEAN, INTEGER, NUMBER, OBJECT, TEXT, Form, OrNull, read_json, require
from engines.core.machine import Machine
from engines.core.records import ACCURACY, QUANTIZATION
from engines.tensorrt.backend import TENSORRT_RTX
from engines.tensorrt.build_options import KERNELS, PLUGIN, PORTABLE, PORTABLE_GPUS

SCHEMA = 1
PARSED, INSPECTED = "parsed network", "engine inspector"
# Where a version-compatible engine finds the lean runtime of the TensorRT that built it.
INSIDE, SEPARATE = "inside", "separate"

# The request is compared as a whole, and only these parts of it are used.
_REQUEST: Form = {
    "source?": TEXT,
    "inputs?": {"*": TEXT},
    "options?": {"version_compatible?": BOOLEAN, "hardware_compatible?": BOOLEAN, "*": ANY},
    "*": ANY,
}
_TENSORS: Form = [{"name": TEXT, "type": TEXT, "shape": [INTEGER]}]
_PASSPORT: Form = {
    "contract": OBJECT,
    "plan_sha256": TEXT,
    "plan_bytes": INTEGER,
    "onnx_sha256": TEXT,
    "request": _REQUEST,
    "backend": TEXT,
    "backend_version": TEXT,
    "targets": [TEXT],
    "runs_on?": TEXT,
    "machine": {f"{field.name}?": TEXT for field in dataclasses.fields(Machine)},
    "precision_asked": TEXT,
    "precision_found": {"*": {"*": INTEGER}},
    "precision_source": TEXT,
    "convolutions": {"*": TEXT},
    "postprocess": TEXT,
    "inputs": _TENSORS,
    "outputs": _TENSORS,
    "batch": [INTEGER],
    "quantization": OrNull(QUANTIZATION),
    "verified": OrNull(OBJECT),
    "build_seconds": NUMBER,
    "built_at": TEXT,
    "accuracy?": OrNull(ACCURACY),
    "lean_runtime?": OrNull(TEXT),
    "checked?": OrNull(OBJECT),
}
# Characters that are read of a passport, which has a few ten thousand. More is not JSON then, because it is cut off.
_MAX_SIZE = 1 << 24


@dataclass(frozen=True)
class Passport:
    """The record of an engine, its build and its machine, stored in ``model.engine.json`` beside the engine.

    Attributes:
        contract: contract of the model, as in the ONNX.
        plan_sha256: SHA-256 of the engine file, hexadecimal.
        plan_bytes: size of the engine file, bytes.
        onnx_sha256: SHA-256 of the deployable ONNX that the engine was built from, hexadecimal.
        request: options and inputs of the build. A build with an equal request keeps the engine as it is.
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        backend_version: version of the backend.
        targets: targets of TensorRT-RTX: architectures such as ``sm86``, or ``portable``; empty with TensorRT, which
            builds for the GPU in ``machine``.
        machine: machine that built the engine.
        precision_asked: requested precision: fp32, fp16 or int8.
        precision_found: number of layers by kind and precision.
        precision_source: source of ``precision_found``: ``parsed network`` or ``engine inspector``.
        convolutions: precision of each convolution of the parsed network, by the name of its ONNX node.
        postprocess: ``plugin`` if the engine returns detections, ``kernels`` if it returns raw heads.
        inputs, outputs: name, type and shape of each input and output; -1 stands for an open batch size.
        batch: smallest batch size, the size that the engine is tuned for, and largest batch size.
        quantization: record of the INT8 calibration, copied from the ONNX; None in other precisions.
        verified: comparisons of the network with FP32 or torch, made before the build on ONNX Runtime; None if there
            are none.
        build_seconds: duration of the build, seconds.
        built_at: time of the build, ISO 8601, UTC.
        accuracy: record of what the precision costs in AP against FP32, copied from the ONNX; None if the cost was not
            measured.
        lean_runtime: ``inside`` if the engine contains the lean runtime of the TensorRT that built it, so that later
            versions run it, too; ``separate`` if it needs that runtime from elsewhere; None if the engine is not
            version-compatible, so that only TensorRT itself of ``backend_version`` runs it.
        checked: comparison of the engine itself with ONNX Runtime on the machine that built it, with its time; the
            reason under ``not run`` if it was not run; None if it was built before there was a check.
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
    lean_runtime: str | None = None
    checked: Mapping[str, Any] | None = None

    @property
    def runs_on(self) -> str:
        """The GPUs that run the engine, in words. The JSON has it for its readers; older passports lack it there."""
        if self.backend == TENSORRT_RTX:
            return PORTABLE_GPUS if self.targets == (PORTABLE,) else f"a GPU of {' or '.join(self.targets)}"
        if self.request.get("options", {}).get("hardware_compatible"):
            return "a GPU of compute capability 8.0 or higher"
        return f"a GPU of compute capability {self.machine.compute_capability}, like {self.machine.gpu}"

    @property
    def runs_with(self) -> str:
        """The libraries that run the engine, in words."""
        if self.lean_runtime is None:
            return f"{self.backend} {self.backend_version}"
        later = " or later" if self.lean_runtime == INSIDE else ""
        return f"TensorRT or its lean runtime, {self.backend_version}{later}"

    def to_json(self) -> str:
        """Return the passport as a JSON object; ``from_json`` restores an equal passport."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["contract"] = json.loads(self.contract.to_json())
        fields["machine"] = dataclasses.asdict(self.machine)
        return json.dumps({"schema": SCHEMA, "runs_on": self.runs_on, **fields}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Passport:
        """Restore a passport from the JSON of ``to_json``.

        Raises:
            ContractError: if the text is not JSON or has another schema, or a field or a part of a field is missing,
                unknown, or of a wrong type or value.
        """
        values = read_json(text, _PASSPORT, what="passport", schema=SCHEMA)
        _check_values(values)
        values.pop("runs_on", None)  # follows from the other fields
        # Passports that are older than this field always had the runtime inside.
        compatible = values["request"].get("options", {}).get("version_compatible")
        values.setdefault("lean_runtime", INSIDE if compatible else None)
        values["contract"] = DetectorContract.from_json(json.dumps(values["contract"]))
        values["machine"] = Machine(**values["machine"])
        for name in ("targets", "inputs", "outputs", "batch"):
            values[name] = tuple(values[name])
        return cls(**values)


def passport_path(engine: Path | str) -> Path:
    """Return the path of an engine's passport.

    Examples:
        >>> passport_path("model.engine").name
        'model.engine.json'
    """
    return Path(f"{engine}.json")


def next_passport_path(engine: Path | str) -> Path:
    """Return the path of the passport of an engine that is about to replace the present one.

    Two files cannot be replaced at once. The new passport is therefore written before the engine is replaced, and gets
    its final name afterwards. If the process is killed in between, ``read_engine`` does the rest.

    Examples:
        >>> next_passport_path("model.engine").name
        'model.engine.json.next'
    """
    return Path(f"{engine}.json.next")


def cache_path(engine: Path | str) -> Path:
    """Return the path of an engine's cache: the kernels that TensorRT-RTX compiled for the machine that ran it.

    Examples:
        >>> cache_path("model.engine").name
        'model.engine.cache'
    """
    return Path(f"{engine}.cache")


def read_passport(engine: Path | str) -> Passport:
    """Return the passport beside an engine.

    Raises:
        ModelFileError: if the passport is missing or damaged.
    """
    path = passport_path(engine)
    try:
        with path.open(encoding="utf-8") as file:
            return Passport.from_json(file.read(_MAX_SIZE))
    except FileNotFoundError as error:
        raise ModelFileError(
            f"{path}: expected the engine's passport, found none; copy it along with the engine, or build the engine "
            f"again with retina-edge build MODEL.pt -o {engine}"
        ) from error
    except (ContractError, UnicodeDecodeError) as error:
        raise ModelFileError(
            f"{path}: {error}; build the engine again with retina-edge build MODEL.pt -o {engine} --force"
        ) from error


def read_engine(engine: Path | str) -> Passport:
    """Return the passport of an engine, and check that it describes the engine file.

    Raises:
        ModelFileError: if one of the two files is missing or damaged, or if they do not belong together.
    """
    engine = Path(engine)
    if not engine.is_file():
        raise ModelFileError(f"{engine}: expected an engine, found none; make it with retina-edge build")
    _finish_replacement(engine)
    passport = read_passport(engine)
    if (digest := sha256(engine)) != passport.plan_sha256:
        raise ModelFileError(
            f"{engine}: expected the engine of its passport (sha256 {passport.plan_sha256[:12]}, "
            f"{passport.plan_bytes} bytes), got sha256 {digest[:12]}, {engine.stat().st_size} bytes: the file is "
            f"damaged or was replaced; build it again with {rebuild_command(passport, engine)}"
        )
    return passport


def _finish_replacement(engine: Path) -> None:
    """Give the next passport its final name if it belongs to the engine, because a build was killed before that."""
    path = next_passport_path(engine)
    try:
        with path.open(encoding="utf-8") as file:
            passport = Passport.from_json(file.read(_MAX_SIZE))
        if passport.plan_sha256 == sha256(engine):
            os.replace(path, passport_path(engine))
    except (OSError, UnicodeDecodeError, ContractError):  # there is none, or it is worth nothing
        return


def rebuild_command(passport: Passport, engine: Path | str) -> str:
    """Return the command that builds the engine again for the machine on which the command runs."""
    source = passport.request.get("source", "MODEL.onnx")
    # An ONNX that was INT8 before the build contains its ranges. Any other model must be calibrated again.
    was_int8 = passport.quantization is not None and "calibration" not in passport.request.get("inputs", {})
    calibration = " --calibration DIR" if passport.precision_asked == "int8" and not was_int8 else ""
    # By default, ``build`` prefers TensorRT.
    backend = f" --backend {TENSORRT_RTX}" if passport.backend == TENSORRT_RTX else ""
    compatible = " --version-compatible" if passport.lean_runtime else ""
    compatible += " --without-runtime" if passport.lean_runtime == SEPARATE else ""
    compatible += " --hardware-compatible" if passport.request.get("options", {}).get("hardware_compatible") else ""
    smallest, best, largest = passport.batch
    batch = f" --batch {best}" if best > 1 else ""
    batch += f" --max-batch {largest}" if smallest < largest else ""
    options = f"--precision {passport.precision_asked}{batch}{calibration}{backend}{compatible}"
    return f"retina-edge build {shlex.quote(source)} -o {shlex.quote(str(engine))} {options} --force"


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> len(sha256(MODEL))
        64
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, to compare versions.

    Examples:
        >>> numbers("10.16.1.11") > numbers("10.3.0")
        True
    """
    return tuple(int(part[:9]) for part in version.split(".") if part.isdecimal())


def _check_values(values: Mapping[str, Any]) -> None:
    """Raise ContractError if a value has the right type, but the code that reads the passport cannot use it."""
    version, postprocess, batch = values["backend_version"], values["postprocess"], values["batch"]
    capability = values["machine"].get("compute_capability", "")
    require(bool(numbers(version)), "passport: backend_version", "a version such as 10.3.0", version)
    runtime = values.get("lean_runtime")
    require(runtime in (None, INSIDE, SEPARATE), "passport: lean_runtime", f"{INSIDE}, {SEPARATE} or null", runtime)
    require(postprocess in (PLUGIN, KERNELS), "passport: postprocess", f"{PLUGIN} or {KERNELS}", postprocess)
    sizes = "the smallest, the tuned and the largest size"
    require(len(batch) == 3 and 1 <= batch[0] <= batch[1] <= batch[2], "passport: batch", sizes, batch)
    fits = re.fullmatch(r"([0-9]{1,3}\.[0-9]{1,3})?", capability) is not None
    require(fits, "passport: machine.compute_capability", "a number such as 8.7", capability)
