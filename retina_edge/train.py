"""``retina-edge train``: train a RetinaNet on COCO annotations, on one device or under torchrun."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from retina_edge.api.training import ModelOptions, TrainingData, train
from retina_edge.cli import argument_types, running
from retina_edge.cli.anchor_options import add_anchor_options
from retina_edge.data.anchor_fit import DEFAULT_SIZES
from retina_edge.data.augment_options import ORIENTATIONS, AugmentOptions
from retina_edge.model.config import BACKBONES
from retina_edge.training.train_options import OPTIMIZERS, QAT_OPTIONS, SCHEDULES, TrainOptions
from retina_edge.training.training_progress import TrainingProgress

AUTO = "auto"
# Options that the checkpoint of --qat decides.
MODEL_OPTIONS = (
    *("pretrained_backbone", "backbone", "backbone_levels", "backbone_norm", "fpn_channels", "head_depth", "head_norm"),
    *("box_loss", "input", "anchors", "aspect_ratios"),
)


def build_parser(defaults: TrainOptions | None = None) -> argparse.ArgumentParser:
    """Return the parser of the verb.

    Args:
        defaults: default values of the options of the run; by default those of ``TrainOptions``.
    """
    parser = argparse.ArgumentParser(prog="retina-edge train", description="Train a RetinaNet on COCO annotations.")
    add = parser.add_argument
    add("train", type=Path, metavar="TRAIN.json", help="COCO annotations to learn from")
    add("--images", type=Path, required=True, metavar="DIR", help="folder of the training images")
    add("--val", type=Path, required=True, metavar="VAL.json", help="COCO annotations to validate on")
    add("--val-images", type=Path, metavar="DIR", help="folder of the validation images (default: --images)")
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="MODEL.pt",
        help="file for the best checkpoint; MODEL.last.pt for --resume, MODEL.csv and MODEL.tensorboard/ are written "
        "beside it",
    )
    add("--skip-invalid", action="store_true", help="skip boxes that have no area or lie outside their image")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="continue from MODEL.last.pt")
    start.add_argument("--init", type=Path, metavar="PATH", help="checkpoint to fine-tune from")
    add(
        "--qat",
        type=Path,
        metavar="PATH",
        help="trained checkpoint to fine-tune with the rounding of INT8 (quantization-aware training). The model "
        "options come from the checkpoint. The default is 3 epochs of AdamW with a small, falling learning rate",
    )
    _add_model_options(parser)
    _add_augmentation_options(parser)
    _add_run_options(parser, defaults or TrainOptions())
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model", "These options cannot be combined with --qat.")
    add = group.add_argument
    add("--backbone", choices=BACKBONES, default="resnet50", help="backbone (default: %(default)s)")
    add("--pretrained-backbone", action="store_true", help="start from ImageNet weights, which torchvision downloads")
    add(
        "--backbone-norm",
        choices=("batch", "frozen"),
        default="batch",
        help="normalization in the backbone; frozen has fixed statistics and scale (default: %(default)s)",
    )
    add(
        "--fpn-channels",
        type=int,
        default=256,
        metavar="N",
        help="channels of pyramid and heads, a multiple of 32 (default: %(default)s)",
    )
    add("--head-depth", type=int, default=4, metavar="N", help="3x3 convolutions in each head, 1 to 4 (default: 4)")
    add("--head-norm", choices=("none", "group"), default="none", help="normalization in the heads (default: none)")
    add(
        "--box-loss",
        choices=("l1", "smooth_l1", "giou", "diou", "ciou"),
        default="l1",
        help="loss of the boxes (default: l1)",
    )
    add_anchor_options(group, size=_anchor_size, size_help=", or auto for the sizes that fit the data set best")


def _add_augmentation_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("augmentation").add_argument
    add("--crop", type=argument_types.input_size, metavar="HxW", help="size of training crops (default: --input)")
    add(
        "--scale",
        type=float,
        nargs=2,
        default=(0.7, 1.4),
        metavar=("MIN", "MAX"),
        help="range of the scale jitter (default: 0.7 1.4)",
    )
    add(
        "--orientation",
        choices=ORIENTATIONS,
        default="horizontal",
        help="flips: none, horizontal, or dihedral for images from above (default: horizontal)",
    )
    add("--no-photometric", action="store_true", help="keep brightness, contrast, saturation and hue")


def _add_run_options(parser: argparse.ArgumentParser, defaults: TrainOptions) -> None:
    add = parser.add_argument_group("run").add_argument
    add("--epochs", type=int, default=defaults.epochs, help="number of epochs (default: %(default)s)")
    add("--epoch-samples", type=int, default=0, metavar="N", help="samples in an epoch (default: each image once)")
    add("--batch", type=int, default=defaults.batch, help="samples per step in each process (default: %(default)s)")
    add("--optimizer", choices=OPTIMIZERS, default=defaults.optimizer, help="optimizer (default: %(default)s)")
    add("--lr", type=float, default=defaults.learning_rate, help="learning rate (default: %(default)s)")
    add("--weight-decay", type=float, default=defaults.weight_decay, help="weight decay (default: %(default)s)")
    add(
        "--warmup",
        type=int,
        default=defaults.warmup_steps,
        metavar="STEPS",
        help="steps in which the learning rate rises (default: %(default)s)",
    )
    add(
        "--schedule",
        choices=SCHEDULES,
        default=defaults.schedule,
        help="schedule of the learning rate (default: %(default)s)",
    )
    add(
        "--amp",
        choices=("auto", "bf16", "fp16", "off"),
        default=defaults.amp,
        help="data type of mixed precision (default: %(default)s)",
    )
    add(
        "--ema",
        type=float,
        default=defaults.ema,
        metavar="DECAY",
        help="decay of the moving average of the weights; 0 for no average (default: %(default)s)",
    )
    add(
        "--clip-norm",
        type=float,
        default=defaults.clip_norm,
        help="upper bound of the gradient norm; 0 for no bound (default: %(default)s)",
    )
    add(
        "--workers",
        type=int,
        default=defaults.workers,
        help="number of processes that load images (default: %(default)s)",
    )
    add("--seed", type=int, default=defaults.seed, help="seed of all randomness (default: %(default)s)")
    add(
        "--eval-every",
        type=int,
        default=defaults.eval_every,
        metavar="EPOCHS",
        help="epochs between evaluations (default: %(default)s)",
    )
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--half-weights", action="store_true", help="store the best weights in float16")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.qat:
        parser = build_parser(QAT_OPTIONS)
        parser.set_defaults(**dict.fromkeys(MODEL_OPTIONS))
        args = parser.parse_args(argv)
        given = [name for name in (*MODEL_OPTIONS, "init") if getattr(args, name) is not None]
        if given:
            option = f"--{given[0].replace('_', '-')}"
            parser.error(
                f"{option}: not allowed with --qat, which takes the model from its checkpoint; leave {option} out"
            )
    try:
        options, augment = _train_options(args), _augment_options(args)
        model = None if args.qat else _model_options(args)
    except ValueError as error:
        parser.error(str(error))
    return running.run(lambda: _train(args, options, augment, model))


def _train(args: argparse.Namespace, options: TrainOptions, augment: AugmentOptions, model: ModelOptions | None) -> int:
    # Under torchrun only the first process prints.
    console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
    train(
        TrainingData(args.train, args.images, args.val, args.val_images, args.skip_invalid),
        args.output,
        options,
        model=model,
        augment=augment,
        init=args.init,
        qat=args.qat,
        resume=args.resume,
        half_weights=args.half_weights,
        device=args.device,
        on_message=partial(console.print, highlight=False, soft_wrap=True, markup=False),
        observer=TrainingProgress(console, options.epochs),
    )
    return 0


def _train_options(args: argparse.Namespace) -> TrainOptions:
    return TrainOptions(
        epochs=args.epochs,
        epoch_samples=args.epoch_samples,
        batch=args.batch,
        optimizer=args.optimizer,
        learning_rate=args.lr,
        weight_decay=args.weight_decay,
        warmup_steps=args.warmup,
        schedule=args.schedule,
        amp=args.amp,
        ema=args.ema,
        qat=args.qat is not None,
        clip_norm=args.clip_norm,
        workers=args.workers,
        seed=args.seed,
        eval_every=args.eval_every,
    )


def _augment_options(args: argparse.Namespace) -> AugmentOptions:
    return AugmentOptions(
        size=args.crop,
        scale=tuple(args.scale),
        orientation=args.orientation,
        photometric=not args.no_photometric,
    )


def _model_options(args: argparse.Namespace) -> ModelOptions:
    return ModelOptions(
        input_size=args.input,
        anchor_sizes=_anchor_sizes(args.anchors, args.backbone_levels),
        aspect_ratios=tuple(args.aspect_ratios),
        backbone=args.backbone,
        backbone_levels=args.backbone_levels,
        backbone_norm=args.backbone_norm,
        fpn_channels=args.fpn_channels,
        head_depth=args.head_depth,
        head_norm=args.head_norm,
        box_loss=args.box_loss,
        pretrained_backbone=args.pretrained_backbone,
    )


def _anchor_size(text: str) -> float | str:
    return AUTO if text == AUTO else argument_types.positive_float(text)


def _anchor_sizes(values: Sequence[float | str] | None, levels: int) -> tuple[float, ...] | None:
    """Return the smallest anchor of each pyramid level; None for ``auto``.

    Raises:
        ValueError: if the values are both sizes and ``auto``.
    """
    if values == [AUTO]:
        return None
    if values and AUTO in values:
        given = " ".join(value if isinstance(value, str) else f"{value:g}" for value in values)
        raise ValueError(f"anchors: expected sizes in pixels or {AUTO}, got {given}; leave one out")
    return tuple(map(float, values or DEFAULT_SIZES[:levels]))


if __name__ == "__main__":
    raise SystemExit(main())
