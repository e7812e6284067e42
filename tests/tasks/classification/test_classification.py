"""Classes of images and texts: a run, its resumption, its models, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from limbeck import pipeline
from limbeck.bench import bench
from limbeck.bench.api import BenchCall
from limbeck.cli import app
from limbeck.data.labelled import read_labelled
from limbeck.errors import ConfigError, DataError, ModelError, TeacherRefused
from limbeck.models.classifier import TextClassifier, load_classifier
from limbeck.models.image_classifier import (
    ConvNet,
    ImageClassifier,
    Shape,
    fresh_image_classifier,
)
from limbeck.record import read_record
from limbeck.tasks.task import kind_named

STEPS = {"max_steps": 6, "batch_size": 16, "eval_steps": 3, "save_steps": 2}
TEACHER = {f"teacher_classifier.{key}": value for key, value in {**STEPS, "max_steps": 40}.items()}
ASKED: dict[str, Any] = {"labels": 200, "precision": "fp32", "settings": {**STEPS, **TEACHER}}
SHAPE = (8, 8, 1)
DIGITS = tuple("0123456789")
COMMITTED = Path(__file__).parents[3] / "benchmarks" / "results"


def a_net(
    width: int, image: tuple[int, int, int], classes: Sequence[str], seed: int
) -> ImageClassifier:
    shape = Shape(image, (0.3,) * image[2], (0.4,) * image[2], tuple(classes))
    return fresh_image_classifier(f"cnn-{width}", shape, seed, "--student")


def weights(out: Path) -> bytes:
    return (out / "student" / "model.safetensors").read_bytes()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Texts of which one word tells the class."""
    rows = [
        {"text": f"{other} {word} {other}", "label": word}
        for word in ("cat", "dog", "fish")
        for other in ("red", "green", "blue", "old", "new", "small", "large", "fast")
    ]
    path = tmp_path / "animals.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_a_run_fits_a_teacher_and_leaves_a_student(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = pipeline.distill("digits", out=out, recipe="nkd", **ASKED)
    assert [row["model"] for row in result.rows] == [
        *("most_frequent", "undistilled", "teacher", "supervised", "student")
    ]
    assert all({"accuracy", "macro-F1"} <= row.keys() for row in result.rows)
    assert isinstance(result.student, ConvNet)
    assert pipeline.load(out).content_digest() == result.student.content_digest()
    record = read_record(out)
    assert record is not None
    assert record["data"]["task"] == "classification"
    assert record["data"]["unlabelled"] == 800
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "8 x 8 pixels" in page
    assert load_classifier(out / "teacher").sizes == {"width": 32}  # type: ignore[union-attr]
    measured = pipeline.evaluate(str(out / "student"), "digits", precision="fp32")
    assert measured.rows[-1]["accuracy"] == result.rows[-1]["accuracy"]


@pytest.mark.parametrize("student", ["cnn-4", "wrn-10-1"])
def test_a_killed_run_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, student: str
) -> None:
    """Running statistics, the momentum of SGD and varied images included."""
    settings = {**STEPS, "optimizer": "sgd", "schedule": "steps", "weight_decay": 5e-4}
    asked = {**ASKED, "recipe": "supervised", "student": student, "augment": "crop"}
    asked["settings"] = settings
    pipeline.distill("digits", out=tmp_path / "whole", **asked)
    calls, forward = [], ImageClassifier.forward

    def killed(self: ImageClassifier, features: dict[str, torch.Tensor]) -> torch.Tensor:
        calls.append(self.training)
        if sum(calls) == 5:
            raise KeyboardInterrupt
        return forward(self, features)

    monkeypatch.setattr(ImageClassifier, "forward", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.distill("digits", out=tmp_path / "killed", **asked)
    pipeline.distill("digits", out=tmp_path / "killed", **asked)
    assert weights(tmp_path / "whole") == weights(tmp_path / "killed")


@pytest.mark.parametrize("recipe", ["kd", "nkd:not-normalized", "tf_nkd"])
def test_every_recipe_over_rows_trains(tmp_path: Path, recipe: str) -> None:
    net = a_net(4, SHAPE, DIGITS[::-1], 1)
    net.save(tmp_path / "teacher", card="", stage="test")
    changed = {**ASKED, "settings": STEPS, "force_teacher": True}
    result = pipeline.distill(
        "digits", out=tmp_path / "run", recipe=recipe, teacher=str(tmp_path / "teacher"), **changed
    )
    assert result.rows[-1]["model"] == "student"
    plain = a_net(4, SHAPE, DIGITS, 0)
    assert result.student.content_digest() != plain.content_digest()


def test_a_teacher_is_asked_by_the_names_of_its_classes(tmp_path: Path) -> None:
    """The same teacher with its classes turned around says the same of every example."""
    data = read_labelled("digits")
    net = a_net(4, SHAPE, DIGITS, 1)
    turned = a_net(4, SHAPE, DIGITS[::-1], 1)
    turned.load_state_dict(net.state_dict())
    last: Any = turned.head[-1]
    with torch.no_grad():
        last.weight.copy_(last.weight.flip(0))
        last.bias.copy_(last.bias.flip(0))
    for name, model in (("a", net), ("b", turned)):
        model.save(tmp_path / name, card="", stage="test")
    rows = [
        pipeline.evaluate(str(tmp_path / name), "digits", precision="fp32").rows[-1]["accuracy"]
        for name in ("a", "b")
    ]
    assert rows[0] == rows[1]
    assert len(data.classes) == 10


def test_a_teacher_that_says_nothing_is_refused(tmp_path: Path) -> None:
    net = a_net(4, SHAPE, DIGITS, 1)
    with torch.no_grad():
        for each in net.parameters():
            each.zero_()
    net.save(tmp_path / "flat", card="", stage="test")
    with pytest.raises(TeacherRefused, match="takes every training example for '0'"):
        pipeline.distill("digits", out=tmp_path / "run", teacher=str(tmp_path / "flat"), **ASKED)


def test_a_saved_model_is_the_same_to_the_byte(tmp_path: Path) -> None:
    net = a_net(8, SHAPE, DIGITS, 3)
    for name in ("a", "b"):
        net.save(tmp_path / name, card="# card\n", stage="test")
    found = load_classifier(tmp_path / "a")
    assert found.content_digest() == net.content_digest()
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    (tmp_path / "a" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(Exception, match=r"model\.safetensors"):
        load_classifier(tmp_path / "a")
    with pytest.raises(ModelError, match="no classifier in"):
        load_classifier(tmp_path)
    with pytest.raises(ModelError, match="reads images of 8 x 8 pixels and 1 channels, not texts"):
        net.read(["a text"])


def test_texts_are_learned_and_transformers_opens_the_student(
    tmp_path: Path, texts: Path, tiny_encoder_folder: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    result = pipeline.distill(
        str(texts),
        out=tmp_path / "run",
        recipe="nkd",
        student=str(tiny_encoder_folder),
        student_layers=1,
        force_teacher=True,
        precision="fp32",
        settings={**STEPS, **TEACHER},
    )
    student = result.student
    assert isinstance(student, TextClassifier)
    assert student.classes == ("cat", "dog", "fish")
    folder = str(tmp_path / "run" / "student")
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)("red dog red", return_tensors="pt")
    with torch.no_grad():
        logits = theirs(**tokens).logits
        ours = student.eval()(student.read(["red dog red"]).collate(np.arange(1)))
    assert theirs.config.id2label == {0: "cat", 1: "dog", 2: "fish"}
    assert torch.allclose(logits, ours, atol=1e-5)
    with pytest.raises(ModelError, match="reads texts, not images"):
        student.read(np.zeros((1, *SHAPE)))


def test_a_run_is_timed_by_its_own_stages() -> None:
    found = pipeline.plan("digits", recipe="kd", **ASKED)
    assert [part.stage for part in found.parts] == [
        *("evaluate", "train-teacher_classifier", "score-classifier", "train-supervised"),
        "train-kd",
    ]
    assert {part.stage: part.updates for part in found.parts}["train-kd"] == 6
    assert found.seconds > 0


def test_a_budget_chooses_the_number_of_steps(tmp_path: Path) -> None:
    asked = {**ASKED, "settings": {"save_steps": 2}, "recipe": "supervised"}
    with pytest.raises(ConfigError, match="too short"):
        pipeline.distill("digits", out=tmp_path / "no", budget_seconds=0.01, **asked)


def test_recipes_are_compared_with_their_baselines(tmp_path: Path) -> None:
    found = bench(
        "digits",
        out=tmp_path / "bench",
        recipes=["nkd"],
        seeds=[0],
        max_steps=4,
        settings={"eval_steps": 0, "teacher_classifier.max_steps": 4},
        precision="fp32",
    )
    assert found.record["baselines"] == ["supervised", "kd"]
    assert found.record["teacher"] == "train:classifier"
    assert found.record["budget"] == {"max_steps": 4, "batch_size": 32}
    record = json.loads((tmp_path / "bench" / "bench.json").read_text())
    for path in COMMITTED.glob("*.json"):
        committed = json.loads(path.read_text())
        if committed["benchmark"] == "quality" and "examples" in committed:
            assert set(committed) <= set(record)
            assert all(set(row) <= set(record["rows"][-1]) for row in committed["rows"])
    compared = pipeline.compare([tmp_path / "bench" / f"{name}-0" for name in ("kd", "nkd")])
    assert compared.measure == "accuracy"


def test_arms_of_a_bench_read_images_of_one_size() -> None:
    call = BenchCall("pictures", out="bench", recipes=["kd"], image_size=8)
    assert call.shared(kind_named("classification")).image_size == 8


def test_what_cannot_be_used_is_refused(tmp_path: Path, texts: Path) -> None:
    def refused(error: type[Exception], says: str, data: str = "digits", **asked: Any) -> None:
        with pytest.raises(error, match=says):
            pipeline.distill(data, out=tmp_path / "run", **asked)

    a_net(4, SHAPE, "abc", 0).save(tmp_path / "abc", card="", stage="test")
    a_net(4, (9, 9, 1), DIGITS, 0).save(tmp_path / "nine", card="", stage="test")
    refused(ModelError, r"3 classes and digits has 10", teacher=str(tmp_path / "abc"))
    refused(ModelError, r"9 x 9 .*not images of 8 x 8", teacher=str(tmp_path / "nine"))
    refused(ModelError, r"no folder 'a'", teacher=["a", "b"])
    refused(ConfigError, r"--student 'mlp'.*cnn-WIDTH", student="mlp")
    refused(ModelError, r"width 6: .*multiple of 4", student="cnn-6")
    refused(ConfigError, r"train:dual.*train:classifier", teacher="train:dual")
    refused(ConfigError, r"--query-prompt says nothing about classification", query_prompt="find: ")
    refused(ConfigError, r"kl is for retrieval.*Use --recipe kd", recipe="kl")
    refused(ConfigError, r"kd: retrieval .*Use --recipe kl", data="pydocs", recipe="kd")
    refused(ConfigError, r"--student-layers says nothing about a net of images", student_layers=2)
    refused(ConfigError, r"--backend openvino", backend="openvino")
    refused(ConfigError, r"--workers", workers=2)
    refused(ConfigError, r"maps, and models of texts", data=str(texts), recipe="ca_mkd:features")
    empty = texts.with_name("empty.jsonl")
    empty.touch()
    refused(DataError, r"empty.jsonl is empty", data=str(empty), recipe="kd")
    with texts.open("a", encoding="utf-8") as file:
        file.write('{"text": "a cow"}\n')
    refused(DataError, r"animals.jsonl:25: there is no `label`", data=str(texts))


def test_pictures_are_learned_and_measured_in_one_size(tmp_path: Path) -> None:
    data = tmp_path / "pictures"
    for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
        for at in range(20):
            file = data / name / f"{at}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (6 + at % 3, 6), colour).save(file)
    asked: dict[str, Any] = {**ASKED, "labels": None, "settings": STEPS, "recipe": "supervised"}
    found = pipeline.distill(str(data), out=tmp_path / "run", image_size=6, **asked)
    record = read_record(tmp_path / "run")
    assert record is not None
    assert record["asked"]["image_size"] == 6
    assert found.student.image_shape == (6, 6, 3)
    images = read_labelled(data, image_size=6).parts["test"].inputs
    read = found.student.read(images).collate(np.arange(2))["images"]
    assert read.dtype == torch.float32
    assert 0 <= read.min() <= read.max() <= 1
    student = str(tmp_path / "run" / "student")
    again = pipeline.evaluate(student, str(data), image_size=6, precision="fp32")
    assert again.rows[-1]["accuracy"] == found.rows[-1]["accuracy"]
    given = sorted(data.rglob("*.png"))
    lines = pipeline.predict(tmp_path / "run", data)
    assert [row["id"] for row in lines] == [str(each.relative_to(data)) for each in given]
    assert pipeline.predict(student, given[0])[0]["label"] == lines[0]["label"]
    (data / "blue" / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"blue/x.png: cannot be read"):
        pipeline.predict(student, data)
    (data / "blue" / "x.png").unlink()
    with pytest.raises(DataError, match=r"no pictures in"):
        pipeline.predict(student, tmp_path / "run" / "student")
    with pytest.raises(ModelError, match=r"reads images of 6 x 6 .*not images of 8 x 8"):
        pipeline.evaluate(student, str(data), image_size=8, precision="fp32")


def test_bad_pictures_end_with_exit_code_2(tmp_path: Path) -> None:
    """What data cannot be is tested with its readers; here, what a command makes of it."""
    data = tmp_path / "pictures"
    for name in ("red", "blue"):
        (data / name).mkdir(parents=True)
        Image.new("RGB", (6, 6), name).save(data / name / "0.png")

    def says(*command: object) -> str:
        found = CliRunner().invoke(app, [str(each) for each in command])
        assert found.exit_code == 2, command
        assert not (tmp_path / "run" / "student").exists()
        return found.output.replace("\n", " ")

    distil = ("distill", data, "--out", tmp_path / "run", "--recipe")
    assert "kl is for retrieval" in says(*distil, "kl")
    assert "--dim says nothing about classification" in says(*distil, "supervised", "--dim", 8)
    assert "no example of" in says(*distil, "supervised")
    (data / "red" / "1.png").write_bytes(b"no picture")
    assert "red/1.png: cannot be read" in says(*distil, "supervised")
    assert "red/1.png: cannot be read" in says("data", "check", data)
    assert "--image-size says nothing about retrieval" in says(
        "distill", "pydocs", "--out", tmp_path / "run", "--image-size", 8
    )


def test_the_commands_of_searching_refuse_such_a_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = {**ASKED, "recipe": "supervised", "settings": {**STEPS, "max_steps": 2}}
    pipeline.distill("digits", out=out, **asked)

    commands: Sequence[Sequence[object]] = (
        ("search", out, "hello"),
        ("index", "build", out, "pydocs"),
        ("serve", out),
        ("export", out / "student", "--to", "onnx", "--out", tmp_path / "x"),
    )
    for command in commands:
        found = CliRunner().invoke(app, [str(each) for each in command])
        assert found.exit_code == 2, command
        assert "classif" in found.output, command
