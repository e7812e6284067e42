"""Which methods are there? Every module of this folder that carries a `@recipe` is one.

The registry knows no method: modules are discovered, and what the command line, the docs and the
contract tests say of a recipe comes from its own record.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Concatenate, Literal, Protocol, TypeVar, cast

from pydantic import create_model

from limbeck.errors import ConfigError
from limbeck.settings import Settings, parse_settings
from limbeck.types import Makes


@dataclass(frozen=True, slots=True)
class RecipeResult:
    """Result of a recipe that fits its own teachers.

    `teacher` is the one that taught last, None where that is the one that was given, `fitted`
    whether this run made it, and `notes` are lines for the report.
    """

    teacher: Any
    fitted: bool
    notes: tuple[str, ...]


class TrainsStudent(Protocol):
    """A recipe that trains a student in place; its teacher is None where it needs none."""

    def __call__(self, task: Any, teacher: Any, student: Any, settings: Any, /) -> None:
        """Train the student."""


class FitsItsTeachers(Protocol):
    """A recipe that trains a student in place, by teachers that it fits, or by a given one too."""

    def __call__(self, task: Any, teacher: Any, student: Any, settings: Any, /) -> RecipeResult:
        """Train the student; the result names its teacher."""


class LearnsRows(Protocol):
    """A recipe that trains a student in place on the rows of whatever task has some."""

    def __call__(self, rows: Any, settings: Any, /) -> Any:
        """Train the student."""


# A recipe that fits a teacher: from an encoder, or from the teachers that it stands on; then its
# settings.
FitsTeacher = Callable[Concatenate[Any, ...], Any]

Function = TrainsStudent | FitsItsTeachers | LearnsRows | FitsTeacher
F = TypeVar("F", bound=Function)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe: its method's name and paper, its settings, its needs, and the function that runs
    it.

    `task` is the one that it is for; None where it learns rows of alternatives, of any task that
    has some. `makes` says whether the function trains a student or fits a teacher. `needs` are any
    of "labels" (judged training queries), "dev" (a dev split), "queries" (training queries, judged
    or not), "teacher", "vectors" (a teacher that has them), "texts" (one that scores texts made on
    the way) and "pairs" (weak ones, without which `--pairs` is refused; where nothing is judged
    they do without a fitted teacher).
    `presets` are settings under a name: an ablation, or the values of the paper.

    `fits` are the kinds of teacher that a student's recipe fits itself, by default and in order.
    Such a recipe also takes a given teacher, of the kinds that it `takes` (none = any kind), or
    None, and says with `RecipeResult` what became of them. One that fits none and does without a
    teacher may take a given one, too, of the kinds that it `takes`; of any kind where its settings
    need one. `withstands`: the recipe is made for
    teachers that are partly wrong, so that one which does not beat the student is not refused.
    `data_free`: it reads no training data, whether there are any or not, and needs a given teacher.
    """

    name: str
    summary: str
    paper: str
    task: str | None
    makes: Makes
    settings: type[Settings]
    needs: frozenset[str]
    function: Function
    presets: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    fits: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    withstands: bool = False
    data_free: bool = False

    def on(self, rows_settings: type[Settings] | None) -> Recipe:
        """The recipe on a task; one over rows also has the settings that rows have there."""
        if self.task is not None or rows_settings is None:
            return self
        return replace(self, settings=_both(rows_settings, self.settings))

    def train(self, task: Any, teacher: Any, student: Any, settings: Any) -> RecipeResult | None:
        """Train a student in place; the result for the report, where the recipe fits its own
        teachers.
        """
        if self.task is None:
            cast(LearnsRows, self.function)(task.rows(student, teacher), settings)
            return None
        function = cast(TrainsStudent | FitsItsTeachers, self.function)
        return function(task, teacher, student, settings)

    def fit(self, task: Any, stands_on: Sequence[Any], settings: Any) -> Any:
        """The teacher that is fitted from an encoder, or from the teachers that it stands on."""
        return cast(FitsTeacher, self.function)(task, *stands_on, settings)


@cache
def _both(first: type[Settings], second: type[Settings]) -> type[Settings]:
    """A class with the fields of both; those of the first where both have one of a name."""
    return create_model(second.__name__, __base__=(first, second))


_found: dict[str, Recipe] = {}


def recipe(
    name: str,
    *,
    summary: str,
    paper: str,
    settings: type[Settings],
    needs: frozenset[str] = frozenset(),
    task: str = "retrieval",
    over: Literal["rows"] | None = None,
    makes: Makes = "student",
    presets: Mapping[str, Mapping[str, object]] | None = None,
    fits: tuple[str, ...] = (),
    takes: tuple[str, ...] = (),
    withstands: bool = False,
    data_free: bool = False,
) -> Callable[[F], F]:
    """Record a function as a recipe: for a task, or `over` the rows of any.

    Raises:
        ConfigError: when a preset sets what the recipe does not have.
    """
    for preset, values in (presets or {}).items():
        parse_settings(settings, values, where=f"preset {name}:{preset}")

    def record(function: F) -> F:
        _found[name] = Recipe(
            name,
            summary,
            paper,
            None if over else task,
            makes,
            settings,
            needs,
            function,
            presets or {},
            fits,
            takes,
            withstands,
            data_free,
        )
        return function

    return record


@cache
def registry() -> dict[str, Recipe]:
    """All recipes by name, in alphabetical order."""
    import limbeck.recipes

    for module in pkgutil.iter_modules(limbeck.recipes.__path__):
        importlib.import_module(f"limbeck.recipes.{module.name}")
    return dict(sorted(_found.items()))


def find(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        ConfigError: with the nearest spelling when there is none.
    """
    known = registry()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"There is no recipe {name!r}; {hint}`limbeck recipes` lists them all.")


def find_preset(name: str) -> tuple[Recipe, Mapping[str, object]]:
    """The recipe in `NAME` or `NAME:PRESET`, and the settings of its preset: none without one.

    Raises:
        ConfigError: with the nearest spelling when there is no such recipe or preset.
    """
    name, colon, preset = name.partition(":")
    found = find(name)
    if not colon:
        return found, {}
    if preset in found.presets:
        return found, found.presets[preset]
    near = difflib.get_close_matches(preset, found.presets, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    known = ", ".join(found.presets) or "none"
    raise ConfigError(f"{name} has no preset {preset!r}{hint} Its presets: {known}.")
