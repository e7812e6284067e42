"""What does a method see of a task whose examples are rows of alternatives?

A row is an example and its alternatives are classes, or a query with its candidates. A recipe over
`ROWS` is an equation of a student's scores and a teacher's, with the right alternative where that
is known; it runs on every task that lays out rows. Scores come at their natural temperature, so
that a temperature of 1 means the same everywhere. This module knows no task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field
from torch import Tensor, nn

from limbeck.objectives.rows import RowLoss
from limbeck.tasks.fit import TrainingSettings
from limbeck.training import Trained
from limbeck.types import Loss, Signals


@dataclass(frozen=True, slots=True)
class Parts:
    """A module that is trained beside a student and not exported, such as a temperature, and its
    learning rate; none = the student's.
    """

    module: nn.Module
    learning_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Maps:
    """A model's last feature maps: their channels, height and width, and the frozen rest of the
    model, which maps [R, C, h, w] to scores in the order of the data.
    """

    channels: int
    height: int
    width: int
    head: Callable[[Tensor], Tensor]


# Named parts of the loss of each row; a scalar tensor is a note, logged beside them.
RowsLoss = Callable[[Signals], Mapping[str, RowLoss | Tensor]]


class RowsSettings(TrainingSettings):
    """Settings shared by all recipes over rows."""

    learning_rate: float | None = Field(  # type: ignore[assignment]  # the task fills it in
        None, gt=0, description="peak of the learning rate; none = 0.003 for images, 0.0002 else"
    )
    batch_size: int = Field(32, ge=1, description="examples in one update")


class Rows(ABC):
    """The rows of a task in a run. Scores of the `student` are a signal of this name, those of what
    teaches are the `teacher`'s, and where several teach as one, each has a signal of its own too.

    `teachers` are the signals of single teachers: `teacher/NAME` of each of several, `teacher` of
    one that is alone.
    """

    teachers: Sequence[str]

    @abstractmethod
    def train(
        self,
        name: str,
        loss: RowsLoss,
        settings: RowsSettings,
        *,
        labelled: bool = False,
        parts: Parts | None = None,
        maps: bool = False,
    ) -> Trained:
        """Train the student in place in a stage of this name, by the mean of each part over the
        rows; on `labelled` rows alone, or on all.

        `parts` are trained beside it, by the same loss. With `maps` the signals have the last
        feature maps of the student and of each teacher, [R, C, h, w], under their names.

        Raises:
            ConfigError: when feature maps are asked for and a model has none.
        """

    @abstractmethod
    def maps(self, name: str) -> Maps:
        """The feature maps of the student or a teacher, by the name of its signal.

        Raises:
            ConfigError: when it has none.
        """


def mean_of(loss: RowsLoss) -> Callable[[Signals], Loss]:
    """The loss of an update: each part's mean over its rows."""

    def of_update(signals: Signals) -> Loss:
        found = loss(signals)
        parts = {name: part.mean() for name, part in found.items() if isinstance(part, RowLoss)}
        notes = {name: part for name, part in found.items() if isinstance(part, Tensor)}
        return Loss(parts, notes)

    return of_update
