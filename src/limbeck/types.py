"""Which words does everything else speak?

House conventions, said once:

- Higher score = more relevant. `scores` are pre-softmax values, `probabilities` come after.
- A temperature divides; a multiplier is called `scale`.
- KL is teacher || student unless named reverse.
- Dimension letters: R rows, A alternatives, B batch (queries), L list, D width, T tokens.
- Masked slots are False in `mask`, never a sentinel score.
- Reductions are means over weighted rows.
- Teacher scores stay raw on disk. Files carry ids beside positions, never positions alone.

This module knows no task, model, file or library but torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NewType, Protocol

import torch
from torch import Tensor

from limbeck.errors import StageError

QueryId = NewType("QueryId", str)
PassageId = NewType("PassageId", str)
Split = Literal["train", "dev", "test"]
Role = Literal["query", "passage"]
Makes = Literal["student", "teacher"]  # what training makes of a model
Qrels = dict[
    QueryId, dict[PassageId, int]
]  # grade > 0 is relevant, 0 or less is judged not relevant

_logger = logging.getLogger("limbeck")

SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Scores:
    """R rows of A alternatives each, with the column that is right.

    Retrieval: row = query, alternatives = passages. Classification: row = example, alternatives =
    classes. Translation: row = target token, alternatives = vocabulary.

    Shapes: `values` [R, A] float, pre-softmax; `mask` [R, A] bool, False = no alternative there;
    `target` [R] long, the right column (0 for a query's own list, b*M for in-batch), -1 = not
    known; `weight` [R] float >= 0, how much a row counts in a mean.
    """

    values: Tensor
    mask: Tensor
    target: Tensor
    weight: Tensor

    @classmethod
    def of(
        cls,
        values: Tensor,
        *,
        mask: Tensor | None = None,
        target: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Scores:
        """Scores with the usual defaults: nothing masked, target column 0, every row weighing 1."""
        rows = values.shape[0]
        device = values.device
        return cls(
            values,
            torch.ones_like(values, dtype=torch.bool) if mask is None else mask,
            torch.zeros(rows, dtype=torch.long, device=device) if target is None else target,
            torch.ones(rows, device=device) if weight is None else weight,
        )


@dataclass(frozen=True, slots=True)
class Signals:
    """All that an objective may look at in one update.

    `scores` by name: "student", "teacher/NAME", "reference", "student/layer/3", ...
    `embeddings` by name, [n, D], row-aligned where two names are compared.
    `step` is the number of the update in its stage, from 0; `progress` in [0, 1] is the share of
    the stage's updates already made. To read a signal that nobody gave is a `StageError`.
    """

    scores: Mapping[str, Scores] = field(default_factory=dict)
    embeddings: Mapping[str, Tensor] = field(default_factory=dict)
    progress: float = 0.0
    step: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", _Named(self.scores))
        object.__setattr__(self, "embeddings", _Named(self.embeddings))

    def widest(self, *names: str) -> list[Scores]:
        """The scores of these names over all passages of the update (`NAME/in_batch`) where all of
        them have such, else over each query's own list.
        """
        everywhere = [f"{name}/in_batch" for name in names]
        chosen = everywhere if all(name in self.scores for name in everywhere) else names
        return [self.scores[name] for name in chosen]


class _Named(dict[str, Any]):
    """Signals by name."""

    def __missing__(self, name: str) -> Any:
        raise StageError(
            f"The loss reads the signal {name!r}, but the forward gives only {sorted(self)}. Add a "
            "scorer that gives it."
        )


@dataclass(frozen=True, slots=True)
class Loss:
    """Named, already weighted parts of one loss: scalar tensors, logged by name.

    `notes` are scalar tensors logged beside them that are not part of the loss.
    """

    parts: Mapping[str, Tensor]
    notes: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The sum of the parts, a scalar."""
        return torch.stack([part.float() for part in self.parts.values()]).sum()


class Progress(Protocol):
    """Progress of long work; the command line shows rate and time left from it."""

    def task(
        self, label: str, total: int, unit: str
    ) -> AbstractContextManager[Callable[[int], None]]:
        """A context whose value is called with the number of units just done."""

    def say(self, line: str) -> None:
        """One line of plain text for the person who waits."""


class Silent:
    """A `Progress` that says nothing."""

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Count nothing."""
        yield lambda done: None

    def say(self, line: str) -> None:
        """Say nothing."""


class Logged:
    """A `Progress` whose lines go to the logger `limbeck` at level INFO: the default of a call from
    Python. No handler is set here, so without one nothing is shown.
    """

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Log a piece of work when it begins."""
        self.say(f"{label}: {total:,} {unit}")
        yield lambda done: None

    def say(self, line: str) -> None:
        """Log a line."""
        _logger.info(line)
