"""What is a teacher?

Anything that scores passages for queries. Each kind is one file of this folder, with a subclass of
`Teacher` that answers for itself: how it scores pairs and live queries, which models it has, what
they cost, and by which names it is found. Whoever uses a teacher never asks what kind it is.

How work with a model is resumed and stored is `limbeck.teachers.jobs`; whether a teacher is any
good is `limbeck.teachers.diagnostics`. This module knows no kind of teacher and no training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from limbeck.data.collection import Collection
from limbeck.data.tokens import tokenizer_digest
from limbeck.errors import ModelError, StageError
from limbeck.inference import Engine
from limbeck.limit import Lengths
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.reading import Reader, SparseReader
from limbeck.similarity import Similarity
from limbeck.store import digest
from limbeck.teachers.jobs import Positions, ScoringContext, TokensOf
from limbeck.teachers.score_store import Floats
from limbeck.types import Role

Model = Encoder | Ranker | Reader
LiveRanker = Callable[[str, Positions], Floats]  # a query's text, some passages [n] -> scores [n]


class Teacher(ABC):
    """Anything that scores passages for queries. Kinds are frozen dataclasses.

    What is not abstract here is how most kinds have it: models that score given pairs, any pair,
    and have no vectors.
    """

    name: str  # what reports call it
    model_classes: ClassVar[frozenset[str]] = frozenset()  # of sentence-transformers, wrapped by it

    # --- where it is found ---------------------------------------------------------------------

    @classmethod
    def is_named_by(cls, spec: str) -> bool:
        """Whether a text names a teacher of this kind, other than by a model folder's class: by a
        prefix, a suffix, or a file that `save` wrote.
        """
        return False

    @classmethod
    @abstractmethod
    def load(cls, spec: str, collection: Collection | None) -> Self:
        """Load the teacher that a text names; `collection` is the one that it will be asked about,
        if known.

        Raises:
            LimbeckError: when it cannot be used.
        """

    @abstractmethod
    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write it so that `load_teacher` gives it back, with `card` as the README.md of a model.

        Raises:
            StoreError: when the file system refuses.
        """

    def renamed(self, name: str) -> Self:
        """The same teacher under another name, which no score depends on."""
        return replace(self, name=name)  # type: ignore[type-var]  # they all are dataclasses

    # --- what it is ----------------------------------------------------------------------------

    @property
    @abstractmethod
    def kind(self) -> str:
        """Kind of scoring, in a word."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """The SHA-256 of all that its scores depend on but the texts and the engine: weights,
        tokenizer, template, prompts and lengths.
        """

    @property
    @abstractmethod
    def temperature(self) -> float:
        """Default temperature of a softmax over its scores, by their units."""

    @property
    def reads_pairs(self) -> bool:
        """Whether a model reads every pair that it scores: the dearest way to ask."""
        return False

    @property
    def answers(self) -> Positions | None:
        """The (query, passage) positions [n, 2] that alone it can be asked about, a query's pairs
        together and its best first; None = any.
        """
        return None

    def notes(self, collection: Collection) -> list[str]:
        """Notes for a user before it teaches on a collection, in words."""
        return []

    # --- its vectors ---------------------------------------------------------------------------

    @property
    def in_batch(self) -> bool:
        """Whether it scores any query against any passage, through vectors; then `similarity` of
        them is its score.
        """
        return False

    @property
    def first_stage(self) -> Encoder | None:
        """The one encoder that its vectors are of, and that can search a whole collection; None =
        it puts candidates in order.
        """
        return None

    @property
    def lexical(self) -> SparseReader | None:
        """The sparse encoder that it is, whose words can search a whole collection; None = it is
        none.
        """
        return None

    @property
    def width(self) -> int:
        """Dimension of its vectors; 0 = it has none."""
        return 0

    @property
    def similarity(self) -> Similarity:
        """Similarity by which its vectors are compared.

        Raises:
            StageError: when it has none.
        """
        raise no_vectors(self.name)

    def embed(self, role: Role, positions: Positions, context: ScoringContext) -> Floats:
        """Vectors [n, D] of queries or passages.

        Raises:
            StageError: when it has none.
        """
        raise no_vectors(self.name)

    # --- its scores ----------------------------------------------------------------------------

    @abstractmethod
    def score_pairs(self, pairs: Positions, context: ScoringContext) -> Floats:
        """Raw scores [n] of (query position, passage position) pairs [n, 2]."""

    def score_texts(self, query: str, passages: Sequence[str], engine: Engine) -> Floats:
        """Raw scores [n] of passages that came just now; nothing is looked up or kept.

        Raises:
            ModelError: when it knows scores of given pairs only.
            ScoreError: when a score is not finite.
        """
        raise _not_live(self.name)

    def live_ranker(
        self, collection: Collection, tokens: TokensOf, engine: Engine, passages: Positions
    ) -> LiveRanker:
        """Ranker that scores a query's text with some of these passages, as a service would that
        puts them in order: by the models, never from the score store.

        What an index would keep is made now: the passages' tokens, or their vectors.

        Raises:
            ModelError: when it knows scores of given pairs only.
        """
        raise _not_live(self.name)

    # --- its models, and what they cost --------------------------------------------------------

    @abstractmethod
    def models(self) -> Sequence[Model]:
        """The models that it asks on this machine."""

    def backend_models(self) -> Mapping[str, Encoder | Ranker]:
        """Models that an engine's backend computes, by name; they read the tokens of the run."""
        return {}

    def read_live(
        self, pairs: Positions, tokens: TokensOf
    ) -> Sequence[tuple[Lengths | None, float | None]]:
        """Reading of a live ranker's models to score pairs [n, 2], one by one: the lengths in
        tokens, and the FLOPs; None = not known.
        """
        return []

    def leaves(self) -> Sequence[Teacher]:
        """The teachers whose scores it is made of, each with a cost of its own; else itself."""
        return [self]


def model_digest(kind: str, model: Model) -> str:
    """Digest of everything that a model's numbers depend on but the texts and the engine."""
    return digest(
        [kind, model.weights_digest(), tokenizer_digest(model.tokenizer), model.config_digest()]
    )


def pair_codes(pairs: Positions) -> Positions:
    """One number [n] per (query, passage) pair [n, 2], ascending by query and then by passage.

    No two pairs share one, however many texts there are or were made on the way.
    """
    wide = pairs.astype(np.int64)
    codes: Positions = (wide[:, 0] << 32) | wide[:, 1]
    return codes


def one_with_each(passages: Sequence[str] | Positions) -> Positions:
    """The pairs [n, 2] of one query, at position 0, with passages at 0 to n - 1."""
    positions = np.arange(len(passages))
    return np.stack([np.zeros_like(positions), positions], axis=1)


def name_of(spec: str) -> str:
    """Name of the teacher that a path or hub name stands for."""
    return Path(spec).name or spec


def no_vectors(name: str) -> StageError:
    """The error for a teacher that scores pairs only."""
    return StageError(
        f"The teacher {name} has no vectors, so it scores given lists only, not whole batches. "
        "Choose candidates for it, or use a dual teacher."
    )


def _not_live(name: str) -> ModelError:
    return ModelError(f"{name} knows scores of the pairs in a file only. Name a model.")
