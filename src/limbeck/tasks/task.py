"""What does a task say of itself, so that a run, a plan, a bench and a report name none?

    TaskKind   a task before any data is read: its layouts, measures, baselines and options
    Layout     how DATA becomes a dataset of this task
    Opened     one request: data and models, with everything refused that can be
    Task       the request in one run: systems are measured, teachers checked, models trained
    Dataset    what the data holds          Model    what is trained, saved and measured

A kind is discovered by its folder below `limbeck.tasks`, which carries it as `KIND`: a new task is
one folder. This module knows no task.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import polars as pl

from limbeck.config import RunConfig
from limbeck.config.teacher_spec import TeacherSpec
from limbeck.data.dataset import Dataset
from limbeck.errors import ConfigError
from limbeck.evaluation.statistics import Measures
from limbeck.evaluation.table import Cost
from limbeck.record import FIRST_TASK
from limbeck.settings import Settings
from limbeck.tasks.estimate import RunEstimate
from limbeck.tasks.fit import BudgetPlan
from limbeck.teachers.score_store import ScoreStore
from limbeck.training import Run, Trained
from limbeck.types import Split


class Model(Protocol):
    """What is trained, saved and measured: an encoder, a ranker, an image net."""

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write it into a folder, with a card for people; equal models give equal bytes."""


class Teacher(Protocol):
    """Who teaches, as far as any task goes."""

    @property
    def name(self) -> str:
        """What its rows and files are called."""

    @property
    def kind(self) -> str:
        """Which kind of teacher it is."""

    @property
    def digest(self) -> str:
        """What its answers depend on."""

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write it into a folder, with a card for people."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How DATA becomes a dataset: `holds` looks at names alone, `words` say what it looks for."""

    name: str
    words: str
    holds: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Method:
    """What a recipe needs, as a task checks it: `needs` are words of `recipes.Recipe`, `fits` the
    kinds of teacher that it fits itself, `takes` those that it can be given.
    """

    name: str
    needs: frozenset[str]
    fits: tuple[str, ...]
    takes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Teachers:
    """The teachers that a run learns from, in the order in which they were asked for; none where
    its recipe needs none or fits its own.

    The base of a fitted one is a name that `Task.from_base` knows, or None for the student's.
    """

    specs: tuple[TeacherSpec, ...] = ()
    names: tuple[str, ...] = ()  # of rows and files, where there are several
    given: tuple[Any, ...] = ()  # None: fitted by the run
    weights: tuple[float, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the run fits any of them."""
        return any(spec.fitted for spec in self.specs)


@dataclass(frozen=True, slots=True)
class Measured:
    """A system on a split: measures per unit and what it costs to use; `stage` keeps them."""

    name: str
    split: Split
    stage: str
    per_query: pl.DataFrame
    cost: Cost


@dataclass(frozen=True, slots=True)
class Combined:
    """Teachers as one, those that it is made of where it is several, and what `run.toml` keeps of
    how they became one.
    """

    teacher: Any
    members: Sequence[Any] = ()
    scale: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look at a teacher's answers says: lines for people, and why it should be refused; the
    numbers behind it, and the answers that were looked at, are for the run's folder.
    """

    lines: Sequence[str]
    refusal: str | None = None
    diagnosis: Mapping[str, Any] | None = None
    answers: pl.DataFrame | None = None


class Probe(Protocol):
    """What a probe of some seconds found: `stage` gives a task on which a run can be rehearsed, of
    which nothing is left but the `estimate`; `notes` are lines for people.
    """

    @property
    def notes(self) -> Sequence[str]:
        """What shortens the run."""

    def stage(self) -> Any:
        """A task that makes up every answer and notes what the work would take."""

    def estimate(self, stage: Any) -> RunEstimate:
        """What was noted on it."""


def teachers_of(config: RunConfig, method: Method) -> tuple[TeacherSpec, ...]:
    """The teachers that a recipe learns from: none where it needs none, or is left to fit its own.

    Raises:
        ConfigError: for one of any kind beside others where the recipe fits its own.
    """
    specs = config.teachers
    if method.fits and len(specs) > 1 and any(spec.open for spec in specs):
        raise ConfigError(
            f"{method.name} fits its own teachers, and --teacher train says no more than that. "
            "Leave it out, or say which one to fit besides, as in --teacher train:cross."
        )
    if method.fits:
        return () if specs[0].open else specs
    return specs if "teacher" in method.needs else ()


def weights_of(config: RunConfig) -> tuple[float, ...]:
    """The weights of the teachers, whose sum is 1; equal ones when none are given.

    Raises:
        ConfigError: when they do not fit the teachers, or one is not above 0.
    """
    specs, weights = config.teachers, config.teacher_weights
    if weights is None:
        return (1 / len(specs),) * len(specs)
    if len(weights) != len(specs) or len(specs) < 2:
        raise ConfigError(
            f"--teacher-weights has {len(weights)} numbers for {len(specs)} teachers. Give one "
            "for each --teacher, in their order, and two teachers at least."
        )
    if not all(0 < weight < float("inf") for weight in weights):
        raise ConfigError(
            f"--teacher-weights {', '.join(f'{weight:g}' for weight in weights)}: each must be a "
            "number above 0. Leave a teacher out rather than give it none."
        )
    return tuple(weight / sum(weights) for weight in weights)


class Opened(ABC):
    """One request: what it names is loaded, and everything refused that can be without computing.

    `given` are the teachers that were given, as one; None where none was. `notes` are lines for
    the report, besides those of the data. `inputs` join the table of the data in `run.toml`: what
    else was given that results depend on.
    """

    config: RunConfig
    data: Dataset
    student: Any
    teachers: Teachers
    given: Any
    notes: tuple[str, ...]

    @property
    def inputs(self) -> Mapping[str, object]:
        """Digests of what else was given."""
        return {}

    @property
    @abstractmethod
    def models(self) -> Mapping[str, Any]:
        """The models that are there before any work, by name: what a precision is chosen for."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How much there is to read, in characters or what stands for them."""

    @abstractmethod
    def stages(self) -> list[str]:
        """What a run does before teachers and students are trained, a line each."""

    @abstractmethod
    def start(self, run: Run, store: ScoreStore | None) -> Task:
        """The request in a run."""


class Task(ABC):
    """A request in a run. Its recipes know what else it can do; whoever runs them does not.

    `trained` are the stages that trained a model on it, in order.
    """

    run: Run
    measures: Measures
    trained: list[Trained]

    @property
    @abstractmethod
    def data(self) -> Dataset:
        """What it works on."""

    @abstractmethod
    def reference_systems(self, split: Split) -> list[Measured]:
        """The systems that the student is measured beside and that nothing here trains."""

    def beside(self, split: Split) -> list[Measured]:
        """Those of them that a model is measured beside that nobody trained here."""
        return []

    @abstractmethod
    def measure(self, name: str, system: Any, split: Split) -> Measured:
        """A student or a teacher on a split, measured once and then read back."""

    def unmeasured(self, teacher: Any, split: Split) -> str | None:
        """Why a teacher cannot be measured on a split, in words; None when it can."""
        return None

    @abstractmethod
    def check_teacher(self, teacher: Any, settings: Settings) -> Checked:
        """Look at a teacher's answers before a student learns from them; keep what was seen."""

    @abstractmethod
    def combine(self, teachers: Sequence[Any], weights: Sequence[float]) -> Combined:
        """Several teachers as one; one alone as it is."""

    @abstractmethod
    def from_base(self, base: str | None) -> tuple[Task, Any]:
        """The task for a teacher that is fitted from a base, and a copy of the model to start from;
        None is the student's base.
        """

    def named(self, teacher: Any, name: str) -> Any:
        """A teacher under another name; itself where it has that."""
        return teacher

    @abstractmethod
    def for_recipe(self) -> Any:
        """The same task, with a record of its own of what is trained on it."""

    @abstractmethod
    def probe(self, opened: Any, *, fits: bool) -> Probe:
        """Probe how fast this machine is at what a run of a request does; `fits` whether a teacher
        may be fitted.
        """

    @abstractmethod
    def alone(self, settings: Any, recipe: type[Settings]) -> Any:
        """The settings of a recipe that trains the same student without a teacher, at equal cost
        to one that has these `settings`.
        """

    def write_results(self, out: Path, systems: Sequence[Measured]) -> None:  # noqa: B027
        """Leave what systems gave for each unit in a run's folder, beside the measures; by default
        nothing.
        """


class TaskKind(ABC):
    """A task before any data is read.

    `name` is what recipes say that they are for; `alternatives` what one thing that a unit may be
    answered with is called, and several: passage, passages. `auto` is the recipe that `--recipe
    auto` stands for. `baselines` are a recipe that trains the student without a teacher, which
    every teacher has to beat, and one that has it: a bench compares with both. `fits` are the kinds
    of teacher that a run can fit by the recipe `teacher_KIND`, weakest first, with the kinds that
    each stands on; `fits_on_dev` those among them that need a dev split. `options` are fields of
    `RunConfig` that not every task reads, and this one does. `budget` are the settings that a fair
    comparison has alike.
    """

    name: ClassVar[str]
    measures: ClassVar[Measures]
    alternatives: ClassVar[tuple[str, str]]
    layouts: ClassVar[tuple[Layout, ...]]
    auto: ClassVar[str]
    baselines: ClassVar[tuple[str, str]]
    fits: ClassVar[Mapping[str, tuple[str, ...]]]
    fits_on_dev: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[frozenset[str]]
    budget: ClassVar[tuple[str, ...]]

    @abstractmethod
    def open(self, config: RunConfig, method: Method) -> Opened:
        """The request of a run, with everything refused that can be without computing.

        Raises:
            ConfigError, DataError, ModelError: when it cannot be carried out.
        """

    @abstractmethod
    def read(self, config: RunConfig) -> Dataset:
        """The data of a config, to measure models on.

        Raises:
            ConfigError, DataError: when it cannot be read.
        """

    @abstractmethod
    def open_model(self, model: str, data: Any, config: RunConfig) -> tuple[Opened, Any]:
        """A request to measure a model on data, and what to measure.

        Raises:
            ConfigError, DataError, ModelError: when it cannot be used.
        """

    @abstractmethod
    def fit_budget(
        self,
        choices: Sequence[tuple[str, ...]],
        estimate: Callable[[BudgetPlan], float],
        seconds: float,
    ) -> BudgetPlan:
        """The largest run that fits. `choices` are the names of teachers that may be fitted, the
        dearest choice first; `estimate` says how many seconds a run would take.

        Raises:
            ConfigError: when not even the smallest fits, saying what would.
        """

    @abstractmethod
    def data_of(self, run: Path) -> Dataset:
        """The data that a run worked on, read again.

        Raises:
            ConfigError, DataError: when it is gone, or has changed.
        """

    @abstractmethod
    def load(self, student: Path) -> Any:
        """The student in a run's folder, as a user wants it."""

    @abstractmethod
    def card(self, how: str, teacher: str | None = None) -> str:
        """The card of a student, or of a `teacher` of some kind: no times, dates or paths."""

    def equal(self, baseline: Any, settings: type[Settings]) -> Mapping[str, object]:
        """What settings of another shape are to cost as much as the baseline's."""
        return {}

    def facts_of(self, student: Path) -> Mapping[str, object]:
        """What a bench keeps of a student's folder."""
        return {}

    def holds(self, data: object) -> bool:
        """Whether DATA is something that this task reads."""
        return any(layout.holds(str(data)) for layout in self.layouts)


@cache
def kinds() -> dict[str, TaskKind]:
    """All tasks by name."""
    import limbeck.tasks

    found: dict[str, TaskKind] = {}
    for module in pkgutil.iter_modules(limbeck.tasks.__path__):
        if module.ispkg:
            kind = importlib.import_module(f"limbeck.tasks.{module.name}").KIND
            found[kind.name] = kind
    return found


def kind_named(name: str) -> TaskKind:
    """The task of a name, as a run's record has it.

    Raises:
        ConfigError: when there is none.
    """
    if name not in kinds():
        raise ConfigError(f"There is no task {name!r}. The tasks: {', '.join(kinds())}.")
    return kinds()[name]


def kind_reading(data: object) -> TaskKind:
    """The task whose layout DATA has; what no task knows goes to the first, which refuses it.

    Raises:
        ConfigError: when more than one task reads it.
    """
    reads = [kind for kind in kinds().values() if kind.holds(data)]
    if len(reads) == 1:
        return reads[0]
    if reads:
        told = " and ".join(f"as {kind.name}" for kind in reads)
        raise ConfigError(f"{data} can be read {told}. Name a --recipe of one of them.")
    return kind_named(FIRST_TASK)  # which says what is wrong with it
