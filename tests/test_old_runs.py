"""Runs that an older version left still open, and are not gone on with by another version.

`fixtures/run-0.1.0.tar.xz` holds `data`, 24 made-up passages; `base`, a random encoder of two
layers, width 8; and `run`, without the states of its training stages, as 0.1.0 (03a024c) left it:

    limbeck distill data --recipe kl --teacher train:dual --student base --student-layers 1 \\
        --force-teacher --precision fp32 --backend torch --out run --set ... (see run/run.toml)
"""

import asyncio
import json
import shutil
import tarfile
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner, Result

from limbeck.cli import app
from limbeck.data import read_collection
from limbeck.indexing import open_searcher
from limbeck.pipeline.reporting import damage, write_page
from limbeck.serving.app import create_app
from limbeck.serving.hosts import AllowedHosts
from limbeck.serving.limits import Limits

ARCHIVE = Path(__file__).parent / "fixtures" / "run-0.1.0.tar.xz"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, in the folder where its command is given."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return Path("run")


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_its_page_is_written_again(run: Path) -> None:
    assert damage(run) == {}
    (run / "report.html").unlink()
    write_page(run, read_collection("data"))
    page = (run / "report.html").read_text()
    nDCG = json.loads((run / "metrics.json").read_text())["rows"][-1]["nDCG@10"]
    assert f"{nDCG:.3f}" in page
    assert damage(run) == {}


def test_it_is_compared(run: Path) -> None:
    shutil.copytree(run, "other")
    answer = invoke("compare", run, "other", "--json")
    assert answer.exit_code == 0, answer.output
    rows = json.loads(answer.stdout)["rows"]
    assert [row["recipe"] for row in rows] == ["kl", "kl"]
    assert rows[1]["difference"] == 0


@pytest.mark.parametrize("by", ["student", "bm25", "teacher"])
def test_it_is_searched(run: Path, by: str) -> None:
    passage = read_collection("data").passages.texts[3]
    answer = invoke("search", run, passage, "--by", by, "--k", 24, "--backend", "torch", "--json")
    assert answer.exit_code == 0, answer.output
    hits = json.loads(answer.stdout)["hits"]
    assert "p3" in ([hit["id"] for hit in hits] if by == "teacher" else [hits[0]["id"]])


def test_it_is_served(run: Path) -> None:
    searcher = open_searcher(run, precision="fp32", backend="torch")
    served = create_app(searcher, Limits(), name="old", hosts=AllowedHosts())

    async def asked() -> httpx2.Response:
        transport = httpx2.ASGITransport(served)
        async with (
            served.router.lifespan_context(served),
            httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            return await client.get("/search", params={"q": "red cat"})

    answer = asyncio.run(asked())
    assert answer.status_code == 200
    assert len(answer.json()["hits"]) == 10


def test_another_version_does_not_go_on_with_an_unfinished_one(run: Path) -> None:
    """It says so whatever the settings are, which may have other names by now."""
    (run / "metrics.json").unlink()
    record = run / "run.toml"
    record.write_text(record.read_text().replace('limbeck = "0.1.0"', 'limbeck = "0.0.9"'))
    answer = invoke("distill", "data", "--student", "base", "--out", run)
    assert answer.exit_code == 2, answer.output
    assert "limbeck 0.0.9" in answer.stderr
    assert not (run / "metrics.json").exists()
