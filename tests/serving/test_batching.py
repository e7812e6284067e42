"""Batches form while the thread is busy; order, refusals and failures stay each item's own."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from limbeck.serving import batching
from limbeck.serving.batching import WorkThread
from limbeck.serving.limits import Limits, Refused


class Recorder:
    """Work that waits until it is let go, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.go = threading.Event()
        self.busy = threading.Event()

    def named(self, name: str) -> "Sequence[int]":
        def work(items: Sequence[int]) -> list[int]:
            self.busy.set()
            assert self.go.wait(10)
            self.batches.append((name, list(items)))
            if -1 in items:
                raise ValueError("a bad item")
            return [item * 10 for item in items]

        return work  # type: ignore[return-value]

    def thread(self, limits: Limits) -> WorkThread:
        works = {name: self.named(name) for name in ("a", "b")}
        return WorkThread("work", works, limits, lambda *batch: None)  # type: ignore[arg-type]


async def busy(recorder: Recorder, model: WorkThread) -> asyncio.Task[list[int]]:
    """A first item that is being computed, so that what comes now has to wait."""
    first = asyncio.create_task(model.ask("a", [0]))
    while not recorder.busy.is_set():
        await asyncio.sleep(0.001)
    return first


def test_what_waits_is_batched_by_work_and_requests_take_turns() -> None:
    async def run() -> list[list[int]]:
        recorder = Recorder()
        async with recorder.thread(Limits(max_batch=3)) as model:
            tasks = [await busy(recorder, model)]
            for work, items in (("a", [1, 2]), ("b", [3]), ("a", [4, 5]), ("b", [6])):
                tasks.append(asyncio.create_task(model.ask(work, items)))
                await asyncio.sleep(0)
            recorder.go.set()
            answers = await asyncio.gather(*tasks)
        assert recorder.batches == [("a", [0]), ("a", [1, 4, 2]), ("b", [3, 6]), ("a", [5])]
        return answers

    assert asyncio.run(run()) == [[0], [10, 20], [30], [40, 50], [60]]


def test_a_bad_item_spoils_no_other() -> None:
    async def run() -> None:
        recorder = Recorder()
        async with recorder.thread(Limits()) as model:
            tasks = [await busy(recorder, model)]
            tasks += [asyncio.create_task(model.ask("a", items)) for items in ([1], [-1], [2])]
            await asyncio.sleep(0)
            recorder.go.set()
            found = await asyncio.gather(*tasks, return_exceptions=True)
        assert found[:2] == [[0], [10]]
        assert isinstance(found[2], ValueError)
        assert found[3] == [20]

    asyncio.run(run())


def test_a_large_request_holds_a_small_one_for_a_turn() -> None:
    async def run() -> None:
        recorder = Recorder()
        async with recorder.thread(Limits(max_batch=2)) as model:
            tasks = [await busy(recorder, model)]
            for work, items in (("a", [*range(1, 7)]), ("b", [7]), ("a", [8])):
                tasks.append(asyncio.create_task(model.ask(work, items)))
                await asyncio.sleep(0)
            recorder.go.set()
            await asyncio.gather(*tasks)
        batches = [("a", [0]), ("a", [1, 8]), ("b", [7]), ("a", [2, 3]), ("a", [4, 5]), ("a", [6])]
        assert recorder.batches == batches

    asyncio.run(run())


def test_slow_work_is_done_in_small_batches_while_others_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "TURN_SECONDS", 1e-9)  # shorter than any item takes

    async def run() -> None:
        recorder = Recorder()
        async with recorder.thread(Limits()) as model:
            tasks = [await busy(recorder, model)]
            for work, items in (("a", [1, 2, 3]), ("b", [4])):
                tasks.append(asyncio.create_task(model.ask(work, items)))
                await asyncio.sleep(0)
            recorder.go.set()
            await asyncio.gather(*tasks)
        # once nobody else waits, the rest is done together
        assert recorder.batches == [("a", [0]), ("a", [1]), ("b", [4]), ("a", [2, 3])]

    asyncio.run(run())


def test_what_does_not_fit_into_the_queue_is_refused_whole() -> None:
    async def run() -> None:
        recorder = Recorder()
        async with recorder.thread(Limits(max_batch=2, max_queue=3)) as model:
            first = await busy(recorder, model)
            # of many texts no more than a batch counts, since they take turns
            second = asyncio.create_task(model.ask("a", [1, 2, 3, 4, 5]))
            await asyncio.sleep(0)
            assert model.waiting == 5
            with pytest.raises(Refused, match="1 requests are waiting") as refused:
                await model.ask("a", [6, 7])
            assert refused.value.status == 503
            assert model.waiting == 5
            recorder.go.set()
            assert await first + await second == [0, 10, 20, 30, 40, 50]

    asyncio.run(run())


def test_nobody_computes_for_a_client_that_left() -> None:
    async def run() -> None:
        recorder = Recorder()
        async with recorder.thread(Limits()) as model:
            first = await busy(recorder, model)
            left = asyncio.create_task(model.ask("a", [1]))
            await asyncio.sleep(0)
            left.cancel()
            recorder.go.set()
            assert await first + await model.ask("a", [2]) == [0, 20]
        assert recorder.batches == [("a", [0]), ("a", [2])]

    asyncio.run(run())


def test_other_work_is_not_forgotten_when_batches_wait_for_more() -> None:
    async def run() -> None:
        recorder = Recorder()
        recorder.go.set()
        async with recorder.thread(Limits(max_wait_ms=5)) as model:
            tasks = [asyncio.create_task(model.ask(work, [1])) for work in ("a", "b")]
            assert await asyncio.wait_for(asyncio.gather(*tasks), 10) == [[10], [10]]

    asyncio.run(run())


def test_a_batch_may_wait_for_more() -> None:
    async def run() -> None:
        recorder = Recorder()
        recorder.go.set()
        async with recorder.thread(Limits(max_batch=2, max_wait_ms=10_000)) as model:
            first = asyncio.create_task(model.ask("a", [1]))
            await asyncio.sleep(0.01)
            assert recorder.batches == []
            assert await model.ask("a", [2]) + await first == [20, 10]
        assert recorder.batches == [("a", [1, 2])]

    asyncio.run(run())
