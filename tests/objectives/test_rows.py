"""Losses of rows, by numbers worked out by hand; the same ones the method's paper implies."""

import math

import pytest
import torch
from torch import Tensor

from limbeck.objectives.listwise import cross_entropy, distillation_kl
from limbeck.objectives.rows import (
    RowLoss,
    dkd_target,
    hard,
    kd,
    labelled_by,
    nkd_non_target,
    nkd_target,
    tf_nkd,
)
from limbeck.types import Scores

S, T = [2.0, 1.0, 0.0], [3.0, 1.0, -1.0]


def scores(*rows: list[float], target: list[int] | None = None) -> Scores:
    values = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    found = [0] * len(rows) if target is None else target
    return Scores.of(values, target=torch.tensor(found))


def one(part: RowLoss) -> float:
    return float(part.mean().detach())


def gradient(part: RowLoss, of: Scores) -> Tensor:
    of.values.grad = None
    part.mean().backward()
    assert of.values.grad is not None
    return of.values.grad


def test_parts_of_nkd_at_temperature_1() -> None:
    """S = [0.665241, 0.244728, 0.090031], P_t = 0.866813; without the first column hat P =
    [0.880797, 0.119203] and hat S = [0.731059, 0.268941].
    """
    student, teacher = scores(S), scores(T)
    parts = hard(student), nkd_target(teacher, student), nkd_non_target(teacher, student, 1.0)
    assert [one(part) for part in parts] == pytest.approx([0.407606, 0.353318, 0.432465], abs=1e-6)
    assert one(parts[1]) + 1.5 * one(parts[2]) == pytest.approx(1.002015, abs=2e-6)
    assert one(1.5 * parts[2]) == pytest.approx(1.5 * 0.432465, abs=1e-6)


def test_the_wrong_ones_at_temperature_2() -> None:
    """hat P = [0.731059, 0.268941], hat S = [0.622459, 0.377541]; 4 * 0.608548."""
    assert one(nkd_non_target(scores(T), scores(S), 2.0)) == pytest.approx(2.434191, abs=2e-6)


def test_without_normalisation_target_and_wrong_ones_are_the_cross_entropy_of_kd() -> None:
    """0.353318 + 0.203351, and 0.203351 = (1 - P_t) (0.432465 - log(1 - S_t))."""
    student, teacher = scores(S), scores(T)
    wrong = nkd_non_target(teacher, student, 1.0, normalized=False)
    assert one(wrong) == pytest.approx(0.203351, abs=1e-6)
    both = one(nkd_target(teacher, student)) + one(wrong)
    assert both == pytest.approx(0.556669, abs=1e-6)
    own = (1 - 0.866813) * (0.432465 - math.log(1 - 0.665241))
    assert one(wrong) == pytest.approx(own, abs=1e-5)


def test_the_right_one_against_all_others_and_their_order_are_kd() -> None:
    """0.866813 log(0.866813 / 0.665241) + 0.133187 log(0.133187 / 0.334759) = 0.106671; KD adds
    (1 - P_t) KL(hat P || hat S) to it (Zhao et al. 2022, eq. 6).
    """
    teacher, student = scores(T, T), scores(S, S, target=[0, -1])
    found = dkd_target(teacher, student, 1.0)
    assert one(found) == pytest.approx(0.106671, abs=1e-6)
    entropy = -(0.880797 * math.log(0.880797) + 0.119203 * math.log(0.119203))
    order = one(nkd_non_target(teacher, student, 1.0)) - entropy
    whole = one(kd(scores(T), scores(S), 1.0))
    assert one(found) + 0.133187 * order == pytest.approx(whole, abs=1e-6)
    same = scores(T)
    assert gradient(dkd_target(scores(T), same, 2.0), same).abs().max() < 1e-12
    alone = Scores.of(torch.zeros(1, 2), mask=torch.tensor([[True, False]]))
    alone = Scores.of(alone.values.requires_grad_(), mask=alone.mask, target=torch.tensor([0]))
    assert not gradient(dkd_target(alone, alone, 1.0), alone).any()  # nothing to be told from


def test_the_right_one_gets_no_gradient_from_the_wrong_ones() -> None:
    student = scores(S)
    found = gradient(nkd_non_target(scores(T), student, 1.0), student)[0].tolist()
    assert found[0] == 0.0
    assert found[1:] == pytest.approx([-0.149738, 0.149738], abs=1e-6)


def test_a_student_that_is_its_teacher() -> None:
    """The wrong ones have the teacher's entropy, 0.365334, and pull no more; the right one does."""
    student, teacher = scores(T), scores(T)
    wrong = nkd_non_target(teacher, student, 1.0)
    assert one(wrong) == pytest.approx(0.365334, abs=1e-6)
    assert gradient(wrong, student).abs().max() < 1e-12
    right = nkd_target(teacher, student)
    assert one(right) == pytest.approx(0.123895, abs=1e-6)
    assert gradient(right, student).abs().max() > 0.01


def test_constants_change_nothing() -> None:
    moved = scores([value + 7 for value in S])
    wrong_moved = scores([S[0], S[1] + 7, S[2] + 7])
    for part in (nkd_target, lambda t, s: nkd_non_target(t, s, 2.0), lambda t, s: kd(t, s, 2.0)):
        assert one(part(scores(T), moved)) == pytest.approx(one(part(scores(T), scores(S))))
    assert one(nkd_non_target(scores(T), wrong_moved, 1.0)) == pytest.approx(0.432465, abs=1e-6)


def test_of_two_alternatives_one_is_wrong_and_says_nothing() -> None:
    assert one(nkd_non_target(scores([3.0, 1.0]), scores([0.0, 2.0]), 1.0)) == 0.0


def test_the_students_own_belief() -> None:
    """S_t = 0.9, 0.5, 0.1: w = 1.4, 1.0, 0.6; a batch of one has w = 1, the plain cross-entropy."""
    student = scores(*([math.log(p / (1 - p)), 0.0] for p in (0.9, 0.5, 0.1)))
    assert one(tf_nkd(student)) == pytest.approx(0.740734, abs=1e-6)
    assert one(hard(student)) == pytest.approx(1.033698, abs=1e-6)
    assert one(tf_nkd(scores(S))) == pytest.approx(one(hard(scores(S))))
    weighted = -torch.tensor([1.4, 1.0, 0.6], dtype=torch.float64)
    rows = torch.log_softmax(student.values.detach(), dim=1)[:, 0]
    assert torch.allclose(tf_nkd(student).values.detach(), weighted * rows)


def test_kd_and_hard_are_the_listwise_losses_row_by_row() -> None:
    student, teacher = scores(S, [0.5, 1.5, -0.5]), scores(T, [2.0, 0.0, 1.0])
    assert one(kd(teacher, student, 4.0)) == pytest.approx(
        distillation_kl(teacher, student, temperature=4.0).item()
    )
    assert one(hard(student, 0.5)) == pytest.approx(cross_entropy(student, 0.5).item())


def test_rows_without_a_label_teach_only_where_a_teacher_does() -> None:
    student, teacher = scores(S, S, target=[0, -1]), scores(T, [0.0, 0.0, 9.0])
    known, _ = scores(S), scores(T)
    for part in (hard(student), nkd_target(teacher, student), tf_nkd(student)):
        assert part.weight.tolist() == [1.0, 0.0]
    assert one(hard(student)) == pytest.approx(one(hard(known)))
    assert kd(teacher, student, 1.0).weight.tolist() == [1.0, 1.0]
    assert labelled_by(teacher, student).target.tolist() == [0, 2]


def test_empty_slots_count_for_nothing_whatever_lies_in_them() -> None:
    nan = float("nan")
    mask = torch.tensor([[True, True, True, False]])
    student = scores([*S, nan])
    student = Scores.of(student.values, mask=mask)
    teacher = Scores.of(torch.tensor([[*T, nan]], dtype=torch.float64), mask=mask)
    part = nkd_non_target(teacher, student, 1.0)
    assert one(part) == pytest.approx(0.432465, abs=1e-6)
    assert gradient(part, student)[0, 3] == 0.0
    assert one(nkd_target(teacher, student)) == pytest.approx(0.353318, abs=1e-6)
    assert labelled_by(teacher, student).target.tolist() == [0]
