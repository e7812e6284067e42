"""Which queries confuse a student (PROD's table of ranks), and which pairs a model agrees with."""

import numpy as np
import pytest

from limbeck.selection import (
    MISSED,
    best_positive_rank,
    confusing,
    consistent,
    last_pairs,
    layer_pairs,
    random_subset,
    spread_pairs,
)

# (student's rank, teacher's rank): by the rule of MS MARCO, by that of Natural Questions
TABLE = [
    ((1, 1), False, False),
    ((2, 1), True, True),
    ((15, 1), True, True),
    ((16, 1), False, True),
    ((5, 2), False, True),
    ((20, 16), False, False),
    ((MISSED, 15), False, True),
    ((MISSED, MISSED), False, False),
]
STUDENT = np.array([ranks[0] for ranks, _, _ in TABLE], dtype=float)
TEACHER = np.array([ranks[1] for ranks, _, _ in TABLE], dtype=float)


def test_the_rule_of_ms_marco() -> None:
    found = confusing(STUDENT, TEACHER, student_ranks=(2, 15), teacher_rank=1, strictly=False)
    assert found.tolist() == [marco for _, marco, _ in TABLE]


def test_the_rule_of_natural_questions() -> None:
    given = {"student_ranks": (1, MISSED), "teacher_rank": 15}
    found = confusing(STUDENT, TEACHER, **given, strictly=True)
    assert found.tolist() == [nq for _, _, nq in TABLE]
    # without strictness those that both solve, equally well, count too
    loose = confusing(STUDENT, TEACHER, **given, strictly=False)
    assert loose.tolist() == [True, *[nq for _, _, nq in TABLE[1:]]]


def test_a_random_subset_is_of_a_size_and_of_a_seed() -> None:
    chosen = random_subset(50, 12, seed=3)
    assert chosen.sum() == 12
    assert np.array_equal(chosen, random_subset(50, 12, seed=3))
    assert not np.array_equal(chosen, random_subset(50, 12, seed=4))
    assert random_subset(5, 0, seed=0).sum() == 0
    counts = sum(random_subset(10, 3, seed=seed).astype(int) for seed in range(500))
    assert all(105 < count < 195 for count in counts)  # 150 expected, deviation 10


@pytest.mark.parametrize(
    ("scores", "positive", "rank"),
    [
        ([0.3, 0.9, 0.5], [True, False, False], 3),
        ([0.3, 0.9, 0.5], [True, True, False], 1),  # the best of the positives counts
        ([0.5, 0.5, 0.1], [True, False, False], 2),  # a tie solves nothing
        ([0.5, 0.5, 0.1], [True, True, False], 1),
        ([0.3, 0.9], [False, False], MISSED),
        ([], [], MISSED),
    ],
)
def test_the_rank_of_the_first_positive(
    scores: list[float], positive: list[bool], rank: float
) -> None:
    assert best_positive_rank(np.array(scores), np.array(positive, dtype=bool)) == rank


def test_a_pair_is_kept_by_its_rank_in_the_pool() -> None:
    """0.71 is third behind 0.9 and 0.72; 0.80 is second; a tie counts for the pair."""
    pool = np.array([[0.9, 0.72, 0.5, 0.3]] * 3)
    own = np.array([0.71, 0.80, 0.72])
    assert consistent(own, pool, 2).tolist() == [False, True, True]
    assert consistent(own, pool, 3).all()
    assert not consistent(own, pool, 1).any()


def test_its_own_passage_is_not_of_the_pool() -> None:
    """A duplicate whose score is larger in its last bit would put the rank off by one."""
    own = np.array([0.8])
    pool = np.array([[0.9, np.nextafter(0.8, 1), 0.5]])
    assert not consistent(own, pool, 2).any()
    assert consistent(own, pool, 2, others=np.array([[True, False, True]])).all()


def test_of_random_pairs_hardly_any_survive() -> None:
    """k of pool + 1: 2 in 1001, so of 20,000 about 40 (deviation 6)."""
    random = np.random.default_rng(0)
    kept = [consistent(random.random(500), random.random((500, 1000)), 2).sum() for _ in range(40)]
    assert 20 <= sum(kept) <= 60


def test_pairs_of_layers_are_distinct_ordered_and_of_a_seed() -> None:
    drawn = [layer_pairs(12, 6, 4, seed=3, draw=at) for at in range(200)]
    for pairs in drawn:
        for layers, depth in zip(zip(*pairs, strict=True), (12, 6), strict=True):
            assert len(layers) == 4
            assert list(layers) == sorted(set(layers))
            assert 1 <= layers[0] <= layers[-1] <= depth
    assert drawn == [layer_pairs(12, 6, 4, seed=3, draw=at) for at in range(200)]
    assert drawn != [layer_pairs(12, 6, 4, seed=4, draw=at) for at in range(200)]
    counts = np.bincount([layer for pairs in drawn for layer, _ in pairs], minlength=13)
    assert all(40 < count < 95 for count in counts[1:])  # 67 expected, deviation 7; the last, too


def test_as_many_pairs_as_a_model_has_layers() -> None:
    assert [student for _, student in layer_pairs(12, 3, 3, seed=0, draw=0)] == [1, 2, 3]
    for fixed in (last_pairs, spread_pairs):
        assert fixed(4, 4, 4) == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert spread_pairs(12, 6, 1) == [(12, 6)]
