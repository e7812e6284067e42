"""One file per method; each reads like its paper's algorithm box."""

from limbeck.recipes.registry import AUTO, Recipe, Told, find, find_preset, registry

__all__ = ["AUTO", "Recipe", "Told", "find", "find_preset", "registry"]
