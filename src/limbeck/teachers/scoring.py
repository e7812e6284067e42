"""What does a teacher think of these pairs and texts?

A stage that asks a teacher keeps what its models gave in shards (`limbeck.teachers.jobs`), resumes
after a kill, and counts what it took:

    STAGE/pairs/ queries/ passages/      plans and shards
    STAGE/scores.parquet                 query_id, passage_id, score, in the order asked

This module does not know what kinds of teacher there are, nor how they compute.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from limbeck.data.collection import Collection
from limbeck.inference import Engine
from limbeck.store import StageFolder, write_parquet
from limbeck.teachers.jobs import SHARD_BATCHES, Positions, ScoringContext, TokensOf
from limbeck.teachers.score_store import Floats, ScoreStore
from limbeck.teachers.teacher import Teacher
from limbeck.types import Progress, Role, Silent


def score_pairs(
    teacher: Teacher,
    collection: Collection,
    pairs: Positions,
    tokens: TokensOf,
    *,
    folder: StageFolder,
    store: ScoreStore | None,
    engine: Engine,
    progress: Progress | None = None,
    shard_batches: int = SHARD_BATCHES,
) -> Floats:
    """A teacher's raw scores [n] float32 of (query position, passage position) pairs [n, 2].

    `folder.metrics` afterwards count what the process that finished the stage did: `pairs_scored`,
    `texts_embedded`, their sum `teacher_forwards`, `hits`, which the store spared, and the `speed`
    of the forwards.

    Raises:
        ScoreError: naming the query and passage whose score is not finite.
        StoreError: when the folder holds other work, or an artefact is damaged or unwritable.
    """
    context = ScoringContext(
        collection=collection,
        tokens=tokens,
        path=folder.path,
        stage=folder.name,
        store=store,
        engine=engine,
        progress=progress or Silent(),
        shard_batches=shard_batches,
    )
    done = folder.complete
    pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    scores = teacher.score_pairs(pairs, context)
    if not done:
        frame = pl.DataFrame(
            {
                "query_id": [collection.queries.ids[at] for at in pairs[:, 0]],
                "passage_id": [collection.passages.ids[at] for at in pairs[:, 1]],
                "score": scores,
            }
        )
        write_parquet(folder.path / "scores.parquet", frame, stage=folder.name)
        _finish(folder, context)
    return scores


def embed_collection(
    teacher: Teacher,
    collection: Collection,
    role: Role,
    positions: Positions,
    tokens: TokensOf,
    *,
    folder: StageFolder,
    store: ScoreStore | None,
    engine: Engine,
    progress: Progress | None = None,
    shard_batches: int = SHARD_BATCHES,
) -> Floats:
    """A teacher's vectors [n, D] float32 of the queries or passages at these positions [n].

    Compared by `teacher.similarity` they are its in-batch scores. `folder.metrics` as in
    `score_pairs`.

    Raises:
        ScoreError: when the teacher has no vectors, or naming the text whose vector is not finite.
        StoreError: when the folder holds other work, or an artefact is damaged or unwritable.
    """
    context = ScoringContext(
        collection=collection,
        tokens=tokens,
        path=folder.path,
        stage=folder.name,
        store=store,
        engine=engine,
        progress=progress or Silent(),
        shard_batches=shard_batches,
    )
    done = folder.complete
    vectors = teacher.embed(role, np.asarray(positions, dtype=np.int64), context)
    if not done:
        _finish(folder, context)
    return vectors


def _finish(folder: StageFolder, context: ScoringContext) -> None:
    """Seal the stage with the work of this process, and the answers asked for in all."""
    tally = context.tally
    folder.finish(
        teacher_forwards=tally.forwards,
        pairs_scored=tally.pairs_scored,
        texts_embedded=tally.texts_embedded,
        hits=tally.hits,
        answers=tally.answers,
        speed=tally.effort.speed(context.engine.matmul_rate),
    )
