"""How does a comparison of recipes read?

First what could be seen at all and what everyone was allowed to spend, then the figures. A record
is the object in `bench.json`. This module computes no figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.evaluation.statistics import Measures
from limbeck.evaluation.table import aligned

Record = Mapping[str, Any]


def page(record: Record) -> str:
    """A record as Markdown."""
    data = record["data"]
    labelled = f"{data['labelled']:,} labelled and {data['unlabelled']:,} unlabelled"
    units = measures_of(record).units
    title = f"# Quality: {data['name']}, {labelled} training {units}"
    figures = table(*figures_of(record))
    parts = [title, visible(record), budget(record), words(record), figures, made_of(record)]
    return "\n\n".join(parts)


def figures_of(record: Record) -> tuple[list[str], list[list[str]]]:
    """The headings of the page's table, and a row of cells per system."""
    headings = [
        *_headings(record),
        *("steps", "student tokens", "teacher answers", "seconds", "wall seconds"),
    ]
    names = measures_of(record).names
    cells = [
        [
            *_quality(row, names, record["baselines"]),
            *(_figure(row.get(key), ",d") for key in ("updates",)),
            *(
                _figure(row.get(key), ",.0f")
                for key in ("student_tokens", "teacher_answers", "training_seconds", "wall_seconds")
            ),
        ]
        for row in record["rows"]
    ]
    return headings, cells


def words(record: Record) -> str:
    """The legend of the columns, in words."""
    seeds, measured = ", ".join(map(str, record["seeds"])), measures_of(record)
    return (
        f"Seeds {seeds}; statistics per {measured.unit} are means over them, ± is the standard "
        f"deviation of the seeds' values. p is of paired randomisation over {measured.units}, "
        "corrected by Holm over the "
        "recipes for each baseline. Costs are means per run: tokens that the student read in "
        "training, padding included; answers (pairs or texts) that its teacher was asked for; "
        "seconds of training, measurements on dev included; seconds of the whole run, where it "
        "was not interrupted."
    )


def made_of(record: Record) -> str:
    """Data, models and settings behind the figures."""
    data = record["data"]
    facts = "".join(f"{key.replace('_', ' ')} {record[key]}. " for key in record["facts"])
    return (
        f"Data: {data['name']}, digest {data['digest'][:16]}. "
        f"Teacher: {record['teacher']}. "
        f"Student: {record['student_layers'] or 'default'} layers. {facts}"
        f"Settings: {' '.join(record['assignments']) or 'defaults'}."
    )


def as_text(record: Record) -> str:
    """The bench as text for the terminal: the page's first lines, and the figures without costs."""
    names = measures_of(record).names
    cells = [
        _headings(record),
        *(_quality(row, names, record["baselines"]) for row in record["rows"]),
    ]
    lines = aligned(cells, words=1)
    return "\n\n".join([visible(record), budget(record), lines])


def visible(record: Record) -> str:
    """The smallest differences that the test set can show, in words."""
    sentences, measured = [], measures_of(record)
    first, second = record["baselines"]
    keys = ("smallest_visible_difference", f"smallest_visible_difference_{second}")
    for baseline, key in zip((first, second), keys, strict=True):
        told = ", ".join(
            f"{name} {'unknown' if value is None else format(value, '.4f')}"
            for name, value in record[key].items()
        )
        how = (
            f" (two-sided 5 %, power 80 %, {record[measured.units]:,} {record['split']} "
            f"{measured.units})"
            if baseline == first
            else ""
        )
        sentences.append(
            f"Smallest visible difference from {baseline} in {measured.first.name}{how}: {told}."
        )
    return " ".join(sentences)


def budget(record: Record) -> str:
    """The budget of every system, in words, and which systems made another number of steps."""
    told = allowed(record["budget"])
    others = [
        f"{row['system']} made {row['updates']:,}"
        for row in record["rows"]
        if "updates" in row and row["updates"] != record["budget"]["max_steps"]
    ]
    return f"{told} Other numbers of steps: {', '.join(others)}." if others else told


def allowed(budget: Mapping[str, int]) -> str:
    """A budget in words."""
    told = ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in budget.items())
    return (
        f"Budget of every recipe: {told}; the same labels, and one teacher unless a recipe fits "
        "its own."
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is words, the others are figures."""
    marks = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, marks, *rows))


def measured_with(environment: Mapping[str, object]) -> str:
    """The last line of a page: the versions, processor and threads behind its figures."""
    return f"Measured with: {', '.join(f'{key} {value}' for key, value in environment.items())}."


def measures_of(record: Record) -> Measures:
    """The measures of a bench."""
    return Measures.model_validate(record["measures"], strict=False)  # JSON has no tuples


def _headings(record: Record) -> list[str]:
    """Headings of the figures, costs left out."""
    first, *others = measures_of(record).names
    baselines = [heading for name in record["baselines"] for heading in (f"- {name}", "p (Holm)")]
    return ["system", first, "95 %", "± seeds", *others, *baselines, "gap closed"]


def _quality(row: Record, measures: Sequence[str], baselines: Sequence[str]) -> list[str]:
    """A system's figures, costs left out."""
    first, *others = measures
    alone, taught = baselines
    low, high = row[f"{first}_ci"]
    return [
        row["system"],
        f"{row[first]:.4f}",
        f"[{low:.3f}, {high:.3f}]",
        _figure(row.get("seed_spread"), ".4f"),
        *(f"{row[name]:.4f}" for name in others),
        _minus(row, alone),
        _figure(row.get("p_holm"), ".4f"),
        _minus(row, taught),
        _figure(row.get(f"p_holm_{taught}"), ".4f"),
        _share(row),
    ]


def _minus(row: Record, baseline: str) -> str:
    return "" if row["system"] == baseline else f"{row[f'minus_{baseline}']:+.4f}"


def _share(row: Record) -> str:
    if "gap_closed" not in row:
        return ""
    return "undefined" if row["gap_closed"] is None else f"{row['gap_closed']:.0%}"


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
