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

import numpy as np
import polars as pl
import torch

from limbeck.config import RunConfig
from limbeck.config.teacher_spec import KINDS, TeacherSpec, fit_name
from limbeck.data.collection import Collection
from limbeck.inference import BACKENDS, Engine, choose_engine
from limbeck.limit import Effort, matmul_rate
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.probing import PRECISIONS, precisions
from limbeck.pipeline.fitting import Fitting, as_one, fits_of
from limbeck.pipeline.outputs import NoOutputs, Outputs
from limbeck.pipeline.plan_file import Plan, as_notes, keep
from limbeck.pipeline.reporting import (
    Result,
    check_same_models,
    finished,
    report,
    write_page,
)
from limbeck.pipeline.request import Request, measured_split, split_settings
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
from limbeck.settings import Settings, parse_settings
from limbeck.sources import QueryList
from limbeck.store import formed, resident_bytes
from limbeck.tasks.estimate import RunEstimate
from limbeck.tasks.fit import default_updates
from limbeck.tasks.retrieval import Retrieval
from limbeck.tasks.retrieval.budget import BudgetPlan, fit_budget
from limbeck.tasks.retrieval.costs import probed
from limbeck.tasks.retrieval.rehearsal import Rehearsal
from limbeck.tasks.retrieval.systems import (
    DIAGNOSED_DEPTH,
    DIAGNOSED_QUERIES,
    Measured,
    unmeasured,
)
from limbeck.teachers import DualTeacher, EnsembleTeacher, Teacher
from limbeck.teachers.diagnostics import diagnose, doubt, refusal
from limbeck.teachers.score_store import ScoreStore
from limbeck.training import Run, Trained
from limbeck.training.distributed import Group


def decide(request: Request, task: Retrieval) -> BudgetPlan:
    """What a budget decides, read back on resume; `run.toml` is written before any work.

    Raises:
        ConfigError: when the data changed since the run began, or the budget is too short.
    """
    found = read_record(task.run.folder)
    if found is not None:
        given = [each.digest for each in request.candidates]
        check_same_data(task.run.folder, found, request.collection.digest, given)
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
            "collection": {
                "name": request.collection.name,
                "digest": request.collection.digest,
                "language": request.collection.language,
                "passages": len(request.collection.passages),
                "labelled": len(request.collection.labelled),
                "unlabelled": len(request.collection.unlabelled),
                "candidates": [each.digest for each in request.candidates] or None,
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
    """What a run computes with: what its record says, or what the first process chooses now, the
    precision of a run `like` it where that is recorded.

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
        characters=request.collection.passages.characters,
        workers=request.config.workers,
        models=known_models(request) if first else None,
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


def task_of(request: Request, run: Run, scores: ScoreStore) -> Retrieval:
    """The task that a run works on."""
    base = DualTeacher("base", request.base)
    return Retrieval(request.collection, run, base, scores, request.candidates)


def known_models(request: Request) -> dict[str, Encoder | Ranker]:
    """The models of a run that are known before it begins, by name."""
    teacher = {} if request.teacher is None else request.teacher.backend_models()
    return {"base": request.base, "student": request.student, **teacher}


def estimate_run(request: Request, task: Retrieval) -> tuple[BudgetPlan, Plan]:
    """What a budget decides, and how long the run will take, by a rehearsal with the speeds that a
    probe of some seconds finds.

    Raises:
        ConfigError: when the budget is too short.
    """
    choices = fitted_choices(request)
    task.run.progress.say("probing how long the parts of this run take here")
    bases = request.wanted.bases
    speeds = probed(task, request.student, request.teacher, list(bases.values()), fits=any(choices))
    resident = resident_bytes()  # before any rehearsal

    def rehearsed(decided: BudgetPlan) -> RunEstimate:
        given = (task.collection, task.run, task.base, task.store, task.given)
        stage = Rehearsal(*given, speeds=speeds, student=request.student)
        run = Distillation(request, stage, decided, NoOutputs())
        run.carry_out([])
        return stage.estimate

    decided, budget = BudgetPlan(), request.config.budget_seconds
    if budget is not None:
        decided = fit_budget(choices, lambda decided: rehearsed(decided).seconds, budget)
    given = () if request.teacher is None else request.teacher.leaves()
    called = {task.base.digest: "the base's"}
    called |= {base.digest: f"{name}'s" for name, base in bases.items()}
    called |= {leaf.digest: "the teacher's" for leaf in given if leaf.first_stage is not None}
    notes = [
        f"the store has {name} vectors of {speeds.known[made_by]:.0%} of the passages"
        for made_by, name in called.items()
        if speeds.known[made_by]
    ]
    found = rehearsed(decided)
    return decided, Plan(found.parts(), resident + found.peak_bytes, notes)


def fitted_choices(request: Request) -> tuple[tuple[str, ...], ...]:
    """The kinds of teacher that a run may fit, the dearest choice first; one that is empty where
    none is. Those of a recipe that fits its own are settled.
    """
    if request.recipe.fits:
        return (request.recipe.fits,)
    most, least = fits_of(request.wanted), fits_of(request.wanted, least=True)
    return (most, least) if most != least else (most,)


def settings_of(request: Request, decided: BudgetPlan, recipe: Recipe) -> Any:
    """A recipe's settings: its defaults, what the budget decided, what was asked."""
    own, fitted = split_settings(request.settings)
    makes_student = recipe.makes == "student"
    asked = own if makes_student else fitted.get(recipe.name, {})
    chosen = {
        "updates": decided.updates if makes_student else decided.teacher_updates,
        "teacher_updates": decided.teacher_updates,
        "list_length": decided.list_length,
        "depth": decided.depth,
    }
    given = {
        key: value
        for key, value in chosen.items()
        if value is not None and key in recipe.settings.model_fields
    }
    return parse_settings(recipe.settings, {**given, **asked})


def matching(student: Settings, recipe: Recipe) -> Any:
    """Settings of a recipe to compare with: what the student's has in common with it, but for the
    temperature, which has another meaning in every loss.
    """
    own = student.model_dump(exclude_unset=True)
    shared = {key: value for key, value in own.items() if key in recipe.settings.model_fields}
    shared.pop("temperature", None)
    return recipe.settings(**shared)


def can_compare(collection: Collection) -> bool:
    """Whether a teacher can be held to a student trained without it."""
    return bool(collection.labelled) and "dev" in collection.qrels


def with_limit(engine: Engine, record: Mapping[str, Any] | None) -> Engine:
    """The engine with what its device could do at most: as a run's record has it, or probed now."""
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
    task: Retrieval
    decided: BudgetPlan
    outputs: Outputs
    student_alone: bool = False  # the only system that is measured
    force: bool = False  # models that were made again may differ from those that were there
    trained: dict[str, tuple[Recipe, list[Trained]]] = field(default_factory=dict)  # and stages

    def __post_init__(self) -> None:
        self.fitting = Fitting(self.task, self.request.wanted, self._fit)

    def _fit(
        self, name: str, recipe: Recipe, task: Retrieval, stands_on: Sequence[Encoder | Teacher]
    ) -> Teacher:
        """A fitted teacher."""
        own, settings = task.for_recipe(), self._settings(recipe)
        self.trained[f"teacher_{name}"] = recipe, own.trained
        return recipe.fit(own, stands_on, settings)

    def _train(
        self, recipe: Recipe, teacher: Teacher | None, student: Encoder, settings: Any
    ) -> RecipeResult | None:
        """Train a student in place; what a recipe says that fits its own teachers."""
        own = self.task.for_recipe()
        self.trained[recipe.name] = recipe, own.trained
        return recipe.train(own, teacher, student, settings)

    def result(self) -> Result:
        """Carry the run out, and report it."""
        task = self.task
        notes = [*self.request.notes, *task.run.engine.notes]
        systems = self.carry_out(notes)
        if task.run.group.rank == 0:
            if not self.force:
                check_same_models(task.run.folder)
            notes += as_notes(task.run.folder)
            report(task, task.run.folder, systems, notes, task.run.seed)
            write_page(task.run.folder, self.request.collection)
        task.run.group.barrier()
        return finished(task.run.folder)

    def carry_out(self, notes: list[str]) -> list[Measured]:
        """Fit or take a teacher, examine it, train the student, measure everything; `notes` get
        what there is to say of it.
        """
        request, task = self.request, self.task
        split = measured_split(request.collection)
        beside = None if self.student_alone else split  # where the other systems are measured
        undistilled = copy.deepcopy(request.student)
        self._save(undistilled, "baselines/undistilled", "cut from its base, not trained")
        systems: list[Measured] = []
        if beside:
            systems += [
                task.measure_bm25(beside),
                task.measure_teacher("zero_shot", task.base, beside),
                *(
                    task.measure_teacher(f"zero_shot/{name}", base, beside)
                    for name, base in request.wanted.bases.items()
                ),
                task.measure_encoder("undistilled", undistilled, beside),
            ]
        teachers = self._teachers(notes) if request.wanted.specs else []
        teacher = given = teachers[0] if teachers else None
        if teacher is not None and "teacher" in request.recipe.needs:
            if request.wanted.fits:
                how = f"a {teacher.kind} teacher, fitted on judged queries"
                self.outputs.keep_model(teacher, "teacher", _card("A teacher", how, teacher.kind))
            self._diagnose(teacher, notes)
            contrastive = self._compare_on_dev(teacher, notes)
            if beside:
                names = ["teacher", *(f"teacher/{each.name}" for each in teachers[1:])]
                for name, each in zip(names, teachers, strict=True):
                    if (reason := unmeasured(task, each, beside)) is None:
                        systems.append(task.measure_teacher(name, each, beside))
                    else:
                        notes.append(f"{name}: not measured on {beside}, since {reason}")
            if contrastive is not None and beside:
                systems.append(task.measure_encoder("contrastive", contrastive, beside))
        student = copy.deepcopy(request.student)
        settings = self._settings(request.recipe)
        name = request.recipe.name
        result = self._train(request.recipe, teacher, student, settings)
        if result is not None:
            teacher = result.teacher
            notes += result.notes
            made = request.wanted.fits and given is not None and given.digest == teacher.digest
            if result.fitted or made:
                how = f"a {teacher.kind} teacher, fitted by the recipe `{name}`"
                self.outputs.keep_model(teacher, "teacher", _card("A teacher", how, teacher.kind))
            if beside:
                systems.append(task.measure_teacher("teacher", teacher, beside))
        self._save(student, "student", self._how(teacher))
        if split:
            systems.append(task.measure_encoder("student", student, split))
        systems = [self._with_training(each, teacher) for each in systems]
        _, stages = self.trained[name]
        dropped = stages[-1].dropped if stages else {}  # the last lists are the student's
        notes += [f"{what}: {count:,}" for what, count in sorted(dropped.items())]
        return systems

    def _settings(self, recipe: Recipe) -> Any:
        """A recipe's settings in this run."""
        return settings_of(self.request, self.decided, recipe)

    def _with_training(self, system: Measured, teacher: Teacher | None) -> Measured:
        """A system with what it cost to train, when this run trained it."""
        wanted = self.request.wanted
        if len(wanted.specs) > 1:
            made = {
                f"teacher/{name}": fit_name(spec.kind, spec.base)
                for name, spec in zip(wanted.names, wanted.specs, strict=True)
                if spec.kind is not None
            }
        else:
            made = {f"teacher/{name}": name for name in self.fitting.found}
            made |= {"teacher": teacher.name} if teacher is not None else {}
        trained = {row: f"teacher_{name}" for row, name in made.items()}
        trained |= {"student": self.request.recipe.name, "contrastive": "contrastive"}
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

    def _teachers(self, notes: list[str]) -> list[Teacher]:
        """The teacher, and its members where it is several, or whatever else was fitted."""
        members = self.fitting.members(lambda spec: self._best(spec, notes))
        teacher = as_one(self.task, members, self.request.wanted.weights)
        if isinstance(teacher, EnsembleTeacher) and len(members) > 1:
            self.outputs.keep_scale(teacher)
            return [teacher, *teacher.members]
        return [teacher, *(each for each in self.fitting.found.values() if each is not teacher)]

    def _best(self, spec: TeacherSpec, notes: list[str]) -> Teacher:
        """The best on dev of the kinds that there is time for; the first without dev."""
        has_dev = "dev" in self.request.collection.qrels
        fits = self.decided.fits
        kinds = [kind for kind in KINDS if fits is None or fit_name(kind, spec.base) in fits]
        if len(kinds) < len(KINDS):
            notes.append(f"teacher: the budget has no time for more than {', '.join(kinds)}")
        if "ensemble" in kinds and not has_dev:
            notes.append("ensemble: not fitted, since its weights need a dev split")
            kinds.remove("ensemble")
        found = [self.fitting.fitted(kind, spec.base) for kind in kinds]
        if not has_dev:
            notes.append("teacher: dual, since there is no dev split to choose on")
            return found[0]
        quality = {each.kind: self._on_dev(f"teacher/{each.kind}", each) for each in found}
        best = max(found, key=lambda each: quality[each.kind])
        told = ", ".join(f"{kind} {value:.3f}" for kind, value in quality.items())
        name = self.task.measures.first.name
        notes.append(f"teacher: {best.kind}, the best on dev ({name}: {told})")
        return best

    def _on_dev(self, name: str, teacher: Teacher) -> float:
        """A teacher's figure on dev."""
        measured = self.task.measure_teacher(name, teacher, "dev")
        return self.task.measures.first.of(measured.per_query)

    def _diagnose(self, teacher: Teacher, notes: list[str]) -> None:
        """Refuse a teacher whose scores say nothing; the numbers are kept in `DIAGNOSIS`, and the
        scores in `EXAMINED`.

        Raises:
            TeacherRefused: unless the teacher is forced.
        """
        task, request = self.task, self.request
        queries = task.askable_queries(teacher)[:DIAGNOSED_QUERIES]
        if not len(queries):
            return
        pools = task.pools(queries, depth=DIAGNOSED_DEPTH, teacher=task.base, asked=teacher)
        known = list(task.lists(pools, teacher=teacher))
        marks = [
            np.arange(len(entry.positives) + len(entry.pool)) < len(entry.positives)
            for entry in known
        ]
        given = self._settings(request.recipe).model_dump().get("teacher_temperature")
        diagnosis = diagnose(
            [entry.scores["teacher"] for entry in known],
            marks if request.collection.labelled else None,
            temperature=given or teacher.temperature,
        )
        reason, doubted = refusal(diagnosis), doubt(diagnosis)
        told = {**asdict(diagnosis), "refusal": reason, "doubt": doubted}
        self.outputs.keep_diagnosis(told, _scores(request.collection, known))
        lines = [*diagnosis.lines(), *([doubted] if doubted else [])]
        notes += [f"teacher: {line}" for line in lines]
        if reason is not None:
            self._refuse(reason, notes)

    def _compare_on_dev(self, teacher: Teacher, notes: list[str]) -> Encoder | None:
        """Refuse a teacher that does not beat a student trained without it; else that student.

        Raises:
            TeacherRefused: unless the teacher is forced; then no such student is trained.
        """
        task, collection = self.task, self.request.collection
        if self.request.config.force_teacher:
            notes.append("teacher: forced, not compared on dev with a student trained without it")
            return None
        if not can_compare(collection):
            notes.append(
                "teacher: not compared on dev with a student trained without it, since that needs "
                "judged training queries and a dev split"
            )
            return None
        if (reason := unmeasured(task, teacher, "dev")) is not None:
            notes.append(
                f"teacher: not compared on dev with a student trained without it, since {reason}"
            )
            return None
        recipe = find("contrastive")
        settings = matching(self._settings(self.request.recipe), recipe)
        if settings.updates is None:  # as many as the student makes, of fewer queries
            passes = len(task.training_queries()) / settings.queries_per_update
            settings = settings.model_copy(update={"updates": default_updates(passes)})
        student = copy.deepcopy(self.request.student)
        self._train(recipe, None, student, settings)
        self._save(student, "baselines/contrastive", "trained with contrastive, without a teacher")
        taught = self._on_dev("teacher", teacher)
        measure = task.measures.first
        alone = measure.of(task.measure_encoder("contrastive", student, "dev").per_query)
        notes.append(
            f"teacher: {taught:.3f} {measure.name} on dev; "
            f"the student trained without it {alone:.3f}"
        )
        if not measure.better(taught, alone):
            self._refuse(
                f"On dev the teacher ({taught:.3f} {measure.name}) does not beat the student "
                f"trained without it ({alone:.3f}), so there is nothing to learn from it. Use "
                f"that student ({task.run.folder / 'baselines' / 'contrastive'}) or a stronger "
                "--teacher.",
                notes,
            )
        return student

    def _refuse(self, reason: str, notes: list[str]) -> None:
        """Stop here, unless the teacher is forced."""
        if not self.request.config.force_teacher:
            self.outputs.refuse_teacher(reason)
        notes.append(f"teacher: forced. {reason}")

    def _how(self, teacher: Teacher | None) -> str:
        """How the student was made, for its card; no times, dates or paths."""
        name = self.request.recipe.name
        if teacher is None:
            return f"trained with the recipe `{name}`"
        return f"distilled with the recipe `{name}` from a {teacher.kind} teacher"

    def _save(self, encoder: Encoder, name: str, how: str) -> None:
        """Keep a student of the run."""
        self.outputs.keep_model(encoder, name, _card("A small retriever", how))


def _scores(collection: Collection, lists: Sequence[QueryList]) -> pl.DataFrame:
    """A teacher's raw scores of lists, with ids; `relevant` is null where a query is not judged."""
    rows = [
        (entry.query_id, collection.passages.ids[passage], score, relevant)
        for entry in lists
        for passage, score, relevant in zip(
            [*entry.positives.tolist(), *entry.pool.tolist()],
            entry.scores["teacher"].tolist(),
            [True] * len(entry.positives)
            + [False if len(entry.positives) else None] * len(entry.pool),
            strict=True,
        )
    ]
    schema = {
        "query_id": pl.String,
        "passage_id": pl.String,
        "score": pl.Float32,
        "relevant": pl.Boolean,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _preset(request: Request) -> dict[str, dict[str, object]]:
    """What a preset set, as the record has it; no table without one."""
    return {"preset": {k: str(v) for k, v in request.preset.items()}} if request.preset else {}


def _auto(engine: Engine) -> dict[str, dict[str, object]]:
    """What `auto` chose and why, as the record has it; no table where nothing is to be said."""
    return {"auto": {"notes": list(engine.notes)}} if engine.notes else {}


def _engine(task: Retrieval) -> dict[str, str]:
    """What a run computes with, as its record has it."""
    engine = task.run.engine
    found = engine.key()
    if engine.backend != "torch":
        found[engine.backend] = version(engine.backend)
    if engine.training_precision is not None:
        found["training_precision"] = engine.training_precision
    if engine.workers is not None:  # how many does not matter
        found["batches"] = "on one thread each"
    return found


def _card(what: str, how: str, kind: str = "dual") -> str:
    """A model card without times, dates or paths: equal models have equal folders.

    Of an ensemble every member has it, whatever it is: there it shows no use.
    """
    uses = {
        "dual": (
            "from sentence_transformers import SentenceTransformer\n\n"
            'model = SentenceTransformer("path/to/this/folder")\n'
            'queries = model.encode_query(["a question"])\n'
            'passages = model.encode_document(["a passage"])\n'
            "print(model.similarity(queries, passages))\n"
        ),
        "cross": (
            "from sentence_transformers import CrossEncoder\n\n"
            'model = CrossEncoder("path/to/this/folder")\n'
            'print(model.predict([("a question", "a passage")]))\n'
        ),
    }
    task = "text-ranking" if kind == "cross" else "sentence-similarity"
    use = f"\n```python\n{uses[kind]}```\n" if kind in uses else ""
    return (
        f"---\nlibrary_name: sentence-transformers\npipeline_tag: {task}\n"
        "tags:\n- limbeck\n- sentence-transformers\n---\n\n"
        f"# {what}\n\nMade by [Limbeck](https://pypi.org/project/limbeck/): {how}.\n{use}"
    )
