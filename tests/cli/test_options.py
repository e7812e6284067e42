"""A field of `RunConfig` is an option, and an option of `distill` and `plan` is a field."""

from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import typer.main

from limbeck.cli import app
from limbeck.config import RunConfig, flag_of
from limbeck.config.teacher_spec import parse_specs

from .conftest import FakePipeline, Invoke

FIELDS = {each.name: each for each in fields(RunConfig) if each.name != "data"}
WRITTEN = {"settings": "max_steps=5", "budget_seconds": "90s", "teacher_weights": "0.7,0.3"}
OF_A_CALL = {
    "distill": {"--out", "--settings", "--force", "--dry-run", "--json", "--help"},
    "plan": {"--out", "--settings", "--json", "--help"},
}


@pytest.mark.parametrize("name", OF_A_CALL)
def test_options_are_fields(name: str) -> None:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    flags = {flag for each in command.params for flag in each.opts if flag.startswith("--")}
    assert flags - OF_A_CALL[name] == {flag_of(field) for field in FIELDS}


@pytest.mark.parametrize("command", [["distill", "docs", "--out", "run"], ["plan", "docs"]])
@pytest.mark.parametrize("name", FIELDS)
def test_every_field_arrives(
    invoke: Invoke, pipeline: FakePipeline, name: str, command: list[str]
) -> None:
    """Each with a value that is not its default; what arrives is what the field may be."""
    field, flag = FIELDS[name], flag_of(name)
    kinds = [kind for kind in get_args(field.type) if kind is not type(None)] or [field.type]
    if field.type is bool:
        words = [flag]
    elif get_origin(kinds[0]) is Literal or get_origin(field.type) is Literal:
        literal = field.type if get_origin(field.type) is Literal else kinds[0]
        words = [flag, get_args(literal)[-1]]
    else:
        words = [flag, WRITTEN.get(name, "7" if kinds[0] is int else "text")]
    result = invoke(*command, *words)
    given = pipeline.arguments[name]
    assert given != (field.default if name != "settings" else {}), result.output
    arguments = {key: pipeline.arguments[key] for key in FIELDS}
    config = RunConfig("docs", **{**arguments, "teacher": ["a", "b"], name: given})
    assert getattr(config, name) == (parse_specs(given) if name == "teacher" else given)


def test_values_of_several_flags_and_texts(invoke: Invoke, pipeline: FakePipeline) -> None:
    invoke("plan", "docs", "--candidates", "a.trec", "--candidates", "b.trec", "--budget", "1.5h")
    assert pipeline.arguments["candidates"] == [Path("a.trec"), Path("b.trec")]
    assert pipeline.arguments["budget_seconds"] == 5400.0
