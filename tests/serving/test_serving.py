"""What the server answers, and that nothing one sends it makes it stumble."""

import base64
import json
import re
import shutil
import signal
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
        with pytest.raises(openai.BadRequestError, match="have 32 numbers"):
            client.embeddings.create(model="here", input="a", dimensions=8)


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
        ("/search", {"query": "a", "topk": 3}, 400, "`topk` is not known here"),
        ("/search", {"query": "a", "by": "magic"}, 400, "'student', 'bm25' or 'teacher'"),
        ("/search", {"query": "a" * 1001}, 400, "has 1,001 characters; one text may have 1,000"),
        ("/search", {"query": "\ud800"}, 400, "half a character"),
        ("/search", [], 400, "no JSON object"),
        ("/v1/embeddings", {"input": [], "model": "here"}, 400, "Send at least one text"),
        ("/v1/embeddings", {"input": ["a", ""], "model": "here"}, 400, r"`input\[1\]` is empty"),
        ("/v1/embeddings", {"input": ["a"] * 257, "model": "here"}, 400, "257 texts"),
        ("/v1/embeddings", {"input": "a"}, 400, "`model` is missing"),
        ("/rerank", {"query": "a", "documents": "b"}, 400, "`documents` is .*valid list"),
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
    "content",
    [
        b'{"query": "a"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"query": "a", "k": ' + b"9" * 5000 + b"}",
        b'{"query": "a", "k": NaN}',
        b"",
    ],
    ids=["cut", "no-utf8", "deep", "huge", "nan", "empty"],
)
def test_what_is_no_json_is_refused(server: Running, content: bytes) -> None:
    answer = server.client.post(
        "/search", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert "Send" in error(answer)["message"] or "`k`" in error(answer)["message"]


def test_a_body_that_is_too_large_is_refused_however_it_is_sent(server: Running) -> None:
    large = b'{"query": "' + b"a" * 4_000_000 + b'"}'
    headers = {"Content-Type": "application/json"}
    for content in (large, iter([large[:100], large[100:]])):
        answer = server.client.post("/search", content=content, headers=headers)
        assert answer.status_code == 413
        assert "larger than 4,000,000 bytes" in error(answer)["message"]


def test_other_paths_and_methods_are_refused_in_json(server: Running) -> None:
    assert server.client.get("/docs").status_code == 404
    assert "no /docs here" in error(server.client.get("/docs"))["message"]
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


def test_health_and_metrics(server: Running) -> None:
    assert server.client.get("/healthz").json() == {
        "status": "ok",
        "model": "here",
        "passages": 61,
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
        server.process.send_signal(signal.SIGTERM)
        asked.join()
        assert found == [200]
        server.process.wait(60)
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{server.url}/healthz")


def test_more_than_the_queue_holds_is_told_to_come_again(folder: Path) -> None:
    options = ("--no-bm25", "--max-batch", 1, "--max-queue", 100, "--max-texts", 100)
    with running(folder, *options) as server:
        body = {"input": ["cat " * 100] * 60, "model": "here"}
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
    (tmp_path / "copy").mkdir()
    shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "copy" / "model")
    assert "which is not there" in refused(tmp_path / "copy", "--port", 0)
