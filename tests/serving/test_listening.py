"""Its address is told when somebody can connect to it, not before."""

import signal
import socket
from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from limbeck.serving.server import Server


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


def test_connections_are_taken_when_it_says_that_it_listens() -> None:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    address = bound.getsockname()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=10)
    connected: list[bool] = []

    def listening() -> None:
        socket.create_connection(address, timeout=10).close()
        connected.append(True)
        signal.raise_signal(signal.SIGTERM)

    Server("here", FastAPI(), bound, 5.0).run(listening)
    assert connected == [True]
