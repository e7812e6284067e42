"""Schedules by hand and against those of transformers."""

import random
from collections.abc import Callable

import pytest
import torch

from limbeck.schedules import (
    Schedule,
    constant,
    cosine,
    linear_warmup_decay,
    phases,
    shared_out,
)

Make = Callable[[int, int], Schedule]


def theirs(name: str, warmup: int, total: int) -> list[float]:
    """The factors of a transformers schedule, read from a learning rate of 1."""
    import transformers

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = getattr(transformers, name)(optimizer, warmup, total)
    factors = []
    for _ in range(total):
        factors.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return factors


def test_constant() -> None:
    assert [constant()(update) for update in (0, 1, 10_000)] == [1.0, 1.0, 1.0]


def test_linear_by_hand() -> None:
    """Up in 4, down in 4: a triangle."""
    schedule = linear_warmup_decay(4, 8)
    expected = [0.0, 0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert [schedule(update) for update in range(9)] == expected


def test_cosine_by_hand() -> None:
    """After the warm-up: cos of 0, 60, 120, 180 degrees, moved into [0, 1]."""
    schedule = cosine(1, 4)
    assert [schedule(update) for update in range(5)] == pytest.approx([0, 1, 0.75, 0.25, 0])


@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (3, 10), (10, 10), (1, 1), (0, 1)])
def test_equal_to_transformers(warmup: int, total: int) -> None:
    ours = linear_warmup_decay(warmup, total)
    assert [ours(update) for update in range(total)] == pytest.approx(
        theirs("get_linear_schedule_with_warmup", warmup, total)
    )
    curve = cosine(warmup, total)
    assert [curve(update) for update in range(total)] == pytest.approx(
        theirs("get_cosine_schedule_with_warmup", warmup, total)
    )


@pytest.mark.parametrize("make", [linear_warmup_decay, cosine])
def test_always_in_range_and_flat_after_the_end(make: Make) -> None:
    for warmup, total in [(0, 1), (5, 5), (2, 50)]:
        schedule = make(warmup, total)
        assert all(0 <= schedule(update) <= 1 for update in range(total + 20))
    assert [make(2, 50)(update) for update in (50, 51, 1000)] == pytest.approx([0, 0, 0])


@pytest.mark.parametrize("make", [linear_warmup_decay, cosine])
@pytest.mark.parametrize(("warmup", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_lengths_that_do_not_fit(make: Make, warmup: int, total: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        make(warmup, total)


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [
        (100, [0.15, 0.15, 0.2, 0.2, 0.2, 0.1], [15, 15, 20, 20, 20, 10]),
        (10, [1, 1, 1], [4, 3, 3]),
        (4, [0.9, 0.05, 0.05], [2, 1, 1]),  # nobody is left without
        (3, [0.9, 0.05, 0.05], [1, 1, 1]),
        (7, [0.5, 0.0, 0.5], [4, 0, 3]),  # but who wants none
    ],
)
def test_updates_are_shared_out(total: int, shares: list[float], expected: list[int]) -> None:
    assert shared_out(total, shares) == expected


def test_shares_add_up_whatever_they_are() -> None:
    chance = random.Random(0)
    for _ in range(300):
        shares = [chance.choice([0.0, 0.01, chance.random()]) for _ in range(chance.randint(1, 9))]
        if not any(shares):
            continue
        total = chance.randint(len(shares), 400)
        counts = shared_out(total, shares)
        assert sum(counts) == total
        for count, share in zip(counts, shares, strict=True):
            assert (count >= 1) == (share > 0)
            assert abs(count - total * share / sum(shares)) < len(shares) + 1


def test_fewer_updates_than_stages() -> None:
    with pytest.raises(ValueError, match="2 steps are too few for 3 stages"):
        shared_out(2, [0.5, 0.0, 0.3, 0.2])


def test_two_phases_of_a_round() -> None:
    """AR2's round of 2000: the code's counter gives x = 500 to the ranker as well."""
    assert phases(2000, 500) == [500, 1500]
    assert phases(2000, 500, counter="code") == [501, 1499]
    assert phases(2000, 0) == phases(2000, 0, counter="code") == [0, 2000]  # a frozen ranker
    for first, counter in ((11, "exact"), (10, "code"), (-1, "exact")):
        with pytest.raises(ValueError, match="cannot be the first player's"):
            phases(10, first, counter=counter)  # type: ignore[arg-type]
