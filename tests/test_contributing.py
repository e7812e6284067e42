"""The examples of CONTRIBUTING.md work: a method teaches, a task trains, and its table is whole."""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limbeck.inference import Engine
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import cut_layers
from limbeck.recipes import Recipe, registry
from limbeck.recipes.registry import _found
from limbeck.settings import describe
from limbeck.store import read_json
from limbeck.tasks.fit import TrainingSettings
from limbeck.tasks.task import Opened, Task, TaskKind
from limbeck.teachers import CrossTeacher, DualTeacher
from limbeck.training import Run
from limbeck.types import Silent
from retrieval_here import a_task
from test_documentation import ROOT, blocks
from toy_task import Net, PointSource, Regions, Toy, ToyTask

PAGE = ROOT / "CONTRIBUTING.md"
METHOD, KIND, FORWARD = blocks(PAGE, "python")


def defined(block: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(compile(block, PAGE.name, "exec"), namespace)
    return namespace


@pytest.fixture
def method(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    registry()  # all others are found before
    defined(METHOD)
    return _found.pop("first_choice")


@pytest.mark.parametrize("kind", ["dual", "cross"])
def test_the_method_learns_from_every_kind_of_teacher(
    method: Recipe, kind: str, tmp_path: Path, tiny_encoder: Encoder, tiny_ranker: Ranker
) -> None:
    frozen = DualTeacher("teacher", tiny_encoder.frozen())
    teacher = frozen if kind == "dual" else CrossTeacher("teacher", tiny_ranker)
    student = cut_layers(tiny_encoder, 2)
    before = student.weights_digest()
    settings = method.settings(max_steps=2, batch_size=5, list_length=3, candidates_per_query=6)
    method.train(a_task(tmp_path, tiny_encoder), teacher, student, settings)
    assert student.weights_digest() != before
    losses = read_json(tmp_path / "stages/train-first_choice/curves.json")["losses"]
    assert [list(entry) for entry in losses] == [["first_choice"]] * 2
    assert all(len(setting.description) >= 10 for setting in describe(method.settings))


def test_the_kind_lacks_what_the_table_says() -> None:
    found = next(
        value
        for value in defined(KIND).values()
        if inspect.isclass(value) and issubclass(value, TaskKind) and value is not TaskKind
    )
    assert found.__abstractmethods__ == TaskKind.__abstractmethods__  # and no attribute is left out
    assert {name for name in Toy.__dict__ if name in TaskKind.__annotations__} <= set(vars(found))
    for base in (TaskKind, Opened, Task):
        [row] = re.findall(rf"^\| `{base.__name__}` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row)) == base.__abstractmethods__


@dataclass(frozen=True)
class Batch:
    points: np.ndarray
    classes: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.ones(len(self.points), dtype=np.int64)

    def collate(self, chosen: np.ndarray) -> dict[str, torch.Tensor]:
        return {"points": torch.from_numpy(self.points[chosen])}


class Batches(PointSource):
    """The toy's points as the example wants them."""

    def batch(self, update: int) -> Any:
        chosen = super().batch(update)
        return Batch(self.points[chosen], self.regions[chosen])


def test_the_forward_trains_a_classifier(tmp_path: Path) -> None:
    regions = Regions(30, known=90)
    run = Run(tmp_path, 0, Engine("cpu", "fp32"), progress=Silent())
    torch.manual_seed(0)
    task, net = ToyTask(regions, run, Net(8), Toy.measures), Net(8)
    source = Batches(*regions.points["train"], 16, 0)
    settings = TrainingSettings(max_steps=150, learning_rate=0.03)
    before = task.table(net, "dev")["accuracy"].mean()
    defined(FORWARD)["train_alone"](task, net, source, settings)
    after = task.table(net, "dev")["accuracy"].mean()
    assert isinstance(before, float)
    assert isinstance(after, float)
    assert after > before + 0.2
