"""What do requests that arrive together gain from being computed together?

Starts `limbeck serve` twice on one index: as it comes, and with `--max-batch 1`. In rounds that
take turns, clients on this machine send one request after the other for some seconds, searches
and then embeddings of one passage each. Every answer must be a good one, and no server may grow.

    python benchmarks/serve_load.py
    python benchmarks/serve_load.py --data DATA --model run/student --clients 32
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import numpy as np

from ledger import RESULTS, write_results
from limbeck import indexing
from limbeck.bench.page import table
from limbeck.cli.progress import on_stderr
from limbeck.data import read_collection
from limbeck.models.layers import cut_layers
from limbeck.models.loading import OFFLINE, load_encoder

ARMS = {"dynamic batches": (), "one at a time": ("--max-batch", "1")}
WARM_UP = 8.0  # seconds of load before anything is counted: OpenVINO keeps what it met of shapes


@dataclass
class Load:
    """What the clients of one arm and one kind of request saw, over all rounds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)  # answers per second of each round
    batches: float = 0.0
    batched: float = 0.0

    def row(self) -> dict[str, Any]:
        """The figures for the results."""
        milliseconds = np.array(self.latencies) * 1000
        return {
            "requests": len(self.latencies),
            "per_second": len(self.latencies) / self.seconds,
            "p50_ms": float(np.percentile(milliseconds, 50)),
            "p99_ms": float(np.percentile(milliseconds, 99)),
            "errors": len(self.errors),
            "mean_batch": self.batched / self.batches,
        }


def main() -> int:
    asked = options()
    with TemporaryDirectory() as scratch:
        folder, collection = indexed(asked, Path(scratch))
        requests = {
            "search": [("/search", {"query": text, "k": 10}) for text in collection.queries.texts],
            "embeddings": [
                ("/v1/embeddings", {"input": text, "model": "index", "encoding_format": "base64"})
                for text in collection.passages.texts
            ],
        }
        loads = {(kind, arm): Load() for kind in requests for arm in ARMS}
        with served(folder, asked, ARMS["dynamic batches"]) as dynamic:  # noqa: SIM117
            with served(folder, asked, ARMS["one at a time"]) as alone:
                servers = dict(zip(ARMS, (dynamic, alone), strict=True))
                for url in servers.values():
                    for wanted in requests.values():
                        asyncio.run(clients(url, wanted, asked.clients, WARM_UP, Load()))
                before = {arm: memory(url) for arm, url in servers.items()}
                for number in range(asked.rounds):
                    for kind, wanted in requests.items():
                        for arm in list(ARMS)[:: 1 if number % 2 == 0 else -1]:
                            load = loads[kind, arm]
                            measure(servers[arm], wanted, asked, load)
                            print(
                                f"{number + 1}. {kind}, {arm}: {load.rates[-1]:.0f}/s", flush=True
                            )
                after = {arm: memory(url) for arm, url in servers.items()}
    rows = [{"request": kind, "arm": arm, **load.row()} for (kind, arm), load in loads.items()]
    ratios = {
        kind: median(
            together / apart
            for together, apart in zip(*(loads[kind, arm].rates for arm in ARMS), strict=True)
        )
        for kind in requests
    }
    record = {
        "benchmark": "serve_load",
        "data": {
            "name": collection.name,
            "digest": collection.digest,
            "passages": len(collection.passages),
        },
        "clients": asked.clients,
        "rounds": asked.rounds,
        "seconds_per_round": asked.seconds,
        "rows": rows,
        "throughput_ratio": ratios,
        "memory_mb": {arm: {"start": before[arm], "end": after[arm]} for arm in ARMS},
    }
    write_results(asked.results, asked.name, record, page(record))
    errors = [each for load in loads.values() for each in load.errors]
    for each in errors[:5]:
        print(each, file=sys.stderr)
    return 1 if errors else 0


def options() -> argparse.Namespace:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("--data", default="pydocs", help="a folder in the BEIR layout, or pydocs")
    asked.add_argument("--model", help="an encoder; by default 2 layers of the offline one")
    asked.add_argument("--clients", type=int, default=16, help="requests at a time")
    asked.add_argument("--seconds", type=float, default=8, help="of load per round and arm")
    asked.add_argument("--rounds", type=int, default=2)
    asked.add_argument("--backend", default="auto", help="as for limbeck serve")
    asked.add_argument("--name", default="serve-load", help="of the files of results")
    asked.add_argument("--results", type=Path, default=RESULTS, help="benchmarks/results")
    return asked.parse_args()


def indexed(asked: argparse.Namespace, scratch: Path) -> tuple[Path, Any]:
    """An index of the data, and the collection."""
    model = asked.model
    if model is None:
        model = str(scratch / "model")
        cut_layers(load_encoder(OFFLINE), 2, "spread").save(Path(model), card="", stage="base")
    collection = read_collection(asked.data, drop_unknown_judgements=True)
    with on_stderr() as progress:
        indexing.build(model, collection, scratch / "index", progress=progress)
    return scratch / "index", collection


@contextmanager
def served(folder: Path, asked: argparse.Namespace, options: tuple[str, ...]) -> Iterator[str]:
    """The address of a server, for as long as it is needed."""
    command = [sys.executable, "-c", "from limbeck.cli import main; main()", "serve", str(folder)]
    command += ["--port", "0", "--no-bm25", "--backend", asked.backend, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        if found is None:
            sys.exit("The server did not start.")
        try:
            yield found[0]
        finally:
            process.send_signal(signal.SIGTERM)


def measure(url: str, wanted: list[tuple[str, Any]], asked: argparse.Namespace, load: Load) -> None:
    """One round: add to a load what its clients saw."""
    count, total = batches(url)
    answered, begun = len(load.latencies), time.perf_counter()
    asyncio.run(clients(url, wanted, asked.clients, asked.seconds, load))
    took = time.perf_counter() - begun
    load.seconds += took
    load.rates.append((len(load.latencies) - answered) / took)
    count_now, total_now = batches(url)
    load.batches += count_now - count
    load.batched += total_now - total


async def clients(
    url: str, wanted: list[tuple[str, Any]], count: int, seconds: float, load: Load
) -> None:
    """Clients that each send one request after the other until the time is over."""
    until = time.perf_counter() + seconds

    async def one(number: int, client: httpx2.AsyncClient) -> None:
        at = number
        while (begun := time.perf_counter()) < until:
            path, body = wanted[at % len(wanted)]
            at += count
            try:
                answer = await client.post(path, json=body)
            except httpx2.HTTPError as error:
                load.errors.append(repr(error))
                continue
            load.latencies.append(time.perf_counter() - begun)
            if answer.status_code != 200:
                load.errors.append(answer.text)

    limits = httpx2.Limits(max_connections=count)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
        await asyncio.gather(*(one(number, client) for number in range(count)))


def metric(url: str, name: str) -> float:
    """The sum of a metric of the server over its labels."""
    lines = httpx2.get(f"{url}/metrics").text.splitlines()
    own = [line for line in lines if re.match(rf"{name}[ {{]", line)]
    return sum(float(line.rpartition(" ")[2]) for line in own)


def batches(url: str) -> tuple[float, float]:
    """How many batches the server has computed, and how many texts in them."""
    return metric(url, "limbeck_batch_texts_count"), metric(url, "limbeck_batch_texts_sum")


def memory(url: str) -> float:
    """The server's resident memory in MB."""
    return metric(url, "process_resident_memory_bytes") / 1e6


def page(record: Any) -> str:
    """The results as Markdown."""
    headings = ["request", "arm", "requests/s", "p50 ms", "p99 ms", "texts per batch", "errors"]
    cells = [
        [
            row["request"],
            row["arm"],
            *(f"{row[key]:.1f}" for key in ("per_second", "p50_ms", "p99_ms", "mean_batch")),
            str(row["errors"]),
        ]
        for row in record["rows"]
    ]
    found = "; ".join(
        f"{kind} {ratio:.2f} times as many" for kind, ratio in record["throughput_ratio"].items()
    )
    grown = "; ".join(
        f"{arm} {held['start']:.0f} MB at the start, {held['end']:.0f} MB at the end"
        for arm, held in record["memory_mb"].items()
    )
    data = record["data"]
    made_of = (
        f"Data: {data['name']}, {data['passages']:,} passages, digest {data['digest'][:16]}. "
        f"{record['clients']} clients, {record['rounds']} rounds of "
        f"{record['seconds_per_round']:g} s; clients and servers share the machine, so the rates "
        "are of both."
    )
    return "\n\n".join(
        [
            "# Serving under load: dynamic batches against one text at a time",
            f"Requests per second with dynamic batches against without: {found}.",
            table(headings, cells),
            f"Memory of the server: {grown}.",
            made_of,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
