"""Is our training loop as good as sentence-transformers' own, and how long does an update take?

The same student, the same lists in the same order, the same loss (KL over a query's own list, with
the same temperatures and the same factor), learning rates, clipping and dropout of 0: once with
`SentenceTransformerTrainer` and `DistillKLDivLoss`, once with our loop, both in fp32; our default
precision is a third row. First come short bursts of updates, alternated, for the time per update;
then whole trainings with several seeds for nDCG@10. Needs the extra `bench`.

    python benchmarks/head_to_head.py DATA --work DIR --name head-to-head
"""

from __future__ import annotations

import copy
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import nn

from ledger import Bench, numbers, parser, write_results
from limbeck import store
from limbeck.bench.budget import MAX_STEPS
from limbeck.bench.page import table
from limbeck.config.teacher_spec import TeacherSpec
from limbeck.data import read_collection
from limbeck.data.collection import DATA_SEED, with_labels
from limbeck.data.dataset import measured_split
from limbeck.evaluation.comparison import compare, mean_over_seeds
from limbeck.evaluation.statistics import Mean
from limbeck.inference import Engine, choose_engine
from limbeck.models.encoder import Encoder
from limbeck.models.layers import cut_layers
from limbeck.models.loading import OFFLINE, load_encoder
from limbeck.objectives.listwise import kl_divergence
from limbeck.recipes import find
from limbeck.settings import parse_settings
from limbeck.similarity import softmax_temperature
from limbeck.sources import ListBatch, ListSource, QueryLists
from limbeck.tasks.fit import train_model
from limbeck.tasks.retrieval import Retrieval
from limbeck.tasks.retrieval.opening import OFFLINE_LAYERS
from limbeck.tasks.retrieval.scorers import dual, from_batch
from limbeck.tasks.retrieval.systems import measure_encoder
from limbeck.teachers import DualTeacher, Teacher, load_teacher
from limbeck.teachers.score_store import ScoreStore
from limbeck.training import Run, Turn, forward
from limbeck.types import Loss, Signals

DECIDES = "nDCG@10"
clock = time.perf_counter  # of the time per update; benchmarks/speed.py may take another
THEIRS, OURS, DEFAULT = "sentence-transformers fp32", "limbeck fp32", "limbeck default"


@dataclass(frozen=True, slots=True)
class Setup:
    """What both sides share."""

    student: Encoder
    base: DualTeacher
    lists: QueryLists
    task: Retrieval  # for texts, and for measuring everyone in fp32
    settings: Any  # of the recipe `kl`: learning rate, warm-up, sizes, temperatures
    teacher_temperature: float

    def source(self, seed: int) -> ListSource:
        sizes = self.settings.batch_size, self.settings.list_length
        return ListSource(self.lists, *sizes, seed)


@dataclass(slots=True)
class Clocked:
    """A source that notes when each update asks for its batch."""

    source: ListSource
    times: list[float] = field(default_factory=list)

    @property
    def digest(self) -> str:
        return self.source.digest

    @property
    def updates_per_pass(self) -> float:
        return self.source.updates_per_pass

    @property
    def dropped(self) -> Mapping[str, int]:
        return self.source.dropped

    def batch(self, update: int) -> ListBatch:
        self.times.append(clock())
        return self.source.batch(update)


@dataclass(frozen=True, slots=True)
class Trained:
    """A student after training, the loss of every update, and the seconds between updates."""

    student: Encoder
    losses: list[float]
    seconds: list[float]


def main() -> int:
    asked = options()
    setup = prepare(asked)
    engines = {OURS: choose_engine("auto", "fp32")}
    if choose_engine(trains=True) != engines[OURS]:
        engines[DEFAULT] = choose_engine(trains=True)
    sides = [THEIRS, *engines]
    bursts = time_updates(setup, engines, asked.rounds, asked.burst)
    frames: dict[str, list[pl.DataFrame]] = {side: [] for side in sides}
    first_losses: dict[str, list[float]] = {side: [] for side in sides}
    for seed in asked.seeds:
        for side in sides:
            frame, loss = whole_training(setup, side, engines.get(side), seed, asked.work)
            frames[side].append(frame)
            first_losses[side].append(loss)
    record = {
        "benchmark": "head_to_head",
        "data": {
            "name": setup.task.collection.name,
            "digest": setup.task.collection.digest,
            "passages": len(setup.task.collection.passages),
            "queries_with_lists": len(setup.lists),
        },
        "seeds": asked.seeds,
        "teacher": TeacherSpec.parse(asked.teacher).shown,
        "student_layers": asked.student_layers,
        "labels": asked.labels,
        "settings": setup.settings.model_dump()
        | {"teacher_temperature": setup.teacher_temperature},
        "default_precision": choose_engine(trains=True).training().precision,
        "rounds": asked.rounds,
        "burst": asked.burst,
        **figures(frames, first_losses, bursts),
    }
    name = asked.name or f"head-to-head-{setup.task.collection.name}"
    write_results(asked.results, name, record, page(record))
    return 0


def options() -> Any:
    asked = parser(__doc__)
    asked.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    asked.add_argument("--rounds", type=int, default=4, help="bursts of each side")
    asked.add_argument("--burst", type=int, default=20, help="updates in one burst")
    return asked.parse_args()


def prepare(asked: Any) -> Setup:
    """The student, its lists with the teacher's scores, and what measures everyone."""
    bench = Bench.of(asked)
    own = [part.removeprefix("kl.") for part in asked.assignments]
    settings: Any = parse_settings(
        find("kl").settings,
        {"max_steps": MAX_STEPS, "eval_steps": 0, "keep": "last"}
        | dict(part.split("=", 1) for part in own if "." not in part.partition("=")[0]),
    )
    collection = read_collection(asked.data, seed=DATA_SEED)
    if asked.labels is not None:
        collection = with_labels(collection, asked.labels, DATA_SEED)
    folder, _ = bench.teacher(asked.teacher)
    teacher: Teacher = load_teacher(folder)
    base = DualTeacher("base", load_encoder(bench.student or OFFLINE))
    layers = bench.student_layers or (OFFLINE_LAYERS if bench.student is None else None)
    student = copy.deepcopy(base.encoder)
    if layers is not None:
        student = cut_layers(student, layers, "spread")
    run = Run(asked.work / "lists", 0, choose_engine("auto", "fp32"))
    task = Retrieval(collection, run, base, ScoreStore(asked.work / "store"))
    miner = teacher if teacher.in_batch else base
    pools = task.pools(task.training_queries(), depth=settings.candidates_per_query, miner=miner)
    # Their trainer takes lists of one length: whoever has fewer passages to draw is left out.
    found = task.lists(pools, teacher=teacher)
    long = [
        entry
        for entry in found
        if 1 + len(entry.pool) - (not len(entry.positives)) >= settings.list_length
    ]
    lists = replace(found, entries=long)
    temperature = settings.teacher_temperature or teacher.temperature
    settings = with_temperature(settings, student)
    return Setup(student, base, lists, task, settings, temperature)


def with_temperature(settings: Any, student: Encoder) -> Any:
    """The settings with the student's temperature said, where they leave it to its similarity."""
    temperature = settings.temperature or softmax_temperature(student.similarity)
    return settings.model_copy(update={"temperature": temperature})


# --- the two sides ------------------------------------------------------------------------------


def ours(setup: Setup, engine: Engine, seed: int, updates: int, folder: Path) -> Trained:
    """Our loop; the folder keeps the stage, so that a finished one is read back."""
    # Theirs writes nothing while it trains, so ours does not either.
    changed = {"max_steps": updates, "save_steps": updates + 1}
    settings = setup.settings.model_copy(update=changed)
    run = Run(folder, seed, engine)
    task = Retrieval(setup.task.collection, run, setup.base, None)
    student = copy.deepcopy(setup.student)
    source = Clocked(setup.source(seed))

    def loss(signals: Signals) -> Loss:
        divergence = kl_divergence(
            signals.scores["teacher"],
            signals.scores["student"],
            teacher_temperature=setup.teacher_temperature,
            student_temperature=settings.temperature,
        )
        return Loss({"kl": settings.temperature**2 * divergence})  # the factor that theirs has

    both = forward(dual(task, "student", student), from_batch("teacher"))
    turn = Turn(both, loss, trains=frozenset({"student"}))
    train_model(task, "own-lists", student, source, turn, settings)
    curves = store.read_json(folder / "stages" / "train-own-lists" / "curves.json")
    losses = [each["kl"] for each in curves["losses"]]
    return Trained(student.eval(), losses, between(source.times))


def theirs(setup: Setup, seed: int, updates: int, *, bf16: bool = False) -> Trained:
    """Their trainer, on rows in the order of our updates; with `bf16`, under its autocast."""
    import transformers
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
    from sentence_transformers.util import pairwise_cos_sim, pairwise_dot_score

    settings = setup.settings
    student = copy.deepcopy(setup.student)
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = settings.dropout
    model = student.model
    similarity = pairwise_dot_score if student.similarity == "dot" else pairwise_cos_sim
    loss = DistillKLDivLoss(
        model,
        similarity_fct=similarity,
        student_temperature=settings.temperature,
        teacher_temperature=setup.teacher_temperature,
    )
    losses: list[float] = []
    loss.register_forward_hook(lambda module, inputs, value: losses.append(float(value.detach())))
    rows = dataset(setup, seed, updates)
    passages = [name for name in rows.column_names if name not in ("query", "label")]
    prompts = {"query": student.prompt("query")} | dict.fromkeys(
        passages, student.prompt("passage")
    )
    watch = _clock()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=scratch,
            max_steps=updates,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=int(settings.warmup_ratio * updates),
            weight_decay=settings.weight_decay,
            max_grad_norm=1.0,
            batch_sampler=in_order,
            prompts=prompts if any(prompts.values()) else None,
            fp16=False,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),  # which bf16 there must be told
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=True,
        )
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=rows, loss=loss, callbacks=[watch]
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return Trained(student.eval(), losses, between(watch.times))


def in_order(dataset: Any, **arguments: Any) -> Any:
    """Their batch sampler without its shuffling: the rows are in order already."""
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from torch.utils.data import SequentialSampler

    return DefaultBatchSampler(SequentialSampler(dataset), **arguments)


def dataset(setup: Setup, seed: int, updates: int) -> Any:
    """The queries, lists and teacher's scores of our updates, a row per query."""
    import datasets

    collection, source = setup.task.collection, setup.source(seed)
    batches = [source.batch(update) for update in range(updates)]
    rows: dict[str, list[Any]] = {
        "query": [collection.queries.texts[at] for batch in batches for at in batch.queries]
    }
    for slot in range(setup.settings.list_length):
        rows["positive" if slot == 0 else f"negative_{slot}"] = [
            collection.passages.texts[at]
            for batch in batches
            for at in batch.passages[batch.lists[:, slot]]
        ]
    rows["label"] = [scores.tolist() for batch in batches for scores in batch.scores["teacher"]]
    return datasets.Dataset.from_dict(rows)


def _clock() -> Any:
    """A callback of theirs that notes when each update begins."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_begin(self, *given: Any, **named: Any) -> None:
            self.times.append(clock())

    return Clock()


def between(times: Sequence[float]) -> list[float]:
    """Seconds from the beginning of each update to that of the next."""
    return [after - before for before, after in itertools.pairwise(times)]


# --- time and quality ---------------------------------------------------------------------------


def time_updates(
    setup: Setup, engines: Mapping[str, Engine], rounds: int, burst: int
) -> dict[str, list[float]]:
    """Each side's median seconds per update in every round; sides take turns at going first."""
    found: dict[str, list[float]] = {side: [] for side in (THEIRS, *engines)}
    sides = list(found)
    for number in range(rounds):
        for place in range(len(sides)):
            side = sides[(number + place) % len(sides)]
            with tempfile.TemporaryDirectory() as scratch:
                trained = (
                    ours(setup, engines[side], number, burst, Path(scratch))
                    if side in engines
                    else theirs(setup, number, burst)
                )
            # The first updates warm up allocators and caches.
            seconds = statistics.median(trained.seconds[min(2, len(trained.seconds) - 1) :])
            found[side].append(seconds)
            print(f"round {number}, {side}: {seconds:.3f} s per update", flush=True)
    return found


def whole_training(
    setup: Setup, side: str, engine: Engine | None, seed: int, work: Path
) -> tuple[pl.DataFrame, float]:
    """A side's figures per query and first loss for a seed, read back when they are there."""
    folder = work / f"{side.replace(' ', '-')}-{seed}"
    inputs = store.digest(
        [
            setup.source(seed).digest,
            setup.settings.model_dump(),
            setup.teacher_temperature,
            setup.student.weights_digest(),
        ]
    )
    kept, frame = folder / "trained.json", folder / "per_query.parquet"
    if kept.exists() and store.read_json(kept)["inputs"] == inputs:
        return store.read_parquet(frame), store.read_json(kept)["first_loss"]
    print(f"== {side}, seed {seed}", flush=True)
    updates = setup.settings.max_steps
    trained = (
        theirs(setup, seed, updates)
        if engine is None
        else ours(setup, engine, seed, updates, folder)
    )
    split = measured_split(setup.task.collection)
    if split is None:
        sys.exit("There is neither a test nor a dev split to measure on.")
    name = f"{side.replace(' ', '-')}-{seed}"
    measured = measure_encoder(setup.task, name, trained.student, split).per_query
    store.write_parquet(frame, measured, stage="head-to-head")
    store.write_json(
        kept, {"inputs": inputs, "first_loss": trained.losses[0]}, stage="head-to-head"
    )
    return measured, trained.losses[0]


def figures(
    frames: Mapping[str, Sequence[pl.DataFrame]],
    first_losses: Mapping[str, Sequence[float]],
    bursts: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Rows, and each of ours against theirs."""
    means = {side: mean_over_seeds(found) for side, found in frames.items()}
    rows = []
    for side, found in frames.items():
        per_seed = [float(frame[DECIDES].to_numpy().mean()) for frame in found]
        ratios = [own / base for own, base in zip(bursts[side], bursts[THEIRS], strict=True)]
        rows.append(
            {
                "side": side,
                DECIDES: statistics.mean(per_seed),
                "per_seed": per_seed,
                "seed_spread": statistics.stdev(per_seed) if len(per_seed) > 1 else None,
                "first_loss": list(first_losses[side]),
                "seconds_per_update": statistics.median(bursts[side]),
                "seconds_per_update_by_round": list(bursts[side]),
                "time_ratio": statistics.median(ratios),
                "time_ratio_range": [min(ratios), max(ratios)],
            }
        )
    others = {side: means[side] for side in means if side != THEIRS}
    comparisons = {
        each.other: {
            "minus_theirs": -each.difference.value,
            "p_holm": each.p_holm,
            "visible": each.visible,
        }
        for each in compare(means[THEIRS], others, Mean(name=DECIDES), 0)
    }
    return {"queries": len(means[THEIRS]), "rows": rows, "comparisons": comparisons}


def page(record: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    data, settings = record["data"], record["settings"]
    visible = record["comparisons"][OURS]["visible"]
    cells = []
    for row in record["rows"]:
        against = record["comparisons"].get(row["side"])
        low, high = row["time_ratio_range"]
        spread = row["seed_spread"]
        cells.append(
            [
                row["side"] + (f" ({record['default_precision']})" * (row["side"] == DEFAULT)),
                f"{row[DECIDES]:.4f}",
                "" if spread is None else f"{spread:.4f}",
                f"{against['minus_theirs']:+.4f}" if against else "",
                f"{against['p_holm']:.4f}" if against else "",
                f"{row['first_loss'][0]:.6f}",
                f"{1000 * row['seconds_per_update']:.0f}",
                f"{row['time_ratio']:.2f} [{low:.2f}, {high:.2f}]" if against else "1",
            ]
        )
    headings = ["side", DECIDES, "± seeds", "- theirs", "p (Holm)", "first loss"]
    headings += ["ms per update", "time ratio"]
    seen = (
        f"Smallest visible difference in {DECIDES} (two-sided 5 %, power 80 %, "
        f"{record['queries']:,} queries): {visible:.4f}."
    )
    words = (
        f"{settings['max_steps']} steps of {settings['batch_size']} queries with "
        f"{settings['list_length']} passages each; seeds {', '.join(map(str, record['seeds']))}. "
        f"Time: {record['rounds']} alternated bursts of {record['burst']} updates, medians; the "
        "ratio is to theirs within a round, median and range. The first loss is that of the first "
        "seed."
    )
    made_of = (
        f"Data: {data['name']}, {data['passages']:,} passages, digest {data['digest'][:16]}. "
        f"Teacher: {record['teacher']}."
    )
    title = f"# Head to head with sentence-transformers: {data['name']}"
    return "\n\n".join([title, seen, words, table(headings, cells), made_of])


if __name__ == "__main__":
    sys.exit(main())
