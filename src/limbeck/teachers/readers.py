"""How does a model teach that reads each text alone, but not into one vector?

A sparse encoder or a late-interaction model scores a pair by comparing what it read of both. Its
readings are too large to be kept of every passage, so the pairs of a passage are scored together,
and only the scores are kept. This module knows no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from limbeck.data.collection import Collection
from limbeck.inference import Engine, compare_readings, read_plan
from limbeck.limit import Lengths
from limbeck.models.loading import kind_of, load_late, load_sparse
from limbeck.models.reading import Reader, SparseReader
from limbeck.similarity import softmax_temperature
from limbeck.teachers.jobs import Answers, Positions, ScoringContext, TokensOf
from limbeck.teachers.score_store import Floats
from limbeck.teachers.teacher import LiveRanker, Teacher, model_digest, name_of, one_with_each


@dataclass(frozen=True)
class ReaderTeacher(Teacher):
    """A sparse encoder or a late-interaction model, which teaches by its raw score of a pair.

    It could score whole batches, too, but its readings are too large to be kept of every passage:
    a vector per token, or the weights of some hundred words. `digest` is taken from the weights
    once: a teacher is wrapped when its training is over.
    """

    name: str
    reader: Reader
    model_classes: ClassVar[frozenset[str]] = frozenset({"SparseEncoder", "MultiVectorEncoder"})

    @classmethod
    def load(cls, spec: str, collection: Collection | None) -> Self:
        """The model in a folder or of a hub name."""
        read = load_sparse if kind_of(spec) == "SparseEncoder" else load_late
        return cls(name_of(spec), read(spec))

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write the model, as a plain model folder."""
        self.reader.save(folder, card=card, stage=stage)

    @property
    def kind(self) -> str:
        """Sparse or late."""
        return self.reader.kind

    @property
    def lexical(self) -> SparseReader | None:
        """The model, where it is sparse."""
        return self.reader if isinstance(self.reader, SparseReader) else None

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of weights, tokenizer and everything else that shapes a score."""
        return model_digest(self.kind, self.reader)

    @property
    def temperature(self) -> float:
        """0.05 for cosines and means of them, 1 for sums, which are of the size of logits."""
        means = self.reader.score_unit in ("cosine", "meanmaxsim")
        return softmax_temperature("cosine" if means else "dot")

    def score_pairs(self, pairs: Positions, context: ScoringContext) -> Floats:
        """The model's scores [n], each text read once."""
        scorer = _ReaderScorer(self.reader)
        return context.pair_scores(scorer, made_by=self.digest, name=self.name, pairs=pairs)

    def score_texts(self, query: str, passages: Sequence[str], engine: Engine) -> Floats:
        """The model's scores [n], each text read once."""
        exact = replace(engine, backend="torch")  # a reader is never converted
        at = np.arange(len(passages))
        plan = read_plan(passages, at, self.reader, exact.max_batch_tokens)
        pairs = one_with_each(passages)
        return self._in_order(query, passages, pairs, plan, exact)

    def live_ranker(
        self, collection: Collection, tokens: TokensOf, engine: Engine, passages: Positions
    ) -> LiveRanker:
        """Ranker that reads the query and the passages each time: nothing is kept."""
        texts = collection.passages.texts

        def read(text: str, at: Positions) -> Floats:
            plan = read_plan(texts, at, self.reader, engine.max_batch_tokens)
            places = [np.flatnonzero(np.isin(at, batch)) for batch in plan]
            pairs = np.stack([np.zeros(len(at), dtype=np.int64), at], axis=1)
            return self._in_order(text, texts, pairs, places, engine)

        return read

    def models(self) -> Sequence[Reader]:
        """The model."""
        return [self.reader]

    def read_live(
        self, pairs: Positions, tokens: TokensOf
    ) -> Sequence[tuple[Lengths | None, float | None]]:
        """Lengths and FLOPs are not known: sentence-transformers makes the tokens."""
        return [(None, None)]

    def _in_order(
        self,
        query: str,
        passages: Sequence[str],
        pairs: Positions,
        batches: Sequence[Positions],
        engine: Engine,
    ) -> Floats:
        """The scores [n] of pairs [n, 2] of one query, read in these batches of rows."""
        scores = np.empty(len(pairs), dtype=np.float32)
        for rows, found in compare_readings(self.reader, [query], passages, pairs, batches, engine):
            scores[rows] = found
        return scores


@dataclass(frozen=True)
class _ReaderScorer:
    """Scores pairs with a reader. Those of a passage are in one batch, so every query and every
    passage is read once.
    """

    model: Reader

    def engine(self, engine: Engine) -> Engine:
        """A reader is never converted."""
        return engine.training()

    def plan(self, pairs: Positions, context: ScoringContext) -> list[Positions]:
        """Passages of about one length together, each with its queries."""
        found, counts = np.unique(pairs[:, 1], return_counts=True)
        rows = np.split(np.argsort(pairs[:, 1], kind="stable"), np.cumsum(counts)[:-1])
        texts, most = context.collection.passages.texts, context.engine.training().max_batch_tokens
        batches = read_plan(texts, found, self.model, most)
        return [
            np.concatenate([rows[at] for at in np.searchsorted(found, batch)]) for batch in batches
        ]

    def forward(
        self, pairs: Positions, batches: list[Positions], context: ScoringContext
    ) -> Answers:
        """The scores of one batch after the other."""
        context.tally.texts_embedded += sum(
            len(np.unique(pairs[np.concatenate(batches), column])) for column in (0, 1)
        )
        queries, passages = context.collection.queries.texts, context.collection.passages.texts
        engine = self.engine(context.engine)
        return compare_readings(self.model, queries, passages, pairs, batches, engine)

    def count_effort(self, pairs: Positions, context: ScoringContext) -> None:
        """Count effort that is not known: sentence-transformers makes the tokens."""
        context.tally.effort.read(None, None)
