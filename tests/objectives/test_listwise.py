"""Losses over distributions, against numbers worked by hand and sentence-transformers' losses.

S, T and R are the student, teacher and reference of PROD's worked example: positive in column 0,
temperature 4. With tau = 1 the rows of L_hard are log(1 + e^-1 + e^-2) = 0.407606 and
log(1 + e + e^-1) = 1.407606, mean 0.907606. LEAD's example uses the same S and T.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from limbeck.objectives.listwise import (
    cross_entropy,
    distillation_kl,
    kl_divergence,
    reverse_kl_divergence,
)
from limbeck.objectives.rows import entropy
from limbeck.types import Scores

S = torch.tensor([[2.0, 1.0, 0.0], [0.5, 1.5, -0.5]])
T = torch.tensor([[3.0, 1.0, -1.0], [2.0, 0.0, 1.0]])
R = torch.tensor([[1.5, 1.0, 0.5], [0.0, 1.0, 0.0]])

Divergence = Callable[[Scores, Scores], Tensor]


def kl(teacher: Scores, student: Scores) -> Tensor:
    return kl_divergence(teacher, student, teacher_temperature=1.5, student_temperature=0.5)


def reverse(teacher: Scores, student: Scores) -> Tensor:
    return reverse_kl_divergence(teacher, student, teacher_temperature=1.5, student_temperature=0.5)


def distillation(teacher: Scores, student: Scores) -> Tensor:
    return distillation_kl(teacher, student, temperature=4.0)


def same_temperature(teacher: Scores, student: Scores) -> Tensor:
    return kl_divergence(teacher, student, teacher_temperature=1.0, student_temperature=1.0)


DIVERGENCES = [kl, reverse, distillation]


def close(value: Tensor, expected: float) -> None:
    assert value.item() == pytest.approx(expected, abs=1.5e-6)


# --- PROD's checks -----------------------------------------------------------------------------


def test_hard_loss() -> None:
    close(cross_entropy(Scores.of(S)), 0.907606)
    close(cross_entropy(Scores.of(S[:1])), 0.407606)
    close(cross_entropy(Scores.of(S[1:])), 1.407606)


def test_unscaled_kl_of_each_row() -> None:
    for row, expected in [(0, 0.019108), (1, 0.059294)]:
        teacher, student = Scores.of(T[row : row + 1]), Scores.of(S[row : row + 1])
        value = kl_divergence(teacher, student, teacher_temperature=4.0, student_temperature=4.0)
        close(value, expected)


def test_distillation_kl_and_the_traps_it_must_not_fall_into() -> None:
    value = distillation_kl(Scores.of(T), Scores.of(S), temperature=4.0)
    close(value, 0.627209)
    close(distillation_kl(Scores.of(S), Scores.of(T), temperature=4.0), 0.672919)  # direction
    close(value / 3, 0.209070)  # a mean over all elements instead of the sum over a row
    close(distillation_kl(Scores.of(T), Scores.of(S), temperature=1.0), 0.422760)  # no temperature


def test_regulariser_and_both_totals() -> None:
    hard, soft = cross_entropy(Scores.of(S)), distillation(Scores.of(T), Scores.of(S))
    reg = distillation(Scores.of(R), Scores.of(S))
    close(reg, 0.092231)
    close(0.1 * hard + 0.9 * soft, 0.655249)
    close(0.1 * hard + 0.9 * soft + reg, 0.747480)


def test_gradient_of_distillation_kl() -> None:
    student = S.clone().requires_grad_()
    distillation(Scores.of(T), Scores.of(student)).backward()
    assert student.grad is not None
    expected = [[-0.174503, 0.038600, 0.135903], [-0.185466, 0.329907, -0.144441]]
    torch.testing.assert_close(student.grad, torch.tensor(expected), atol=1e-6, rtol=0)
    formula = 4.0 * (torch.softmax(S / 4, 1) - torch.softmax(T / 4, 1)) / 2
    torch.testing.assert_close(student.grad, formula, atol=1e-6, rtol=0)
    torch.testing.assert_close(student.grad.sum(dim=1), torch.zeros(2), atol=1e-6, rtol=0)


def test_in_batch_and_own_candidates() -> None:
    queries = torch.eye(2)
    passages = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 2.0], [1.0, 1.0]])
    in_batch = queries @ passages.T
    close(cross_entropy(Scores.of(in_batch, target=torch.tensor([0, 2]))), 0.818026)
    own = torch.stack([in_batch[0, :2], in_batch[1, 2:]])
    close(cross_entropy(Scores.of(own)), 0.393669)


# --- LEAD's checks -----------------------------------------------------------------------------


def test_final_layer_terms() -> None:
    close(cross_entropy(Scores.of(T)), 0.275269)
    close(same_temperature(Scores.of(T), Scores.of(S)), 0.422760)
    close(same_temperature(Scores.of(S), Scores.of(T)), 0.577919)
    backwards = reverse_kl_divergence(
        Scores.of(T), Scores.of(S), teacher_temperature=1.0, student_temperature=1.0
    )
    close(backwards, 0.577919)


def test_layer_terms() -> None:
    a1, a2 = torch.tensor([[1.0, 0, 0], [0, 2, 0]]), torch.tensor([[2.0, 0, 1], [3, 1, 0]])
    b1, b2 = torch.tensor([[0.5, 0, 0], [0, 1, 0]]), torch.tensor([[1.0, 0, 1], [1, 1, 0]])
    close(cross_entropy(Scores.of(a1)), 1.395495)
    close(cross_entropy(Scores.of(a2)), 0.288726)
    first = same_temperature(Scores.of(a1), Scores.of(b1))
    second = same_temperature(Scores.of(a2), Scores.of(b2))
    close(first, 0.064938)
    close(second, 0.249684)
    close(0.472359 * first + 0.527641 * second, 0.162418)


def test_a_teacher_in_training_gets_a_gradient_and_a_detached_one_does_not() -> None:
    teacher, student = T.clone().requires_grad_(), S.clone().requires_grad_()
    kl(Scores.of(teacher), Scores.of(student)).backward()
    assert teacher.grad is not None
    assert teacher.grad.abs().max() > 0.01
    detached = T.clone().requires_grad_()
    kl(Scores.of(detached.detach()), Scores.of(student)).backward()
    assert detached.grad is None


# --- invariants --------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_a_constant_per_row_changes_nothing(loss: Divergence) -> None:
    shift = torch.tensor([[5.0], [-7.0]])
    base = loss(Scores.of(T), Scores.of(S))
    torch.testing.assert_close(loss(Scores.of(T + shift), Scores.of(S)), base)
    torch.testing.assert_close(loss(Scores.of(T), Scores.of(S + shift)), base)
    torch.testing.assert_close(cross_entropy(Scores.of(S + shift)), cross_entropy(Scores.of(S)))


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_the_order_of_alternatives_changes_nothing(loss: Divergence) -> None:
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        loss(Scores.of(T[:, order]), Scores.of(S[:, order])), loss(Scores.of(T), Scores.of(S))
    )
    moved = Scores.of(S[:, order], target=torch.tensor([1, 1]))
    torch.testing.assert_close(cross_entropy(moved), cross_entropy(Scores.of(S)))


def test_a_student_that_matches_has_no_loss_and_no_gradient() -> None:
    for loss in (distillation, same_temperature):
        student = (T + 3.0).requires_grad_()
        value = loss(Scores.of(T), Scores.of(student))
        value.backward()
        assert value.item() == pytest.approx(0, abs=1e-6)
        torch.testing.assert_close(student.grad, torch.zeros_like(T), atol=1e-6, rtol=0)


def test_a_temperature_divides() -> None:
    torch.testing.assert_close(cross_entropy(Scores.of(S), 2.0), cross_entropy(Scores.of(S / 2)))
    torch.testing.assert_close(
        kl(Scores.of(T), Scores.of(S)), same_temperature(Scores.of(T / 1.5), Scores.of(S / 0.5))
    )


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_a_masked_slot_is_as_if_it_were_not_there(loss: Divergence) -> None:
    """A fourth alternative masked on one side only, with a NaN in it, leaves value and gradient."""
    nan = torch.full((2, 1), math.nan)
    mask = torch.tensor([[True, True, True, False]] * 2)
    teacher = torch.cat([T, nan], 1).requires_grad_()
    student = torch.cat([S, nan], 1).requires_grad_()
    for one_mask, other_mask in [(mask, None), (None, mask), (mask, mask)]:
        teacher.grad = student.grad = None
        value = loss(Scores.of(teacher, mask=one_mask), Scores.of(student, mask=other_mask))
        torch.testing.assert_close(value, loss(Scores.of(T), Scores.of(S)))
        value.backward()
        for scores in (teacher, student):
            assert scores.grad is not None
            assert torch.equal(scores.grad[:, 3], torch.zeros(2))
            assert scores.grad.isfinite().all()


def test_cross_entropy_leaves_masked_slots_out() -> None:
    """Row 0 keeps columns 0 and 1: log(1 + e^-1) = 0.313262."""
    values = S[:1].clone().requires_grad_()
    value = cross_entropy(Scores.of(values, mask=torch.tensor([[True, True, False]])))
    close(value, 0.313262)
    value.backward()
    assert values.grad is not None
    assert values.grad[0, 2].item() == 0.0


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_rows_count_by_the_students_weight(loss: Divergence) -> None:
    """Weights 3 and 1: the mean is (3 row0 + row1) / 4. The teacher's own weights are not read."""
    rows = [loss(Scores.of(T[i : i + 1]), Scores.of(S[i : i + 1])) for i in (0, 1)]
    weighted = Scores.of(S, weight=torch.tensor([3.0, 1.0]))
    teacher = Scores.of(T, weight=torch.tensor([0.0, 9.0]))
    torch.testing.assert_close(loss(teacher, weighted), (3 * rows[0] + rows[1]) / 4)


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_a_row_of_weight_0_counts_for_nothing(loss: Divergence) -> None:
    student = torch.cat([S, torch.full((1, 3), math.nan)]).requires_grad_()
    teacher = torch.cat([T, torch.full((1, 3), math.inf)])
    value = loss(Scores.of(teacher), Scores.of(student, weight=torch.tensor([1.0, 1.0, 0.0])))
    torch.testing.assert_close(value, loss(Scores.of(T), Scores.of(S)))
    value.backward()
    assert student.grad is not None
    assert torch.equal(student.grad[2], torch.zeros(3))
    assert student.grad.isfinite().all()


def test_cross_entropy_ignores_unknown_targets_and_weight_0() -> None:
    """Only row 0 of four counts: row 1 has no target, row 2 no weight, row 3 neither nor a slot."""
    values = torch.cat([S, torch.full((2, 3), math.nan)]).requires_grad_()
    scores = Scores(
        values,
        torch.tensor([[True] * 3] * 3 + [[False] * 3]),
        torch.tensor([0, -1, 0, -1]),
        torch.tensor([2.0, 1.0, 0.0, 0.0]),
    )
    value = cross_entropy(scores)
    close(value, 0.407606)
    value.backward()
    assert values.grad is not None
    assert torch.equal(values.grad[1:], torch.zeros(3, 3))


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_nothing_that_counts_is_zero_with_a_gradient_of_zero(loss: Divergence) -> None:
    student = S.clone().requires_grad_()
    nothing = Scores.of(student, weight=torch.zeros(2))
    unknown = Scores.of(student, target=torch.tensor([-1, -1]))
    empty = Scores.of(student, mask=torch.zeros(2, 3, dtype=torch.bool))
    values = [loss(Scores.of(T), nothing), loss(Scores.of(T), empty)]
    for value in [*values, cross_entropy(nothing), cross_entropy(unknown)]:
        student.grad = None
        value.backward()
        assert value.item() == 0.0
        assert student.grad is not None
        assert torch.equal(student.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_gradients_are_those_of_finite_differences(loss: Divergence) -> None:
    mask = torch.tensor([[True, True, True], [True, False, True]])
    weight = torch.tensor([2.0, 0.5], dtype=torch.float64)

    def value(t: Tensor, s: Tensor) -> Tensor:
        return loss(Scores.of(t), Scores.of(s, mask=mask, weight=weight))

    inputs = (T.double().requires_grad_(), S.double().requires_grad_())
    assert torch.autograd.gradcheck(value, inputs)


def test_scores_in_bf16_are_lifted_to_fp32() -> None:
    value = distillation(Scores.of(T.bfloat16()), Scores.of(S.bfloat16()))
    assert value.dtype == torch.float32
    close(value, 0.627209)  # these numbers are exact in bf16


def test_scores_far_apart_stay_finite() -> None:
    far = Scores.of(torch.tensor([[1e4, -1e4, 0.0]]))
    assert float(kl(far, far)) == 0.0
    assert math.isfinite(float(reverse(far, Scores.of(-far.values))))


# --- oracles -----------------------------------------------------------------------------------


def test_equals_sentence_transformers_distill_kl_div_loss() -> None:
    """Unit vectors u_i against one query give the scores, so the loss sees exactly S and T."""
    from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss

    loss = DistillKLDivLoss(model=None, temperature=4.0)
    queries = torch.ones(2, 1)
    embeddings = [queries, *(S[:, [column]] for column in range(3))]
    expected = loss.compute_loss_from_embeddings(embeddings, T)
    torch.testing.assert_close(distillation(Scores.of(T), Scores.of(S)), expected)


def test_equals_sentence_transformers_multiple_negatives_ranking_loss() -> None:
    """In-batch candidates, positives first; temperature 1/20 is their scale of 20."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.util import cos_sim

    generator = torch.Generator().manual_seed(0)
    queries, positives, negatives = torch.randn(3, 5, 8, generator=generator)
    loss = MultipleNegativesRankingLoss(model=None, scale=20.0, similarity_fct=cos_sim)
    expected = loss.compute_loss_from_embeddings([queries, positives, negatives], None)
    values = cos_sim(queries, torch.cat([positives, negatives]))
    ours = cross_entropy(Scores.of(values, target=torch.arange(5)), temperature=1 / 20)
    torch.testing.assert_close(ours, expected)


# --- a caller's mistakes -----------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_must_be_above_0(temperature: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        distillation_kl(Scores.of(T), Scores.of(S), temperature=temperature)
    with pytest.raises(ValueError, match="above 0"):
        cross_entropy(Scores.of(S), temperature)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\), student scores \(2, 2\)"):
        distillation(Scores.of(T), Scores.of(S[:, :2]))


def test_a_masked_target_is_refused() -> None:
    mask = torch.tensor([[True, True, True], [False, True, True]])
    with pytest.raises(ValueError, match="target column is masked"):
        cross_entropy(Scores.of(S, mask=mask))
    unweighted = replace(Scores.of(S, mask=mask), weight=torch.tensor([1.0, 0.0]))
    close(cross_entropy(unweighted), 0.407606)


# --- ADAM: lists with passages between right and wrong -------------------------------------------


def test_dark_examples_spread_the_teachers_distribution() -> None:
    """Logits 6, -3, -4, -5, and two more at 1 and 2; at temperatures 1 and 4."""
    clean = torch.tensor([[6.0, -3.0, -4.0, -5.0]])
    dark = torch.cat([clean, torch.tensor([[1.0, 2.0]])], dim=1)
    shares = torch.softmax(clean, dim=1)[0].tolist()
    assert shares == pytest.approx([0.999815, 0.000123, 0.000045, 0.000017], abs=1e-6)
    found = [float(entropy(Scores.of(each / tau))) for tau in (1, 4) for each in (clean, dark)]
    assert found == pytest.approx([0.001934, 0.130951, 0.718244, 1.350208], abs=1e-6)


@pytest.mark.parametrize(
    ("tau", "value", "gradient"),
    [
        (1.0, 0.379738, [-0.421476, 0.308124, 0.113352]),
        (2.0, 0.488732, [-0.489760, 0.304856, 0.184904]),
    ],
)
def test_the_teacher_stands_first_and_an_empty_slot_changes_nothing(
    tau: float, value: float, gradient: list[float]
) -> None:
    """Teacher 3, 1, 0 and student 1, 1, 0; the reverse is 0.463214. At tau = 2, KL alone is
    0.122183.
    """
    teacher = torch.tensor([[3.0, 1.0, 0.0]])
    for padded in (False, True):
        s = torch.tensor([[1.0, 1.0, 0.0]], requires_grad=True)
        student, known = Scores.of(s), Scores.of(teacher)
        if padded:
            mask = torch.tensor([[True, True, True, False]])
            nothing = torch.full((1, 1), -torch.inf)
            student = Scores.of(torch.cat([s, nothing], dim=1), mask=mask)
            known = Scores.of(torch.cat([teacher, nothing], dim=1), mask=mask)
        found = distillation_kl(known, student, temperature=tau)
        found.backward()
        assert found.item() == pytest.approx(value, abs=1e-6)
        assert s.grad is not None
        assert s.grad[0].tolist() == pytest.approx(gradient, abs=1e-6)
        assert float(s.grad.sum()) == pytest.approx(0, abs=1e-6)
    both = Scores.of(teacher), Scores.of(torch.tensor([[1.0, 1.0, 0.0]]))
    back = reverse_kl_divergence(*both, teacher_temperature=1.0, student_temperature=1.0)
    assert float(back) == pytest.approx(0.463214, abs=1e-6)
    plain = kl_divergence(*both, teacher_temperature=2.0, student_temperature=2.0)
    assert float(plain) == pytest.approx(0.122183, abs=1e-6)
