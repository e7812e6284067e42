"""Several teachers, weighted by how right they are: on rows that are made up, and in a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck import pipeline
from limbeck.models.image_classifier import ImageClassifier, Shape, fresh_image_classifier
from limbeck.models.map_adapters import MapAdapters
from limbeck.objectives.rows import RowLoss, kd
from limbeck.recipes.ca_mkd import CAMKDSettings, ca_mkd
from limbeck.store import read_json
from limbeck.tasks.rows import Maps
from limbeck.types import Scores, Signals


class Caught:
    """Rows that keep the loss that a recipe would train by."""

    def __init__(self, teachers: list[str], maps: dict[str, Maps] | None = None) -> None:
        self.teachers, self._maps = teachers, maps or {}
        self.loss: Any = None
        self.parts: Any = None

    def maps(self, name: str) -> Maps:
        return self._maps[name]

    def train(self, name: str, loss: Any, settings: Any, **more: Any) -> None:
        self.loss, self.parts = loss, more["parts"]


def signals(rows: Mapping[str, list[list[float]]], target: list[int]) -> Signals:
    found = {
        name: Scores.of(torch.tensor(values), target=torch.tensor(target))
        for name, values in rows.items()
    }
    return Signals(found)


def taught(given: Signals, teachers: list[str], **settings: Any) -> Tensor:
    rows: Any = Caught(teachers)
    ca_mkd(rows, CAMKDSettings(**settings))
    part = rows.loss(given)["kd"]
    assert isinstance(part, RowLoss)
    return part.values


ROWS = {
    "student": [[0.5, 0.2, -0.1], [0.0, 1.0, 0.0]],
    "teacher/a": [[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]],
    "teacher/b": [[0.0, 3.0, 0.0], [0.0, 1.0, 0.0]],
    "teacher/c": [[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]],
}
NAMES = ["teacher/a", "teacher/b", "teacher/c"]


def test_each_teacher_counts_by_its_loss_in_the_row() -> None:
    given = signals(ROWS, [0, -1])
    by_hand = torch.stack([kd(given.scores[n], given.scores["student"], 4.0).values for n in NAMES])
    w = torch.tensor([[0.479004, 0.078281, 0.442716], [1 / 3] * 3]).T  # no label: equal
    assert taught(given, NAMES).tolist() == pytest.approx(
        (w * by_hand).sum(dim=0).tolist(), abs=1e-5
    )
    assert taught(given, NAMES, weights="equal").tolist() == pytest.approx(
        by_hand.mean(dim=0).tolist()
    )


def test_the_order_of_teachers_does_not_matter_and_equal_ones_are_one() -> None:
    given = signals(ROWS, [0, 1])
    assert taught(given, NAMES).tolist() == pytest.approx(taught(given, NAMES[::-1]).tolist())
    same = signals({**ROWS, "teacher/b": ROWS["teacher/a"], "teacher/c": ROWS["teacher/a"]}, [0, 1])
    one = kd(same.scores["teacher/a"], same.scores["student"], 4.0).values
    assert taught(same, NAMES).tolist() == pytest.approx(one.tolist())


@pytest.mark.parametrize("detached", [True, False])
def test_a_gradient_passes_through_a_teachers_head_only_where_weights_are_not_detached(
    detached: bool,
) -> None:
    torch.manual_seed(0)
    heads = {name: torch.nn.Linear(2, 3) for name in ("teacher/a", "teacher/b")}
    passed = []

    def head(name: str) -> Any:
        def scored(maps: Tensor) -> Tensor:
            pooled = maps.mean(dim=(2, 3))
            if pooled.requires_grad:
                pooled.register_hook(lambda gradient: passed.append(name))
            return heads[name](pooled)

        return scored

    maps = {name: Maps(2, 1, 1, head(name)) for name in heads} | {
        "student": Maps(4, 2, 2, lambda given: given)
    }
    rows: Any = Caught(list(heads), maps)
    ca_mkd(rows, CAMKDSettings(feature_weight=1.0, detached=detached))
    embeddings = {
        "student": torch.rand(2, 4, 2, 2),
        **{name: torch.rand(2, 2, 1, 1) for name in heads},
    }
    given = Signals({key: signals(ROWS, [0, 1]).scores[key] for key in ROWS}, embeddings)
    rows.loss(given)["features"].mean().backward()
    assert bool(passed) != detached


def test_maps_are_brought_to_the_size_of_each_teachers() -> None:
    adapters = MapAdapters(3, [(5, 2, 2), (2, 8, 8)])
    found = adapters(torch.rand(6, 3, 4, 4))
    assert [tuple(each.shape) for each in found] == [(6, 5, 2, 2), (6, 2, 8, 8)]


def net(name: str, seed: int) -> ImageClassifier:
    shape = Shape((8, 8, 1), (0.3,), (0.4,), tuple("0123456789"))
    return fresh_image_classifier(name, shape, seed, "--student")


def test_feature_maps_of_several_teachers_are_learned_from_in_a_run(tmp_path: Path) -> None:
    """Nets of two kinds and sizes teach; none of them is better than the student: it is noted."""
    for name, kind in (("a", "cnn-8"), ("b", "wrn-10-1")):
        net(kind, 1).save(tmp_path / name, card="", stage="test")
    result = pipeline.distill(
        "digits",
        out=tmp_path / "run",
        recipe="ca_mkd:features",
        teacher=[f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}"],
        settings={"max_steps": 30, "batch_size": 16, "eval_steps": 0},
        labels=200,
        precision="fp32",
    )
    named = [row["model"] for row in result.rows]
    assert {"teacher", "teacher/a", "teacher/b", "supervised", "student"} <= set(named)
    assert any("made to withstand that" in note for note in result.notes)
    curves = read_json(tmp_path / "run" / "stages" / "train-ca_mkd" / "curves.json")
    assert set(curves["losses"][0]) == {"hard", "kd", "features"}
    last = curves["notes"][-1]
    assert last["weight of teacher/a"] + last["weight of teacher/b"] == pytest.approx(1.0)
