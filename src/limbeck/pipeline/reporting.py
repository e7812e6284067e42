"""What came of it: rows, comparisons, advice, the files that hold them, and a page to read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from limbeck.data.collection import Collection
from limbeck.evaluation.comparison import compare
from limbeck.evaluation.measures import read_trec, write_trec
from limbeck.evaluation.table import DIFFERENCE, advice, as_text, row, split_shown
from limbeck.pipeline.foretold import compared
from limbeck.report import run_page
from limbeck.store import read_json, write_parquet, write_text
from limbeck.tasks.retrieval import Retrieval
from limbeck.tasks.systems import Measured

METRICS = "metrics.json"  # a run that has it is finished
PAGE = "report.html"  # made from the files of a finished run, whenever it is not there
DECIDES = "nDCG@10"  # the measure that systems are compared by


@dataclass(frozen=True, slots=True)
class Result:
    """What a run or an evaluation says: rows of `metrics.json`, the printed table, and in words
    what was decided on the way (`notes`) and what to do next (`advice`).

    `out` is the folder that holds the files, if any.
    """

    out: Path | None
    rows: list[dict[str, object]]
    notes: list[str]
    advice: list[str]
    table: str


def report(
    task: Retrieval, out: Path | None, systems: Sequence[Measured], notes: list[str], seed: int
) -> Result:
    """Rows, comparisons and advice; with `out`, the files that hold them."""
    rows = [
        row(
            each.name,
            each.split,
            each.per_query,
            cost=each.cost,
            seed=seed,
            synthetic=task.collection.synthetic,
        )
        for each in systems
    ]
    notes = [*notes, *_limit(task), *_comparisons(systems, rows, seed)]
    said = advice(rows)
    if out is not None:
        _write_runs(task, out, systems)
        found = {"rows": rows, "notes": notes, "advice": said}
        # not sorted: the table of a finished run is made from the order of a row's keys
        text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        write_text(out / METRICS, text, stage="report")
    return Result(out, rows, notes, said, as_text(rows) if rows else "")


def _limit(task: Retrieval) -> list[str]:
    """What the table's shares are of."""
    engine = task.run.engine
    if engine.matmul_rate is None:
        return []
    told = (
        f"limit: {engine.matmul_rate / 1e9:,.0f} GFLOP/s, the best matrix product of the "
        f"{engine.device} in {engine.precision}; read/limit and train/limit are the shares of it "
        "that a model's layers use to read passages and in its updates, padding not counted"
    )
    return [told]


def _comparisons(
    systems: Sequence[Measured], rows: list[dict[str, object]], seed: int
) -> list[str]:
    """The student against every other system: differences, Holm-corrected p, in rows and words."""
    student = next((each for each in systems if each.name == "student"), None)
    others = {each.name: each.per_query for each in systems if each is not student}
    if student is None or not others:
        return []
    lines = []
    found = {each.other: each for each in compare(student.per_query, others, DECIDES, seed)}
    for entry in rows:
        if entry["model"] in found:
            each = found[str(entry["model"])]
            entry[DIFFERENCE] = each.difference.mean
            entry[f"{DIFFERENCE}_ci"] = [each.difference.low, each.difference.high]
            entry["p_holm"] = each.p_holm
            entry["visible"] = each.visible if math.isfinite(each.visible) else None
            lines.append(
                f"student - {each.other}: {each.difference.mean:+.4f} {DECIDES}, "
                f"p = {each.p_holm:.4f} (paired randomisation, Holm); differences from "
                f"{each.visible:.4f} can be seen"
            )
    return lines


def _write_runs(task: Retrieval, out: Path, systems: Sequence[Measured]) -> None:
    """`per_query.parquet` and one TREC run per system."""
    if not systems:
        return
    frames = [
        each.per_query.with_columns(
            pl.lit(each.name).alias("model"),
            pl.lit(split_shown(each.split, task.collection.synthetic)).alias("split"),
        )
        for each in systems
    ]
    write_parquet(out / "per_query.parquet", pl.concat(frames), stage="report")
    for each in systems:
        results = read_trec(task.run.folder / "stages" / each.stage / "run.trec")
        tag = each.name.replace("/", "-")
        write_trec(out / "runs" / f"{tag}.trec", results, tag=tag, stage="report")


def write_page(out: Path, collection: Collection | None) -> None:
    """Write a finished run's page; without its collection ids stand in the place of texts."""
    write_text(out / PAGE, run_page(out, collection, compared(out)), stage="page")


def finished(out: Path) -> Result:
    """The result of a run that is done, from its files."""
    found = read_json(out / METRICS)
    rows = found["rows"]
    return Result(out, rows, found["notes"], found["advice"], as_text(rows) if rows else "")
