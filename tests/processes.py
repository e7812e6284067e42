"""Runs in a process of their own, which a test may kill.

They are forked off a server that has imported everything, which saves seconds a run. Shards are
made small, so that a small run has many of them.
"""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest.mock import patch

SHARD_QUERIES = 8
BATCH_TOKENS = 128

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["preloaded"])


def _started(target: Callable[..., None], *arguments: object) -> Any:
    """A process that calls a function of this module."""
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):  # where the server looks
        forkserver.ensure_running()
    child = _server.Process(target=target, args=arguments)
    child.start()
    return child


def _ended(child: Any) -> int:
    """The exit code of a process, once it has ended; -9 when it was killed."""
    child.join()
    code = child.exitcode
    child.close()
    assert code is not None
    return int(code)


def _begin(kill_at: str) -> None:
    """First in every process."""
    import torch
    from tqdm import tqdm

    os.environ["LIMBECK_KILL_AT"] = kill_at
    os.fsync = lambda fd: None  # a kill, unlike a power cut, loses nothing that was written
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that a killed process leaves behind
    torch.set_num_threads(1)


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
    return _ended(_started(_distil, arguments, ledger, kill_at))


def command_in_child(words: Sequence[object], log: Path, *, kill_at: str = "") -> int:
    """The exit code of a command line in a process of its own; `log` gets stdout and stderr."""
    return _ended(_started(_command, [str(word) for word in words], log, kill_at))


class Coded:
    """A process that runs code, with arguments in `sys.argv[1:]`."""

    def __init__(self, code: str, *arguments: object, log: Path, kill_at: str = "") -> None:
        self.log = log
        words = [str(argument) for argument in arguments]
        self._child = _started(_execute, code, words, log, kill_at)

    def ended(self) -> int:
        """Its exit code, once it has ended; -9 when it was killed. `log` has what it printed."""
        return _ended(self._child)


def _execute(code: str, words: list[str], log: Path, kill_at: str) -> None:
    _begin(kill_at)
    sys.argv = ["-c", *words]
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})


def _command(words: list[str], log: Path, kill_at: str) -> None:
    from limbeck.cli import app

    _begin(kill_at)
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    app(words)


def _distil(arguments: dict[str, Any], ledger: Path, kill_at: str) -> None:
    from limbeck import inference, pipeline
    from limbeck.errors import LimbeckError
    from limbeck.tasks.retrieval import asking

    _begin(kill_at)
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


@dataclass(frozen=True)
class Together:
    """How processes that trained together ended, and what they printed."""

    codes: list[int]
    said: str


def in_processes(code: str, *arguments: object, log: Path, count: int = 2) -> Together:
    """Code, with arguments in `sys.argv[1:]`, in processes that find each other as those that
    torchrun starts do, by their environment. Being forked, they need not import everything anew.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [str(argument) for argument in arguments]
    sizes = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}
    children = [
        _started(_member, code, words, log, {**sizes, **where, "RANK": rank, "LOCAL_RANK": rank})
        for rank in range(count)
    ]
    codes = [_ended(child) for child in children]
    return Together(codes, log.read_text())


def _member(code: str, words: list[str], log: Path, place: dict[str, object]) -> None:
    os.environ.update({name: str(value) for name, value in place.items()})
    _execute(code, words, log, "")
