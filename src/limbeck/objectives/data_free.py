"""When is an image that nobody has seen worth learning from?

Losses of a generator of images, of what a teacher and a student say of them. Minimising each moves
the generator towards images that look like the teacher's data, cover its classes, and are hard for
the student, but not wrong. This module knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from limbeck.objectives.rows import precise
from limbeck.types import Scores


def unsureness(teacher: Scores) -> Tensor:
    """Cross-entropy of the teacher with its own first choice: 0 where it is sure.

    Source: Chen et al. 2019 (DAFL), arXiv:1904.01186, eq. 1.
    """
    values = precise(teacher.values)
    return functional.cross_entropy(values, values.argmax(dim=1))


def batch_entropy(teacher: Scores, temperature: float = 1.0) -> Tensor:
    """Entropy of the mean over rows of softmax(t / temperature), in nats: largest where all classes
    are as frequent.

    Source: Chen et al. 2019 (DAFL), arXiv:1904.01186, eq. 4.

    Example:
        >>> rows = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
        >>> batch_entropy(Scores.of(rows))
        tensor(0.6931)
    """
    mean = torch.softmax(precise(teacher.values) / temperature, dim=1).mean(dim=0)
    return -(mean * mean.clamp(min=torch.finfo(mean.dtype).tiny).log()).sum()


def statistics_distance(
    seen: Mapping[str, tuple[Tensor, Tensor]], kept: Mapping[str, tuple[Tensor, Tensor]]
) -> Tensor:
    """Sum over layers of |m - M| + |v - V|, with m, v [C] mean and variance of a batch in front of
    a BatchNorm and M, V those that it kept of its data; Euclidean norms.

    Source: Yin et al. 2020 (DeepInversion), arXiv:1912.08795, eq. 4.
    """
    distances = [
        torch.linalg.vector_norm(mean - kept[layer][0])
        + torch.linalg.vector_norm(variance - kept[layer][1])
        for layer, (mean, variance) in seen.items()
    ]
    return torch.stack(distances).sum()


def hard_not_wrong(
    teacher: Scores, student: Scores, temperature: float = 3.0, *, agreeing: bool = True
) -> Tensor:
    """-mean_b m_b temperature^2 KL(T_b || S_b), with m_b 1 where both choose one class, else 0:
    lower the further the student is from a teacher with which it agrees. A control without
    `agreeing` takes every row.

    Both get a gradient. Source: Li et al. 2022, arXiv:2208.13648.
    """
    mask = teacher.mask & student.mask
    p = torch.log_softmax(precise(teacher.values).masked_fill(~mask, -1e9) / temperature, dim=1)
    q = torch.log_softmax(precise(student.values).masked_fill(~mask, -1e9) / temperature, dim=1)
    rows = temperature**2 * (p.exp() * (p - q)).sum(dim=1)
    same = teacher.values.argmax(dim=1) == student.values.argmax(dim=1)
    return -(torch.where(same, rows, 0.0) if agreeing else rows).mean()
