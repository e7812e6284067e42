"""How far is the student's distribution over a row from the right one, or from the teacher's?

Every function takes raw scores (before the softmax), sums over the alternatives of a row and takes
the mean over rows under their weights. None detaches anything: a frozen teacher has no gradient
anyway, and methods that train teacher and student together need both gradients. A caller that wants
one side only detaches the other.

This module knows no model, and not where the scores come from.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.objectives.rows import counting_slots, log_probabilities, weighted_mean
from limbeck.types import Scores


def cross_entropy(scores: Scores, temperature: float = 1.0) -> Tensor:
    """L = mean_r -log softmax(s_r / temperature)[target_r], low when the right column wins.

    With in-batch scores this is the contrastive loss (InfoNCE); with a query's own list, its
    own-candidate form. Rows with weight 0 or target -1 (not known) contribute nothing, also not to
    the denominator.

    Raises:
        ValueError: when a row that counts has a target column that is masked.

    Source: van den Oord et al. 2018, arXiv:1807.03748, eq. 4; PROD and LEAD use it as hard loss.

    Example:
        >>> cross_entropy(Scores.of(torch.tensor([[2.0, 1.0, 0.0], [0.5, 1.5, -0.5]])))
        tensor(0.9076)
    """
    known = (scores.target >= 0) & (scores.weight > 0)
    weight = torch.where(known, scores.weight, 0.0)
    mask = counting_slots(scores.mask, weight)
    column = scores.target.clamp(min=0).unsqueeze(1)
    if bool((known & ~mask.gather(1, column).squeeze(1)).any()):
        raise ValueError("a row's target column is masked; mask other positives, never the target")
    rows = -log_probabilities(scores.values, mask, temperature).gather(1, column).squeeze(1)
    return weighted_mean(rows, weight)


def kl_divergence(
    teacher: Scores, student: Scores, *, teacher_temperature: float, student_temperature: float
) -> Tensor:
    """KL(teacher || student) = mean_r sum_j p_rj (log p_rj - log q_rj), unscaled.

    p = softmax(t / teacher_temperature) and q = softmax(s / student_temperature), both over the
    alternatives that are in both masks. Rows count by `student.weight` (a row that shares no
    alternative counts too, with 0); targets and the teacher's weights are not read. Neither side is
    detached: a teacher that requires a gradient gets one through p.

    Raises:
        ValueError: when the two have different shapes, or a temperature is not above 0.

    Source: Hinton et al. 2015, arXiv:1503.02531; LEAD (arXiv:2212.05225) uses it with gradients to
    both sides.
    """
    mask = _shared_slots(teacher, student)
    p = log_probabilities(teacher.values, mask, teacher_temperature)
    q = log_probabilities(student.values, mask, student_temperature)
    return weighted_mean(_divergence(p, q, mask), student.weight)


def reverse_kl_divergence(
    teacher: Scores, student: Scores, *, teacher_temperature: float, student_temperature: float
) -> Tensor:
    """KL(student || teacher) = mean_r sum_j q_rj (log q_rj - log p_rj), as `kl_divergence` else.

    Rows count by `student.weight` here too, and neither side is detached.

    Raises:
        ValueError: when the two have different shapes, or a temperature is not above 0.
    """
    mask = _shared_slots(teacher, student)
    p = log_probabilities(teacher.values, mask, teacher_temperature)
    q = log_probabilities(student.values, mask, student_temperature)
    return weighted_mean(_divergence(q, p, mask), student.weight)


def distillation_kl(teacher: Scores, student: Scores, *, temperature: float) -> Tensor:
    """KD = temperature^2 KL(teacher || student), both sides divided by the same temperature.

    The square keeps the gradient's size the same when the temperature changes: with respect to the
    student's scores it is temperature * (q - p) * weight / (sum of weights).

    Raises:
        ValueError: when the two have different shapes, or the temperature is not above 0.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2; PROD (arXiv:2209.13335).

    Example:
        >>> teacher = Scores.of(torch.tensor([[3.0, 1.0, -1.0], [2.0, 0.0, 1.0]]))
        >>> student = Scores.of(torch.tensor([[2.0, 1.0, 0.0], [0.5, 1.5, -0.5]]))
        >>> distillation_kl(teacher, student, temperature=4.0)
        tensor(0.6272)
    """
    divergence = kl_divergence(
        teacher, student, teacher_temperature=temperature, student_temperature=temperature
    )
    return temperature**2 * divergence


def soft_cross_entropy(
    teacher: Scores, student: Scores, *, teacher_temperature: float, student_temperature: float
) -> Tensor:
    """H(teacher, student) = -mean_r sum_j p_rj log q_rj, with p and q as in `kl_divergence`.

    It is KL(teacher || student) plus the teacher's entropy: the student's gradient is the same.

    Raises:
        ValueError: when the two have different shapes, or a temperature is not above 0.

    Source: AR2 (arXiv:2110.03611) has it as regulariser of its retriever.

    Example:
        >>> ranker, retriever = torch.tensor([[2.0, 1.0, 3.0]]), torch.tensor([[1.0, 0.0, 0.5]])
        >>> one = {"teacher_temperature": 1.0, "student_temperature": 1.0}
        >>> soft_cross_entropy(Scores.of(ranker), Scores.of(retriever), **one)
        tensor(1.1029)
    """
    mask = _shared_slots(teacher, student)
    p = log_probabilities(teacher.values, mask, teacher_temperature)
    q = log_probabilities(student.values, mask, student_temperature)
    return weighted_mean(-(p.exp() * q).masked_fill(~mask, 0.0).sum(dim=1), student.weight)


def _divergence(p: Tensor, q: Tensor, mask: Tensor) -> Tensor:
    """sum_j p_j (log p_j - log q_j) of each row [R], from log-probabilities [R, A]."""
    return (p.exp() * (p - q)).masked_fill(~mask, 0.0).sum(dim=1)


def _shared_slots(teacher: Scores, student: Scores) -> Tensor:
    """The slots that both sides have, in rows that count."""
    if teacher.values.shape != student.values.shape:
        raise ValueError(
            f"teacher scores have shape {tuple(teacher.values.shape)}, student scores "
            f"{tuple(student.values.shape)}; they must be about the same rows and alternatives"
        )
    return counting_slots(teacher.mask & student.mask, student.weight)
