"""Margin-MSE, against numbers worked by hand and sentence-transformers' loss; and losses of the
teacher's order, against numbers worked by hand.

Student margins to column 0: row 0: 2-1 = 1, 2-0 = 2; row 1: 0.5-1.5 = -1, 0.5+0.5 = 1.
Teacher margins:             row 0: 3-1 = 2, 3+1 = 4; row 1: 2-0 = 2,      2-1 = 1.
Squared gaps: row 0: 1, 4, mean 2.5; row 1: 9, 0, mean 4.5. Loss (2.5 + 4.5) / 2 = 3.5.
"""

import math

import pytest
import torch

from limbeck.objectives.listwise import kl_divergence, soft_cross_entropy
from limbeck.objectives.pairwise import margin_mse, ordered_hinge, ranknet
from limbeck.objectives.rows import without_target
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


# --- the teacher's order -------------------------------------------------------------------------
#
# t = [9, 7, 8, 5] puts columns in the order 0, 2, 1, 3; with s = [4, 3, 1, 2] the pairs (0, 2),
# (0, 1), (0, 3), (2, 1), (2, 3), (1, 3) cost 0, 0, 0, 2, 1, 0: 0.5 on the mean.

ORDER = Scores.of(torch.tensor([[9.0, 7.0, 8.0, 5.0]]))
ASKED = Scores.of(torch.tensor([[4.0, 3.0, 1.0, 2.0]]))


def test_an_order_by_hand() -> None:
    values = ASKED.values.clone().requires_grad_()
    loss = ordered_hinge(ORDER, Scores.of(values))
    loss.backward()
    assert loss.item() == pytest.approx(0.5)
    assert values.grad is not None
    assert values.grad[0].tolist() == pytest.approx([0, 1 / 6, -1 / 3, 1 / 6])


def test_an_order_without_the_positive() -> None:
    """Pairs (2, 1), (2, 3), (1, 3): 2, 1, 0."""
    assert float(ordered_hinge(without_target(ORDER), ASKED)) == pytest.approx(1.0)
    unknown = Scores.of(ORDER.values, target=torch.tensor([-1]))  # has none to leave out
    assert float(ordered_hinge(without_target(unknown), ASKED)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({"margin": 0.5}, 4 / 6), ({"gap": 2.0}, 0.25), ({"gap": 3.0}, 0.5), ({"gap": 5.0}, 0.0)],
)
def test_margin_and_gap(given: dict[str, float], expected: float) -> None:
    """Margin 0.5 costs (2, 1) and (2, 3) half a point more each. Gaps of 2 keep (0, 1), (0, 3),
    (2, 3), (1, 3), those of 3 keep (0, 3), (2, 3), and one of 5 keeps none.
    """
    assert float(ordered_hinge(ORDER, ASKED, **given)) == pytest.approx(expected)


def test_the_order_alone_counts() -> None:
    moved = Scores.of(100 * ORDER.values + 7)
    assert float(ordered_hinge(moved, ASKED)) == pytest.approx(0.5)
    assert float(ranknet(moved, ASKED)) == float(ranknet(ORDER, ASKED))
    raw = {"teacher_temperature": 1.0, "student_temperature": 1.0}
    assert float(kl_divergence(ORDER, ASKED, **raw)) == pytest.approx(0.391016, abs=1e-6)
    assert float(kl_divergence(moved, ASKED, **raw)) != pytest.approx(0.391016, abs=0.01)


def test_agreement_costs_nothing_and_neither_do_scores_that_are_all_alike() -> None:
    """So that the hinge alone trains nobody."""
    agreeing = Scores.of(torch.tensor([[0.3, 0.1, 0.2, -40.0]]))
    assert float(ordered_hinge(ORDER, agreeing)) == 0.0
    alike = torch.full((1, 4), 2.0, requires_grad=True)
    loss = ordered_hinge(ORDER, Scores.of(alike))
    loss.backward()
    assert loss.item() == 0.0
    assert alike.grad is not None
    assert not alike.grad.any()


def test_equal_scores_have_no_order() -> None:
    """Of three columns, two alike: (0, 1) and (0, 2) remain, and cost 1 and 2."""
    teacher = Scores.of(torch.tensor([[1.0, 0.0, 0.0]]))
    student = Scores.of(torch.tensor([[0.0, 1.0, 2.0]]))
    assert float(ordered_hinge(teacher, student)) == pytest.approx(1.5)


def test_pairs_of_all_rows_count_alike_but_for_masks_and_weights() -> None:
    """Row 0 has six pairs that cost 3 together; row 1 has one left, which costs 4, at weight 3."""
    student = Scores.of(
        torch.tensor([[4.0, 3.0, 1.0, 2.0], [0.0, 4.0, math.nan, 0.0]]),
        mask=torch.tensor([[True] * 4, [True, True, False, False]]),
        weight=torch.tensor([1.0, 3.0]),
    )
    teacher = Scores.of(ORDER.values.repeat(2, 1))
    assert float(ordered_hinge(teacher, student)) == pytest.approx((3 + 3 * 4) / (6 + 3))


def test_ranknet_by_hand() -> None:
    """Differences 3, 1, 2, -2, -1, 1 of the six pairs."""
    costs = [math.log1p(math.exp(-difference)) for difference in (3, 1, 2, -2, -1, 1)]
    assert float(ranknet(ORDER, ASKED)) == pytest.approx(sum(costs) / 6)


def test_listnet_has_the_gradient_of_kl() -> None:
    gradients = []
    for loss in (kl_divergence, soft_cross_entropy):
        values = ASKED.values.clone().requires_grad_()
        scores = Scores.of(values)
        loss(ORDER, scores, teacher_temperature=1.0, student_temperature=1.0).backward()
        gradients.append(values.grad)
    torch.testing.assert_close(*gradients)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="about the same rows"):
        ordered_hinge(Scores.of(T), ASKED)
