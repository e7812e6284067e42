"""Runs, plans, benches, comparisons and reports name no task: a second one goes through them."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from limbeck import pipeline
from limbeck.bench import bench
from limbeck.errors import ConfigError
from limbeck.record import read_record
from limbeck.tasks.task import kinds
from toy_task import Net, Toy, toy_task

SOURCE = Path(__file__).parent.parent / "src" / "limbeck"
SETTINGS = {"max_steps": 60, "learning_rate": 0.03, "eval_steps": 30, "save_steps": 10}
TEACHER = {f"teacher_net.{key}": value for key, value in {**SETTINGS, "max_steps": 200}.items()}
ASKED = {"labels": 90, "precision": "fp32", "backend": "torch"}


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with toy_task(monkeypatch):
        yield


def upper_floors() -> list[Path]:
    """The files that serve every task."""
    folders = ("pipeline", "bench", "report", "cli")
    return [SOURCE / "record.py", *(f for name in folders for f in (SOURCE / name).rglob("*.py"))]


def strings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every text of a file that is no docstring, with its line."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            yield str(node.value), node.lineno


@pytest.mark.parametrize("file", upper_floors(), ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_task_and_no_measure_has_a_name_above_the_tasks(file: Path) -> None:
    """Records that name no task are of the first one: `record.py` alone may say which that is."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = [
        f"{node.module}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
    ]
    tasks = [name for name in kinds() if name != "toy"]
    measures = [name for kind in kinds().values() for name in kind.measures.names]
    for module in imported:
        assert not any(module.startswith(f"limbeck.tasks.{name}") for name in tasks), module
    for text, line in strings(tree):
        if file.name != "record.py":
            assert text not in tasks, f"{file}:{line} names the task {text}"
        for measure in measures:
            found = re.search(rf"(?<!\w){re.escape(measure)}(?!\w)", text)
            assert not found, f"{file}:{line} names the measure {measure}"


def test_a_run_fits_a_teacher_and_a_student_and_says_how_good_they_are(tmp_path: Path) -> None:
    settings = {**SETTINGS, **TEACHER}
    result = pipeline.distill("toy:40", out=tmp_path / "run", settings=settings, **ASKED)
    systems = [row["model"] for row in result.rows]
    assert systems == ["guess", "undistilled", "teacher", "toy_supervised", "student"]
    by_name = {row["model"]: row["accuracy"] for row in result.rows}
    assert by_name["student"] > by_name["toy_supervised"]
    assert "recipe: auto is toy_kd" in result.notes
    record = read_record(tmp_path / "run")
    assert record is not None
    assert record["data"]["task"] == "toy"
    assert (
        json.loads((tmp_path / "run" / "metrics.json").read_text())["measures"]["unit"] == "point"
    )
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Points won and lost" in page
    assert "a point at " in page
    assert isinstance(result.student, Net)
    again = pipeline.distill("toy:40", out=tmp_path / "run", settings=settings, **ASKED)
    assert again.rows == result.rows


def test_a_killed_run_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SETTINGS, **TEACHER}
    asked = {**ASKED, "settings": settings, "force_teacher": True}
    pipeline.distill("toy:40", out=tmp_path / "whole", **asked)
    calls, forward = [], Net.forward

    def killed(self: Net, features: dict) -> object:
        calls.append(1)
        if len(calls) == 240:  # while the student learns
            raise KeyboardInterrupt
        return forward(self, features)

    monkeypatch.setattr(Net, "forward", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.distill("toy:40", out=tmp_path / "killed", **asked)
    assert not (tmp_path / "killed" / "metrics.json").exists()
    pipeline.distill("toy:40", out=tmp_path / "killed", **asked)
    weights = [
        (tmp_path / name / "student" / "model.safetensors").read_bytes()
        for name in ("whole", "killed")
    ]
    assert weights[0] == weights[1]


def test_recipes_are_compared_with_the_baselines_of_their_task(tmp_path: Path) -> None:
    found = bench(
        "toy:40",
        out=tmp_path / "bench",
        recipes=["toy_kd"],
        seeds=[0],
        teacher="train",
        max_steps=20,
        settings={"learning_rate": "0.02"},
        labels=60,
        precision="fp32",
    )
    assert found.record["baselines"] == ["toy_supervised", "toy_kd"]
    assert found.record["budget"] == {"max_steps": 20, "batch_size": 16}
    assert "- toy_supervised" in found.page
    runs = [tmp_path / "bench" / f"{name}-0" for name in Toy.baselines]
    compared = pipeline.compare(runs)
    assert compared.measure == "accuracy"
    assert compared.rows[1].difference is not None


def test_a_run_is_estimated_by_its_own_rehearsal(tmp_path: Path) -> None:
    found = pipeline.plan("toy:40", settings={**SETTINGS, **TEACHER}, **ASKED)
    assert [part.stage for part in found.parts] == [
        *("evaluate", "train-teacher_net", "train-toy_supervised", "train-toy_kd")
    ]
    assert {part.stage: part.updates for part in found.parts}["train-toy_kd"] == 60
    assert found.seconds > 0


def test_what_a_task_does_not_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--query-prompt says nothing about toy"):
        pipeline.distill("toy:40", out=tmp_path / "run", query_prompt="find: ", **ASKED)
    with pytest.raises(
        ConfigError, match=r"--recipe kl is for retrieval.*toy:40 holds data of toy"
    ):
        pipeline.distill("toy:40", out=tmp_path / "run", recipe="kl", **ASKED)
    with pytest.raises(ConfigError, match=r"train:dual.*Use train or train:net"):
        pipeline.distill("toy:40", out=tmp_path / "run", teacher="train:dual", **ASKED)
    with pytest.raises(ConfigError, match=r"kl is for retrieval.*Compare recipes of one task"):
        bench("toy:40", out=tmp_path / "bench", recipes=["toy_kd", "kl"])
