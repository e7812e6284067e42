"""How well does the student keep the teacher's score differences inside a row?

This module knows no model, and not where the scores come from.
"""

from __future__ import annotations

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
    if teacher.values.shape != student.values.shape:
        raise ValueError(
            f"teacher scores have shape {tuple(teacher.values.shape)}, student scores "
            f"{tuple(student.values.shape)}; they must be about the same rows and alternatives"
        )
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
