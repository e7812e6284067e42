"""How does a temperature learn? By a number, or by a small network of each row's numbers.

This module knows no loss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from limbeck.objectives.adversarial import reversed_gradient
from limbeck.objectives.rows import log_probabilities
from limbeck.types import Scores

HIDDEN = 16  # units of the network


class LearnedTemperature(nn.Module):
    """Temperatures low + range sigmoid(theta), [R]: one for all rows, or, `per_row`, of a network
    that knows no order of alternatives and begins with one for all. `first` is what they begin at.

    Source: Li et al. 2023, arXiv:2211.16231, eq. 4.

    Raises:
        ValueError: when `first` is not between the bounds.
    """

    def __init__(self, low: float, range_: float, first: float, *, per_row: bool = False) -> None:
        super().__init__()
        if not low < first < low + range_:
            raise ValueError(f"a first temperature of {first} is not in ({low}, {low + range_})")
        self.low, self.range = low, range_
        share = (first - low) / range_
        self.theta = nn.Parameter(torch.tensor([math.log(share / (1 - share))]))
        self.network: nn.Module | None = None
        if per_row:
            last = nn.Linear(HIDDEN, 1, bias=False)
            nn.init.zeros_(last.weight)
            self.network = nn.Sequential(nn.Linear(4, HIDDEN), nn.ReLU(), last)

    def forward(self, teacher: Scores, student: Scores, strength: float) -> Tensor:
        """The temperature of each row; -strength multiplies the gradient that it gets."""
        theta = self.theta.expand(len(student.values))
        if self.network is not None:
            theta = theta + self.network(_numbers(teacher, student)).squeeze(1)
        theta = reversed_gradient(theta, strength)
        return self.low + self.range * torch.sigmoid(theta)


def _numbers(teacher: Scores, student: Scores) -> Tensor:
    """Inputs of each row's temperature, [R, 4], without a gradient to student or teacher."""
    mask = teacher.mask & student.mask
    p = log_probabilities(teacher.values.detach(), mask, 1.0)
    q = log_probabilities(student.values.detach(), mask, 1.0)
    entropies = [-(log.exp() * log).sum(dim=1) for log in (p, q)]
    divergence = (p.exp() * (p - q)).sum(dim=1)
    first = p.exp().masked_fill(~mask, 0.0).amax(dim=1)
    return torch.stack([*entropies, first, divergence], dim=1)
