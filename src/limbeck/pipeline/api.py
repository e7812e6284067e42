"""How does a collection become a small retriever, from files to a measured student?

The Python API: `distill`, `dry_run`, `evaluate`, `demo`. Each function validates everything it can
before it computes anything, keeps every step as an artefact, and resumes where an earlier call with
the same arguments stopped. What a method does is not known here, but in its recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from limbeck.config import RunConfig, takes_fields_of
from limbeck.data.dataset import Dataset, measured_split
from limbeck.errors import ConfigError, DataError, LimbeckError, ModelError
from limbeck.indexing import Hit, open_searcher
from limbeck.inference import choose_engine
from limbeck.language import AUTO
from limbeck.models.exported import is_exported, runtime_of
from limbeck.models.loading import (
    kind_of,
    load_encoder,
    load_late,
    load_ranker,
    load_sparse,
)
from limbeck.pipeline.distilling import (
    Distillation,
    can_compare,
    decide,
    engine_for,
    store_of,
    with_limit,
)
from limbeck.pipeline.fitting import fits_of
from limbeck.pipeline.memory import frees_memory
from limbeck.pipeline.outputs import RunFolder
from limbeck.pipeline.predicting import kind_of_model
from limbeck.pipeline.reporting import (
    METRICS,
    PAGE,
    Result,
    damage,
    finished,
    report,
    write_page,
)
from limbeck.pipeline.request import validate
from limbeck.record import check_same_run, open_folder, read_record, task_of
from limbeck.store import lock_folder
from limbeck.tasks.task import kind_named, kind_reading
from limbeck.training import Run
from limbeck.training.distributed import current_group
from limbeck.types import Logged, Progress, Silent, Split


@dataclass(frozen=True, kw_only=True)
class DistillCall(RunConfig):
    """The arguments of `distill`: the options of a run, and how this call makes it."""

    out: str | Path
    force: bool = False
    student_alone: bool = False
    reuse_from: Sequence[str | Path] = ()
    precision_from: str | Path | None = None
    progress: Progress | None = None


@frees_memory
@takes_fields_of(DistillCall)
def distill(call: DistillCall) -> Result:
    """Distil a teacher into a small student on a collection; the student lies in `out/student`.

    The same call goes on where an earlier one stopped, and repeats the result of a finished run.
    `settings` are the recipe's, as in `limbeck recipes NAME`; those of the recipes that fit a
    teacher carry its name: `teacher_dual.max_steps`. `budget_seconds` chooses steps, list length
    and candidate depth to fit; settings that are given win. Of several teachers the weighted mean
    teaches, each brought to one scale; without `teacher_weights` they count alike. `query_prompt`
    and `passage_prompt` come before every text that the student reads, and are saved with it.
    `workers` processes encode and score, as many as may change from call to call. `candidates` are
    files of scored pairs, such as runs: their passages join the pools of their training queries.
    `pairs` is a file of weak pairs of texts, for a recipe that learns from some. On a corpus
    without queries the `query_model`, a folder of a seq2seq model, writes them. The collection's
    `language` is what BM25 goes by: a code, or `auto`. `student_alone` measures no other system in
    the end, for data on which another run has done so. `reuse_from` are the folders
    of runs from which stages are taken that they made from the same inputs. `precision_from` is a
    run whose choice of precision is taken where `precision` is `auto`, instead of measuring.
    `force` goes on under other versions or on another machine, and accepts models that were made
    again and differ.

    Raises:
        ConfigError, DataError, ModelError: for input that cannot be used, before any work.
        TeacherRefused: when the teacher would not help; every artefact is kept.
        StoreError: when `out` is another run's, damaged or not writable.
    """
    out, progress = Path(call.out), call.progress or Logged()
    asked = call.asked()  # a language that is not covered is refused before any folder
    open_folder(out)
    if found := read_record(out):
        check_same_run(out, found, asked, force=call.force)
        if (out / METRICS).exists() and not _to_make_again(out, progress):
            return finished(out)
    request = validate(call)
    like = None if call.precision_from is None else read_record(Path(call.precision_from))
    engine = engine_for(request, found, current_group(), like=like)
    scores = store_of(call)
    reuse_from = [Path(each) for each in call.reuse_from]
    run = Run(out, call.seed, engine, progress, reuse_from=reuse_from)
    if run.group.rank:  # of several processes the first speaks
        run = replace(run, progress=(progress := Silent()))
    with lock_folder(out) if run.group.rank == 0 else nullcontext():
        if run.group.rank == 0:  # which alone writes metrics
            run = replace(run, engine=with_limit(engine, found))
        task = request.opened.start(run, scores)
        for line in (*request.notes(task.data), *engine.notes):
            progress.say(line)
        decided = run.first(lambda: decide(request, task))
        outputs = RunFolder(run)
        return Distillation(
            request, task, decided, outputs, call.student_alone, call.force
        ).result()


def _to_make_again(out: Path, progress: Progress) -> bool:
    """Whether something that a finished run left is missing or damaged; a page is made at once."""
    group = current_group()
    lost = damage(out) if group.rank == 0 else {}
    page = lost.pop(PAGE, None)
    for fault in lost.values():
        progress.say(f"{fault}: {out} is made again from its stages")
    again = bool(group.broadcast(float(bool(lost))))
    if again or group.rank or (page is None and (out / PAGE).exists()):
        return again
    data = _still_there(out)
    if data is None and (out / PAGE).exists():
        progress.say(f"{page}, and it is left so, since the data is gone or has changed")
        return False
    if data is None:
        progress.say(f"{PAGE} is written without texts, since the data is gone or has changed")
    with lock_folder(out):
        write_page(out, data)
    return False


def _still_there(out: Path) -> Dataset | None:
    """The data that a finished run worked on, for its page; None when it is gone."""
    try:
        record = read_record(out)
        return None if record is None else kind_named(task_of(record)).data_of(out)
    except LimbeckError:
        return None


@takes_fields_of(DistillCall)
def dry_run(call: DistillCall) -> list[str]:
    """The stages that `distill` would go through with the same arguments, a line each.

    Raises:
        ConfigError, DataError, ModelError: as `distill` would.
    """
    request = validate(call)
    opened, kind, data = request.opened, request.kind, request.opened.data
    lines = [*opened.stages(), *request.notes(data)]
    lines += [f"fit a teacher: {name}" for name in fits_of(kind, opened.teachers)]
    if len(opened.teachers.specs) > 1:
        lines.append("bring the teachers to one scale")
    if request.taught and opened.teachers.specs:
        lines.append("ask the teacher for its answers, and examine them")
        if can_compare(data) and not call.force_teacher:
            alone = kind.baselines[0]
            lines.append(f"train the same student with {alone}: the teacher must beat it on dev")
    lines += [f"fit a teacher: {name}" for name in request.recipe.fits]
    split = measured_split(data)
    lines += [
        f"train the student with {request.recipe.name}",
        f"measure every system on {split}" if split else "measure nothing: there are no judgements",
        f"write {call.out}/student, report.html, metrics.json and {kind.measures.file}",
    ]
    return lines


def load(path: str | Path) -> Any:
    """The model in a folder, or the student of a run: as an object of sentence-transformers, or of
    another task as `predict` takes it.

    It is on the CPU in fp32; a `CrossEncoder` gives raw scores. Other than there, a folder whose
    weights are not whole is refused.

    Raises:
        ModelError: when there is no model, or it was exported to another runtime.
    """
    kind, path = kind_of_model(path)
    if kind is not None:
        return kind.load(Path(path))
    if is_exported(str(path)):
        raise ModelError(
            f"{path} was exported to {runtime_of(str(path))}. Its README.md shows how to open it."
        )
    loaders = {
        "SentenceTransformer": load_encoder,
        "CrossEncoder": load_ranker,
        "SparseEncoder": load_sparse,
        "MultiVectorEncoder": load_late,
    }
    return loaders[kind_of(path)](path).model


@frees_memory
def evaluate(
    model: str,
    data: str | Path,
    *,
    split: Split = "test",
    out: str | Path | None = None,
    seed: int = 0,
    backend: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    drop_unknown_judgements: bool = False,
    keep_own_passage: bool = False,
    language: str = AUTO,
    image_size: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Measure a retriever or ranker on a split, beside BM25.

    A model without vectors re-ranks what BM25 and the offline encoder find. A folder that `export`
    wrote is a model, too, and so is a file of scores, which ranks the pairs it has. With `out`,
    metrics, per-query figures and TREC runs are written there.

    Raises:
        ConfigError, DataError, ModelError: for input that cannot be used.
    """
    from tempfile import TemporaryDirectory

    progress = progress or Logged()
    if out is not None:
        open_folder(Path(out))
        if read_record(Path(out)) is not None:
            raise ConfigError(
                f"--out {out} holds a run of `limbeck distill`, whose figures would be "
                "overwritten. Name a new folder."
            )
    config = RunConfig(
        data,
        seed=seed,
        backend=cast(Any, backend),
        precision=cast(Any, precision),
        workers=workers,
        drop_unknown_judgements=drop_unknown_judgements,
        keep_own_passage=keep_own_passage,
        language=language,
        image_size=image_size,
    )
    kind, (of_model, _) = kind_reading(data), kind_of_model(model)
    if of_model is not None and not kind.holds(data):
        kind = of_model  # which says what is wrong with the data
    found = kind.read(config)
    if split not in found.splits:
        there = ", ".join(found.splits) or "none"
        raise DataError(
            f"{found.name} has no judgements for {split} (it has: {there}). "
            "Choose another --split, or add qrels."
        )
    opened, system = kind.open_model(model, found, config)
    if backend == "auto" and is_exported(model):
        backend = runtime_of(model)  # where alone it runs
    engine = choose_engine(
        backend, precision, characters=opened.size, workers=workers, models=opened.models
    )
    for line in engine.notes:
        progress.say(line)
    engine = with_limit(engine, None)
    with TemporaryDirectory() as temporary:
        task = opened.start(Run(Path(temporary), seed, engine, progress), None)
        if (reason := task.unmeasured(system, split)) is not None:
            raise DataError(
                f"{model} cannot be measured on {split}: {reason}. Add the others, or choose "
                "another --split."
            )
        systems = [*task.beside(split), task.measure("model", system, split)]
        notes = [*task.data.notes, *engine.notes, *opened.notes]
        return report(task, Path(out) if out else None, systems, notes, seed)


def demo(
    out: str | Path,
    *,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    progress: Progress | None = None,
) -> tuple[Result, list[tuple[str, list[Hit]]]]:
    """A whole run on `pydocs`, and three live searches answered by its student.

    Returns the run's result and, per search, the query and its best passages.
    """
    progress = progress or Logged()
    result = distill(
        "pydocs",
        out=out,
        teacher="train:dual",
        recipe="embed",
        labels=DEMO_LABELS,
        settings=DEMO_SETTINGS,
        precision=precision,
        progress=progress,
    )
    hits = open_searcher(out, progress=progress).search(DEMO_QUERIES, DEMO_HITS)
    return result, list(zip(DEMO_QUERIES, hits, strict=True))


DEMO_QUERIES = (
    "replace missing values",
    "find the shortest path between two nodes",
    "make a progress bar",
)
DEMO_HITS = 3
DEMO_LABELS = 500  # as in most collections, far more queries have no judgements
DEMO_SETTINGS: dict[str, object] = {
    "max_steps": 120,
    "learning_rate": 1e-3,  # few steps, of many texts
    "eval_steps": 60,
    "teacher_dual.max_steps": 60,
    "teacher_dual.batch_size": 20,
    "teacher_dual.eval_steps": 60,
    "contrastive.learning_rate": 2e-4,  # its own default, at which it is better
    "contrastive.batch_size": 20,
}
