"""What did a run reach, at what cost, and what should its owner do now?

A row of `metrics.json` is one system on one split: the value of each measure by its name, such as
`nDCG@10`, its 95 % interval as `nDCG@10_ci`, the number of units (queries), and what it costs to
use. The printed table and the advice are made from such rows alone.

This module knows no model and no run folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Self

import polars as pl
from pydantic import AfterValidator, model_validator
from rich.cells import cell_len  # a Chinese character is two columns wide

from limbeck.evaluation.comparison import estimate
from limbeck.evaluation.measures import RETRIEVAL
from limbeck.evaluation.statistics import Measure, Measures
from limbeck.store import Written

Row = Mapping[str, object]

NAMES = {
    "bm25": "BM25",
    "zero_shot": "zero-shot base",
    "most_frequent": "most frequent class",
    "undistilled": "student, undistilled",
    "student": "student, distilled",
    "teacher": "teacher",
}
RIGHT = "right"  # key of the right answers
DIFFERENCE = "student_minus_this"  # key of a row, by the first measure
_PROSE = {
    "bm25": "BM25",
    "zero_shot": "the base encoder without any training",
    "undistilled": "itself before distillation",
}
_REMEDIES = {
    "bm25": (
        "Use BM25 for now. More training queries (they need no judgements), a stronger --teacher "
        "or more --student-layers usually help most."
    ),
    "zero_shot": (
        "If speed allows, use the base encoder as it is. Otherwise keep more --student-layers, add "
        "training queries (they need no judgements) or raise --budget."
    ),
    "undistilled": (
        "Distilling did harm: check the teacher's row, and that the training queries look like the "
        "test queries; then try a lower learning rate."
    ),
}

_WORDS = {"model": "model", "split": "split"}
_COSTS = {
    "ms_per_query": "ms/query",
    "passages_per_second": "passages/s",
    "parameters": "parameters",
    "megabytes": "MB",
    "share_of_limit": "read/limit",
    "training_share_of_limit": "train/limit",
}


def _is_row(found: dict[str, Any]) -> dict[str, Any]:
    """A row with the keys that all rows have, and intervals where it has some.

    Raises:
        ValueError: saying what is wrong with it.
    """
    for key in ("model", "split"):
        if not isinstance(found.get(key), str):
            raise ValueError(f"a row's {key!r} is {found.get(key)!r}")
    for key, value in found.items():
        if key.endswith("_ci"):
            ends = value if isinstance(value, list) else []
            if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends):
                raise ValueError(f"a row's {key!r} is {value!r}")
    return found


class Metrics(Written):
    """Contents of `metrics.json`. Files that name no measures are of retrieval: no other task was
    measured before they were named.
    """

    measures: Measures = RETRIEVAL
    rows: list[Annotated[dict[str, Any], AfterValidator(_is_row)]]
    notes: list[str]
    advice: list[str]

    @model_validator(mode="after")
    def _counts_units(self) -> Self:
        """Every row says of how many units it is."""
        key = self.measures.units
        for found in self.rows:
            if not isinstance(found.get(key), int):
                raise ValueError(f"a row's {key!r} is {found.get(key)!r}")
        return self


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of using a system, and of training it; None where it has no such number.

    Rates are of reading passages, and of the updates that trained it: tokens without padding, the
    FLOP that they took (with the backward pass in training), and the share of what the machine
    could do at most.
    """

    ms_per_query: float | None = None
    passages_per_second: float | None = None
    parameters: int | None = None
    megabytes: float | None = None
    tokens_per_second: float | None = None
    useful_flops_per_second: float | None = None
    share_of_limit: float | None = None
    training_tokens_per_second: float | None = None
    training_useful_flops_per_second: float | None = None
    training_share_of_limit: float | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A table for a report, with a title and a sentence or two; its first `words` columns hold
    words. `shades` are how dark each cell is, from 0 to 1, the first column left out.
    """

    title: str
    text: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    shades: Sequence[Sequence[float]] = ()


@dataclass(frozen=True, slots=True)
class Details:
    """Details that a task adds to the report of a run: tables, and each system's answer to each
    unit, by its id, with the right answers under `RIGHT`.
    """

    blocks: Sequence[Block] = ()
    answers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def row(
    model: str,
    split: str,
    table: pl.DataFrame,
    *,
    measures: Measures,
    cost: Cost,
    seed: int,
    synthetic: bool = False,
) -> dict[str, object]:
    """One row of `metrics.json` from a system's table of statistics per unit; `synthetic` when
    nobody wrote the queries and judged the passages.

    Raises:
        ValueError: when the table has no rows.
    """
    measured: dict[str, object] = {}
    for measure in measures.measures:
        found = estimate(table, measure, seed)
        measured[measure.name] = found.value
        measured[f"{measure.name}_ci"] = [found.low, found.high]
    return {
        "model": model,
        "split": split,
        measures.units: len(table),
        **({"synthetic": True} if synthetic else {}),
        **measured,
        **asdict(cost),
    }


def split_shown(split: str, synthetic: bool) -> str:
    """A split as tables name it.

    Example:
        >>> split_shown("test", True)
        'test, synthetic'
    """
    return f"{split}, synthetic" if synthetic else split


def split_meant(shown: str) -> str:
    """The split that `split_shown` named.

    Example:
        >>> split_meant("test, synthetic"), split_meant("dev")
        ('test', 'dev')
    """
    return shown.partition(",")[0]


def as_text(rows: Sequence[Row]) -> str:
    """The table in plain text, columns aligned, one line per row."""
    return aligned([_headings(rows), *(_cells(found, rows) for found in rows)], words=len(_WORDS))


def quality_cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table's part on quality: headings, then a line per row."""
    headings = [*_WORDS.values(), *_measures(rows)]
    return [headings, *(_cells(found, rows)[: len(headings)] for found in rows)]


def cost_cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table's part on costs: headings, then a line per row."""
    lines = [_headings(rows), *(_cells(found, rows) for found in rows)]
    return [[line[0], *line[-len(_COSTS) :]] for line in lines]


def aligned(cells: Sequence[Sequence[str]], *, words: int) -> str:
    """Lines of cells as plain text: the first `words` columns begin, the others end, together."""
    widths = [max(cell_len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            f"{cell}{' ' * (width - cell_len(cell))}"
            if column < words
            else f"{' ' * (width - cell_len(cell))}{cell}"
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def advice(rows: Sequence[Row], measure: Measure) -> list[str]:
    """A sentence for each system that the distilled student should beat and does not.

    Empty when there is no student row, or when it wins everywhere. Rows are compared within a
    split. On synthetic queries, which share words with their passages, BM25 need not be beaten.

    Example:
        >>> advice([{"model": "student", "split": "test", "nDCG@10": 0.4},
        ...         {"model": "zero_shot", "split": "test", "nDCG@10": 0.3}], RETRIEVAL.first)
        []
    """
    found = {
        (split_shown(str(row["split"]), bool(row.get("synthetic"))), row["model"]): _number(
            row.get(measure.name)
        )
        for row in rows
        if not (row.get("synthetic") and row["model"] == "bm25")
    }
    sentences = []
    for (split, model), value in found.items():
        student = found.get((split, "student"))
        if student is None or value is None or model not in _REMEDIES:
            continue
        if measure.better(value, student):
            sentences.append(
                f"On {split} the student ({student:.3f} {measure.name}) loses to {_PROSE[model]} "
                f"({value:.3f}). {_REMEDIES[model]}"
            )
    return sentences


def _headings(rows: Sequence[Row]) -> list[str]:
    return [*_WORDS.values(), *_measures(rows), *_COSTS.values()]


def _measures(rows: Sequence[Row]) -> list[str]:
    """Every measure in the rows, in order of appearance: the keys that have an interval, but for
    the difference from the student.
    """
    keys = dict.fromkeys(key for found in rows for key in found if key.endswith("_ci"))
    return [key.removesuffix("_ci") for key in keys if key != f"{DIFFERENCE}_ci"]


def _cells(found: Row, rows: Sequence[Row]) -> list[str]:
    model = str(found["model"])
    return [
        NAMES.get(model, model),
        split_shown(str(found["split"]), bool(found.get("synthetic"))),
        *(_interval(found, measure) for measure in _measures(rows)),
        *(_cost(key, _number(found.get(key))) for key in _COSTS),
    ]


def _interval(found: Row, measure: str) -> str:
    value, interval = _number(found.get(measure)), found.get(f"{measure}_ci")
    if value is None or not isinstance(interval, Sequence):
        return "-"
    low, high = interval
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _cost(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if key == "parameters":
        return f"{value / 1e6:.1f} M" if value >= 1e5 else f"{value:,.0f}"
    if key == "megabytes" and value < 0.1:
        return f"{value:.3f}"
    if key.endswith("share_of_limit"):
        return f"{value:.0%}"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
