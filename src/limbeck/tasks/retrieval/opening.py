"""Can a retriever be made as a config asks?

`open_request` reads the data, loads the models and validates them before any expensive work: it
refuses data without what the recipe learns from, teachers from which the recipe cannot learn, and
files that would change nothing. This module computes nothing.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.config import Loaded, RunConfig
from limbeck.config.teacher_spec import TeacherSpec
from limbeck.data.collection import Collection
from limbeck.data.pairs import Pairs, made_pairs, read_pairs
from limbeck.data.reading import complete
from limbeck.data.scores import ScoredPairs, read_candidates
from limbeck.data.tokens import misread
from limbeck.errors import ConfigError, DataError
from limbeck.generation import Writer, load_writer
from limbeck.language import ENGLISH, LANGUAGES, sampled
from limbeck.models.encoder import Encoder
from limbeck.models.layers import cut_layers, with_dimension
from limbeck.models.loading import OFFLINE, load_encoder
from limbeck.models.prompts import missing_prompts, with_prompts
from limbeck.tasks.retrieval.making import with_kept_queries
from limbeck.tasks.retrieval.probing import RetrievalProbe
from limbeck.tasks.retrieval.task import Retrieval
from limbeck.tasks.task import Method, Opened, Teachers, teachers_of, weights_of
from limbeck.teachers import DualTeacher, EnsembleTeacher, ScoresTeacher, Teacher, load_teacher
from limbeck.teachers.score_store import ScoreStore
from limbeck.training import Run

OFFLINE_LAYERS = 2  # of the student that is cut from the offline model


@dataclass(frozen=True)
class RetrievalRequest(Opened):
    """A request to make a retriever.

    `read` is the collection as it was given; `data`, which a run works on, may have a dev split and
    queries that were made for it. `base` is the encoder that the student was cut from; teachers may
    be fitted from other `bases`, by name. `candidates` from files join those that a run mines.
    `pairs` are weak pairs of texts, where the recipe learns from some. The `writer` is the model
    that writes queries for a corpus without any.
    """

    config: RunConfig
    data: Collection
    student: Encoder
    teachers: Teachers
    given: Teacher | None
    notes: tuple[str, ...]
    read: Collection
    base: Encoder
    bases: Mapping[str, DualTeacher] = field(default_factory=dict)
    candidates: tuple[ScoredPairs, ...] = ()
    writer: Writer | None = None
    pairs: Pairs | None = None

    @property
    def inputs(self) -> Mapping[str, object]:
        """Digests of the candidates and pairs that were given."""
        given: dict[str, object] = {}
        if self.candidates:
            given["candidates"] = [each.digest for each in self.candidates]
        if self.config.pairs is not None and self.pairs is not None:
            given["pairs"] = self.pairs.digest
        return given

    @property
    def models(self) -> Mapping[str, Any]:
        """The base, the student, and the models of teachers that were given."""
        teacher = {} if self.given is None else self.given.backend_models()
        return {"base": self.base, "student": self.student, **teacher}

    @property
    def size(self) -> int:
        """Characters of all passages."""
        return self.data.passages.characters

    def stages(self) -> list[str]:
        """Stages before training: reading, tokenising and mining."""
        data = self.data
        labelled, unlabelled = len(data.labelled), len(data.unlabelled)
        queries = f"{labelled:,} labelled and {unlabelled:,} unlabelled training queries"
        return [
            f"read {len(data.passages):,} passages and {queries}",
            *(["write other queries with the --query-model"] if self.writer else []),
            "tokenise queries and passages once per tokenizer",
            *([f"read {len(self.pairs):,} pairs {self.pairs.origin}"] if self.pairs else []),
            "mine candidates with BM25 and with vectors",
        ]

    def probe(self, task: Retrieval, *, fits: bool) -> RetrievalProbe:
        """The speeds of this machine, and stages to rehearse on."""
        return RetrievalProbe.of(task, self.student, self.given, fits=fits)

    def start(self, run: Run, store: ScoreStore | None) -> Retrieval:
        """The request in a run; the queries of a corpus without any are kept there."""
        data = with_kept_queries(self.read, self.data, self.writer, run, labels=self.config.labels)
        base = DualTeacher("base", self.base)
        prompts = self.config.query_prompt, self.config.passage_prompt
        return Retrieval(
            data,
            run,
            base,
            store,
            self.candidates,
            bases=self.bases,
            pairs=self.pairs,
            prompted=prompts != (None, None),
        )


def open_request(config: RunConfig, method: Method) -> RetrievalRequest:
    """The request of a run, validated as far as that needs no computing.

    Raises:
        ConfigError, DataError, ModelError: for what cannot be used.
    """
    weights = weights_of(config)
    read = config.read_data()
    writer = _writer(config, read)
    data = complete(read, labels=config.labels)
    specs = teachers_of(config, method)
    if "pairs" in method.needs and not data.labelled and all(spec.open for spec in specs):
        specs = ()  # pairs alone will do
    _check_labels(data, method, specs)
    if "maps" in method.needs:
        raise ConfigError(
            f"{method.name} would learn from feature maps, and models of texts have none. Set "
            "feature_weight=0."
        )
    learns_queries = "queries" in method.needs or method.rows
    if learns_queries and not len(data.labelled) + len(data.unlabelled):
        raise DataError(
            f"{data.name} has no training query, judged or not: all are in dev or test. Add "
            "queries to queries.jsonl, or use --recipe embed, which can learn from passages alone."
        )
    pairs = _pairs(config, method, data)
    notes = [] if pairs is None else [f"pairs: {len(pairs):,} {pairs.origin}"]
    base, student = _students(config)
    if config.query_prompt is None and config.passage_prompt is None:
        notes += prompt_notes("student", str(config.student or OFFLINE), base)
    notes += _misread(data, student)
    teachers, bases, given = Teachers(), dict[str, DualTeacher](), None
    if specs:
        teachers, bases, given, said = _teachers(
            specs, weights, data, str(config.student or OFFLINE)
        )
        notes += said
        _check_kinds(method, teachers, given)
        _check_mask(method, student, given, bases)
    elif method.fits:
        notes.append(f"teacher: {method.name} fits its own")
    elif method.takes:
        notes.append(f"teacher: none named, {method.name} has its own")
    else:
        what = "pairs" if pairs is not None else "judgements"
        notes.append(f"teacher: none, {method.name} learns from {what} alone")
    candidates = _candidates(config.candidates, method, given, data)
    notes += [note for found in candidates for note in found.notes]
    return RetrievalRequest(
        config,
        data,
        student,
        teachers,
        given,
        tuple(notes),
        read,
        base,
        bases,
        candidates,
        writer,
        pairs,
    )


def prompt_notes(what: str, spec: str, encoder: Encoder) -> list[str]:
    """A note where an encoder is used without the prompts that it was trained with."""
    if (prompts := missing_prompts(spec, encoder)) is None:
        return []
    query, passage = prompts
    how = (
        f"give --query-prompt {query!r} and --passage-prompt {passage!r}"
        if what == "student"
        else f"name {{'query': {query!r}, 'document': {passage!r}}} as prompts in its "
        "config_sentence_transformers.json"
    )
    without = "by its name, but its folder names none, and it is read without"
    return [f"{what}: {spec} was trained with prompts, {without}; {how}"]


def _teachers(
    specs: tuple[TeacherSpec, ...],
    weights: tuple[float, ...],
    collection: Collection,
    student: str,
) -> tuple[Teachers, dict[str, DualTeacher], Teacher | None, list[str]]:
    """The teachers of a run; the encoders that some are fitted from, by name; the given teachers as
    one; and notes.

    Raises:
        ConfigError, DataError, ModelError: when one of them cannot be used.
    """
    found: list[Teacher | None] = [
        spec.loaded or (load_teacher(spec.path, collection) if spec.path else None)
        for spec in specs
    ]
    notes = []
    for spec, each in zip(specs, found, strict=True):
        if each is not None:
            notes += each.notes(collection)
            if each.first_stage is not None:
                notes += prompt_notes("teacher", str(spec.path), each.first_stage)
    labels = _base_names(specs, student)
    bases = {name: DualTeacher(f"base-{name}", load_encoder(at)) for at, name in labels.items()}
    for at, name in labels.items():
        notes += prompt_notes("teacher", at, bases[name].encoder)
    specs = tuple(replace(spec, base=labels.get(spec.base or "")) for spec in specs)
    called = [
        spec.name or (each.name if each else "-".join(filter(None, (spec.kind, spec.base))))
        for spec, each in zip(specs, found, strict=True)
    ]
    names = _distinct_names([name or "train" for name in called])
    given = [
        each.renamed(name if len(specs) > 1 else "teacher") if each else None
        for each, name in zip(found, names, strict=True)
    ]
    known = [each for each in given if each is not None]
    if len(specs) > 1:
        told = ", ".join(
            f"{name} ({weight:.3g})" for name, weight in zip(names, weights, strict=True)
        )
        notes.append(f"teacher: the weighted mean of {told}, each brought to one scale")
        if not len(collection.labelled) + len(collection.unlabelled):
            raise DataError(
                f"{collection.name} has no training query, on whose candidates several teachers "
                "are brought to one scale. Name one teacher, or add queries to queries.jsonl."
            )
    elif specs[0].name:
        notes.append(f"teacher: {names[0]}")
    teacher = None
    if len(known) == 1:
        [teacher] = known
    elif known:
        shares = [weight for weight, each in zip(weights, given, strict=True) if each is not None]
        teacher = EnsembleTeacher.unscaled("teacher", known, shares)
    if teacher is not None:
        _check_answers(teacher, collection)
    return Teachers(specs, tuple(names), tuple(given), weights), bases, teacher, notes


def _base_names(specs: Sequence[TeacherSpec], student: str) -> dict[str, str]:
    """Names of the encoders besides the student's that fitted teachers start from."""
    asked = dict.fromkeys(spec.base for spec in specs if spec.base and spec.base != student)
    places = [place for place in asked if place]
    names = _distinct_names([Path(place.rpartition(":")[2]).name or place for place in places])
    return dict(zip(places, names, strict=True))


def _candidates(
    files: Sequence[str | Path], method: Method, teacher: Teacher | None, collection: Collection
) -> tuple[ScoredPairs, ...]:
    """The candidates in the files that were given.

    Raises:
        ConfigError: when they would change nothing.
        DataError: when a file cannot be used.
    """
    if files and method.finds:
        raise ConfigError(
            f"{method.name} finds the candidates of each round itself and takes none from a file. "
            "Leave --candidates out, or use --recipe kl."
        )
    if files and teacher is not None and teacher.answers is not None:
        raise ConfigError(
            "The candidates of a file of scores are the pairs it has. Leave --candidates out, or "
            "name a model as --teacher."
        )
    return tuple(read_candidates(Path(file).expanduser(), collection) for file in files)


def _pairs(config: RunConfig, method: Method, collection: Collection) -> Pairs | None:
    """The weak pairs that a recipe learns from: given, or made of the collection.

    Raises:
        ConfigError, DataError: when the recipe would not read them, or they cannot be used.
    """
    if "pairs" in method.needs:
        if config.pairs is None:
            return made_pairs(collection)
        return read_pairs(Path(config.pairs).expanduser())
    if config.pairs is not None:
        raise ConfigError(
            f"{method.name} learns from no pairs. Leave --pairs out, or use a recipe that needs "
            "them, such as --recipe e5."
        )
    return None


def _writer(config: RunConfig, given: Collection) -> Writer | None:
    """The model that writes the queries of a corpus without any, if one is named.

    Raises:
        ConfigError: where there are queries, or files name queries that are not written yet.
        ModelError: when it is no such model.
    """
    if config.query_model is None:
        return None
    if len(given.queries):
        raise ConfigError(
            f"{given.name} has queries of its own, and --query-model writes them only for a corpus "
            "without any. Leave it out."
        )
    files = [
        spec.path for spec in config.teachers if spec.path and ScoresTeacher.is_named_by(spec.path)
    ]
    if config.candidates or files:
        raise ConfigError(
            "--query-model writes queries that no file of scores or candidates can name yet. "
            "Leave the file out."
        )
    return load_writer(Path(config.query_model).expanduser())


def _check_answers(teacher: Teacher, collection: Collection) -> None:
    """Refuse scores from which no list can be made.

    Raises:
        DataError: when no training query has two passages with a score.
    """
    if teacher.answers is None:
        return
    training = {*collection.labelled, *collection.unlabelled}
    queries, counts = np.unique(teacher.answers[:, 0], return_counts=True)
    if not any(collection.queries.ids[at] in training for at in queries[counts > 1].tolist()):
        raise DataError(
            f"No training query of {collection.name} has scores of two passages or more to learn "
            "from. Score candidates of training queries (those that no dev or test split judges)."
        )


def _distinct_names(names: Sequence[str]) -> list[str]:
    """Names for rows and files: plain characters, and a number where a name comes again."""
    plain = [re.sub(r"[^\w.-]+", "-", name) for name in names]
    return [
        name if plain.count(name) == 1 else f"{name}-{1 + plain[:at].count(name)}"
        for at, name in enumerate(plain)
    ]


def _check_kinds(method: Method, teachers: Teachers, teacher: Teacher | None) -> None:
    """Refuse teachers from which a recipe cannot learn, given or fitted.

    Raises:
        ConfigError: for such a teacher.
    """
    kinds = [
        each.kind if each is not None else spec.kind
        for spec, each in zip(teachers.specs, teachers.given, strict=True)
    ]
    kind = kinds[0] if len(kinds) == 1 else "ensemble"
    if method.takes and "teacher" not in method.needs and kind not in method.takes:
        what = "chosen on dev" if kind is None else f"a {kind}"
        raise ConfigError(
            f"{method.name} cannot use a teacher that is {what}. Its teacher is of the kind "
            f"{' or '.join(method.takes)}: name such a model, or leave --teacher out."
        )
    models = teacher.models() if method.fits and method.takes and teacher is not None else []
    if any(not list(model.parameters()) for model in models):
        raise ConfigError(
            f"{method.name} trains its teacher, and one that was exported has no weights to train. "
            "Name the model that it was exported from."
        )
    if method.finds and teacher is not None and teacher.answers is not None:
        raise ConfigError(
            f"{method.name} asks its teachers about candidates that it finds on the way, and a "
            "file of scores knows its own pairs only. Name a model, or use --recipe kl."
        )
    if "texts" in method.needs and teacher is not None and teacher.answers is not None:
        raise ConfigError(
            f"{method.name} writes passages that the teacher is to score, and a file of scores "
            "knows its own pairs only. Name a model, or use --recipe kl."
        )
    fitted = {spec.kind for spec in teachers.specs if spec.fitted}
    if "vectors" in method.needs and (
        fitted - {"dual"} or (teacher is not None and not teacher.in_batch)
    ):
        raise ConfigError(
            f"{method.name} needs a teacher with vectors. Use --teacher train:dual, an embedding "
            "model, or --recipe kl, which takes any teacher."
        )


def _check_mask(
    method: Method, student: Encoder, teacher: Teacher | None, bases: Mapping[str, DualTeacher]
) -> None:
    """Refuse to mask words where a model does not know the student's mask token.

    Raises:
        ConfigError: naming both tokens.
    """
    if "mask" not in method.needs:
        return
    own = student.tokenizer.mask_token
    models = [student, *(teacher.models() if teacher else ()), *(b.encoder for b in bases.values())]
    for model in models:
        theirs = model.tokenizer.mask_token
        if own is None or theirs != own:
            raise ConfigError(
                f"{method.name} masks words of texts that every model reads, and their mask tokens "
                f"are {own!r} and {theirs!r}. Drop words instead: --set weaken=drop."
            )


def _check_labels(collection: Collection, method: Method, specs: Sequence[TeacherSpec]) -> None:
    """Refuse recipes and teachers that learn from judgements, or need a dev split, without them.

    Raises:
        DataError: for such a recipe or teacher.
    """
    if collection.labelled:
        if "dev" not in collection.qrels and any(spec.kind == "ensemble" for spec in specs):
            raise DataError(
                f"{collection.name} has no dev split, on which an ensemble is fitted. "
                "Add qrels/dev.tsv, or use --teacher train:dual."
            )
        return
    if "labels" in method.needs:
        raise DataError(
            f"{collection.name} has no training query with a positive, which {method.name} learns "
            "from. Add qrels/train.tsv, or use --recipe kl with --teacher PATH."
        )
    if any(spec.fitted for spec in specs):
        raise DataError(
            f"{collection.name} has no training query with a positive to fit a teacher on. "
            "Add qrels/train.tsv, or name a fitted model with --teacher PATH."
        )


def _students(config: RunConfig) -> tuple[Encoder, Encoder]:
    """The base with its prompts, and the student that is cut from it."""
    if isinstance(config.student, Loaded):
        base = copy.deepcopy(config.student.value)
    else:
        base = load_encoder(str(config.student or OFFLINE))
    if config.query_prompt is not None or config.passage_prompt is not None:
        base = with_prompts(base, config.query_prompt, config.passage_prompt)
    layers = config.student_layers
    if layers is None and config.student is None:
        layers = OFFLINE_LAYERS
    student = copy.deepcopy(base)
    if layers is not None:
        student = cut_layers(student, layers, config.layer_choice)
    if config.dim is not None:
        student = with_dimension(student, config.dim, config.seed)
    return base, student


def _misread(collection: Collection, student: Encoder) -> list[str]:
    """A note where the student was hardly trained on the collection's language."""
    if collection.language == ENGLISH:
        return []
    texts = sampled(collection.passages.texts)
    why = misread(texts, student.tokenizer, collection.language)
    if why is None:
        return []
    name = LANGUAGES[collection.language].name.capitalize()
    note = f"student: its tokenizer was hardly made for {name}: {why}; BM25 reads {name}, but "
    return [f"{note}for good vectors name a multilingual --student, and such a --teacher"]
