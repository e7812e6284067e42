"""What did one arm reach, and what did it cost?

An arm is a run of `limbeck.pipeline.distill`: one recipe with one seed. Costs are counted from what
its stages recorded when they finished. A stage that trains is named `train-...`; it trains the
student unless a word of its name is `teacher` or `ranker`, as in `train-teacher_dual`.

This module knows no recipe, and compares nothing.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limbeck import store

_TAUGHT_BY = {"teacher", "ranker"}


@dataclass(frozen=True, slots=True)
class Asked:
    """Pairs and texts that a model was asked for: computed, or spared by the store. `answers` are
    all of them; a process that was killed has forwards that no one counted.
    """

    forwards: int
    spared: int
    answers: int

    def as_json(self) -> dict[str, int]:
        """For a file of results."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Trained:
    """What training took: updates of the student and the tokens that it read, padding included;
    seconds of all training, of a teacher that the arm fitted for itself too.
    """

    updates: int
    student_tokens: int
    seconds: float


def stage_metrics(out: Path) -> dict[str, dict[str, Any]]:
    """What each finished stage of a run counted, by the stage's name."""
    return {
        path.parent.name: store.read_done(path.parent).metrics
        for path in sorted((out / "stages").glob("*/done.json"))
    }


def trained(out: Path) -> Trained:
    """What a finished arm's training took."""
    stages = {
        name: metrics for name, metrics in stage_metrics(out).items() if name.startswith("train-")
    }
    students = [metrics for name, metrics in stages.items() if trains_student(name)]
    return Trained(
        sum(metrics["updates"] for metrics in students),
        sum(metrics["padded_tokens"] for metrics in students),
        sum(metrics["seconds"] for metrics in stages.values()),
    )


def trains_student(stage: str) -> bool:
    """Whether a stage that trains, trains the student.

    Example:
        >>> trains_student("train-kl"), trains_student("train-teacher_dual")
        (True, False)
    """
    return not _TAUGHT_BY & set(re.split("[-_]", stage))


def asked_of_teacher(out: Path) -> Asked:
    """What a run asked of its teacher."""
    return _asked(out, base=False)


def asked_of_base(out: Path) -> Asked:
    """What a run asked of the base encoder, which mines and is no teacher."""
    return _asked(out, base=True)


def _asked(out: Path, *, base: bool) -> Asked:
    found = [
        metrics
        for name, metrics in stage_metrics(out).items()
        if "teacher_forwards" in metrics
        and name.startswith(("encode-base-", "score-base-")) == base
    ]
    return Asked(
        sum(metrics["teacher_forwards"] for metrics in found),
        sum(metrics["hits"] for metrics in found),
        sum(
            metrics.get("answers", metrics["teacher_forwards"] + metrics["hits"])
            for metrics in found
        ),
    )
