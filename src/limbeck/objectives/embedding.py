"""How far are the student's vectors from the teacher's?

Row i of both sides is about the same text. The widths must be equal: a projection, where a method
has one, comes before. Neither side is detached.

This module knows no model, and not which texts the vectors stand for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.objectives.rows import precise, weighted_mean


def cosine_distance(teacher: Tensor, student: Tensor, weight: Tensor | None = None) -> Tensor:
    """L = mean_i 1 - cos(t_i, s_i), in [0, 2]; the length of a vector plays no part.

    Shapes: `teacher` and `student` [n, D]; `weight` [n] >= 0, by default 1 for every row.

    Raises:
        ValueError: when the two have different shapes.

    Example:
        >>> cosine_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
        tensor(0.4000)
    """
    teacher, student, weight = _aligned(teacher, student, weight)
    cosine = torch.nn.functional.cosine_similarity(student, teacher, dim=1)
    return weighted_mean(1.0 - cosine, weight)


def squared_error(teacher: Tensor, student: Tensor, weight: Tensor | None = None) -> Tensor:
    """L = mean_i ||t_i - s_i||^2: a sum over the width, so that D does not change its size.

    Shapes: `teacher` and `student` [n, D]; `weight` [n] >= 0, by default 1 for every row.

    Raises:
        ValueError: when the two have different shapes.

    Example:
        >>> squared_error(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
        tensor(20.)
    """
    teacher, student, weight = _aligned(teacher, student, weight)
    return weighted_mean((student - teacher).square().sum(dim=1), weight)


def _aligned(
    teacher: Tensor, student: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Both sides in fp32 at least, with zeros for rows of weight 0: a NaN there does not count."""
    if teacher.shape != student.shape:
        raise ValueError(
            f"teacher vectors have shape {tuple(teacher.shape)}, student vectors "
            f"{tuple(student.shape)}; rows must be the same texts, and widths equal"
        )
    if weight is None:
        weight = torch.ones(len(student), device=student.device)
    unused = (weight <= 0).unsqueeze(1)
    return (
        precise(teacher).masked_fill(unused, 0.0),
        precise(student).masked_fill(unused, 0.0),
        weight,
    )
