"""Teachers in words, there and back."""

from pathlib import Path

import pytest

from limbeck.config.teacher_spec import KINDS, TeacherSpec, parse_specs
from limbeck.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("train", TeacherSpec()),
        ("train:dual", TeacherSpec(kind="dual")),
        ("train:ensemble:offline", TeacherSpec(kind="ensemble", base="offline")),
        ("train:dual:org/name", TeacherSpec(kind="dual", base="org/name")),
        ("train:cross:/a/b=c:d/e", TeacherSpec(kind="cross", base="/a/b=c:d/e")),
        (
            "train:dual:SentenceTransformer:folder",
            TeacherSpec(kind="dual", base="SentenceTransformer:folder"),
        ),
        ("big=train:dual:org/name", TeacherSpec("big", "dual", "org/name")),
        ("big=train", TeacherSpec("big")),
        ("models/ranker", TeacherSpec(path="models/ranker")),
        ("CrossEncoder:models/ranker", TeacherSpec(path="CrossEncoder:models/ranker")),
        ("a.b-1=CrossEncoder:x", TeacherSpec("a.b-1", path="CrossEncoder:x")),
        ("llm=scores:said=1.tsv", TeacherSpec("llm", path="scores:said=1.tsv")),
        ("scores:said=1.tsv", TeacherSpec(path="scores:said=1.tsv")),
        ("runs/lr=2e-5/teacher", TeacherSpec(path="runs/lr=2e-5/teacher")),
        ("./lr=2e-5", TeacherSpec(path="./lr=2e-5")),
        ("training/model", TeacherSpec(path="training/model")),
    ],
)
def test_a_teacher_in_words_and_back(text: str, spec: TeacherSpec) -> None:
    assert TeacherSpec.parse(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize("text", ["train:", "train:dual:", "train::base", "x=", ""])
def test_what_stands_for_no_teacher_says_what_is_allowed(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--teacher .*train"):
        TeacherSpec.parse(text)


def test_a_path_that_is_there_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert TeacherSpec.parse("lr=2/teacher") == TeacherSpec("lr", path="2/teacher")
    (tmp_path / "lr=2" / "teacher").mkdir(parents=True)
    assert TeacherSpec.parse("lr=2/teacher") == TeacherSpec(path="lr=2/teacher")


def test_what_others_read_has_no_path() -> None:
    assert TeacherSpec.parse("big=train:dual:/a/b/mpnet").shown == "train:dual:mpnet"
    assert TeacherSpec.parse("train").shown == "train"
    assert TeacherSpec.parse("/a/b/mpnet").shown == "given"
    assert TeacherSpec.parse("as-is=/a/b/mpnet").shown == "as-is"


@pytest.mark.parametrize("text", ["train:duel", "x=train:no"])
def test_a_kind_that_no_one_fits_is_refused(text: str) -> None:
    TeacherSpec.parse("train:cross").check_kind(KINDS)
    with pytest.raises(ConfigError, match=r"--teacher .*train:dual, train:cross or train:ensemble"):
        TeacherSpec.parse(text).check_kind(KINDS)


def test_several_have_different_names() -> None:
    assert [str(spec) for spec in parse_specs(["a=train:dual", "b=x", "x", "x"])] == [
        *["a=train:dual", "b=x", "x", "x"]
    ]
    assert parse_specs("train") == (TeacherSpec(),)
    with pytest.raises(ConfigError, match="Two teachers are named 'a'"):
        parse_specs(["a=train:dual", "a=x"])
    with pytest.raises(ConfigError, match="No teacher is given"):
        parse_specs([])
