"""The README and docs say what is true: commands exist, code runs, links lead somewhere.

Python blocks, and commands in blocks marked `sh run`, run in the page's order, in one namespace and
an empty folder. Blocks marked `python long-run` need models or hours: they are compiled, what they
import is imported, and calls of it are held to its signature. Commands in other `sh` blocks are
parsed.
"""

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from limbeck.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("**/*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STEPS = re.compile(r"\bmax_steps=\d+")  # a reader's; three show as well that the command runs
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    """The contents of a page's fenced blocks in a language."""
    text = page.read_text(encoding="utf-8")
    return [content for info, content in FENCE.findall(text) if info == language]


def commands(command: Any, path: tuple[str, ...] = ("limbeck",)) -> Iterator[tuple[str, Any]]:
    """Every command that can be run, with the words that run it."""
    if not hasattr(command, "commands"):
        yield " ".join(path), command
        return
    for name, below in command.commands.items():
        yield from commands(below, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def options(command: Any) -> set[str]:
    """The long options of a command, `--help` left out."""
    return {name for parameter in command.params for name in parameter.opts if name[:2] == "--"}


def section(name: str) -> str:
    """The part of docs/cli.md on a command."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(name)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/cli.md has no section `## {name}`"
    return found[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented_and_has_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help, f"{name} has no help"
    text = section(name)
    for parameter in command.params:
        assert parameter.help, f"{name}: {parameter.name} has no help"
    missing = {option for option in options(command) if not re.search(rf"{option}(?![\w-])", text)}
    assert not missing, f"docs/cli.md, {name}: {sorted(missing)} not documented"


def test_no_command_is_documented_that_is_not_there() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (limbeck .*)$", text, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_is_documented_that_is_not_there(name: str) -> None:
    first_cells = re.findall(r"^\| (`--[^|]*)\|", section(name), re.MULTILINE)
    named = set(re.findall(r"`(--[a-z-]+)`", " ".join(first_cells)))
    assert named <= options(COMMANDS[name])


SHELL = [
    pytest.param(line, id=f"{page.name}: {line}")
    for page in PAGES
    for block in [*blocks(page, "sh"), *blocks(page, "sh run")]
    for line in block.splitlines()
    if line.startswith("limbeck ")
]


@pytest.mark.parametrize("line", SHELL)
def test_command_lines_in_the_docs_can_be_parsed(line: str) -> None:
    words = shlex.split(line, comments=True)
    name = next(name for name in COMMANDS if words[: len(name.split())] == name.split())
    rest = words[len(name.split()) :]
    COMMANDS[name].make_context(name, rest)  # raises for an unknown option or a missing argument


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name
)
def test_code_in_the_docs_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipes: Any = importlib.import_module("limbeck.recipes.registry")
    monkeypatch.setattr(recipes, "_found", dict(recipes._found))  # a page may define one
    namespace: dict[str, Any] = {}
    for number, (language, block) in enumerate(FENCE.findall(page.read_text(encoding="utf-8")), 1):
        if language == "python":
            exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)
        elif language == "sh run":
            for line in block.splitlines():
                words = shlex.split(STEPS.sub("max_steps=3", line))
                done = CliRunner().invoke(app, words[1:])
                assert done.exit_code == 0, f"{line}\n{done.output}"


LONG_RUNS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "python long-run"), 1)
]


@pytest.mark.parametrize("block", LONG_RUNS)
def test_code_that_would_run_long_names_what_exists(block: str) -> None:
    tree = ast.parse(block)
    imported = {
        alias.asname or alias.name: getattr(importlib.import_module(node.module), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            function = imported.get(call.func.id, print)
            named = {keyword.arg: None for keyword in call.keywords if keyword.arg}
            if function is not print:
                inspect.signature(function).bind(*call.args, **named)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in target:
            assert target.startswith("https://"), f"{page.name}: {link}"
            continue
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {link}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in headings}
            assert anchor in anchors, f"{page.name} links to {link}: no such heading"


def test_every_page_is_linked_from_the_readme_or_another_page() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if "://" not in link
    }
    assert {page for page in PAGES if page.name != "README.md"} <= linked
