"""How does an encoder teach? By the similarity of its vectors.

It has a vector of every text, so it scores every query of a batch against every passage. This
module knows no training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch

from limbeck.data.collection import Collection
from limbeck.data.tokens import tokenize_here
from limbeck.inference import Engine, embed, text_lengths
from limbeck.limit import Lengths
from limbeck.models.encoder import Encoder
from limbeck.models.exported import is_exported, load_exported
from limbeck.models.loading import load_encoder
from limbeck.similarity import (
    Similarity,
    list_similarity,
    matrix_similarity,
    softmax_temperature,
)
from limbeck.teachers.jobs import Positions, ScoringContext, TokensOf
from limbeck.teachers.score_store import Floats
from limbeck.teachers.teacher import LiveRanker, Teacher, model_digest, name_of
from limbeck.types import Role

_BLOCK_PAIRS = 8192  # whose vectors are gathered at a time


@dataclass(frozen=True)
class DualTeacher(Teacher):
    """An encoder that teaches by the similarity of its vectors.

    `digest` is taken from the weights once: a teacher is wrapped when its training is over.
    """

    name: str
    encoder: Encoder
    kind: ClassVar[str] = "dual"
    in_batch: ClassVar[bool] = True
    model_classes: ClassVar[frozenset[str]] = frozenset({"SentenceTransformer"})

    @classmethod
    def load(cls, spec: str, collection: Collection | None) -> Self:
        """The encoder in a folder, exported ones too, or of a hub name."""
        model = load_exported(spec) if is_exported(spec) else load_encoder(spec)
        assert isinstance(model, Encoder)
        return cls(name_of(spec), model)

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write the encoder, as a plain model folder."""
        self.encoder.save(folder, card=card, stage=stage)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of weights, tokenizer and everything else that shapes a vector."""
        return model_digest(self.kind, self.encoder)

    @property
    def temperature(self) -> float:
        """Default temperature of this similarity."""
        return softmax_temperature(self.similarity)

    @property
    def first_stage(self) -> Encoder:
        """The encoder."""
        return self.encoder

    @property
    def width(self) -> int:
        """Dimension of the encoder's vectors."""
        return self.encoder.dimension

    @property
    def similarity(self) -> Similarity:
        """Similarity by which the encoder's vectors are meant to be compared."""
        return self.encoder.similarity

    def embed(self, role: Role, positions: Positions, context: ScoringContext) -> Floats:
        """The encoder's vectors [n, D]."""
        return context.vectors(
            self.encoder, role, made_by=self.digest, name=self.name, positions=positions
        )

    def score_pairs(self, pairs: Positions, context: ScoringContext) -> Floats:
        """The similarity [n] of each pair's vectors."""
        queries, query_at = np.unique(pairs[:, 0], return_inverse=True)
        passages, passage_at = np.unique(pairs[:, 1], return_inverse=True)
        return _pair_similarities(
            self.similarity,
            self.embed("query", queries, context),
            self.embed("passage", passages, context),
            np.stack((query_at, passage_at), axis=1),
        )

    def score_texts(self, query: str, passages: Sequence[str], engine: Engine) -> Floats:
        """The similarity [n] of vectors made now."""
        asked = self._embed_now([query], "query", engine)
        answers = self._embed_now(passages, "passage", engine)
        scores: Floats = matrix_similarity(self.similarity)(asked, answers)[0].numpy()
        return scores

    def live_ranker(
        self, collection: Collection, tokens: TokensOf, engine: Engine, passages: Positions
    ) -> LiveRanker:
        """The passages' vectors are kept: it reads the query alone."""
        encoder, known = self.encoder, np.unique(passages).astype(np.int64)
        stored = tokens(encoder.tokenizer, "passage", encoder.prompt("passage"))
        answers = embed(encoder, stored, "passage", engine=engine, positions=known)
        similarity = matrix_similarity(self.similarity)

        def compare(text: str, at: Positions) -> Floats:
            found = torch.from_numpy(answers[np.searchsorted(known, at)])
            scores: Floats = similarity(self._embed_now([text], "query", engine), found)[0].numpy()
            return scores

        return compare

    def models(self) -> Sequence[Encoder]:
        """The encoder."""
        return [self.encoder]

    def backend_models(self) -> Mapping[str, Encoder]:
        """The encoder."""
        return {self.name: self.encoder}

    def read_live(
        self, pairs: Positions, tokens: TokensOf
    ) -> Sequence[tuple[Lengths | None, float | None]]:
        """The queries, each once."""
        stored = tokens(self.encoder.tokenizer, "query", self.encoder.prompt("query"))
        lengths = text_lengths(self.encoder, stored, "query", np.unique(pairs[:, 0]))
        return [(lengths, self.encoder.forward_flops(lengths))]

    def _embed_now(self, texts: Sequence[str], role: Role, engine: Engine) -> torch.Tensor:
        """Vectors [n, D] of texts that are not kept."""
        encoder = self.encoder
        tokens = tokenize_here(texts, encoder.tokenizer, prompt=encoder.prompt(role))
        return torch.from_numpy(embed(encoder, tokens, role, engine=engine))


def _pair_similarities(
    name: Similarity, queries: Floats, passages: Floats, pairs: Positions
) -> Floats:
    """The similarity [n] of rows `pairs` [n, 2] of queries [Q, D] and passages [P, D]."""
    similarity = list_similarity(name)
    scores = np.empty(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), _BLOCK_PAIRS):
        block = pairs[start : start + _BLOCK_PAIRS]
        scores[start : start + len(block)] = similarity(
            torch.from_numpy(queries[block[:, 0]]),
            torch.from_numpy(passages[block[:, 1], None]),
        ).numpy()[:, 0]
    return scores
