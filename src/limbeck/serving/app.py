"""What is asked over HTTP, and what is answered?

    GET  /                 a page to search with
    GET  /search?q=&k=&by= POST /search    {"query", "k", "by"}
    POST /v1/embeddings    as OpenAI's, with texts
    GET  /v1/models        what may be asked for, as OpenAI's
    POST /rerank           {"query", "documents", "top_n"}, as Cohere's and Jina's; /v1/rerank and
                           /v2/rerank are the same
    GET  /healthz          what is served
    GET  /metrics          for Prometheus

Every refusal has the shape of OpenAI's errors. Searches by words have a thread of their own, so
that they never wait for a model. This module needs the extra `serve` to be imported; it knows no
socket and no folder.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from time import perf_counter, time
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.exceptions import HTTPException

from limbeck.indexing import By, Hit, Searcher
from limbeck.indexing.searching import RERANKED, reranked
from limbeck.serving.batching import WorkThread
from limbeck.serving.bodies import EmbeddingsBody, RerankBody, SearchBody
from limbeck.serving.hosts import AllowedHosts
from limbeck.serving.limits import MAX_HITS, Limits, Refused, shown
from limbeck.serving.middleware import Counted, HostCheck, WholeBody, refusal
from limbeck.types import Role

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_UNREADABLE = {
    RecursionError: "The body is nested too deeply. Send flatter JSON.",
    UnicodeDecodeError: "The body is not UTF-8. Send UTF-8 JSON.",
    ValueError: "The body holds a number of thousands of digits. Send smaller numbers.",
}


def create_app(
    searcher: Searcher,
    limits: Limits,
    *,
    name: str,
    bm25: bool = True,
    hosts: AllowedHosts,
    origins: Sequence[str] = (),
) -> FastAPI:
    """The application that answers for a searcher; `name` is the model's name in its answers.

    It answers to `hosts`; pages of other `origins` may ask, too.

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

    model = WorkThread("model", _model_works(searcher), limits, observe)
    words = WorkThread("words", {"bm25": _search(searcher, "bm25")}, limits, observe)
    queue = Gauge("limbeck_queue_texts", "Texts that wait to be computed.", registry=registry)
    queue.set_function(lambda: model.waiting + words.waiting)
    started = int(time())
    rankers = [by for by, there in _rankers(searcher, bm25).items() if there]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with model, words:
            yield

    # No pages of FastAPI's own: theirs load scripts from elsewhere.
    app = FastAPI(title="Limbeck", docs_url=None, redoc_url=None, lifespan=lifespan)

    def count(endpoint: str, status: int, took: float) -> None:
        requests.labels(endpoint, str(status)).inc()
        seconds.labels(endpoint).observe(took)

    app.add_middleware(WholeBody, most=limits.max_body)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(HostCheck, hosts=hosts)
    app.add_middleware(Counted, count=count)  # which sees every request first

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
            400: _unreadable(error.__cause__),
        }
        message = told.get(error.status_code, str(error.detail))
        return refusal(Refused(error.status_code, message, headers=error.headers))

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        return refusal(Refused(500, "This should not have happened; the server's log says more."))

    served = [name] if searcher.teacher is None else [name, searcher.teacher.name]

    def described(id_: str) -> dict[str, object]:
        return {"id": id_, "object": "model", "created": started, "owned_by": "limbeck"}

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
        asked = (
            words.ask("bm25", [(query, k)])
            if by == "bm25"
            else model.ask("search", [(query, depth)])
        )
        [hits] = await asked
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
        q: str, k: Annotated[int, Query(ge=1, le=MAX_HITS)] = 10, by: By = "student"
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
            raise _no_model(body.model, [name])
        encoder = searcher.encoder
        width = encoder.dimension if body.dimensions is None else body.dimensions
        if width != encoder.dimension and width not in encoder.shorter_dimensions:
            raise _no_width(width, encoder.dimension, encoder.shorter_dimensions, name)
        limits.check_texts("input", body.input)
        found = await model.ask(f"embed {body.input_type}", body.input)
        for at, (vector, _) in enumerate(found):
            if not np.isfinite(vector).all():
                raise Refused(500, f"The model's vector of `input[{at}]` is not finite.")
        vectors = (_shortened(vector, width) for vector, _ in found)
        tokens = sum(read for _, read in found)
        pieces = _embeddings(vectors, body.encoding_format == "base64", name, tokens)
        if len(found) <= limits.max_batch:
            return Response(b"".join(pieces), media_type="application/json")
        return StreamingResponse(_in_turns(pieces), media_type="application/json")

    @app.get("/v1/models")
    async def models() -> Response:
        """The models that may be asked for, in the shape of OpenAI's API."""
        return JSONResponse({"object": "list", "data": [described(each) for each in served]})

    @app.get("/v1/models/{id:path}")
    async def one_model(id: str) -> Response:  # noqa: A002, as OpenAI calls it
        """One of the models, in the shape of OpenAI's API."""
        if id not in served:
            raise _no_model(id, served)
        return JSONResponse(described(id))

    @app.post("/rerank")
    @app.post("/v1/rerank")
    @app.post("/v2/rerank")
    async def rerank(body: RerankBody) -> Response:
        """Documents in the order of the teacher's scores for a query."""
        if searcher.teacher is None:
            raise _no_teacher(name)
        if body.model not in (None, *served):
            raise _no_model(body.model, [searcher.teacher.name])
        limits.check_text("query", body.query)
        texts = _texts(body)
        limits.check_texts("documents", texts)
        scores = await model.ask("score", [(body.query, text) for text in texts])
        order = sorted(range(len(scores)), key=lambda at: -scores[at])[: body.top_n]
        results: list[dict[str, Any]] = [
            {"index": at, "relevance_score": scores[at]} for at in order
        ]
        if body.return_documents:
            for each in results:
                given = body.documents[each["index"]]
                each["document"] = {"text": given} if isinstance(given, str) else given
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


def _search(searcher: Searcher, by: By) -> Any:
    """The work of searching, for pairs of a query and how many hits it asks for."""

    def work(items: Sequence[tuple[str, int]]) -> list[list[Hit]]:
        found = searcher.search([query for query, _ in items], max(k for _, k in items), by=by)
        return [hits[:k] for hits, (_, k) in zip(found, items, strict=True)]

    return work


def _model_works(searcher: Searcher) -> dict[str, Any]:
    """Functions that the model's thread runs, by name."""

    def embed(role: Role) -> Any:
        def work(texts: Sequence[str]) -> list[tuple[Vector, int]]:
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
        "search": _search(searcher, "student"),
        "embed query": embed("query"),
        "embed passage": embed("passage"),
        "score": score,
    }


def _rankers(searcher: Searcher, bm25: bool) -> dict[By, bool]:
    """Who can rank passages here."""
    return {"student": True, "bm25": bm25, "teacher": searcher.teacher is not None}


def _shortened(vector: Vector, width: int) -> Vector:
    """The first numbers of a vector, brought back to length 1 if the whole has it."""
    if width == len(vector):
        return vector
    short = vector[:width]
    has_length_1 = np.isclose(np.linalg.norm(vector), 1, atol=1e-3)
    return short / max(float(np.linalg.norm(short)), 1e-12) if has_length_1 else short


def _embeddings(vectors: Iterable[Vector], packed: bool, name: str, tokens: int) -> Iterator[bytes]:
    """The JSON of an answer of /v1/embeddings, a vector after the other."""
    yield b'{"object":"list","model":' + _json(name) + b',"data":['
    for at, vector in enumerate(vectors):
        entry = {"object": "embedding", "index": at, "embedding": _written(vector, packed)}
        yield (b"," if at else b"") + _json(entry)
    yield b'],"usage":' + _json({"prompt_tokens": tokens, "total_tokens": tokens}) + b"}"


def _written(vector: Vector, packed: bool) -> str | list[float]:
    """A vector as the numbers of JSON, or as base64 of little-endian fp32."""
    if packed:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers


def _json(value: object) -> bytes:
    """A value as compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


async def _in_turns(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Pieces of an answer, between which others are answered."""
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)


def _texts(body: RerankBody) -> list[str]:
    """The text of each document.

    Raises:
        Refused: naming a document that has none.
    """
    texts = []
    for at, document in enumerate(body.documents):
        if isinstance(document, str):
            texts.append(document)
            continue
        parts = [document[field] for field in body.rank_fields if field in document]
        if not parts or not all(isinstance(part, str) for part in parts):
            fields = " or ".join(f"`{field}`" for field in body.rank_fields)
            raise Refused(
                400, f"`documents[{at}]` has no text under {fields}. Send one.", param="documents"
            )
        texts.append(" ".join(parts))
    return texts


def _invalid(error: dict[str, Any]) -> Refused:
    """Refusal for a validation error of pydantic, in words."""
    name = ".".join(map(str, error["loc"][1:])) or None  # the first is `body` or `query`
    message = str(error["msg"]).removeprefix("Value error, ")
    match error["type"]:
        case "json_invalid":
            why = error.get("ctx", {}).get("error", "")
            at = error["loc"][-1]
            return Refused(400, f"The body is not JSON ({why} at character {at}). Send JSON.")
        case "missing" if name:
            return Refused(400, f"`{name}` is missing. Send it.", param=name)
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


def _no_model(asked: str | None, served: Sequence[str]) -> Refused:
    """The refusal of those who ask for a model that is not served."""
    return Refused(
        404,
        f"There is no model {shown(asked)} here. Ask for {' or '.join(map(shown, served))}.",
        param="model",
        code="model_not_found",
    )


def _no_width(asked: int, width: int, shorter: Sequence[int], name: str) -> Refused:
    """The refusal of those who ask for vectors of a width that the model was not trained for."""
    if isinstance(shorter, range):
        there = f"can be cut to any width from 1 to {width}"
    elif shorter:
        there = f"have {', '.join(map(str, shorter))} or {width} numbers"
    else:
        there = f"have {width} numbers, and it was not trained for fewer"
    return Refused(
        400,
        f"`dimensions` is {asked}, but vectors of {name} {there}. Leave it out for {width}.",
        param="dimensions",
    )


def _unreadable(cause: BaseException | None) -> str:
    """Why a body could not be read as JSON."""
    for kind, message in _UNREADABLE.items():
        if isinstance(cause, kind):
            return message
    return "The body cannot be read. Send UTF-8 JSON."


def _policy(page: str) -> str:
    """Content security policy of the page: it may run its own script and style, and ask this
    server.
    """

    def digest(tag: str) -> str:
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()

    return (
        f"default-src 'none'; script-src 'sha256-{digest('script')}'; style-src "
        f"'sha256-{digest('style')}'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    )
