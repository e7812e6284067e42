"""How do queries and passages become scores, and how good is a retriever?

One object holds what every retrieval recipe needs of one collection in one run: its tokens, pools
and teacher's answers, each made once and kept as an artefact, the forward that turns a batch into
signals, and measures of encoders and teachers. It knows no recipe and no loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
import torch
from pydantic import Field
from torch import Tensor, nn

from limbeck.candidates import Candidates, merge, mine_dense, mine_lexical
from limbeck.data.collection import Collection, positives
from limbeck.data.scores import ScoredPairs
from limbeck.data.tokens import TokenStore, tokenize, tokenizer_digest
from limbeck.errors import ConfigError
from limbeck.evaluation.measures import Run as Results
from limbeck.evaluation.measures import per_query, run_of
from limbeck.inference import embed, score
from limbeck.models.encoder import Encoder, Ranker
from limbeck.negatives import drop_by_margin, drop_by_rank
from limbeck.schedules import linear_warmup_decay, shared_out
from limbeck.search import search_dense, search_others
from limbeck.selection import first_rank
from limbeck.settings import Settings
from limbeck.similarity import comparable, matrix_similarity
from limbeck.sources import ListBatch, ListSource, QueryList, TextBatch, TextSource
from limbeck.store import digest, read_done
from limbeck.teachers.score_store import ScoreStore
from limbeck.teachers.scoring import embed_collection, score_pairs
from limbeck.teachers.teachers import DualTeacher, Teacher
from limbeck.training import (
    Measure,
    Pass,
    Player,
    Run,
    Stage,
    Turn,
    train,
    trained_player,
)
from limbeck.types import PassageId, QueryId, Role, Scores, Signals, Split

DEV_QUERIES = 300  # enough to choose a checkpoint by
DEV_POOL = 10  # passages per dev query that a checkpoint is measured on
PASSES = 10  # over the training queries, when the number of updates is not given ...
LEAST_UPDATES, MOST_UPDATES = 40, 300  # ... within these bounds


class TrainingSettings(Settings):
    """What every recipe that trains a model has to decide.

    `between` names what decides which stages there are and on which lists, and nothing in one.
    """

    between: ClassVar[frozenset[str]] = frozenset()

    updates: int | None = Field(
        None, ge=1, description="optimiser steps; none = 10 passes over its queries, 40 to 300"
    )
    learning_rate: float = Field(2e-4, gt=0, description="peak of the learning rate")
    warmup: float = Field(0.1, ge=0, le=1, description="share of the updates spent warming up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decay of matrices")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout while training")
    measures: int = Field(3, ge=0, description="times dev is measured in training; 0 = never")
    keep: Literal["best", "last"] = Field("best", description="which weights to keep, by dev")
    checkpoint_every: int = Field(
        100, ge=1, description="updates between checkpoints: at most so many are lost to a kill"
    )


class ListSettings(TrainingSettings):
    """What recipes decide that show queries with lists of passages."""

    queries_per_update: int = Field(64, ge=1, description="queries in one update")
    list_length: int = Field(4, ge=2, description="passages drawn for each query of an update")
    depth: int = Field(32, ge=2, description="candidates kept per query after merging all miners")
    first_rank: int = Field(
        0, ge=0, description="candidates of a judged query before this rank are never its negatives"
    )


Forward = Callable[[Pass, Any], Signals]


@dataclass
class Retrieval:
    """One collection in one run, for recipes to work on.

    `base` is the encoder that the student is cut from, as a teacher: it mines where no better one
    can. `given` are pairs that others found: candidates besides. `counts` say what rules left out
    of the last `lists`, and `trained` names the stages that trained a model, since each was last
    cleared; they reach the report. `suffix` ends the names of these stages.
    """

    collection: Collection
    run: Run
    base: DualTeacher
    store: ScoreStore | None
    given: Sequence[ScoredPairs] = ()
    counts: dict[str, int] = field(default_factory=dict)
    trained: list[str] = field(default_factory=list)
    suffix: str = ""
    _tokens: dict[tuple[str, Role, str], TokenStore] = field(default_factory=dict)
    _equal: dict[Role, np.ndarray] = field(default_factory=dict)

    def unshared(self) -> Retrieval:
        """The same task, but what teachers say stays in this run: for models still in training."""
        return replace(self, store=None)

    def from_base(self, base: DualTeacher, name: str) -> Retrieval:
        """The same task for a model that starts from another base, which mines for it; the stages
        that train are told apart by the base's name.
        """
        return replace(self, base=base, suffix=f"-{name}")

    # --- what is there -------------------------------------------------------------------------

    def positions(self, ids: Sequence[QueryId]) -> np.ndarray:
        """Where queries stand in the collection."""
        index = self.collection.queries.index
        return np.array([index[query] for query in ids], dtype=np.int32)

    def labelled_queries(self) -> np.ndarray:
        """The training queries with a positive, as positions."""
        return self.positions(self.collection.labelled)

    def training_queries(self) -> np.ndarray:
        """The labelled training queries, then the unlabelled ones, as positions."""
        return self.positions([*self.collection.labelled, *self.collection.unlabelled])

    def askable_queries(self, teacher: Teacher) -> np.ndarray:
        """The training queries that a teacher can be asked about, as positions."""
        queries = self.training_queries()
        return (
            queries if teacher.answers is None else queries[np.isin(queries, teacher.answers[:, 0])]
        )

    def split_queries(self, split: Split) -> np.ndarray:
        """The judged queries of a split, as positions."""
        return self.positions(list(self.collection.qrels.get(split, {})))

    def positives_of(self, query: int, split: Split) -> np.ndarray:
        """The passages that a split judges relevant to a query, as positions."""
        query_id = QueryId(self.collection.queries.ids[query])
        judged = self.collection.qrels.get(split, {}).get(query_id, {})
        index = self.collection.passages.index
        return np.array([index[passage] for passage in positives(judged)], dtype=np.int64)

    def tokens(self, tokenizer: Any, role: Role, prompt: str) -> TokenStore:
        """A field's tokens, made once per tokenizer and prompt."""
        key = (tokenizer_digest(tokenizer), role, prompt)
        if key not in self._tokens:
            texts = self.collection.queries if role == "query" else self.collection.passages
            folder = self.run.folder / "stages" / "tokens" / f"{role}-{digest(list(key))[:12]}"
            self._tokens[key] = self.run.made(
                folder,
                lambda: tokenize(
                    texts.texts,
                    tokenizer,
                    folder,
                    stage="tokens",
                    prompt=prompt,
                    progress=self.run.progress,
                ),
            )
        return self._tokens[key]

    def tokens_of(self, encoder: Encoder, role: Role) -> TokenStore:
        """A field's tokens as an encoder reads them."""
        return self.tokens(encoder.tokenizer, role, encoder.prompt(role))

    # --- candidates, and what teachers think of them -------------------------------------------

    def vectors(
        self, teacher: Teacher, role: Role, queries: np.ndarray | None = None
    ) -> np.ndarray:
        """A dual teacher's vectors of all passages, or of the queries at these positions."""
        what = "passages" if role == "passage" else "queries"
        positions = np.arange(len(self.collection.passages)) if queries is None else queries
        inputs = {
            "collection": self.collection.digest,
            "teacher": teacher.digest,
            "role": role,
            "positions": digest(positions.tolist()),
            "engine": self.run.engine.key(),
        }
        name = f"encode-{teacher.name}-{what}-{digest(inputs)[:8]}"
        folder = self.run.first(lambda: self.run.stage(name, inputs))
        return self.run.first(
            lambda: embed_collection(
                teacher,
                self.collection,
                role,
                positions,
                self.tokens,
                folder=folder,
                store=self.store,
                engine=self.run.engine,
                progress=self.run.progress,
            )
        )

    def pools(
        self,
        queries: np.ndarray,
        *,
        depth: int,
        teacher: Teacher,
        asked: Teacher | None = None,
    ) -> Candidates:
        """The candidates of queries by words, by the vectors of a dual teacher and as they were
        given, merged by rank.

        At most `depth` passages per query; the vectors' first comes first. They are meant for the
        teacher that is `asked` about them: where it has scores of some pairs only, its own pairs
        are the candidates instead.
        """
        if asked is not None and asked.answers is not None:
            return _answered(self.without_own(asked.answers), queries, depth, asked.name)
        lexical = self.lexical(queries, depth=depth)
        given = [
            _answered(self.without_own(found.pairs), queries, depth, f"given-{number}")
            for number, found in enumerate(self.given, start=1)
        ]
        return merge([self.mined(queries, depth=depth, miner=teacher), lexical, *given], depth)

    def without_own(self, pairs: np.ndarray) -> np.ndarray:
        """The (query, passage) positions [n, 2] without queries beside their own passage."""
        kept: np.ndarray = pairs[self.collection.own_passages[pairs[:, 0]] != pairs[:, 1]]
        return kept

    def lexical(self, queries: np.ndarray, *, depth: int) -> Candidates:
        """The `depth` candidates of each query by words, best first."""
        name = f"mine-bm25-{digest([queries.tolist(), depth])[:8]}"
        return self.run.first(
            lambda: mine_lexical(
                self.collection,
                queries,
                depth=depth,
                folder=self.run.folder / "stages" / name,
                progress=self.run.progress,
            )
        )

    def mined(self, queries: np.ndarray, *, depth: int, miner: Teacher) -> Candidates:
        """The `depth` candidates of each query by the vectors of a dual teacher, best first."""
        asked = comparable(self.vectors(miner, "query", queries), miner.similarity)
        answers = comparable(self.vectors(miner, "passage"), miner.similarity)
        name = f"mine-{miner.name}-{digest([queries.tolist(), depth, miner.digest])[:8]}"
        return self.run.first(
            lambda: mine_dense(
                self.collection,
                queries,
                asked,
                answers,
                source=miner.name,
                depth=depth,
                folder=self.run.folder / "stages" / name,
                progress=self.run.progress,
            )
        )

    def pair_scores(self, teacher: Teacher, pairs: np.ndarray) -> np.ndarray:
        """A teacher's raw scores [n] of (query, passage) positions [n, 2]."""
        inputs = {
            "collection": self.collection.digest,
            "teacher": teacher.digest,
            "pairs": digest(pairs.tolist()),
            "engine": self.run.engine.key(),
        }
        name = f"score-{teacher.name}-{digest(inputs)[:8]}"
        folder = self.run.first(lambda: self.run.stage(name, inputs))
        return self.run.first(
            lambda: score_pairs(
                teacher,
                self.collection,
                pairs,
                self.tokens,
                folder=folder,
                store=self.store,
                engine=self.run.engine,
                progress=self.run.progress,
            )
        )

    def lists(
        self,
        pools: Candidates,
        *,
        first_rank: int = 0,
        teacher: Teacher | None = None,
        margin: float | None = None,
    ) -> list[QueryList]:
        """What each query of the pools may be shown with: its positives, and candidates to draw.

        Judged positives leave the pool, and so does a passage with the text of another: no list or
        update shows a text twice. What has the text of the query's own passage leaves it, too. With
        a teacher, everything is scored by it; an unlabelled query's pool is put in its order. A
        positive that it cannot be asked about is left out.

        Likely false negatives leave the pool of a labelled query: what is ranked before
        `first_rank`, and with a `margin` (in the teacher's units) what scores above the best
        positive minus `margin`. So do the positives of other queries with its text. None of them
        is its negative either where another query brings it into an update. Queries without two
        passages to compare are left out. All of these are counted.
        """
        self.counts.clear()  # a run asks several times; the student's lists, the last, count
        entries = []
        spared: list[np.ndarray] = []
        relevant = self._positives_by_text()
        firsts = self._firsts("passage")
        own_passages = self.collection.own_passages
        answers = None if teacher is None else self._answers_by_text(teacher)
        for place, query in enumerate(pools.queries.tolist()):
            judged, _ = _distinct(firsts[self.positives_of(query, "train")])
            if answers is not None:
                scored = np.isin(judged, answers.get(self._firsts("query")[query], []))
                self._count("positives left out: the teacher has no score", int((~scored).sum()))
                judged = judged[scored]
            pool, _ = _distinct(firsts[pools.for_query(place)])
            pool = pool[~np.isin(pool, judged)]
            left_out = np.empty(0, dtype=np.int64)
            if len(judged):
                left_out = relevant[self.collection.queries.texts[query]]
                left_out = left_out[~np.isin(left_out, judged)]
                pool = pool[~np.isin(pool, left_out)]
            if own_passages[query] >= 0 and (own := firsts[own_passages[query]]) not in judged:
                left_out = np.append(left_out, own)
                pool = pool[pool != own]
            if len(judged) and first_rank:
                kept = drop_by_rank(np.arange(len(pool)), (first_rank, first_rank + len(pool)))
                self._count("candidates dropped: ranked too high", int((~kept).sum()))
                left_out = np.append(left_out, pool[~kept])
                pool = pool[kept]
            entries.append((query, judged, pool))
            spared.append(left_out)
        scores: list[np.ndarray | None] = [None] * len(entries)
        if teacher is not None and entries:
            pairs = [
                np.stack([np.full(len(judged) + len(pool), query), np.append(judged, pool)], axis=1)
                for query, judged, pool in entries
            ]
            ends = np.cumsum([len(rows) for rows in pairs])[:-1]
            scores = list(np.split(self.pair_scores(teacher, np.concatenate(pairs)), ends))
        lists = []
        for (query, judged, found), left_out, own in zip(entries, spared, scores, strict=True):
            pool, own = self._ordered(judged, found, own, margin)
            if len(judged):
                left_out = np.append(left_out, found[~np.isin(found, pool)])
            if len(judged) + len(pool) < 2:
                self._count("training queries without two passages to compare", 1)
                continue
            query_id = QueryId(self.collection.queries.ids[query])
            lists.append(QueryList(query, query_id, judged, pool, own, left_out))
        return lists

    def _answers_by_text(self, teacher: Teacher) -> dict[int, np.ndarray] | None:
        """Which passages a teacher has scores of, per query, as first positions; None = any."""
        if teacher.answers is None:
            return None
        queries = self._firsts("query")[teacher.answers[:, 0]]
        order = np.argsort(queries, kind="stable")
        passages = self._firsts("passage")[teacher.answers[order, 1]]
        found, starts = np.unique(queries[order], return_index=True)
        return dict(zip(found.tolist(), np.split(passages, starts[1:]), strict=True))

    def positive_ranks(self, pools: Candidates, teacher: Teacher | None = None) -> np.ndarray:
        """The rank [Q], from 1, of the first positive of each pool's query, infinite without one.

        In the order of the pool; with a teacher, in that of its scores of pool and positives.
        """
        firsts = self._firsts("passage")
        entries = []
        for place, query in enumerate(pools.queries.tolist()):
            judged = firsts[self.positives_of(query, "train")]
            found = firsts[pools.for_query(place)]
            shown, _ = _distinct(found if teacher is None else np.append(judged, found))
            entries.append((query, shown, np.isin(shown, judged)))
        scores = [-np.arange(len(shown), dtype=np.float32) for _, shown, _ in entries]
        if teacher is not None and entries:
            pairs = [
                np.stack([np.full(len(shown), query), shown], axis=1) for query, shown, _ in entries
            ]
            ends = np.cumsum([len(rows) for rows in pairs])[:-1]
            scores = np.split(self.pair_scores(teacher, np.concatenate(pairs)), ends)
        return np.array(
            [first_rank(own, marks) for own, (_, _, marks) in zip(scores, entries, strict=True)]
        )

    def _positives_by_text(self) -> dict[str, np.ndarray]:
        """The passages judged relevant to any training query of a text, as first positions."""
        firsts, found = self._firsts("passage"), dict[str, np.ndarray]()
        for query in self.labelled_queries().tolist():
            text = self.collection.queries.texts[query]
            judged = firsts[self.positives_of(query, "train")]
            found[text] = np.append(found[text], judged) if text in found else judged
        return found

    def scored(self, source: ListSource, updates: int, teacher: Teacher) -> ListSource:
        """The source with a teacher's raw scores of all that its first updates show.

        What they do not show is not asked for, and NaN.
        """
        shown: dict[int, set[int]] = {}
        for update in range(updates):
            batch = source.batch(update)
            for query, columns in zip(batch.queries.tolist(), batch.lists, strict=True):
                passages = batch.passages[columns[columns >= 0]].tolist()
                shown.setdefault(query, set()).update(passages)
        pairs = [(query, passage) for query in sorted(shown) for passage in sorted(shown[query])]
        said = self.pair_scores(teacher, np.array(pairs, dtype=np.int64))
        scores = dict(zip(pairs, said.tolist(), strict=True))
        lists = []
        for entry in source.lists:
            passages = np.append(entry.positives, entry.pool).tolist()
            own = [scores.get((entry.query, passage), math.nan) for passage in passages]
            lists.append(replace(entry, scores=np.array(own, dtype=np.float32)))
        return replace(source, lists=lists)

    def _ordered(
        self, judged: np.ndarray, pool: np.ndarray, own: np.ndarray | None, margin: float | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """A pool and the scores of positives and pool, after the teacher had its say."""
        if own is None:
            return pool, None
        marks, others = own[: len(judged)], own[len(judged) :]
        if not len(judged):
            order = np.argsort(-others, kind="stable")
            return pool[order], others[order]
        if margin is not None:
            kept = drop_by_margin(others, float(marks.max()), margin)
            self._count("candidates dropped: scored near the positive", int((~kept).sum()))
            pool, others = pool[kept], others[kept]
        return pool, np.concatenate([marks, others])

    def _count(self, what: str, number: int) -> None:
        self.counts[what] = self.counts.get(what, 0) + number

    # --- batches to signals --------------------------------------------------------------------

    def score_update(
        self,
        student: Encoder,
        teacher: Teacher | None = None,
        *,
        reference: Encoder | None = None,
        ranker: Ranker | None = None,
    ) -> Forward:
        """A forward over `ListBatch`: the student's scores, and those of whoever else is named.

        Gives `student` [B, L] over each query's own list (no target where it is not judged) and
        `student/in_batch` [B, P] over all passages of the update, without the row's other positives
        and what it is spared; of a dual teacher the same two as `teacher` and `teacher/in_batch`;
        of one that scores pairs, `teacher` from the batch. The players `reference`, a former
        student, and `ranker` are asked in the update itself: `reference`, `reference/in_batch` and
        `ranker`.
        """
        taught = None
        if teacher is not None and teacher.in_batch:
            taught = self._query_vectors(teacher), self.vectors(teacher, "passage")
        rank = None if ranker is None else self._rank_lists(ranker, "ranker")

        def forward(update: Pass, batch: ListBatch) -> Signals:
            scores = _both("student", self._similarities(update, student, "student", batch), batch)
            own, device = scores["student"], scores["student"].values.device
            if reference is not None:
                values = self._similarities(update, reference, "reference", batch)
                scores |= _both("reference", values, batch)
            if rank is not None:
                scores["ranker"] = replace(own, values=rank(update, batch))
            if teacher is not None and taught is not None:
                asked, answers = taught
                values = matrix_similarity(teacher.similarity)(
                    torch.from_numpy(asked[batch.queries]).to(device),
                    torch.from_numpy(answers[batch.passages]).to(device),
                )
                scores |= _both("teacher", values, batch)
            elif batch.teacher is not None:
                scores["teacher"] = replace(own, values=torch.from_numpy(batch.teacher).to(device))
            return Signals(scores, progress=update.progress)

        return forward

    def rank_update(self, ranker: Ranker, player: str = "student") -> Forward:
        """A forward over `ListBatch` that gives a ranker's scores of lists, [B, L], by the name of
        the player that it is.
        """
        rank = self._rank_lists(ranker, player)

        def forward(update: Pass, batch: ListBatch) -> Signals:
            values = rank(update, batch)
            mask = torch.from_numpy(batch.lists >= 0).to(values.device)
            return Signals({player: Scores.of(values, mask=mask)}, progress=update.progress)

        return forward

    def _similarities(
        self, update: Pass, encoder: Encoder, player: str, batch: ListBatch
    ) -> Tensor:
        """An encoder's scores of every passage of an update for every query of it: [B, P]."""
        queries = self.embed_update(update, encoder, "query", batch.queries, player)
        passages = self.embed_update(update, encoder, "passage", batch.passages, player)
        return matrix_similarity(encoder.similarity)(queries, passages)

    def _rank_lists(self, ranker: Ranker, player: str) -> Callable[[Pass, ListBatch], Tensor]:
        """What gives a ranker's scores of an update's lists, [B, L]; 0 in empty slots."""
        queries = self.tokens(ranker.tokenizer, "query", "")
        passages = self.tokens(ranker.tokenizer, "passage", "")
        collator = ranker.collator

        def rank(update: Pass, batch: ListBatch) -> Tensor:
            rows, slots = np.nonzero(batch.lists >= 0)
            asked = batch.queries[rows]
            answers = batch.passages[batch.lists[rows, slots]]
            lengths = np.array(
                [
                    collator.pair_length(int(query), int(passage))
                    for query, passage in zip(
                        queries.lengths[asked], passages.lengths[answers], strict=True
                    )
                ]
            )
            found = update.run(
                player,
                lengths,
                lambda chosen: collator.pairs(
                    [queries[int(at)] for at in asked[chosen]],
                    [passages[int(at)] for at in answers[chosen]],
                ),
            )
            mask = torch.from_numpy(batch.lists >= 0).to(found.device)
            return torch.zeros(mask.shape, device=found.device).masked_scatter(mask, found)

        return rank

    def embed_texts(self, student: Encoder, teacher: Teacher) -> tuple[Forward, int]:
        """A forward over `TextBatch` that gives the embeddings `student` and `teacher`, and the
        width of the teacher's. Rows are the queries, then the passages.
        """
        answers = self.vectors(teacher, "passage")
        asked = self._query_vectors(teacher)

        def forward(update: Pass, batch: TextBatch) -> Signals:
            texts: list[tuple[Role, np.ndarray]] = [
                ("query", batch.queries),
                ("passage", batch.passages),
            ]
            own = [
                self.embed_update(update, student, role, positions)
                for role, positions in texts
                if len(positions)
            ]
            taught = np.concatenate([asked[batch.queries], answers[batch.passages]])
            return Signals(
                embeddings={
                    "student": torch.cat(own),
                    "teacher": torch.from_numpy(taught).to(own[0].device),
                },
                progress=update.progress,
            )

        return forward, answers.shape[1]

    def _query_vectors(self, teacher: Teacher) -> np.ndarray:
        """A dual teacher's vectors of the training queries, by position; zeros elsewhere."""
        queries = self.training_queries()
        width = self.vectors(teacher, "passage").shape[1]
        found = np.zeros((len(self.collection.queries), width), dtype=np.float32)
        if len(queries):
            found[queries] = self.vectors(teacher, "query", queries)
        return found

    def embed_update(
        self,
        update: Pass,
        encoder: Encoder,
        role: Role,
        positions: np.ndarray,
        player: str = "student",
    ) -> Tensor:
        """A player's vectors of some queries or passages, each text once: [n, D]."""
        tokens = self.tokens_of(encoder, role)
        collator = encoder.collator(role)
        texts, place = _distinct(self._firsts(role)[positions])
        lengths = np.array([collator.length(int(n)) for n in tokens.lengths[texts]])
        vectors = update.run(
            player,
            lengths,
            lambda chosen: collator.singles([tokens[int(at)] for at in texts[chosen]]),
        )
        return vectors[torch.from_numpy(place).to(vectors.device)]

    def _firsts(self, role: Role) -> np.ndarray:
        """For each query or passage the position of the first one with its text."""
        if role not in self._equal:
            texts = self.collection.queries if role == "query" else self.collection.passages
            first: dict[str, int] = {}
            at = [first.setdefault(text, place) for place, text in enumerate(texts.texts)]
            self._equal[role] = np.array(at, dtype=np.int64)
        return self._equal[role]

    # --- how good is it ------------------------------------------------------------------------

    def first_stage(
        self, encoder: Encoder, queries: np.ndarray, passages: np.ndarray, *, depth: int
    ) -> Results:
        """What an encoder in training finds for queries among passages, given as positions, the
        passages' in order.
        """
        engine, progress = self.run.engine.training(), self.run.progress
        asked = embed(
            encoder,
            self.tokens_of(encoder, "query"),
            "query",
            engine=engine,
            positions=queries,
            progress=progress,
        )
        answers = embed(
            encoder,
            self.tokens_of(encoder, "passage"),
            "passage",
            engine=engine,
            positions=passages,
            progress=progress,
        )
        asked, answers = (comparable(each, encoder.similarity) for each in (asked, answers))
        own = self.collection.own_passages[queries]
        places = np.searchsorted(passages, own).clip(max=len(passages) - 1)
        found, scores = search_others(
            lambda k: search_dense(asked, answers, k),
            depth,
            np.where((own >= 0) & (passages[places] == own), places, -1),
        )
        return self.results(queries, np.where(found < 0, -1, passages[found]), scores)

    def pool_pairs(self, pools: Candidates) -> np.ndarray:
        """The (query, passage) positions of pools: [n, 2]."""
        owners = np.repeat(pools.queries, np.diff(pools.offsets))
        return np.stack([owners, pools.passages], axis=1).astype(np.int64)

    def ranked(self, pools: Candidates, scores: np.ndarray) -> Results:
        """The pools with scores [n], row-aligned with `pool_pairs`."""
        passages, queries = self.collection.passages.ids, self.collection.queries.ids
        return {
            QueryId(queries[query]): {
                PassageId(passages[pools.passages[at]]): float(scores[at])
                for at in range(pools.rows(place).start, pools.rows(place).stop)
            }
            for place, query in enumerate(pools.queries.tolist())
        }

    def reranked(self, teacher: Teacher, pools: Candidates) -> Results:
        """The pools in the order of a teacher's scores."""
        return self.ranked(pools, self.pair_scores(teacher, self.pool_pairs(pools)))

    def results(self, queries: np.ndarray, found: np.ndarray, scores: np.ndarray) -> Results:
        """Positions and scores of a search [Q, k] by ids."""
        ids = [QueryId(self.collection.queries.ids[query]) for query in queries]
        names = [PassageId(passage) for passage in self.collection.passages.ids]
        return run_of(ids, names, found, scores)

    def quality(self, results: Results, split: Split) -> pl.DataFrame:
        """Measures per judged query of a split that the results are about."""
        judged = self.collection.qrels[split]
        return per_query(results, {query: judged[query] for query in results if query in judged})

    def dev_pools(self) -> Candidates | None:
        """The candidates on which checkpoints and rankers are measured; None without dev."""
        queries = self.split_queries("dev")[:DEV_QUERIES]
        return self.pools(queries, depth=DEV_POOL, teacher=self.base) if len(queries) else None

    def dev_measure(
        self, settings: TrainingSettings, updates: int, player: Player
    ) -> Measure | None:
        """nDCG@10 of a player on dev: an encoder's among the pooled candidates and positives of dev
        queries, a ranker's over each query's own candidates, which may lack its positives.
        """
        pools = self.dev_pools() if settings.measures else None
        if pools is None:
            return None
        judged = [self.positives_of(query, "dev") for query in pools.queries.tolist()]
        passages = np.unique(np.concatenate([pools.passages, *judged]))
        queries = pools.queries.astype(np.int64)

        def value(players: Mapping[str, Player]) -> float:
            model = players[player.name].model
            if isinstance(model, Ranker):
                scores = score(
                    model,
                    self.tokens(model.tokenizer, "query", ""),
                    self.tokens(model.tokenizer, "passage", ""),
                    self.pool_pairs(pools),
                    engine=self.run.engine.training(),
                )
                results = self.ranked(pools, scores)
            else:
                assert isinstance(model, Encoder)
                results = self.first_stage(model, queries, passages, depth=10)
            return float(self.quality(results, "dev")["nDCG@10"].mean())  # type: ignore[arg-type]

        every = -(-updates // settings.measures)
        among = "re-ranked" if isinstance(player.model, Ranker) else "pooled"
        return Measure(f"dev nDCG@10, {among}", value, player.name, every, settings.keep)

    # --- training ------------------------------------------------------------------------------

    def updates(self, settings: TrainingSettings, updates_per_pass: float) -> int:
        """How many updates settings stand for, given how many see every example once."""
        return settings.updates or default_updates(updates_per_pass)

    def player(
        self, name: str, module: nn.Module, settings: TrainingSettings, updates: int
    ) -> Player:
        """A player whose learning rate rises, and ends at 0 after `updates` steps over all stages.

        Its dropout becomes that of the settings.
        """
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.p = settings.dropout
        return trained_player(
            name,
            module,
            learning_rate=settings.learning_rate,
            schedule=linear_warmup_decay(int(settings.warmup * updates), updates),
            weight_decay=settings.weight_decay,
        )

    def train_model(
        self,
        name: str,
        model: Encoder | Ranker,
        source: ListSource | TextSource,
        turn: Turn,
        settings: TrainingSettings,
        *,
        teacher: Teacher | None = None,
        needs: frozenset[str] = frozenset(),
        parts: nn.Module | None = None,
        reference: Player | None = None,
    ) -> float | None:
        """Train the player `student` (and `parts`) in place, beside a former student that stays
        what it is: one stage of one turn. The result is what dev says of it, if it was asked.
        """
        updates = self.updates(settings, source.updates_per_pass)
        student = self.player("student", model, settings, updates)
        return self.train_stage(
            name,
            [student, *([] if reference is None else [reference])],
            source,
            turn,
            updates,
            settings,
            teacher=teacher,
            needs=needs,
            parts=None if parts is None else self.player("parts", parts, settings, updates),
        )

    def train_stage(
        self,
        name: str,
        players: Sequence[Player],
        source: ListSource | TextSource,
        turn: Turn,
        updates: int,
        settings: TrainingSettings,
        *,
        teacher: Teacher | None = None,
        needs: frozenset[str] = frozenset(),
        parts: Player | None = None,
    ) -> float | None:
        """Train players in place, with what they carry from earlier stages: one stage of one turn.

        The first player is measured on dev; the result is the value of the weights that it ends
        with, None where dev is never asked. What the signals depend on besides weights and examples
        (the teacher, the collection's texts, the models' prompts and lengths) is part of the
        stage's inputs: a stage begun with another teacher is refused.
        """
        models = [player.model for player in players]
        stage = Stage(
            f"train-{name}{self.suffix}",
            players,
            source,
            [turn],
            updates,
            parts=parts,
            needs=needs,
            settings={
                **settings.model_dump(exclude=set(settings.between)),
                "teacher": None if teacher is None else teacher.digest,
                "models": [
                    [model.config_digest(), tokenizer_digest(model.tokenizer)]
                    for model in models
                    if isinstance(model, Encoder | Ranker)
                ],
                "collection": self.collection.digest,
                **({"candidates": [each.digest for each in self.given]} if self.given else {}),
            },
            measure=self.dev_measure(settings, updates, players[0]),
        )
        with ExitStack() as attention:
            for model in models:
                if isinstance(model, Encoder | Ranker):
                    attention.enter_context(model.plain_attention())
            train(stage, replace(self.run, checkpoint_every=settings.checkpoint_every))
        self.trained.append(stage.name)
        if stage.measure is None:
            return None
        done = read_done(self.run.folder / "stages" / stage.name)
        values = [value for _, value in done.metrics["measured"]]
        return float(max(values) if settings.keep == "best" else values[-1])


def default_updates(updates_per_pass: float) -> int:
    """How many updates are made when nothing is said: `PASSES` passes, within bounds."""
    return min(max(math.ceil(PASSES * updates_per_pass), LEAST_UPDATES), MOST_UPDATES)


def logits_of(scores: Scores, temperature: float) -> Scores:
    """Scores over a temperature: similarities or a teacher's raw scores as logits."""
    return replace(scores, values=scores.values / temperature)


def share_updates(updates: int, shares: Sequence[float]) -> list[int]:
    """`shared_out`, for updates that somebody asked for.

    Raises:
        ConfigError: when there are fewer updates than stages.
    """
    try:
        return shared_out(updates, shares)
    except ValueError as error:
        raise ConfigError(f"{error}. Ask for more with --set updates=...") from error


def signals_with(teacher: Teacher, *, reference: bool = False) -> frozenset[str]:
    """What `Retrieval.score_update` gives with this teacher, and with a former student."""
    names = {"student", "student/in_batch", "teacher"}
    names |= {"teacher/in_batch"} if teacher.in_batch else set()
    return frozenset(names | {"reference", "reference/in_batch"} if reference else names)


def _answered(pairs: np.ndarray, queries: np.ndarray, depth: int, source: str) -> Candidates:
    """The first `depth` of the pairs [n, 2] of each query, which stand together, best first."""
    starts = np.searchsorted(pairs[:, 0], queries, side="left")
    counts = np.minimum(np.searchsorted(pairs[:, 0], queries, side="right") - starts, depth)
    found = np.full((len(queries), int(counts.max(initial=0))), -1, dtype=np.int32)
    for row, (start, count) in enumerate(zip(starts.tolist(), counts.tolist(), strict=True)):
        found[row, :count] = pairs[start : start + count, 1]
    scores = np.broadcast_to(-np.arange(found.shape[1], dtype=np.float32), found.shape)
    return Candidates.of(source, queries, found, scores)  # only the order is known here


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values in order of first appearance, and where each of `values` is in them."""
    found, first, place = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return found[order], np.argsort(order)[place]


def _both(name: str, values: Tensor, batch: ListBatch) -> dict[str, Scores]:
    """Scores over own lists [B, L] and over all passages of the update [B, P]."""
    device = values.device
    lists = torch.from_numpy(batch.lists).to(device)
    labelled = torch.from_numpy(batch.labelled).to(device)
    target = torch.where(labelled, lists[:, 0], -1)
    own = Scores.of(
        values.gather(1, lists.clamp(min=0)), mask=lists >= 0, target=target.clamp(max=0)
    )
    others = torch.from_numpy(batch.spared.copy()).to(device)
    others[torch.arange(len(others)), lists[:, 0]] = False
    return {name: own, f"{name}/in_batch": Scores.of(values, mask=~others, target=target)}
