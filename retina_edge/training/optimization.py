"""How weights are moved: the rate of each step, the optimizer, the precision, the average."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from engines.core.errors import DeviceError
from retina_edge.training.train_options import TrainOptions

# Where multistep divides the rate by ten: after 60k and 80k of 90k steps (arXiv 1708.02002, section 4.1).
MILESTONES = (60 / 90, 80 / 90)


def learning_rate(options: TrainOptions, step: int, total_steps: int) -> float:
    """The rate at a step counted from 0: linear warm-up times the schedule. A function of the step alone, so
    that resuming needs no state."""
    progress = min(1.0, step / max(1, total_steps))
    factor = 1.0
    if options.schedule == "multistep":
        factor = 0.1 ** sum(progress >= milestone for milestone in MILESTONES)
    elif options.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * progress))
    warmup = min(1.0, 0.01 + 0.99 * step / options.warmup_steps) if options.warmup_steps else 1.0
    return options.learning_rate * factor * warmup


def make_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 or AdamW; biases and normalization are not decayed."""
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


def ramped_ema(decay: float) -> Callable[[Any, Any, Any], None]:
    """An average whose memory grows with its age, so that random first weights are soon forgotten."""

    def average(averaged: Any, current: Any, count: Any) -> None:
        age = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + age) / (10 + age)))(averaged, current, count)  # type: ignore[no-untyped-call]

    return average
