"""Which texts are computed together, and whose turn is it?

One thread computes; requests wait in one queue and take turns. When the thread is free, the first
request's work is done: its next item, one of every other request that asks for the same work, its
next but one, and so on, up to `max_batch` items. Requests with items left wait again behind all
others. So an idle server answers at once, a busy one in larger batches, and a request of thousands
of texts holds a short one for a turn or two: while requests wait, a turn is cut to about
`TURN_SECONDS`, judged by the last batch of that work. `max_wait_ms` is only for those who would
rather wait for fuller batches. Requests that do not fit into the queue are refused.

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

from limbeck.serving.limits import RETRY_SECONDS, Limits, Refused

Work = Callable[[Sequence[Any]], Sequence[Any]]
TURN_SECONDS = 0.2  # how long a batch may take while others wait


@dataclass(frozen=True, slots=True)
class _Waiting:
    item: Any
    answer: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Request:
    work: str
    items: deque[_Waiting]


class WorkThread:
    """A thread that computes, and the queue before it; `name` is for whoever looks at threads.

    `works` give an answer for each of some items, by the name of the work. `observe` is told of
    every batch: the work, its items and its seconds.
    """

    def __init__(
        self,
        name: str,
        works: Mapping[str, Work],
        limits: Limits,
        observe: Callable[[str, int, float], None],
    ) -> None:
        self._works = works
        self._limits = limits
        self._observe = observe
        self._queue: deque[_Request] = deque()
        self._pace: dict[str, float] = {}  # seconds per item in the last batch of each work
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Number of items in the queue."""
        return sum(len(request.items) for request in self._queue)

    async def __aenter__(self) -> WorkThread:
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
        most = self._limits.max_batch  # a request takes turns, so no more of it counts
        taken = sum(min(len(request.items), most) for request in self._queue)
        if taken + min(len(items), most) > self._limits.max_queue:
            raise Refused(
                503,
                f"{len(self._queue):,} requests are waiting already. Try again in a while.",
                code="overloaded",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(item, loop.create_future()) for item in items]
        self._queue.append(_Request(work, deque(waiting)))
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
            name, batch = self._take()
            if self._queue:
                self._arrived.set()
            else:
                self._arrived.clear()
            if not batch:
                continue
            items = [each.item for each in batch]
            begun = perf_counter()
            answers = await loop.run_in_executor(self._thread, _each, self._works[name], items)
            took = perf_counter() - begun
            self._pace[name] = took / len(items)
            self._observe(name, len(items), took)
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

    def _take(self) -> tuple[str, list[_Waiting]]:
        """The work whose turn it is, and the next items that ask for it, out of the queue."""
        work = self._queue[0].work
        most = self._limits.max_batch
        if len(self._queue) > 1 and (pace := self._pace.get(work)):
            most = max(1, min(most, int(TURN_SECONDS / pace)))
        sharing = deque(request for request in self._queue if request.work == work)
        self._queue = deque(request for request in self._queue if request.work != work)
        batch: list[_Waiting] = []
        while sharing and len(batch) < most:
            request = sharing.popleft()
            while request.items:
                each = request.items.popleft()
                if not each.answer.done():  # or else its client left
                    batch.append(each)
                    break
            if request.items:
                sharing.append(request)
        self._queue.extend(sharing)
        return work, batch


def _each(work: Work, items: Sequence[Any]) -> Sequence[Any]:
    """The answers to a batch, or the exceptions raised; a bad item spoils no other."""
    try:
        return work(items)
    except Exception as error:
        if len(items) == 1:
            return [error]
        return [answer for item in items for answer in _each(work, [item])]
