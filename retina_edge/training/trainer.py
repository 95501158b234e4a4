"""The training loop: train an epoch, evaluate the model, write two checkpoints.

``model.pt`` is the best model so far by AP, ready to ship. ``model.last.pt`` holds everything that resuming needs.
"""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from engines.core.contract import DetectorContract
from engines.core.errors import TrainingError
from export.preprocess import Preprocess
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.loading import AugmentedDataset, BatchLoader, EpochSampler
from retina_edge.evaluation.coco_metrics import Evaluation
from retina_edge.model.checkpoint import Checkpoint
from retina_edge.model.retinanet import RetinaNet
from retina_edge.system.stop_request import StopRequest, stop_on_signal
from retina_edge.training import training_state
from retina_edge.training.best_model import BestModel
from retina_edge.training.criterion import RetinaNetCriterion
from retina_edge.training.distillation import Distillation
from retina_edge.training.epoch_end import finish_epoch
from retina_edge.training.observer import StepReport, TrainingObserver
from retina_edge.training.optimization import amp_dtype, learning_rate, make_optimizer, ramped_ema
from retina_edge.training.processes import ProcessGroup
from retina_edge.training.progress import TimeBudget
from retina_edge.training.run_files import last_path
from retina_edge.training.step_guard import StepAbandoned, StepGuard
from retina_edge.training.train_options import TrainOptions
from retina_edge.training.training_log import TrainingLog


class Trainer:
    """A training run.

    Args:
        model: model to train. It is moved to the group's device.
        contract: contract of the trained model.
        train_data, val_data: checked data sets with the same classes.
        augment: augmentation of the training images; both sizes must be set.
        options: options of the training.
        output: path of the best checkpoint; the other files are written beside it.
        group: this process and its device.
        half: store the best weights in float16.
        recipe: record of the options for the checkpoints.
        spent: seconds of ``options.minutes`` that have passed before the run.
        observer: receives steps in every process; epochs and evaluations in the main process.
    """

    def __init__(
        self,
        model: RetinaNet,
        contract: DetectorContract,
        train_data: DetectionDataset,
        val_data: DetectionDataset,
        *,
        augment: AugmentOptions,
        options: TrainOptions,
        output: Path,
        group: ProcessGroup,
        half: bool = False,
        recipe: dict[str, Any] | None = None,
        spent: float = 0.0,
        observer: TrainingObserver | None = None,
    ) -> None:
        # The input size is fixed, so cuDNN's search for the fastest algorithms pays off.
        torch.backends.cudnn.benchmark = group.device.type == "cuda"
        self.model = model.to(group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.contract, self.options, self.augment, self.group = contract, options, augment, group
        self.val_data, self.output, self.half, self.recipe = val_data, output, half, recipe
        # A resumed run may leave out images that were damaged since.
        self.given_images = len(train_data) + train_data.left_out
        self.observer = observer or TrainingObserver()
        self.last_path = last_path(output)
        self.parallel: nn.Module = self.model
        if group.world > 1:
            ids = [group.device.index] if group.device.type == "cuda" else None
            self.parallel = DistributedDataParallel(self.model, device_ids=ids)
        self.criterion = RetinaNetCriterion(self.model, assigner=options.assigner, class_loss=options.class_loss)
        self.distillation: Distillation | None = None  # ``distillation.attach`` sets it
        self.preprocess = Preprocess(contract).to(group.device)
        self.optimizer = make_optimizer(self.model, options)
        self.amp = amp_dtype(options.amp, group.device)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=self.amp is torch.float16)
        self.ema = None
        if options.ema:
            self.ema = AveragedModel(self.model, multi_avg_fn=ramped_ema(options.ema), use_buffers=True)
        # Made after the average, which copies the model with its hooks. Not for several processes, because the others
        # would wait forever for a step that this one abandons. Not on a GPU, because its steps are short.
        self.guard = StepGuard(self.model) if group.world == 1 and group.device.type == "cpu" else None
        self.sampler = EpochSampler(
            len(train_data),
            options.epoch_samples or len(train_data),
            batch=options.batch,
            seed=options.seed,
            rank=group.rank,
            world=group.world,
        )
        self.loader = BatchLoader(
            AugmentedDataset(train_data, augment, contract.bit_depth), self.sampler, workers=options.workers
        )
        self.step = 0
        self.budget = TimeBudget(60 * options.minutes, spent=spent)
        self.out_of_time = False
        self.out_of_patience = False
        self.best = BestModel()
        # Mean losses of an epoch that has been trained but not evaluated; None if there is no such epoch.
        self.unfinished: dict[str, float] | None = None
        self.saved = False

    @property
    def total_steps(self) -> int:
        """The number of steps of the run; an estimate if the run ends by its time."""
        if self.budget and self.step:
            return self.step if self.out_of_time else max(self.step + 1, round(self.step / self.budget.progress()))
        return self.options.epochs * self.sampler.batches

    def progress(self) -> float:
        """Return the progress of the run, 0 to 1, by its steps or by its time. It is the same in all processes."""
        if self.budget:
            return self.group.of_main([self.budget.progress()])[0]
        return min(1.0, self.step / self.total_steps)

    def run(self) -> Evaluation | None:
        """Train from the current step to the end.

        Returns:
            The last evaluation in the main process; None in other processes, or if nothing was left to do.

        Raises:
            TrainingError: if the loss is not finite.
            KeyboardInterrupt: after Ctrl-C or SIGTERM; the state is saved.
        """
        result = None
        more_losses = self.distillation.losses if self.distillation else ()
        log = TrainingLog(self.output, self.step, more_losses) if self.group.is_main else None
        self.budget.start()
        with contextlib.closing(log) if log else contextlib.nullcontext(), stop_on_signal(self._stop) as stop:
            while not self.has_ended or self.unfinished:
                if not self.unfinished:
                    self.unfinished = self.train_one_epoch(*divmod(self.step, self.sampler.batches), stop)
                rate = learning_rate(self.options, self.step, self.progress())  # in every process, which may share it
                if log:
                    result = finish_epoch(self, self.unfinished, rate, log, stop)
                self.unfinished = None
                self.group.wait()
                # Only the main process evaluates.
                stopping, self.out_of_patience = self.group.any_of(stop.requested, self.out_of_patience)
                if stopping:
                    raise KeyboardInterrupt
        return result

    @property
    def has_ended(self) -> bool:
        """True if all steps are trained, the time is over, or AP has not risen for too long."""
        return self.out_of_patience or (self.out_of_time if self.budget else self.step >= self.total_steps)

    @property
    def last_evaluations(self) -> int:
        """The number of evaluations at the end of the run: with EMA also of the weights that are not averaged."""
        return 2 if self.ema else 1

    def train_one_epoch(self, epoch: int, first_batch: int, stop: StopRequest) -> dict[str, float]:
        """Train the steps of one epoch, or fewer if the time of the run ends.

        Args:
            epoch: index of the epoch, from 0.
            first_batch: index of the first batch to train, above 0 after resuming.
            stop: request to stop, from Ctrl-C or SIGTERM.

        Returns:
            Mean losses of this process, and ``images_per_second`` of all processes.

        Raises:
            TrainingError: if the loss is not finite.
            KeyboardInterrupt: if a stop was requested; the state is saved.
        """
        self.sampler.set_position(epoch, first_batch, self.total_steps)
        self.parallel.train()
        sums: dict[str, float] = {}
        batch, started = first_batch, time.perf_counter()
        for batch, (images, targets) in enumerate(self.loader, first_batch):
            try:
                losses = self.train_step(images, targets)
            except StepAbandoned:
                assert self.guard is not None
                self.guard.restore()
                self.save_last()
                raise KeyboardInterrupt from None
            finite = all(math.isfinite(value) for value in losses.values())
            self.observer.on_step(self._step_report(epoch, batch + 1, losses))
            not_finite, stopping = self.group.any_of(not finite, stop.requested)
            if not_finite:
                raise TrainingError(self._not_finite(losses if not finite else "in another process"))
            self.step += 1
            if self.budget:
                self.sampler.expect(self.total_steps)
            sums = {name: sums.get(name, 0.0) + value for name, value in losses.items()}
            self.out_of_time = bool(self.budget) and self.progress() >= 1
            if self.out_of_time:
                break
            # After the last batch, ``run`` handles the stop, because it saves the trained epoch first.
            if stopping and batch + 1 < self.sampler.batches:
                if self.group.is_main:
                    self.save_last()
                raise KeyboardInterrupt
        done = batch + 1 - first_batch
        rate = done * self.options.batch * self.group.world / (time.perf_counter() - started)
        return {**{name: value / done for name, value in sums.items()}, "images_per_second": rate}

    def train_step(self, images: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, float]:
        """Train one step and return its losses. The weights do not change if the loss is not finite.

        Args:
            images: crops, BGR, uint8 [N, H, W, 3].
            targets: ``boxes`` and ``labels`` of each image, as for ``RetinaNetCriterion``.
        """
        device = self.group.device
        if self.guard:
            self.guard.begin()
        rate = learning_rate(self.options, self.step, self.progress())
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        targets = [{name: value.to(device, non_blocking=True) for name, value in target.items()} for target in targets]
        images = images.to(device, non_blocking=True)
        x = self.preprocess(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, self.amp, enabled=self.amp is not None):
            heads = self.parallel(x)
        losses = self.criterion(heads, targets, (images.shape[1], images.shape[2]))
        if self.distillation:
            losses |= self.distillation(images, heads, targets)
        total = sum(losses.values(), torch.zeros((), device=device))
        values = {name: value.item() for name, value in losses.items()}
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        if bool(torch.isfinite(total)):
            self.scaler.unscale_(self.optimizer)
            if self.options.clip_norm:
                trained = [*self.model.parameters(), *(self.distillation.parameters() if self.distillation else ())]
                nn.utils.clip_grad_norm_(trained, self.options.clip_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.ema:
                self.ema.update_parameters(self.model)
        return values

    def evaluated_model(self) -> RetinaNet:
        """Return the model that is evaluated and shipped: with EMA the averaged weights, else the model itself."""
        model = self.ema.module if self.ema else self.model
        assert isinstance(model, RetinaNet)
        return model

    def _not_finite(self, losses: object) -> str:
        saved = f"; {self.last_path} holds the last saved state" if self.saved else ""
        return (
            f"loss is not finite at step {self.step + 1}: {losses}; lower the learning rate "
            f"(now {self.optimizer.param_groups[0]['lr']:g}), warm up longer, or train with amp off{saved}"
        )

    def _step_report(self, epoch: int, batches: int, losses: dict[str, float]) -> StepReport:
        return StepReport(
            epoch=epoch,
            batch=batches,
            batches=self.sampler.batches,
            step=self.step + 1,
            total_steps=self.total_steps,
            losses=losses,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            images=self.options.batch * self.group.world,
            seconds_left=self.budget.left,
        )

    def _stop(self) -> None:
        if self.guard:
            self.guard.stop()
        if self.group.is_main:
            self.observer.on_stop()

    def checkpoint(self) -> Checkpoint:
        """Return a checkpoint of the current model, ready to ship."""
        weights = self.evaluated_model().state_dict()
        return Checkpoint(self.contract, self.model.config, weights, recipe=self.recipe)

    def save_last(self) -> None:
        """Write ``model.last.pt``, the checkpoint to resume from."""
        training_state.save(self)
        self.saved = True

    def resume(self) -> None:
        """Load the state of ``model.last.pt``, so that ``run`` continues from there.

        Random numbers depend only on seed and step, so the result is the same as that of an uninterrupted run, unless
        the run ends by its time.

        Raises:
            TrainingError: if the file is missing, has no training state, or was made with other settings.
            ModelFileError: if the file is corrupt, or not a checkpoint of retina_edge.
        """
        training_state.restore(self)
