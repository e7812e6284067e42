"""How alike are vectors? Higher is more alike.

Two layouts of one vector per text: a matrix (every query against every passage) and lists (every
query against its own passages). Where a text is several rows, vectors of tokens or weights of
words, some queries are compared with one passage at a time.

This module knows no model and no text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.errors import ConfigError

Similarity = Literal["cosine", "dot"]


def dot(queries: Tensor, passages: Tensor) -> Tensor:
    """The dot product of every query [B, D] with every passage [N, D]: [B, N]."""
    return queries @ passages.T


def cosine(queries: Tensor, passages: Tensor) -> Tensor:
    """The cosine, in [-1, 1], of every query [B, D] with every passage [N, D]: [B, N]."""
    return dot(unit(queries), unit(passages))


def dot_lists(queries: Tensor, passages: Tensor) -> Tensor:
    """The dot product of query b of [B, D] with each of its own passages [B, L, D]: [B, L]."""
    return torch.einsum("bd,bld->bl", queries, passages)


def cosine_lists(queries: Tensor, passages: Tensor) -> Tensor:
    """The cosine, in [-1, 1], of query b of [B, D] with each of its passages [B, L, D]: [B, L]."""
    return dot_lists(unit(queries), unit(passages))


def unit(vectors: Tensor) -> Tensor:
    """Vectors along the last dimension scaled to length 1; a zero vector stays zero, so its cosine
    is 0.
    """
    return torch.nn.functional.normalize(vectors, dim=-1)


def comparable(vectors: NDArray[np.float32], similarity: str) -> NDArray[np.float32]:
    """Vectors [n, D] whose inner products are the similarity: scaled to length 1 for the cosine."""
    if similarity != "cosine":
        return vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


def matrix_similarity(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The matrix function of a similarity's name.

    Raises:
        ConfigError: when the name is neither `cosine` nor `dot`.
    """
    return _named(name, {"cosine": cosine, "dot": dot})


def list_similarity(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The list function of a similarity's name.

    Raises:
        ConfigError: when the name is neither `cosine` nor `dot`.
    """
    return _named(name, {"cosine": cosine_lists, "dot": dot_lists})


def sums_of_maxima(queries: Tensor, owners: Tensor, passage: Tensor, *, count: int) -> Tensor:
    """MaxSim of `count` queries with one passage: [count], the sum over a query's tokens of the
    largest dot product with a token of the passage.

    Shapes: `queries` [N, D], the tokens of all queries; `owners` [N], whose each is; `passage`
    [T, D], T at least 1.

    Example:
        >>> tokens = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> sums_of_maxima(tokens, torch.tensor([0, 0, 1]), torch.tensor([[2.0, 1.0]]), count=2)
        tensor([3., 3.])
    """
    best = (queries @ passage.T).max(dim=1).values
    return queries.new_zeros(count).index_add(0, owners, best)


def sparse_dots(
    queries: tuple[Tensor, ...], owners: Tensor, passage: tuple[Tensor, ...], *, count: int
) -> Tensor:
    """The dot product of `count` sparse queries with one sparse passage: [count].

    Shapes: `queries`, the places and weights [N] of the words of all queries; `owners` [N], whose
    each is; `passage`, the places and weights [W] of its words. No text has a place twice.

    Example:
        >>> queries = torch.tensor([2, 7, 7]), torch.tensor([1.0, 2.0, 3.0])
        >>> passage = torch.tensor([7, 9]), torch.tensor([0.5, 4.0])
        >>> sparse_dots(queries, torch.tensor([0, 0, 1]), passage, count=2)
        tensor([1.0000, 1.5000])
    """
    (places, weights), (passage_places, passage_weights) = queries, passage
    width = 1 + int(torch.cat([places, passage_places, places.new_zeros(1)]).max())
    dense = weights.new_zeros(width).index_copy(0, passage_places, passage_weights)
    return weights.new_zeros(count).index_add(0, owners, weights * dense[places])


def softmax_temperature(name: Similarity) -> float:
    """Default temperature of a softmax over similarities, which divides them.

    0.05 for cosines, which lie in [-1, 1]; 1 for dot products, which are of the size of logits.
    """
    return 0.05 if name == "cosine" else 1.0


def _named(
    name: str, functions: dict[str, Callable[[Tensor, Tensor], Tensor]]
) -> Callable[[Tensor, Tensor], Tensor]:
    if name not in functions:
        raise ConfigError(f"unknown similarity {name!r}; use one of: {', '.join(functions)}")
    return functions[name]
