"""What will each part of a run take on this machine?

Speeds that a probe found times what a run does. It knows no recipe: only their settings, and what
each part of a run roughly does; a recipe that fits its own teachers is rehearsed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from limbeck.config.teacher_spec import kind_and_base
from limbeck.data.tokens import tokenizer_digest
from limbeck.models.encoder import Encoder, Ranker
from limbeck.tasks.fit import default_updates
from limbeck.tasks.retrieval.costs import ROLES, BaseSpeeds, Speeds
from limbeck.tasks.retrieval.measures import DEV_POOL, DEV_QUERIES
from limbeck.tasks.retrieval.rehearsal import PADDING, Noted, rehearse
from limbeck.tasks.retrieval.systems import DEPTH, RERANKED
from limbeck.tasks.retrieval.task import ListSettings, Retrieval
from limbeck.teachers import CrossTeacher, DualTeacher, EnsembleTeacher, Teacher
from limbeck.types import Role, Split

DIAGNOSED_QUERIES, DIAGNOSED_DEPTH = 300, 16  # whose candidates a teacher is examined on
_NUMBER = 4  # bytes of a float32
_SMALL = ("student", "contrastive")  # trainings of the student; others are of a teacher


@dataclass(frozen=True, slots=True)
class Work:
    """What a run will do.

    `teacher` are those that are given, as one, and `fits` names those that the run fits: a kind,
    and which of the `bases` it starts from where that is not the student's. `compared`: whether a
    student is trained with `contrastive`, too. `settings` has those of every training by name:
    "student", "contrastive" and what is fitted, as far as there is any; `recipe` names the
    student's. `split` is what systems are measured on, if anything. `carry_out` is a recipe that
    fits its own teachers: it trains a student on a task, and gives the last of them.
    """

    student: Encoder
    teacher: Teacher | None
    fits: tuple[str, ...]
    compared: bool
    recipe: str
    taught: bool
    settings: Mapping[str, Any]
    split: Split | None
    bases: Mapping[str, DualTeacher] = field(default_factory=dict)
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


@dataclass(frozen=True, slots=True)
class _Answering:
    """A model that answers for the teacher: whether by vectors or by reading pairs, seconds to
    encode a text and to have a pair from it, the share of passages that the store knows its
    vectors of, and how many numbers these have.
    """

    name: str
    vectors: bool
    reads_pairs: bool
    encode: Mapping[Role, float]
    known: float
    pair: float
    dimension: int


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
            self.task,
            self.speeds,
            work.student,
            work.teacher,
            work.carry_out,
            work.split,
            list(work.bases.values()),
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
            *map(self._other_base, work.bases),
            *(
                self._trained(f"teacher_{name}", name)
                for name in work.fits
                if name in work.settings
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
        models: list[Encoder | Ranker] = [self.work.student]
        models += [base.encoder for base in self.work.bases.values()]
        models += _readers_of_tokens(self.work.teacher)
        times = len({tokenizer_digest(model.tokenizer) for model in models})
        longest = max(self.speeds.tokens.values())
        return Part(
            "tokens",
            f"{texts:,} texts" + (f", for {times} tokenizers" if times > 1 else ""),
            times * self.speeds.tokenise * texts,
            megabytes=times * _NUMBER * longest * texts / 1e6,
        )

    def _base(self) -> Part:
        """What the base encoder is asked for."""
        kinds = {kind_and_base(name)[0] for name in self.work.fits}
        mines = self.work.taught and (self.work.teacher is not None or "cross" in kinds)
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

    def _other_base(self, name: str) -> Part:
        """What another base is asked for: it mines for what starts from it, and is measured."""
        queries = self._measured + min(self._dev, DEV_QUERIES) + len(self.task.labelled_queries())
        speeds = self.speeds.bases[name]
        return Part(
            f"encode-base-{name}",
            f"{self._passages:,} passages and {queries:,} queries",
            self._encoded(speeds.encode, queries, speeds.known),
            megabytes=2 * self._vector_megabytes(self._passages + queries, name),
        )

    def _starts_from(self, name: str | None) -> Encoder:
        """The encoder that a teacher is fitted from; None is the student's base."""
        return self.task.base.encoder if name is None else self.work.bases[name].encoder

    def _vector_megabytes(self, texts: int, base: str | None = None) -> float:
        return _NUMBER * self._starts_from(base).dimension * texts / 1e6

    def _teacher(self) -> list[Part]:
        """What teachers are asked for, and their own measure."""
        work, found = self.work, []
        queries = self._training + self._measured + (self._dev if work.compared else 0)
        answering = self._answering()
        examined = min(self._training, DIAGNOSED_QUERIES)
        pairs = examined * DIAGNOSED_DEPTH
        by_vectors = [each for each in answering if each.vectors]
        reads_pairs = any(each.reads_pairs for each in answering)
        # where none reads pairs, the passages of these are read first, each once
        first = 0.0 if reads_pairs or not by_vectors else 1 - math.exp(-pairs / self._passages)
        texts = self._passages + queries
        found = [
            Part(
                f"encode-{each.name}",
                f"the teacher's vectors of {self._passages:,} passages and {queries:,} queries",
                self._encoded(each.encode, queries, 1 - (1 - each.known) * (1 - first)),
                asked=texts,
                megabytes=2 * _NUMBER * each.dimension * texts / 1e6,
            )
            for each in by_vectors
        ]
        if first:
            seconds = sum(
                self._encoded(each.encode, examined, 1 - (1 - each.known) * first)
                for each in by_vectors
            )
        else:
            if reads_pairs:
                pairs += self._depth * self._training
                pairs += RERANKED * (self._measured + (self._dev if work.compared else 0))
            seconds = sum(each.pair for each in answering) * pairs
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

    def _answering(self) -> list[_Answering]:
        """The models that answer for the teacher: given ones as one, and those that are fitted."""
        found, given = [], self.work.teacher
        if given is not None:
            pairs_of = dict.fromkeys(ROLES, self.speeds.pair)  # of several: less than a pair
            found.append(
                _Answering(
                    given.name,
                    given.in_batch,
                    given.reads_pairs,
                    self.speeds.taught or pairs_of,
                    self.speeds.known[1],
                    self.speeds.pair,
                    _width(given),
                )
            )
        for name in self.work.fits:
            kind, base = kind_and_base(name)
            speeds, width = self.speeds.of_base(base), self._starts_from(base).dimension
            alone = given is None and base is None  # then the probe has it
            pair = self.speeds.pair if alone else sum(speeds.encode.values())
            if kind == "dual":
                found.append(_Answering(name, True, False, speeds.encode, 0.0, 0.0, width))
            if kind == "cross":
                found.append(_Answering(name, False, True, speeds.encode, 0.0, pair, width))
        return found

    def _trained(self, stage: str, name: str) -> Part:
        """A training with its measures on dev."""
        settings, task = self.work.settings[name], self.task
        model, speeds = self._in_training(name)
        read, per_pass = self._update(name)
        updates = settings.updates or default_updates(per_pass)
        seconds = speeds.train * read * updates / task.run.group.size
        queries = min(self._dev, DEV_QUERIES)
        pooled = min(queries * (DEV_POOL + 1), self._passages)
        if queries:
            encode = speeds.encode
            seconds += settings.measures * (encode["passage"] * pooled + encode["query"] * queries)
        return Part(
            f"train-{stage}",
            f"{updates:,} updates",
            seconds,
            updates,
            megabytes=4 * model.size_bytes() / 1e6,
        )

    def _in_training(self, name: str) -> tuple[Encoder, BaseSpeeds]:
        """The model that a training starts from, and its speeds."""
        if name not in _SMALL:
            _, base = kind_and_base(name)
            return self._starts_from(base), self.speeds.of_base(base)
        small, speeds = self.work.student, self.speeds
        return small, BaseSpeeds(
            speeds.small, speeds.train_small, speeds.kept_small, speeds.tokens, 0.0
        )

    def _update(self, name: str) -> tuple[float, float]:
        """The tokens that an update of a training reads, and the updates of a pass."""
        settings = self.work.settings[name]
        tokens = self._in_training(name)[1].tokens
        query, passage = tokens["query"], tokens["passage"]
        if not isinstance(settings, ListSettings):
            texts = settings.texts_per_update
            return texts * passage, (self._training + self._passages) / texts
        judged = name != "student" or not self.work.taught
        examples = len(self.task.labelled_queries()) if judged else self._training
        rows = min(settings.queries_per_update, examples)
        length = settings.list_length
        read = rows * (query + length * passage)
        if kind_and_base(name)[0] == "cross":
            read = rows * length * (query + passage)
        return read, examples / settings.queries_per_update

    def peak_bytes(self, resident: int) -> int:
        """About how much memory is taken at most, beside what the process had after the probe: by
        the vectors of all passages twice, once as they are found and once together, by the index
        by words, or by an update, with the gradients and moments of its model; and by what was
        fitted before.
        """
        widths = [each.dimension for each in self._answering() if each.vectors]
        widths += [each.encoder.dimension for each in self.work.bases.values()]
        most = 2 * _NUMBER * max([self.task.base.encoder.dimension, *widths]) * self._passages
        most = max(most, int(self.speeds.index_bytes * self._passages))
        if self._noted:
            return resident + max(most, self._noted.peak_bytes)
        fitted = sum(
            self._in_training(name)[0].size_bytes()
            for name in self.work.settings
            if name not in _SMALL
        )
        for name in self.work.settings:
            model, speeds = self._in_training(name)
            padded = PADDING * self._update(name)[0] / self.task.run.group.size
            kept = min(speeds.kept * padded, self.task.run.activation_bytes)
            most = max(most, int(kept) + 3 * model.size_bytes())
        return resident + most + fitted

    def _evaluated(self, name: str, times: int = 1) -> Part:
        """An encoder that is measured."""
        return Part(
            f"evaluate-{name}",
            f"{self._passages:,} passages and {self._measured:,} queries",
            times * self._encoded(self.speeds.small, self._measured),
            megabytes=self.work.student.size_bytes() / 1e6 + DEPTH * 40 * self._measured / 1e6,
        )


def _width(teacher: Teacher) -> int:
    """How many numbers a teacher's vectors have; 0 where it has none."""
    if isinstance(teacher, DualTeacher):
        return teacher.encoder.dimension
    if isinstance(teacher, EnsembleTeacher) and teacher.in_batch:
        return 1 + sum(map(_width, teacher.members))
    return 0


def _readers_of_tokens(teacher: Teacher | None) -> list[Encoder | Ranker]:
    """The models of a teacher that read tokens as they are kept in a run."""
    if isinstance(teacher, EnsembleTeacher):
        return [model for member in teacher.members for model in _readers_of_tokens(member)]
    if isinstance(teacher, DualTeacher):
        return [teacher.encoder]
    return [teacher.ranker] if isinstance(teacher, CrossTeacher) else []
