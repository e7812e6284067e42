"""Which options do commands share, and how are their values written?

The options of a run are the fields of `limbeck.config.RunConfig`, whose help, bounds and defaults
stand there. A command takes all of them with `run_options()`, or some by their names. This module
knows how a value is written, not what it is used for.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.config import RunConfig, flag_of, option_of, options
from limbeck.errors import ConfigError


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """The settings in `key=value` texts; of a repeated key the last one counts.

    Raises:
        ConfigError: when there is no `=`, or nothing before it.

    Example:
        >>> parse_assignments(["max_steps=200", "rate=2e-5"])
        {'max_steps': '200', 'rate': '2e-5'}
    """
    settings = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {assignment!r} is not a setting. Write --set key=value.")
        settings[key.strip()] = value.strip()
    return settings


def dotted(tables: Mapping[str, object]) -> dict[str, object]:
    """The settings of a TOML file with those in a table named by it, as `--set` names them.

    Example:
        >>> dotted({"max_steps": 200, "teacher_dual": {"max_steps": 60}})
        {'max_steps': 200, 'teacher_dual.max_steps': 60}
    """
    settings: dict[str, object] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            settings |= {f"{key}.{inner}": held for inner, held in dotted(value).items()}
        else:
            settings[key] = value
    return settings


Data = Annotated[str, typer.Argument(metavar="DATA", help=options()["data"].help)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Store = Annotated[
    Path | None,
    typer.Option(
        help=options()["store"].help,
        show_default=str(options()["store"].default_shown),
        file_okay=False,
    ),
]
Place = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run of `limbeck distill`, or the folder of an index."),
]
Reranker = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        help="The model that re-ranks: a folder or hub name.",
        show_default="RUN/teacher, if the run fitted one",
    ),
]


def run_options(*names: str, **helps: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options of a run, all or those of some names, in the place of its parameter
    `run`; it gets their values there, by the names of the fields of `RunConfig`.

    `helps` are other words for single options.
    """
    wanted = names or tuple(name for name in options() if name != "data")

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def called(**given: Any) -> None:
            run = {name: _value(name, given) for name in wanted}
            command(**given, run=run)

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name != "run":
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
                continue
            for name in wanted:
                parameters += _parameters(name, helps.get(name))
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {each.name: each.annotation for each in parameters}
        return called

    return decorate


def _parameters(name: str, words: str | None) -> Iterator[inspect.Parameter]:
    """The parameters of a command that stand for one field."""
    if name == "settings":  # one by one, and in a file
        option = options()[name]
        words = words or option.help
        yield _parameter(
            "assignments", list[str] | None, None, ["--set"], help=words, metavar=option.metavar
        )
        words = "Settings in a TOML file; --set overrules it."
        yield _parameter(
            "settings_file", Path | None, None, ["--settings"], help=words, metavar="FILE"
        )
        return
    [field] = [each for each in fields(RunConfig) if each.name == name]
    option, default = option_of(field), field.default
    more: dict[str, Any] = {"help": words or option.help}
    more |= {} if option.metavar is None else {"metavar": option.metavar}
    more |= {} if option.minimum is None else {"min": option.minimum}
    more |= {} if option.default_shown is None else {"show_default": option.default_shown}
    more |= {} if option.parse is None else {"parser": option.parse}
    written = field.type
    if option.type is not None or option.parse is not None:  # not given is None
        written, default = (option.type or str) | None, None
    assert default is not MISSING
    yield _parameter(name, written, default, [flag_of(name)], **more)


def _parameter(
    name: str, kind: Any, default: object, flags: Sequence[str], **more: Any
) -> inspect.Parameter:
    """One option as typer reads it off a command's signature."""
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, typer.Option(*flags, **more)],
    )


def _value(name: str, given: dict[str, Any]) -> object:
    """The value of a field, taken out of what a command was given.

    Raises:
        ConfigError: for settings, or a file of settings, that cannot be read.
    """
    if name == "settings":
        from limbeck.settings import read_toml

        file, assignments = given.pop("settings_file"), given.pop("assignments")
        return {**(dotted(read_toml(file)) if file else {}), **parse_assignments(assignments or [])}
    [field] = [each for each in fields(RunConfig) if each.name == name]
    value = given.pop(name)
    return field.default if value is None else value
