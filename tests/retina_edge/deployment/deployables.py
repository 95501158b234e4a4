"""Engines to deploy: a realistic passport beside a fake plan, because no test here reads the plan."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from engines.core.contract import DetectorContract
from engines.core.machine import Machine
from engines.tensorrt.passport import Passport, passport_path
from tests.stand_in import contract as make_contract

PLAN = b"not a plan of TensorRT, but enough"


def detections(contract: DetectorContract, batch: int) -> tuple[dict[str, Any], ...]:
    """Return the outputs of an engine that contains decode and NMS, as in its passport."""
    k = contract.max_detections
    return (
        {"name": "num_detections", "type": "int32", "shape": [batch]},
        {"name": "boxes", "type": "float", "shape": [batch, k, 4]},
        {"name": "scores", "type": "float", "shape": [batch, k]},
        {"name": "labels", "type": "int32", "shape": [batch, k]},
    )


def write_engine(
    folder: Path,
    *,
    batch: tuple[int, int, int] = (1, 1, 1),
    postprocess: str = "plugin",
    contract: DetectorContract | None = None,
    **changes: Any,
) -> Path:
    """Write ``model.engine`` and its passport. The batch size is dynamic if the smallest and the largest differ."""
    contract = contract or make_contract()
    size = batch[0] if batch[0] == batch[2] else -1
    heads = (
        {"name": "cls_0", "type": "half", "shape": [size, 2, 8, 12]},
        {"name": "box_0", "type": "half", "shape": [size, 4, 8, 12]},
    )
    values: dict[str, Any] = {
        "contract": contract,
        "plan_sha256": hashlib.sha256(PLAN).hexdigest(),
        "plan_bytes": len(PLAN),
        "onnx_sha256": "0" * 64,
        "request": {"source": "model.pt"},
        "backend": "tensorrt",
        "backend_version": "10.13.3.9",
        "targets": (),
        "machine": Machine("Thor", "11.0", "580.1", "JetPack 7.1"),
        "precision_asked": "fp16",
        "precision_found": {"convolution": {"fp16": 3}},
        "precision_source": "engine inspector",
        "convolutions": {"conv1": "fp16"},
        "postprocess": postprocess,
        "inputs": ({"name": "images", "type": "uint8", "shape": [size, *contract.input_size, 3]},),
        "outputs": detections(contract, size) if postprocess == "plugin" else heads,
        "batch": batch,
        "quantization": None,
        "verified": None,
        "build_seconds": 1.5,
        "built_at": "2026-11-24T00:00:00+00:00",
    }
    engine = folder / "model.engine"
    engine.write_bytes(PLAN)
    passport_path(engine).write_text(Passport(**{**values, **changes}).to_json())
    return engine
