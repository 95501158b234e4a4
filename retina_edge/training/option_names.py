"""The names of the training options on the command line, and the fields that they set."""

from __future__ import annotations

from typing import Any

# Names of the options' fields, by the names of the arguments.
MODEL_FIELDS = {
    "input": "input_size",
    "anchors": "anchor_sizes",
    **{name: name for name in ("aspect_ratios", "backbone", "backbone_levels", "backbone_norm", "fpn_channels")},
    **{name: name for name in ("head_depth", "head_norm", "box_loss", "backbone_weights")},
}
AUGMENT_FIELDS = {
    "crop": "size",
    **{name: name for name in ("scale", "orientation", "photometric", "mosaic", "copy_paste")},
}
RUN_FIELDS = {
    "lr": "learning_rate",
    "warmup": "warmup_steps",
    **{name: name for name in ("epochs", "epoch_samples", "batch", "optimizer", "weight_decay", "schedule", "amp")},
    **{name: name for name in ("ema", "clip_norm", "workers", "seed", "eval_every", "patience", "minutes")},
    **{name: name for name in ("assigner", "class_loss", "distill_weight")},
}
_OPTIONS = {
    field: f"--{argument.replace('_', '-')}"
    for fields in (MODEL_FIELDS, AUGMENT_FIELDS, RUN_FIELDS)
    for argument, field in fields.items()
}


def option_words(field: str, value: Any) -> list[str]:
    """Return an option as words of the command line; empty if the value is what leaving the option out means.

    Args:
        field: name of a field of ``ModelOptions``, ``AugmentOptions`` or ``TrainOptions``.
        value: value of the field.

    Examples:
        >>> option_words("input_size", (416, 736)), option_words("anchor_sizes", (16.0, 32.0))
        (['--input', '416x736'], ['--anchors', '16', '32'])
        >>> option_words("photometric", "none"), option_words("size", None)
        (['--photometric', 'none'], [])
    """
    if value is None or field not in _OPTIONS:
        return []
    if field in ("input_size", "size"):
        return [_OPTIONS[field], f"{value[0]}x{value[1]}"]
    values = value if isinstance(value, tuple) else (value,)
    return [_OPTIONS[field], *(f"{item:g}" if isinstance(item, float) else str(item) for item in values)]
