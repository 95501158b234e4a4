"""The implementation of ``retina_edge.api.train``, from labeled images to a checkpoint, also under torchrun."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.core.contract import BIT_DEPTH, DetectorContract
from engines.core.errors import ContractError
from retina_edge.api.training_data import TrainingData
from retina_edge.api.training_plan import IMAGENET, GivenOptions, TrainingPlan
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.summary import DataSummary
from retina_edge.system.output_file import Input, check_output
from retina_edge.training.findings import findings
from retina_edge.training.memory_errors import memory_errors
from retina_edge.training.model_options import ModelOptions
from retina_edge.training.observer import TrainingObserver
from retina_edge.training.plan import CPU, Speed
from retina_edge.training.run_files import check_log, check_resumable, claim_run_files, kept_path, last_path
from retina_edge.training.train_options import QAT_OPTIONS, TrainOptions

if TYPE_CHECKING:
    from retina_edge.model.checkpoint import Checkpoint
    from retina_edge.model.retinanet import RetinaNet
    from retina_edge.training.processes import ProcessGroup
    from retina_edge.training.teacher import Teacher
    from retina_edge.training.trainer import Trainer

# Length of the epoch in which the speed is measured, which ends earlier.
MEASURED_STEPS = 1000
# AP below which a model is of no use.
NOTHING_LEARNED = 0.01
# Takes one line of text for the user.
OnMessage = Callable[[str], None]
# Options as a whole, or some of their fields by name.
Fields = Mapping[str, Any]


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
    data: TrainingData | Path | str,
    output: Path | str,
    options: TrainOptions | Fields | None = None,
    *,
    model: ModelOptions | Fields | None = None,
    augment: AugmentOptions | Fields | None = None,
    init: Path | str | None = None,
    qat: Path | str | None = None,
    teacher: Path | str | None = None,
    resume: bool = False,
    half_weights: bool = False,
    device: str = "auto",
    on_message: OnMessage = lambda _line: None,
    observer: TrainingObserver | None = None,
) -> TrainingResult:
    """Train a RetinaNet and write its best checkpoint.

    Options that are not given are chosen from the data, the device and the time. Each choice is reported with its
    reason, and stands in the checkpoint.

    Args:
        data: data sets to train on and to validate on; a path stands for ``TrainingData(path)``.
        output: path of the best checkpoint, which ends in ``.pt``. ``NAME.last.pt`` (for ``resume``), ``NAME.csv`` and,
            if TensorBoard is installed, the folder ``NAME.tensorboard`` are written beside it. Those of an earlier run
            are kept as ``NAME.previous.pt`` and so on.
        options: options of the training, or some of them by name; the others are chosen. With ``qat``, the others are
            those of ``QAT_OPTIONS``.
        model: options of the new model, or some of them by name. Not with ``qat``.
        augment: augmentation of the training images, or some of its options by name.
        init: path of a checkpoint to fine-tune. Its architecture is kept if no other one is given. Not with ``qat``.
        qat: path of a trained checkpoint to fine-tune with the rounding of INT8 (quantization-aware training).
        teacher: path of a checkpoint, or a deployable ONNX, whose outputs the model also learns. Not with ``qat``.
        resume: continue from ``NAME.last.pt``, with its options and the same teacher.
        half_weights: store the best weights in float16.
        device: ``auto``, ``cpu`` or ``cuda``.
        on_message: called with each line of text for the user.
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
    given = GivenOptions(_fields(model, ModelOptions), _fields(augment, AugmentOptions), _fields(options, TrainOptions))
    _check(given, qat, init, model, teacher)
    weights = given.model.get("backbone_weights")
    files = [] if weights in (None, IMAGENET) else [("backbone weights", weights)]
    if resume:
        check_resumable(output)
    _check_outputs(output, [("checkpoint", init), ("checkpoint", qat), ("teacher", teacher), *data.inputs(), *files])

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
        run = _Run(output, train_data, val_data, depth, group, half_weights, active, say, taught_by)
        if qat is not None:
            trainer = run.for_qat(given, qat)
        else:
            trainer = run.planned(given, init, resume=resume, started=started)
        if resume:
            trainer.resume()
            if trainer.has_ended:
                say(f"this run has ended; to train longer, start another one with --init {output} and another -o")
            about = "about " if trainer.options.minutes else ""
            say(f"resuming {trainer.last_path.name} after step {trainer.step} of {about}{trainer.total_steps}")
        claimed = claim_run_files(output, resume=resume) if group.is_main else nullcontext(None)
        with claimed as kept, active:
            if kept:
                names = f"{kept.with_suffix('')}.*"
                say(f"the files of the last run are kept as {names}; earlier ones of this name are replaced")
            trainer.run()
        say(f"best AP {trainer.best_ap:.4f} in {output}, after {trainer.step} steps in all")
        if trainer.best_ap < NOTHING_LEARNED:
            say(
                "warning: the model finds almost nothing yet: train longer, with more --minutes or --epochs, or with "
                "pretrained weights"
            )
    return TrainingResult(output, trainer.best_ap)


def _earlier_bit_depth(output: Path, init: Path | str | None, qat: Path | str | None, *, resume: bool) -> int | None:
    """Return the bit depth of the checkpoint that a run starts from; None for a new run."""
    from retina_edge.model.checkpoint import load_checkpoint

    start = qat or init or (last_path(output) if resume else None)
    return load_checkpoint(start).contract.bit_depth if start else None


@dataclass(frozen=True)
class _Run:
    """The parts of a run that do not depend on its options."""

    output: Path
    train_data: DetectionDataset
    val_data: DetectionDataset
    bit_depth: int
    group: ProcessGroup
    half: bool
    observer: TrainingObserver
    say: OnMessage
    teacher: Teacher | None

    def for_qat(self, given: GivenOptions, qat: Path | str) -> Trainer:
        """Return a trainer that fine-tunes a checkpoint with the rounding of INT8."""
        from retina_edge.model.checkpoint import load_checkpoint
        from retina_edge.training.initialize import quantized_model

        options = dataclasses.replace(QAT_OPTIONS, **given.options)
        source = load_checkpoint(qat)
        if source.contract.bit_depth != self.bit_depth:
            raise ContractError(
                f"bit_depth: expected {source.contract.bit_depth} as in {qat}, got {self.bit_depth}; leave it out"
            )
        model = quantized_model(source, self.train_data, batch=options.batch, device=self.group.device)
        augment = AugmentOptions(**given.augment).for_input(source.contract.input_size)
        return self._trainer(model, source.contract, augment, options, recipe=None)

    def planned(self, given: GivenOptions, init: Path | str | None, *, resume: bool, started: float) -> Trainer:
        """Return a trainer for a new model, with choices for all options that were not given."""
        from retina_edge.model.checkpoint import load_checkpoint
        from retina_edge.training.initialize import initialize_from
        from retina_edge.training.processes import describe
        from retina_edge.training.teacher import introduce

        source = load_checkpoint(init) if init else None
        last = last_path(self.output)
        previous = load_checkpoint(last) if resume else None
        if previous and previous.recipe is not None:
            given = given.or_else(previous.recipe, last)
        given = given.with_teacher(self.teacher)
        summary = DataSummary.of(self.train_data)
        for line in (*summary.lines(), f"training on {describe(self.group)}"):
            self.say(line)
        facts = (self.train_data, summary, self.group)
        plan = TrainingPlan.of(given, *facts, source=source, teacher=self.teacher, resume=resume, on_message=self.say)
        model, contract = self._new_model(plan, source or previous)
        for line in introduce(self.teacher, contract, plan.augment, summary) if self.teacher else ():
            self.say(line)
        if source and init:
            for line in initialize_from(model, contract, source):
                self.say(f"{Path(init).name}: {line}")

        def make_trainer() -> Trainer:
            samples = MEASURED_STEPS * plan.options.batch * self.group.world
            options = dataclasses.replace(plan.options, epoch_samples=samples)
            return self._trainer(copy.deepcopy(model), contract, plan.augment, options, recipe=None)

        speed = None if resume else self._speed(given, make_trainer)
        (spent,) = self.group.of_main([time.monotonic() - started])  # all processes must plan alike
        plan = plan.with_length(given, val_images=len(self.val_data), speed=speed, elapsed=spent)
        trainer = self._trainer(model, contract, plan.augment, plan.options, recipe=plan.recipe(), spent=spent)
        trainer.budget.last_evaluation = speed.image * len(self.val_data) if speed else 0.0
        for line in plan.choice_lines():
            self.say(line)
        if not resume:
            self.say(f"starting from {plan.start(init)}")
        about = "about " if plan.options.minutes else ""
        self.say(f"{about}{trainer.total_steps} steps, {trainer.sampler.batches} in an epoch")
        hours = trainer.total_steps * speed.step / 3600 if speed else None
        fit, evaluation = plan.anchor_fit(), trainer.budget.last_evaluation
        for finding in findings(plan.facts, plan.options, plan.augment, fit, hours=hours, evaluation=evaluation):
            self.say(f"warning: {finding}")
        return trainer

    def _speed(self, given: GivenOptions, make_trainer: Callable[[], Trainer]) -> Speed | None:
        """Return the measured speed if the length of the run, or a warning, depends on it."""
        from retina_edge.training.speed import estimate_step, measure_speed

        on_cpu = self.group.device.type == CPU
        if "epochs" not in given.options and (on_cpu or given.options.get("minutes")):
            self.say("measuring the speed")
            speed = measure_speed(make_trainer)
            return Speed(*self.group.of_main(dataclasses.astuple(speed)))
        if on_cpu and self.group.world == 1 and "epochs" in given.options:
            self.say("measuring the speed")
            return Speed(estimate_step(make_trainer()), 0.0, 0.0)
        return None

    def _new_model(self, plan: TrainingPlan, source: Checkpoint | None) -> tuple[RetinaNet, DetectorContract]:
        """Make a new model of the planned architecture; the checkpoint decides what is no option."""
        from retina_edge.training.initialize import new_model

        config = plan.model.config(num_classes=len(self.train_data.class_names))
        if source:
            # These two fields differ only between torchvision's two architectures, and are no options.
            config = dataclasses.replace(
                config, extra_levels=source.config.extra_levels, norm_eps=source.config.norm_eps
            )
        size, seed = plan.model.input_size, plan.options.seed
        return new_model(
            config, self.train_data, size, seed=seed, bit_depth=self.bit_depth, backbone_weights=plan.weights
        )

    def _trainer(
        self,
        model: RetinaNet,
        contract: DetectorContract,
        augment: AugmentOptions,
        options: TrainOptions,
        *,
        recipe: dict[str, Any] | None,
        spent: float = 0.0,
    ) -> Trainer:
        from retina_edge.training.distillation import attach
        from retina_edge.training.trainer import Trainer

        trainer = Trainer(
            model,
            contract,
            self.train_data,
            self.val_data,
            augment=augment,
            options=options,
            output=self.output,
            group=self.group,
            half=self.half,
            recipe=recipe,
            spent=spent,
            observer=self.observer,
        )
        if self.teacher:
            attach(trainer, self.teacher)
        return trainer


def _fields(options: object, kind: type) -> Fields:
    """Return the fields of options by name: of an object all of them, of a mapping those in it.

    A run with a time has no number of epochs, so those of an object with both are left out.
    """
    if options is None:
        return {}
    names = [field.name for field in dataclasses.fields(kind)]
    if isinstance(options, kind):
        values = {name: getattr(options, name) for name in names}
        return {name: value for name, value in values.items() if name != "epochs" or not values.get("minutes")}
    if not isinstance(options, Mapping):
        raise ContractError(f"options: expected {kind.__name__} or a mapping of its fields, got {options!r}")
    for name in options:
        if name not in names:
            raise ContractError(f"options: expected fields of {kind.__name__}, {', '.join(names)}, got {name!r}")
    return dict(options)


def _check(
    given: GivenOptions, qat: Path | str | None, init: Path | str | None, model: object, teacher: object
) -> None:
    if given.options.get("minutes") and "epochs" in given.options:
        raise ContractError("minutes: expected either minutes or epochs, got both; leave one out")
    if init is not None and given.model.get("backbone_weights") is not None:
        raise ContractError("backbone_weights: expected none with init, which has its own; leave one out")
    if qat is not None and teacher is not None:
        raise ContractError(
            "qat: expected no teacher, because a model is distilled before it is quantized; leave it out"
        )
    if qat is not None and (model is not None or init is not None):
        raise ContractError("qat: expected neither model nor init, because the checkpoint decides both; leave them out")
    if given.options.get("qat", qat is not None) != (qat is not None):
        wanted = "without" if qat is None else "with"
        raise ContractError(
            f"options: expected qat={qat is not None} {wanted} a checkpoint for qat, got qat={given.options['qat']}"
        )


def _check_outputs(output: Path, inputs: Sequence[Input]) -> None:
    check_output("output", output, suffix=".pt", inputs=inputs)
    for suffix in (".pt", ".last.pt", ".csv"):
        for path in (output, kept_path(output)):
            check_output("output", path.with_suffix(suffix), inputs=inputs)
    check_log(output)
