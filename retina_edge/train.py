"""``retina-edge train``: train a RetinaNet on labeled images, on one device or under torchrun."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from retina_edge.api.given_options import GivenOptions
from retina_edge.api.training import train
from retina_edge.api.training_data import TrainingData
from retina_edge.api.training_inputs import Fields
from retina_edge.api.training_seeds import train_seeds
from retina_edge.cli import argument_types, running, training_options
from retina_edge.cli.training_end import print_seeds, run_outputs, way_on, way_on_from_a_full_disk
from retina_edge.cli.training_options import NONE
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.system.console import Console
from retina_edge.training.model_options import ModelOptions
from retina_edge.training.option_names import AUGMENT_FIELDS, MODEL_FIELDS, RUN_FIELDS
from retina_edge.training.recipes import AUTO, RECIPES
from retina_edge.training.run_files import last_path, run_files
from retina_edge.training.train_options import TrainOptions
from retina_edge.training.training_progress import TrainingProgress


def build_parser() -> VerbParser:
    """Return the parser of the verb. An option that is not given is None, and chosen later."""
    parser = VerbParser(
        "retina-edge train",
        "Train a RetinaNet on labeled images. Options that are not given are chosen from the data, the device and "
        "the time; each choice is printed with its reason.",
        example="retina-edge train train.json --val val.json --images images -o model.pt --minutes 30",
    )
    add = parser.add_argument
    add(
        "train",
        type=Path,
        metavar="DATA",
        help="labeled images to learn from: a COCO file, a YOLO data.yaml or obj.data, or a folder with train.json, "
        "data.yaml, obj.data, classes.txt or the XML files of Pascal VOC",
    )
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="MODEL.pt",
        help="file for the best checkpoint; MODEL.last.pt for --resume, MODEL.csv, MODEL.tensorboard/ and "
        "MODEL.report.html are written beside it; those of an earlier run are kept as MODEL.previous.*",
    )
    add(
        "--minutes",
        type=argument_types.positive_float,
        metavar="N",
        help="minutes that the run takes (default: no limit; on a CPU 30 if the usual length would take longer)",
    )
    add(
        "--recipe",
        choices=(AUTO, *RECIPES),
        default=AUTO,
        help="options that are not given: auto to choose them; small-data to choose them for a few dozen images; paper "
        "or v2 for those of the RetinaNet paper or of torchvision's second RetinaNet, an R50 of 800x800 pixels on a "
        "GPU (default: auto)",
    )
    add("--device", default="auto", help="auto, cpu or cuda (default: auto, a GPU if torch sees one)")
    training_options.add_data_options(parser)
    training_options.add_start_options(parser)
    training_options.add_teacher_options(parser)
    training_options.add_model_options(parser)
    training_options.add_augmentation_options(parser)
    training_options.add_run_options(parser)
    training_options.add_loss_options(parser)
    training_options.add_schedule_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code."""
    parser = build_parser()
    arguments = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(arguments)
    try:
        model, augment, options = (_given(args, fields) for fields in (MODEL_FIELDS, AUGMENT_FIELDS, RUN_FIELDS))
        given = [name for name in (*MODEL_FIELDS, "init", "teacher") if getattr(args, name) is not None]
        if args.qat and given:
            option = f"--{given[0].replace('_', '-')}"
            parser.error(
                f"{option}: not allowed with --qat, which takes the model from its checkpoint; leave {option} out"
            )
        if args.qat and args.recipe != AUTO:
            parser.error("--recipe: not allowed with --qat, which has options of its own; leave --recipe out")
        if args.resume and args.init and args.seeds == 1:
            parser.error("--init: not allowed with --resume, which has its weights already; leave one out")
        if args.find_lr and (args.qat or args.lr is not None):
            other = "--qat, which needs a small rate" if args.qat else "--lr, which is the rate"
            parser.error(f"--find-lr: not allowed with {other}; leave one out")
        if args.distill_weight and not args.teacher:
            parser.error("--distill-weight: expected --teacher, whose losses it weights, got none; leave it out")
        if args.minutes and args.epochs:
            parser.error("--minutes: not allowed with --epochs, which decides the length of the run; leave one out")
        _check_options(args.recipe, GivenOptions(model, augment, options))  # before anything is read
    except ValueError as error:
        parser.error(str(error))
    return running.run(lambda: _train(args, arguments, options=options, model=model, augment=augment))


def _train(
    args: argparse.Namespace, arguments: Sequence[str], *, options: Fields, model: Fields, augment: Fields
) -> int:
    # Under torchrun only the first process prints.
    console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
    say = partial(console.print, highlight=False, soft_wrap=True, markup=False)
    started = time.time() - 1
    data = TrainingData(args.train, args.images, args.val, args.val_images, args.skip_invalid, args.bit_depth)
    common = {
        "model": None if args.qat else model,
        "augment": augment,
        "init": args.init,
        "qat": args.qat,
        "teacher": args.teacher,
        "recipe": args.recipe,
        "resume": args.resume,
        "find_lr": args.find_lr,
        "half_weights": args.half_weights,
        "device": args.device,
        "on_message": say,
    }
    try:
        if args.seeds == 1:
            train(data, args.output, options, observer=TrainingProgress(console), **common)
        else:
            observer = partial(TrainingProgress, console)
            result = train_seeds(data, args.output, options, seeds=args.seeds, make_observer=observer, **common)
            print_seeds(console, result)
    except KeyboardInterrupt:
        saved = [last for last in map(last_path, run_outputs(args)) if last.is_file()]
        if not args.resume:
            saved = [last for last in saved if last.stat().st_mtime >= started]
        if saved:
            say(f"the state is in {saved[-1]}; {way_on(arguments, args)}")
        else:
            say("stopped before the first step: there is nothing to resume, start the run again")
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            say(way_on_from_a_full_disk(arguments, args))
        raise
    outputs = dict.fromkeys((args.output, *run_outputs(args)))
    written = [path for output in outputs for path in run_files(output) if path.exists()]
    say(f"wrote {', '.join(map(str, written))}")
    command = ["retina-edge", "export", str(args.output), "-o", str(args.output.with_suffix(".onnx"))]
    say(f"next: {shlex.join(command)}")
    return 0


def _given(args: argparse.Namespace, fields: Mapping[str, str]) -> Fields:
    """Return the options that were given, by the names of their fields."""
    values = {field: getattr(args, name) for name, field in fields.items() if getattr(args, name) is not None}
    if values.get("backbone_weights") == NONE:
        values["backbone_weights"] = None
    if "anchor_sizes" in values:
        values["anchor_sizes"] = _anchor_sizes(values["anchor_sizes"])
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _check_options(recipe: str, given: GivenOptions) -> None:
    """Check the given options, with those of a recipe for the others, and the paper's for what that leaves open.

    Raises:
        ValueError: if an option is out of range.
    """
    complete, _ = given.with_recipe(recipe)[0].with_recipe("paper")
    for kind, values in ((TrainOptions, complete.options), (ModelOptions, complete.model)):
        kind(**values)
    AugmentOptions(**complete.augment)


def _anchor_sizes(values: Sequence[float | str]) -> tuple[float, ...] | None:
    """Return the smallest anchor of each pyramid level; None for ``auto``.

    Raises:
        ValueError: if the values are both sizes and ``auto``.
    """
    if values == [AUTO]:
        return None
    if AUTO in values:
        given = " ".join(value if isinstance(value, str) else f"{value:g}" for value in values)
        raise ValueError(f"anchors: expected sizes in pixels or {AUTO}, got {given}; leave one out")
    return tuple(map(float, values))


if __name__ == "__main__":
    raise SystemExit(main())
