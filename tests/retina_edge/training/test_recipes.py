"""Recipes: every option is one that the command line takes, and a given one wins."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection import retinanet_resnet50_fpn_v2

from engines.core.errors import ContractError
from retina_edge.api.given_options import GivenOptions
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.model.retinanet import RetinaNet
from retina_edge.train import build_parser
from retina_edge.training.model_options import ModelOptions
from retina_edge.training.option_names import AUGMENT_FIELDS, MODEL_FIELDS, RUN_FIELDS, option_words
from retina_edge.training.recipes import AUTO, RECIPES
from retina_edge.training.train_options import TrainOptions

NOTHING = GivenOptions({}, {}, {})


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_as_words_of_the_command_line_gives_its_options(name: str) -> None:
    given, choices = NOTHING.with_recipe(name)
    words = [word for choice in choices for word in [choice.option, *choice.value.split()]]
    args = build_parser().parse_args(["data", "-o", "model.pt", *words])
    for part, names in (("model", MODEL_FIELDS), ("augment", AUGMENT_FIELDS), ("options", RUN_FIELDS)):
        for argument, field in names.items():
            expected = getattr(given, part).get(field)
            got = getattr(args, argument)
            if option_words(field, expected):
                assert (tuple(got) if isinstance(got, list) else got) == expected, field
            else:
                assert got is None, field
    assert {choice.reason for choice in choices} == {f"recipe {name}"}


@pytest.mark.parametrize("name", RECIPES)
def test_given_options_win(name: str) -> None:
    given = GivenOptions({"backbone": "resnet18", "backbone_levels": 4}, {"scale": (0.5, 2.0)}, {"batch": 3})
    complete, choices = given.with_recipe(name)
    assert complete.model["backbone"] == "resnet18"
    assert len(complete.model.get("anchor_sizes", (0,) * 4)) == 4
    assert (complete.augment["scale"], complete.options["batch"]) == ((0.5, 2.0), 3)
    assert not {"--backbone", "--backbone-levels", "--scale", "--batch"} & {choice.option for choice in choices}
    complete, _ = complete.with_recipe("paper")  # for what the recipe leaves open
    ModelOptions(**complete.model), AugmentOptions(**complete.augment), TrainOptions(**complete.options)


def test_small_data_adds_to_what_is_chosen() -> None:
    complete, choices = NOTHING.with_recipe("small-data")
    assert {choice.option for choice in choices} == {
        *("--head-norm", "--box-loss", "--copy-paste", "--optimizer", "--weight-decay", "--schedule"),
    }
    assert complete.augment == {"copy_paste": 0.5}


def test_a_time_replaces_the_epochs_and_the_warm_up_of_a_recipe() -> None:
    timed, _ = GivenOptions({}, {}, {"minutes": 5}).with_recipe("v2")
    assert not {"epochs", "epoch_samples", "warmup_steps"} & timed.options.keys()
    assert NOTHING.with_recipe("v2")[0].options["epochs"] == 26


def test_another_optimizer_gets_a_rate_of_its_own() -> None:
    changed, _ = GivenOptions({}, {}, {"optimizer": "sgd"}).with_recipe("v2")
    assert not {"learning_rate", "weight_decay"} & changed.options.keys()
    same, _ = GivenOptions({}, {}, {"optimizer": "adamw"}).with_recipe("v2")
    assert same.options["learning_rate"] == 1e-4


def test_what_something_else_decides_stays_open() -> None:
    left_open, choices = NOTHING.with_recipe("v2", left_open=("learning_rate", "anchor_sizes"))
    assert "learning_rate" not in left_open.options
    assert "anchor_sizes" not in left_open.model
    assert not {"--lr", "--anchors", "--seed", "--distill-weight"} & {choice.option for choice in choices}


def test_auto_leaves_all_options_open_and_other_names_are_refused() -> None:
    assert NOTHING.with_recipe(AUTO) == (NOTHING, [])
    with pytest.raises(ContractError, match="recipe: expected one of auto, paper, v2, small-data"):
        NOTHING.with_recipe("v3")


def test_v2_has_torchvisions_heads_and_loss() -> None:
    theirs = retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=2)
    complete, _ = NOTHING.with_recipe("v2")
    with torch.device("meta"):
        ours = RetinaNet(ModelOptions(**complete.model).config(num_classes=2))
    shapes = [{name: value.shape for name, value in model.head.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert ours.config.box_loss == theirs.head.regression_head._loss_type
    assert ours.anchor_generator.sizes == theirs.anchor_generator.sizes


def test_the_paper_is_the_defaults() -> None:
    complete, _ = NOTHING.with_recipe("paper")
    assert ModelOptions(**complete.model) == ModelOptions()
    assert TrainOptions(**complete.options) == TrainOptions()
    assert AugmentOptions(**complete.augment) == AugmentOptions()
