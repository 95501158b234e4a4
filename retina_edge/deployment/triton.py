"""A model repository for NVIDIA Triton Inference Server: ``REPOSITORY/NAME/config.pbtxt`` and ``1/model.plan``.

The fields are those of Triton's ``model_config.proto``. A fixed batch size is part of the dims, and ``max_batch_size``
is 0, because Triton refuses a ``max_batch_size`` for a plan whose first dimension is fixed. A dynamic batch size is
omitted from the dims, and Triton combines requests into batches. The contract is also in the model's configuration,
under ``parameters``, so that a client needs no other file.
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

# Types by their names in TensorRT and ONNX, in lower case.
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
    """Write the folder ``REPOSITORY/NAME``, and return its path.

    Args:
        model: an engine of TensorRT, or a deployable ONNX.
        repository: folder for Triton's ``--model-repository``; other models in it stay unchanged.
        name: name of the model for clients; None for the name of its file.
        max_batch: largest batch, for a model with a dynamic batch size; None for the largest batch of an engine, or for
            8 with an ONNX.
        raw_heads: True to serve an engine that outputs raw heads, instead of refusing it.

    Raises:
        DeploymentError: if Triton does not accept the name, the batch does not fit, or the engine outputs raw heads and
            ``raw_heads`` is False.
        OSError: if a file cannot be written.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from retina_edge.assets import MODEL
        >>> with TemporaryDirectory() as repository:
        ...     folder = write_repository(DeployableModel.read(MODEL), Path(repository), name="trees")
        ...     sorted(path.name for path in folder.iterdir())
        ['1', 'README.md', 'config.pbtxt', 'contract.json', 'labels.txt']
    """
    name = model.path.stem if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise DeploymentError(
            f"name: expected letters, digits, '_', '-' and '.', got {name!r}; choose another with --name"
        )
    if model.outputs_raw_heads and not raw_heads:
        raise DeploymentError(
            f"{model.path}: expected an engine that outputs boxes, got one that outputs raw heads; build it with "
            "--postprocess plugin, deploy the ONNX, or use --raw-heads to leave decode and NMS to the client"
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
    # Write the configuration last: a server that polls for changes loads a model when its configuration appears.
    write_text(folder / "config.pbtxt", text)
    return folder


def config(model: DeployableModel, *, name: str, max_batch: int | None = None) -> str:
    """Return the text of ``config.pbtxt``, a ``ModelConfig`` in protobuf's text format.

    Raises:
        DeploymentError: if ``max_batch`` is given for a model with a fixed batch size, or exceeds the largest batch of
            the engine.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> print(*config(DeployableModel.read(MODEL), name="trees").splitlines()[:5], sep="\\n")
        name: "trees"
        platform: "onnxruntime_onnx"
        max_batch_size: 0
        input [
          { name: "images" data_type: TYPE_UINT8 dims: [ 1, 416, 736, 3 ] }
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
        # The first inference of a session loads and tunes the model. A warm-up spares the first client this delay.
        f"model_warmup [\n  {{\n    name: {quoted('zeros')}\n    batch_size: 1\n    inputs {{\n"
        f"      key: {quoted(images['name'])}\n      value {{ {_type(images)} {_dims(images, batched=batch > 0)} "
        "zero_data: true }\n    }\n  }\n]",
        f"parameters {{\n  key: {quoted(CONTRACT_PARAMETER)}\n"
        f"  value {{ string_value: {quoted(model.contract.to_json())} }}\n}}",
    ]
    return "\n".join(blocks) + "\n"


def readme(model: DeployableModel, *, name: str) -> str:
    """Return the instructions for clients, in Markdown."""
    contract = model.contract
    height, width = contract.input_size
    batch = "N" if model.batch is None else str(model.batch)
    lines = [
        f"# {name}",
        "",
        "retina_edge has not been tested with a Triton server. Its configurations are checked against Triton's schema.",
        "",
        f"Input `images`: uint8 [{batch}, {height}, {width}, 3], BGR. Resize a frame of h×w pixels bilinearly by",
        f"s = min({height} / h, {width} / w) to round(h · s) × round(w · s), put it at the top left, and pad with",
        "zeros at the right and the bottom. Do not normalize it: the network does.",
        "",
        *(_heads_note() if model.outputs_raw_heads else _detections_note(contract, batch)),
        "",
        f"The class names are in `{LABELS}`, everything else in `{CONTRACT}`. A client also finds the contract in the",
        f"model's configuration, as the parameter `{CONTRACT_PARAMETER}`.",
    ]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    r"""Return a string in protobuf's text format. Bytes that are not printable ASCII become octal escapes.

    Examples:
        >>> print(quoted("Bäume"))
        "B\303\244ume"
    """
    return '"' + "".join(_escaped(byte) for byte in text.encode()) + '"'


def _escaped(byte: int) -> str:
    character = chr(byte)
    if character in '"\\':
        return "\\" + character
    return character if 0x20 <= byte < 0x7F else f"\\{byte:03o}"


def _max_batch_size(model: DeployableModel, requested: int | None) -> int:
    if model.batch is not None:
        if requested is not None:
            raise DeploymentError(
                f"max-batch: expected no value for a model with the fixed batch size {model.batch}, got {requested}; "
                "omit it, or export or build the model for any batch size"
            )
        return 0
    if model.passport is None:
        return DEFAULT_MAX_BATCH if requested is None else requested
    largest = model.passport.batch[2]
    if requested is not None and requested > largest:
        raise DeploymentError(f"max-batch: expected at most {largest}, the engine's largest batch, got {requested}")
    return largest if requested is None else requested


def _tensor(tensor: Mapping[str, Any], *, batched: bool) -> str:
    shape = tensor["shape"][1:] if batched else tensor["shape"]
    # A tensor with one number per image has no dims left, and Triton requires one.
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
        f"Outputs: `num_detections` int32 [{batch}] ([{batch}, 1] if Triton batches requests), `boxes` float32",
        f"[{batch}, {k}, 4], `scores` float32 and `labels` int32 [{batch}, {k}]. Rows past `num_detections` are zero.",
        "Boxes are x1, y1, x2, y2 in input pixels. For frame pixels, divide x by round(w · s) / w and y by",
        "round(h · s) / h, and clip to the frame. `engines.core.letterbox.Letterbox` maps in both directions.",
    ]


def _heads_note() -> list[str]:
    return [
        "Outputs are the raw heads: `cls_L`, the class logits, and `box_L`, the box deltas, for each level L of the",
        "pyramid. **The client must do decode and non-maximum suppression.** Anchors, thresholds and strides are in",
        "the contract, and `engines/plugins/specification.py` of retina_edge is the specification, in NumPy.",
    ]
