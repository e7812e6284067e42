"""How fast is this machine at what a run does?

A short probe on a sample of the collection's own texts makes two updates of the student and, where
one is fitted, of a teacher, encodes some texts, indexes some by words, and asks a given teacher for
some pairs. What a run does, and so what it takes, is not known here.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from limbeck.data.collection import Collection, Texts
from limbeck.errors import ConfigError
from limbeck.inference import embed, plan_batches, text_lengths
from limbeck.models.encoder import Encoder
from limbeck.search import BM25
from limbeck.sources import ListSource, QueryList, QueryLists
from limbeck.tasks.fit import train_model
from limbeck.tasks.retrieval.scorers import dual
from limbeck.tasks.retrieval.systems import DEPTH
from limbeck.tasks.retrieval.task import ListSettings, Retrieval
from limbeck.teachers import DualTeacher, Teacher
from limbeck.teachers.jobs import known_texts
from limbeck.training import Turn, forward
from limbeck.training.distributed import Group
from limbeck.types import Loss, QueryId, Role, Signals, Silent

SAMPLED_TEXTS = 2048  # queries, and passages, that a probe sees of a collection
LOOKED_UP = 512  # queries, by words
PROBED_BATCHES = 8  # encoded
PROBED_PAIRS = 64  # a teacher is asked for, no query and no passage twice
PROBED_LIST = 4  # passages of a query in an update; the last two of three are timed
PROBED_TOKENS, PROBED_QUERIES = 4096, (2, 64)  # about so many in an update, of so many queries

ROLES: tuple[Role, ...] = ("query", "passage")


@dataclass(frozen=True, slots=True)
class BaseSpeeds:
    """What the probe found of an encoder that a teacher is fitted from: seconds to encode a query
    or passage, and to train with a token; bytes that a token keeps for the backward pass; the mean
    lengths in its tokens; the share of all passages whose vectors the store has.
    """

    encode: Mapping[Role, float]
    train: float
    kept: float
    tokens: Mapping[Role, float]
    known: float


@dataclass(frozen=True, slots=True)
class Speeds:
    """What the probe found. Seconds: to encode a query or passage with the student, with the base,
    and with the teacher where it is a dual encoder; to train with a token, of either; to have a
    pair from a teacher; to tokenise a text; to index a passage by words, and to look a query up in
    one passage. The mean lengths in tokens, and bytes per passage of an index by words. `known`:
    the share of all passages whose vectors by the base, and by a given teacher, the store has.
    `bases`: the same of other encoders that teachers are fitted from, by name.
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
    bases: Mapping[str, BaseSpeeds] = field(default_factory=dict)

    def of_base(self, name: str | None) -> BaseSpeeds:
        """Those of an encoder that a teacher is fitted from; None is the student's base."""
        if name is not None:
            return self.bases[name]
        return BaseSpeeds(self.large, self.train_large, self.kept_large, self.tokens, self.known[0])


def probed(
    task: Retrieval,
    student: Encoder,
    teacher: Teacher | None,
    bases: Mapping[str, DualTeacher] | None = None,
    *,
    fits: bool,
) -> Speeds:
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
        tokens = {role: probe.tokens_of(student, role).lengths for role in ROLES}
        tokenise = (time.perf_counter() - started) / (len(texts.queries) + len(texts.passages))
        lengths = {role: _mean_length(student, role, tokens[role]) for role in ROLES}
        started = time.perf_counter()
        index = BM25.build(texts.passages.texts, language=texts.language)
        built = time.perf_counter() - started
        started = time.perf_counter()
        index.search(texts.queries.texts[:LOOKED_UP], DEPTH)
        looked_up = (time.perf_counter() - started) / min(LOOKED_UP, len(texts.queries))
        count = len(texts.passages)
        large = {role: _encoding(probe, base, role) for role in ROLES}
        train = partial(_training, probe, tokens=lengths)
        pair, taught = large["query"] + large["passage"], None
        if isinstance(teacher, DualTeacher):
            taught = {role: _encoding(probe, teacher.encoder, role) for role in ROLES}
        if teacher is not None:
            pair = _asking(probe, teacher)
        train_small, kept_small = train(student, name="small")
        train_large, kept_large = train(base, name="large") if fits else (0.0, 0.0)
        return Speeds(
            {role: _encoding(probe, student, role) for role in ROLES},
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
            {name: _of_base(task, probe, each, name) for name, each in (bases or {}).items()},
        )


def _of_base(task: Retrieval, probe: Retrieval, base: DualTeacher, name: str) -> BaseSpeeds:
    """The speeds of an encoder that a teacher is fitted from, by its own tokens."""
    encoder = base.encoder
    lengths = {
        role: _mean_length(encoder, role, probe.tokens_of(encoder, role).lengths) for role in ROLES
    }
    encode = {role: _encoding(probe, encoder, role) for role in ROLES}
    train, kept = _training(probe, encoder, tokens=lengths, name=f"base-{name}")
    return BaseSpeeds(encode, train, kept, lengths, _known(task, base))


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

    passages, queries = some(collection.passages), some(collection.queries)
    return replace(collection, passages=passages, queries=queries, qrels={})


def _mean_length(encoder: Encoder, role: Role, stored: Sequence[int] | np.ndarray) -> float:
    collator = encoder.collator(role)
    return float(np.mean([collator.length(int(length)) for length in stored]))


def _encoding(task: Retrieval, encoder: Encoder, role: Role) -> float:
    """Seconds to encode a text: of some whole batches, spread over all lengths there are, since
    texts of a batch are padded to its longest.
    """
    encoder = copy.deepcopy(encoder)
    stored = task.tokens_of(encoder, role)
    lengths = text_lengths(encoder, stored, role, np.arange(len(stored)))
    plan = plan_batches(lengths, task.run.engine.max_batch_tokens)
    padded = np.array([len(batch) * lengths[batch].max() for batch in plan])
    chosen = _spread(len(plan), PROBED_BATCHES)
    encode = partial(embed, encoder, stored, role, engine=task.run.engine)
    encode(positions=plan[len(plan) // 2][:32])  # a first call converts or warms up
    started = time.perf_counter()
    encode(positions=np.concatenate([plan[at] for at in chosen]))
    seconds = time.perf_counter() - started
    return float(seconds * padded.sum() / padded[chosen].sum() / len(stored))


def _training(
    task: Retrieval, encoder: Encoder, *, tokens: Mapping[Role, float], name: str
) -> tuple[float, float]:
    """Seconds to train with a token, forward, backward and the step of an update shared out; and
    the bytes that a padded token keeps for the backward pass.
    """
    encoder = copy.deepcopy(encoder)
    least, most = PROBED_QUERIES
    count = int(PROBED_TOKENS / (tokens["query"] + PROBED_LIST * tokens["passage"]))
    count = min(max(count, least), most)
    passages = _spread(len(task.collection.passages), count * PROBED_LIST)
    lists = [
        QueryList(int(query), QueryId(str(place)), own[:1], own[1:])
        for place, (query, own) in enumerate(
            zip(
                _spread(len(task.collection.queries), count),
                np.array_split(passages, count),
                strict=False,
            )
        )
        if len(own)
    ]
    source = ListSource(QueryLists(lists), len(lists), PROBED_LIST, 0)

    def loss(signals: Signals) -> Loss:
        return Loss({"probe": signals.scores["student/in_batch"].values.square().mean()})

    turn = Turn(forward(dual(task, "student", encoder)), loss, trains=frozenset({"student"}))
    seconds, kept = [], 0.0
    for updates in (1, 3):
        stage = f"probe-{name}-{updates}"
        settings = ListSettings(updates=updates, measures=0)
        started = time.perf_counter()
        trained = train_model(task, stage, encoder, source, turn, settings)
        seconds.append(time.perf_counter() - started)
        kept = trained.bytes_per_token["student"]
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
