"""At which queries does the student win and lose, and what did it find there?

From a run's figures per query, the systems' TREC files, and the data's texts where they can
still be had. A large test set is not shown whole: a page holds the queries at which the student
differs most from the system that it is compared with first.

This module knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl

from limbeck.data.dataset import Dataset
from limbeck.evaluation.measures import read_trec
from limbeck.evaluation.statistics import Measures
from limbeck.evaluation.table import RIGHT, split_meant
from limbeck.report.page import alternative_text, unit_picture, unit_text
from limbeck.store import read_parquet
from limbeck.types import Split

MAX_QUERIES = 500  # in a page
TOP_PASSAGES = 3  # of the student, for each query
MAX_JUDGED = 5  # relevant passages of each query
FIRST = (  # whom the student is compared with first
    *("teacher", "contrastive", "supervised", "zero_shot", "bm25", "undistilled"),
)
EQUAL = 5e-4  # of a perfect value; smaller differences are none: pages show three digits


@dataclass(frozen=True, slots=True)
class Shown:
    """A passage of a query: its text, None when it cannot be had; its grade, None when it is not
    judged; and its rank by system, None where a system does not have it among its first 100.
    """

    passage: str
    text: str | None
    grade: int | None
    ranks: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class QueryRow:
    """A query: figures by system, the student's first passages, and relevant ones; of what is no
    search, what systems answered, the right answer first.
    """

    query: str
    text: str | None
    picture: str | None
    answers: Mapping[str, str]
    values_of: Mapping[str, float]
    found: Sequence[Shown]
    judged: Sequence[Shown]
    judged_left_out: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """Numbers of units on which the student is better, equal or worse than another system."""

    other: str
    won: int
    equal: int
    lost: int


@dataclass(frozen=True, slots=True)
class Queries:
    """All of it, for a page. `systems` begin with the student; `reference` is whom it is first
    compared with; rows begin with the student's largest loss.
    """

    measure: str
    split: str
    systems: Sequence[str]
    reference: str
    outcomes: Sequence[Outcome]
    rows: Sequence[QueryRow]
    queries: int
    equal: float  # smaller differences are none


def queries_of(
    run: Path,
    data: Dataset | None,
    measures: Measures,
    answers: Mapping[str, Mapping[str, str]] | None = None,
) -> Queries | None:
    """The queries that a finished run was measured on; None when it measured no student, or
    nothing beside it. `answers` are those of `Details`.
    """
    if not (run / measures.file).exists():
        return None
    measure, unit = measures.first, measures.id
    wanted = {
        **dict.fromkeys((unit, "model", "split"), pl.String),
        **dict.fromkeys(measure.columns, pl.Float64),
    }
    table = read_parquet(run / measures.file, wanted)
    frames = {str(name): part for (name,), part in table.group_by("model", maintain_order=True)}
    student = frames.pop("student", None)
    if student is None or not frames:
        return None
    split = str(student["split"][0])
    # the systems' own order need not be the same: rows belong together by query
    joined = _values(student, "student", measures)
    for name, frame in frames.items():
        joined = joined.join(_values(frame, name, measures), on=unit, maintain_order="left")
    reference = next((name for name in FIRST if name in frames), next(iter(frames)))
    equal = EQUAL * measure.perfect
    better = 1 if measure.higher_is_better else -1
    outcomes = [
        _outcome(name, better * joined["student"], better * joined[name], equal) for name in frames
    ]
    difference = (joined["student"] - joined[reference]).to_numpy()
    most = np.argsort(-np.abs(difference), kind="stable")[:MAX_QUERIES]
    order = most[np.argsort(difference[most], kind="stable")]
    runs = _runs(run, ["student", *frames])
    return Queries(
        measure.name,
        split,
        ["student", *frames],
        reference,
        outcomes,
        [
            _row(values, unit, ["student", *frames], split, runs, data, answers or {})
            for values in joined[order].to_dicts()
        ],
        len(joined),
        equal,
    )


def _values(table: pl.DataFrame, name: str, measures: Measures) -> pl.DataFrame:
    """Value of the first measure for each query alone, in a column with the system's name."""
    values = measures.first.value(measures.first.statistics(table))
    return table.select(measures.id).with_columns(pl.Series(name, values))


def _outcome(name: str, ours: pl.Series, theirs: pl.Series, equal: float) -> Outcome:
    difference = (ours - theirs).to_numpy()
    won, lost = int((difference > equal).sum()), int((difference < -equal).sum())
    return Outcome(name, won, len(difference) - won - lost, lost)


def _runs(run: Path, systems: Sequence[str]) -> dict[str, dict[str, dict[str, int]]]:
    """The rank of each passage, from 1, by system and query; nothing of systems without a TREC
    file.
    """
    found = {}
    for name in systems:
        path = run / "runs" / f"{name.replace('/', '-')}.trec"
        if not path.exists():  # of a task that ranks nothing
            continue
        # a file's lines are best first
        found[name] = {
            str(query): {str(passage): rank for rank, passage in enumerate(passages, start=1)}
            for query, passages in read_trec(path).items()
        }
    return found


def _row(
    values: Mapping[str, object],
    unit: str,
    systems: Sequence[str],
    split: str,
    runs: Mapping[str, Mapping[str, Mapping[str, int]]],
    data: Dataset | None,
    answers: Mapping[str, Mapping[str, str]],
) -> QueryRow:
    query = str(values[unit])
    grades = _judgements(data, split, query)
    ranks = {name: own.get(query, {}) for name, own in runs.items()}

    def shown(passage: str) -> Shown:
        return Shown(
            passage,
            alternative_text(data, passage),
            grades.get(passage),
            {name: own.get(passage) for name, own in ranks.items()},
        )

    first = list(ranks.get("student", {}))[:TOP_PASSAGES]
    relevant = [passage for passage, grade in grades.items() if grade > 0]
    return QueryRow(
        query,
        unit_text(data, query),
        unit_picture(data, query),
        {name: answers[name][query] for name in (RIGHT, *systems) if name in answers},
        {name: float(str(values[name])) for name in systems},
        [shown(passage) for passage in first],
        [shown(passage) for passage in relevant[:MAX_JUDGED]],
        max(0, len(relevant) - MAX_JUDGED),
    )


def _judgements(data: Dataset | None, split: str, query: str) -> Mapping[str, int]:
    """A query's grades by passage, highest first, in the order of the judgements."""
    if data is None:
        return {}
    judged = data.judged(cast(Split, split_meant(split)), query)
    return {name: judged[name] for name in sorted(judged, key=lambda name: -judged[name])}
