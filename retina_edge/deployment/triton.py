"""A model repository for NVIDIA Triton Inference Server: ``REPOSITORY/NAME/config.pbtxt`` and ``1/model.plan``.

The fields are those of Triton's ``model_config.proto``. A fixed batch is part of the dims and ``max_batch_size`` is 0,
because Triton refuses ``max_batch_size`` for a plan whose first dimension is not open; an open one is left out of the
dims, and Triton puts requests together. A client finds the contract in the model's configuration too, under
``parameters``, so it needs no file of ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.core.contract import DetectorContract
from engines.core.errors import DeploymentError
from engines.tensorrt.passport import passport_path
from retina_edge.deployment.deployable_model import (
    CONTRACT,
    LABELS,
    DeployableModel,
    copy_model,
    write_label_files,
    write_text,
)

# TensorRT's and ONNX's names of types, lower case.
TYPES = {"uint8": "UINT8", "float": "FP32", "float16": "FP16", "half": "FP16", "int32": "INT32"}
CONTRACT_PARAMETER = "retina_edge.contract"
DEFAULT_MAX_BATCH = 8
PLAN, ONNX = "model.plan", "model.onnx"


def write_repository(
    model: DeployableModel,
    repository: Path,
    *,
    name: str | None = None,
    max_batch: int | None = None,
    raw_heads: bool = False,
) -> Path:
    """Writes ``REPOSITORY/NAME`` and gives that folder.

    Args:
        model: an engine of TensorRT or a deployable ONNX.
        repository: folder that Triton's ``--model-repository`` names; others' models in it stay as they are.
        name: what clients call the model; that of its file where None.
        max_batch: most images at a time, for an ONNX of any batch size; 8 where None.
        raw_heads: serve an engine that ends at the raw heads as it is.

    Raises:
        DeploymentError: the name is none for Triton, the batch does not fit, or raw heads were not asked for.
        OSError: it cannot be written.
    """
    name = model.path.stem if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise DeploymentError(
            f"name: expected letters, digits, '_', '-' and '.', got {name!r}; give another with --name"
        )
    if model.ends_at_heads and not raw_heads:
        raise DeploymentError(
            f"{model.path}: expected an engine that gives boxes, found one that ends at the raw heads; build it with "
            "--postprocess plugin, or deploy the ONNX; --raw-heads serves it as it is, and leaves decode and NMS to "
            "the client"
        )
    text = config(model, name=name, max_batch=max_batch)
    folder = repository / name
    file, other = (ONNX, PLAN) if model.passport is None else (PLAN, ONNX)
    copy_model(model, folder / "1" / file)
    for stale in (folder / "1" / other, passport_path(folder / "1" / PLAN) if model.passport is None else None):
        if stale is not None:
            stale.unlink(missing_ok=True)
    write_label_files(folder, model.contract)
    write_text(folder / "README.md", readme(model, name=name))
    # Last: a server that looks for changes takes a model up by its configuration.
    write_text(folder / "config.pbtxt", text)
    return folder


def config(model: DeployableModel, *, name: str, max_batch: int | None = None) -> str:
    """``config.pbtxt``, a ``ModelConfig`` in protobuf's text format.

    Raises:
        DeploymentError: ``max_batch`` was given for a model that knows its own.
    """
    batch = _max_batch_size(model, max_batch)
    (images,) = model.inputs
    plan = model.passport is not None
    blocks = [
        f"name: {quoted(name)}",
        f"platform: {quoted('tensorrt_plan' if plan else 'onnxruntime_onnx')}",
        f"max_batch_size: {batch}",
        f"input [\n{_tensor(images, batched=batch > 0)}\n]",
        "output [\n" + ",\n".join(_tensor(output, batched=batch > 0) for output in model.outputs) + "\n]",
        f"instance_group [\n  {{ count: 1 kind: {'KIND_GPU' if plan else 'KIND_AUTO'} }}\n]",
        *(["dynamic_batching { }"] if batch else []),
        # The first inference of a session loads and tunes; it should not be a user's.
        f"model_warmup [\n  {{\n    name: {quoted('zeros')}\n    batch_size: 1\n    inputs {{\n"
        f"      key: {quoted(images['name'])}\n      value {{ {_type(images)} {_dims(images, batched=batch > 0)} "
        "zero_data: true }\n    }\n  }\n]",
        f"parameters {{\n  key: {quoted(CONTRACT_PARAMETER)}\n"
        f"  value {{ string_value: {quoted(model.contract.to_json())} }}\n}}",
    ]
    return "\n".join(blocks) + "\n"


def readme(model: DeployableModel, *, name: str) -> str:
    """What a client has to know, in Markdown."""
    contract = model.contract
    height, width = contract.input_size
    batch = "N" if model.batch is None else str(model.batch)
    lines = [
        f"# {name}",
        "",
        "Not run on a Triton server by the project that wrote it; its configurations are held against Triton's schema.",
        "",
        f"Input `images`: uint8 [{batch}, {height}, {width}, 3], BGR. A frame of h×w pixels is resized bilinearly by",
        f"s = min({height} / h, {width} / w) to round(h · s) × round(w · s), put at the top left, zeros at the right",
        "and the bottom. Nothing else: the normalization is in the network.",
        "",
        *(_heads_note() if model.ends_at_heads else _detections_note(contract, batch)),
        "",
        f"Names of the labels: `{LABELS}`. Everything else: `{CONTRACT}`, which a client also finds in the model's",
        f"configuration, as the parameter `{CONTRACT_PARAMETER}`.",
    ]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A string of protobuf's text format; what is not printable ASCII in octal."""
    return '"' + "".join(_escaped(byte) for byte in text.encode()) + '"'


def _escaped(byte: int) -> str:
    character = chr(byte)
    if character in '"\\':
        return "\\" + character
    return character if 0x20 <= byte < 0x7F else f"\\{byte:03o}"


def _max_batch_size(model: DeployableModel, asked: int | None) -> int:
    if model.batch is not None:
        if asked is not None:
            raise DeploymentError(
                f"max-batch: expected none for a model of the fixed batch {model.batch}, got {asked}; leave it out, or "
                "export or build it for any batch"
            )
        return 0
    if model.passport is None:
        return DEFAULT_MAX_BATCH if asked is None else asked
    largest = model.passport.batch[2]
    if asked is not None and asked > largest:
        raise DeploymentError(f"max-batch: expected at most {largest}, for which the engine was built, got {asked}")
    return largest if asked is None else asked


def _tensor(tensor: Mapping[str, Any], *, batched: bool) -> str:
    shape = tensor["shape"][1:] if batched else tensor["shape"]
    # A tensor of one number an image has no dims left, and Triton wants one.
    reshape = "" if shape else " reshape: { shape: [ ] }"
    return f"  {{ name: {quoted(tensor['name'])} {_type(tensor)} {_dims(tensor, batched=batched)}{reshape} }}"


def _type(tensor: Mapping[str, Any]) -> str:
    return f"data_type: TYPE_{TYPES[tensor['type']]}"


def _dims(tensor: Mapping[str, Any], *, batched: bool) -> str:
    shape = (tensor["shape"][1:] if batched else tensor["shape"]) or [1]
    return f"dims: [ {', '.join(map(str, shape))} ]"


def _detections_note(contract: DetectorContract, batch: str) -> list[str]:
    k = contract.max_detections
    return [
        f"Outputs: `num_detections` int32 [{batch}] ([{batch}, 1] where requests are put together), `boxes` float32",
        f"[{batch}, {k}, 4], `scores` float32 and `labels` int32 [{batch}, {k}]; rows past `num_detections` are zero.",
        "Boxes are x1, y1, x2, y2 in pixels of the input. In pixels of the frame: x divided by round(w · s) / w, y by",
        "round(h · s) / h, clipped to the frame. `engines.core.letterbox.Letterbox.fit` does both ways.",
    ]


def _heads_note() -> list[str]:
    return [
        "Outputs are the raw heads: `cls_L`, the class logits, and `box_L`, the deltas of the boxes, for each level L",
        "of the pyramid. **Decode and non-maximum suppression are the client's**; anchors, thresholds and strides are",
        "in the contract, and `engines/plugins/specification.py` of retina_edge is the specification, in NumPy.",
    ]
