"""The learning-rate schedule, the optimizer, mixed precision, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from engines.core.errors import DeviceError
from retina_edge.training.train_options import TrainOptions

# The schedule ``multistep`` divides the learning rate by ten after 60k and 80k of 90k steps (arXiv 1708.02002, section
# 4.1).
MILESTONES = (60 / 90, 80 / 90)


def learning_rate(options: TrainOptions, step: int, progress: float) -> float:
    """Return the learning rate of a step: the schedule, times a linear warm-up.

    The rate depends on the step and the progress alone, so that resuming needs no state.

    Args:
        options: options of the training.
        step: index of the step, from 0.
        progress: progress of the run, 0 to 1.

    Examples:
        >>> options = TrainOptions(learning_rate=0.01, warmup_steps=10, schedule="multistep")
        >>> [round(learning_rate(options, step, step / 90), 6) for step in (0, 5, 10, 60, 80)]
        [0.0001, 0.00505, 0.01, 0.001, 0.0001]
    """
    factor = 1.0
    if options.schedule == "multistep":
        factor = 0.1 ** sum(progress >= milestone for milestone in MILESTONES)
    elif options.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * progress))
    warmup = min(1.0, 0.01 + 0.99 * step / options.warmup_steps) if options.warmup_steps else 1.0
    return options.learning_rate * factor * warmup


def make_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """Return SGD with momentum 0.9, or AdamW; weight decay does not apply to biases and normalization.

    Examples:
        >>> make_optimizer(nn.Linear(2, 1), TrainOptions(optimizer="adamw")).param_groups[1]["weight_decay"]
        0.0
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=options.learning_rate)


def moments_of(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """Return tensors of the names, shapes and types that an optimizer keeps for each parameter after a step.

    Examples:
        >>> moments_of(make_optimizer(nn.Linear(2, 1), TrainOptions()))[0]["momentum_buffer"].shape
        torch.Size([1, 2])
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if isinstance(optimizer, torch.optim.SGD):
        return {index: {"momentum_buffer": value} for index, value in enumerate(parameters)}
    step = torch.zeros(())
    return {index: {"step": step, "exp_avg": value, "exp_avg_sq": value} for index, value in enumerate(parameters)}


def amp_dtype(mode: str, device: torch.device) -> torch.dtype | None:
    """Return the data type of the forward pass in mixed precision; None for float32.

    Args:
        mode: one of ``AMP_MODES``; ``auto`` chooses a data type that the device supports.
        device: device that trains.

    Raises:
        DeviceError: for fp16 on a CPU.

    Examples:
        >>> amp_dtype("bf16", torch.device("cpu"))
        torch.bfloat16
    """
    if mode == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        # Without instructions for bf16, a CPU emulates it, which is slower than float32.
        return torch.bfloat16 if _cpu_capabilities().get("avx512_bf16") else None
    if mode == "fp16" and device.type != "cuda":
        raise DeviceError("amp fp16 needs a GPU; on a CPU use bf16, auto or off")
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[mode]


def _cpu_capabilities() -> dict[str, Any]:
    # Older versions of torch do not report capabilities. The caller then uses float32.
    return dict(getattr(torch.cpu, "get_capabilities", dict)())


def ramped_ema(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return a function for ``AveragedModel`` that averages weights with a decay that rises to ``decay``.

    The decay is low at first, so that the average soon forgets the random initial weights.

    Examples:
        >>> from torch.optim.swa_utils import AveragedModel
        >>> average = AveragedModel(nn.Linear(2, 1), multi_avg_fn=ramped_ema(0.999))
    """

    def average(averaged: Any, current: Any, count: Any) -> None:
        age = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + age) / (10 + age)))(averaged, current, count)  # type: ignore[no-untyped-call]

    return average
