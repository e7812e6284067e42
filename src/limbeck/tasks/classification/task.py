"""What do recipes work on where examples belong to classes?

Models are measured on splits, a teacher answers every training example once, and a student learns
from rows of logits. Which data and models there are is decided before; no method is known here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import polars as pl
import torch

from limbeck.data.augmentation import Augment
from limbeck.data.labelled import Examples, Labelled
from limbeck.errors import ScoreError
from limbeck.evaluation.statistics import MacroF1, Mean, Measures, class_counts
from limbeck.evaluation.table import Cost
from limbeck.settings import Settings
from limbeck.store import digest, read_parquet, read_tensors, write_parquet, write_tensors
from limbeck.tasks import fit
from limbeck.tasks.classification.predicting import class_logits
from limbeck.tasks.classification.teachers import (
    AnyTeacher,
    ClassTeacher,
    MixtureTeacher,
    Net,
    nets_of,
)
from limbeck.tasks.fit import Examples as ExamplesSource
from limbeck.tasks.fit import TrainingSettings, default_updates
from limbeck.tasks.rows import Rows, RowsSettings
from limbeck.tasks.task import Checked, Combined, Measured, Task
from limbeck.training import Player, Run, Trained, Turn, Validation
from limbeck.types import Makes, Split

ACCURACY = "accuracy"
MACRO_F1 = "macro-F1"
UNIT, UNITS = "example", "examples"
_RESULTS = "per_example.parquet"
_ANSWERS = "logits.safetensors"


def measures_of(classes: Sequence[str]) -> Measures:
    """Accuracy, which decides, and the mean F1 of the classes."""
    return Measures(
        unit=UNIT,
        units=UNITS,
        measures=(Mean(name=ACCURACY), MacroF1(name=MACRO_F1, classes=tuple(classes))),
    )


@dataclass
class Classification(Task):
    """A dataset in a run. `bases` are the models that teachers are fitted from, by name; None is
    the one that is taken where nothing is said.
    """

    dataset: Labelled
    run: Run
    bases: Mapping[str | None, Net]
    augment: Augment = "none"
    trained: list[Trained] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.measures = measures_of(self.dataset.classes)

    @property
    def data(self) -> Labelled:
        """The dataset."""
        return self.dataset

    # --- measuring -----------------------------------------------------------------------------

    def reference_systems(self, split: Split) -> list[Measured]:
        """The class that is the most frequent in training, for every example."""
        if "train" not in self.dataset.parts:
            return []
        labels = self.dataset.parts["train"].labels
        most = int(np.bincount(labels[labels >= 0]).argmax())
        count = len(self.dataset.parts[split])
        table = self._table(np.full(count, most), split)
        return [self._measured("most_frequent", {"class": most}, split, table, Cost())]

    def measure(self, name: str, system: Net | AnyTeacher, split: Split) -> Measured:
        """A classifier, or several as one, on a split."""
        models = nets_of(system)
        cost = Cost(
            parameters=sum([each.parameter_count() for each in models]),
            megabytes=sum([each.size_bytes() for each in models]) / 1e6,
        )
        seen = digest([each.content_digest() for each in models])
        if isinstance(system, MixtureTeacher):
            seen = system.digest
        return self._measured(name, {"model": seen, **self.run.engine.key()}, split, system, cost)

    def _measured(
        self,
        name: str,
        inputs: Mapping[str, object],
        split: Split,
        given: pl.DataFrame | Net | AnyTeacher,
        cost: Cost,
    ) -> Measured:
        inputs = {"data": self.dataset.digest, "split": split, **inputs}
        stage = f"evaluate-{name.replace('/', '-')}-{split}-{digest(inputs)[:8]}"

        def work() -> Measured:
            folder = self.run.stage(stage, inputs)
            path = folder.path / _RESULTS
            if not folder.complete:
                table = given
                if not isinstance(table, pl.DataFrame):
                    said = self.logits_of(table, self.dataset.parts[split])
                    table = self._table(said.argmax(axis=1), split)
                write_parquet(path, table, stage=stage)
                folder.finish()
            table = read_parquet(path, {self.measures.id: pl.String}, others=pl.Float64)
            return Measured(name, split, stage, table, cost)

        return self.run.first(work)

    def _table(self, predicted: np.ndarray, split: Split) -> pl.DataFrame:
        """A row per example: whether the class is right, and the counts of F1."""
        part, classes = self.dataset.parts[split], self.dataset.classes
        counts = class_counts(
            [classes[at] for at in part.labels], [classes[at] for at in predicted], classes
        )
        right = (predicted == part.labels).astype(np.float64)
        columns = {self.measures.id: list(part.ids), ACCURACY: right}
        return pl.DataFrame(columns).hstack(counts)

    def logits_of(self, system: Net | AnyTeacher, examples: Examples) -> np.ndarray:
        """Logits of a model for examples, [examples, classes], the classes in the data's order; of
        several as one, the logarithm of their mean probability.
        """
        if isinstance(system, ClassTeacher):
            return self.logits_of(system.model, examples)
        if isinstance(system, MixtureTeacher):
            return mixed([(self.logits_of(each, examples), w) for each, w in system.members])
        found = class_logits(system, examples.inputs, self.run.engine)
        order = [system.classes.index(name) for name in self.dataset.classes]
        return np.ascontiguousarray(found[:, order])

    # --- teachers ------------------------------------------------------------------------------

    def answers(self, teacher: AnyTeacher) -> np.ndarray:
        """A teacher's logits of all training examples, asked for once and then read back.

        Raises:
            ScoreError: when one is not finite.
        """
        if isinstance(teacher, MixtureTeacher):
            return mixed([(self.answers(each), weight) for each, weight in teacher.members])
        inputs = {
            "data": self.dataset.digest,
            "teacher": teacher.digest,
            **self.run.engine.key(),
        }
        stage = f"score-{teacher.name}-{digest(inputs)[:8]}"

        def ask() -> np.ndarray:
            folder = self.run.stage(stage, inputs)
            path = folder.path / _ANSWERS
            if not folder.complete:
                found = self.logits_of(teacher, self.dataset.parts["train"])
                write_tensors(path, {"logits": torch.from_numpy(found)}, stage=stage)
                folder.finish(teacher_forwards=len(found), hits=0, answers=len(found))
            values: np.ndarray = read_tensors(path)["logits"].numpy()
            return values

        found = self.run.first(ask)
        if not np.isfinite(found).all():
            at = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
            raise ScoreError(
                f"{teacher.name} gives no finite logits for {self.dataset.parts['train'].ids[at]}. "
                "Name another --teacher."
            )
        return found

    def check_teacher(self, teacher: AnyTeacher, settings: Settings) -> Checked:
        """Check a teacher on training examples: how often it is right, and how sure."""
        logits, labels = self.answers(teacher), self.dataset.parts["train"].labels
        chosen, known = logits.argmax(axis=1), labels >= 0
        sure = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).max(axis=1)
        right = float((chosen[known] == labels[known]).mean())
        lines = [
            f"right on {right:.1%} of {int(known.sum()):,} labelled training examples",
            f"{sure.mean():.2f} is what it gives its first choice on average",
        ]
        if len(np.unique(chosen)) == 1:
            name = self.dataset.classes[int(chosen[0])]
            return Checked(lines, f"It takes every training example for {name!r}.")
        return Checked(lines)

    def combine(self, teachers: Sequence[ClassTeacher], weights: Sequence[float]) -> Combined:
        """Several teachers as the weighted mean of their probabilities; one alone as it is."""
        if len(teachers) == 1:
            return Combined(teachers[0])
        mixture = MixtureTeacher("mixture", tuple(teachers), tuple(weights))
        scale = {each.name: {"weight": weight} for each, weight in mixture.members}
        return Combined(mixture, teachers, scale)

    def named(self, teacher: ClassTeacher, name: str) -> ClassTeacher:
        """A teacher under another name."""
        return replace(teacher, name=name)

    def from_base(self, base: str | None) -> tuple[Self, Net]:
        """The same task, and a copy of a model to fit a teacher from."""
        return self, copy.deepcopy(self.bases[base])

    # --- training ------------------------------------------------------------------------------

    def rows(
        self,
        student: Net,
        teacher: AnyTeacher | None,
        makes: Makes = "student",
    ) -> Rows:
        """A row per example, whose alternatives are the classes."""
        from limbeck.tasks.classification.rows import ClassRows

        return ClassRows(self, student, teacher, makes)

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
        """Train players in place; the first one is measured on dev."""
        trained = fit.train_stage(
            self.run,
            name,
            players,
            source,
            turn,
            updates,
            settings,
            inputs={"data": self.dataset.digest},
            measure=self._dev_measure(settings, updates, players[0]),
            parts=parts,
        )
        self.trained.append(trained)
        return trained

    def _dev_measure(
        self, settings: TrainingSettings, updates: int, player: Player
    ) -> Validation | None:
        if not settings.eval_every(updates) or "dev" not in self.dataset.parts:
            return None
        labels = self.dataset.parts["dev"].labels

        def value(players: Mapping[str, Player]) -> float:
            model: Any = players[player.name].model
            said = self.logits_of(model, self.dataset.parts["dev"])
            return float((said.argmax(axis=1) == labels).mean())

        every = settings.eval_every(updates)
        return Validation(f"dev {ACCURACY}", value, player.name, every, settings.keep)

    def for_recipe(self) -> Self:
        """The same task, with its own record of the models trained on it."""
        return replace(self, trained=[])

    def alone(self, settings: RowsSettings, recipe: type[Settings]) -> Any:
        """Settings that a recipe shares with the student's; as many updates, though of labelled
        examples alone.
        """
        own = settings.model_dump(exclude_unset=True)
        shared = {key: value for key, value in own.items() if key in recipe.model_fields}
        found = recipe(**shared)
        if isinstance(found, RowsSettings) and found.max_steps is None:
            passes = len(self.dataset.parts["train"]) / found.batch_size
            found = found.model_copy(update={"max_steps": default_updates(passes)})
        return found


def mixed(said: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
    """The logarithm of the weighted mean of probabilities, of logits [examples, classes] each."""
    log = [
        logits - np.logaddexp.reduce(logits, axis=1, keepdims=True) + np.log(weight)
        for logits, weight in said
    ]
    found: np.ndarray = np.logaddexp.reduce(np.stack(log), axis=0).astype(np.float32)
    return found
