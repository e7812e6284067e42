"""One file per method; each reads like its paper's algorithm box."""

from limbeck.recipes.registry import Recipe, RecipeResult, find, find_preset, registry

__all__ = ["Recipe", "RecipeResult", "find", "find_preset", "registry"]
