"""What is a page made of, whatever it tells?

Templates, one style sheet and one script, put together with everything escaped: texts come from
users' data. A policy in the page's head forbids every other script and every request. This module
knows no run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from limbeck.data.dataset import Dataset
from limbeck.evaluation.statistics import Measures

MAX_CHARACTERS = 600  # of a text that is shown

Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class Table:
    """Headings and rows of words; the first `words` columns begin, the others end, together."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: int = 1


def render(template: str, **values: object) -> str:
    """The page that a template makes of these values."""
    style, script = _asset("style.css"), _asset("script.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    given = {"style": Markup(style), "script": Markup(script), "policy": policy}
    return _environment().get_template(template).render(**given, **values)


def data_facts(data: Mapping[str, Any], measures: Measures) -> list[tuple[str, str]]:
    """Facts about the data of a run or a bench, from the table of the data in a record."""
    known = {"task", "name", "digest", "labelled", "unlabelled"}
    labelled, unlabelled = data["labelled"], data["unlabelled"]
    return [
        ("data", str(data["name"])),
        *(
            (key, f"{value:,}" if isinstance(value, int) else str(value))
            for key, value in data.items()
            if key not in known and isinstance(value, int | str)
        ),
        (
            f"training {measures.units}",
            f"{labelled:,} judged, {unlabelled:,} without judgements",
        ),
    ]


def clipped(text: str, most: int = MAX_CHARACTERS) -> str:
    """The beginning of a text, with a mark where something was cut off.

    Example:
        >>> clipped("seldom", 4), clipped("seldom", 6)
        ('seld …', 'seldom')
    """
    return text if len(text) <= most else f"{text[:most].rstrip()} …"


def alternative_text(data: Dataset | None, name: str) -> str | None:
    """The beginning of an alternative, such as a passage; None where texts cannot be had."""
    found = None if data is None else data.alternative(name)
    return None if found is None else clipped(found)


def unit_picture(data: Dataset | None, unit: str) -> str | None:
    """The image of a unit as an address that holds it; None where it has none."""
    found = None if data is None else data.picture(unit)
    if found is None:
        return None
    return f"data:image/png;base64,{base64.b64encode(found).decode()}"


def unit_text(data: Dataset | None, unit: str) -> str | None:
    """The beginning of a unit, such as a query; None where texts cannot be had."""
    found = None if data is None else data.shown(unit)
    return None if found is None else clipped(found)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("limbeck.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _asset(name: str) -> str:
    """A file that lies beside the templates."""
    return files("limbeck.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A text as a browser's policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
