"""Cosine and dot product in both layouts, by hand and against sentence-transformers.

Query [3, 4] (length 5), passages [1, 0], [0, 2], [-3, -4]: dots 3, 8, -25; cosines 0.6, 0.8, -1.
"""

import numpy as np
import pytest
import torch

from limbeck.errors import ConfigError
from limbeck.similarity import (
    comparable,
    cosine,
    cosine_lists,
    dot,
    dot_lists,
    list_similarity,
    matrix_similarity,
    sparse_dots,
    sums_of_maxima,
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


def test_maxima_are_summed_per_query() -> None:
    """Tokens (1, 0) and (0, 1) of query 0 and (-1, 0) of query 2 with a passage of (2, -1), (3, 0):
    the largest are 3, 0 and -2; query 1 has no token.
    """
    tokens = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    passage = torch.tensor([[2.0, -1.0], [3.0, 0.0]])
    found = sums_of_maxima(tokens, torch.tensor([0, 0, 2]), passage, count=3)
    assert found.tolist() == [3.0, 0.0, -2.0]


def test_sparse_products_meet_only_where_both_have_a_word() -> None:
    """Query 0 has 2 at word 4 and 1 at word 9, query 1 has 3 at word 0, query 2 has none; the
    passage has 0.5 at 4 and 7 at 0: 2 * 0.5, 3 * 7 and 0.
    """
    queries = torch.tensor([4, 9, 0]), torch.tensor([2.0, 1.0, 3.0])
    passage = torch.tensor([4, 0]), torch.tensor([0.5, 7.0])
    owners = torch.tensor([0, 0, 1])
    assert sparse_dots(queries, owners, passage, count=3).tolist() == [1.0, 21.0, 0.0]
    nothing = torch.tensor([], dtype=torch.int64), torch.tensor([])
    assert sparse_dots(queries, owners, nothing, count=3).tolist() == [0.0, 0.0, 0.0]


def test_comparable_vectors_have_the_similarity_as_inner_product() -> None:
    vectors = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]], dtype=np.float32)
    expected = np.array([[0.6, 0.8], [0.0, 0.0], [0.0, -1.0]], dtype=np.float32)
    np.testing.assert_allclose(comparable(vectors, "cosine"), expected, rtol=1e-6)
    assert comparable(vectors, "dot") is vectors
