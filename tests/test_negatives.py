"""Rules worked by hand, and draws that depend on nothing but their key."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.negatives import (
    draw,
    generator,
    keep_by_margin,
    keep_by_rank,
)
from limbeck.types import QueryId


def test_rank_window_holds_its_first_and_not_its_last_rank() -> None:
    ranks = np.array([5, 0, 2, 4, 3])
    assert keep_by_rank(ranks, (2, 4)).tolist() == [False, False, True, False, True]


@pytest.mark.parametrize("window", [(3, 3), (4, 2), (-1, 2)])
def test_an_empty_rank_window_is_refused(window: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="window"):
        keep_by_rank(np.arange(5), window)


def test_margins_worked_by_hand() -> None:
    """Positive 8, margin 2: keep at most 6."""
    scores = np.array([9.0, 7.0, 6.0, -1.0])
    assert keep_by_margin(scores, 8.0, 2.0).tolist() == [False, False, True, True]


def test_margins_take_one_positive_per_candidate() -> None:
    scores, positives = np.array([1.0, 1.0]), np.array([1.5, 3.0])
    assert keep_by_margin(scores, positives, 1.0).tolist() == [False, True]


def test_shifting_all_scores_leaves_the_margin_rule_alone() -> None:
    scores = np.random.default_rng(0).standard_normal(50)
    before = keep_by_margin(scores, 0.5, 0.25)
    assert (keep_by_margin(scores + 16, 16.5, 0.25) == before).all()


@given(st.integers(0, 30), st.integers(0, 40), st.integers(0, 5))
def test_a_draw_takes_distinct_members(size: int, count: int, seed: int) -> None:
    pool = np.arange(100, 100 + size)
    drawn = draw(pool, count, generator(seed, 0, QueryId("q")))
    assert len(drawn) == min(size, count) == len(set(drawn.tolist()))
    assert set(drawn.tolist()) <= set(pool.tolist())


def test_draws_depend_on_seed_round_and_query_alone() -> None:
    pool = np.arange(1000)

    def drawn(seed: int, round_: int, query: str) -> list[int]:
        return draw(pool, 10, generator(seed, round_, QueryId(query))).tolist()

    assert drawn(1, 2, "q") == drawn(1, 2, "q")
    different = [drawn(1, 2, "q"), drawn(2, 2, "q"), drawn(1, 3, "q"), drawn(1, 2, "r")]
    assert len({tuple(each) for each in different}) == 4
    assert drawn(1, 2, "3 q") != drawn(1, 23, "q")


def test_a_known_draw_stays_as_it_is() -> None:
    """Guards runs on disk: another generator or order would silently change every resumed run."""
    assert draw(np.arange(10), 4, generator(0, 0, QueryId("q1"))).tolist() == [3, 5, 0, 1]


def test_draws_without_weights_are_uniform() -> None:
    """4,000 draws of 1 from 4: each 1,000 expected, standard deviation 27."""
    counts = np.zeros(4)
    for query in range(4000):
        counts[draw(np.arange(4), 1, generator(0, 0, QueryId(str(query))))] += 1
    assert np.abs(counts - 1000).max() < 4.5 * 27.4


def test_copies_make_a_draw_likelier_and_never_double() -> None:
    """First draws from copies 2, 1, 1 are 0 half of the time; then 1 of 2 as the rest stands."""
    pool, copies = np.arange(3), np.array([2, 1, 1])
    drawn = [draw(pool, 2, generator(0, at, QueryId("q")), copies) for at in range(4000)]
    firsts = np.bincount([own[0] for own in drawn]) / 4000
    assert firsts == pytest.approx([0.5, 0.25, 0.25], abs=0.03)
    assert all(len(set(own.tolist())) == 2 for own in drawn)
    both = np.mean([0 in own for own in drawn])
    assert both == pytest.approx(0.5 + 0.5 * 2 / 3, abs=0.03)
    once = draw(pool, 3, generator(0, 1, QueryId("q")), np.ones(3, dtype=np.int64))
    assert once.tolist() == draw(pool, 3, generator(0, 1, QueryId("q"))).tolist()
