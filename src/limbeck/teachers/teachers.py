"""Who can teach?

A dual teacher compares vectors, so it can score every query of a batch against every passage; a
cross teacher reads query and passage together and scores the pairs it is given; an ensemble adds
what its members say, each brought to a common scale.

How scores are computed, resumed and stored is `limbeck.teachers.scoring`; whether a teacher is any
good is `limbeck.teachers.diagnostics`. This module knows no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch

from limbeck.data.tokens import tokenizer_digest
from limbeck.errors import ConfigError, ModelError, StageError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.exported import is_exported, load_exported
from limbeck.models.loading import kind_of, load_encoder, load_ranker
from limbeck.similarity import Similarity, list_similarity
from limbeck.store import damaged, digest, read_json, write_json
from limbeck.teachers.score_store import Floats
from limbeck.teachers.scoring import Positions, Work
from limbeck.types import Role

_ENSEMBLE = "ensemble.json"
_BLOCK_PAIRS = 8192  # whose vectors are gathered at a time


class Teacher(Protocol):
    """Anything that scores passages for queries.

    `digest` says everything that its scores depend on but the texts and the engine. `in_batch`:
    whether it has vectors; then `similarity` of them is its score.
    """

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def kind(self) -> Literal["dual", "cross", "ensemble"]:
        """How it scores."""

    @property
    def digest(self) -> str:
        """The SHA-256 of weights, tokenizer, template, prompts and lengths."""

    @property
    def in_batch(self) -> bool:
        """Whether it scores any query against any passage, through vectors."""

    @property
    def similarity(self) -> Similarity:
        """How its vectors are compared.

        Raises:
            StageError: when it has none.
        """

    def score_pairs(self, pairs: Positions, work: Work) -> Floats:
        """Raw scores [n] of (query position, passage position) pairs [n, 2]."""

    def embed(self, role: Role, positions: Positions, work: Work) -> Floats:
        """Vectors [n, D] of queries or passages.

        Raises:
            StageError: when it has none.
        """

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write it so that `load_teacher` gives it back, with `card` as the README.md of a model.

        Raises:
            StoreError: when the file system refuses.
        """


@dataclass(frozen=True)
class DualTeacher:
    """An encoder that teaches by the similarity of its vectors.

    `digest` is taken from the weights once: a teacher is wrapped when its training is over.
    """

    name: str
    encoder: Encoder
    kind: ClassVar[Literal["dual"]] = "dual"
    in_batch: ClassVar[bool] = True

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of weights, tokenizer and everything else that shapes a vector."""
        return _model_digest(self.kind, self.encoder)

    @property
    def similarity(self) -> Similarity:
        """How the encoder's vectors are meant to be compared."""
        return self.encoder.similarity

    def score_pairs(self, pairs: Positions, work: Work) -> Floats:
        """The similarity [n] of each pair's vectors."""
        queries, query_at = np.unique(pairs[:, 0], return_inverse=True)
        passages, passage_at = np.unique(pairs[:, 1], return_inverse=True)
        return _pair_similarities(
            self.similarity,
            self.embed("query", queries, work),
            self.embed("passage", passages, work),
            np.stack((query_at, passage_at), axis=1),
        )

    def embed(self, role: Role, positions: Positions, work: Work) -> Floats:
        """The encoder's vectors [n, D]."""
        return work.vectors(
            self.encoder, role, made_by=self.digest, name=self.name, positions=positions
        )

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write the encoder, as a plain model folder."""
        self.encoder.save(folder, card=card, stage=stage)


@dataclass(frozen=True)
class CrossTeacher:
    """A ranker that teaches by its raw logit for a pair; `digest` as for a dual teacher."""

    name: str
    ranker: Ranker
    kind: ClassVar[Literal["cross"]] = "cross"
    in_batch: ClassVar[bool] = False

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of weights, tokenizer and everything else that shapes a score."""
        return _model_digest(self.kind, self.ranker)

    @property
    def similarity(self) -> Similarity:
        """A ranker has no vectors to compare."""
        raise _no_vectors(self.name)

    def score_pairs(self, pairs: Positions, work: Work) -> Floats:
        """The ranker's logits [n]."""
        return work.pair_scores(self.ranker, made_by=self.digest, name=self.name, pairs=pairs)

    def embed(self, role: Role, positions: Positions, work: Work) -> Floats:
        """A ranker has no vectors."""
        raise _no_vectors(self.name)

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write the ranker, as a plain model folder."""
        self.ranker.save(folder, card=card, stage=stage)


@dataclass(frozen=True)
class EnsembleTeacher:
    """Several teachers that add up: score = sum over members i of w_i (s_i - mean_i) / deviation_i.

    `means` and `deviations` are fixed numbers, fitted once (on dev), not of the list at hand: a
    pair then has one score whatever list it stands in, and an ensemble of dual teachers still has
    vectors. All of them are part of the digest.

    Raises:
        ConfigError: when a weight is negative, all are zero, or the numbers do not fit the members.
    """

    name: str
    members: tuple[DualTeacher | CrossTeacher, ...]
    weights: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    kind: ClassVar[Literal["ensemble"]] = "ensemble"

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
        members: Sequence[DualTeacher | CrossTeacher],
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
    def similarity(self) -> Similarity:
        """The dot product, of vectors as `embed` makes them."""
        if not self.in_batch:
            raise _no_vectors(self.name)
        return "dot"

    def combine(self, scores: Sequence[Floats]) -> Floats:
        """The weighted, standardised sum of the members' scores for the same pairs, each [n]."""
        total = np.zeros(len(scores[0]), dtype=np.float64)
        for values, weight, mean, deviation in zip(
            scores, self.weights, self.means, self.deviations, strict=True
        ):
            total += weight * (values.astype(np.float64) - mean) / deviation
        return total.astype(np.float32)

    def score_pairs(self, pairs: Positions, work: Work) -> Floats:
        """The weighted, standardised sum [n] of what the members say."""
        return self.combine(
            [
                member.score_pairs(pairs, work.within(f"member-{at}"))
                for at, member in enumerate(self.members)
            ]
        )

    def embed(self, role: Role, positions: Positions, work: Work) -> Floats:
        """Vectors [n, sum of the members' D + 1] whose dot product is the ensemble's score.

        Members' vectors (of unit length for the cosine) times sqrt(w_i / deviation_i), side by
        side, and one more number that brings in the means: 1 for a query, and
        -sum_i w_i mean_i / deviation_i for a passage.
        """
        parts = []
        offset = 0.0
        for at, member in enumerate(self.members):
            if not isinstance(member, DualTeacher):
                raise _no_vectors(self.name)
            vectors = member.embed(role, positions, work.within(f"member-{at}"))
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


def load_teacher(spec: str) -> Teacher:
    """The teacher in a folder, exported ones too, or of a hub name, or of a `kind:path`.

    Raises:
        ConfigError: when it was exported and the extra of its runtime is not installed.
        ModelError: when it is no model, a kind that cannot teach yet, or its weights do not fit.
        StoreError: when the folder of an ensemble is damaged.
    """
    folder = Path(spec)
    if (folder / _ENSEMBLE).is_file():
        return _load_ensemble(folder)
    name = folder.name or spec
    if is_exported(spec):
        model = load_exported(spec)
        return DualTeacher(name, model) if isinstance(model, Encoder) else CrossTeacher(name, model)
    kind = kind_of(spec)
    if kind == "SentenceTransformer":
        return DualTeacher(name, load_encoder(spec))
    if kind == "CrossEncoder":
        return CrossTeacher(name, load_ranker(spec))
    raise ModelError(
        f"{spec} is a {kind}, which cannot teach yet. "
        "Use a SentenceTransformer, a CrossEncoder, or a teacher fitted by an earlier run."
    )


def _load_ensemble(folder: Path) -> EnsembleTeacher:
    """The ensemble that `save_teacher` wrote."""
    about = read_json(folder / _ENSEMBLE)
    try:
        entries = about["members"]
        names = [str(entry["name"]) for entry in entries]
        weights, means, deviations = (
            tuple(float(entry[key]) for entry in entries) for key in ("weight", "mean", "deviation")
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder / _ENSEMBLE, f"{type(error).__name__}: {error}") from error
    members: list[DualTeacher | CrossTeacher] = []
    for at, name in enumerate(names):
        path = str(folder / f"member-{at}")
        if kind_of(path) == "CrossEncoder":
            members.append(CrossTeacher(name, load_ranker(path)))
        else:
            members.append(DualTeacher(name, load_encoder(path)))
    return EnsembleTeacher(str(about["name"]), tuple(members), weights, means, deviations)


def _model_digest(kind: str, model: Encoder | Ranker) -> str:
    """Everything that a model's numbers depend on but the texts and the engine."""
    return digest(
        [kind, model.weights_digest(), tokenizer_digest(model.tokenizer), model.config_digest()]
    )


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


def _no_vectors(name: str) -> StageError:
    """The error for a teacher that scores pairs only."""
    return StageError(
        f"The teacher {name} has no vectors, so it scores given lists only, not whole batches. "
        "Choose candidates for it, or use a dual teacher."
    )
