"""Which passages come first for a query, by words or by vectors?

`BM25` searches by words (`limbeck.language` finds them, bm25s weighs them), `search_weights` by
words that a model weighed, `search_dense` by inner products, exactly. All give positions and
scores, best first, and break ties by position, so the same input always gives the same list. Slots
without a passage hold position -1 (and score -inf): look at the position, never at the score.

This module knows no ids, no collection, no model and no file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.errors import ScoreError
from limbeck.language import ENGLISH, Terms
from limbeck.types import Progress, Silent

Positions = NDArray[np.int32]
Vectors = NDArray[np.float32]

_TEXTS_AT_ONCE = 1000  # between two reports of progress
_POSTINGS_AT_ONCE = 2_000_000  # postings summed before lists are cut to k: some 50 MB of work space
_QUERIES_AT_ONCE = 256  # wider blocks make the matrix product no faster
_WIDENED_AT_ONCE = 2**10  # bf16 passages made fp32 for a few queries: they stay in the cache
_FEW_QUERIES = 16  # for whom the product costs less than reading the passages
_PASSAGES_AT_ONCE = 2**16  # after a first block, few beat a list's last: the rest is never sorted
_ROW_BYTES = 64  # per slot of one query's list, while two lists are merged
_COLUMN_BYTES = 32  # per passage of a block, while one query's list is cut


@dataclass(frozen=True, slots=True)
class BM25:
    """An index of passages by words, in memory: about 8 bytes per distinct word of each passage.

    Source: Robertson et al. 1995, in Lucene's form (Kamphuis et al. 2020): the inverse document
    frequency is ln(1 + (N - n + 0.5) / (n + 0.5)), never negative.

    Example:
        >>> index = BM25.build(["copy a file", "list open ports", "copying files"])
        >>> index.search(["how to copy files?"], k=2)[0].tolist()
        [[0, 2]]
    """

    postings: Any  # scipy.sparse.csr_array [terms, passages], float32 weights
    vocabulary: dict[str, int]
    words: Terms

    @classmethod
    def build(
        cls,
        texts: Sequence[str],
        *,
        language: str = ENGLISH,
        k1: float = 1.2,
        b: float = 0.75,
        progress: Progress | None = None,
    ) -> BM25:
        """Build the index of these passages; results are their positions in `texts`.

        `k1` sets how fast repeats of a word stop counting, `b` in [0, 1] how much long passages are
        held back; the defaults are Lucene's. `language` is a code or name of `limbeck.language`.

        Raises:
            ConfigError: for a language that is not covered.
        """
        import bm25s
        from scipy.sparse import csr_array

        words = Terms(language)
        vocabulary: dict[str, int] = {}
        rows: list[list[int]] = []
        with (progress or Silent()).task("index by words", len(texts), "passages") as advance:
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                block = texts[start : start + _TEXTS_AT_ONCE]
                rows += [
                    [vocabulary.setdefault(term, len(vocabulary)) for term in words.of(text)]
                    for text in block
                ]
                advance(len(block))
        if not vocabulary:  # no text holds a word: nothing to weigh, nothing will be found
            return cls(csr_array((0, len(texts)), dtype=np.float32), vocabulary, words)
        index = bm25s.BM25(k1=k1, b=b, method="lucene")
        index.index((rows, vocabulary), create_empty_token=False, show_progress=False)
        parts = index.scores  # columns are terms; read as rows, they are the postings of each term
        shape = (len(vocabulary), len(texts))
        postings = csr_array((parts["data"], parts["indices"], parts["indptr"]), shape=shape)
        return cls(postings, vocabulary, words)

    def search(
        self, queries: Sequence[str], k: int, *, progress: Progress | None = None
    ) -> tuple[Positions, Vectors]:
        """The k best passages of each query that share a term with it.

        Returns: positions [Q, k] int32 and scores [Q, k], best first, equal scores by position;
        -1 and -inf where a query meets fewer than k passages.
        """
        return search_weights(self._asked(queries), self.postings, k, progress=progress)

    def scores(self, queries: Sequence[str], passages: Sequence[Positions]) -> list[Vectors]:
        """The score of each query with each of its passages, a list of positions per query; 0 where
        they share no term.

        Example:
            >>> index = BM25.build(["copy a file", "list open ports", "copying files"])
            >>> index.scores(["copy ports"], [np.array([1, 0])])[0].round(3)
            array([0.399, 0.227], dtype=float32)
        """
        of_all = np.zeros(self.postings.shape[1], dtype=np.float32)
        found: list[Vectors] = []
        for own, (met, values) in zip(
            passages, _met(self._asked(queries), self.postings), strict=True
        ):
            of_all[met] = values
            found.append(of_all[own])
            of_all[met] = 0.0
        return found

    def _asked(self, queries: Sequence[str]) -> Any:
        """How often each query has each term that a passage holds: csr_array [queries, terms]."""
        from scipy.sparse import csr_array

        asked = [
            Counter(
                number
                for term in self.words.of(query)
                if (number := self.vocabulary.get(term)) is not None
            )
            for query in queries
        ]
        offsets = np.cumsum([0, *(len(counts) for counts in asked)])
        terms = np.array([term for counts in asked for term in sorted(counts)], dtype=np.int32)
        times = np.array(
            [counts[term] for counts in asked for term in sorted(counts)], dtype=np.float32
        )
        return csr_array((times, terms, offsets), shape=(len(asked), self.postings.shape[0]))


def search_weights(
    asked: Any, postings: Any, k: int, *, progress: Progress | None = None
) -> tuple[Positions, Vectors]:
    """The k passages with the largest dot products of weights of words, of those that share a word.

    Shapes: csr_arrays of float32, `asked` [queries, words] and `postings` [words, passages].
    Returns: positions and scores as `BM25.search`.

    Example:
        >>> from scipy.sparse import csr_array
        >>> passages = csr_array(np.array([[1, 0], [0, 2], [3, 0]], dtype=np.float32))
        >>> asked = csr_array(np.array([[1, 0]], dtype=np.float32))
        >>> search_weights(asked, passages.T.tocsr(), 2)[0].tolist()
        [[2, 0]]
    """
    _check_depth(k)
    count = asked.shape[0]
    positions = np.full((count, k), -1, dtype=np.int32)
    scores = np.full((count, k), -np.inf, dtype=np.float32)
    with (progress or Silent()).task("search by words", count, "queries") as advance:
        for row, (met, values) in enumerate(_met(asked, postings)):
            found, best = _cut(met, values, k)
            positions[row, : len(found)] = found
            scores[row, : len(found)] = best
            advance(1)
    return positions, scores


def _met(asked: Any, postings: Any) -> Iterator[tuple[Positions, Vectors]]:
    """Every passage that each query shares a word with, and its score, query after query; so many
    at once as work space allows.
    """
    work = np.concatenate([[0], np.cumsum(np.diff(postings.indptr)[asked.indices])])
    done, start = work[asked.indptr], 0  # postings of all queries before each one
    while start < asked.shape[0]:
        most = int(np.searchsorted(done, done[start] + _POSTINGS_AT_ONCE, side="right")) - 1
        stop = max(start + 1, most)
        block = asked[start:stop] @ postings
        for first, last in pairwise(block.indptr.tolist()):
            yield block.indices[first:last], block.data[first:last]
        start = stop


def search_others(
    search: Callable[[int], tuple[Positions, Vectors]], k: int, own: NDArray[np.integer[Any]]
) -> tuple[Positions, Vectors]:
    """The k best of a search without each query's own passage.

    `search` gives the positions and scores [Q, n] of the n best; `own` [Q] are positions, -1 where
    a query has none.

    Example:
        >>> found = np.array([[2, 0, 1], [1, 2, 0]], dtype=np.int32)
        >>> search = lambda n: (found[:, :n], -found[:, :n].astype(np.float32))
        >>> search_others(search, 2, np.array([2, -1]))[0].tolist()
        [[0, 1], [1, 2]]
    """
    if (own < 0).all():
        return search(k)
    positions, scores = search(k + 1)
    later = np.cumsum(positions == np.where(own < 0, -2, own)[:, None], axis=1)[:, :k]
    places = np.arange(k) + later  # from its own passage on, everything moves up by one
    return np.take_along_axis(positions, places, 1), np.take_along_axis(scores, places, 1)


def search_dense(
    query_vectors: Vectors,
    passage_vectors: Vectors | Tensor,
    k: int,
    *,
    mask: NDArray[np.bool_] | None = None,
    memory_bytes: int = 256 * 2**20,
    progress: Progress | None = None,
) -> tuple[Positions, Vectors]:
    """The k passages with the largest inner products, for each query, exactly.

    Passages are read in one pass, block by block, so they may be a memory map larger than memory.
    The product is numpy's: measured beside torch's on a CPU, it took a third of the time for one
    query and two thirds for 256. A tensor of bfloat16 passages takes half the memory; a block of
    them at a time is made float32, so scores are exact products with the rounded vectors.

    Shapes: `query_vectors` [Q, D] float32, `passage_vectors` [N, D] float32, or a bfloat16 tensor
    on the CPU; `mask` [N], False = a passage that is not to be found.
    Units: `memory_bytes` caps the work space, without the arrays given and returned.
    Returns: positions [Q, k] int32 and scores [Q, k], best first, equal scores by position; -1 and
    -inf in the last columns when there are fewer than k. Another `memory_bytes` may change the last
    bit of a score.

    Raises:
        ValueError: when shapes or types do not fit.
        ScoreError: when an inner product is NaN or infinite.
    """
    _check_depth(k)
    if query_vectors.ndim != 2 or query_vectors.shape[1:] != passage_vectors.shape[1:]:
        raise ValueError(
            f"queries of shape {query_vectors.shape} do not fit passages of {passage_vectors.shape}"
        )
    narrow = isinstance(passage_vectors, Tensor)
    fitting = torch.bfloat16 if narrow else np.float32
    if query_vectors.dtype != np.float32 or passage_vectors.dtype != fitting:
        raise ValueError(
            "query_vectors must be float32, and passage_vectors float32 or a tensor of bfloat16"
        )
    count, total = len(query_vectors), len(passage_vectors)
    positions = np.full((count, k), -1, dtype=np.int32)
    scores = np.full((count, k), -np.inf, dtype=np.float32)
    height = min(count, _QUERIES_AT_ONCE, max(1, memory_bytes // (2 * _ROW_BYTES * k)))
    size = query_vectors.shape[1] if narrow else 0  # numbers of a passage that is made float32
    room = memory_bytes // 2 // (4 * max(1, height) + 4 * size + _COLUMN_BYTES)
    most = _WIDENED_AT_ONCE if narrow and count <= _FEW_QUERIES else _PASSAGES_AT_ONCE
    width = min(total, most, max(1, room))
    work = np.empty(height * width, dtype=np.float32)
    widened = np.empty((width, size), dtype=np.uint32)
    with (progress or Silent()).task("search by vectors", total, "passages") as advance:
        for first in range(0, total, max(1, width)):
            found = passage_vectors[first : first + width]
            passages = _widened(found, widened) if isinstance(found, Tensor) else found
            for start in range(0, count, max(1, height)):
                queries = query_vectors[start : start + height]
                block = work[: len(queries) * len(passages)].reshape(len(queries), len(passages))
                with np.errstate(invalid="ignore", over="ignore"):  # refused below, by name
                    np.matmul(queries, passages.T, out=block)
                for row, values in enumerate(block, start):
                    _check_finite(values, row, first)
                    if mask is not None:
                        values[~mask[first : first + width]] = -np.inf
                    _take_better(positions[row], scores[row], values, first)
            advance(len(passages))
    return positions, scores


def _widened(narrow: Tensor, room: NDArray[np.uint32]) -> Vectors:
    """Numbers [n, D] of bfloat16 as float32, whose upper halves they are, in some room [m, D].

    In numpy, since the product is numpy's: two libraries whose threads take turns in a tight loop
    wait for each other far longer than they work.
    """
    bits = room[: len(narrow)]
    np.copyto(bits, narrow.view(torch.int16).numpy().view(np.uint16))
    np.left_shift(bits, 16, out=bits)
    return bits.view(np.float32)


def _take_better(best: Positions, best_scores: Vectors, values: Vectors, first: int) -> None:
    """Merge the scores of passages first, first + 1, ... into one query's list, in place.

    An equal score never displaces one that is already there: it belongs to an earlier position.
    """
    better = np.flatnonzero(values > best_scores[-1])
    if not len(better):
        return
    found, found_scores = _cut(better, values[better], len(best))
    all_scores = np.concatenate([best_scores, found_scores])
    order = np.argsort(-all_scores, kind="stable")[: len(best)]
    best[:] = np.concatenate([best, (found + first).astype(np.int32)])[order]
    best_scores[:] = all_scores[order]


def _cut(
    positions: NDArray[np.integer[Any]], scores: Vectors, k: int
) -> tuple[NDArray[np.integer[Any]], Vectors]:
    """The k best of one list, best first, equal scores by position."""
    if len(scores) > k:
        worst = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = scores >= worst
        positions, scores = positions[kept], scores[kept]
    order = np.lexsort((positions, -scores))[:k]
    return positions[order], scores[order]


def _check_depth(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")


def _check_finite(values: Vectors, row: int, first: int) -> None:
    """Refuse one query's scores when any is NaN or infinite."""
    if np.isfinite(values.min()) and np.isfinite(values.max()):  # min and max carry NaN along
        return
    place = first + int(np.flatnonzero(~np.isfinite(values))[0])
    raise ScoreError(
        f"The inner product of query {row} and passage {place} (positions) is "
        f"{values[place - first]}. The vectors are damaged: try --precision fp32, or another model."
    )
