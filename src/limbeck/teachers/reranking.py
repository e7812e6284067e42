"""What does a teacher say of passages that came just now?

No collection, no store and no folder: texts in, raw scores out. How scores of a collection are
computed, resumed and kept is `limbeck.teachers.scoring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from limbeck.data.tokens import tokenize_here
from limbeck.errors import ModelError
from limbeck.inference import Engine, compare_readings, embed, read_plan, score
from limbeck.similarity import matrix_similarity
from limbeck.teachers.score_store import Floats
from limbeck.teachers.teachers import (
    CrossTeacher,
    DualTeacher,
    EnsembleTeacher,
    ReaderTeacher,
    Teacher,
)
from limbeck.types import Role


def score_texts(teacher: Teacher, query: str, passages: Sequence[str], engine: Engine) -> Floats:
    """The raw scores [n] that a teacher gives some passages for a query.

    Raises:
        ModelError: when it knows scores of the pairs in a file only.
        ScoreError: when a score is not finite.
    """
    match teacher:
        case DualTeacher(encoder=encoder):
            asked: tuple[tuple[Sequence[str], Role], ...] = (
                ([query], "query"),
                (passages, "passage"),
            )
            queries, found = (
                torch.from_numpy(
                    embed(
                        encoder,
                        tokenize_here(texts, encoder.tokenizer, prompt=encoder.prompt(role)),
                        role,
                        engine=engine,
                    )
                )
                for texts, role in asked
            )
            scores: Floats = matrix_similarity(encoder.similarity)(queries, found)[0].numpy()
            return scores
        case CrossTeacher(ranker=ranker):
            return score(
                ranker,
                tokenize_here([query], ranker.tokenizer),
                tokenize_here(passages, ranker.tokenizer),
                _pairs(passages),
                engine=engine,
            )
        case ReaderTeacher(reader=reader):
            scores = np.empty(len(passages), dtype=np.float32)
            exact = replace(engine, backend="torch")  # a reader is never converted
            plan = read_plan(passages, np.arange(len(passages)), reader, exact.max_batch_tokens)
            pairs = _pairs(passages)
            for rows, own in compare_readings(reader, [query], passages, pairs, plan, exact):
                scores[rows] = own
            return scores
        case EnsembleTeacher(members=members):
            return teacher.combine([score_texts(each, query, passages, engine) for each in members])
        case _:
            raise ModelError(
                f"{teacher.name} knows scores of the pairs in a file only. Name a model."
            )


def _pairs(passages: Sequence[str]) -> np.ndarray:
    """The one query with each of the passages: [n, 2]."""
    positions = np.arange(len(passages))
    return np.stack([np.zeros_like(positions), positions], axis=1)
