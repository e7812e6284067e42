"""What would a run do, without doing it?

A run decides on the way what it mines, trains and asks. It is rehearsed: its own code works on a
task that makes up every answer at once and notes what the work would take here, by the speeds that
a probe found. What depends on the answers is taken to go the longest way: each teacher is better
than the one before and than any student, and every query is one that the student still has to
learn.

This module knows no recipe and no order of steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import polars as pl
import torch

from limbeck.candidates import Candidates
from limbeck.data.collection import Texts
from limbeck.data.derived import DerivedTexts
from limbeck.data.tokens import tokenizer_digest
from limbeck.evaluation.measures import Run as Results
from limbeck.evaluation.table import Cost
from limbeck.models.encoder import Encoder, Ranker
from limbeck.selection import Mask
from limbeck.sources import ListBatch, PairBatch, TextBatch
from limbeck.store import digest
from limbeck.tasks.estimate import RunEstimate
from limbeck.tasks.fit import Examples, TrainingSettings, turns_of
from limbeck.tasks.retrieval.costs import Speeds
from limbeck.tasks.retrieval.measures import DEV_POOL, LAYER_QUERIES
from limbeck.tasks.retrieval.systems import (
    DEPTH,
    RERANKED,
    TIMED_PASSAGES,
    TIMED_QUERIES,
    TIMED_RERANKINGS,
    candidates,
)
from limbeck.tasks.retrieval.task import Retrieval
from limbeck.tasks.task import Measured
from limbeck.teachers import Teacher
from limbeck.teachers.teacher import pair_codes
from limbeck.training import Player, Scorer, Trained, Turn
from limbeck.types import QueryId, Role, Split

PADDING = 1.4  # tokens with padding, of an update, to those without
_FORWARD = 1 / 3  # of the time to train with a token: to read it alone
_SAMPLED_UPDATES = 4  # of a stage, from which the size of the others is told
_RUN_ROW = 10  # numbers of four bytes of a row of a TREC run


@dataclass(slots=True)
class Seen:
    """State of a rehearsal, so that nothing is counted twice: searches by words, texts that a
    teacher read, pairs that it scored, fields that were tokenised; and how many systems were judged
    and models trained.
    """

    searches: set[str] = field(default_factory=set)
    read: dict[tuple[str, Role], np.ndarray] = field(default_factory=dict)  # [N], by digest
    scored: dict[str, np.ndarray] = field(default_factory=dict)  # codes of pairs, by digest
    tokenised: set[tuple[str, Role, str]] = field(default_factory=set)
    judged: int = 0
    trainings: int = 0
    fitted: dict[int, int] = field(default_factory=dict)  # bytes of models, by object


@dataclass
class Rehearsal(Retrieval):
    """A task on which nothing is trained, read, searched or asked, only noted in `estimate`."""

    speeds: Speeds = field(kw_only=True)
    student: Encoder = field(kw_only=True)
    estimate: RunEstimate = field(default_factory=RunEstimate, kw_only=True)
    seen: Seen = field(default_factory=Seen, kw_only=True)

    # --- what is read, mined and asked ---------------------------------------------------------

    def vectors(
        self, teacher: Teacher, role: Role, queries: np.ndarray | None = None
    ) -> np.ndarray:
        """Vectors that are all zero."""
        at = np.arange(len(self.collection.passages)) if queries is None else queries
        for leaf in teacher.leaves():
            self._read(f"encode-{teacher.name}", leaf, role, at)
        if queries is None:
            self.estimate.takes_at_once(8 * teacher.width * len(at))  # as found, and together
        return np.broadcast_to(np.float32(0), (len(at), teacher.width))

    def query_vectors(self, teacher: Teacher) -> np.ndarray:
        """Vectors that are all zero."""
        self.vectors(teacher, "query", self.training_queries())
        return np.broadcast_to(np.float32(0), (len(self.collection.queries), teacher.width))

    def lexical(
        self, queries: np.ndarray, *, depth: int, teacher: Teacher | None = None
    ) -> Candidates:
        """Made-up pools."""
        if teacher is not None:
            self._read_words(teacher, queries)
            return self._made_up(teacher.name, teacher.digest, queries, depth)
        asked = digest([queries.tolist(), depth])
        if asked not in self.seen.searches:
            self.seen.searches.add(asked)
            self._search_by_words("mine", len(queries))
        return self._made_up("bm25", "", queries, depth)

    def lexical_scores(self, pairs: np.ndarray, teacher: Teacher | None = None) -> np.ndarray:
        """Scores by chance."""
        if teacher is not None:
            return self.pair_scores(teacher, pairs)
        self._search_by_words("score-bm25", len(np.unique(pairs[:, 0])))
        counts = self.estimate.stages["score-bm25"]
        counts.asked += len(pairs)
        counts.kept += 3 * len(pairs)
        return np.random.default_rng(self.run.seed).random(len(pairs), dtype=np.float32)

    def mined(self, queries: np.ndarray, *, depth: int, miner: Teacher) -> Candidates:
        """Made-up pools."""
        self.vectors(miner, "passage")
        self.vectors(miner, "query", queries)
        return self._made_up(miner.name, miner.digest, queries, depth)

    def pair_scores(self, teacher: Teacher, pairs: np.ndarray) -> np.ndarray:
        """Scores by chance."""
        for leaf in teacher.leaves():
            self._ask(f"score-{teacher.name}", leaf, pairs)
        return np.random.default_rng(self.run.seed).random(len(pairs), dtype=np.float32)

    def positive_ranks(self, pools: Candidates, teacher: Teacher | None = None) -> np.ndarray:
        """A teacher has every positive first; the student has it at any rank from 2 to 15."""
        if teacher is None:
            return 2.0 + np.arange(len(pools)) % 14
        super().positive_ranks(pools, teacher)
        return np.ones(len(pools))

    def consistent(self, pairs: np.ndarray, encoder: Encoder, *, k: int, pool_size: int) -> Mask:
        """All pairs, once they were compared with the pool."""
        self._tokenise_pairs(encoder)
        counts, pool = self.estimate.stages["filter-pairs"], min(pool_size, len(pairs))
        counts.queries += len(pairs)
        counts.passages += len(pairs) + pool
        counts.seconds += len(pairs) * self._seconds_to_encode(encoder, "query")
        counts.seconds += (len(pairs) + pool) * self._seconds_to_encode(encoder, "passage")
        counts.kept += len(pairs)
        return np.ones(len(pairs), dtype=np.bool_)

    def _made_up(self, source: str, made_by: str, queries: np.ndarray, depth: int) -> Candidates:
        """Made-up candidates: as many passages for each query as a search would give it, neighbours
        from anywhere.
        """
        total = len(self.collection.passages)
        seed = int(digest([source, made_by, depth])[:8], 16)
        starts = np.random.default_rng(seed).integers(total, size=(len(queries), 1))
        found = (starts + np.arange(min(depth, total))) % total
        self.estimate.stages["mine"].kept += 2 * found.size
        scores = np.broadcast_to(np.float32(0), found.shape)
        return Candidates.of(source, queries, found.astype(np.int32), scores)

    def _search_by_words(self, stage: str, queries: int) -> None:
        """Note an index by words, and queries that are looked up in it."""
        passages, speeds = len(self.collection.passages), self.speeds
        counts = self.estimate.stages[stage]
        counts.searched += queries
        counts.seconds += passages * (speeds.index + queries * speeds.look_up)
        self.estimate.takes_at_once(speeds.index_bytes * passages)

    def keep_derived(self, name: str, made: DerivedTexts) -> None:
        """Note the texts, which are written in no time."""
        self.estimate.stages["tokens"].kept += sum(map(len, made.frame["text"])) / 4

    def with_derived(self, texts: Sequence[str]) -> Self:
        """The task with these passages, which the student will read."""
        task = super().with_derived(texts)
        task._tokenise(self.student, "passage", self.student.prompt("passage"))
        return task

    def _tokenise(self, model: Encoder | Ranker, role: Role, prompt: str) -> None:
        """Note that a field is turned into tokens, once per tokenizer and prompt, and so are the
        passages made for training.
        """
        queries, passages = self.collection.queries, self.collection.passages
        self._tokenise_texts(model, role, prompt, queries if role == "query" else passages)
        if role == "passage" and len(self.derived):
            self._tokenise_texts(model, role, prompt, self.derived)

    def _tokenise_texts(
        self, model: Encoder | Ranker, role: Role, prompt: str, given: Texts
    ) -> None:
        made = str(self.derived_inputs) if given is self.derived else ""
        key = (tokenizer_digest(model.tokenizer), role, prompt + made)
        if key in self.seen.tokenised:
            return
        self.seen.tokenised.add(key)
        counts, speeds, texts = self.estimate.stages["tokens"], self.speeds, len(given)
        if role == "query":
            counts.queries += texts
        else:
            counts.passages += texts
        counts.seconds += texts * speeds.tokenise
        counts.kept += texts * speeds.nearest(model)[0].tokens[role]

    def _tokenise_pairs(self, encoder: Encoder) -> None:
        """Note that the texts of all weak pairs are turned into tokens, once per tokenizer."""
        key: tuple[str, Role, str] = (tokenizer_digest(encoder.tokenizer), "query", "of pairs")
        if key not in self.seen.tokenised:
            self.seen.tokenised.add(key)
            counts, pairs = self.estimate.stages["tokens"], len(self.weak_pairs())
            counts.queries += pairs
            counts.passages += pairs
            counts.seconds += 2 * pairs * self.speeds.tokenise
            counts.kept += pairs * sum(self.speeds.nearest(encoder)[0].tokens.values())

    def _read(self, stage: str, teacher: Teacher, role: Role, at: np.ndarray) -> None:
        """Note the texts that the encoder of a teacher has to read and did not read before."""
        encoder = teacher.first_stage
        assert encoder is not None
        self._tokenise(encoder, role, encoder.prompt(role))
        texts = self.collection.passages if role == "passage" else self.collection.queries
        key = (teacher.digest, role)
        before = self.seen.read.get(key, np.zeros(len(texts), dtype=np.bool_))
        more = max(0, int(at.max(initial=-1)) + 1 - len(before))  # made on the way
        before = self.seen.read[key] = np.append(before, np.zeros(more, dtype=np.bool_))
        count = int((~before[at]).sum())
        before[at] = True
        counts, known = self.estimate.stages[stage], 0.0
        if role == "passage":
            counts.passages += count
            known = self.speeds.known.get(teacher.digest, 0.0)
        else:
            counts.queries += count
        counts.seconds += count * (1 - known) * self._seconds_to_encode(encoder, role)
        if teacher.digest != self.base.digest and not self._is_student(encoder):
            counts.asked += count
        counts.kept += 2 * count * teacher.width

    def _read_words(self, teacher: Teacher, queries: np.ndarray) -> None:
        """Note that a sparse encoder reads queries and all passages, each text taken for a pair."""
        texts = len(queries) + len(self.collection.passages)
        counts = self.estimate.stages[f"mine-{teacher.name}"]
        counts.queries += len(queries)
        counts.passages += len(self.collection.passages)
        counts.seconds += texts * self._seconds_to_score(teacher)

    def _ask(self, stage: str, teacher: Teacher, pairs: np.ndarray) -> None:
        """Note the pairs that a teacher was not asked about before."""
        if teacher.answers is not None:
            return
        if teacher.first_stage is not None:
            self._read(stage, teacher, "query", np.unique(pairs[:, 0]))
            self._read(stage, teacher, "passage", np.unique(pairs[:, 1]))
            return
        for model in teacher.backend_models().values():
            self._tokenise(model, "query", "")
            self._tokenise(model, "passage", "")
        codes = np.unique(pair_codes(pairs))
        known = self.seen.scored.get(teacher.digest, codes[:0])
        both = self.seen.scored[teacher.digest] = np.union1d(known, codes)
        counts, count = self.estimate.stages[stage], len(both) - len(known)
        counts.pairs += count
        counts.asked += count
        counts.seconds += count * self._seconds_to_score(teacher)
        counts.kept += 12 * count

    # --- what is measured ----------------------------------------------------------------------

    def ranked(self, pools: Candidates, scores: np.ndarray) -> Results:
        """Queries without an order."""
        return {QueryId(self.collection.queries.ids[query]): {} for query in pools.queries}

    def quality(self, results: Results, split: Split) -> pl.DataFrame:
        """Made-up quality, the better the earlier it is asked for: a new teacher is judged before
        the former one.
        """
        self.seen.judged += 1
        return _figures(self.measures.names, results, 1 / self.seen.judged)

    def measure_bm25(self, split: Split) -> Measured:
        """Searches by words."""
        self._search_by_words("evaluate-bm25", len(self.split_queries(split)))
        return self._measured("bm25", split, 0.0)

    def measure_encoder(self, name: str, encoder: Encoder, split: Split) -> Measured:
        """Reads all passages; it is no better than any teacher."""
        queries, passages = len(self.split_queries(split)), len(self.collection.passages)
        for role in ("query", "passage"):
            self._tokenise(encoder, role, encoder.prompt(role))
        counts = self.estimate.stages[f"evaluate-{name.replace('/', '-')}"]
        counts.kept += 0 if counts.passages else encoder.size_bytes() / 4
        counts.queries += queries
        counts.passages += passages
        counts.seconds += queries * self._seconds_to_encode(encoder, "query")
        counts.seconds += passages * self._seconds_to_encode(encoder, "passage")
        self._time_searches(name, encoder)
        return self._measured(name, split, 0.0)

    def measure_teacher(self, name: str, teacher: Teacher, split: Split) -> Measured:
        """Note the answers that the teacher has not given yet; each teacher is better than the one
        before.
        """
        queries = self.split_queries(split)
        if teacher.first_stage is not None:
            self.vectors(teacher, "query", queries)
            self.vectors(teacher, "passage")
            self._time_searches(name, teacher.first_stage)
        else:
            self.pair_scores(teacher, self.pool_pairs(candidates(self, split, teacher)))
            if teacher.answers is None:
                pairs = (1 + min(TIMED_RERANKINGS, len(queries))) * RERANKED  # and one to warm up
                seconds = sum(map(self._seconds_to_score, teacher.leaves()))
                counts = self.estimate.stages[f"evaluate-{name.replace('/', '-')}"]
                counts.seconds += pairs * seconds
                counts.pairs += pairs
        self.seen.judged += 1
        return self._measured(name, split, 1 - 1 / (1 + self.seen.judged))

    def _time_searches(self, name: str, encoder: Encoder) -> None:
        """Note the queries and passages that are read again to measure the cost of searching."""
        counts = self.estimate.stages[f"evaluate-{name.replace('/', '-')}"]
        passages = min(TIMED_PASSAGES, len(self.collection.passages))
        counts.seconds += TIMED_QUERIES * self._seconds_to_encode(encoder, "query")
        counts.seconds += passages * self._seconds_to_encode(encoder, "passage")

    def _measured(self, name: str, split: Split, value: float) -> Measured:
        """A system that is this good."""
        queries = self.split_queries(split)
        stage = f"evaluate-{name.replace('/', '-')}"
        self.estimate.stages[stage].kept += _RUN_ROW * DEPTH * len(queries)
        ids = [self.collection.queries.ids[query] for query in queries]
        return Measured(name, split, stage, _figures(self.measures.names, ids, value), Cost())

    def layer_figures(
        self, name: str, player: Player, scorer: Scorer, temperature: float
    ) -> dict[int, tuple[float, float]]:
        """Note that some dev queries and their candidates are read once more."""
        queries = self.split_queries("dev")[:LAYER_QUERIES]
        if len(queries):
            self.pools(queries, depth=DEV_POOL, miner=self.base)
            seconds = self._seconds_on_dev(_model_of(player), len(queries))
            self.estimate.stages[f"layers-{name}"].seconds += seconds
        return {}

    # --- what is trained -----------------------------------------------------------------------

    def train_stage(
        self,
        name: str,
        players: Sequence[Player],
        source: Examples,
        turn: Turn | Sequence[Turn],
        updates: int,
        settings: TrainingSettings,
        *,
        parts: Player | None = None,
    ) -> Trained:
        """Note the updates and the measures on dev, of which there is no value.

        The weights move, since all that comes after is told apart by them.
        """
        sampled = [source.batch(update) for update in range(min(updates, _SAMPLED_UPDATES))]
        stage = f"train-{name}{self.suffix}"
        counts, group = self.estimate.stages[stage], self.run.group.size
        counts.updates += updates
        taken = 0
        for player in players:
            model = _model_of(player)
            taken += (size := model.size_bytes())
            probed, times = self.speeds.nearest(model, trained=True)
            tokens = float(np.mean([_tokens_in(model, batch, probed.tokens) for batch in sampled]))
            seconds = updates * probed.train * times * tokens / group
            if not any(player.name in each.trains for each in turns_of(turn)):
                counts.seconds += _FORWARD * seconds
                continue
            counts.seconds += seconds
            counts.kept += size  # weights twice, and two moments: four times as many bytes
            kept = probed.kept * times * PADDING * tokens / group
            taken += 3 * size + int(min(kept, self.run.activation_bytes))
            player.steps += updates
            if not self._is_student(model):
                self.seen.fitted[id(model)] = size
            self._move(model)
            if isinstance(model, Encoder) and isinstance(sampled[0], PairBatch):
                self._tokenise_pairs(model)
        self.estimate.takes_at_once(taken + sum(self.seen.fitted.values()))
        every = settings.eval_every(updates)
        pools = self.dev_pools() if every else None
        if pools is not None:
            seconds = self._seconds_on_dev(_model_of(players[0]), len(pools))
            counts.seconds += math.ceil(updates / every) * seconds
        return Trained(stage)

    def _move(self, model: Encoder | Ranker) -> None:
        """Change a few weights as no training before did."""
        self.seen.trainings += 1
        generator = torch.Generator().manual_seed(self.seen.trainings)
        with torch.no_grad():
            few = min(model.parameters(), key=torch.numel)
            few.add_(torch.randn(few.shape, generator=generator).to(few.device))

    # --- how long that takes -------------------------------------------------------------------

    def _is_student(self, model: Encoder | Ranker) -> bool:
        return isinstance(model, Encoder) and self.speeds.encoders[0].times(model) == 1

    def _seconds_to_encode(self, encoder: Encoder, role: Role) -> float:
        probed, times = self.speeds.nearest(encoder)
        return probed.encode[role] * times

    def _seconds_to_score(self, teacher: Teacher) -> float:
        """A pair, by a teacher that was probed, or by models of any size."""
        if teacher.digest in self.speeds.pair:
            return self.speeds.pair[teacher.digest]
        return sum(map(self._seconds_to_rank, teacher.backend_models().values()))

    def _seconds_to_rank(self, model: Encoder | Ranker) -> float:
        """A pair, by a model that reads both."""
        probed, times = self.speeds.nearest(model)
        return sum(probed.encode.values()) * times

    def _seconds_on_dev(self, model: Encoder | Ranker, queries: int) -> float:
        """Seconds to measure a model in training on dev once."""
        if isinstance(model, Ranker):
            return queries * DEV_POOL * self._seconds_to_rank(model)
        pooled = min(queries * (DEV_POOL + 1), len(self.collection.passages))
        read = self._seconds_to_encode
        return pooled * read(model, "passage") + queries * read(model, "query")


def _figures(measures: Iterable[str], queries: Iterable[str], value: float) -> pl.DataFrame:
    """The same value of every measure for each query."""
    ids = list(queries)
    return pl.DataFrame({"query_id": ids, **dict.fromkeys(measures, [value] * len(ids))})


def _tokens_in(
    model: Encoder | Ranker, batch: ListBatch | PairBatch | TextBatch, tokens: Mapping[Role, float]
) -> float:
    """The tokens that a model reads in an update."""
    query, passage = tokens["query"], tokens["passage"]
    if isinstance(model, Ranker) and isinstance(batch, ListBatch):
        return (query + passage) * int((batch.lists >= 0).sum())
    if isinstance(batch, PairBatch):
        return (query + passage) * len(batch.pairs)
    return query * len(batch.queries) + passage * len(batch.passages)


def _model_of(player: Player) -> Encoder | Ranker:
    assert isinstance(player.model, Encoder | Ranker)
    return player.model
