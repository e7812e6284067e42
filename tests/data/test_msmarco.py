"""Folders in the layout of MS MARCO: what is read, and what is refused with its line."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data.lines import Problem
from limbeck.data.msmarco import scan_msmarco
from limbeck.data.reading import read_as_given, read_collection
from limbeck.errors import ConfigError, DataError

FILES = {
    "collection.tsv": "0\tA cat sleeps.\n1\tA dog barks.\n2\t A fish swims. \n",
    "queries.train.tsv": "q0\twho sleeps?\nq2\twho swims?\n",
    "queries.dev.tsv": "q1\twho barks?\nq3\twho flies?\nq4\twho sings?\n",
    "queries.dev.small.tsv": "q1\twho barks?\n",
    "queries.eval.tsv": "q5\twho runs?\n",
    "qrels.train.tsv": "q0\t0\t0\t1\nq0\t0\t1\t0\n",
    "qrels.dev.small.tsv": "q1 0 1 2\n",
}


def write(folder: Path, files: dict[str, str | bytes | None] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in {**FILES, **(files or {})}.items():
        if content is not None:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_a_good_folder(tmp_path: Path) -> None:
    collection = read_as_given(write(tmp_path / "marco"))
    assert collection.name == "marco"
    assert collection.passages.ids == ["0", "1", "2"]
    assert collection.passages.texts[2] == "A fish swims."
    assert collection.qrels == {"train": {"q0": {"0": 1, "1": 0}}, "dev": {"q1": {"1": 2}}}
    assert collection.labelled == ["q0"]
    assert collection.unlabelled == ["q2"]
    assert collection.notes == (
        "layout: MS MARCO's, by collection.tsv",
        "queries.dev.tsv: 1 repeated lines (same id, same text) merged",
        "qrels.train.tsv: 2 lines read as the four columns of TREC",
        "qrels.dev.small.tsv: 1 lines read as the four columns of TREC",
        "queries of dev and test: 3 without judgements left out",
        "test: no judgements, so there are no test figures",
    )


def test_packed_files_read_alike(tmp_path: Path) -> None:
    files: dict[str, str | bytes | None] = {}
    for name, content in FILES.items():
        files |= {name: None, f"{name}.gz": gzip.compress(content.encode())}
    packed = read_as_given(write(tmp_path / "packed", files))
    assert packed.digest == read_as_given(write(tmp_path / "plain")).digest


def test_queries_without_a_split_are_unlabelled(tmp_path: Path) -> None:
    folder = write(tmp_path, {"queries.tsv": "q9\twho reads?\n"})
    assert read_as_given(folder).unlabelled == ["q2", "q9"]


def test_passages_alone_get_made_queries(tmp_path: Path) -> None:
    folder = write(tmp_path, dict.fromkeys(set(FILES) - {"collection.tsv"}))
    assert read_collection(folder).synthetic


BAD: dict[str, tuple[dict[str, str | bytes | None], str]] = {
    "two of one split": (
        {"qrels.dev.tsv": "q3 0 1 1\n"},
        r"qrels.dev.tsv: judges dev, and so does qrels.dev.small.tsv. Keep one",
    ),
    "no split in a name": (
        {"qrels.tsv": "q0 0 1 1\n"},
        r"qrels.tsv: its name says no split. Name it qrels.train.tsv",
    ),
    "an unknown word": (
        {"queries.trec19.tsv": "q9\tx\n"},
        r"queries.trec19.tsv: its name says no split. Name it queries.train.tsv",
    ),
    "three columns": (
        {"collection.tsv": "0\ta\n1\tb\tc\n"},
        r"collection.tsv:2: 3 columns instead of 2. Write one id and one text per line",
    ),
    "no tab": ({"queries.train.tsv": "q0 who\n"}, r"queries.train.tsv:1: 1 column instead of 2"),
    "no queries": (
        {"queries.train.tsv": None, "queries.dev.tsv": None, "queries.dev.small.tsv": None}
        | {"queries.eval.tsv": None},
        r"queries.train.tsv: empty, there are no queries",
    ),
    "an empty collection": ({"collection.tsv": ""}, r"collection.tsv: empty, there are no passage"),
    "an empty id": ({"collection.tsv": "\ta cat\n"}, r"collection.tsv:1: the id is empty"),
    "another text in another file": (
        {"queries.dev.small.tsv": "q1\twho bites?\n"},
        r'queries.dev.tsv:1: id "q1" has another text in queries.dev.small.tsv:1',
    ),
    "an unknown id": (
        {"qrels.train.tsv": "q0 0 0 1\nq0 0 7 1\n"},
        r'qrels.train.tsv:2: passage id "7" is not in collection.tsv',
    ),
    "three columns of judgements": (
        {"qrels.train.tsv": "q0 0 1\n"},
        r"qrels.train.tsv:1: 1 column instead of 3",
    ),
    "not UTF-8": ({"collection.tsv": b"0\tcaf\xe9\n"}, r"collection.tsv:1: byte 6 of the line"),
    "cut gzip": (
        {"collection.tsv": None, "collection.tsv.gz": gzip.compress(b"0\ta cat\n" * 99)[:-9]},
        r"collection.tsv:\d+: cannot be read",
    ),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_bad_input_is_refused_with_its_place(tmp_path: Path, kind: str) -> None:
    files, expected = BAD[kind]
    with pytest.raises(DataError, match=expected):
        read_as_given(write(tmp_path, files))


def test_two_layouts_in_one_folder_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, {"corpus.jsonl.gz": b""})
    with pytest.raises(ConfigError, match=r"both corpus.jsonl.gz and collection.tsv"):
        read_as_given(folder)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(FILES)), content=st.binary(max_size=60))
def test_whatever_is_in_a_file_is_read_or_reported(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    folder = write(tmp_path_factory.mktemp("marco"), {name: content})
    problems: list[Problem] = []
    collection = scan_msmarco(folder, problems.append)
    rows = [line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    if name == "collection.tsv" and not problems:
        assert 1 <= len(collection.passages) <= len(rows)
    assert all(problem.where.split(":")[0] in FILES for problem in problems)
