"""The options of ``retina-edge train``; see ``option_names`` for the fields that they set."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from retina_edge.api.training_plan import IMAGENET
from retina_edge.cli import argument_types
from retina_edge.data.augment_options import ORIENTATIONS, PHOTOMETRIC
from retina_edge.model.config import BACKBONES, HEAD_NORMS
from retina_edge.training.recipes import AUTO
from retina_edge.training.train_options import AMP_MODES, ASSIGNERS, CLASS_LOSSES, OPTIMIZERS, SCHEDULES

NONE = "none"


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the group of the data sets."""
    add = parser.add_argument_group("data").add_argument
    add("--images", type=Path, metavar="DIR", help="folder of the training images (default: found near DATA)")
    add(
        "--val",
        type=Path,
        metavar="DATA",
        help="data set to validate on (default: the part of DATA for it, such as val.json in a folder, else a fifth of "
        "the images)",
    )
    add(
        "--val-images",
        type=Path,
        metavar="DIR",
        help="folder of the validation images (default: --images, or found near the annotations)",
    )
    add(
        "--skip-invalid",
        action="store_true",
        help="leave out images that cannot be used, and skip boxes that have no area or lie outside their image",
    )
    add(
        "--bit-depth",
        type=int,
        metavar="BITS",
        help="bits that image files of 16 bits use, 9 to 16, which the model remembers: 12 for a camera whose values "
        "end at 4095 (default: those of --init or --resume, else 16)",
    )


def add_start_options(parser: argparse.ArgumentParser) -> None:
    """Add the group of the weights that a run starts from."""
    group = parser.add_argument_group("start")
    group.add_argument("--resume", action="store_true", help="continue from MODEL.last.pt, with its options")
    group.add_argument(
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


def add_teacher_options(parser: argparse.ArgumentParser) -> None:
    """Add the group of distillation."""
    note = "A larger model teaches a small one. They must have the same classes and anchors. Not with --qat."
    add = parser.add_argument_group("teacher", note).add_argument
    add(
        "--teacher",
        type=Path,
        metavar="BIG.pt|.onnx",
        help="trained model whose outputs the new one also learns: logits, boxes and, of a checkpoint, features; input "
        "and anchors are by default the teacher's (default: none)",
    )
    add(
        "--distill-weight",
        type=argument_types.positive_float,
        metavar="W",
        help="factor of the losses towards the teacher, beside those of the labels (default: 1)",
    )


def add_size_options(add: Callable[..., object], *, size: str, levels: str) -> None:
    """Add the options of the input size and the pyramid, which ``train`` and ``anchors`` share.

    Args:
        add: method ``add_argument`` of a parser or group.
        size, levels: the defaults in words.
    """
    add(
        "--input",
        type=argument_types.input_size,
        metavar="HxW",
        help=f"input size of the network in pixels, multiples of 32 (default: {size})",
    )
    add(
        "--backbone-levels",
        type=int,
        choices=(3, 4, 5),
        metavar="3|4|5",
        help=f"last stage of the backbone that feeds the pyramid, C3 to C5 (default: {levels})",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the group of the model."""
    add = parser.add_argument_group("model", "These options cannot be combined with --qat.").add_argument
    add_size_options(
        add, size="that of the images, at most 640 on a CPU and 1024 on a GPU", levels="by the sizes of the objects"
    )
    add("--backbone", choices=BACKBONES, help="backbone (default: resnet18 on a CPU, resnet50 on a GPU)")
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
    add(
        "--head-norm",
        choices=HEAD_NORMS,
        help="normalization in the heads: group costs time on the device; batch costs none, and needs batches of 8 or "
        "more; frozen is batch with the statistics of --init (default: group)",
    )
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


def add_augmentation_options(parser: argparse.ArgumentParser) -> None:
    """Add the group of the augmentation."""
    group = parser.add_argument_group("augmentation")
    add = group.add_argument
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
        help="range of the factor by which images are resized; 0.1 2.0 for large-scale jitter (default: 0.7 1.4)",
    )
    add(
        "--orientation",
        choices=ORIENTATIONS,
        help="flips: none, horizontal, or dihedral for images from above: all eight rotations and flips of a square "
        "--crop, four of others (default: horizontal)",
    )
    photometric = group.add_mutually_exclusive_group().add_argument
    photometric(
        "--photometric",
        choices=PHOTOMETRIC,
        help="changes of light and color: none, usual (brightness, contrast, saturation and hue, a little), or strong, "
        "also cast shadows, haze, white balance, blur and noise, for other cameras, hours and weather (default: usual)",
    )
    photometric(
        "--no-photometric",
        action="store_const",
        const="none",
        dest="photometric",
        help="the same as --photometric none",
    )
    add(
        "--mosaic",
        type=float,
        metavar="P",
        help="probability of a sample that is a mosaic of four images, 0 to 1, except in the last 15%% of the run "
        "(default: 0)",
    )
    add(
        "--copy-paste",
        type=float,
        metavar="P",
        help="probability of a sample into which objects of another image are pasted, with the background in their "
        "boxes, 0 to 1, except in the last 15%% of the run (default: 0)",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the group of the run."""
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
    add(
        "--warmup",
        type=int,
        metavar="STEPS",
        help="steps in which the learning rate rises (default: 5%% of the run, at most 500)",
    )
    add("--schedule", choices=SCHEDULES, help="schedule of the learning rate (default: cosine)")
    add(
        "--amp",
        choices=AMP_MODES,
        help="data type of mixed precision (default: auto, bf16 if the device supports it, else fp16 on a GPU and off "
        "on a CPU)",
    )
    add(
        "--ema",
        type=float,
        metavar="DECAY",
        help="decay of the moving average of the weights; 0 for no average (default: by the number of steps)",
    )
    add("--clip-norm", type=float, help="upper bound of the gradient norm; 0 for no bound (default: 10)")
    add("--workers", type=int, help="number of processes that load images (default: by the number of cores)")
    add("--seed", type=int, help="seed of all randomness (default: 0)")
    add("--eval-every", type=int, metavar="EPOCHS", help="epochs between evaluations (default: 1)")
    add("--half-weights", action="store_true", help="store the best weights in float16")


def add_schedule_options(parser: argparse.ArgumentParser) -> None:
    """Add the group of what finds the rate, the end and the luck of a run."""
    add = parser.add_argument_group("schedule").add_argument
    add(
        "--find-lr",
        action="store_true",
        help="find the learning rate by a range test, up to 100 steps with rising rates, before the run; not with --lr "
        "or --qat (default: no test)",
    )
    add(
        "--patience",
        type=int,
        metavar="N",
        help="end the run after N evaluations without a gain of AP; 0 for no such end (default: 0)",
    )
    add(
        "--seeds",
        type=argument_types.positive_int,
        default=1,
        metavar="N",
        help="train N times with the seeds from --seed on, each for all of --minutes or --epochs, print mean and "
        "spread of AP, and copy the best of MODEL.seed0.pt, MODEL.seed1.pt ... to MODEL.pt (default: 1, a single run)",
    )


def add_loss_options(parser: argparse.ArgumentParser) -> None:
    """Add the group of assignment and losses."""
    title = "assignment and losses"
    add = parser.add_argument_group(title, "What training optimizes. The model runs as fast with each.").add_argument
    add(
        "--assigner",
        choices=ASSIGNERS,
        help="which anchors learn an object: iou, those with an IoU of 0.5 or more; atss, those near its center with "
        "the largest IoUs; free-anchor, those that detect it best so far (default: iou)",
    )
    add(
        "--class-loss",
        choices=CLASS_LOSSES,
        help="loss of the scores: focal, or quality-focal, by which a score learns the IoU of its box; not with "
        "--assigner free-anchor, which has its own (default: focal)",
    )


def _anchor_size(text: str) -> float | str:
    return AUTO if text == AUTO else argument_types.positive_float(text)
