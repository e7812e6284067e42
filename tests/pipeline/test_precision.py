"""A run may take the precision that another one chose, and measures none then."""

from pathlib import Path
from typing import Any

import pytest

from limbeck import inference
from limbeck.config import RunConfig
from limbeck.pipeline.distilling import engine_for
from limbeck.pipeline.request import validate
from limbeck.training.distributed import current_group


def test_the_precision_of_another_run_is_taken_and_its_backend_is_not(
    arguments: dict[str, Any], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be measured")

    monkeypatch.setattr(inference, "_faster", refuse)
    asked = {key: value for key, value in arguments.items() if key != "out"}
    request = validate(RunConfig(data, **{**asked, "precision": "auto"}))
    theirs = {"backend": "openvino", "precision": "bf16", "training_precision": "fp32"}
    engine = engine_for(request, None, current_group(), like={"engine": theirs})
    assert (engine.backend, engine.precision) == ("torch", "bf16")
    assert engine.training().precision == "fp32"
    own = {"engine": {"backend": "torch", "precision": "fp32"}}
    engine = engine_for(request, own, current_group(), like={"engine": theirs})
    assert (engine.precision, engine.training().precision) == ("fp32", "fp32")
