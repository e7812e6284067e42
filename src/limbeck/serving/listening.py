"""How are connections accepted and bounded, from the first byte of a request to the last?

uvicorn serves; added here is what it does not do. A request that has not arrived whole after
`read_seconds` is refused and its connection closed; so is one that is unfinished when the server is
to end. What is no HTTP is refused in the shape of all refusals. And somebody is told when the
socket listens.

This module needs the extra `serve` to be imported; it knows no endpoint.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from limbeck.serving.limits import Refused

if TYPE_CHECKING:
    from fastapi import FastAPI

GRACE_SECONDS = 30  # for requests that are being answered when the server is to end
UPLOAD_SECONDS = 1.0  # for those that are still arriving


def listen(
    app: FastAPI, bound: socket.socket, *, read_seconds: float, listening: Callable[[], None]
) -> None:
    """Answer on a socket until SIGTERM or SIGINT; `listening` is called once it does."""

    class Connection(_Connection):
        """A connection with this server's time for reading."""

        seconds = read_seconds

    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    _Server(config, listening).run(sockets=[bound])


class _Server(uvicorn.Server):
    """A server that tells when it listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()


class _Connection(H11Protocol):
    """A connection on which every request has to arrive in time."""

    seconds: float
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        self.loop.call_later(UPLOAD_SECONDS, self._end_upload)

    def send_400_response(self, msg: str) -> None:
        hint = getattr(sys.exc_info()[1], "error_status_hint", 400)
        if hint == 431:
            message = "The head of the request is too large. Send a long query with POST /search."
        else:
            message = "This is not a valid HTTP request. Send HTTP/1.1."
        self._refuse(Refused(hint, message))

    def _watch(self) -> None:
        """Start the clock of a request that has begun to arrive, stop that of a whole one."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.seconds, self._too_late)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self.transport.close()  # nothing was asked
        else:
            self._refuse(
                Refused(
                    408,
                    f"The request did not arrive within {self.seconds:g} seconds. Send it again, "
                    "or in smaller parts.",
                    code="timeout",
                )
            )

    def _end_upload(self) -> None:
        """Refuse a request whose body is still arriving when the server is to end."""
        if self.conn.their_state is h11.SEND_BODY:
            self._refuse(Refused(503, "The server is ending. Try again later.", code="ending"))

    def _refuse(self, refused: Refused) -> None:
        """Answer, unless an answer has begun, and close."""
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(refused.body(), ensure_ascii=False).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            events: list[Any] = [
                h11.Response(status_code=refused.status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ]
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
