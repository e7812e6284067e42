"""How do training queries become rows of passages, and a student learn from them?

A row is a query with its list: a positive in slot 0 where it is judged, then mined candidates. Who
scores the lists is decided here; what a loss says of the scores is the recipe's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from limbeck.errors import ConfigError
from limbeck.models.encoder import Encoder
from limbeck.similarity import softmax_temperature
from limbeck.sources import ListSource
from limbeck.tasks.fit import train_model, updates_of
from limbeck.tasks.retrieval.scorers import dual, logits_of, taught
from limbeck.tasks.retrieval.task import Retrieval, ShownSettings
from limbeck.tasks.rows import Maps, Parts, Rows, RowsLoss, RowsSettings, mean_of
from limbeck.teachers import EnsembleTeacher, Teacher
from limbeck.training import Trained, Turn, forward
from limbeck.types import Loss, Signals

RATES = {"adamw": 2e-4, "sgd": 0.02}  # of learning, where nothing is said


@dataclass(frozen=True)
class ListRows(Rows):
    """Training queries as rows of the passages that they are shown with."""

    task: Retrieval
    student: Encoder
    teacher: Teacher | None

    @property
    def members(self) -> Mapping[str, Teacher]:
        """The single teachers, by the names of their signals."""
        if self.teacher is None:
            return {}
        if isinstance(self.teacher, EnsembleTeacher):
            return {f"teacher/{each.name}": each for each in self.teacher.members}
        return {"teacher": self.teacher}

    @property
    def teachers(self) -> Sequence[str]:  # type: ignore[override]
        """The signals of the single teachers."""
        return tuple(self.members)

    def maps(self, name: str) -> Maps:
        """None: texts have no feature maps.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("Models of texts have no feature maps. Set feature_weight=0.")

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
        """Train the student in place, by the mean of each part over the queries of an update."""
        if maps:
            self.maps("student")
        assert isinstance(settings, ShownSettings)  # as the kind's `rows_settings` say
        task, teacher = self.task, self.teacher
        # 1. Lists, as in `kl`: of a teacher without vectors with its scores.
        queries = task.labelled_queries() if labelled else task.training_queries()
        by_vectors = teacher is not None and teacher.in_batch
        pools = task.pools(
            queries,
            depth=settings.candidates_per_query,
            miner=teacher if teacher is not None and by_vectors else task.base,
            scorer=teacher,
        )
        lists = task.lists(
            pools, negatives_from=settings.range_min, teacher=None if by_vectors else teacher
        )
        source = ListSource(lists, settings.batch_size, settings.list_length, task.run.seed)
        # 2. Scores of the teacher and its members, of those without vectors of what is shown.
        teachers = {} if teacher is None else {"teacher": teacher, **self.members}
        updates = updates_of(settings, source.updates_per_pass)
        for signal, each in teachers.items():
            if not each.in_batch and signal not in source.lists.scored_by:
                source = task.scored(source, updates, signal, each)
        scorers = [taught(task, signal, each) for signal, each in teachers.items()]
        # 3. Everybody's scores at their natural temperature.
        temperatures = {"student": softmax_temperature(self.student.similarity)}
        temperatures |= {signal: each.temperature for signal, each in teachers.items()}
        of_update = mean_of(loss)

        def natural(signals: Signals) -> Loss:
            scores = {
                signal: logits_of(signals.scores[signal], temperature)
                for signal, temperature in temperatures.items()
            }
            return of_update(replace(signals, scores=scores))

        if settings.learning_rate is None:
            rate = RATES[settings.optimizer]
            settings = settings.model_copy(update={"learning_rate": rate})
        trains = {"student"} if parts is None else {"student", "parts"}
        turn = Turn(
            forward(dual(task, "student", self.student), *scorers), natural, frozenset(trains)
        )
        return train_model(
            task,
            name,
            self.student,
            source,
            turn,
            settings,
            parts=None if parts is None else parts.module,
            parts_learning_rate=None if parts is None else parts.learning_rate,
        )
