"""How good is a retriever?

What encoders find and how rankers and teachers order it, held to judgements. It knows no test and
no report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import polars as pl

from limbeck.candidates import Candidates
from limbeck.evaluation.measures import RETRIEVAL, per_query, run_of
from limbeck.evaluation.measures import Run as Results
from limbeck.evaluation.statistics import Measures
from limbeck.inference import embed, score
from limbeck.models.encoder import Encoder, Ranker, WrappedModel
from limbeck.objectives.rows import entropy
from limbeck.search import search_dense, search_others
from limbeck.similarity import comparable
from limbeck.sources import ListBatch
from limbeck.store import digest
from limbeck.tasks.fit import TrainingSettings
from limbeck.tasks.retrieval.asking import Asking
from limbeck.teachers import Teacher
from limbeck.training import Pass, Player, Scorer, Validation
from limbeck.training.distributed import Group
from limbeck.types import PassageId, QueryId, Split

DEV_QUERIES = 300  # enough to choose a checkpoint by
DEV_POOL = 10  # passages per dev query that a checkpoint is measured on
LAYER_QUERIES = 100  # of dev, enough to see which layers rank at all


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

    def layer_figures(
        self, name: str, player: Player, scorer: Scorer, temperature: float
    ) -> dict[int, tuple[float, float]]:
        """What each layer of a player knows that a scorer gives the scores of, in a stage of this
        name: nDCG@10 on dev, each query's candidates re-ranked, and the mean entropy, in nats, of
        the softmax of its scores over a temperature. Nothing without dev.
        """
        queries = self.split_queries("dev")[:LAYER_QUERIES]
        if not len(queries):
            return {}
        pools = self.pools(queries, depth=DEV_POOL, miner=self.base)
        model, alone = player.model, replace(self.run, group=Group())
        assert isinstance(model, WrappedModel)
        inputs = {
            "collection": self.collection.digest,
            "model": [model.weights_digest(), *model.digests()],
            "pools": digest([pools.queries.tolist(), pools.passages.tolist()]),
            "scores": sorted(scorer.gives),
            "temperature": temperature,
            "engine": self.run.engine.training().key(),
        }

        def work() -> dict[int, tuple[float, float]]:
            player.model.to(self.run.engine.device)  # a pass moves no model
            folder = self.run.stage(f"layers-{name}", inputs)
            if not folder.complete:
                update = Pass(
                    alone,
                    {player.name: player},
                    frozenset(),
                    stage=name,
                    update=0,
                    progress=0.0,
                    bytes_per_token={},
                )
                found, kept = scorer.scores(update, _shown(pools)), []
                for layer in range(1, len(found)):
                    scores = found.get(f"{player.name}/layer/{layer}")
                    if scores is not None:
                        results = self.ranked(pools, scores.values[scores.mask].cpu().numpy())
                        ndcg = float(self.quality(results, "dev")["nDCG@10"].to_numpy().mean())
                        logits = replace(scores, values=scores.values / temperature)
                        kept.append((layer, ndcg, float(entropy(logits).mean())))
                folder.finish(layers=kept)
            return {layer: (ndcg, nats) for layer, ndcg, nats in folder.metrics["layers"]}

        return self.run.first(work)


def _shown(pools: Candidates) -> ListBatch:
    """Pools as the lists of one update, unjudged: a query's candidates in order."""
    counts = np.diff(pools.offsets)
    passages, columns = np.unique(pools.passages, return_inverse=True)
    lists = np.full((len(pools), int(counts.max(initial=0))), -1, dtype=np.int64)
    lists[np.arange(lists.shape[1]) < counts[:, None]] = columns
    return ListBatch(
        queries=pools.queries.astype(np.int64),
        passages=passages.astype(np.int64),
        lists=lists,
        labelled=np.zeros(len(pools), dtype=bool),
        not_negatives=np.zeros((len(pools), len(passages)), dtype=bool),
    )
