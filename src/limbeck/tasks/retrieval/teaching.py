"""Will a teacher help, and how do several become one?

A teacher's scores of candidates are looked at before any student learns from them. Several teachers
are brought to one scale on candidates of training queries, which need no judgements. It knows no
recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from limbeck.data.collection import Collection
from limbeck.sources import QueryList
from limbeck.tasks.task import Checked, Combined
from limbeck.teachers import EnsembleTeacher, Teacher
from limbeck.teachers.diagnostics import diagnose, doubt, refusal

if TYPE_CHECKING:
    from limbeck.tasks.retrieval.task import Retrieval

DIAGNOSED_QUERIES, DIAGNOSED_DEPTH = 300, 16  # whose candidates a teacher is examined on


def check_teacher(task: Retrieval, teacher: Teacher, temperature: float | None) -> Checked:
    """Check a teacher by its scores of training queries' candidates. `temperature` divides them in
    the student's loss; None is the teacher's own.
    """
    queries = task.askable_queries(teacher)[:DIAGNOSED_QUERIES]
    if not len(queries):
        return Checked(())
    pools = task.pools(queries, depth=DIAGNOSED_DEPTH, miner=task.base, scorer=teacher)
    known = list(task.lists(pools, teacher=teacher))
    marks = [
        np.arange(len(entry.positives) + len(entry.pool)) < len(entry.positives) for entry in known
    ]
    diagnosis = diagnose(
        [entry.scores["teacher"] for entry in known],
        marks if task.collection.labelled else None,
        temperature=temperature or teacher.temperature,
    )
    reason, doubted = refusal(diagnosis), doubt(diagnosis)
    told = {**asdict(diagnosis), "refusal": reason, "doubt": doubted}
    lines = [*diagnosis.lines(), *([doubted] if doubted else [])]
    return Checked(lines, reason, told, _scores(task.collection, known))


def combine(task: Retrieval, members: Sequence[Teacher], weights: Sequence[float]) -> Combined:
    """Several teachers as their weighted mean, each one's scores less their mean and over their
    deviation on candidates of training queries; one alone as it is.
    """
    if len(members) == 1:
        return Combined(members[0])
    given = EnsembleTeacher.unscaled("teacher", members, weights)
    queries = task.askable_queries(given)[:DIAGNOSED_QUERIES]
    pools = task.pools(queries, depth=DIAGNOSED_DEPTH, miner=task.base, scorer=given)
    pairs = task.pool_pairs(pools)
    scores = [task.pair_scores(member, pairs) for member in members]
    teacher = EnsembleTeacher.fitted("teacher", members, weights, scores)
    scale = {
        "names": [member.name for member in teacher.members],
        "digests": [member.digest for member in teacher.members],
        "weights": list(teacher.weights),
        "means": list(teacher.means),
        "deviations": list(teacher.deviations),
    }
    return Combined(teacher, teacher.members, scale)


def _scores(collection: Collection, lists: Sequence[QueryList]) -> pl.DataFrame:
    """A teacher's raw scores of lists, with ids; `relevant` is null where a query is not judged."""
    rows = [
        (entry.query_id, collection.passages.ids[passage], score, relevant)
        for entry in lists
        for passage, score, relevant in zip(
            [*entry.positives.tolist(), *entry.pool.tolist()],
            entry.scores["teacher"].tolist(),
            [True] * len(entry.positives)
            + [False if len(entry.positives) else None] * len(entry.pool),
            strict=True,
        )
    ]
    schema = {
        "query_id": pl.String,
        "passage_id": pl.String,
        "score": pl.Float32,
        "relevant": pl.Boolean,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")
