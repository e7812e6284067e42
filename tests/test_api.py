"""docs/api.md lists the names that users may import, with what their docstrings say first.

`python tests/test_api.py` writes the lists anew.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pdoc
import pytest

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
MARK = re.compile(r"<!-- names of ([\w.]+) -->\n(?:\|.*\n)*")


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What a module offers: its `__all__`, or the functions and classes that it defines."""
    for name in getattr(module, "__all__", sorted(vars(module))):
        value = getattr(module, name)
        here = getattr(value, "__module__", None) == module.__name__
        if hasattr(module, "__all__") or (
            here and name[0] != "_" and (inspect.isfunction(value) or inspect.isclass(value))
        ):
            yield name, value


def listed(module: ModuleType) -> str:
    """A module's names as a Markdown table; values that have no docstring are left out."""
    lines = [f"| `{module.__name__}` | |", "|---|---|"]
    for name, value in public(module):
        if inspect.isfunction(value) or inspect.isclass(value):
            first, _, _ = (value.__doc__ or "").strip().partition("\n\n")
            words = " ".join(first.split()).replace("|", r"\|")
            lines.append(f"| `{name}` | {words} |")
    return "\n".join(lines)


def with_lists(page: str) -> str:
    """The page with every module's names after its mark."""

    def written(found: re.Match[str]) -> str:
        module = importlib.import_module(found[1])
        return f"<!-- names of {found[1]} -->\n{listed(module)}\n"

    return MARK.sub(written, page)


def test_the_page_lists_what_the_modules_offer() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_lists(page), "run: python tests/test_api.py"


@pytest.mark.parametrize("name", MARK.findall(PAGE.read_text(encoding="utf-8")))
def test_every_listed_name_says_what_it_is(name: str) -> None:
    for given, value in public(importlib.import_module(name)):
        if inspect.isfunction(value) or inspect.isclass(value):
            assert value.__doc__, f"{name}.{given}"
            assert not value.__doc__.startswith(f"{given}("), f"{name}.{given}: made by dataclass"


def test_the_reference_can_be_written(tmp_path: Path) -> None:
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc("limbeck.pipeline", output_directory=tmp_path)
    assert "distill" in (tmp_path / "limbeck" / "pipeline.html").read_text(encoding="utf-8")


if __name__ == "__main__":
    PAGE.write_text(with_lists(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
