"""A teacher that would not help is refused: exit 3, everything kept, unless it is forced."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from collections_here import Files
from limbeck.data.tokens import tokenize_here
from limbeck.inference import Engine, score
from limbeck.models.loading import load_ranker
from limbeck.store import read_json

from .conftest import Distil, Invoke, metrics_of

pytestmark = pytest.mark.slow

Weights = dict[str, torch.Tensor]


def changed(folder: Path, target: Path, change: Callable[[Weights], None]) -> Path:
    """A copy of a model with other weights."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def judged_by(folder: Path, files: Files) -> Mapping[str, np.ndarray]:
    """A ranker's scores of all passages for every training query."""
    ranker = load_ranker(folder)
    queries = tokenize_here(list(files.queries.values()), ranker.tokenizer)
    passages = tokenize_here(list(files.corpus.values()), ranker.tokenizer)
    pairs = np.array([(q, p) for q in range(len(queries)) for p in range(len(passages))])
    scores = score(ranker, queries, passages, pairs, engine=Engine("cpu", "fp32"))
    return dict(zip(files.queries, scores.reshape(len(queries), -1), strict=True))


def refused_and_forced(
    invoke: Invoke,
    data: Path,
    out: Path,
    teacher: Path,
    says: list[str],
    kept: str,
    forced_says: str | None = None,
) -> None:
    """The teacher is refused with these words; the same command, forced, goes on from there."""
    answer = invoke("distill", data, "--teacher", teacher)
    assert answer.exit_code == 3, answer.output
    assert "Traceback" not in answer.output
    message = answer.stderr.strip().splitlines()[-1]
    for words in [*says, "--force-teacher goes on all the same"]:
        assert words in message
    assert not (out / "student").exists()
    diagnosis = json.loads((out / "stages" / "diagnose" / "diagnosis.json").read_text())
    assert (diagnosis["refusal"] is None) == (kept == "train-contrastive")
    before = metrics_of(out)
    assert [name for name in before if name.startswith(kept)]

    again = invoke("distill", data, "--teacher", teacher)
    assert again.exit_code == 3
    assert metrics_of(out) == before  # nothing was done twice

    forced = invoke("distill", data, "--teacher", teacher, "--force-teacher")
    assert forced.exit_code == 0, forced.output
    after = metrics_of(out)
    assert {name: after[name] for name in before} == before
    assert f"teacher: forced{forced_says or '. ' + says[0]}" in forced.stdout
    assert (out / "student" / "model.safetensors").exists()
    assert invoke("distill", data, "--teacher", teacher).stdout == forced.stdout


def test_a_constant_teacher(
    invoke: Invoke, data: Path, tmp_path: Path, tiny_ranker_folder: Path
) -> None:
    def without_head(weights: Weights) -> None:
        weights["classifier.weight"].zero_()

    teacher = changed(tiny_ranker_folder, tmp_path / "constant", without_head)
    says = ["The teacher is constant", "prefers no passage", "head were loaded"]
    refused_and_forced(invoke, data, tmp_path / "run", teacher, says, "score-teacher")


def test_a_saturated_teacher(
    invoke: Invoke, data: Path, tmp_path: Path, tiny_ranker_folder: Path
) -> None:
    def one_saturated_number(weights: Weights) -> None:
        """The pooler's tanh is driven to -1 or 1, and the head reads one number of it."""
        weights["bert.pooler.dense.weight"] *= 1e4
        weights["classifier.weight"].zero_()
        weights["classifier.weight"][0, 5] = 1.0

    teacher = changed(tiny_ranker_folder, tmp_path / "saturated", one_saturated_number)
    says = ["The teacher is saturated", "before any sigmoid"]
    refused_and_forced(invoke, data, tmp_path / "run", teacher, says, "score-teacher")


def test_a_reversed_teacher(
    invoke: Invoke, files: Files, tmp_path: Path, tiny_ranker_folder: Path
) -> None:
    """Each training query's positive is the passage that the teacher likes least."""
    passages = list(files.corpus)
    for query, scores in judged_by(tiny_ranker_folder, files).items():
        if query in files.qrels["train"]:
            files.qrels["train"][query] = {passages[int(scores.argmin())]: 1}
    data = files.write(tmp_path / "reversed")
    says = ["The teacher is reversed", "orders only 0.0%", "a higher score of it means"]
    refused_and_forced(invoke, data, tmp_path / "run", tiny_ranker_folder, says, "score-teacher")


def test_a_teacher_that_a_student_beats_without_it(
    invoke: Invoke, files: Files, tmp_path: Path, tiny_ranker_folder: Path
) -> None:
    """On dev the positive is what the teacher likes least of all: no student is worse."""
    passages = list(files.corpus)
    for query, scores in judged_by(tiny_ranker_folder, files).items():
        if query in files.qrels["dev"]:
            least = passages[int(scores.argmin())]
            files.qrels["dev"][query] = {least: 1}
    data = files.write(tmp_path / "beaten")
    says = ["On dev the teacher (0.000 nDCG@10) does not beat the student", "a stronger --teacher"]
    out = tmp_path / "run"
    skipped = ", not compared on dev with a student trained without it"
    refused_and_forced(invoke, data, out, tiny_ranker_folder, says, "train-contrastive", skipped)
    assert (out / "baselines" / "contrastive" / "model.safetensors").exists()


def test_a_teacher_that_beats_the_student_is_taken(
    distil: Distil, files: Files, tmp_path: Path, tiny_ranker_folder: Path
) -> None:
    """On dev the positive is the teacher's first choice of all, among few enough to be found."""
    files.corpus = dict(list(files.corpus.items())[:40])  # fewer than are put in order
    passages = list(files.corpus)
    scores = judged_by(tiny_ranker_folder, files)
    for judged in files.qrels.values():
        for query in judged:
            judged[query] = {passages[int(scores[query].argmax())]: 1}
    result = distil(
        files.write(tmp_path / "agreed"),
        teacher=str(tiny_ranker_folder),
        force_teacher=False,
        settings={"contrastive.max_steps": 3},
    )
    rows = {str(row["model"]): row for row in result.rows}
    assert list(rows) == [
        *("bm25", "zero_shot", "undistilled", "teacher", "contrastive", "student"),
    ]
    assert rows["teacher"]["nDCG@10"] == 1.0
    assert any(note.startswith("teacher: 1.000 nDCG@10 on dev;") for note in result.notes)
    contrastive = tmp_path / "run" / "baselines" / "contrastive"
    assert "trained with contrastive, without a teacher" in (contrastive / "README.md").read_text()
    stages = tmp_path / "run" / "stages"
    losses = {
        name: read_json(stages / f"train-{name}" / "curves.json")["losses"]
        for name in ("contrastive", "kl")
    }
    assert len(losses["contrastive"]) == 3 < len(losses["kl"])


@pytest.mark.parametrize("missing", ["train", "dev"])
def test_what_dev_and_labels_are_needed_for_is_skipped_and_said(
    distil: Distil, files: Files, tmp_path: Path, tiny_ranker_folder: Path, missing: str
) -> None:
    """The teacher of the test before is not compared where there is nothing to compare it on."""
    del files.qrels[missing]
    if missing == "dev":  # too few labels to carve one
        files.qrels["train"] = dict(list(files.qrels["train"].items())[:9])
    result = distil(
        files.write(tmp_path / "partly"), teacher=str(tiny_ranker_folder), force_teacher=False
    )
    assert any(note.startswith("teacher: not compared on dev") for note in result.notes)
    assert not (tmp_path / "run" / "baselines" / "contrastive").exists()
