"""How is work with a model planned, computed in shards, and resumed?

A job writes its plan first: every distinct pair or text, in what order and in which batch, and what
the score store already knew. Then it computes shard by shard, a shard being whole batches. A killed
job finishes the plan it finds, so a result that depends on the make-up of a batch (bf16) is the
same bytes as without the kill, and at most one shard is computed twice.

    FOLDER/pairs/                        or queries/, passages/: what a model is asked for
      plan/plan.parquet plan.json        ids, batch (-1 = known to the store), score if known
      plan/known.safetensors             vectors known to the store
      shard-00000.parquet | .safetensors

This module does not know what kinds of teacher there are: a teacher hands its model to a
`ScoringContext`, as a `PairScorer` where it scores pairs.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import safetensors.torch
import torch

from limbeck.data.collection import Collection, Texts
from limbeck.data.tokens import TokenStore
from limbeck.errors import ScoreError, StoreError
from limbeck.inference import Engine, embed_batches, plan_batches, text_lengths
from limbeck.limit import Effort
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.reading import Reader
from limbeck.store import (
    Written,
    damaged,
    digest,
    new_folder,
    read_json,
    read_parquet,
    read_tensors,
    write_parquet,
    write_tensors,
)
from limbeck.teachers.score_store import Floats, Keys, ScoreStore, text_keys
from limbeck.types import Progress, Role

SHARD_BATCHES = 50  # a minute or so of a large ranker on two cores

Positions = npt.NDArray[np.int64]
Answers = Iterator[tuple[Positions, Floats]]  # rows of a batch, and what was found for them


class TokensOf(Protocol):
    """The tokens of all queries or all passages of a collection, as one tokenizer sees them."""

    def __call__(self, tokenizer: Any, role: Role, prompt: str) -> TokenStore:
        """Tokens by position, as `limbeck.data.tokens.tokenize` gives them with this prompt."""


@dataclass(slots=True)
class Tally:
    """Counts of this process's teacher forwards, and of the answers spared by the score store;
    `answers` are all that were asked for, those of a process that was killed included.
    """

    pairs_scored: int = 0
    texts_embedded: int = 0
    hits: int = 0
    answers: int = 0
    effort: Effort = field(default_factory=Effort)  # of the forwards, shards written included

    @property
    def forwards(self) -> int:
        """Pairs scored and texts embedded."""
        return self.pairs_scored + self.texts_embedded


class PairScorer(Protocol):
    """Interface to score (query position, passage position) pairs [n, 2] by a teacher's model."""

    @property
    def model(self) -> Encoder | Ranker | Reader | None:
        """The model that is asked; None = something that does not run here."""

    def engine(self, engine: Engine) -> Engine:
        """The engine that computes the scores, where the run's is this one."""

    def plan(self, pairs: Positions, context: ScoringContext) -> list[Positions]:
        """The rows of pairs in batches, all of them."""

    def forward(
        self, pairs: Positions, batches: list[Positions], context: ScoringContext
    ) -> Answers:
        """The scores of one batch of rows after the other, counted in the context's tally.

        Raises:
            ScoreError: when a score is not finite.
        """

    def count_effort(self, pairs: Positions, context: ScoringContext) -> None:
        """Add the tokens and FLOPs that the model read and computed for these pairs to the
        context's tally.
        """


@dataclass(frozen=True, slots=True)
class ScoringContext:
    """Context in which a teacher asks its models: resumably, in a folder, past the score store.

    `store` None means that the shared store is neither read nor written: a teacher in training.
    """

    collection: Collection
    tokens: TokensOf
    path: Path
    stage: str
    store: ScoreStore | None
    engine: Engine
    progress: Progress
    shard_batches: int
    tally: Tally = field(default_factory=Tally)

    def within(self, name: str) -> ScoringContext:
        """The same in a folder below, counted together: for a member of an ensemble."""
        return replace(self, path=self.path / name)

    def pair_scores(
        self, scorer: PairScorer, *, made_by: str, name: str, pairs: Positions
    ) -> Floats:
        """Raw scores [n] of (query position, passage position) pairs [n, 2].

        `made_by` is the teacher's digest and `name` what the store's listing calls it.

        Raises:
            ScoreError: naming the query and passage whose score is not finite.
            StoreError: when the folder holds other work, or an artefact is damaged or unwritable.
        """
        return PairJob(self, scorer, made_by, name, pairs).scores()

    def vectors(
        self, encoder: Encoder, role: Role, *, made_by: str, name: str, positions: Positions
    ) -> Floats:
        """An encoder's vectors [n, D] of the queries or passages at these positions [n].

        Raises:
            ScoreError: naming the text whose vector is not finite.
            StoreError: when the folder holds other work, or an artefact is damaged or unwritable.
        """
        return VectorJob(self, encoder, role, made_by, name, positions).vectors()


class ShardedJob(ABC):
    """One planned and sharded computation: the rows of `folder`'s plan that the store did not know,
    batch by batch. `label`, `unit` and `suffix` are for the progress line and the shards' names.
    """

    context: ScoringContext
    folder: Path
    label: str
    unit: str
    suffix: str

    @abstractmethod
    def made_from(self) -> list[str]:
        """Inputs that a plan in the folder must have been made from to be this job's."""

    @abstractmethod
    def plan(self) -> tuple[pl.DataFrame, dict[str, torch.Tensor]]:
        """A new plan: rows and their batches (-1 = known to the store), and vectors known to it."""

    @abstractmethod
    def forward(self, batches: list[Positions]) -> Answers:
        """Answers of the model for one batch of rows after the other."""

    @abstractmethod
    def count_effort(self, rows: Positions) -> None:
        """Add the tokens and FLOPs that the model read and computed for these rows to the tally."""

    @abstractmethod
    def row_name(self, row: int) -> str:
        """A row by the ids of its texts, for an error."""

    @abstractmethod
    def write_shard(self, path: Path, rows: Positions, values: Floats) -> None:
        """Keep a shard in the folder, and its values in the score store."""

    @abstractmethod
    def read_shard(self, path: Path, rows: Positions) -> Floats:
        """The values of a shard.

        Raises:
            StoreError: when it does not hold what was planned.
        """

    def planned(self) -> tuple[pl.DataFrame, dict[str, torch.Tensor]]:
        """The plan in the folder, made now when there is none."""
        folder, context = self.folder / "plan", self.context
        about = {
            "made_from": digest(self.made_from()),
            "shard_batches": context.shard_batches,
        }
        if not folder.exists():
            frame, tensors = self.plan()
            with new_folder(folder, stage=context.stage) as temporary:
                table = io.BytesIO()  # so that a full disk is an OSError, whatever the library
                frame.write_parquet(table)
                (temporary / "plan.parquet").write_bytes(table.getvalue())
                if tensors:
                    known = safetensors.torch.save(tensors)
                    (temporary / "known.safetensors").write_bytes(known)
                text = json.dumps(about, sort_keys=True) + "\n"
                (temporary / "plan.json").write_text(text, encoding="utf-8")
        elif read_json(folder / "plan.json", _About).made_from != about["made_from"]:
            raise StoreError(
                f"{self.folder} was planned for another teacher or other texts. "
                "Use another --out, or delete that folder to make it again."
            )
        vectors = folder / "known.safetensors"
        return (
            read_parquet(folder / "plan.parquet", {"row": None, "batch": None}),
            read_tensors(vectors, "vectors") if vectors.exists() else {},
        )

    def shards(self, frame: pl.DataFrame) -> Iterator[tuple[Positions, Floats]]:
        """Every shard's rows and values, after computing those that are missing."""
        todo = frame.filter(pl.col("batch") >= 0)
        rows = todo["row"].to_numpy().astype(np.int64)
        ends = np.cumsum(np.bincount(todo["batch"].to_numpy()))
        batches = np.split(rows, ends[:-1]) if len(todo) else []
        size = read_json(self.folder / "plan" / "plan.json", _About).shard_batches
        shards = [batches[start : start + size] for start in range(0, len(batches), size)]
        paths = [self.folder / f"shard-{at:05d}.{self.suffix}" for at in range(len(shards))]
        missing = [at for at, path in enumerate(paths) if not path.exists()]
        if missing:
            ahead = [batch for at in missing for batch in shards[at]]
            started = time.perf_counter()
            found = self._answers(ahead)
            with self.context.progress.task(self.label, len(rows), self.unit) as done:
                done(len(rows) - sum(map(len, ahead)))
                for at in missing:
                    values = []
                    for batch in shards[at]:
                        values.append(next(found))
                        done(len(batch))
                    self.write_shard(paths[at], np.concatenate(shards[at]), np.concatenate(values))
                next(found, None)  # lets the model go back to the mode it was in
            self.context.tally.effort.seconds += time.perf_counter() - started
            self.count_effort(np.concatenate(ahead))
        for path, shard in zip(paths, shards, strict=True):
            planned = np.concatenate(shard)
            yield planned, self.read_shard(path, planned)

    def _answers(self, batches: list[Positions]) -> Iterator[Floats]:
        """Answers of the model for one batch after the other.

        Raises:
            ScoreError: naming the first row of a batch that the model cannot answer.
        """
        found = self.forward(batches)
        for batch in batches:
            try:
                yield next(found)[1]
            except ScoreError as error:
                raise self._naming(error, batch) from error
        next(found, None)

    def _naming(self, error: ScoreError, batch: Positions) -> ScoreError:
        """The error with the id of the first row that fails alone; inference knows no ids."""
        for row in batch:
            try:
                next(self.forward([np.array([row])]))
            except ScoreError as alone:
                return ScoreError(f"{self.label}, {self.row_name(int(row))}: {alone}")
        return error


@dataclass
class PairJob(ShardedJob):
    """The scores of pairs [n, 2], each distinct pair of texts once."""

    context: ScoringContext
    scorer: PairScorer
    made_by: str
    name: str
    pairs: Positions

    def __post_init__(self) -> None:
        self.folder, self.suffix = self.context.path / "pairs", "parquet"
        self.label, self.unit = f"Scoring with {self.name}", "pairs"
        queries, passages = self._texts
        asked = _distinct(queries, self.pairs[:, 0])
        answered = _distinct(passages, self.pairs[:, 1])
        codes, self._place = np.unique(
            asked.place * len(answered.firsts) + answered.place, return_inverse=True
        )
        query_at, passage_at = np.divmod(codes, max(len(answered.firsts), 1))
        self._query_keys = [asked.keys[at] for at in query_at]
        self._passage_keys = [answered.keys[at] for at in passage_at]
        self._distinct = np.stack((asked.firsts[query_at], answered.firsts[passage_at]), axis=1)
        engine = self.scorer.engine(self.context.engine)
        self._stored_as = digest(["pairs", self.made_by, engine.key()])

    def scores(self) -> Floats:
        """The scores [n], past the store and in shards."""
        frame, _ = self.planned()
        tally = self.context.tally
        scores = np.empty(len(self._distinct), dtype=np.float32)
        hits = frame.filter(pl.col("batch") < 0)
        scores[hits["row"].to_numpy()] = hits["score"].to_numpy()
        tally.hits += len(hits)
        tally.answers += len(self._distinct)
        for rows, values in self.shards(frame):
            scores[rows] = values
        return scores[self._place]

    def made_from(self) -> list[str]:
        """The store's key, and the texts."""
        return [self._stored_as, _keys_digest([*self._query_keys, *self._passage_keys])]

    def plan(self) -> tuple[pl.DataFrame, dict[str, torch.Tensor]]:
        """The scores that the store has, and batches of the other pairs."""
        store, distinct = self.context.store, self._distinct
        known = (
            np.full(len(distinct), np.nan, dtype=np.float32)
            if store is None
            else store.scores_of(self._stored_as, self._query_keys, self._passage_keys)
        )
        missing = np.flatnonzero(np.isnan(known))
        batches = self.scorer.plan(distinct[missing], self.context) if len(missing) else []
        rows, numbers = _order([missing[batch] for batch in batches], len(distinct))
        frame = self._ids(rows).with_columns(
            row=pl.Series(rows), batch=pl.Series(numbers), score=pl.Series(known[rows])
        )
        return frame.select("row", "query_id", "passage_id", "batch", "score"), {}

    def forward(self, batches: list[Positions]) -> Answers:
        """The scores of one batch after the other."""
        return self.scorer.forward(self._distinct, batches, self.context)

    def count_effort(self, rows: Positions) -> None:
        """Count the effort as the scorer does."""
        self.scorer.count_effort(self._distinct[rows], self.context)

    def row_name(self, row: int) -> str:
        """The ids of query and passage."""
        (queries, passages), (query, passage) = self._texts, self._distinct[row]
        return f"query {queries.ids[query]!r} and passage {passages.ids[passage]!r}"

    def write_shard(self, path: Path, rows: Positions, values: Floats) -> None:
        """Ids and scores."""
        if self.context.store is not None:
            self.context.store.add_scores(
                self._stored_as,
                self.name,
                [self._query_keys[row] for row in rows],
                [self._passage_keys[row] for row in rows],
                values,
            )
        shard = self._ids(rows).with_columns(score=pl.Series(values))
        write_parquet(path, shard, stage=self.context.stage)

    def read_shard(self, path: Path, rows: Positions) -> Floats:
        """The scores of a shard."""
        shard = read_parquet(path, {"query_id": pl.String, "score": pl.Float32})
        if shard["query_id"].to_list() != self._ids(rows)["query_id"].to_list():
            raise damaged(path, "it holds other queries than planned")
        return shard["score"].to_numpy().astype(np.float32)

    @property
    def _texts(self) -> tuple[Texts, Texts]:
        return self.context.collection.queries, self.context.collection.passages

    def _ids(self, rows: Positions) -> pl.DataFrame:
        """The ids of rows: `query_id` and `passage_id`."""
        (queries, passages), found = self._texts, self._distinct[rows]
        ids = {
            "query_id": [queries.ids[at] for at in found[:, 0]],
            "passage_id": [passages.ids[at] for at in found[:, 1]],
        }
        return pl.DataFrame(ids, schema={"query_id": pl.String, "passage_id": pl.String})


@dataclass
class VectorJob(ShardedJob):
    """An encoder's vectors of the texts at positions [n], each distinct text once."""

    context: ScoringContext
    encoder: Encoder
    role: Role
    made_by: str
    name: str
    positions: Positions

    def __post_init__(self) -> None:
        collection = self.context.collection
        self._texts = collection.queries if self.role == "query" else collection.passages
        what = "queries" if self.role == "query" else "passages"
        self.folder, self.suffix = self.context.path / what, "safetensors"
        self.label, self.unit = f"Encoding {what} with {self.name}", "texts"
        self._wanted = _distinct(self._texts, self.positions)
        self._stored_as = _vectors_of(self.made_by, self.encoder, self.role, self.context.engine)

    def vectors(self) -> Floats:
        """The vectors [n, D], past the store and in shards."""
        frame, tensors = self.planned()
        tally, wanted = self.context.tally, self._wanted
        vectors = np.empty((len(wanted.firsts), self.encoder.dimension), dtype=np.float32)
        hits = frame.filter(pl.col("batch") < 0)["row"].to_numpy()
        vectors[hits] = tensors["vectors"].numpy()
        tally.hits += len(hits)
        tally.answers += len(wanted.firsts)
        for rows, values in self.shards(frame):
            vectors[rows] = values
        return vectors[wanted.place]

    def made_from(self) -> list[str]:
        """The store's key, and the texts."""
        return [self._stored_as, _keys_digest(self._wanted.keys)]

    def plan(self) -> tuple[pl.DataFrame, dict[str, torch.Tensor]]:
        """The vectors that the store has, and batches of the other texts."""
        known = np.zeros(0, dtype=np.int64)
        vectors = np.zeros((0, self.encoder.dimension), dtype=np.float32)
        wanted = self._wanted
        if self.context.store is not None:
            known, found = self.context.store.vectors_of(self._stored_as, wanted.keys)
            vectors = found if len(known) else vectors
        missing = np.setdiff1d(np.arange(len(wanted.firsts)), known)
        lengths = self._lengths(missing) if len(missing) else np.zeros(0, dtype=np.int64)
        batches = plan_batches(lengths, self.context.engine.max_batch_tokens)
        rows, numbers = _order([missing[batch] for batch in batches], len(wanted.firsts))
        ids = [self._texts.ids[at] for at in wanted.firsts[rows]]
        frame = pl.DataFrame({"row": rows, "id": ids, "batch": numbers})
        # `vectors_of` answers in ascending order, and so does `_order` list what is known.
        return frame, {"vectors": torch.from_numpy(np.ascontiguousarray(vectors))}

    def forward(self, batches: list[Positions]) -> Answers:
        """The vectors of one batch after the other."""
        at = [self._wanted.firsts[batch] for batch in batches]
        return embed_batches(self.encoder, self._tokens(), self.role, at, self.context.engine)

    def count_effort(self, rows: Positions) -> None:
        """Count the tokens of the texts."""
        lengths = self._lengths(rows)
        self.context.tally.effort.read(lengths, self.encoder.forward_flops(lengths))

    def row_name(self, row: int) -> str:
        """The id of the text."""
        return f"{self.role} {self._texts.ids[self._wanted.firsts[row]]!r}"

    def write_shard(self, path: Path, rows: Positions, values: Floats) -> None:
        """The vectors alone; their ids are in the plan."""
        self.context.tally.texts_embedded += len(rows)
        if self.context.store is not None:
            keys = [self._wanted.keys[row] for row in rows]
            self.context.store.add_vectors(self._stored_as, self.name, keys, values)
        write_tensors(path, {"vectors": torch.from_numpy(values)}, stage=self.context.stage)

    def read_shard(self, path: Path, rows: Positions) -> Floats:
        """The vectors of a shard."""
        found: Floats = read_tensors(path, "vectors")["vectors"].numpy()
        if found.shape != (len(rows), self.encoder.dimension):
            raise damaged(path, f"{found.shape[0]} vectors, {len(rows)} planned")
        return found

    def _tokens(self) -> TokenStore:
        prompt = self.encoder.prompt(self.role)
        return self.context.tokens(self.encoder.tokenizer, self.role, prompt)

    def _lengths(self, rows: Positions) -> npt.NDArray[np.int64]:
        """Number of tokens that the encoder reads of each row."""
        return text_lengths(self.encoder, self._tokens(), self.role, self._wanted.firsts[rows])


def known_texts(
    encoder: Encoder,
    made_by: str,
    texts: Sequence[str],
    role: Role,
    store: ScoreStore,
    engine: Engine,
) -> int:
    """Number of distinct texts whose vectors by an encoder are in the store; `made_by` is the
    teacher's digest.
    """
    return store.known_texts(_vectors_of(made_by, encoder, role, engine), text_keys(set(texts)))


def _vectors_of(made_by: str, encoder: Encoder, role: Role, engine: Engine) -> str:
    """Key under which the store keeps an encoder's vectors."""
    return digest(["vectors", made_by, encoder.prompt(role), engine.key()])


@dataclass(frozen=True, slots=True)
class _Distinct:
    """The distinct texts among some positions: where each first stands, its key, and for every
    position which of them it is.
    """

    firsts: Positions  # [m]
    keys: list[bytes]  # [m]
    place: Positions  # [n], into firsts


class _About(Written):
    """Contents of `plan.json`."""

    made_from: str
    shard_batches: int


def _distinct(texts: Texts, positions: Positions) -> _Distinct:
    """The distinct texts among positions [n], in order of first position."""
    used, where = np.unique(positions, return_inverse=True)
    numbers: dict[bytes, int] = {}
    firsts: list[int] = []
    of_used = np.empty(len(used), dtype=np.int64)
    for at, (position, key) in enumerate(
        zip(used, text_keys(texts.texts[position] for position in used), strict=True)
    ):
        of_used[at] = numbers.setdefault(key, len(firsts))
        if of_used[at] == len(firsts):
            firsts.append(int(position))
    return _Distinct(np.array(firsts, dtype=np.int64), list(numbers), of_used[where])


def _order(batches: list[Positions], count: int) -> tuple[Positions, npt.NDArray[np.int32]]:
    """Rows in plan order with their batch numbers: known rows (-1) first, then by batch."""
    todo = np.concatenate([np.zeros(0, dtype=np.int64), *batches])
    known = np.setdiff1d(np.arange(count), todo)
    numbers = np.repeat(
        np.arange(-1, len(batches)), [len(known), *(len(batch) for batch in batches)]
    )
    return np.concatenate([known, todo]).astype(np.int64), numbers.astype(np.int32)


def _keys_digest(keys: Keys) -> str:
    """The SHA-256 (hex) of keys in their order."""
    return hashlib.sha256(b"".join(keys)).hexdigest()
