"""What do recipes work on where examples belong to classes?

Models are measured on splits, a teacher answers every training example once, and a student learns
from rows of logits. Which data and models there are is decided before; no method is known here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import torch

from limbeck.data.labelled import Examples, Labelled
from limbeck.errors import ConfigError, ScoreError
from limbeck.evaluation.statistics import MacroF1, Mean, Measures, class_counts
from limbeck.evaluation.table import Cost
from limbeck.models.classifier import ConvNet, TextClassifier
from limbeck.settings import Settings
from limbeck.sources.order import update_positions
from limbeck.store import digest, read_parquet, read_tensors, write_parquet, write_tensors
from limbeck.tasks import fit
from limbeck.tasks.classification.predicting import class_logits
from limbeck.tasks.fit import Examples as ExamplesSource
from limbeck.tasks.fit import TrainingSettings, default_updates
from limbeck.tasks.rows import Rows, RowsLoss, RowsSettings, mean_of
from limbeck.tasks.task import Checked, Combined, Measured, Task
from limbeck.training import Forward, Measure, Pass, Player, Run, Trained, Turn
from limbeck.types import Makes, Scores, Signals, Split

ACCURACY = "accuracy"
MACRO_F1 = "macro-F1"
UNIT, UNITS = "example", "examples"
RATES = {"images": 3e-3, "texts": 2e-4}  # of learning, where nothing is said
_RESULTS = "per_example.parquet"
_ANSWERS = "logits.safetensors"

Net = ConvNet | TextClassifier


def measures_of(classes: Sequence[str]) -> Measures:
    """Accuracy, which decides, and the mean F1 of the classes."""
    return Measures(
        unit=UNIT,
        units=UNITS,
        measures=(Mean(name=ACCURACY), MacroF1(name=MACRO_F1, classes=tuple(classes))),
    )


@dataclass(frozen=True)
class ClassTeacher:
    """A classifier that teaches."""

    name: str
    model: Net
    kind: ClassVar[str] = "classifier"

    @property
    def digest(self) -> str:
        """What its answers depend on."""
        return self.model.content_digest()

    def save(self, folder: Any, *, card: str, stage: str) -> None:
        """Write it into a folder."""
        self.model.save(folder, card=card, stage=stage)


@dataclass(frozen=True)
class Shuffled:
    """Positions of training examples, all of them in every epoch, as many in every update."""

    count: int
    size: int
    seed: int
    of: str  # the digest of the examples
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """What the batches depend on."""
        return digest([self.count, self.size, self.seed, self.of])

    @property
    def updates_per_pass(self) -> float:
        """How many updates see everything once."""
        return self.count / self.size

    def batch(self, update: int) -> np.ndarray:
        """The positions of one update."""
        return update_positions(self.count, self.size, seed=self.seed, update=update)[:, 0]


@dataclass
class Classification(Task):
    """A dataset in a run. `bases` are the models that teachers are fitted from, by name; None is
    the one that is taken where nothing is said.
    """

    dataset: Labelled
    run: Run
    bases: Mapping[str | None, Net]
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
        labels = self.dataset.parts["train"].labels
        most = int(np.bincount(labels[labels >= 0]).argmax())
        count = len(self.dataset.parts[split])
        table = self._table(np.full(count, most), split)
        return [self._measured("most_frequent", {"class": most}, split, table, Cost())]

    def measure(self, name: str, system: Net | ClassTeacher, split: Split) -> Measured:
        """A classifier on a split."""
        model = system.model if isinstance(system, ClassTeacher) else system
        cost = Cost(parameters=model.parameter_count(), megabytes=model.size_bytes() / 1e6)
        return self._measured(
            name, {"model": model.content_digest(), **self.run.engine.key()}, split, model, cost
        )

    def _measured(
        self,
        name: str,
        inputs: Mapping[str, object],
        split: Split,
        given: pl.DataFrame | Net,
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
                    table = self._table(self.logits(table, split).argmax(axis=1), split)
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

    def logits(self, model: Net, split: Split) -> np.ndarray:
        """A model's logits of a split, [examples, classes], the classes in the data's order."""
        return self.logits_of(model, self.dataset.parts[split])

    def logits_of(self, model: Net, examples: Examples) -> np.ndarray:
        """The same of any examples."""
        found = class_logits(model, examples.inputs, self.run.engine)
        order = [model.classes.index(name) for name in self.dataset.classes]
        return np.ascontiguousarray(found[:, order])

    # --- teachers ------------------------------------------------------------------------------

    def answers(self, teacher: ClassTeacher) -> np.ndarray:
        """A teacher's logits of all training examples, asked for once and then read back.

        Raises:
            ScoreError: when one is not finite.
        """
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
                found = self.logits(teacher.model, "train")
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

    def check_teacher(self, teacher: ClassTeacher, settings: Settings) -> Checked:
        """How often it is right on training examples, and how sure."""
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
        """One teacher as it is.

        Raises:
            ConfigError: for several.
        """
        if len(teachers) > 1:
            raise ConfigError("Several teachers of classes cannot be combined yet. Name one.")
        return Combined(teachers[0])

    def named(self, teacher: ClassTeacher, name: str) -> ClassTeacher:
        """A teacher under another name."""
        return replace(teacher, name=name)

    def from_base(self, base: str | None) -> tuple[Self, Net]:
        """The same task, and a copy of a model to fit a teacher from."""
        return self, copy.deepcopy(self.bases[base])

    # --- training ------------------------------------------------------------------------------

    def rows(self, student: Net, teacher: ClassTeacher | None, makes: Makes = "student") -> Rows:
        """A row per example, whose alternatives are the classes."""
        return ClassRows(self, student, teacher, makes)

    def train_stage(
        self,
        name: str,
        players: Sequence[Player],
        source: ExamplesSource,
        turn: Turn,
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
    ) -> Measure | None:
        if not settings.eval_every(updates) or "dev" not in self.dataset.parts:
            return None
        labels = self.dataset.parts["dev"].labels

        def value(players: Mapping[str, Player]) -> float:
            model: Any = players[player.name].model
            return float((self.logits(model, "dev").argmax(axis=1) == labels).mean())

        every = settings.eval_every(updates)
        return Measure(f"dev {ACCURACY}", value, player.name, every, settings.keep)

    def for_recipe(self) -> Self:
        """The same task, with a record of its own of what is trained on it."""
        return replace(self, trained=[])

    def alone(self, settings: RowsSettings, recipe: type[Settings]) -> Any:
        """What a recipe has in common with the student's settings; as many updates, though of
        labelled examples alone.
        """
        own = settings.model_dump(exclude_unset=True)
        shared = {key: value for key, value in own.items() if key in recipe.model_fields}
        found = recipe(**shared)
        if isinstance(found, RowsSettings) and found.max_steps is None:
            passes = len(self.dataset.parts["train"]) / found.batch_size
            found = found.model_copy(update={"max_steps": default_updates(passes)})
        return found


@dataclass(frozen=True)
class ClassRows(Rows):
    """Training examples as rows of classes."""

    task: Classification
    student: Net
    teacher: ClassTeacher | None
    makes: Makes

    def train(
        self, name: str, loss: RowsLoss, settings: RowsSettings, *, labelled: bool = False
    ) -> Trained:
        """Train the student in place, by the mean of each part over the examples of an update."""
        task, data = self.task, self.task.dataset
        examples, said = data.parts["train"], None
        if self.teacher is not None:
            said = torch.from_numpy(task.answers(self.teacher))
        if labelled:
            known = np.flatnonzero(examples.labels >= 0)
            examples, said = examples.at(known), None if said is None else said[known]
        size = min(settings.batch_size, len(examples))
        source = Shuffled(len(examples), size, task.run.seed, examples.digest)
        read = self.student.read(examples.inputs)
        lengths, labels = read.lengths, torch.from_numpy(examples.labels)

        def signals(update: Pass, chosen: np.ndarray) -> Signals:
            values = update.run("student", lengths[chosen], lambda some: read.collate(chosen[some]))
            target = labels[chosen].to(values.device)
            scores = {"student": Scores.of(values, target=target)}
            if said is not None:
                scores["teacher"] = Scores.of(said[chosen].to(values.device), target=target)
            return Signals(scores, progress=update.progress, step=update.step)

        inputs = {} if self.teacher is None else {"teacher": self.teacher.digest}
        turn = Turn(Forward(signals, inputs=inputs), mean_of(loss), frozenset({"student"}))
        if settings.learning_rate is None:
            rate = RATES[data.form]
            settings = settings.model_copy(update={"learning_rate": rate})
        return fit.train_model(task, name, self.student, source, turn, settings, makes=self.makes)
