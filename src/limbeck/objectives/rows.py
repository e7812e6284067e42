"""What does every loss over `Scores` do with empty slots, and with rows that should not count?

Slots that are False in the mask take no part in the softmax and receive a gradient of exactly zero,
whatever number (even NaN) lies in them. A row of weight 0 is treated as if all its slots were
empty. A mean divides by the sum of the weights, so it can be put together from parts of a batch:
(sum of w1)/(sum of w) * mean1 + ...

This module knows no loss.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_probabilities(values: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """The logarithm of softmax(values / temperature) over the slots in `mask`, and 0 in the others.

    Computed in fp32 at least. A row without any slot gives zeros.

    Shapes: `values`, `mask` and the result [R, A].

    Raises:
        ValueError: when the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature divides the scores and must be above 0, not {temperature}")
    fill = torch.where(mask.any(dim=1, keepdim=True), -torch.inf, 0.0)  # all -inf would give NaN
    scaled = torch.where(mask, precise(values) / temperature, fill)
    return torch.log_softmax(scaled, dim=1).masked_fill(~mask, 0.0)


def counting_slots(mask: Tensor, weight: Tensor) -> Tensor:
    """The slots of `mask` [R, A] that lie in rows of a weight [R] above 0."""
    return mask & (weight > 0).unsqueeze(1)


def weighted_mean(rows: Tensor, weight: Tensor) -> Tensor:
    """The mean of `rows` [R] under `weight` [R]; 0, still with a (zero) gradient, when no row
    counts.

    Example:
        >>> weighted_mean(torch.tensor([1.0, 4.0]), torch.tensor([3.0, 1.0]))
        tensor(1.7500)
    """
    weight = weight.to(rows.dtype)
    total = weight.sum()
    return (rows * weight).sum() / torch.where(total > 0, total, 1.0)


def precise(values: Tensor) -> Tensor:
    """The values in fp32, or in fp64 when they are already."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
