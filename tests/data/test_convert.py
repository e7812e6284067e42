"""A collection written as a BEIR folder is the same collection when it is read again."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data import read_collection
from limbeck.data.convert import _check_ids, convert
from limbeck.data.reading import read_as_given
from limbeck.errors import ConfigError, DataError
from limbeck.types import PassageId, QueryId

CORPUS = '{"_id": "p0", "title": "Cats", "text": "A cat\\nsleeps."}\n{"_id": "p1", "text": "Dog"}\n'
QUERIES = "".join(f'{{"_id": "q{at}", "text": "who {at}?"}}\n' for at in range(20))
TRAIN = "".join(f"q{at}\tp{at % 2}\t{1 + at % 3}\n" for at in range(15))


def beir(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(CORPUS)
    (folder / "queries.jsonl").write_text(QUERIES)
    (folder / "qrels" / "train.tsv").write_text(TRAIN)
    return folder


def test_what_is_written_has_the_same_digest_as_what_was_read(tmp_path: Path) -> None:
    source = beir(tmp_path / "source")
    convert(source, tmp_path / "out")
    assert read_as_given(tmp_path / "out").digest == read_as_given(source).digest
    assert "dev" not in read_as_given(tmp_path / "out").qrels  # what is set aside is not written
    assert read_collection(tmp_path / "out").digest == read_collection(source).digest
    first = json.loads((tmp_path / "out" / "corpus.jsonl").read_text().splitlines()[0])
    assert first == {"_id": "p0", "title": "Cats", "text": "A cat\nsleeps."}


def test_a_corpus_alone_stays_one(tmp_path: Path) -> None:
    rows = [
        {"_id": f"p{at}", "title": f"Word {at}", "text": f"It is {at}. And more."}
        for at in range(9)
    ]
    (tmp_path / "source").mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "source" / "corpus.jsonl").write_text(lines)
    convert(tmp_path / "source", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["corpus.jsonl"]  # noqa: PTH208
    assert read_collection(tmp_path / "out").digest == read_collection(tmp_path / "source").digest


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    source = beir(tmp_path / "source")
    with pytest.raises(ConfigError, match=r"is there already, and nothing is overwritten"):
        convert(source, source)
    (tmp_path / "empty").mkdir()
    convert(source, tmp_path / "empty")


def test_examples_of_classes_are_no_collection(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"digits holds examples of classes"):
        convert("digits", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_used_leaves_nothing_behind(tmp_path: Path) -> None:
    source = beir(tmp_path / "source")
    (source / "qrels" / "train.tsv").write_text("q0\tp7\t1\n")
    with pytest.raises(DataError, match=r"train.tsv:1"):
        convert(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_what_a_killed_conversion_left_goes_when_nobody_wrote_to_it_for_a_day(
    tmp_path: Path,
) -> None:
    """One that is younger may be written just now, on another machine; another's is left alone."""
    source = beir(tmp_path / "source")
    left = {
        ".tmp-7-out": 25,
        ".old-7-out": 25,
        ".tmp-8-out": 23,
        ".tmp-7-other": 25,
        ".tmp-out": 25,
    }
    for name, hours in left.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "corpus.jsonl").write_text("half")
        for path in (tmp_path / name / "corpus.jsonl", tmp_path / name):
            os.utime(path, times=(time.time() - hours * 3600,) * 2)
    convert(source, tmp_path / "out")
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"source", "out", ".tmp-8-out", ".tmp-7-other", ".tmp-out"}


def test_ids_that_judgements_cannot_hold_are_refused(tmp_path: Path) -> None:
    rows = [{"_id": "p\t0", "text": "a"}, {"_id": "p1", "text": "b"}]
    source = beir(tmp_path / "source")
    (source / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (source / "qrels" / "train.tsv").write_text("q0 0 p1 1\n")
    collection = convert(source, tmp_path / "out")  # nobody judges it
    assert read_as_given(tmp_path / "out").digest == collection.digest
    judged = replace(collection, qrels={"train": {QueryId("q0"): {PassageId("p\t0"): 1}}})
    with pytest.raises(DataError, match=r"the id 'p\\t0' holds a tab or a line break"):
        _check_ids(judged)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=6), st.text(max_size=12)), min_size=1, max_size=3))
def test_any_text_comes_back(
    tmp_path_factory: pytest.TempPathFactory, passages: list[tuple[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("convert")
    source = beir(folder / "source")
    rows = [{"_id": f"p{at}", "title": a, "text": b} for at, (a, b) in enumerate(passages)]
    rows += [{"_id": f"p{at}", "text": "x"} for at in range(len(rows), 2)]
    (source / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = read_as_given(source)
    convert(source, folder / "out")
    after = read_as_given(folder / "out")
    assert after.digest == before.digest
    parts = [
        [each.parts(at) for at in range(len(each))] for each in (before.passages, after.passages)
    ]
    assert parts[0] == parts[1]
