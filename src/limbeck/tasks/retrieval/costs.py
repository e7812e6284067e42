"""How fast is this machine at what a run does?

A short probe on a sample of the collection's own texts makes two updates of the student and, where
one is fitted, of a teacher, encodes some texts, indexes some by words, and asks a given teacher for
some pairs. What a run does, and so how long it takes, is not known here.
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
from limbeck.models.encoder import Encoder, Ranker
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
class EncoderSpeeds:
    """Speeds of an encoder: seconds to encode a query or passage, and to train with a token; bytes
    that a token keeps for the backward pass; the mean lengths in its tokens; the FLOPs to read a
    passage of mean length, None where they are not known, and the bytes of its weights.
    """

    encode: Mapping[Role, float]
    tokens: Mapping[Role, float]
    train: float = 0.0  # 0 = not probed
    kept: float = 0.0
    flops: float | None = None
    size: int = 1

    def times(self, model: Encoder | Ranker) -> float:
        """Ratio of a model's work for a passage to this encoder's: by their FLOPs, or by the bytes
        of their weights.
        """
        own = model.forward_flops(np.array([round(self.tokens["passage"])]))
        return own / self.flops if own and self.flops else model.size_bytes() / self.size


@dataclass(frozen=True, slots=True)
class Speeds:
    """Speeds measured by the probe: of the student, the base and other `encoders`; seconds to have
    a `pair` from a given teacher that scores pairs, and the share of all passages whose vectors the
    store has (`known`), both by digest. Seconds to tokenise a text, to index a passage by words,
    and to look a query up in one passage; bytes per passage of an index by words.
    """

    encoders: Sequence[EncoderSpeeds]  # the student's are first
    pair: Mapping[str, float] = field(default_factory=dict)
    known: Mapping[str, float] = field(default_factory=dict)
    tokenise: float = 0.0
    index: float = 0.0
    look_up: float = 0.0
    index_bytes: float = 0.0

    def nearest(
        self, model: Encoder | Ranker, *, trained: bool = False
    ) -> tuple[EncoderSpeeds, float]:
        """The probed encoder that is nearest to a model in size, among those that were trained if
        that is asked for, and how many times its work the model does.
        """
        able = [each for each in self.encoders if each.train or not trained]
        ratios = [each.times(model) for each in able]
        best = int(np.argmin(np.abs(np.log(ratios))))
        return able[best], ratios[best]


def probed(
    task: Retrieval,
    student: Encoder,
    teacher: Teacher | None,
    bases: Sequence[DualTeacher] = (),
    *,
    fits: bool,
) -> Speeds:
    """The speeds of this machine, on a sample of the collection's own texts.

    Raises:
        ConfigError: when there is no query to make an update of.
    """
    if not len(task.collection.queries):
        raise ConfigError(
            "Run time is estimated from training steps on queries, but this collection has no "
            "queries. Use --set max_steps=..."
        )
    leaves = () if teacher is None else teacher.leaves()
    searching = [leaf for leaf in leaves if leaf.first_stage is not None]
    with TemporaryDirectory() as scratch:
        run = replace(task.run, folder=Path(scratch), progress=Silent(), group=Group())
        probe = Retrieval(_sampled(task.collection), run, task.base, None)
        texts = probe.collection
        started = time.perf_counter()
        for role in ROLES:
            probe.tokens_of(student, role)
        tokenise = (time.perf_counter() - started) / (len(texts.queries) + len(texts.passages))
        started = time.perf_counter()
        index = BM25.build(texts.passages.texts, language=texts.language)
        built = time.perf_counter() - started
        started = time.perf_counter()
        index.search(texts.queries.texts[:LOOKED_UP], DEPTH)
        looked_up = (time.perf_counter() - started) / min(LOOKED_UP, len(texts.queries))
        count = len(texts.passages)
        encoders = [
            _speeds_of(probe, student, "small"),
            _speeds_of(probe, task.base.encoder, "large", trains=fits),
            *(_speeds_of(probe, base.encoder, base.name) for base in bases),
            *(
                _speeds_of(probe, leaf.first_stage, leaf.name, trains=False)
                for leaf in searching
                if leaf.first_stage is not None and leaf.digest != task.base.digest
            ),
        ]
        return Speeds(
            encoders,
            pair={leaf.digest: _asking(probe, leaf) for leaf in leaves if leaf.first_stage is None},
            known={each.digest: _known(task, each) for each in (task.base, *bases, *searching)},
            tokenise=tokenise,
            index=built / count,
            look_up=looked_up / count,
            index_bytes=(index.postings.data.nbytes + index.postings.indices.nbytes) / count,
        )


def _speeds_of(
    probe: Retrieval, encoder: Encoder, name: str, *, trains: bool = True
) -> EncoderSpeeds:
    """An encoder's speeds, by its own tokens."""
    lengths = {
        role: _mean_length(encoder, role, probe.tokens_of(encoder, role).lengths) for role in ROLES
    }
    encode = {role: _encoding(probe, encoder, role) for role in ROLES}
    train, kept = _training(probe, encoder, tokens=lengths, name=name) if trains else (0.0, 0.0)
    flops = encoder.forward_flops(np.array([round(lengths["passage"])]))
    return EncoderSpeeds(encode, lengths, train, kept, flops, encoder.size_bytes())


def _known(task: Retrieval, teacher: Teacher) -> float:
    """The share of all passages whose vectors by a teacher the score store has."""
    if teacher.first_stage is None or task.store is None:
        return 0.0
    texts, encoder = task.collection.passages.texts, teacher.first_stage
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
        settings = ListSettings(max_steps=updates, eval_steps=0)
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
