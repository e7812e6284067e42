"""An index finds what exact search finds, before and after changes, and survives a kill."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from limbeck import indexing
from limbeck.data.collection import Collection, Texts, with_language
from limbeck.errors import ConfigError, DataError, ModelError, StoreError
from limbeck.indexing import Index, Searcher, open_index
from limbeck.indexing.approximate import choose_effort
from limbeck.indexing.building import load_embedder
from limbeck.indexing.files import read_card, write_card
from limbeck.inference import Engine
from limbeck.search import search_dense
from limbeck.store import digest_folder, read_json
from processes import Coded

ENGINE = Engine("cpu", "fp32")


def searcher(folder: Path) -> Searcher:
    return Searcher(open_index(folder), ENGINE, name="here")


def found(folder: Path, query: str, k: int = 60) -> list[str]:
    [hits] = searcher(folder).search([query], k)
    return [hit.id for hit in hits]


def written(path: Path, passages: dict[str, str]) -> Path:
    lines = [json.dumps({"_id": id_, "text": text}) for id_, text in passages.items()]
    path.write_text("\n".join([*lines, ""]))
    return path


def test_it_finds_what_exact_search_of_the_same_vectors_finds(
    built: Path, collection: Collection
) -> None:
    here = searcher(built)
    queries = collection.queries.texts
    vectors = here.embed(collection.passages.texts, "passage")[0]
    positions, scores = search_dense(here.embed(queries, "query")[0], vectors, 5)
    hits = here.search(queries, 5)
    ids = [[collection.passages.ids[at] for at in row] for row in positions.tolist()]
    assert [[hit.id for hit in row] for row in hits] == ids
    np.testing.assert_allclose([[hit.score for hit in row] for row in hits], scores, atol=1e-5)
    texts = dict(zip(collection.passages.ids, collection.passages.texts, strict=True))
    assert all(hit.text == texts[hit.id] for row in hits for hit in row)


def test_the_card_says_what_it_is_and_the_folder_needs_nothing_else(
    built: Path, tiny_encoder_folder: Path
) -> None:
    card = read_json(built / "index.json")
    assert card["model"]["digest"] == load_embedder(str(tiny_encoder_folder)).digest
    assert (card["width"], card["similarity"], card["reduce"]) == (32, "cosine", None)
    assert card["data"]["passages"] == len(open_index(built)) == 60
    assert {path.name for path in built.iterdir()} == {"index.json", "model", "segment-000000"}
    vectors = np.load(built / "segment-000000" / "vectors.npy")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_equal_input_gives_equal_bytes_and_what_is_there_is_opened(
    built: Path, collection: Collection, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    indexing.build(str(tiny_encoder_folder), collection, again, precision="fp32")
    assert digest_folder(again) == digest_folder(built)
    before = (again / "index.json").stat().st_mtime_ns
    indexing.build(str(tiny_encoder_folder), collection, again, precision="fp32")
    assert (again / "index.json").stat().st_mtime_ns == before


BUILD = """
import sys
from limbeck import indexing
from limbeck.data import read_collection
from limbeck.indexing import building
building.SEGMENT = 16
indexing.build(sys.argv[1], read_collection(sys.argv[2]), sys.argv[3], precision="fp32")
"""


@pytest.mark.slow
def test_a_killed_build_goes_on_from_the_last_whole_segment(
    collection: Collection,
    tiny_encoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("limbeck.indexing.building.SEGMENT", 16)
    whole, out, data = (tmp_path / name for name in ("whole", "out", "data"))
    data.mkdir()
    passages = dict(zip(collection.passages.ids, collection.passages.texts, strict=True))
    written(data / "corpus.jsonl", passages)
    queries = dict(zip(collection.queries.ids, collection.queries.texts, strict=True))
    written(data / "queries.jsonl", queries)
    indexing.build(str(tiny_encoder_folder), collection, whole, precision="fp32")
    # the model is the first write, the third segment the fourth
    log = tmp_path / "log"
    killed = Coded(BUILD, tiny_encoder_folder, data, out, log=log, kill_at="index:4")
    assert killed.ended() == -signal.SIGKILL, log.read_text()
    with pytest.raises(ConfigError, match="is not finished"):
        open_index(out)
    kept = (out / "segment-000001" / "vectors.npy").stat().st_mtime_ns
    indexing.build(
        str(tiny_encoder_folder), replace(collection, name="data"), out, precision="fp32"
    )
    assert (out / "segment-000001" / "vectors.npy").stat().st_mtime_ns == kept
    assert digest_folder(out / "segment-000002") == digest_folder(whole / "segment-000002")
    assert found(out, "sea sun") == found(whole, "sea sun")


def test_passages_are_added_replaced_and_deleted(folder: Path, tmp_path: Path) -> None:
    more = written(tmp_path / "more.jsonl", {"p3": "moon star blue", "new": "zebra"})
    changed = indexing.add(folder, more, precision="fp32")
    assert (changed.added, changed.replaced, changed.passages) == (1, 1, 61)
    assert found(folder, "moon star blue", 1) == ["p3"]
    assert found(folder, "zebra", 1) == ["new"]
    everything = found(folder, "cat", 100)
    assert len(everything) == len(set(everything)) == 61
    assert indexing.delete(folder, ["new", "p7"]).passages == 59
    assert not {"new", "p7"} & set(found(folder, "cat", 100))
    [hits] = searcher(folder).search(["zebra"], 5, by="bm25")
    assert hits == []
    # an id that was deleted may come back
    assert indexing.add(folder, more, precision="fp32").passages == 60
    assert found(folder, "zebra", 1) == ["new"]


def test_what_cannot_be_changed_is_refused_and_changes_nothing(
    folder: Path, tmp_path: Path
) -> None:
    before = digest_folder(folder)
    with pytest.raises(DataError, match="no passage 'there', 'nor-here'; nothing was deleted"):
        indexing.delete(folder, ["p1", "there", "nor-here"])
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"_id": "a", "text": "b"}\n{"_id": "c"}\n')
    with pytest.raises(DataError, match=r"broken\.jsonl:2: no \"text\""):
        indexing.add(folder, broken)
    with pytest.raises(DataError, match=r"nowhere\.jsonl: missing"):
        indexing.add(folder, tmp_path / "nowhere.jsonl")
    assert digest_folder(folder) == before


ADD = "import sys; from limbeck import indexing; indexing.add(*sys.argv[1:], precision='fp32')"


def test_a_killed_add_leaves_the_old_index(folder: Path, tmp_path: Path) -> None:
    """Killed when everything is written but the card: the hardest moment."""
    more = written(tmp_path / "more.jsonl", {"p3": "moon star blue", "new": "zebra"})
    before = found(folder, "zebra")
    killed = Coded(ADD, folder, more, log=tmp_path / "log", kill_at="index:3")
    assert killed.ended() == -signal.SIGKILL, killed.log.read_text()
    assert (folder / "segment-000001").is_dir()
    assert found(folder, "zebra") == before
    assert indexing.add(folder, more, precision="fp32").passages == 61
    assert found(folder, "zebra", 1) == ["new"]


def test_an_open_index_does_not_see_what_changes(folder: Path) -> None:
    here = searcher(folder)
    indexing.delete(folder, ["p1"])
    assert "p1" in [hit.id for hit in here.search(["cat"], 60)[0]]


def test_another_model_or_a_missing_one_is_refused(folder: Path) -> None:
    card = read_card(folder)
    write_card(folder, card | {"model": card["model"] | {"digest": "0" * 64}})
    with pytest.raises(ModelError, match=r"made with another model \(digest 0000"):
        searcher(folder)
    (folder / "model").rename(folder / "elsewhere")
    with pytest.raises(ModelError, match="which is not there"):
        searcher(folder)


def test_a_model_without_vectors_is_refused(
    tiny_ranker_folder: Path, collection: Collection, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="gives scores, not one vector per text"):
        indexing.build(str(tiny_ranker_folder), collection, tmp_path / "out")


def test_a_damaged_or_foreign_folder_is_refused(
    folder: Path, tiny_encoder_folder: Path, collection: Collection, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(ConfigError, match=r"holds no index \(there is 'thesis.txt'\)"):
        indexing.build(str(tiny_encoder_folder), collection, tmp_path / "full")
    with pytest.raises(ConfigError, match="Add --out"):
        indexing.build(str(tiny_encoder_folder), collection)
    vectors = folder / "segment-000000" / "vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:-4])
    with pytest.raises(StoreError, match=r"vectors.npy has \d+ bytes, \d+ bytes expect"):
        open_index(folder)
    write_card(folder, read_card(folder) | {"format": 9})
    with pytest.raises(StoreError, match="later version"):
        open_index(folder)


def test_other_data_in_the_same_folder_is_refused(
    folder: Path, tiny_encoder_folder: Path, collection: Collection
) -> None:
    other = Collection("other", Texts(["a"], ["b"]), Texts([], []), {})
    with pytest.raises(ConfigError, match="holds the index of another data"):
        indexing.build(str(tiny_encoder_folder), other, folder, precision="fp32")


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_approximate_index_says_what_it_finds_and_follows_changes(
    folder: Path, kind: str, tiny_encoder_folder: Path, collection: Collection, tmp_path: Path
) -> None:
    def build(**asked: object) -> Index:
        return indexing.build(
            str(tiny_encoder_folder), collection, folder, precision="fp32", **asked
        )

    made = build(kind=kind).card["approximate"]
    assert made["recall@10"] >= 0.9
    assert made["measured_on"] == "20 queries"
    assert found(folder, "cat dog", 10) == found_exactly(folder, "cat dog", 10)
    indexing.delete(folder, found(folder, "cat dog", 3))
    more = written(tmp_path / "more.jsonl", {"new": "zebra"})
    indexing.add(folder, more, precision="fp32")
    assert found(folder, "zebra", 1) == ["new"]
    assert found(folder, "cat dog", 10) == found_exactly(folder, "cat dog", 10)
    assert len(found(folder, "cat dog", 100)) == 58
    # what was changed since is covered, too; and back to exact
    assert build(kind=kind, least_recall=1.0).card["approximate"]["rows"] == 61
    assert build().card["approximate"] is None
    assert not list(folder.glob("approximate-*"))


def found_exactly(folder: Path, query: str, k: int) -> list[str]:
    here = searcher(folder)
    [rows], _ = here.index.exact(here.embed([query], "query")[0], k)
    return [here.index.passage(row)[0] for row in rows.tolist()]


def test_queries_that_nobody_wrote_are_taken_from_the_passages(
    folder: Path, tiny_encoder_folder: Path, collection: Collection
) -> None:
    alone = replace(collection, queries=Texts([], []), qrels={})
    made = indexing.build(
        str(tiny_encoder_folder), alone, folder, kind="ivf", precision="fp32"
    ).card["approximate"]
    assert made["measured_on"] == "30 passages"


def test_the_least_effort_that_is_enough_is_chosen() -> None:
    """Effort e finds the first e of ten: 0.3 of them needs 4, the next power of two."""
    exact = np.arange(100)[None]

    def found(k: int, effort: int) -> np.ndarray:
        rows = np.full((1, k), -1)
        rows[0, :effort] = np.arange(min(k, effort))
        return rows

    def effort(wanted: float, most: int = 64) -> int:
        return choose_effort(found, exact, wanted, most)

    assert [effort(0.1), effort(0.3), effort(1.0), effort(1.0, most=5)] == [1, 4, 16, 5]


def test_the_card_keeps_the_language_that_words_are_searched_in(
    collection: Collection, folder: Path, tiny_encoder_folder: Path
) -> None:
    """Another language is another card, and nothing is encoded again."""
    card = indexing.open_index(folder).card
    assert card["language"] == "en"
    vectors = (folder / "segment-000000" / "vectors.npy").stat()
    german = with_language(collection, "de")
    again = indexing.build(str(tiny_encoder_folder), german, folder, precision="fp32")
    assert again.language == "de"
    assert (folder / "segment-000000" / "vectors.npy").stat() == vectors
    searcher = indexing.open_searcher(folder, precision="fp32")
    searcher.count_words()
    assert searcher._words.words.language == "de"
