"""Which requests are computed together, and when?

One thread computes; everything that is asked waits in one queue. When the thread is free, the
oldest item and those behind it that ask for the same work become a batch, up to `max_batch`. So an
idle server answers at once, and a busy one in larger batches: `max_wait_ms` is only for those who
would rather wait for more. Items that do not fit into the queue are refused.

This module does not know what the work is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from limbeck.serving.limits import Limits, Refused

Work = Callable[[Sequence[Any]], Sequence[Any]]
RETRY_SECONDS = 1  # what a refused client is told to wait


@dataclass(frozen=True, slots=True)
class _Waiting:
    work: str
    item: Any
    answer: asyncio.Future[Any]


class ModelThread:
    """The one thread that computes, and the queue before it.

    `works` give an answer for each of some items, by the name of the work. `observe` is told of
    every batch: the work, its items and its seconds.
    """

    def __init__(
        self,
        works: Mapping[str, Work],
        limits: Limits,
        observe: Callable[[str, int, float], None],
    ) -> None:
        self._works = works
        self._limits = limits
        self._observe = observe
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many items are in the queue."""
        return len(self._queue)

    async def __aenter__(self) -> ModelThread:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown()

    async def ask(self, work: str, items: Sequence[Any]) -> list[Any]:
        """The answer to each item, in order.

        Raises:
            Refused: when the queue has no room for them.
            Exception: whatever the work raised on one of them.
        """
        if self.waiting + len(items) > self._limits.max_queue:
            raise Refused(
                503,
                f"{self.waiting:,} texts are waiting already. Try again in a while.",
                code="overloaded",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(work, item, loop.create_future()) for item in items]
        self._queue.extend(waiting)
        self._arrived.set()
        # all of them are waited for, so that no failure is left that nobody asks about
        found = await asyncio.gather(*(each.answer for each in waiting), return_exceptions=True)
        for answer in found:
            if isinstance(answer, BaseException):
                raise answer
        return found

    async def _run(self) -> None:
        """Take batches for as long as the server lives."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            await self._gather()
            batch = self._take()
            if not self._queue:
                self._arrived.clear()
            if not batch:
                continue
            name = batch[0].work
            items = [each.item for each in batch]
            begun = perf_counter()
            answers = await loop.run_in_executor(self._thread, _each, self._works[name], items)
            self._observe(name, len(items), perf_counter() - begun)
            for each, answer in zip(batch, answers, strict=True):
                if each.answer.done():  # its client left
                    continue
                if isinstance(answer, Exception):
                    each.answer.set_exception(answer)
                else:
                    each.answer.set_result(answer)

    async def _gather(self) -> None:
        """Let a batch fill up for as long as may be waited."""
        until = perf_counter() + self._limits.max_wait_ms / 1000
        while self.waiting < self._limits.max_batch and (left := until - perf_counter()) > 0:
            self._arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    def _take(self) -> list[_Waiting]:
        """The oldest item and those of the same work behind it, out of the queue."""
        batch: list[_Waiting] = []
        passed: list[_Waiting] = []
        while self._queue and len(batch) < self._limits.max_batch:
            each = self._queue.popleft()
            if each.answer.done():  # its client left
                continue
            (batch if not batch or each.work == batch[0].work else passed).append(each)
        self._queue.extendleft(reversed(passed))
        return batch


def _each(work: Work, items: Sequence[Any]) -> Sequence[Any]:
    """The answers to a batch, or what was raised; a bad item spoils no other."""
    try:
        return work(items)
    except Exception as error:
        if len(items) == 1:
            return [error]
        return [answer for item in items for answer in _each(work, [item])]
