"""What will each part of a run take on this machine?

Speeds that a probe found times what a run does. It knows no recipe: only their settings, and what
each part of a run roughly does; a recipe that fits its own teachers is rehearsed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from limbeck.models.encoder import Encoder
from limbeck.tasks.costs import ROLES, Speeds
from limbeck.tasks.rehearsal import PADDING, Noted, rehearse
from limbeck.tasks.retrieval import DEV_POOL, DEV_QUERIES, ListSettings, Retrieval, default_updates
from limbeck.tasks.systems import DEPTH, RERANKED
from limbeck.teachers.teachers import Teacher
from limbeck.types import Role, Split

DIAGNOSED_QUERIES, DIAGNOSED_DEPTH = 300, 16  # whose candidates a teacher is examined on
_NUMBER = 4  # bytes of a float32
_SMALL = ("student", "contrastive")  # trainings of the student; others are of a teacher


@dataclass(frozen=True, slots=True)
class Work:
    """What a run will do.

    `teacher` is None where it is fitted by the run, as the kinds in `fits`; `compared`: whether a
    student is trained with `contrastive`, too. `settings` has those of every training by name:
    "student", "contrastive" and the kinds that are fitted, as far as there are any; `recipe` names
    the student's. `split` is what systems are measured on, if anything. `carry_out` is a recipe
    that fits its own teachers: it trains a student on a task, and gives the last of them.
    """

    student: Encoder
    teacher: Teacher | None
    fits: tuple[str, ...]
    compared: bool
    recipe: str
    taught: bool
    settings: Mapping[str, Any]
    split: Split | None
    carry_out: Callable[[Retrieval, Encoder], Teacher] | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a run: how the names of its stages begin, what it does in words, and what that
    takes: seconds, updates among them, texts or pairs that a teacher is asked for, and megabytes
    that stay on the disk.
    """

    stage: str
    what: str
    seconds: float
    updates: int = 0
    asked: int = 0
    megabytes: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


@dataclass(frozen=True)
class Forecast:
    """What a run of this work would take, at these speeds."""

    task: Retrieval
    work: Work
    speeds: Speeds

    def parts(self) -> list[Part]:
        """Everything that takes time, in order."""
        work = self.work
        found = [self._tokens(), *(self._rehearsed() if self._noted else self._as_usual())]
        if work.split:
            found += [self._evaluated("undistilled"), self._evaluated("student")]
        return [*found, self._mined()]

    @cached_property
    def _noted(self) -> Noted | None:
        """What the recipe does, where that is seen by rehearsing it."""
        work = self.work
        if work.carry_out is None:
            return None
        return rehearse(
            self.task, self.speeds, work.student, work.teacher, work.carry_out, work.split
        )

    def _rehearsed(self) -> list[Part]:
        """What the recipe does by itself."""
        assert self._noted is not None
        return [
            Part(
                name,
                tally.what,
                tally.seconds,
                tally.updates,
                asked=tally.asked,
                megabytes=_NUMBER * tally.kept / 1e6,
            )
            for name, tally in self._noted.stages.items()
            if tally.seconds
        ]

    def _as_usual(self) -> list[Part]:
        """A teacher that is fitted or given, a student to compare it with, the student."""
        work = self.work
        found = [
            self._base(),
            *(
                self._trained(f"teacher_{kind}", kind)
                for kind in work.fits
                if kind in work.settings
            ),
        ]
        if work.taught:
            found += self._teacher()
        if work.compared:
            found.append(self._trained("contrastive", "contrastive"))
            found.append(self._evaluated("contrastive", times=2 if work.split == "test" else 1))
        found.append(self._trained(work.recipe, "student"))
        return found

    def _mined(self) -> Part:
        """Searches by words, and the candidates that are kept."""
        indexed = 1 + bool(self.work.split) + bool(self._dev) + self.work.taught * 2
        searched, kept = self._asked_queries + self._measured, self._depth * self._asked_queries
        if self._noted:
            indexed = len(self._noted.looked_up) + bool(self.work.split)
            searched, kept = self._noted.searched + self._measured, self._noted.mined
        look_ups = self.speeds.look_up * self._passages
        return Part(
            "mine",
            f"{indexed} indexes by words, {searched:,} queries",
            indexed * self.speeds.index * self._passages + searched * look_ups,
            megabytes=8 * kept / 1e6,
        )

    @property
    def _passages(self) -> int:
        return len(self.task.collection.passages)

    @property
    def _training(self) -> int:
        return len(self.task.training_queries())

    @property
    def _dev(self) -> int:
        return len(self.task.split_queries("dev"))

    @property
    def _measured(self) -> int:
        return len(self.task.split_queries(self.work.split)) if self.work.split else 0

    @property
    def _depth(self) -> int:
        settings = self.work.settings.values()
        return max((own.depth for own in settings if hasattr(own, "depth")), default=0)

    @property
    def _asked_queries(self) -> int:
        """Training queries that candidates are mined for."""
        return self._training if self.work.taught else len(self.task.labelled_queries())

    def _encoded(self, speed: Mapping[Role, float], queries: int, known: float = 0.0) -> float:
        """Seconds to encode all passages but a known share, and some queries."""
        return speed["passage"] * self._passages * (1 - known) + speed["query"] * queries

    def _tokens(self) -> Part:
        """All texts as numbers."""
        texts = self._passages + len(self.task.collection.queries)
        longest = max(self.speeds.tokens.values())
        return Part(
            "tokens",
            f"{texts:,} texts",
            self.speeds.tokenise * texts,
            megabytes=_NUMBER * longest * texts / 1e6,
        )

    def _base(self) -> Part:
        """What the base encoder is asked for."""
        mines = self.work.taught and (self.work.teacher is not None or "cross" in self.work.fits)
        queries = (
            self._measured
            + min(self._dev, DEV_QUERIES)
            + (self._training if mines else len(self.task.labelled_queries()))
        )
        return Part(
            "encode-base",
            f"{self._passages:,} passages and {queries:,} queries",
            self._encoded(self.speeds.large, queries, self.speeds.known[0]),
            megabytes=2 * self._vector_megabytes(self._passages + queries),
        )

    def _vector_megabytes(self, texts: int) -> float:
        return _NUMBER * self.task.base.encoder.dimension * texts / 1e6

    def _teacher(self) -> list[Part]:
        """What a teacher is asked for, and its own measure."""
        work, found = self.work, []
        queries = self._training + self._measured + (self._dev if work.compared else 0)
        given = work.teacher
        vectors = (given is not None and given.in_batch) or "dual" in work.fits
        reads_pairs = (given is not None and given.reads_pairs) or "cross" in work.fits
        examined = min(self._training, DIAGNOSED_QUERIES)
        pairs = examined * DIAGNOSED_DEPTH
        known, first = self.speeds.known[1], 0.0
        if vectors:
            texts = self._passages + queries
            pairs_of = dict.fromkeys(ROLES, self.speeds.pair)  # of several: less than a pair
            speed = self.speeds.large if given is None else self.speeds.taught or pairs_of
            if not reads_pairs:  # the passages of these pairs are read first, each once
                first = 1 - math.exp(-pairs / self._passages)
            found.append(
                Part(
                    f"encode-{'dual' if given is None else given.name}",
                    f"the teacher's vectors of {self._passages:,} passages and {queries:,} queries",
                    self._encoded(speed, queries, 1 - (1 - known) * (1 - first)),
                    asked=texts,
                    megabytes=2 * self._vector_megabytes(texts),
                )
            )
        if first:
            seconds = self._encoded(speed, examined, 1 - (1 - known) * first)
        else:
            if reads_pairs:
                pairs += self._depth * self._training
                pairs += RERANKED * (self._measured + (self._dev if work.compared else 0))
            seconds = self.speeds.pair * pairs
        found.append(
            Part(
                "score",
                f"the teacher's scores of {pairs:,} pairs",
                seconds,
                asked=pairs,
                megabytes=2 * 24 * pairs / 1e6,
            )
        )
        return found

    def _trained(self, stage: str, name: str) -> Part:
        """A training with its measures on dev."""
        settings, task = self.work.settings[name], self.task
        small = name in _SMALL
        each = self.speeds.train_small if small else self.speeds.train_large
        encode = self.speeds.small if small else self.speeds.large
        read, per_pass = self._update(name)
        updates = settings.updates or default_updates(per_pass)
        seconds = each * read * updates / task.run.group.size
        queries = min(self._dev, DEV_QUERIES)
        pooled = min(queries * (DEV_POOL + 1), self._passages)
        if queries:
            seconds += settings.measures * (encode["passage"] * pooled + encode["query"] * queries)
        model = self.work.student if small else task.base.encoder
        return Part(
            f"train-{stage}",
            f"{updates:,} updates",
            seconds,
            updates,
            megabytes=4 * model.size_bytes() / 1e6,
        )

    def _update(self, name: str) -> tuple[float, float]:
        """The tokens that an update of a training reads, and the updates of a pass."""
        settings = self.work.settings[name]
        query, passage = self.speeds.tokens["query"], self.speeds.tokens["passage"]
        if not isinstance(settings, ListSettings):
            texts = settings.texts_per_update
            return texts * passage, (self._training + self._passages) / texts
        judged = name != "student" or not self.work.taught
        examples = len(self.task.labelled_queries()) if judged else self._training
        rows = min(settings.queries_per_update, examples)
        length = settings.list_length
        read = rows * (query + length * passage)
        if name == "cross":
            read = rows * length * (query + passage)
        return read, examples / settings.queries_per_update

    def peak_bytes(self, resident: int) -> int:
        """About how much memory is taken at most, beside what the process had after the probe: by
        the vectors of all passages twice, once as they are found and once together, by the index
        by words, or by an update, with the gradients and moments of its model.
        """
        most = 2 * _NUMBER * self.task.base.encoder.dimension * self._passages
        most = max(most, int(self.speeds.index_bytes * self._passages))
        if self._noted:
            return resident + max(most, self._noted.peak_bytes)
        for name in self.work.settings:
            model = self.work.student if name in _SMALL else self.task.base.encoder
            each = self.speeds.kept_small if name in _SMALL else self.speeds.kept_large
            padded = PADDING * self._update(name)[0] / self.task.run.group.size
            kept = min(each * padded, self.task.run.activation_bytes)
            most = max(most, int(kept) + 3 * model.size_bytes())
        return resident + most

    def _evaluated(self, name: str, times: int = 1) -> Part:
        """An encoder that is measured."""
        return Part(
            f"evaluate-{name}",
            f"{self._passages:,} passages and {self._measured:,} queries",
            times * self._encoded(self.speeds.small, self._measured),
            megabytes=self.work.student.size_bytes() / 1e6 + DEPTH * 40 * self._measured / 1e6,
        )
