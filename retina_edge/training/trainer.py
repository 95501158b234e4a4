"""The training loop: epochs of steps, an evaluation, two checkpoints.

``model.pt`` is the best so far by AP, ready to ship; ``model.last.pt`` holds everything that resuming needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from engines.contract import DetectorContract
from engines.errors import DeviceError, TrainingError
from export.preprocess import Preprocess
from retina_edge.data.coco import CocoDataset
from retina_edge.data.loading import AugmentedDataset, EpochSampler, make_loader
from retina_edge.data.options import AugmentOptions
from retina_edge.detector import Detector
from retina_edge.evaluation import Evaluation, evaluate
from retina_edge.model.checkpoint import Checkpoint, load_checkpoint
from retina_edge.model.retinanet import RetinaNet
from retina_edge.torch_executor import TorchExecutor
from retina_edge.training.criterion import RetinaNetCriterion
from retina_edge.training.log import TrainingLog
from retina_edge.training.options import TrainOptions, learning_rate
from retina_edge.training.processes import ProcessGroup, StopRequest, stop_on_signal

# Settings that may change between a run and its continuation without changing what is computed.
FREE_ON_RESUME = ("workers", "eval_every")


class Trainer:
    """One training run.

    Args:
        model: to train; moved to the group's device.
        contract: what it will promise.
        train_data, val_data: checked data sets with the same classes.
        augment: how training images are changed.
        options: how to train.
        output: the checkpoint to write; the others stand beside it.
        group: this process and its device.
        half: ship the best weights in float16.
        on_step: called after each step with (epoch, batches done, batches, losses).
        on_epoch: called in the main process after each epoch with (epoch, mean losses, evaluation or None).
    """

    def __init__(
        self,
        model: RetinaNet,
        contract: DetectorContract,
        train_data: CocoDataset,
        val_data: CocoDataset,
        *,
        augment: AugmentOptions,
        options: TrainOptions,
        output: Path,
        group: ProcessGroup,
        half: bool = False,
        on_step: Callable[[int, int, int, dict[str, float]], None] = lambda *_: None,
        on_epoch: Callable[[int, dict[str, float], Evaluation | None], None] = lambda *_: None,
    ) -> None:
        # The input size is fixed, so cuDNN's search for the fastest algorithms pays off.
        torch.backends.cudnn.benchmark = group.device.type == "cuda"
        self.model = model.to(group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.contract, self.options, self.augment, self.group = contract, options, augment, group
        self.val_data, self.output, self.half, self.on_step = val_data, output, half, on_step
        self.on_epoch = on_epoch
        self.last_path = output.with_suffix(".last.pt")
        self.parallel: nn.Module = self.model
        if group.world > 1:
            ids = [group.device.index] if group.device.type == "cuda" else None
            self.parallel = DistributedDataParallel(self.model, device_ids=ids)
        self.criterion = RetinaNetCriterion(self.model)
        self.preprocess = Preprocess(contract).to(group.device)
        self.optimizer = make_optimizer(self.model, options)
        self.amp = amp_dtype(options.amp, group.device)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=self.amp is torch.float16)
        self.ema = None
        if options.ema:
            self.ema = AveragedModel(self.model, multi_avg_fn=_ramped_ema(options.ema), use_buffers=True)
        self.sampler = EpochSampler(
            len(train_data),
            options.epoch_samples or len(train_data),
            batch=options.batch,
            seed=options.seed,
            rank=group.rank,
            world=group.world,
        )
        self.loader = make_loader(AugmentedDataset(train_data, augment), self.sampler, workers=options.workers)
        self.total_steps = options.epochs * self.sampler.batches
        self.step = 0
        self.best_ap = -1.0

    def run(self) -> Evaluation | None:
        """Trains to the end from wherever the run stands.

        Returns:
            The last evaluation, in the main process; None in the others, or if nothing was left to do.

        Raises:
            TrainingError: the loss is not finite.
            KeyboardInterrupt: after Ctrl-C or SIGTERM; the state is saved.
        """
        result = None
        log = TrainingLog(self.output, self.step) if self.group.is_main else None
        with contextlib.closing(log) if log else contextlib.nullcontext(), stop_on_signal() as stop:
            while self.step < self.total_steps:
                epoch, batch = divmod(self.step, self.sampler.batches)
                losses = self.train_one_epoch(epoch, batch, stop)
                if self.group.is_main:
                    result = self._finish_epoch(epoch, losses, log)
                self.group.wait()
                if any(self.group.any_of(stop.asked)):
                    raise KeyboardInterrupt
        return result

    def train_one_epoch(self, epoch: int, first_batch: int, stop: StopRequest) -> dict[str, float]:
        """The steps of one epoch; returns the means of losses and the images per second of all processes."""
        self.sampler.set_position(epoch, first_batch)
        self.parallel.train()
        sums: dict[str, float] = {}
        started = time.perf_counter()
        for batch, (images, targets) in enumerate(self.loader, first_batch):
            losses = self.train_step(images, targets)
            self.on_step(epoch, batch + 1, self.sampler.batches, losses)
            finite = all(math.isfinite(value) for value in losses.values())
            not_finite, stopping = self.group.any_of(not finite, stop.asked)
            if not_finite:
                raise TrainingError(
                    f"loss is not finite at epoch {epoch + 1}, step {batch + 1}: {losses}; lower the learning rate "
                    f"(now {self.optimizer.param_groups[0]['lr']:g}), warm up longer, or train with --amp off; "
                    f"{self.last_path.name} holds the last whole epoch"
                )
            self.step += 1
            sums = {name: sums.get(name, 0.0) + value for name, value in losses.items()}
            # After the last batch the epoch is finished in order, its evaluation included.
            if stopping and batch + 1 < self.sampler.batches:
                if self.group.is_main:
                    self.save_last()
                raise KeyboardInterrupt
        done = self.sampler.batches - first_batch
        rate = done * self.options.batch * self.group.world / (time.perf_counter() - started)
        return {**{name: value / done for name, value in sums.items()}, "images_per_second": rate}

    def train_step(self, images: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, float]:
        """One step on uint8 [N, H, W, 3] BGR images; a step whose loss is not finite changes no weight."""
        device = self.group.device
        rate = learning_rate(self.options, self.step, self.total_steps)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        targets = [{name: value.to(device, non_blocking=True) for name, value in target.items()} for target in targets]
        x = self.preprocess(images.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, self.amp, enabled=self.amp is not None):
            heads = self.parallel(x)
        losses = self.criterion(heads, targets, (images.shape[1], images.shape[2]))
        total = sum(losses.values(), torch.zeros((), device=device))
        values = {name: value.item() for name, value in losses.items()}
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        if bool(torch.isfinite(total)):
            self.scaler.unscale_(self.optimizer)
            if self.options.clip_norm:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.ema:
                self.ema.update_parameters(self.model)
        return values

    def evaluated_model(self) -> RetinaNet:
        """The model that is evaluated and shipped: the averaged one, where there is an average."""
        model = self.ema.module if self.ema else self.model
        assert isinstance(model, RetinaNet)
        return model

    def _finish_epoch(self, epoch: int, losses: dict[str, float], log: TrainingLog | None) -> Evaluation | None:
        result = None
        if (epoch + 1) % self.options.eval_every == 0 or epoch + 1 == self.options.epochs:
            model = self.evaluated_model()
            result = evaluate(
                Detector(TorchExecutor(model, self.contract, device=self.group.device)),
                self.val_data,
                batch=self.options.batch,
            )
            if result.metrics["AP"] > self.best_ap:
                self.best_ap = result.metrics["AP"]
                self.checkpoint().save(self.output, half=self.half)
        self.save_last()
        if log:
            rate = learning_rate(self.options, self.step, self.total_steps)
            log.write(epoch + 1, self.step, rate, losses, result)
        self.on_epoch(epoch, losses, result)
        return result

    def checkpoint(self) -> Checkpoint:
        """The model to ship as it is now."""
        return Checkpoint(self.contract, self.model.config, self.evaluated_model().state_dict())

    def save_last(self) -> None:
        """Writes the file to resume from."""
        state = {
            "step": self.step,
            "best_ap": self.best_ap,
            "options": dataclasses.asdict(self.options),
            "augment": dataclasses.asdict(self.augment),
            "world": self.group.world,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        dataclasses.replace(self.checkpoint(), training=state).save(self.last_path)

    def resume(self) -> None:
        """Goes on where the ``last`` checkpoint stands. All randomness is a function of seed and step, so the rest
        is what an unbroken run would have computed.

        Raises:
            TrainingError: there is none, or it was made with other settings; names them.
        """
        if not self.last_path.is_file():
            raise TrainingError(f"{self.last_path}: nothing to resume, no such file; start without resuming")
        state = load_checkpoint(self.last_path).training
        if state is None:
            raise TrainingError(f"{self.last_path}: expected a checkpoint with training state, found a model to ship")
        differences = _differences(state, self)
        if differences:
            raise TrainingError(
                f"{self.last_path} was made with other settings: {'; '.join(differences)}; resume with the same, "
                "or start a new run from it with --init"
            )
        self.model.load_state_dict(state["model"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.best_ap = state["step"], state["best_ap"]


def _differences(state: dict[str, Any], trainer: Trainer) -> list[str]:
    ours = {
        **dataclasses.asdict(trainer.options),
        **dataclasses.asdict(trainer.augment),
        "world": trainer.group.world,
    }
    theirs = {**state["options"], **state["augment"], "world": state["world"]}
    return [
        f"{name} {theirs.get(name)} there, {value} here"
        for name, value in ours.items()
        if theirs.get(name) != value and name not in FREE_ON_RESUME
    ]


def make_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 or AdamW; biases and normalisation are not decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=options.learning_rate)


def amp_dtype(mode: str, device: torch.device) -> torch.dtype | None:
    """The type of the forward pass, or None for float32.

    Raises:
        DeviceError: fp16 asked for on a CPU, which has no use for it.
    """
    if mode == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        # Without such instructions bf16 is emulated, and slower than float32.
        return torch.bfloat16 if _cpu_capabilities().get("avx512_bf16") else None
    if mode == "fp16" and device.type != "cuda":
        raise DeviceError("amp fp16 needs a GPU; on a CPU use bf16, auto or off")
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[mode]


def _cpu_capabilities() -> dict[str, Any]:
    # Older torch cannot tell; float32 is then the safe answer.
    return dict(getattr(torch.cpu, "get_capabilities", dict)())


def _ramped_ema(decay: float) -> Callable[[Any, Any, Any], None]:
    """An average whose memory grows with its age, so that random first weights are soon forgotten."""

    def average(averaged: Any, current: Any, count: Any) -> None:
        age = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + age) / (10 + age)))(averaged, current, count)  # type: ignore[no-untyped-call]

    return average
