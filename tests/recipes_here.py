"""Every recipe by name, those of retrieval, and settings with which a run of it takes a moment.

A recipe that the usual ones do not suit says so beside its own tests. The shared ones find these in
`tests/recipes/test_NAME.py`, if it is there and has them:

`FAST`: settings of a run of a moment, beside the usual ones.
`ALL_COUNT`: settings with which each setting changes what a stage does, where `FAST` is too small.
`OTHERWISE`: another value of a setting, where any other value would change nothing.
`ELSEWHERE`: settings that are seen to count by a test of its own.
`KILLS`: writes that a run is killed at besides the usual ones, where it makes them while it trains.
"""

import importlib
from pathlib import Path
from typing import Any

from limbeck.recipes import Recipe, registry
from limbeck.settings import Settings, parse_settings

ALL = registry()
# those that learn from passages and queries; others have tests beside their task's
RECIPES = {name: recipe for name, recipe in ALL.items() if recipe.task == "retrieval"}


def has_stages(recipe: Recipe) -> bool:
    """Whether it trains more than once, be it a teacher or the student beforehand."""
    more = {"warmup_share", "pretrain_share"} & set(recipe.settings.model_fields)
    return bool(recipe.fits or more)


# of several stages without a teacher given, and those of them that fit their own
STAGED = [
    name
    for name, recipe in RECIPES.items()
    if has_stages(recipe) and "teacher" not in recipe.needs | recipe.settings().needs
]
FITTING = [name for name, recipe in RECIPES.items() if recipe.fits]

USUAL: dict[str, object] = {
    "max_steps": 2,
    "batch_size": 5,
    "texts_per_step": 12,
    "list_length": 3,
    "candidates_per_query": 6,
    "learning_rate": 1e-3,
}
# of many stages: enough for two steps in some of them
USUAL_STAGED: dict[str, object] = {"max_steps": 12, "teacher_max_steps": 3, "ranker_batch_size": 4}


def beside(name: str, what: str, otherwise: Any) -> Any:
    """What the tests of a recipe alone say of it, under one of these names."""
    if not (Path(__file__).parent / "recipes" / f"test_{name}.py").exists():
        return otherwise
    return getattr(importlib.import_module(f"recipes.test_{name}"), what, otherwise)


def fast(recipe: Recipe, **changes: object) -> dict[str, object]:
    """Settings for a run of a moment; of `changes`, those that the recipe has."""
    usual = {**USUAL, **(USUAL_STAGED if recipe.name in STAGED else {})}
    given = {**usual, **beside(recipe.name, "FAST", {}), **changes}
    return {key: value for key, value in given.items() if key in recipe.settings.model_fields}


def fast_settings(recipe: Recipe, **changes: object) -> Settings:
    """The same, checked."""
    return parse_settings(recipe.settings, fast(recipe, **changes))


def settings_to_test() -> dict[str, list[str]]:
    """The settings of every recipe that trains: its own, and what it inherits where it is the first
    to do so, so that those of a base class are tested once. Recipes of one stage come first.
    """
    trained = [name for name, recipe in RECIPES.items() if "max_steps" in fast(recipe)]
    seen: set[tuple[type, str]] = set()
    found: dict[str, list[str]] = {}
    for name in sorted(trained, key=lambda name: (name in STAGED, name)):
        cls = RECIPES[name].settings
        for setting in cls.model_fields:
            if setting in beside(name, "ELSEWHERE", ()):
                continue
            declared = next(c for c in cls.__mro__ if setting in vars(c).get("__annotations__", {}))
            if (declared, setting) not in seen:
                seen.add((declared, setting))
                found.setdefault(name, []).append(setting)
    return found
