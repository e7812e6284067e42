"""docs/recipes.md has a section for every recipe; tables and presets are those of the registry.

`python tests/recipes/test_documentation.py` writes the tables anew.
"""

import re
from pathlib import Path

import pytest

from limbeck.recipes import Recipe, registry
from limbeck.settings import describe, written
from limbeck.tasks.retrieval import KIND

PAGE = Path(__file__).parent.parent.parent / "docs" / "recipes.md"


def table(recipe: Recipe) -> str:
    """A recipe's settings as a Markdown table."""
    lines = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for setting in describe(recipe.settings):
        kind = setting.type.replace(" | ", " or ")
        default = setting.default
        if default is None or isinstance(default, tuple | bool):
            default = written(default)
        lines.append(f"| `{setting.name}` | {kind} | {default} | {setting.description} |")
    return "\n".join(lines)


def presets(recipe: Recipe) -> str:
    """A recipe's presets as a Markdown table."""
    lines = ["| preset | sets |", "|---|---|"]
    for preset, values in recipe.presets.items():
        sets = ", ".join(f"`{key}={written(value)}`" for key, value in values.items())
        lines.append(f"| `{recipe.name}:{preset}` | {sets} |")
    return "\n".join(lines)


def with_tables(page: str) -> str:
    """The page with every recipe's tables after their marks."""
    for name, recipe in registry().items():
        for what, made in (("settings", table(recipe)), ("presets", presets(recipe))):
            mark = f"<!-- {what} of {name} -->"
            page = re.sub(
                rf"{re.escape(mark)}\n(\|.*\n)*", lambda _, m=mark, t=made: f"{m}\n{t}\n", page
            )
    return page


def section(name: str) -> str:
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^### {name}$(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"docs/recipes.md has no section `### {name}`"
    return found[1]


@pytest.mark.parametrize("name", registry())
def test_every_recipe_has_a_section(name: str) -> None:
    text = section(name)
    assert "- **When:**" in text
    assert "- **When not:**" in text
    assert re.search(r"^```text\n.*=", text, re.MULTILINE), "no equation"
    for paper in re.findall(r"arXiv:[\d.]+\d", registry()[name].paper):
        assert paper in text
    assert f"<!-- settings of {name} -->" in text
    assert (f"<!-- presets of {name} -->" in text) == bool(registry()[name].presets)


def test_every_section_is_a_recipe() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"^### (.*)$", page, re.MULTILINE)) == set(registry())
    assert f"`--recipe auto`, the default, is [`{KIND.auto}`]" in page


def test_tables_are_those_of_the_registry() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_tables(page), (
        f"run: python {Path(__file__).relative_to(PAGE.parent.parent)}"
    )


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
