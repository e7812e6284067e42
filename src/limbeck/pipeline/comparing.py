"""Do finished runs differ by more than chance?

Each run left its figures per query in `per_query.parquet`; what ran on the same collection and
split can be paired, query by query. Runs that cannot are refused, saying how they differ. This
module computes no figure anew, and knows no model.
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
from limbeck.evaluation.comparison import Estimate, mean_ci
from limbeck.evaluation.table import aligned
from limbeck.pipeline.reporting import DECIDES, METRICS, PER_QUERY
from limbeck.record import RECORD, read_record
from limbeck.report import Table, comparison_page
from limbeck.store import check_whole, read_parquet, write_text

_SEED = 0  # of intervals and tests: the same runs always give the same numbers


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run: the mean of a system over the queries, and how far that is from the baseline's.

    `difference`, `p`, `p_holm` and `visible` are None for the baseline itself; `visible`, the
    smallest difference that these queries can show, is also None for a single query.
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
    queries: int
    model: str
    measure: str
    baseline: str
    rows: Sequence[RunRow]

    @property
    def text(self) -> str:
        """For people: what could be seen at all, then a line per run."""
        return f"{self.seen}\n\n{aligned(self.cells, words=2)}"

    @property
    def seen(self) -> str:
        """What could be seen at all, in words."""
        others = [row for row in self.rows if row.run != self.baseline]
        visible = ", ".join(f"{row.run} {_figure(row.visible, '.4f')}" for row in others)
        return (
            f"Smallest visible difference from {self.baseline} in {self.measure} (two-sided 5 %, "
            f"power 80 %, {self.queries:,} {self.split} queries of {self.collection}, system "
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
                f"{row.estimate.mean:.4f}",
                _interval(row.estimate, ".3f"),
                "baseline" if row.difference is None else f"{row.difference.mean:+.4f}",
                "" if row.difference is None else _interval(row.difference, "+.3f"),
                _figure(row.p, ".4f"),
                _figure(row.p_holm, ".4f"),
            ]
            for row in self.rows
        ]
        return [heads, *lines]

    @property
    def page(self) -> str:
        """As HTML."""
        heads, *lines = self.cells
        figures = Table(heads, lines, words=2)
        return comparison_page(self.as_json(), words=[self.seen], figures=figures)

    def as_json(self) -> dict[str, Any]:
        """The stable JSON form."""
        return {
            "collection": {"name": self.collection, "digest": self.digest},
            "split": self.split,
            "queries": self.queries,
            "model": self.model,
            "measure": self.measure,
            "baseline": self.baseline,
            "rows": [
                {
                    "run": row.run,
                    "recipe": row.recipe,
                    "seed": row.seed,
                    "mean": row.estimate.mean,
                    "ci": [row.estimate.low, row.estimate.high],
                    "difference": row.difference and row.difference.mean,
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
    measure: str = DECIDES,
    html: str | Path | None = None,
) -> RunComparison:
    """Finished runs of one collection against one of them: the first, or `baseline`.

    The baseline may be one of the runs or another; it comes first.

    `model` is the system of each run that is compared, by its name in `metrics.json`. Differences
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
    tables = {folder: per_query(folder, model) for folder in folders}
    split, frame = tables[first]
    for folder, (its_split, its_frame) in tables.items():
        if its_split != split:
            raise ConfigError(
                f"{folder} was measured on {its_split}, {first} on {split}. "
                "Compare runs that were measured on the same split."
            )
        _check_same_queries(folder, its_frame, first, frame)
        if measure not in its_frame.columns[1:]:
            raise ConfigError(
                f"{folder} has no figures of {measure!r}. "
                f"Choose one of --measure {', '.join(its_frame.columns[1:])}."
            )
    frames = {str(folder): its_frame for folder, (_, its_frame) in tables.items()}
    found = comparison.against(str(first), frames, measure, _SEED)
    compared = RunComparison(
        collection=str(records[first]["collection"]["name"]),
        digest=str(records[first]["collection"]["digest"]),
        split=split,
        queries=len(frame),
        model=model,
        measure=measure,
        baseline=str(first),
        rows=[
            _row(
                str(folder),
                records[folder]["asked"],
                mean_ci(frames[str(folder)][measure].to_numpy(), _SEED),
                found.get(str(folder)),
            )
            for folder in folders
        ],
    )
    if html is not None:
        write_text(Path(html), compared.page, stage="compare")
    return compared


def per_query(out: Path, model: str) -> tuple[str, pl.DataFrame]:
    """The split that a finished run measured a system on, and its figures per query.

    Raises:
        ConfigError: when the run has no such system.
        DataError: when it measured nothing.
        StoreError: when its figures are damaged.
    """
    table = all_figures(out)
    frame = table.filter(pl.col("model") == model)
    if not len(frame):
        there = ", ".join(dict.fromkeys(table["model"]))
        raise ConfigError(f"{out} has no system {model!r}. Choose one of --model {there}.")
    return str(frame["split"][0]), frame.drop("model", "split")


def all_figures(out: Path) -> pl.DataFrame:
    """The figures per query of all systems of a finished run, with their `model` and `split`.

    Raises:
        DataError: when it measured nothing.
        StoreError: when they are damaged.
    """
    check_whole(out / PER_QUERY, anew=True)
    if not (out / PER_QUERY).exists():
        raise DataError(
            f"{out} has no {PER_QUERY}: its collection has no dev or test judgements, so nothing "
            "was measured. Add qrels/test.tsv to the data and run it again in a new folder."
        )
    texts = dict.fromkeys(("query_id", "model", "split"), pl.String)
    return read_parquet(out / PER_QUERY, texts, others=pl.Float64)


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
    """What a finished run was asked for and ran on."""
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
    """Refuse what ran on other passages, queries or judgements."""
    own, theirs = record["collection"], other["collection"]
    if own["digest"] != theirs["digest"]:
        raise ConfigError(
            f"{folder} ran on {own['name']}, digest {own['digest'][:16]}; {first} on "
            f"{theirs['name']}, digest {theirs['digest'][:16]}. Figures of different passages, "
            "queries, judgements or --labels cannot be paired: compare runs of one collection."
        )


def _check_same_queries(
    folder: Path, frame: pl.DataFrame, first: Path, other: pl.DataFrame
) -> None:
    """Refuse what was not measured on the same queries."""
    own, theirs = set(frame["query_id"]), set(other["query_id"])
    if own != theirs:
        example = min(own ^ theirs)
        raise ConfigError(
            f"{folder} has figures of {len(own):,} queries, {first} of {len(theirs):,}, and "
            f"{len(own ^ theirs):,} are in one of them only, such as {example!r}. "
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
