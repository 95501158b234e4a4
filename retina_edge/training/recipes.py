"""Recipes: named sets of training options. An option that is given on the command line wins over the recipe's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from retina_edge.data.anchor_fit import DEFAULT_SIZES
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.training.model_options import ModelOptions
from retina_edge.training.train_options import TrainOptions

AUTO = "auto"
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A named set of options. Options that it leaves open are chosen; see ``plan``.

    Attributes:
        origin: where the options come from, for the user.
        model, augment, options: fields of ``ModelOptions``, ``AugmentOptions`` and ``TrainOptions``.
    """

    origin: str
    model: Values
    augment: Values
    options: Values

    def model_for(self, given: Values) -> Values:
        """Return the options of the model, with as many of the recipe's anchors as the given pyramid has levels.

        Args:
            given: fields of ``ModelOptions`` that the user gave.

        Examples:
            >>> dict(RECIPES["v2"].model_for({"backbone_levels": 4}))["anchor_sizes"]
            (32.0, 64.0, 128.0, 256.0)
        """
        if "anchor_sizes" not in self.model:
            return self.model
        levels = given.get("backbone_levels") or len(given.get("anchor_sizes") or DEFAULT_SIZES)
        return {**self.model, "anchor_sizes": self.model["anchor_sizes"][:levels], "backbone_levels": levels}


def _defaults(kind: type, *left_out: str) -> dict[str, Any]:
    return {field.name: field.default for field in fields(kind) if field.name not in left_out}


# Fields that belong to a run, and to no recipe.
_LEFT_OUT = (
    *("minutes", "seed", "workers", "eval_every", "patience", "qat", "teacher", "teacher_sha256", "distill_weight"),
    *("min_visible", "mosaic", "copy_paste"),
)

PAPER = Recipe(
    "the RetinaNet paper, arXiv 1708.02002",
    _defaults(ModelOptions),
    _defaults(AugmentOptions, *_LEFT_OUT, "input_size"),
    _defaults(TrainOptions, *_LEFT_OUT),
)
# The weights of the backbone are left open: ImageNet's if they can be downloaded.
V2 = Recipe(
    "torchvision's second RetinaNet, github.com/pytorch/vision, pull request 5444",
    {
        **_defaults(ModelOptions, "backbone_weights"),
        "head_norm": "group",
        "box_loss": "giou",
    },
    # The shorter side of an image is 480 to 800 pixels there.
    {**_defaults(AugmentOptions, *_LEFT_OUT, "input_size"), "scale": (0.6, 1.0), "photometric": "none"},
    {
        **_defaults(TrainOptions, *_LEFT_OUT),
        "epochs": 26,
        "batch": 16,
        "optimizer": "adamw",
        "learning_rate": 1e-4,
        "weight_decay": 0.05,
        "warmup_steps": 1000,
        "clip_norm": 0.0,
    },
)
# What gained most over a few dozen images; see docs/benchmarks.md, Training recipe. Data, device and time decide the
# rest.
SMALL_DATA = Recipe(
    "the steps that gain over few images, in the benchmarks of retina_edge",
    {"head_norm": "group", "box_loss": "giou"},
    {"copy_paste": 0.5},
    {"optimizer": "adamw", "weight_decay": 0.05, "schedule": "cosine"},
)
RECIPES = {"paper": PAPER, "v2": V2, "small-data": SMALL_DATA}
