"""How does one run go, step by step?

Fit or take a teacher, examine it, train the student, measure every system. Every step is an
artefact that is read back when it is there. What a method does is its recipe's business.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from limbeck.errors import TeacherRefused
from limbeck.models.encoder import Encoder
from limbeck.pipeline.asking import Request, measured_split, split_settings, teachers_wanted
from limbeck.pipeline.reporting import DECIDES, Result, finished, report
from limbeck.recipes import Recipe, find
from limbeck.record import (
    check_same_data,
    check_same_engine,
    environment,
    read_record,
    write_record,
)
from limbeck.settings import parse_settings
from limbeck.tasks.budget import Decided, fit_budget
from limbeck.tasks.retrieval import Retrieval, natural_temperature
from limbeck.tasks.systems import Measured, measure_bm25, measure_encoder, measure_teacher
from limbeck.teachers.diagnostics import diagnose, refusal
from limbeck.teachers.teachers import Teacher

DIAGNOSED_QUERIES = 300  # whose candidates a teacher is examined on
DIAGNOSED_DEPTH = 16  # candidates of each


def decide(request: Request, task: Retrieval, budget: float | None) -> Decided:
    """What a budget decides, read back on resume; `run.toml` is written before any work.

    Raises:
        ConfigError: when the data changed since the run began, or the budget is too short.
    """
    found = read_record(task.run.folder)
    if found is not None:
        check_same_data(task.run.folder, found, request.collection.digest)
        check_same_engine(task.run.folder, found, _engine(task))
        if found["asked"]["force_teacher"] != request.asked["force_teacher"]:
            write_record(task.run.folder, {**found, "asked": request.asked})
        return Decided(**found["decided"])
    decided = Decided()
    if budget is not None:
        fits = "teacher" in request.recipe.needs and request.teacher is None
        wanted = teachers_wanted(str(request.asked["teacher"])) if fits else ()
        decided = fit_budget(task, request.student, request.teacher, wanted, budget)
    write_record(
        task.run.folder,
        {
            "asked": request.asked,
            "collection": {
                "name": request.collection.name,
                "digest": request.collection.digest,
                "passages": len(request.collection.passages),
                "labelled": len(request.collection.labelled),
                "unlabelled": len(request.collection.unlabelled),
            },
            "decided": asdict(decided),
            "engine": _engine(task),
            "environment": environment(),
        },
    )
    return decided


@dataclass
class Distillation:
    """One run, step by step; every step is an artefact that is read back when it is there."""

    request: Request
    task: Retrieval
    decided: Decided
    force_teacher: bool

    def result(self) -> Result:
        """Fit or take a teacher, examine it, train the student, measure everything."""
        request, task = self.request, self.task
        notes = list(request.notes)
        split = measured_split(request.collection)
        undistilled = copy.deepcopy(request.student)
        self._save(undistilled, "baselines/undistilled", "cut from its base, not trained")
        systems: list[Measured] = []
        if split:
            systems += [
                measure_bm25(task, split),
                measure_teacher(task, "zero_shot", task.base, split),
                measure_encoder(task, "undistilled", undistilled, split),
            ]
        teacher = None
        if "teacher" in request.recipe.needs:
            teachers = self._teachers(notes)
            teacher = teachers[0]
            if split:
                systems.append(measure_teacher(task, "teacher", teacher, split))
                systems += [
                    measure_teacher(task, f"teacher/{each.kind}", each, split)
                    for each in teachers[1:]
                ]
            contrastive = self._examine(teacher, notes)
            if contrastive is not None and split:
                systems.append(measure_encoder(task, "contrastive", contrastive, split))
        student = copy.deepcopy(request.student)
        settings = self._settings(request.recipe)
        task.counts.clear()  # of the student it was compared with
        request.recipe.function(task, teacher, student, settings)
        self._save(student, "student", self._how(teacher))
        if split:
            systems.append(measure_encoder(task, "student", student, split))
        notes += [f"{what}: {count:,}" for what, count in sorted(task.counts.items())]
        if task.run.group.rank == 0:
            report(task, task.run.folder, systems, notes, task.run.seed)
        task.run.group.barrier()
        return finished(task.run.folder)

    def _settings(self, recipe: Recipe) -> Any:
        """A recipe's settings: its defaults, what the budget decided, what was asked."""
        own, fitted = split_settings(self.request.settings)
        asked = own if recipe.makes == "student" else fitted.get(recipe.name, {})
        updates = (
            self.decided.updates if recipe.makes == "student" else self.decided.teacher_updates
        )
        decided = {
            "updates": updates,
            "list_length": self.decided.list_length,
            "depth": self.decided.depth,
        }
        given = {
            key: value
            for key, value in decided.items()
            if value is not None and key in recipe.settings.model_fields
        }
        return parse_settings(recipe.settings, {**given, **asked})

    def _teachers(self, notes: list[str]) -> list[Teacher]:
        """The teacher, and whatever else was fitted to choose it from."""
        request, task = self.request, self.task
        if request.teacher is not None:
            return [request.teacher]
        wanted = teachers_wanted(str(request.asked["teacher"]))
        fits = {kind: find(f"teacher_{kind}") for kind in wanted}
        start = copy.deepcopy(request.base)
        found: list[Teacher] = []
        for kind, recipe in fits.items():
            if kind == "ensemble" and "dev" not in request.collection.qrels:
                notes.append("ensemble: not fitted, since its weights need a dev split")
                continue
            founded_on: Sequence[object] = found or [start]
            found.append(recipe.function(task, *founded_on, self._settings(recipe)))
        best = found[-1]
        if ":" not in str(request.asked["teacher"]) and "dev" in request.collection.qrels:
            quality = {each.kind: self._on_dev(f"teacher/{each.kind}", each) for each in found}
            best = max(found, key=lambda each: quality[each.kind])
            told = ", ".join(f"{kind} {value:.3f}" for kind, value in quality.items())
            notes.append(f"teacher: {best.kind}, the best on dev ({DECIDES}: {told})")
        elif ":" not in str(request.asked["teacher"]):
            best = found[0]
            notes.append("teacher: dual, since there is no dev split to choose on")
        card = _card("A teacher", f"a {best.kind} teacher, fitted on judged queries")
        self._write(best, "teacher", card)
        others = [each for each in found if each is not best]
        return [best, *others]

    def _on_dev(self, name: str, teacher: Teacher) -> float:
        """A teacher's figure on dev."""
        measured = measure_teacher(self.task, name, teacher, "dev")
        return float(measured.per_query[DECIDES].to_numpy().mean())

    def _examine(self, teacher: Teacher, notes: list[str]) -> Encoder | None:
        """Refuse a teacher that would not help; else the student it has to beat, if one is trained.

        Raises:
            TeacherRefused: unless the teacher is forced.
        """
        task, collection = self.task, self.request.collection
        queries = task.training_queries()[:DIAGNOSED_QUERIES]
        if len(queries):
            pools = task.pools(queries, depth=DIAGNOSED_DEPTH, teacher=task.base)
            lists = task.lists(pools, teacher=teacher)
            known = [entry for entry in lists if entry.scores is not None]
            marks = [
                np.arange(len(entry.positives) + len(entry.pool)) < len(entry.positives)
                for entry in known
            ]
            values = [entry.scores for entry in known if entry.scores is not None]
            diagnosis = diagnose(
                values,
                marks if collection.labelled else None,
                temperature=natural_temperature(teacher),
            )
            notes += [f"teacher: {line}" for line in diagnosis.lines()]
            if (reason := refusal(diagnosis)) is not None:
                self._refuse(reason, notes)
        if self.force_teacher:
            notes.append("teacher: forced, not compared on dev with a student trained without it")
            return None
        if not collection.labelled or "dev" not in collection.qrels:
            notes.append(
                "teacher: not compared on dev with a student trained without it, since that needs "
                "judged training queries and a dev split"
            )
            return None
        recipe = find("contrastive")
        settings = self._matching(recipe)
        student = copy.deepcopy(self.request.student)
        recipe.function(task, None, student, settings)
        self._save(student, "baselines/contrastive", "trained with contrastive, without a teacher")
        taught = self._on_dev("teacher", teacher)
        alone = float(
            measure_encoder(task, "contrastive", student, "dev")
            .per_query[DECIDES]
            .to_numpy()
            .mean()
        )
        notes.append(
            f"teacher: {taught:.3f} {DECIDES} on dev; the student trained without it {alone:.3f}"
        )
        if taught <= alone:
            self._refuse(
                f"On dev the teacher ({taught:.3f} {DECIDES}) does not beat the student trained "
                f"without it ({alone:.3f}), so there is nothing to learn from it. Use that student "
                f"({task.run.folder / 'baselines' / 'contrastive'}) or a stronger --teacher.",
                notes,
            )
        return student

    def _matching(self, recipe: Recipe) -> Any:
        """Settings of the comparison: what the student's recipe has in common with it."""
        own = self._settings(self.request.recipe).model_dump(exclude_unset=True)
        shared = {key: value for key, value in own.items() if key in recipe.settings.model_fields}
        return recipe.settings(**{k: v for k, v in shared.items() if k != "temperature"})

    def _refuse(self, reason: str, notes: list[str]) -> None:
        """Stop here, unless the teacher is forced."""
        if not self.force_teacher:
            raise TeacherRefused(f"{reason} --force-teacher goes on all the same; nothing is lost.")
        notes.append(f"teacher: forced. {reason}")

    def _how(self, teacher: Teacher | None) -> str:
        """How the student was made, for its card; no times, dates or paths."""
        name = self.request.recipe.name
        if teacher is None:
            return f"trained with the recipe `{name}`"
        return f"distilled with the recipe `{name}` from a {teacher.kind} teacher"

    def _save(self, encoder: Encoder, name: str, how: str) -> None:
        """Write a student of the run."""
        self._write(encoder, name, _card("A small retriever", how))

    def _write(self, model: Encoder | Teacher, name: str, card: str) -> None:
        """Write a model of the run; one that an earlier command wrote is replaced by its equal."""
        folder, run = self.task.run.folder / name, self.task.run
        if run.group.rank == 0:
            model.save(folder, card=card, stage=name.partition("/")[0])
        run.group.barrier()


def _engine(task: Retrieval) -> dict[str, str]:
    """What a run computes with, as its record has it."""
    engine = task.run.engine
    if engine.backend == "openvino":
        return {**engine.key(), "openvino": version("openvino")}
    return engine.key()


def _card(what: str, how: str) -> str:
    """A model card without times, dates or paths: equal models have equal folders."""
    return (
        "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n"
        "tags:\n- limbeck\n- sentence-transformers\n---\n\n"
        f"# {what}\n\nMade by [Limbeck](https://pypi.org/project/limbeck/): {how}.\n\n"
        "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        'model = SentenceTransformer("path/to/this/folder")\n'
        'queries = model.encode_query(["a question"])\n'
        'passages = model.encode_document(["a passage"])\n'
        "print(model.similarity(queries, passages))\n```\n"
    )
