"""Are the numbers beside queries and passages ranks, or do they say the better the higher?

MS MARCO's runs are `query id, passage id, rank`: by their columns they look like scores or grades,
and read as such they are the wrong way round.

This module knows no file and no collection.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

NAMES = ("rank", "ranking", "position")  # what a header calls them

Numbers = npt.NDArray[np.float64]


def could_be_ranks(queries: Sequence[str], numbers: Numbers, *, several: int = 2) -> bool:
    """Whether the numbers [n] of these queries' passages, in the file's order, could be ranks.

    They are whole, and in every query they count from 0 or 1 without a gap, or rise from line to
    line. Some query must have `several` of them: one number alone says nothing.

    Example:
        >>> could_be_ranks(["q", "q", "q"], np.array([1.0, 2.0, 3.0]))
        True
        >>> could_be_ranks(["q", "q", "q"], np.array([3.0, 0.0, 1.0]))
        False
    """
    if not np.isfinite(numbers).all() or (numbers != np.floor(numbers)).any():
        return False
    number = pl.col("number")
    found = (
        pl.DataFrame({"query": pl.Series(queries, dtype=pl.String), "number": numbers})
        .group_by("query")
        .agg(
            size=pl.len(),
            gapless=(number.n_unique() == pl.len())
            & number.min().is_in([0.0, 1.0])
            & (number.max() - number.min() == pl.len() - 1),
            rising=(number.min() >= 0) & (number.diff() > 0).all(),
        )
    )
    enough = bool((found["size"] >= several).any())
    return enough and bool((found["gapless"] | found["rising"]).all())


def scores_rise_with(ranks: Numbers, queries: Sequence[str], scores: Numbers) -> bool:
    """Whether in every query with several passages a worse rank always has a higher score.

    Example:
        >>> scores_rise_with(np.array([1.0, 2.0]), ["q", "q"], np.array([0.1, 0.7]))
        True
    """
    found = (
        pl.DataFrame({"query": pl.Series(queries, dtype=pl.String), "rank": ranks, "score": scores})
        .sort("query", "rank", maintain_order=True)
        .group_by("query")
        .agg(size=pl.len(), rising=(pl.col("score").diff() > 0).all())
        .filter(pl.col("size") > 1)
    )
    return len(found) > 0 and bool(found["rising"].all())
