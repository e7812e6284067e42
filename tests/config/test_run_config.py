import inspect
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from limbeck import pipeline
from limbeck.config import RunConfig, takes_fields_of
from limbeck.config.teacher_spec import TeacherSpec
from limbeck.errors import ConfigError

FIELDS = [each.name for each in fields(RunConfig)]
# the table `asked` of a run that the first release wrote
RECORDED = """
data = "docs"
teacher = ["train:dual", "big=train:cross:base", "scores:a.trec"]
teacher_weights = [0.5, 0.25, 0.25]
student = "offline"
student_layers = 2
layer_choice = "first"
image_size = 32
augment = "crop"
dim = 64
query_prompt = "query: "
passage_prompt = ""
recipe = "kl:teacher-only"
labels = 500
seed = 7
budget_seconds = 1200.0
backend = "torch"
precision = "fp32"
candidates = ["a.trec"]
pairs = "weak.tsv"
query_model = "t5"
force_teacher = true
drop_unknown_judgements = true
keep_own_passage = true
language = "de"

[settings]
updates = "300"
"teacher_dual.max_steps" = "60"
"""


@pytest.mark.parametrize("function", [pipeline.distill, pipeline.dry_run, pipeline.plan])
def test_every_field_is_an_argument(function: Any) -> None:
    arguments = list(inspect.signature(function).parameters)
    assert arguments[: len(FIELDS)] == FIELDS
    more = {"out", "progress"}
    own = {"force", "student_alone", "reuse_from", "precision_from"}
    more |= set() if function is pipeline.plan else own
    assert set(arguments[len(FIELDS) :]) == more


def test_a_field_more_is_an_argument_more() -> None:
    @dataclass(frozen=True, kw_only=True)
    class More(RunConfig):
        patience: int = 3

    @takes_fields_of(More)
    def patience(config: More) -> int:
        return config.patience

    assert patience("docs") == 3
    assert patience("docs", patience=5) == 5
    assert "patience" in inspect.signature(patience).parameters
    with pytest.raises(TypeError, match="patence"):
        patience("docs", patence=5)  # type: ignore[call-arg]


def test_a_record_is_read_and_written_as_it_is() -> None:
    recorded = tomllib.loads(RECORDED)
    config = RunConfig.of_record(recorded)
    assert config.asked() == recorded
    assert config.teachers[1] == TeacherSpec("big", "cross", "base")
    assert tomllib.loads(tomli_w.dumps(config.asked())) == recorded


def test_what_was_not_asked_is_not_recorded() -> None:
    asked = RunConfig(Path("docs"), store=Path("kept"), workers=2).asked()
    assert {key: value for key, value in asked.items() if value is not None} == {
        "data": "docs",
        "teacher": "train",
        "layer_choice": "spread",
        "recipe": "auto",
        "settings": {},
        "seed": 0,
        "backend": "auto",
        "precision": "auto",
        "force_teacher": False,
        "drop_unknown_judgements": False,
    }


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"layer_choice": "frist"}, "--layer-choice 'frist' cannot be used; did you mean 'first'"),
        ({"precision": "int8"}, "Choose auto or fp32 or bf16"),
        ({"labels": 0}, r"--labels must be at least 1 \(got 0\)"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"student_layers": "2"}, r"--student-layers must be of type int \(got '2'\)"),
        ({"dim": True}, "--dim must be of type int"),
        ({"budget_seconds": "20m"}, "--budget must be of type float"),
        ({"force_teacher": 1}, "--force-teacher must be of type bool"),
        ({"teacher": ()}, "No teacher is given"),
        ({"teacher": ["a=x", "a=y"]}, "Two teachers are named 'a'"),
    ],
)
def test_a_value_that_a_field_cannot_have(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RunConfig("docs", **given)
