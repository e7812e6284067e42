"""What the server answers, and that nothing one sends it makes it stumble."""

import base64
import gzip
import http.client
import json
import re
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder
from typer.testing import CliRunner

from limbeck.cli import app
from limbeck.indexing import open_searcher
from limbeck.models.loading import load_encoder

from .conftest import Running, running

pytestmark = pytest.mark.slow

QUERY = "list the red cat"


def error(answer: httpx2.Response) -> dict[str, Any]:
    """What was refused, in the shape of OpenAI's errors."""
    [(name, told)] = answer.json().items()
    assert name == "error"
    assert set(told) == {"message", "type", "param", "code"}
    return dict(told)


def test_search_finds_what_a_searcher_finds(server: Running, folder: Path) -> None:
    expected = open_searcher(folder, precision="fp32").search([QUERY], 4)[0]
    for answer in (
        server.client.get("/search", params={"q": QUERY, "k": 4}),
        server.client.post("/search", json={"query": QUERY, "k": 4, "by": "student"}),
    ):
        found = answer.json()
        assert answer.status_code == 200
        assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in expected]
        assert [hit["text"] for hit in found["hits"]] == [hit.text for hit in expected]
        scores = [hit["score"] for hit in found["hits"]]
        assert scores == pytest.approx([hit.score for hit in expected], abs=1e-5)
        assert found["took_ms"] > 0


def test_bm25_and_the_teacher_rank_too(
    server: Running, folder: Path, tiny_ranker_folder: Path
) -> None:
    here = open_searcher(folder, teacher=str(tiny_ranker_folder), precision="fp32")
    for by in ("bm25", "teacher"):
        expected = here.search([QUERY], 4, by=by)[0]
        answer = server.client.get("/search", params={"q": QUERY, "k": 4, "by": by})
        found = answer.json()["hits"]
        assert [hit["id"] for hit in found] == [hit.id for hit in expected]
        scores = [hit.score for hit in expected]
        assert [hit["score"] for hit in found] == pytest.approx(scores, abs=1e-4)


def test_embeddings_with_the_official_client(server: Running, folder: Path) -> None:
    texts = ["the red cat", "sea and sun"]
    expected = load_encoder(folder / "model").model.encode_document(texts)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        for given_as in ("float", "base64", None):  # by default the client asks for base64
            answer = client.embeddings.create(
                model="here",
                input=texts,
                encoding_format=given_as or openai.omit,  # type: ignore[arg-type]
            )
            found = [each.embedding for each in answer.data]
            if given_as == "base64":
                found = [np.frombuffer(base64.b64decode(each), "<f4") for each in found]  # type: ignore[misc,arg-type]
            np.testing.assert_allclose(found, expected, atol=1e-5)
            assert [each.index for each in answer.data] == [0, 1]
        assert answer.model == "here"
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == 5 + 5
        one = client.embeddings.create(model="here", input="the red cat").data
        np.testing.assert_allclose(one[0].embedding, expected[0], atol=1e-5)
        with pytest.raises(openai.NotFoundError, match="There is no model"):
            client.embeddings.create(model="text-embedding-3-small", input="a")
        with pytest.raises(openai.BadRequestError, match="ids of tokens are not taken") as refused:
            client.embeddings.create(model="here", input=[1, 2, 3])
        assert refused.value.param == "input"
        # what its model says that its vectors may be cut to
        [short] = client.embeddings.create(model="here", input="the red cat", dimensions=8).data
        assert len(short.embedding) == 8
        cut = expected[0][:8] / np.linalg.norm(expected[0][:8])
        np.testing.assert_allclose(short.embedding, cut, atol=1e-5)
        with pytest.raises(openai.BadRequestError, match="have 8, 16 or 32 numbers"):
            client.embeddings.create(model="here", input="a", dimensions=12)


def test_a_model_is_cut_only_where_it_was_trained_to_be(tiny_encoder_folder: Path) -> None:
    encoder = load_encoder(tiny_encoder_folder)
    assert list(encoder.shorter_dimensions) == []
    encoder.transformer.config.is_matryoshka = True
    assert list(encoder.shorter_dimensions) == list(range(1, 32))


def test_models_are_listed_for_the_official_client(
    server: Running, tiny_ranker_folder: Path
) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        names = [each.id for each in client.models.list()]
        assert names[0] == "here"
        assert len(names) == 2  # and the teacher, which re-ranks
        assert client.models.retrieve("here").owned_by == "limbeck"
        with pytest.raises(openai.NotFoundError, match=r"no model .* Ask for .*here"):
            client.models.retrieve("gpt")
    documents = {"query": QUERY, "documents": ["a cat"], "model": names[1]}
    assert server.client.post("/rerank", json=documents).status_code == 200


def test_fields_that_other_servers_know_are_ignored_and_nulls_are_nothing(
    server: Running,
) -> None:
    def answered(path: str, **body: object) -> Any:
        answer = server.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    plain = answered("/v1/embeddings", input="the red cat", model="here")
    nulls = {"encoding_format": None, "dimensions": None, "input_type": None, "user": None}
    assert answered("/v1/embeddings", input="the red cat", model="here", **nulls) == plain
    extra = {"user": "me", "truncate": True, "task": "text-matching", "input_type": "document"}
    assert answered("/v1/embeddings", input="the red cat", model="here", **extra) == plain
    hits = answered("/search", query=QUERY, k=None, by=None, rerank=False)["hits"]
    assert [hit["id"] for hit in hits] == [
        hit["id"] for hit in answered("/search", query=QUERY)["hits"]
    ]
    documents = ["sea sun moon", "the red cat", "disk size"]
    expected = answered("/rerank", query=QUERY, documents=documents)
    cohere = {
        "documents": [{"text": each, "id": at} for at, each in enumerate(documents)],
        "model": None,
        "top_n": None,
        "return_documents": None,
        "rank_fields": None,
        "max_chunks_per_doc": 10,
        "max_tokens_per_doc": 4096,
        "truncation": True,
        "priority": 0,
    }
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        assert answered(path, query=QUERY, **cohere) == expected
    by_fields = answered(
        "/v1/rerank",
        query=QUERY,
        documents=[{"title": "the red", "body": "cat"}],
        rank_fields=["title", "body", "missing"],
        return_documents=True,
    )["results"]
    assert by_fields[0]["document"] == {"title": "the red", "body": "cat"}
    [alone] = [each for each in expected["results"] if each["index"] == 1]
    assert by_fields[0]["relevance_score"] == pytest.approx(alone["relevance_score"], abs=1e-4)


def test_rerank_orders_by_the_teacher(server: Running, tiny_ranker_folder: Path) -> None:
    documents = ["sea sun moon", "the red cat", "disk size"]
    ranker = CrossEncoder(str(tiny_ranker_folder), device="cpu")
    scores = ranker.predict([(QUERY, each) for each in documents], activation_fn=lambda x: x)
    answer = server.client.post("/rerank", json={"query": QUERY, "documents": documents})
    results = answer.json()["results"]
    assert [each["index"] for each in results] == np.argsort(-scores).tolist()
    for each in results:
        assert each["relevance_score"] == pytest.approx(scores[each["index"]], abs=1e-4)
    best = server.client.post(
        "/rerank",
        json={"query": QUERY, "documents": documents, "top_n": 1, "return_documents": True},
    ).json()["results"]
    assert best == [
        {**results[0], "document": {"text": documents[results[0]["index"]]}},
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/search", {"query": "a", "k": 0}, 400, "`k` is 0: .* greater than or equal to 1"),
        ("/search", {"query": "a", "k": 101}, 400, "`k` is 101: .* less than or equal to 100"),
        ("/search", {"query": "a", "k": "5"}, 400, '`k` is "5": .* valid integer'),
        ("/search", {"query": " \n"}, 400, "`query` is empty"),
        ("/search", {"query": ["a"]}, 400, "`query` is .*valid string"),
        ("/search", {"q": "a"}, 400, "`query` is missing"),
        ("/search", {"query": None}, 400, "`query` is missing"),
        ("/search", {"query": "a", "by": "magic"}, 400, "'student', 'bm25' or 'teacher'"),
        ("/search", {"query": "a" * 1001}, 400, "has 1,001 characters; one text may have 1,000"),
        ("/search", {"query": "\ud800"}, 400, "half a character"),
        ("/search", [], 400, "no JSON object"),
        ("/v1/embeddings", {"input": [], "model": "here"}, 400, "Send at least one text"),
        ("/v1/embeddings", {"input": ["a", ""], "model": "here"}, 400, r"`input\[1\]` is empty"),
        ("/v1/embeddings", {"input": ["a"] * 2049, "model": "here"}, 400, "2,049 texts"),
        ("/v1/embeddings", {"input": [None] * 2049, "model": "here"}, 400, r"`input\.0` is null"),
        ("/v1/embeddings", {"input": "a"}, 400, "`model` is missing"),
        ("/rerank", {"query": "a", "documents": "b"}, 400, "`documents` is .*valid list"),
        ("/rerank", {"query": "a", "documents": ["b", 3]}, 400, "document 1 is neither"),
        ("/rerank", {"query": "a", "documents": [{"id": 1}]}, 400, "has no text under `text`"),
        ("/rerank", {"query": "a", "documents": [{"text": 1}]}, 400, "has no text under `text`"),
        ("/rerank", {"query": "a", "documents": [{"text": " "}]}, 400, "`documents` is empty"),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, 400, "`top_n` is 0"),
        ("/rerank", {"query": "a", "documents": ["b"], "model": "c"}, 404, "There is no model"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(
    server: Running, path: str, body: object, status: int, message: str
) -> None:
    # as httpx would write it, but with half characters escaped
    answer = server.client.post(
        path, content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status
    assert re.search(message, error(answer)["message"]), answer.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"query": "a"', "not JSON"),
        (b"\xff\xfe", "Send UTF-8 JSON|not JSON"),
        (b'{"query": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"query": ' + b'{"a": ' * 50_000 + b"1" + b"}" * 50_001, "nested too deeply"),
        (b'{"query": "a", "k": ' + b"9" * 5000 + b"}", "number of thousands of digits"),
        (b'{"query": "a", "k": NaN}', "`k`"),
        (b"", "no JSON object"),
    ],
    ids=["cut", "utf-16", "no-utf8", "deep", "deep-object", "huge", "nan", "empty"],
)
def test_what_is_no_json_is_refused_for_what_it_is(
    server: Running, content: bytes, message: str
) -> None:
    answer = server.client.post(
        "/search", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert re.search(message, error(answer)["message"]), answer.text


def test_bodies_in_gzip_are_unpacked_up_to_the_limit(server: Running) -> None:
    def sent(content: bytes, coding: str = "gzip") -> httpx2.Response:
        headers = {"Content-Type": "application/json", "Content-Encoding": coding}
        return server.client.post("/search", content=content, headers=headers)

    body = json.dumps({"query": QUERY, "k": 3}).encode()
    plain = server.client.post("/search", json={"query": QUERY, "k": 3}).json()["hits"]
    assert [hit["id"] for hit in sent(gzip.compress(body)).json()["hits"]] == [
        hit["id"] for hit in plain
    ]
    bomb = gzip.compress(b'{"query": "' + b"a" * 10_000_000 + b'"}')
    assert len(bomb) < 100_000
    answer = sent(bomb)
    assert (answer.status_code, "larger than" in error(answer)["message"]) == (413, True)
    for broken in (body, gzip.compress(body)[:-4], gzip.compress(body) * 2):
        answer = sent(broken)
        assert (answer.status_code, "gzip" in error(answer)["message"]) == (400, True)
    answer = sent(body, "br")
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip")
    assert "in gzip" in error(answer)["message"]


def test_a_body_that_is_too_large_is_refused_however_it_is_sent(server: Running) -> None:
    large = b'{"query": "' + b"a" * 4_000_000 + b'"}'
    headers = {"Content-Type": "application/json"}
    for content in (large, iter([large[:100], large[100:]])):
        answer = server.client.post("/search", content=content, headers=headers)
        assert answer.status_code == 413
        assert "larger than 4,000,000 bytes" in error(answer)["message"]


def raw(server: Running, *parts: bytes) -> tuple[int, bytes]:
    """The status and the body of what is answered to some bytes, up to the connection's end."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        for part in parts:
            connection.sendall(part)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read()


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        (b"nonsense\r\n\r\n", 400, "not a valid HTTP request"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 20_000, 431, "POST /search"),
        (
            b"POST /search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: a\r\n\r\n",
            501,
            "not a valid HTTP request",
        ),
        (b"GET / HTTP/1.1\r\nHost: attacker.example\r\n\r\n", 403, "attacker.example"),
    ],
    ids=["no-http", "large-head", "coding", "host"],
)
def test_what_is_no_http_is_refused_in_json(
    server: Running, request_: bytes, status: int, message: str
) -> None:
    ends = request_.endswith(b"\r\n\r\n")
    close = b"\r\nConnection: close\r\n\r\n" if ends else b""
    found, body = raw(server, request_.removesuffix(b"\r\n\r\n") + close)
    assert found == status
    assert message in json.loads(body)["error"]["message"]


def test_a_request_that_does_not_arrive_is_not_waited_for(server: Running) -> None:
    head = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    halves = (head, head + b"Content-Length: 100\r\n\r\n" + b'{"query": ')
    with ThreadPoolExecutor(2) as pool:
        for status, body in pool.map(lambda half: raw(server, half), halves):
            assert status == 408
            told = json.loads(body)["error"]
            assert (told["code"], "within 5 seconds" in told["message"]) == ("timeout", True)


def test_other_hosts_are_refused_so_that_no_web_site_can_pass_for_it(server: Running) -> None:
    for path in ("/", "/search?q=cat", "/healthz"):
        answer = server.client.get(path, headers={"Host": "attacker.example:8000"})
        assert (answer.status_code, error(answer)["code"]) == (403, "host_not_allowed")
        assert "--allowed-host" in error(answer)["message"]
        for host in (f"localhost:{server.port}", "docs.example.org", f"[::1]:{server.port}"):
            assert server.client.get(path, headers={"Host": host}).status_code == 200


def test_pages_of_other_origins_may_ask_only_when_they_are_allowed(server: Running) -> None:
    allowed, other = "https://app.example.org", "https://attacker.example"
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-a"}
    for origin, may in ((allowed, allowed), (other, None)):
        for answer in (
            server.client.get("/search", params={"q": "cat"}, headers={"Origin": origin}),
            server.client.get("/search", headers={"Origin": origin}),  # a refusal can be read, too
            server.client.options("/v1/embeddings", headers={"Origin": origin, **asks}),
        ):
            assert answer.headers.get("access-control-allow-origin") == may
            assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/search?q=cat", "/healthz", "/v1/models", "/nothing"])
def test_head_is_get_without_a_body(server: Running, path: str) -> None:
    head, whole = server.client.head(path), server.client.get(path)
    assert head.status_code == whole.status_code
    assert head.content == b""
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert int(head.headers["content-length"]) > 0


def test_other_paths_and_methods_are_refused_in_json(server: Running) -> None:
    assert server.client.get("/docs").status_code == 404
    assert "no /docs here" in error(server.client.get("/docs"))["message"]
    assert server.client.head("/rerank").status_code == 405
    answer = server.client.delete("/search")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"] or "POST" in answer.headers["allow"]
    assert "does not take DELETE" in error(answer)["message"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(
    ["query", "k", "by", "input", "model", "encoding_format", "documents", "top_n", "dimensions"]
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    path=st.sampled_from(["/search", "/v1/embeddings", "/rerank"]),
    body=st.dictionaries(KEYS, VALUES | st.just("here") | st.just(["a"]), max_size=6),
)
def test_no_body_makes_it_stumble(server: Running, path: str, body: dict[str, object]) -> None:
    answer = server.client.post(
        path, content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code < 500
    if answer.status_code != 200:
        assert error(answer)["message"]


def test_requests_of_one_moment_are_computed_together_and_answered_each(server: Running) -> None:
    queries = [f"{word} cat" for word in ("red", "green", "blue", "old", "new", "small")] * 8
    alone = {
        query: server.client.get("/search", params={"q": query, "k": 3}).json()["hits"]
        for query in set(queries)
    }
    batches = server.metric("limbeck_batch_texts_count")
    texts = server.metric("limbeck_batch_texts_sum")

    def ask(query: str) -> list[dict[str, Any]]:
        return server.client.get("/search", params={"q": query, "k": 3}).json()["hits"]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, queries))
    for query, hits in zip(queries, found, strict=True):
        assert [hit["id"] for hit in hits] == [hit["id"] for hit in alone[query]]
    made = server.metric("limbeck_batch_texts_count") - batches
    assert server.metric("limbeck_batch_texts_sum") - texts == len(queries)
    assert made < len(queries)


def test_others_are_answered_while_thousands_of_texts_are_embedded(server: Running) -> None:
    texts = [f"{word} cat " * 60 for word in ("red", "green", "blue", "old")] * 512
    found: list[Any] = []

    def embed() -> None:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            found.extend(client.embeddings.create(model="here", input=texts).data)

    asked = threading.Thread(target=embed)
    asked.start()
    before = server.metric("limbeck_batch_texts_sum")
    while not server.metric("limbeck_batch_texts_sum") > before:
        time.sleep(0.01)
    for by in ("bm25", "student", "teacher"):
        assert server.client.get("/search", params={"q": QUERY, "by": by}).status_code == 200
        assert asked.is_alive()  # nobody waited for all of the texts
    asked.join()
    assert [each.index for each in found] == list(range(2048))
    vectors = np.array([each.embedding for each in found])
    one = server.client.post("/v1/embeddings", json={"input": texts[:4], "model": "here"}).json()
    expected = [each["embedding"] for each in one["data"]]
    np.testing.assert_allclose(vectors.reshape(512, 4, 32), [expected] * 512, atol=1e-5)


def test_health_and_metrics(server: Running) -> None:
    assert server.client.get("/healthz").json() == {
        "status": "ok",
        "model": "here",
        "passages": 65,
        "by": ["student", "bm25", "teacher"],
    }
    before = server.metric("limbeck_requests_total")
    server.client.get("/search", params={"q": ""})
    told = server.client.get("/metrics").text
    assert server.metric("limbeck_requests_total") > before
    assert 'limbeck_requests_total{endpoint="/search",status="400"}' in told
    for name in ("limbeck_request_seconds_bucket", "limbeck_batch_texts_bucket"):
        assert name in told
    assert "limbeck_queue_texts 0.0" in told


def test_without_a_teacher_or_bm25_it_says_so_and_ends_after_the_last_answer(folder: Path) -> None:
    with running(folder, "--no-bm25", "--max-batch", 1, "--name", "small") as server:
        answer = server.client.post("/rerank", json={"query": "a", "documents": ["b"]})
        assert (answer.status_code, error(answer)["code"]) == (404, "no_teacher")
        answer = server.client.get("/search", params={"q": "a", "by": "bm25"})
        assert (answer.status_code, error(answer)["code"]) == (404, "no_bm25")
        assert server.client.get("/healthz").json()["by"] == ["student"]
        body = {"input": ["cat " * 200] * 256, "model": "small"}
        found: list[int] = []
        asked = threading.Thread(
            target=lambda: found.append(
                httpx2.post(f"{server.url}/v1/embeddings", json=body, timeout=60).status_code
            )
        )
        asked.start()
        while not server.metric("limbeck_batch_texts_count") > 0:
            time.sleep(0.01)
        head = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=60) as half_a_head,
            socket.create_connection(("127.0.0.1", server.port), timeout=60) as half_a_body,
        ):
            half_a_head.sendall(head)
            half_a_body.sendall(head + b'\r\n{"query": ')
            server.client.get("/healthz")  # by now the server has seen both
            server.process.send_signal(signal.SIGTERM)
            assert half_a_head.recv(1000) == b""  # nothing was asked
            unfinished = http.client.HTTPResponse(half_a_body)
            unfinished.begin()
            assert unfinished.status == 503
            assert json.loads(unfinished.read())["error"]["code"] == "ending"
        asked.join()
        assert found == [200]
        server.process.wait(60)
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{server.url}/healthz")


def test_more_than_the_queue_holds_is_told_to_come_again(folder: Path) -> None:
    options = ("--no-bm25", "--max-batch", 60, "--max-queue", 100)
    with running(folder, *options) as server:
        body = {"input": ["cat " * 100] * 600, "model": "here"}
        with ThreadPoolExecutor(6) as pool:
            answers = list(
                pool.map(lambda _: server.client.post("/v1/embeddings", json=body), range(6))
            )
        assert {answer.status_code for answer in answers} == {200, 503}
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert refused.headers["retry-after"] == "1"
        assert error(refused)["code"] == "overloaded"
        # what was refused left nothing behind
        assert server.client.post("/v1/embeddings", json=body).status_code == 200


def test_what_cannot_be_served_is_refused_before_the_model_is_loaded(
    server: Running, folder: Path, tmp_path: Path
) -> None:
    def refused(*words: object) -> str:
        done = CliRunner().invoke(app, ["serve", *map(str, words)])
        assert done.exit_code == 2, done.output
        return done.stderr

    port = server.url.rpartition(":")[2]
    assert f"Cannot listen on 127.0.0.1 port {port}" in refused(folder, "--port", port)
    assert "There is no folder" in refused(tmp_path / "nothing", "--port", 0)
    assert "--max-queue 5 has no room" in refused(folder, "--max-queue", 5, "--port", 0)
    assert "is not a host" in refused(folder, "--allowed-host", "http://a.example", "--port", 0)
    assert "is not an origin" in refused(folder, "--allowed-origin", "a.example", "--port", 0)
    (tmp_path / "copy").mkdir()
    shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "copy" / "model")
    assert "which is not there" in refused(tmp_path / "copy", "--port", 0)
