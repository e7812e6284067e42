"""Where does a run leave what it makes, and when does a bad teacher end it?

In its folder; a rehearsal, which only estimates how long a run would take, leaves nothing and goes
on. What is made, and in which order, is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import polars as pl

from limbeck.errors import TeacherRefused
from limbeck.record import read_record, write_record
from limbeck.store import write_json, write_parquet
from limbeck.tasks.task import Model
from limbeck.training import Run

DIAGNOSIS = "stages/diagnose/diagnosis.json"  # what the teacher's scores look like
EXAMINED = "stages/diagnose/scores.parquet"  # the scores themselves


class Outputs(Protocol):
    """Destination of the models and figures that a run makes."""

    def keep_model(self, model: Model, name: str, card: str) -> None:
        """Keep a student or teacher under a name, with its model card."""

    def keep_scale(self, scale: Mapping[str, object]) -> None:
        """Keep the weights of several teachers and the scale of their scores."""

    def keep_diagnosis(self, diagnosis: Mapping[str, Any], scores: pl.DataFrame | None) -> None:
        """Keep the diagnosis of a teacher's answers, and the answers."""

    def refuse_teacher(self, reason: str) -> None:
        """End the run, since there is nothing to learn from its teacher.

        Raises:
            TeacherRefused: saying how to go on all the same.
        """


class RunFolder:
    """The folder of a run. A model that an earlier command wrote is replaced by its equal."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def keep_model(self, model: Model, name: str, card: str) -> None:
        """Write the model's folder."""
        if self.run.group.rank == 0:
            model.save(self.run.folder / name, card=card, stage=name.partition("/")[0])
        self.run.group.barrier()

    def keep_scale(self, scale: Mapping[str, object]) -> None:
        """Write the table `teachers` of `run.toml`."""
        if self.run.group.rank == 0:
            found = read_record(self.run.folder)
            assert found is not None
            write_record(self.run.folder, {**found, "teachers": scale})

    def keep_diagnosis(self, diagnosis: Mapping[str, Any], scores: pl.DataFrame | None) -> None:
        """Write `DIAGNOSIS` and `EXAMINED`."""
        if self.run.group.rank == 0:
            write_json(self.run.folder / DIAGNOSIS, dict(diagnosis), stage="diagnose")
            if scores is not None:
                write_parquet(self.run.folder / EXAMINED, scores, stage="diagnose")

    def refuse_teacher(self, reason: str) -> None:
        """End the run."""
        raise TeacherRefused(f"{reason} --force-teacher goes on all the same; nothing is lost.")


class NoOutputs:
    """Outputs of a rehearsal: nothing is kept, and every teacher is good enough."""

    def keep_model(self, model: Model, name: str, card: str) -> None:
        """Nothing."""

    def keep_scale(self, scale: Mapping[str, object]) -> None:
        """Nothing."""

    def keep_diagnosis(self, diagnosis: Mapping[str, Any], scores: pl.DataFrame | None) -> None:
        """Nothing."""

    def refuse_teacher(self, reason: str) -> None:
        """Go on."""
