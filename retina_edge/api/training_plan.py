"""The plan of a training run: the given options, and choices for all others."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engines.core.errors import ContractError, ModelFileError, reason_of
from engines.core.processor import usable_cores
from retina_edge.data.anchor_fit import AnchorFit, fit_anchors, input_boxes
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.summary import DataSummary
from retina_edge.system.printable import printable
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
class GivenOptions:
    """The options that the user gave, by the names of the fields; all others are chosen.

    Attributes:
        model, augment, options: fields of ``ModelOptions``, ``AugmentOptions`` and ``TrainOptions``.
    """

    model: Mapping[str, Any]
    augment: Mapping[str, Any]
    options: Mapping[str, Any]

    def or_else(self, recipe: Mapping[str, Any], file: Path) -> GivenOptions:
        """Return the options with those of another run's recipe for all that were not given.

        Args:
            recipe: the recipe of a checkpoint.
            file: the checkpoint.

        Raises:
            ModelFileError: if the recipe has other options, or one of another type or out of range.
        """
        found: dict[str, Mapping[str, Any]] = {}
        kinds: dict[str, Any] = {"model": ModelOptions, "augment": AugmentOptions, "options": TrainOptions}
        for name, kind in kinds.items():
            values = {key: tuple(value) if isinstance(value, list) else value for key, value in recipe[name].items()}
            try:
                kind(**values)
            except (TypeError, ValueError, ArithmeticError) as error:  # TypeError also for an unknown option
                reason = printable(reason_of(error)).removeprefix(f"{ContractError.__name__} ")
                raise ModelFileError(
                    f"{file}: expected a recipe with the options of a training, got a damaged one: {name}: {reason}; "
                    "use a copy of the file, or start without resuming"
                ) from error
            found[name] = {**values, **getattr(self, name)}
        return GivenOptions(**found)

    def with_teacher(self, teacher: Teacher | None) -> GivenOptions:
        """Return the options with the record of the teacher, which a resumed run must be given again.

        Raises:
            ContractError: if it is not the teacher of the run that is resumed.
        """
        name, digest = self.options.get("teacher"), self.options.get("teacher_sha256")
        if digest and digest != (teacher.sha256 if teacher else None):
            got = f"{teacher.name} with {teacher.sha256[:12]}..." if teacher else "none"
            raise ContractError(
                f"teacher: expected that of the run, {printable(str(name))} with SHA-256 {printable(digest)[:12]}..., "
                f"got {got}; give the same file with --teacher"
            )
        if teacher is None:
            return self
        record = {"teacher": name or teacher.name, "teacher_sha256": teacher.sha256}
        return dataclasses.replace(self, options={**self.options, **record})


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
            on_message: called with each line of text for the user.

        Raises:
            ModelFileError: if given weights are missing, or cannot be downloaded.
            ContractError: if an option is out of range.
        """
        device = CUDA if group.device.type == "cuda" else CPU
        model = {**(_model_of(source) if source else {}), **given.model}
        if source and "anchor_sizes" not in given.model and model["backbone_levels"] != len(model["anchor_sizes"]):
            del model["anchor_sizes"]  # another pyramid was given, which needs other anchors
        backbone = model.get("backbone", "resnet18" if device == CPU else "resnet50")
        model, given_augment, choices = like_teacher(teacher, model, given.augment)
        weights: Mapping[str, Tensor] | None = None
        if source is None and not resume:
            weights, name, choice = _backbone_weights(model, backbone, group, on_message)
            model["backbone_weights"] = name
            choices += [choice] if choice else []
        cores, pretrained = usable_cores(), weights is not None or source is not None
        facts = Facts(summary, device, cores, pretrained, group.world)
        boxes = functools.cache(functools.partial(input_boxes, data))
        model_options, made = plan_model(model, facts, boxes)
        choices += made
        augment, made = plan_augmentation(given_augment, facts, model_options.input_size)
        choices += made
        options, made = plan_steps(given.options, facts)
        return cls(
            model_options,
            augment.for_input(model_options.input_size),
            options,
            facts,
            weights,
            boxes(model_options.input_size),
            (*choices, *made),
        )

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
                lines.append(f"chosen, because they were not given; these {title}:")
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
        from retina_edge.model.checkpoint import plain

        recipe: dict[str, Any] = {
            "model": dataclasses.asdict(self.model),
            "augment": dataclasses.asdict(self.augment),
            "options": dataclasses.asdict(self.options),
            "choices": [dataclasses.asdict(choice) for choice in self.choices],
        }
        return dict(plain(recipe))

    def anchor_fit(self) -> AnchorFit:
        """Return the fit of the anchors to the objects."""
        sizes = [level[0] for level in self.model.config(num_classes=1).anchor_sizes]
        return fit_anchors(self.boxes, self.model.input_size, sizes, self.model.aspect_ratios)


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


def _model_of(checkpoint: Checkpoint) -> dict[str, Any]:
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
