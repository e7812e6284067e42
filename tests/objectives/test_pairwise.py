"""Margin-MSE, against numbers worked by hand and sentence-transformers' loss.

Student margins to column 0: row 0: 2-1 = 1, 2-0 = 2; row 1: 0.5-1.5 = -1, 0.5+0.5 = 1.
Teacher margins:             row 0: 3-1 = 2, 3+1 = 4; row 1: 2-0 = 2,      2-1 = 1.
Squared gaps: row 0: 1, 4, mean 2.5; row 1: 9, 0, mean 4.5. Loss (2.5 + 4.5) / 2 = 3.5.
"""

import math

import pytest
import torch

from limbeck.objectives.pairwise import margin_mse
from limbeck.types import Scores

S = torch.tensor([[2.0, 1.0, 0.0], [0.5, 1.5, -0.5]])
T = torch.tensor([[3.0, 1.0, -1.0], [2.0, 0.0, 1.0]])


def test_by_hand() -> None:
    assert float(margin_mse(Scores.of(T), Scores.of(S))) == pytest.approx(3.5)


def test_the_target_column_is_compared_with_the_others() -> None:
    """Target 2 in row 0: student 0-2, 0-1; teacher -1-3, -1-1; gaps 2, 1; mean (4 + 1) / 2."""
    student = Scores.of(S[:1], target=torch.tensor([2]))
    assert float(margin_mse(Scores.of(T[:1]), student)) == pytest.approx(2.5)


def test_masked_pairs_are_left_out_and_rows_are_weighted() -> None:
    """Row 0 keeps (0, 2): 4. Row 1 keeps (0, 1): 9. Weights 1 and 3: (4 + 27) / 4 = 7.75."""
    values = S.clone().requires_grad_()
    student = Scores.of(
        values,
        mask=torch.tensor([[True, False, True], [True, True, True]]),
        weight=torch.tensor([1.0, 3.0]),
    )
    teacher = Scores.of(T, mask=torch.tensor([[True, True, True], [True, True, False]]))
    loss = margin_mse(teacher, student)
    loss.backward()
    assert loss.item() == pytest.approx(7.75)
    assert values.grad is not None
    assert values.grad[0, 1].item() == 0.0
    assert values.grad[1, 2].item() == 0.0


def test_rows_that_do_not_count() -> None:
    """Row 1 has no target, row 2 no weight and NaN, row 3 no pair: (2.5 + 0) / 2."""
    values = torch.cat([S, torch.full((1, 3), math.nan), S[:1]]).requires_grad_()
    student = Scores(
        values,
        torch.tensor([[True] * 3] * 3 + [[True, False, False]]),
        torch.tensor([0, -1, 0, 0]),
        torch.tensor([1.0, 1.0, 0.0, 1.0]),
    )
    loss = margin_mse(Scores.of(torch.cat([T, T])), student)
    loss.backward()
    assert loss.item() == pytest.approx(1.25)
    assert values.grad is not None
    assert torch.equal(values.grad[1:], torch.zeros(3, 3))


def test_a_constant_per_row_changes_nothing_and_a_match_is_zero() -> None:
    shift = torch.tensor([[4.0], [-2.0]])
    base = margin_mse(Scores.of(T), Scores.of(S))
    torch.testing.assert_close(margin_mse(Scores.of(T), Scores.of(S + shift)), base)
    torch.testing.assert_close(margin_mse(Scores.of(T + shift), Scores.of(S)), base)
    matching = (T + shift).requires_grad_()
    loss = margin_mse(Scores.of(T), Scores.of(matching))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(matching.grad, torch.zeros(2, 3))


def test_the_order_of_negatives_changes_nothing() -> None:
    order = torch.tensor([0, 2, 1])
    torch.testing.assert_close(
        margin_mse(Scores.of(T[:, order]), Scores.of(S[:, order])),
        margin_mse(Scores.of(T), Scores.of(S)),
    )


def test_gradients_are_those_of_finite_differences() -> None:
    mask = torch.tensor([[True, True, True], [True, False, True]])
    assert torch.autograd.gradcheck(
        lambda t, s: margin_mse(Scores.of(t), Scores.of(s, mask=mask)),
        (T.double().requires_grad_(), S.double().requires_grad_()),
    )


def test_equals_sentence_transformers_margin_mse_loss() -> None:
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss

    generator = torch.Generator().manual_seed(0)
    queries, *passages = torch.randn(5, 6, 8, generator=generator)
    teacher = torch.randn(6, 4, generator=generator)
    expected = MarginMSELoss(model=None).compute_loss_from_embeddings([queries, *passages], teacher)
    student = torch.stack([(queries * passage).sum(1) for passage in passages], dim=1)
    torch.testing.assert_close(margin_mse(Scores.of(teacher), Scores.of(student)), expected)


def test_a_callers_mistakes() -> None:
    with pytest.raises(ValueError, match="shape"):
        margin_mse(Scores.of(T), Scores.of(S[:, :2]))
    masked = Scores.of(S, mask=torch.tensor([[False, True, True], [True, True, True]]))
    with pytest.raises(ValueError, match="target column is masked"):
        margin_mse(Scores.of(T), masked)
