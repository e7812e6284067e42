from dataclasses import replace

import numpy as np
import pytest

from limbeck.errors import DataError
from limbeck.sources import PairSource

# the passages of the first two pairs are equal, and so are the queries of the last two
KEYS = np.array([[1, 7], [2, 7], [3, 8], [4, 9], [5, 10], [5, 11]])
SOURCE = PairSource(np.array([0, 1, 2, 4, 5]), KEYS, pairs_per_step=5, seed=0)


def test_an_epoch_sees_every_pair_once() -> None:
    small = replace(SOURCE, pairs_per_step=2)
    seen = np.concatenate([small.batch(update).pairs for update in range(5)])
    assert sorted(seen) == sorted([0, 1, 2, 4, 5] * 2)
    assert small.updates_per_pass == 2.5


def test_equal_texts_are_no_negatives() -> None:
    batch = SOURCE.batch(0)
    same = {
        (a, b) for a, row in zip(batch.pairs, batch.same, strict=True) for b in batch.pairs[row]
    }
    assert same == {(at, at) for at in batch.pairs} | {(0, 1), (1, 0), (4, 5), (5, 4)}


@pytest.mark.parametrize(
    "changed",
    [{"pairs": np.array([0, 1])}, {"keys": KEYS + 1}, {"pairs_per_step": 4}, {"seed": 1}],
)
def test_the_digest_says_all_that_the_updates_depend_on(changed) -> None:
    assert replace(SOURCE, **changed).digest != SOURCE.digest


def test_pairs_of_one_document_are_no_negatives_and_none_is_twice_in_an_update() -> None:
    documents = np.array([0, 0, 1, 2, 3, 4])
    source = PairSource(
        np.arange(3), np.column_stack([np.arange(6), np.arange(6), documents]), 8, 0
    )
    batch = source.batch(0)
    assert sorted(batch.pairs) == [0, 1, 2]
    assert source.updates_per_pass == 1
    assert batch.same.sum() == 3 + 2


def test_one_pair_is_refused() -> None:
    with pytest.raises(DataError, match="1 pairs of texts are left to learn from"):
        replace(SOURCE, pairs=np.array([3]))
