"""How does a ranker teach? By its raw logit for a query and a passage that it reads together.

It has no vectors, and reading every pair makes it the dearest teacher to ask. This module knows no
training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from limbeck.data.collection import Collection
from limbeck.data.tokens import TokenStore, tokenize_here
from limbeck.inference import Engine, pair_lengths, plan_batches, score, score_batches
from limbeck.limit import Lengths
from limbeck.models.encoder import Ranker
from limbeck.models.exported import is_exported, load_exported
from limbeck.models.loading import load_ranker
from limbeck.teachers.jobs import Answers, Positions, ScoringContext, TokensOf
from limbeck.teachers.score_store import Floats
from limbeck.teachers.teacher import LiveRanker, Teacher, model_digest, name_of, one_with_each


@dataclass(frozen=True)
class CrossTeacher(Teacher):
    """A ranker that teaches by its raw logit for a pair.

    `digest` is taken from the weights once: a teacher is wrapped when its training is over.
    """

    name: str
    ranker: Ranker
    kind: ClassVar[str] = "cross"
    reads_pairs: ClassVar[bool] = True
    temperature: ClassVar[float] = 1.0
    model_classes: ClassVar[frozenset[str]] = frozenset({"CrossEncoder"})

    @classmethod
    def load(cls, spec: str, collection: Collection | None) -> Self:
        """The ranker in a folder, exported ones too, or of a hub name."""
        model = load_exported(spec) if is_exported(spec) else load_ranker(spec)
        assert isinstance(model, Ranker)
        return cls(name_of(spec), model)

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write the ranker, as a plain model folder."""
        self.ranker.save(folder, card=card, stage=stage)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of weights, tokenizer and everything else that shapes a score."""
        return model_digest(self.kind, self.ranker)

    def score_pairs(self, pairs: Positions, context: ScoringContext) -> Floats:
        """The ranker's logits [n]."""
        scorer = _RankerScorer(self.ranker)
        return context.pair_scores(scorer, made_by=self.digest, name=self.name, pairs=pairs)

    def score_texts(self, query: str, passages: Sequence[str], engine: Engine) -> Floats:
        """The ranker's logits [n]."""
        asked = tokenize_here([query], self.ranker.tokenizer)
        answers = tokenize_here(passages, self.ranker.tokenizer)
        return score(self.ranker, asked, answers, one_with_each(passages), engine=engine)

    def live_ranker(
        self, collection: Collection, tokens: TokensOf, engine: Engine, passages: Positions
    ) -> LiveRanker:
        """The passages' tokens are kept: it reads the query with every passage."""
        ranker = self.ranker
        stored = tokens(ranker.tokenizer, "passage", "")

        def read(text: str, at: Positions) -> Floats:
            asked = tokenize_here([text], ranker.tokenizer)
            pairs = np.stack([np.zeros(len(at), dtype=np.int64), at], axis=1)
            return score(ranker, asked, stored, pairs, engine=engine)

        return read

    def models(self) -> Sequence[Ranker]:
        """The ranker."""
        return [self.ranker]

    def backend_models(self) -> Mapping[str, Ranker]:
        """The ranker."""
        return {self.name: self.ranker}

    def read_live(
        self, pairs: Positions, tokens: TokensOf
    ) -> Sequence[tuple[Lengths | None, float | None]]:
        """Lengths and FLOPs of every pair."""
        lengths = pair_lengths(self.ranker, *_pair_tokens(self.ranker, tokens), pairs)
        return [(lengths, self.ranker.forward_flops(lengths))]


@dataclass(frozen=True)
class _RankerScorer:
    """Scores pairs with a ranker: padded to the longest of a batch."""

    model: Ranker

    def engine(self, engine: Engine) -> Engine:
        """The run's engine."""
        return engine

    def plan(self, pairs: Positions, context: ScoringContext) -> list[Positions]:
        """Pairs of about one length together."""
        lengths = pair_lengths(self.model, *_pair_tokens(self.model, context.tokens), pairs)
        return plan_batches(lengths, context.engine.max_batch_tokens)

    def forward(
        self, pairs: Positions, batches: list[Positions], context: ScoringContext
    ) -> Answers:
        """The logits of one batch after the other."""
        context.tally.pairs_scored += sum(map(len, batches))
        tokens = _pair_tokens(self.model, context.tokens)
        return score_batches(self.model, *tokens, pairs, batches, context.engine)

    def count_effort(self, pairs: Positions, context: ScoringContext) -> None:
        """Count the tokens of every pair."""
        lengths = pair_lengths(self.model, *_pair_tokens(self.model, context.tokens), pairs)
        context.tally.effort.read(lengths, self.model.forward_flops(lengths))


def _pair_tokens(ranker: Ranker, tokens: TokensOf) -> tuple[TokenStore, TokenStore]:
    """The tokens of queries and of passages for pairs, which take no prompt."""
    return tokens(ranker.tokenizer, "query", ""), tokens(ranker.tokenizer, "passage", "")
