"""The training options that the user gave, and where the others come from: a recipe, or the run that is resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.core.errors import ContractError, ModelFileError, reason_of
from engines.core.option_checks import check_choice
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.system.printable import printable
from retina_edge.training.model_options import ModelOptions
from retina_edge.training.option_names import option_words
from retina_edge.training.plan import Choice
from retina_edge.training.recipes import AUTO, RECIPES
from retina_edge.training.train_options import TrainOptions

if TYPE_CHECKING:
    from retina_edge.training.teacher import Teacher


@dataclass(frozen=True)
class GivenOptions:
    """The options that the user gave, by the names of the fields; all others are chosen.

    Attributes:
        model, augment, options: fields of ``ModelOptions``, ``AugmentOptions`` and ``TrainOptions``.
    """

    model: Mapping[str, Any]
    augment: Mapping[str, Any]
    options: Mapping[str, Any]

    def with_recipe(self, name: str, *, left_open: Collection[str] = ()) -> tuple[GivenOptions, list[Choice]]:
        """Return the options with those of a named recipe for all that were not given, and the recipe's as choices.

        Args:
            name: ``auto``, which has no options, or one of ``RECIPES``.
            left_open: fields that something else decides.

        Raises:
            ContractError: if there is no such recipe.
        """
        if name == AUTO:
            return self, []
        check_choice("recipe", name, (AUTO, *RECIPES))
        recipe, choices, found = RECIPES[name], [], {}
        parts = {"model": recipe.model_for(self.model), "augment": recipe.augment, "options": recipe.options}
        for part, values in parts.items():
            given = getattr(self, part)
            open_fields = {*given, *left_open}
            if given.get("minutes"):  # such a run has no number of epochs or steps
                open_fields |= {"epochs", "epoch_samples", "warmup_steps"}
            if given.get("optimizer", values.get("optimizer")) != values.get("optimizer"):
                open_fields |= {"learning_rate", "weight_decay"}
            added = {field: value for field, value in values.items() if field not in open_fields}
            found[part] = {**added, **given}
            for option, *words in filter(None, map(option_words, added, added.values())):
                choices.append(Choice(option, " ".join(words), f"recipe {name}"))
        return GivenOptions(**found), choices

    def or_else(self, recipe: Mapping[str, Any], file: Path) -> GivenOptions:
        """Return the options with those of another run's recipe for all that were not given.

        Args:
            recipe: the recipe of a checkpoint.
            file: the checkpoint.

        Raises:
            ModelFileError: if the recipe has other options, or one of another type or out of range.
        """
        found: dict[str, Mapping[str, Any]] = {}
        kinds: dict[str, Any] = {"model": ModelOptions, "augment": AugmentOptions, "options": TrainOptions}
        for name, kind in kinds.items():
            values = {key: tuple(value) if isinstance(value, list) else value for key, value in recipe[name].items()}
            try:
                kind(**values)
            except (TypeError, ValueError, ArithmeticError) as error:  # TypeError also for an unknown option
                reason = printable(reason_of(error)).removeprefix(f"{ContractError.__name__} ")
                raise ModelFileError(
                    f"{file}: expected a recipe with the options of a training, got a damaged one: {name}: {reason}; "
                    "use a copy of the file, or start without resuming"
                ) from error
            found[name] = {**values, **getattr(self, name)}
        return GivenOptions(**found)

    def with_teacher(self, teacher: Teacher | None, *, resume: bool) -> GivenOptions:
        """Return the options with the record of the teacher, which a resumed run must be given again.

        Args:
            teacher: the teacher; None for none.
            resume: True if the options are those of a run that is resumed.

        Raises:
            ContractError: if it is not the teacher of the run that is resumed.
        """
        name, digest = self.options.get("teacher"), self.options.get("teacher_sha256")
        if digest and digest != (teacher.sha256 if teacher else None):
            got = f"{teacher.name} with {teacher.sha256[:12]}..." if teacher else "none"
            raise ContractError(
                f"teacher: expected that of the run, {printable(str(name))} with SHA-256 {printable(digest)[:12]}..., "
                f"got {got}; give the same file with --teacher"
            )
        if teacher is None:
            return self
        if resume and not digest:
            raise ContractError(
                f"teacher: expected none, because the run that is resumed has none, got {teacher.name}; leave "
                "--teacher out, or distill in a new run"
            )
        record = {"teacher": name or teacher.name, "teacher_sha256": teacher.sha256}
        return dataclasses.replace(self, options={**self.options, **record})
