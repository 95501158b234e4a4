"""``retina-edge train``: train a RetinaNet on labeled images, on one device or under torchrun."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from retina_edge.api.training import Fields, train
from retina_edge.api.training_data import TrainingData
from retina_edge.cli import argument_types, running, training_options
from retina_edge.cli.training_options import AUGMENT_FIELDS, AUTO, MODEL_FIELDS, NONE, PAPER, RECIPES, RUN_FIELDS
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.data.anchor_fit import DEFAULT_SIZES
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.system.console import Console
from retina_edge.training.model_options import ModelOptions
from retina_edge.training.run_files import kept_path, last_path, run_files
from retina_edge.training.train_options import QAT_OPTIONS, TrainOptions
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
        help="file for the best checkpoint; MODEL.last.pt for --resume, MODEL.csv and MODEL.tensorboard/ are written "
        "beside it; those of an earlier run are kept as MODEL.previous.*",
    )
    add(
        "--minutes",
        type=argument_types.positive_float,
        metavar="N",
        help="minutes that the run takes (default: no limit; on a CPU 30 if the usual length would take longer)",
    )
    add(
        "--recipe",
        choices=RECIPES,
        default=AUTO,
        help="options that are not given: auto to choose them, paper for those of the RetinaNet paper, an R50 of "
        "800x800 pixels (default: auto)",
    )
    add("--device", default="auto", help="auto, cpu or cuda (default: auto, a GPU if torch sees one)")
    training_options.add_data_options(parser)
    training_options.add_start_options(parser)
    training_options.add_teacher_options(parser)
    training_options.add_model_options(parser)
    training_options.add_augmentation_options(parser)
    training_options.add_run_options(parser)
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
        if args.distill_weight and not args.teacher:
            parser.error("--distill-weight: expected --teacher, whose losses it weights, got none; leave it out")
        if args.minutes and args.epochs:
            parser.error("--minutes: not allowed with --epochs, which decides the length of the run; leave one out")
        # Checks the options before anything is read.
        complete = _complete(QAT_OPTIONS if args.qat else TrainOptions(), options=options, model=model, augment=augment)
        if args.recipe == PAPER:
            options, model, augment = complete
            if args.minutes:  # a run with a time has no number of epochs
                options = {name: value for name, value in options.items() if name != "epochs"}
    except ValueError as error:
        parser.error(str(error))
    return running.run(lambda: _train(args, arguments, options=options, model=model, augment=augment))


def _train(
    args: argparse.Namespace, arguments: Sequence[str], *, options: Fields, model: Fields, augment: Fields
) -> int:
    # Under torchrun only the first process prints.
    console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
    say = partial(console.print, highlight=False, soft_wrap=True, markup=False)
    last, started = last_path(args.output), time.time() - 1
    try:
        train(
            TrainingData(args.train, args.images, args.val, args.val_images, args.skip_invalid, args.bit_depth),
            args.output,
            options,
            model=None if args.qat else model,
            augment=augment,
            init=args.init,
            qat=args.qat,
            teacher=args.teacher,
            resume=args.resume,
            half_weights=args.half_weights,
            device=args.device,
            on_message=say,
            observer=TrainingProgress(console),
        )
    except KeyboardInterrupt:
        if last.is_file() and last.stat().st_mtime >= started:
            say(f"the state is in {last}; {_way_on(arguments, args)}")
        else:
            say("stopped before the first step: there is nothing to resume, start the run again")
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            say(_way_on_from_a_full_disk(arguments, args))
        raise
    say(f"wrote {', '.join(str(path) for path in run_files(args.output) if path.exists())}")
    command = ["retina-edge", "export", str(args.output), "-o", str(args.output.with_suffix(".onnx"))]
    say(f"next: {shlex.join(command)}")
    return 0


def _way_on_from_a_full_disk(arguments: Sequence[str], args: argparse.Namespace) -> str:
    """Return what is whole on a full disk, and how to go on, as text for the user."""
    last, kept = last_path(args.output), kept_path(args.output)
    if last.is_file():
        return f"an earlier state is whole in {last}; free some space, then {_way_on(arguments, args)}"
    earlier = f"; the model of the run before is whole in {kept}" if kept.is_file() else ""
    return f"the run has saved nothing yet{earlier}; free some space, then start the run again"


def _way_on(arguments: Sequence[str], args: argparse.Namespace) -> str:
    """Return the command that resumes the run, as text for the user."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "start the run again in the same way, with --resume"
    # A resumed run has its weights from its own checkpoint.
    kept = [word for word in arguments if word != f"--init={args.init}"]
    if "--init" in kept:
        del kept[kept.index("--init") : kept.index("--init") + 2]
    return f"go on with: {shlex.join(['retina-edge', 'train', *kept, *([] if args.resume else ['--resume'])])}"


def _given(args: argparse.Namespace, fields: Mapping[str, str]) -> Fields:
    """Return the options that were given, by the names of their fields."""
    values = {field: getattr(args, name) for name, field in fields.items() if getattr(args, name) is not None}
    if values.get("backbone_weights") == NONE:
        values["backbone_weights"] = None
    if "anchor_sizes" in values:
        values["anchor_sizes"] = _anchor_sizes(values["anchor_sizes"])
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _complete(run: TrainOptions, *, options: Fields, model: Fields, augment: Fields) -> tuple[Fields, Fields, Fields]:
    """Return all options, with the defaults of the RetinaNet paper for those that were not given.

    Raises:
        ValueError: if an option is out of range.
    """
    levels = model.get("backbone_levels") or len(model.get("anchor_sizes") or DEFAULT_SIZES)
    model = {"anchor_sizes": DEFAULT_SIZES[:levels], "backbone_levels": levels, **model}
    complete = (dataclasses.replace(run, **options), ModelOptions(**model), AugmentOptions(**augment))
    all_options, all_model, all_augment = (vars(part) for part in complete)
    return all_options, all_model, all_augment


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
