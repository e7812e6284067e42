"""What did one arm reach, and what did it cost?

An arm is a run of `limbeck.pipeline.distill`: one recipe with one seed. Costs are counted from what
its stages recorded when they finished; a stage that trains records what each of its players did,
and whether the student is made of it.

This module knows no recipe, and compares nothing.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limbeck import store

_TAUGHT_BY = {"teacher", "ranker"}  # in the names of stages, before they recorded their players


@dataclass(frozen=True, slots=True)
class TeacherCost:
    """Pairs and texts that a model was asked for: computed, or spared by the store. `answers` are
    all of them; a process that was killed has forwards that no one counted.
    """

    forwards: int
    spared: int
    answers: int

    def as_json(self) -> dict[str, int]:
        """The cost as JSON, for a file of results."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """Training cost of an arm: updates of the student and the tokens that it read, padding
    included; seconds of all training, including that of a teacher that the arm fitted for itself.
    """

    updates: int
    student_tokens: int
    seconds: float


def stage_metrics(out: Path) -> dict[str, dict[str, Any]]:
    """Metrics of each finished stage of a run, by the stage's name."""
    return {
        path.parent.name: store.read_done(path.parent).metrics
        for path in sorted((out / "stages").glob("*/done.json"))
    }


def training_cost(out: Path) -> TrainingCost:
    """Training cost of a finished arm."""
    stages = {
        name: metrics for name, metrics in stage_metrics(out).items() if name.startswith("train-")
    }
    students = {name: _students(name, metrics) for name, metrics in stages.items()}
    return TrainingCost(
        sum(stages[name]["updates"] for name, found in students.items() if found),
        sum(student["padded_tokens"] for found in students.values() for student in found),
        sum(metrics["seconds"] for metrics in stages.values()),
    )


def _students(stage: str, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Counts of the players that the student is made of; in older runs, all counts of the stage."""
    if "players" in metrics:
        return [player for player in metrics["players"] if player["makes"] == "student"]
    return [] if _TAUGHT_BY & set(re.split("[-_]", stage)) else [metrics]


def teacher_cost(out: Path) -> TeacherCost:
    """Cost of asking a run's teacher."""
    return _cost(out, base=False)


def base_cost(out: Path) -> TeacherCost:
    """Cost of asking a run's base encoder, which mines and is no teacher."""
    return _cost(out, base=True)


def _cost(out: Path, *, base: bool) -> TeacherCost:
    found = [
        metrics
        for name, metrics in stage_metrics(out).items()
        if "teacher_forwards" in metrics
        and name.startswith(("encode-base-", "score-base-")) == base
    ]
    return TeacherCost(
        sum(metrics["teacher_forwards"] for metrics in found),
        sum(metrics["hits"] for metrics in found),
        sum(
            metrics.get("answers", metrics["teacher_forwards"] + metrics["hits"])
            for metrics in found
        ),
    )
