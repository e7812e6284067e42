"""Which candidates may stand as negatives, and which of them are drawn?

Unjudged passages at the top of a pool are often relevant. The rules here say which to keep;
`apply_rules` counts what each rule dropped, so that the report can say it. Draws depend on (seed,
round, query id) alone: worker count and restarts change nothing.

This module knows no collection, no model and no file: ranks, scores and masks only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.types import QueryId

Mask = NDArray[np.bool_]
Numbers = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Kept:
    """What several rules leave: `mask` [n], True = may be a negative; what each rule dropped."""

    mask: Mask
    dropped: dict[str, int]


def drop_by_rank(ranks: NDArray[np.integer[Any]], window: tuple[int, int]) -> Mask:
    """[n] True for ranks from `window[0]` up to, not including, `window[1]`; ranks count from 0.

    Example:
        >>> drop_by_rank(np.array([0, 1, 2, 3]), (1, 3)).tolist()
        [False, True, True, False]
    """
    low, high = window
    if not 0 <= low < high:
        raise ValueError(f"no rank lies in the window {window}")
    return (ranks >= low) & (ranks < high)


def drop_by_margin(scores: Numbers, positive_scores: Numbers | float, margin: float) -> Mask:
    """[n] True for scores at most positive score - margin, in the teacher's own units.

    `positive_scores` is one number, or [n] aligned with the candidates.
    """
    return np.asarray(scores <= np.asarray(positive_scores) - margin)


def drop_by_relative_margin(
    scores: Numbers, positive_scores: Numbers | float, margin: float
) -> Mask:
    """[n] True for scores at most positive score - margin · |positive score|; 0.05 = five percent.

    Source: Moreira et al. 2024 (NV-Retriever), arXiv:2407.15831, TopK-PercPos. They write
    (1 - margin) · positive score, which is the same for positive scores; below zero that would keep
    passages that score higher than the positive, hence the absolute value.
    """
    positive = np.asarray(positive_scores)
    return np.asarray(scores <= positive - margin * np.abs(positive))


def apply_rules(rules: Mapping[str, Mask]) -> Kept:
    """The candidates that all rules keep; a dropped one counts for the first rule that dropped it.

    Example:
        >>> judged, rank = np.array([False, True, True]), np.array([False, False, True])
        >>> kept = apply_rules({"judged": judged, "rank": rank})
        >>> kept.mask.tolist(), kept.dropped
        ([False, False, True], {'judged': 1, 'rank': 1})
    """
    masks = list(rules.values())
    remaining = np.ones_like(masks[0])
    dropped = {}
    for name, mask in rules.items():
        dropped[name] = int((remaining & ~mask).sum())
        remaining &= mask
    return Kept(remaining, dropped)


def generator(seed: int, round_: int, query: QueryId) -> np.random.Generator:
    """The source of randomness for one query in one round."""
    content = f"{seed} {round_} {query}".encode("utf-8", "surrogatepass")
    key = hashlib.blake2b(content, digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(key, "little")))


def draw(
    pool: NDArray[np.integer[Any]],
    count: int,
    generator: np.random.Generator,
    *,
    weights: Numbers | None = None,
) -> NDArray[np.integer[Any]]:
    """Up to `count` members of the pool without replacement, in the order drawn.

    Without weights all members are alike. With weights [n] >= 0, each next member is drawn with a
    probability in proportion to its weight among those left; weight 0 is never drawn.

    Source: the weighted draw is Efraimidis and Spirakis 2006 (A-ES) in its exponential form: the
    smallest of E / weight are taken, E standard exponential.
    """
    waits = generator.exponential(size=len(pool))
    if weights is None:
        return pool[np.argsort(waits, kind="stable")[:count]]
    possible = np.flatnonzero(weights > 0)
    order = np.argsort(waits[possible] / weights[possible], kind="stable")
    return pool[possible[order[:count]]]
