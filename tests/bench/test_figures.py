"""The arithmetic of a row."""

import pytest

from limbeck.bench.figures import gap_closed


def test_gap_closed_is_the_share_of_the_way_to_the_teacher() -> None:
    """(0.67 - 0.64) / (0.69 - 0.64) = 0.6; a gap of 0.005 is too small to take a share of."""
    assert gap_closed(0.67, 0.64, 0.69) == pytest.approx(0.6)
    assert gap_closed(0.63, 0.64, 0.69) == pytest.approx(-0.2)
    assert gap_closed(0.642, 0.64, 0.645) is None
    assert gap_closed(0.65, 0.64, 0.60) is None
