"""The arithmetic of a row."""

import pytest

from limbeck.bench.figures import gap_closed
from limbeck.evaluation.statistics import BLEU, Mean

NDCG = Mean(name="nDCG@10")


def test_gap_closed_is_the_share_of_the_way_to_the_teacher() -> None:
    """(0.67 - 0.64) / (0.69 - 0.64) = 0.6; a gap of 0.005 is too small to take a share of; of a
    measure that goes to 100, a gap of 0.5.
    """
    assert gap_closed(0.67, 0.64, 0.69, NDCG) == pytest.approx(0.6)
    assert gap_closed(0.63, 0.64, 0.69, NDCG) == pytest.approx(-0.2)
    assert gap_closed(0.642, 0.64, 0.645, NDCG) is None
    assert gap_closed(0.65, 0.64, 0.60, NDCG) is None
    assert gap_closed(30.2, 30.0, 30.5, BLEU()) is None
    assert gap_closed(31.0, 30.0, 32.0, BLEU()) == pytest.approx(0.5)


def test_gap_closed_where_less_is_better() -> None:
    errors = Mean(name="errors", higher_is_better=False)
    assert gap_closed(0.2, 0.3, 0.1, errors) == pytest.approx(0.5)
    assert gap_closed(0.2, 0.1, 0.3, errors) is None
