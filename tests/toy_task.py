"""A second task, as small as one can be: in which of three regions is a point?

`toy:N` has 3 N points for training, and as many for dev and for test. A student has few hidden
units, a teacher many. There are no files. What a run, a plan, a bench, a comparison and a report do
with it, they do without knowing it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from limbeck.config import RunConfig
from limbeck.data.check import Report
from limbeck.errors import ConfigError
from limbeck.evaluation.statistics import Mean, Measures
from limbeck.evaluation.table import Cost
from limbeck.objectives.listwise import cross_entropy, kl_divergence
from limbeck.recipes import registry
from limbeck.recipes.registry import Recipe
from limbeck.settings import Settings
from limbeck.store import digest, read_parquet, write_parquet
from limbeck.tasks import fit
from limbeck.tasks.estimate import RunEstimate
from limbeck.tasks.fit import BudgetPlan, TrainingSettings
from limbeck.tasks.task import (
    Checked,
    Combined,
    Layout,
    Measured,
    Method,
    Opened,
    Task,
    TaskKind,
    Teachers,
    kinds,
)
from limbeck.training import Forward, Run, Trained, Turn, Validation
from limbeck.types import Loss, Scores, Signals, Split

PREFIX = "toy:"


@dataclass(frozen=True)
class Regions:
    """Points of three regions, for each split."""

    per_region: int
    known: int  # training points whose region is known
    notes: tuple[str, ...] = ()
    synthetic: bool = False
    splits: tuple[Split, ...] = ("train", "dev", "test")

    @property
    def name(self) -> str:
        return f"toy:{self.per_region}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.per_region} {self.known}".encode()).hexdigest()

    @property
    def facts(self) -> Mapping[str, object]:
        return {"labelled": len(self.labelled), "unlabelled": len(self.unlabelled)}

    @property
    def labelled(self) -> list[str]:
        return [f"train-{at}" for at in range(self.known)]

    @property
    def unlabelled(self) -> list[str]:
        return [f"train-{at}" for at in range(self.known, 3 * self.per_region)]

    @cached_property
    def points(self) -> dict[Split, tuple[np.ndarray, np.ndarray]]:
        """Points [n, 2] and their regions [n] of each split."""
        found = {}
        for seed, split in enumerate(self.splits):
            points = np.random.default_rng(seed).normal(size=(3 * self.per_region, 2))
            x, y = points.T
            regions = np.where(np.hypot(x, y) < 0.7, 0, np.where(x * y > 0, 1, 2))
            found[split] = points.astype(np.float32), regions
        return found

    def _at(self, unit: str) -> tuple[np.ndarray, int]:
        split, _, at = unit.rpartition("-")
        points, regions = self.points[split]  # type: ignore[index]
        return points[int(at)], int(regions[int(at)])

    def shown(self, unit: str) -> str | None:
        x, y = self._at(unit)[0]
        return f"a point at {x:.2f}, {y:.2f}"

    def picture(self, unit: str) -> bytes | None:
        return None

    def alternative(self, name: str) -> str | None:
        return f"region {name}"

    def judged(self, split: Split, unit: str) -> Mapping[str, int]:
        return {str(self._at(unit)[1]): 1}


class Net(nn.Module):
    """Logits of three regions from a point."""

    kind = "net"

    def __init__(self, width: int, name: str = "student") -> None:
        super().__init__()
        self.name, self.width = name, width
        self.layers = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 3))

    def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.layers(features["points"])  # type: ignore[no-any-return]

    @property
    def digest(self) -> str:
        state = {key: value.tolist() for key, value in self.state_dict().items()}
        return digest([self.width, state])

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), str(folder / "model.safetensors"))
        (folder / "README.md").write_text(card, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Net:
        weights = load_file(str(folder / "model.safetensors"))
        net = cls(len(weights["layers.0.bias"]), "teacher")
        net.load_state_dict(weights)
        return net


@dataclass(frozen=True)
class PointSource:
    """Training points, as many in every update."""

    points: np.ndarray
    regions: np.ndarray  # -1: not known
    size: int
    seed: int

    @property
    def digest(self) -> str:
        return digest([self.points.tolist(), self.regions.tolist(), self.size, self.seed])

    @property
    def updates_per_pass(self) -> float:
        return len(self.points) / self.size

    @property
    def dropped(self) -> dict[str, int]:
        return {}

    def batch(self, update: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, update])
        return rng.choice(len(self.points), self.size, replace=False)


@dataclass
class ToyTask(Task):
    regions: Regions
    run: Run
    wide: Net
    measures: Measures
    trained: list[Trained] = field(default_factory=list)

    @property
    def data(self) -> Regions:
        return self.regions

    def reference_systems(self, split: Split) -> list[Measured]:
        guess = Net(1, "guess")
        with torch.no_grad():
            for weight in guess.parameters():
                weight.zero_()
        return [self.measure("guess", guess, split)]

    def logits(self, net: Net, split: Split) -> torch.Tensor:
        points, _ = self.data.points[split]
        net.eval()
        with torch.no_grad():
            return net({"points": torch.from_numpy(points)})

    def table(self, net: Net, split: Split) -> pl.DataFrame:
        right = self.logits(net, split).argmax(dim=1).numpy() == self.data.points[split][1]
        units = [f"{split}-{at}" for at in range(len(right))]
        return pl.DataFrame({"point_id": units, "accuracy": right.astype(np.float64)})

    def measure(self, name: str, system: Any, split: Split) -> Measured:
        inputs = {"data": self.data.digest, "model": system.digest, "split": split}
        stage = f"evaluate-{name.replace('/', '-')}-{split}-{digest(inputs)[:8]}"
        folder = self.run.stage(stage, inputs)
        path = folder.path / "per_point.parquet"
        if not folder.complete:
            write_parquet(path, self.table(system, split), stage=stage)
            folder.finish()
        table = read_parquet(path, {"point_id": pl.String}, others=pl.Float64)
        return Measured(name, split, stage, table, Cost())

    def check_teacher(self, teacher: Any, settings: Settings) -> Checked:
        spread = float(self.logits(teacher, "train").std())
        return Checked(
            [f"its logits spread by {spread:.2f}"], None if spread else "It is constant."
        )

    def combine(self, teachers: Sequence[Any], weights: Sequence[float]) -> Combined:
        if len(teachers) > 1:
            raise ConfigError("One --teacher is enough for a toy.")
        return Combined(teachers[0])

    def from_base(self, base: str | None) -> tuple[Task, Any]:
        import copy

        return self, copy.deepcopy(self.wide)

    def for_recipe(self) -> Self:
        return replace(self, trained=[])

    def alone(self, settings: Any, recipe: type[Settings]) -> Any:
        own = settings.model_dump(include=set(recipe.model_fields))
        return recipe(**own)

    def source(self, size: int, *, labelled: bool) -> PointSource:
        points, regions = self.data.points["train"]
        known = np.where(np.arange(len(regions)) < self.data.known, regions, -1)
        if labelled:
            points, known = points[: self.data.known], known[: self.data.known]
        return PointSource(points, known, min(size, len(points)), self.run.seed)

    def train(
        self, name: str, net: Net, source: PointSource, settings: Any, loss: Any, teacher: Any
    ) -> None:
        """Train a net in place by a loss of its scores and the teacher's."""

        def forward(update: Any, chosen: np.ndarray) -> Signals:
            target = torch.from_numpy(source.regions[chosen])

            def collate(at: np.ndarray) -> dict[str, torch.Tensor]:
                return {"points": torch.from_numpy(source.points[chosen[at]])}

            ones = np.ones(len(chosen), dtype=np.int64)
            scores = {"student": Scores.of(update.run("student", ones, collate), target=target)}
            if teacher is not None:
                with torch.no_grad():
                    said = teacher.eval()(collate(np.arange(len(chosen))))
                scores["teacher"] = Scores.of(said, target=target)
            return Signals(scores, progress=update.progress)

        taught = {} if teacher is None else {"teacher": teacher.digest}
        fit.train_model(
            self,  # type: ignore[arg-type]
            name,
            net,
            source,
            Turn(Forward(forward, inputs=taught), loss, frozenset({"student"})),
            settings,
        )

    def train_stage(
        self,
        name: str,
        players: Any,
        source: Any,
        turn: Turn,
        updates: int,
        settings: TrainingSettings,
        *,
        parts: Any = None,
    ) -> Trained:
        def value(players: Any) -> float:
            return float(self.table(players["student"].model, "dev")["accuracy"].mean())  # type: ignore[arg-type]

        every = settings.eval_every(updates) or updates
        trained = fit.train_stage(
            self.run,
            name,
            players,
            source,
            turn,
            updates,
            settings,
            inputs={"data": self.data.digest},
            measure=Validation("dev accuracy", value, "student", every, settings.keep),
            parts=parts,
        )
        self.trained.append(trained)
        return trained


class Rehearsed(ToyTask):
    """A toy run of which only stages are noted: a second each."""

    noted: RunEstimate

    def measure(self, name: str, system: Any, split: Split) -> Measured:
        self.noted.stages["evaluate"].seconds += 1.0
        value = 1.0 if name.startswith("teacher") else 0.0
        table = pl.DataFrame({"point_id": ["a"], "accuracy": [value]})
        return Measured(name, split, "evaluate", table, Cost())

    def for_recipe(self) -> Self:
        return self

    def train_stage(self, name: str, *arguments: Any, **more: Any) -> Any:
        counts = self.noted.stages[f"train-{name}"]
        counts.seconds, counts.updates = 1.0, arguments[3]
        return None


@dataclass(frozen=True)
class ToyProbe:
    """Needs no time to find that everything takes a second."""

    task: ToyTask
    notes: tuple[str, ...] = ()

    def stage(self) -> Rehearsed:
        task = self.task
        stage = Rehearsed(task.data, task.run, task.wide, task.measures)
        stage.noted = RunEstimate()
        return stage

    def estimate(self, stage: Rehearsed) -> RunEstimate:
        return stage.noted


@dataclass(frozen=True)
class ToyOpened(Opened):
    config: RunConfig
    data: Regions
    student: Net
    teachers: Teachers
    given: Any
    notes: tuple[str, ...]
    wide: Net

    @property
    def models(self) -> Mapping[str, Any]:
        return {}

    @property
    def size(self) -> int:
        return self.data.per_region

    def stages(self) -> list[str]:
        return ["look at points"]

    def probe(self, task: ToyTask, *, fits: bool) -> ToyProbe:
        return ToyProbe(task)

    def start(self, run: Run, store: Any) -> ToyTask:
        return ToyTask(self.data, run, self.wide, Toy.measures)


class Toy(TaskKind):
    """Which region?"""

    name = "toy"
    measures = Measures(unit="point", units="points", measures=(Mean(name="accuracy"),))
    alternatives = ("region", "regions")
    layouts = (Layout("regions", "toy:N", lambda data: data.startswith(PREFIX)),)
    auto = "toy_kd"
    baselines = ("toy_supervised", "toy_kd")
    fits: ClassVar = {"net": ()}
    options = frozenset({"labels"})
    budget = ("max_steps", "batch_size")

    def open(self, config: RunConfig, method: Method) -> ToyOpened:
        return self._opened(config, config.teachers if "teacher" in method.needs else ())

    def _opened(self, config: RunConfig, specs: Sequence[Any]) -> ToyOpened:
        count = str(config.data).removeprefix(PREFIX)
        if not count.isdigit():
            raise ConfigError(f"{config.data} has no number of points. Write toy:40.")
        per_region = int(count)
        given = tuple(Net.load(Path(spec.path)) if spec.path else None for spec in specs)
        names = tuple(spec.name or "teacher" for spec in specs)
        weights = (1 / len(specs),) * len(specs) if specs else ()
        torch.manual_seed(config.seed)
        return ToyOpened(
            config,
            Regions(per_region, config.labels or 3 * per_region),
            Net(3),
            Teachers(tuple(specs), names, given, weights),
            given[0] if given else None,
            (),
            Net(48, "net"),
        )

    def read(self, config: RunConfig) -> Regions:
        return self._opened(config, ()).data

    def check(self, config: RunConfig) -> Report:
        data = self.read(config)
        return Report(data.name, (), (), data.notes, {"train": {**data.facts}})

    def open_model(self, model: str, data: Any, config: RunConfig) -> tuple[Opened, Any]:
        return self._opened(config, ()), Net.load(Path(model))

    def load(self, student: Path) -> Net:
        return Net.load(student)

    def fit_budget(self, choices: Any, estimate: Any, seconds: float) -> BudgetPlan:
        raise ConfigError("A toy has no --budget.")

    def data_of(self, run: Path) -> Regions:
        from limbeck.record import read_record

        record = read_record(run)
        assert record is not None
        return self._opened(RunConfig.of_record(record["asked"]), ()).data

    def card(self, model: Any, how: str, teacher: str | None = None) -> str:
        return f"# {teacher or 'A student'}\n\n{how}\n"


class ToySettings(TrainingSettings):
    """Settings of all toy recipes."""

    batch_size: int = 16
    temperature: float = 1.0


def supervised(task: ToyTask, teacher: Any, student: Net, settings: ToySettings) -> None:
    """Learn from points whose region is known."""

    def loss(signals: Signals) -> Loss:
        return Loss({"hard": cross_entropy(signals.scores["student"], settings.temperature)})

    source = task.source(settings.batch_size, labelled=True)
    task.train("toy_supervised", student, source, settings, loss, None)


def distilled(task: ToyTask, teacher: Net, student: Net, settings: ToySettings) -> None:
    """Learn what a teacher says of all points."""

    def loss(signals: Signals) -> Loss:
        said, own = signals.scores["teacher"], signals.scores["student"]
        return Loss(
            {
                "kd": kl_divergence(
                    said,
                    own,
                    teacher_temperature=settings.temperature,
                    student_temperature=settings.temperature,
                )
            }
        )

    source = task.source(settings.batch_size, labelled=False)
    task.train("toy_kd", student, source, settings, loss, teacher)


def fitted(task: ToyTask, net: Net, settings: ToySettings) -> Net:
    """A teacher from the points whose region is known."""

    def loss(signals: Signals) -> Loss:
        return Loss({"hard": cross_entropy(signals.scores["student"], settings.temperature)})

    source = task.source(settings.batch_size, labelled=True)
    task.train("teacher_net", net, source, settings, loss, None)
    return net


@contextmanager
def toy_task(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy task and its recipes, as long as the context lasts."""
    monkeypatch.setitem(kinds(), "toy", Toy())
    for name, makes, needs, function in (
        ("toy_supervised", "student", frozenset({"labels"}), supervised),
        ("toy_kd", "student", frozenset({"teacher"}), distilled),
        ("teacher_net", "teacher", frozenset({"labels"}), fitted),
    ):
        recipe = Recipe(name, "", "", "toy", makes, ToySettings, needs, function)  # type: ignore[arg-type]
        monkeypatch.setitem(registry(), name, recipe)
    yield
