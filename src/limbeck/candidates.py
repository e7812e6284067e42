"""Which passages could answer each query, and who found them?

`mine_lexical`, `mine_sparse` and `mine_dense` search in blocks of queries and write each block as
one shard, so a killed mining goes on after the last whole shard. A query's own passage is never its
candidate. `merge` puts several pools into one, by rank, and keeps what every source said. Files
carry ids beside positions; ids count when they are read.

This module knows no model, no teacher score and no rule for false negatives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from limbeck.data.collection import Collection, Texts
from limbeck.errors import StoreError
from limbeck.language import LANGUAGES, known
from limbeck.search import (
    BM25,
    Positions,
    Vectors,
    search_dense,
    search_others,
    search_weights,
)
from limbeck.store import StageFolder, damaged, digest, read_parquet, write_parquet
from limbeck.types import Progress, Silent

SHARD_QUERIES = 1024


@dataclass(frozen=True, slots=True)
class Candidates:
    """A ranked pool of passages per query, in one flat array with offsets.

    The pool of `queries[i]` is `passages[offsets[i] : offsets[i + 1]]`, best first, a passage once.

    Shapes: `queries` [Q] and `passages` [n], positions in the collection; `offsets` [Q + 1];
    `ranks` [n, S], from 0, -1 where a source did not find the passage; `scores` [n, S], in units of
    the source, NaN there. S is the number of `sources`.
    """

    sources: tuple[str, ...]
    queries: Positions
    offsets: NDArray[np.int64]
    passages: Positions
    ranks: NDArray[np.int32]
    scores: Vectors

    @classmethod
    def of(cls, source: str, queries: Positions, found: Positions, scores: Vectors) -> Candidates:
        """The pools that one search found: `found` and `scores` [Q, k], best first, -1 = empty."""
        filled = found >= 0
        ranks = np.broadcast_to(np.arange(found.shape[1], dtype=np.int32), found.shape)
        return cls(
            (source,),
            np.asarray(queries, dtype=np.int32),
            _offsets(filled.sum(axis=1)),
            found[filled],
            ranks[filled][:, None],
            scores[filled][:, None],
        )

    def __len__(self) -> int:
        return len(self.queries)

    def rows(self, place: int) -> slice:
        """Slice of the flat arrays that holds the pool of `queries[place]`."""
        return slice(int(self.offsets[place]), int(self.offsets[place + 1]))

    def for_query(self, place: int) -> Positions:
        """The pool of `queries[place]`: passage positions, best first."""
        return self.passages[self.rows(place)]

    def block(self, places: slice) -> Candidates:
        """The pools of some neighbouring queries, as views."""
        offsets = self.offsets[places.start : places.stop + 1]
        rows = slice(int(offsets[0]), int(offsets[-1]))
        return Candidates(
            self.sources,
            self.queries[places],
            offsets - offsets[0],
            self.passages[rows],
            self.ranks[rows],
            self.scores[rows],
        )

    def kept(self, mask: NDArray[np.bool_]) -> Candidates:
        """Only the candidates where `mask` [n] is True; a query may keep an empty pool."""
        before = np.concatenate([[0], np.cumsum(mask)])
        return Candidates(
            self.sources,
            self.queries,
            before[self.offsets],
            self.passages[mask],
            self.ranks[mask],
            self.scores[mask],
        )

    def to_frame(self, collection: Collection) -> pl.DataFrame:
        """One row per candidate, ids beside positions; a query with an empty pool has one row too.

        Columns: `query_id`, `query`, `passage_id`, `passage`, and per source
        `rank/SOURCE` and `score/SOURCE`; null where there is no candidate, or where that source did
        not find it.
        """
        owners = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        ids = [collection.passages.ids[passage] for passage in self.passages]
        pools = pl.DataFrame(
            {
                "place": owners,
                "passage_id": pl.Series(ids, dtype=pl.String),
                "passage": self.passages,
            }
        )
        for column, source in enumerate(self.sources):
            found = pl.Series(self.ranks[:, column] >= 0)
            for kind, values in (("rank", self.ranks), ("score", self.scores)):
                series = pl.Series(f"{kind}/{source}", np.ascontiguousarray(values[:, column]))
                pools = pools.with_columns(pl.when(found).then(series).alias(series.name))
        queries = pl.DataFrame(
            {
                "place": np.arange(len(self)),
                "query_id": pl.Series(
                    [collection.queries.ids[query] for query in self.queries], dtype=pl.String
                ),
                "query": self.queries,
            }
        )
        return queries.join(pools, on="place", how="left", maintain_order="left_right").drop(
            "place"
        )

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, collection: Collection) -> Candidates:
        """The pools in a table made by `to_frame`; positions are those of the ids in `collection`.

        Raises:
            StoreError: when an id is not in the collection.
        """
        sources = tuple(
            column.removeprefix("rank/") for column in frame.columns if column.startswith("rank/")
        )
        pools = frame.group_by("query_id", maintain_order=True).agg(pl.count("passage_id"))
        filled = frame.filter(pl.col("passage_id").is_not_null())
        ranks = [filled[f"rank/{source}"].fill_null(-1).to_numpy() for source in sources]
        scores = [filled[f"score/{source}"].fill_null(np.nan).to_numpy() for source in sources]
        return cls(
            sources,
            _positions(pools["query_id"], collection.queries, "query"),
            _offsets(pools["passage_id"].to_numpy()),
            _positions(filled["passage_id"], collection.passages, "passage"),
            np.stack(ranks, axis=1),
            np.stack(scores, axis=1),
        )


def merge(pools: Sequence[Candidates], depth: int) -> Candidates:
    """One pool per query from several: every pool's first, then every pool's second, and so on.

    Scores of different sources share no unit: only ranks decide. A passage stands where it is met
    first; the ranks and scores of all sources stay beside it. At most `depth` passages per query.

    Raises:
        ValueError: when the pools are of different queries, or two have a source of the same name.
    """
    sources = tuple(source for pool in pools for source in pool.sources)
    if len(set(sources)) < len(sources):
        raise ValueError(f"two pools have a source of the same name: {sources}")
    queries = pools[0].queries
    if any(not np.array_equal(queries, pool.queries) for pool in pools):
        raise ValueError("pools of different queries cannot be merged")
    capacity = min(len(queries) * depth, sum(len(pool.passages) for pool in pools))
    merged = _Growing(sources, queries, capacity)
    for start in range(0, len(queries), SHARD_QUERIES):
        block = slice(start, min(start + SHARD_QUERIES, len(queries)))
        merged.add(_merge_block([pool.block(block) for pool in pools], sources, depth))
    return merged.done()


def mine_lexical(
    collection: Collection,
    queries: Positions,
    *,
    depth: int,
    folder: Path,
    shard_queries: int = SHARD_QUERIES,
    progress: Progress | None = None,
) -> Candidates:
    """The `depth` best passages by words of each query: source `bm25`.

    `queries` are positions in the collection. `folder` keeps the shards: the same call goes on
    where a killed one stopped, and only reads when everything is there.

    Raises:
        StoreError: when the folder belongs to another mining, is damaged or cannot be written.
    """

    def prepare() -> _Search:
        texts = collection.passages.texts
        index = BM25.build(texts, language=collection.language, progress=progress)
        asked = collection.queries.texts
        return lambda block, k: index.search([asked[query] for query in queries[block]], k)

    settings = {"language": LANGUAGES[known(collection.language)].name}
    job = _Job(collection, queries, "bm25", depth, shard_queries, settings)
    return _mine(job, folder, prepare, progress or Silent())


def mine_sparse(
    collection: Collection,
    queries: Positions,
    weigh: Callable[[], tuple[Any, Any]],
    *,
    source: str,
    depth: int,
    made_by: Mapping[str, object],
    folder: Path,
    shard_queries: int = SHARD_QUERIES,
    progress: Progress | None = None,
) -> Candidates:
    """The `depth` passages of each query with the largest dot products of weights of words, under
    the name `source`.

    `weigh` gives the weights as csr_arrays, [Q, words] row-aligned with `queries` (positions in the
    collection) and [N, words] with all passages; they are not kept, and asked for only while shards
    are missing. `made_by` is what they depend on besides the texts. `folder` as in `mine_lexical`.

    Raises:
        StoreError: when the folder belongs to another mining, is damaged or cannot be written.
    """

    def prepare() -> _Search:
        asked, passages = weigh()
        postings = passages.T.tocsr()
        return lambda block, k: search_weights(asked[block], postings, k)

    job = _Job(collection, queries, source, depth, shard_queries, made_by)
    return _mine(job, folder, prepare, progress or Silent())


def mine_dense(
    collection: Collection,
    queries: Positions,
    query_vectors: Vectors,
    passage_vectors: Vectors,
    *,
    source: str,
    depth: int,
    folder: Path,
    shard_queries: int = SHARD_QUERIES,
    memory_bytes: int = 256 * 2**20,
    progress: Progress | None = None,
) -> Candidates:
    """The `depth` passages of the largest inner products with each query, under the name `source`.

    Shapes: `query_vectors` [Q, D], row-aligned with `queries` (positions in the collection);
    `passage_vectors` [N, D], row-aligned with the collection's passages; both float32.
    `folder` and `memory_bytes` as in `mine_lexical` and `search_dense`.

    Raises:
        ValueError: when the vectors are not row-aligned.
        StoreError: when the folder belongs to another mining, is damaged or cannot be written.
        ScoreError: when an inner product is NaN or infinite.
    """
    if len(query_vectors) != len(queries) or len(passage_vectors) != len(collection.passages):
        raise ValueError(
            f"{len(query_vectors)} query vectors for {len(queries)} queries and "
            f"{len(passage_vectors)} passage vectors for {len(collection.passages)} passages"
        )

    def prepare() -> _Search:
        return lambda block, k: search_dense(
            query_vectors[block], passage_vectors, k, memory_bytes=memory_bytes
        )

    settings = {
        "query_vectors": _digest_vectors(query_vectors),
        "passage_vectors": _digest_vectors(passage_vectors),
        "memory_bytes": memory_bytes,
    }
    job = _Job(collection, queries, source, depth, shard_queries, settings)
    return _mine(job, folder, prepare, progress or Silent())


# a block of the queries, and how many passages of each -> what was found
_Search = Callable[[slice, int], tuple[Positions, Vectors]]


@dataclass(frozen=True, slots=True)
class _Job:
    """A mining job, whatever does the search."""

    collection: Collection
    queries: Positions
    source: str
    depth: int
    shard_queries: int
    settings: Mapping[str, object]

    @property
    def inputs(self) -> dict[str, object]:
        """Everything that the shards depend on."""
        ids = self.collection.queries.ids
        return {
            "collection": self.collection.digest,
            "queries": digest([ids[query] for query in self.queries]),
            "source": self.source,
            "depth": self.depth,
            "shard_queries": self.shard_queries,
            **self.settings,
        }

    def blocks(self) -> dict[str, slice]:
        """Queries of each shard, by its file name."""
        starts = range(0, len(self.queries), self.shard_queries)
        return {
            f"shard-{number:05d}.parquet": slice(
                start, min(start + self.shard_queries, len(self.queries))
            )
            for number, start in enumerate(starts)
        }


def _mine(job: _Job, path: Path, prepare: Callable[[], _Search], progress: Progress) -> Candidates:
    """Write the shards that are missing, then read all of them."""
    if len(np.unique(job.queries)) < len(job.queries):
        raise ValueError("a query is asked for twice")
    folder = StageFolder(path, job.inputs)
    if folder.complete:
        return _read_shards(job, path)
    missing = {name: block for name, block in job.blocks().items() if not (path / name).exists()}
    count = sum(block.stop - block.start for block in missing.values())
    if missing:
        search = prepare()
        with progress.task(f"mine {job.source}", count, "queries") as advance:
            for name, block in missing.items():
                own = job.collection.own_passages[job.queries[block]]
                found = Candidates.of(
                    job.source,
                    job.queries[block],
                    *search_others(partial(search, block), job.depth, own),
                )
                write_parquet(path / name, found.to_frame(job.collection), stage=folder.name)
                advance(len(found))
    mined = _read_shards(job, path)
    folder.finish(
        queries=len(mined),
        queries_searched=count,  # by this run; the others were found done
        queries_without_candidates=int((np.diff(mined.offsets) == 0).sum()),
        candidates=len(mined.passages),
    )
    return mined


def _read_shards(job: _Job, path: Path) -> Candidates:
    """All shards as one, with never more than one shard in memory beside the result."""
    capacity = len(job.queries) * min(job.depth, len(job.collection.passages))
    columns: dict[str, type[pl.DataType] | None] = {
        **dict.fromkeys(("query_id", "passage_id"), pl.String),
        **dict.fromkeys((f"rank/{job.source}", f"score/{job.source}")),
    }
    mined = _Growing((job.source,), job.queries, capacity)
    for name, block in job.blocks().items():
        shard = Candidates.from_frame(read_parquet(path / name, columns), job.collection)
        if not np.array_equal(shard.queries, job.queries[block]):
            raise damaged(path / name, "it holds other queries than it should")
        mined.add(shard)
    return mined.done()


class _Growing:
    """Candidates put together block by block, in arrays of their final size (no second copy)."""

    def __init__(self, sources: tuple[str, ...], queries: Positions, capacity: int) -> None:
        self._sources = sources
        self._queries = np.asarray(queries, dtype=np.int32)
        self._counts: list[NDArray[np.int64]] = []
        self._filled = 0
        self._passages = np.empty(capacity, dtype=np.int32)
        self._ranks = np.empty((capacity, len(sources)), dtype=np.int32)
        self._scores = np.empty((capacity, len(sources)), dtype=np.float32)

    def add(self, block: Candidates) -> None:
        """Append the pools of the next queries."""
        rows = slice(self._filled, self._filled + len(block.passages))
        self._passages[rows] = block.passages
        self._ranks[rows] = block.ranks
        self._scores[rows] = block.scores
        self._counts.append(np.diff(block.offsets))
        self._filled = rows.stop

    def done(self) -> Candidates:
        """The whole; room that was not needed was never touched, so it takes no memory."""
        rows = slice(0, self._filled)
        return Candidates(
            self._sources,
            self._queries,
            _offsets(np.concatenate([np.zeros(0, dtype=np.int64), *self._counts])),
            self._passages[rows],
            self._ranks[rows],
            self._scores[rows],
        )


def _merge_block(pools: Sequence[Candidates], sources: tuple[str, ...], depth: int) -> Candidates:
    """`merge` for so few queries that work space does not matter."""
    owners = [np.repeat(np.arange(len(pool)), np.diff(pool.offsets)) for pool in pools]
    places = [
        np.arange(len(pool.passages)) - pool.offsets[owner]
        for pool, owner in zip(pools, owners, strict=True)
    ]
    numbers = [np.full(len(pool.passages), number) for number, pool in enumerate(pools)]
    owner, place, number = map(np.concatenate, (owners, places, numbers))
    passage = np.concatenate([pool.passages for pool in pools])
    turn = np.lexsort((number, place, owner))  # the order in which passages are met
    pairs = owner[turn] * (int(passage.max(initial=0)) + 1) + passage[turn]
    _, first, pair = np.unique(pairs, return_index=True, return_inverse=True)
    row_of_pair = np.empty(len(first), dtype=np.int64)
    row_of_pair[np.argsort(first)] = np.arange(len(first))
    rows = np.empty(len(turn), dtype=np.int64)  # where each entry of each pool went
    rows[turn] = row_of_pair[pair]

    ranks = np.full((len(first), len(sources)), -1, dtype=np.int32)
    scores = np.full((len(first), len(sources)), np.nan, dtype=np.float32)
    start = column = 0
    for pool in pools:
        own = rows[start : start + len(pool.passages)]
        columns = slice(column, column + len(pool.sources))
        ranks[own, columns] = pool.ranks
        scores[own, columns] = pool.scores
        start, column = start + len(own), columns.stop
    met = turn[np.sort(first)]
    offsets = _offsets(np.bincount(owner[met], minlength=len(pools[0])))
    merged = Candidates(sources, pools[0].queries, offsets, passage[met], ranks, scores)
    return merged.kept(np.arange(len(met)) - offsets[owner[met]] < depth)


def _positions(ids: pl.Series, texts: Texts, what: str) -> Positions:
    """The positions of ids in a collection."""
    index = texts.index
    try:
        return np.array([index[id_] for id_ in ids], dtype=np.int32)
    except KeyError as error:
        raise StoreError(
            f"These candidates name {what} {error.args[0]!r}, which is not in the collection. "
            "They were mined from other data: mine them again."
        ) from error


def _offsets(counts: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Offsets at which each pool begins, and the end."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _digest_vectors(vectors: Vectors) -> str:
    """The SHA-256 (hex) of shape and values, read in blocks (a memory map is not copied)."""
    hasher = hashlib.sha256(repr(vectors.shape).encode())
    for start in range(0, len(vectors), 4096):
        hasher.update(np.ascontiguousarray(vectors[start : start + 4096]).data)
    return hasher.hexdigest()
