"""A finished run is searched: its data is indexed once, if it is still what it was."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from limbeck import indexing
from limbeck.data import read_collection
from limbeck.indexing import building, open_searcher
from limbeck.inference import plan_batches
from limbeck.store import digest_folder

from .conftest import Finished, Invoke


@pytest.fixture
def run(finished: Finished, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(finished.out, tmp_path / "run"))


def test_the_first_search_builds_the_index_and_the_next_one_uses_it(
    run: Path, finished: Finished, invoke: Invoke
) -> None:
    query = read_collection(finished.data).passages.texts[3]
    student = digest_folder(run / "student")
    first = invoke("search", run, query, "--k", 2, "--precision", "fp32")
    assert first.exit_code == 0, first.output
    assert "has no index yet: encoding the 60 passages" in first.stderr
    assert "  1  1.000  p3\n" in first.stdout
    second = invoke("search", run, query, "--k", 2, "--precision", "fp32", "--json")
    assert "Encoding" not in second.stderr
    hits = json.loads(second.stdout)["hits"]
    assert hits[0]["id"] == "p3"
    assert set(hits[0]) == {"id", "score", "text"}
    assert hits[0]["score"] == pytest.approx(1.0, abs=1e-3)
    assert digest_folder(run / "student") == student
    # the same run is still finished, and its index is found by the other commands
    index = invoke("index", "delete", run, "p3")
    assert index.stdout == "1 deleted; the index has 59 passages\n"
    again = invoke("search", run, query, "--k", 1, "--json").stdout
    assert json.loads(again)["hits"][0]["id"] != "p3"
    # without its card it is not built anew in silence, since the passage would be there again
    (run / "index" / "index.json").unlink()
    lost = invoke("search", run, query)
    assert lost.exit_code == 2
    assert "index.json is missing. Put back a copy" in lost.stderr
    assert (run / "index" / "deleted-000001.npy").is_file()


def test_words_and_the_teacher_rank_too(run: Path, invoke: Invoke) -> None:
    for by in ("bm25", "teacher"):
        answer = invoke("search", run, "cat dog", "--k", 3, "--by", by, "--json")
        assert answer.exit_code == 0, answer.output
        scores = [hit["score"] for hit in json.loads(answer.stdout)["hits"]]
        assert scores == sorted(scores, reverse=True)
        assert scores
    shutil.rmtree(run / "teacher")
    answer = invoke("search", run, "cat dog", "--by", "teacher")
    assert answer.exit_code == 2
    assert "has no teacher" in answer.stderr


def test_data_that_changed_or_went_is_refused_with_what_to_do(
    run: Path, finished: Finished, invoke: Invoke, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(finished.data, tmp_path / "other"))
    record = (run / "run.toml").read_text()
    moved = record.replace(str(finished.data), str(other))
    assert moved != record
    (run / "run.toml").write_text(moved)
    corpus = other / "corpus.jsonl"
    corpus.write_text(corpus.read_text() + '{"_id": "more", "text": "more"}\n')
    answer = invoke("search", run, "cat")
    assert answer.exit_code == 2
    assert "is not what" in answer.stderr
    shutil.rmtree(other)
    answer = invoke("search", run, "cat")
    assert answer.exit_code == 2
    assert "does not exist" in answer.stderr
    assert f"Run `limbeck index {run} DATA`" in answer.stderr
    # which helps, with any data, and any order of words
    built = invoke("index", run, finished.data, "--json")
    assert json.loads(built.stdout)["index"] == str(run / "index")
    assert invoke("search", run, "cat").exit_code == 0


def test_what_is_neither_a_run_nor_an_index_is_refused(
    run: Path, invoke: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert "neither a run nor an index" in invoke("search", tmp_path / "empty", "cat").stderr
    assert "There is no folder" in invoke("search", tmp_path / "nothing", "cat").stderr
    (tmp_path / "empty" / "run.toml").write_text((run / "run.toml").read_text())
    assert "the run is not finished" in invoke("search", tmp_path / "empty", "cat").stderr


def test_an_index_elsewhere_carries_its_model(
    run: Path, finished: Finished, tmp_path: Path
) -> None:

    collection = read_collection(finished.data)
    indexing.build(str(run), collection, tmp_path / "there", precision="fp32")
    shutil.rmtree(run)
    [hits] = open_searcher(tmp_path / "there").search([collection.passages.texts[3]], 1)
    assert hits[0].id == "p3"


@pytest.mark.slow
def test_a_few_texts_are_several_batches_where_threads_take_one_each(
    run: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    texts = read_collection(finished.data).passages.texts[:40]
    planned: list[int] = []

    def noting(lengths: Sequence[int], most: int) -> list[np.ndarray]:
        planned.append(len(plan := plan_batches(lengths, most)))
        return plan

    monkeypatch.setattr(building, "plan_batches", noting)
    found = [
        open_searcher(run, backend=backend, precision="fp32").embed(texts, "passage")[0]
        for backend in ("torch", "openvino")
    ]
    assert planned[-2] == 1  # torch puts all its threads on one
    assert planned[-1] > 2
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
