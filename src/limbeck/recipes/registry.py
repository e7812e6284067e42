"""Which methods are there? Every module of this folder that carries a `@recipe` is one.

The registry knows no method: modules are discovered, and what the command line, the docs and the
contract tests say of a recipe comes from its own record.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from limbeck.errors import ConfigError
from limbeck.settings import Settings

Makes = Literal["student", "teacher"]
AUTO = "kl"  # what `--recipe auto` stands for


@dataclass(frozen=True, slots=True)
class Recipe:
    """A method: its name and paper, what can be set, what it needs, and the function that is it.

    `makes` says whether it is called as `function(task, teacher, student, settings)` and trains a
    student, or as `function(task, encoder, settings)` and fits a teacher. `needs` are any of
    "labels" (judged training queries), "teacher" and "vectors" (a teacher that has them).
    """

    name: str
    summary: str
    paper: str
    task: str
    makes: Makes
    settings: type[Settings]
    needs: frozenset[str]
    function: Callable[..., Any]
    presets: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


_found: dict[str, Recipe] = {}


def recipe(
    name: str,
    *,
    summary: str,
    paper: str,
    settings: type[Settings],
    needs: frozenset[str] = frozenset(),
    task: str = "retrieval",
    makes: Makes = "student",
    presets: Mapping[str, Mapping[str, object]] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Record a function as a recipe."""

    def record(function: Callable[..., Any]) -> Callable[..., Any]:
        _found[name] = Recipe(
            name, summary, paper, task, makes, settings, needs, function, presets or {}
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
