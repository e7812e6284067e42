from array import array
from dataclasses import replace
from typing import Any

import pytest

from limbeck.data.collection import Collection, Texts, with_dev, with_labels, with_language
from limbeck.errors import ConfigError
from limbeck.types import PassageId, Qrels, QueryId, Split


def judged(**queries: dict[str, int]) -> Qrels:
    return {
        QueryId(query): {PassageId(passage): grade for passage, grade in grades.items()}
        for query, grades in queries.items()
    }


def toy(qrels: dict[Split, Qrels], *, queries: int = 6, name: str = "toy") -> Collection:
    return Collection(
        name,
        Texts(["p0", "p1", "p2"], ["cat", "dog", "fish"]),
        Texts([f"q{i}" for i in range(queries)], [f"query {i}" for i in range(queries)]),
        qrels,
    )


def many(count: int) -> Collection:
    return toy(
        {
            "train": judged(**{f"q{i}": {"p0": 1} for i in range(count)}),
            "test": judged(**{f"q{count}": {"p1": 1}}),
        },
        queries=count + 1,
    )


def test_texts_know_the_position_of_each_id() -> None:
    texts = Texts(["b", "a"], ["x", "y"])
    assert len(texts) == 2
    assert texts.index == {"b": 0, "a": 1}


def test_texts_refuse_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="2 ids but 1 texts"):
        Texts(["a", "b"], ["x"])


def test_labelled_and_unlabelled_queries() -> None:
    """q1 has only negatives and q4, q5 no judgement; q0 is both train and test, q3 only test."""
    collection = toy(
        {
            "train": judged(q2={"p0": 1}, q0={"p1": 2, "p0": 0}, q1={"p0": 0}),
            "test": judged(q3={"p0": 1}, q0={"p1": 1}),
        }
    )
    assert collection.labelled == ["q0", "q2"]  # in file order, not in the order of judgements
    assert collection.unlabelled == ["q1", "q4", "q5"]


def test_digest_is_of_the_content_only() -> None:
    one = toy({"train": judged(q0={"p0": 1, "p1": 0}, q1={"p2": 1})})
    same = toy({"train": judged(q1={"p2": 1}, q0={"p1": 0, "p0": 1})}, name="elsewhere")
    other_grade = toy({"train": judged(q0={"p0": 2, "p1": 0}, q1={"p2": 1})})
    other_split = toy({"test": judged(q0={"p0": 1, "p1": 0}, q1={"p2": 1})})
    assert one.digest == same.digest
    assert len({one.digest, other_grade.digest, other_split.digest}) == 3


def test_digest_keeps_neighbouring_words_apart() -> None:
    def digest(ids: list[str], texts: list[str]) -> str:
        return Collection("toy", Texts(ids, texts), Texts([], []), {}).digest

    assert digest(["ab"], ["c"]) != digest(["a"], ["bc"])


def test_labels_are_drawn_by_seed_and_nest() -> None:
    collection = many(40)
    five, ten, again, other = (
        with_labels(collection, count, seed) for count, seed in ((5, 0), (10, 0), (5, 0), (5, 1))
    )
    assert len(five.labelled) == 5
    assert set(five.labelled) < set(ten.labelled)
    assert five.labelled == again.labelled
    assert set(five.labelled) != set(other.labelled)


def test_queries_that_lose_their_labels_become_unlabelled() -> None:
    collection = many(40)
    fewer = with_labels(collection, 5, 0)
    assert set(fewer.qrels["train"]) == set(fewer.labelled)
    assert sorted([*fewer.labelled, *fewer.unlabelled]) == sorted(collection.labelled)
    assert fewer.qrels["test"] == collection.qrels["test"]
    assert fewer.notes == ("labels: 5 of 40 labelled training queries kept, seed 0",)
    assert collection.unlabelled == []  # the caller's collection is left alone


@pytest.mark.parametrize("count", [0, -1, 41])
def test_more_labels_than_there_are_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=r"toy has 40\. Ask for 1 to 40"):
        with_labels(many(40), count, 0)


@pytest.mark.parametrize(("train", "dev"), [(10, 1), (14, 1), (40, 4), (900, 90), (6000, 500)])
def test_a_tenth_is_set_aside_as_dev(train: int, dev: int) -> None:
    collection = with_dev(many(train), seed=3)
    assert len(collection.qrels["dev"]) == dev
    assert len(collection.qrels["train"]) == train - dev
    assert not collection.qrels["dev"].keys() & collection.qrels["train"].keys()
    assert collection.notes == (f"dev: {dev:,} of {train:,} training queries set aside, seed 3",)
    assert with_dev(many(train), seed=3).digest == collection.digest


def test_too_few_training_queries_give_no_dev() -> None:
    collection = with_dev(many(9), seed=0)
    assert "dev" not in collection.qrels
    assert "9 labelled training queries are too few" in collection.notes[0]


def test_a_dev_split_of_its_own_is_kept() -> None:
    collection = toy({"train": judged(q0={"p0": 1}), "dev": judged(q1={"p0": 1})})
    assert with_dev(collection, seed=0) is collection


def test_queries_with_only_negatives_stay_in_train() -> None:
    train = {f"q{i}": {"p0": int(i != 3)} for i in range(11)}
    collection = with_dev(toy({"train": judged(**train)}, queries=11), seed=0)
    assert "q3" in collection.qrels["train"]
    assert len(collection.qrels["dev"]) == 1


def own(qrels: dict[Split, Qrels] | None = None, **more: Any) -> Collection:
    """a, b and c are passages and queries; b's text is another, c's passage has a title."""
    passages = Texts(["a", "b", "c", "d"], ["red cat", "old dog", "Birds blue  bird", "red cat"])
    titled = replace(passages, title_ends=array("q", [0, 0, 5, 0]))
    queries = Texts(["c", "b", "a", "e"], ["blue bird", "who barks?", "red  cat", "old dog"])
    return Collection("own", titled, queries, qrels or {}, **more)


def test_a_querys_own_passage_has_its_id_and_its_text() -> None:
    assert own().own_passages.tolist() == [2, -1, 0, -1]
    assert own(keep_own_passage=True).own_passages.tolist() == [-1] * 4


def test_an_own_passage_that_is_judged_relevant_is_an_answer() -> None:
    assert own({"dev": judged(a={"a": 1})}).own_passages.tolist() == [2, -1, -1, -1]
    assert own({"dev": judged(a={"a": 0})}).own_passages.tolist() == [2, -1, 0, -1]


def test_what_is_left_out_is_part_of_the_digest() -> None:
    assert own().digest != own(keep_own_passage=True).digest


def test_equal_ids_of_other_texts_are_left_alone() -> None:
    """As in Cranfield, which numbers both from 1: the digest is what it always was."""
    numbered = Collection(
        "numbered",
        Texts(["1", "2", "3"], ["wings in a stream", "heat in a plate", "flow past a cone"]),
        Texts(["1", "2"], ["what of wings?", "how is heat conducted?"]),
        {"test": judged(**{"1": {"1": 1}, "2": {"2": 2, "3": 0}})},
    )
    assert numbered.own_passages.tolist() == [-1, -1]
    known = "fca2f30a8ba53f175f0aa9dc0b8a2876a3b5bf57e79f08f46d4866ba8f3b63d1"
    assert numbered.digest == known == replace(numbered, keep_own_passage=True).digest


def test_english_keeps_its_digest_and_other_languages_have_their_own() -> None:
    """The digest of English was computed before collections had a language."""
    texts = Texts(["a", "b"], ["list files", "naïve"]), Texts(["q"], ["files"])
    english = Collection("toy", *texts, {"test": {QueryId("q"): {PassageId("a"): 1}}})
    assert english.digest == "e2fd94c9fbfba358d5fbe7008e1ba8b2ea456ea4b8cd56bffa93fdb3d8f2f4f1"
    german = with_language(english, "German")
    assert german.language == "de"
    assert german.notes == ("language: de (german), as given",)
    assert german.digest != english.digest
    assert with_language(english).digest == english.digest
    assert with_language(english).notes == ()
