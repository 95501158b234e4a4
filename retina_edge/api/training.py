"""The implementation of ``retina_edge.api.train``, from labeled images to a checkpoint, also under torchrun."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engines.core.contract import check_input_size
from engines.core.errors import ContractError, DataError
from engines.core.option_checks import check_integer, check_number
from retina_edge.data.anchor_fit import DEFAULT_RATIOS, DEFAULT_SIZES, MATCH_IOU, input_boxes, suggest_anchors
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.coco import CocoDataset, load_coco
from retina_edge.model.config import ModelConfig, octave_sizes
from retina_edge.system.output_file import Input, check_output
from retina_edge.training.train_options import QAT_OPTIONS, TrainOptions
from retina_edge.training.training_progress import TrainingObserver

if TYPE_CHECKING:
    from engines.core.contract import DetectorContract
    from retina_edge.model.retinanet import RetinaNet

# Takes one line of text for the user.
OnMessage = Callable[[str], None]


@dataclass(frozen=True)
class TrainingData:
    """The data sets to train on and to validate on.

    Attributes:
        train: path of the COCO annotations to train on.
        images: folder of the training images.
        val: path of the COCO annotations to validate on.
        val_images: folder of the validation images; None for ``images``.
        skip_invalid: skip boxes that have no area or lie outside their image, instead of raising an error.

    Examples:
        >>> data = TrainingData("train.json", "train_images", "val.json", "val_images")
    """

    train: Path | str
    images: Path | str
    val: Path | str
    val_images: Path | str | None = None
    skip_invalid: bool = False


@dataclass(frozen=True)
class ModelOptions:
    """The options of a new model; see ``ModelConfig`` for the architecture.

    Attributes:
        input_size: (height, width) of the network's input, pixels, multiples of 32.
        anchor_sizes: size of the smallest anchor of each pyramid level, input pixels; None for the sizes that fit the
            data set best.
        aspect_ratios: height / width of the anchors.
        backbone, backbone_levels, backbone_norm, fpn_channels, head_depth, head_norm, box_loss: fields of
            ``ModelConfig``; ``backbone_levels`` is the last stage that is used, 3 to 5.
        pretrained_backbone: start from ImageNet weights, which torchvision downloads.

    Raises:
        ValueError: if an option is out of range.

    Examples:
        >>> options = ModelOptions(input_size=(416, 736), backbone="resnet18", fpn_channels=64)
        >>> config = options.config(num_classes=3)
        >>> config.backbone, config.num_classes, len(config.anchor_sizes)
        ('resnet18', 3, 5)
    """

    input_size: tuple[int, int] = (800, 800)
    anchor_sizes: tuple[float, ...] | None = DEFAULT_SIZES
    aspect_ratios: tuple[float, ...] = DEFAULT_RATIOS
    backbone: str = "resnet50"
    backbone_levels: int = 5
    backbone_norm: str = "batch"
    fpn_channels: int = 256
    head_depth: int = 4
    head_norm: str = "none"
    box_loss: str = "l1"
    pretrained_backbone: bool = False

    def __post_init__(self) -> None:
        check_input_size(self.input_size)
        check_integer("backbone_levels", self.backbone_levels, 3, 5)
        for name in ("fpn_channels", "head_depth"):
            check_integer(name, getattr(self, name), 1)
        # Sizes are rounded down to whole pixels, so a size below 1 would become 0.
        for size in self.anchor_sizes or ():
            check_number("anchor_sizes", size, "sizes of at least 1 pixel", lambda pixels: 1 <= pixels < math.inf)
        if not self.aspect_ratios:
            raise ContractError("aspect_ratios: expected at least one, got none")
        for ratio in self.aspect_ratios:
            check_number("aspect_ratios", ratio, "numbers above 0", lambda value: 0 < value < math.inf)
        self.config(num_classes=1)  # raises for a wrong option before any data is read

    def config(self, *, num_classes: int) -> ModelConfig:
        """Return the architecture for a number of classes.

        Raises:
            ValueError: if an option is out of range.
        """
        levels = tuple(range(3, self.backbone_levels + 1))
        sizes = DEFAULT_SIZES[: len(levels) + 2] if self.anchor_sizes is None else self.anchor_sizes
        return ModelConfig(
            num_classes=num_classes,
            backbone=self.backbone,
            backbone_levels=levels,
            fpn_channels=self.fpn_channels,
            head_depth=self.head_depth,
            head_norm=self.head_norm,
            backbone_norm=self.backbone_norm,
            box_loss=self.box_loss,
            anchor_sizes=octave_sizes(sizes),
            aspect_ratios=self.aspect_ratios,
        )


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Attributes:
        checkpoint: path of the best checkpoint.
        best_ap: AP of that checkpoint on the validation images, 0 to 1.
    """

    checkpoint: Path
    best_ap: float


def train(
    data: TrainingData,
    output: Path | str,
    options: TrainOptions | None = None,
    *,
    model: ModelOptions | None = None,
    augment: AugmentOptions | None = None,
    init: Path | str | None = None,
    qat: Path | str | None = None,
    resume: bool = False,
    half_weights: bool = False,
    device: str = "auto",
    on_message: OnMessage = lambda _line: None,
    observer: TrainingObserver | None = None,
) -> TrainingResult:
    """Train a RetinaNet and write its best checkpoint.

    Args:
        data: data sets to train on and to validate on.
        output: path of the best checkpoint, which ends in ``.pt``. ``NAME.last.pt`` (for ``resume``), ``NAME.csv`` and,
            if TensorBoard is installed, the folder ``NAME.tensorboard`` are written beside it.
        options: options of the training; with ``qat`` the default is ``QAT_OPTIONS``.
        model: options of the new model; by default the paper's R50 for 800x800 pixels. Not with ``qat``.
        augment: augmentation of the training images; by default crops of the input's size.
        init: path of a checkpoint to fine-tune. Not with ``qat``.
        qat: path of a trained checkpoint to fine-tune with the rounding of INT8 (quantization-aware training).
        resume: continue from ``NAME.last.pt``.
        half_weights: store the best weights in float16.
        device: ``auto``, ``cpu`` or ``cuda``.
        on_message: called with each line of text for the user.
        observer: observer of steps and epochs, for instance a ``TrainingProgress``; used in the main process only.

    Raises:
        DataError: if the annotations or images cannot be used.
        ContractError: for options that contradict each other.
        ModelFileError: if a checkpoint to start from cannot be used.
        TrainingError: if the loss is not finite.
        SinkError: if the checkpoint cannot be written to this path, or a file would overwrite an input.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the state is saved for ``resume``.
    """
    output = Path(output)
    _check_outputs(
        output, [("checkpoint", init), ("checkpoint", qat), ("annotations", data.train), ("annotations", data.val)]
    )

    from retina_edge.model.checkpoint import load_checkpoint
    from retina_edge.model.torch_executor import select_device
    from retina_edge.training.initialize import quantized_model
    from retina_edge.training.processes import process_group
    from retina_edge.training.trainer import Trainer

    if qat is not None and (model is not None or init is not None):
        raise ContractError("qat: expected neither model nor init, because the checkpoint decides both; leave them out")
    options = options or (TrainOptions() if qat is None else QAT_OPTIONS)
    if options.qat != (qat is not None):
        given = "without" if qat is None else "with"
        raise ContractError(
            f"options: expected qat={qat is not None} {given} a checkpoint for qat, got qat={options.qat}"
        )
    model = model or ModelOptions()
    chosen_device = select_device(device)
    train_data = load_coco(data.train, data.images, skip_invalid=data.skip_invalid)
    val_data = load_coco(data.val, data.val_images or data.images, skip_invalid=data.skip_invalid)
    if unknown := set(val_data.class_names) - set(train_data.class_names):
        raise DataError(f"{data.val}: expected only categories of {data.train}, got also {', '.join(sorted(unknown))}")
    with process_group(chosen_device) as group:
        on_message = on_message if group.is_main else lambda _line: None
        for dataset in (train_data, val_data):
            if dataset.skipped:
                on_message(f"{dataset.annotations.name}: {len(dataset.skipped)} invalid boxes skipped")
        if qat is not None:
            source = load_checkpoint(qat)
            contract = source.contract
            network = quantized_model(source, train_data, batch=options.batch, device=group.device)
        else:
            network, contract = _new_model(model, train_data, init, seed=options.seed, on_message=on_message)
        with observer if observer and group.is_main else TrainingObserver() as active_observer:
            trainer = Trainer(
                network,
                contract,
                train_data,
                val_data,
                augment=(augment or AugmentOptions()).for_input(contract.input_size),
                options=options,
                output=output,
                group=group,
                half=half_weights,
                on_step=active_observer.on_step,
                on_evaluated=active_observer.on_evaluated,
                on_epoch=active_observer.on_epoch,
            )
            if resume:
                trainer.resume()
                on_message(f"resuming {trainer.last_path.name} after step {trainer.step} of {trainer.total_steps}")
            trainer.run()
        on_message(f"best AP {trainer.best_ap:.4f} in {output}")
    return TrainingResult(output, trainer.best_ap)


def _check_outputs(output: Path, inputs: Sequence[Input]) -> None:
    check_output("output", output, suffix=".pt", inputs=inputs)
    for suffix in (".last.pt", ".csv"):
        check_output("output", output.with_suffix(suffix), inputs=inputs)


def _new_model(
    options: ModelOptions, data: CocoDataset, init: Path | str | None, *, seed: int, on_message: OnMessage
) -> tuple[RetinaNet, DetectorContract]:
    """Make a new model, and copy the weights of a checkpoint if ``init`` is given."""
    from retina_edge.model.checkpoint import load_checkpoint
    from retina_edge.training.initialize import initialize_from, new_model

    if options.anchor_sizes is None:
        sizes = DEFAULT_SIZES[: options.backbone_levels]
        fit = suggest_anchors(input_boxes(data, options.input_size), options.input_size, sizes, options.aspect_ratios)
        options = dataclasses.replace(options, anchor_sizes=fit.anchor_sizes, aspect_ratios=fit.aspect_ratios)
        fitted, ratios = (
            ", ".join(f"{value:g}" for value in values) for values in (fit.anchor_sizes, fit.aspect_ratios)
        )
        on_message(
            f"anchors of {fitted} pixels with aspect ratios of {ratios} match {fit.recall:.1%} of the boxes at IoU "
            f"{MATCH_IOU}"
        )
    config = options.config(num_classes=len(data.class_names))
    source = load_checkpoint(init) if init else None
    if source:
        # These two fields differ only between torchvision's two architectures, so they are taken from the checkpoint.
        config = dataclasses.replace(config, extra_levels=source.config.extra_levels, norm_eps=source.config.norm_eps)
    model, contract = new_model(
        config, data, options.input_size, seed=seed, pretrained_backbone=options.pretrained_backbone
    )
    if source and init:
        for line in initialize_from(model, contract, source):
            on_message(f"{Path(init).name}: {line}")
    return model, contract
