"""Losses between vectors, against numbers worked by hand and sentence-transformers' loss.

cos([1, 0], [3, 4]) = 0.6 and cos([0, 2], [0, 1]) = 1: distances 0.4 and 0, mean 0.2.
||[1, 0] - [3, 4]||^2 = 4 + 16 = 20 and ||[0, 2] - [0, 1]||^2 = 1: mean 10.5.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from limbeck.objectives.embedding import cosine_distance, squared_error

T = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
S = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
BOTH = [cosine_distance, squared_error]
Distance = Callable[..., Tensor]


def test_by_hand() -> None:
    assert float(cosine_distance(T, S)) == pytest.approx(0.2)
    assert float(squared_error(T, S)) == pytest.approx(10.5)


def test_weights() -> None:
    """Weights 1 and 3: 0.4 / 4 = 0.1, and (20 + 3) / 4 = 5.75."""
    weight = torch.tensor([1.0, 3.0])
    assert float(cosine_distance(T, S, weight)) == pytest.approx(0.1)
    assert float(squared_error(T, S, weight)) == pytest.approx(5.75)


@pytest.mark.parametrize("distance", BOTH)
def test_a_match_is_zero_without_gradient(distance: Distance) -> None:
    student = T.clone().requires_grad_()
    loss = distance(T, student)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(student.grad, torch.zeros(2, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("distance", BOTH)
def test_rows_of_weight_0_count_for_nothing(distance: Distance) -> None:
    student = torch.cat([S, torch.full((1, 2), math.nan)]).requires_grad_()
    teacher = torch.cat([T, torch.full((1, 2), math.inf)])
    loss = distance(teacher, student, torch.tensor([1.0, 1.0, 0.0]))
    loss.backward()
    torch.testing.assert_close(loss, distance(T, S))
    assert student.grad is not None
    assert torch.equal(student.grad[2], torch.zeros(2))
    assert student.grad.isfinite().all()
    assert float(distance(T, S, torch.zeros(2))) == 0.0


def test_the_length_of_a_vector_matters_to_one_of_them() -> None:
    torch.testing.assert_close(cosine_distance(T, 5 * S), cosine_distance(T, S))
    assert float(squared_error(T, 5 * T)) > 0


def test_on_unit_vectors_squared_error_is_twice_the_cosine_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.nn.functional.normalize(
        torch.randn(2, 7, 5, generator=generator), dim=2
    )
    torch.testing.assert_close(
        squared_error(teacher, student), 2 * cosine_distance(teacher, student)
    )


def test_equals_sentence_transformers_mse_loss_times_the_width() -> None:
    from sentence_transformers.sentence_transformer.losses import MSELoss

    expected = MSELoss(model=None).compute_loss_from_embeddings([S], [T])
    torch.testing.assert_close(squared_error(T, S), 2 * expected)


@pytest.mark.parametrize("distance", BOTH)
def test_shapes_must_agree(distance: Distance) -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\), student vectors \(2, 1\)"):
        distance(T, S[:, :1])
