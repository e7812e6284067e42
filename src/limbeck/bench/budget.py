"""What may each recipe spend, and is it the same for all?

The budget is what their task says that a fair comparison has alike, such as the number of steps
and what each of them looks at. Where nothing is said, every recipe takes the first baseline's; what
is said and unequal is refused. Equal steps are not equal work: an arm's costs are counted beside.

A **system** here is a recipe as it is named in a comparison: `NAME` or `NAME:PRESET`. This module
knows no run.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.errors import ConfigError
from limbeck.recipes import Recipe, find, find_preset, registry
from limbeck.settings import parse_settings, renamed
from limbeck.tasks.task import TaskKind, kind_named, kind_of_recipe

MAX_STEPS = 300  # where nothing is said: what recipes choose for themselves depends on their data

Given = Mapping[str, object]  # settings as `--set` names them: KEY, RECIPE.KEY, RECIPE:PRESET.KEY


def kind_of(systems: Sequence[str], data: object) -> TaskKind:
    """The task that all systems are for; that of the data where they are for any.

    Raises:
        ConfigError: when they are not for one task.
    """
    found = {name: find_preset(name)[0].task for name in systems}
    tasks = {task: name for name, task in found.items() if task is not None}
    if len(tasks) > 1:
        told = " and ".join(f"{name} is for {task}" for task, name in tasks.items())
        raise ConfigError(f"--recipes: {told}. Compare recipes of one task.")
    if tasks:
        kind = kind_named(next(iter(tasks)))
    else:
        kind = kind_of_recipe(find_preset(systems[0])[0].name, None, data)
    for name, task in found.items():
        if task is None:
            kind.check_rows(find_preset(name)[0].name, "--recipes")
    return kind


def systems_of(recipes: Sequence[str], data: object) -> list[str]:
    """The baselines that are not named, then everything that is, once each.

    Raises:
        ConfigError: for a name that is no student's recipe, or a preset that it does not have.
    """
    named = [name.strip() for name in recipes if name.strip()]
    if not named:
        raise ConfigError("--recipes names none. Write them as --recipes kl,margin_mse.")
    for name in named:
        if find_preset(name)[0].makes != "student":
            raise ConfigError(
                f"--recipes: {name} fits a teacher. Name recipes that train a student; "
                "`limbeck recipes` lists them."
            )
    baselines = kind_of(named, data).baselines
    return list(dict.fromkeys([*(name for name in baselines if name not in named), *named]))


def equal_settings(
    kind: TaskKind, systems: Sequence[str], given: Given, max_steps: int = MAX_STEPS
) -> dict[str, dict[str, object]]:
    """Settings of each system besides its preset: those given, and the budget.

    Raises:
        ConfigError: for a key that nothing compared here has, a value that does not fit, or a
            budget that is not the same for all.
    """
    _check_keys(kind, systems, given)
    found: dict[str, dict[str, object]] = {}
    for name in systems:
        own = given_to(kind, name, given)
        has_steps = "max_steps" in _found(kind, name)[0].settings.model_fields
        found[name] = {**({"max_steps": str(max_steps)} if has_steps else {}), **own}
    first = kind.baselines[0]
    equal = _parsed(kind, first, found[first])
    for name, own in found.items():
        recipe, preset = _found(kind, name)
        parsed = _parsed(kind, name, own)
        for key in kind.budget:
            said = key in own or key in preset
            if hasattr(parsed, key) and not said and getattr(parsed, key) != getattr(equal, key):
                own[key] = str(getattr(equal, key))
        for key, value in kind.equal(equal, recipe.settings).items():
            own.setdefault(key, str(value))
    refuse_unequal(kind, found)
    return found


def budget_of(kind: TaskKind, settings: Mapping[str, Given]) -> dict[str, int]:
    """The budget that all systems have."""
    parsed = _parsed(kind, kind.baselines[0], settings[kind.baselines[0]])
    return {key: getattr(parsed, key) for key in kind.budget}


def refuse_unequal(kind: TaskKind, settings: Mapping[str, Given]) -> None:
    """Refuse systems with different budgets; one without a key has no say in it.

    Raises:
        ConfigError: naming the first key that differs, and everyone's value.
    """
    parsed = {name: _parsed(kind, name, own) for name, own in settings.items()}
    for key in kind.budget:
        values = {name: getattr(own, key) for name, own in parsed.items() if hasattr(own, key)}
        if len(set(values.values())) > 1:
            told = ", ".join(f"{name} {value}" for name, value in values.items())
            raise ConfigError(
                f"{key} must be the same for all recipes, not {told}. "
                f"Set it for all of them with --set {key}=..."
            )


def given_to(kind: TaskKind, name: str, given: Given) -> dict[str, object]:
    """Settings given to one system: `KEY` where it has the key, overridden by `RECIPE.KEY`, and
    that by `RECIPE:PRESET.KEY`.
    """
    recipe, _ = _found(kind, name)
    found = {key: value for key, value in given.items() if key in recipe.settings.model_fields}
    for addressed in dict.fromkeys((recipe.name, name)):
        for key, value in given.items():
            to, dot, rest = key.rpartition(".")
            if dot and to == addressed:
                found[rest] = value
    return found


def given_to_teachers(given: Given) -> dict[str, object]:
    """Settings given to the recipes that fit a teacher, named as `distill` takes them."""
    teachers = {name for name, recipe in registry().items() if recipe.makes == "teacher"}
    return {key: value for key, value in given.items() if key.rpartition(".")[0] in teachers}


def _found(kind: TaskKind, name: str) -> tuple[Recipe, Given]:
    """A system's recipe, as it is on the task, and the settings of its preset."""
    recipe, preset = find_preset(name)
    return recipe.on(kind.rows_settings), preset


def _parsed(kind: TaskKind, name: str, own: Given) -> Any:
    """A system's settings, its preset's included."""
    recipe, preset = _found(kind, name)
    return parse_settings(recipe.settings, {**preset, **own}, where=f"--set, for {name}")


def _check_keys(kind: TaskKind, systems: Sequence[str], given: Given) -> None:
    """Refuse a setting that nothing compared here would look at."""
    recipes = {name: _found(kind, name)[0] for name in systems}
    known = {key for recipe in recipes.values() for key in recipe.settings.model_fields}
    compared = {*recipes, *(recipe.name for recipe in recipes.values())}
    for key, value in given.items():
        to, dot, rest = key.rpartition(".")
        if not dot and key not in known:
            if told := renamed(key, known):
                raise ConfigError(f"--set: {told}.")
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ConfigError(
                f"--set {key}: none of {', '.join(systems)} has such a setting{hint} "
                "`limbeck recipes NAME` lists a recipe's."
            )
        if not dot or to in compared:
            continue
        recipe, _ = find_preset(to)
        if recipe.makes != "teacher":
            raise ConfigError(f"--set {key}: {to} is not compared here. Add it to --recipes.")
        parse_settings(find(to).settings, {rest: value}, where=f"--set {to}.")
