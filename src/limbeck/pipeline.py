"""How does a collection become a small retriever, from files to a measured student?

The verbs of the Python API: `distill`, `dry_run`, `evaluate`, `demo`. Each checks everything it can
before it computes anything, keeps every step as an artefact, and goes on where an earlier call with
the same arguments stopped. What a method does is its recipe's business.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from limbeck.data import read_collection
from limbeck.data.collection import Collection, with_labels
from limbeck.errors import ConfigError, DataError, TeacherRefused
from limbeck.evaluation.comparison import compare
from limbeck.evaluation.measures import read_trec, write_trec
from limbeck.evaluation.table import advice, as_text, row
from limbeck.inference import choose_engine, embed
from limbeck.models.encoder import Encoder
from limbeck.models.layers import LayerChoice, cut_layers, with_dimension
from limbeck.models.loading import OFFLINE, load_encoder
from limbeck.recipes import AUTO, Recipe, find
from limbeck.record import (
    check_same_run,
    environment,
    open_folder,
    read_record,
    write_record,
)
from limbeck.search import search_dense
from limbeck.settings import parse_settings
from limbeck.store import read_json, write_json, write_parquet
from limbeck.tasks.budget import Decided, fit_budget
from limbeck.tasks.retrieval import Retrieval, normalised
from limbeck.tasks.systems import (
    Measured,
    measure_bm25,
    measure_encoder,
    measure_teacher,
)
from limbeck.teachers.diagnostics import diagnose, refusal
from limbeck.teachers.score_store import ScoreStore
from limbeck.teachers.teachers import DualTeacher, Teacher, load_teacher
from limbeck.training import Run
from limbeck.types import Progress, Silent, Split

DECIDES = "nDCG@10"
DIAGNOSED_QUERIES = 300  # whose candidates a teacher is examined on
OFFLINE_LAYERS = 2  # of the student that is cut from the offline model
FITTED = "train"  # `--teacher train[:dual|cross|ensemble]`
TEACHERS = ("dual", "cross", "ensemble")


@dataclass(frozen=True, slots=True)
class Result:
    """What a run or an evaluation says: rows of `metrics.json`, the printed table, and in words
    what was decided on the way (`notes`) and what to do next (`advice`).

    `out` is the folder that holds the files, if any.
    """

    out: Path | None
    rows: list[dict[str, object]]
    notes: list[str]
    advice: list[str]
    table: str


@dataclass(frozen=True, slots=True)
class _Request:
    """What was asked, checked as far as it can be without computing."""

    asked: dict[str, object]
    collection: Collection
    recipe: Recipe
    settings: Mapping[str, object]
    base: Encoder
    student: Encoder
    teacher: Teacher | None  # None: fitted by this run, or the recipe needs none
    notes: tuple[str, ...]


def distill(
    data: str | Path,
    *,
    out: str | Path,
    teacher: str = FITTED,
    student: str | None = None,
    student_layers: int | None = None,
    layer_choice: LayerChoice = "spread",
    dim: int | None = None,
    recipe: str = "auto",
    settings: Mapping[str, object] | None = None,
    labels: int | None = None,
    seed: int = 0,
    budget_seconds: float | None = None,
    store: str | Path | None = None,
    backend: str = "auto",
    precision: str = "auto",
    force_teacher: bool = False,
    drop_unknown_judgements: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Distil a teacher into a small student on a collection; the student lies in `out/student`.

    The same call goes on where an earlier one stopped, and repeats the result of a finished run.
    `settings` are the recipe's, as in `limbeck recipes NAME`; those of the recipes that fit a
    teacher carry its name: `teacher_dual.updates`. `budget_seconds` chooses updates, list length
    and candidate depth to fit; settings that are given win.

    Raises:
        ConfigError, DataError, ModelError: for input that cannot be used, before any work.
        TeacherRefused: when the teacher would not help; every artefact is kept.
        StoreError: when `out` is another run's, damaged or not writable.
    """
    out, progress = Path(out), progress or Silent()
    asked: dict[str, object] = {
        "data": str(data),
        "teacher": teacher,
        "student": student,
        "student_layers": student_layers,
        "layer_choice": layer_choice,
        "dim": dim,
        "recipe": recipe,
        "settings": {key: str(value) for key, value in (settings or {}).items()},
        "labels": labels,
        "seed": seed,
        "budget_seconds": budget_seconds,
        "backend": backend,
        "precision": precision,
        "force_teacher": force_teacher,
        "drop_unknown_judgements": drop_unknown_judgements,
    }
    open_folder(out)
    if found := read_record(out):
        check_same_run(out, found, asked, force=force)
        if (out / "metrics.json").exists():
            return _finished(out)
    engine = choose_engine(backend, precision)
    request = _checked(asked, settings or {})
    run = Run(out, seed, engine, progress)
    scores = ScoreStore(Path(store)) if store else ScoreStore.default()
    task = Retrieval(request.collection, run, DualTeacher("base", request.base), scores)
    for line in request.notes:
        progress.say(line)
    decided = run.first(lambda: _decided(request, task, found, budget_seconds))
    return _Distillation(request, task, decided, force_teacher).result()


def dry_run(data: str | Path, **arguments: Any) -> list[str]:
    """The stages that `distill` would go through with the same arguments, a line each.

    Raises:
        ConfigError, DataError, ModelError: as `distill` would.
    """
    arguments.pop("progress", None)
    defaults = distill.__kwdefaults__ or {}
    asked = {"data": str(data), **defaults, **arguments}
    request = _checked(asked, asked["settings"] or {})
    collection, needs = request.collection, request.recipe.needs
    lines = [
        f"read {len(collection.passages):,} passages and {_training_queries(collection)}",
        *request.notes,
        "tokenise queries and passages once per tokenizer",
        "mine candidates with BM25 and with vectors",
    ]
    if "teacher" in needs and request.teacher is None:
        wanted = _teachers_wanted(str(asked["teacher"]))
        lines += [f"fit a teacher: {name}" for name in wanted]
    if "teacher" in needs:
        lines.append("ask the teacher for scores or vectors, and examine them")
        if collection.labelled and "dev" in collection.qrels and not asked["force_teacher"]:
            lines.append("train the same student with contrastive: the teacher must beat it on dev")
    split = _measured_split(collection)
    lines += [
        f"train the student with {request.recipe.name}",
        f"measure every system on {split}" if split else "measure nothing: there are no judgements",
        f"write {asked['out']}/student, metrics.json, per_query.parquet and runs/",
    ]
    return lines


def evaluate(
    model: str,
    data: str | Path,
    *,
    split: Split = "test",
    out: str | Path | None = None,
    seed: int = 0,
    backend: str = "auto",
    precision: str = "auto",
    drop_unknown_judgements: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Measure a retriever or ranker on a split, beside BM25.

    A ranker re-ranks what BM25 and the offline encoder find. With `out`, metrics, per-query
    figures and TREC runs are written there.

    Raises:
        ConfigError, DataError, ModelError: for input that cannot be used.
    """
    from tempfile import TemporaryDirectory

    progress = progress or Silent()
    engine = choose_engine(backend, precision)
    collection = read_collection(data, drop_unknown_judgements=drop_unknown_judgements)
    if split not in collection.qrels:
        there = ", ".join(collection.qrels) or "none"
        raise DataError(
            f"{collection.name} has no judgements for {split} (it has: {there}). "
            "Choose another --split, or add qrels."
        )
    asked = load_teacher(model)
    if out is not None:
        open_folder(Path(out))
    with TemporaryDirectory() as temporary:
        base = (
            asked if isinstance(asked, DualTeacher) else DualTeacher("base", load_encoder(OFFLINE))
        )
        run = Run(Path(temporary), seed, engine, progress)
        task = Retrieval(collection, run, base, None)
        systems = [measure_bm25(task, split), measure_teacher(task, "model", asked, split)]
        return _report(task, Path(out) if out else None, systems, list(collection.notes), seed)


def demo(
    out: str | Path, *, precision: str = "auto", progress: Progress | None = None
) -> tuple[Result, list[tuple[str, list[tuple[float, str]]]]]:
    """A whole run on `pydocs`, and three live searches answered by its student.

    Returns the run's result and, per search, the query and its best passages with their scores.
    """
    progress = progress or Silent()
    result = distill(
        "pydocs",
        out=out,
        teacher="train:dual",
        settings={"updates": 150, "teacher_dual.updates": 60, **DEMO_SETTINGS},
        precision=precision,
        progress=progress,
    )
    collection = read_collection("pydocs")
    queries = [
        "read a table from a csv file",
        "stop the optimizer early",
        "escape special characters",
    ]
    hits = search(Path(out) / "student", collection, queries, progress=progress)
    return result, list(zip(queries, hits, strict=True))


def search(
    student: Path,
    collection: Collection,
    queries: Sequence[str],
    *,
    depth: int = 3,
    progress: Progress | None = None,
) -> list[list[tuple[float, str]]]:
    """The best passages of a collection for queries, by a student: (score, text) each."""
    from limbeck.data.tokens import tokenize_here

    encoder, engine = load_encoder(student), choose_engine()
    vectors = [
        embed(
            encoder,
            tokenize_here(texts, encoder.tokenizer, prompt=encoder.prompt(role)),
            role,
            engine=engine,
            progress=progress,
        )
        for texts, role in _fields(queries, collection)
    ]
    if encoder.similarity == "cosine":
        vectors = [normalised(found) for found in vectors]
    found, scores = search_dense(vectors[0], vectors[1], depth)
    return [
        [
            (float(score), collection.passages.texts[at])
            for at, score in zip(row, own, strict=True)
            if at >= 0
        ]
        for row, own in zip(found.tolist(), scores.tolist(), strict=True)
    ]


DEMO_QUERIES = (
    "read a table from a file",
    "stop when the loss is flat",
    "escape special characters",
)
DEMO_SETTINGS: dict[str, object] = {
    "queries_per_update": 32,
    "teacher_dual.queries_per_update": 32,
}


def _fields(
    queries: Sequence[str], collection: Collection
) -> list[tuple[Sequence[str], Literal["query", "passage"]]]:
    return [(list(queries), "query"), (collection.passages.texts, "passage")]


# --- checking what was asked -----------------------------------------------------------------


def _checked(asked: Mapping[str, Any], settings: Mapping[str, object]) -> _Request:
    """Everything that can be refused before any expensive work, refused."""
    notes: list[str] = []
    name = str(asked["recipe"])
    if name == "auto":
        name = AUTO
        notes.append(f"recipe: auto is {AUTO}")
    recipe = find(name)
    if recipe.makes != "student":
        raise ConfigError(f"{name} fits a teacher. Use it through --teacher train, with a recipe.")
    own, _ = _split_settings(settings)
    parse_settings(recipe.settings, own)
    for fitted, values in _split_settings(settings)[1].items():
        parse_settings(find(fitted).settings, values, where=f"--set {fitted}.")
    fits = str(asked["teacher"]).partition(":")[0] == FITTED
    wanted = _teachers_wanted(str(asked["teacher"])) if fits else ()
    collection = read_collection(
        asked["data"],
        seed=asked["seed"],
        drop_unknown_judgements=asked["drop_unknown_judgements"],
    )
    if asked["labels"] is not None:
        collection = with_labels(collection, asked["labels"], asked["seed"])
    notes = [*collection.notes, *notes]
    _check_labels(collection, recipe, wanted)
    base, student = _students(asked)
    teacher = None
    if "teacher" in recipe.needs and not fits:
        teacher = replace(load_teacher(str(asked["teacher"])), name="teacher")  # type: ignore[type-var]
    elif "teacher" not in recipe.needs:
        notes.append(f"teacher: none, {name} learns from judgements alone")
    if "vectors" in recipe.needs and (
        (teacher is not None and not teacher.in_batch) or (teacher is None and wanted != ("dual",))
    ):
        raise ConfigError(
            f"{name} needs a teacher with vectors. Use --teacher train:dual, an embedding model, "
            "or --recipe kl, which takes any teacher."
        )
    if not len(collection.labelled) + len(collection.unlabelled) and name != "embed":
        raise DataError(
            f"{collection.name} has no training query, judged or not: all are in dev or test. Add "
            "queries to queries.jsonl, or use --recipe embed, which can learn from passages alone."
        )
    for split in ("dev", "test"):
        if split not in collection.qrels:
            notes.append(_without(split, collection))
    return _Request(dict(asked), collection, recipe, settings, base, student, teacher, tuple(notes))


def _without(split: str, collection: Collection) -> str:
    """What follows from a missing split."""
    if split == "dev":
        return "dev: none, so the last weights are kept and the teacher is not compared on dev"
    if "dev" in collection.qrels:
        return "test: none, so the table is measured on dev, which also chose the weights"
    return "test: none, and no dev either: nothing is measured"


def _check_labels(collection: Collection, recipe: Recipe, wanted: Sequence[str]) -> None:
    """Refuse what learns from judgements where there are none."""
    if collection.labelled:
        if "ensemble" in wanted and len(wanted) == 1 and "dev" not in collection.qrels:
            raise DataError(
                f"{collection.name} has no dev split, on which an ensemble is fitted. "
                "Add qrels/dev.tsv, or use --teacher train:dual."
            )
        return
    if "labels" in recipe.needs:
        raise DataError(
            f"{collection.name} has no training query with a positive, which {recipe.name} learns "
            "from. Add qrels/train.tsv, or use --recipe kl with --teacher PATH."
        )
    if wanted and "teacher" in recipe.needs:
        raise DataError(
            f"{collection.name} has no training query with a positive to fit a teacher on. "
            "Add qrels/train.tsv, or name a fitted model with --teacher PATH."
        )


def _students(asked: Mapping[str, Any]) -> tuple[Encoder, Encoder]:
    """The encoder as it comes, and the student cut from it."""
    base = load_encoder(asked["student"] or OFFLINE)
    layers = asked["student_layers"]
    if layers is None and asked["student"] is None:
        layers = OFFLINE_LAYERS
    student = copy.deepcopy(base)
    if layers is not None:
        student = cut_layers(student, layers, asked["layer_choice"])
    if asked["dim"] is not None:
        student = with_dimension(student, asked["dim"], asked["seed"])
    return base, student


def _teachers_wanted(teacher: str) -> tuple[str, ...]:
    """Which teachers `train[:KIND]` fits, in order.

    Raises:
        ConfigError: for a kind that there is not.
    """
    _, _, kind = teacher.partition(":")
    if kind not in ("", *TEACHERS):
        raise ConfigError(
            f"--teacher {teacher!r}: there is no such teacher to fit. "
            "Use train, train:dual, train:cross or train:ensemble."
        )
    return TEACHERS if kind in ("", "ensemble") else TEACHERS[: TEACHERS.index(kind) + 1]


def _split_settings(
    settings: Mapping[str, object],
) -> tuple[dict[str, object], dict[str, dict[str, object]]]:
    """The recipe's own settings, and those of the recipes that fit a teacher."""
    own: dict[str, object] = {}
    fitted: dict[str, dict[str, object]] = {}
    for key, value in settings.items():
        name, dot, rest = key.partition(".")
        if dot:
            fitted.setdefault(name, {})[rest] = value
        else:
            own[key] = value
    return own, fitted


def _training_queries(collection: Collection) -> str:
    """How many training queries there are, in words."""
    labelled, unlabelled = len(collection.labelled), len(collection.unlabelled)
    return f"{labelled:,} labelled and {unlabelled:,} unlabelled training queries"


def _measured_split(collection: Collection) -> Split | None:
    """Where figures come from: test, or dev where there is no test."""
    order: tuple[Split, ...] = ("test", "dev")
    for split in order:
        if split in collection.qrels:
            return split
    return None


def _decided(
    request: _Request, task: Retrieval, found: Mapping[str, Any] | None, budget: float | None
) -> Decided:
    """What a budget decides, read back on resume; `run.toml` is written before any work."""
    if found is not None:
        return Decided(**found.get("decided", {}))
    decided = Decided()
    if budget is not None:
        fits = "teacher" in request.recipe.needs and request.teacher is None
        wanted = _teachers_wanted(str(request.asked["teacher"])) if fits else ()
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
            "environment": environment(),
        },
    )
    return decided


# --- doing it --------------------------------------------------------------------------------


@dataclass
class _Distillation:
    """One run, step by step; every step is an artefact that is read back when it is there."""

    request: _Request
    task: Retrieval
    decided: Decided
    force_teacher: bool

    def result(self) -> Result:
        """Fit or take a teacher, examine it, train the student, measure everything."""
        request, task = self.request, self.task
        notes = list(request.notes)
        split = _measured_split(request.collection)
        undistilled = copy.deepcopy(request.student)
        self._save(undistilled, "baselines/undistilled", "cut from its base, not trained")
        systems: list[Measured] = []
        if split:
            systems += [
                measure_bm25(task, split),
                measure_encoder(task, "zero_shot", request.base, split),
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
        request.recipe.function(task, teacher, student, settings)
        self._save(student, "student", self._how(teacher))
        if split:
            systems.append(measure_encoder(task, "student", student, split))
        notes += [f"{what}: {count:,}" for what, count in sorted(task.counts.items())]
        return task.run.first(lambda: _report(task, task.run.folder, systems, notes, task.run.seed))

    def _settings(self, recipe: Recipe) -> Any:
        """A recipe's settings: its defaults, what the budget decided, what was asked."""
        own, fitted = _split_settings(self.request.settings)
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
        wanted = _teachers_wanted(str(request.asked["teacher"]))
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
        folder = task.run.folder / "teacher"
        if not folder.exists():
            task.run.first(
                lambda: best.save(folder, card=_card("A teacher", "fitted"), stage="teacher")
            )
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
            pools = task.pools(queries, depth=16, teacher=task.base)
            lists = task.lists(pools, teacher=teacher)
            known = [entry for entry in lists if entry.scores is not None]
            marks = [
                np.arange(len(entry.positives) + len(entry.pool)) < len(entry.positives)
                for entry in known
            ]
            values = [entry.scores for entry in known if entry.scores is not None]
            diagnosis = diagnose(values, marks if collection.labelled else None)
            notes += [f"teacher: {line}" for line in diagnosis.lines()]
            if (reason := refusal(diagnosis)) is not None:
                self._refuse(reason, notes)
        if not collection.labelled or "dev" not in collection.qrels:
            notes.append(
                "teacher: not compared on dev with a student trained without it, since that needs "
                "judged training queries and a dev split"
            )
            return None
        recipe = find("contrastive")
        settings = (
            self._settings(recipe) if self.request.recipe is recipe else self._matching(recipe)
        )
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
        """Write a model of the run, once."""
        folder = self.task.run.folder / name
        card = _card("A small retriever", how)

        def save() -> None:
            if not (folder / "README.md").exists():
                encoder.save(folder, card=card, stage=name.partition("/")[0])

        self.task.run.first(save)


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


# --- saying what came of it ------------------------------------------------------------------


def _report(
    task: Retrieval, out: Path | None, systems: Sequence[Measured], notes: list[str], seed: int
) -> Result:
    """Rows, comparisons and advice; with `out`, the files that hold them."""
    rows = [
        row(each.name, each.split, each.per_query, cost=each.cost, seed=seed) for each in systems
    ]
    notes = [*notes, *_comparisons(systems, rows, seed)]
    said = advice(rows)
    if out is not None:
        _write_runs(task, out, systems)
        write_json(
            out / "metrics.json", {"rows": rows, "notes": notes, "advice": said}, stage="report"
        )
    return Result(out, rows, notes, said, as_text(rows) if rows else "")


def _comparisons(
    systems: Sequence[Measured], rows: list[dict[str, object]], seed: int
) -> list[str]:
    """The student against every other system: differences, Holm-corrected p, in rows and words."""
    student = next((each for each in systems if each.name == "student"), None)
    others = {each.name: each.per_query for each in systems if each is not student}
    if student is None or not others:
        return []
    lines = []
    found = {each.other: each for each in compare(student.per_query, others, DECIDES, seed)}
    for entry in rows:
        if entry["model"] in found:
            each = found[str(entry["model"])]
            entry["student_minus_this"] = each.difference
            entry["p_holm"] = each.p_holm
            lines.append(
                f"student - {each.other}: {each.difference:+.4f} {DECIDES}, p = {each.p_holm:.4f} "
                f"(paired randomisation, Holm); differences from {each.visible:.4f} can be seen"
            )
    return lines


def _write_runs(task: Retrieval, out: Path, systems: Sequence[Measured]) -> None:
    """`per_query.parquet` and one TREC run per system."""
    if not systems:
        return
    frames = [
        each.per_query.with_columns(
            pl.lit(each.name).alias("model"), pl.lit(each.split).alias("split")
        )
        for each in systems
    ]
    write_parquet(out / "per_query.parquet", pl.concat(frames), stage="report")
    for each in systems:
        results = read_trec(task.run.folder / "stages" / each.stage / "run.trec")
        tag = each.name.replace("/", "-")
        write_trec(out / "runs" / f"{tag}.trec", results, tag=tag, stage="report")


def _finished(out: Path) -> Result:
    """The result of a run that is done, from its files."""
    found = read_json(out / "metrics.json")
    rows = found["rows"]
    return Result(out, rows, found["notes"], found["advice"], as_text(rows) if rows else "")
