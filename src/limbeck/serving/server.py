"""How does a server start, where does it listen, and how does it end?

Everything that can be refused is refused before the port is opened: a missing extra, an address in
use, a folder without an index. SIGTERM and Ctrl-C end it: no new connection is taken, requests that
are being answered are finished, and the exit code is 0.

What is answered is `limbeck.serving.app`, how connections are bounded `limbeck.serving.listening`.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from limbeck.errors import ConfigError
from limbeck.indexing import Searcher, open_searcher
from limbeck.inference import CPU_BATCH_TOKENS, Engine, choose_engine, fall_back
from limbeck.models.graph import openvino_installed
from limbeck.serving.hosts import ANY, AllowedHosts
from limbeck.serving.limits import Limits
from limbeck.types import Progress, Silent

if TYPE_CHECKING:
    from fastapi import FastAPI


@dataclass(frozen=True)
class Server:
    """A server that is ready to listen."""

    name: str
    app: FastAPI
    socket: socket.socket
    read_seconds: float

    @property
    def address(self) -> str:
        """Address on which it listens, as a URL."""
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self, listening: Callable[[], None] | None = None) -> None:
        """Answer until SIGTERM or SIGINT; `listening` is called once connections are taken."""
        from limbeck.serving.listening import listen

        # uvicorn ends gracefully and then raises the signal again for whoever handled it before:
        # nobody has to, this was its end.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: None)
        listen(
            self.app,
            self.socket,
            read_seconds=self.read_seconds,
            listening=listening or (lambda: None),
        )


def prepare(
    place: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    teacher: str | None = None,
    bm25: bool = True,
    hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    limits: Limits | None = None,
    backend: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Server:
    """A server of the run or index in a folder, everything loaded; `run` it.

    It answers to `hosts` besides the loopback ones and its own, and to pages of other `origins`.

    Raises:
        ConfigError: when the extra is missing, the address cannot be had, the limits do not fit, or
            a host or an origin is none.
        ConfigError, DataError, ModelError, StoreError: as `open_searcher`.
    """
    progress, limits = progress or Silent(), limits or Limits()
    _check_extra()
    from limbeck.serving.app import create_app

    limits.check()
    allowed = AllowedHosts.of(host, hosts)
    _check_origins(origins)
    bound = _bound(host, port)
    try:
        engine = serving_engine(backend, precision)
        searcher = open_searcher(
            place,
            teacher=teacher,
            backend=engine.backend if backend == "auto" else backend,
            precision=engine.precision if precision == "auto" else precision,
            progress=progress,
        )
        if backend == "auto":
            _fall_back(searcher, progress)
        _warm_up(searcher, bm25, progress)
        served = name or searcher.name
        app = create_app(searcher, limits, name=served, bm25=bm25, hosts=allowed, origins=origins)
    except BaseException:
        bound.close()
        raise
    return Server(served, app, bound, limits.read_seconds)


def serving_engine(backend: str, precision: str) -> Engine:
    """The engine for a model that is asked again and again: OpenVINO pays, where it is installed.

    In torch `auto` is fp32: in bf16 the first rows of every batch are computed twice, to compare
    them, and here most batches have few.
    """
    if backend == "auto" and openvino_installed() and not torch.cuda.is_available():
        return choose_engine("openvino", precision)
    in_torch = backend in ("auto", "torch") and precision == "auto"
    return choose_engine(backend, "fp32" if in_torch else precision)


def _fall_back(searcher: Searcher, progress: Progress) -> None:
    """Serve in torch, with a line that says so, where OpenVINO is not right for a model."""
    teacher = {} if searcher.teacher is None else searcher.teacher.backend_models()
    models = {"encoder": searcher.encoder, **teacher}
    engine = fall_back(searcher.engine, models)
    if engine.backend != searcher.engine.backend:
        searcher.engine = replace(engine, precision="fp32", max_batch_tokens=CPU_BATCH_TOKENS)
        progress.say(engine.notes[-1])


def _warm_up(searcher: Searcher, bm25: bool, progress: Progress) -> None:
    """Do everything once that is slow the first time."""
    if bm25:
        searcher.count_words(progress)
    progress.say("Loading the model")
    searcher.search(["warm up"], 1)
    searcher.embed(["warm up"], "passage")
    if searcher.teacher is not None:
        searcher.score("warm up", ["warm up"])


def _bound(host: str, port: int) -> socket.socket:
    """A socket at an address, which nobody can connect to yet.

    Raises:
        ConfigError: when the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"Cannot listen on {host} port {port}: {error.strerror}. Choose another --port or "
            "--host."
        ) from error
    return bound


def _check_origins(origins: Sequence[str]) -> None:
    """Refuse values that no browser would send as the origin of a page.

    Raises:
        ConfigError: naming it.
    """
    for origin in origins:
        if origin != ANY and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
            raise ConfigError(
                f"--allowed-origin {origin} is not an origin. Give a scheme, a host and perhaps a "
                "port without a path, such as https://app.example.org, or * for every page."
            )


def _check_extra() -> None:
    """Refuse to go on without the extra.

    Raises:
        ConfigError: naming it.
    """
    try:
        import fastapi
        import prometheus_client
        import uvicorn
    except ImportError as error:
        raise ConfigError(
            f"Serving needs {error.name}. Run `pip install 'limbeck[serve]'`."
        ) from error
    del fastapi, prometheus_client, uvicorn
