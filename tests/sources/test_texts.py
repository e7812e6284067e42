from dataclasses import replace

import numpy as np
import pytest

from limbeck.errors import DataError
from limbeck.sources import TextSource

SOURCE = TextSource(np.array([3, 5]), np.arange(8), texts_per_step=4, seed=0)


def test_an_epoch_sees_every_query_and_passage_once() -> None:
    batches = [SOURCE.batch(update) for update in range(5)]  # two epochs of 10 texts
    assert sorted(np.concatenate([batch.queries for batch in batches])) == [3, 3, 5, 5]
    passages = np.concatenate([batch.passages for batch in batches])
    assert sorted(passages) == sorted([*range(8), *range(8)])
    assert all(len(batch.queries) + len(batch.passages) == 4 for batch in batches)


def test_passages_alone_will_do() -> None:
    batch = replace(SOURCE, queries=np.array([], dtype=np.int64)).batch(0)
    assert (len(batch.queries), len(batch.passages)) == (0, 4)


def test_a_batch_is_a_pure_function_of_its_number() -> None:
    first, _, again = SOURCE.batch(6), SOURCE.batch(1), SOURCE.batch(6)
    assert np.array_equal(first.queries, again.queries)
    assert np.array_equal(first.passages, again.passages)


@pytest.mark.parametrize(
    "changed",
    [
        {"queries": np.array([3])},
        {"passages": np.arange(7)},
        {"texts_per_step": 5},
        {"seed": 1},
    ],
)
def test_the_digest_says_all_that_the_updates_depend_on(changed) -> None:
    assert replace(SOURCE, **changed).digest != SOURCE.digest


def test_no_text_at_all_is_refused() -> None:
    nothing = np.array([], dtype=np.int64)
    with pytest.raises(DataError, match="no text to learn from"):
        TextSource(nothing, nothing, 4, 0)
