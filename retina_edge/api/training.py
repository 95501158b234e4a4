"""The implementation of ``retina_edge.api.train``, from labeled images to a checkpoint, also under torchrun."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engines.core.contract import BIT_DEPTH
from retina_edge.api.given_options import GivenOptions
from retina_edge.api.training_data import TrainingData
from retina_edge.api.training_inputs import Fields, check_given, check_outputs, fields
from retina_edge.api.training_plan import IMAGENET
from retina_edge.api.training_report import report_run
from retina_edge.api.training_run import OnMessage, TrainingRun
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.training.memory_errors import memory_errors
from retina_edge.training.model_options import ModelOptions
from retina_edge.training.observer import TrainingObserver
from retina_edge.training.recipes import AUTO
from retina_edge.training.run_files import check_resumable, claim_run_files, last_path, report_path
from retina_edge.training.train_options import TrainOptions

if TYPE_CHECKING:
    from retina_edge.training.trainer import Trainer

# AP below which a model is of no use.
NOTHING_LEARNED = 0.01


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Attributes:
        checkpoint: path of the best checkpoint.
        best_ap: AP of that checkpoint on the validation images, 0 to 1.
        metrics: all COCO metrics of that checkpoint by name, without those of sizes that no object has. Only the main
            process of several has them.
    """

    checkpoint: Path
    best_ap: float
    metrics: Mapping[str, float] = field(default_factory=dict)


def train(
    data: TrainingData | Path | str,
    output: Path | str,
    options: TrainOptions | Fields | None = None,
    *,
    model: ModelOptions | Fields | None = None,
    augment: AugmentOptions | Fields | None = None,
    init: Path | str | None = None,
    qat: Path | str | None = None,
    recipe: str = AUTO,
    teacher: Path | str | None = None,
    resume: bool = False,
    find_lr: bool = False,
    half_weights: bool = False,
    device: str = "auto",
    on_message: OnMessage = lambda _line: None,
    on_start: Callable[[], None] = lambda: None,
    observer: TrainingObserver | None = None,
) -> TrainingResult:
    """Train a RetinaNet and write its best checkpoint.

    Options that are not given are chosen from the data, the device and the time. Each choice is reported with its
    reason, and stands in the checkpoint.

    Args:
        data: data sets to train on and to validate on; a path stands for ``TrainingData(path)``.
        output: path of the best checkpoint, which ends in ``.pt``. ``NAME.last.pt`` (for ``resume``), ``NAME.csv``,
            the report ``NAME.report.html`` and, if TensorBoard is installed, the folder ``NAME.tensorboard`` are
            written beside it. Those of an earlier run are kept as ``NAME.previous.pt`` and so on.
        options: options of the training, or some of them by name; the others are chosen. With ``qat``, the others are
            those of ``QAT_OPTIONS``.
        model: options of the new model, or some of them by name. Not with ``qat``.
        augment: augmentation of the training images, or some of its options by name.
        init: path of a checkpoint to fine-tune. Its architecture is kept if no other one is given. Not with ``qat`` or
            ``resume``.
        qat: path of a trained checkpoint to fine-tune with the rounding of INT8 (quantization-aware training).
        teacher: path of a checkpoint, or a deployable ONNX, whose outputs the model also learns. Not with ``qat``.
        recipe: options that are not given: ``auto`` to choose them, or one of ``RECIPES``. Not used with ``qat``.
        resume: continue from ``NAME.last.pt``, with its options and the same teacher.
        find_lr: find the learning rate with a range test before the first step; see ``training.rate_search``. A resumed
            run has its rate already. Not with ``qat``, or a given rate.
        half_weights: store the best weights in float16.
        device: ``auto``, ``cpu`` or ``cuda``.
        on_message: called with each line of text for the user.
        on_start: called before the first step, after everything has been checked; in the main process only.
        observer: observer of steps and epochs, for instance a ``TrainingProgress``; used in the main process only.

    Raises:
        DataError: if the annotations or images cannot be used.
        ContractError: for options that contradict each other.
        ModelFileError: if a checkpoint, or weights to start from, cannot be used.
        TrainingError: if the loss is not finite.
        SinkError: if the checkpoint cannot be written to this path, or a file would overwrite an input.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the state is saved for ``resume``.
    """
    started, output = time.monotonic(), Path(output)
    data = data if isinstance(data, TrainingData) else TrainingData(data)
    given = GivenOptions(fields(model, ModelOptions), fields(augment, AugmentOptions), fields(options, TrainOptions))
    check_given(given, qat, init, model, teacher, find_lr=find_lr, resume=resume)
    weights = given.model.get("backbone_weights")
    files = [] if weights in (None, IMAGENET) else [("backbone weights", weights)]
    if resume:
        check_resumable(output)
    check_outputs(output, [("checkpoint", init), ("checkpoint", qat), ("teacher", teacher), *data.inputs(), *files])

    from retina_edge.model.torch_executor import select_device
    from retina_edge.training.load_teacher import load_teacher
    from retina_edge.training.processes import process_group

    chosen_device = select_device(device)
    if data.bit_depth is None:
        data = dataclasses.replace(data, bit_depth=_earlier_bit_depth(output, init, qat, resume=resume))
    with memory_errors(), process_group(chosen_device) as group:
        say = on_message if group.is_main else lambda _line: None
        taught_by = load_teacher(teacher, group.device) if teacher else None  # fails sooner than the images
        train_data, val_data = data.load(say)
        active = observer if observer and group.is_main else TrainingObserver()
        depth = BIT_DEPTH if data.bit_depth is None else data.bit_depth
        run = TrainingRun(output, train_data, val_data, depth, group, half_weights, active, say, taught_by)
        if qat is not None:
            trainer = run.for_qat(given, qat, started=started)
        else:
            trainer = run.planned(given, init, recipe=recipe, resume=resume, find_lr=find_lr, started=started)
        had_ended = False
        if resume:
            trainer.resume()
            if had_ended := trainer.has_ended:
                say(_way_on(trainer, output))
            about = "about " if trainer.options.minutes else ""
            say(f"resuming {trainer.last_path.name} after step {trainer.step} of {about}{trainer.total_steps}")
        with ExitStack() as stack:
            lines = stack.enter_context(claim_run_files(output, resume=resume)) if group.is_main else []
            stack.enter_context(active)
            for line in lines:
                say(line)
            if group.is_main:
                on_start()
            trainer.run()
            if trainer.out_of_patience:
                say(f"ended early: the last {_evaluations(trainer.best.without_gain)} brought no gain of AP")
            if group.is_main and not (had_ended and report_path(output).is_file()):
                found, on = trainer.best.detections, str(group.device)
                report_run(output, train_data, val_data, found, device=on, on_message=say)
        say(f"best AP {trainer.best.ap:.4f} in {output}, after {trainer.step} steps in all")
        if trainer.best.ap < NOTHING_LEARNED:
            say(
                "warning: the model finds almost nothing yet: train longer, with more --minutes or --epochs, or with "
                "pretrained weights"
            )
    return TrainingResult(output, trainer.best.ap, trainer.best.metrics)


def _way_on(trainer: Trainer, output: Path) -> str:
    """Return how to train on after the end of a run, as text for the user."""
    longer = f"this run has ended; to train longer, start another one with --init {output} and another -o"
    if not trainer.out_of_patience:
        return longer
    return f"{longer}, or resume with a --patience of more than {_evaluations(trainer.best.without_gain)}"


def _evaluations(count: int) -> str:
    return f"{count} evaluation{'s' if count > 1 else ''}"


def _earlier_bit_depth(output: Path, init: Path | str | None, qat: Path | str | None, *, resume: bool) -> int | None:
    """Return the bit depth of the checkpoint that a run starts from; None for a new run."""
    from retina_edge.model.checkpoint import load_checkpoint

    start = qat or init or (last_path(output) if resume else None)
    return load_checkpoint(start).contract.bit_depth if start else None
