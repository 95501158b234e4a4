"""A guard ends the forward pass of the models that it watches, and is not kept alive by them."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from retina_edge.training import step_guard
from retina_edge.training.step_guard import StepAbandoned, StepGuard


def test_a_watched_model_is_ended_as_long_as_the_guard_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_guard, "PATIENCE", 0.0)
    watched, images = nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 4, 4)
    model = nn.Conv2d(1, 1, 1)
    guard, kept = StepGuard(model), weakref.ref(model)
    guard.watch(watched)
    watched(images)
    guard.stop()
    with pytest.raises(StepAbandoned):
        watched(images)
    del guard, model
    gc.collect()
    assert kept() is None  # a trainer that only measured the speed leaves no model behind
    watched(images)
