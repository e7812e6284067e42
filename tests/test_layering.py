"""Imports point down: a module imports from lower rows, or from its own folder, never from above.

The rows are read from the diagram in docs/architecture.md. Imports inside functions count too.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
DIAGRAM = SOURCE.parent / "docs" / "architecture.md"
_ROW_LINES = DIAGRAM.read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
ROWS = [re.split(r"\s{2,}", line)[0].split() for line in _ROW_LINES.splitlines()]
ROW = {part: number for number, row in enumerate(ROWS) for part in row}
MAY_IMPORT_RECIPES = {"recipes", "pipeline", "bench", "cli"}
NEVER = {
    ("serving", "training"),
    ("indexing", "training"),
    ("report", "training"),
    ("report", "tasks"),
}


def module_of(file: Path, source: Path = SOURCE) -> str:
    """The dotted name of a file: limbeck/data/beir.py is limbeck.data.beir."""
    name = ".".join(file.relative_to(source).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(file: Path, source: Path = SOURCE) -> Iterator[tuple[str, int]]:
    """Every module of limbeck that a file imports anywhere, with the line."""
    module = module_of(file, source)
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            parent = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            # the name counts as a module too: `from limbeck import store` imports one
            names = [f"{parent}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((name, node.lineno) for name in names if name.split(".")[0] == "limbeck")


def part(module: str) -> str | None:
    """The row entry that a module belongs to; None for the bare package."""
    return module.split(".")[1] if "." in module else None


def complaint(file: Path, imported: str, source: Path) -> str | None:
    """What is wrong with one arrow, if anything is."""
    here, there = part(module_of(file, source)), part(imported)
    if here is None or there is None:
        return None
    for name in (here, there):
        if name not in ROW:
            return f"{name} is in no row"
    if here == there == "recipes":
        third = imported.split(".")[2:3]
        shared = not third or third == ["registry"] or file.name == "__init__.py"
        is_recipe = not shared and (source / "limbeck" / "recipes" / f"{third[0]}.py").exists()
        return "a recipe never imports another recipe" if is_recipe else None
    if here == there or ROW[here] == ROW[there] == ROW["errors"]:
        return None
    if ROW[there] <= ROW[here]:
        return "the arrow points up"
    if there == "recipes" and here not in MAY_IMPORT_RECIPES:
        return "recipes are imported by their registry, pipeline, bench and cli alone"
    if (here, there) in NEVER:
        return f"{here} does without {there}"
    return None


def complaints(source: Path = SOURCE) -> list[str]:
    """Every arrow that may not be, naming both files."""
    return [
        f"{file.relative_to(source)}:{line} imports {imported}: {found}"
        for file in sorted((source / "limbeck").rglob("*.py"))
        for imported, line in imports(file, source)
        if (found := complaint(file, imported, source))
    ]


def test_the_diagram_is_read_whole() -> None:
    assert ROWS[0] == ["cli"]
    assert ROWS[-1] == ["types", "errors"]
    assert len(ROW) == sum(map(len, ROWS))  # no part is in two rows


def test_imports_point_down() -> None:
    assert complaints() == []


def test_every_module_has_its_row() -> None:
    entries = {path.stem for path in (SOURCE / "limbeck").iterdir() if path.suffix in {".py", ""}}
    assert entries - {"__init__", "__pycache__", "py"} <= set(ROW)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("store.py", "def f():\n    from limbeck.cli import main", "limbeck/store.py:2"),
        ("data/beir.py", "from limbeck import models", "points up"),
        ("data/beir.py", "import limbeck.inference as i", "points up"),
        ("data/beir.py", "from ..models.loading import kind_of", "points up"),
        ("training/loop.py", "from limbeck.evaluation.measures import m", "points up"),
        ("serving/server.py", "from limbeck.training.run import train", "without training"),
        ("report/run.py", "from limbeck.tasks.retrieval import Retrieval", "without tasks"),
        ("tasks/retrieval/lists.py", "from limbeck.recipes import registry", "points up"),
        ("report/page.py", "from limbeck.recipes import registry", "registry, pipeline"),
        ("recipes/kl.py", "from limbeck.recipes.embed import f", "another recipe"),
        ("helpers.py", "from limbeck.types import Scores", "in no row"),
    ],
)
def test_an_arrow_that_may_not_be_is_found(
    tmp_path: Path, file: str, line: str, message: str
) -> None:
    for name in ("recipes/embed.py", file):
        (tmp_path / "limbeck" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "limbeck" / name).write_text("")
    (tmp_path / "limbeck" / file).write_text(line)
    [found] = complaints(tmp_path)
    assert message in found


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("cli/distill.py", "from limbeck import pipeline"),
        ("data/beir.py", "from limbeck.data.collection import Texts"),
        ("data/beir.py", "from .collection import Texts"),
        ("recipes/kl.py", "from limbeck.recipes.registry import recipe"),
        ("types.py", "from limbeck.errors import DataError"),
        ("data/beir.py", "import json, torch"),
    ],
)
def test_an_arrow_that_points_down_is_let_be(tmp_path: Path, file: str, line: str) -> None:
    (tmp_path / "limbeck" / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "limbeck" / file).write_text(line)
    assert complaints(tmp_path) == []


@pytest.mark.slow
def test_a_server_needs_no_trainer_not_even_indirectly() -> None:
    code = "import sys, limbeck.serving.app, limbeck.serving.server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "limbeck.indexing" in loaded
    assert not [name for name in loaded if name.startswith(("limbeck.training", "limbeck.recipes"))]
