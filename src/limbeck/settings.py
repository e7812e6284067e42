"""Which numbers may a user set, and is what they wrote one of them?

A method's settings are one frozen class; its fields feed `--set key=value`, TOML files, the listing
of recipes and the docs. Nothing is guessed: an unknown key is refused with the nearest spelling, a
bad value with the reason.

This module knows no method.
"""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from limbeck.errors import ConfigError

RENAMED = {  # names that settings had before 0.2.0, and have now
    "updates": "max_steps",
    "teacher_updates": "teacher_max_steps",
    "measures": "eval_steps",
    "warmup": "warmup_ratio",
    "queries_per_update": "batch_size",
    "ranker_queries_per_update": "ranker_batch_size",
    "texts_per_update": "texts_per_step",
    "checkpoint_every": "save_steps",
    "depth": "candidates_per_query",
    "first_rank": "range_min",
    "margin": "absolute_margin",
}
REDEFINED = {"measures": "steps between evaluations on dev, not their number"}  # a new meaning too


class Settings(BaseModel):
    """The base of every method's settings: frozen, no unknown keys, defaults checked too.

    Each field carries `Field(description=...)` with its unit; `describe` prints it.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    @property
    def needs(self) -> frozenset[str]:
        """Requirements of a method with these values besides those it always has, such as "maps",
        models with feature maps.
        """
        return frozenset()

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, values: Any) -> Any:
        """Refuse old names with the new ones, of arguments too."""
        for key in values if isinstance(values, Mapping) else ():
            if told := renamed(str(key), cls.model_fields):
                raise ValueError(told)
        return values


SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of a listing: a setting's name, its type in words, default and description."""

    name: str
    type: str
    default: object
    description: str


def parse_settings(
    cls: type[SettingsT], values: Mapping[str, object], *, where: str = "--set"
) -> SettingsT:
    """The settings with some of them given, as typed values or as text from a command line.

    Text is read by the field's type: `3`, `0.5`, `true`, `1,2,3` for a list, `none` where nothing
    is allowed. `where` (a flag or a file's name) is what an error points at.

    Raises:
        ConfigError: for an unknown key (with the nearest spelling) or a value that does not fit.
    """
    for key in values:
        if key not in cls.model_fields:
            raise ConfigError(_unknown(key, cls, where))
    read = {key: _read(value, cls.model_fields[key].annotation) for key, value in values.items()}
    try:
        return cls.model_validate(read)
    except ValidationError as error:
        raise ConfigError(_unfit(error, values, cls, where)) from error


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        ConfigError: when it is missing, unreadable or not TOML; the message has the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}. Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not valid TOML: {error}. Correct it and try again."
        ) from error


def renamed(key: str, known: Container[str]) -> str | None:
    """Note that a setting was renamed, if `key` is an old name whose new one is known; None
    otherwise.

    Example:
        >>> renamed("updates", ["max_steps"]), renamed("teacher_dual.updates", ["max_steps"])
        ('updates is now max_steps', 'teacher_dual.updates is now teacher_dual.max_steps')
    """
    prefix, dot, name = key.rpartition(".")
    now = RENAMED.get(name)
    if now is None or name in known or now not in known:
        return None
    meaning = f" ({REDEFINED[name]})" if name in REDEFINED else ""
    return f"{key} is now {prefix}{dot}{now}{meaning}"


def describe(cls: type[Settings]) -> list[Setting]:
    """The settings of a class, in its order.

    Example:
        >>> from pydantic import Field
        >>> class Example(Settings):
        ...     rate: float = Field(2e-5, description="peak learning rate")
        >>> describe(Example)
        [Setting(name='rate', type='float', default=2e-05, description='peak learning rate')]
    """
    return [
        Setting(
            name,
            _in_words(field.annotation),
            field.get_default(call_default_factory=True),
            field.description or "",
        )
        for name, field in cls.model_fields.items()
    ]


def written(value: object) -> str:
    """A value as `--set key=` takes it: `none`, `true`, `a,b` for a list.

    Example:
        >>> written(None), written(True), written(("dual", "cross")), written(2e-5)
        ('none', 'true', 'dual,cross', '2e-05')
    """
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _unknown(key: str, cls: type[Settings], where: str) -> str:
    if told := renamed(key, cls.model_fields):
        return f"{where}: {told}."
    near = difflib.get_close_matches(key, cls.model_fields, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{where}: unknown setting {key!r}{hint} Settings here: {', '.join(cls.model_fields)}."


def _unfit(
    error: ValidationError, values: Mapping[str, object], cls: type[Settings], where: str
) -> str:
    """The first problem in words; a rule over several fields has no key of its own."""
    problem = error.errors()[0]
    reason = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return f"{where}: {reason}"
    key = str(problem["loc"][0])
    field = cls.model_fields[key]
    meaning = "; ".join(filter(None, [_in_words(field.annotation), field.description]))
    return f"{where}: {key} = {values.get(key)!r} cannot be used: {reason} ({key}: {meaning})."


def _read(value: object, annotation: Any) -> object:
    """Text as the field's type wants it before pydantic reads numbers and truth values from it."""
    if not isinstance(value, str):
        return value
    choices = get_args(annotation) if _is_union(annotation) else (annotation,)
    if type(None) in choices and value.lower() == "none":
        return None
    if any((get_origin(choice) or choice) in (list, tuple) for choice in choices):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _in_words(annotation: Any) -> str:
    """A type as a user reads it: `int`, `cosine | dot`, `list of float`, `int | none`."""
    if annotation is type(None):
        return "none"
    if _is_union(annotation):
        return " | ".join(_in_words(choice) for choice in get_args(annotation))
    if get_origin(annotation) is Literal:
        return " | ".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) in (list, tuple):
        parts = get_args(annotation)
        if len(parts) == 1 or parts[1] is Ellipsis:
            return f"list of {_in_words(parts[0])}"
        return ", ".join(_in_words(part) for part in parts)
    return str(getattr(annotation, "__name__", annotation))


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)
