"""The weights of a RetinaNet in the files of training programs, which wrap a state dict in different ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from engines.core.errors import CONTROL, ModelFileError
from retina_edge.model.torch_file import is_state_dict

# Keys under which training programs store the state dict: torchvision's reference training, Lightning and timm,
# PyTorch's tutorial, wrappers of a model.
MODEL_KEYS = ("model", "state_dict", "model_state_dict", "module", "net", "network")
# The same for an exponential moving average of the weights.
EMA_KEYS = ("model_ema", "ema", "ema_state_dict", "state_dict_ema", "model_ema_state_dict", "ema_model")
# The tensor that every RetinaNet of torchvision has. What stands before its name is the prefix of a wrapper, such as
# ``module.`` of DistributedDataParallel, ``_orig_mod.`` of torch.compile and ``model.`` of a LightningModule.
LOGITS = "head.classification_head.cls_logits.weight"
# Key of torch's AveragedModel, which also has the prefix ``module.``.
AVERAGED = "n_averaged"
# Largest number of wrappers around a state dict.
MAX_WRAPPERS = 8
# Number of keys that a message lists.
NAMED_KEYS = 3


@dataclass(frozen=True)
class WrappedWeights:
    """The weights that were found in a file.

    Attributes:
        weights: state dict, without the prefix of a wrapper.
        place: place of the state dict in the file: keys and prefix; empty if the file is the state dict.
        left_out: keys beside the model in the state dict.
        averaged: place of averaged weights that were not asked for; empty if there are none.
    """

    weights: dict[str, Tensor]
    place: str
    left_out: tuple[str, ...]
    averaged: str


def find_weights(content: object, *, ema: bool) -> WrappedWeights:
    """Find the weights of a RetinaNet in the content of a file.

    Args:
        content: content of the file: a state dict, or a dict with one inside.
        ema: take the averaged weights of training instead of the last ones.

    Raises:
        ModelFileError: if there are no weights of a RetinaNet, or more than one set.

    Examples:
        >>> import torch
        >>> found = find_weights({"state_dict": {f"model.{LOGITS}": torch.zeros(9, 4, 3, 3)}, "epoch": 3}, ema=False)
        >>> list(found.weights) == [LOGITS], found.place
        (True, "under 'state_dict', without the prefix 'model.'")
    """
    averaged = [key for key in EMA_KEYS if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
    keys, state = _descend(content, averaged[:1] if ema and averaged else MODEL_KEYS)
    if not is_state_dict(state):
        fix = "save the weights with torch.save(model.state_dict(), 'weights.pth')"
        if averaged and not ema:
            fix = "take the averaged weights with --ema"
        raise ModelFileError(
            f"expected a state dict, or a dict with one under {', '.join(map(repr, MODEL_KEYS))}, "
            f"got {type(content).__name__} with {first_keys(content)}; {fix}"
        )
    prefixes = [key.removesuffix(LOGITS) for key in state if key == LOGITS or key.endswith("." + LOGITS)]
    if not prefixes:
        raise ModelFileError(f"expected weights of torchvision's RetinaNet with {LOGITS}, got {first_keys(state)}")
    within = [prefix for prefix in prefixes if _is_averaged(prefix)]
    others = [prefix for prefix in prefixes if prefix not in within]
    if ema and not (within or AVERAGED in state or averaged):
        raise ModelFileError(
            f"expected averaged weights under {', '.join(map(repr, EMA_KEYS))}, got {first_keys(content)}; leave --ema "
            "out for the weights of the last step"
        )
    chosen = within if within and (ema or not others) else others
    if len(chosen) > 1:
        names = some([repr(prefix) for prefix in chosen])
        raise ModelFileError(f"expected one RetinaNet, got {len(chosen)}, with the prefixes {names}; save one alone")
    (prefix,) = chosen
    place = [f"under {'.'.join(keys)!r}"] if keys else []
    place += [f"without the prefix {prefix!r}"] if prefix else []
    unused = [repr(name) for name in (*averaged, *within) if name not in (*keys, prefix)]
    return WrappedWeights(
        {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)},
        ", ".join(place),
        tuple(key for key in state if not key.startswith(prefix) and key != AVERAGED),
        unused[0] if unused else "",
    )


def some(keys: Sequence[str]) -> str:
    """Return the first keys as text, and the number of the others.

    Examples:
        >>> some(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    more = f" and {len(keys) - NAMED_KEYS} more" if len(keys) > NAMED_KEYS else ""
    return (CONTROL.sub("?", ", ".join(key[:100] for key in keys[:NAMED_KEYS])) or "none") + more


def first_keys(content: object) -> str:
    """Return the first keys of a mapping as text.

    Examples:
        >>> first_keys({"epoch": 3}), first_keys([])
        ('keys epoch', 'no keys')
    """
    if not isinstance(content, Mapping) or not content:
        return "no keys"
    return f"keys {some([key if isinstance(key, str) else type(key).__name__ for key in content])}"


def _descend(content: Any, keys: Sequence[str]) -> tuple[list[str], Any]:
    """Follow keys of wrappers to a state dict, and return the keys and what they lead to."""
    found: list[str] = []
    # A damaged file can contain itself.
    while isinstance(content, Mapping) and not is_state_dict(content) and len(found) < MAX_WRAPPERS:
        inner = [key for key in keys if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        found.append(inner[0])
        content, keys = content[inner[0]], MODEL_KEYS
    return found, content


def _is_averaged(prefix: str) -> bool:
    """True for the prefix of an average that is a module of its own, such as ``model_ema.module.``."""
    return any("ema" in part.split("_") or "averaged" in part for part in prefix.split("."))
