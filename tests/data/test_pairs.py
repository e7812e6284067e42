"""Weak pairs: read line by line from a file that stays where it is, or made of a collection."""

import gzip
import json
from array import array
from pathlib import Path

import numpy as np
import pytest

from limbeck.data.collection import Collection, Texts
from limbeck.data.pairs import Pairs, made_pairs, read_pairs
from limbeck.errors import ConfigError, DataError

ROWS = [("who sleeps?", "A cat sleeps."), ("who barks?", "A dog barks."), ("sea", "a fish")]


def objects(*lines: object) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.tsv", "".join(f"{query}\t{passage}\n" for query, passage in ROWS)),
        ("p.jsonl", objects(*({"query": q, "passage": p} for q, p in ROWS))),
        ("p.jsonl", objects(*({"anchor": q, "positive": p, "source": "web"} for q, p in ROWS))),
        ("p.jsonl", objects(*({"question": q, "answer": p} for q, p in ROWS))),
        ("p.jsonl", objects(*({"query": q, "pos": [p], "neg": ["no"]} for q, p in ROWS))),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_files_of_pairs(tmp_path: Path, name: str, content: str, packed: bool) -> None:
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    pairs = read_pairs(path)
    assert list(pairs.rows()) == ROWS
    assert len(pairs) == 3
    assert list(pairs.texts("query")) == [query for query, _ in ROWS]
    assert list(pairs.texts("passage")) == [passage for _, passage in ROWS]
    assert len(pairs.texts("query")) == 3
    assert "sea" in pairs.texts("query")
    assert "sea" not in pairs.texts("passage")
    assert pairs.digest == Pairs.of("by hand", lambda: iter(ROWS)).digest


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.tsv", "a\tb\nc\n", "p.tsv:2: 1 columns instead of two"),
        ("p.tsv", "a\tb\nc\td\te\n", "p.tsv:2: 3 columns"),
        ("p.tsv", "a\tb\nc\t \n", "p.tsv:2: a text is empty"),
        ("p.jsonl", objects({"query": "a", "passage": "b"}) + "{", "p.jsonl:2: not JSON"),
        ("p.jsonl", objects({"query": "a"}), "p.jsonl:1: no positive"),
        ("p.jsonl", objects({"query": "a", "passage": 3}), "p.jsonl:1: 3 in"),
        ("p.tsv", "a\tb\n", "There are 1 pairs of texts, from p.tsv"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_line(
    tmp_path: Path, name: str, content: str, says: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=says):
        read_pairs(path)


def test_bytes_that_are_no_text_and_halves_of_characters(tmp_path: Path) -> None:
    path = tmp_path / "p.tsv"
    path.write_bytes(b"a\tb\nc\t\xff\n")
    with pytest.raises(DataError, match=r"p\.tsv:2: byte 3 of the line is not UTF-8"):
        read_pairs(path)
    path = tmp_path / "p.jsonl"
    path.write_text('{"query": "a\\ud800", "passage": "b"}\n{"query": "c", "passage": "d"}\n')
    assert next(read_pairs(path).rows()) == ("a\ufffd", "b")


@pytest.mark.parametrize("name", ["pairs.csv", "missing.tsv"])
def test_a_file_of_another_kind_or_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "pairs.csv").write_text("a,b\n")
    with pytest.raises(ConfigError, match=f"--pairs .*{name}"):
        read_pairs(tmp_path / name)


def test_equal_texts_have_equal_keys() -> None:
    rows = [("a", "The  sea "), ("A", "the sea"), ("b", "the seas")]
    keys = Pairs.of("by hand", lambda: iter(rows)).keys
    assert keys.shape == (3, 3)
    equal = keys[:, None] == keys[None]
    assert equal[..., 0].tolist() == [
        [True, True, False],
        [True, True, False],
        [False] * 2 + [True],
    ]
    assert np.array_equal(equal[..., 0], equal[..., 1])


def test_pairs_of_a_collection() -> None:
    """A title and its text, a first sentence and the rest, key phrases and all of it."""
    texts = [f"Number {at} A cat{at} sleeps. A dog{at} barks, dog{at}." for at in range(3)]
    passages = Texts(["a", "b", "c"], texts, array("l", [8, 8, 8]))
    pairs = made_pairs(Collection("docs", passages, Texts([], []), {}))
    first = list(pairs.rows())[:3]
    assert first[0] == ("Number 0", "A cat0 sleeps. A dog0 barks, dog0.")
    assert first[1] == ("A cat0 sleeps.", "A dog0 barks, dog0.")
    assert first[2][1] == texts[0]
    assert {"cat0", "dog0"} <= set(first[2][0].split())
    assert len(pairs) == 9
    assert pairs.keys[:, 2].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # no negatives of each other


def test_a_collection_of_one_word_makes_no_pairs() -> None:
    passages = Texts(["a"], ["word"])
    with pytest.raises(DataError, match="There are 0 pairs of texts, made from titles"):
        made_pairs(Collection("docs", passages, Texts([], []), {}))
