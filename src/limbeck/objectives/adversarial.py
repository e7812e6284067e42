"""How does a ranker that can be fooled teach the retriever that finds its candidates?

A ranker prefers a row's target to each other alternative more or less strongly; a retriever learns
to look for what it prefers weakly. Both sides are scores before the softmax.

This module knows no model, and not whether the ranker learns too.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from limbeck.objectives.rows import counting_slots, log_probabilities, precise
from limbeck.types import Scores


def preference(ranker: Scores) -> Tensor:
    """r_bj = log( e^{s_bt} / (e^{s_bt} + e^{s_bj}) ) [R, A], at most 0, t the row's target.

    0 where the ranker is sure of the target, far below 0 where it prefers alternative j; log 0.5
    for the target itself. Empty slots and rows whose target is not known (-1) are 0.

    Source: AR2, Zhang et al. 2022, arXiv:2110.03611, section 3.2.

    Example:
        >>> preference(Scores.of(torch.tensor([[2.0, 1.0, 3.0]])))
        tensor([[-0.6931, -0.3133, -1.3133]])
    """
    values = precise(ranker.values)
    target = values.gather(1, ranker.target.clamp(min=0).unsqueeze(1))
    known = ranker.mask & (ranker.target >= 0).unsqueeze(1)
    return (-torch.nn.functional.softplus(values - target)).masked_fill(~known, 0.0)


def reversed_gradient(values: Tensor, factor: float) -> Tensor:
    """Gradient reversal: the values as they are, their gradient times -factor, so that what a loss
    is minimised by is changed to raise it.

    Source: Ganin and Lempitsky 2015, arXiv:1409.7495, section 3.1.

    Example:
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> (3 * reversed_gradient(x, 0.5)).backward()
        >>> x.grad
        tensor(-1.5000)
    """
    return values.detach() * (1 + factor) - factor * values


def weighted_likelihood(
    retriever: Scores,
    rewards: Tensor,
    *,
    temperature: float = 1.0,
    with_target: bool = True,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """L = mean_b sum_j r_bj log p_bj, p = softmax(z / temperature) over the row's alternatives.

    Minimising it raises log p where the reward r [R, A] is far below 0. Rewards are not detached.
    Rows of weight 0 or without a known target (-1) contribute nothing, also not to the denominator.
    `with_target` False leaves the target's own column out of the sum, not out of the softmax.
    `reduction` "sum" adds rows up under their weights.

    Source: AR2, Zhang et al. 2022, arXiv:2110.03611, section 3.2; its code sums over the batch.
    """
    known = (retriever.target >= 0) & (retriever.weight > 0)
    weight = torch.where(known, retriever.weight, 0.0).to(torch.float32)
    mask = counting_slots(retriever.mask, weight)
    logs = log_probabilities(retriever.values, mask, temperature)
    counted = mask
    if not with_target:
        counted = mask.scatter(1, retriever.target.clamp(min=0).unsqueeze(1), False)
    rows = (rewards * logs).masked_fill(~counted, 0.0).sum(dim=1)
    total = (rows * weight).sum()
    if reduction == "sum":
        return total
    count = weight.sum()
    return total / torch.where(count > 0, count, 1.0)
