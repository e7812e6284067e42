"""Data sets of ir_datasets, registered here from files of its own formats."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ir_datasets = pytest.importorskip("ir_datasets")

from limbeck.data.reading import read_as_given  # noqa: E402 (it is skipped without the package)
from limbeck.errors import ConfigError, DataError  # noqa: E402


class LocalFile:
    """A file as the package's downloads give it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def path(self, force: bool = True) -> str:
        return str(self._path)

    def stream(self) -> Any:
        return self._path.open("rb")


Register = Callable[..., None]


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Register]:
    """Puts a data set into the package's registry, until the test is over."""
    names: list[str] = []

    def file(name: str, content: str) -> LocalFile:
        path = tmp_path / name
        path.write_text(content)
        return LocalFile(path)

    corpora: dict[str, Any] = {}

    def register(name: str, docs: str = "", queries: str = "", qrels: str = "") -> None:
        formats, plain = ir_datasets.formats, name.replace("/", "-")
        corpus = name.split("/")[0]
        if docs:
            corpora[corpus] = formats.TsvDocs(file(f"{corpus}.docs", docs), namespace=corpus)
        parts = [corpora[corpus]]
        if queries:
            parts.append(formats.TsvQueries(file(f"{plain}.queries", queries), namespace=corpus))
        if qrels:
            parts.append(formats.TrecQrels(file(f"{plain}.qrels", qrels), {0: "no", 1: "yes"}))
        ir_datasets.registry.register(name, ir_datasets.Dataset(*parts))
        names.append(name)

    yield register
    for name in names:
        del ir_datasets.registry._registered[name]


DOCS = "p0\tA cat sleeps.\np1\tA dog barks.\n"


def test_splits_below_a_name_are_found(register: Register) -> None:
    register("toy", docs=DOCS, queries="q0\twho sleeps?\nq1\twho barks?\nq2\twho flies?\n")
    register("toy/train", queries="q0\twho sleeps?\n", qrels="q0 0 p0 1\n")
    register("toy/validation", queries="q1\twho barks?\n", qrels="q1 0 p1 1\n")
    collection = read_as_given("ir_datasets:toy")
    assert collection.passages.texts == ["A cat sleeps.", "A dog barks."]
    assert collection.qrels == {"train": {"q0": {"p0": 1}}, "dev": {"q1": {"p1": 1}}}
    assert collection.unlabelled == ["q2"]


def test_a_name_without_a_split_is_for_testing(register: Register) -> None:
    register("toy", docs=DOCS, queries="q0\twho sleeps?\n", qrels="q0 0 p0 1\n")
    assert read_as_given("ir_datasets:toy").qrels == {"test": {"q0": {"p0": 1}}}


def test_several_names_are_one_collection(register: Register) -> None:
    register("toy", docs=DOCS)
    register("toy/train", queries="q0\twho sleeps?\n", qrels="q0 0 p0 1\n")
    register("toy/dev/small", queries="q1\twho barks?\nq9\twho?\n", qrels="q1 0 p1 1\n")
    collection = read_as_given("ir_datasets:toy/dev/small,toy/train")
    assert set(collection.qrels) == {"train", "dev"}
    assert collection.queries.ids == ["q0", "q1"]  # q9 is of dev and not judged


def test_what_cannot_be_one_collection_is_refused(register: Register) -> None:
    register("toy", docs=DOCS)
    register("toy/dev", queries="q1\twho barks?\n", qrels="q1 0 p1 1\n")
    register("toy/dev/small", queries="q1\twho barks?\n", qrels="q1 0 p1 1\n")
    register("other/train", docs=DOCS, queries="q0\twho?\n", qrels="q0 0 p0 1\n")
    with pytest.raises(ConfigError, match="toy/dev and toy/dev/small both judge dev"):
        read_as_given("ir_datasets:toy/dev,toy/dev/small")
    with pytest.raises(ConfigError, match="other/train has the passages of other"):
        read_as_given("ir_datasets:toy/dev,other/train")
    with pytest.raises(ConfigError, match="there is no such data set"):
        read_as_given("ir_datasets:toy/nothing")


def test_bad_rows_are_refused_with_their_place(register: Register) -> None:
    register("toy/train", docs=DOCS, queries="q0\twho?\n", qrels="q0 0 p0 1\nq0 0 p7 1\n")
    with pytest.raises(DataError, match=r'toy/train qrels:2: passage id "p7" is not in'):
        read_as_given("ir_datasets:toy/train")


def test_what_cannot_be_downloaded_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # where nobody answers
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path))
    monkeypatch.setenv("IR_DATASETS_DL_TRIES", "1")
    with pytest.raises(ConfigError, match=r"could not be downloaded.*data convert"):
        read_as_given("ir_datasets:beir/nfcorpus")
