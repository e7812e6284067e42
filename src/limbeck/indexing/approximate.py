"""Which vectors are nearest, if a few may be missed? Graphs and cells of faiss (the extra `faiss`).

`hnsw` walks a graph of neighbours, and keeps a copy of the vectors in memory; `ivf` looks through
the nearest of many cells, is built much faster and finds less for the same time. How hard to look
(`effort`: neighbours kept in mind, or cells looked through) is chosen on sample queries: the least
power of two that finds the share of the ten best that is asked for. What it finds of other queries
is measured beside exact search.

This module knows no passage, model or folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from limbeck.errors import ConfigError, StoreError
from limbeck.store import damaged, new_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]
    Vectors = NDArray[np.float32]

Kind = Literal["exact", "hnsw", "ivf"]
KINDS: tuple[Kind, ...] = get_args(Kind)

NEIGHBOURS = 32  # of each vector in the graph, as faiss' own guide advises
EFFORT_OF_BUILDING = 200  # neighbours kept in mind while the graph grows
PER_CELL = 39  # vectors at least, or faiss warns that cells are trained on too few
MAX_EFFORT = 2048
DEPTHS = (10, 100)  # at which recall is measured; effort is chosen at the first


@dataclass(frozen=True)
class Approximate:
    """A faiss index of the first `rows` rows, and how hard it looks."""

    index: Any
    kind: Kind
    effort: int

    @property
    def rows(self) -> int:
        """Number of rows that it covers."""
        return int(self.index.ntotal)

    @classmethod
    def build(cls, kind: Kind, width: int, blocks: list[Vectors]) -> Approximate:
        """The index of these vectors [n, width] each, for inner products.

        Raises:
            ConfigError: when the extra is not installed.
        """
        faiss = _faiss()
        count = sum(map(len, blocks))
        inner = faiss.METRIC_INNER_PRODUCT
        if kind == "hnsw":
            index = faiss.IndexHNSWFlat(width, NEIGHBOURS, inner)
            index.hnsw.efConstruction = EFFORT_OF_BUILDING
        else:
            cells = max(1, min(round(4 * count**0.5), count // PER_CELL))
            index = faiss.index_factory(width, f"IVF{cells},Flat", inner)
            index.train(_spread(blocks, cells * 4 * PER_CELL))
        for block in blocks:
            index.add(np.ascontiguousarray(block))
        return cls(index, kind, 1)

    @classmethod
    def open(cls, path: Path, about: Mapping[str, Any]) -> Approximate:
        """Open the index that `write` wrote, with the effort recorded in its card.

        Raises:
            ConfigError: when the extra is not installed.
            StoreError: when the file is missing or damaged.
        """
        faiss = _faiss()
        try:
            found = cls(faiss.read_index(str(path)), about["kind"], int(about["effort"]))
        except (RuntimeError, MemoryError, KeyError, ValueError) as error:
            raise damaged(path, str(error).strip().partition("\n")[0]) from error
        if found.rows != about["rows"]:
            raise damaged(path, f"it has {found.rows} rows, {about['rows']} expected")
        return found

    def write(self, path: Path, *, stage: str) -> None:
        """Write it atomically.

        Raises:
            StoreError: when the file system refuses.
        """
        try:
            with new_file(path, stage=stage) as temporary:
                _faiss().write_index(self.index, str(temporary))
        except RuntimeError as error:  # what faiss makes of a full disk
            why = str(error).strip().partition("\n")[0]
            raise StoreError(
                f"Cannot write {path}: {why}. Free some space and run again."
            ) from error

    def search(
        self, vectors: Vectors, k: int, mask: NDArray[np.bool_], effort: int | None = None
    ) -> tuple[Rows, Vectors]:
        """Rows [Q, k] with large inner products and those, best first; -1 and -inf for none.

        `mask` [rows] is False for what is not to be found.
        """
        faiss = _faiss()
        given: dict[str, Any] = {}
        if not mask.all():
            bits = np.packbits(mask, bitorder="little")
            given["sel"] = faiss.IDSelectorBitmap(bits)
        effort = effort or self.effort
        parameters = (
            faiss.SearchParametersHNSW(efSearch=max(effort, k), **given)
            if self.kind == "hnsw"
            else faiss.SearchParametersIVF(nprobe=effort, **given)
        )
        scores, rows = self.index.search(np.ascontiguousarray(vectors), k, params=parameters)
        return rows.astype(np.int64), np.where(rows < 0, np.float32(-np.inf), scores)


def choose_effort(found: Callable[[int, int], Rows], exact: Rows, wanted: float, most: int) -> int:
    """The least power of two whose lists hold the wanted share of the ten best, or the most.

    `found(k, effort)` gives rows [Q, k] for the queries of `exact` [Q, 100].
    """
    effort = 1
    while effort < most and recall(found(DEPTHS[0], effort), exact, DEPTHS[0]) < wanted:
        effort *= 2
    return min(effort, most)


def recall(found: Rows, exact: Rows, k: int) -> float:
    """The share of the k exact rows of each query that were found, over all queries.

    Example:
        >>> recall(np.array([[4, 2], [7, -1]]), np.array([[2, 4], [7, 1]]), 2)
        0.75
    """
    wanted = [set(row[row >= 0].tolist()) for row in exact[:, :k]]
    hits = sum(
        len(want & set(row.tolist())) for want, row in zip(wanted, found[:, :k], strict=True)
    )
    return hits / max(1, sum(map(len, wanted)))


def check_kind(kind: str) -> Kind:
    """A kind by its name, its extra installed.

    Raises:
        ConfigError: when it is unknown, or its extra is not installed.
    """
    chosen = next((each for each in KINDS if each == kind), None)
    if chosen is None:
        raise ConfigError(f"There is no kind of index {kind!r}. Choose exact, hnsw or ivf.")
    if chosen != "exact":
        _faiss()
    return chosen


def _spread(blocks: list[Vectors], count: int) -> Vectors:
    """Some of the vectors, evenly spread."""
    every = max(1, sum(map(len, blocks)) // count)
    return np.concatenate([block[::every] for block in blocks])


def _faiss() -> Any:
    """The library of the extra `faiss`."""
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "An index that is not exact needs faiss. Run `pip install 'limbeck[faiss]'`, or use "
            "--kind exact."
        ) from error
    return faiss
