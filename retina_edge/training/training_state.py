"""The state of a training run in ``model.last.pt``: everything that resuming needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from engines.core.contract import BIT_DEPTH
from engines.core.errors import ContractError, ModelFileError, TrainingError
from engines.core.json_form import BOOLEAN, INTEGER, NUMBER, OBJECT, Form, OrNull, check_form, require, short
from retina_edge.data.augment_options import photometric_level
from retina_edge.model.checkpoint import check_kinds, load_checkpoint, plain
from retina_edge.model.torch_file import check_weights
from retina_edge.training import best_model
from retina_edge.training.fake_quantization import ranges_of
from retina_edge.training.optimization import moments_of
from retina_edge.training.progress import TimeBudget
from retina_edge.training.run_files import check_resumable
from retina_edge.training.training_log import DISTILLATION_LOSSES, LOSSES

if TYPE_CHECKING:
    from retina_edge.training.trainer import Trainer

# Settings that a resumed run may change, because they do not affect the steps. ``teacher`` is the name of its file.
MAY_CHANGE_ON_RESUME = ("workers", "eval_every", "patience", "teacher")
# Values of settings that older files lack.
LATER_SETTINGS = {
    "qat": False,
    "minutes": 0.0,
    "bit_depth": BIT_DEPTH,
    "mosaic": 0.0,
    "copy_paste": 0.0,
    "assigner": "iou",
    "class_loss": "focal",
    "teacher_sha256": "",
    "distill_weight": 1.0,
}
_VALIDATION = "validation images"
# Number of settings that an error names.
_NAMED_SETTINGS = 3
# The state apart from its tensors. Files without a time lack "spent" and "out of time", older ones "best", "evaluating"
# and "reserved".
_FORM: Form = {
    "step": INTEGER,
    **dict.fromkeys(("spent?", "evaluating?", "reserved?"), NUMBER),
    "out of time?": BOOLEAN,
    "unfinished": OrNull(
        dict.fromkeys((*LOSSES, "images_per_second", *(f"{name}?" for name in DISTILLATION_LOSSES)), NUMBER)
    ),
    "settings": OBJECT,
    "best_ap": NUMBER,
    "best?": best_model.FORM,
    "scaler": {"*": NUMBER},
}
_TENSORS = ("model", "ema", "ranges", "adaptation", "optimizer")
_OF_SCALER = ("scale", "_growth_tracker")
# Far above every run.
_MAX_STEPS = 10**15


def save(trainer: Trainer) -> None:
    """Write ``model.last.pt``, the checkpoint to resume from."""
    budget = trainer.budget
    state = {
        "step": trainer.step,
        "spent": budget.spent if budget else 0.0,
        "evaluating": budget.evaluating if budget else 0.0,
        "reserved": budget.last_evaluation if budget else 0.0,
        "out of time": trainer.out_of_time,
        "unfinished": trainer.unfinished,
        "settings": _settings(trainer),
        "best_ap": trainer.best.ap,
        "best": trainer.best.state(),
        "model": trainer.model.state_dict(),
        "ema": trainer.ema.state_dict() if trainer.ema else None,
        "ranges": [value.cpu() for value in ranges_of(trainer.model)],
        "adaptation": trainer.distillation.adaptation.state_dict() if trainer.distillation else None,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
    }
    dataclasses.replace(trainer.checkpoint(), training=state).save(trainer.last_path)


def _settings(trainer: Trainer) -> dict[str, Any]:
    """Return the settings that decide the result, which must be the same when the run is resumed."""
    settings = {
        "qat": trainer.options.qat,  # first in messages, because it decides the defaults of others
        **dataclasses.asdict(trainer.options),
        **dataclasses.asdict(trainer.augment),
        **dataclasses.asdict(trainer.model.config),
        "classes": trainer.contract.class_names,
        "bit_depth": trainer.contract.bit_depth,
        "training images": trainer.given_images,
        _VALIDATION: len(trainer.val_data) + trainer.val_data.left_out,
        "processes": trainer.group.world,
        "amp": str(trainer.amp),
    }
    return dict(plain(settings))


def restore(trainer: Trainer) -> None:
    """Load the state of ``model.last.pt`` into a trainer; see ``Trainer.resume``."""
    check_resumable(trainer.output)
    state = load_checkpoint(trainer.last_path).training
    if state is None:
        raise TrainingError(f"{trainer.last_path}: expected a checkpoint with training state, got a model to ship")
    try:
        check_form({name: value for name, value in state.items() if name not in _TENSORS}, _FORM)
        _check_settings(trainer, state["settings"])
        _check_numbers(trainer, state)
        tensors = _checked_tensors(trainer, state)
    except (ContractError, ModelFileError) as error:
        raise TrainingError(
            f"{trainer.last_path}: damaged state of the training: {error}; use a copy of the file, or start without "
            "resuming"
        ) from error
    trainer.model.load_state_dict(tensors["model"])
    if trainer.ema:
        trainer.ema.load_state_dict(tensors["ema"])
    for model in (trainer.model, trainer.ema) if trainer.ema else (trainer.model,):
        for current, value in zip(ranges_of(model), tensors["ranges"].values(), strict=True):
            current.copy_(value)
    if trainer.distillation:
        trainer.distillation.adaptation.load_state_dict(tensors["adaptation"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors["optimizer"].items():
        index, kind = name.split(".")
        moments.setdefault(int(index), {})[kind] = value
    # The options of the optimizer, as those of the scaler, are those of this run.
    trainer.optimizer.load_state_dict({**trainer.optimizer.state_dict(), "state": moments})
    scaler = trainer.scaler.state_dict()
    trainer.scaler.load_state_dict(scaler | {name: state["scaler"][name] for name in _OF_SCALER if name in scaler})
    trainer.step, trainer.unfinished = state["step"], state["unfinished"]
    trainer.best.restore(state["best_ap"], state.get("best"))
    trainer.out_of_patience = 0 < trainer.options.patience <= trainer.best.without_gain
    if trainer.budget:
        reserved = state.get("reserved", trainer.budget.last_evaluation)
        times = {"spent": state["spent"], "evaluating": state.get("evaluating", 0.0)}
        trainer.budget = TimeBudget(60 * trainer.options.minutes, **times)
        trainer.budget.last_evaluation = reserved
        trainer.out_of_time = state["out of time"]


def _check_settings(trainer: Trainer, saved: Mapping[str, Any]) -> None:
    """Raise TrainingError unless the settings are those of the run that saved them."""
    own = _settings(trainer)
    later = {**LATER_SETTINGS, _VALIDATION: own[_VALIDATION]}
    saved = {**later, **saved, "photometric": photometric_level(saved.get("photometric"))}
    differences = [
        f"{name}: expected {short(saved.get(name))}, got {short(value)}"
        for name, value in own.items()
        if name not in MAY_CHANGE_ON_RESUME and saved.get(name) != value
    ]
    if differences:
        more = len(differences) - _NAMED_SETTINGS
        named = "; ".join(differences[:_NAMED_SETTINGS]) + (f"; and {more} more" if more > 0 else "")
        raise TrainingError(
            f"{trainer.last_path} was made with other settings: {named}; resume with the same "
            f"settings, or train longer or otherwise in a new run with --init {trainer.output.name}"
        )


def _check_numbers(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Raise ContractError if a number is out of range, or missing."""
    require(0 <= state["step"] <= _MAX_STEPS, "step", f"0 to {_MAX_STEPS}", state["step"])
    if "best" in state:
        best_model.check_state(state["best"])
    more_losses = trainer.distillation.losses if trainer.distillation else ()
    losses = dict.fromkeys((*LOSSES, *more_losses, "images_per_second"), NUMBER)
    check_form(state["unfinished"], OrNull(losses), "unfinished")
    if trainer.budget:
        require("out of time" in state, "out of time", "true or false", None)
        for name, missing in (("spent", -1), ("evaluating", 0), ("reserved", 0)):
            require(state.get(name, missing) >= 0, name, "0 s or more", state.get(name))
    if scaler := trainer.scaler.state_dict():
        check_form(state["scaler"], dict.fromkeys(scaler, NUMBER), "scaler")
        scale, tracker = (state["scaler"][name] for name in _OF_SCALER)
        require(0 < scale < 2**127, "scaler.scale", "more than 0 and less than 2**127, as float32", scale)
        require(0 <= tracker < 2**31, "scaler._growth_tracker", "0 or more, as int32", tracker)


def _checked_tensors(trainer: Trainer, state: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each part of a state, after checking that they are like those of this run.

    They then take as much memory as those of the run.

    Raises:
        ModelFileError, ContractError: if a name, shape or type differs, or a number is not finite or out of range.
    """
    optimizer = state.get("optimizer")
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("state"), dict):
        raise ModelFileError(f"optimizer: expected its state, got {short(optimizer)}")
    actual = _flat({**{name: state.get(name) for name in _TENSORS}, "optimizer": optimizer["state"]})
    # A parameter has no entry before its first step.
    begun = {name.split(".")[1] for name in actual if name.startswith("optimizer.")}
    moments = {index: entry for index, entry in moments_of(trainer.optimizer).items() if str(index) in begun}
    ema = trainer.ema.state_dict() if trainer.ema else None
    adaptation = trainer.distillation.adaptation.state_dict() if trainer.distillation else None
    own = {
        "model": trainer.model.state_dict(),
        "ema": ema,
        "ranges": ranges_of(trainer.model),
        "adaptation": adaptation,
        "optimizer": moments,
    }
    check_kinds(_flat(own), actual)
    check_weights(actual, trainer.last_path)
    for name, value in actual.items():
        if name.startswith("ranges.") or name.endswith((".n_averaged", ".exp_avg_sq", ".step")):
            require(not (value < 0).any(), name, "0 or more", float(value.min()))
    return {
        part: {name.removeprefix(f"{part}."): value for name, value in actual.items() if name.startswith(f"{part}.")}
        for part in _TENSORS
    }


def _flat(value: object, name: str = "", depth: int = 0) -> dict[str, Tensor]:
    """Return the tensors in nested mappings and lists by their path; None contains no tensor.

    Raises:
        ModelFileError: if there is something else, or the value is nested too deep.
    """
    if value is None:
        return {}
    if isinstance(value, Tensor):
        return {name: value}
    if depth > 2 or not isinstance(value, dict | list):
        raise ModelFileError(f"{name}: expected tensors by name, got {short(value)}")
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: dict[str, Tensor] = {}
    for key, item in items:
        found.update(_flat(item, f"{name}.{key}" if name else str(key), depth + 1))
    return found
