"""Losses of a generator, by numbers worked out by hand."""

import math

import pytest
import torch

from limbeck.objectives.data_free import (
    batch_entropy,
    hard_not_wrong,
    statistics_distance,
    unsureness,
)
from limbeck.types import Scores


def logits(*rows: list[float]) -> Scores:
    return Scores.of(torch.tensor(rows, dtype=torch.float64, requires_grad=True))


def test_classes_that_are_as_frequent_have_the_largest_entropy() -> None:
    even, odd = [0.9, 0.1], [0.1, 0.9]
    logs = [[math.log(p) for p in row] for row in (even, odd)]
    assert float(batch_entropy(logits(*logs)).detach()) == pytest.approx(0.693147, abs=1e-6)
    assert float(batch_entropy(logits(logs[0], logs[0])).detach()) == pytest.approx(
        0.325083, abs=1e-6
    )


def test_a_sure_teacher_costs_nothing() -> None:
    assert float(unsureness(logits([50.0, 0.0])).detach()) == pytest.approx(0.0, abs=1e-9)
    assert float(unsureness(logits([1.0, 1.0])).detach()) == pytest.approx(math.log(2))


def test_only_images_on_whose_class_both_agree_are_made_harder() -> None:
    teacher, student = logits([2.0, 0.0], [2.0, 0.0]), logits([1.0, 0.0], [0.0, 1.0])
    hard_not_wrong(teacher, student).backward()
    assert student.values.grad is not None
    assert student.values.grad[0].abs().sum() > 0
    assert student.values.grad[1].tolist() == [0.0, 0.0]
    p, q = torch.softmax(teacher.values / 3, dim=1), torch.softmax(student.values / 3, dim=1)
    rows = 9 * (p * (p / q).log()).sum(dim=1)
    found = hard_not_wrong(teacher, student)
    assert float(found.detach()) == pytest.approx(-float(rows[0].detach()) / 2)
    every = hard_not_wrong(teacher, student, agreeing=False)
    assert float(every.detach()) == pytest.approx(-float(rows.mean().detach()))


def test_statistics_that_are_those_of_the_data_are_no_distance() -> None:
    kept = {"a": (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))}
    assert statistics_distance(kept, kept) == 0
    other = {"a": (torch.tensor([4.0, 6.0]), torch.tensor([1.0, 3.0]))}
    assert float(statistics_distance(other, kept)) == pytest.approx(5 + 2)
