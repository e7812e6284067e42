"""Queries for a corpus that came without: what they are made of, and what they may be used for."""

import json
from pathlib import Path

import pytest

from limbeck.data import read_collection
from limbeck.data.check import check
from limbeck.data.collection import Collection, Texts
from limbeck.data.derived import DerivedTexts, derived_id
from limbeck.data.made_queries import SHARED_AT_MOST, queries_of_words, with_made_queries
from limbeck.errors import DataError


def corpus(folder: Path, rows: list[dict[str, str]]) -> Path:
    folder.mkdir()
    lines = (json.dumps({"_id": f"p{at}", **row}) + "\n" for at, row in enumerate(rows))
    (folder / "corpus.jsonl").write_text("".join(lines))
    return folder


ROWS = [
    {
        "title": f"Number {at}",
        "text": f"The word is word{at} here. The rare one is rare{at}, and rare{at} again.",
    }
    for at in range(40)
]


def test_a_title_a_first_sentence_and_key_phrases(tmp_path: Path) -> None:
    collection = read_collection(corpus(tmp_path / "docs", ROWS))
    made = queries_of_words(collection.passages, seed=0).frame
    own = made.filter(made["parent_id"] == "p7")
    assert own["draw"].to_list() == [0, 1, 2]
    title, sentence, phrases = own["text"].to_list()
    assert (title, sentence) == ("Number 7", "The word is word7 here.")
    assert {"7", "word7", "rare7"} <= set(phrases.split())


def test_made_queries_are_split_by_passage_and_labelled(tmp_path: Path) -> None:
    collection = read_collection(corpus(tmp_path / "docs", ROWS))
    assert collection.synthetic
    assert not collection.unlabelled
    parents = {
        split: {passage for grades in judged.values() for passage in grades}
        for split, judged in collection.qrels.items()
    }
    assert {split: len(own) for split, own in parents.items()} == {"train": 32, "dev": 4, "test": 4}
    assert not parents["train"] & (parents["dev"] | parents["test"]) | (
        parents["dev"] & parents["test"]
    )
    for judged in collection.qrels.values():
        for query, grades in judged.items():
            text = collection.queries.texts[collection.queries.index[query]]
            assert query == derived_id(text)
            assert set(grades.values()) == {1}
    assert collection.notes[1].startswith("queries: there are none, so 120 were made from 40 of 40")
    assert collection.notes[2].startswith("synthetic: ")


def test_the_same_corpus_gives_the_same_queries_whatever_its_order(tmp_path: Path) -> None:
    one = read_collection(corpus(tmp_path / "one", ROWS))
    again = read_collection(corpus(tmp_path / "two", ROWS))
    assert one.digest == again.digest
    assert read_collection(tmp_path / "one", seed=1).digest != one.digest


def test_check_says_that_queries_are_made(tmp_path: Path) -> None:
    report = check(corpus(tmp_path / "docs", ROWS))
    assert not report.errors
    assert any(note.startswith("synthetic: ") for note in report.notes)


def test_queries_of_their_own_are_never_mixed_with_made_ones(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "docs", ROWS)
    (folder / "queries.jsonl").write_text('{"_id": "q0", "text": "which number?"}\n')
    collection = read_collection(folder)
    assert collection.queries.ids == ["q0"]
    assert not collection.synthetic


def test_vague_queries_and_those_between_splits_are_counted() -> None:
    ids = [f"p{at}" for at in range(40)]
    collection = Collection("docs", Texts(ids, [f"text {id_}" for id_ in ids]), Texts([], []), {})
    texts = {(id_, 0): f"about {id_}" for id_ in ids}
    texts |= {(id_, 1): "introduction of all" for id_ in ids[: SHARED_AT_MOST + 1]}
    texts |= {(id_, 2): f"shared by {at // 2}" for at, id_ in enumerate(ids)}
    found = with_made_queries(collection, DerivedTexts.of("test", texts), seed=0)
    assert "introduction of all" not in found.queries.texts
    assert "queries: 1 made of more than 5 passages left out" in found.notes
    between = next(note for note in found.notes if "two splits" in note)
    kept = sum(text.startswith("shared") for text in found.queries.texts)
    assert between == f"queries: {20 - kept} made of passages of two splits left out"
    assert 0 < kept < 20


def test_passages_that_say_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"docs has no queries, and none could be made"):
        read_collection(corpus(tmp_path / "docs", [{"text": "a"}, {"text": "a"}]))


def test_without_spaces_between_words_there_are_queries_too(tmp_path: Path) -> None:
    rows = [{"text": f"如何列出所有文件{at}。使用列表命令{at}。"} for at in range(3)]
    assert "如何列出所有文件1。" in read_collection(corpus(tmp_path / "docs", rows)).queries.texts


HINDI = [
    "कर्नेल मॉड्यूल प्रारंभ के समय लोड होता है। इसे बाद में भी जोड़ सकते हैं।",
    "दस्तावेज़ छापने के लिए मुद्रण बटन दबाएँ। फिर कागज़ चुनें।",
]


def test_queries_of_other_scripts_are_made_of_whole_words(tmp_path: Path) -> None:
    collection = read_collection(corpus(tmp_path / "docs", [{"text": text} for text in HINDI]))
    assert collection.language == "hi"
    assert any(note.startswith("language: hi (hindi), since ") for note in collection.notes)
    made = queries_of_words(collection.passages, 0, "hi").frame.sort("parent_id", "draw")
    [sentence, phrases] = made["text"].to_list()[:2]
    assert sentence == "कर्नेल मॉड्यूल प्रारंभ के समय लोड होता है।"
    assert set(phrases.split()) <= set(HINDI[0].replace("।", "").split())


def test_key_phrases_without_spaces_are_longer_than_a_pair() -> None:
    texts = ["内核模块在启动时加载。", "要删除文件,请将其拖到回收站。", "在启动时"]
    made = queries_of_words(Texts(["a", "b", "c"], texts), 0, "zh").frame
    phrases = made.filter((made["parent_id"] == "a") & (made["draw"] == 2))["text"].item()
    assert "内核模块" in phrases
    assert all(phrase in texts[0] for phrase in phrases.split())


def test_one_word_is_no_query(tmp_path: Path) -> None:
    rows = [{"title": "Übergrößenträger", "text": f"Er ist da. Nummer {at}."} for at in range(3)]
    made = read_collection(corpus(tmp_path / "docs", rows), language="de").queries.texts
    assert "Übergrößenträger" not in made
