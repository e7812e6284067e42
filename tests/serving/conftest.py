"""A server as a user starts it: `limbeck serve` in a process of its own, on a free port."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from collections_here import made_up
from limbeck import indexing
from limbeck.data import read_collection

LIMBECK = "from limbeck.cli import main; main()"
PASSAGES = {
    "hostile": "<img src=x onerror=alert(1)> </script><script>alert(2)</script> cat",
    "hebrew": "חתול אדום (cat 3.11) ישן!",
    "arabic": "القطة الحمراء cat 42 نائمة.",
    "chinese": "红猫在垫子上睡觉" * 12 + "。 cat",
    "japanese": "赤い猫はマットの上で眠る。",
}


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
        self.port = int(self.url.rpartition(":")[2])
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
    """An index of passages, one of which is hostile, and some of which run from right to left.

    Its model says of itself that its vectors may be cut to 8 or 16 numbers.
    """
    files = made_up()
    files.corpus |= PASSAGES
    base = tmp_path_factory.mktemp("served")
    shutil.copytree(tiny_encoder_folder, base / "encoder")
    config = json.loads((base / "encoder" / "config.json").read_text())
    config["matryoshka_dimensions"] = [16, 8, 32]
    (base / "encoder" / "config.json").write_text(json.dumps(config))
    collection = read_collection(files.write(base / "data"))
    indexing.build(str(base / "encoder"), collection, base / "here", precision="fp32")
    return base / "here"


@pytest.fixture(scope="session")
def server(folder: Path, tiny_ranker_folder: Path) -> Iterator[Running]:
    options = ("--max-characters", 1000, "--max-body", 4_000_000, "--read-seconds", 5)
    allowed = ("--allowed-host", "docs.example.org", "--allowed-origin", "https://app.example.org")
    with running(folder, "--teacher", tiny_ranker_folder, *options, *allowed) as server:
        yield server
