"""The end of a long step after Ctrl-C: a step of a large network takes minutes on a CPU."""

from __future__ import annotations

import time
import weakref

import torch
from torch import Tensor, nn

# Seconds that a step may go on after a stop was requested.
PATIENCE = 3.0


class StepAbandoned(Exception):
    """A step was ended in the middle. The weights are those before the step."""


class StepGuard:
    """Ends a step between two convolutions, forward or backward, if it goes on too long after a stop was requested.

    A Python hook at each convolution also lets the handlers of signals run, which wait while torch computes.

    Args:
        model: model that is trained, on a CPU.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._stopped_at: float | None = None
        self._kept: list[tuple[Tensor, Tensor]] = []
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(self._after_forward)

    def watch(self, model: nn.Module) -> None:
        """Also end the forward pass of a model that takes part in a step without being trained."""
        # Weak, because the model outlives the guards of the trainers that only measure the speed.
        guard = weakref.ref(self)

        def check(*_: object) -> None:
            if (watching := guard()) is not None:
                watching._check()

        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(check)

    def begin(self) -> None:
        """Keep the statistics that the forward pass of a step changes."""
        self._kept = [(value, value.clone()) for value in self._model.buffers()]

    def stop(self) -> None:
        """Request the end of the current step."""
        self._stopped_at = self._stopped_at or time.monotonic()

    def restore(self) -> None:
        """Restore the statistics from before the step."""
        with torch.no_grad():
            for value, kept in self._kept:
                value.copy_(kept)

    def _after_forward(self, module: nn.Module, _inputs: object, output: Tensor) -> None:
        if not module.training:  # an evaluation stops between two images
            return
        self._check()
        if output.requires_grad:
            output.register_hook(lambda _gradient: self._check())  # type: ignore[no-untyped-call]

    def _check(self) -> None:
        if self._stopped_at is not None and time.monotonic() - self._stopped_at > PATIENCE:
            raise StepAbandoned
