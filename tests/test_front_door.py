"""`import limbeck` and its names: a run from objects, its student, and little to import."""

import copy
import logging
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

import limbeck
import limbeck.errors
from collections_here import made_up
from limbeck.recipes.contrastive import ContrastiveSettings
from limbeck.recipes.kl import KLSettings
from limbeck.store import digest_folder
from limbeck.teachers import DualTeacher, load_teacher, teacher_of

FEW = {
    "max_steps": 4,
    "batch_size": 8,
    "list_length": 3,
    "candidates_per_query": 8,
    "eval_steps": 0,
}


def opened(kind: str, folder: Path) -> Any:
    import sentence_transformers

    return getattr(sentence_transformers, kind)(str(folder), device="cpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return made_up().write(tmp_path / "data")


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, limbeck; limbeck.LimbeckError, limbeck.RunConfig, limbeck.__version__; "
        "print({'torch', 'polars', 'transformers', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_name_is_there() -> None:
    assert limbeck.__version__ == version("limbeck")
    for name in limbeck.__all__:
        assert callable(getattr(limbeck, name)), name
        assert name in dir(limbeck)
    with pytest.raises(AttributeError, match="distil"):
        _ = limbeck.distil  # type: ignore[attr-defined]
    errors = {name for name in vars(limbeck.errors) if name[0].isupper()}
    assert errors <= set(limbeck.__all__)
    from limbeck.bench import bench, dry_run  # the module is the function, too

    assert callable(bench)
    assert callable(dry_run)


def test_a_run_from_objects_is_the_run_from_paths(
    data: Path, tiny_encoder_folder: Path, tiny_ranker_folder: Path, tmp_path: Path
) -> None:
    shared: dict[str, Any] = {
        "student_layers": 2,
        "recipe": "kl",
        "force_teacher": True,
        "student_alone": True,
        "precision": "fp32",
        "store": tmp_path / "store",
    }
    ranker = opened("CrossEncoder", tiny_ranker_folder)
    encoder = opened("SentenceTransformer", tiny_encoder_folder)
    before = copy.deepcopy(ranker.state_dict()), str(ranker.activation_fn)
    objects: dict[str, Any] = {
        **shared,
        "out": tmp_path / "objects",
        "teacher": ranker,
        "student": encoder,
        "settings": KLSettings(**FEW),  # type: ignore[arg-type]
    }
    collection = limbeck.read_collection(data)
    result = limbeck.distill(collection, **objects)
    limbeck.distill(
        data,
        **shared,
        out=tmp_path / "paths",
        teacher=str(tiny_ranker_folder),
        student=tiny_encoder_folder,
        settings=FEW,
    )
    students = [digest_folder(tmp_path / run / "student") for run in ("objects", "paths")]
    assert students[0] == students[1]
    assert before[1] == str(ranker.activation_fn)  # what was given stays as it was
    torch.testing.assert_close(ranker.state_dict(), before[0])
    vectors = result.student.encode_query(["red cat"])
    plain = opened("SentenceTransformer", tmp_path / "paths" / "student")
    assert (plain.encode_query(["red cat"]) == vectors).all()
    assert (limbeck.load(tmp_path / "paths").encode(["red cat"]) == vectors).all()
    # the same objects, loaded again, are the same request; others are another one
    again = {**objects, "teacher": [opened("CrossEncoder", tiny_ranker_folder)]}
    assert limbeck.distill(limbeck.read_collection(data), **again) == result
    with torch.no_grad():
        next(iter(ranker.parameters())).add_(1)
    with pytest.raises(limbeck.ConfigError, match=r"teacher is 'loaded:model@.*' there"):
        limbeck.distill(collection, **objects)


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        ("SentenceTransformer", "tiny_encoder_folder"),
        ("CrossEncoder", "tiny_ranker_folder"),
        ("SparseEncoder", "tiny_sparse_folder"),
        ("MultiVectorEncoder", "tiny_late_folder"),
    ],
)
def test_a_loaded_teacher_has_the_digest_of_its_folder(
    request: pytest.FixtureRequest, kind: str, folder: str
) -> None:
    """So kept scores are found under it."""
    path = request.getfixturevalue(folder)
    model = opened(kind, path)
    assert teacher_of(model).digest == load_teacher(str(path)).digest
    assert type(limbeck.load(path)) is type(model)


def test_what_cannot_be_used_is_refused(
    data: Path, tiny_encoder: Any, tiny_ranker: Any, tmp_path: Path
) -> None:
    def refused(error: type[Exception], says: str, **given: Any) -> None:
        with pytest.raises(error, match=says):
            limbeck.distill(**{"data": data, "out": tmp_path / "run", **given})

    refused(limbeck.ModelError, r"torch.nn.*Linear cannot be used", teacher=torch.nn.Linear(1, 1))
    refused(limbeck.ConfigError, "student is a Ranker", student=tiny_ranker)
    refused(limbeck.ConfigError, "data is a list", data=["a text"])
    collection = limbeck.read_collection(data)
    refused(limbeck.ConfigError, "language says how data is read", data=collection, language="de")
    given = {"teacher": DualTeacher("own", tiny_encoder), "student": tiny_encoder}
    settings = ContrastiveSettings()
    refused(
        limbeck.ConfigError,
        "ContrastiveSettings, and kl takes KLSettings",
        **given,
        settings=settings,
        recipe="kl",
    )
    assert not (tmp_path / "run" / "run.toml").exists()


def test_lines_are_logged(
    data: Path, tiny_encoder: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="limbeck"), pytest.raises(limbeck.ConfigError):
        limbeck.plan(
            data,
            student=tiny_encoder,
            teacher=tiny_encoder,
            store=tmp_path,
            budget_seconds=0.001,
            precision="fp32",
        )
    assert "probing how long the parts of this run take here" in caplog.messages
