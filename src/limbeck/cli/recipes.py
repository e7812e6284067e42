"""`limbeck recipes`: which methods are there, and what can be set?

Reads the registry; recipes and their settings describe themselves.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli import options
from limbeck.cli.output import print_json

if TYPE_CHECKING:  # the registry imports every recipe, and with them torch
    from limbeck.recipes import Recipe
    from limbeck.settings import Settings


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A recipe, to see its settings.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the methods, or print one with its settings, their defaults and presets."""
    from limbeck.recipes import find, registry

    chosen = [find(name)] if name else list(registry().values())
    if as_json:
        print_json([_as_dict(recipe) for recipe in chosen])
    elif name:
        typer.echo(_page(chosen[0]))
    else:
        typer.echo(_listing(chosen))


def _as_dict(recipe: "Recipe") -> dict[str, Any]:
    """The stable JSON form of a recipe."""
    from limbeck.settings import describe

    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "paper": recipe.paper,
        "task": recipe.task,  # null: any with rows of alternatives
        "makes": recipe.makes,
        "needs": sorted(recipe.needs),
        "settings": [asdict(setting) for setting in describe(recipe.settings)],
        "presets": {preset: dict(values) for preset, values in recipe.presets.items()},
    }


def _listing(known: "list[Recipe]") -> str:
    """A line per recipe: those that train a student first, then those that fit a teacher."""
    width = max(len(recipe.name) for recipe in known)
    return "\n".join(
        f"{recipe.name:<{width}}  {recipe.makes}  {recipe.summary}"
        for recipe in sorted(known, key=lambda recipe: (recipe.makes, recipe.name))
    )


def _page(recipe: "Recipe") -> str:
    """A recipe for people: what it is, then a line for every setting and preset."""
    from limbeck.settings import written
    from limbeck.tasks.task import kinds

    lines = [
        f"{recipe.name}: {recipe.summary}",
        f"Paper: {recipe.paper}",
        f"For: {recipe.task or 'any task with rows of alternatives: classes, candidate lists'}",
        f"Makes: a {recipe.makes}",
        f"Needs: {', '.join(sorted(recipe.needs)) or 'queries and passages only'}",
        "",
        "Settings (--set):",
    ]
    lines += _settings(recipe.settings)
    for kind in kinds().values():
        if recipe.task is None and kind.rows_settings is not None:
            lines += [f"On data of {kind.name} also, or instead:"]
            lines += _settings(kind.rows_settings)
    for preset, values in recipe.presets.items():
        given = " ".join(f"{key}={written(value)}" for key, value in values.items())
        lines.append(f"Preset {recipe.name}:{preset}: {given}")
    return "\n".join(lines)


def _settings(cls: "type[Settings]") -> list[str]:
    """A line for every setting."""
    from limbeck.settings import describe, written

    return [
        f"  {setting.name} = {written(setting.default)}  ({setting.type}) {setting.description}"
        for setting in describe(cls)
    ]
