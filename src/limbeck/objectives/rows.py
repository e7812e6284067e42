"""What does every loss over `Scores` do with empty slots, and with rows that should not count?

Slots that are False in the mask take no part in the softmax and receive a gradient of exactly zero,
whatever number (even NaN) lies in them. A row of weight 0 is treated as if all its slots were
empty. A mean divides by the sum of the weights, so it can be put together from parts of a batch:
(sum of w1)/(sum of w) * mean1 + ...

Losses of rows (`RowLoss`) are here too: they take scores at their natural temperature, and give a
value for each row of alternatives, be they classes or candidates. A teacher's side is detached.

This module knows no method.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from limbeck.types import Scores


def log_probabilities(values: Tensor, mask: Tensor, temperature: float | Tensor) -> Tensor:
    """The logarithm of softmax(values / temperature) over the slots in `mask`, and 0 in the others.

    Computed in fp32 at least. A row without any slot gives zeros.

    Shapes: `values`, `mask` and the result [R, A]; a temperature that is learned, [R].

    Raises:
        ValueError: when the temperature is not above 0.
    """
    if isinstance(temperature, Tensor):
        temperature = temperature.unsqueeze(1)
    elif not temperature > 0:
        raise ValueError(f"a temperature divides the scores and must be above 0, not {temperature}")
    fill = torch.where(mask.any(dim=1, keepdim=True), -torch.inf, 0.0)  # all -inf would give NaN
    scaled = torch.where(mask, precise(values) / temperature, fill)
    return torch.log_softmax(scaled, dim=1).masked_fill(~mask, 0.0)


def entropy(scores: Scores) -> Tensor:
    """H = -sum_j p_j log p_j in nats, [R], of the softmax of each row's scores; no gradient.

    Example:
        >>> entropy(Scores.of(torch.tensor([[6.0, -3.0, -4.0, -5.0]])))
        tensor([0.0019])
    """
    log = log_probabilities(scores.values.detach(), scores.mask, 1.0)
    return -(log.exp() * log).masked_fill(~scores.mask, 0.0).sum(dim=1)


def counting_slots(mask: Tensor, weight: Tensor) -> Tensor:
    """The slots of `mask` [R, A] that lie in rows of a weight [R] above 0."""
    return mask & (weight > 0).unsqueeze(1)


def without_target(scores: Scores) -> Scores:
    """The scores with the right column of each row masked, where it is known.

    Example:
        >>> without_target(Scores.of(torch.tensor([[2.0, 1.0]]))).mask
        tensor([[False,  True]])
    """
    right = torch.zeros_like(scores.mask).scatter(1, scores.target.clamp(min=0).unsqueeze(1), True)
    known = (scores.target >= 0).unsqueeze(1)
    return replace(scores, mask=scores.mask & ~(right & known))


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


@dataclass(frozen=True, slots=True)
class RowLoss:
    """A loss of each row, [R], and how much each row counts, [R]: its mean is for who adds up rows.

    Example:
        >>> part = 2.0 * RowLoss(torch.tensor([1.0, 4.0]), torch.tensor([3.0, 1.0]))
        >>> part.mean()
        tensor(3.5000)
    """

    values: Tensor
    weight: Tensor

    def mean(self) -> Tensor:
        """The mean over the rows that count; 0 when none does."""
        return weighted_mean(self.values, self.weight)

    def __rmul__(self, factor: float | Tensor) -> RowLoss:
        return RowLoss(factor * self.values, self.weight)

    def __add__(self, other: RowLoss) -> RowLoss:
        """Both of each row, a row without one of them having the other; it counts by the larger
        weight.
        """
        both = [torch.where(part.weight > 0, part.values, 0.0) for part in (self, other)]
        return RowLoss(both[0] + both[1], torch.maximum(self.weight, other.weight))


def hard(student: Scores, temperature: float = 1.0) -> RowLoss:
    """-log softmax(s / temperature)[target]: cross-entropy with the label; of rows with one."""
    known = _known(student)
    mask = counting_slots(student.mask, known)
    rows = -_at_target(log_probabilities(student.values, mask, temperature), student)
    return RowLoss(rows, known)


def kd(teacher: Scores, student: Scores, temperature: float | Tensor) -> RowLoss:
    """temperature^2 KL(teacher || student), both divided by the same temperature; of every row.

    A temperature that is learned, [R], gets its gradient through both sides and the factor.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2.
    """
    mask = counting_slots(teacher.mask & student.mask, student.weight)
    p = log_probabilities(teacher.values.detach(), mask, temperature)
    q = log_probabilities(student.values, mask, temperature)
    rows = (p.exp() * (p - q)).masked_fill(~mask, 0.0).sum(dim=1)
    return RowLoss(temperature**2 * rows, student.weight)


def nkd_target(teacher: Scores, student: Scores) -> RowLoss:
    """-P_t log S_t: cross-entropy with the label, weighted by the teacher's belief in it, both at
    temperature 1; of rows with a label.

    Source: Yang et al. 2022, arXiv:2208.10139.
    """
    known = _known(student)
    mask = counting_slots(teacher.mask & student.mask, known)
    p = _at_target(log_probabilities(teacher.values.detach(), mask, 1.0), student).exp()
    q = _at_target(log_probabilities(student.values, mask, 1.0), student)
    return RowLoss(-p * q, known)


def nkd_non_target(
    teacher: Scores, student: Scores, temperature: float, *, normalized: bool = True
) -> RowLoss:
    """-temperature^2 sum_{i != t} P_i log S_i over the wrong alternatives; of rows with a label.

    `normalized`, each side's softmax is over the wrong alternatives alone, so that the two can
    become equal; else over all of them, as in the cross-entropy form of `kd`.

    Source: Yang et al. 2022, arXiv:2208.10139; the later code, which drops the right column.
    """
    known = _known(student)
    mask = counting_slots(teacher.mask & student.mask, known)
    right = torch.zeros_like(mask).scatter(1, _column(student), True)
    wrong = mask & ~right
    over = wrong if normalized else mask
    p = log_probabilities(teacher.values.detach(), over, temperature).exp()
    q = log_probabilities(student.values, over, temperature)
    rows = -(p * q).masked_fill(~wrong, 0.0).sum(dim=1)
    return RowLoss(temperature**2 * rows, known)


def dkd_target(teacher: Scores, student: Scores, temperature: float) -> RowLoss:
    """temperature^2 KL of the right alternative against all others, (P_t, 1 - P_t) of the teacher
    from that of the student; of rows with a label.

    Source: Zhao et al. 2022, arXiv:2203.08679, eq. 7: with `nkd_non_target`, which has the gradient
    of its other term, decoupled distillation.
    """
    known = _known(student)
    mask = counting_slots(teacher.mask & student.mask, known)
    wrong = mask & ~torch.zeros_like(mask).scatter(1, _column(student), True)

    def split(scores: Scores) -> tuple[Tensor, Tensor]:
        log = log_probabilities(scores.values, mask, temperature)
        fill = torch.where(wrong.any(dim=1, keepdim=True), -torch.inf, 0.0)  # as above
        others = torch.where(wrong, log, fill).logsumexp(dim=1)
        return _at_target(log, student), others

    (p, p_not), (q, q_not) = split(replace(teacher, values=teacher.values.detach())), split(student)
    rows = p.exp() * (p - q) + p_not.exp() * (p_not - q_not)
    return RowLoss(temperature**2 * rows.masked_fill(~wrong.any(dim=1), 0.0), known)


def tf_nkd(student: Scores) -> RowLoss:
    """-w log S_t with w = S_t + 1 - (mean of S_t over the rows), detached: the student's own belief
    in the label in the place of a teacher's; of rows with a label.

    The mean is over all rows of an update, so that it is no loss of parts of one.

    Source: Yang et al. 2022, arXiv:2208.10139, for labels that are one class.
    """
    known = _known(student)
    mask = counting_slots(student.mask, known)
    q = _at_target(log_probabilities(student.values, mask, 1.0), student)
    own = q.detach().exp()
    return RowLoss(-(own + 1 - weighted_mean(own, known)) * q, known)


def labelled_by(teacher: Scores, student: Scores) -> Scores:
    """The student's scores, where rows without a label have the teacher's first choice."""
    mask = teacher.mask & student.mask
    choice = precise(teacher.values.detach()).masked_fill(~mask, -torch.inf).argmax(dim=1)
    return replace(student, target=torch.where(student.target >= 0, student.target, choice))


def _known(scores: Scores) -> Tensor:
    """The weights of the rows whose right column is known; 0 for the others."""
    return torch.where(scores.target >= 0, scores.weight, 0.0)


def _at_target(values: Tensor, scores: Scores) -> Tensor:
    """The value in each row's right column, [R]; any where there is none."""
    return values.gather(1, _column(scores)).squeeze(1)


def _column(scores: Scores) -> Tensor:
    """Each row's right column, [R, 1]; the first where there is none."""
    return scores.target.clamp(min=0).unsqueeze(1)
