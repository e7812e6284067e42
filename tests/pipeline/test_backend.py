"""A run in OpenVINO: what is frozen is converted, what learns is not, and it repeats itself."""

import tomllib
from collections import OrderedDict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from conftest import encoder_of
from limbeck import inference
from limbeck.evaluation.measures import MEASURES
from limbeck.models import compiled
from limbeck.models.graph import to_openvino
from limbeck.store import digest_folder

from .conftest import Distil

pytestmark = pytest.mark.slow

pytest.importorskip("openvino")


def counting(converted: list[object]) -> Callable[[object], object]:
    def convert(model: object) -> object:
        converted.append(model)
        return to_openvino(model)

    return convert


def test_a_run_in_openvino_repeats_itself_and_converts_no_model_in_training(
    distil: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[object] = []
    monkeypatch.setattr(compiled, "to_openvino", counting(converted))
    monkeypatch.setattr(compiled, "_kept", OrderedDict())  # other tests use the same base encoder
    first = distil(backend="openvino", settings={"eval_steps": 2})
    # the base encoder, the undistilled student, the teacher and the student
    assert len(converted) == 4
    again = distil(
        backend="openvino",
        settings={"eval_steps": 2},
        out=tmp_path / "again",
        store=tmp_path / "new",
    )
    for name in MEASURES:
        assert [row[name] for row in again.rows] == [row[name] for row in first.rows]
    assert digest_folder(tmp_path / "again" / "student") == digest_folder(
        tmp_path / "run" / "student"
    )
    record = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert record["engine"] == {
        "backend": "openvino",
        "device": "cpu",
        "precision": "fp32",
        "openvino": version("openvino"),
    }


def test_a_run_goes_on_with_what_auto_chose_then(
    distil: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = distil()
    (tmp_path / "run" / "metrics.json").unlink()
    monkeypatch.setattr(inference, "MIN_CONVERTED", 1)
    assert distil().rows == first.rows
    record = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert record["engine"]["backend"] == "torch"


def test_a_run_of_a_model_that_openvino_breaks_stays_in_torch_and_says_so(
    distil: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "MIN_CONVERTED", 1)
    encoder_of("modernbert", tmp_path, local_attention=8).save(
        tmp_path / "local", card="", stage="test"
    )
    local = {"student": str(tmp_path / "local"), "teacher": str(tmp_path / "local")}
    result = distil(**local)
    record = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert record["engine"]["backend"] == "torch"
    [note] = record["auto"]["notes"]
    assert note in result.notes
    (tmp_path / "run" / "metrics.json").unlink()
    assert distil(**local).notes == result.notes
