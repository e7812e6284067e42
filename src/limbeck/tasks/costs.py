"""What will each part of a run take on this machine?

A short probe on a sample of the collection's own texts makes two updates of the student and, where
one is fitted, of a teacher, encodes some texts, indexes some by words, and asks a given teacher for
some pairs; `parts` multiplies. It knows no recipe: only their settings, and what each part of a run
roughly does. Recipes that fit their own teachers decide on the way what they do, so they cannot be
foretold.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from limbeck.data.collection import Collection, Texts
from limbeck.errors import ConfigError
from limbeck.inference import embed
from limbeck.models.encoder import Encoder
from limbeck.search import BM25
from limbeck.sources import ListSource, QueryList
from limbeck.store import read_json
from limbeck.tasks.retrieval import DEV_POOL, DEV_QUERIES, ListSettings, Retrieval, default_updates
from limbeck.tasks.systems import DEPTH, RERANKED
from limbeck.teachers.scoring import known_texts
from limbeck.teachers.teachers import DualTeacher, Teacher
from limbeck.training import Turn
from limbeck.training.distributed import Group
from limbeck.types import Loss, QueryId, Role, Signals, Silent, Split

SAMPLED_TEXTS = 2048  # queries, and passages, that a probe sees of a collection
PROBED_TEXTS = 512  # encoded
PROBED_PAIRS = 64  # a teacher is asked for, no query and no passage twice
PROBED_QUERIES, PROBED_LIST = 16, 4  # of an update; the second one is timed
DIAGNOSED_QUERIES, DIAGNOSED_DEPTH = 300, 16  # whose candidates a teacher is examined on
_NUMBER = 4  # bytes of a float32
PADDING = 1.4  # tokens with padding, of an update, to those without
_SMALL = ("student", "contrastive")  # trainings of the student; others are of a teacher

_ROLES: tuple[Role, ...] = ("query", "passage")


@dataclass(frozen=True, slots=True)
class Work:
    """What a run will do.

    `teacher` is None where it is fitted by the run, as the kinds in `fits`; `compared`: whether a
    student is trained with `contrastive`, too. `settings` has those of every training by name:
    "student", "contrastive" and the kinds that are fitted, as far as there are any; `recipe` names
    the student's. `split` is what systems are measured on, if anything.
    """

    student: Encoder
    teacher: Teacher | None
    fits: tuple[str, ...]
    compared: bool
    recipe: str
    taught: bool
    settings: Mapping[str, Any]
    split: Split | None


@dataclass(frozen=True, slots=True)
class Speeds:
    """What the probe found. Seconds: to encode a query or passage with the student, with the base,
    and with the teacher where it is a dual encoder; to train with a token, of either; to have a
    pair from a teacher; to tokenise a text; to index a passage by words, and to look a query up in
    one passage. The mean lengths in tokens, and bytes per passage of an index by words. `known`:
    the share of all passages whose vectors by the base, and by a given teacher, the store has.
    """

    small: Mapping[Role, float]
    large: Mapping[Role, float]
    train_small: float
    train_large: float
    pair: float
    tokens: Mapping[Role, float]
    tokenise: float = 0.0
    index: float = 0.0
    look_up: float = 0.0
    index_bytes: float = 0.0
    known: tuple[float, float] = (0.0, 0.0)
    taught: Mapping[Role, float] | None = None
    kept_small: float = 0.0
    kept_large: float = 0.0


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


def parts(task: Retrieval, work: Work, speeds: Speeds) -> list[Part]:
    """The parts of a run, in its order."""
    return _Parts(task, work, speeds).all()


@dataclass(frozen=True)
class _Parts:
    """Sizes and speeds of a run, as its parts need them."""

    task: Retrieval
    work: Work
    speeds: Speeds

    def all(self) -> list[Part]:
        """Everything that takes time, in order."""
        work, found = self.work, [*self._base()]
        passages = self.passages
        found += [
            self._training(f"teacher_{kind}", kind) for kind in work.fits if kind in work.settings
        ]
        if work.taught:
            found += self._teacher()
        if work.compared:
            found.append(self._training("contrastive", "contrastive"))
            found.append(self._evaluated("contrastive", times=2 if work.split == "test" else 1))
        found.append(self._training(work.recipe, "student"))
        if work.split:
            found += [self._evaluated("undistilled"), self._evaluated("student")]
        look_ups = self.speeds.look_up * passages
        built = self.speeds.index * passages
        indexed = 1 + bool(work.split) + bool(self.dev) + work.taught * 2
        searched = self.asked_queries + self.measured
        found.append(
            Part(
                "mine",
                f"{indexed} indexes by words, {searched:,} queries",
                indexed * built + searched * look_ups,
                megabytes=8 * self.depth * self.asked_queries / 1e6,
            )
        )
        return found

    @property
    def passages(self) -> int:
        return len(self.task.collection.passages)

    @property
    def training(self) -> int:
        return len(self.task.training_queries())

    @property
    def dev(self) -> int:
        return len(self.task.split_queries("dev"))

    @property
    def measured(self) -> int:
        return len(self.task.split_queries(self.work.split)) if self.work.split else 0

    @property
    def depth(self) -> int:
        settings = self.work.settings.values()
        return max((own.depth for own in settings if hasattr(own, "depth")), default=0)

    @property
    def asked_queries(self) -> int:
        """Training queries that candidates are mined for."""
        return self.training if self.work.taught else len(self.task.labelled_queries())

    def _encoded(self, speed: Mapping[Role, float], queries: int, known: float = 0.0) -> float:
        """Seconds to encode all passages but a known share, and some queries."""
        return speed["passage"] * self.passages * (1 - known) + speed["query"] * queries

    def _base(self) -> list[Part]:
        """Tokens, and what the base encoder is asked for."""
        texts = self.passages + len(self.task.collection.queries)
        longest = max(self.speeds.tokens.values())
        tokens = Part(
            "tokens",
            f"{texts:,} texts",
            self.speeds.tokenise * texts,
            megabytes=_NUMBER * longest * texts / 1e6,
        )
        mines = self.work.taught and (self.work.teacher is not None or "cross" in self.work.fits)
        queries = (
            self.measured
            + min(self.dev, DEV_QUERIES)
            + (self.training if mines else len(self.task.labelled_queries()))
        )
        base = Part(
            "encode-base",
            f"{self.passages:,} passages and {queries:,} queries",
            self._encoded(self.speeds.large, queries, self.speeds.known[0]),
            megabytes=2 * self._vector_megabytes(self.passages + queries),
        )
        return [tokens, base]

    def _vector_megabytes(self, texts: int) -> float:
        return _NUMBER * self.task.base.encoder.dimension * texts / 1e6

    def _teacher(self) -> list[Part]:
        """What a teacher is asked for, and its own measure."""
        work, found = self.work, []
        queries = self.training + self.measured + (self.dev if work.compared else 0)
        given = work.teacher
        vectors = (given is not None and given.in_batch) or "dual" in work.fits
        reads_pairs = (given is not None and given.reads_pairs) or "cross" in work.fits
        if vectors:
            texts = self.passages + queries
            pairs_of = dict.fromkeys(_ROLES, self.speeds.pair)  # of several: less than a pair
            speed = self.speeds.large if given is None else self.speeds.taught or pairs_of
            found.append(
                Part(
                    f"encode-{'dual' if given is None else given.name}",
                    f"the teacher's vectors of {self.passages:,} passages and {queries:,} queries",
                    self._encoded(speed, queries, self.speeds.known[1]),
                    asked=texts,
                    megabytes=2 * self._vector_megabytes(texts),
                )
            )
        examined = min(self.training, DIAGNOSED_QUERIES)
        pairs = examined * DIAGNOSED_DEPTH
        if reads_pairs:
            pairs += self.depth * self.training
            pairs += RERANKED * (self.measured + (self.dev if work.compared else 0))
        each = (
            self.speeds.pair if given is not None or reads_pairs else self.speeds.large["passage"]
        )
        found.append(
            Part(
                "score",
                f"the teacher's scores of {pairs:,} pairs",
                each * pairs,
                asked=pairs,
                megabytes=2 * 24 * pairs / 1e6,
            )
        )
        return found

    def _training(self, stage: str, name: str) -> Part:
        """A training with its measures on dev."""
        settings, task = self.work.settings[name], self.task
        small = name in _SMALL
        each = self.speeds.train_small if small else self.speeds.train_large
        encode = self.speeds.small if small else self.speeds.large
        read, per_pass = self._update(name)
        updates = settings.updates or default_updates(per_pass)
        seconds = each * read * updates / task.run.group.size
        queries = min(self.dev, DEV_QUERIES)
        pooled = min(queries * (DEV_POOL + 1), self.passages)
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
            return texts * passage, (self.training + self.passages) / texts
        judged = name != "student" or not self.work.taught
        examples = len(self.task.labelled_queries()) if judged else self.training
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
        most = 2 * _NUMBER * self.task.base.encoder.dimension * self.passages
        most = max(most, int(self.speeds.index_bytes * self.passages))
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
            f"{self.passages:,} passages and {self.measured:,} queries",
            times * self._encoded(self.speeds.small, self.measured),
            megabytes=self.work.student.size_bytes() / 1e6 + DEPTH * 40 * self.measured / 1e6,
        )


def peak_bytes(task: Retrieval, work: Work, speeds: Speeds, resident: int) -> int:
    """About how much memory a run takes at most; `resident` is what the process has by now."""
    return _Parts(task, work, speeds).peak_bytes(resident)


# --- the probe ----------------------------------------------------------------------------------


def probed(task: Retrieval, student: Encoder, teacher: Teacher | None, *, fits: bool) -> Speeds:
    """The speeds of this machine, on a sample of the collection's own texts.

    Raises:
        ConfigError: when there is no query to make an update of.
    """
    if not len(task.collection.queries):
        raise ConfigError(
            "What a run takes is told from updates of queries, and the collection has none. Use "
            "--set updates=..."
        )
    with TemporaryDirectory() as scratch:
        run = replace(task.run, folder=Path(scratch), progress=Silent(), group=Group())
        probe = Retrieval(_sampled(task.collection), run, task.base, None)
        texts = probe.collection
        base = task.base.encoder
        started = time.perf_counter()
        tokens = {role: probe.tokens_of(student, role).lengths for role in _ROLES}
        tokenise = (time.perf_counter() - started) / (len(texts.queries) + len(texts.passages))
        lengths = {role: _mean_length(student, role, tokens[role]) for role in _ROLES}
        started = time.perf_counter()
        index = BM25.build(texts.passages.texts)
        built = time.perf_counter() - started
        started = time.perf_counter()
        index.search(texts.queries.texts[:PROBED_TEXTS], DEPTH)
        looked_up = (time.perf_counter() - started) / min(PROBED_TEXTS, len(texts.queries))
        count = len(texts.passages)
        large = {role: _encoding(probe, base, role) for role in _ROLES}
        train = partial(_training, probe, tokens=lengths)
        pair, taught = large["query"] + large["passage"], None
        if isinstance(teacher, DualTeacher):
            taught = {role: _encoding(probe, teacher.encoder, role) for role in _ROLES}
        if teacher is not None:
            pair = _asking(probe, teacher)
        train_small, kept_small = train(student, name="small")
        train_large, kept_large = train(base, name="large") if fits else (0.0, 0.0)
        return Speeds(
            {role: _encoding(probe, student, role) for role in _ROLES},
            large,
            train_small,
            train_large,
            pair,
            lengths,
            tokenise,
            built / count,
            looked_up / count,
            (index.postings.data.nbytes + index.postings.indices.nbytes) / count,
            (_known(task, task.base), _known(task, teacher)),
            taught,
            kept_small,
            kept_large,
        )


def _known(task: Retrieval, teacher: Teacher | None) -> float:
    """The share of all passages whose vectors by a dual teacher the score store has."""
    if not isinstance(teacher, DualTeacher) or task.store is None:
        return 0.0
    texts, encoder = task.collection.passages.texts, teacher.encoder
    found = known_texts(encoder, teacher.digest, texts, "passage", task.store, task.run.engine)
    return found / len(set(texts))


def _sampled(collection: Collection) -> Collection:
    """Some of a collection's queries and passages, spread over it; without judgements."""

    def some(texts: Texts) -> Texts:
        at = _spread(len(texts), SAMPLED_TEXTS)
        return Texts([texts.ids[place] for place in at], [texts.texts[place] for place in at])

    return Collection(collection.name, some(collection.passages), some(collection.queries), {})


def _mean_length(encoder: Encoder, role: Role, stored: Sequence[int] | np.ndarray) -> float:
    collator = encoder.collator(role)
    return float(np.mean([collator.length(int(length)) for length in stored]))


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
) -> tuple[float, float]:
    """Seconds to train with a token, forward, backward and the step of an update shared out; and
    the bytes that a padded token keeps for the backward pass.
    """
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
    seconds, kept = [], 0.0
    for updates in (1, 3):
        stage = f"probe-{name}-{updates}"
        settings = ListSettings(updates=updates, measures=0)
        started = time.perf_counter()
        task.train_model(stage, encoder, source, turn, settings)
        seconds.append(time.perf_counter() - started)
        done = read_json(task.run.folder / "stages" / f"train-{stage}" / "done.json")
        kept = done["metrics"]["activation_bytes_per_token"]["student"]
    read = len(lists) * tokens["query"] + len(passages) * tokens["passage"]
    return max((seconds[1] - seconds[0]) / 2, seconds[1] / 6) / read, kept


def _asking(task: Retrieval, teacher: Teacher) -> float:
    """Seconds to have a pair from a teacher, of texts that it never saw; none from a file."""
    if teacher.answers is not None:
        return 0.0
    count = min(PROBED_PAIRS, len(task.collection.queries), len(task.collection.passages))
    queries = _spread(len(task.collection.queries), count)
    passages = _spread(len(task.collection.passages), count)
    pairs = np.stack([queries[:count], passages[:count]], axis=1)
    started = time.perf_counter()
    task.pair_scores(teacher, pairs)
    return (time.perf_counter() - started) / len(pairs)


def _spread(total: int, count: int) -> np.ndarray:
    """Up to `count` of `total` positions, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))
