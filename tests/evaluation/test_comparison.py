"""Intervals and paired tests, against exact counts worked by hand and scipy's own tests."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
import scipy.stats

from limbeck.evaluation import comparison
from limbeck.evaluation.comparison import (
    Comparison,
    Estimate,
    bootstrap,
    compare,
    holm,
    mean_over_seeds,
)
from limbeck.evaluation.statistics import Mean

NDCG = Mean(name="nDCG@10")


def frame(values: dict[str, float]) -> pl.DataFrame:
    return pl.DataFrame({"query_id": list(values), "nDCG@10": list(values.values())})


def table(values: Sequence[float] | np.ndarray) -> pl.DataFrame:
    return frame({str(number): float(value) for number, value in enumerate(values)})


def mean_ci(values: Sequence[float] | np.ndarray, seed: int) -> Estimate:
    return bootstrap(NDCG.statistics(table(values)), NDCG.value, seed)


def compared(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> Comparison:
    return compare(table(a), {"b": table(b)}, NDCG, 0)[0]


def paired_randomisation(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    seed: int,
    resamples: int = comparison.RESAMPLES,
) -> float:
    difference = NDCG.difference(NDCG.statistics(table(a)), NDCG.statistics(table(b)))
    return comparison.paired_randomisation(difference, seed, resamples)


def smallest_visible_difference(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray
) -> float:
    return compared(a, b).visible


def noise(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count)


def test_interval_of_many_values_is_the_normal_one() -> None:
    """For 1,000 normal values the bootstrap is close to mean +- 1.96 s / sqrt(n)."""
    values = noise(0, 1000)
    found = mean_ci(values, seed=0)
    half = 1.96 * values.std(ddof=1) / math.sqrt(1000)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.005)
    assert found.high == pytest.approx(values.mean() + half, abs=0.005)


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    hits = 0
    for seed in range(200):
        found = mean_ci(noise(seed, 60), seed=seed)
        hits += found.low <= 0 <= found.high
    assert 0.90 <= hits / 200 <= 0.985


def test_intervals_repeat_by_seed_and_degenerate_ones_have_no_width() -> None:
    values = noise(1, 50)
    assert mean_ci(values, seed=3) == mean_ci(values.tolist(), seed=3)
    assert mean_ci(values, seed=3) != mean_ci(values, seed=4)
    for same in ([0.25], [0.25] * 7):
        found = mean_ci(same, seed=0)
        assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)
    with pytest.raises(ValueError, match="no values"):
        mean_ci([], seed=0)


def test_randomisation_by_hand() -> None:
    """Differences 1, 2, 3: of 8 sign patterns only +++ and --- reach |6|, so p = 2/8.
    Differences 1, 2, -3 sum to 0: every pattern is as far, p = 1.
    """
    zeros = [0.0, 0.0, 0.0]
    assert paired_randomisation([1.0, 2.0, 3.0], zeros, seed=0) == pytest.approx(0.25)
    assert paired_randomisation(zeros, [1.0, 2.0, 3.0], seed=0) == pytest.approx(0.25)
    assert paired_randomisation([1.0, 2.0, -3.0], zeros, seed=0) == pytest.approx(1.0)


def test_exact_p_equals_a_full_count() -> None:
    a, b = noise(0, 9), noise(1, 9)
    differences = a - b
    sums = [
        abs(float(differences @ np.array(signs))) for signs in itertools.product([1, -1], repeat=9)
    ]
    expected = np.mean([total >= abs(differences.sum()) - 1e-12 for total in sums])
    assert paired_randomisation(a, b, seed=0) == pytest.approx(expected)


def test_sampled_p_is_close_to_the_t_test_and_repeats_by_seed() -> None:
    a = noise(0, 300)
    b = a + 0.12 * noise(1, 300) + 0.015
    p = paired_randomisation(a, b, seed=0)
    assert p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, abs=0.02)
    assert p == paired_randomisation(a, b, seed=0)
    assert p != paired_randomisation(a, b, seed=1)


def test_a_clear_difference_reaches_the_smallest_p_and_none_gives_1() -> None:
    a = noise(0, 100)
    assert paired_randomisation(a + 1, a, seed=0, resamples=999) == pytest.approx(2 / 1000)
    assert paired_randomisation(a, a, seed=0) == 1.0
    assert paired_randomisation([0.7], [0.1], seed=0) == 1.0


def test_nothing_to_compare() -> None:
    for refused in (lambda: paired_randomisation([], [], seed=0), lambda: compared([], [])):
        with pytest.raises(ValueError, match="no values"):
            refused()


@pytest.mark.parametrize("units", [2, 5, 13, 14, 57, 300])
def test_figures_of_means_are_those_of_scipy(units: int) -> None:
    """To the last bit, where p is exact and where it is sampled; with ties, as ranks give them."""
    rng = np.random.default_rng(units)
    for seed, (a, b) in enumerate(
        [
            (rng.random(units), rng.random(units)),
            (1 / rng.integers(1, 11, units), 1 / rng.integers(1, 11, units)),
        ]
    ):
        differences = a - b
        interval = scipy.stats.bootstrap(
            (differences,),
            np.mean,
            n_resamples=10_000,
            batch=500,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        test = scipy.stats.permutation_test(
            (differences,),
            np.mean,
            permutation_type="samples",
            n_resamples=10_000,
            batch=500,
            rng=np.random.default_rng(seed),
        )
        [found] = compare(table(a), {"b": table(b)}, NDCG, seed)
        expected = Estimate(differences.mean(), interval.low, interval.high)
        assert (found.difference, found.p) == (expected, test.pvalue)
        z = scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)
        assert found.visible == z * differences.std(ddof=1) / math.sqrt(units)
        assert NDCG.of(table(a)) == a.mean()


def test_holm_by_hand() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04 -> 0.06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.2]) == [0.2]


def test_smallest_visible_difference_by_hand() -> None:
    """Differences 0, 2, 0, 2: sd = sqrt(4/3); 2.801585 * 1.154701 / 2 = 1.617496."""
    value = smallest_visible_difference([0.0, 2.0, 0.0, 2.0], [0.0] * 4)
    assert value == pytest.approx(1.617496, abs=1e-6)
    assert smallest_visible_difference([1.0], [0.0]) == math.inf
    assert smallest_visible_difference([1.0, 2.0], [0.0, 1.0]) == 0.0


def test_the_visible_difference_is_seen_80_times_in_100() -> None:
    """Paired t-tests of samples shifted by it: 0.8 of them are below 0.05."""
    visible = smallest_visible_difference(noise(0, 200_000)[:100], np.zeros(100))
    spread = noise(0, 200_000)[:100].std(ddof=1)
    samples = np.random.default_rng(5).normal(visible, spread, size=(2000, 100))
    p = scipy.stats.ttest_1samp(samples, 0, axis=1).pvalue
    assert np.mean(p < 0.05) == pytest.approx(0.8, abs=0.03)


def test_compare_matches_rows_by_query() -> None:
    """In the order c, a, b the differences are still 1, 2, 3: exact p 0.25; against itself 1."""
    ours = frame({"a": 1.0, "b": 2.0, "c": 3.0})
    other = frame({"c": 0.0, "a": 0.0, "b": 0.0})
    lower, same = compare(ours, {"bm25": other, "twin": ours}, NDCG, seed=0)
    assert (lower.other, same.other) == ("bm25", "twin")
    assert lower.difference == mean_ci([1.0, 2.0, 3.0], seed=0)
    assert lower.difference.value == pytest.approx(2.0)
    assert lower.p == pytest.approx(0.25)
    assert lower.p_holm == pytest.approx(0.5)
    assert lower.visible == pytest.approx(2.801585 / math.sqrt(3), abs=1e-6)
    assert (same.difference, same.p, same.p_holm) == (Estimate(0.0, 0.0, 0.0), 1.0, 1.0)
    assert compare(ours, {}, NDCG, seed=0) == []


@pytest.mark.parametrize("other", [{"a": 1.0}, {"a": 1.0, "x": 2.0}, {"a": 1, "b": 2, "x": 3}])
def test_compare_refuses_other_queries(other: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="bm25 was not measured on the same rows of query_id"):
        compare(frame({"a": 1.0, "b": 2.0}), {"bm25": frame(other)}, NDCG, seed=0)


def test_mean_over_seeds() -> None:
    mean = mean_over_seeds([frame({"b": 1.0, "a": 0.0}), frame({"a": 1.0, "b": 0.5})])
    assert mean.rows() == [("b", 0.75), ("a", 0.5)]
    with pytest.raises(ValueError, match="same rows of query_id"):
        mean_over_seeds([frame({"b": 1.0}), frame({"a": 1.0})])
    with pytest.raises(ValueError, match="no tables"):
        mean_over_seeds([])
