"""Each kind of bad input has a test: the message says what, where and what next."""

import bz2
import gzip
import json
import sys
from pathlib import Path

import pytest

from limbeck.data import read_collection
from limbeck.data.beir import read_beir
from limbeck.errors import ConfigError, DataError
from limbeck.types import QueryId

CORPUS = """\
{"_id": "p0", "title": "Cats", "text": "A cat sleeps."}
{"_id": "p1", "title": "", "text": " A dog barks. "}
{"_id": "p2", "text": "A fish swims."}
"""
QUERIES = """\
{"_id": "q0", "text": "who sleeps?"}
{"_id": "q1", "text": "who barks?"}
{"_id": "q2", "text": "who swims?"}
{"_id": "q3", "text": "who flies?"}
"""
TRAIN = "query-id\tcorpus-id\tscore\nq0\tp0\t2\nq0\tp1\t0\n"
TEST = "q1\tp1\t1\n"


def write(folder: Path, files: dict[str, str | bytes | None] | None = None) -> Path:
    """A small good collection, with some files changed (or, with None, left out)."""
    contents: dict[str, str | bytes | None] = {
        "corpus.jsonl": CORPUS,
        "queries.jsonl": QUERIES,
        "qrels/train.tsv": TRAIN,
        "qrels/test.tsv": TEST,
        **(files or {}),
    }
    for name, content in contents.items():
        if content is None:
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def test_a_good_folder(tmp_path: Path) -> None:
    collection = read_beir(write(tmp_path / "toy"))
    assert collection.name == "toy"
    assert collection.passages.ids == ["p0", "p1", "p2"]
    assert collection.passages.texts == ["Cats A cat sleeps.", "A dog barks.", "A fish swims."]
    assert collection.qrels == {"train": {"q0": {"p0": 2, "p1": 0}}, "test": {"q1": {"p1": 1}}}
    assert collection.labelled == ["q0"]
    assert collection.unlabelled == ["q2", "q3"]
    assert collection.notes == ()


@pytest.mark.parametrize("between", ["\t", " ", "  \t "])
def test_trec_qrels_read_alike(tmp_path: Path, between: str) -> None:
    rows = [line.split("\t") for line in TRAIN.splitlines()[1:]]
    lines = [between.join([query, "0", passage, grade]) for query, passage, grade in rows]
    found = read_beir(write(tmp_path / "trec", {"qrels/train.tsv": "\n".join(lines)}))
    assert found.digest == read_beir(write(tmp_path / "beir")).digest


def test_packed_files_read_alike(tmp_path: Path) -> None:
    plain = read_beir(write(tmp_path / "plain"))
    files: dict[str, str | bytes | None] = {}
    for name, content in {
        "corpus.jsonl": CORPUS,
        "queries.jsonl": QUERIES,
        "qrels/train.tsv": TRAIN,
        "qrels/test.tsv": TEST,
    }.items():
        files[name] = None
        files[f"{name}.gz"] = gzip.compress(content.encode())
    assert read_beir(write(tmp_path / "packed", files)).digest == plain.digest


def test_what_is_gzipped_is_seen_by_its_content(tmp_path: Path) -> None:
    expected = read_beir(write(tmp_path / "plain")).digest
    misnamed: dict[str, str | bytes | None] = {
        "corpus.jsonl": gzip.compress(CORPUS.encode()),
        "queries.jsonl": None,
        "queries.jsonl.gz": QUERIES,
        "qrels/train.tsv": gzip.compress(TRAIN.encode()),
    }
    assert read_beir(write(tmp_path / "misnamed", misnamed)).digest == expected


@pytest.mark.parametrize("ending", [".0", ".", ".000"])
def test_grades_may_be_written_as_floats(tmp_path: Path, ending: str) -> None:
    rows = [f"{row}{ending}" for row in TRAIN.splitlines()[1:]]
    found = read_beir(write(tmp_path / "floats", {"qrels/train.tsv": "\n".join(rows)}))
    assert found.digest == read_beir(write(tmp_path / "plain")).digest


def test_many_grades_are_taken_where_a_header_says_that_they_are(tmp_path: Path) -> None:
    corpus = "".join(f'{{"_id": "p{at}", "text": "{at}"}}\n' for at in range(11))
    rows = "".join(f"q0\tp{at}\t{at + 1}\n" for at in range(11))
    files: dict[str, str | bytes | None] = {
        "corpus.jsonl": corpus,
        "qrels/train.tsv": f"query-id\tcorpus-id\tscore\n{rows}",
        "qrels/test.tsv": None,
    }
    assert len(read_beir(write(tmp_path, files)).qrels["train"][QueryId("q0")]) == 11


def test_plain_files_win_over_packed_ones_and_it_is_said(tmp_path: Path) -> None:
    collection = read_beir(write(tmp_path, {"corpus.jsonl.gz": b"not even gzip"}))
    assert collection.notes == ("corpus.jsonl: read, and corpus.jsonl.gz beside it ignored",)


def test_windows_lines_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    expected = read_beir(write(tmp_path / "unix"))
    corpus = b"\xef\xbb\xbf" + CORPUS.replace("\n", "\r\n\r\n").encode()
    train = b"\xef\xbb\xbf" + TRAIN.replace("\n", "\r\n").encode()
    found = read_beir(
        write(tmp_path / "windows", {"corpus.jsonl": corpus, "qrels/train.tsv": train})
    )
    assert found.digest == expected.digest


LINE = '{"_id": "p3", "text": "A bird flies."}\n'
BAD: dict[str, tuple[dict[str, str | bytes | None], list[str]]] = {
    "missing corpus": ({"corpus.jsonl": None}, ["corpus.jsonl: missing", "per line"]),
    "missing queries": ({"queries.jsonl": None}, ["queries.jsonl: missing", "per line"]),
    "empty corpus": ({"corpus.jsonl": ""}, ["corpus.jsonl: empty, there are no passages"]),
    "blank corpus": ({"corpus.jsonl": "\n \n"}, ["corpus.jsonl: empty"]),
    "empty queries": ({"queries.jsonl": ""}, ["queries.jsonl: empty, there are no queries"]),
    "broken JSON": (
        {"corpus.jsonl": CORPUS + LINE + '{"_id": "p4", "text": \n'},
        ["corpus.jsonl:5: not JSON", "column", "Each line must be one object"],
    ),
    "deep JSON": (
        {"corpus.jsonl": "[" * 200_000},
        ["corpus.jsonl:1: not JSON"],
    ),
    "no object": ({"queries.jsonl": '["q0"]\n'}, ['queries.jsonl:1: ["q0"] instead of an object']),
    "no id": (
        {"corpus.jsonl": CORPUS + '{"id": "p4", "text": "x"}\n'},
        ['corpus.jsonl:4: no "_id" (it has "id", "text")'],
    ),
    "number as id": (
        {"corpus.jsonl": CORPUS + '{"_id": 4, "text": "x"}\n'},
        ['corpus.jsonl:4: "_id" is 4, not a text', "Put it in quotes"],
    ),
    "empty id": (
        {"corpus.jsonl": '{"_id": "", "text": "x"}\n'},
        ["corpus.jsonl:1: the id is empty"],
    ),
    "half a character in an id": (
        {"corpus.jsonl": '{"_id": "p\\ud800", "text": "x"}\n'},
        ["corpus.jsonl:1: the id holds half a character"],
    ),
    "no text": (
        {"queries.jsonl": QUERIES + '{"_id": "q9", "text": null}\n'},
        ['queries.jsonl:5: "text" is null, not a text'],
    ),
    "title is a list": (
        {"corpus.jsonl": '{"_id": "p0", "title": ["a"], "text": "x"}\n'},
        ['corpus.jsonl:1: "title" is ["a"], not a text'],
    ),
    "same id, other text": (
        {"corpus.jsonl": CORPUS + LINE + LINE.replace("flies", "sings")},
        ['corpus.jsonl:5: id "p3" has another text on line 4', "an id of its own"],
    ),
    "same query id, other text": (
        {"queries.jsonl": QUERIES + '{"_id": "q0", "text": "other"}\n'},
        ['queries.jsonl:5: id "q0" has another text on line 1'],
    ),
    "not UTF-8": (
        {"corpus.jsonl": CORPUS.encode() + '{"_id": "p3", "text": "é"}'.encode("latin-1")},
        ["corpus.jsonl:4: byte 24 of the line is not UTF-8", "Save the file as UTF-8"],
    ),
    "UTF-16": ({"corpus.jsonl": CORPUS.encode("utf-16")}, ["corpus.jsonl:1", "UTF-8"]),
    "cut gzip": (
        {"corpus.jsonl": None, "corpus.jsonl.gz": gzip.compress(CORPUS.encode())[:-20]},
        ["corpus.jsonl:", "cannot be read", "copy it again"],
    ),
    "another packing": (
        {"corpus.jsonl": bz2.compress(CORPUS.encode())},
        ["corpus.jsonl:1: byte 11 of the line is not UTF-8"],
    ),
    "half a grade": (
        {"qrels/train.tsv": "q0\tp0\t1.0\nq0\tp1\t1.5\n"},
        ['qrels/train.tsv:2: score "1.5" is not a whole number', "Write 0 for not relevant"],
    ),
    "a run for judgements": (
        {
            "corpus.jsonl": "".join(f'{{"_id": "p{at}", "text": "{at}"}}\n' for at in range(11)),
            "qrels/train.tsv": "".join(f"q0\tp{at}\t{at + 1}\n" for at in range(11)),
            "qrels/test.tsv": None,
        },
        ["qrels/train.tsv: the numbers in the third column count up", "with --candidates"],
    ),
    "unknown passage": (
        {"qrels/train.tsv": TRAIN + "q2\tp9\t1\n"},
        ['qrels/train.tsv:4: passage id "p9" is not in corpus.jsonl', "--drop-unknown-judgements"],
    ),
    "unknown query": (
        {"qrels/test.tsv": TEST + "q9\tp0\t1\n"},
        ['qrels/test.tsv:2: query id "q9" is not in queries.jsonl', "--drop-unknown-judgements"],
    ),
    "two columns": (
        {"qrels/train.tsv": TRAIN + "q2\tp2\n"},
        ["qrels/train.tsv:4: 2 columns instead of 3", "separated by tabs"],
    ),
    "spaces": ({"qrels/train.tsv": "q2 p2 1\n"}, ["qrels/train.tsv:1: 1 column instead of 3"]),
    "five columns": (
        {"qrels/train.tsv": "q2 0 p2 1 x\n"},
        ["qrels/train.tsv:1: 1 column instead of 3", "four columns of TREC"],
    ),
    "grade in words, TREC": (
        {"qrels/train.tsv": TRAIN + "q2 0 p2 high\n"},
        ['qrels/train.tsv:4: score "high" is not a whole number'],
    ),
    "grade in words": (
        {"qrels/train.tsv": TRAIN + "q2\tp2\thigh\n"},
        ['qrels/train.tsv:4: score "high" is not a whole number', "1 or more for relevant"],
    ),
    "grade in words at the top": (
        {"qrels/train.tsv": "q2\tp2\thigh\n"},
        ['qrels/train.tsv:1: score "high"'],
    ),
    "huge grade": ({"qrels/train.tsv": "q2\tp2\t99999999999\n"}, ["qrels/train.tsv:1: score"]),
    "no positive in train": (
        {"qrels/train.tsv": "q0\tp0\t0\nq2\tp0\t-1\n"},
        ["qrels/train.tsv: no query has a relevant passage", "remove the file"],
    ),
    "nothing in train": (
        {"qrels/train.tsv": "query-id\tcorpus-id\tscore\n"},
        ["qrels/train.tsv: no query has a relevant passage"],
    ),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_bad_input_is_refused_with_its_place(tmp_path: Path, kind: str) -> None:
    files, expected = BAD[kind]
    with pytest.raises(DataError) as raised:
        read_beir(write(tmp_path, files))
    for words in expected:
        assert words in str(raised.value)


def test_places_in_packed_files_are_lines_of_the_unpacked_one(tmp_path: Path) -> None:
    packed = gzip.compress((CORPUS + "oops\n").encode())
    with pytest.raises(DataError, match=r"corpus\.jsonl:4: not JSON"):
        read_beir(write(tmp_path, {"corpus.jsonl": None, "corpus.jsonl.gz": packed}))


def test_unknown_ids_can_be_dropped_and_are_counted(tmp_path: Path) -> None:
    files: dict[str, str | bytes | None] = {
        "qrels/train.tsv": TRAIN + "q2\tp9\t1\nq9\tp0\t1\n",
    }
    collection = read_beir(write(tmp_path, files), drop_unknown_judgements=True)
    assert collection.digest == read_beir(write(tmp_path / "clean")).digest
    assert collection.notes == ("qrels/train.tsv: 2 judgements that name unknown ids dropped",)


def test_dropping_every_positive_of_train_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, {"qrels/train.tsv": "q0\tp9\t1\nq0\tp0\t0\n"})
    with pytest.raises(DataError, match="no query has a relevant passage"):
        read_beir(folder, drop_unknown_judgements=True)


def test_repeated_lines_with_the_same_text_are_merged(tmp_path: Path) -> None:
    collection = read_beir(write(tmp_path, {"corpus.jsonl": CORPUS + LINE + LINE + LINE}))
    assert collection.passages.ids == ["p0", "p1", "p2", "p3"]
    assert collection.notes == ("corpus.jsonl: 2 repeated lines (same id, same text) merged",)


def test_queries_with_only_negatives_are_counted(tmp_path: Path) -> None:
    collection = read_beir(
        write(
            tmp_path,
            {"qrels/train.tsv": TRAIN + "q2\tp0\t0\n", "qrels/test.tsv": TEST + "q3\tp0\t0\n"},
        )
    )
    assert collection.labelled == ["q0"]
    assert collection.unlabelled == ["q2"]
    assert collection.notes == (
        "qrels/train.tsv: 1 of 2 queries have only negatives judged; used as unlabelled",
        "qrels/test.tsv: 1 of 2 queries have only negatives judged; every figure counts 0 for them",
    )


def test_the_highest_of_repeated_judgements_counts(tmp_path: Path) -> None:
    collection = read_beir(write(tmp_path, {"qrels/test.tsv": "q1\tp1\t3\nq1\tp1\t1\n"}))
    assert collection.qrels["test"] == {"q1": {"p1": 3}}
    assert collection.notes == (
        "qrels/test.tsv: 1 repeated judgements merged, the highest grade counts",
    )


def test_a_query_in_two_splits_is_said(tmp_path: Path) -> None:
    collection = read_beir(write(tmp_path, {"qrels/test.tsv": "q0\tp0\t1\n"}))
    assert collection.notes == (
        "1 queries are judged in both train and test: figures on test flatter what train taught",
    )


@pytest.mark.parametrize(
    ("left_out", "note"),
    [
        (["train"], "train: no judgements; a teacher must be given, and it alone is learned from"),
        (["test"], "test: no judgements, so there are no test figures"),
        (
            ["train", "test"],
            "no judgements: a teacher must be given, and there are no quality figures",
        ),
    ],
)
def test_missing_splits_have_their_consequence_said(
    tmp_path: Path, left_out: list[str], note: str
) -> None:
    collection = read_beir(write(tmp_path, {f"qrels/{split}.tsv": None for split in left_out}))
    assert set(collection.qrels) == {"train", "test"} - set(left_out)
    assert collection.notes == (note,)


def test_a_collection_without_training_queries_says_so(tmp_path: Path) -> None:
    every = "".join(f"q{i}\tp0\t1\n" for i in range(4))
    collection = read_beir(write(tmp_path, {"qrels/train.tsv": None, "qrels/test.tsv": every}))
    assert collection.notes == (
        "train: no query to learn from, every one is in dev or test; only to evaluate",
    )


def test_files_that_no_split_is_read_from_are_named(tmp_path: Path) -> None:
    collection = read_beir(write(tmp_path, {"qrels/validation.tsv": TEST}))
    assert collection.notes == (
        "qrels/validation.tsv: not read; the splits are train.tsv, dev.tsv and test.tsv",
    )


STRANGE = {
    "emoji": "how 😀 does 👩‍👩‍👧 work",
    "chinese": "如何列出所有文件",
    "right to left": "كيف \u202eأعرض\u202c الملفات שלום",
    "control characters": "a\x00b\x07c\x1b[31m\x7f\x85\u2028d\u2029e",
    "a megabyte": "cat dog " * 130_000,
    "one long word": "x" * 1_000_000,
}


@pytest.mark.parametrize("kind", sorted(STRANGE))
@pytest.mark.parametrize("escaped", [True, False])
def test_any_text_is_read_as_it_is(tmp_path: Path, kind: str, escaped: bool) -> None:
    text = STRANGE[kind]
    line = json.dumps({"_id": "p3", "text": text}, ensure_ascii=escaped) + "\n"
    collection = read_beir(write(tmp_path, {"corpus.jsonl": CORPUS + line}))
    assert collection.passages.texts[3] == text.strip()
    assert collection.notes == ()


def test_raw_control_characters_within_strings_are_read(tmp_path: Path) -> None:
    line = '{"_id": "p3", "text": "a\tb\x01c"}\n'
    collection = read_beir(write(tmp_path, {"corpus.jsonl": CORPUS + line}))
    assert collection.passages.texts[3] == "a\tb\x01c"


def test_half_characters_are_replaced_and_counted(tmp_path: Path) -> None:
    line = '{"_id": "p3", "text": "a \\ud83d b \\ud83d\\ude00"}\n'
    collection = read_beir(write(tmp_path, {"corpus.jsonl": CORPUS + line}))
    assert collection.passages.texts[3] == "a \ufffd b 😀"
    assert collection.notes == (
        "corpus.jsonl: 1 texts held half a character (a lone surrogate), replaced by U+FFFD",
    )


def test_empty_texts_are_kept(tmp_path: Path) -> None:
    line = '{"_id": "p3", "title": null, "text": ""}\n'
    assert read_beir(write(tmp_path, {"corpus.jsonl": CORPUS + line})).passages.texts[3] == ""


def test_data_names_a_folder_or_pydocs(tmp_path: Path) -> None:
    folder = write(tmp_path / "toy")
    assert read_collection(str(folder)).name == "toy"
    notes = read_collection(folder).notes
    assert notes[0] == "layout: BEIR's, by corpus.jsonl"
    assert "too few to set some aside" in notes[1]
    with pytest.raises(ConfigError, match=r'does not exist\. Give a folder .*"pydocs"'):
        read_collection(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"is a file\. Give the folder it is in"):
        read_collection(folder / "corpus.jsonl")


@pytest.mark.parametrize(
    ("package", "data", "extra"),
    [
        ("ir_datasets", "ir_datasets:beir/scifact", "ir-datasets"),
        ("datasets", "hf:BeIR/scifact", "hf"),
    ],
)
def test_a_package_that_is_not_there_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, package: str, data: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ConfigError, match=rf"pip install 'limbeck\[{extra}\]'"):
        read_collection(data)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"corpus\.jsonl: missing"):
        read_collection(tmp_path)


def test_training_examples_beside_another_layout_are_told_or_refused(tmp_path: Path) -> None:
    example = '{"query": "who sleeps?", "pos": ["A cat sleeps."]}\n'
    both = read_collection(write(tmp_path / "both", {"train.jsonl": example}))
    assert both.notes[0] == "layout: BEIR's, by corpus.jsonl; not read: train.jsonl"
    files: dict[str, str | bytes | None] = dict.fromkeys(
        ("queries.jsonl", "qrels/train.tsv", "qrels/test.tsv")
    )
    either = write(tmp_path / "either", {**files, "train.jsonl": example})
    with pytest.raises(ConfigError, match=r"corpus.jsonl without queries, and train.jsonl, which"):
        read_collection(either)
