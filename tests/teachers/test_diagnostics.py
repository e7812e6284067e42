import math

import numpy as np
import pytest

from limbeck.errors import ScoreError
from limbeck.teachers.diagnostics import diagnose, doubt, refusal


def lists(*rows):
    return [np.array(row, dtype=np.float32) for row in rows]


def marks(*rows):
    return [np.array(row, dtype=bool) for row in rows]


def test_numbers_worked_by_hand():
    # Spread: std of (1, 3) = 1 and of (2, 2, 2) = 0, mean 0.5; size: sqrt((1 + 9 + 4 + 4 + 4) / 5)
    # = sqrt(4.4).
    # Entropy at temperature 2: softmax(0.5, 1.5) = (0.2689, 0.7311), H = 0.5822 / ln 2 = 0.8400;
    # equal scores: 1.
    # Saturation: the lowest (1) and the highest (3) of five scores.
    # Agreement: list one orders its one pair right: 1; list two ties: 0.5.
    found = diagnose(
        lists([1, 3], [2, 2, 2]), marks([False, True], [True, False, False]), temperature=2.0
    )
    assert found.spread == pytest.approx(0.5)
    assert found.relative_spread == pytest.approx(0.5 / math.sqrt(4.4))
    p = 1 / (1 + math.e)
    one = -(p * math.log(p) + (1 - p) * math.log(1 - p)) / math.log(2)
    assert one == pytest.approx(0.8400, abs=1e-4)
    assert found.entropy == pytest.approx((one + 1) / 2)
    assert found.saturation == pytest.approx(2 / 5)
    assert found.agreement == pytest.approx(0.75)
    assert found.agreement_error == pytest.approx(0.25)  # std of (1, 0.5) is 0.3536, over sqrt(2)
    assert found.agreement_lists == 2


def test_agreement_counts_pairs():
    # Positives 3 and 1, others 2 and 0: 3>2, 3>0, 1>0 are right, 1<2 is wrong.
    found = diagnose(lists([3, 2, 1, 0]), marks([True, False, True, False]))
    assert found.agreement == pytest.approx(0.75)
    assert found.agreement_error is None


def test_short_lists_say_nothing():
    found = diagnose(lists([1.0], [2.0]))
    assert found.spread is None
    assert found.entropy is None
    assert found.agreement is None
    assert refusal(found) is None
    assert len(found.lines()) == 2


def test_a_constant_per_query_changes_neither_order_nor_spread():
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=6).astype(np.float32) for _ in range(8)]
    labels = [rng.random(6) < 0.4 for _ in range(8)]
    moved = [row + np.float32(3) for row in scores]
    one, other = diagnose(scores, labels), diagnose(moved, labels)
    assert one.agreement == other.agreement
    assert one.spread == pytest.approx(other.spread, rel=1e-5)
    assert one.entropy == pytest.approx(other.entropy, rel=1e-5)
    assert [len(line) > 0 for line in one.lines()] == [True] * 4 + [True]


def test_a_sound_teacher_is_not_refused():
    rng = np.random.default_rng(1)
    labels = [np.arange(8) == 0 for _ in range(30)]
    scores = [(rng.normal(size=8) + 2 * row).astype(np.float32) for row in labels]
    assert refusal(diagnose(scores, labels)) is None


def test_a_constant_teacher_is_refused():
    scores = [np.full(8, 0.7, dtype=np.float32) + query for query in range(30)]
    assert "constant" in str(refusal(diagnose(scores)))
    assert "constant" in str(refusal(diagnose([np.zeros(8, dtype=np.float32)] * 30)))


def test_float_noise_is_still_constant():
    rng = np.random.default_rng(2)
    scores = [(0.7 + 1e-7 * rng.normal(size=8)).astype(np.float32) for _ in range(30)]
    assert "constant" in str(refusal(diagnose(scores)))


def test_a_saturated_teacher_is_refused():
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=30, size=(30, 8))
    scores = list((1 / (1 + np.exp(-logits))).astype(np.float32))
    assert "saturated" in str(refusal(diagnose(scores)))
    assert refusal(diagnose(list(logits.astype(np.float32)))) is None


def test_a_reversed_teacher_is_refused():
    rng = np.random.default_rng(4)
    labels = [np.arange(8) == 0 for _ in range(30)]
    scores = [(rng.normal(size=8) - 2 * row).astype(np.float32) for row in labels]
    assert "reversed" in str(refusal(diagnose(scores, labels)))


def test_chance_is_not_reversed_and_few_lists_say_nothing():
    rng = np.random.default_rng(5)
    labels = [np.arange(8) == 0 for _ in range(200)]
    scores = [rng.normal(size=8).astype(np.float32) for _ in labels]
    assert refusal(diagnose(scores, labels)) is None
    wrong = [-row.astype(np.float32) + np.float32(0.1) * np.arange(8) for row in labels[:4]]
    assert refusal(diagnose(wrong, labels[:4])) is None


def test_a_softmax_that_is_flat_or_all_or_nothing_is_doubted_not_refused():
    """Scores 0, 1, 2, 3: over 100 they are alike, over 0.01 one has everything."""
    scores = lists(*[[0.0, 1.0, 2.0, 3.0]] * 30)
    said = {t: doubt(diagnose(scores, temperature=t)) for t in (100.0, 1.0, 0.01)}
    assert said[1.0] is None
    assert "look alike" in str(said[100.0])
    assert "Lower teacher_temperature" in str(said[100.0])
    assert "Raise teacher_temperature" in str(said[0.01])
    assert refusal(diagnose(scores, temperature=100.0)) is None


def test_what_cannot_be_diagnosed():
    with pytest.raises(ScoreError, match="no passage"):
        diagnose([])
    with pytest.raises(ScoreError, match="NaN"):
        diagnose(lists([1.0, float("nan")]))
    with pytest.raises(ScoreError, match="length"):
        diagnose(lists([1.0, 2.0]), marks([True]))
