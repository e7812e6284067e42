"""What is each query's ranking worth, by the judgements?

Numbers are those of trec_eval (through ir-measures and pytrec-eval): graded nDCG, scores compared
as fp32, equal scores ordered by passage id, highest first. Every judged query counts, with 0 when
the run has nothing for it, so no run can shrink the denominator.

This module knows no model: a run is ids and scores, from wherever they come.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

import ir_measures
import numpy as np
import numpy.typing as npt
import polars as pl

from limbeck import store
from limbeck.errors import ConfigError, DataError, ScoreError
from limbeck.evaluation.statistics import Mean, Measures
from limbeck.types import PassageId, Qrels, QueryId

Run = Mapping[QueryId, Mapping[PassageId, float]]

MEASURES = ("nDCG@10", "RR@10", "R@100")
RETRIEVAL = Measures(
    unit="query",
    units="queries",
    measures=tuple(Mean(name=name) for name in MEASURES),
)


def run_of(
    query_ids: Sequence[QueryId],
    passage_ids: Sequence[PassageId],
    positions: npt.NDArray[np.integer],
    scores: npt.NDArray[np.floating],
) -> Run:
    """A run from the results of a search.

    Shapes: `positions` [Q, k] indices into `passage_ids`, -1 on empty places; `scores` [Q, k]; row
    i belongs to `query_ids[i]`.

    Example:
        >>> run_of([QueryId("q")], [PassageId("a"), PassageId("b")], np.array([[1, -1]]),
        ...        np.array([[0.5, 0.0]]))
        {'q': {'b': 0.5}}
    """
    return {
        query_id: {
            passage_ids[position]: score
            for position, score in zip(row.tolist(), row_scores.tolist(), strict=True)
            if position >= 0
        }
        for query_id, row, row_scores in zip(query_ids, positions, scores, strict=True)
    }


def per_query(run: Run, qrels: Qrels, measures: Sequence[str] = MEASURES) -> pl.DataFrame:
    """One row per judged query, in the order of `qrels`: `query_id` and a column per measure.

    A query that only has passages judged not relevant counts 0, as in trec_eval. Queries of the run
    without judgements are left out.

    Raises:
        ConfigError: when a measure's name is not one of ir-measures'.
        ScoreError: when a score is not a number.

    Example:
        >>> qrels = {QueryId("q"): {PassageId("a"): 1}}
        >>> per_query({QueryId("q"): {PassageId("b"): 2.0, PassageId("a"): 1.0}}, qrels, ["RR@10"])
        shape: (1, 2)
        ┌──────────┬───────┐
        │ query_id ┆ RR@10 │
        │ ---      ┆ ---   │
        │ str      ┆ f64   │
        ╞══════════╪═══════╡
        │ q        ┆ 0.5   │
        └──────────┴───────┘
    """
    parsed = {name: _measure(name) for name in measures}
    values: dict[tuple[str, object], float] = {}
    if qrels:
        # Ranks instead of scores: ir-measures' providers do not agree on how to break ties.
        ranks = {
            query_id: {
                passage_id: float(-rank)
                for rank, (passage_id, _) in enumerate(_ranked(run, query_id))
            }
            for query_id in qrels
            if run.get(query_id)
        }
        for found in ir_measures.iter_calc(list(parsed.values()), qrels, ranks):
            values[found.query_id, found.measure] = float(found.value)
    columns = {
        name: pl.Series([values[query_id, measure] for query_id in qrels], dtype=pl.Float64)
        for name, measure in parsed.items()
    }
    return pl.DataFrame({"query_id": pl.Series(list(qrels), dtype=pl.String), **columns})


def write_trec(path: Path, run: Run, *, tag: str, stage: str) -> None:
    """Write a run in TREC's format, best first: `query Q0 passage rank score tag`.

    White space and % in ids become %XX, since the format splits at white space.

    Raises:
        ScoreError: when a score is not a number.
        StoreError: when the file system refuses.
    """
    lines = [
        f"{_quoted(query_id)} Q0 {_quoted(passage_id)} {rank} {score!r} {_quoted(tag)}\n"
        for query_id in run
        for rank, (passage_id, score) in enumerate(_ranked(run, query_id), start=1)
    ]
    store.write_text(path, "".join(lines), stage=stage)


def read_trec(path: Path) -> Run:
    """The run in a TREC file, with the ids that `write_trec` was given.

    Raises:
        DataError: when the file is missing or a line is not six fields with a number for a score.
    """
    run: dict[QueryId, dict[PassageId, float]] = {}
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            query, _, passage, _, score, _ = fields
            value = float(score)
        except ValueError as error:
            raise DataError(
                f"{path.name}:{number}: expected `query Q0 passage rank score tag`, found "
                f"{line[:80]!r}. Correct the line or write the run again."
            ) from error
        run.setdefault(QueryId(unquote(query)), {})[PassageId(unquote(passage))] = value
    return run


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}. Check the path.") from error


def _ranked(run: Run, query_id: QueryId) -> list[tuple[PassageId, float]]:
    """A query's passages as trec_eval orders them: by fp32 score, then by id, both descending."""
    found = run[query_id]
    for passage_id, score in found.items():
        if math.isnan(score):
            raise ScoreError(
                f"the score of query {query_id!r} and passage {passage_id!r} is not a number. "
                "Check the model that made it."
            )
    rounded = np.array(list(found.values()), dtype=np.float32).tolist()
    order = sorted(zip(rounded, found, strict=True), reverse=True)
    return [(passage_id, float(found[passage_id])) for _, passage_id in order]


def _measure(name: str) -> object:
    try:
        return ir_measures.parse_measure(name)
    except (NameError, SyntaxError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"unknown measure {name!r}; use names such as {', '.join(MEASURES)}."
        ) from error


def _quoted(word: str) -> str:
    return "".join(quote(char, safe="") if char.isspace() or char == "%" else char for char in word)
