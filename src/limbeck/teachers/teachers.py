"""Who can teach?

A dual teacher compares vectors, so it can score every query of a batch against every passage. The
others score the pairs they are given: a cross teacher reads query and passage together; a sparse
encoder or a late-interaction model reads each alone; a file holds what some other model said. An
ensemble adds what its members say, each brought to a common scale.

How scores are computed, resumed and stored is `limbeck.teachers.scoring`; whether a teacher is any
good is `limbeck.teachers.diagnostics`. This module knows no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import numpy as np
import polars as pl
import torch

from limbeck.data.collection import Collection, Texts
from limbeck.data.scores import COLUMNS, ScoredPairs, read_scores
from limbeck.data.tokens import tokenizer_digest
from limbeck.errors import ConfigError, ModelError, ScoreError, StageError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.exported import is_exported, load_exported
from limbeck.models.loading import kind_of, load_encoder, load_late, load_ranker, load_sparse
from limbeck.models.reading import Reader
from limbeck.similarity import Similarity, list_similarity, softmax_temperature
from limbeck.store import Written, check_whole, digest, read_json, write_json, write_parquet
from limbeck.teachers.score_store import Floats
from limbeck.teachers.scoring import Positions, Work
from limbeck.types import Role

_ENSEMBLE = "ensemble.json"
_KEPT_SCORES = "scores.parquet"  # of a member that is a file of scores
_BLOCK_PAIRS = 8192  # whose vectors are gathered at a time
_SCORES = "scores:"  # before the path of a file of scores, which its suffix may say as well
_SCORES_SUFFIXES = (".parquet", ".tsv", ".tsv.gz", ".trec", ".trec.gz")
STANDARD_TEMPERATURE = 0.3  # of scores whose standard deviation is 1

Kind = Literal["dual", "cross", "sparse", "late", "scores", "ensemble"]


class Teacher(Protocol):
    """Anything that scores passages for queries.

    `digest` says everything that its scores depend on but the texts and the engine. `in_batch`:
    whether it has vectors; then `similarity` of them is its score.

    `answers`: the (query, passage) positions [n, 2] that alone it can be asked about, a query's
    pairs together and its best first; None = any.
    """

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def kind(self) -> Kind:
        """How it scores."""

    @property
    def digest(self) -> str:
        """The SHA-256 of weights, tokenizer, template, prompts and lengths."""

    @property
    def in_batch(self) -> bool:
        """Whether it scores any query against any passage, through vectors."""

    @property
    def reads_pairs(self) -> bool:
        """Whether a model reads every pair that it scores: the dearest way to ask."""

    @property
    def temperature(self) -> float:
        """What divides its scores before a softmax when nothing else is said: by their units."""

    @property
    def answers(self) -> Positions | None:
        """The pairs that it has scores of; None = it can be asked about any."""

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
        """Write it so that `load_teacher` gives it back, with `card` as the README.md of a model;
        of precomputed scores, the table that `load_scores` gives back.

        Raises:
            StoreError: when the file system refuses.
        """


class _PairsOnly:
    """What teachers without vectors share."""

    name: str
    in_batch: ClassVar[bool] = False

    @property
    def similarity(self) -> Similarity:
        """It has no vectors to compare."""
        raise _no_vectors(self.name)

    def embed(self, role: Role, positions: Positions, work: Work) -> Floats:
        """It has no vectors."""
        raise _no_vectors(self.name)


@dataclass(frozen=True)
class DualTeacher:
    """An encoder that teaches by the similarity of its vectors.

    `digest` is taken from the weights once: a teacher is wrapped when its training is over.
    """

    name: str
    encoder: Encoder
    kind: ClassVar[Kind] = "dual"
    in_batch: ClassVar[bool] = True
    reads_pairs: ClassVar[bool] = False
    answers: ClassVar[None] = None

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of weights, tokenizer and everything else that shapes a vector."""
        return _model_digest(self.kind, self.encoder)

    @property
    def similarity(self) -> Similarity:
        """How the encoder's vectors are meant to be compared."""
        return self.encoder.similarity

    @property
    def temperature(self) -> float:
        """As for every similarity of this kind."""
        return softmax_temperature(self.similarity)

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
class CrossTeacher(_PairsOnly):
    """A ranker that teaches by its raw logit for a pair; `digest` as for a dual teacher."""

    name: str
    ranker: Ranker
    kind: ClassVar[Kind] = "cross"
    reads_pairs: ClassVar[bool] = True
    temperature: ClassVar[float] = 1.0
    answers: ClassVar[None] = None

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of weights, tokenizer and everything else that shapes a score."""
        return _model_digest(self.kind, self.ranker)

    def score_pairs(self, pairs: Positions, work: Work) -> Floats:
        """The ranker's logits [n]."""
        return work.pair_scores(self.ranker, made_by=self.digest, name=self.name, pairs=pairs)

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write the ranker, as a plain model folder."""
        self.ranker.save(folder, card=card, stage=stage)


@dataclass(frozen=True)
class ReaderTeacher(_PairsOnly):
    """A sparse encoder or a late-interaction model, which teaches by its raw score of a pair.

    It could score whole batches, too, but its readings are too large to be kept of every passage:
    a vector per token, or the weights of some hundred words. `digest` as for a dual teacher.
    """

    name: str
    reader: Reader
    reads_pairs: ClassVar[bool] = False
    answers: ClassVar[None] = None

    @property
    def kind(self) -> Kind:
        """Sparse or late."""
        return self.reader.kind

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of weights, tokenizer and everything else that shapes a score."""
        return _model_digest(self.kind, self.reader)

    @property
    def temperature(self) -> float:
        """0.05 for cosines and means of them, 1 for sums, which are of the size of logits."""
        means = self.reader.score_unit in ("cosine", "meanmaxsim")
        return softmax_temperature("cosine" if means else "dot")

    def score_pairs(self, pairs: Positions, work: Work) -> Floats:
        """The model's scores [n], each text read once."""
        return work.reader_scores(self.reader, made_by=self.digest, name=self.name, pairs=pairs)

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write the model, as a plain model folder."""
        self.reader.save(folder, card=card, stage=stage)


@dataclass(frozen=True)
class ScoresTeacher(_PairsOnly):
    """Scores of some pairs of a collection that were computed elsewhere.

    A pair without a score has none: asking about it is an error. Where a collection has a text
    twice, the score of one of them holds for the other.
    """

    name: str
    collection: Collection
    known: ScoredPairs
    kind: ClassVar[Kind] = "scores"
    reads_pairs: ClassVar[bool] = False

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
        """That of standardised scores times the deviation of these: their units are not known."""
        deviation = float(self.known.scores.astype(np.float64).std())
        return STANDARD_TEMPERATURE * deviation if deviation else 1.0

    def score_pairs(self, pairs: Positions, work: Work) -> Floats:
        """The scores [n] that the file has.

        Raises:
            ScoreError: naming the first pair that it does not have.
        """
        work.tally.answers += len(pairs)
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

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write the scores as `scores.parquet`."""
        queries, passages = self.collection.queries.ids, self.collection.passages.ids
        values = (
            [queries[at] for at in self.known.pairs[:, 0]],
            [passages[at] for at in self.known.pairs[:, 1]],
            self.known.scores,
        )
        frame = pl.DataFrame(dict(zip(COLUMNS, values, strict=True)))
        write_parquet(folder / _KEPT_SCORES, frame, stage=stage)

    @cached_property
    def _exact(self) -> tuple[Positions, Floats]:
        """The codes of all pairs, ascending, and their scores."""
        return self._table(self.known.pairs)

    @cached_property
    def _by_text(self) -> tuple[Positions, Floats]:
        """As `_exact`, of the first query and passage with each text; the first score counts."""
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
        """For each query and each passage the position of the first one with its text."""
        return _first_positions(self.collection.queries), _first_positions(self.collection.passages)

    def _firsts(self, pairs: Positions) -> Positions:
        """The pairs of the first query and passage with each text."""
        queries, passages = self._first_with_text
        return np.stack([queries[pairs[:, 0]], passages[pairs[:, 1]]], axis=1)


@dataclass(frozen=True)
class EnsembleTeacher:
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
    kind: ClassVar[Kind] = "ensemble"
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
        """Whether a member does."""
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


def pair_codes(pairs: Positions) -> Positions:
    """One number [n] per (query, passage) pair [n, 2], ascending by query and then by passage.

    No two pairs share one, however many texts there are or were made on the way.
    """
    wide = pairs.astype(np.int64)
    codes: Positions = (wide[:, 0] << 32) | wide[:, 1]
    return codes


def load_teacher(spec: str) -> Teacher:
    """The teacher in a folder, exported ones too, or of a hub name, or of a `kind:path`.

    Raises:
        ConfigError: when it was exported and the extra of its runtime is not installed.
        ModelError: when it is no model, or its weights do not fit.
        StoreError: when the folder of an ensemble is damaged.
    """
    folder = Path(spec)
    if (folder / _ENSEMBLE).is_file():
        return _load_ensemble(folder)
    name = folder.name or spec
    if is_exported(spec):
        model = load_exported(spec)
        return DualTeacher(name, model) if isinstance(model, Encoder) else CrossTeacher(name, model)
    match kind_of(spec):
        case "SentenceTransformer":
            return DualTeacher(name, load_encoder(spec))
        case "CrossEncoder":
            return CrossTeacher(name, load_ranker(spec))
        case "SparseEncoder":
            return ReaderTeacher(name, load_sparse(spec))
        case "MultiVectorEncoder":
            return ReaderTeacher(name, load_late(spec))


def names_scores(spec: str) -> bool:
    """Whether a teacher is a file of scores: `scores:PATH`, or a file with such a suffix."""
    said = spec.startswith(_SCORES)
    return said or (spec.endswith(_SCORES_SUFFIXES) and not Path(spec).expanduser().is_dir())


def load_scores(spec: str, collection: Collection) -> ScoresTeacher:
    """The scores in a file as a teacher on a collection; `spec` is a path, or `scores:PATH`.

    Raises:
        DataError: when there is no such file, or something in it cannot be used.
    """
    path = Path(spec.removeprefix(_SCORES)).expanduser()
    return ScoresTeacher(path.name, collection, read_scores(path, collection))


def renamed(teacher: Teacher, name: str) -> Teacher:
    """The same teacher under another name, which no score depends on."""
    return replace(teacher, name=name)  # type: ignore[type-var]  # they all are dataclasses


class _Member(Written):
    name: str
    weight: float
    mean: float
    deviation: float


class _Ensemble(Written):
    """What an ensemble's folder says of it; `member-0` and so on lie beside that."""

    name: str
    members: list[_Member]


def _load_ensemble(folder: Path) -> EnsembleTeacher:
    """The ensemble that `save` wrote."""
    check_whole(folder / _ENSEMBLE, anew=True)
    about = read_json(folder / _ENSEMBLE, _Ensemble)
    for at, each in enumerate(about.members):
        if (folder / f"member-{at}" / _KEPT_SCORES).is_file():
            raise ModelError(
                f"{folder} is a mean with a file of scores in it ({each.name}), which knows its "
                "own pairs only. Name one of its other members, such as a folder member-0 there."
            )
    members = tuple(
        renamed(load_teacher(str(folder / f"member-{at}")), member.name)
        for at, member in enumerate(about.members)
    )
    return EnsembleTeacher(
        about.name,
        members,
        tuple(member.weight for member in about.members),
        tuple(member.mean for member in about.members),
        tuple(member.deviation for member in about.members),
    )


def models_of(teacher: Teacher) -> dict[str, Encoder | Ranker]:
    """The models in a teacher that an engine's backend computes, by name."""
    if isinstance(teacher, EnsembleTeacher):
        return {name: model for each in teacher.members for name, model in models_of(each).items()}
    if isinstance(teacher, DualTeacher):
        return {teacher.name: teacher.encoder}
    return {teacher.name: teacher.ranker} if isinstance(teacher, CrossTeacher) else {}


def _model_digest(kind: str, model: Encoder | Ranker | Reader) -> str:
    """Everything that a model's numbers depend on but the texts and the engine."""
    return digest(
        [kind, model.weights_digest(), tokenizer_digest(model.tokenizer), model.config_digest()]
    )


def _first_positions(texts: Texts) -> Positions:
    """For each text the position of the first one that equals it."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(text, at) for at, text in enumerate(texts.texts)])


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
