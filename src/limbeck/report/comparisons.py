"""Which recipe, or which run, is better, as a page?

From the results of `limbeck bench` and `limbeck compare` in their JSON form, and the words and
tables that their authors print. Nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.evaluation.statistics import Measures
from limbeck.report.charts import Interval, Named, intervals, scatter
from limbeck.report.page import Table, data_facts, render

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunLink:
    """A run of a bench: its name, its settings, and the address of its own page, if any."""

    title: str
    settings: Mapping[str, object]
    page: str | None


def bench_page(
    record: Record,
    *,
    measures: Measures,
    baselines: Sequence[str],
    words: Sequence[str],
    figures: Table,
    notes: Sequence[str],
    arms: Sequence[RunLink],
) -> str:
    """The page of a comparison of recipes, as HTML; `words` stand above the figures, `notes`
    below.
    """
    rows, measure = record["rows"], measures.first.name
    pictures = [
        intervals(
            f"{measure} with 95 % intervals",
            [Interval(row["system"], row[measure], *row[f"{measure}_ci"]) for row in rows],
            x=measure,
        )
    ]
    for baseline in baselines:
        compared = [
            Interval(row["system"], row[f"minus_{baseline}"], *row[f"minus_{baseline}_ci"])
            for row in rows
            if f"minus_{baseline}_ci" in row
        ]
        if compared:
            title = f"Difference from {baseline} in {measure}"
            pictures.append(intervals(title, compared, x="difference", zero=True))
    trained = [
        Named(row["system"], row["training_seconds"], row[measure])
        for row in rows
        if row.get("training_seconds")
    ]
    title, x = "Quality and seconds of training", "seconds of training"
    pictures.append(scatter(title, trained, x=x, y=measure, less_is_better=True))
    data = record["data"]
    return render(
        "comparison.html",
        title=f"recipes on {data['name']}",
        facts=[
            *data_facts(data, measures),
            (f"{measures.units} measured", f"{record[measures.units]:,} of {record['split']}"),
            ("seeds", ", ".join(map(str, record["seeds"]))),
            ("digest of the data", data["digest"]),
        ],
        words=words,
        pictures=pictures,
        figures=figures,
        notes=notes,
        arms=[(arm.title, arm.page, _values(arm.settings)) for arm in arms],
        environment=_values(record["environment"]),
    )


def comparison_page(found: Record, *, units: str, words: Sequence[str], figures: Table) -> str:
    """The page of a comparison of finished runs, as HTML; `found` is its JSON form, `units` what
    was measured.
    """
    measure, rows = found["measure"], found["rows"]
    compared = [
        Interval(row["run"], row["difference"], *row["difference_ci"])
        for row in rows
        if row["difference"] is not None
    ]
    title = f"Difference from {found['baseline']} in {measure}"
    return render(
        "comparison.html",
        title=f"runs on {found['collection']['name']}",
        facts=[
            ("data", found["collection"]["name"]),
            (f"{units} measured", f"{found[units]:,} of {found['split']}"),
            ("system", found["model"]),
            ("baseline", found["baseline"]),
            ("digest of the data", found["collection"]["digest"]),
        ],
        words=words,
        pictures=[
            intervals(
                f"{measure} with 95 % intervals",
                [Interval(row["run"], row["mean"], *row["ci"]) for row in rows],
                x=measure,
            ),
            intervals(title, compared, x="difference", zero=True),
        ],
        figures=figures,
        notes=[],
        arms=[],
        environment=None,
    )


def _values(settings: Mapping[str, object]) -> Table:
    return Table(["", "value"], [[key, str(value)] for key, value in settings.items()], words=2)
