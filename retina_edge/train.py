"""``retina-edge train``: train a RetinaNet on COCO annotations, on one device or under torchrun."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from retina_edge.api.training import Fields, train
from retina_edge.api.training_data import TrainingData
from retina_edge.api.training_plan import IMAGENET
from retina_edge.cli import argument_types, running
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.data.anchor_fit import DEFAULT_SIZES
from retina_edge.data.augment_options import ORIENTATIONS, AugmentOptions
from retina_edge.model.config import BACKBONES
from retina_edge.training.model_options import ModelOptions
from retina_edge.training.train_options import AMP_MODES, OPTIMIZERS, QAT_OPTIONS, SCHEDULES, TrainOptions
from retina_edge.training.training_progress import TrainingProgress

AUTO, PAPER, NONE = "auto", "paper", "none"
RECIPES = (AUTO, PAPER)
# Names of the options' fields, by the names of the arguments.
MODEL_FIELDS = {
    "input": "input_size",
    "anchors": "anchor_sizes",
    **{name: name for name in ("aspect_ratios", "backbone", "backbone_levels", "backbone_norm", "fpn_channels")},
    **{name: name for name in ("head_depth", "head_norm", "box_loss", "backbone_weights")},
}
AUGMENT_FIELDS = {"crop": "size", "scale": "scale", "orientation": "orientation", "photometric": "photometric"}
RUN_FIELDS = {
    "lr": "learning_rate",
    "warmup": "warmup_steps",
    **{name: name for name in ("epochs", "epoch_samples", "batch", "optimizer", "weight_decay", "schedule", "amp")},
    **{name: name for name in ("ema", "clip_norm", "workers", "seed", "eval_every", "minutes")},
}


def build_parser() -> VerbParser:
    """Return the parser of the verb. An option that is not given is None, and chosen later."""
    parser = VerbParser(
        "retina-edge train",
        "Train a RetinaNet on COCO annotations. Options that are not given are chosen from the data, the device and "
        "the time; each choice is printed with its reason.",
        example="retina-edge train train.json --val val.json --images images -o model.pt --minutes 30",
    )
    add = parser.add_argument
    add("train", type=Path, metavar="DATA", help="COCO annotations to learn from, or a folder with train.json")
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="MODEL.pt",
        help="file for the best checkpoint; MODEL.last.pt for --resume, MODEL.csv and MODEL.tensorboard/ are written "
        "beside it",
    )
    add("--minutes", type=argument_types.positive_float, metavar="N", help="minutes that the run takes (default: open)")
    add(
        "--recipe",
        choices=RECIPES,
        default=AUTO,
        help="source of the options that are not given: auto for choices, paper for those of the RetinaNet paper with "
        "an R50 of 800x800 pixels (default: auto)",
    )
    add("--device", default="auto", help="auto, cpu or cuda (default: auto, a GPU if torch sees one)")
    _add_data_options(parser)
    _add_start_options(parser)
    _add_model_options(parser)
    _add_augmentation_options(parser)
    _add_run_options(parser)
    return parser


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("data").add_argument
    add("--images", type=Path, metavar="DIR", help="folder of the training images (default: found near DATA)")
    add(
        "--val",
        type=Path,
        metavar="VAL.json",
        help="COCO annotations to validate on (default: val.json in a folder, else a fifth of the images)",
    )
    add("--val-images", type=Path, metavar="DIR", help="folder of the validation images (default: --images)")
    add("--skip-invalid", action="store_true", help="skip boxes that have no area or lie outside their image")


def _add_start_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("start")
    start = group.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="continue from MODEL.last.pt, with its options")
    start.add_argument(
        "--init", type=Path, metavar="PATH", help="checkpoint to fine-tune from, also for other classes (default: none)"
    )
    weights = group.add_mutually_exclusive_group()
    weights.add_argument(
        "--backbone-weights",
        metavar="imagenet|none|FILE",
        help="weights that the backbone starts from: ImageNet's, which torchvision downloads, random ones, or a file "
        "(default: imagenet, or none if they cannot be downloaded)",
    )
    weights.add_argument(
        "--pretrained-backbone",
        action="store_const",
        const=IMAGENET,
        dest="backbone_weights",
        help="the same as --backbone-weights imagenet",
    )
    group.add_argument(
        "--qat",
        type=Path,
        metavar="PATH",
        help="trained checkpoint to fine-tune with the rounding of INT8 (quantization-aware training), by default for "
        "3 epochs of AdamW with a small, falling learning rate; the model options come from it (default: none)",
    )


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model", "These options cannot be combined with --qat.").add_argument
    add(
        "--input",
        type=argument_types.input_size,
        metavar="HxW",
        help="input size of the network in pixels, multiples of 32 (default: that of the images, at most 640 on a CPU "
        "and 1024 on a GPU)",
    )
    add("--backbone", choices=BACKBONES, help="backbone (default: resnet18 on a CPU, resnet50 on a GPU)")
    add(
        "--backbone-levels",
        type=int,
        choices=(3, 4, 5),
        metavar="3|4|5",
        help="last stage of the backbone that feeds the pyramid, C3 to C5 (default: by the sizes of the objects)",
    )
    add(
        "--backbone-norm",
        choices=("batch", "frozen"),
        help="normalization in the backbone; frozen has fixed statistics and scale (default: batch)",
    )
    add(
        "--fpn-channels",
        type=int,
        metavar="N",
        help="channels of pyramid and heads, a multiple of 32 (default: 64 on a CPU, 256 on a GPU)",
    )
    add(
        "--head-depth",
        type=int,
        metavar="N",
        help="3x3 convolutions in each head, 1 to 4 (default: 2 on a CPU, 4 on a GPU)",
    )
    add("--head-norm", choices=("none", "group"), help="normalization in the heads (default: group)")
    add("--box-loss", choices=("l1", "smooth_l1", "giou", "diou", "ciou"), help="loss of the boxes (default: giou)")
    add(
        "--anchors",
        type=_anchor_size,
        nargs="+",
        metavar="PX",
        help="size of the smallest anchor of each pyramid level, in input pixels, or auto (default: auto, the sizes "
        "that fit the objects best)",
    )
    add(
        "--aspect-ratios",
        type=argument_types.positive_float,
        nargs="+",
        metavar="R",
        help="height / width of the anchors (default: those that fit the objects best)",
    )


def _add_augmentation_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("augmentation").add_argument
    add(
        "--crop",
        type=argument_types.input_size,
        metavar="HxW",
        help="size of training crops in pixels (default: a part of the input on a CPU, the input on a GPU)",
    )
    add(
        "--scale",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="range of the factor by which images are resized (default: 0.7 1.4)",
    )
    add(
        "--orientation",
        choices=ORIENTATIONS,
        help="flips: none, horizontal, or dihedral for images from above (default: horizontal)",
    )
    add(
        "--no-photometric",
        action="store_const",
        const=False,
        dest="photometric",
        help="keep brightness, contrast, saturation and hue (default: change them)",
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("run").add_argument
    add("--epochs", type=int, help="number of epochs (default: by the number of images, or by --minutes)")
    add(
        "--epoch-samples",
        type=int,
        metavar="N",
        help="samples in an epoch; 0 for each image once (default: 0, more with few images)",
    )
    add("--batch", type=int, help="samples per step in each process (default: 8 on a CPU, 16 on a GPU)")
    add("--optimizer", choices=OPTIMIZERS, help="optimizer (default: adamw)")
    add("--lr", type=float, help="learning rate after the warm-up (default: by optimizer, batch and weights)")
    add("--weight-decay", type=float, help="weight decay (default: 0.05 with adamw, 0.0001 with sgd)")
    add("--warmup", type=int, metavar="STEPS", help="steps in which the learning rate rises (default: 5%% of the run)")
    add("--schedule", choices=SCHEDULES, help="schedule of the learning rate (default: cosine)")
    add(
        "--amp",
        choices=AMP_MODES,
        help="data type of mixed precision (default: auto, bf16 if the device supports it)",
    )
    add(
        "--ema",
        type=float,
        metavar="DECAY",
        help="decay of the moving average of the weights; 0 for no average (default: by the number of steps)",
    )
    add("--clip-norm", type=float, help="upper bound of the gradient norm; 0 for no bound (default: 10)")
    add("--workers", type=int, help="number of processes that load images (default: by the number of processors)")
    add("--seed", type=int, help="seed of all randomness (default: 0)")
    add("--eval-every", type=int, metavar="EPOCHS", help="epochs between evaluations (default: 1)")
    add("--half-weights", action="store_true", help="store the best weights in float16")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code."""
    parser = build_parser()
    arguments = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(arguments)
    try:
        model, augment, options = (_given(args, fields) for fields in (MODEL_FIELDS, AUGMENT_FIELDS, RUN_FIELDS))
        given = [name for name in (*MODEL_FIELDS, "init") if getattr(args, name) is not None]
        if args.qat and given:
            option = f"--{given[0].replace('_', '-')}"
            parser.error(
                f"{option}: not allowed with --qat, which takes the model from its checkpoint; leave {option} out"
            )
        if args.minutes and args.epochs:
            parser.error("--minutes: not allowed with --epochs, which decides the length of the run; leave one out")
        # Checks the options before anything is read.
        complete = _complete(QAT_OPTIONS if args.qat else TrainOptions(), options=options, model=model, augment=augment)
        if args.recipe == PAPER:
            options, model, augment = complete
    except ValueError as error:
        parser.error(str(error))
    return running.run(lambda: _train(args, arguments, options=options, model=model, augment=augment))


def _train(
    args: argparse.Namespace, arguments: Sequence[str], *, options: Fields, model: Fields, augment: Fields
) -> int:
    # Under torchrun only the first process prints.
    console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
    say = partial(console.print, highlight=False, soft_wrap=True, markup=False)
    last = args.output.with_suffix(".last.pt")
    try:
        train(
            TrainingData(args.train, args.images, args.val, args.val_images, args.skip_invalid),
            args.output,
            options,
            model=None if args.qat else model,
            augment=augment,
            init=args.init,
            qat=args.qat,
            resume=args.resume,
            half_weights=args.half_weights,
            device=args.device,
            on_message=say,
            observer=TrainingProgress(console),
        )
    except KeyboardInterrupt:
        if last.is_file():
            command = shlex.join(["retina-edge", "train", *arguments, *([] if args.resume else ["--resume"])])
            say(f"the state is in {last}; go on with: {command}")
        raise
    written = (args.output.with_suffix(suffix) for suffix in (".pt", ".last.pt", ".csv", ".tensorboard"))
    say(f"wrote {', '.join(str(path) for path in written if path.exists())}")
    say(f"next: retina-edge export {args.output} -o {args.output.with_suffix('.onnx')}")
    return 0


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
    model = {"anchor_sizes": DEFAULT_SIZES[: model.get("backbone_levels", 5)], **model}
    complete = (dataclasses.replace(run, **options), ModelOptions(**model), AugmentOptions(**augment))
    all_options, all_model, all_augment = (vars(part) for part in complete)
    return all_options, all_model, all_augment


def _anchor_size(text: str) -> float | str:
    return AUTO if text == AUTO else argument_types.positive_float(text)


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
