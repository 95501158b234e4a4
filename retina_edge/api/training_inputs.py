"""The checks of what ``retina_edge.api.train`` is given, before anything is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engines.core.errors import ContractError
from retina_edge.api.given_options import GivenOptions
from retina_edge.system.output_file import Input, check_output
from retina_edge.training.run_files import check_log, kept_path
from retina_edge.training.train_options import TrainOptions

# Options as a whole, or some of their fields by name.
Fields = Mapping[str, Any]


def fields(options: object, kind: type) -> Fields:
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


def check_given(
    given: GivenOptions,
    qat: Path | str | None,
    init: Path | str | None,
    model: object,
    teacher: object,
    *,
    find_lr: bool,
    resume: bool,
) -> None:
    """Check that the options and the checkpoints to start from do not contradict each other.

    Raises:
        ContractError: if they do.
    """
    if given.options.get("minutes") and "epochs" in given.options:
        raise ContractError("minutes: expected either minutes or epochs, got both; leave one out")
    if find_lr and "learning_rate" in given.options:
        raise ContractError("find_lr: expected no learning_rate with it, which it finds; leave one out")
    if find_lr and qat is not None:
        raise ContractError("find_lr: not allowed with qat, which needs a small rate; leave one out")
    if qat is not None and teacher is not None:
        raise ContractError(
            "qat: expected no teacher, because a model is distilled before it is quantized; leave it out"
        )
    if teacher is None and given.options.get("distill_weight", TrainOptions.distill_weight) != 1:
        raise ContractError("distill_weight: expected a teacher with it, got none; give one, or leave it out")
    if resume and init is not None:
        raise ContractError("init: not allowed with resume, which continues with its own weights; leave one out")
    if init is not None and given.model.get("backbone_weights") is not None:
        raise ContractError("backbone_weights: expected none with init, which has its own; leave one out")
    if qat is not None and (model is not None or init is not None):
        raise ContractError("qat: expected neither model nor init, because the checkpoint decides both; leave them out")
    if given.options.get("qat", qat is not None) != (qat is not None):
        wanted = "without" if qat is None else "with"
        raise ContractError(
            f"options: expected qat={qat is not None} {wanted} a checkpoint for qat, got qat={given.options['qat']}"
        )


def check_outputs(output: Path, inputs: Sequence[Input]) -> None:
    """Check that a run can write its files, and overwrites no input.

    Raises:
        SinkError: if it cannot, or would.
    """
    check_output("output", output, suffix=".pt", inputs=inputs)
    for suffix in (".pt", ".last.pt", ".csv"):
        for path in (output, kept_path(output)):
            check_output("output", path.with_suffix(suffix), inputs=inputs)
    check_log(output)
