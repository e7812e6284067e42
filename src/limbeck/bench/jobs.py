"""How do the arms of a comparison run: one after the other here, or several at once?

With `jobs` above 1 each job is a process of one thread that runs an arm at a time and reports its
progress. An arm whose process is killed is one failed arm: the others go on, and its job gets a new
process. When the process that started them ends, however it ends, the jobs end with it, in the
middle of an arm if need be; the next call goes on from there.

This module does not know what an arm does, nor in which order arms run.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, cast

import torch

from limbeck.errors import LimbeckError
from limbeck.pipeline import distill
from limbeck.types import Progress

_TELL_SECONDS = 0.2  # between two reports of a job on one task

Arguments = Mapping[str, Any]  # of `distill`


@dataclass(frozen=True, slots=True)
class Ended:
    """An arm that ended: its name, how long it took, and why it failed, if it did."""

    name: str
    seconds: float
    failure: str | None = None


class Runner(Protocol):
    """Runs arms, in this process or in others."""

    @property
    def free(self) -> bool:
        """Whether another arm may start."""

    def start(self, name: str, title: str, arguments: Arguments) -> None:
        """Start an arm."""

    def ended(self, seconds: float | None = None) -> list[Ended]:
        """The arms that ended, once one has, or after so many seconds."""


@contextmanager
def runner(jobs: int, progress: Progress) -> Iterator[Runner]:
    """A runner of that many arms at once, closed when the block ends."""
    if jobs == 1:
        yield _Here(progress)
        return
    found = _Jobs(jobs, progress)
    try:
        yield found
    finally:
        found.close()


@contextmanager
def threads_of(jobs: int) -> Iterator[None]:
    """Use one thread in this process where there are several jobs, which have one thread each:
    records and checks made here then hold for them.
    """
    before = torch.get_num_threads()
    if jobs > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Here:
    """Arms in this process, one after the other."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._ended: list[Ended] = []

    @property
    def free(self) -> bool:
        return not self._ended

    def start(self, name: str, title: str, arguments: Arguments) -> None:
        """Run an arm to its end."""
        self._ended.append(_run(name, arguments, self._progress))

    def ended(self, seconds: float | None = None) -> list[Ended]:
        found, self._ended = self._ended, []
        return found


@dataclass
class _Job:
    """A process, and the arm that it runs, if any."""

    process: subprocess.Popen[bytes]
    connection: Connection
    name: str = ""
    title: str = ""
    started: float = 0.0

    def __post_init__(self) -> None:
        self.tasks: dict[int, tuple[AbstractContextManager[Any], Callable[[int], None]]] = {}


class _Jobs:
    """Arms in processes of one thread each."""

    def __init__(self, count: int, progress: Progress) -> None:
        self._progress = progress
        self._count = count
        self._jobs: list[_Job] = []  # started when they are needed

    @property
    def free(self) -> bool:
        return sum(bool(job.name) for job in self._jobs) < self._count

    def start(self, name: str, title: str, arguments: Arguments) -> None:
        job = next((job for job in self._jobs if not job.name), None)
        if job is None:
            job = _started()
            self._jobs.append(job)
        job.name, job.title, job.started = name, title, time.perf_counter()
        with suppress(OSError):  # a process that is no more is told by `ended`
            job.connection.send((name, dict(arguments)))

    def ended(self, seconds: float | None = None) -> list[Ended]:
        deadline = None if seconds is None else time.perf_counter() + seconds
        found: list[Ended] = []
        while not found:
            left = None if deadline is None else max(0.0, deadline - time.perf_counter())
            busy = {job.connection: job for job in self._jobs if job.name}
            ready = cast("list[Connection]", wait(list(busy), left))
            if not ready:
                break
            heard = [self._heard(busy[connection]) for connection in ready]
            found += [end for end in heard if end is not None]
        return found

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        for job in self._jobs:
            self._close(job)
        self._jobs = []

    def _close(self, job: _Job) -> None:
        job.connection.close()
        job.process.kill()
        job.process.wait()
        while job.tasks:
            job.tasks.popitem()[1][0].__exit__(None, None, None)

    def _heard(self, job: _Job) -> Ended | None:
        """Handle a message from a job; the arm if it ended."""
        try:
            kind, *said = job.connection.recv()
        except (EOFError, OSError):
            code = job.process.wait()
            how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            self._jobs.remove(job)
            self._close(job)
            return Ended(job.name, time.perf_counter() - job.started, f"its process was {how}")
        if kind == "ended":
            job.name = ""
            return cast(Ended, said[0])
        if kind == "say":
            self._progress.say(f"{job.title}: {said[0]}")
        elif kind == "begin":
            number, label, total, unit = said
            task = self._progress.task(f"{job.title}: {label}", total, unit)
            job.tasks[number] = (task, task.__enter__())
        elif kind == "done":
            job.tasks[said[0]][1](said[1])
        else:
            job.tasks.pop(said[0])[0].__exit__(None, None, None)
        return None


class _Told:
    """A `Progress` that reports to another process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tasks = 0
        self._lock = threading.Lock()

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Tell of a task when it begins, now and then, and when it ends."""
        self._tasks += 1
        number, waiting, told = self._tasks, 0, time.monotonic()
        self._send("begin", number, label, total, unit)

        def done(count: int) -> None:
            nonlocal waiting, told
            waiting += count
            if time.monotonic() - told >= _TELL_SECONDS:
                self._send("done", number, waiting)
                waiting, told = 0, time.monotonic()

        try:
            yield done
        finally:
            self._send("done", number, waiting)
            self._send("end", number)

    def say(self, line: str) -> None:
        """Tell a line."""
        self._send("say", line)

    def _send(self, *message: object) -> None:
        with self._lock:
            self._connection.send(message)


def work(descriptor: int) -> None:
    """Run the arms that come through a socket until it closes: the whole life of a job."""
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_it, args=(descriptor,), daemon=True).start()
    connection = Connection(descriptor)
    with suppress(EOFError, OSError):
        while True:
            name, arguments = connection.recv()
            connection.send(("ended", _run(name, arguments, _Told(connection), whole=True)))


def _run(name: str, arguments: Arguments, progress: Progress, *, whole: bool = False) -> Ended:
    """Run an arm; `whole` keeps errors of the program, too, as its failure."""
    started, failure = time.perf_counter(), None
    try:
        distill(**arguments, progress=progress)
    except LimbeckError as error:
        failure = str(error)
    except Exception:
        if not whole:
            raise
        failure = traceback.format_exc()
    return Ended(name, time.perf_counter() - started, failure)


def _leave_with_it(descriptor: int) -> None:
    """Leave, whatever the other thread is doing, when the other end of a socket is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is always told
    poll.poll()
    os._exit(1)


def _started() -> _Job:
    """A process at the other end of a socket.

    It shares neither the terminal, whose interrupts are for the process that started it, nor
    stdout, which is for results; and it imports what this process would.
    """
    ours, theirs = Pipe()
    with theirs:
        code = f"from limbeck.bench.jobs import work; work({theirs.fileno()})"
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    return _Job(process, ours)
