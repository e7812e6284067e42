"""How does one run go, step by step?

Fit or take a teacher, examine it, train the student, measure every system. Every step is an
artefact that is read back when it is there. What a method does is its recipe's business.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from limbeck.config import RunConfig
from limbeck.config.teacher_spec import TeacherSpec, fit_name
from limbeck.data.dataset import Dataset, measured_split
from limbeck.inference import BACKENDS, Engine, choose_engine
from limbeck.limit import Effort, matmul_rate
from limbeck.models.probing import PRECISIONS, precisions
from limbeck.pipeline.fitting import Fitting, fits_of
from limbeck.pipeline.outputs import NoOutputs, Outputs
from limbeck.pipeline.plan_file import Plan, as_notes, keep
from limbeck.pipeline.reporting import (
    Result,
    check_same_models,
    finished,
    report,
    write_page,
)
from limbeck.pipeline.request import Request, split_settings
from limbeck.recipes import Recipe, RecipeResult, find
from limbeck.record import (
    RECORD,
    check_same_data,
    check_same_engine,
    check_writable,
    environment,
    read_record,
    write_record,
)
from limbeck.settings import parse_settings
from limbeck.store import formed, resident_bytes
from limbeck.tasks.estimate import RunEstimate
from limbeck.tasks.fit import BudgetPlan
from limbeck.tasks.task import Measured, Model, Task
from limbeck.teachers.score_store import ScoreStore
from limbeck.training import Trained
from limbeck.training.distributed import Group


def decide(request: Request, task: Task) -> BudgetPlan:
    """Decide what fits the budget, or read the decisions back on resume; `run.toml` is written
    before any work.

    Raises:
        ConfigError: when the data changed since the run began, or the budget is too short.
    """
    found, data = read_record(task.run.folder), task.data
    if found is not None:
        check_same_data(task.run.folder, found, data.digest, request.opened.inputs)
        check_same_engine(task.run.folder, found, _engine(task))
        if found["asked"]["force_teacher"] != request.config.force_teacher:
            write_record(task.run.folder, {**found, "asked": request.config.asked()})
        return formed(task.run.folder / RECORD, found["decided"], BudgetPlan)
    decided = BudgetPlan()
    if request.config.budget_seconds is not None:
        decided, plan = estimate_run(request, task)
        keep(plan, task.run.folder)
    write_record(
        task.run.folder,
        {
            "asked": request.config.asked(),
            "data": {
                "task": request.kind.name,
                "name": data.name,
                "digest": data.digest,
                **data.facts,
                **request.opened.inputs,
            },
            "decided": asdict(decided),
            **_preset(request),
            "engine": _engine(task),
            **_auto(task.run.engine),
            "limit": {"matmul_flops_per_second": task.run.engine.matmul_rate},
            "environment": environment(),
        },
    )
    return decided


def engine_for(
    request: Request,
    found: Mapping[str, Any] | None,
    group: Group,
    like: Mapping[str, Any] | None = None,
) -> Engine:
    """Engine of a run: the one in its record, or the one that the first process chooses now, with
    the precision of a run `like` it where that is recorded.

    Raises:
        ConfigError: when what was asked for, or recorded, is not there.
    """
    recorded = (found or {}).get("engine", {})
    if not recorded:
        theirs = (like or {}).get("engine", {})
        recorded = {key: theirs[key] for key in theirs if key.endswith("precision")}
    backend, precision = (
        str(recorded.get(key, "auto") if asked == "auto" else asked)
        for key, asked in (
            ("backend", request.config.backend),
            ("precision", request.config.precision),
        )
    )
    first = group.rank == 0
    engine = choose_engine(
        backend,
        precision if first or precision != "auto" else "fp32",
        characters=request.opened.size,
        workers=request.config.workers,
        models=request.opened.models if first else None,
        trains=True,
    )
    trained = recorded.get("training_precision", engine.training().precision)
    reads, trains = (
        PRECISIONS[int(group.broadcast(PRECISIONS.index(each)))]
        for each in (engine.precision, trained)
    )
    return replace(
        engine,
        backend=BACKENDS[int(group.broadcast(BACKENDS.index(engine.backend)))],
        precision=reads,
        training_precision=trains if trains != reads else None,
        notes=tuple((found or {}).get("auto", {}).get("notes", engine.notes)),
    )


def store_of(config: RunConfig) -> ScoreStore:
    """The store of teacher scores that a config names, or the user's own.

    Raises:
        ConfigError, StoreError: when nothing can be written there.
    """
    scores = ScoreStore(Path(config.store)) if config.store else ScoreStore.default()
    check_writable(scores.root, "--store")
    return scores


def estimate_run(request: Request, task: Task) -> tuple[BudgetPlan, Plan]:
    """Estimate how long a run will take, and what fits its budget, by a rehearsal with the speeds
    that a probe of some seconds finds.

    Raises:
        ConfigError: when the budget is too short.
    """
    choices = fitted_choices(request)
    task.run.progress.say("probing how long the parts of this run take here")
    probe = request.opened.probe(task, fits=any(choices))
    resident = resident_bytes()  # before any rehearsal

    def rehearsed(decided: BudgetPlan) -> RunEstimate:
        stage = probe.stage()
        Distillation(request, stage, decided, NoOutputs()).carry_out([])
        return probe.estimate(stage)

    decided, budget = BudgetPlan(), request.config.budget_seconds
    if budget is not None:
        decided = request.kind.fit_budget(
            choices, lambda decided: rehearsed(decided).seconds, budget
        )
    found = rehearsed(decided)
    return decided, Plan(found.parts(), resident + found.peak_bytes, list(probe.notes))


def fitted_choices(request: Request) -> tuple[tuple[str, ...], ...]:
    """The kinds of teacher that a run may fit, the dearest choice first; one that is empty where
    none is. Those of a recipe that fits its own are settled.
    """
    if request.recipe.fits:
        return (request.recipe.fits,)
    kind, teachers = request.kind, request.opened.teachers
    most, least = fits_of(kind, teachers), fits_of(kind, teachers, least=True)
    return (most, least) if most != least else (most,)


def settings_of(request: Request, decided: BudgetPlan, recipe: Recipe) -> Any:
    """A recipe's settings: its defaults, changed by the budget and by the options given."""
    own, fitted = split_settings(request.settings)
    makes_student = recipe.makes == "student"
    asked = own if makes_student else fitted.get(recipe.name, {})
    chosen = {
        "max_steps": decided.max_steps if makes_student else decided.teacher_max_steps,
        "teacher_max_steps": decided.teacher_max_steps,
        "list_length": decided.list_length,
        "candidates_per_query": decided.candidates_per_query,
    }
    given = {
        key: value
        for key, value in chosen.items()
        if value is not None and key in recipe.settings.model_fields
    }
    return parse_settings(recipe.settings, {**given, **asked})


def can_compare(data: Dataset) -> bool:
    """Whether a teacher can be held to a student trained without it."""
    return bool(data.labelled) and "dev" in data.splits


def with_limit(engine: Engine, record: Mapping[str, Any] | None) -> Engine:
    """The engine with the limit of its device: as a run's record has it, or probed now."""
    rate = (record or {}).get("limit", {}).get("matmul_flops_per_second")
    if not rate:
        threads = max(engine.workers or 1, torch.get_num_threads())
        rate = max(
            matmul_rate(engine.device, precision, threads=threads)
            for precision in precisions(engine.device)
        )
    return replace(engine, matmul_rate=rate)


@dataclass
class Distillation:
    """One run, step by step; every step is an artefact that is read back when it is there."""

    request: Request
    task: Task
    decided: BudgetPlan
    outputs: Outputs
    student_alone: bool = False  # the only system that is measured
    force: bool = False  # models that were made again may differ from those that were there
    trained: dict[str, tuple[Recipe, list[Trained]]] = field(default_factory=dict)  # and stages

    def __post_init__(self) -> None:
        teachers = self.request.opened.teachers
        self.fitting = Fitting(self.request.kind, self.task, teachers, self._fit)

    def _fit(self, name: str, recipe: Recipe, task: Any, stands_on: Sequence[Any]) -> Any:
        """A fitted teacher."""
        own, settings = task.for_recipe(), self._settings(recipe)
        self.trained[f"teacher_{name}"] = recipe, own.trained
        return recipe.fit(own, stands_on, settings)

    def _train(
        self, recipe: Recipe, teacher: Any, student: Any, settings: Any
    ) -> RecipeResult | None:
        """Train a student in place; the result of the recipe, where it fits its own teachers."""
        own = self.task.for_recipe()
        self.trained[recipe.name] = recipe, own.trained
        return recipe.train(own, teacher, student, settings)

    def result(self) -> Result:
        """Carry the run out, and report it."""
        task = self.task
        notes = [*self.request.notes(task.data), *task.run.engine.notes]
        systems = self.carry_out(notes)
        if task.run.group.rank == 0:
            if not self.force:
                check_same_models(task.run.folder)
            notes += as_notes(task.run.folder)
            report(task, task.run.folder, systems, notes, task.run.seed)
            write_page(task.run.folder, task.data)
        task.run.group.barrier()
        return finished(task.run.folder)

    def carry_out(self, notes: list[str]) -> list[Measured]:
        """Fit or take a teacher, examine it, train the student, measure everything; notes for the
        report are added to `notes`.
        """
        request, task = self.request, self.task
        opened, kind = request.opened, request.kind
        split = measured_split(task.data)
        beside = None if self.student_alone else split  # where the other systems are measured
        undistilled = copy.deepcopy(opened.student)
        self._save(undistilled, "baselines/undistilled", "cut from its base, not trained")
        systems: list[Measured] = []
        if beside:
            systems += task.reference_systems(beside)
            systems.append(task.measure("undistilled", undistilled, beside))
        teachers = self._teachers(notes) if opened.teachers.specs else []
        teacher = given = teachers[0] if teachers else None
        if teacher is not None and request.taught:
            if opened.teachers.fits:
                how = f"a {teacher.kind} teacher, fitted on judged {task.measures.units}"
                self.outputs.keep_model(teacher, "teacher", kind.card(teacher, how, teacher.kind))
            alone = None
            if not request.recipe.data_free:
                self._check(teacher, notes)
                alone = self._compare_on_dev(teacher, notes)
            if beside:
                names = ["teacher", *(f"teacher/{each.name}" for each in teachers[1:])]
                for name, each in zip(names, teachers, strict=True):
                    if (reason := task.unmeasured(each, beside)) is None:
                        systems.append(task.measure(name, each, beside))
                    else:
                        notes.append(f"{name}: not measured on {beside}, since {reason}")
            if alone is not None and beside:
                systems.append(task.measure(kind.baselines[0], alone, beside))
        student = copy.deepcopy(opened.student)
        settings = self._settings(request.recipe)
        name = request.recipe.name
        result = self._train(request.recipe, teacher, student, settings)
        if result is not None:
            notes += result.notes
        if result is not None and result.teacher is not None:
            teacher = result.teacher
            made = opened.teachers.fits and given is not None and given.digest == teacher.digest
            if result.fitted or made:
                how = f"a {teacher.kind} teacher, fitted by the recipe `{name}`"
                self.outputs.keep_model(teacher, "teacher", kind.card(teacher, how, teacher.kind))
            if beside:
                systems.append(task.measure("teacher", teacher, beside))
        self._save(student, "student", self._how(teacher))
        if split:
            systems.append(task.measure("student", student, split))
        systems = [self._with_training(each, teacher) for each in systems]
        _, stages = self.trained[name]
        dropped = stages[-1].dropped if stages else {}  # the last lists are the student's
        notes += [f"{what}: {count:,}" for what, count in sorted(dropped.items())]
        return systems

    def _settings(self, recipe: Recipe) -> Any:
        """A recipe's settings in this run."""
        return settings_of(self.request, self.decided, recipe)

    def _with_training(self, system: Measured, teacher: Any) -> Measured:
        """A system with the cost of its training, when this run trained it."""
        asked, alone = self.request.opened.teachers, self.request.kind.baselines[0]
        if len(asked.specs) > 1:
            made = {
                f"teacher/{name}": fit_name(spec.kind, spec.base)
                for name, spec in zip(asked.names, asked.specs, strict=True)
                if spec.kind is not None
            }
        else:
            made = {f"teacher/{name}": name for name in self.fitting.found}
            made |= {"teacher": teacher.name} if teacher is not None else {}
        trained = {row: f"teacher_{name}" for row, name in made.items()}
        trained |= {"student": self.request.recipe.name, alone: alone}
        name = trained.get(system.name, system.name)
        effort = Effort()
        if name in self.trained:
            recipe, stages = self.trained[name]
            for stage in stages:
                effort.include(stage.effort(recipe.makes))
        speed = effort.speed(self.task.run.engine.matmul_rate)
        cost = replace(
            system.cost,
            training_tokens_per_second=speed["tokens_per_second"],
            training_useful_flops_per_second=speed["useful_flops_per_second"],
            training_share_of_limit=speed["share_of_limit"],
        )
        return replace(system, cost=cost)

    def _teachers(self, notes: list[str]) -> list[Any]:
        """The teacher, and its members where it is several, or whatever else was fitted."""
        members = self.fitting.members(lambda spec: self._best(spec, notes))
        combined = self.task.combine(members, self.request.opened.teachers.weights)
        teacher = combined.teacher
        if combined.members:
            self.outputs.keep_scale(combined.scale)
            return [teacher, *combined.members]
        return [teacher, *(each for each in self.fitting.found.values() if each is not teacher)]

    def _best(self, spec: TeacherSpec, notes: list[str]) -> Any:
        """The best on dev of the kinds that there is time for; the first without dev."""
        has_dev, fits = "dev" in self.task.data.splits, self.decided.fits
        known = self.request.kind.fits
        kinds = [kind for kind in known if fits is None or fit_name(kind, spec.base) in fits]
        if len(kinds) < len(known):
            notes.append(f"teacher: the budget has no time for more than {', '.join(kinds)}")
        for kind in () if has_dev else self.request.kind.fits_on_dev:
            if kind in kinds:
                notes.append(f"{kind}: not fitted, since its weights need a dev split")
                kinds.remove(kind)
        found = [self.fitting.fitted(kind, spec.base) for kind in kinds]
        if not has_dev:
            notes.append(f"teacher: {kinds[0]}, since there is no dev split to choose on")
            return found[0]
        quality = {each.kind: self._on_dev(f"teacher/{each.kind}", each) for each in found}
        best = max(found, key=lambda each: quality[each.kind])
        told = ", ".join(f"{kind} {value:.3f}" for kind, value in quality.items())
        name = self.task.measures.first.name
        notes.append(f"teacher: {best.kind}, the best on dev ({name}: {told})")
        return best

    def _on_dev(self, name: str, teacher: Any) -> float:
        """A teacher's figure on dev."""
        measured = self.task.measure(name, teacher, "dev")
        return self.task.measures.first.of(measured.per_query)

    def _check(self, teacher: Any, notes: list[str]) -> None:
        """Refuse a teacher whose answers say nothing.

        Raises:
            TeacherRefused: unless the teacher is forced.
        """
        checked = self.task.check_teacher(teacher, self._settings(self.request.recipe))
        if checked.diagnosis is not None:
            self.outputs.keep_diagnosis(checked.diagnosis, checked.answers)
        notes += [f"teacher: {line}" for line in checked.lines]
        if checked.refusal is not None:
            self._refuse(checked.refusal, notes)

    def _compare_on_dev(self, teacher: Any, notes: list[str]) -> Any:
        """Refuse a teacher that does not beat a student trained without it; else that student.

        Raises:
            TeacherRefused: unless the teacher is forced; then no such student is trained.
        """
        task = self.task
        if self.request.config.force_teacher:
            notes.append("teacher: forced, not compared on dev with a student trained without it")
            return None
        if not can_compare(task.data):
            notes.append(
                "teacher: not compared on dev with a student trained without it, since that needs "
                f"judged training {task.measures.units} and a dev split"
            )
            return None
        if (reason := task.unmeasured(teacher, "dev")) is not None:
            notes.append(
                f"teacher: not compared on dev with a student trained without it, since {reason}"
            )
            return None
        recipe = find(self.request.kind.baselines[0])
        settings = task.alone(self._settings(self.request.recipe), recipe.settings)
        _, named = split_settings(self.request.settings)
        if recipe.name in named:
            like = settings.model_dump(exclude_unset=True)
            settings = parse_settings(recipe.settings, {**like, **named[recipe.name]})
        student = copy.deepcopy(self.request.opened.student)
        self._train(recipe, None, student, settings)
        how = f"trained with {recipe.name}, without a teacher"
        self._save(student, f"baselines/{recipe.name}", how)
        taught = self._on_dev("teacher", teacher)
        measure = task.measures.first
        alone = measure.of(task.measure(recipe.name, student, "dev").per_query)
        notes.append(
            f"teacher: {taught:.3f} {measure.name} on dev; "
            f"the student trained without it {alone:.3f}"
        )
        if not measure.better(taught, alone):
            self._refuse(
                f"On dev the teacher ({taught:.3f} {measure.name}) does not beat the student "
                f"trained without it ({alone:.3f}), so there is nothing to learn from it. Use "
                f"that student ({task.run.folder / 'baselines' / recipe.name}) or a stronger "
                "--teacher.",
                notes,
            )
        return student

    def _refuse(self, reason: str, notes: list[str]) -> None:
        """Stop here, unless the teacher is forced or the recipe made for such."""
        if self.request.recipe.withstands:
            notes.append(f"teacher: {reason} {self.request.recipe.name} is made to withstand that")
            return
        if not self.request.config.force_teacher:
            self.outputs.refuse_teacher(reason)
        notes.append(f"teacher: forced. {reason}")

    def _how(self, teacher: Any) -> str:
        """How the student was made, for its model card; no times, dates or paths."""
        name = self.request.recipe.name
        if teacher is None:
            return f"trained with the recipe `{name}`"
        return f"distilled with the recipe `{name}` from a {teacher.kind} teacher"

    def _save(self, model: Model, name: str, how: str) -> None:
        """Keep a student of the run."""
        self.outputs.keep_model(model, name, self.request.kind.card(model, how))


def _preset(request: Request) -> dict[str, dict[str, object]]:
    """Values set by a preset, as the record has them; no table without one."""
    return {"preset": {k: str(v) for k, v in request.preset.items()}} if request.preset else {}


def _auto(engine: Engine) -> dict[str, dict[str, object]]:
    """Choices of `auto` and their reasons, as the record has them; no table without any."""
    return {"auto": {"notes": list(engine.notes)}} if engine.notes else {}


def _engine(task: Task) -> dict[str, str]:
    """Engine of a run, as its record has it."""
    engine = task.run.engine
    found = engine.key()
    if engine.backend != "torch":
        found[engine.backend] = version(engine.backend)
    if engine.training_precision is not None:
        found["training_precision"] = engine.training_precision
    if engine.workers is not None:  # how many does not matter
        found["batches"] = "on one thread each"
    return found
