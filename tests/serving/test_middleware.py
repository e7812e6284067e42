"""What happens to a request before the application sees it."""

import asyncio
from collections.abc import Sequence

from starlette.types import Message, Receive, Scope, Send

from limbeck.serving import middleware
from limbeck.serving.middleware import CLIENT_LEFT, Counted, WholeBody

REQUEST: Scope = {"type": "http", "method": "POST", "headers": [], "path": "/"}


class Client:
    """Sends some messages and then leaves when it is told to; remembers what it is sent."""

    def __init__(self, *messages: Message) -> None:
        self.messages = list(messages)
        self.leaves = asyncio.Event()
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if self.messages:
            return self.messages.pop(0)
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])


def body(*parts: bytes) -> Sequence[Message]:
    last = len(parts) - 1
    return [
        {"type": "http.request", "body": part, "more_body": at < last}
        for at, part in enumerate(parts)
    ]


def test_an_answer_that_nobody_waits_for_is_given_up() -> None:
    async def run() -> None:
        begun, given_up = asyncio.Event(), asyncio.Event()
        counted: list[int] = []

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            assert (await receive())["body"] == b"ab"
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                given_up.set()

        client = Client(*body(b"a", b"b"))
        app = Counted(WholeBody(slow, most=10), lambda *told: counted.append(told[1]))
        asked = asyncio.create_task(app(REQUEST, client.receive, client.send))
        await begun.wait()
        client.leaves.set()
        await asyncio.wait_for(asked, 10)
        assert given_up.is_set()
        assert client.sent == []
        assert counted == [CLIENT_LEFT]

    asyncio.run(run())


def test_one_that_left_before_its_body_was_whole_is_forgotten() -> None:
    async def run() -> None:
        async def never(scope: Scope, receive: Receive, send: Send) -> None:
            raise AssertionError

        client = Client(*body(b"a", b"b")[:1])
        client.leaves.set()
        await WholeBody(never, most=10)(REQUEST, client.receive, client.send)
        assert client.sent == []

    asyncio.run(run())


def test_what_is_still_answered_when_the_time_to_end_is_over_is_refused() -> None:
    async def run() -> None:
        begun = asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            begun.set()
            await asyncio.sleep(60)

        client = Client(*body(b""))
        app = Counted(WholeBody(slow, most=10), lambda *told: None)
        asked = asyncio.create_task(app(REQUEST, client.receive, client.send))
        await begun.wait()
        asked.cancel()  # as uvicorn does
        await asyncio.wait_for(asked, 10)
        assert client.status == 503

    asyncio.run(run())


def test_all_bodies_together_are_bounded() -> None:
    async def run() -> None:
        go = asyncio.Event()

        async def waits(scope: Scope, receive: Receive, send: Send) -> None:
            await go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})

        app = WholeBody(waits, most=10)
        clients = [Client(*body(b"a" * 10)) for _ in range(middleware.LARGEST_BODIES + 1)]
        asked = [asyncio.create_task(app(REQUEST, each.receive, each.send)) for each in clients]
        await asked[-1]
        assert clients[-1].status == 503
        go.set()
        await asyncio.gather(*asked)
        assert {each.status for each in clients[:-1]} == {200}
        again = Client(*body(b"a" * 10))  # what was held is free
        await app(REQUEST, again.receive, again.send)
        assert again.status == 200

    asyncio.run(run())
