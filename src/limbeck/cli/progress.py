"""How far is the work, how fast does it go, and how long will it still take?

On a terminal: live bars. Anywhere else (a log, a pipe, a CI job): plain lines, and one at least
every 5 seconds for as long as the work lasts, also inside a step that reports nothing. Everything
goes to stderr.

This module knows no stage: labels, totals and units come from the work.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

if TYPE_CHECKING:  # limbeck.types imports torch, which a command may not need
    from limbeck.types import Progress as Reports

SILENCE_SECONDS = 5.0
_WINDOW_SECONDS = 120.0  # the rate is that of the last two minutes
_BARS = 10  # finished ones that stay: more than a terminal has lines would hide the living ones


@contextmanager
def on_stderr() -> Iterator["Reports"]:
    """Progress for the person at the terminal, or for a log: whichever stderr is."""
    console = Console(stderr=True)
    # not console.is_terminal: that is also true of a log when FORCE_COLOR is set
    if sys.stderr.isatty() and not console.is_dumb_terminal:
        with Bars(console) as bars:
            yield bars
    else:
        with Lines() as lines:
            yield lines


def state(task: Task) -> str:
    """Where a task stands: done, total, rate and time left.

    Example, after 200 of 1,000 queries in 10 s: `200/1,000 queries, 20.0/s, 0:40 left`.
    """
    done, total = int(task.completed), int(task.total or 0)
    parts = [f"{done:,}/{total:,} {task.fields['unit']}"]
    rate = _rate(task)
    if rate:
        parts.append(f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s")
        if done < total:
            parts.append(f"{_clock((total - done) / rate)} left")
    if done >= total and task.elapsed is not None:
        parts.append(f"took {_clock(task.elapsed)}")
    return ", ".join(parts)


class Bars:
    """Live bars on a terminal: a `limbeck.types.Progress`."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _State(),
            console=console,
            refresh_per_second=4,
            speed_estimate_period=_WINDOW_SECONDS,
        )

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """A bar that stays, finished, above the ones that follow; the oldest become lines."""
        task = self._progress.add_task(label, total=total, unit=unit)
        try:
            yield lambda done: self._progress.advance(task, done)
        finally:
            self._progress.stop_task(task)
            stopped = [each for each in self._progress.tasks if each.stop_time is not None]
            for old in stopped[:-_BARS]:
                self.say(f"{old.description}: {state(old)}")
                self._progress.remove_task(old.id)

    def say(self, line: str) -> None:
        """A line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False)


class Lines:
    """Plain lines for a log: a `limbeck.types.Progress`."""

    def __init__(self, silence: float = SILENCE_SECONDS) -> None:
        # rich keeps the counts and the rate; it never draws
        self._progress = Progress(disable=True, speed_estimate_period=_WINDOW_SECONDS)
        self._open: list[TaskID] = []
        self._silence = silence
        self._last = "starting"
        self._last_time = self._spoken = time.monotonic()
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._break_silence, daemon=True)

    def __enter__(self) -> "Lines":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Lines on a task when it begins, every few seconds, and when it ends."""
        task = self._progress.add_task(label, total=total, unit=unit)
        with self._lock:
            self._open.append(task)
        self._print_state(task)
        try:
            yield lambda done: self._progress.advance(task, done)
        finally:
            self._progress.stop_task(task)
            self._print_state(task)
            with self._lock:
                self._open.remove(task)

    def say(self, line: str) -> None:
        """A line of the log."""
        with self._lock:
            self._last, self._last_time = line, time.monotonic()
            self._print(line)

    def _print_state(self, task: TaskID) -> None:
        known = self._progress.tasks[self._progress.task_ids.index(task)]
        self._print(f"{known.description}: {state(known)}")

    def _print(self, line: str) -> None:
        with self._lock:
            typer.echo(line, err=True)
            self._spoken = time.monotonic()

    def _break_silence(self) -> None:
        """Say where the innermost task stands, or repeat the last line, when all is quiet."""
        while not self._stop.wait(max(0.05, self._spoken + self._silence - time.monotonic())):
            with self._lock:
                if time.monotonic() - self._spoken < self._silence:
                    continue
                if self._open:
                    self._print_state(self._open[-1])
                else:
                    waited = _clock(time.monotonic() - self._last_time)
                    self._print(f"{self._last} ({waited} so far)")


class _State(ProgressColumn):
    """The column with counts, rate and time left."""

    def render(self, task: Task) -> Text:
        """The text beside the bar."""
        return Text(state(task), style="progress.remaining")


def _rate(task: Task) -> float | None:
    """Units per second of late, or since the start; None before the first unit."""
    if task.speed:
        return task.speed
    if task.completed and task.elapsed:
        return task.completed / task.elapsed
    return None


def _clock(seconds: float) -> str:
    """Minutes and seconds, or hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
