"""Predictions for new inputs: by the command, from Python, and by the lines of a model's card."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import limbeck
from collections_here import made_up
from limbeck.cli import app
from limbeck.data.labelled import read_labelled
from limbeck.models.classifier import TextClassifier
from limbeck.models.loading import load_encoder
from limbeck.tasks.classification.predicting import is_classifier
from limbeck.tasks.task import kind_named

CLASSES = ("cat", "dog", "fish")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_folder: Path) -> Path:
    """The folder of a classifier of texts, with its card."""
    folder = tmp_path_factory.mktemp("texts") / "model"
    model = TextClassifier.of(load_encoder(str(tiny_encoder_folder)), CLASSES, 0)
    card = kind_named("classification").card(model, "made by a test")
    model.save(folder, card=card, stage="test")
    return folder


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, words)])


def rows(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


def test_each_line_is_answered_with_its_id(texts: Path, tmp_path: Path) -> None:
    plain = tmp_path / "new.txt"
    plain.write_text("a cat\n\nthe dog\n", encoding="utf-8")
    table = tmp_path / "new.csv"
    table.write_text('id,text\nfirst,a cat\nsecond,"the dog"\n', encoding="utf-8")
    objects = tmp_path / "new.jsonl"
    objects.write_text('{"text": "a cat"}\n{"_id": 7, "text": "the dog"}\n', encoding="utf-8")
    given = {path.suffix: rows(call(texts, path).stdout) for path in (plain, table, objects)}
    assert {name: [row["id"] for row in found] for name, found in given.items()} == {
        ".txt": ["1", "3"],
        ".csv": ["first", "second"],
        ".jsonl": ["1", "7"],
    }
    answers = [[(row["label"], row["probability"]) for row in found] for found in given.values()]
    assert answers[0] == answers[1] == answers[2]
    assert set(given[".txt"][0]) == {"id", "label", "probability"}


def test_top_gives_the_most_probable_classes(texts: Path, tmp_path: Path) -> None:
    [row] = limbeck.predict(texts, ["a cat"], top=9)
    top: Any = row["top"]
    assert {each["label"] for each in top} == set(CLASSES)
    assert sum(each["probability"] for each in top) == pytest.approx(1, abs=1e-5)
    assert [each["probability"] for each in top] == sorted(
        (each["probability"] for each in top), reverse=True
    )
    assert (row["label"], row["probability"]) == tuple(top[0].values())
    out = tmp_path / "found.jsonl"
    file = tmp_path / "new.txt"
    file.write_text("a cat\n", encoding="utf-8")
    found = call(texts, file, "--top", 2, "--out", out)
    assert found.stdout == f"Predicted: {out} (1 lines)\n"
    assert rows(out.read_text(encoding="utf-8"))[0]["top"] == top[:2]


def test_a_run_and_its_models_predict_images(digits_run: Path) -> None:
    by_run = rows(call(digits_run, "digits").stdout)
    assert len(by_run) == 500
    assert by_run[0]["id"] == "digit-2"
    assert by_run == limbeck.predict(digits_run / "student", "digits")
    assert by_run == limbeck.predict(limbeck.load(digits_run), "digits")
    teacher = limbeck.load(digits_run / "teacher")
    assert limbeck.predict(teacher, "digits") == limbeck.predict(digits_run / "teacher", "digits")
    metrics = json.loads((digits_run / "metrics.json").read_text(encoding="utf-8"))
    reached = {row["model"]: row["accuracy"] for row in metrics["rows"]}
    test = read_labelled("digits").parts["test"]
    right = [row["label"] == str(label) for row, label in zip(by_run, test.labels, strict=True)]
    assert np.mean(right) == pytest.approx(reached["student"])
    whole = np.rint(test.inputs[:3] * 255).astype(np.uint8)  # type: ignore[call-overload]
    assert [row["label"] for row in limbeck.predict(digits_run, whole)] == [
        row["label"] for row in by_run[:3]
    ]


def test_pictures_are_made_as_large_as_the_model_reads_them(
    digits_run: Path, texts: Path, tmp_path: Path
) -> None:
    Image = pytest.importorskip("PIL.Image")
    test = read_labelled("digits").parts["test"]
    grey = np.rint(np.asarray(test.inputs)[:3, ..., 0] * 255).astype(np.uint8)
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    large = Image.fromarray(grey[2]).resize((64, 64), Image.Resampling.NEAREST)
    Image.fromarray(grey[0]).save(folder / "a.png")
    large.convert("RGB").save(folder / "more" / "b.png")
    Image.fromarray(grey[1]).save(folder / "z.png")
    (folder / "notes.txt").write_text("no picture", encoding="utf-8")
    found = rows(call(digits_run, folder).stdout)
    assert [row["id"] for row in found] == ["a.png", "z.png", "more/b.png"]
    exact = limbeck.predict(digits_run, grey[..., None])
    for at in (0, 1):
        assert found[at]["probability"] == exact[at]["probability"]
    assert found[2]["probability"] == pytest.approx(exact[2]["probability"], abs=0.05)
    [alone] = limbeck.predict(digits_run, folder / "a.png")
    assert alone == found[0]
    (folder / "broken.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    for words, says in (
        ((digits_run, folder), "broken.png: cannot be read"),
        ((digits_run, tmp_path / "empty"), "no pictures"),
        ((texts, folder), "is not a file of texts"),
    ):
        refused = call(*words)
        assert refused.exit_code == 2
        assert says in refused.output


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_the_lines_of_a_card_run_on_images(digits_run: Path, name: str) -> None:
    printed = run_card(digits_run / name)
    assert len(printed) == 1
    assert printed[0] == limbeck.predict(digits_run / name, "digits")


def test_the_lines_of_a_card_run_on_texts_and_agree_with_transformers(texts: Path) -> None:
    ours, theirs = run_card(texts)
    assert ours == limbeck.predict(texts, ["a text"])
    assert theirs[0]["label"] == ours[0]["label"]
    assert theirs[0]["score"] == pytest.approx(ours[0]["probability"], abs=1e-5)


def run_card(folder: Path) -> list[Any]:
    """What the blocks of a card print, by running them as they stand, but for the path."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    printed: list[Any] = []
    for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        exec(block.replace("path/to/this/folder", str(folder)), {"print": printed.append})
    return printed


def test_a_ranker_is_no_classifier(texts: Path, tiny_ranker_folder: Path, tmp_path: Path) -> None:
    assert is_classifier(texts)
    assert not is_classifier(tiny_ranker_folder)
    assert not is_classifier(tmp_path)
    assert isinstance(limbeck.load(texts), TextClassifier)
    assert type(limbeck.load(tiny_ranker_folder)).__name__ == "CrossEncoder"


def test_what_cannot_be_predicted_is_refused(
    texts: Path, digits_run: Path, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    def file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    good = file("good.txt", "a cat\n")
    for words, says in (
        ((texts, file("empty.jsonl", "")), "empty.jsonl is empty"),
        ((texts, file("no.csv", "words\na cat\n")), "no.csv:2: there is no `text`"),
        ((texts, file("blank.jsonl", '{"text": " "}\n')), "blank.jsonl:1: its text is empty"),
        ((texts, file("bad.jsonl", "{\n")), "bad.jsonl:1: not JSON"),
        ((texts, file("new.pdf", "a cat")), "is not a file of texts"),
        ((texts, tmp_path / "none.txt"), "There is no file"),
        ((texts, "digits"), "reads texts, not images"),
        ((digits_run, good), "not texts"),
        ((tmp_path / "none", good), "There is no folder"),
        ((tmp_path, good), "is no model"),
        ((tiny_encoder_folder, good), "a model of retrieval"),
        ((texts, good, "--out", tmp_path), "is a folder"),
        ((texts, good, "--out", good), "is the file that is read"),
    ):
        found = call(*words)
        assert found.exit_code == 2, words
        assert says in found.output, words
    assert good.read_text(encoding="utf-8") == "a cat\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("search", "RUN", "hello"), "a run of classification"),
        (("serve", "RUN"), "a run of classification"),
        (("index", "RUN", "digits"), "a run of classification"),
        (("index", "build", "RUN", "no-such-data"), "a run of classification"),
        (("export", "RUN", "--to", "onnx", "--out", "OUT"), "a model of classification"),
        (("export", "RUN/student", "--to", "onnx", "--out", "OUT"), "a model of classification"),
        (("export", "TEXTS", "--to", "openvino", "--out", "OUT"), "a model of classification"),
        (("index", "RUN/student", "DATA", "--out", "OUT"), "a classifier of images"),
        (("index", "TEXTS", "DATA", "--out", "OUT"), "a classifier, not a ranker"),
        (("evaluate", "TEXTS", "digits"), "3 classes and digits has 10"),
        (("evaluate", "TEXTS", "none.jsonl"), "There is no file or folder none.jsonl"),
        (
            ("distill", "none", "--recipe", "nkd", "--out", "OUT"),
            "none holds no data that --recipe",
        ),
        (("evaluate", "nowhere", "digits"), "There is no folder 'nowhere'"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_other_commands_refuse_a_classifier_and_say_why(
    words: tuple[str, ...], says: str, digits_run: Path, texts: Path, tmp_path: Path
) -> None:
    data = made_up().write(tmp_path / "data")
    places = {"RUN": digits_run, "TEXTS": texts, "DATA": data, "OUT": tmp_path / "out"}
    given = [re.sub("^(RUN|TEXTS|DATA|OUT)", lambda at: str(places[at[0]]), word) for word in words]
    found = CliRunner().invoke(app, given)
    assert found.exit_code == 2
    assert says in found.output


def test_a_classifiers_run_is_measured(digits_run: Path) -> None:
    found = limbeck.evaluate(str(digits_run), "digits", precision="fp32")
    metrics = json.loads((digits_run / "metrics.json").read_text(encoding="utf-8"))
    [student] = [row for row in metrics["rows"] if row["model"] == "student"]
    assert found.rows[0]["accuracy"] == student["accuracy"]


def test_an_unfinished_run_says_so(digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes((digits_run / "run.toml").read_bytes())
    found = call(tmp_path, "digits")
    assert found.exit_code == 2
    assert "not finished" in found.output


def test_objects_that_cannot_be_predicted_are_refused(texts: Path, digits_run: Path) -> None:
    def refused(says: str, model: object, inputs: object, **more: Any) -> None:
        with pytest.raises(limbeck.LimbeckError, match=says):
            limbeck.predict(model, inputs, **more)

    refused("Input 1 is a int", texts, ["a cat", 7])
    refused("Input 0 is an empty text", texts, [" "])
    refused("one answer at least", texts, ["a cat"], top=0)
    refused(r"the shape \[8, 8\]", digits_run, np.zeros((8, 8)))
    refused("numbers from 0 to 16", digits_run, np.full((1, 8, 8, 1), 16.0) * np.eye(8)[..., None])
    refused("numbers from nan", digits_run, np.full((1, 8, 8, 1), np.nan))
    refused("a model of retrieval", object(), ["a cat"])
