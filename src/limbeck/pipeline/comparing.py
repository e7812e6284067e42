"""Do finished runs differ by more than chance?

Each run left a row per unit, for retrieval per query in `per_query.parquet`; what ran on the same
collection and split can be paired, unit by unit. Which measures there are, the runs' files say.
Runs that cannot are refused, saying how they differ. This module computes no figure anew, and knows
no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from limbeck.errors import ConfigError, DataError
from limbeck.evaluation import comparison
from limbeck.evaluation.comparison import Estimate, estimate
from limbeck.evaluation.statistics import Measures
from limbeck.evaluation.table import Metrics, aligned
from limbeck.pipeline.reporting import METRICS
from limbeck.record import RECORD, read_record
from limbeck.report import Table, comparison_page
from limbeck.store import check_whole, read_json, read_parquet, write_text

_SEED = 0  # of intervals and tests: the same runs always give the same numbers


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run: its system's value over the units, and the difference from the baseline's.

    `difference`, `p`, `p_holm` and `visible` are None for the baseline itself; `visible`, the
    smallest difference that these units can show, is also None for a single unit.
    """

    run: str
    recipe: str
    seed: int
    estimate: Estimate
    difference: Estimate | None = None
    p: float | None = None
    p_holm: float | None = None
    visible: float | None = None


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Runs against one of them, on one system, measure and split."""

    collection: str
    digest: str
    split: str
    units: str  # what was measured: queries
    count: int  # of them
    model: str
    measure: str
    baseline: str
    rows: Sequence[RunRow]

    @property
    def text(self) -> str:
        """The comparison for people: the smallest visible differences, then a line per run."""
        return f"{self.seen}\n\n{aligned(self.cells, words=2)}"

    @property
    def seen(self) -> str:
        """The smallest visible differences, in words."""
        others = [row for row in self.rows if row.run != self.baseline]
        visible = ", ".join(f"{row.run} {_figure(row.visible, '.4f')}" for row in others)
        return (
            f"Smallest visible difference from {self.baseline} in {self.measure} (two-sided 5 %, "
            f"power 80 %, {self.count:,} {self.split} {self.units} of {self.collection}, system "
            f"{self.model}): {visible}."
        )

    @property
    def cells(self) -> list[list[str]]:
        """Headings, then a line per run."""
        heads = ["run", "recipe", "seed", self.measure, "95 %", "difference", "95 %", "p", "p Holm"]
        lines = [
            [
                row.run,
                row.recipe,
                str(row.seed),
                f"{row.estimate.value:.4f}",
                _interval(row.estimate, ".3f"),
                "baseline" if row.difference is None else f"{row.difference.value:+.4f}",
                "" if row.difference is None else _interval(row.difference, "+.3f"),
                _figure(row.p, ".4f"),
                _figure(row.p_holm, ".4f"),
            ]
            for row in self.rows
        ]
        return [heads, *lines]

    @property
    def page(self) -> str:
        """The comparison as HTML."""
        heads, *lines = self.cells
        figures = Table(heads, lines, words=2)
        return comparison_page(self.as_json(), units=self.units, words=[self.seen], figures=figures)

    def as_json(self) -> dict[str, Any]:
        """The stable JSON form."""
        return {
            "collection": {"name": self.collection, "digest": self.digest},
            "split": self.split,
            self.units: self.count,
            "model": self.model,
            "measure": self.measure,
            "baseline": self.baseline,
            "rows": [
                {
                    "run": row.run,
                    "recipe": row.recipe,
                    "seed": row.seed,
                    "mean": row.estimate.value,
                    "ci": [row.estimate.low, row.estimate.high],
                    "difference": row.difference and row.difference.value,
                    "difference_ci": row.difference and [row.difference.low, row.difference.high],
                    "p": row.p,
                    "p_holm": row.p_holm,
                    "visible": row.visible,
                }
                for row in self.rows
            ],
        }


def compare(
    runs: Sequence[str | Path],
    *,
    baseline: str | Path | None = None,
    model: str = "student",
    measure: str | None = None,
    html: str | Path | None = None,
) -> RunComparison:
    """Finished runs of one collection against one of them: the first, or `baseline`.

    The baseline may be one of the runs or another; it comes first.

    `model` is the system of each run that is compared, by its name in `metrics.json`; `measure` is
    one of the runs' measures, of which the first is taken where none is named. Differences
    are run - baseline; p-values are of paired randomisation, corrected by Holm over the runs.
    `html` names a file that they are written to as a page, too.

    Raises:
        ConfigError: for fewer than two runs, one named twice, a folder that holds no finished run,
            runs of different collections, splits or queries, or an unknown system or measure; for
            an `html` that is a folder.
        DataError: when a run measured nothing.
        StoreError: when a run's files are damaged, or `html` cannot be written.
    """
    if html is not None and Path(html).is_dir():
        raise ConfigError(f"--html {html} is a folder. Name a file.")
    folders = _folders(runs, baseline)
    first = folders[0]
    records = {folder: _finished_record(folder) for folder in folders}
    for folder, record in records.items():
        _check_same_collection(folder, record, first, records[first])
    measures = measures_of(first)
    chosen = measures.first if measure is None else measures.named(measure)
    for folder in folders:
        names = measures_of(folder).names
        if chosen is None or chosen.name not in names:
            name = measure if chosen is None else chosen.name
            raise ConfigError(
                f"{folder} has no figures of {name!r}. Choose one of --measure {', '.join(names)}."
            )
    assert chosen is not None  # the first run has it
    tables = {folder: table_of(folder, model) for folder in folders}
    split, frame = tables[first]
    for folder, (its_split, its_frame) in tables.items():
        if its_split != split:
            raise ConfigError(
                f"{folder} was measured on {its_split}, {first} on {split}. "
                "Compare runs that were measured on the same split."
            )
        _check_same_units(folder, its_frame, first, frame, measures)
    frames = {str(folder): its_frame for folder, (_, its_frame) in tables.items()}
    found = comparison.against(str(first), frames, chosen, _SEED)
    compared = RunComparison(
        collection=str(records[first]["data"]["name"]),
        digest=str(records[first]["data"]["digest"]),
        split=split,
        units=measures.units,
        count=len(frame),
        model=model,
        measure=chosen.name,
        baseline=str(first),
        rows=[
            _row(
                str(folder),
                records[folder]["asked"],
                estimate(frames[str(folder)], chosen, _SEED),
                found.get(str(folder)),
            )
            for folder in folders
        ],
    )
    if html is not None:
        write_text(Path(html), compared.page, stage="compare")
    return compared


def measures_of(out: Path) -> Measures:
    """Measures of a finished run.

    Raises:
        StoreError: when its metrics are damaged.
    """
    return read_json(out / METRICS, Metrics).measures


def table_of(out: Path, model: str) -> tuple[str, pl.DataFrame]:
    """The split that a finished run measured a system on, and its statistics per unit.

    Raises:
        ConfigError: when the run has no such system.
        DataError: when it measured nothing.
        StoreError: when its figures are damaged.
    """
    table = all_tables(out)
    frame = table.filter(pl.col("model") == model)
    if not len(frame):
        there = ", ".join(dict.fromkeys(table["model"]))
        raise ConfigError(f"{out} has no system {model!r}. Choose one of --model {there}.")
    return str(frame["split"][0]), frame.drop("model", "split")


def all_tables(out: Path) -> pl.DataFrame:
    """The statistics per unit of all systems of a finished run, with their `model` and `split`.

    Raises:
        DataError: when it measured nothing.
        StoreError: when they are damaged.
    """
    measures = measures_of(out)
    path = out / measures.file
    check_whole(path, anew=True)
    if not path.exists():
        raise DataError(
            f"{out} has no {path.name}: its collection has no dev or test judgements, so nothing "
            "was measured. Add qrels/test.tsv to the data and run it again in a new folder."
        )
    texts = dict.fromkeys((measures.id, "model", "split"), pl.String)
    return read_parquet(path, texts, others=pl.Float64)


def _folders(runs: Sequence[str | Path], baseline: str | Path | None) -> list[Path]:
    """The runs, the baseline first."""
    folders = [Path(run) for run in runs]
    if baseline is not None:
        folders = [Path(baseline), *(run for run in folders if run != Path(baseline))]
    seen: dict[Path, Path] = {}
    for folder in folders:
        if (twin := seen.setdefault(folder.resolve(), folder)) is not folder:
            raise ConfigError(f"{folder} and {twin} are one folder. Name each run once.")
    if len(folders) < 2:
        raise ConfigError(
            "One run has nothing to be compared with. Name two finished runs or more."
        )
    return folders


def _finished_record(folder: Path) -> Mapping[str, Any]:
    """Read the record of a finished run."""
    try:
        found = None if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
    if found:
        raise ConfigError(f"{folder} {found}. Name the folder of a finished `limbeck distill`.")
    record = read_record(folder)
    if record is None:
        raise ConfigError(
            f"{folder} holds no run: it has no {RECORD}. Name a folder that was the --out of "
            "`limbeck distill`, or an arm's folder of `limbeck bench`."
        )
    if not (folder / METRICS).exists():
        raise ConfigError(
            f"{folder} holds a run that is not finished: it has no {METRICS}. "
            "Repeat the command that made it; it goes on from where it stopped."
        )
    return record


def _check_same_collection(
    folder: Path, record: Mapping[str, Any], first: Path, other: Mapping[str, Any]
) -> None:
    """Refuse runs on other passages, queries or judgements."""
    own, theirs = record["data"], other["data"]
    if own["digest"] != theirs["digest"]:
        raise ConfigError(
            f"{folder} ran on {own['name']}, digest {own['digest'][:16]}; {first} on "
            f"{theirs['name']}, digest {theirs['digest'][:16]}. Figures of different passages, "
            "queries, judgements or --labels cannot be paired: compare runs on the same data."
        )


def _check_same_units(
    folder: Path, frame: pl.DataFrame, first: Path, other: pl.DataFrame, measures: Measures
) -> None:
    """Refuse runs that were not measured on the same queries, or other units."""
    own, theirs = set(frame[measures.id]), set(other[measures.id])
    if own != theirs:
        example = min(own ^ theirs)
        raise ConfigError(
            f"{folder} has figures of {len(own):,} {measures.units}, "
            f"{first} of {len(theirs):,}, and {len(own ^ theirs):,} are in one of them only, "
            f"such as {example!r}. "
            "Make one of them again, in a new folder."
        )


def _row(
    run: str, asked: Mapping[str, Any], estimate: Estimate, against: comparison.Comparison | None
) -> RunRow:
    """A run's row; the baseline has nothing that it was compared with."""
    row = RunRow(run, str(asked["recipe"]), int(asked["seed"]), estimate)
    if against is None:
        return row
    return replace(
        row,
        difference=against.difference,
        p=against.p,
        p_holm=against.p_holm,
        visible=against.visible if math.isfinite(against.visible) else None,
    )


def _interval(estimate: Estimate, form: str) -> str:
    return f"[{estimate.low:{form}}, {estimate.high:{form}}]"


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
