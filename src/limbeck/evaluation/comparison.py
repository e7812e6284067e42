"""Is a difference between two systems more than chance, and how small a one could be seen at all?

Everything is paired: row i of one system and row i of the other belong to the same unit (a query,
an image, a sentence). Bootstrap and randomisation act on units: their statistics are added up
again, and the measure is taken of the sums, so that means, F1 and BLEU are tested alike. All draws
come from a generator made from `seed`.

This module knows no measure and no model. Tables are those of `statistics.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.stats

from limbeck.evaluation.statistics import Array, Difference, Measure, Value, total

RESAMPLES = 10_000
_BATCH = 500  # resamples held at once: bounds memory at 500 x units
_FEW = 2  # columns that are added up one by one, in the order in which scipy adds a mean's


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value of a measure and its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One system against another over the same units.

    `difference` is ours minus theirs, with its 95 % interval; `p` is two-sided; `p_holm` is
    corrected for all comparisons made together; `visible` is the smallest difference that these
    units could show.
    """

    other: str
    difference: Estimate
    p: float
    p_holm: float
    visible: float


def bootstrap(statistics: Array, value: Value, seed: int) -> Estimate:
    """A function of sums with its 95 % interval, by the percentile bootstrap over units.

    `value` takes the sums [..., S] of `statistics` [units, S]. One unit gives an interval of no
    width: nothing is known about its spread.

    Raises:
        ValueError: when there are no units.
    """
    units = len(statistics)
    if not units:
        raise ValueError("no values to estimate from")
    rng = np.random.default_rng(seed)
    columns = np.ascontiguousarray(statistics.T)

    def resampled(size: int) -> Array:
        drawn = rng.integers(0, units, size=(size, units))
        if len(columns) <= _FEW:
            return np.stack([column[drawn].sum(axis=-1) for column in columns], axis=-1)
        # how often each unit was drawn: one product instead of a sum per column
        rows = np.arange(size)[:, None] * units
        times = np.bincount((drawn + rows).ravel(), minlength=size * units)
        return times.reshape(size, units).astype(np.float64) @ statistics

    values = np.concatenate([value(resampled(size)) for size in _batches(RESAMPLES)])
    tail = (1 - 0.95) / 2
    low, high = (_quantile(values, share) for share in (tail, 1 - tail))
    return Estimate(float(value(total(statistics))), low, high)


def paired_randomisation(difference: Difference, seed: int, resamples: int = RESAMPLES) -> float:
    """Paired randomisation test: the two-sided p of a difference, if chance decides at each unit
    which system is which.

    Exact when all 2^n ways to swap the systems at n units are no more than `resamples`; else
    sampled (approximate randomisation), and then never below 1 / (resamples + 1).

    Raises:
        ValueError: when there are no units.

    Source: Fisher's randomisation test, as recommended by Smucker, Allan and Carterette 2007,
    doi:10.1145/1321440.1321528; for measures that are no means Noreen 1989, and Riezler and
    Maxwell 2005 for BLEU.
    """
    statistics, swapped = difference.statistics, difference.swapped
    units = len(statistics)
    if not units:
        raise ValueError("no values to compare")
    exact = resamples >= 2**units
    few = statistics.shape[1] <= _FEW

    def of(swaps: npt.NDArray[np.bool_]) -> Array:
        """The difference for each row of swaps [resamples, units]."""
        if few:
            each = np.ascontiguousarray(swaps.T)  # added up unit by unit, as scipy does
            sums = [
                np.where(each, new[:, None], old[:, None]).sum(axis=0)
                for old, new in zip(statistics.T, swapped.T, strict=True)
            ]
            return difference.value(np.stack(sums, axis=-1))
        return difference.value(total(statistics) + swaps @ (swapped - statistics))

    drawn = _all_swaps(units) if exact else _swaps(units, resamples, seed)
    found = np.concatenate([of(swaps) for swaps in drawn])
    observed = float(difference.value(total(statistics)))
    # equal differences may be added up in another order
    rounding = 100 * float(np.finfo(np.float64).eps) * difference.magnitude
    less = int(np.count_nonzero(found <= observed + rounding))
    greater = int(np.count_nonzero(found >= observed - rounding))
    own = 0 if exact else 1  # what was observed is one of the ways, too
    return min(1.0, 2 * ((min(less, greater) + own) / (len(found) + own)))


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


def smallest_visible_difference(measure: Measure, ours: Array, theirs: Array) -> float:
    """The smallest true difference that a two-sided 5 % test shows in 80 % of cases.

    (1.96 + 0.84) * standard error of the difference, which comes from the jackknife: for a mean it
    is the standard deviation of the differences / sqrt(n). Infinite for a single unit.

    Raises:
        ValueError: when there are no units.
    """
    apart = measure.pseudovalues(ours) - measure.pseudovalues(theirs)
    if not apart.size:
        raise ValueError("no values to compare")
    if apart.size == 1:
        return math.inf
    z = float(scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8))
    return z * float(apart.std(ddof=1)) / math.sqrt(apart.size)


def estimate(table: pl.DataFrame, measure: Measure, seed: int) -> Estimate:
    """A measure of a system with its 95 % interval.

    Raises:
        ValueError: when the table has no rows.
    """
    return bootstrap(measure.statistics(table), measure.value, seed)


def compare(
    ours: pl.DataFrame, others: Mapping[str, pl.DataFrame], measure: Measure, seed: int
) -> list[Comparison]:
    """One system against each of the others on one measure, p-values corrected by Holm together.

    Rows are matched by their first column, in any order.

    Raises:
        ValueError: when a table is not about the same units, or has none.
    """
    found = []
    for name, other in others.items():
        own, theirs = _paired(ours, other, name, measure)
        difference = measure.difference(own, theirs)
        found.append(
            Comparison(
                name,
                bootstrap(difference.statistics, difference.value, seed),
                paired_randomisation(difference, seed),
                math.nan,  # corrected below
                smallest_visible_difference(measure, own, theirs),
            )
        )
    return _corrected(found)


def against(
    baseline: str, tables: Mapping[str, pl.DataFrame], measure: Measure, seed: int
) -> dict[str, Comparison]:
    """Every other system, by name, against the baseline; p-values corrected by Holm together.

    Differences are system - baseline. Tables are as for `compare`.

    Raises:
        ValueError: when a table is not about the same units, or has none.
    """
    names = [name for name in tables if name != baseline]
    found = [
        compare(tables[name], {baseline: tables[baseline]}, measure, seed)[0] for name in names
    ]
    return dict(zip(names, _corrected(found), strict=True))


def mean_over_seeds(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Each unit's mean statistics over several runs of one method, in the order of the first table.

    So sums stay those of one test set. Of a measure that is no mean this gives the measure of the
    pooled counts, which need not be the mean of the runs' own values.

    Raises:
        ValueError: when the tables are not about the same units, or there are none.
    """
    if not tables:
        raise ValueError("no tables to take a mean of")
    unit = tables[0].columns[0]
    units = set(tables[0][unit])
    if any(set(table[unit]) != units for table in tables):
        raise ValueError(f"the runs are not about the same rows of {unit}")
    return pl.concat(tables).group_by(unit, maintain_order=True).mean()


def _paired(
    ours: pl.DataFrame, other: pl.DataFrame, name: str, measure: Measure
) -> tuple[Array, Array]:
    """The statistics of both, for the same units in the same order."""
    unit = ours.columns[0]
    own = ours.select(unit, *measure.columns)
    # every row of ours keeps its place
    theirs = own.select(unit).join(
        other.select(unit, *measure.columns), on=unit, maintain_order="left"
    )
    if not len(own) == len(theirs) == len(other):
        raise ValueError(f"{name} was not measured on the same rows of {unit}")
    return measure.statistics(own), measure.statistics(theirs)


def _corrected(found: Sequence[Comparison]) -> list[Comparison]:
    corrected = holm([each.p for each in found])
    return [replace(each, p_holm=p) for each, p in zip(found, corrected, strict=True)]


def _quantile(values: Array, share: float) -> float:
    """The value below which a share of the values lies, between two of them a weighted mean."""
    place = np.float64(share) * (len(values) - 1)
    below, part = divmod(place, 1)
    first, second = np.sort(values)[[int(below), min(int(below) + 1, len(values) - 1)]]
    return float((1 - part) * first + part * second)


def _batches(count: int) -> Iterator[int]:
    for start in range(0, count, _BATCH):
        yield min(_BATCH, count - start)


def _all_swaps(units: int) -> Iterator[npt.NDArray[np.bool_]]:
    """Every way to swap or not to swap at each unit, [ways, units] at a time."""
    for start in range(0, 2**units, _BATCH):
        ways = np.arange(start, min(start + _BATCH, 2**units))
        yield (ways[:, None] >> np.arange(units - 1, -1, -1) & 1).astype(bool)


def _swaps(units: int, count: int, seed: int) -> Iterator[npt.NDArray[np.bool_]]:
    """Random ways, drawn as scipy's permutation test draws them: each pair in a random order."""
    rng = np.random.default_rng(seed)
    most = min(_BATCH, count)
    pairs = np.tile(np.arange(2), (most, units, 1))
    for size in _batches(count):
        yield rng.permuted(pairs, axis=-1)[:size, :, 0].astype(bool)
