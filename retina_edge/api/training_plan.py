"""The plan of a training run: the given options, and choices for all others."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engines.core.errors import ContractError, ModelFileError
from engines.core.processor import usable_cores
from retina_edge.api.given_options import GivenOptions
from retina_edge.data.anchor_fit import input_boxes
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.summary import DataSummary
from retina_edge.training.model_options import ModelOptions
from retina_edge.training.plan import (
    CPU,
    CUDA,
    Choice,
    Chooser,
    Facts,
    Speed,
    plan_augmentation,
    plan_length,
    plan_model,
    plan_steps,
)
from retina_edge.training.train_options import TrainOptions

if TYPE_CHECKING:
    from torch import Tensor

    from retina_edge.model.checkpoint import Checkpoint
    from retina_edge.training.processes import ProcessGroup
    from retina_edge.training.teacher import Teacher

IMAGENET = "imagenet"
# The chosen options that decide most of the result, the most important first.
IMPORTANT = ("--minutes", "--epochs", "--backbone-weights", "--input", "--backbone", "--anchors", "--crop", "--lr")


@dataclass(frozen=True)
class TrainingPlan:
    """All options of a run.

    Attributes:
        model, augment, options: options of the run. The length of the run may still be open.
        facts: facts about the run.
        weights: ImageNet weights that the backbone starts from; None for none.
        boxes: boxes of the objects, float32 [N, 4], xyxy, input pixels.
        choices: choices for the options that were not given.
    """

    model: ModelOptions
    augment: AugmentOptions
    options: TrainOptions
    facts: Facts
    weights: Mapping[str, Tensor] | None
    boxes: npt.NDArray[np.float32]
    choices: tuple[Choice, ...]

    @classmethod
    def of(
        cls,
        given: GivenOptions,
        data: DetectionDataset,
        summary: DataSummary,
        group: ProcessGroup,
        *,
        source: Checkpoint | None,
        teacher: Teacher | None,
        resume: bool,
        choices: Sequence[Choice],
        on_message: Callable[[str], None],
    ) -> TrainingPlan:
        """Choose all options except the length of the run.

        Args:
            given: the given options.
            data: data set to learn from.
            summary: numbers of the data set.
            group: this process and its device.
            source: checkpoint to fine-tune from, which decides the architecture where nothing was given.
            teacher: teacher to distill, which decides the input and the anchors where nothing else does.
            resume: True for a run whose weights are loaded later.
            choices: choices that were made before.
            on_message: called with each line of text for the user.

        Raises:
            ModelFileError: if given weights are missing, or cannot be downloaded.
            ContractError: if an option is out of range.
        """
        device = CUDA if group.device.type == "cuda" else CPU
        model = {**(model_of(source) if source else {}), **given.model}
        if source and "anchor_sizes" not in given.model and model["backbone_levels"] != len(model["anchor_sizes"]):
            del model["anchor_sizes"]  # another pyramid was given, which needs other anchors
        backbone = model.get("backbone", "resnet18" if device == CPU else "resnet50")
        model, given_augment, like = like_teacher(teacher, model, given.augment)
        weights: Mapping[str, Tensor] | None = None
        if source is None and not resume:
            weights, name, choice = _backbone_weights(model, backbone, group, on_message)
            model["backbone_weights"] = name
            like += [choice] if choice else []
        cores, pretrained = usable_cores(), weights is not None or source is not None
        facts = Facts(summary, device, cores, pretrained, group.world)
        boxes = functools.cache(functools.partial(input_boxes, data))
        model_options, made = plan_model(model, facts, boxes)
        augment, of_augmentation = plan_augmentation(given_augment, facts, model_options.input_size)
        options, of_steps = plan_steps(given.options, facts)
        augment = augment.for_input(model_options.input_size)
        if options.batch == 1 and augment.size:
            model_options.check_groups(augment.size)
        return cls(
            model_options,
            augment,
            options,
            facts,
            weights,
            boxes(model_options.input_size),
            (*choices, *like, *made, *of_augmentation, *of_steps),
        )

    def with_rate(self, rate: float | None, reason: str) -> TrainingPlan:
        """Choose the learning rate that a search has found.

        Args:
            rate: the rate; None to keep the usual one.
            reason: reason of the choice, for the user.
        """
        rate = self.options.learning_rate if rate is None else float(f"{rate:.2g}")
        choice = Choice("--lr", f"{rate:g}", reason)
        choices = tuple(choice if old.option == "--lr" else old for old in self.choices)
        return dataclasses.replace(self, options=dataclasses.replace(self.options, learning_rate=rate), choices=choices)

    def with_length(self, given: GivenOptions, *, val_images: int, speed: Speed | None, elapsed: float) -> TrainingPlan:
        """Choose the length of the run. See ``plan_length``."""
        options, made = plan_length(
            given.options,
            self.facts,
            self.options,
            val_images=val_images,
            speed=speed,
            elapsed=elapsed,
        )
        return dataclasses.replace(self, options=options, choices=(*self.choices, *made))

    def choice_lines(self) -> list[str]:
        """Return the choices as text for the user, those that matter most first."""
        choices = {choice.option: choice for choice in self.choices}
        important = [choices.pop(option) for option in IMPORTANT if option in choices]
        lines = []
        for title, group in (("matter most", important), ("seldom need a change", list(choices.values()))):
            if group:
                lines.append(f"options that were not given; these {title}:")
                lines += [f"  {choice}" for choice in group]
        return lines

    def start(self, init: Path | str | None) -> str:
        """Return the weights that the run starts from, as text for the user."""
        if init is not None:
            return f"the weights of {Path(init).name}"
        if self.weights is None:
            return "random weights"
        name = self.model.backbone_weights
        where = "ImageNet" if name == IMAGENET else str(name)
        return f"the weights of {self.model.backbone} from {where}, and random ones in pyramid and heads"

    def recipe(self) -> dict[str, Any]:
        """Return the record for checkpoints: all options, and the choices with their reasons."""
        return recipe_record(dataclasses.asdict(self.model), self.augment, self.options, self.choices)


def recipe_record(
    model: Mapping[str, Any], augment: AugmentOptions, options: TrainOptions, choices: Iterable[Choice] = ()
) -> dict[str, Any]:
    """Return the record of a run's options for checkpoints.

    Args:
        model: the options of the model.
        augment, options: the other options.
        choices: those that were chosen, with their reasons.
    """
    from retina_edge.model.checkpoint import plain

    recipe: dict[str, Any] = {
        "model": model,
        "augment": dataclasses.asdict(augment),
        "options": dataclasses.asdict(options),
        "choices": [dataclasses.asdict(choice) for choice in choices],
    }
    return dict(plain(recipe))


def decided_by(teacher: Teacher | None) -> tuple[str, ...]:
    """Return the fields of options that ``like_teacher`` chooses."""
    model, augment, _ = like_teacher(teacher, {}, {})
    return (*model, *augment)


def like_teacher(
    teacher: Teacher | None, model: Mapping[str, Any], augment: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], list[Choice]]:
    """Return options of model and augmentation with those that must be, or had better be, as the teacher's.

    Args:
        teacher: the teacher; None to change nothing.
        model, augment: the options so far, which stay.

    Returns:
        The options of the model, those of the augmentation, and the choices.

    Examples:
        >>> like_teacher(None, {"head_depth": 2}, {})
        ({'head_depth': 2}, {}, [])
    """
    of_model, of_augment = Chooser(model), Chooser(augment)
    if teacher:
        contract = teacher.contract
        height, width = contract.input_size
        of_model.choose(
            "input_size",
            (height, width),
            "--input",
            "objects have the size that the teacher knows",
            text=f"{height}x{width}",
        )
        levels = len(contract.levels)  # two levels have no stage, and the first stage is C3
        reason = "the teacher's, because logits are compared anchor by anchor"
        if of_model.choose("backbone_levels", levels, "--backbone-levels", reason) == levels:
            sizes = tuple(level.anchor_sizes[0] for level in contract.levels)
            of_model.choose("anchor_sizes", sizes, "--anchors", reason, text=" ".join(f"{size:g}" for size in sizes))
            ratios = contract.levels[0].aspect_ratios
            text = " ".join(f"{ratio:g}" for ratio in ratios)
            of_model.choose("aspect_ratios", ratios, "--aspect-ratios", reason, text=text)
        if teacher.crop:
            height, width = teacher.crop
            of_augment.choose(
                "size", (height, width), "--crop", "the size that the ONNX takes", text=f"{height}x{width}"
            )
    return of_model.values, of_augment.values, [*of_model.choices, *of_augment.choices]


def _backbone_weights(
    model: Mapping[str, Any], backbone: str, group: ProcessGroup, on_message: Callable[[str], None]
) -> tuple[Mapping[str, Tensor] | None, str | None, Choice | None]:
    """Return the weights that the backbone starts from, their name for the recipe, and the choice, if one was made."""
    from retina_edge.model.backbone_weights import read_weights

    if "backbone_weights" in model:
        name = model["backbone_weights"]
        if name is None:
            return None, None, None
        return (_imagenet(backbone, group) if name == IMAGENET else read_weights(Path(name))), str(name), None
    try:
        weights = _imagenet(backbone, group)
    except ModelFileError as error:
        on_message(str(error))
        return None, None, Choice("--backbone-weights", "none", "random weights, which need more steps")
    return weights, IMAGENET, Choice("--backbone-weights", IMAGENET, "pretrained weights need fewer steps and images")


def _imagenet(backbone: str, group: ProcessGroup) -> Mapping[str, Tensor]:
    """Return the ImageNet weights in every process. The main process downloads them; the others read the cache.

    Raises:
        ModelFileError: in every process, if the main process has no weights.
    """
    from retina_edge.model.backbone_weights import imagenet_weights

    weights, failure = None, None
    if group.is_main:
        try:
            weights = imagenet_weights(backbone)
        except ModelFileError as error:
            failure = error
    (failed,) = group.any_of(failure is not None)  # also waits for the download
    if failed:
        raise failure or ModelFileError(f"{backbone}: the main process has no ImageNet weights; its message says why")
    return imagenet_weights(backbone) if weights is None else weights


def losses_of(checkpoint: Checkpoint, path: Path | str) -> dict[str, Any]:
    """Return the fields of ``TrainOptions`` that decide the losses a checkpoint was trained with, if it knows them.

    Raises:
        ModelFileError: if a field has no value that is known.
    """
    options = (checkpoint.recipe or {}).get("options", {})
    fields = {name: options[name] for name in ("assigner", "class_loss") if name in options}
    try:
        TrainOptions(**fields)
    except ContractError as error:
        raise ModelFileError(f"{path}: damaged recipe: {error}") from error
    return fields


def model_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the model options of a checkpoint."""
    config = checkpoint.config
    return {
        "input_size": checkpoint.contract.input_size,
        "anchor_sizes": tuple(sizes[0] for sizes in config.anchor_sizes),
        "aspect_ratios": config.aspect_ratios,
        "backbone": config.backbone,
        "backbone_levels": max(config.backbone_levels),
        "backbone_norm": config.backbone_norm,
        "fpn_channels": config.fpn_channels,
        "head_depth": config.head_depth,
        "head_norm": config.head_norm,
        "box_loss": config.box_loss,
    }
