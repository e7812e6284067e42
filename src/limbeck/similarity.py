"""How alike are vectors? Higher is more alike.

Two layouts: a matrix (every query against every passage) and lists (every query against its own
passages).

This module knows no model and no text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
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


def softmax_temperature(name: Similarity) -> float:
    """What divides similarities before a softmax when nothing else is said.

    0.05 for cosines, which lie in [-1, 1]; 1 for dot products, which are of the size of logits.
    """
    return 0.05 if name == "cosine" else 1.0


def _named(
    name: str, functions: dict[str, Callable[[Tensor, Tensor], Tensor]]
) -> Callable[[Tensor, Tensor], Tensor]:
    if name not in functions:
        raise ConfigError(f"unknown similarity {name!r}; use one of: {', '.join(functions)}")
    return functions[name]
