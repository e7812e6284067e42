"""Training examples by text: the shapes that both libraries write, and what is refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data.collection import Collection
from limbeck.data.examples import content_id, scan_examples
from limbeck.data.lines import Problem
from limbeck.data.reading import read_as_given
from limbeck.data.scores import read_scores
from limbeck.errors import ConfigError, DataError

FLAG: dict[str, Any] = {
    "query": "who sleeps?",
    "pos": ["A cat sleeps.", "Cats nap."],
    "neg": ["A dog barks."],
}
JUDGED = {("who sleeps?", "A cat sleeps.", 1), ("who sleeps?", "Cats nap.", 1)}
JUDGED |= {("who sleeps?", "A dog barks.", 0)}


def write(path: Path, *rows: object) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def judged(collection: Collection, split: Any = "train") -> set[tuple[str, str, int]]:
    queries, passages = collection.queries, collection.passages
    return {
        (queries.texts[queries.index[query]], passages.texts[passages.index[passage]], grade)
        for query, grades in collection.qrels[split].items()
        for passage, grade in grades.items()
    }


@pytest.mark.parametrize(
    "rows",
    [
        [FLAG],
        [{**FLAG, "pos_scores": [3, 2.5], "neg_scores": [-1]}],
        [
            {"anchor": "who sleeps?", "positive": "A cat sleeps.", "negative": "A dog barks."},
            {"anchor": "who sleeps?", "positive": " Cats nap. "},
        ],
        [
            {"query": "who sleeps?", "positive": "Cats nap.", "negative_1": "A dog barks."},
            {"question": "who sleeps?", "answer": "A cat sleeps."},
        ],
        [
            {"anchor": "who sleeps?", "positive": "Cats nap.", "label": 1},
            {"anchor": "who sleeps?", "positive": "A dog barks.", "label": 0.0},
            {"anchor": "who sleeps?", "positive": "A cat sleeps.", "label": True},
        ],
        [
            {
                "query": "who sleeps?",
                "docs": ["A cat sleeps.", "A dog barks.", "Cats nap."],
                "labels": [1, 0, 1],
            }
        ],
        [
            {
                "query_id": "7",
                "query": "who sleeps?",
                "answers": ["cats", "A cat"],
                "positive_passages": [
                    {"docid": "3", "title": "", "text": "A cat sleeps."},
                    {"docid": "4", "title": "Cats", "text": " nap."},
                ],
                "negative_passages": [{"docid": "5", "text": "A dog barks."}],
            }
        ],
        [
            {
                "question": "who sleeps?",
                "answers": ["cats"],
                "positive_ctxs": [{"title": "A cat", "text": "sleeps.", "score": "9.5"}],
                "negative_ctxs": [],
                "hard_negative_ctxs": [{"title": "A dog", "text": "barks.", "passage_id": "5"}],
            },
            {
                "question": "who sleeps?",
                "positive_ctxs": [{"title": None, "text": "Cats nap."}],
                "negative_ctxs": [{"title": "A dog", "text": "barks."}],
            },
        ],
    ],
)
def test_every_shape_says_the_same(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    collection = read_as_given(write(tmp_path / "mine.jsonl", *rows))
    assert judged(collection) == JUDGED
    assert collection.name == "mine"
    assert collection.queries.ids == [content_id("who sleeps?")]


def test_a_folder_has_splits_and_one_corpus(tmp_path: Path) -> None:
    other = {"query": "who barks?", "pos": ["A dog barks."], "neg": [], "prompt": "find"}
    write(tmp_path / "train.jsonl.gz", FLAG)
    write(tmp_path / "test.jsonl", other)
    collection = read_as_given(tmp_path)
    assert judged(collection) == JUDGED
    assert judged(collection, "test") == {("who barks?", "A dog barks.", 1)}
    assert collection.passages.texts == ["A cat sleeps.", "Cats nap.", "A dog barks."]
    assert collection.notes == (
        'train.jsonl: 1 lines read as FlagEmbedding writes them ("query", "pos")',
        'test.jsonl: 1 lines read as FlagEmbedding writes them ("query", "pos")',
        "test.jsonl: not read: prompt",
    )


def test_a_positive_beats_a_negative_and_it_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", FLAG, {**FLAG, "pos": ["A dog barks."], "neg": []})
    collection = read_as_given(path)
    assert ("who sleeps?", "A dog barks.", 1) in judged(collection)
    assert "1 times a passage is given as positive and as negative" in collection.notes[1]


def test_it_is_said_what_each_line_was_read_as_and_what_was_not_read(tmp_path: Path) -> None:
    tevatron = {
        "query": "who barks?",
        "answers": ["dogs"],
        "positive_passages": [{"docid": "5", "title": "Dogs", "text": "A dog barks."}],
    }
    rows = [FLAG, {"anchor": "who naps?", "answer": "Cats nap."}, tevatron, tevatron]
    collection = read_as_given(write(tmp_path / "a.jsonl", *rows))
    assert collection.notes[:4] == (
        'a.jsonl: 1 lines read as FlagEmbedding writes them ("query", "pos")',
        'a.jsonl: 1 lines read as sentence-transformers writes them ("anchor", "answer")',
        'a.jsonl: 2 lines read as Tevatron writes them ("query", "positive_passages")',
        "a.jsonl: not read: answers, positive_passages.docid",
    )
    last = len(collection.passages) - 1
    assert collection.passages.parts(last) == ("Dogs", "A dog barks.")


def test_scores_of_a_teacher_are_read_as_scores(tmp_path: Path) -> None:
    tuples = {"query": "who barks?", "positive": "A dog barks.", "negative": "Cats nap."}
    path = write(
        tmp_path / "a.jsonl",
        {**FLAG, "pos_scores": [3, 2.5], "neg_scores": [-1]},
        {**tuples, "scores": [0.5, 0.25]},
        {**tuples, "query": "who hides?"},
    )
    collection = read_as_given(path)
    found = read_scores(path, collection)
    texts = collection.passages.texts
    assert [texts[at] for at in found.pairs[:, 1]] == [*texts, "A dog barks.", "Cats nap."]
    assert found.scores.tolist() == [3, 2.5, -1, 0.5, 0.25]


BAD: dict[str, tuple[object, str]] = {
    "not JSON": ("{", r":2: not JSON"),
    "a list": ([1], r":2: \[1\] instead of an object"),
    "no query": ({"pos": ["a"]}, r':2: no "query" \(it has "pos"\)'),
    "an empty query": ({**FLAG, "query": " "}, r'" " in "query", not a text that is not empty'),
    "no positive": ({**FLAG, "pos": []}, r'\[\] in "pos", not a list of texts'),
    "a text for a list": ({**FLAG, "pos": "a"}, r'"a" in "pos", not a list of texts'),
    "a number among texts": ({**FLAG, "neg": [1]}, r'1 in "neg", not a text'),
    "too few scores": ({**FLAG, "pos_scores": [1]}, r'1 in "pos_scores" for 2 passages'),
    "half of the scores": ({**FLAG, "pos_scores": [1, 2]}, r'no "neg_scores"'),
    "the other half": ({**FLAG, "neg_scores": [1]}, r'"neg_scores" without "pos_scores"'),
    "a score in words": ({**FLAG, "pos_scores": ["x", 1]}, r'"x" in "pos_scores", not a finite'),
    "nan": ('{"query": "a", "pos": ["b"], "pos_scores": [NaN]}', r'NaN in "pos_scores"'),
    "two queries": ({"query": "a", "anchor": "b", "positive": "c"}, r"may both be the query"),
    "no passage": ({"query": "a", "text": "b"}, r'no positive \(it has "query", "text"\)'),
    "similarity": (
        {"sentence1": "a", "sentence2": "b", "score": 0.5},
        r'no query \(it has "sentence1", "sentence2", "score"\)',
    ),
    "a label of three": ({"anchor": "a", "positive": "b", "label": 3}, r'3 in "label", neither 0'),
    "too few labels": ({"query": "a", "docs": ["b"], "labels": [1, 0]}, r'2 in "labels" for 1'),
    "only a score": ({"anchor": "a", "positive": "b", "score": 0.9}, r'no "label" says whether'),
    "two layouts": ({**FLAG, "positive": "a"}, r'"pos" and "positive" are the positives of two'),
    "two layouts of objects": (
        {"query": "a", "positive_passages": [{"text": "b"}], "positive_ctxs": [{"text": "c"}]},
        r'"positive_passages" and "positive_ctxs" are the positives of two layouts',
    ),
    "answers beside passages": (
        {"question": "a", "answers": ["b"], "ctxs": [{"title": "c", "text": "d"}]},
        r'"answers" and "ctxs" may both be the positive',
    ),
    "an answer beside its context": (
        {"question": "a", "answer": "b", "gold_context": "c"},
        r'"answer" and "gold_context" may both be the positive',
    ),
    "ids of passages": (
        {"query": "a", "answers": ["b"], "positive_document_ids": ["7"]},
        r'"answers" and "positive_document_ids" may both be the positive',
    ),
    "no passage among objects": (
        {"query": "a", "answers": ["b"], "positive_passages": [], "negative_passages": []},
        r'no passage in "positive_passages" nor beside it',
    ),
    "an object without a text": (
        {"query": "a", "positive_passages": [{"docid": "7"}]},
        r'\{"docid": "7"\} in "positive_passages", not a passage such as',
    ),
    "a negative of null in a list": (
        {"anchor": "a", "positive": "b", "negative": [None]},
        r'null in "negative", not a text',
    ),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_bad_lines_are_refused_with_their_place(tmp_path: Path, kind: str) -> None:
    row, expected = BAD[kind]
    with pytest.raises(DataError, match=r"a\.jsonl:2: .*") as raised:
        read_as_given(write(tmp_path / "a.jsonl", FLAG, row))
    assert raised.match(expected)


def test_empty_files_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.jsonl: empty, there are no examples"):
        read_as_given(write(tmp_path / "a.jsonl"))
    negative = write(tmp_path / "b.jsonl", {"anchor": "a", "positive": "b", "label": 0})
    with pytest.raises(DataError, match=r"no query has a relevant passage"):
        read_as_given(negative)
    with pytest.raises(ConfigError, match=r"corpus.jsonl is a file. Give the folder"):
        read_as_given(write(tmp_path / "corpus.jsonl"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["title", "text", "docid"]), inner, max_size=2)
    ),
    max_leaves=4,
)
NAMES = st.sampled_from(
    [
        *("query", "anchor", "pos", "neg", "positive", "negative", "negative_2", "docs", "label"),
        *("labels", "scores", "score", "pos_scores", "neg_scores", "other", "answers", "context"),
        *("positive_passages", "negative_passages", "positive_ctxs", "hard_negative_ctxs"),
    ]
)


@settings(max_examples=150, deadline=None)
@given(row=st.dictionaries(NAMES, VALUES, max_size=5))
def test_whatever_an_object_holds_is_read_or_reported(
    tmp_path_factory: pytest.TempPathFactory, row: dict[str, Any]
) -> None:
    path = write(tmp_path_factory.mktemp("examples") / "a.jsonl", FLAG, row)
    problems: list[Problem] = []
    collection = scan_examples(path, problems.append)
    assert judged(collection) >= {each for each in JUDGED if each[2]}
    assert [problem.where for problem in problems] in ([], ["a.jsonl:2"])
