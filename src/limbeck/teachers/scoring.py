"""What does a teacher think of these pairs and texts?

A stage that asks a teacher writes its plan first: every distinct pair or text, in what order and in
which batch, and what the score store already knew. Then it computes shard by shard, a shard being
whole batches. A killed stage finishes the plan it finds, so a result that depends on the make-up of
a batch (bf16) is the same bytes as without the kill, and at most one shard is computed twice.

    STAGE/pairs/                         or queries/, passages/: what a teacher was asked
      plan/plan.parquet plan.json        ids, batch (-1 = known to the store), score if known
      plan/known.safetensors             vectors known to the store
      shard-00000.parquet | .safetensors
    STAGE/scores.parquet                 query_id, passage_id, score, in the order asked

This module does not know what kinds of teacher there are; they say how to ask through `Work`.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import safetensors.torch
import torch

from limbeck.data.collection import Collection, Texts
from limbeck.data.tokens import TokenStore
from limbeck.errors import ScoreError, StoreError
from limbeck.inference import (
    Engine,
    compare_readings,
    embed_batches,
    pair_lengths,
    plan_batches,
    read_plan,
    score_batches,
    text_lengths,
)
from limbeck.limit import Effort
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.reading import Reader
from limbeck.store import (
    StageFolder,
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
from limbeck.types import Progress, Role, Silent

if TYPE_CHECKING:
    from limbeck.teachers.teachers import Teacher

SHARD_BATCHES = 50  # a minute or so of a large ranker on two cores

Positions = npt.NDArray[np.int64]
_Answers = Iterator[tuple[Positions, Floats]]  # rows of a batch, and what was found for them


class TokensOf(Protocol):
    """The tokens of all queries or all passages of a collection, as one tokenizer sees them."""

    def __call__(self, tokenizer: Any, role: Role, prompt: str) -> TokenStore:
        """Tokens by position, as `limbeck.data.tokens.tokenize` gives them with this prompt."""


@dataclass(slots=True)
class Tally:
    """Teacher forwards of this process, and what the score store spared; `answers` are all that
    were asked for, those of a process that was killed included.
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


@dataclass(frozen=True, slots=True)
class Work:
    """How a teacher asks its models: resumably, in a folder, past the score store.

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

    def within(self, name: str) -> Work:
        """The same work in a folder below, counted together: for a member of an ensemble."""
        return replace(self, path=self.path / name)

    def pair_scores(self, ranker: Ranker, *, made_by: str, name: str, pairs: Positions) -> Floats:
        """A ranker's raw scores [n] of (query position, passage position) pairs [n, 2].

        `made_by` is the teacher's digest and `name` what the store's listing calls it.

        Raises:
            ScoreError: naming the query and passage whose score is not finite.
            StoreError: when the folder holds other work, or an artefact is damaged or unwritable.
        """

        def plan(distinct: Positions) -> list[Positions]:
            lengths = pair_lengths(ranker, *self._pair_tokens(ranker), distinct)
            return plan_batches(lengths, self.engine.max_batch_tokens)

        def forward(distinct: Positions, batches: list[Positions]) -> _Answers:
            self.tally.pairs_scored += sum(map(len, batches))
            tokens = self._pair_tokens(ranker)
            return score_batches(ranker, *tokens, distinct, batches, self.engine)

        def count(scored: Positions) -> None:
            lengths = pair_lengths(ranker, *self._pair_tokens(ranker), scored)
            self.tally.effort.read(lengths, ranker.forward_flops(lengths))

        return self._scores(made_by, name, pairs, _Scorer(self.engine, plan, forward, count))

    def reader_scores(self, reader: Reader, *, made_by: str, name: str, pairs: Positions) -> Floats:
        """As `pair_scores`, of a model that reads each text alone.

        The pairs of a passage are in one batch, so of those that the store does not know every
        query and every passage is read once. What was read is not kept, only the scores are: the
        vectors of a passage's tokens would take far more room.
        """
        queries, passages = self.collection.queries.texts, self.collection.passages.texts
        engine = self.engine.training()  # a reader is never converted

        def plan(distinct: Positions) -> list[Positions]:
            found, counts = np.unique(distinct[:, 1], return_counts=True)
            rows = np.split(np.argsort(distinct[:, 1], kind="stable"), np.cumsum(counts)[:-1])
            batches = read_plan(passages, found, reader, engine.max_batch_tokens)
            return [
                np.concatenate([rows[at] for at in np.searchsorted(found, batch)])
                for batch in batches
            ]

        def forward(distinct: Positions, batches: list[Positions]) -> _Answers:
            self.tally.texts_embedded += sum(
                len(np.unique(distinct[np.concatenate(batches), column])) for column in (0, 1)
            )
            return compare_readings(reader, queries, passages, distinct, batches, engine)

        def count(scored: Positions) -> None:
            self.tally.effort.read(None, None)  # how many tokens is sentence-transformers' business

        return self._scores(made_by, name, pairs, _Scorer(engine, plan, forward, count))

    def _scores(self, made_by: str, name: str, pairs: Positions, scorer: _Scorer) -> Floats:
        """The scores [n] of pairs [n, 2], past the store and in shards."""
        queries, passages = self.collection.queries, self.collection.passages
        asked = _distinct(queries, pairs[:, 0])
        answered = _distinct(passages, pairs[:, 1])
        codes, where = np.unique(
            asked.place * len(answered.firsts) + answered.place, return_inverse=True
        )
        query_at, passage_at = np.divmod(codes, max(len(answered.firsts), 1))
        query_keys = [asked.keys[at] for at in query_at]
        passage_keys = [answered.keys[at] for at in passage_at]
        distinct = np.stack((asked.firsts[query_at], answered.firsts[passage_at]), axis=1)
        stored_as = digest(["pairs", made_by, scorer.engine.key()])

        def plan() -> tuple[pl.DataFrame, dict[str, torch.Tensor]]:
            known = (
                np.full(len(distinct), np.nan, dtype=np.float32)
                if self.store is None
                else self.store.scores_of(stored_as, query_keys, passage_keys)
            )
            missing = np.flatnonzero(np.isnan(known))
            batches = scorer.plan(distinct[missing]) if len(missing) else []
            rows, numbers = _order([missing[batch] for batch in batches], len(distinct))
            frame = pl.DataFrame(
                {
                    "row": rows,
                    "query_id": [queries.ids[at] for at in distinct[rows, 0]],
                    "passage_id": [passages.ids[at] for at in distinct[rows, 1]],
                    "batch": numbers,
                    "score": known[rows],
                }
            )
            return frame, {}

        part = _Part(self, self.path / "pairs", "parquet")
        frame, _ = part.planned([stored_as, _keys_digest([*query_keys, *passage_keys])], plan)

        def forward(batches: list[Positions]) -> _Answers:
            return scorer.forward(distinct, batches)

        def count(rows: Positions) -> None:
            scorer.count(distinct[rows])

        def named(row: int) -> str:
            query, passage = distinct[row]
            return f"query {queries.ids[query]!r} and passage {passages.ids[passage]!r}"

        def keep(path: Path, rows: Positions, values: Floats) -> None:
            shard = pl.DataFrame(
                {
                    "query_id": [queries.ids[at] for at in distinct[rows, 0]],
                    "passage_id": [passages.ids[at] for at in distinct[rows, 1]],
                    "score": values,
                }
            )
            if self.store is not None:
                self.store.add_scores(
                    stored_as,
                    name,
                    [query_keys[row] for row in rows],
                    [passage_keys[row] for row in rows],
                    values,
                )
            write_parquet(path, shard, stage=self.stage)

        def read(path: Path, rows: Positions) -> Floats:
            shard = read_parquet(path, {"query_id": pl.String, "score": pl.Float32})
            if shard["query_id"].to_list() != [queries.ids[at] for at in distinct[rows, 0]]:
                raise damaged(path, "it holds other queries than planned")
            return shard["score"].to_numpy().astype(np.float32)

        scores = np.empty(len(distinct), dtype=np.float32)
        hits = frame.filter(pl.col("batch") < 0)
        scores[hits["row"].to_numpy()] = hits["score"].to_numpy()
        self.tally.hits += len(hits)
        self.tally.answers += len(distinct)
        asking = _Asking(f"Scoring with {name}", "pairs", forward, count, named, keep, read)
        for rows, values in part.finished(frame, asking):
            scores[rows] = values
        return scores[where]

    def vectors(
        self, encoder: Encoder, role: Role, *, made_by: str, name: str, positions: Positions
    ) -> Floats:
        """An encoder's vectors [n, D] of the queries or passages at these positions [n].

        Raises:
            ScoreError: naming the text whose vector is not finite.
            StoreError: when the folder holds other work, or an artefact is damaged or unwritable.
        """
        texts = self.collection.queries if role == "query" else self.collection.passages
        prompt = encoder.prompt(role)
        wanted = _distinct(texts, positions)
        stored_as = _vectors_of(made_by, encoder, role, self.engine)

        def plan() -> tuple[pl.DataFrame, dict[str, torch.Tensor]]:
            known = np.zeros(0, dtype=np.int64)
            vectors = np.zeros((0, encoder.dimension), dtype=np.float32)
            if self.store is not None:
                known, found = self.store.vectors_of(stored_as, wanted.keys)
                vectors = found if len(known) else vectors
            missing = np.setdiff1d(np.arange(len(wanted.firsts)), known)
            lengths = np.zeros(0, dtype=np.int64)
            if len(missing):
                tokens = self.tokens(encoder.tokenizer, role, prompt)
                lengths = text_lengths(encoder, tokens, role, wanted.firsts[missing])
            batches = plan_batches(lengths, self.engine.max_batch_tokens)
            rows, numbers = _order([missing[batch] for batch in batches], len(wanted.firsts))
            frame = pl.DataFrame(
                {
                    "row": rows,
                    "id": [texts.ids[at] for at in wanted.firsts[rows]],
                    "batch": numbers,
                }
            )
            # `vectors_of` answers in ascending order, and so does `_order` list what is known.
            return frame, {"vectors": torch.from_numpy(np.ascontiguousarray(vectors))}

        folder = self.path / ("queries" if role == "query" else "passages")
        part = _Part(self, folder, "safetensors")
        frame, tensors = part.planned([stored_as, _keys_digest(wanted.keys)], plan)

        def forward(batches: list[Positions]) -> Iterator[tuple[Positions, Floats]]:
            tokens = self.tokens(encoder.tokenizer, role, prompt)
            at = [wanted.firsts[batch] for batch in batches]
            return embed_batches(encoder, tokens, role, at, self.engine)

        def count(rows: Positions) -> None:
            tokens = self.tokens(encoder.tokenizer, role, prompt)
            lengths = text_lengths(encoder, tokens, role, wanted.firsts[rows])
            self.tally.effort.read(lengths, encoder.forward_flops(lengths))

        def named(row: int) -> str:
            return f"{role} {texts.ids[wanted.firsts[row]]!r}"

        def keep(path: Path, rows: Positions, values: Floats) -> None:
            self.tally.texts_embedded += len(rows)
            if self.store is not None:
                self.store.add_vectors(stored_as, name, [wanted.keys[row] for row in rows], values)
            write_tensors(path, {"vectors": torch.from_numpy(values)}, stage=self.stage)

        def read(path: Path, rows: Positions) -> Floats:
            found: Floats = read_tensors(path, "vectors")["vectors"].numpy()
            if found.shape != (len(rows), encoder.dimension):
                raise damaged(path, f"{found.shape[0]} vectors, {len(rows)} planned")
            return found

        vectors = np.empty((len(wanted.firsts), encoder.dimension), dtype=np.float32)
        hits = frame.filter(pl.col("batch") < 0)["row"].to_numpy()
        vectors[hits] = tensors["vectors"].numpy()
        self.tally.hits += len(hits)
        self.tally.answers += len(wanted.firsts)
        label = f"Encoding {folder.name} with {name}"
        asking = _Asking(label, "texts", forward, count, named, keep, read)
        for rows, values in part.finished(frame, asking):
            vectors[rows] = values
        return vectors[wanted.place]

    def _pair_tokens(self, ranker: Ranker) -> tuple[TokenStore, TokenStore]:
        """The tokens of queries and of passages for pairs, which take no prompt."""
        return (
            self.tokens(ranker.tokenizer, "query", ""),
            self.tokens(ranker.tokenizer, "passage", ""),
        )


def score_pairs(
    teacher: Teacher,
    collection: Collection,
    pairs: Positions,
    tokens: TokensOf,
    *,
    folder: StageFolder,
    store: ScoreStore | None,
    engine: Engine,
    progress: Progress | None = None,
    shard_batches: int = SHARD_BATCHES,
) -> Floats:
    """A teacher's raw scores [n] float32 of (query position, passage position) pairs [n, 2].

    `folder.metrics` afterwards count what the process that finished the stage did: `pairs_scored`,
    `texts_embedded`, their sum `teacher_forwards`, `hits`, which the store spared, and the `speed`
    of the forwards.

    Raises:
        ScoreError: naming the query and passage whose score is not finite.
        StoreError: when the folder holds other work, or an artefact is damaged or unwritable.
    """
    work = Work(
        collection=collection,
        tokens=tokens,
        path=folder.path,
        stage=folder.name,
        store=store,
        engine=engine,
        progress=progress or Silent(),
        shard_batches=shard_batches,
    )
    done = folder.complete
    pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    scores = teacher.score_pairs(pairs, work)
    if not done:
        frame = pl.DataFrame(
            {
                "query_id": [collection.queries.ids[at] for at in pairs[:, 0]],
                "passage_id": [collection.passages.ids[at] for at in pairs[:, 1]],
                "score": scores,
            }
        )
        write_parquet(folder.path / "scores.parquet", frame, stage=folder.name)
        _finish(folder, work)
    return scores


def embed_collection(
    teacher: Teacher,
    collection: Collection,
    role: Role,
    positions: Positions,
    tokens: TokensOf,
    *,
    folder: StageFolder,
    store: ScoreStore | None,
    engine: Engine,
    progress: Progress | None = None,
    shard_batches: int = SHARD_BATCHES,
) -> Floats:
    """A teacher's vectors [n, D] float32 of the queries or passages at these positions [n].

    Compared by `teacher.similarity` they are its in-batch scores. `folder.metrics` as in
    `score_pairs`.

    Raises:
        ScoreError: when the teacher has no vectors, or naming the text whose vector is not finite.
        StoreError: when the folder holds other work, or an artefact is damaged or unwritable.
    """
    work = Work(
        collection=collection,
        tokens=tokens,
        path=folder.path,
        stage=folder.name,
        store=store,
        engine=engine,
        progress=progress or Silent(),
        shard_batches=shard_batches,
    )
    done = folder.complete
    vectors = teacher.embed(role, np.asarray(positions, dtype=np.int64), work)
    if not done:
        _finish(folder, work)
    return vectors


def known_texts(
    encoder: Encoder,
    made_by: str,
    texts: Sequence[str],
    role: Role,
    store: ScoreStore,
    engine: Engine,
) -> int:
    """Of how many distinct texts the store has an encoder's vectors; `made_by` is the teacher's
    digest.
    """
    return store.known_texts(_vectors_of(made_by, encoder, role, engine), text_keys(set(texts)))


def _vectors_of(made_by: str, encoder: Encoder, role: Role, engine: Engine) -> str:
    """What the store keeps an encoder's vectors under."""
    return digest(["vectors", made_by, encoder.prompt(role), engine.key()])


@dataclass(frozen=True, slots=True)
class _Scorer:
    """How pairs [n, 2] are scored: what engine, which rows in which batch, the work itself, and how
    it is counted.
    """

    engine: Engine
    plan: Callable[[Positions], list[Positions]]
    forward: Callable[[Positions, list[Positions]], _Answers]
    count: Callable[[Positions], None]


@dataclass(frozen=True, slots=True)
class _Distinct:
    """The distinct texts among some positions: where each first stands, its key, and for every
    position which of them it is.
    """

    firsts: Positions  # [m]
    keys: list[bytes]  # [m]
    place: Positions  # [n], into firsts


class _About(Written):
    """What `plan.json` holds."""

    made_from: str
    shard_batches: int


@dataclass(frozen=True, slots=True)
class _Part:
    """One planned and sharded computation in a folder."""

    work: Work
    path: Path
    suffix: str

    def planned(
        self,
        made_from: Sequence[str],
        plan: Callable[[], tuple[pl.DataFrame, dict[str, torch.Tensor]]],
    ) -> tuple[pl.DataFrame, dict[str, torch.Tensor]]:
        """The plan in the folder, made now when there is none."""
        folder = self.path / "plan"
        about = {"made_from": digest(list(made_from)), "shard_batches": self.work.shard_batches}
        if not folder.exists():
            frame, tensors = plan()
            with new_folder(folder, stage=self.work.stage) as temporary:
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
                f"{self.path} was planned for another teacher or other texts. "
                "Use another --out, or delete that folder to make it again."
            )
        vectors = folder / "known.safetensors"
        return (
            read_parquet(folder / "plan.parquet", {"row": None, "batch": None}),
            read_tensors(vectors, "vectors") if vectors.exists() else {},
        )

    def finished(self, frame: pl.DataFrame, asking: _Asking) -> Iterator[tuple[Positions, Floats]]:
        """Every shard's rows and values, after computing those that are missing."""
        todo = frame.filter(pl.col("batch") >= 0)
        rows = todo["row"].to_numpy().astype(np.int64)
        ends = np.cumsum(np.bincount(todo["batch"].to_numpy()))
        batches = np.split(rows, ends[:-1]) if len(todo) else []
        size = read_json(self.path / "plan" / "plan.json", _About).shard_batches
        shards = [batches[start : start + size] for start in range(0, len(batches), size)]
        paths = [self.path / f"shard-{at:05d}.{self.suffix}" for at in range(len(shards))]
        missing = [at for at, path in enumerate(paths) if not path.exists()]
        if missing:
            ahead = [batch for at in missing for batch in shards[at]]
            started = time.perf_counter()
            found = asking.answers(ahead)
            with self.work.progress.task(asking.label, len(rows), asking.unit) as done:
                done(len(rows) - sum(map(len, ahead)))
                for at in missing:
                    values = []
                    for batch in shards[at]:
                        values.append(next(found))
                        done(len(batch))
                    asking.keep(paths[at], np.concatenate(shards[at]), np.concatenate(values))
                next(found, None)  # lets the model go back to the mode it was in
            self.work.tally.effort.seconds += time.perf_counter() - started
            asking.count(np.concatenate(ahead))
        for path, shard in zip(paths, shards, strict=True):
            planned = np.concatenate(shard)
            yield planned, asking.read(path, planned)


@dataclass(frozen=True, slots=True)
class _Asking:
    """What a part does with a model: run batches, count what rows take, name a row, keep a shard,
    read it back.
    """

    label: str
    unit: str
    forward: Callable[[list[Positions]], _Answers]
    count: Callable[[Positions], None]
    named: Callable[[int], str]
    keep: Callable[[Path, Positions, Floats], None]
    read: Callable[[Path, Positions], Floats]

    def answers(self, batches: list[Positions]) -> Iterator[Floats]:
        """What the model says of one batch after the other.

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
                return ScoreError(f"{self.label}, {self.named(int(row))}: {alone}")
        return error


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
    """Rows in plan order with their batch numbers: what is known (-1) first, then by batch."""
    todo = np.concatenate([np.zeros(0, dtype=np.int64), *batches])
    known = np.setdiff1d(np.arange(count), todo)
    numbers = np.repeat(
        np.arange(-1, len(batches)), [len(known), *(len(batch) for batch in batches)]
    )
    return np.concatenate([known, todo]).astype(np.int64), numbers.astype(np.int32)


def _keys_digest(keys: Keys) -> str:
    """The SHA-256 (hex) of keys in their order."""
    return hashlib.sha256(b"".join(keys)).hexdigest()


def _finish(folder: StageFolder, work: Work) -> None:
    """Seal the stage with what this process did, and what was asked for in all."""
    tally = work.tally
    folder.finish(
        teacher_forwards=tally.forwards,
        pairs_scored=tally.pairs_scored,
        texts_embedded=tally.texts_embedded,
        hits=tally.hits,
        answers=tally.answers,
        speed=tally.effort.speed(work.engine.matmul_rate),
    )
