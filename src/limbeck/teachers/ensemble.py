"""How do several teachers teach as one? By a weighted sum, each brought to a common scale.

This module knows none of its members' kinds, and no training.
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
from limbeck.errors import ConfigError, ModelError
from limbeck.inference import Engine
from limbeck.limit import Lengths
from limbeck.models.encoder import Encoder, Ranker
from limbeck.similarity import Similarity
from limbeck.store import Written, check_whole, digest, read_json, write_json
from limbeck.teachers.jobs import Positions, ScoringContext, TokensOf
from limbeck.teachers.registry import load_teacher
from limbeck.teachers.score_store import Floats
from limbeck.teachers.scores_file import KEPT_SCORES, STANDARD_TEMPERATURE
from limbeck.teachers.teacher import LiveRanker, Model, Teacher, no_vectors, pair_codes
from limbeck.types import Role

_ENSEMBLE = "ensemble.json"


class _Member(Written):
    name: str
    weight: float
    mean: float
    deviation: float


class _Ensemble(Written):
    """Contents of the file that describes an ensemble; `member-0` and so on lie beside it."""

    name: str
    members: list[_Member]


@dataclass(frozen=True)
class EnsembleTeacher(Teacher):
    """Several teachers that add up: score = sum over members i of w_i (s_i - mean_i) / deviation_i.

    `means` and `deviations` are fixed numbers, fitted once, not of the list at hand: a pair then
    has one score whatever list it stands in, and an ensemble of dual teachers still has vectors.
    All of them are part of the digest.

    Raises:
        ConfigError: when a weight is negative, all are zero, or the numbers do not fit the members.
    """

    name: str
    members: tuple[Teacher, ...]
    weights: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    kind: ClassVar[str] = "ensemble"
    temperature: ClassVar[float] = STANDARD_TEMPERATURE

    def __post_init__(self) -> None:
        sizes = {len(self.weights), len(self.means), len(self.deviations)}
        if sizes != {len(self.members)}:
            raise ConfigError(
                f"The ensemble {self.name} has {len(self.members)} members; give each one weight, "
                "one mean and one deviation."
            )
        if min(self.weights, default=0) < 0 or not sum(self.weights) > 0:
            raise ConfigError(
                f"The ensemble {self.name} has weights {self.weights}; none may be negative and "
                "their sum must be above 0."
            )
        if not min(self.deviations) > 0:
            raise ConfigError(
                f"A member of the ensemble {self.name} gives every pair the same score. "
                "Leave it out."
            )

    @classmethod
    def fitted(
        cls,
        name: str,
        members: Sequence[Teacher],
        weights: Sequence[float],
        scores: Sequence[Floats],
    ) -> EnsembleTeacher:
        """The ensemble whose means and deviations are those of each member's `scores`, all on the
        same pairs.

        Raises:
            ConfigError: as the class, or when a member has no scores.
        """
        if not all(len(values) for values in scores):
            raise ConfigError(f"The ensemble {name} needs scores of every member to be fitted.")
        exact = [np.asarray(values, dtype=np.float64) for values in scores]
        return cls(
            name,
            tuple(members),
            tuple(float(weight) for weight in weights),
            tuple(float(values.mean()) for values in exact),
            tuple(float(values.std()) for values in exact),
        )

    @classmethod
    def unscaled(
        cls, name: str, members: Sequence[Teacher], weights: Sequence[float]
    ) -> EnsembleTeacher:
        """The ensemble before it is fitted: it knows its members, but its scores mean nothing yet.

        Raises:
            ConfigError: as the class.
        """
        count = len(members)
        return cls(name, tuple(members), tuple(weights), (0.0,) * count, (1.0,) * count)

    @classmethod
    def is_named_by(cls, spec: str) -> bool:
        """A folder with the file that `save` writes last."""
        return (Path(spec) / _ENSEMBLE).is_file()

    @classmethod
    def load(cls, spec: str, collection: Collection | None) -> Self:
        """The ensemble that `save` wrote.

        Raises:
            ModelError: when a member cannot be used.
            StoreError: when the folder is damaged.
        """
        folder = Path(spec)
        check_whole(folder / _ENSEMBLE, anew=True)
        about = read_json(folder / _ENSEMBLE, _Ensemble)
        for at, each in enumerate(about.members):
            if (folder / f"member-{at}" / KEPT_SCORES).is_file():
                raise ModelError(
                    f"{folder} is a mean with a file of scores in it ({each.name}), which knows "
                    "its own pairs only. Name one of its other members, such as a folder member-0 "
                    "there."
                )
        members = tuple(
            load_teacher(str(folder / f"member-{at}")).renamed(member.name)
            for at, member in enumerate(about.members)
        )
        return cls(
            about.name,
            members,
            tuple(member.weight for member in about.members),
            tuple(member.mean for member in about.members),
            tuple(member.deviation for member in about.members),
        )

    @property
    def digest(self) -> str:
        """The SHA-256 of the members' digests, weights and scales."""
        members = [member.digest for member in self.members]
        return digest([self.kind, members, self.weights, self.means, self.deviations])

    @property
    def in_batch(self) -> bool:
        """Whether every member has vectors."""
        return all(member.in_batch for member in self.members)

    @property
    def reads_pairs(self) -> bool:
        """Whether a member reads pairs."""
        return any(member.reads_pairs for member in self.members)

    @cached_property
    def answers(self) -> Positions | None:
        """The pairs that every member has scores of, in the order of the first that is limited."""
        limited = [each.answers for each in self.members if each.answers is not None]
        if not limited:
            return None
        codes = [pair_codes(pairs) for pairs in limited]
        shared = np.ones(len(codes[0]), dtype=bool)
        for others in codes[1:]:
            shared &= np.isin(codes[0], others)
        return limited[0][shared]

    @property
    def similarity(self) -> Similarity:
        """The dot product, of vectors as `embed` makes them."""
        if not self.in_batch:
            raise no_vectors(self.name)
        return "dot"

    @property
    def width(self) -> int:
        """The members' side by side, and one number more; 0 where a member has no vectors."""
        return 1 + sum(member.width for member in self.members) if self.in_batch else 0

    def combine(self, scores: Sequence[Floats]) -> Floats:
        """The weighted, standardised sum of the members' scores for the same pairs, each [n]."""
        total = np.zeros(len(scores[0]), dtype=np.float64)
        for values, weight, mean, deviation in zip(
            scores, self.weights, self.means, self.deviations, strict=True
        ):
            total += weight * (values.astype(np.float64) - mean) / deviation
        return total.astype(np.float32)

    def score_pairs(self, pairs: Positions, context: ScoringContext) -> Floats:
        """The weighted, standardised sum [n] of the members' scores."""
        return self.combine(
            [
                member.score_pairs(pairs, context.within(f"member-{at}"))
                for at, member in enumerate(self.members)
            ]
        )

    def score_texts(self, query: str, passages: Sequence[str], engine: Engine) -> Floats:
        """The weighted, standardised sum [n] of the members' scores."""
        return self.combine([each.score_texts(query, passages, engine) for each in self.members])

    def live_ranker(
        self, collection: Collection, tokens: TokensOf, engine: Engine, passages: Positions
    ) -> LiveRanker:
        """Each member ranks as it would alone."""
        rankers = [each.live_ranker(collection, tokens, engine, passages) for each in self.members]
        return lambda text, at: self.combine([ranker(text, at) for ranker in rankers])

    def models(self) -> Sequence[Model]:
        """The models of all members."""
        return [model for member in self.members for model in member.models()]

    def backend_models(self) -> Mapping[str, Encoder | Ranker]:
        """The backend models of all members."""
        found = [member.backend_models() for member in self.members]
        return {name: model for each in found for name, model in each.items()}

    def read_live(
        self, pairs: Positions, tokens: TokensOf
    ) -> Sequence[tuple[Lengths | None, float | None]]:
        """Lengths and FLOPs of the reading of all members."""
        return [read for member in self.members for read in member.read_live(pairs, tokens)]

    def leaves(self) -> Sequence[Teacher]:
        """The leaves of all members."""
        return [leaf for member in self.members for leaf in member.leaves()]

    def embed(self, role: Role, positions: Positions, context: ScoringContext) -> Floats:
        """Vectors [n, sum of the members' D + 1] whose dot product is the ensemble's score.

        Members' vectors (of unit length for the cosine) times sqrt(w_i / deviation_i), side by
        side, and one more number that brings in the means: 1 for a query, and
        -sum_i w_i mean_i / deviation_i for a passage.
        """
        parts = []
        offset = 0.0
        for at, member in enumerate(self.members):
            vectors = member.embed(role, positions, context.within(f"member-{at}"))
            if member.similarity == "cosine":
                vectors = torch.nn.functional.normalize(torch.from_numpy(vectors), dim=-1).numpy()
            factor = self.weights[at] / self.deviations[at]
            parts.append(vectors * np.float32(np.sqrt(factor)))
            offset -= factor * self.means[at]
        last = 1.0 if role == "query" else offset
        parts.append(np.full((len(positions), 1), last, dtype=np.float32))
        return np.concatenate(parts, axis=1)

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write `member-0`, `member-1`, ... and then `ensemble.json`: without it the folder is no
        teacher.
        """
        for at, member in enumerate(self.members):
            member.save(folder / f"member-{at}", card=card, stage=stage)
        members = [
            {"name": member.name, "weight": weight, "mean": mean, "deviation": deviation}
            for member, weight, mean, deviation in zip(
                self.members, self.weights, self.means, self.deviations, strict=True
            )
        ]
        write_json(folder / _ENSEMBLE, {"name": self.name, "members": members}, stage=stage)
