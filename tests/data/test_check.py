import json
from pathlib import Path

import pytest

from limbeck.data.beir import read_beir
from limbeck.data.check import check
from limbeck.errors import ConfigError, DataError


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


GOOD = {
    "corpus.jsonl": '{"_id": "p0", "text": "one two three"}\n{"_id": "p1", "text": "cat"}\n',
    "queries.jsonl": "".join(
        f'{{"_id": "q{i}", "text": "{text}"}}\n' for i, text in enumerate(["a b", "c", "d", "c"])
    ),
    "qrels/train.tsv": "q0\tp0\t2\nq0\tp1\t0\n",
    "qrels/test.tsv": "q1\tp1\t1\n",
}


def test_counts_of_good_data(tmp_path: Path) -> None:
    report = check(write(tmp_path, GOOD))
    assert report.errors == ()
    assert report.counts["passages"] == {
        "number": 2,
        "empty": 0,
        "repeated": 0,
        "mean words": 2.0,
        "median words": 3,
        "p95 words": 3,
        "max words": 3,
    }
    assert report.counts["queries"]["repeated"] == 1
    assert report.counts["queries"]["labelled"] == 1
    assert report.counts["queries"]["unlabelled"] == 2
    assert report.counts["train"] == {
        "queries": 1,
        "queries with a positive": 1,
        "judged pairs": 2,
        "grades": {"0": 1, "2": 1},
    }
    assert "dev" not in report.counts
    assert report.warnings == (
        '1 queries repeat another\'s text ("q3")',
        "dev: no judgements, so a part of the training queries is set aside",
        '1 unlabelled queries have the text of a query of test ("q3")',
    )
    assert report.lines()[-1] == f"{tmp_path} can be used."
    assert json.loads(json.dumps(report.to_json()))["usable"] is True


def test_the_first_of_each_kind_of_error_is_named_and_the_rest_counted(tmp_path: Path) -> None:
    bad = {
        "corpus.jsonl": GOOD["corpus.jsonl"] + 'oops\n{"_id": "p1", "text": "dog"}\noh no\n',
        "queries.jsonl": GOOD["queries.jsonl"] + '{"_id": 7, "text": "x"}\n',
        "qrels/train.tsv": "q0\tp0\t1\nq0\tp8\t1\nq0\tp9\t1\nq0\tp0\n",
        "qrels/test.tsv": "q9\tp0\t1\nq1\tp1\tx\n",
    }
    report = check(write(tmp_path, bad))
    places = [error.split(": ")[0] for error in report.errors]
    assert places == [
        "corpus.jsonl:3",
        "corpus.jsonl:4",
        "queries.jsonl:5",
        "qrels/train.tsv:2",
        "qrels/train.tsv:4",
        "qrels/test.tsv:1",
        "qrels/test.tsv:2",
    ]
    assert report.errors[0].endswith("(1 more like it)")
    assert report.lines()[-1] == f"{tmp_path} cannot be used."
    assert report.to_json()["usable"] is False


def test_errors_are_what_reading_refuses(tmp_path: Path) -> None:
    folder = write(tmp_path, {**GOOD, "qrels/train.tsv": "q0\tp9\t1\nq0\tp0\t1\n"})
    report = check(folder)
    with pytest.raises(DataError) as raised:
        read_beir(folder)
    assert f"{folder}/{report.errors[0]}" == str(raised.value)
    assert check(folder, drop_unknown_judgements=True).errors == ()


def test_a_missing_file_is_an_error_not_an_exception(tmp_path: Path) -> None:
    report = check(write(tmp_path, {"queries.jsonl": GOOD["queries.jsonl"]}))
    assert [error.split(" (")[0] for error in report.errors] == ["corpus.jsonl: missing"]
    assert report.counts["passages"]["number"] == 0


def test_what_stops_nothing_is_a_warning(tmp_path: Path) -> None:
    data = {
        "corpus.jsonl": '{"_id": "p0", "text": ""}\n'
        + json.dumps({"_id": "p 1", "text": "x" * 100_001})
        + '\n{"_id": "p2", "text": "cat"}\n{"_id": "p3", "text": "cat"}\n',
        "queries.jsonl": GOOD["queries.jsonl"],
        "qrels/dev.tsv": "q1\tp2\t1\nq0\tp0\t0\n",
        "qrels/test.tsv": "q3\tp2\t1\nq1\tp2\t1\n",
    }
    report = check(write(tmp_path, data))
    assert report.errors == ()
    assert report.notes == (
        "layout: BEIR's, by corpus.jsonl",
        "qrels/dev.tsv: 1 of 2 queries have only negatives judged; every figure counts 0 for them",
        "train: no judgements; a teacher must be given, and it alone is learned from",
        "1 queries are judged in both dev and test: figures on test flatter what dev taught",
    )
    assert f"note: {report.notes[0]}" in report.lines()
    assert report.to_json()["notes"] == list(report.notes)
    assert report.warnings == (
        '1 passages are empty ("p0")',
        '1 passages repeat another\'s text ("p3")',
        '1 passages are longer than 100,000 characters ("p 1"); only their beginning is read',
        '1 ids of passages hold spaces ("p 1"), which TREC run files cannot',
        '1 queries repeat another\'s text ("q3")',
        '1 queries of test have the text of a query of dev ("q3")',
    )


def test_data_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        check(tmp_path / "nowhere")
