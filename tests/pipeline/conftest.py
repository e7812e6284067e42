"""Whole runs in about two seconds each: tiny models, sixty passages, six updates."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from typer.testing import Result as Answer

from collections_here import Files, made_up
from limbeck import pipeline
from limbeck.cli import app
from limbeck.store import read_json
from recipes_here import RECIPES, fast

LISTS = {
    "max_steps": 6,
    "batch_size": 8,
    "list_length": 3,
    "candidates_per_query": 8,
    "eval_steps": 6,
}
FAST: dict[str, object] = {
    **LISTS,
    "learning_rate": 1e-3,
    **{f"teacher_dual.{key}": value for key, value in LISTS.items()},
    **{f"teacher_cross.{key}": value for key, value in LISTS.items()},
    "teacher_ensemble.candidates_per_query": 8,
}

Distil = Callable[..., pipeline.Result]
Invoke = Callable[..., Answer]


@pytest.fixture(scope="session", autouse=True)
def _modules_are_no_garbage() -> None:
    """A run collects garbage, a fifth of a second if it has to go through all modules."""
    import hypothesis  # noqa: F401, which asks the collector who refers to what, when it is imported
    import sentence_transformers  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture
def files() -> Files:
    return made_up()


@pytest.fixture
def data(files: Files, tmp_path: Path) -> Path:
    return files.write(tmp_path / "data")


@pytest.fixture
def arguments(tiny_encoder_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """What a fast run is asked for; its teacher is made to teach whatever it is worth."""
    return {
        "out": tmp_path / "run",
        "store": tmp_path / "store",
        "student": str(tiny_encoder_folder),
        "student_layers": 2,
        "recipe": "kl",
        "teacher": "train:dual",
        "settings": FAST,
        "force_teacher": True,
        "precision": "fp32",
    }


@pytest.fixture
def distil(arguments: dict[str, Any], data: Path) -> Distil:
    def distil(data: Path = data, **changes: Any) -> pipeline.Result:
        settings = {**FAST, **changes.pop("settings", {})}
        return pipeline.distill(data, **{**arguments, **changes, "settings": settings})

    return distil


@pytest.fixture
def invoke(tiny_encoder_folder: Path, tmp_path: Path) -> Invoke:
    """The command line, in this process: `distill` with a fast run's arguments before those given;
    of a repeated option the last one counts.
    """

    def invoke(command: str, *given: object, settings: bool = True) -> Answer:
        words: list[object] = [command]
        if command == "distill":
            words += ["--out", tmp_path / "run", "--store", tmp_path / "store"]
            words += ["--student", tiny_encoder_folder, "--student-layers", 2]
            words += ["--precision", "fp32", "--recipe", "kl"]
            words += [] if "--teacher" in given else ["--teacher", "train:dual"]
            for key, value in FAST.items() if settings else ():
                words += ["--set", f"{key}={value}"]
        return CliRunner().invoke(app, [str(word) for word in [*words, *given]])

    return invoke


@dataclass(frozen=True)
class Finished:
    """A run that is done, for tests that only read it."""

    out: Path
    data: Path
    arguments: dict[str, Any]
    result: pipeline.Result


@pytest.fixture(scope="session")
def finished(tiny_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    data = made_up().write(folder / "data")
    arguments = {
        "out": folder / "run",
        "store": folder / "store",
        "student": str(tiny_encoder_folder),
        "student_layers": 2,
        "recipe": "kl",
        "teacher": "train:dual",
        "settings": FAST,
        "force_teacher": True,
        "precision": "fp32",
    }
    return Finished(folder / "run", data, arguments, pipeline.distill(data, **arguments))


Staged = Callable[..., dict[str, Any]]


def staged_settings(recipe: str, **changes: object) -> dict[str, object]:
    """Of a fast run of a recipe that fits its own teachers."""
    lists = {"batch_size": 8, "candidates_per_query": 8}
    return {**fast(RECIPES[recipe], **lists, checkpoint_every=1), **changes}


@pytest.fixture(scope="session")
def staged(tiny_encoder_folder: Path) -> Staged:
    """What a fast run of such a recipe is asked for, but for its places."""

    def staged(recipe: str, data: Path, **changes: object) -> dict[str, Any]:
        return {
            "data": data,
            "student": str(tiny_encoder_folder),
            "student_layers": 2,
            "recipe": recipe,
            "settings": staged_settings(recipe, **changes),
            "precision": "fp32",
        }

    return staged


def metrics_of(out: Path) -> dict[str, dict[str, Any]]:
    """What every finished stage of a run recorded, by name."""
    return {path.parent.name: read_json(path)["metrics"] for path in out.glob("stages/*/done.json")}
