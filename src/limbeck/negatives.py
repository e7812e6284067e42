"""Which candidates may stand as negatives, and which of them are drawn?

Unjudged passages at the top of a pool are often relevant. The rules here say which to keep. Draws
depend on (seed, round, query id) alone: worker count and restarts change nothing.

This module knows no collection, no model and no file: ranks, scores and masks only.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.types import QueryId

Mask = NDArray[np.bool_]
Numbers = NDArray[np.floating[Any]]


def keep_by_rank(ranks: NDArray[np.integer[Any]], window: tuple[int, int]) -> Mask:
    """[n] True for ranks from `window[0]` up to, not including, `window[1]`; ranks count from 0.

    Example:
        >>> keep_by_rank(np.array([0, 1, 2, 3]), (1, 3)).tolist()
        [False, True, True, False]
    """
    low, high = window
    if not 0 <= low < high:
        raise ValueError(f"no rank lies in the window {window}")
    return (ranks >= low) & (ranks < high)


def keep_by_margin(scores: Numbers, positive_scores: Numbers | float, margin: float) -> Mask:
    """[n] True for scores at most positive score - margin, in the teacher's own units.

    `positive_scores` is one number, or [n] aligned with the candidates.
    """
    return np.asarray(scores <= np.asarray(positive_scores) - margin)


def generator(seed: int, round_: int, query: QueryId) -> np.random.Generator:
    """The source of randomness for one query in one round."""
    content = f"{seed} {round_} {query}".encode("utf-8", "surrogatepass")
    key = hashlib.blake2b(content, digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(key, "little")))


def draw(
    pool: NDArray[np.integer[Any]],
    count: int,
    generator: np.random.Generator,
    copies: NDArray[np.integer[Any]] | None = None,
) -> NDArray[np.integer[Any]]:
    """Up to `count` members of the pool without replacement, in the order drawn: all alike, or each
    as if it stood there in so many `copies` [n], of which the first that is drawn takes the others
    away.

    Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir".
    """
    waits = generator.exponential(size=len(pool))
    if copies is not None:
        waits /= copies
    return pool[np.argsort(waits, kind="stable")[:count]]
