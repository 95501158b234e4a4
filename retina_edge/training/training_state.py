"""The state of a training run in ``model.last.pt``: everything that resuming needs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from engines.core.contract import BIT_DEPTH
from engines.core.errors import TrainingError
from retina_edge.model.checkpoint import load_checkpoint, plain
from retina_edge.training.fake_quantization import ranges_of
from retina_edge.training.progress import TimeBudget

if TYPE_CHECKING:
    from retina_edge.training.trainer import Trainer

# Settings that a resumed run may change, because they do not affect the result.
MAY_CHANGE_ON_RESUME = ("workers", "eval_every")
# Values of settings that older files lack.
LATER_SETTINGS = {"qat": False, "minutes": 0.0, "bit_depth": BIT_DEPTH}


def save(trainer: Trainer) -> None:
    """Write ``model.last.pt``, the checkpoint to resume from."""
    state = {
        "step": trainer.step,
        "spent": trainer.budget.spent if trainer.budget else 0.0,
        "out of time": trainer.out_of_time,
        "unfinished": trainer.unfinished,
        "settings": _settings(trainer),
        "best_ap": trainer.best_ap,
        "model": trainer.model.state_dict(),
        "ema": trainer.ema.state_dict() if trainer.ema else None,
        "ranges": [value.cpu() for value in ranges_of(trainer.model)],
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
    }
    dataclasses.replace(trainer.checkpoint(), training=state).save(trainer.last_path)


def _settings(trainer: Trainer) -> dict[str, Any]:
    """Return the settings that decide the result, which must be the same when the run is resumed."""
    settings = {
        **dataclasses.asdict(trainer.options),
        **dataclasses.asdict(trainer.augment),
        **dataclasses.asdict(trainer.model.config),
        "classes": trainer.contract.class_names,
        "bit_depth": trainer.contract.bit_depth,
        "training images": trainer.given_images,
        "processes": trainer.group.world,
        "amp": str(trainer.amp),
    }
    return dict(plain(settings))


def restore(trainer: Trainer) -> None:
    """Load the state of ``model.last.pt`` into a trainer; see ``Trainer.resume``."""
    if not trainer.last_path.is_file():
        raise TrainingError(
            f"{trainer.last_path}: expected a checkpoint to resume, found no file; start without resuming"
        )
    state = load_checkpoint(trainer.last_path).training
    if state is None:
        raise TrainingError(f"{trainer.last_path}: expected a checkpoint with training state, got a model to ship")
    saved = state["settings"]
    differences = [
        f"{name}: expected {saved.get(name)}, got {value}"
        for name, value in _settings(trainer).items()
        if name not in MAY_CHANGE_ON_RESUME and saved.get(name, LATER_SETTINGS.get(name)) != value
    ]
    if differences:
        raise TrainingError(
            f"{trainer.last_path} was made with other settings: {'; '.join(differences)}; resume with the same "
            f"settings, or train longer or otherwise in a new run with --init {trainer.output.name}"
        )
    trainer.model.load_state_dict(state["model"])
    if trainer.ema:
        trainer.ema.load_state_dict(state["ema"])
    for model in (trainer.model, trainer.ema) if trainer.ema else (trainer.model,):
        for current, value in zip(ranges_of(model), state.get("ranges", ()), strict=True):
            current.copy_(value)
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.step, trainer.best_ap, trainer.unfinished = state["step"], state["best_ap"], state["unfinished"]
    if trainer.budget:
        reserved = trainer.budget.last_evaluation
        trainer.budget = TimeBudget(60 * trainer.options.minutes, spent=state["spent"])
        trainer.budget.last_evaluation = reserved
        trainer.out_of_time = state["out of time"]
