"""How well does the student keep the teacher's score differences, or its order, inside a row?

This module knows no model, and not where the scores come from.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.objectives.rows import counting_slots, precise, weighted_mean
from limbeck.types import Scores


def margin_mse(teacher: Scores, student: Scores) -> Tensor:
    """L = mean_r mean_j ((s_r0 - s_rj) - (t_r0 - t_rj))^2, 0 the target, j every other column.

    Raw scores on both sides, no softmax: the student learns the teacher's units. The target
    (`student.target`) need not be a positive: it is the column that the others are compared with. A
    row counts by `student.weight`, whatever its number of pairs; without any pair its loss is 0.
    Rows with weight 0 or target -1 contribute nothing, also not to the denominator. Pairs with a
    slot that either mask lacks are left out. Neither side is detached.

    Raises:
        ValueError: when the two have different shapes, or a row that counts has a masked target
            column.

    Source: Hofstätter et al. 2020, arXiv:2010.02666, eq. 5, there with one pair per row.
    """
    _check_shapes(teacher, student)
    known = (student.target >= 0) & (student.weight > 0)
    weight = student.weight.masked_fill(~known, 0.0)
    mask = counting_slots(teacher.mask & student.mask, weight)
    column = student.target.clamp(min=0).unsqueeze(1)
    if bool((known & ~mask.gather(1, column).squeeze(1)).any()):
        raise ValueError("a row's target column is masked; mask other positives, never the target")
    gap = (precise(student.values) - precise(teacher.values)).masked_fill(~mask, 0.0)
    pairs = mask.scatter(1, column, False)
    errors = (gap.gather(1, column) - gap).square().masked_fill(~pairs, 0.0)
    rows = errors.sum(dim=1) / pairs.sum(dim=1).clamp(min=1)
    return weighted_mean(rows, weight)


def ordered_hinge(
    teacher: Scores, student: Scores, *, margin: float = 0.0, gap: float = 0.0
) -> Tensor:
    """L = mean over (r, a, b) with t_ra > t_rb of max(0, margin - (s_ra - s_rb)).

    Only the teacher's order counts: what keeps it keeps the loss. With `gap` a pair counts where
    t_ra - t_rb is at least that. Columns of one score have no order, and a pair needs both columns
    in both masks. The mean is over the pairs of all rows, each by its row's weight
    (`student.weight`); it is 0 without any. Neither side is detached; the teacher has no gradient.

    With margin 0, scores that are all alike cost nothing: the loss alone trains nobody.

    Source: LED, Zhang et al. 2023, arXiv:2208.13661, with the authors' code.

    Raises:
        ValueError: when the two have different shapes.

    Example:
        >>> teacher = Scores.of(torch.tensor([[9.0, 7.0, 8.0, 5.0]]))
        >>> student = Scores.of(torch.tensor([[4.0, 3.0, 1.0, 2.0]]))
        >>> ordered_hinge(teacher, student), ordered_hinge(teacher, student, gap=3.0)
        (tensor(0.5000), tensor(0.5000))
    """
    differences, weight = _ordered_pairs(teacher, student, gap)
    return weighted_mean(torch.relu(margin - differences), weight)


def ranknet(teacher: Scores, student: Scores, *, gap: float = 0.0) -> Tensor:
    """L = mean over (r, a, b) with t_ra > t_rb of log(1 + exp(-(s_ra - s_rb))), with pairs, `gap`
    and mean as in `ordered_hinge`.

    Source: Burges et al. 2005, "Learning to rank using gradient descent", with targets of 1.

    Raises:
        ValueError: when the two have different shapes.
    """
    differences, weight = _ordered_pairs(teacher, student, gap)
    return weighted_mean(torch.nn.functional.softplus(-differences), weight)


def _ordered_pairs(teacher: Scores, student: Scores, gap: float) -> tuple[Tensor, Tensor]:
    """s_ra - s_rb of the pairs that the teacher puts in order, [n], and their rows' weights [n]."""
    _check_shapes(teacher, student)
    mask = counting_slots(teacher.mask & student.mask, student.weight)
    t, s = precise(teacher.values), precise(student.values)
    above = t.unsqueeze(2) - t.unsqueeze(1)  # [R, a, b]
    pairs = (above > 0) & (above >= gap) & mask.unsqueeze(2) & mask.unsqueeze(1)
    rows, a, b = pairs.nonzero(as_tuple=True)
    return s[rows, a] - s[rows, b], student.weight[rows]


def _check_shapes(teacher: Scores, student: Scores) -> None:
    if teacher.values.shape != student.values.shape:
        raise ValueError(
            f"teacher scores have shape {tuple(teacher.values.shape)}, student scores "
            f"{tuple(student.values.shape)}; they must be about the same rows and alternatives"
        )
