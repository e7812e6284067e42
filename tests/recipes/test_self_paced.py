"""Easy examples first: a whole run, and the weights that it notes."""

from pathlib import Path

import pytest

from limbeck import pipeline
from limbeck.store import read_json


@pytest.mark.parametrize("pace", ["log", "hard"])
def test_harder_examples_come_in(tmp_path: Path, pace: str) -> None:
    settings = {"max_steps": 20, "batch_size": 16, "eval_steps": 0, "pace": pace}
    settings |= {"teacher_classifier.max_steps": 30}
    pipeline.distill(
        "digits",
        out=tmp_path / "run",
        recipe="self_paced",
        settings=settings,
        labels=200,
        precision="fp32",
        force_teacher=True,
    )
    curves = read_json(tmp_path / "run" / "stages" / "train-self_paced" / "curves.json")
    weights = [each["weight"] for each in curves["notes"]]
    assert 0 < weights[0] < weights[-1] <= 1
    if pace == "hard":  # of 16 losses 8 are below the median, 14 below the quantile of 0.93
        assert weights[0] == pytest.approx(0.5)
        assert weights[-1] == pytest.approx(14 / 16)
