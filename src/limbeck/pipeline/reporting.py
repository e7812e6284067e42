"""What came of it: rows, comparisons, advice, the files that hold them, and a page to read.

Beside them lies a manifest: what a finished run or an evaluation left, checked whenever it is read
again. `run.toml` is not in it, since data may move, nor is what people read of a model.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from limbeck.data.dataset import Dataset
from limbeck.errors import ConfigError, StoreError
from limbeck.evaluation.comparison import compare
from limbeck.evaluation.statistics import Measure
from limbeck.evaluation.table import DIFFERENCE, Metrics, advice, as_text, row, split_shown
from limbeck.pipeline.plan_file import compared
from limbeck.record import RECORD, read_record, task_of
from limbeck.report import run_page
from limbeck.store import (
    MANIFEST,
    Checksum,
    check_whole,
    checksum,
    checksums,
    faults,
    files_below,
    read_json,
    read_manifest,
    write_manifest,
    write_parquet,
    write_text,
)
from limbeck.tasks.task import Measured, Task, kind_named

METRICS = "metrics.json"  # a run that has it is finished
PAGE = "report.html"  # made from the files of a finished run, whenever it is not there

_MODELS = ("student", "teacher", "baselines")
_LEFT_BEHIND = (*_MODELS, "runs", "plan.json", "stages/diagnose")
_FOR_PEOPLE = "README.md"  # a model's card may be written anew
_REPEAT = (
    "Repeat the `limbeck distill` that made it, which makes it again from its stages. What you "
    "changed on purpose belongs into a folder outside of the run."
)
_MEASURE_AGAIN = "Run the same `limbeck evaluate` again, with a new --out."


@dataclass(frozen=True)
class Result:
    """Result of a run or an evaluation: rows of `metrics.json`, the printed table, and in words the
    decisions made on the way (`notes`) and what to do next (`advice`).

    `out` is the folder that holds the files, if any.
    """

    out: Path | None
    rows: list[dict[str, object]]
    notes: list[str]
    advice: list[str]
    table: str

    @cached_property
    def student(self) -> Any:
        """The student, opened when it is first asked for, on the CPU: of retrieval a
        `SentenceTransformer` with `encode_query`, `encode_document` and all else that it has.

        Raises:
            ConfigError: when there is none, as after an evaluation.
        """
        if self.out is None or not (self.out / "student").is_dir():
            raise ConfigError("There is no student here: only a run of distill leaves one.")
        record = read_record(self.out)
        assert record is not None  # which made the student
        return kind_named(task_of(record)).load(self.out / "student")


def report(
    task: Task, out: Path | None, systems: Sequence[Measured], notes: list[str], seed: int
) -> Result:
    """Rows, comparisons and advice; with `out`, the files that hold them."""
    rows = [
        row(
            each.name,
            each.split,
            each.per_query,
            measures=task.measures,
            cost=each.cost,
            seed=seed,
            synthetic=task.data.synthetic,
        )
        for each in systems
    ]
    notes = [*notes, *_limit(task), *_comparisons(task.measures.first, systems, rows, seed)]
    said = advice(rows, task.measures.first)
    if out is not None:
        _write_runs(task, out, systems)
        measures = task.measures.model_dump(mode="json")
        found = {"measures": measures, "rows": rows, "notes": notes, "advice": said}
        # not sorted: the table of a finished run is made from the order of a row's keys
        text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        _write_manifest(out, task.measures.file, text)
        write_text(out / METRICS, text, stage="report")
    return Result(out, rows, notes, said, as_text(rows) if rows else "")


def _limit(task: Task) -> list[str]:
    """A note on the limit that the table's shares are of."""
    engine = task.run.engine
    if engine.matmul_rate is None:
        return []
    told = (
        f"limit: {engine.matmul_rate / 1e9:,.0f} GFLOP/s, the best matrix product of the "
        f"{engine.device} in any precision; read/limit and train/limit are the shares of it "
        "that a model's layers use to read and in its steps, padding not counted"
    )
    return [told]


def _comparisons(
    measure: Measure, systems: Sequence[Measured], rows: list[dict[str, object]], seed: int
) -> list[str]:
    """The student against every other system: differences, Holm-corrected p, in rows and words."""
    student = next((each for each in systems if each.name == "student"), None)
    others = {each.name: each.per_query for each in systems if each is not student}
    if student is None or not others:
        return []
    lines = []
    found = {each.other: each for each in compare(student.per_query, others, measure, seed)}
    for entry in rows:
        if entry["model"] in found:
            each = found[str(entry["model"])]
            entry[DIFFERENCE] = each.difference.value
            entry[f"{DIFFERENCE}_ci"] = [each.difference.low, each.difference.high]
            entry["p_holm"] = each.p_holm
            entry["visible"] = each.visible if math.isfinite(each.visible) else None
            lines.append(
                f"student - {each.other}: {each.difference.value:+.4f} {measure.name}, "
                f"p = {each.p_holm:.4f} (paired randomisation, Holm); differences from "
                f"{each.visible:.4f} can be seen"
            )
    return lines


def _write_runs(task: Task, out: Path, systems: Sequence[Measured]) -> None:
    """A row per query and system, as `per_query.parquet`, and one TREC run per system."""
    if not systems:
        return
    frames = [
        each.per_query.with_columns(
            pl.lit(each.name).alias("model"),
            pl.lit(split_shown(each.split, task.data.synthetic)).alias("split"),
        )
        for each in systems
    ]
    write_parquet(out / task.measures.file, pl.concat(frames), stage="report")
    task.write_results(out, systems)


def _write_manifest(out: Path, units: str, metrics: str) -> None:
    """Write the checksums of all that is left behind; `units` is the file with a row per unit;
    `metrics` will be what `METRICS` holds, which is written last, since it says that a run is
    finished.
    """
    names = [
        name for name in files_below(out, units, *_LEFT_BEHIND) if Path(name).name != _FOR_PEOPLE
    ]
    content = metrics.encode()
    told = Checksum(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    files = {**checksums(out, names), METRICS: told}
    advice = _REPEAT if (out / RECORD).exists() else _MEASURE_AGAIN
    write_manifest(out, files, advice=advice, stage="report")


def damage(out: Path) -> dict[str, str]:
    """Damaged files of a finished run, no longer as the run left them: a sentence by the name of
    each.

    Nothing for a run without a manifest, as older versions left it, and nothing for stages that
    were deleted.
    """
    try:
        found = read_manifest(out)
    except StoreError as error:
        return {MANIFEST: str(error)}
    if found is None:
        return {}
    there = {
        name: expected
        for name, expected in found[1].items()
        if not name.startswith("stages/") or (out / name).exists()
    }
    return faults(out, there)


def check_same_models(out: Path) -> None:
    """Refuse models of a run that were made again, and differ from those of its manifest.

    Raises:
        StoreError: naming a file that differs.
    """
    try:
        found = read_manifest(out)
    except StoreError:
        return  # which is written anew
    before = {} if found is None else found[1]
    models = {name: each for name, each in before.items() if name.split("/")[0] in _MODELS}
    for fault in faults(out, models).values():
        raise StoreError(
            f"{out} was made again, and not to the same bytes: {fault}. Its stages were made anew "
            "under other conditions. Choose another --out, or accept that with --force."
        )


def write_page(out: Path, data: Dataset | None) -> None:
    """Write a finished run's page; without its data, ids stand in the place of texts."""
    record = read_record(out)
    assert record is not None  # the run is finished
    kind = kind_named(task_of(record))
    details = kind.details(out, read_json(out / METRICS, Metrics).measures)
    page = run_page(out, data, compared(out), alternatives=kind.alternatives, details=details)
    write_text(out / PAGE, page, stage="page")
    if (found := read_manifest(out)) is not None:
        advice, files = found
        files[PAGE] = checksum(out / PAGE)
        write_manifest(out, files, advice=advice, stage="page")


def finished(out: Path) -> Result:
    """The result of a run that is done, from its files.

    Raises:
        StoreError: when they are damaged.
    """
    check_whole(out / METRICS, anew=True)
    found = read_json(out / METRICS, Metrics)
    rows = found.rows
    return Result(out, rows, found.notes, found.advice, as_text(rows) if rows else "")
