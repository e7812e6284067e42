"""How fast is this machine at what a run of retrieval does, and what is the run rehearsed on?

`costs.py` measures speeds, and `rehearsal.py` is the task that makes answers up; this module joins
them. It knows no recipe.
"""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.models.encoder import Encoder
from limbeck.tasks.estimate import RunEstimate
from limbeck.tasks.retrieval.costs import Speeds, probed
from limbeck.tasks.retrieval.rehearsal import Rehearsal
from limbeck.tasks.retrieval.task import Retrieval
from limbeck.teachers import Teacher


@dataclass(frozen=True)
class RetrievalProbe:
    """Probe of a retrieval run: its speeds; `notes` name the vectors already in the store."""

    task: Retrieval
    student: Encoder
    speeds: Speeds
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, task: Retrieval, student: Encoder, teacher: Teacher | None, *, fits: bool
    ) -> RetrievalProbe:
        """Probe for some seconds; `fits` says whether a teacher may be fitted."""
        speeds = probed(task, student, teacher, list(task.bases.values()), fits=fits)
        given = () if teacher is None else teacher.leaves()
        called = {task.base.digest: "the base's"}
        called |= {base.digest: f"{name}'s" for name, base in task.bases.items()}
        called |= {leaf.digest: "the teacher's" for leaf in given if leaf.first_stage is not None}
        notes = tuple(
            f"the store has {name} vectors of {speeds.known[made_by]:.0%} of the passages"
            for made_by, name in called.items()
            if speeds.known[made_by]
        )
        return cls(task, student, speeds, notes)

    def stage(self) -> Rehearsal:
        """A task that does no work and notes the cost of it."""
        task = self.task
        return Rehearsal(
            task.collection,
            task.run,
            task.base,
            task.store,
            task.given,
            bases=task.bases,
            pairs=task.pairs,
            prompted=task.prompted,
            speeds=self.speeds,
            student=self.student,
        )

    def estimate(self, stage: Rehearsal) -> RunEstimate:
        """The estimate of a run that was rehearsed on a stage."""
        return stage.estimate
