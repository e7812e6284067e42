"""How good is a retriever?

What encoders find and how rankers and teachers order it, held to judgements. It knows no test and
no report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import polars as pl

from limbeck.candidates import Candidates
from limbeck.evaluation.measures import RETRIEVAL, per_query, run_of
from limbeck.evaluation.measures import Run as Results
from limbeck.evaluation.statistics import Measures
from limbeck.inference import embed, score
from limbeck.models.encoder import Encoder, Ranker
from limbeck.search import search_dense, search_others
from limbeck.similarity import comparable
from limbeck.tasks.fit import TrainingSettings
from limbeck.tasks.retrieval.asking import Asking
from limbeck.teachers import Teacher
from limbeck.training import Player, Validation
from limbeck.types import PassageId, QueryId, Split

DEV_QUERIES = 300  # enough to choose a checkpoint by
DEV_POOL = 10  # passages per dev query that a checkpoint is measured on


class Measuring(Asking):
    """Measures on the judged queries of a collection."""

    measures: ClassVar[Measures] = RETRIEVAL

    def first_stage(
        self, encoder: Encoder, queries: np.ndarray, passages: np.ndarray, *, depth: int
    ) -> Results:
        """Results of an encoder in training for queries among passages, given as positions, the
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
        return self.pools(queries, depth=DEV_POOL, miner=self.base) if len(queries) else None

    def dev_measure(
        self, settings: TrainingSettings, updates: int, player: Player
    ) -> Validation | None:
        """nDCG@10 of a player on dev: an encoder's among the pooled candidates and positives of dev
        queries, a ranker's over each query's own candidates, which may lack its positives.
        """
        pools = self.dev_pools() if settings.eval_every(updates) else None
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

        every = settings.eval_every(updates)
        among = "re-ranked" if isinstance(player.model, Ranker) else "pooled"
        return Validation(f"dev nDCG@10, {among}", value, player.name, every, settings.keep)
