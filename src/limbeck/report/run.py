"""What did one run reach, at what cost, and how did it get there?

Everything is read from the run's folder; texts come from its data, where the caller still has
it. What an older run did not record is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from limbeck.data.dataset import Dataset
from limbeck.evaluation.statistics import Measures
from limbeck.evaluation.table import DIFFERENCE, NAMES, Details, Metrics, cost_cells, quality_cells
from limbeck.record import read_record
from limbeck.report.charts import Interval, Named, intervals, scatter
from limbeck.report.page import MAX_CHARACTERS, Table, data_facts, render
from limbeck.report.queries import TOP_PASSAGES, Queries, queries_of
from limbeck.report.stages import all_stages, estimated_parts, trained_stages
from limbeck.report.teacher import examined
from limbeck.store import digest_file, read_json

Row = Mapping[str, Any]


def run_page(
    run: Path,
    data: Dataset | None,
    estimated: Sequence[Mapping[str, Any]] = (),
    *,
    alternatives: tuple[str, str] = ("alternative", "alternatives"),
    details: Details | None = None,
) -> str:
    """The page of a finished run, as HTML.

    `data` is what the run worked on; without it the page has ids in the place of texts. One of
    what a unit may be answered with, and several, are called `alternatives`: passage, passages.
    `estimated` are the parts of its plan, if it had one: `stage`, `what`, `seconds` and
    `actual_seconds` of each. `details` are what its task adds.

    Raises:
        StoreError: when a file of the run is missing or damaged.
    """
    found = read_json(run / "metrics.json", Metrics)
    record = read_record(run)
    assert record is not None  # the run is finished
    rows = found.rows
    measures = found.measures
    measure = measures.first.name
    details = details or Details()
    queries = queries_of(run, data, measures, details.answers)
    return render(
        "run.html",
        title=f"{record['data']['name']}, {record['asked']['recipe']}",
        facts=[*data_facts(record["data"], measures), *_facts(record["asked"])],
        summary=_summary(rows, measures),
        measure=measure,
        unit=measures.unit,
        units=measures.units,
        alternative=alternatives[0],
        alternatives=alternatives[1],
        advice=found.advice,
        notes=found.notes,
        quality=_table(quality_cells(rows), words=2),
        against=_against(rows, queries, measures.units),
        quality_pictures=_quality_pictures(rows, measure),
        costs=_table(cost_cells(rows), words=1),
        cost_pictures=_cost_pictures(rows, measure),
        queries=queries,
        details=details,
        names=NAMES,
        top_passages=TOP_PASSAGES,
        most_characters=MAX_CHARACTERS,
        examined=examined(run, data),
        trained=trained_stages(run, measure),
        stages=all_stages(run),
        estimated=estimated_parts(estimated),
        settings=_record_tables(record),
        digests=_digests(run, record),
        with_texts=data is not None,
    )


def _facts(asked: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Options of a run, in a few words each."""
    teacher = asked["teacher"]
    return [
        ("recipe", str(asked["recipe"])),
        ("teacher", teacher if isinstance(teacher, str) else ", ".join(teacher)),
        ("seed", str(asked["seed"])),
    ]


def _summary(rows: Sequence[Row], measures: Measures) -> str:
    """The run in a sentence or two."""
    systems = {row["model"]: row for row in rows}
    if "student" not in systems:
        return "Nothing was measured, since the data has no judgements for test or dev."
    student, teacher = systems["student"], systems.get("teacher")
    name, units = measures.first.name, measures.units
    low, high = student[f"{name}_ci"]
    reached = (
        f"On {student[units]:,} {student['split']} {units} the student reaches "
        f"{student[name]:.3f} {name} (95 % interval {low:.3f} to {high:.3f})."
    )
    told = [reached]
    if teacher is not None and teacher[name] > 0:
        share = student[name] / teacher[name]
        told.append(f"That is {share:.0%} of the teacher's {teacher[name]:.3f}.")
        ours, theirs = student["ms_per_query"], teacher["ms_per_query"]
        if ours and theirs:
            told.append(f"A query takes {ours:.1f} ms; with the teacher {theirs:.1f} ms.")
    return " ".join(told)


def _against(rows: Sequence[Row], queries: Queries | None, units: str) -> Table:
    """The student against every other system."""
    outcomes = {} if queries is None else {each.other: each for each in queries.outcomes}
    headings = [
        *("system", "student - system", "95 %", "p (Holm)", "visible from"),
        *(f"{units} won", "equal", "lost"),
    ]
    lines = []
    for row in rows:
        if DIFFERENCE not in row:
            continue
        outcome = outcomes[row["model"]]
        low, high = row.get(f"{DIFFERENCE}_ci", (None, None))  # older runs did not record it
        lines.append(
            [
                _name(row),
                f"{row[DIFFERENCE]:+.4f}",
                "" if low is None else f"[{low:+.3f}, {high:+.3f}]",
                f"{row['p_holm']:.4f}",
                "" if row.get("visible") is None else f"{row['visible']:.4f}",
                *(f"{count:,}" for count in (outcome.won, outcome.equal, outcome.lost)),
            ]
        )
    return Table(headings, lines)


def _table(cells: Sequence[Sequence[str]], *, words: int) -> Table:
    headings, *lines = cells
    return Table(headings, lines, words)


def _quality_pictures(rows: Sequence[Row], measure: str) -> list[Markup]:
    """Pictures of each system's quality, and of how far the student is from the others."""
    pictures = []
    if reached := [Interval(_name(row), row[measure], *row[f"{measure}_ci"]) for row in rows]:
        pictures.append(intervals(f"{measure} with 95 % intervals", reached, x=measure))
    apart = [
        Interval(_name(row), row[DIFFERENCE], *row[f"{DIFFERENCE}_ci"])
        for row in rows
        if f"{DIFFERENCE}_ci" in row
    ]
    if apart:
        title = "Student - system, with 95 % intervals"
        pictures.append(intervals(title, apart, x="difference", zero=True))
    return pictures


def _cost_pictures(rows: Sequence[Row], measure: str) -> list[Markup]:
    """Pictures of quality against the cost of answering a query, and of reading the passages."""
    pictures = []
    for key, title, x, less in (
        ("ms_per_query", "Quality and time per query", "ms per query", True),
        ("passages_per_second", "Quality and speed of reading", "passages per second", False),
    ):
        points = [Named(_name(row), row[key], row[measure]) for row in rows if row.get(key)]
        if len(points) > 1:
            pictures.append(scatter(title, points, x=x, y=measure, less_is_better=less))
    return pictures


def _record_tables(record: Mapping[str, Any]) -> list[tuple[str, Table]]:
    """`run.toml`, a table of its own for each of its tables."""
    tables = []
    for name, content in record.items():
        flat: dict[str, object] = {}
        for key, value in content.items():
            if isinstance(value, Mapping):
                flat |= {f"{key}.{inner}": own for inner, own in value.items()}
            else:
                flat[key] = value
        if flat:
            rows = [[key, str(value)] for key, value in flat.items()]
            tables.append((name, Table([name, "value"], rows, words=2)))
    return tables


def _digests(run: Path, record: Mapping[str, Any]) -> Table:
    """Digests that tell whether two runs had the same data and gave the same models."""
    rows = [["data", record["data"]["digest"]]]
    rows += [
        [str(path.relative_to(run)), digest_file(path)]
        for name in ("student", "teacher", "baselines")
        for path in sorted((run / name).rglob("*.safetensors"))
    ]
    return Table(["what", "SHA-256"], rows, words=2)


def _name(row: Row) -> str:
    return NAMES.get(str(row["model"]), str(row["model"]))
