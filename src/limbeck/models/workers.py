"""How do several processes share a model's batches on a processor?

Each worker is a process that holds the model and computes a batch at a time in torch, on one
thread; whoever is free gets the next batch, and outputs come back in the order of the batches. So
every output has the same bytes, however many workers there are.

A worker listens to the process that started it, through a socket that nobody else holds. The kernel
closes that socket when the process ends, however it ends, and then the worker leaves at once, in
the middle of a batch if need be.

This module does not know what a batch holds.
"""

from __future__ import annotations

import atexit
import os
import pickle
import select
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from limbeck.errors import ConfigError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.forward import forward
from limbeck.models.quiet import quiet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_kept: Workers | None = None  # for the next model: starting one takes seconds


class Workers:
    """Some processes that compute batches; they hold no model at first."""

    def __init__(self, count: int) -> None:
        self._holds = ""
        self._processes: dict[Connection, subprocess.Popen[bytes]] = {}
        for _ in range(count):
            ours, theirs = Pipe()
            with theirs:
                self._processes[ours] = _started(theirs.fileno())

    def __len__(self) -> int:
        return len(self._processes)

    def hold(self, model: Encoder | Ranker) -> None:
        """Give every worker a copy of the model, in eval mode, when it has another one.

        Raises:
            ConfigError: when a worker ended.
        """
        if self._holds != (content := model.content_digest()):
            copy = pickle.dumps(model, protocol=pickle.HIGHEST_PROTOCOL)
            for connection in self._processes:
                self._send(connection, copy)
            self._holds = content

    def run(
        self, batches: Iterable[dict[str, Tensor]], precision: Literal["fp32", "bf16"]
    ) -> Iterator[NDArray[np.float32]]:
        """The output of each batch, in order.

        Raises:
            ConfigError: when a worker ended.
            RuntimeError: with the traceback of what failed in a worker.
        """
        numbered = enumerate(batches)
        idle = list(self._processes)
        busy: dict[Connection, int] = {}
        found: dict[int, NDArray[np.float32]] = {}
        wanted = 0
        while True:
            while idle and (following := next(numbered, None)) is not None:
                number, features = following
                arrays = {name: value.numpy() for name, value in features.items()}
                self._send(idle[-1], (arrays, precision))
                busy[idle.pop()] = number
            if not busy:
                return
            for connection in cast("list[Connection]", wait(list(busy))):
                found[busy.pop(connection)] = self._received(connection)
                idle.append(connection)
            while wanted in found:
                yield found.pop(wanted)
                wanted += 1

    def close(self) -> None:
        """End the processes."""
        for connection, process in self._processes.items():
            connection.close()
            process.kill()
            process.wait()
        self._processes = {}

    def _send(self, connection: Connection, message: object) -> None:
        try:
            connection.send(message)
        except OSError as error:
            raise self._ended(connection) from error

    def _received(self, connection: Connection) -> NDArray[np.float32]:
        try:
            answer = connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended(connection) from error
        if isinstance(answer, str):
            raise RuntimeError(f"A worker failed.\n{answer}")
        output: NDArray[np.float32] = answer
        return output

    def _ended(self, connection: Connection) -> ConfigError:
        """The error for a worker that is no more."""
        code = self._processes[connection].wait()
        how = f"was killed by signal {-code}" if code < 0 else f"left with exit code {code}"
        return ConfigError(
            f"One of the {len(self)} processes of --workers {how}, perhaps because there is not "
            "enough memory for a copy of the model in each. Finished work is kept: run the same "
            "command again with fewer --workers."
        )


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """A pool of that many workers, for one use at a time; they stay for the next one unless this
    one fails.

    Whoever leaves before all batches are done leaves workers in the middle of something: those are
    ended, too.
    """
    global _kept
    pool, _kept = _kept, None
    if pool is not None and len(pool) != count:
        pool.close()
        pool = None
    pool = pool or Workers(count)
    try:
        yield pool
    except BaseException:
        pool.close()
        raise
    if _kept is not None:
        _kept.close()
    _kept = pool


@atexit.register
def close_workers() -> None:
    """End the workers that wait for more work."""
    global _kept
    if _kept is not None:
        _kept.close()
        _kept = None


def work(descriptor: int) -> None:
    """Compute tasks that come through a socket until it closes: the whole life of a worker."""
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_it, args=(descriptor,), daemon=True).start()
    connection = Connection(descriptor)
    model: Any = None
    with suppress(EOFError, OSError):  # closed: nobody waits for anything
        while True:
            message = connection.recv()
            try:
                if isinstance(message, bytes):
                    with quiet():
                        model = pickle.loads(message).eval()
                    continue
                arrays, precision = message
                features = {name: torch.from_numpy(value) for name, value in arrays.items()}
                answer: object = forward(model, features, device="cpu", precision=precision)
            except Exception:
                answer = traceback.format_exc()
            connection.send(answer)


def _leave_with_it(descriptor: int) -> None:
    """Leave, whatever the other thread is doing, when the other end of a socket is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is always told
    poll.poll()
    os._exit(0)


def _started(descriptor: int) -> subprocess.Popen[bytes]:
    """A worker at the other end of a socket.

    It shares neither the terminal, whose interrupts are for the process that started it, nor
    stdout, which is for results; and it imports what this process would.
    """
    return subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-c",
            f"from limbeck.models.workers import work; work({descriptor})",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        pass_fds=[descriptor],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
