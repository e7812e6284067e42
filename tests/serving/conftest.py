"""A server as a user starts it: `limbeck serve` in a process of its own, on a free port."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from collections_here import made_up
from limbeck import indexing
from limbeck.data import read_collection

LIMBECK = "from limbeck.cli import main; main()"
Serve = Callable[..., "Running"]


class Running:
    """A server that answers; `client` asks it."""

    def __init__(self, folder: Path, *options: object) -> None:
        words = ["serve", folder, "--port", 0, "--backend", "torch", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LIMBECK, *map(str, words)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("Serving "):
            raise AssertionError(self.ended())
        self.url = line.split(" on ")[1].split()[0]
        self.client = httpx2.Client(base_url=self.url, timeout=60)

    def ended(self) -> str:
        """What it said on stderr, once it has ended."""
        return self.process.communicate(timeout=60)[1]

    def metric(self, name: str) -> float:
        """The sum of a metric's values over its labels."""
        lines = self.client.get("/metrics").text.splitlines()
        own = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in own)


@contextmanager
def running(folder: Path, *options: object) -> Iterator[Running]:
    """A server that is ended at the end, and must have had nothing to complain of."""
    server = Running(folder, *options)
    try:
        yield server
    finally:
        server.client.close()
        server.process.send_signal(signal.SIGTERM)
        told = server.ended()
    assert server.process.returncode == 0
    assert "Traceback" not in told


@pytest.fixture(scope="session")
def folder(tiny_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of sixty passages, one of which is hostile."""
    files = made_up()
    files.corpus["hostile"] = "<img src=x onerror=alert(1)> </script><script>alert(2)</script> cat"
    base = tmp_path_factory.mktemp("served")
    collection = read_collection(files.write(base / "data"))
    indexing.build(str(tiny_encoder_folder), collection, base / "here", precision="fp32")
    return base / "here"


@pytest.fixture(scope="session")
def server(folder: Path, tiny_ranker_folder: Path) -> Iterator[Running]:
    with running(folder, "--teacher", tiny_ranker_folder, "--max-characters", 1000) as server:
        yield server
