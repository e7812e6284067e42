"""Cosine and dot product in both layouts, by hand and against sentence-transformers.

Query [3, 4] (length 5), passages [1, 0], [0, 2], [-3, -4]: dots 3, 8, -25; cosines 0.6, 0.8, -1.
"""

import pytest
import torch

from limbeck.errors import ConfigError
from limbeck.similarity import (
    cosine,
    cosine_lists,
    dot,
    dot_lists,
    list_similarity,
    matrix_similarity,
    unit,
)

QUERY = torch.tensor([[3.0, 4.0]])
PASSAGES = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, -4.0]])


def test_by_hand() -> None:
    assert dot(QUERY, PASSAGES).tolist() == [[3.0, 8.0, -25.0]]
    torch.testing.assert_close(cosine(QUERY, PASSAGES), torch.tensor([[0.6, 0.8, -1.0]]))
    assert dot_lists(QUERY, PASSAGES[None]).tolist() == [[3.0, 8.0, -25.0]]
    torch.testing.assert_close(
        cosine_lists(QUERY, PASSAGES[None]), torch.tensor([[0.6, 0.8, -1.0]])
    )


def test_own_lists_are_the_block_diagonal_of_the_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(4, 6, generator=generator)
    passages = torch.randn(4, 3, 6, generator=generator)
    for matrix, lists in [(dot, dot_lists), (cosine, cosine_lists)]:
        full = matrix(queries, passages.reshape(12, 6))
        own = torch.stack([full[b, 3 * b : 3 * b + 3] for b in range(4)])
        torch.testing.assert_close(lists(queries, passages), own)


def test_equals_sentence_transformers() -> None:
    from sentence_transformers.util import cos_sim, dot_score

    generator = torch.Generator().manual_seed(0)
    queries, passages = torch.randn(2, 5, 8, generator=generator)
    torch.testing.assert_close(cosine(queries, passages), cos_sim(queries, passages))
    torch.testing.assert_close(dot(queries, passages), dot_score(queries, passages))


def test_a_zero_vector_is_like_nothing_and_has_a_finite_gradient() -> None:
    zero = torch.zeros(1, 2, requires_grad=True)
    assert torch.equal(unit(zero), torch.zeros(1, 2))
    found = cosine(zero, PASSAGES)
    assert torch.equal(found, torch.zeros(1, 3))
    found.sum().backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


def test_by_name() -> None:
    assert (matrix_similarity("cosine"), matrix_similarity("dot")) == (cosine, dot)
    assert (list_similarity("cosine"), list_similarity("dot")) == (cosine_lists, dot_lists)
    for named in (matrix_similarity, list_similarity):
        with pytest.raises(ConfigError, match=r"unknown similarity 'euclidean'.*cosine, dot"):
            named("euclidean")
