"""Is this teacher worth listening to?

Numbers over the lists that a teacher scored, and the reasons to refuse it: it says the same of
everything (constant), it says only yes and no (saturated), or it prefers what the labels call wrong
(reversed). Scores that a softmax makes all alike or all or nothing are no reason to refuse, since a
temperature mends them: those are doubts. Whether a teacher is *better* than a student trained
without it is another question, answered on dev by whoever calls this.

This module knows no model, no collection and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limbeck.errors import ScoreError

CONSTANT_SPREAD = 1e-5  # relative to the size of the scores: float32 noise of equal scores is below
SATURATION_BAND = 1e-3  # a score this near the lowest or highest, as a share of their distance
SATURATED_SHARE = 0.7  # of all scores in the two bands
SATURATED_SCORES = 20  # below this many scores two extremes are no saturation
FLAT_ENTROPY = 0.99  # of the largest possible: above, the softmax prefers hardly anything
SHARP_ENTROPY = 0.05  # below, it says no more than which passage is first
REVERSED_LISTS = 5  # fewer labelled lists say nothing about the direction
REVERSED_ERRORS = 2.0  # standard errors that agreement must lie below one half

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Statistics of a teacher's scores. Means are over lists; None where no list tells anything.

    `spread`: standard deviation within a list, in the teacher's own units.
    `relative_spread`: `spread` over the root mean square of all scores; 0 = the same score for a
    whole list.
    `entropy`: of the softmax at the temperature asked for, over the log of the list's length: 1 =
    all alike, 0 = one passage has everything.
    `saturation`: share of all scores within `SATURATION_BAND` of the lowest or the highest.
    `agreement`: share of (positive, other) pairs that are ordered as labelled, ties a half (the
    area under the ROC curve of one list); `agreement_error` is its standard error over lists.
    """

    lists: int
    scores: int
    spread: float | None
    relative_spread: float | None
    entropy: float | None
    saturation: float
    agreement: float | None
    agreement_error: float | None
    agreement_lists: int

    def lines(self) -> list[str]:
        """The numbers in words, one a line, for a report."""
        told = [f"{self.scores:,} scores in {self.lists:,} lists"]
        if self.spread is not None and self.relative_spread is not None:
            told.append(
                f"spread within a list {self.spread:.4g} ({self.relative_spread:.1%} of the size)"
            )
        if self.entropy is not None:
            told.append(f"entropy {self.entropy:.3f} of the largest possible")
        told.append(f"{self.saturation:.1%} of the scores at the lowest or highest value")
        if self.agreement is not None:
            told.append(
                f"{self.agreement:.1%} of labelled pairs in the right order, "
                f"over {self.agreement_lists:,} lists"
            )
        return told


def diagnose(
    scores: Sequence[Floats], labels: Sequence[Labels] | None = None, *, temperature: float = 1.0
) -> Diagnosis:
    """The diagnosis of scored lists.

    Args:
        scores: one array per query, ragged; lists of fewer than two passages say nothing about
            spread or order.
        labels: per list, True where the passage is labelled relevant; None when nothing is
            labelled.
        temperature: divides the scores before the softmax whose entropy is taken; the one to be
            trained with.

    Raises:
        ScoreError: when there is no score at all, one is not finite, or labels do not fit the
            scores.
    """
    if labels is not None and [len(row) for row in labels] != [len(row) for row in scores]:
        raise ScoreError("Labels and scores of the teacher's diagnosis differ in length.")
    flat = np.concatenate([np.asarray(row, dtype=np.float64) for row in scores] or [np.empty(0)])
    if not len(flat):
        raise ScoreError("The teacher scored no passage, so nothing can be said about it.")
    if not np.isfinite(flat).all():
        raise ScoreError("The teacher's scores hold NaN or infinity; check its weights.")
    lists = [np.asarray(row, dtype=np.float64) for row in scores if len(row) > 1]
    spread = _mean([float(row.std()) for row in lists])
    size = float(np.sqrt(np.mean(flat**2)))
    agreements = [
        agreement
        for row, marked in zip(scores if labels is not None else [], labels or [], strict=True)
        if (agreement := _agreement(np.asarray(row, dtype=np.float64), marked)) is not None
    ]
    return Diagnosis(
        lists=len(scores),
        scores=len(flat),
        spread=spread,
        relative_spread=None if spread is None else (spread / size if size else 0.0),
        entropy=_mean([_entropy(row / temperature) for row in lists]),
        saturation=_saturation(flat),
        agreement=_mean(agreements),
        agreement_error=(
            float(np.std(agreements, ddof=1) / np.sqrt(len(agreements)))
            if len(agreements) > 1
            else None
        ),
        agreement_lists=len(agreements),
    )


def refusal(diagnosis: Diagnosis) -> str | None:
    """Reason to refuse a teacher, with advice; None when nothing is wrong."""
    if diagnosis.relative_spread is not None and diagnosis.relative_spread <= CONSTANT_SPREAD:
        return (
            f"The teacher is constant: within a list its scores vary by {diagnosis.spread:.2g}, "
            "so it prefers no passage. Check that its weights and its head were loaded."
        )
    if (
        diagnosis.agreement is not None
        and diagnosis.agreement_error is not None
        and diagnosis.agreement_lists >= REVERSED_LISTS
        and diagnosis.agreement + REVERSED_ERRORS * diagnosis.agreement_error < 0.5
    ):
        return (
            f"The teacher is reversed: over {diagnosis.agreement_lists} lists it orders only "
            f"{diagnosis.agreement:.1%} of the pairs as labelled, and chance orders 50%. "
            "Check that a higher score of it means more relevant."
        )
    if diagnosis.scores >= SATURATED_SCORES and diagnosis.saturation >= SATURATED_SHARE:
        return (
            f"The teacher is saturated: {diagnosis.saturation:.1%} of its scores sit at the lowest "
            "or the highest value, so it says yes and no but not how much. Use its raw scores, "
            "before any sigmoid or clipping."
        )
    return None


def doubt(diagnosis: Diagnosis) -> str | None:
    """Reason why the softmax of the training would be of little use, with advice; None when nothing
    is wrong.
    """
    entropy = diagnosis.entropy
    if entropy is None or SHARP_ENTROPY <= entropy <= FLAT_ENTROPY:
        return None
    told = f"At the temperature of training its entropy is {entropy:.3f} of the largest possible"
    if entropy > FLAT_ENTROPY:
        return (
            f"{told} (above {FLAT_ENTROPY}): all candidates look alike to the student. "
            "Lower teacher_temperature."
        )
    return (
        f"{told} (below {SHARP_ENTROPY}): the student learns which candidate is first, and hardly "
        "more. Raise teacher_temperature."
    )


def _mean(values: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return float(np.mean(values)) if len(values) else None


def _entropy(logits: npt.NDArray[np.float64]) -> float:
    """The entropy of a softmax over its largest value, in [0, 1]."""
    shifted = logits - logits.max()
    log_probabilities = shifted - np.log(np.exp(shifted).sum())
    entropy = -float((np.exp(log_probabilities) * log_probabilities).sum())
    return entropy / float(np.log(len(logits)))


def _saturation(scores: npt.NDArray[np.float64]) -> float:
    """The share of scores near the lowest or the highest of them."""
    lowest, highest = float(scores.min()), float(scores.max())
    band = SATURATION_BAND * (highest - lowest)
    return float(np.mean((scores <= lowest + band) | (scores >= highest - band)))


def _agreement(scores: npt.NDArray[np.float64], relevant: Labels) -> float | None:
    """The share of (positive, other) pairs in the right order, ties a half; None without one."""
    positives, others = scores[relevant], scores[~relevant]
    if not len(positives) or not len(others):
        return None
    difference = positives[:, None] - others[None, :]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))
