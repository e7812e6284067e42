"""What would a recipe do, without doing it?

A recipe of many stages decides on the way what it mines, trains and asks. It is rehearsed: it runs
on a task that makes up every answer at once and notes what the work would take. What depends on the
answers is taken to go the longest way: each teacher is better than the one before, and every query
is one that the student still has to learn.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch

from limbeck.candidates import Candidates
from limbeck.evaluation.measures import MEASURES
from limbeck.evaluation.measures import Run as Results
from limbeck.models.encoder import Encoder, Ranker
from limbeck.sources import ListBatch, TextBatch
from limbeck.store import digest
from limbeck.tasks.fit import Examples, TrainingSettings
from limbeck.tasks.retrieval.costs import Speeds
from limbeck.tasks.retrieval.measures import DEV_POOL
from limbeck.tasks.retrieval.systems import candidates
from limbeck.tasks.retrieval.task import Retrieval
from limbeck.teachers import CrossTeacher, DualTeacher, EnsembleTeacher, Teacher
from limbeck.teachers.teacher import pair_codes
from limbeck.training import Player, Trained, Turn
from limbeck.types import QueryId, Role, Split

PADDING = 1.4  # tokens with padding, of an update, to those without
_FORWARD = 1 / 3  # of the time to train with a token: to read it alone
_SAMPLED_UPDATES = 4  # of a stage, from which the others' size is told


@dataclass(slots=True)
class Tally:
    """What stages of one name would take: seconds; updates, texts read and pairs scored among what
    they do; texts and pairs that a teacher is `asked` for; numbers of four bytes that they leave.
    """

    seconds: float = 0.0
    updates: int = 0
    queries: int = 0
    passages: int = 0
    pairs: int = 0
    asked: int = 0
    kept: int = 0

    @property
    def what(self) -> str:
        """What the stages do, in words."""
        if self.updates:
            return f"{self.updates:,} updates"
        if self.pairs:
            return f"scores of {self.pairs:,} pairs"
        return f"{self.passages:,} passages and {self.queries:,} queries"


@dataclass(slots=True)
class Noted:
    """What a rehearsal came across: stages by the beginning of their names, in order; queries
    looked up in an index by words, which is made for each time; candidates that are kept; the bytes
    that the largest update takes.
    """

    stages: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    looked_up: set[str] = field(default_factory=set)  # digests of queries and depth
    searched: int = 0
    mined: int = 0
    peak_bytes: int = 0
    read: dict[tuple[str, Role], np.ndarray] = field(default_factory=dict)  # [N], by a teacher
    scored: dict[str, np.ndarray] = field(default_factory=dict)  # codes of pairs, by a teacher
    verdicts: int = 0
    trainings: int = 0


def rehearse(
    task: Retrieval,
    speeds: Speeds,
    student: Encoder,
    teacher: Teacher | None,
    carry_out: Callable[[Retrieval, Encoder], Teacher],
    split: Split | None,
    bases: Sequence[DualTeacher] = (),
) -> Noted:
    """What a recipe would do; and then the measures of its last teacher, which `carry_out` gives,
    and of the base encoder and other bases, on a split.
    """
    given = (task.collection, task.run, task.base, task.store, task.given)
    stage = Rehearsal(*given, speeds=speeds, student=student, taught=teacher, probed=task.base)
    queries = task.split_queries(split) if split else None
    if queries is not None:
        for base in (task.base, *bases):
            stage.vectors(base, "passage")
            stage.vectors(base, "query", queries)
    last = carry_out(stage, copy.deepcopy(student))
    if split and isinstance(last, DualTeacher):
        stage.vectors(last, "passage")
        stage.vectors(last, "query", queries)
    elif split:
        stage.reranked(last, candidates(stage, split, last))
    return stage.noted


@dataclass
class Rehearsal(Retrieval):
    """A task on which nothing is trained, read or asked.

    `student`, `taught` and the base encoder `probed` are those whose speeds were probed; other
    models are told from the base encoder's by their size.
    """

    speeds: Speeds = field(kw_only=True)
    student: Encoder = field(kw_only=True)
    taught: Teacher | None = field(kw_only=True)
    probed: DualTeacher = field(kw_only=True)
    noted: Noted = field(default_factory=Noted, kw_only=True)

    # --- candidates, and what teachers think of them -------------------------------------------

    def vectors(
        self, teacher: Teacher, role: Role, queries: np.ndarray | None = None
    ) -> np.ndarray:
        """Vectors that are all zero."""
        at = np.arange(len(self.collection.passages)) if queries is None else queries
        width = self._read(f"encode-{teacher.name}", teacher, role, at)
        return np.broadcast_to(np.float32(0), (len(at), width))

    def lexical(self, queries: np.ndarray, *, depth: int) -> Candidates:
        """Made-up pools."""
        asked = digest([queries.tolist(), depth])
        if asked not in self.noted.looked_up:
            self.noted.looked_up.add(asked)
            self.noted.searched += len(queries)
        return self._made_up("bm25", "", queries, depth)

    def mined(self, queries: np.ndarray, *, depth: int, miner: Teacher) -> Candidates:
        """Made-up pools."""
        self.vectors(miner, "passage")
        self.vectors(miner, "query", queries)
        return self._made_up(miner.name, miner.digest, queries, depth)

    def pair_scores(self, teacher: Teacher, pairs: np.ndarray) -> np.ndarray:
        """Scores by chance."""
        self._ask(f"score-{teacher.name}", teacher, pairs)
        return np.random.default_rng(self.run.seed).random(len(pairs), dtype=np.float32)

    def positive_ranks(self, pools: Candidates, teacher: Teacher | None = None) -> np.ndarray:
        """A teacher has every positive first; the student has it at any rank from 2 to 15."""
        if teacher is None:
            return 2.0 + np.arange(len(pools)) % 14
        super().positive_ranks(pools, teacher)
        return np.ones(len(pools))

    def ranked(self, pools: Candidates, scores: np.ndarray) -> Results:
        """Queries without an order."""
        return {QueryId(self.collection.queries.ids[query]): {} for query in pools.queries}

    def quality(self, results: Results, split: Split) -> pl.DataFrame:
        """What is asked about first is better: a new teacher is measured before the former one."""
        self.noted.verdicts += 1
        values = [1 / self.noted.verdicts] * len(results)
        return pl.DataFrame({"query_id": list(results), **dict.fromkeys(MEASURES, values)})

    def _made_up(self, source: str, made_by: str, queries: np.ndarray, depth: int) -> Candidates:
        """For each query as many passages as a search would give it, neighbours from anywhere."""
        total = len(self.collection.passages)
        seed = int(digest([source, made_by, depth])[:8], 16)
        starts = np.random.default_rng(seed).integers(total, size=(len(queries), 1))
        found = (starts + np.arange(min(depth, total))) % total
        self.noted.mined += found.size
        scores = np.broadcast_to(np.float32(0), found.shape)
        return Candidates.of(source, queries, found.astype(np.int32), scores)

    def _read(self, stage: str, teacher: Teacher, role: Role, at: np.ndarray) -> int:
        """Note what a teacher has to read that it did not read before; the width of its vectors."""
        if isinstance(teacher, EnsembleTeacher):
            return sum(self._read(stage, member, role, at) for member in teacher.members)
        assert isinstance(teacher, DualTeacher)
        texts = self.collection.passages if role == "passage" else self.collection.queries
        before = self.noted.read.setdefault(
            (teacher.digest, role), np.zeros(len(texts), dtype=np.bool_)
        )
        count = int((~before[at]).sum())
        before[at] = True
        tally, known = self.noted.stages[stage], 0.0
        if role == "passage":
            tally.passages += count
            shares = zip((self.probed, self.taught), self.speeds.known, strict=True)
            known = max(
                share if own is not None and own.digest == teacher.digest else 0.0
                for own, share in shares
            )
        else:
            tally.queries += count
        tally.seconds += count * (1 - known) * self._seconds_to_read(teacher, role)
        if teacher.digest != self.base.digest and not self._is_student(teacher.encoder):
            tally.asked += count
        tally.kept += 2 * count * teacher.encoder.dimension
        return teacher.encoder.dimension

    def _ask(self, stage: str, teacher: Teacher, pairs: np.ndarray) -> None:
        """Note the pairs that a teacher was not asked about before."""
        if isinstance(teacher, EnsembleTeacher) and not self._is_taught(teacher):
            for member in teacher.members:
                self._ask(stage, member, pairs)
            return
        if isinstance(teacher, DualTeacher):
            self._read(stage, teacher, "query", np.unique(pairs[:, 0]))
            self._read(stage, teacher, "passage", np.unique(pairs[:, 1]))
            return
        codes = np.unique(pair_codes(pairs))
        known = self.noted.scored.get(teacher.digest, codes[:0])
        both = self.noted.scored[teacher.digest] = np.union1d(known, codes)
        tally, count = self.noted.stages[stage], len(both) - len(known)
        tally.pairs += count
        tally.asked += count
        tally.seconds += count * self._seconds_to_score(teacher)
        tally.kept += 12 * count

    # --- training --------------------------------------------------------------------------------

    def train_stage(
        self,
        name: str,
        players: Sequence[Player],
        source: Examples,
        turn: Turn,
        updates: int,
        settings: TrainingSettings,
        *,
        parts: Player | None = None,
    ) -> Trained:
        """Note the updates and the measures on dev, of which there is no value.

        The weights move, since all that comes after is told apart by them.
        """
        sampled = [source.batch(update) for update in range(min(updates, _SAMPLED_UPDATES))]
        tally, group = self.noted.stages[f"train-{name}{self.suffix}"], self.run.group.size
        tally.updates += updates
        taken = 0
        for player in players:
            model = _model_of(player)
            taken += (size := model.size_bytes())
            tokens = float(np.mean([self._tokens_in(model, batch) for batch in sampled]))
            each, kept = self._to_train(model)
            if player.name not in turn.trains:
                tally.seconds += _FORWARD * updates * each * tokens / group
                continue
            tally.seconds += updates * each * tokens / group
            tally.kept += size  # weights twice, and two moments: four times as many bytes
            taken += 3 * size + int(min(kept * PADDING * tokens / group, self.run.activation_bytes))
            player.steps += updates
            self._move(model)
        self.noted.peak_bytes = max(self.noted.peak_bytes, taken)
        pools = self.dev_pools() if settings.measures else None
        if pools is not None:
            queries = len(pools)
            tally.seconds += settings.measures * self._seconds_on_dev(
                _model_of(players[0]), queries
            )
        return Trained(f"train-{name}{self.suffix}")

    def _move(self, model: Encoder | Ranker) -> None:
        """Change a few weights as no training before did."""
        self.noted.trainings += 1
        generator = torch.Generator().manual_seed(self.noted.trainings)
        with torch.no_grad():
            few = min(model.parameters(), key=torch.numel)
            few.add_(torch.randn(few.shape, generator=generator).to(few.device))

    def _tokens_in(self, model: Encoder | Ranker, batch: ListBatch | TextBatch) -> float:
        """The tokens that a model reads in an update."""
        query, passage = self.speeds.tokens["query"], self.speeds.tokens["passage"]
        if isinstance(model, Ranker) and isinstance(batch, ListBatch):
            return (query + passage) * int((batch.lists >= 0).sum())
        return query * len(batch.queries) + passage * len(batch.passages)

    # --- how long that takes ---------------------------------------------------------------------

    def _size(self, model: Encoder | Ranker) -> float:
        """The FLOPs of a model over those of the base encoder, for a passage; where they are not
        known, the bytes of their weights.
        """
        length = np.array([round(self.speeds.tokens["passage"])])
        probed = self.probed.encoder
        own, base = (each.forward_flops(length) for each in (model, probed))
        return own / base if own and base else model.size_bytes() / probed.size_bytes()

    def _is_student(self, model: Encoder | Ranker) -> bool:
        return isinstance(model, Encoder) and self._size(model) == self._size(self.student)

    def _is_taught(self, teacher: Teacher) -> bool:
        return self.taught is not None and teacher.digest == self.taught.digest

    def _seconds_to_read(self, teacher: DualTeacher, role: Role) -> float:
        if self.speeds.taught is not None and self._is_taught(teacher):
            return self.speeds.taught[role]
        return self._seconds_to_embed(teacher.encoder, role)

    def _seconds_to_embed(self, encoder: Encoder, role: Role) -> float:
        if self._is_student(encoder):
            return self.speeds.small[role]
        return self.speeds.large[role] * self._size(encoder)

    def _seconds_to_score(self, teacher: Teacher) -> float:
        """A pair, by a teacher that was probed, or by a ranker of any size."""
        if not isinstance(teacher, CrossTeacher):
            return self.speeds.pair
        return self._seconds_to_rank(teacher.ranker)

    def _seconds_to_rank(self, ranker: Ranker) -> float:
        """A pair, by a ranker like the one that was probed, or like the base encoder."""
        if isinstance(self.taught, CrossTeacher):
            return self.speeds.pair * self._size(ranker) / self._size(self.taught.ranker)
        return sum(self.speeds.large.values()) * self._size(ranker)

    def _to_train(self, model: Encoder | Ranker) -> tuple[float, float]:
        """Seconds to train with a token, and the bytes that it keeps for the backward pass."""
        if self._is_student(model):
            return self.speeds.train_small, self.speeds.kept_small
        size = self._size(model)
        return self.speeds.train_large * size, self.speeds.kept_large * size

    def _seconds_on_dev(self, model: Encoder | Ranker, queries: int) -> float:
        """To measure a model in training on dev once."""
        if isinstance(model, Ranker):
            return queries * DEV_POOL * self._seconds_to_rank(model)
        pooled = min(queries * (DEV_POOL + 1), len(self.collection.passages))
        read = self._seconds_to_embed
        return pooled * read(model, "passage") + queries * read(model, "query")


def _model_of(player: Player) -> Encoder | Ranker:
    assert isinstance(player.model, Encoder | Ranker)
    return player.model
