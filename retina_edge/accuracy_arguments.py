"""The options of a budget of accuracy that ``export`` and ``build`` share, and what measures it."""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from engines.errors import ContractError
from retina_edge import cli
from retina_edge.data.coco import CocoDataset, load_coco
from retina_edge.detector import Detector
from retina_edge.evaluation import evaluate

if TYPE_CHECKING:
    import onnx

    from export.accuracy_budget import AccuracyBudget

# On which layers are compared: every one of them runs on all of these.
COMPARED_IMAGES = 4
# What is being done; done, and of how many.
Tell = Callable[[str, "float | None", "float | None"], None]


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--accuracy-budget",
        type=_points,
        metavar="POINTS",
        help="for fp16 and int8: AP points that it may lose against fp32, for instance 0.5; int8 puts back the layers "
        "that cost most until that holds, else nothing is written",
    )
    parser.add_argument("--val", type=Path, metavar="ANNOTATIONS.json", help="COCO annotations it is measured on")
    parser.add_argument(
        "--val-images",
        type=Path,
        metavar="DIR",
        help="their images (default: images/ beside the annotations, or there)",
    )
    parser.add_argument(
        "--no-fallback", action="store_true", help="fail outside the budget instead of putting layers back"
    )


def accuracy_budget(arguments: argparse.Namespace, *, made_of: str, tell: Tell) -> AccuracyBudget | None:
    """What the options ask for; None where no budget is.

    Args:
        arguments: parsed.
        made_of: precision of the model given.
        tell: told what is being measured.

    Raises:
        ContractError: options that do not belong together.
        DataError: the data set cannot be used.
    """
    if arguments.accuracy_budget is None:
        for option, given in (
            ("--val", arguments.val),
            ("--val-images", arguments.val_images),
            ("--no-fallback", arguments.no_fallback),
        ):
            if given:
                raise ContractError(f"{option} belongs to --accuracy-budget POINTS; give both or leave it out")
        return None
    if arguments.val is None:
        raise ContractError("--accuracy-budget needs labelled images to measure on: give --val ANNOTATIONS.json")
    if arguments.precision in ("fp32", made_of):
        raise ContractError(
            f"--accuracy-budget compares with fp32, and nothing is converted: --precision {arguments.precision}, of a "
            f"model in {made_of}; leave it out, or start from an fp32 model"
        )
    from export.accuracy_budget import AccuracyBudget  # needs onnx

    dataset = load_coco(arguments.val, arguments.val_images or _images_of(arguments.val))
    measure = _Measure(dataset, tell)
    busiest = sorted(dataset.images, key=lambda image: -len(image.boxes))[:COMPARED_IMAGES]
    return AccuracyBudget(
        arguments.accuracy_budget,
        measure,
        {"annotations": arguments.val.name, **digests(dataset), "by": "ONNX Runtime on a CPU"},
        [image.read() for image in busiest],
        not arguments.no_fallback,
        measure.tell,
    )


def digests(dataset: CocoDataset) -> dict[str, Any]:
    """How many images, and sha256 of the annotations and of the images, in their order."""
    images = hashlib.sha256()
    for image in dataset.images:
        images.update(hashlib.sha256(image.path.read_bytes()).digest())
    return {
        "images": len(dataset),
        "annotations_sha256": hashlib.sha256(dataset.annotations.read_bytes()).hexdigest(),
        "images_sha256": images.hexdigest(),
    }


def inputs(budget: AccuracyBudget) -> dict[str, str]:
    """What an engine made inside the budget depends on beside its model, as names and texts."""
    return {
        "accuracy budget": f"{budget.points:g}{'' if budget.fallback else ', no fallback'}",
        "measured on": f"{budget.data['annotations_sha256']} {budget.data['images_sha256']}",
    }


def print_accuracy(console: Console, found: Mapping[str, Any], precision: str) -> None:
    """The attempts, and what the one taken costs: an ``Accuracy`` as a passport keeps it."""
    trials = found["trials"]
    table = Table("", "layers put back", "AP", "points lost", "multiply-adds in INT8")
    table.add_row("fp32", "", f"{100 * found['ap_fp32']:.2f}", "", "")
    for trial in trials or [{"kept": (), "ap": found["ap"], "share": None}]:
        share = "" if trial["share"] is None else f"{trial['share']:.1%}"
        lost = 100 * (found["ap_fp32"] - trial["ap"])
        table.add_row(precision, str(len(trial["kept"])), f"{100 * trial['ap']:.2f}", f"{lost:.2f}", share)
    console.print(table)
    lines = [f"accuracy on {found['data']['images']} images, budget of {found['budget']:g} AP points: held"]
    if trials and trials[-1]["kept"]:
        lines.append(f"put back: {', '.join(trials[-1]['kept'])}")
    if found["speed"] is not None:
        lines.append(f"speed of the network: {found['speed']:g} times {found['speed_against']}")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


class _Measure:
    """AP of a deployable ONNX on a data set, through the same Detector as anything else."""

    def __init__(self, dataset: CocoDataset, tell: Tell) -> None:
        self._dataset, self._tell, self._doing = dataset, tell, ""

    def tell(self, doing: str) -> None:
        self._doing = doing
        self._tell(doing, None, None)

    def __call__(self, model: onnx.ModelProto) -> float:
        done, count = 0, len(self._dataset)

        def on_image() -> None:
            nonlocal done
            done += 1
            self._tell(self._doing, done, count)

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model.SerializeToString())
            with Detector.load(path) as detector:
                return evaluate(detector, self._dataset, batch=detector.check_batch(None), on_image=on_image).metrics[
                    "AP"
                ]


def _images_of(annotations: Path) -> Path:
    folder = annotations.parent / "images"
    return folder if folder.is_dir() else annotations.parent


def _points(text: str) -> float:
    points = cli.number(text)
    if not 0 <= points <= 100:
        raise argparse.ArgumentTypeError(f"expected AP points from 0 to 100, for instance 0.5, got {text!r}")
    return points
