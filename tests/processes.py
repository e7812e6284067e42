"""Runs in a process of their own, which a test may kill.

They are forked off a server that has imported everything, which saves seconds a run. Shards are
made small, so that a small run has many of them.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from roughly import measure_roughly

SHARD_QUERIES = 8
BATCH_TOKENS = 128

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["limbeck.pipeline", "sentence_transformers"])


class Ledger:
    """A `Progress` that writes down each piece of work, so that it survives a kill."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("a", buffering=1)

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        # what was done before comes first: all at once in training and asking, not at all in mining
        calls = 0 if label.startswith("mine") else -1

        def done(count: int) -> None:
            nonlocal calls
            calls += 1
            if calls:
                self.file.write(json.dumps([label, count]) + "\n")

        yield done

    def say(self, line: str) -> None:
        pass


def work_in(ledger: Path) -> Counter[str]:
    """The units of work in a ledger, by label."""
    units: Counter[str] = Counter()
    for line in ledger.read_text().splitlines():
        label, count = json.loads(line)
        units[label] += count
    return units


def distil_in_child(arguments: dict[str, Any], ledger: Path, *, kill_at: str = "") -> int:
    """The exit code of a run in a process of its own; -9 when it was killed.

    The message of a refusal is left in `ledger.error`.
    """
    child = _server.Process(target=_distil, args=(arguments, ledger, kill_at))
    child.start()
    child.join()
    code = child.exitcode
    child.close()
    assert code is not None
    return code


def command_in_child(words: Sequence[object], log: Path, *, kill_at: str = "") -> int:
    """The exit code of a command line in a process of its own; `log` gets stdout and stderr."""
    child = _server.Process(target=_command, args=([str(word) for word in words], log, kill_at))
    child.start()
    child.join()
    code = child.exitcode
    child.close()
    assert code is not None
    return code


def _command(words: list[str], log: Path, kill_at: str) -> None:
    import torch
    from tqdm import tqdm

    from limbeck.cli import app

    os.environ["LIMBECK_KILL_AT"] = kill_at
    os.fsync = lambda fd: None
    measure_roughly()
    tqdm.set_lock(threading.RLock())
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    app(words)


def _distil(arguments: dict[str, Any], ledger: Path, kill_at: str) -> None:
    import torch
    from tqdm import tqdm

    from limbeck import inference, pipeline
    from limbeck.errors import LimbeckError
    from limbeck.tasks.retrieval import asking

    os.environ["LIMBECK_KILL_AT"] = kill_at
    os.fsync = lambda fd: None  # a kill, unlike a power cut, loses nothing that was written
    measure_roughly()
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that a killed process leaves behind
    torch.set_num_threads(1)
    inference.CPU_BATCH_TOKENS = BATCH_TOKENS
    for name in ("score_pairs", "embed_collection"):
        setattr(asking, name, partial(getattr(asking, name), shard_batches=1))
    for name in ("mine_lexical", "mine_dense"):
        setattr(asking, name, partial(getattr(asking, name), shard_queries=SHARD_QUERIES))
    try:
        pipeline.distill(**arguments, progress=Ledger(ledger))
    except LimbeckError as error:
        ledger.with_suffix(".error").write_text(str(error))
        sys.exit(error.exit_code)


def launched(*arguments: str, processes: int) -> subprocess.CompletedProcess[str]:
    """A script's outcome, run by torchrun in several processes of one thread each."""
    alone = {name: value for name, value in os.environ.items() if name != "LIMBECK_KILL_AT"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return subprocess.run(
        [sys.executable, *torchrun, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**alone, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
