"""What does a method see of a task whose examples are rows of alternatives?

A row is an example and its alternatives are classes, or a query with its candidates. A recipe over
`ROWS` is an equation of a student's scores and a teacher's, with the right alternative where that
is known; it runs on every task that lays out rows. Scores come at their natural temperature, so
that a temperature of 1 means the same everywhere. This module knows no task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from pydantic import Field

from limbeck.objectives.rows import RowLoss
from limbeck.tasks.fit import TrainingSettings
from limbeck.training import Trained
from limbeck.types import Loss, Signals

RowsLoss = Callable[[Signals], Mapping[str, RowLoss]]  # named parts of the loss of each row


class RowsSettings(TrainingSettings):
    """What every recipe over rows has to decide."""

    learning_rate: float | None = Field(  # type: ignore[assignment]  # the task fills it in
        None, gt=0, description="peak of the learning rate; none = 0.003 for images, 0.0002 else"
    )
    batch_size: int = Field(32, ge=1, description="examples in one update")


class Rows(ABC):
    """The rows of a task in a run: the scores of a `student` and, where one teaches, a `teacher`
    are signals of these names.
    """

    @abstractmethod
    def train(
        self, name: str, loss: RowsLoss, settings: RowsSettings, *, labelled: bool = False
    ) -> Trained:
        """Train the student in place in a stage of this name, by the mean of each part over the
        rows; on `labelled` rows alone, or on all.
        """


def mean_of(loss: RowsLoss) -> Callable[[Signals], Loss]:
    """The loss of an update: each part's mean over its rows."""
    return lambda signals: Loss({name: part.mean() for name, part in loss(signals).items()})
