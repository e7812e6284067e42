"""Which teacher does a text stand for: one that is there, or one that a run fits, and from what?

    [NAME=]PATH                    a model's folder or hub name, `kind:path`, or a file of scores
    [NAME=]train[:KIND[:BASE]]     fitted on the training judgements, from BASE

Without KIND every kind is fitted and the best on dev teaches; without BASE it starts from the
student's base encoder. This module does not know whether PATH or BASE is there, or a model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from limbeck.errors import ConfigError

FITTED = "train"  # begins the text of a teacher that is to be fitted
# the kinds that retrieval can fit, weakest first, and the kinds that each of them stands on
KINDS: Mapping[str, tuple[str, ...]] = {
    "dual": (),
    "cross": ("dual",),
    "ensemble": ("dual", "cross"),
}


@dataclass(frozen=True, slots=True)
class TeacherSpec:
    """A teacher as it was asked for; `str` gives the text again.

    `path` names one that is there, and is None for one that is fitted. Of those, `kind` None means
    every kind, and `base` None the student's base encoder. `name` None: nobody named it.
    `loaded` is the teacher where the caller has loaded it; `path` then has its name and digest.
    """

    name: str | None = None
    kind: str | None = None
    base: str | None = None
    path: str | None = None
    loaded: Any = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, text: str, option: str = "--teacher") -> TeacherSpec:
        """The teacher that a text stands for; `option` is where it was written.

        A text that is a path on this machine is that path, whatever `=` it has.

        Raises:
            ConfigError: when it has an empty part.

        Example:
            >>> TeacherSpec.parse("big=train:dual:org/model")
            TeacherSpec(name='big', kind='dual', base='org/model', path=None)
            >>> str(TeacherSpec.parse("scores:a=b.tsv")), TeacherSpec.parse("train").fitted
            ('scores:a=b.tsv', True)
        """
        named = re.fullmatch(r"(?P<name>\w[\w.-]*)=(?P<rest>.*)", text, flags=re.DOTALL)
        if named is not None and Path(text).exists():
            named = None
        name, rest = (named["name"], named["rest"]) if named else (None, text)
        if not rest:
            raise ConfigError(
                f"{option} {text!r} names no teacher. Write {option} PATH, {option} NAME=PATH, or "
                f"{option} {FITTED}."
            )
        fitted, colon, how = rest.partition(":")
        if fitted != FITTED:
            return cls(name=name, path=rest)
        kind, again, base = how.partition(":")
        if (colon and not kind) or (again and not base):
            raise ConfigError(
                f"{option} {text!r} has an empty part. Write {option} {FITTED}, {FITTED}:KIND or "
                f"{FITTED}:KIND:path/to/model."
            )
        return cls(name=name, kind=kind or None, base=base or None)

    def __str__(self) -> str:
        what = self.path or ":".join(filter(None, (FITTED, self.kind, self.base)))
        return what if self.name is None else f"{self.name}={what}"

    @property
    def shown(self) -> str:
        """The same for others to read: a base by its name, a given teacher without its path."""
        if not self.fitted:
            return self.name or "given"
        return str(replace(self, name=None, base=Path(self.base).name if self.base else None))

    @property
    def fitted(self) -> bool:
        """Whether a run has to fit it."""
        return self.path is None

    @property
    def open(self) -> bool:
        """Whether every kind is fitted, and the best on dev chosen."""
        return self.fitted and self.kind is None

    def check_kind(self, fits: Mapping[str, tuple[str, ...]], option: str = "--teacher") -> None:
        """Refuse a kind that a task does not fit; `fits` are the kinds that it does.

        Raises:
            ConfigError: naming those kinds.
        """
        if self.kind is not None and self.kind not in fits:
            known = [FITTED, *(f"{FITTED}:{each}" for each in fits)]
            raise ConfigError(
                f"{option} {str(self)!r}: there is no such teacher to fit. Use "
                f"{', '.join(known[:-1])} or {known[-1]}; a base may follow the kind, as in "
                f"{known[1]}:path/to/model."
            )


def fit_name(kind: str, base: str | None) -> str:
    """Name of a teacher of this kind that is fitted from a base; a base of None is the student's.

    Example:
        >>> fit_name("dual", None), fit_name("cross", "mpnet")
        ('dual', 'cross-mpnet')
    """
    return kind if base is None else f"{kind}-{base}"


def parse_specs(
    given: str | TeacherSpec | Sequence[str | TeacherSpec],
) -> tuple[TeacherSpec, ...]:
    """The teachers that one text or several stand for; what is parsed stays as it is.

    Raises:
        ConfigError: when there is none, one cannot be read, or two have one name.
    """
    several = [given] if isinstance(given, str | Path | TeacherSpec) else given
    found = tuple(
        each if isinstance(each, TeacherSpec) else TeacherSpec.parse(str(each)) for each in several
    )
    if not found:
        raise ConfigError("No teacher is given. Name one, or leave --teacher out to fit one.")
    names = [spec.name for spec in found if spec.name is not None]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"Two teachers are named {name!r}. Give each --teacher its own name.")
    return found
