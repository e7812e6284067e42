"""How do scores teach that were computed elsewhere?

They are read from a file and looked up: a pair without a score has none. This module knows no
model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import polars as pl

from limbeck.data.collection import Collection, Texts
from limbeck.data.scores import COLUMNS, ScoredPairs, read_scores
from limbeck.errors import ModelError, ScoreError
from limbeck.store import digest, write_parquet
from limbeck.teachers.jobs import Positions, ScoringContext
from limbeck.teachers.score_store import Floats
from limbeck.teachers.teacher import Model, Teacher, pair_codes
from limbeck.types import SPLITS

KEPT_SCORES = "scores.parquet"  # in the folder that `save` writes
STANDARD_TEMPERATURE = 0.3  # of scores whose standard deviation is 1
_PREFIX = "scores:"  # before the path of a file of scores, which its suffix may say as well
_SUFFIXES = (".parquet", ".tsv", ".tsv.gz", ".trec", ".trec.gz")


@dataclass(frozen=True)
class ScoresTeacher(Teacher):
    """Scores of some pairs of a collection that were computed elsewhere.

    A pair without a score has none: asking about it is an error. Where a collection has a text
    twice, the score of one of them holds for the other.
    """

    name: str
    collection: Collection
    known: ScoredPairs
    kind: ClassVar[str] = "scores"

    @classmethod
    def is_named_by(cls, spec: str) -> bool:
        """`scores:PATH`, or a file with such a suffix."""
        said = spec.startswith(_PREFIX)
        return said or (spec.endswith(_SUFFIXES) and not Path(spec).expanduser().is_dir())

    @classmethod
    def load(cls, spec: str, collection: Collection | None) -> Self:
        """The scores in a file, which are about the passages of one collection.

        Raises:
            DataError: when there is no such file, or something in it cannot be used.
            ModelError: where there is no collection that it could be about.
        """
        if collection is None:
            raise ModelError(f"{spec} has scores of the pairs of one collection. Name a model.")
        path = Path(spec.removeprefix(_PREFIX)).expanduser()
        return cls(path.name, collection, read_scores(path, collection))

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write the scores as `scores.parquet`."""
        queries, passages = self.collection.queries.ids, self.collection.passages.ids
        values = (
            [queries[at] for at in self.known.pairs[:, 0]],
            [passages[at] for at in self.known.pairs[:, 1]],
            self.known.scores,
        )
        frame = pl.DataFrame(dict(zip(COLUMNS, values, strict=True)))
        write_parquet(folder / KEPT_SCORES, frame, stage=stage)

    @property
    def answers(self) -> Positions:
        """The pairs of the file."""
        return self.known.pairs

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the collection and all scores, whatever the file they came in."""
        return digest([self.kind, self.collection.digest, self.known.digest])

    @cached_property
    def temperature(self) -> float:
        """Default temperature: that of standardised scores times the deviation of these, whose
        units are not known.
        """
        deviation = float(self.known.scores.astype(np.float64).std())
        return STANDARD_TEMPERATURE * deviation if deviation else 1.0

    def notes(self, collection: Collection) -> list[str]:
        """Notes on what was left out of the file, and on how many queries it is about."""
        known = {collection.queries.ids[at] for at in np.unique(self.answers[:, 0])}
        parts = [("training", [*collection.labelled, *collection.unlabelled])]
        parts += [(split, list(collection.qrels.get(split, {}))) for split in SPLITS[1:]]
        told = ", ".join(
            f"{len(known.intersection(queries)):,} of {len(queries):,} {name}"
            for name, queries in parts
            if queries
        )
        return [*self.known.notes, f"{self.name}: {len(self.answers):,} scores, for {told} queries"]

    def models(self) -> Sequence[Model]:
        """None: somebody else asked them."""
        return []

    def score_pairs(self, pairs: Positions, context: ScoringContext) -> Floats:
        """The scores [n] that the file has.

        Raises:
            ScoreError: naming the first pair that it does not have.
        """
        context.tally.answers += len(pairs)
        found = self._looked_up(self._exact, pairs)
        unknown = np.isnan(found)
        if unknown.any():
            found[unknown] = self._looked_up(self._by_text, self._firsts(pairs[unknown]))
        if np.isnan(found).any():
            query, passage = pairs[np.flatnonzero(np.isnan(found))[0]]
            raise ScoreError(
                f"{self.name} has no score of query {self.collection.queries.ids[query]!r} and "
                f"passage {self.collection.passages.ids[passage]!r}. Add it to the file, or name a "
                "model as teacher."
            )
        return found

    @cached_property
    def _exact(self) -> tuple[Positions, Floats]:
        """The codes of all pairs, ascending, and their scores."""
        return self._table(self.known.pairs)

    @cached_property
    def _by_text(self) -> tuple[Positions, Floats]:
        """Scores as `_exact` has them, of the first query and passage with each text; the first
        score counts.
        """
        return self._table(self._firsts(self.known.pairs))

    def _table(self, pairs: Positions) -> tuple[Positions, Floats]:
        codes, first = np.unique(pair_codes(pairs), return_index=True)
        return codes, self.known.scores[first]

    def _looked_up(self, table: tuple[Positions, Floats], pairs: Positions) -> Floats:
        """The scores [n] of pairs [n, 2]; NaN where the table has none."""
        codes, scores = table
        wanted = pair_codes(pairs)
        at = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
        return np.where(codes[at] == wanted, scores[at], np.float32(np.nan))

    @cached_property
    def _first_with_text(self) -> tuple[Positions, Positions]:
        """Position of the first one with its text, for each query and each passage."""
        return _first_positions(self.collection.queries), _first_positions(self.collection.passages)

    def _firsts(self, pairs: Positions) -> Positions:
        """The pairs of the first query and passage with each text."""
        queries, passages = self._first_with_text
        return np.stack([queries[pairs[:, 0]], passages[pairs[:, 1]]], axis=1)


def _first_positions(texts: Texts) -> Positions:
    """Position of the first text that equals it, for each text."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(text, at) for at, text in enumerate(texts.texts)])
