"""Words before every query and passage reach the student's folder, and are missed where due."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limbeck import pipeline
from limbeck.models.loading import load_encoder

from .conftest import Distil

pytestmark = pytest.mark.slow


def test_the_student_reads_and_keeps_the_prompts_it_was_given(
    distil: Distil, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    distil(query_prompt="query: ", passage_prompt="passage: ")
    student = SentenceTransformer(str(tmp_path / "run" / "student"), device="cpu")
    assert student.prompts == {"query": "query: ", "document": "passage: "}
    plain = student.encode(["cat"])
    assert np.abs(student.encode_query(["cat"]) - plain).max() > 1e-3
    base = load_encoder(tmp_path / "run" / "baselines" / "undistilled")
    assert base.prompt("passage") == "passage: "


def test_a_dry_run_says_which_prompts_are_missing(
    data: Path, arguments: dict[str, Any], tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    folder = str(shutil.copytree(tiny_encoder_folder, tmp_path / "e5-small-v2"))
    told = "was trained with prompts, by its name"
    lines = pipeline.dry_run(data, **{**arguments, "student": folder})
    [note] = [line for line in lines if told in line]
    assert "--query-prompt 'query: ' and --passage-prompt 'passage: '" in note
    given = {**arguments, "student": folder, "query_prompt": "query: ", "passage_prompt": ""}
    assert not any(told in line for line in pipeline.dry_run(data, **given))
    lines = pipeline.dry_run(data, **{**arguments, "teacher": folder})
    [note] = [line for line in lines if told in line]
    assert "as prompts in its config_sentence_transformers.json" in note
