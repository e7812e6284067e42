"""Data sets in the layouts of the hub, from local folders and from the package's own cache."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datasets")

from limbeck.data.reading import read_as_given
from limbeck.errors import ConfigError, DataError

CORPUS = [{"_id": "p0", "title": "Cats", "text": "A cat sleeps."}, {"_id": "p1", "text": "A dog."}]
QUERIES = [{"_id": f"q{at}", "text": f"who {what}?"} for at, what in enumerate(("sleeps", "barks"))]
TRAIN = [{"query-id": "q0", "corpus-id": "p0", "score": 1}]
DEV = [{"query-id": "q1", "corpus-id": "p1", "score": 2}]


def write(folder: Path, configurations: dict[str, dict[str, list[dict[str, Any]]]]) -> Path:
    """A data set of JSON lines, as a README of the hub describes it."""
    folder.mkdir()
    lines = ["---", "configs:"]
    for name, splits in configurations.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, rows in splits.items():
            file = f"{name}-{split}.jsonl"
            lines += [f"  - split: {split}", f"    path: {file}"]
            (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return tmp_path / "cache"


TEXTS = {"corpus": {"corpus": CORPUS}, "queries": {"queries": QUERIES}}


def test_judgements_in_a_data_set_of_their_own(tmp_path: Path, cache: Path) -> None:
    folder = write(tmp_path / "toy", TEXTS)
    write(tmp_path / "toy-qrels", {"default": {"train": TRAIN, "validation": DEV}})
    collection = read_as_given(f"hf:{folder}")
    assert collection.name == "toy"
    assert collection.passages.texts == ["Cats A cat sleeps.", "A dog."]
    assert collection.passages.parts(0) == ("Cats", "A cat sleeps.")
    assert collection.qrels == {"train": {"q0": {"p0": 1}}, "dev": {"q1": {"p1": 2}}}
    # the same once more by a hub's name, from the cache that a machine with a network would have
    for name in ("toy", "toy-qrels"):
        (cache / name).rename(cache / f"BeIR___{name}")
    assert read_as_given("hf:BeIR/toy").digest == collection.digest


def test_judgements_in_a_configuration(tmp_path: Path) -> None:
    folder = write(tmp_path / "toy", {**TEXTS, "default": {"train": TRAIN, "other": DEV}})
    collection = read_as_given(f"hf:{folder}")
    assert collection.qrels == {"train": {"q0": {"p0": 1}}}
    assert "qrels: split other not read" in collection.notes[0]


def test_a_folder_may_have_no_judgements(tmp_path: Path) -> None:
    collection = read_as_given(f"hf:{write(tmp_path / 'toy', TEXTS)}")
    assert collection.unlabelled == ["q0", "q1"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"corpus": {"corpus": [{"id": 3.5, "text": "x"}]}}, r'corpus:1: no "_id" or no "text"'),
        ({"queries": {"queries": [{"_id": "q0"}]}}, r"queries:1: no"),
        (
            {"default": {"train": [{**TRAIN[0], "score": 0.5}]}},
            r"qrels/train:1: .* whole numbers as scores",
        ),
        (
            {"default": {"train": [*TRAIN, {**TRAIN[0], "corpus-id": "p9"}]}},
            r'qrels/train:2: passage id "p9" is not in corpus',
        ),
    ],
)
def test_bad_rows_are_refused_with_their_place(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    folder = write(tmp_path / "toy", {**TEXTS, "default": {"train": TRAIN}, **changes})
    with pytest.raises(DataError, match=rf"hf:{folder}, {expected}"):
        read_as_given(f"hf:{folder}")


def test_what_is_not_there_offline_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"not on this machine.*data convert hf:BeIR/toy OUT"):
        read_as_given("hf:BeIR/toy")


def test_another_layout_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "toy", {"other": {"train": TRAIN}})
    with pytest.raises(ConfigError, match=r"not in the layout of BEIR .*'corpus' not found"):
        read_as_given(f"hf:{folder}")
