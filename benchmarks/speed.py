"""How much faster than sentence-transformers, and how near to what the processor can do?

Every row is one kind of work, done by sentence-transformers as it comes, by it with its weights in
bf16, and by Limbeck, in rounds that take turns at going first; ratios compare within a round, so
that a busy machine slows all. Converting and compiling a model come before the clock starts, and
tokenising is inside it for everyone. Texts and pairs are real ones of the collection; the ranker of
`score` has a fresh head unless `--ranker` names one, and the teacher's scores in `train_step` are
random: neither changes the work. Needs the extras `offline`, `openvino` and `bench`.

    python benchmarks/speed.py DATA
    python benchmarks/speed.py DATA --passages 200 --pairs 100 --vectors 20000 --clock cpu
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

import head_to_head
from ledger import RESULTS, write_results
from limbeck.bench.page import table
from limbeck.data import read_collection
from limbeck.data.collection import Collection
from limbeck.data.tokens import tokenize_here
from limbeck.evaluation.measures import per_query
from limbeck.inference import Engine, choose_engine, embed, score, text_lengths
from limbeck.limit import matmul_rate
from limbeck.models.encoder import Encoder
from limbeck.models.exported import load_exported
from limbeck.models.layers import cut_layers, ranker_from_encoder
from limbeck.models.loading import OFFLINE, load_encoder, load_ranker
from limbeck.models.probing import precisions
from limbeck.pipeline import export
from limbeck.recipes import find
from limbeck.search import BM25, search_dense
from limbeck.settings import parse_settings
from limbeck.sources import QueryList, QueryLists
from limbeck.tasks.retrieval import Retrieval
from limbeck.teachers import DualTeacher
from limbeck.training import Run
from limbeck.types import PassageId, Qrels, QueryId

DEFAULT, BF16, OURS, INT8 = "default", "torch_bf16", "limbeck", "limbeck_int8"
NARROW = "limbeck_bf16"  # exact search among passages that are kept in bf16
BEST, BEST_INT8 = "their_openvino", "their_openvino_int8"
RATIOS = ("encode", "encode_int8", "score", "train_step", "search_one", "search_many")
WORK = (*RATIOS, "linearity")
LINEARITY_LAYERS = 2  # of the student that encodes collections of several sizes, so in minutes
CANDIDATES = 8  # per query, of `score` and `train_step`
QUERIES_PER_UPDATE = 16
DEPTH = 100

Side = Callable[[], Any]


def main() -> int:
    asked = options()
    collection = read_collection(asked.data)
    encoder = load_encoder(asked.encoder)
    clock = time.perf_counter if asked.clock == "wall" else time.process_time
    limits = {each: matmul_rate("cpu", each, clock=clock) for each in precisions("cpu")}
    limit = max(limits.values())
    print(f"limit: {limit / 1e9:.0f} GFLOP/s; {reasons()}", flush=True)
    rows: list[dict[str, Any]] = []
    wanted = set(asked.work)
    timed = partial(in_rounds, rounds=asked.rounds, clock=clock)
    if wanted & {"encode", "encode_int8"}:
        rows += encode_rows(asked, collection, encoder, timed, limit)
    if "score" in wanted:
        rows.append(score_row(asked, collection, encoder, timed, limit))
    if "train_step" in wanted:
        rows.append(train_row(asked, collection, encoder, clock))
    if wanted & {"search_one", "search_many"}:
        rows += search_rows(asked, timed)
    if "linearity" in wanted:
        rows.append(linearity_row(asked, collection, encoder, clock))
    record = {
        "benchmark": "speed",
        "data": {"name": collection.name, "digest": collection.digest},
        "rounds": asked.rounds,
        "clock": asked.clock,
        "load_average": os.getloadavg()[0],
        "matmul_gflops": {each: rate / 1e9 for each, rate in limits.items()},
        "precision": reasons(),
        "rows": [row for row in rows if row["work"].removesuffix("_bf16") in wanted],
    }
    write_results(asked.results, asked.name, record, page(record))
    return 0


def options() -> argparse.Namespace:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("data", help="a folder in the BEIR layout, or pydocs")
    asked.add_argument("--work", nargs="+", choices=WORK, default=WORK, help="rows")
    asked.add_argument("--encoder", default=OFFLINE)
    asked.add_argument("--ranker", help="a CrossEncoder; the encoder with a fresh head")
    asked.add_argument(
        "--best-python",
        help="the Python of an environment with sentence-transformers' OpenVINO set-up",
    )
    asked.add_argument("--passages", type=int, default=2000, help="encoded")
    asked.add_argument("--pairs", type=int, default=1600, help="scored")
    asked.add_argument("--burst", type=int, default=10, help="updates of a round")
    asked.add_argument("--vectors", type=int, default=1_000_000, help="searched")
    asked.add_argument("--queries", type=int, default=1000, help="of search_many")
    asked.add_argument(
        "--sizes", type=int, nargs="+", default=(1000, 10_000, 100_000), help="of linearity"
    )
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine that is busy"
    )
    asked.add_argument("--name", default="speed", help="of the files of results")
    asked.add_argument("--results", type=Path, default=RESULTS)
    return asked.parse_args()


# --- timing -------------------------------------------------------------------------------------


def in_rounds(
    sides: Mapping[str, Side], *, rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each side by round; sides take turns at going first, after one round unseen."""
    names, found = list(sides), {side: [] for side in sides}
    for number in range(-1, rounds):
        for place in range(len(names)):
            side = names[(number + place) % len(names)]
            started = clock()
            sides[side]()
            if number >= 0:
                found[side].append(clock() - started)
        print(f"round {number + 1} of {rounds}", flush=True)
    return found


def times_faster(found: Mapping[str, Sequence[float]], base: str, side: str) -> float | None:
    """How many times as fast as `base` a side is: the median over rounds."""
    if base not in found:
        return None
    return statistics.median(b / s for b, s in zip(found[base], found[side], strict=True))


def row(
    work: str, found: Mapping[str, Sequence[float]], side: str, share: float | None, **more: Any
) -> dict[str, Any]:
    """One row of results; `vs_best` compares int8 with int8, and the others with floats."""
    beside = BEST_INT8 if side == INT8 else BEST
    return {
        "work": work,
        "vs_default": times_faster(found, DEFAULT, side),
        "vs_torch_bf16": times_faster(found, BF16, side),
        "vs_best": times_faster(found, beside, side),
        "share_of_limit": share,
        "seconds": {name: statistics.median(values) for name, values in found.items()},
        **more,
    }


def share(flops: float | None, found: Mapping[str, Sequence[float]], limit: float) -> float | None:
    """The share of `limit` (FLOP/s) that our side uses, when its useful FLOP are known."""
    return None if flops is None else flops / statistics.median(found[OURS]) / limit


def halved(model: Any) -> Any:
    """A copy of theirs with its weights in bf16."""
    return copy.deepcopy(model).bfloat16()


def best_engine() -> Engine:
    """OpenVINO in the precision that is measured to be the faster one."""
    return choose_engine("openvino")


def reasons() -> str:
    """Which precision was taken, to read in OpenVINO and to train in torch, and why."""
    return " ".join(choose_engine("openvino", trains=True).notes)


@dataclass
class Best:
    """sentence-transformers' OpenVINO set-up, in a process of the environment that has it."""

    process: subprocess.Popen[str]
    versions: dict[str, str]

    def __call__(self) -> None:
        """Do the work once."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("go", file=self.process.stdin, flush=True)
        if self.process.stdout.readline().strip() != "done":
            raise SystemExit("theirs.py ended: see what it wrote above")


@contextmanager
def best(python: str, work: str, model: Any, given: Sequence[Any]) -> Iterator[Best]:
    """Their model on texts or pairs, compiled and ready."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, texts = Path(scratch) / "model", Path(scratch) / "texts.json"
        model.save_pretrained(str(folder))
        texts.write_text(json.dumps(given), encoding="utf-8")
        command = [python, str(Path(__file__).with_name("theirs.py")), work, str(folder)]
        with subprocess.Popen(
            [*command, str(texts)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        ) as process:
            assert process.stdout is not None
            ready = process.stdout.readline()
            if not ready:
                raise SystemExit("theirs.py ended: see what it wrote above")
            yield Best(process, json.loads(ready)["ready"])


# --- encoding -----------------------------------------------------------------------------------


def encode_rows(
    asked: argparse.Namespace,
    collection: Collection,
    encoder: Encoder,
    timed: Callable[[Mapping[str, Side]], dict[str, list[float]]],
    limit: float,
) -> list[dict[str, Any]]:
    """`encode` and, where it is wanted, `encode_int8`, in the same rounds."""
    texts = some(collection.passages.texts, asked.passages)
    engine, model, half = best_engine(), encoder.model, halved(encoder.model)

    def ours(own: Encoder) -> np.ndarray:
        tokens = tokenize_here(texts, own.tokenizer, prompt=own.prompt("passage"))
        return embed(own, tokens, "passage", engine=engine)

    sides: dict[str, Side] = {
        DEFAULT: lambda: model.encode(texts),
        BF16: lambda: half.encode(texts),
        OURS: lambda: ours(encoder),
    }
    quality = {}
    if "encode_int8" in asked.work:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "int8"
            found = export(asked.encoder, to="openvino-int8", out=out, data=asked.data, force=True)
            small = load_exported(out)
        assert isinstance(small, Encoder)
        quality = {"dev_ndcg_lost": found.lost}
        sides[INT8] = lambda: ours(small)
    exact = model.encode(texts)
    cosines = (exact * ours(encoder)).sum(axis=1) / np.linalg.norm(exact, axis=1)
    versions = None
    with ExitStack() as running:
        if asked.best_python:
            theirs = partial(best, asked.best_python, model=model, given=texts)
            sides[BEST] = running.enter_context(theirs(work="encode"))
            versions = sides[BEST].versions
            if INT8 in sides:
                sides[BEST_INT8] = running.enter_context(theirs(work="encode_int8"))
        seconds = timed(sides)
    collator = encoder.collator("passage")
    stored = tokenize_here(texts, encoder.tokenizer, prompt=encoder.prompt("passage")).lengths
    lengths = [collator.length(int(length)) for length in stored]
    flops = encoder.forward_flops(lengths)
    sizes = {
        "texts": len(texts),
        "tokens": sum(lengths),
        "engine": engine.key(),
        "versions_of_best": versions,
    }
    rows = [
        row(
            "encode",
            seconds,
            OURS,
            share(flops, seconds, limit),
            least_cosine=float(cosines.min()),
            **sizes,
        )
    ]
    if INT8 in sides:
        rows.append(row("encode_int8", seconds, INT8, None, **quality, **sizes))
    return rows


def some(texts: Sequence[str], count: int) -> list[str]:
    """So many of the texts, evenly spread."""
    places = np.linspace(0, len(texts) - 1, min(count, len(texts))).astype(np.int64)
    return [texts[at] for at in np.unique(places)]


# --- scoring ------------------------------------------------------------------------------------


def score_row(
    asked: argparse.Namespace,
    collection: Collection,
    encoder: Encoder,
    timed: Callable[[Mapping[str, Side]], dict[str, list[float]]],
    limit: float,
) -> dict[str, Any]:
    """`score`: judged queries with what BM25 finds for them."""
    from sentence_transformers import CrossEncoder

    ranker = load_ranker(asked.ranker) if asked.ranker else ranker_from_encoder(encoder, 0)
    engine = best_engine()
    pairs, qrels = candidate_pairs(collection, asked.pairs)
    queries, passages = collection.queries, collection.passages
    texts = [(queries.texts[query], passages.texts[passage]) for query, passage in pairs]
    assert isinstance(ranker.model, CrossEncoder)
    model, half = ranker.model, halved(ranker.model)
    asked_at, query_rows = np.unique(pairs[:, 0], return_inverse=True)
    found_at, passage_rows = np.unique(pairs[:, 1], return_inverse=True)
    rows = np.stack([query_rows, passage_rows], axis=1)

    def ours() -> np.ndarray:
        left = tokenize_here([queries.texts[at] for at in asked_at], ranker.tokenizer)
        right = tokenize_here([passages.texts[at] for at in found_at], ranker.tokenizer)
        return score(ranker, left, right, rows, engine=engine)

    sides: dict[str, Side] = {
        DEFAULT: lambda: model.predict(texts),
        BF16: lambda: half.predict(texts),
        OURS: ours,
    }
    quality = {
        f"ndcg_{name}": reranked(collection, pairs, scores, qrels)
        for name, scores in (("theirs", model.predict(texts)), ("ours", ours()))
    }
    versions = None
    with ExitStack() as running:
        if asked.best_python:
            sides[BEST] = running.enter_context(best(asked.best_python, "score", model, texts))
            versions = sides[BEST].versions
        seconds = timed(sides)
    lengths = ranker.model.tokenizer(
        *map(list, zip(*texts, strict=True)), truncation=True, max_length=ranker.max_length
    )["input_ids"]
    flops = ranker.forward_flops([len(ids) for ids in lengths])
    return row(
        "score",
        seconds,
        OURS,
        share(flops, seconds, limit),
        pairs=len(pairs),
        fresh_head=asked.ranker is None,
        engine=engine.key(),
        versions_of_best=versions,
        **quality,
    )


def candidate_pairs(collection: Collection, count: int) -> tuple[np.ndarray, Qrels]:
    """(query, passage) positions [n, 2] of judged queries and their candidates; the judgements."""
    split = next(split for split in ("test", "dev", "train") if split in collection.qrels)
    judged = collection.qrels[split]
    chosen = list(judged)[: max(1, count // CANDIDATES)]
    at = np.array([collection.queries.index[query] for query in chosen])
    index = BM25.build(collection.passages.texts)
    found, _ = index.search([collection.queries.texts[place] for place in at], CANDIDATES)
    pairs = np.stack([np.repeat(at, CANDIDATES), found.ravel()], axis=1).astype(np.int64)
    return pairs[pairs[:, 1] >= 0], {query: judged[query] for query in chosen}


def reranked(collection: Collection, pairs: np.ndarray, scores: np.ndarray, qrels: Qrels) -> float:
    """nDCG@10 of candidates in the order of scores [n]."""
    run: dict[QueryId, dict[PassageId, float]] = {}
    for (query, passage), value in zip(pairs, scores, strict=True):
        name = QueryId(collection.queries.ids[query])
        run.setdefault(name, {})[PassageId(collection.passages.ids[passage])] = float(value)
    return float(per_query(run, qrels)["nDCG@10"].to_numpy().mean())


# --- training -----------------------------------------------------------------------------------


def train_row(
    asked: argparse.Namespace,
    collection: Collection,
    encoder: Encoder,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """`train_step`: KL over lists of eight, by their trainer in fp32 and bf16, and by our loop."""
    settings: Any = parse_settings(
        find("kl").settings,
        {
            "max_steps": asked.burst,
            "eval_steps": 0,
            "keep": "last",
            "batch_size": QUERIES_PER_UPDATE,
            "list_length": CANDIDATES,
        },
    )
    settings = head_to_head.with_temperature(settings, encoder)
    with tempfile.TemporaryDirectory() as scratch:
        engine = choose_engine("torch", trains=True)
        run = Run(Path(scratch), 0, engine)
        task = Retrieval(collection, run, DualTeacher("base", encoder), None)
        lists = random_lists(collection)
        setup = head_to_head.Setup(encoder, task.base, lists, task, settings, 0.05)
        sides: dict[str, Callable[[int], head_to_head.Trained]] = {
            DEFAULT: lambda seed: head_to_head.theirs(setup, seed, asked.burst),
            BF16: lambda seed: head_to_head.theirs(setup, seed, asked.burst, bf16=True),
            OURS: lambda seed: head_to_head.ours(
                setup, engine, seed, asked.burst, Path(scratch) / f"burst-{seed}"
            ),
        }
        names, seconds = list(sides), {side: [] for side in sides}
        losses: dict[str, list[float]] = {}
        head_to_head.clock = clock
        for number in range(asked.rounds):
            for place in range(len(names)):
                side = names[(number + place) % len(names)]
                trained = sides[side](number)
                steady = trained.seconds[min(2, len(trained.seconds) - 1) :]
                seconds[side].append(statistics.median(steady))
                losses.setdefault(side, trained.losses)
            print(f"round {number + 1} of {asked.rounds}", flush=True)
    trained = engine.training().key()
    return row(
        "train_step", seconds, OURS, None, updates=asked.burst, losses=losses, engine=trained
    )


def random_lists(collection: Collection) -> QueryLists:
    """Labelled queries with passages drawn for them, and a teacher's scores that are drawn, too."""
    random, total, lists = np.random.default_rng(0), len(collection.passages), []
    for name in collection.labelled:
        judged = collection.qrels["train"][name]
        index = collection.passages.index
        known = np.array([index[passage] for passage, grade in judged.items() if grade > 0])
        pool = random.choice(total, size=min(total, 4 * CANDIDATES), replace=False)
        pool = pool[~np.isin(pool, known)]
        scores = random.uniform(-1, 1, len(known) + len(pool)).astype(np.float32)
        named = {"teacher": scores}
        lists.append(QueryList(collection.queries.index[name], name, known, pool, named))
    return QueryLists(lists)


# --- exact search -------------------------------------------------------------------------------


def search_rows(
    asked: argparse.Namespace, timed: Callable[[Mapping[str, Side]], dict[str, list[float]]]
) -> list[dict[str, Any]]:
    """`search_one` and `search_many`, over random vectors of length 1."""
    from sentence_transformers.util import semantic_search

    random = np.random.default_rng(0)
    vectors = random.standard_normal((asked.vectors, 384), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[: asked.queries] + np.float32(0.01)
    theirs, one = torch.from_numpy(vectors), queries[:1]
    narrow = theirs.bfloat16()
    rows = []
    if "search_one" in asked.work:
        found = timed(
            {
                DEFAULT: lambda: semantic_search(torch.from_numpy(one), theirs, top_k=DEPTH),
                OURS: lambda: search_dense(one, vectors, DEPTH),
                NARROW: lambda: search_dense(one, narrow, DEPTH),
                "numpy_sum": lambda: vectors.sum(),
                "torch_sum": lambda: theirs.sum(),
                "bf16_sum": lambda: narrow.sum(),
            }
        )
        share = times_faster(found, quicker(found, "numpy_sum", "torch_sum"), OURS)
        rows.append(row("search_one", found, OURS, share, vectors=asked.vectors))
        share = times_faster(found, "bf16_sum", NARROW)
        rows.append(row("search_one_bf16", found, NARROW, share, vectors=asked.vectors))
    if "search_many" in asked.work:
        height = 16_384

        def products(multiply: Callable[[Any, Any], Any], left: Any, right: Any) -> None:
            for start in range(0, len(vectors), height):
                multiply(left, right[start : start + height].T)

        found = timed(
            {
                DEFAULT: lambda: semantic_search(torch.from_numpy(queries), theirs, top_k=DEPTH),
                OURS: lambda: search_dense(queries, vectors, DEPTH),
                NARROW: lambda: search_dense(queries, narrow, DEPTH),
                "numpy_matmul": lambda: products(np.matmul, queries, vectors),
                "torch_matmul": lambda: products(torch.mm, torch.from_numpy(queries), theirs),
                "bf16_matmul": lambda: products(
                    torch.mm, torch.from_numpy(queries).bfloat16(), narrow
                ),
            }
        )
        share = times_faster(found, quicker(found, "numpy_matmul", "torch_matmul"), OURS)
        sizes = {"vectors": asked.vectors, "queries": len(queries)}
        rows.append(row("search_many", found, OURS, share, **sizes))
        share = times_faster(found, "bf16_matmul", NARROW)
        rows.append(row("search_many_bf16", found, NARROW, share, **sizes))
    return rows


def quicker(found: Mapping[str, Sequence[float]], one: str, other: str) -> str:
    """Which of two sides took less time."""
    return one if sum(found[one]) < sum(found[other]) else other


# --- growing collections ------------------------------------------------------------------------


def linearity_row(
    asked: argparse.Namespace,
    collection: Collection,
    encoder: Encoder,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """`linearity`: tokens per second of a small student, whatever the size of the collection."""
    student, engine = cut_layers(encoder, LINEARITY_LAYERS), best_engine()
    largest = max(asked.sizes)
    texts = distinct(collection.passages.texts, min(asked.sizes), largest)

    def encode(size: int) -> int:
        tokens = tokenize_here(texts[:size], student.tokenizer, prompt=student.prompt("passage"))
        embed(student, tokens, "passage", engine=engine)
        return int(text_lengths(student, tokens, "passage", np.arange(size)).sum())

    encode(min(asked.sizes))  # converts and compiles
    rates = {}
    for size in sorted(asked.sizes):
        found = []
        for _ in range(min(asked.rounds, max(1, largest // size))):
            started = clock()
            tokens = encode(size)
            found.append(tokens / (clock() - started))
        rates[size] = statistics.median(found)
        print(f"{size} passages: {rates[size]:,.0f} tokens/s", flush=True)
    return {
        "work": "linearity",
        "vs_default": None,
        "vs_torch_bf16": None,
        "vs_best": None,
        "share_of_limit": None,
        "tokens_per_second": rates,
        "slowest_over_fastest": min(rates.values()) / max(rates.values()),
        "layers": LINEARITY_LAYERS,
        "engine": engine.key(),
    }


def distinct(texts: Sequence[str], base: int, count: int) -> list[str]:
    """So many texts, no two the same: some `base` of those given, again and again, each with a
    number before it. So every size that `base` divides has the same mix of lengths.
    """
    chosen = some(texts, base)
    return [f"{number} {chosen[number % len(chosen)]}" for number in range(count)]


# --- results ------------------------------------------------------------------------------------


def page(record: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    headings = ["work", "precision", "vs default", "vs torch bf16", "vs best", "share of limit"]
    cells = [
        [
            each["work"],
            "int8"
            if each["work"] == "encode_int8"
            else each.get("engine", {}).get("precision", ""),
            *(
                "" if each[key] is None else f"{each[key]:.2f}"
                for key in ("vs_default", "vs_torch_bf16", "vs_best", "share_of_limit")
            ),
        ]
        for each in record["rows"]
        if each["work"] in RATIOS or each["work"].endswith("_bf16")
    ]
    products = ", ".join(f"{each} {rate:.0f}" for each, rate in record["matmul_gflops"].items())
    words = (
        "Times as fast as sentence-transformers: medians of "
        f"{record['rounds']} rounds, {record['clock']} clock, load {record['load_average']:.1f}. "
        f"Matrix products: {products} GFLOP/s. Data: {record['data']['name']}, digest "
        f"{record['data']['digest'][:16]}."
    )
    why = record["precision"]
    parts = ["# Speed", words, f"{why[:1].upper()}{why[1:]}.", table(headings, cells)]
    for each in record["rows"]:
        if each["work"] == "linearity":
            rates = each["tokens_per_second"]
            parts.append(
                f"Linearity: {each['layers']} layers; the slowest size has "
                f"{each['slowest_over_fastest']:.0%} of the rate of the fastest."
            )
            parts.append(
                table(
                    ["passages", "tokens/s"],
                    [[f"{size:,}", f"{rate:,.0f}"] for size, rate in rates.items()],
                )
            )
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
