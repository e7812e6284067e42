import re
from importlib.metadata import PackageNotFoundError, requires

import pytest

from limbeck.data import pydocs, read_collection
from limbeck.data.collection import Collection
from limbeck.data.pydocs import Docstring, collection_of, docstrings_of, read_pydocs

SOURCE = b'''
"""A module about cats and dogs.

It has a rest that is long enough to be a passage, with words and more words in it."""

import nothing_that_exists

class Cat:
    """Too short.

    It has a rest that is long enough to be a passage, with words and more words in it."""

    def sleep(self):
        """Sleep on the sofa
        for a while.

        Parameters
        ----------
        hours : how many hours the cat should sleep on this sofa, which one, and why it is there
        """

if True:
    def bark():
        """Bark at the postman every day.

        Too little."""

def broken():
    """Keep half of a character here.

    It has a rest that is long enough to be a passage, \\ud800 with words and more words in it."""
'''


def test_summary_and_rest_of_each_usable_docstring() -> None:
    assert list(docstrings_of(SOURCE, "pets")) == [
        Docstring(
            "pets",
            "A module about cats and dogs.",
            "It has a rest that is long enough to be a passage, with words and more words in it.",
        ),
        Docstring(
            "pets.Cat.sleep",
            "Sleep on the sofa for a while.",
            "Parameters hours : how many hours the cat should sleep on this sofa, which one, "
            "and why it is there",
        ),
    ]


def test_long_rests_are_cut() -> None:
    words = " ".join(first + second for first in "abcdefghij" for second in "klmnopqrst")
    source = f'"""A summary of four words.\n\n{words}"""'.encode()
    [docstring] = docstrings_of(source, "long")
    assert docstring.rest.split() == words.split()[:48]


def test_directives_are_left_out_but_not_what_they_say() -> None:
    source = b'''"""A summary of four words.

    .. versionadded:: 1.2

    .. warning::
        The roof of this house is under repair, and so are all of its doors and windows.
    """'''
    [docstring] = docstrings_of(source, "house")
    assert docstring.rest == (
        "The roof of this house is under repair, and so are all of its doors and windows."
    )


@pytest.mark.parametrize("source", [b"def (", b"\x00", b"", b"(" * 500])
def test_files_that_are_no_python_give_nothing(source: bytes) -> None:
    assert list(docstrings_of(source, "broken")) == []


def test_equal_summaries_share_a_query_and_equal_rests_a_passage() -> None:
    collection = collection_of(
        [
            Docstring("a", "first summary", "one"),
            Docstring("b", "first summary", "two"),
            Docstring("c", "second summary", "two"),
            Docstring("d", "third summary", "three"),
        ],
        [],
        note="made up",
    )
    assert collection.passages.ids == ["a", "b", "d"]
    assert collection.queries.ids == ["a?", "c?", "d?"]
    assert collection.qrels == {
        "test": {"a?": {"a": 1, "b": 1}, "c?": {"b": 1}, "d?": {"d": 1}},
    }


def test_queries_that_share_passages_stay_in_one_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries i and i+1 share a passage within each ten, so groups of ten must stay together."""
    monkeypatch.setattr(pydocs, "TEST_QUERIES", 25)
    monkeypatch.setattr(pydocs, "DEV_QUERIES", 10)
    docstrings = [
        Docstring(f"n{i}.{j}", f"summary {i}", f"passage {i // 10} {(i + j) % 10}")
        for i in range(100)
        for j in range(2)
    ]
    collection = collection_of(docstrings, [], note="made up")
    assert {split: len(judged) for split, judged in collection.qrels.items()} == {
        "train": 70,
        "dev": 10,
        "test": 20,  # a third group of ten would not fit
    }
    assert_no_text_in_two_splits(collection)


def assert_no_text_in_two_splits(collection: Collection) -> None:
    seen: dict[str, str] = {}
    for split, qrels in collection.qrels.items():
        for query, judged in qrels.items():
            texts = [collection.queries.texts[collection.queries.index[query]]]
            texts += [collection.passages.texts[collection.passages.index[id_]] for id_ in judged]
            for text in texts:
                assert seen.setdefault(text, split) == split


def test_further_docstrings_are_queries_without_judgements() -> None:
    collection = collection_of(
        [Docstring("a", "first summary", "one")],
        [Docstring("b", "first summary", "two"), Docstring("c", "second summary", "three")],
        note="made up",
    )
    assert collection.passages.ids == ["a"]
    assert collection.queries.ids == ["a?", "c?"]
    assert collection.unlabelled == ["c?"]


def test_packages_are_what_the_base_install_brings() -> None:
    brought: set[str] = set()
    new = {"limbeck"}
    while new:
        brought |= new
        new = {name for package in new for name in needed_by(package)} - brought
    assert set(pydocs.PACKAGES) <= brought


def needed_by(package: str) -> set[str]:
    try:
        needed = requires(package) or []
    except PackageNotFoundError:  # of another platform
        return set()
    return {
        re.split(r"[^\w.-]", each)[0].lower().replace("_", "-")
        for each in needed
        if "extra ==" not in each
    }


@pytest.mark.slow
def test_the_collection_itself() -> None:
    collection = read_collection("pydocs")
    assert len(collection.passages) == pydocs.PASSAGES
    assert len(collection.qrels["test"]) == pydocs.TEST_QUERIES
    assert len(collection.qrels["dev"]) == pydocs.DEV_QUERIES
    assert len(collection.labelled) > 1500
    assert len(collection.unlabelled) > 3000
    for texts in (collection.passages, collection.queries):
        assert len(set(texts.ids)) == len(texts)
        assert len(set(texts.texts)) == len(texts)
    assert max(len(text.split()) for text in collection.passages.texts) <= 48
    assert_no_text_in_two_splits(collection)
    assert "numpy" in collection.notes[0]


def test_the_same_packages_give_the_same_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pydocs, "PACKAGES", ("typer", "bm25s"))
    assert read_pydocs().digest == read_pydocs().digest
