"""Texts with labels and built-in images are read; what cannot be used is refused by its place."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from limbeck.data.labelled import Labelled, holds_labelled, read_labelled
from limbeck.errors import ConfigError, DataError

Rows = Sequence[tuple[str, object]]
ROWS: Rows = [(f"{what} number {at}", what) for at in range(10) for what in ("fish", "bird")]


def write(path: Path, rows: Rows) -> Path:
    lines = (json.dumps({"text": text, "label": label}) for text, label in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def folder(path: Path, **splits: Rows) -> Path:
    path.mkdir()
    for split, rows in splits.items():
        write(path / f"{split}.jsonl", rows)
    return path


def test_digits_are_cut_once_and_for_all() -> None:
    found = read_labelled("digits")
    assert {split: len(part) for split, part in found.parts.items()} == {
        "train": 1000,
        "dev": 297,
        "test": 500,
    }
    assert found.classes == tuple("0123456789")
    images = found.parts["train"].inputs
    assert isinstance(images, np.ndarray)
    assert images.shape[1:] == (8, 8, 1)
    assert 0 <= images.min() < images.max() == 1
    assert len({unit for part in found.parts.values() for unit in part.ids}) == 1797
    assert found.digest == read_labelled("digits").digest
    unit = found.parts["test"].ids[0]
    assert "8 x 8 pixels" in str(found.shown(unit))
    [name] = found.judged("test", unit)
    assert found.alternative(name) == name


def test_few_labels_are_the_same_ones_every_time() -> None:
    found = read_labelled("digits", labels=50)
    assert len(found.labelled) == 50
    assert len(found.unlabelled) == 950
    assert found.labelled == read_labelled("digits", labels=50).labelled
    assert set(read_labelled("digits", labels=20).labelled) < set(found.labelled)
    assert found.digest != read_labelled("digits").digest
    assert any(note.startswith("labels: 50 of 1,000") for note in found.notes)
    with pytest.raises(DataError, match=r"--labels 1: .* all of one class"):
        read_labelled("digits", labels=1)


def test_one_file_is_cut_and_a_folder_has_its_splits(tmp_path: Path) -> None:
    one = read_labelled(write(tmp_path / "animals.jsonl", ROWS))
    assert {split: len(part) for split, part in one.parts.items()} == {
        "train": 14,
        "dev": 2,
        "test": 4,
    }
    assert one.classes == ("bird", "fish")
    several = read_labelled(folder(tmp_path / "data", train=ROWS, validation=ROWS[:4]))
    assert several.splits == ["train", "dev"]
    assert several.shown("dev-1") == "bird number 0"
    assert several.judged("dev", "dev-1") == {"bird": 1}
    assert several.judged("train", "dev-1") == {}
    without = read_labelled(folder(tmp_path / "other", train=ROWS, test=ROWS[:1]))
    assert len(without.parts["dev"]) == 2
    assert len(without.parts["train"]) == 18
    assert any("cut from training" in note for note in without.notes)
    assert any("no example of 1 classes" in note for note in without.notes)


def test_texts_without_labels_are_for_training(tmp_path: Path) -> None:
    path = folder(tmp_path / "data", train=ROWS, dev=ROWS[:2])
    (path / "unlabelled.jsonl").write_text('{"text": "who am I"}\n', encoding="utf-8")
    found = read_labelled(path)
    assert found.unlabelled == ["unlabelled-0"]
    assert found.parts["train"].labels[-1] == -1


def test_csv_packed_files_and_numbers_as_names(tmp_path: Path) -> None:
    rows = "".join(f'"a text, ""{at}""\nof two lines",{at % 12}\n' for at in range(120))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    (tmp_path / "more").mkdir()
    packed = gzip.compress(f"label,text\n{'1,one' + chr(10) + '2,two' + chr(10)}".encode())
    (tmp_path / "more" / "train.csv.gz").write_bytes(packed)
    (tmp_path / "more" / "dev.csv").write_text("label,text\n2,dos\n", encoding="utf-8")
    rows_found = read_labelled(tmp_path / "rows.csv")
    assert rows_found.classes == tuple(str(at) for at in range(12))
    assert 'a text, "0"\nof two lines' in [
        rows_found.shown(unit) for part in rows_found.parts.values() for unit in part.ids
    ]
    more = read_labelled(tmp_path / "more")
    assert more.classes == ("1", "2")
    assert more.shown("train-1") == "two"
    numbers: Rows = [(f"text {at}", at % 12) for at in range(120)]
    assert read_labelled(write(tmp_path / "n.jsonl", numbers)).classes == tuple(
        str(at) for at in range(12)
    )
    assert holds_labelled(str(tmp_path / "rows.csv"))


def test_texts_in_parquet_as_the_hub_has_them(tmp_path: Path) -> None:
    names = ["lost card", "cash"]
    about = json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})
    table = pl.DataFrame({"text": [f"text {at}" for at in range(20)], "label": [0, 1] * 10})
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    table.write_parquet(path, metadata={"huggingface": about})
    assert holds_labelled(str(tmp_path))
    found = read_labelled(tmp_path)
    assert found.classes == ("lost card", "cash")
    assert found.judged("train", "train-3") == {"cash": 1}
    one = tmp_path / "one.parquet"
    pl.DataFrame({"text": ["a", " "], "label": ["x", "y"]}).write_parquet(one)
    with pytest.raises(DataError, match=r"one.parquet:2: its text is empty"):
        read_labelled(one)
    pl.DataFrame({"text": ["a"], "name": ["x"]}).write_parquet(one)
    with pytest.raises(DataError, match=r"one.parquet: .* with the columns text, label"):
        read_labelled(one)


def test_what_is_named_otherwise_or_has_other_columns_is_something_else(tmp_path: Path) -> None:
    assert holds_labelled("digits")
    assert holds_labelled(str(folder(tmp_path / "data", train=ROWS)))
    other = tmp_path / "pairs.jsonl"
    other.write_text('{"query": "a", "pos": ["b"]}\n', encoding="utf-8")
    for name in (str(other), "pydocs", "ir_datasets:x", str(tmp_path / "none"), str(tmp_path)):
        assert not holds_labelled(name)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": "a dog"}', r"train.jsonl:21: there is no `label`. .*unlabelled.jsonl"),
        ('{"text": "a dog", "label": null}', r"train.jsonl:21: there is no `label`"),
        ('{"text": "a dog", "label": 0.5}', r"train.jsonl:21: label 0.5 is no name"),
        ('{"text": "a dog", "label": " "}', r"train.jsonl:21: its label is empty"),
        ('{"label": "dog"}', r"train.jsonl:21: there is no `text`"),
        ('{"text": "  ", "label": "dog"}', r"train.jsonl:21: its text is empty"),
        ('{"text": "a dog", "label"', r"train.jsonl:21: not JSON"),
        ('["a dog", "dog"]', r"train.jsonl:21: .* instead of an object"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused(tmp_path: Path, line: str, says: str) -> None:
    path = folder(tmp_path / "data", train=ROWS)
    with (path / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=says):
        read_labelled(path)


def test_splits_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def refused(error: type[Exception], says: str, **splits: Rows) -> None:
        name = str(len(list(tmp_path.iterdir())))
        with pytest.raises(error, match=says):
            read_labelled(folder(tmp_path / name, **splits))

    refused(DataError, r"test.jsonl:2: label 'dog'", train=ROWS, test=[ROWS[0], ("a", "dog")])
    refused(DataError, r"have the label 'fish'.*two", train=[ROWS[0]] * 4)
    refused(ConfigError, r"none of train.jsonl, train.csv, train.parquet", test=ROWS)
    refused(DataError, r"validation.jsonl.*same split", train=ROWS, dev=ROWS, validation=ROWS)
    with pytest.raises(ConfigError, match=r"no file or folder"):
        read_labelled(tmp_path / "none")
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"empty.jsonl: there is no row"):
        read_labelled(tmp_path / "empty.jsonl")


def test_other_content_is_another_digest(tmp_path: Path) -> None:
    digests = {
        read_labelled(write(tmp_path / f"{at}.jsonl", rows)).digest
        for at, rows in enumerate((ROWS, ROWS[:-2], [(text + "!", label) for text, label in ROWS]))
    }
    assert len(digests) == 3
    assert isinstance(read_labelled(tmp_path / "0.jsonl"), Labelled)
