"""Two processes make the classifier that one makes; a model that normalises by its batch does not
let itself be shared out.
"""

import json
from pathlib import Path

import pytest

from limbeck import pipeline
from limbeck.models.image_classifier import Shape, fresh_image_classifier
from limbeck.store import read_json
from processes import Together, in_processes

pytestmark = pytest.mark.slow

COMMANDS = Path(__file__).parents[2] / "pipeline" / "commands.py"
SETTINGS = {"max_steps": 6, "batch_size": 15, "eval_steps": 3}


def distilled_in_two(*words: str, folder: Path) -> Together:
    (folder / "commands.json").write_text(json.dumps([["distill", *words]]))
    return in_processes(COMMANDS.read_text(), folder / "commands.json", log=folder / "log")


def test_a_run_in_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """A temperature that is learned beside the student is the same in both."""
    shape = Shape((8, 8, 1), (0.3,), (0.4,), tuple("0123456789"))
    fresh_image_classifier("cnn-8", shape, 1, "").save(tmp_path / "cnn", card="", stage="test")
    asked = {"recipe": "ctkd", "teacher": str(tmp_path / "cnn"), "precision": "fp32"}
    words = [f"--{name}={value}" for name, value in asked.items()]
    words += [f"--set={key}={value}" for key, value in SETTINGS.items()]
    words += ["--labels=200", "--augment=crop", "--force-teacher", f"--out={tmp_path / 'two'}"]
    found = distilled_in_two("digits", *words, folder=tmp_path)
    assert found.codes == [0, 0], found.said
    pipeline.distill(
        "digits",
        out=tmp_path / "one",
        settings=SETTINGS,
        labels=200,
        augment="crop",
        force_teacher=True,
        **asked,
    )
    curves = [
        read_json(tmp_path / out / "stages" / "train-ctkd" / "curves.json")
        for out in ("one", "two")
    ]
    for alone, together in zip(*(curve["losses"] for curve in curves), strict=True):
        assert sum(together.values()) == pytest.approx(sum(alone.values()), rel=1e-5)
    for alone, together in zip(*(curve["notes"] for curve in curves), strict=True):
        assert together == pytest.approx(alone, rel=1e-5)
    words = ["--recipe=supervised", "--student=wrn-10-1", f"--out={tmp_path / 'wide'}"]
    refused = distilled_in_two("digits", *words, folder=tmp_path)
    assert refused.codes == [2, 2]
    assert "normalises by its batch" in refused.said
    assert not (tmp_path / "wide" / "student").exists()
