"""Is a difference between two systems more than chance, and how small a one could be seen at all?

Everything is paired: value i of one system and value i of the other belong to the same query. All
draws come from a generator made from `seed`.

This module knows no measure and no model: values are numbers per query.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.stats

Values = Sequence[float] | npt.NDArray[np.floating]

RESAMPLES = 10_000
_BATCH = 500  # resamples held at once: bounds memory at 500 x queries


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One system against another over the same queries.

    `difference` is the mean of ours minus theirs, with its 95 % interval; `p` is two-sided;
    `p_holm` is corrected for all comparisons made together; `visible` is the smallest difference
    that these queries could show.
    """

    other: str
    difference: Estimate
    p: float
    p_holm: float
    visible: float


def mean_ci(values: Values, seed: int) -> Estimate:
    """The mean over queries with its 95 % interval, by the percentile bootstrap.

    One query gives an interval of no width: nothing is known about its spread.

    Raises:
        ValueError: when there are no values.
    """
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise ValueError("no values to take a mean of")
    mean = float(array.mean())
    if array.size == 1:
        return Estimate(mean, mean, mean)
    interval = scipy.stats.bootstrap(
        (array,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        method="percentile",
        confidence_level=0.95,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high))


def paired_randomisation(a: Values, b: Values, seed: int, resamples: int = RESAMPLES) -> float:
    """The two-sided p of the mean difference when the sign of each query's difference is chance.

    Exact when all 2^n sign patterns are no more than `resamples`; else sampled, and then never
    below 1 / (resamples + 1).

    Raises:
        ValueError: when the two have different lengths, or none.

    Source: Fisher's randomisation test, as recommended by Smucker, Allan and Carterette 2007,
    doi:10.1145/1321440.1321528.
    """
    differences = _differences(a, b)
    if differences.size == 1:
        return 1.0  # both sign patterns are equally far from 0
    return float(
        scipy.stats.permutation_test(
            (differences,),
            np.mean,
            permutation_type="samples",
            n_resamples=resamples,
            batch=_BATCH,
            vectorized=True,
            rng=np.random.default_rng(seed),
        ).pvalue
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values, in the order given.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - done) * p_values[index]))
        corrected[index] = highest
    return corrected


def smallest_visible_difference(a: Values, b: Values) -> float:
    """The smallest true mean difference that a two-sided 5 % test shows in 80 % of cases.

    (1.96 + 0.84) * standard deviation of the differences / sqrt(n); infinite for a single query.

    Raises:
        ValueError: when the two have different lengths, or none.
    """
    differences = _differences(a, b)
    if differences.size == 1:
        return math.inf
    z = float(scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8))
    return z * float(differences.std(ddof=1)) / math.sqrt(differences.size)


def compare(
    ours: pl.DataFrame, others: Mapping[str, pl.DataFrame], measure: str, seed: int
) -> list[Comparison]:
    """One system against each of the others on one measure, p-values corrected by Holm together.

    Frames are those of `measures.per_query`; rows are matched by `query_id`, in any order.

    Raises:
        ValueError: when a frame is not about the same queries.
    """
    pairs = {name: _paired(ours, other, name, measure) for name, other in others.items()}
    p_values = [paired_randomisation(a, b, seed) for a, b in pairs.values()]
    return [
        Comparison(name, mean_ci(a - b, seed), p, p_holm, smallest_visible_difference(a, b))
        for (name, (a, b)), p, p_holm in zip(pairs.items(), p_values, holm(p_values), strict=True)
    ]


def against(
    baseline: str, frames: Mapping[str, pl.DataFrame], measure: str, seed: int
) -> dict[str, Comparison]:
    """Every other system, by name, against the baseline; p-values corrected by Holm together.

    Differences are system - baseline. Frames are as for `compare`.

    Raises:
        ValueError: when a frame is not about the same queries.
    """
    found = {
        name: compare(frame, {baseline: frames[baseline]}, measure, seed)[0]
        for name, frame in frames.items()
        if name != baseline
    }
    corrected = holm([each.p for each in found.values()])
    return {
        name: replace(each, p_holm=p_holm)
        for (name, each), p_holm in zip(found.items(), corrected, strict=True)
    }


def mean_over_seeds(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Each query's mean over several runs of one method, in the order of the first frame.

    Raises:
        ValueError: when the frames are not about the same queries, or there are none.
    """
    if not frames:
        raise ValueError("no frames to take a mean of")
    queries = set(frames[0]["query_id"])
    if any(set(frame["query_id"]) != queries for frame in frames):
        raise ValueError("the runs are not about the same queries")
    return pl.concat(frames).group_by("query_id", maintain_order=True).mean()


def _paired(
    ours: pl.DataFrame, other: pl.DataFrame, name: str, measure: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    joined = ours.join(other, on="query_id", suffix=" other", maintain_order="left")
    if not len(joined) == len(ours) == len(other):
        raise ValueError(f"{name} was not measured on the same queries")
    return joined[measure].to_numpy(), joined[f"{measure} other"].to_numpy()


def _differences(a: Values, b: Values) -> npt.NDArray[np.float64]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise ValueError(f"values of {first.shape} and {second.shape} queries cannot be paired")
    return first - second
