"""How much does each row, or each teacher of a row, count?

Weights are numbers, not part of what a gradient changes: whoever wants them so detaches what they
are made of. This module knows no method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from limbeck.objectives.rows import entropy, hard
from limbeck.types import Scores

Pace = Literal["log", "linear", "hard"]
Trust = Literal["confidence", "entropy", "equal"]


def by_confidence(losses: Tensor) -> Tensor:
    """w_k = (1 - softmax(e)_k) / (K - 1), [K, R], of the losses e of K teachers in R rows: the
    larger a teacher's loss beside the others', the smaller its weight, which is 1 / (K - 1) at
    most. Weights of a row add up to 1; one teacher alone has 1.

    Source: Zhang et al. 2022, arXiv:2201.00007, eq. 3.

    Example:
        >>> by_confidence(torch.tensor([[0.2], [0.7], [1.5]])).T
        tensor([[0.4209, 0.3695, 0.2096]])
    """
    if len(losses) == 1:
        return torch.ones_like(losses)
    return (1 - torch.softmax(losses, dim=0)) / (len(losses) - 1)


def by_quality(losses: Tensor, temperature: float) -> Tensor:
    """w_k = softmax(-e / temperature)_k, [K], of the losses e of K teachers, or of K layers of one:
    the smaller a loss, the larger its weight. They add up to 1, and are equal where the losses are.

    Source: LEAD, Sun et al. 2024, arXiv:2212.05225, by the authors' code.

    Example:
        >>> by_quality(torch.tensor([0.5, 1.0, 2.0]), temperature=10.0)
        tensor([0.3556, 0.3383, 0.3061])
    """
    return torch.softmax(-losses / temperature, dim=0)


def by_entropy(teachers: Sequence[Scores]) -> Tensor:
    """w_k = (1 - H_k / sum_j H_j) / (K - 1), [K, R], with H the entropy of teacher k in a row: the
    surer a teacher is, the larger its weight, right or wrong. Weights of a row add up to 1; one
    teacher alone has 1.

    Source: Kwon et al. 2020, "Adaptive knowledge distillation based on entropy", scaled to sum 1.
    """
    stacked = torch.stack([entropy(scores) for scores in teachers])
    if len(teachers) == 1:
        return torch.ones_like(stacked)
    total = stacked.sum(dim=0).clamp(min=torch.finfo(stacked.dtype).tiny)
    share = torch.where(stacked.sum(dim=0) > 0, stacked / total, 1 / len(teachers))
    return (1 - share) / (len(teachers) - 1)


def of_teachers(teachers: Sequence[Scores], trust: Trust) -> Tensor:
    """The weights [K, R] of K teachers in each row, by their cross-entropy with the label, by their
    entropy, or equal ones; these also where a row has no label to be right about.
    """
    first = teachers[0]
    equal = torch.full((len(teachers), len(first.values)), 1 / len(teachers))
    equal = equal.to(first.values.device)
    if trust == "equal":
        return equal
    if trust == "entropy":
        return by_entropy(teachers)
    losses = torch.stack([hard(each).values for each in teachers])
    return torch.where(first.target >= 0, by_confidence(losses), equal)


def self_paced(losses: Tensor, threshold: float | Tensor, pace: Pace = "log") -> Tensor:
    """Weights v [R] in [0, 1] of losses [R] at least 0: 1 for a loss of 0, less for a larger one.

    With l a loss and t the threshold: `log`, (1 + e^-t) / (1 + e^(l - t)); `linear`,
    max(0, 1 - l / t); `hard`, 1 where l < t, else 0. Each is the v that minimises v l + g(v; t) for
    a regulariser g; a larger threshold gives larger weights.

    Source: Kumar et al. 2010 (hard); Jiang et al. 2014 (linear); Li et al. 2022, arXiv:2208.13648
    (log).

    Example:
        >>> self_paced(torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0]), 1.0)
        tensor([1.0000, 0.8514, 0.6839, 0.3679, 0.0649])
    """
    threshold = torch.as_tensor(threshold, dtype=losses.dtype, device=losses.device)
    if pace == "hard":
        return (losses < threshold).to(losses.dtype)
    if pace == "linear":
        return (1 - losses / threshold.clamp(min=torch.finfo(losses.dtype).tiny)).clamp(min=0)
    return (1 + torch.exp(-threshold)) * torch.sigmoid(threshold - losses)
