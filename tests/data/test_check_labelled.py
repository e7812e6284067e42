"""A report on classes has their counts, and the first place of every kind of problem."""

from pathlib import Path

import numpy as np

from limbeck.data.check_labelled import check_labelled
from limbeck.data.labelled import read_labelled

ROWS = "".join(f'{{"text": "{at} {of}", "label": "{of}"}}\n' for at in range(9) for of in "xy")


def texts(folder: Path, train: str = ROWS, **splits: str) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in {"train": train, **splits}.items():
        (folder / f"{split}.jsonl").write_text(rows)
    return folder


def test_counts_of_texts_and_texts_that_are_in_two_splits(tmp_path: Path) -> None:
    dev = '{"text": "new", "label": "x"}\n{"text": "3 y", "label": "y"}\n'
    path = texts(tmp_path, dev=dev, unlabelled='{"text": "who knows"}\n')
    report = check_labelled(path)
    assert report.errors == ()
    assert report.counts["texts"]["number"] == 21
    assert report.counts["train"] == {
        "examples": 19,
        "unlabelled": 1,
        "classes": {"x": 9, "y": 9},
    }
    assert report.counts["dev"]["classes"] == {"x": 1, "y": 1}
    assert report.warnings == ('1 texts of dev are in an earlier split, too ("dev-1")',)
    assert report.lines()[-1] == f"{path} can be used."


def test_every_kind_of_problem_has_its_first_place(tmp_path: Path) -> None:
    bad = '{"text": " ", "label": "x"}\n{"label": "x"}\n{"text": "a", "label": "z"}\n'
    report = check_labelled(texts(tmp_path, ROWS, test=bad + bad))
    assert [error.partition(".json")[2].partition(".")[0] for error in report.errors] == [
        "l:1: its text is empty",
        "l:2: there is no `text`",
        "l:3: label 'z' is not among the 2 of training",
    ]
    assert all(error.endswith("(1 more like it)") for error in report.errors)
    assert report.counts["test"]["examples"] == 0


def test_what_cannot_be_used_as_a_whole_is_one_error(tmp_path: Path) -> None:
    report = check_labelled(texts(tmp_path, '{"text": "a", "label": "x"}\n' * 3))
    assert report.counts == {}
    assert "two classes" in report.errors[0]


def test_counts_of_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(256, size=(20, 5, 7, 3), dtype=np.uint8)
    labels = np.arange(20) % 2
    path = tmp_path / "a.npz"
    np.savez(
        path,
        train_images=images,
        train_labels=labels,
        test_images=images[:3],
        test_labels=labels[:3],
    )
    report = check_labelled(path)
    assert report.counts["images"] == {
        "number": 23,
        "classes": 2,
        "size": "7 x 5 pixels",
        "channels": 3,
    }
    assert "images of test are in an earlier split, too" in report.warnings[0]
    assert report.notes == read_labelled(path).notes
