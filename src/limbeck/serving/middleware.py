"""Which requests reach the application, and in what form?

Each class wraps the application and sees every request first: it is counted (`Counted`), refused
when it is addressed to another host (`HostCheck`), and its body is read whole, unpacked and bounded
(`WholeBody`). What is refused here has the shape of all refusals.

This module knows no endpoint. When a request must have arrived is a matter of the connection
(`limbeck.serving.listening`).
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from limbeck.serving.hosts import AllowedHosts
from limbeck.serving.limits import RETRY_SECONDS, Refused, shown, too_large

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_LEFT = 499  # what nginx calls a request whose client did not wait for the answer
LARGEST_BODIES = 8  # bodies of the largest size that may be held at one time


def refusal(refused: Refused) -> JSONResponse:
    """The answer to a request that is refused."""
    return JSONResponse(refused.body(), refused.status, dict(refused.headers))


class Counted:
    """Counts every request: its endpoint, its status and its seconds.

    A HEAD request goes on as GET; the connection leaves the body of its answer out. A request that
    is still being answered when the server's time to end is over is refused.
    """

    def __init__(self, app: ASGIApp, count: Callable[[str, int, float], None]) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        begun = perf_counter()
        status: int | None = None

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if status is None:
                ending = Refused(503, "The server is ending. Try again later.", code="ending")
                await refusal(ending)(scope, receive, watched)
        except Exception:
            status = 500  # which is answered around all middleware
            raise
        finally:
            endpoint = getattr(scope.get("route"), "path", "other")
            self._count(endpoint, status or CLIENT_LEFT, perf_counter() - begun)


class HostCheck:
    """Refuses requests that are addressed to a host which is not this server's.

    A request without a `Host` header is let through: no browser sends one.
    """

    def __init__(self, app: ASGIApp, hosts: AllowedHosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if it is addressed to this server."""
        if scope["type"] == "http":
            for header in Headers(scope=scope).getlist("host"):
                if not self._hosts.allow(header):
                    refused = Refused(
                        403,
                        f"This server does not answer to the host {shown(header)}. Start it with "
                        "--allowed-host NAME if that is a name it is known by.",
                        code="host_not_allowed",
                    )
                    await refusal(refused)(scope, receive, send)
                    return
        await self._app(scope, receive, send)


class WholeBody:
    """Reads a request's body before the application sees it, and drops requests that were given up.

    A body in gzip is unpacked. Neither it nor what it unpacks to may be larger than `most` bytes.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on once its body is there."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held = 0  # bytes of this request

        def hold(size: int) -> None:
            nonlocal held
            held += size
            self._held += size
            if self._held > LARGEST_BODIES * self._most:
                raise Refused(
                    503,
                    f"Requests of more than {LARGEST_BODIES * self._most:,} bytes are being "
                    "answered. Try again in a while.",
                    code="overloaded",
                    headers={"Retry-After": str(RETRY_SECONDS)},
                )

        try:
            zipped = self._check_head(Headers(scope=scope))
            body = bytearray()
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                part = message.get("body", b"")
                hold(len(part))
                body += part
                if len(body) > self._most:  # of a body that did not say how large it is
                    raise too_large(self._most)
                more = message.get("more_body", False)
            if zipped:
                body = unzipped(body, self._most)
                hold(len(body))
        except Refused as refused:
            await refusal(refused)(scope, receive, send)
        else:
            await self._answer(bytes(body), scope, receive, send)
        finally:
            self._held -= held

    def _check_head(self, headers: Headers) -> bool:
        """Whether the body is in gzip.

        Raises:
            Refused: when it is too large, or encoded in another way.
        """
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._most:
            raise too_large(self._most)
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("identity", "gzip", "x-gzip"):
            raise Refused(
                415,
                f"The body is encoded as {coding!r}. Send it as it is, or in gzip.",
                headers={"Accept-Encoding": "gzip"},
            )
        return coding != "identity"

    async def _answer(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer for as long as the client waits."""
        answered = False
        given = False
        left = asyncio.ensure_future(_disconnect(receive))

        async def receive_whole() -> Message:
            nonlocal given
            if given:
                return await asyncio.shield(left)
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        answer = asyncio.ensure_future(self._app(scope, receive_whole, watched))
        try:
            await asyncio.wait((answer, left), return_when=asyncio.FIRST_COMPLETED)
            if not answered and not answer.done():
                answer.cancel()
            await asyncio.wait((answer,))
            if not answer.cancelled():
                answer.result()
        finally:
            answer.cancel()
            left.cancel()


async def _disconnect(receive: Receive) -> Message:
    """The message that the client has left, which follows the body."""
    while (message := await receive())["type"] != "http.disconnect":
        pass
    return message


def unzipped(zipped: bytes | bytearray, most: int) -> bytearray:
    """Decompress a body in gzip.

    Raises:
        Refused: when it is not one whole gzip member, or holds more than `most` bytes.
    """
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        whole = unpacker.decompress(zipped, most + 1)
    except zlib.error as error:
        raise Refused(400, f"The body is not gzip ({error}). Send it as it is.") from error
    if len(whole) > most:
        raise too_large(most)
    if not unpacker.eof or unpacker.unused_data:
        raise Refused(400, "The body is not one whole member of gzip. Send it as it is.")
    return bytearray(whole)
