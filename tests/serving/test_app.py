"""Who waits for whom inside the application."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest

from limbeck.indexing import open_searcher
from limbeck.serving.app import create_app
from limbeck.serving.hosts import AllowedHosts
from limbeck.serving.limits import Limits


def test_a_search_by_words_does_not_wait_for_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = open_searcher(folder, precision="fp32")
    searcher.count_words()
    embed, busy, go = searcher.embed, threading.Event(), threading.Event()

    def held(*asked: Any) -> Any:
        busy.set()
        assert go.wait(60)
        return embed(*asked)

    monkeypatch.setattr(searcher, "embed", held)
    app = create_app(searcher, Limits(), name="here", hosts=AllowedHosts())

    async def run() -> None:
        transport = httpx2.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            body = {"input": "the red cat", "model": "here"}
            embeddings = asyncio.create_task(client.post("/v1/embeddings", json=body))
            try:
                assert await asyncio.to_thread(busy.wait, 60)
                found = await client.get("/search", params={"q": "red cat", "by": "bm25"})
                assert found.json()["hits"]
                assert not embeddings.done()
            finally:
                go.set()
            assert (await embeddings).status_code == 200

    asyncio.run(run())
