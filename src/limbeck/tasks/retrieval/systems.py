"""How good and how costly is a system on a split, and where is that kept?

A system is BM25, an encoder or a teacher. Its results on a split are one artefact: the TREC run,
the measures per query and the cost. No system is asked for a query's own passage. It knows no
recipe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np
import polars as pl
import torch

from limbeck.candidates import Candidates
from limbeck.data.tokens import tokenize_here
from limbeck.evaluation.measures import Run as Results
from limbeck.evaluation.measures import write_trec
from limbeck.evaluation.table import Cost
from limbeck.inference import (
    compare_readings,
    embed,
    pair_lengths,
    read_plan,
    score,
    text_lengths,
)
from limbeck.limit import Effort
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.reading import Reader
from limbeck.search import BM25, search_dense, search_others
from limbeck.similarity import comparable, matrix_similarity
from limbeck.store import digest, read_parquet, write_parquet
from limbeck.tasks.retrieval.task import Retrieval
from limbeck.teachers.teachers import (
    CrossTeacher,
    DualTeacher,
    EnsembleTeacher,
    ReaderTeacher,
    Teacher,
)
from limbeck.types import Split

T = TypeVar("T")

DEPTH = 100  # passages per query in a run: what R@100 looks at
RERANKED = 50  # candidates per query that a teacher without vectors puts in order
TIMED_QUERIES = 20  # one at a time, as a live search would ask
TIMED_RERANKINGS = 5  # queries, likewise, for each of which a ranker reads `RERANKED` passages
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

    What it said before, to this run or another, is not asked again; what it costs is measured on
    its models all the same. The candidates are those of BM25 and the base encoder, `RERANKED` per
    query; of a teacher that has scores of some pairs only, those pairs, and its cost is not known.
    """
    if isinstance(teacher, DualTeacher):

        def vectors() -> tuple[np.ndarray, np.ndarray]:
            asked = task.vectors(teacher, "query", task.split_queries(split))
            return asked, task.vectors(teacher, "passage")

        return _measured_vectors(task, name, teacher.encoder, split, vectors)

    def search() -> tuple[Results, Cost]:
        pools = candidates(task, split, teacher)
        known = teacher.answers is not None  # computed elsewhere
        cost = Cost() if known else _cost_of_ranking(task, teacher, pools)
        return task.reranked(teacher, pools), cost

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


def live_ranker(
    task: Retrieval, teacher: Teacher, passages: np.ndarray
) -> Callable[[str, np.ndarray], np.ndarray]:
    """What scores a query's text with passages, as a service would that puts them in order.

    The function takes the text and the positions [n] of some of `passages`, and gives the
    teacher's raw scores [n], by its models and never from the score store. What an index would
    keep is made now: the passages' tokens, and where a member of the teacher is dual, their
    vectors. So a cross-encoder reads the query with every passage, a dual encoder the query alone;
    a sparse encoder or late-interaction model reads both, for nothing here keeps what it reads.
    """
    engine = task.run.engine
    if isinstance(teacher, EnsembleTeacher):
        rankers = [live_ranker(task, member, passages) for member in teacher.members]
        return lambda text, at: teacher.combine([ranker(text, at) for ranker in rankers])
    if isinstance(teacher, CrossTeacher):
        ranker = teacher.ranker
        tokens = task.tokens(ranker.tokenizer, "passage", "")

        def read(text: str, at: np.ndarray) -> np.ndarray:
            asked = tokenize_here([text], ranker.tokenizer)
            pairs = np.stack([np.zeros(len(at), dtype=np.int64), at], axis=1)
            return score(ranker, asked, tokens, pairs, engine=engine)

        return read
    if isinstance(teacher, ReaderTeacher):
        reader, texts = teacher.reader, task.collection.passages.texts

        def read_both(text: str, at: np.ndarray) -> np.ndarray:
            plan = read_plan(texts, at, reader, engine.max_batch_tokens)
            places = [np.flatnonzero(np.isin(at, batch)) for batch in plan]
            pairs = np.stack([np.zeros(len(at), dtype=np.int64), at], axis=1)
            scores = np.empty(len(at), dtype=np.float32)
            for rows, found in compare_readings(reader, [text], texts, pairs, places, engine):
                scores[rows] = found
            return scores

        return read_both
    assert isinstance(teacher, DualTeacher)
    encoder, known = teacher.encoder, np.unique(passages).astype(np.int64)
    similarity = matrix_similarity(teacher.similarity)
    answers = embed(
        encoder, task.tokens_of(encoder, "passage"), "passage", engine=engine, positions=known
    )

    def compare(text: str, at: np.ndarray) -> np.ndarray:
        asked = tokenize_here([text], encoder.tokenizer, prompt=encoder.prompt("query"))
        vector = embed(encoder, asked, "query", engine=engine)
        found = torch.from_numpy(answers[np.searchsorted(known, at)])
        scores: np.ndarray = similarity(torch.from_numpy(vector), found)[0].numpy()
        return scores

    return compare


def _cost_of_ranking(task: Retrieval, teacher: Teacher, pools: Candidates) -> Cost:
    """What a ranker costs to use: some queries one at a time, each with its candidates.

    Its `passages_per_second` are those it puts in order meanwhile.
    """
    places = range(min(TIMED_RERANKINGS, len(pools)))
    found = [pools.for_query(place).astype(np.int64) for place in places]
    ranker = live_ranker(task, teacher, np.concatenate(found))
    texts = [task.collection.queries.texts[query] for query in pools.queries[: len(found)]]
    seconds = _timed(list(zip(texts, found, strict=True)), lambda asked: ranker(*asked))
    models = _models(teacher)
    effort = Effort(seconds=sum(seconds))
    queries = pools.queries[: len(found)].astype(np.int64)
    owners = np.repeat(queries, [len(own) for own in found])
    pairs = np.stack([owners, np.concatenate(found)], axis=1)
    for model in models:
        lengths = _read_live(task, model, pairs)
        effort.read(lengths, None if lengths is None else model.forward_flops(lengths))
    return _cost(
        task,
        models,
        effort,
        ms_per_query=_median_ms(seconds),
        passages_per_second=sum(map(len, found)) / effort.seconds,
    )


def _read_live(
    task: Retrieval, model: Encoder | Ranker | Reader, pairs: np.ndarray
) -> np.ndarray | None:
    """The lengths in tokens of what a model reads to score pairs [n, 2]; None = not known."""
    if isinstance(model, Ranker):
        queries = task.tokens(model.tokenizer, "query", "")
        return pair_lengths(model, queries, task.tokens(model.tokenizer, "passage", ""), pairs)
    if isinstance(model, Encoder):
        tokens = task.tokens_of(model, "query")
        return text_lengths(model, tokens, "query", np.unique(pairs[:, 0]))
    return None


def _cost(
    task: Retrieval,
    models: Sequence[Encoder | Ranker | Reader],
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


def _models(teacher: Teacher) -> list[Encoder | Ranker | Reader]:
    """The models that a teacher asks."""
    if isinstance(teacher, EnsembleTeacher):
        return [model for member in teacher.members for model in _models(member)]
    if isinstance(teacher, CrossTeacher):
        return [teacher.ranker]
    if isinstance(teacher, ReaderTeacher):
        return [teacher.reader]
    assert isinstance(teacher, DualTeacher)
    return [teacher.encoder]


def _measured_vectors(
    task: Retrieval,
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
    task: Retrieval, encoder: Encoder, queries: np.ndarray, answers: np.ndarray
) -> Cost:
    """What an encoder costs to use: some queries one at a time, some passages together."""
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
