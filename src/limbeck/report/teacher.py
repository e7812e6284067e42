"""What did the teacher say of candidates, and which of them may be relevant though nobody said so?

From what the examination of the teacher left in a run: its diagnosis, and its raw scores of
candidates of some training queries. A candidate that it puts above every relevant passage of its
query is a doubtful negative: a mistake of the teacher, or a gap in the judgements.

This module knows no model and judges nothing anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from markupsafe import Markup

from limbeck.data.dataset import Dataset
from limbeck.report.charts import histogram
from limbeck.report.page import alternative_text, unit_text
from limbeck.store import Written, read_json, read_parquet

BINS = 40
MAX_DOUBTED = 50  # in a page
GROUPS = {  # of `relevant` in the table of scores: null where the query has no judgements
    "judged relevant": True,
    "other candidates of judged queries": False,
    "candidates of queries without judgements": None,
}


_SCORES = {
    "query_id": pl.String,
    "passage_id": pl.String,
    "score": pl.Float32,
    "relevant": pl.Boolean,
}


class _Diagnosis(Written):
    """Fields read from a diagnosis; None where no list could tell."""

    scores: int
    lists: int
    spread: float | None = None
    entropy: float | None = None
    saturation: float | None = None
    agreement: float | None = None
    agreement_error: float | None = None
    agreement_lists: int = 0
    refusal: str | None = None
    doubt: str | None = None


@dataclass(frozen=True, slots=True)
class Doubted:
    """A candidate that a teacher puts above its query's best relevant passage; raw scores."""

    query: str
    passage: str
    best: str
    score: float
    best_score: float

    @property
    def above(self) -> float:
        """The margin of the score over the best positive's."""
        return self.score - self.best_score


@dataclass(frozen=True, slots=True)
class Examined:
    """Examination of a teacher: `judged` queries have relevant passages and others, `doubting` of
    them a doubtful negative; `doubted` holds the first `MAX_DOUBTED` of `count`.
    """

    told: Sequence[str]
    picture: Markup | None
    judged: int
    doubting: int
    count: int
    doubted: Sequence[Doubted]


def examined(run: Path, data: Dataset | None) -> Examined | None:
    """Read a run's examination of its teacher; None when there was none."""
    folder = run / "stages" / "diagnose"
    if not (folder / "diagnosis.json").exists():
        return None
    told = _lines(read_json(folder / "diagnosis.json", _Diagnosis))
    if not (folder / "scores.parquet").exists():
        return Examined(told, None, 0, 0, 0, [])
    table = read_parquet(folder / "scores.parquet", _SCORES)
    found, judged = _above_the_best(table)
    doubted = [
        Doubted(
            unit_text(data, row["query_id"]) or row["query_id"],
            alternative_text(data, row["passage_id"]) or row["passage_id"],
            alternative_text(data, row["best"]) or row["best"],
            float(row["score"]),
            float(row["best_score"]),
        )
        for row in found.head(MAX_DOUBTED).to_dicts()
    ]
    return Examined(told, _spread(table), judged, found["query_id"].n_unique(), len(found), doubted)


def _above_the_best(table: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Candidates above the best relevant passage of their query, farthest first, and how many
    queries were looked at.
    """
    best = (
        table.filter(pl.col("relevant"))
        .sort("score", descending=True, maintain_order=True)
        .group_by("query_id", maintain_order=True)
        .agg(pl.first("passage_id").alias("best"), pl.first("score").alias("best_score"))
    )
    others = table.filter(~pl.col("relevant")).join(best, on="query_id", maintain_order="left")
    above = others.filter(pl.col("score") > pl.col("best_score"))
    order = (pl.col("score") - pl.col("best_score")).alias("above")
    found = above.with_columns(order).sort("above", descending=True, maintain_order=True)
    return found, others["query_id"].n_unique()


def _spread(table: pl.DataFrame) -> Markup:
    """Histogram of the scores, by what is known of the passages."""
    scores = table["score"].to_numpy().astype(np.float64)
    low, high = float(scores.min()), float(scores.max())
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    groups = {}
    for name, relevant in GROUPS.items():
        own = scores[table["relevant"].eq_missing(relevant).to_numpy()]
        if len(own):
            groups[f"{name} ({len(own):,})"] = (np.histogram(own, edges)[0] / len(own)).tolist()
    return histogram("The teacher's raw scores", edges.tolist(), groups, x="score")


def _lines(found: _Diagnosis) -> list[str]:
    """A diagnosis in words; values that no list could tell are left out."""
    forms = {
        "spread": "Standard deviation within a list: {:.4g}, in the teacher's own units.",
        "entropy": (
            "Entropy of its softmax, at the temperature of training: {:.3f} of the largest "
            "possible. At 1 all candidates look alike, at 0 one has everything."
        ),
        "saturation": "At the lowest or highest value: {:.1%} of the scores.",
    }
    told = [f"Examined on {found.scores:,} scores in {found.lists:,} lists."]
    told += [
        form.format(value)
        for key, form in forms.items()
        if (value := getattr(found, key)) is not None
    ]
    if found.agreement is not None:
        error = found.agreement_error
        spread = "" if error is None else f" ± {1.96 * error:.1%}"
        told.append(
            f"Agreement with the judgements: {found.agreement:.1%}{spread} of the pairs of a "
            f"relevant and another passage are in the right order, over {found.agreement_lists:,} "
            "lists; chance gives 50 %."
        )
    return [*told, *(said for said in (found.refusal, found.doubt) if said)]
