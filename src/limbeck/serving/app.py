"""What is asked over HTTP, and what is answered?

    GET  /                 a page to search with
    GET  /search?q=&k=&by= POST /search    {"query", "k", "by"}
    POST /v1/embeddings    as OpenAI's, with texts
    POST /rerank           {"query", "documents", "top_n"}, as Cohere's and Jina's
    GET  /healthz          what is served
    GET  /metrics          for Prometheus

Every refusal has the shape of OpenAI's errors. This module needs the extra `serve` to be imported;
it knows no socket and no folder.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.exceptions import HTTPException

from limbeck.indexing import By, Hit, Searcher
from limbeck.indexing.searching import RERANKED, reranked
from limbeck.serving.batching import ModelThread
from limbeck.serving.limits import MOST_HITS, Limits, Refused, shown
from limbeck.types import Role

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class _Body(BaseModel):
    """What requests share: no key that is not known, no number in quotes."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SearchBody(_Body):
    """The body of POST /search."""

    query: str
    k: int = Field(10, ge=1, le=MOST_HITS)
    by: By = "student"


def _one_or_more(value: object) -> object:
    """The texts of `input`; ids of tokens are refused in words of their own."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and any(isinstance(each, int | list) for each in value):
        raise ValueError(
            "ids of tokens are not taken, since they are of another model's vocabulary. Send texts "
            "(in LangChain: check_embedding_ctx_length=False)"
        )
    return value


class EmbeddingsBody(_Body):
    """The body of POST /v1/embeddings."""

    input: Annotated[list[str], BeforeValidator(_one_or_more)]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None  # whose request it is, which OpenAI's clients may say
    input_type: Literal["query", "passage"] = "passage"


class RerankBody(_Body):
    """The body of POST /rerank."""

    query: str
    documents: list[str]
    top_n: int | None = Field(None, ge=1)
    model: str | None = None
    return_documents: bool = False


def create_app(searcher: Searcher, limits: Limits, *, name: str, bm25: bool = True) -> FastAPI:
    """The application that answers for a searcher; `name` is what it calls the model.

    Raises:
        ConfigError: when the limits do not fit each other.
    """
    limits.check()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    requests = Counter(
        "limbeck_requests", "Requests answered.", ["endpoint", "status"], registry=registry
    )
    seconds = Histogram(
        "limbeck_request_seconds",
        "From the request's head to the answer's end.",
        ["endpoint"],
        buckets=_SECONDS,
        registry=registry,
    )
    batch_texts = Histogram(
        "limbeck_batch_texts",
        "Texts that were computed together.",
        ["work"],
        buckets=_TEXTS,
        registry=registry,
    )
    batch_seconds = Histogram(
        "limbeck_batch_seconds",
        "How long a batch was computed.",
        ["work"],
        buckets=_SECONDS,
        registry=registry,
    )

    def observe(work: str, items: int, took: float) -> None:
        batch_texts.labels(work).observe(items)
        batch_seconds.labels(work).observe(took)

    works = _works(searcher)
    model = ModelThread(works, limits, observe)
    queue = Gauge("limbeck_queue_texts", "Texts that wait to be computed.", registry=registry)
    queue.set_function(lambda: model.waiting)
    rankers = [by for by, there in _rankers(searcher, bm25).items() if there]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with model:
            yield

    # No pages of FastAPI's own: theirs load scripts from elsewhere.
    app = FastAPI(title="Limbeck", docs_url=None, redoc_url=None, lifespan=lifespan)

    def count(endpoint: str, status: int, took: float) -> None:
        requests.labels(endpoint, str(status)).inc()
        seconds.labels(endpoint).observe(took)

    app.add_middleware(_Counted, count=count, max_body=limits.max_body)

    def refusal(refused: Refused) -> JSONResponse:
        return JSONResponse(refused.body(), refused.status, dict(refused.headers))

    @app.exception_handler(Refused)
    async def on_refused(request: Request, error: Refused) -> JSONResponse:
        return refusal(error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return refusal(_invalid(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        told = {
            404: f"There is no {request.url.path} here. See / or docs/serving.md.",
            405: f"{request.url.path} does not take {request.method}.",
            400: "The body cannot be read as JSON. Send UTF-8 JSON.",
            413: _too_large(limits.max_body),
        }
        message = told.get(error.status_code, str(error.detail))
        return refusal(Refused(error.status_code, message, headers=error.headers))

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        return refusal(Refused(500, "This should not have happened; the server's log says more."))

    async def find(query: str, k: int, by: By) -> dict[str, object]:
        """The answer of /search."""
        begun = perf_counter()
        limits.check_text("query", query)
        if by not in rankers:
            raise (
                _no_teacher(name)
                if by == "teacher"
                else Refused(
                    404, "This server was started with --no-bm25.", param="by", code="no_bm25"
                )
            )
        depth = max(k, RERANKED) if by == "teacher" else k
        hits: list[Hit]
        [hits] = await model.ask("bm25" if by == "bm25" else "search", [(query, depth)])
        if by == "teacher" and hits:
            scores = await model.ask("score", [(query, hit.text) for hit in hits])
            hits = reranked(hits, scores, k)
        return {
            "query": query,
            "k": k,
            "by": by,
            "took_ms": round((perf_counter() - begun) * 1000, 3),
            "hits": [{"id": hit.id, "score": hit.score, "text": hit.text} for hit in hits],
        }

    @app.get("/search")
    async def get_search(
        q: str, k: Annotated[int, Query(ge=1, le=MOST_HITS)] = 10, by: By = "student"
    ) -> Response:
        """The best passages for a query."""
        return JSONResponse(await find(q, k, by))

    @app.post("/search")
    async def post_search(body: SearchBody) -> Response:
        """The best passages for a query."""
        return JSONResponse(await find(body.query, body.k, body.by))

    @app.post("/v1/embeddings")
    async def embeddings(body: EmbeddingsBody) -> Response:
        """Vectors of texts, in the shape of OpenAI's API."""
        if body.model != name:
            raise Refused(
                404,
                f"There is no model {shown(body.model)} here. Ask for {shown(name)}.",
                param="model",
                code="model_not_found",
            )
        width = searcher.encoder.dimension
        if body.dimensions not in (None, width):
            raise Refused(
                400,
                f"`dimensions` is {body.dimensions}, but vectors of {name} have {width} numbers. "
                "Leave it out.",
                param="dimensions",
            )
        limits.check_texts("input", body.input)
        found = await model.ask(f"embed {body.input_type}", body.input)
        packed = body.encoding_format == "base64"
        tokens = sum(read for _, read in found)
        data = [
            {"object": "embedding", "index": at, "embedding": _written(vector, packed)}
            for at, (vector, _) in enumerate(found)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "model": name, "data": data, "usage": usage})

    @app.post("/rerank")
    async def rerank(body: RerankBody) -> Response:
        """Documents in the order of the teacher's scores for a query."""
        if searcher.teacher is None:
            raise _no_teacher(name)
        if body.model not in (None, searcher.teacher.name):
            raise Refused(
                404,
                f"There is no model {shown(body.model)} here. Ask for "
                f"{shown(searcher.teacher.name)}, or leave `model` out.",
                param="model",
                code="model_not_found",
            )
        limits.check_text("query", body.query)
        limits.check_texts("documents", body.documents)
        scores = await model.ask("score", [(body.query, text) for text in body.documents])
        order = sorted(range(len(scores)), key=lambda at: -scores[at])[: body.top_n]
        results: list[dict[str, Any]] = [
            {"index": at, "relevance_score": scores[at]} for at in order
        ]
        if body.return_documents:
            for each in results:
                each["document"] = {"text": body.documents[each["index"]]}
        return JSONResponse({"model": searcher.teacher.name, "results": results})

    @app.get("/healthz")
    async def healthz() -> Response:
        """That the server answers, and what for."""
        return JSONResponse(
            {"status": "ok", "model": name, "passages": len(searcher.index), "by": rankers}
        )

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counts and times for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    page = files("limbeck.serving").joinpath("page.html").read_text(encoding="utf-8")
    guard = {"Content-Security-Policy": _policy(page), "X-Content-Type-Options": "nosniff"}

    @app.get("/")
    async def root() -> Response:
        """A page to search with."""
        return HTMLResponse(page, headers=guard)

    return app


class _Counted:
    """Tells of every request where it went, how it ended and how long it took, and reads no more
    of its body than is allowed.
    """

    def __init__(self, app: ASGIApp, count: Any, max_body: int) -> None:
        self._app = app
        self._count = count
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = perf_counter()
        status = 500
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body:  # of a body that did not say how large it is
                raise HTTPException(413)
            return message

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        length = dict(scope["headers"]).get(b"content-length", b"0")
        try:
            if length.isdigit() and int(length) > self._max_body:
                refused = Refused(413, _too_large(self._max_body))
                await JSONResponse(refused.body(), 413)(scope, receive, watched)
            else:
                await self._app(scope, limited, watched)
        finally:
            route = scope.get("route")
            self._count(getattr(route, "path", "other"), status, perf_counter() - begun)


def _works(searcher: Searcher) -> dict[str, Any]:
    """What the model's thread can do, by name."""

    def search(by: By) -> Any:
        def work(items: Sequence[tuple[str, int]]) -> list[list[Hit]]:
            found = searcher.search([query for query, _ in items], max(k for _, k in items), by=by)
            return [hits[:k] for hits, (_, k) in zip(found, items, strict=True)]

        return work

    def embed(role: Role) -> Any:
        def work(texts: Sequence[str]) -> list[tuple[np.ndarray, int]]:
            vectors, lengths = searcher.embed(texts, role)
            return list(zip(vectors, lengths.tolist(), strict=True))

        return work

    def score(items: Sequence[tuple[str, str]]) -> list[float]:
        scores = np.empty(len(items), dtype=np.float32)
        for query in dict.fromkeys(query for query, _ in items):
            own = [at for at, (asked, _) in enumerate(items) if asked == query]
            scores[own] = searcher.score(query, [items[at][1] for at in own])
        return [float(each) for each in scores]

    return {
        "search": search("student"),
        "bm25": search("bm25"),
        "embed query": embed("query"),
        "embed passage": embed("passage"),
        "score": score,
    }


def _rankers(searcher: Searcher, bm25: bool) -> dict[By, bool]:
    """Who can rank passages here."""
    return {"student": True, "bm25": bm25, "teacher": searcher.teacher is not None}


def _written(vector: np.ndarray, packed: bool) -> str | list[float]:
    """A vector as the numbers of JSON, or as base64 of little-endian fp32."""
    if packed:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers


def _invalid(error: dict[str, Any]) -> Refused:
    """What pydantic found, in words."""
    name = ".".join(map(str, error["loc"][1:])) or None  # the first is `body` or `query`
    message = str(error["msg"]).removeprefix("Value error, ")
    match error["type"]:
        case "json_invalid":
            why = error.get("ctx", {}).get("error", "")
            at = error["loc"][-1]
            return Refused(400, f"The body is not JSON ({why} at character {at}). Send JSON.")
        case "missing" if name:
            return Refused(400, f"`{name}` is missing. Send it.", param=name)
        case "extra_forbidden":
            return Refused(400, f"`{name}` is not known here. Leave it out.", param=name)
        case _ if name is None:
            return Refused(
                400,
                "The body is no JSON object. Send one, with the header Content-Type: "
                "application/json.",
            )
        case _:
            return Refused(400, f"`{name}` is {shown(error['input'])}: {message}.", param=name)


def _no_teacher(name: str) -> Refused:
    """The refusal of those who ask for a teacher that is not there."""
    return Refused(
        404,
        f"{name} has no teacher to re-rank with: its run fitted none. Start the server with "
        "--teacher MODEL.",
        code="no_teacher",
    )


def _too_large(most: int) -> str:
    """What is said of a body that is too large."""
    return f"The body is larger than {most:,} bytes. Send fewer texts in one request."


def _policy(page: str) -> str:
    """What the page may do: run its own script and style, and ask this server."""

    def digest(tag: str) -> str:
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()

    return (
        f"default-src 'none'; script-src 'sha256-{digest('script')}'; style-src "
        f"'sha256-{digest('style')}'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    )
