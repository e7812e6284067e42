"""Can a run do what was asked of it?

`validate` refuses before any expensive work all that can be refused: names and settings here, data
and models by the task that the recipe is for. This module computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from limbeck.config import RunConfig, flag_of, takes_fields_of
from limbeck.data.check import Report
from limbeck.data.dataset import Dataset
from limbeck.errors import ConfigError
from limbeck.recipes import Recipe, find, find_preset
from limbeck.settings import parse_settings
from limbeck.tasks.task import Method, Opened, TaskKind, kind_of_recipe, kind_reading, kinds


@dataclass(frozen=True, slots=True)
class Request:
    """A config with the data and models that it names, validated as far as possible without
    computing.
    """

    config: RunConfig
    kind: TaskKind
    recipe: Recipe
    preset: Mapping[str, object]  # what `NAME:PRESET` sets
    settings: Mapping[str, object]  # the preset's, overruled by those that were given
    opened: Opened
    said: tuple[str, ...]  # of the recipe
    needs: frozenset[str]  # of the recipe and its settings

    @property
    def taught(self) -> bool:
        """Whether a teacher is examined and measured before the student learns from it; a recipe
        that finds its own, or takes one besides, does that itself.
        """
        finds = self.recipe.fits or self.recipe.takes
        return "teacher" in (self.recipe.needs if finds else self.needs)

    def notes(self, data: Dataset) -> list[str]:
        """Notes on the decisions so far, where the run works on `data`."""
        return [*data.notes, *self.said, *self.opened.notes, *_missing_splits(data)]


def validate(config: RunConfig) -> Request:
    """Validate a config before any expensive work, and load the data and models that it names.

    Raises:
        ConfigError, DataError, ModelError: for what cannot be used.
    """
    said: list[str] = []
    name = config.recipe
    if name == "auto":
        name = kind_reading(config.data).auto
        said.append(f"recipe: auto is {name}")
    recipe, preset = find_preset(name)
    name, settings = recipe.name, {**preset, **config.settings_given}
    if preset:
        told = ", ".join(f"{key}={value}" for key, value in preset.items())
        said.append(f"recipe: {config.recipe} sets {told}, where --set says nothing else")
    if recipe.makes != "student":
        raise ConfigError(f"{name} fits a teacher. Use it through --teacher train, with a recipe.")
    if not isinstance(config.settings, Mapping | recipe.settings):
        raise ConfigError(
            f"settings are {type(config.settings).__name__}, and {name} takes "
            f"{recipe.settings.__name__}. Give those, or a mapping of names to values."
        )
    kind = kind_of_recipe(name, recipe.task, config.data)
    recipe = recipe.on(kind.rows_settings)
    own, of_teachers = split_settings(settings)
    needs = recipe.needs | parse_settings(recipe.settings, own).needs
    alone = kind.baselines[0]
    for fitted, values in of_teachers.items():
        if find(fitted).makes != "teacher" and fitted != alone:
            raise ConfigError(
                f"--set {fitted}.{next(iter(values))}: only recipes that fit a teacher, and "
                f"{alone}, which trains the student without one, are named here. Write --recipe "
                f"{fitted} and --set {next(iter(values))}=..."
            )
        parse_settings(find(fitted).settings, values, where=f"--set {fitted}.")
    _check_data(config, recipe, kind)
    check_options(config, kind)
    for spec in config.teachers:
        spec.check_kind(kind.fits)
    method = Method(
        name, needs, recipe.fits, recipe.takes, recipe.data_free, rows=recipe.task is None
    )
    opened = kind.open(config, method)
    return Request(config, kind, recipe, preset, settings, opened, tuple(said), needs)


@takes_fields_of(RunConfig)
def check_data(config: RunConfig) -> Report:
    """Check DATA with the task that reads it, as `limbeck data check` prints it.

    Raises:
        ConfigError: when DATA is nothing that can be read, or an option is another task's.
    """
    kind = kind_reading(config.data)
    check_options(config, kind)
    return kind.check(config)


def _check_data(config: RunConfig, recipe: Recipe, kind: TaskKind) -> None:
    """Refuse data of another task than the recipe's; data that no task knows are refused by the
    task itself.

    Raises:
        ConfigError: naming both tasks.
    """
    if kind.holds(config.data):
        return
    for other in kinds().values():
        if other.holds(config.data):
            wanted = "; or ".join(layout.words for layout in kind.layouts)
            raise ConfigError(
                f"--recipe {recipe.name} is for {kind.name}, and {config.data} holds data of "
                f"{other.name}. Use --recipe {other.auto}, or give {wanted}."
            )


def check_options(config: RunConfig, kind: TaskKind) -> None:
    """Refuse options that the task would not look at.

    Raises:
        ConfigError: naming the first.
    """
    known = frozenset[str]().union(*(each.options for each in kinds().values()))
    for each in fields(RunConfig):
        if each.name in known - kind.options and getattr(config, each.name) != each.default:
            raise ConfigError(f"{flag_of(each.name)} says nothing about {kind.name}. Leave it out.")


def _missing_splits(data: Dataset) -> list[str]:
    """Notes on missing splits and their consequences."""
    found = []
    if "dev" not in data.splits:
        found.append(
            "dev: none, so the last weights are kept and the teacher is not compared on dev"
        )
    if "test" not in data.splits:
        found.append(
            "test: none, so the table is measured on dev, which also chose the weights"
            if "dev" in data.splits
            else "test: none, and no dev either: nothing is measured"
        )
    return found


def split_settings(
    settings: Mapping[str, object],
) -> tuple[dict[str, object], dict[str, dict[str, object]]]:
    """The recipe's own settings, and those of the recipes that fit a teacher or train the student
    without one, by their names.
    """
    own: dict[str, object] = {}
    fitted: dict[str, dict[str, object]] = {}
    for key, value in settings.items():
        name, dot, rest = key.partition(".")
        if dot:
            fitted.setdefault(name, {})[rest] = value
        else:
            own[key] = value
    return own, fitted
