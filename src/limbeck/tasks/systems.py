"""How good and how costly is a system on a split, and where is that kept?

A system is BM25, an encoder or a teacher. Its results on a split are one artefact: the TREC run,
the measures per query and the cost. It knows no recipe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from limbeck.candidates import Candidates
from limbeck.data.tokens import tokenize_here
from limbeck.evaluation.measures import Run as Results
from limbeck.evaluation.measures import write_trec
from limbeck.evaluation.table import Cost
from limbeck.inference import embed
from limbeck.models.encoder import Encoder
from limbeck.search import BM25, search_dense
from limbeck.store import digest, read_parquet, write_parquet
from limbeck.tasks.retrieval import Retrieval, normalised
from limbeck.teachers.teachers import DualTeacher, Teacher
from limbeck.types import Split

DEPTH = 100  # passages per query in a run: what R@100 looks at
RERANKED = 50  # candidates per query that a teacher without vectors puts in order
TIMED_QUERIES = 20  # one at a time, as a live search would ask
TIMED_PASSAGES = 512  # together, spread over the collection


@dataclass(frozen=True, slots=True)
class Measured:
    """A system on a split: measures per query and what it costs to use; `stage` keeps its run."""

    name: str
    split: Split
    stage: str
    per_query: pl.DataFrame
    cost: Cost


def measure_bm25(task: Retrieval, split: Split) -> Measured:
    """BM25 over the whole collection."""

    def search() -> tuple[Results, Cost]:
        queries = task.split_queries(split)
        started = time.perf_counter()
        index = BM25.build(task.collection.passages.texts)
        built = time.perf_counter() - started
        texts = [task.collection.queries.texts[query] for query in queries]
        found, scores = index.search(texts, DEPTH)
        cost = Cost(
            ms_per_query=_median_ms(texts, lambda text: index.search([text], 10)),
            passages_per_second=len(task.collection.passages) / built,
        )
        return task.results(queries, found, scores), cost

    return _measured(task, "bm25", split, {"bm25": "lucene"}, search)


def measure_encoder(task: Retrieval, name: str, encoder: Encoder, split: Split) -> Measured:
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


def measure_teacher(task: Retrieval, name: str, teacher: Teacher, split: Split) -> Measured:
    """A teacher: first stage when it is one encoder, else re-ranking pooled candidates.

    What it said before, to this run or another, is not asked again but for the timing. The
    candidates are those of BM25 and the base encoder, `RERANKED` per query; of a teacher that has
    scores of some pairs only, those pairs.
    """
    if isinstance(teacher, DualTeacher):

        def vectors() -> tuple[np.ndarray, np.ndarray]:
            asked = task.vectors(teacher, "query", task.split_queries(split))
            return asked, task.vectors(teacher, "passage")

        return _measured_vectors(task, name, teacher.encoder, split, vectors)

    def search() -> tuple[Results, Cost]:
        pools = candidates(task, split, teacher)
        started = time.perf_counter()
        results = task.reranked(teacher, pools)
        seconds = time.perf_counter() - started
        return results, Cost(ms_per_query=1000 * seconds / max(1, len(pools)))

    return _measured(task, name, split, {"teacher": teacher.digest, "depth": RERANKED}, search)


def candidates(task: Retrieval, split: Split, teacher: Teacher) -> Candidates:
    """What a teacher is asked to put in order for the queries of a split."""
    depth = RERANKED if teacher.answers is None else DEPTH
    return task.pools(task.split_queries(split), depth=depth, teacher=task.base, asked=teacher)


def unmeasured(task: Retrieval, teacher: Teacher, split: Split) -> str | None:
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


def _measured_vectors(
    task: Retrieval,
    name: str,
    encoder: Encoder,
    split: Split,
    vectors: Callable[[], tuple[np.ndarray, np.ndarray]],
) -> Measured:
    """An encoder as first stage; `vectors` gives those of the split's queries and all passages."""

    def search() -> tuple[Results, Cost]:
        asked, answers = vectors()
        if encoder.similarity == "cosine":
            asked, answers = normalised(asked), normalised(answers)
        found, scores = search_dense(asked, answers, DEPTH)
        queries = task.split_queries(split)
        return task.results(queries, found, scores), _cost(task, encoder, queries, answers)

    inputs = {"weights": encoder.weights_digest(), "config": encoder.config_digest()}
    return _measured(task, name, split, inputs, search)


def _cost(task: Retrieval, encoder: Encoder, queries: np.ndarray, answers: np.ndarray) -> Cost:
    """What an encoder costs to use: some queries one at a time, some passages together."""
    engine, passages = task.run.engine, len(task.collection.passages)

    def ask(text: str) -> None:
        one = tokenize_here([text], encoder.tokenizer, prompt=encoder.prompt("query"))
        vector = embed(encoder, one, "query", engine=engine)
        search_dense(normalised(vector) if encoder.similarity == "cosine" else vector, answers, 10)

    texts = [task.collection.queries.texts[query] for query in queries]
    ms_per_query = _median_ms(texts, ask)  # warms the encoder up, too
    spread = np.unique(np.linspace(0, passages - 1, TIMED_PASSAGES).astype(np.int64))
    tokens = task.tokens_of(encoder, "passage")
    started = time.perf_counter()
    embed(encoder, tokens, "passage", engine=engine, positions=spread)
    seconds = time.perf_counter() - started
    size = encoder.size_bytes() / 1e6
    return Cost(ms_per_query, len(spread) / seconds, encoder.parameter_count(), size)


def _measured(
    task: Retrieval,
    name: str,
    split: Split,
    inputs: Mapping[str, object],
    search: Callable[[], tuple[Results, Cost]],
) -> Measured:
    """What a search gives, made once and then read back."""
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
        frame = read_parquet(folder.path / "per_query.parquet")
        return Measured(name, split, stage, frame, Cost(**folder.metrics["cost"]))

    return task.run.first(work)


def _median_ms(texts: list[str], ask: Callable[[str], object]) -> float:
    """The median milliseconds of asking some of the texts, one at a time, after one to warm up."""
    chosen = texts[:TIMED_QUERIES]
    ask(chosen[0])
    times = []
    for text in chosen:
        started = time.perf_counter()
        ask(text)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))
