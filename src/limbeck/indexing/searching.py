"""What does a student find for a query, and what do BM25 and the teacher?

A `Searcher` is an open index with its encoder: `student` searches by vectors, `bm25` by words, and
`teacher` re-ranks what the student found. It is found in a run's folder, where an index is built
when there is none yet, or is that of a folder which `build` wrote.

This module knows no command, server or training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from limbeck.errors import ConfigError, ModelError
from limbeck.indexing.building import SEGMENT, build, encoded, model_of
from limbeck.indexing.files import (
    CARD,
    Damaged,
    Index,
    has_lost_its_card,
    is_begun,
    open_index,
)
from limbeck.indexing.runs import data_of, index_of, is_run, student_of, teacher_of
from limbeck.inference import Engine, choose_engine
from limbeck.models.encoder import Encoder
from limbeck.models.exported import is_exported, runtime_of
from limbeck.record import RECORD
from limbeck.search import BM25
from limbeck.similarity import comparable
from limbeck.teachers import Teacher, load_teacher
from limbeck.types import Logged, Progress, Role

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Lengths = NDArray[np.int64]

By = Literal["student", "bm25", "teacher"]
BY: tuple[By, ...] = get_args(By)

# in one batch: what few people ask at a time is shared out among threads, a batch on each
SEARCHED_TOKENS = 128
RERANKED = 50  # passages that a teacher reads, or as many as are asked for


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found; `score` is raw: a similarity, BM25's, or the teacher's."""

    id: str
    text: str
    score: float


class Searcher:
    """An index, the encoder that it was made with, and perhaps a teacher; `name` is for people.

    Raises:
        ModelError: when the encoder is not there, or another one.
    """

    def __init__(
        self, index: Index, engine: Engine, *, name: str, teacher: Teacher | None = None
    ) -> None:
        self.index = index
        self.engine = engine
        self.name = name
        self.teacher = teacher
        self.encoder: Encoder = model_of(index.folder, index.card).encoder

    def search(self, queries: Sequence[str], k: int, *, by: By = "student") -> list[list[Hit]]:
        """The k best passages for each query, best first, or as many as there are.

        Raises:
            ModelError: when the teacher is asked for and there is none.
        """
        if by == "bm25":
            found, scores = self._words.search(queries, k)
            rows = np.where(found < 0, -1, self.index.rows[found] if len(self.index) else -1)
            return [self._hits(*each) for each in zip(rows, scores, strict=True)]
        if by == "teacher":
            return [self._reranked(query, k) for query in queries]
        vectors = comparable(self.embed(queries, "query")[0], self.index.card["similarity"])
        return [self._hits(*each) for each in zip(*self.index.search(vectors, k), strict=True)]

    def embed(self, texts: Sequence[str], role: Role) -> tuple[Vectors, Lengths]:
        """The encoder's vectors [n, D] as they are, and how many tokens of each it read [n]."""
        vectors = np.empty((len(texts), self.encoder.dimension), dtype=np.float32)
        lengths = np.empty(len(texts), dtype=np.int64)
        for rows, found, read in encoded(self.encoder, texts, role, self.engine):
            vectors[rows], lengths[rows] = found, read
        return vectors, lengths

    def score(self, query: str, passages: Sequence[str]) -> Vectors:
        """The teacher's raw scores [n] of some passages for a query.

        Raises:
            ModelError: when there is no teacher.
        """
        if self.teacher is None:
            raise ModelError(
                f"{self.name} has no teacher: its run fitted none. Name one with --teacher."
            )
        return self.teacher.score_texts(query, passages, self.engine)

    def count_words(self, progress: Progress | None = None) -> None:
        """Build the index of BM25, in memory, if it is not there yet."""
        texts = [text for _, _, text in self.index.passages()]
        self._words = BM25.build(texts, language=self.index.language, progress=progress)

    @cached_property
    def _words(self) -> BM25:
        self.count_words()
        return self._words

    def _reranked(self, query: str, k: int) -> list[Hit]:
        """The student's first passages, in the order of the teacher."""
        [hits] = self.search([query], max(k, RERANKED))
        scores = self.score(query, [hit.text for hit in hits]).tolist() if hits else []
        return reranked(hits, scores, k)

    def _hits(self, rows: NDArray[np.int64], scores: Vectors) -> list[Hit]:
        """Rows with their ids and texts; slots without a passage left out."""
        return [
            Hit(*self.index.passage(row), score)
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
            if row >= 0
        ]


def reranked(hits: Sequence[Hit], scores: Sequence[float], k: int) -> list[Hit]:
    """The k hits with the largest of other scores, and those; equal ones stay in order."""
    scored = [replace(hit, score=score) for hit, score in zip(hits, scores, strict=True)]
    return sorted(scored, key=lambda hit: -hit.score)[:k]


def open_searcher(
    place: str | Path,
    *,
    teacher: str | None = None,
    backend: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Searcher:
    """Open a searcher for the run or index in a folder.

    In a run without an index, the data that it learned from is indexed first. `teacher` is a model;
    by default that of the run, if it fitted one.

    Raises:
        ConfigError, DataError: when there is neither, or the data of the run is not what it was.
        ModelError, StoreError: when the model or the index cannot be used.
    """
    place = Path(place).expanduser()
    choose_engine(backend, "fp32" if precision == "auto" else precision)  # refused now
    index = find_index(place, backend=backend, precision=precision, progress=progress)
    if teacher is None and is_run(place):
        teacher = teacher_of(place)
    model = index.folder / index.card["model"]["path"]
    if backend == "auto" and is_exported(model):
        backend = runtime_of(model)
    engine = choose_engine(backend, precision, taken=index.card["engine"]["precision"])
    if engine.backend != "torch":  # which puts all its threads on one batch
        engine = replace(engine, max_batch_tokens=SEARCHED_TOKENS)
    found = None if teacher is None else load_teacher(teacher)
    return Searcher(index, engine, name=place.resolve().name, teacher=found)


def find_index(
    place: Path,
    *,
    backend: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Index:
    """The index in a folder, or that of the run in it, built if it is not there yet.

    Raises:
        ConfigError, DataError: when there is neither, or the data of the run is not what it was.
        StoreError: when the index is damaged.
    """
    progress = progress or Logged()
    if (place / CARD).is_file() or is_begun(place):
        return open_index(place)
    if not is_run(place):
        raise ConfigError(
            f"{place} is neither a run nor an index: it has no {RECORD} and no {CARD}. Name the "
            "--out of `limbeck distill` or of `limbeck index`."
            if place.is_dir()
            else f"There is no folder {place}. Name the --out of `limbeck distill` or of "
            "`limbeck index`."
        )
    if (index_of(place) / CARD).is_file():
        return open_index(index_of(place))
    student_of(place)  # refused now when it is not there
    collection = data_of(place)
    if has_lost_its_card(index_of(place), -(-len(collection.passages) // SEGMENT)):
        raise Damaged(index_of(place), f"{CARD} is missing")  # building deletes what was added
    progress.say(f"{place} has no index yet: encoding the {len(collection.passages):,} passages")
    return build(str(place), collection, backend=backend, precision=precision, progress=progress)
