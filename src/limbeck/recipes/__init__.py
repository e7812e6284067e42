"""One file per method; each reads like its paper's algorithm box."""

from limbeck.recipes.registry import AUTO, Recipe, RecipeResult, find, find_preset, registry

__all__ = ["AUTO", "Recipe", "RecipeResult", "find", "find_preset", "registry"]
