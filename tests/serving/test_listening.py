"""Its address is told when somebody can connect to it, not before."""

import subprocess
import sys

# In a process of its own: a server is ended by a signal, which is not for the tests' own process.
SERVED = """
import signal, socket
from fastapi import FastAPI
from limbeck.serving.server import Server

bound = socket.socket()
bound.bind(("127.0.0.1", 0))
address = bound.getsockname()
try:
    socket.create_connection(address, timeout=10)
except ConnectionRefusedError:
    print("refused", flush=True)

def listening():
    socket.create_connection(address, timeout=10).close()
    print("connected", flush=True)
    signal.raise_signal(signal.SIGTERM)

Server("here", FastAPI(), bound, 5.0).run(listening)
"""


def test_connections_are_taken_when_it_says_that_it_listens() -> None:
    found = subprocess.run(
        [sys.executable, "-c", SERVED], capture_output=True, text=True, timeout=120, check=True
    )
    assert found.stdout.split() == ["refused", "connected"]
