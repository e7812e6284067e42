"""Which queries, pairs or layers does a stage learn from? Predicates over what models make of
queries and pairs, and which layer stands beside which.

A rank counts from 1 and is that of a query's first positive in a ranked list; `MISSED` stands for a
positive that the list lacks.

Layers are counted from 1, and a pair of them names the teacher's first. Such pairs keep the order:
of two, the one with the earlier layer of the teacher has the earlier layer of the student.

This module knows no collection, no model and no file: ranks and masks only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Numbers = NDArray[np.floating[Any]]

MISSED = math.inf


def confusing(
    student: Numbers,
    teacher: Numbers,
    *,
    student_ranks: tuple[float, float],
    teacher_rank: int,
    strictly: bool,
) -> Mask:
    """[n] True for the queries that the teacher solves and the student does not.

    The student's rank lies in the window `student_ranks`, both ends included; the teacher's is at
    most `teacher_rank` and, with `strictly`, also better than the student's.

    Source: PROD, Lin et al. 2023, arXiv:2209.13335: `(2, 15)` and 1 on MS MARCO; `(1, MISSED)`, 15
    and `strictly` on Natural Questions.

    Example:
        >>> student, teacher = np.array([1.0, 2.0, 16.0]), np.array([1.0, 1.0, 1.0])
        >>> confusing(student, teacher, student_ranks=(2, 15), teacher_rank=1, strictly=False)
        array([False,  True, False])
    """
    low, high = student_ranks
    within = (student >= low) & (student <= high) & (teacher <= teacher_rank)
    return np.asarray(within & (teacher < student) if strictly else within)


def random_subset(count: int, size: int, seed: int) -> Mask:
    """[count] True for `size` of them, drawn by the seed alone: the control of any selection.

    Example:
        >>> int(random_subset(10, 4, seed=0).sum())
        4
    """
    chosen = np.zeros(count, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(count)[:size]] = True
    return chosen


def best_positive_rank(scores: Numbers, positive: Mask) -> float:
    """The rank, from 1, of the best of the positives by their scores [n]; `MISSED` without one.

    A candidate with the same score stands before the positive: a tie solves nothing.

    Example:
        >>> best_positive_rank(np.array([0.2, 0.9, 0.5]), np.array([False, False, True]))
        2.0
    """
    if not positive.any():
        return MISSED
    best = scores[positive].max()
    return 1.0 + float((scores[~positive] >= best).sum())


def consistent(own: Numbers, pool: Numbers, k: int, *, others: Mask | None = None) -> Mask:
    """[n] True for the pairs whose own passage is among the `k` best beside a pool: its rank is 1 +
    the number of passages of the pool that score strictly more.

    Shapes: `own` [n] is the score of each pair's query with its own passage, `pool` [n, P] with the
    passages of the pool; `others` [n, P] is False where a passage of the pool is the pair's own, or
    a duplicate of it, which would not count.

    Source: the consistency filter of E5, Wang et al. 2022, arXiv:2212.03533, k = 2.

    Example:
        >>> pool = np.array([[0.9, 0.72, 0.5, 0.3]] * 2)
        >>> consistent(np.array([0.71, 0.80]), pool, 2)
        array([False,  True])
    """
    better = pool > own[:, None]
    if others is not None:
        better &= others
    return np.asarray(1 + better.sum(axis=1) <= k)


def layer_pairs(
    teacher_depth: int, student_depth: int, k: int, seed: int, draw: int
) -> list[tuple[int, int]]:
    """`k` pairs of layers: as many of the teacher's and of the student's, drawn by (seed, draw)
    without replacement, each in order.

    Source: LEAD, Sun et al. 2024, arXiv:2212.05225.

    Example:
        >>> layer_pairs(12, 3, 3, seed=0, draw=0)
        [(3, 1), (8, 2), (10, 3)]
    """
    random = np.random.default_rng([seed, draw])
    teacher, student = (
        sorted((1 + random.permutation(depth)[:k]).tolist())
        for depth in (teacher_depth, student_depth)
    )
    return list(zip(teacher, student, strict=True))


def last_pairs(teacher_depth: int, student_depth: int, k: int) -> list[tuple[int, int]]:
    """The last `k` layers of both.

    Example:
        >>> last_pairs(12, 3, 2)
        [(11, 2), (12, 3)]
    """
    return [(teacher_depth - at, student_depth - at) for at in range(k - 1, -1, -1)]


def spread_pairs(teacher_depth: int, student_depth: int, k: int) -> list[tuple[int, int]]:
    """`k` layers of both at equal distances, the last among them.

    Example:
        >>> spread_pairs(12, 3, 3)
        [(4, 1), (8, 2), (12, 3)]
    """
    return [(at * teacher_depth // k, at * student_depth // k) for at in range(1, k + 1)]
