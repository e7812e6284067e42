"""A run on digits that many tests read."""

from pathlib import Path
from typing import Any

import pytest

import limbeck

FEW: dict[str, Any] = {"max_steps": 4, "batch_size": 16, "eval_steps": 0, "save_steps": 2}


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `kd` that fitted its teacher, of a few steps each."""
    out = tmp_path_factory.mktemp("digits") / "run"
    limbeck.distill(
        "digits",
        out=out,
        recipe="kd",
        labels=200,
        precision="fp32",
        force_teacher=True,
        settings=FEW | {f"teacher_classifier.{key}": value for key, value in FEW.items()},
    )
    return out
