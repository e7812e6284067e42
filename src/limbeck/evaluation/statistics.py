"""Which numbers does a measure add up over a test set, and what is it of their sums?

Every measure is a function of sums of **sufficient statistics**, one row of numbers per unit (a
query, an image, a sentence). A mean is the special case of a value and a 1; F1 adds up counts of
each class, corpus BLEU counts of n-grams. So one bootstrap and one randomisation test serve all of
them (`comparison.py`): both resample units, add up again, and take the value of the sums.

A table of a system has a row per unit: its id in the first column, then the columns that the
measures name. This module knows no model and draws nothing.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from limbeck.store import Written

Array = npt.NDArray[np.float64]
Value = Callable[[Array], Array]  # sums [..., S] -> [...]

_NGRAMS = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference between two systems, as a function of sums.

    `value` takes the sums [..., T] of `statistics` [units, T]; a row of `swapped` has the same
    numbers when the two systems trade places at that unit. `magnitude` is the size of the numbers
    whose rounding errors a difference carries.
    """

    statistics: Array
    swapped: Array
    value: Value
    magnitude: float


class Measure(Written, abc.ABC):
    """A measure of a system over a test set."""

    perfect: ClassVar[float] = 1.0  # the value of a system without a mistake

    name: str
    higher_is_better: bool = True

    @property
    @abc.abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns of a table that it reads."""

    @abc.abstractmethod
    def value(self, sums: Array) -> Array:
        """Value of the measure for sums of statistics. Shapes: [..., S] -> [...]."""

    def statistics(self, table: pl.DataFrame) -> Array:
        """The statistics of each unit. Shape: [units, S]."""
        return table.select(self.columns).cast(pl.Float64).to_numpy()

    def of(self, table: pl.DataFrame) -> float:
        """Value of the measure for a table."""
        return float(self.value(total(self.statistics(table))))

    def better(self, ours: float, theirs: float) -> bool:
        """Whether one value is better than another."""
        return ours > theirs if self.higher_is_better else ours < theirs

    def difference(self, ours: Array, theirs: Array) -> Difference:
        """`ours` minus `theirs`, from the statistics [units, S] of both, for the same units."""
        width = ours.shape[1]

        def value(sums: Array) -> Array:
            return self.value(sums[..., :width]) - self.value(sums[..., width:])

        values = self.value(np.stack([total(ours), total(theirs)]))
        return Difference(
            np.concatenate([ours, theirs], axis=1),
            np.concatenate([theirs, ours], axis=1),
            value,
            float(np.abs(values).max()),
        )

    def pseudovalues(self, statistics: Array) -> Array:
        """The jackknife's value of each unit: n * all - (n - 1) * all but that one.

        Their standard deviation over the square root of n is the standard error of the measure.
        Those of a mean are the values themselves. Shapes: [units, S] -> [units].
        """
        units, sums = len(statistics), total(statistics)
        return units * self.value(sums) - (units - 1) * self.value(sums - statistics)


class Mean(Measure):
    """A mean over units: accuracy, nDCG@10, recall. The column has the measure's name."""

    kind: Literal["mean"] = "mean"

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of values."""
        return (self.name,)

    def statistics(self, table: pl.DataFrame) -> Array:
        """A value, and a 1 that counts it. Shape: [units, 2]."""
        return _counted(super().statistics(table)[:, 0])

    def value(self, sums: Array) -> Array:
        """The sum of values, divided by their number."""
        return _ratio(sums[..., 0], sums[..., 1])

    def difference(self, ours: Array, theirs: Array) -> Difference:
        """A difference of means is the mean of differences: half the columns, and less rounding."""
        apart = ours[:, 0] - theirs[:, 0]
        statistics = _counted(apart)
        observed = float(self.value(total(statistics)))
        return Difference(statistics, _counted(-apart), self.value, abs(observed))

    def pseudovalues(self, statistics: Array) -> Array:
        """The values themselves."""
        return np.ascontiguousarray(statistics[:, 0])


class _F1(Measure):
    """2 * true positives / (predicted + actual), of each class that counts.

    A class that was neither predicted nor there has F1 0. Columns are those of `class_counts`.
    """

    classes: tuple[str, ...] = Field(min_length=1)

    @property
    def columns(self) -> tuple[str, ...]:
        """Three columns of counts for each class."""
        return tuple(column for columns in count_columns(self.classes) for column in columns)

    def _counts(self, sums: Array) -> tuple[Array, Array, Array]:
        """True positives, predictions and actual members of each class."""
        true, predicted, actual = np.split(sums, 3, axis=-1)
        return true, predicted, actual


class MicroF1(_F1):
    """F1 of the counts of all classes together."""

    kind: Literal["micro_f1"] = "micro_f1"

    def value(self, sums: Array) -> Array:
        """F1 of pooled counts."""
        true, predicted, actual = (counts.sum(axis=-1) for counts in self._counts(sums))
        return _ratio(2 * true, predicted + actual)


class MacroF1(_F1):
    """The mean of the classes' F1."""

    kind: Literal["macro_f1"] = "macro_f1"

    def value(self, sums: Array) -> Array:
        """The mean over classes."""
        true, predicted, actual = self._counts(sums)
        return np.asarray(_ratio(2 * true, predicted + actual).mean(axis=-1), dtype=np.float64)


class BLEU(Measure):
    """BLEU of a corpus, from 0 to 100: 4-grams, one brevity penalty, exponential smoothing.

    Columns are those of sacrebleu's scores of single sentences: `matches_N` and `ngrams_N` (its
    `counts` and `totals`), `length` and `reference_length` (`sys_len` and `ref_len`).

    Source: Papineni et al. 2002, doi:10.3115/1073083.1073135, with the smoothing and the rounding
    to 0 of sacrebleu (Post 2018, doi:10.18653/v1/W18-6319).
    """

    perfect: ClassVar[float] = 100.0

    kind: Literal["bleu"] = "bleu"
    name: str = "BLEU"

    @property
    def columns(self) -> tuple[str, ...]:
        """Counts of n-grams, and lengths in tokens."""
        matches, ngrams = (tuple(f"{what}_{n}" for n in _NGRAMS) for what in ("matches", "ngrams"))
        return (*matches, *ngrams, "length", "reference_length")

    def value(self, sums: Array) -> Array:
        """The brevity penalty times the geometric mean of the precisions.

        A precision without a match counts as 1 / (2^k * n-grams) at the k-th such order. A corpus
        without any match, or too short to have a 4-gram, has BLEU 0.
        """
        order = len(_NGRAMS)
        matches, ngrams = sums[..., :order], sums[..., order : 2 * order]
        length, reference = sums[..., -2], sums[..., -1]
        unmatched = matches == 0
        smoothed = np.where(unmatched, 0.5 ** np.cumsum(unmatched, axis=-1), matches)
        scored = (ngrams > 0).all(axis=-1) & ~unmatched.all(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            logarithms = np.log(smoothed / ngrams).mean(axis=-1)
            brevity = np.minimum(0.0, 1 - reference / length)
            return np.where(scored, self.perfect * np.exp(logarithms + brevity), 0.0)


AnyMeasure = Annotated[Mean | MicroF1 | MacroF1 | BLEU, Field(discriminator="kind")]


class Measures(Written):
    """Measures of systems, the first deciding, and the `unit` that they are measured on."""

    unit: str
    units: str  # several of them
    measures: tuple[AnyMeasure, ...] = Field(min_length=1)

    @property
    def first(self) -> Measure:
        """The measure that decides."""
        return self.measures[0]

    @property
    def names(self) -> list[str]:
        """The measures' names, in order."""
        return [measure.name for measure in self.measures]

    @property
    def id(self) -> str:
        """The column of a table that names the unit."""
        return f"{self.unit}_id"

    @property
    def file(self) -> str:
        """The file of a run that has a row per unit and system."""
        return f"per_{self.unit}.parquet"

    def named(self, name: str) -> Measure | None:
        """The measure of this name, if there is one."""
        return next((measure for measure in self.measures if measure.name == name), None)


def total(statistics: Array) -> Array:
    """The sums of all units. Shapes: [units, S] -> [S]."""
    # along rows of memory: numpy then adds in pairs, with less rounding
    sums: Array = np.ascontiguousarray(statistics.T).sum(axis=-1)
    return sums


def count_columns(classes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The names of the columns of true positives, predictions and actual members, by class."""
    kinds = ("true positives", "predicted", "actual")
    return tuple(tuple(f"{kind}: {name}" for name in classes) for kind in kinds)


def class_counts(
    actual: Sequence[str],
    predicted: Sequence[str],
    classes: Sequence[str],
    class_of: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """The columns that F1 adds up: a row of 0s and 1s per unit.

    `class_of` maps labels to classes where several labels are one class: a prediction is right when
    the label is, and counts as one of its class. So directions of a relation count, but are not
    classes of their own. Labels that are no class, or map to none, count for no class.

    Example:
        >>> counts = class_counts(["a", "b", "other"], ["a", "a", "a"], ["a", "b"])
        >>> counts.sum().row(0)
        (1.0, 0.0, 3.0, 0.0, 1.0, 1.0)
    """
    if len(actual) != len(predicted):
        raise ValueError(f"{len(actual)} labels and {len(predicted)} predictions cannot be paired")
    mapping = {name: name for name in classes} if class_of is None else class_of
    index = {name: place for place, name in enumerate(classes)}

    def members(labels: Sequence[str]) -> Array:
        rows = np.zeros((len(labels), len(classes)))
        for row, label in enumerate(labels):
            if (place := index.get(mapping.get(label, ""))) is not None:
                rows[row, place] = 1
        return rows

    right = np.array([a == b for a, b in zip(actual, predicted, strict=True)], dtype=bool)
    there = members(actual)
    tables = (there * right[:, None], members(predicted), there)
    return pl.DataFrame(
        {
            name: table[:, place]
            for names, table in zip(count_columns(classes), tables, strict=True)
            for place, name in enumerate(names)
        }
    )


def _counted(values: Array) -> Array:
    return np.stack([values, np.ones(len(values))], axis=1)


def _ratio(above: Array, below: Array) -> Array:
    """A quotient, 0 where it has none."""
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=np.asarray(below) != 0)
