"""Where does the time of a training update go, and what share of the limit does it use?

The update is the one of `kl`: in-batch KL against a teacher with vectors, queries with lists of
passages of mixed length. Students of two sizes are trained for some updates in the real loop; the
time of its parts is this process's own (all threads), so that a busy machine does not count. A
second, short stage runs under torch.profiler, for the operations below forward and backward. The
teacher is one layer and the lists are drawn: neither changes the work of an update.

    python benchmarks/profile_update.py DATA
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch.profiler import ProfilerActivity, profile

from ledger import RESULTS, write_results
from limbeck.bench.page import table
from limbeck.data import read_collection
from limbeck.data.collate import Collator
from limbeck.data.collection import Collection
from limbeck.data.tokens import tokenize_here
from limbeck.inference import choose_engine
from limbeck.limit import matmul_rate
from limbeck.models.encoder import Encoder
from limbeck.models.layers import cut_layers
from limbeck.models.loading import OFFLINE, load_encoder
from limbeck.objectives.listwise import kl_divergence
from limbeck.recipes import find
from limbeck.settings import parse_settings
from limbeck.sources import ListSource
from limbeck.store import read_json
from limbeck.tasks.fit import train_model
from limbeck.tasks.retrieval import Retrieval
from limbeck.tasks.retrieval.scorers import dual, stored
from limbeck.teachers import DualTeacher
from limbeck.training import Pass, Player, Run, Turn, forward, loop
from limbeck.types import Loss, Signals
from speed import random_lists

PARTS = {
    "lists": "drawing lists",
    "collate": "collating",
    "forward": "forward",
    "backward": "backward",
    "clip": "clipping",
    "optimiser": "optimiser",
    "rest": "the rest",
}
OUTERMOST = "rest"
PROFILED = 2  # updates under torch.profiler
MAX_SHOWN = 12  # operations
TEMPERATURE = 0.05


def main() -> int:
    asked = options()
    collection = read_collection(asked.data)
    encoder = load_encoder(asked.encoder)
    limit = matmul_rate(
        "cpu", choose_engine("torch", trains=True).training().precision, clock=time.process_time
    )
    rows = [student_row(asked, collection, encoder, layers, limit) for layers in asked.layers]
    record = {
        "benchmark": "profile-update",
        "data": {"name": collection.name, "digest": collection.digest},
        "engine": choose_engine("torch", trains=True).training().key(),
        "matmul_gflops": limit / 1e9,
        "updates": asked.updates,
        "batch_size": asked.queries,
        "list_length": asked.list_length,
        "rows": rows,
    }
    write_results(asked.results, asked.name, record, page(record))
    return 0


def options() -> argparse.Namespace:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("data", help="a folder in the BEIR layout, or pydocs")
    asked.add_argument("--encoder", default=OFFLINE)
    asked.add_argument("--layers", type=int, nargs="+", default=(2, 6), help="of the students")
    asked.add_argument("--updates", type=int, default=10, help="timed, after two to warm up")
    asked.add_argument("--queries", type=int, default=16, help="per update")
    asked.add_argument("--list-length", type=int, default=8, help="passages per query")
    asked.add_argument("--name", default="profile-update", help="of the files of results")
    asked.add_argument("--results", type=Path, default=RESULTS)
    return asked.parse_args()


class Parts:
    """Seconds of this process in each part of updates, those of parts inside it left out."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Count what is done inside for this part."""
        self._turn()
        self._open.append(part)
        self.calls[part] += 1
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        now = time.process_time()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def watching(self, owner: Any, name: str, part: str) -> Iterator[None]:
        """Count the calls of a function of a class or module for this part, those in updates."""
        original: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(original)
        def counted(*given: Any, **named: Any) -> Any:
            if part != OUTERMOST and not self._open:
                return original(*given, **named)
            with self.within(part):
                return original(*given, **named)

        setattr(owner, name, counted)
        try:
            yield
        finally:
            setattr(owner, name, original)


@contextmanager
def watched(parts: Parts) -> Iterator[None]:
    """The loop, its parts counted."""
    with ExitStack() as stack:
        for owner, name, part in (
            (loop, "_update", OUTERMOST),
            (ListSource, "batch", "lists"),
            (Collator, "singles", "collate"),
            (Encoder, "forward", "forward"),
            (Pass, "backward", "backward"),
            (torch.nn.utils, "clip_grad_norm_", "clip"),
            (Player, "step", "optimiser"),
        ):
            stack.enter_context(parts.watching(owner, name, part))
        yield


def student_row(
    asked: argparse.Namespace,
    collection: Collection,
    encoder: Encoder,
    layers: int,
    limit: float,
) -> dict[str, Any]:
    """Where the time of a student's updates goes."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        train(asked, collection, encoder, layers, folder, "warm", 2)
        parts = Parts()
        with watched(parts):
            counted = train(asked, collection, encoder, layers, folder, "timed", asked.updates)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            train(asked, collection, encoder, layers, folder, "profiled", PROFILED)
    seconds = sum(parts.seconds.values())
    operations = {
        each.key: each.self_cpu_time_total
        for each in profiled.key_averages()
        if each.key.startswith("aten::") or each.key.startswith("autograd::")
    }
    return {
        "layers": layers,
        "ms_per_update": 1000 * seconds / asked.updates,
        "shares": {part: parts.seconds[part] / seconds for part in PARTS},
        "micro_batches_per_update": parts.calls["forward"] / asked.updates,
        "tokens_per_update": counted["speed"]["tokens"] / asked.updates,
        "padding_share": 1 - counted["speed"]["tokens"] / counted["padded_tokens"],
        "share_of_limit": counted["speed"]["useful_flops"] / seconds / limit,
        "tokenising_ms_per_update": tokenising(asked, collection, encoder),
        "operations": {
            key: spent / sum(operations.values())
            for key, spent in Counter(operations).most_common(MAX_SHOWN)
        },
    }


def train(
    asked: argparse.Namespace,
    collection: Collection,
    encoder: Encoder,
    layers: int,
    folder: Path,
    name: str,
    updates: int,
) -> dict[str, Any]:
    """A stage of so many updates; what it counted. The folder keeps the teacher's vectors."""
    student = cut_layers(encoder, layers)
    teacher = DualTeacher("teacher", cut_layers(encoder, 1))
    task = Retrieval(collection, Run(folder, 0, choose_engine("torch", trains=True)), teacher, None)
    source = ListSource(random_lists(collection), asked.queries, asked.list_length, seed=0)
    settings: Any = parse_settings(find("kl").settings, {"max_steps": updates, "eval_steps": 0})

    def loss(signals: Signals) -> Loss:
        divergence = kl_divergence(
            signals.scores["teacher/in_batch"],
            signals.scores["student/in_batch"],
            teacher_temperature=TEMPERATURE,
            student_temperature=TEMPERATURE,
        )
        return Loss({"kl": divergence})

    turn = Turn(
        forward(dual(task, "student", student), stored(task, "teacher", teacher)),
        loss,
        trains=frozenset({"student"}),
    )
    train_model(task, name, student, source, turn, settings)
    found: dict[str, Any] = read_json(folder / "stages" / f"train-{name}" / "done.json")
    return dict(found["metrics"])


def tokenising(asked: argparse.Namespace, collection: Collection, encoder: Encoder) -> float:
    """Milliseconds that tokenising the texts of one update takes: once, before the first one."""
    source = ListSource(random_lists(collection), asked.queries, asked.list_length, seed=0)
    started = time.process_time()
    for update in range(asked.updates):
        batch = source.batch(update)
        for texts, positions in (
            (collection.queries.texts, batch.queries),
            (collection.passages.texts, batch.passages),
        ):
            tokenize_here([texts[at] for at in positions], encoder.tokenizer)
    return 1000 * (time.process_time() - started) / asked.updates


def page(record: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    rows = record["rows"]
    headings = ["part of an update", *(f"{row['layers']} layers" for row in rows)]
    cells = [
        [words, *(f"{row['shares'][part]:.1%}" for row in rows)] for part, words in PARTS.items()
    ]
    facts = [
        ["milliseconds of this process", *(f"{row['ms_per_update']:,.0f}" for row in rows)],
        ["micro-batches", *(f"{row['micro_batches_per_update']:.1f}" for row in rows)],
        ["tokens, without padding", *(f"{row['tokens_per_update']:,.0f}" for row in rows)],
        ["padding, of all tokens", *(f"{row['padding_share']:.1%}" for row in rows)],
        ["useful FLOP/s, share of the limit", *(f"{row['share_of_limit']:.1%}" for row in rows)],
        [
            "tokenising these texts, once before training, ms",
            *(f"{row['tokenising_ms_per_update']:.1f}" for row in rows),
        ],
    ]
    words = (
        f"In-batch KL, {record['batch_size']} queries with {record['list_length']} "
        f"passages each, {record['updates']} updates in {record['engine']['precision']}. The limit "
        f"is the best matrix product, {record['matmul_gflops']:,.0f} GFLOP/s of this process's "
        f"time. Data digest {record['data']['digest'][:16]}."
    )
    parts = [
        f"# Profile of an update: {record['data']['name']}",
        words,
        table(headings, cells),
        table(["an update", *headings[1:]], facts),
    ]
    for row in rows:
        shares = [[f"`{key}`", f"{share:.1%}"] for key, share in row["operations"].items()]
        parts.append(f"Operations of torch, {row['layers']} layers, self time:")
        parts.append(table(["operation", "share"], shares))
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
