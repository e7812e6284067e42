"""How good and how costly is a system on a split, and where is that kept?

A system is BM25, an encoder or a teacher. Its results on a split are one artefact: the TREC run,
the measures per query and the cost. No system is asked for a query's own passage. It knows no
recipe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl

from limbeck.candidates import Candidates
from limbeck.data.tokens import tokenize_here
from limbeck.evaluation.measures import Run as Results
from limbeck.evaluation.measures import read_trec, write_trec
from limbeck.evaluation.table import Cost
from limbeck.inference import embed, text_lengths
from limbeck.limit import Effort
from limbeck.models.encoder import Encoder
from limbeck.search import BM25, search_dense, search_others
from limbeck.similarity import comparable
from limbeck.store import digest, read_parquet, write_parquet
from limbeck.tasks.retrieval.measures import Measuring
from limbeck.tasks.task import Measured
from limbeck.teachers import Teacher
from limbeck.teachers.teacher import Model
from limbeck.types import Split

T = TypeVar("T")

DEPTH = 100  # passages per query in a run: what R@100 looks at
RERANKED = 50  # candidates per query that a teacher without vectors puts in order
TIMED_QUERIES = 20  # one at a time, as a live search would ask
TIMED_RERANKINGS = 5  # queries, likewise, for each of which a ranker reads `RERANKED` passages
TIMED_PASSAGES = 512  # together, spread over the collection


def measure_bm25(task: Measuring, split: Split) -> Measured:
    """BM25 over the whole collection."""

    def search() -> tuple[Results, Cost]:
        queries = task.split_queries(split)
        started = time.perf_counter()
        collection = task.collection
        index = BM25.build(collection.passages.texts, language=collection.language)
        built = time.perf_counter() - started
        texts = [collection.queries.texts[query] for query in queries]
        own = collection.own_passages[queries]
        found, scores = search_others(lambda k: index.search(texts, k), DEPTH, own)
        cost = Cost(
            ms_per_query=_median_ms(
                _timed(texts[:TIMED_QUERIES], lambda text: index.search([text], 10))
            ),
            passages_per_second=len(collection.passages) / built,
        )
        return task.results(queries, found, scores), cost

    return _measured(task, "bm25", split, {"bm25": "lucene"}, search)


def measure_encoder(task: Measuring, name: str, encoder: Encoder, split: Split) -> Measured:
    """An encoder as first stage over the whole collection."""
    queries = task.split_queries(split).astype(np.int64)
    engine, progress = task.run.engine, task.run.progress

    def vectors() -> tuple[np.ndarray, np.ndarray]:
        asked = embed(
            encoder, task.tokens_of(encoder, "query"), "query", engine=engine, positions=queries
        )
        tokens = task.tokens_of(encoder, "passage")
        return asked, embed(encoder, tokens, "passage", engine=engine, progress=progress)

    return _measured_vectors(task, name, encoder, split, vectors)


def measure_teacher(task: Measuring, name: str, teacher: Teacher, split: Split) -> Measured:
    """A teacher: first stage when it is one encoder, else re-ranking pooled candidates.

    What it said before, to this run or another, is not asked again; what it costs is measured on
    its models all the same. The candidates are those of BM25 and the base encoder, `RERANKED` per
    query; of a teacher that has scores of some pairs only, those pairs, and its cost is not known.
    """
    if teacher.first_stage is not None:

        def vectors() -> tuple[np.ndarray, np.ndarray]:
            asked = task.vectors(teacher, "query", task.split_queries(split))
            return asked, task.vectors(teacher, "passage")

        return _measured_vectors(task, name, teacher.first_stage, split, vectors)

    def search() -> tuple[Results, Cost]:
        pools = candidates(task, split, teacher)
        known = teacher.answers is not None  # computed elsewhere
        cost = Cost() if known else _cost_of_ranking(task, teacher, pools)
        return task.reranked(teacher, pools), cost

    return _measured(task, name, split, {"teacher": teacher.digest, "depth": RERANKED}, search)


def candidates(task: Measuring, split: Split, teacher: Teacher) -> Candidates:
    """Candidates that a teacher ranks for the queries of a split."""
    depth = RERANKED if teacher.answers is None else DEPTH
    return task.pools(task.split_queries(split), depth=depth, miner=task.base, scorer=teacher)


def unmeasured(task: Measuring, teacher: Teacher, split: Split) -> str | None:
    """Why a teacher cannot be measured on a split, in words; None when it can.

    Figures over some of the queries could not be compared with those of other systems.
    """
    if teacher.answers is None:
        return None
    queries = task.split_queries(split)
    known = int(np.isin(queries, teacher.answers[:, 0]).sum())
    if known == len(queries):
        return None
    return f"it has scores for {known:,} of {len(queries):,} {split} queries"


def _cost_of_ranking(task: Measuring, teacher: Teacher, pools: Candidates) -> Cost:
    """Cost of using a ranker: some queries one at a time, each with its candidates.

    Its `passages_per_second` are those it puts in order meanwhile.
    """
    places = range(min(TIMED_RERANKINGS, len(pools)))
    found = [pools.for_query(place).astype(np.int64) for place in places]
    collection, engine = task.collection, task.run.engine
    ranker = teacher.live_ranker(collection, task.tokens, engine, np.concatenate(found))
    texts = [collection.queries.texts[query] for query in pools.queries[: len(found)]]
    seconds = _timed(list(zip(texts, found, strict=True)), lambda asked: ranker(*asked))
    effort = Effort(seconds=sum(seconds))
    queries = pools.queries[: len(found)].astype(np.int64)
    owners = np.repeat(queries, [len(own) for own in found])
    pairs = np.stack([owners, np.concatenate(found)], axis=1)
    for lengths, flops in teacher.read_live(pairs, task.tokens):
        effort.read(lengths, flops)
    return _cost(
        task,
        teacher.models(),
        effort,
        ms_per_query=_median_ms(seconds),
        passages_per_second=sum(map(len, found)) / effort.seconds,
    )


def _cost(
    task: Measuring,
    models: Sequence[Model],
    effort: Effort,
    *,
    ms_per_query: float,
    passages_per_second: float,
) -> Cost:
    """The cost of a system of these models, which read passages with this effort."""
    speed = effort.speed(task.run.engine.matmul_rate)
    return Cost(
        ms_per_query=ms_per_query,
        passages_per_second=passages_per_second,
        parameters=sum(model.parameter_count() for model in models),
        megabytes=sum(model.size_bytes() for model in models) / 1e6,
        tokens_per_second=speed["tokens_per_second"],
        useful_flops_per_second=speed["useful_flops_per_second"],
        share_of_limit=speed["share_of_limit"],
    )


def _measured_vectors(
    task: Measuring,
    name: str,
    encoder: Encoder,
    split: Split,
    vectors: Callable[[], tuple[np.ndarray, np.ndarray]],
) -> Measured:
    """An encoder as first stage; `vectors` gives those of the split's queries and all passages."""

    def search() -> tuple[Results, Cost]:
        asked, answers = (comparable(each, encoder.similarity) for each in vectors())
        queries = task.split_queries(split)
        own = task.collection.own_passages[queries]
        found, scores = search_others(lambda k: search_dense(asked, answers, k), DEPTH, own)
        return task.results(queries, found, scores), _cost_of_searching(
            task, encoder, queries, answers
        )

    inputs = {"weights": encoder.weights_digest(), "config": encoder.config_digest()}
    return _measured(task, name, split, inputs, search)


def _cost_of_searching(
    task: Measuring, encoder: Encoder, queries: np.ndarray, answers: np.ndarray
) -> Cost:
    """Cost of using an encoder: some queries one at a time, some passages together."""
    engine, passages = task.run.engine, len(task.collection.passages)

    def ask(text: str) -> None:
        one = tokenize_here([text], encoder.tokenizer, prompt=encoder.prompt("query"))
        vector = embed(encoder, one, "query", engine=engine)
        search_dense(comparable(vector, encoder.similarity), answers, 10)

    texts = [task.collection.queries.texts[query] for query in queries]
    ms_per_query = _median_ms(_timed(texts[:TIMED_QUERIES], ask))  # warms the encoder up, too
    spread = np.unique(np.linspace(0, passages - 1, TIMED_PASSAGES).astype(np.int64))
    tokens = task.tokens_of(encoder, "passage")
    started = time.perf_counter()
    embed(encoder, tokens, "passage", engine=engine, positions=spread)
    effort = Effort(seconds=time.perf_counter() - started)
    lengths = text_lengths(encoder, tokens, "passage", spread)
    effort.read(lengths, encoder.forward_flops(lengths))
    return _cost(
        task,
        [encoder],
        effort,
        ms_per_query=ms_per_query,
        passages_per_second=len(spread) / effort.seconds,
    )


def _measured(
    task: Measuring,
    name: str,
    split: Split,
    inputs: Mapping[str, object],
    search: Callable[[], tuple[Results, Cost]],
) -> Measured:
    """Measure a search, once; later calls read the result back."""
    inputs = {
        **inputs,
        "collection": task.collection.digest,
        "split": split,
        "depth": DEPTH,
        "engine": task.run.engine.key(),
    }
    stage = f"evaluate-{name.replace('/', '-')}-{split}-{digest(inputs)[:8]}"

    def work() -> Measured:
        folder = task.run.stage(stage, inputs)
        if not folder.complete:
            results, cost = search()
            write_trec(folder.path / "run.trec", results, tag=name.replace("/", "-"), stage=stage)
            write_parquet(
                folder.path / "per_query.parquet", task.quality(results, split), stage=stage
            )
            folder.finish(cost=asdict(cost))
        frame = read_parquet(
            folder.path / "per_query.parquet", {"query_id": pl.String}, others=pl.Float64
        )
        return Measured(name, split, stage, frame, Cost(**folder.metrics["cost"]))

    return task.run.first(work)


def _timed(asked: Sequence[T], ask: Callable[[T], object]) -> list[float]:
    """The seconds that asking each takes, one at a time, after one to warm up."""
    ask(asked[0])
    times = []
    for each in asked:
        started = time.perf_counter()
        ask(each)
        times.append(time.perf_counter() - started)
    return times


def _median_ms(seconds: Sequence[float]) -> float:
    """The median in milliseconds."""
    return 1000 * float(np.median(seconds))


def write_runs(run: Path, out: Path, systems: Sequence[Measured]) -> None:
    """Write one TREC run per system of a run."""
    for each in systems:
        results = read_trec(run / "stages" / each.stage / "run.trec")
        tag = each.name.replace("/", "-")
        write_trec(out / "runs" / f"{tag}.trec", results, tag=tag, stage="report")
