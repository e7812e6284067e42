"""What fits into the time there is?

A short probe makes two updates of the student and, where one is fitted, of a teacher, encodes some
texts, and asks a given teacher for some pairs; updates, list length and candidate depth are then
chosen to fit, and which teachers are fitted where that was left open. It knows no recipe: only
their settings, and what each part of a run roughly does.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from limbeck.errors import ConfigError
from limbeck.inference import embed
from limbeck.models.encoder import Encoder
from limbeck.sources import ListSource, QueryList
from limbeck.tasks.retrieval import (
    DEV_POOL,
    DEV_QUERIES,
    ListSettings,
    Retrieval,
)
from limbeck.tasks.systems import RERANKED
from limbeck.teachers.teachers import Teacher
from limbeck.training import Turn
from limbeck.training.distributed import Group
from limbeck.types import Loss, QueryId, Role, Signals, Silent

PROBED_TEXTS = 512  # encoded
PROBED_PAIRS = 64  # a teacher is asked for, no query and no passage twice
PROBED_QUERIES, PROBED_LIST = 16, 4  # of an update; the second one is timed
SPARE = 0.85  # share of the budget that is planned: probes are short and machines are shared
LEAST_UPDATES = 30
MOST_UPDATES = 1000
LIST_LENGTHS = (8, 4, 2)
DEPTHS = (64, 32, 16, 8)


@dataclass(frozen=True, slots=True)
class Decided:
    """What a budget chose; None where it has no say. `fits`: the kinds of teacher to fit."""

    updates: int | None = None
    teacher_updates: int | None = None
    list_length: int | None = None
    depth: int | None = None
    fits: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """What a run will do.

    `teacher` is None where it is fitted by the run; `choices` are the kinds that may be, the
    dearest choice first; one that is empty where none is. `compared`: whether a student is trained
    with `contrastive`, too. `settings(decided)` gives those of every training by name: "student",
    "contrastive" and the kinds that are fitted, as far as there are any.
    """

    student: Encoder
    teacher: Teacher | None
    choices: tuple[tuple[str, ...], ...]
    compared: bool
    settings: Callable[[Decided], Mapping[str, Any]]


def fit_budget(task: Retrieval, work: Work, seconds: float) -> Decided:
    """The largest plan that fits: fitting a teacher, its scores, students and measuring.

    Raises:
        ConfigError: when not even the smallest plan fits, saying what would.
    """
    speeds = _probed(task, work)
    least = 0.0
    plans = list(product(work.choices, LIST_LENGTHS, DEPTHS))
    for fits, length, depth in plans:
        decided = Decided(LEAST_UPDATES, LEAST_UPDATES, length, depth, fits)
        settings = work.settings(decided)
        fixed = _fixed(task, work, fits, speeds, settings)
        each = 0.0
        for name, own in settings.items():
            update = _update(task, speeds, name, own)
            if own.updates == LEAST_UPDATES:
                each += update
            else:  # a number that was asked for
                fixed += update * own.updates
        updates = MOST_UPDATES
        if each:
            updates = min(int((SPARE * seconds - fixed) / each), MOST_UPDATES)
        least = (fixed + LEAST_UPDATES * each) / SPARE
        enough = 4 * LEAST_UPDATES if (fits, length, depth) != plans[-1] else LEAST_UPDATES
        if least <= seconds and updates >= enough:
            chosen = fits if len(work.choices) > 1 else None
            return Decided(updates, updates if fits else None, length, depth, chosen)
    raise ConfigError(
        f"--budget {seconds:.0f}s is too short: this collection needs about {least:.0f}s for the "
        f"smallest useful run. Try --budget {int(least / 60) + 1}m."
    )


@dataclass(frozen=True, slots=True)
class _Speeds:
    """Seconds: to encode a query and a passage with the student and the base; to train with a
    token, of either; to have a pair from a given teacher. And the mean lengths in tokens.
    """

    small: Mapping[Role, float]
    large: Mapping[Role, float]
    train_small: float
    train_large: float
    pair: float
    tokens: Mapping[Role, float]


def _probed(task: Retrieval, work: Work) -> _Speeds:
    """The speeds of this machine, on some of the collection's own texts.

    Raises:
        ConfigError: when there is no query to make an update of.
    """
    if not len(task.collection.queries):
        raise ConfigError(
            "--budget tries updates of queries, and the collection has none. Use --set updates=..."
        )
    base, student = task.base.encoder, work.student
    tokens: dict[Role, float] = {}
    roles: tuple[Role, ...] = ("query", "passage")
    for role in roles:
        collator, stored = student.collator(role), task.tokens_of(student, role).lengths
        tokens[role] = float(np.mean([collator.length(int(length)) for length in stored[:10_000]]))
    large = {role: _encoding(task, base, role) for role in roles}
    with TemporaryDirectory() as scratch:
        run = replace(task.run, folder=Path(scratch), progress=Silent(), group=Group())
        probe = replace(task, run=run, store=None)
        train = partial(_training, probe, tokens=tokens)
        pair = large["query"] + large["passage"]
        if work.teacher is not None:
            pair = _asking(probe, work.teacher)
        return _Speeds(
            {role: _encoding(task, student, role) for role in roles},
            large,
            train(student, name="small"),
            train(base, name="large") if any(work.choices) else 0.0,
            pair,
            tokens,
        )


def _encoding(task: Retrieval, encoder: Encoder, role: Role) -> float:
    """Seconds to encode a text."""
    encoder = copy.deepcopy(encoder)
    stored = task.tokens_of(encoder, role)
    spread = _spread(len(stored), PROBED_TEXTS)
    encode = partial(embed, encoder, stored, role, engine=task.run.engine)
    encode(positions=spread[:32])  # a first call converts or warms up
    started = time.perf_counter()
    encode(positions=spread)
    return (time.perf_counter() - started) / len(spread)


def _training(
    task: Retrieval, encoder: Encoder, *, tokens: Mapping[Role, float], name: str
) -> float:
    """Seconds to train with a token: forward, backward and the step of an update shared out."""
    encoder = copy.deepcopy(encoder)
    passages = _spread(len(task.collection.passages), PROBED_QUERIES * PROBED_LIST)
    lists = [
        QueryList(int(query), QueryId(str(place)), own[:1], own[1:])
        for place, (query, own) in enumerate(
            zip(
                _spread(len(task.collection.queries), PROBED_QUERIES),
                np.array_split(passages, PROBED_QUERIES),
                strict=False,
            )
        )
        if len(own)
    ]
    source = ListSource(lists, len(lists), PROBED_LIST, 0)

    def loss(signals: Signals) -> Loss:
        return Loss({"probe": signals.scores["student/in_batch"].values.square().mean()})

    turn = Turn(task.score_update(encoder), loss, trains=frozenset({"student"}))
    seconds = []
    for updates in (1, 2):
        settings = ListSettings(updates=updates, measures=0)
        started = time.perf_counter()
        task.train_model(f"probe-{name}-{updates}", encoder, source, turn, settings)
        seconds.append(time.perf_counter() - started)
    read = len(lists) * tokens["query"] + len(passages) * tokens["passage"]
    return max(seconds[1] - seconds[0], seconds[1] / 4) / read


def _asking(task: Retrieval, teacher: Teacher) -> float:
    """Seconds to have a pair from a teacher, texts that it never saw."""
    count = min(PROBED_PAIRS, len(task.collection.queries), len(task.collection.passages))
    queries = _spread(len(task.collection.queries), count)
    passages = _spread(len(task.collection.passages), count)
    pairs = np.stack([queries[:count], passages[:count]], axis=1)
    if teacher.answers is not None:
        pairs = teacher.answers[_spread(len(teacher.answers), count)]
    started = time.perf_counter()
    task.pair_scores(teacher, pairs)
    return (time.perf_counter() - started) / len(pairs)


def _fixed(
    task: Retrieval,
    work: Work,
    fits: tuple[str, ...],
    speeds: _Speeds,
    settings: Mapping[str, Any],
) -> float:
    """Seconds of everything but updates: encoding, scoring, measuring."""
    passages = len(task.collection.passages)
    training = len(task.training_queries())
    held_out = sum(len(task.split_queries(split)) for split in task.collection.qrels) - len(
        task.labelled_queries()
    )
    depth = max((own.depth for own in settings.values() if hasattr(own, "depth")), default=0)
    pooled = min(DEV_QUERIES * (DEV_POOL + 1), passages)
    measures = sum(int(own.measures) for own in settings.values())
    seconds = speeds.small["passage"] * (passages * (4 if work.compared else 2) + measures * pooled)
    base = speeds.large["passage"] * passages + speeds.large["query"] * (training + held_out)
    seconds += base
    asks_pairs = "cross" in fits
    if work.teacher is not None:
        asks_pairs = work.teacher.reads_pairs
        if not asks_pairs:
            seconds += speeds.pair * max(passages, training + held_out)
    elif fits:
        seconds += base
    if asks_pairs:
        seconds += speeds.pair * (depth * training + RERANKED * held_out)
    return seconds


def _update(task: Retrieval, speeds: _Speeds, name: str, settings: Any) -> float:
    """Seconds of one update of a training."""
    query, passage = speeds.tokens["query"], speeds.tokens["passage"]
    each = speeds.train_small if name in ("student", "contrastive") else speeds.train_large
    if isinstance(settings, ListSettings):
        rows, length = settings.queries_per_update, settings.list_length
        pairs = rows * length * (query + passage)
        read = pairs if name == "cross" else rows * (query + length * passage)
    else:
        read = settings.texts_per_update * passage
    return each * read / task.run.group.size


def _spread(total: int, count: int) -> np.ndarray:
    """Up to `count` of `total` positions, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))
