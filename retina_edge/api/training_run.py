"""The parts of a training run, from the given options to a trainer that is ready to start."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.core.contract import DetectorContract
from engines.core.errors import ContractError
from retina_edge.api.given_options import GivenOptions
from retina_edge.api.training_plan import TrainingPlan, decided_by, losses_of, model_of, recipe_record
from retina_edge.data.anchor_fit import fit_pyramid
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.summary import DataSummary
from retina_edge.training.findings import findings
from retina_edge.training.observer import TrainingObserver
from retina_edge.training.plan import CPU, CPU_MINUTES, Choice, Speed
from retina_edge.training.run_files import last_path
from retina_edge.training.train_options import QAT_OPTIONS, TrainOptions

if TYPE_CHECKING:
    from retina_edge.model.checkpoint import Checkpoint
    from retina_edge.model.retinanet import RetinaNet
    from retina_edge.training.processes import ProcessGroup
    from retina_edge.training.teacher import Teacher
    from retina_edge.training.trainer import Trainer

# Length of the epoch in which the speed is measured, which ends earlier.
MEASURED_STEPS = 1000
# Takes one line of text for the user.
OnMessage = Callable[[str], None]


@dataclass(frozen=True)
class TrainingRun:
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

    def for_qat(self, given: GivenOptions, qat: Path | str, *, started: float) -> Trainer:
        """Return a trainer that fine-tunes a checkpoint with the rounding of INT8."""
        from retina_edge.model.checkpoint import load_checkpoint
        from retina_edge.training.initialize import quantized_model

        source = load_checkpoint(qat)
        options = dataclasses.replace(QAT_OPTIONS, **{**losses_of(source, qat), **given.options})
        if source.contract.bit_depth != self.bit_depth:
            raise ContractError(
                f"bit_depth: expected {source.contract.bit_depth} as in {qat}, got {self.bit_depth}; leave it out"
            )
        model = quantized_model(source, self.train_data, batch=options.batch, device=self.group.device)
        augment = AugmentOptions(**given.augment).for_input(source.contract.input_size)
        recipe = recipe_record(model_of(source), augment, options)
        (spent,) = self.group.of_main([time.monotonic() - started])
        return self._trainer(model, source.contract, augment, options, recipe=recipe, spent=spent)

    def planned(
        self,
        given: GivenOptions,
        init: Path | str | None,
        *,
        recipe: str,
        resume: bool,
        find_lr: bool,
        started: float,
    ) -> Trainer:
        """Return a trainer for a new model, with choices for all options that were not given."""
        from retina_edge.model.checkpoint import load_checkpoint
        from retina_edge.training.initialize import check_statistics, initialize_from
        from retina_edge.training.processes import describe
        from retina_edge.training.teacher import introduce

        source = load_checkpoint(init) if init else None
        last = last_path(self.output)
        previous = load_checkpoint(last) if resume else None
        if previous and previous.recipe is not None and not previous.recipe["options"].get("qat"):
            given = given.or_else(previous.recipe, last)
            choices = [Choice(**choice) for choice in previous.recipe["choices"]]
        else:
            left_open = {*(("learning_rate",) if find_lr else ()), *decided_by(self.teacher)}
            if source:
                left_open |= model_of(source).keys() - {"box_loss"}  # the architecture is the checkpoint's
            given, choices = given.with_recipe(recipe, left_open=left_open)
        given = given.with_teacher(self.teacher, resume=resume)
        summary = DataSummary.of(self.train_data)
        for line in (*summary.lines(), f"training on {describe(self.group)}"):
            self.say(line)
        plan = TrainingPlan.of(
            given,
            self.train_data,
            summary,
            self.group,
            source=source,
            teacher=self.teacher,
            resume=resume,
            choices=choices,
            on_message=self.say,
        )
        keep_sizes = resume or "anchor_sizes" not in given.model  # those of a recipe are not given with ``init``
        model, contract = self._new_model(plan, source or previous, keep_sizes=keep_sizes)
        if not resume:
            check_statistics(model, source)
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
        if find_lr and not resume:
            plan = self._with_found_rate(plan, given, make_trainer, speed)
        (spent,) = self.group.of_main([time.monotonic() - started])  # all processes must plan alike
        plan = plan.with_length(given, val_images=len(self.val_data), speed=speed, elapsed=spent)
        trainer = self._trainer(model, contract, plan.augment, plan.options, recipe=plan.recipe(), spent=spent)
        evaluation = speed.image * len(self.val_data) if speed else 0.0
        trainer.budget.last_evaluation = trainer.last_evaluations * evaluation
        if not resume:
            for line in plan.choice_lines():
                self.say(line)
            self.say(f"starting from {plan.start(init)}")
        about = "about " if plan.options.minutes else ""
        self.say(f"{about}{trainer.total_steps} steps, {trainer.sampler.batches} in an epoch")
        if not resume:  # a resumed run has been told, and no longer knows which weights it started from
            hours = trainer.total_steps * speed.step / 3600 if speed else None
            fit = fit_pyramid(plan.boxes, contract.levels)
            planned = plan.facts, plan.options, plan.augment, plan.model
            for finding in findings(*planned, fit, hours=hours, evaluation=evaluation):
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

    def _with_found_rate(
        self, plan: TrainingPlan, given: GivenOptions, make_trainer: Callable[[], Trainer], speed: Speed | None
    ) -> TrainingPlan:
        """Return the plan with the learning rate that a range test finds."""
        from retina_edge.training.rate_search import STEPS, search_rate, steps_for

        steps = STEPS
        if speed and "epochs" not in given.options:  # the steps of such a run depend on the speed anyway
            steps = steps_for(given.options.get("minutes") or CPU_MINUTES, speed.step)
        if not steps:
            return plan.with_rate(None, "usual; the time of the run is too short for a range test")
        self.say(f"searching the learning rate: a range test of up to {steps} steps")
        test = search_rate(make_trainer(), steps)
        return plan.with_rate(test.rate, test.reason)

    def _new_model(
        self, plan: TrainingPlan, source: Checkpoint | None, *, keep_sizes: bool
    ) -> tuple[RetinaNet, DetectorContract]:
        """Make a new model of the planned architecture; the checkpoint, or the teacher, decides what is no option.

        Args:
            plan: the plan.
            source: checkpoint whose run goes on, or that is fine-tuned; None for none.
            keep_sizes: True to keep its anchors if only the smallest of each level are those of the plan. Options
                cannot express others, such as those of a converted model.
        """
        from retina_edge.training.initialize import new_model

        config = plan.model.config(num_classes=len(self.train_data.class_names))
        if source:
            # These two fields differ only between torchvision's two architectures, and are no options.
            config = dataclasses.replace(
                config, extra_levels=source.config.extra_levels, norm_eps=source.config.norm_eps
            )
        levels = source.contract.levels if source else self.teacher.contract.levels if self.teacher else ()
        sizes = tuple(level.anchor_sizes for level in levels)
        if keep_sizes and tuple(level[0] for level in sizes) == tuple(level[0] for level in config.anchor_sizes):
            config = dataclasses.replace(config, anchor_sizes=sizes)
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
