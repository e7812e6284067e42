"""What would a run of classes take?

A run's own code works on a task that makes some updates of every stage and reads some of every
split, times them, and tells the whole by their share. A teacher is taken to be right, and a student
to be wrong, so that the run goes the longest way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np

from limbeck.data.labelled import Examples
from limbeck.evaluation.table import Cost
from limbeck.settings import Settings
from limbeck.tasks.classification.task import Classification, mixed
from limbeck.tasks.classification.teachers import (
    AnyTeacher,
    MixtureTeacher,
    Net,
    nets_of,
)
from limbeck.tasks.estimate import RunEstimate
from limbeck.tasks.fit import Examples as ExamplesSource
from limbeck.tasks.fit import TrainingSettings
from limbeck.tasks.task import Checked, Measured
from limbeck.training import Player, Trained, Turn
from limbeck.types import Silent, Split

WARMING, TIMED = 2, 8  # updates
READ = 128  # examples of which a model's speed is told


@dataclass
class Rehearsal(Classification):
    """A task on which little is done, timed, and noted in `noted`."""

    noted: RunEstimate = field(default_factory=RunEstimate)
    known: dict[tuple[int, str], float] = field(default_factory=dict)  # seconds an example

    def reference_systems(self, split: Split) -> list[Measured]:
        """Nothing that takes time."""
        return []

    def measure(self, name: str, system: Net | AnyTeacher, split: Split) -> Measured:
        """A table that is all right of a teacher, and all wrong of others."""
        count = len(self.dataset.parts[split])
        counts = self.noted.stages["evaluate"]
        counts.seconds += count * sum([self.seconds(each, split) for each in nets_of(system)])
        counts.examples += count
        labels = self.dataset.parts[split].labels
        predicted = labels if name.startswith("teacher") else (labels + 1) % len(self.data.classes)
        return Measured(name, split, "evaluate", self._table(predicted, split), Cost())

    def seconds(self, model: Net, split: Split) -> float:
        """Seconds to read an example of a split."""
        key = model.parameter_count(), split
        if key not in self.known:
            part = self.dataset.parts[split]
            at = np.unique(np.linspace(0, len(part) - 1, READ).astype(np.int64))
            some = part.at(at)
            self.logits_of(model, some.at(np.arange(1)))  # a first call warms up
            started = time.perf_counter()
            self.logits_of(model, some)
            self.known[key] = (time.perf_counter() - started) / len(some)
        return self.known[key]

    def answers(self, teacher: AnyTeacher) -> np.ndarray:
        """The labels, as logits; a class by chance where there is none."""
        if isinstance(teacher, MixtureTeacher):
            return mixed([(self.answers(each), weight) for each, weight in teacher.members])
        train: Examples = self.dataset.parts["train"]
        counts = self.noted.stages[f"score-{teacher.name}"]
        if not counts.asked:
            counts.asked = counts.examples = len(train)
            counts.seconds = len(train) * self.seconds(teacher.model, "train")
            counts.kept = len(train) * len(self.dataset.classes)
        width = len(self.dataset.classes)
        chosen = np.where(train.labels >= 0, train.labels, np.arange(len(train)) % width)
        return np.eye(width, dtype=np.float32)[chosen]

    def check_teacher(self, teacher: AnyTeacher, settings: Settings) -> Checked:
        """Ask the teacher, which passes."""
        self.answers(teacher)
        return Checked([])

    def for_recipe(self) -> Self:
        """The task itself: all training on it is noted once."""
        return self

    def train_stage(
        self,
        name: str,
        players: Sequence[Player],
        source: ExamplesSource,
        turn: Turn | Sequence[Turn],
        updates: int,
        settings: TrainingSettings,
        *,
        parts: Player | None = None,
    ) -> Trained:
        """Train for some updates, timed."""
        counts = self.noted.stages[f"train-{name}"]
        found = Trained(name)
        with TemporaryDirectory() as scratch:
            own = replace(
                self, run=replace(self.run, folder=Path(scratch), reuse_from=(), progress=Silent())
            )
            for few in (WARMING, TIMED):
                found = Classification.train_stage(
                    own,
                    f"{name}-{few}",
                    players,
                    source,
                    turn,
                    few,
                    settings.model_copy(update={"eval_steps": 0}),
                    parts=parts,
                )
        model = players[0].model
        assert isinstance(model, Net)
        counts.updates += updates
        counts.seconds += updates * found.seconds / TIMED
        if "dev" in self.dataset.parts and (every := settings.eval_every(updates)):
            times = -(-updates // every)
            counts.seconds += times * len(self.dataset.parts["dev"]) * self.seconds(model, "dev")
        self.noted.takes_at_once(4 * model.size_bytes())  # weights, gradients and two moments
        return found


@dataclass(frozen=True)
class ClassificationProbe:
    """Probe of a classification run: the rehearsal itself times the parts."""

    task: Classification
    notes: tuple[str, ...] = ()

    def stage(self) -> Rehearsal:
        """A task to rehearse on."""
        task = self.task
        return Rehearsal(task.dataset, task.run, task.bases, task.augment)

    def estimate(self, stage: Rehearsal) -> RunEstimate:
        """Estimate noted by a rehearsal."""
        return stage.noted
