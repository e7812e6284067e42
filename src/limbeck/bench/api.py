"""How do recipes become a fair comparison, from files to a table?

Everything that can be refused is refused before the first arm; then one teacher is fitted, or
taken, and each recipe is run with each seed: same data, labels, budget, teacher and score store.
Every arm is a run folder below OUT. The same call goes on where an earlier one stopped, and reads
finished arms back, so recipes and seeds may be added later.

    OUT/teacher/       the run that fitted the teacher, if one was
    OUT/RECIPE-SEED/   an arm            OUT/store/     kept teacher scores, unless given
    OUT/arms.json      seconds of arms
    OUT/bench.json, OUT/bench.md, OUT/bench.html    the results

This module knows no method: recipes are names with settings.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from limbeck import report
from limbeck.bench import page
from limbeck.bench.budget import (
    MAX_STEPS,
    budget_of,
    equal_settings,
    given_to_teachers,
    kind_of,
    systems_of,
)
from limbeck.bench.figures import rows_of, visible_differences
from limbeck.bench.jobs import runner, threads_of
from limbeck.config import Loaded, RunConfig, takes_fields_of
from limbeck.config.teacher_spec import FITTED, TeacherSpec
from limbeck.data.dataset import measured_split
from limbeck.errors import ArmsFailed, ConfigError, DataError, StoreError
from limbeck.language import AUTO
from limbeck.pipeline.comparing import measures_of
from limbeck.pipeline.fitting import kinds_of
from limbeck.pipeline.reporting import METRICS, damage
from limbeck.pipeline.reporting import PAGE as RUN_PAGE
from limbeck.pipeline.request import validate
from limbeck.recipes import find_preset
from limbeck.record import RECORD, check_same_run, check_writable, environment, read_record
from limbeck.settings import parse_settings
from limbeck.store import LEFT, read_json, write_json, write_text
from limbeck.types import Logged, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from limbeck.config.run import OneTeacher
    from limbeck.data.collection import Collection
    from limbeck.models.encoder import Encoder
from limbeck.tasks.task import TaskKind

RESULTS, PAGE, HTML, SECONDS = "bench.json", "bench.md", "bench.html", "arms.json"
STORE, TEACHER = "store", "teacher"
_POLL_SECONDS = 0.5  # between two looks at whether an arm may start

State = Literal["finished", "begun", "to do"]


@dataclass(frozen=True, slots=True)
class Arm:
    """One run of a comparison: its options, and how `distill` makes it."""

    name: str  # of its folder
    config: RunConfig
    out: Path
    student_alone: bool
    reuse_from: Sequence[Path]
    after: Sequence[str]  # the arms that have to be finished before, by name
    force: bool

    @property
    def system(self) -> str:
        """The recipe, as `NAME` or `NAME:PRESET`."""
        return self.config.recipe

    def arguments(self, precision_from: Path | None = None) -> dict[str, Any]:
        """Keyword arguments for `distill`."""
        return {
            **self.config.options(),
            "out": self.out,
            "student_alone": self.student_alone,
            "reuse_from": self.reuse_from,
            "precision_from": precision_from,
            "force": self.force,
        }

    @property
    def state(self) -> State:
        """Progress of the arm."""
        if (self.out / METRICS).exists():
            return "finished"
        return "begun" if (self.out / RECORD).exists() else "to do"

    @property
    def title(self) -> str:
        """The arm's title, in words."""
        if self.name == TEACHER:
            return f"the teacher, {', '.join(map(str, self.config.teachers))}"
        return f"{self.system}, seed {self.config.seed}"


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """A comparison that may begin: its arms in order, and the budget that all of them have."""

    kind: TaskKind
    arms: Sequence[Arm]
    settings: Mapping[str, Mapping[str, object]]  # by system, presets left out

    @property
    def budget(self) -> dict[str, int]:
        """The training budget that all recipes share."""
        return budget_of(self.kind, self.settings)

    def lines(self) -> list[str]:
        """The plan for people: the budget, and a line per arm."""
        arms = [
            f"{number}. {arm.title} ({arm.state}): "
            + " ".join(f"{key}={value}" for key, value in arm.config.settings_given.items())
            for number, arm in enumerate(self.arms, start=1)
        ]
        return [page.allowed(self.budget), *arms]

    def as_json(self) -> dict[str, Any]:
        """The stable JSON form."""
        return {
            "budget": self.budget,
            "arms": [
                {
                    "arm": arm.name,
                    "recipe": arm.system,
                    "seed": arm.config.seed,
                    "settings": dict(arm.config.settings_given),
                    "state": arm.state,
                }
                for arm in self.arms
            ],
        }


@dataclass(frozen=True, slots=True)
class Benched:
    """Result of a bench: the object in `bench.json`; `bench.md` and `bench.html` lie beside it."""

    out: Path
    record: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The result for the terminal: costs are left to the page."""
        return page.as_text(self.record)

    @property
    def page(self) -> str:
        """The result as Markdown."""
        return page.page(self.record)


@dataclass(frozen=True)
class BenchCall:
    """The arguments of `bench`: the systems to compare, and the options that all arms share."""

    data: str | Path | Collection | Loaded
    _: KW_ONLY
    out: str | Path
    recipes: Sequence[str]
    seeds: Sequence[int] = (0, 1, 2)
    max_steps: int = MAX_STEPS
    teacher: OneTeacher | Sequence[OneTeacher] | None = None  # the first that the task fits
    student: str | Path | SentenceTransformer | Encoder | Loaded | None = None
    student_layers: int | None = None
    image_size: int | None = None
    augment: Literal["none", "crop", "crop-flip"] | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    pairs: str | Path | None = None  # for those of the recipes that learn from some
    labels: int | None = None
    store: str | Path | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    drop_unknown_judgements: bool = False
    keep_own_passage: bool = False
    language: str = AUTO
    force: bool = False
    jobs: int = 1
    progress: Progress | None = None

    @property
    def folder(self) -> Path:
        """The folder of all arms and of the results."""
        return Path(self.out)

    def shared(self, kind: TaskKind) -> RunConfig:
        """Options shared by all arms, which differ in recipe, settings, seed and teacher.

        Raises:
            ConfigError: for a value that an option cannot have.
        """
        return RunConfig(
            self.data,
            teacher=self.teacher or f"{FITTED}:{next(iter(kind.fits))}",
            student=self.student,
            student_layers=self.student_layers,
            image_size=self.image_size,
            augment=self.augment,
            labels=self.labels,
            store=self.store or self.folder / STORE,
            precision=self.precision,
            force_teacher=True,
            drop_unknown_judgements=self.drop_unknown_judgements,
            keep_own_passage=self.keep_own_passage,
            language=self.language,
        )


@takes_fields_of(BenchCall)
def bench(call: BenchCall) -> Benched:
    """Compare recipes with each other, and with `contrastive` and `kl`, at equal cost.

    `recipes` are names as `NAME` or `NAME:PRESET`. `settings` are named `KEY` (for every recipe
    that has it), `RECIPE.KEY` or `RECIPE:PRESET.KEY`, and `teacher_dual.KEY` for what fits the
    teacher. Several teachers teach as their mean; those to be fitted are fitted once. A teacher
    that `distill` would refuse teaches all the same: its row says what it is worth. Recipes that
    fit their own teachers do so, and it counts as their cost. `pairs` are for those that learn from
    weak pairs of texts. The same call goes on where an earlier one stopped. `jobs` arms run at
    once, in processes of one thread each; the results are those of one after the other with one
    thread.

    Raises:
        ConfigError, DataError, ModelError: for input that cannot be used, before any work.
        StoreError: when an arm's folder is damaged or not writable.
        ArmsFailed: when arms failed, once all others are finished.
    """
    out, progress = call.folder, call.progress or Logged()
    with threads_of(call.jobs):
        plan = _planned(call)
        check_writable(out, "--out")
        for left in [path for prefix in LEFT for path in out.glob(f"{prefix}*")]:
            left.unlink(missing_ok=True)  # of a killed bench; an arm clears its own
        return _results(call, plan, _run(plan, out, call.jobs, progress))


def _results(call: BenchCall, plan: BenchPlan, seconds: Mapping[str, float]) -> Benched:
    """Write the results of finished arms."""
    out = call.folder
    record = _record(plan, seconds)
    record |= {
        "labels": call.labels,
        "student_layers": call.student_layers,
        "teacher": ", ".join(spec.shown for spec in call.shared(plan.kind).teachers),
        "precision": call.precision,
        "seeds": list(call.seeds),
        "assignments": [f"{key}={value}" for key, value in call.settings.items()],
        "environment": environment(),
    }
    found = Benched(out, record)
    footer = page.measured_with(record["environment"])
    write_text(out / PAGE, f"{found.page}\n\n{footer}\n", stage="bench")
    write_text(out / HTML, _html(record, plan), stage="bench")
    write_json(out / RESULTS, record, stage="bench")
    return found


@takes_fields_of(BenchCall)
def dry_run(call: BenchCall) -> BenchPlan:
    """The arms that `bench` would run with the same arguments; nothing is written.

    Raises:
        ConfigError, DataError, ModelError: as `bench` would.
    """
    with threads_of(call.jobs):
        return _planned(call)


def _planned(call: BenchCall) -> BenchPlan:
    """The arms, once everything that can be refused was."""
    _check_seeds(call.seeds)
    if call.jobs < 1:
        raise ConfigError(f"--jobs must be at least 1 (got {call.jobs}).")
    if call.max_steps < 1:
        raise ConfigError(f"--max-steps must be at least 1 (got {call.max_steps}).")
    systems = systems_of(call.recipes, call.data)
    kind = kind_of(systems, call.data)
    equal = equal_settings(kind, systems, call.settings, call.max_steps)
    fitting = given_to_teachers(call.settings)
    shared = call.shared(kind)
    reading = {system for system in systems if "pairs" in find_preset(system)[0].needs}
    if call.pairs is not None and not reading:
        raise ConfigError(
            f"None of {', '.join(systems)} learns from pairs. Leave --pairs out, or compare a "
            "recipe that needs them."
        )
    _check_fitting(kind, fitting, shared.teachers)

    def arm(name: str, config: RunConfig) -> Arm:
        recipe, seed = config.recipe, config.seed
        # other systems are the same for every seed, and teachers of ablations tell little
        alone = seed != min(call.seeds) or (_fits_its_own(recipe) and bool(find_preset(recipe)[1]))
        others = [call.folder / _folder(other, seed) for other in systems if other != recipe]
        after = [TEACHER] if arms and name != TEACHER and not _fits_its_own(recipe) else []
        base, preset = find_preset(recipe)
        if preset and base.name in systems:
            after.append(_folder(base.name, seed))  # whose stages an ablation takes
        return Arm(name, config, call.folder / name, alone, others, after, call.force)

    arms: list[Arm] = []
    taught: OneTeacher | Sequence[OneTeacher] = shared.teachers
    if any(spec.fitted for spec in shared.teachers):
        # by a run that trains a student for one step alone
        least = {"max_steps": 1, "eval_steps": 0, **fitting}
        arms.append(arm(TEACHER, replace(shared, recipe=kind.baselines[1], settings=least)))
        taught = _fitted_in(call.folder / TEACHER / "teacher", shared.teachers)
    arms += [
        arm(
            _folder(system, seed),
            replace(
                shared,
                recipe=system,
                seed=seed,
                teacher=FITTED if _fits_its_own(system) else taught,
                settings=equal[system],
                pairs=call.pairs if system in reading else None,
            ),
        )
        for system in systems
        for seed in call.seeds
    ]
    _check_folder(call.folder, arms)
    for each in arms:
        if (found := read_record(each.out)) is not None:
            check_same_run(each.out, found, each.config.asked(), force=call.force)
    to_do = [each for each in arms if each.state != "finished"]
    # what one seed may do, all may; a teacher that is still to be fitted cannot be looked at
    seen = taught if arms[0].state == "finished" else shared.teachers
    for each in {(each.system, each.name == TEACHER): each for each in to_do}.values():
        own = each.name == TEACHER or _fits_its_own(each.system)
        config = each.config if own else replace(each.config, teacher=seen)
        data = validate(config).opened.data
        if measured_split(data) is None:
            raise DataError(
                f"{data.name} has no judgements for test or dev, so nothing could be compared. "
                "Add qrels/test.tsv."
            )
    return BenchPlan(kind, arms, equal)


def seconds_left(
    left: Sequence[Arm], arms: Sequence[Arm], seconds: Mapping[str, float]
) -> float | None:
    """Estimated seconds of some arms, None when none has finished: for each, the mean of its
    recipe's finished ones, or else of all finished ones.
    """
    known: dict[str, list[float]] = {}
    for arm in arms:
        if arm.name in seconds and arm.name != TEACHER:
            known.setdefault(arm.system, []).append(seconds[arm.name])
    if not known:
        return None
    overall = statistics.mean(value for own in known.values() for value in own)
    return sum(statistics.mean(known.get(arm.system, [overall])) for arm in left)


def _run(plan: BenchPlan, out: Path, jobs: int, progress: Progress) -> dict[str, float]:
    """Run every arm that is not finished; the seconds of those that ran in one go, by name.

    Raises:
        ArmsFailed: when one failed, once the others are finished.
    """
    known = out / SECONDS
    seconds = read_json(known, dict[str, float]) if known.exists() else {}
    waiting: list[Arm] = []
    numbers = {arm.name: number for number, arm in enumerate(plan.arms, start=1)}

    def where(arm: Arm) -> str:
        return f"arm {numbers[arm.name]} of {len(plan.arms)}: {arm.title}"

    for arm in plan.arms:
        if arm.state == "finished" and not damage(arm.out):
            progress.say(f"{where(arm)}: finished before")
        else:
            waiting.append(arm)
    if jobs > 1:  # arms of one seed at a time: later seeds find more in the store
        waiting.sort(key=lambda arm: arm.config.seed)
    running: dict[str, Arm] = {}
    timed: set[str] = set()  # which run in one go, and take no stages of others
    failed: dict[str, str] = {}
    with runner(jobs, progress) as run:
        while waiting or running:
            following = _next(waiting, running, failed, plan.arms) if run.free else None
            if following is None and not running:
                assert TEACHER in failed  # which all that is left needs
                break
            if following is None:
                for end in run.ended(_POLL_SECONDS):
                    del running[end.name]
                    if end.failure is not None:
                        failed[end.name] = end.failure
                        progress.say(f"failed: {end.name}. {end.failure}")
                    elif end.name in timed:
                        seconds[end.name] = round(end.seconds, 3)
                        write_json(known, seconds, stage="arms")
                continue
            arm = following
            left = [*waiting, *running.values()]
            estimate = seconds_left(left, plan.arms, seconds)
            progress.say(where(arm) + _about(estimate and estimate / min(jobs, len(left))))
            waiting.remove(arm)
            running[arm.name] = arm
            if arm.state == "to do" and not find_preset(arm.system)[1]:
                timed.add(arm.name)
            run.start(arm.name, arm.title, arm.arguments(_precision_from(plan.arms)))
    if failed:
        raise ArmsFailed(_told_of(failed, [arm.name for arm in waiting], out))
    return seconds


def _next(
    waiting: Sequence[Arm],
    running: Mapping[str, Arm],
    failed: Mapping[str, str],
    arms: Sequence[Arm],
) -> Arm | None:
    """The first arm that may start now."""
    auto = any(arm.config.precision == "auto" for arm in waiting)
    if running and auto and _precision_from(arms) is None:
        return None  # the first one is still choosing the precision of all
    unfinished = {*(arm.name for arm in waiting), *running, *({TEACHER} & set(failed))}
    return next((arm for arm in waiting if not unfinished & set(arm.after)), None)


def _precision_from(arms: Sequence[Arm]) -> Path | None:
    """The first arm that has recorded which precision it chose, which all others take."""
    return next((arm.out for arm in arms if (arm.out / RECORD).exists()), None)


def _told_of(failed: Mapping[str, str], waiting: Sequence[str], out: Path) -> str:
    """Message on the arms that failed and why."""
    lines = [f"{len(failed)} of the arms in {out} failed:"]
    lines += [f"- {name}: {why}" for name, why in failed.items()]
    if waiting:
        lines.append(f"Not run, since the teacher is not there: {', '.join(waiting)}.")
    lines.append("The others are finished. The same command goes on with what is missing.")
    return "\n".join(lines)


def _record(plan: BenchPlan, wall_seconds: Mapping[str, float]) -> dict[str, Any]:
    """The record of a finished bench: the quality and the costs of its arms."""
    arms: dict[str, list[Path]] = {}
    for arm in plan.arms:
        if arm.name != TEACHER:
            arms.setdefault(arm.system, []).append(arm.out)
    kind = plan.kind
    alone, taught = kind.baselines
    split, units, rows = rows_of(arms, kind.baselines, wall_seconds)
    facts = kind.facts_of(arms[alone][0] / "student")
    measures = measures_of(arms[alone][0])
    first = read_record(arms[alone][0])
    assert first is not None  # the run is finished
    return {
        "benchmark": "quality",
        "data": first["data"],
        "split": split,
        "measures": measures.model_dump(mode="json"),
        measures.units: units,
        "baselines": list(kind.baselines),
        "facts": list(facts),
        **facts,
        "budget": plan.budget,
        "settings": {name: dict(own) for name, own in plan.settings.items()},
        "smallest_visible_difference": visible_differences(rows, ""),
        f"smallest_visible_difference_{taught}": visible_differences(rows, f"_{taught}"),
        "rows": rows,
    }


def _html(record: Mapping[str, Any], plan: BenchPlan) -> str:
    """The results as a page, with a way to the page of every arm."""
    headings, cells = page.figures_of(record)
    arms = [
        report.RunLink(
            arm.title,
            arm.config.settings_given,
            f"{quote(arm.name)}/{RUN_PAGE}" if (arm.out / RUN_PAGE).exists() else None,
        )
        for arm in plan.arms
    ]
    return report.bench_page(
        record,
        measures=page.measures_of(record),
        baselines=record["baselines"],
        words=[page.visible(record), page.budget(record)],
        figures=report.Table(headings, cells),
        notes=[page.words(record), page.made_of(record)],
        arms=arms,
    )


def _about(seconds: float | None) -> str:
    """An estimate of the time left, in words.

    Example:
        >>> _about(None), _about(59), _about(5000)
        ('', ' (about 1 min left)', ' (about 1 h 23 min left)')
    """
    if seconds is None:
        return ""
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return f" (about {f'{hours} h ' if hours else ''}{minutes} min left)"


def _fits_its_own(system: str) -> bool:
    """Whether a recipe fits or has its own teachers, and is not given the one of the bench."""
    recipe, preset = find_preset(system)
    needs = recipe.needs | parse_settings(recipe.settings, preset).needs
    return bool(recipe.fits or recipe.takes) and "teacher" not in needs


def _folder(system: str, seed: int) -> str:
    """The name of an arm's folder."""
    return f"{system.replace(':', '-')}-{seed}"


def _fitted_in(folder: Path, specs: Sequence[TeacherSpec]) -> str | list[TeacherSpec]:
    """The teachers of later runs, once one run has fitted them and left them in this folder."""
    if len(specs) == 1:
        return str(folder)
    return [
        TeacherSpec(_label(spec), path=str(folder / f"member-{at}")) if spec.fitted else spec
        for at, spec in enumerate(specs)
    ]


def _label(spec: TeacherSpec) -> str:
    """A name for a teacher that is to be fitted."""
    base = re.sub(r"[^\w.-]+", "-", Path(spec.base).name) if spec.base else None
    return spec.name or "-".join(filter(None, (spec.kind or FITTED, base)))


def _check_seeds(seeds: Sequence[int]) -> None:
    """Refuse no seeds, a negative one, and one that is named twice."""
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        told = ", ".join(map(str, seeds)) or "none"
        raise ConfigError(f"seeds: {told}. Give one or more, all different and not below 0.")


def _check_fitting(
    kind: TaskKind, fitting: Mapping[str, object], specs: Sequence[TeacherSpec]
) -> None:
    """Refuse settings of a teacher that is not fitted."""
    for spec in specs:
        spec.check_kind(kind.fits)
    fitted = {f"teacher_{each}" for spec in specs for each in kinds_of(spec, kind.fits)}
    for key in fitting:
        if key.rpartition(".")[0] not in fitted:
            raise ConfigError(
                f"--set {key}: --teacher {', '.join(map(str, specs))} fits no such teacher. Leave "
                f"it out, or use --teacher {', '.join(f'{FITTED}:{each}' for each in kind.fits)}."
            )


def _check_folder(out: Path, arms: Sequence[Arm]) -> None:
    """Refuse a folder that holds something else."""
    try:
        if out.is_file():
            raise ConfigError(f"--out {out} is a file. Name a folder.")
        if not out.exists():
            return
    except OSError as error:
        raise StoreError(
            f"Cannot write to --out {out}: {error.strerror}. Choose a folder that is writable."
        ) from error
    found = [path for path in out.iterdir() if not path.name.startswith(LEFT)]
    if (out / RECORD).exists():
        raise ConfigError(f"--out {out} holds a run of `limbeck distill`. Name a new folder.")
    ours = {RESULTS, PAGE, HTML, SECONDS, STORE, *(arm.name for arm in arms)}
    files = [path.name for path in found if path.is_file()]
    if files and not any(path.name in ours or (path / RECORD).exists() for path in found):
        raise ConfigError(
            f"--out {out} is not empty and holds no bench (there is {min(files)!r}). "
            "Name a new folder."
        )
