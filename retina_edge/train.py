"""``retina-edge train``: labelled images to a checkpoint. Runs under torchrun as it is."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from engines.errors import DataError
from retina_edge import cli
from retina_edge.data.anchor_fit import DEFAULT_RATIOS, DEFAULT_SIZES, MATCHED, input_boxes, suggest_anchors
from retina_edge.data.coco import CocoDataset, load_coco
from retina_edge.data.options import ORIENTATIONS, AugmentOptions
from retina_edge.model.config import BACKBONES, ModelConfig, octave_sizes
from retina_edge.training.options import OPTIMIZERS, QAT_OPTIONS, SCHEDULES, TrainOptions

if TYPE_CHECKING:
    from engines.contract import DetectorContract
    from retina_edge.model.retinanet import RetinaNet

AUTO = "auto"
# What the checkpoint decides that --qat starts from.
MODEL_OPTIONS = (
    *("pretrained_backbone", "backbone", "backbone_levels", "backbone_norm", "fpn_channels", "head_depth", "head_norm"),
    *("box_loss", "input", "anchors", "aspect_ratios"),
)
# Says a line to whoever is watching.
Tell = Callable[[str], None]


def build_parser(defaults: TrainOptions) -> argparse.ArgumentParser:
    """The options of the verb; defaults are the paper's where it has one."""
    parser = argparse.ArgumentParser(prog="retina-edge train", description=__doc__)
    add = parser.add_argument
    add("train", type=Path, metavar="TRAIN.json", help="COCO annotations to learn from")
    add("--images", type=Path, required=True, metavar="DIR", help="their images")
    add("--val", type=Path, required=True, metavar="VAL.json", help="COCO annotations to measure on")
    add("--val-images", type=Path, metavar="DIR", help="their images (default: --images)")
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="MODEL.pt",
        help="best checkpoint; MODEL.last.pt beside it",
    )
    add("--skip-invalid", action="store_true", help="leave out boxes without area or outside their image")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="go on from MODEL.last.pt")
    start.add_argument("--init", type=Path, metavar="PATH", help="fine-tune from another checkpoint")
    parser.add_argument(
        "--qat",
        type=Path,
        metavar="PATH",
        help="fine-tune a trained checkpoint under the rounding of INT8 (quantisation-aware training); the model is "
        "its own, and without other options it takes 3 epochs with AdamW at a small rate, falling to zero",
    )

    model = parser.add_argument_group("model", "not with --qat")
    add = model.add_argument
    add("--backbone", choices=BACKBONES, default="resnet50")
    add("--pretrained-backbone", action="store_true", help="ImageNet weights, downloaded by torchvision")
    add(
        "--backbone-levels",
        type=int,
        choices=(3, 4, 5),
        default=5,
        metavar="3|4|5",
        help="last stage used, C3 to C5",
    )
    add("--backbone-norm", choices=("batch", "frozen"), default="batch")
    add("--fpn-channels", type=int, default=256, help="width of pyramid and heads, a multiple of 32")
    add("--head-depth", type=int, default=4, help="3x3 convolutions in each head, 1 to 4")
    add("--head-norm", choices=("none", "group"), default="none")
    add("--box-loss", choices=("l1", "smooth_l1", "giou", "diou", "ciou"), default="l1")
    add("--input", type=cli.input_size, default=(800, 800), metavar="HxW", help="input size, multiples of 32")
    add(
        "--anchors",
        nargs="+",
        metavar="PX",
        help="smallest anchor size of each level (default 32 64 ...), or auto: those that fit the data set best",
    )
    add("--aspect-ratios", type=float, nargs="+", default=DEFAULT_RATIOS, metavar="R", help="height / width")

    data = parser.add_argument_group("augmentation")
    add = data.add_argument
    add("--crop", type=cli.input_size, metavar="HxW", help="size of training crops (default: --input)")
    add("--scale", type=float, nargs=2, default=(0.7, 1.4), metavar=("MIN", "MAX"), help="scale jitter")
    add(
        "--orientation",
        choices=ORIENTATIONS,
        default="horizontal",
        help="flips; dihedral for images from above",
    )
    add("--no-photometric", action="store_true", help="leave colours alone")

    run = parser.add_argument_group("run")
    add = run.add_argument
    add("--epochs", type=int, default=defaults.epochs)
    add("--epoch-samples", type=int, default=0, help="samples an epoch (default: each image once)")
    add("--batch", type=int, default=defaults.batch, help="in each process")
    add("--optimizer", choices=OPTIMIZERS, default=defaults.optimizer)
    add("--lr", type=float, default=defaults.learning_rate)
    add("--weight-decay", type=float, default=defaults.weight_decay)
    add("--warmup", type=int, default=defaults.warmup_steps, metavar="STEPS")
    add("--schedule", choices=SCHEDULES, default=defaults.schedule)
    add("--amp", choices=("auto", "bf16", "fp16", "off"), default=defaults.amp)
    add("--ema", type=float, default=defaults.ema, metavar="DECAY", help="average the weights; 0 for none")
    add("--clip-norm", type=float, default=defaults.clip_norm, help="bound of the gradient's norm; 0 for none")
    add("--workers", type=int, default=defaults.workers, help="processes that load images")
    add("--seed", type=int, default=defaults.seed)
    add("--eval-every", type=int, default=defaults.eval_every, metavar="EPOCHS")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--half-weights", action="store_true", help="store the best weights in float16")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser(TrainOptions())
    args = parser.parse_args(argv)
    if args.qat:
        parser = build_parser(QAT_OPTIONS)
        usual = {name: parser.get_default(name) for name in (*MODEL_OPTIONS, "init")}
        parser.set_defaults(**dict.fromkeys(usual))
        args = parser.parse_args(argv)
        given = [name for name in usual if getattr(args, name) is not None]
        if given:
            parser.error(f"--qat takes the model as it is; leave --{given[0].replace('_', '-')} out")
        vars(args).update(usual)
        if args.output.resolve() == args.qat.resolve():
            parser.error("--output would replace the checkpoint of --qat; give another name")
    try:
        args.anchors = _anchor_sizes(args)
        options, augment = _options(args), _augmentation(args)
        _model_config(args, num_classes=1)  # so that a wrong option is known before the data is read
    except ValueError as error:
        parser.error(str(error))
    return cli.run(lambda: _train(args, options, augment))


def _anchor_sizes(args: argparse.Namespace) -> tuple[float, ...] | None:
    """Smallest size of each level; None for ``auto``.

    Raises:
        ValueError: something else.
    """
    if args.anchors == [AUTO]:
        return None
    try:
        return tuple(map(float, args.anchors or DEFAULT_SIZES[: args.backbone_levels]))
    except ValueError as error:
        raise ValueError(f"anchors: expected sizes in pixels or {AUTO}, got {' '.join(args.anchors)}") from error


def _options(args: argparse.Namespace) -> TrainOptions:
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


def _augmentation(args: argparse.Namespace) -> AugmentOptions:
    return AugmentOptions(
        size=args.crop or args.input,
        input_size=args.input,
        scale=tuple(args.scale),
        orientation=args.orientation,
        photometric=not args.no_photometric,
    )


def _model_config(args: argparse.Namespace, *, num_classes: int) -> ModelConfig:
    levels = tuple(range(3, args.backbone_levels + 1))
    return ModelConfig(
        num_classes=num_classes,
        backbone=args.backbone,
        backbone_levels=levels,
        fpn_channels=args.fpn_channels,
        head_depth=args.head_depth,
        head_norm=args.head_norm,
        backbone_norm=args.backbone_norm,
        box_loss=args.box_loss,
        anchor_sizes=octave_sizes(args.anchors or DEFAULT_SIZES[: len(levels) + 2]),
        aspect_ratios=tuple(args.aspect_ratios),
    )


def _train(args: argparse.Namespace, options: TrainOptions, augment: AugmentOptions) -> int:
    from retina_edge.model.checkpoint import load_checkpoint
    from retina_edge.torch_executor import select_device
    from retina_edge.training.initialise import quantized_model
    from retina_edge.training.processes import process_group
    from retina_edge.training.progress import TrainingProgress
    from retina_edge.training.trainer import Trainer

    device = select_device(args.device)
    train_data = load_coco(args.train, args.images, skip_invalid=args.skip_invalid)
    val_data = load_coco(args.val, args.val_images or args.images, skip_invalid=args.skip_invalid)
    if unknown := set(val_data.class_names) - set(train_data.class_names):
        raise DataError(f"{args.val}: expected only categories of {args.train}, got also {', '.join(sorted(unknown))}")
    with process_group(device) as group:
        console = Console(stderr=True, quiet=not group.is_main)
        for data in (train_data, val_data):
            if data.skipped:
                console.print(f"{data.annotations.name}: {len(data.skipped)} invalid boxes left out", markup=False)
        tell = partial(console.print, highlight=False, soft_wrap=True, markup=False)
        if args.qat:
            source = load_checkpoint(args.qat)
            contract = source.contract
            model = quantized_model(source, train_data, batch=options.batch, device=group.device)
            augment = dataclasses.replace(
                augment, input_size=contract.input_size, size=args.crop or contract.input_size
            )
        else:
            model, contract = _model(args, train_data, tell)
        with TrainingProgress(console, options) as progress:
            trainer = Trainer(
                model,
                contract,
                train_data,
                val_data,
                augment=augment,
                options=options,
                output=args.output,
                group=group,
                half=args.half_weights,
                on_step=progress.on_step,
                on_evaluated=progress.on_evaluated,
                on_epoch=progress.on_epoch,
            )
            if args.resume:
                trainer.resume()
                tell(f"resuming {trainer.last_path.name} after step {trainer.step} of {trainer.total_steps}")
            trainer.run()
        tell(f"best AP {trainer.best_ap:.4f} in {args.output}")
    return 0


def _model(args: argparse.Namespace, data: CocoDataset, tell: Tell) -> tuple[RetinaNet, DetectorContract]:
    """A new model, with the weights of another where that was asked."""
    from retina_edge.model.checkpoint import load_checkpoint
    from retina_edge.training.initialise import initialise_from, new_model

    if args.anchors is None:
        fit = suggest_anchors(
            input_boxes(data, args.input), args.input, DEFAULT_SIZES[: args.backbone_levels], args.aspect_ratios
        )
        args.anchors, args.aspect_ratios = fit.anchor_sizes, fit.aspect_ratios
        tell(f"{fit.options}, which match {fit.recall:.1%} of the boxes at IoU {MATCHED}")
    config = _model_config(args, num_classes=len(data.class_names))
    source = load_checkpoint(args.init) if args.init else None
    if source:
        # Not options of ours: they only tell torchvision's two architectures apart, so the source decides.
        theirs = source.config
        config = dataclasses.replace(config, extra_levels=theirs.extra_levels, norm_eps=theirs.norm_eps)
    model, contract = new_model(config, data, args.input, seed=args.seed, pretrained_backbone=args.pretrained_backbone)
    if source:
        for line in initialise_from(model, contract, source):
            tell(f"{args.init.name}: {line}")
    return model, contract


if __name__ == "__main__":
    raise SystemExit(main())
