"""What fits into the time there is?

A short probe measures how long an update of the student and of a teacher takes and how fast
candidates are scored; updates, list length and candidate depth are then chosen to fit. It knows no
recipe: only what each part of a run roughly does.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import numpy as np

from limbeck.errors import ConfigError
from limbeck.inference import embed
from limbeck.models.encoder import Encoder
from limbeck.tasks.retrieval import Retrieval
from limbeck.teachers.teachers import CrossTeacher, Teacher

PROBED = 512  # texts encoded by the probe
BACKWARD = 2.0  # a backward pass costs about two forwards
SPARE = 0.85  # share of the budget that is planned: probes are short and machines are shared
QUERIES = 64  # queries per update that the plan counts with
LEAST_UPDATES = 30
MOST_UPDATES = 1000
LIST_LENGTHS = (8, 4, 2)
DEPTHS = (64, 32, 16, 8)


@dataclass(frozen=True, slots=True)
class Decided:
    """What a budget chose; None where it has no say."""

    updates: int | None = None
    teacher_updates: int | None = None
    list_length: int | None = None
    depth: int | None = None


def fit_budget(
    task: Retrieval,
    student: Encoder,
    teacher: Teacher | None,
    fits: tuple[str, ...],
    seconds: float,
) -> Decided:
    """The largest plan that fits: a teacher's fitting, its scores, two students and measuring.

    `fits` names the teachers that the run fits. Two students are trained: with the recipe, and with
    `contrastive` for comparison.

    Raises:
        ConfigError: when not even the smallest plan fits, saying what would.
    """
    small, large = _rates(task, student), _rates(task, task.base.encoder)
    passages = len(task.collection.passages)
    queries = max(1, len(task.training_queries()))
    encodings = passages / small.passages * 3 + passages / large.passages * 2
    left = SPARE * seconds - encodings
    for length in LIST_LENGTHS:
        texts = QUERIES * length
        update = (1 + BACKWARD) * (texts / small.passages + QUERIES / small.queries)
        fitting = (1 + BACKWARD) * (texts / large.passages + QUERIES / large.queries)
        pair = 1 / large.passages + 1 / large.queries
        for depth in DEPTHS:
            scoring = queries * depth * pair if _asks_pairs(teacher, fits) else 0.0
            parts = 2 * update + len([kind for kind in fits if kind != "ensemble"]) * fitting
            updates = int((left - scoring) / parts)
            if updates >= LEAST_UPDATES and (updates >= 4 * LEAST_UPDATES or _last(length, depth)):
                updates = min(updates, MOST_UPDATES)
                return Decided(updates, updates if fits else None, length, depth)
    least = (encodings + LEAST_UPDATES * parts + scoring) / SPARE
    raise ConfigError(
        f"--budget {seconds:.0f}s is too short: this collection needs about {least:.0f}s for the "
        f"smallest useful run. Try --budget {int(least / 60) + 1}m."
    )


@dataclass(frozen=True, slots=True)
class _Rates:
    """Texts encoded per second."""

    queries: float
    passages: float


def _rates(task: Retrieval, encoder: Encoder) -> _Rates:
    """How fast an encoder is, on some of the collection's own texts."""
    encoder = copy.deepcopy(encoder)
    rates = []
    for role, count in (
        ("query", len(task.collection.queries)),
        ("passage", len(task.collection.passages)),
    ):
        spread = np.linspace(0, count - 1, min(PROBED, count)).astype(np.int64)
        tokens = task.tokens_of(encoder, role)  # type: ignore[arg-type]
        embed(encoder, tokens, role, engine=task.run.engine, positions=spread[:32])  # type: ignore[arg-type]
        started = time.perf_counter()
        embed(encoder, tokens, role, engine=task.run.engine, positions=spread)  # type: ignore[arg-type]
        rates.append(len(spread) / (time.perf_counter() - started))
    return _Rates(*rates)


def _asks_pairs(teacher: Teacher | None, fits: tuple[str, ...]) -> bool:
    """Whether the student's lists will have to be scored pair by pair."""
    return isinstance(teacher, CrossTeacher) or "cross" in fits


def _last(length: int, depth: int) -> bool:
    return length == LIST_LENGTHS[-1] and depth == DEPTHS[-1]
