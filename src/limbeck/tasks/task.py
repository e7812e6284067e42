"""What does a task say of itself, so that a run, a plan, a bench and a report need to know none?

    TaskKind   a task before any data is read: its layouts, measures, baselines and options
    Layout     how a task recognises its data
    Opened     one request: its data, student and teachers, loaded and checked
    Task       the request in a run: measures systems, checks teachers, trains models
    Dataset    what the data holds
    Model      what is trained, saved and measured

A task is one folder below `limbeck.tasks`, which is found there by its `KIND`. This module knows no
task.
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
from limbeck.data.check import Report
from limbeck.data.dataset import Dataset
from limbeck.errors import ConfigError, DataError
from limbeck.evaluation.statistics import Measures
from limbeck.evaluation.table import Cost, Details
from limbeck.inference import Engine
from limbeck.record import FIRST_TASK
from limbeck.settings import Settings
from limbeck.tasks.estimate import RunEstimate
from limbeck.tasks.fit import BudgetPlan
from limbeck.teachers.score_store import ScoreStore
from limbeck.training import Run, Trained
from limbeck.types import Progress, Split


class Model(Protocol):
    """A model to be trained, saved and measured: an encoder, a ranker, an image net."""

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write it into a folder, with a card for people; equal models give equal bytes."""


class Teacher(Protocol):
    """Interface shared by the teachers of every task."""

    @property
    def name(self) -> str:
        """Name of its rows and files."""

    @property
    def kind(self) -> str:
        """Kind of teacher."""

    @property
    def digest(self) -> str:
        """Digest of everything its answers depend on."""

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write it into a folder, with a card for people."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a task recognises its data: `holds` looks at names and, where these say too little, at a
    first row; `words` tell people what it looks for.
    """

    name: str
    words: str
    holds: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Method:
    """A task's view of a recipe: its name, and its `needs`, `fits`, `takes` and `data_free`, which
    `recipes.Recipe` explains; `needs` are also those of its settings. `rows`: it learns rows.
    """

    name: str
    needs: frozenset[str]
    fits: tuple[str, ...]
    takes: tuple[str, ...]
    data_free: bool = False
    rows: bool = False

    @property
    def finds(self) -> bool:
        """Whether it finds what its teachers are asked about on the way, and needs none given."""
        return bool(self.fits or self.takes)


@dataclass(frozen=True, slots=True)
class Teachers:
    """The teachers that a run was asked to learn from, in their order; none where its recipe needs
    none or fits its own.

    `given` holds the loaded ones, and None in the place of one that the run fits. The base of a
    fitted one is a name that `Task.from_base` knows, or None for the student's.
    """

    specs: tuple[TeacherSpec, ...] = ()
    names: tuple[str, ...] = ()  # of rows and files, where there are several
    given: tuple[Any, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the run fits any of them."""
        return any(spec.fitted for spec in self.specs)


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements of a system on a split: its measures for each unit, and the cost of using it.
    The stage of this name keeps them.
    """

    name: str
    split: Split
    stage: str
    per_query: pl.DataFrame
    cost: Cost


@dataclass(frozen=True, slots=True)
class Combined:
    """Several teachers as one: the `teacher`, the `members` that it is made of (none of one that is
    alone), and the `scale` on which they were brought together, for `run.toml`.
    """

    teacher: Any
    members: Sequence[Any] = ()
    scale: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checked:
    """Result of checking a teacher: lines for people, and the reason to refuse it, if there is one.
    The numbers behind them and the answers that were examined are for the run's folder.
    """

    lines: Sequence[str]
    refusal: str | None = None
    diagnosis: Mapping[str, Any] | None = None
    answers: pl.DataFrame | None = None


class Probe(Protocol):
    """Probe of this machine's speed, for some seconds: `stage` gives a task to rehearse a run on,
    which does no work and notes the cost of it, and `estimate` reads those notes.
    """

    @property
    def notes(self) -> Sequence[str]:
        """Notes on the estimate for people, such as on work that was done before."""

    def stage(self) -> Any:
        """A task that makes up every answer at once, and notes the cost of the work."""

    def estimate(self, stage: Any) -> RunEstimate:
        """The estimate of a run that was rehearsed on a stage."""


def teachers_of(config: RunConfig, method: Method) -> tuple[TeacherSpec, ...]:
    """The teachers that a recipe learns from: none where it needs none, or is left to its own.

    Raises:
        ConfigError: for one of any kind beside others where the recipe fits its own.
    """
    specs = config.teachers
    if method.fits and len(specs) > 1 and any(spec.open for spec in specs):
        raise ConfigError(
            f"{method.name} fits its own teachers, and --teacher train says no more than that. "
            "Leave it out, or say which one to fit besides, as in --teacher train:cross."
        )
    if "teacher" not in method.needs and method.finds:
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
    """One request, loaded and checked as far as that needs no computing.

    `given` are the teachers that were given, as one; None where none was. `notes` are lines for the
    report, besides those of the data.
    """

    config: RunConfig
    data: Dataset
    student: Any
    teachers: Teachers
    given: Any
    notes: tuple[str, ...]

    @property
    def inputs(self) -> Mapping[str, object]:
        """Digests of the other inputs that results depend on; they join the table of the data in
        `run.toml`, and a run goes on with the same ones only.
        """
        return {}

    @property
    @abstractmethod
    def models(self) -> Mapping[str, Any]:
        """The models that are loaded, by name: `--precision auto` is chosen by their speed."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Amount of data to read, in characters or in what costs as much: `--backend auto` goes by
        it.
        """

    @abstractmethod
    def stages(self) -> list[str]:
        """Stages of a run before it trains, a line each, for `--dry-run`."""

    @abstractmethod
    def probe(self, task: Any, *, fits: bool) -> Probe:
        """Probe the speed of this machine at the work of this request's run; `task` is the result
        of `start`. `fits` says whether a teacher may be fitted.
        """

    @abstractmethod
    def start(self, run: Run, store: ScoreStore | None) -> Task:
        """The task that carries the request out in a run."""


class Task(ABC):
    """A request in a run. The task's own recipes may call whatever it has besides; the code that
    runs them calls only what is here.

    `trained` are the stages that trained a model on it, in order.
    """

    run: Run
    measures: Measures
    trained: list[Trained]

    @property
    @abstractmethod
    def data(self) -> Dataset:
        """The data that it works on."""

    @abstractmethod
    def reference_systems(self, split: Split) -> list[Measured]:
        """The systems that the student is measured beside and that nothing here trains."""

    def beside(self, split: Split) -> list[Measured]:
        """The reference systems beside which `evaluate` measures a model."""
        return []

    @abstractmethod
    def measure(self, name: str, system: Any, split: Split) -> Measured:
        """A student or a teacher on a split, measured once and then read back."""

    def unmeasured(self, teacher: Any, split: Split) -> str | None:
        """Why a teacher cannot be measured on a split, in words; None when it can."""
        return None

    @abstractmethod
    def check_teacher(self, teacher: Any, settings: Settings) -> Checked:
        """Examine a teacher's answers before a student learns from them; keep the diagnosis."""

    @abstractmethod
    def combine(self, teachers: Sequence[Any], weights: Sequence[float]) -> Combined:
        """Several teachers as one; one alone as it is."""

    @abstractmethod
    def from_base(self, base: str | None) -> tuple[Task, Any]:
        """The task on which a teacher is fitted from a base, and a copy of that base to train; None
        is the student's base.
        """

    def rows(self, student: Any, teacher: Any) -> Any:
        """The rows that a student learns from, as `limbeck.tasks.rows.Rows`; of a kind that
        `has_rows`.
        """
        raise ConfigError(f"{type(self).__name__} has no rows of alternatives.")

    def named(self, teacher: Any, name: str) -> Any:
        """A teacher under another name; itself where it has that."""
        return teacher

    @abstractmethod
    def for_recipe(self) -> Any:
        """A copy with an empty `trained`, so that the models that each recipe trains are counted
        apart.
        """

    @abstractmethod
    def alone(self, settings: Any, recipe: type[Settings]) -> Any:
        """Settings of the `recipe` that trains the same student without a teacher, for the cost of
        a student that is taught with these `settings`.
        """

    def write_results(self, out: Path, systems: Sequence[Measured]) -> None:  # noqa: B027
        """Write the systems' answers to each unit, such as rankings, into a run's folder; by
        default nothing.
        """


class TaskKind(ABC):
    """A task before any data is read.

    - `name`: what its recipes give as their `task`
    - `alternatives`: what a unit may be answered with, one and several: passage, passages
    - `auto`: the recipe that `--recipe auto` stands for
    - `baselines`: two recipes that a bench compares with, one that trains the student without a
      teacher, which every teacher has to beat, and one with a teacher
    - `fits`: the kinds of teacher that the recipe `teacher_KIND` fits, weakest first, with the
      kinds that each is built on; `fits_on_dev`: those among them that need a dev split
    - `options`: fields of `RunConfig` that this task reads and some other does not
    - `budget`: settings that are the same for all recipes in a fair comparison
    - `has_rows`: whether recipes over rows run on it; they have the `rows_settings` of the task
      besides their own. `instead` names the task's own recipes in whose place some would be
    - `measures`: those that are known before the data; a task's own may be more
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
    has_rows: ClassVar[bool] = False
    rows_settings: ClassVar[type[Settings] | None] = None
    instead: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def open(self, config: RunConfig, method: Method) -> Opened:
        """The request of a run, validated as far as that needs no computing.

        Raises:
            ConfigError, DataError, ModelError: when it cannot be carried out.
        """

    @abstractmethod
    def read(self, config: RunConfig) -> Dataset:
        """The data that a config names, to measure models on.

        Raises:
            ConfigError, DataError: when it cannot be read.
        """

    @abstractmethod
    def check(self, config: RunConfig) -> Report:
        """Check the data that a config names: counts and notes, and errors that `distill` would
        refuse.

        Raises:
            ConfigError: when it is nothing that can be read.
        """

    @abstractmethod
    def open_model(self, model: str, data: Any, config: RunConfig) -> tuple[Opened, Any]:
        """A request to measure a model on data, and the system to measure.

        Raises:
            ConfigError, DataError, ModelError: when it cannot be used.
        """

    def place_dark(self, task: Any, teacher: Any, seed: int) -> Any:
        """Where a teacher puts dark examples: its `scores` by role, `lines` and a `warning`.

        Raises:
            ConfigError: where it cannot be asked about them, or there are none.
        """
        raise ConfigError(f"Dark examples are written of passages, and {self.name} has none.")

    @abstractmethod
    def fit_budget(
        self,
        choices: Sequence[tuple[str, ...]],
        estimate: Callable[[BudgetPlan], float],
        seconds: float,
    ) -> BudgetPlan:
        """The largest run that fits into a time. `choices` are teachers that may be fitted, the
        most expensive choice first; `estimate` says how many seconds a run would take.

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
        """The student in this folder, as the object that its user works with."""

    def knows(self, model: object) -> bool:
        """Whether a folder holds a model of this task and of no other, or an object is what `load`
        gives of one; never of the first task, which takes what no other knows.
        """
        return False

    def predict(
        self, model: Any, inputs: Any, *, top: int, engine: Engine, progress: Progress
    ) -> list[dict[str, object]]:
        """Predict with a model that `load` gave: a JSON object for each of the new inputs, in
        order: its `id`, and answers under names of the task's own; with `top` above 1 the `top`
        answers, too. Inputs are the name of a file, or objects in memory.

        Raises:
            ConfigError, DataError, ModelError: for inputs that cannot be used, or where models of
                this task are used otherwise.
        """
        raise ConfigError(f"Models of {self.name} make no predictions.")

    def details(self, run: Path, measures: Measures) -> Details:
        """Details of a finished run for its report besides those shown of every task, from the
        run's files alone; by default none.
        """
        return Details()

    @abstractmethod
    def card(self, model: Any, how: str, teacher: str | None = None) -> str:
        """The README of a student, or of a `teacher` of some kind: how it is used, and `how` it was
        made; no times, dates or paths, so that equal models have equal folders.
        """

    def equal(self, baseline: Any, settings: type[Settings]) -> Mapping[str, object]:
        """Settings that make a recipe without the baseline's settings cost as much as it."""
        return {}

    def facts_of(self, student: Path) -> Mapping[str, object]:
        """Facts about a bench's students for its record, read from the folder of one."""
        return {}

    def check_rows(self, recipe: str, flag: str) -> None:
        """Refuse a recipe over rows that does not run on this task.

        Raises:
            ConfigError: naming one that does.
        """
        if not self.has_rows:
            raise ConfigError(
                f"{flag} {recipe} learns rows of alternatives, which {self.name} does not lay out. "
                f"Use {flag} {self.auto}."
            )
        if recipe in self.instead:
            raise ConfigError(
                f"{flag} {recipe}: {self.name} has a recipe of its own for that. Use {flag} "
                f"{self.instead[recipe]}."
            )

    def holds(self, data: object) -> bool:
        """Whether this task reads such data, by its name and the names of its files."""
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
    """The task whose layout DATA has; the first task where none knows it, which refuses it.

    Raises:
        ConfigError: when more than one task reads it.
        DataError: when it is an empty file.
    """
    file = Path(data).expanduser() if isinstance(data, str | Path) else None
    if file is not None and file.is_file() and not file.stat().st_size:
        raise DataError(f"{data} is empty. Name a file with data.")
    reads = [kind for kind in kinds().values() if kind.holds(data)]
    if len(reads) == 1:
        return reads[0]
    if reads:
        ways = " and ".join(
            f"as {layout.name} of {kind.name}"
            for kind in reads
            for layout in kind.layouts
            if layout.holds(str(data))
        )
        raise ConfigError(f"{data} can be read {ways}. Name a --recipe of one of them.")
    return kind_named(FIRST_TASK)  # which says what is wrong with it


def kind_of_recipe(name: str, task: str | None, data: object) -> TaskKind:
    """The kind of task that a recipe runs on: its own or, of one over rows (None), the data's.

    Raises:
        ConfigError: when the data's task has no rows, or no task reads the data.
    """
    if task is not None:
        return kind_named(task)
    kind = kind_reading(data)
    if not kind.holds(data):
        rows = [layout for each in kinds().values() if each.has_rows for layout in each.layouts]
        raise ConfigError(
            f"{data} holds no data that --recipe {name} learns from. Name "
            f"{'; or '.join(layout.words for layout in rows)}."
        )
    kind.check_rows(name, "--recipe")
    return kind
