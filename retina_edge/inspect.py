"""``retina-edge inspect``: describe a checkpoint, a deployable ONNX or an engine without running it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engines.tensorrt.model_description import Inspection, inspect_model
from engines.tensorrt.passport import sha256
from retina_edge.cli import running
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.system.console import Console
from retina_edge.system.table import Table


def build_parser() -> VerbParser:
    """Return the parser of the verb."""
    parser = VerbParser(
        "retina-edge inspect",
        "Describe a model file: contract, precision of each layer, sizes, inputs and outputs.",
        example="retina-edge inspect model.engine",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model.pt, model.onnx or model.engine")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return running.run(lambda: _inspect(arguments.model, as_json=arguments.json))


def _inspect(path: Path, *, as_json: bool) -> int:
    inspection = inspect_checkpoint(path) if path.suffix == ".pt" else inspect_model(path)
    if as_json:
        print(inspection.to_json())
    else:
        _print(Console(), inspection)
    return 0


def inspect_checkpoint(path: Path) -> Inspection:
    """Describe a checkpoint: contract, architecture and state of the training. It has no graph of layers yet.

    Raises:
        ModelFileError: if the file is missing, damaged, or not a checkpoint of retina_edge.

    Examples:
        >>> from retina_edge.assets import CHECKPOINT
        >>> inspect_checkpoint(CHECKPOINT).facts["training"]
        'finished: a model to ship, which cannot be resumed'
    """
    from retina_edge.model.checkpoint import load_checkpoint  # needs torch

    checkpoint = load_checkpoint(path)
    state = checkpoint.training
    facts = {
        "parameters": f"{sum(value.numel() for value in checkpoint.weights.values()) / 1e6:.1f} million",
        "training": "finished: a model to ship, which cannot be resumed"
        if state is None
        else f"state after step {state['step']}, for retina-edge train --resume",
    }
    for name, value in dataclasses.asdict(checkpoint.config).items():
        facts[name.replace("_", " ")] = str(value)
    if checkpoint.recipe is not None:
        facts |= {f"train {name}": str(value) for name, value in checkpoint.recipe["options"].items()}
        chosen = " ".join(f"{choice['option']} {choice['value']}" for choice in checkpoint.recipe["choices"])
        facts["chosen options"] = chosen or "none, all were given"
    size, digest = path.stat().st_size, sha256(path)
    return Inspection(path, size, digest, checkpoint.contract, (), (), {}, {}, facts, None, None)


def _print(console: Console, inspection: Inspection) -> None:
    contract = inspection.contract
    names = ", ".join(contract.class_names[:5]) + (", ..." if contract.num_classes > 5 else "")
    rows = {
        "size": f"{inspection.size / 1e6:.1f} MB",
        "sha256": inspection.sha256,
        "precision": contract.precision,
        "architecture": contract.architecture,
        "input": f"{contract.input_size[0]}x{contract.input_size[1]} pixels, letterbox {contract.letterbox}",
        "classes": f"{contract.num_classes}: {names}",
        "anchors": f"{contract.num_anchors} per position, levels of "
        + ", ".join(f"{height}x{width}" for height, width in (level.feature_size for level in contract.levels)),
        "thresholds": f"score {contract.score_threshold}, IoU {contract.iou_threshold}, "
        f"{contract.top_k} candidates per level, {contract.max_detections} detections",
        "NMS": "class-agnostic" if contract.agnostic else "class-aware",
        "made by": ", ".join(f"{name} {version}" for name, version in sorted(contract.produced_by.items())),
        **inspection.facts,
    }
    for name in ("quantization", "accuracy"):
        rows |= {f"{name}, {key}": _short(value) for key, value in (getattr(inspection, name) or {}).items()}
    _table(console, str(inspection.path), ("", ""), rows.items())
    for title, tensors in (("inputs", inspection.inputs), ("outputs", inspection.outputs)):
        _table(console, title, ("name", "type", "shape"), map(_tensor, tensors))
    kinds = ((kind, _counts(counts)) for kind, counts in inspection.layers.items())
    _table(console, "layers", ("kind", "precision"), kinds)
    _table(console, "convolutions", ("name", "precision"), inspection.convolutions.items())


def _table(console: Console, title: str, columns: Sequence[str], rows: Any) -> None:
    rows = list(rows)
    if not rows:  # a checkpoint has no graph, so no layers, inputs and outputs
        return
    table = Table(*columns, title=title, show_header=any(columns))
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _tensor(tensor: Mapping[str, Any]) -> tuple[str, str, str]:
    return tensor["name"], tensor["type"], " × ".join("N" if size == -1 else str(size) for size in tensor["shape"])


def _counts(counts: Mapping[str, int]) -> str:
    """Return text like ``3 fp16, 61 int8``."""
    return ", ".join(f"{count} {precision}" for precision, count in sorted(counts.items()))


def _short(value: Any) -> str:
    """Return short text for a value of a record; a list of objects becomes its length."""
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(item)}" for name, item in value.items())
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return str(len(value))
    if isinstance(value, list):
        return f"{len(value)}: {', '.join(map(str, value))}"
    return str(value)


if __name__ == "__main__":
    raise SystemExit(main())
