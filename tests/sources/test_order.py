import numpy as np
import pytest

from limbeck.sources.order import update_positions


@pytest.mark.parametrize(("count", "size"), [(10, 5), (10, 3), (7, 16), (1, 4), (5, 1)])
def test_every_epoch_sees_everything_once(count: int, size: int) -> None:
    seen = np.concatenate(
        [update_positions(count, size, seed=0, update=update) for update in range(3 * count)]
    )
    for epoch in range(3):
        mine = seen[seen[:, 1] == epoch, 0]
        assert sorted(mine.tolist()) == list(range(count))
    assert (np.diff(seen[:, 1]) >= 0).all()  # one epoch after the other


def test_an_update_is_a_pure_function_of_its_number() -> None:
    order = [5, 0, 3, 0, 5, 11]
    found = [update_positions(10, 4, seed=0, update=update) for update in order]
    assert np.array_equal(found[0], found[4])
    assert np.array_equal(found[1], found[3])


def test_epochs_and_seeds_differ() -> None:
    def epoch(seed: int, number: int) -> list[int]:
        return update_positions(20, 20, seed=seed, update=number)[:, 0].tolist()

    assert epoch(0, 0) != epoch(0, 1)
    assert epoch(0, 0) != epoch(1, 0)
