"""Can a run do what was asked of it?

`validate` refuses before any expensive work all that can be refused: names, settings, data, models,
and what a recipe or a teacher needs of them. This module computes nothing.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from limbeck.config import Loaded, RunConfig
from limbeck.config.teacher_spec import TeacherSpec
from limbeck.data.collection import Collection
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
from limbeck.recipes import AUTO, Recipe, find, find_preset
from limbeck.settings import parse_settings
from limbeck.teachers import DualTeacher, EnsembleTeacher, ScoresTeacher, Teacher, load_teacher
from limbeck.types import Split

OFFLINE_LAYERS = 2  # of the student that is cut from the offline model


@dataclass(frozen=True, slots=True)
class Wanted:
    """The teachers that a run learns from, in the order in which they were asked for; none where
    its recipe needs none or was left to fit its own.

    The base of a fitted one is the name of one of `bases`, or None for the student's.
    """

    specs: tuple[TeacherSpec, ...] = ()
    names: tuple[str, ...] = ()  # of rows and files, where there are several
    given: tuple[Teacher | None, ...] = ()  # None: fitted by the run
    weights: tuple[float, ...] = ()
    bases: Mapping[str, DualTeacher] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """Whether the run fits any of them."""
        return any(spec.fitted for spec in self.specs)


@dataclass(frozen=True, slots=True)
class Request:
    """A config with what it names: data, recipe and models, validated as far as possible without
    computing.
    """

    config: RunConfig
    given: Collection  # as it was read: without a dev split or queries of our making
    collection: Collection
    recipe: Recipe
    preset: Mapping[str, object]  # what `NAME:PRESET` sets
    settings: Mapping[str, object]  # the preset's, overruled by those that were given
    base: Encoder
    student: Encoder
    wanted: Wanted
    teacher: Teacher | None  # those that were given, as one; None where none was
    candidates: tuple[ScoredPairs, ...]  # given, besides what this run finds
    writer: Writer | None  # of the queries of a corpus that came without
    notes: tuple[str, ...]


def validate(config: RunConfig) -> Request:
    """Validate a config before any expensive work, and load what it names.

    Raises:
        ConfigError, DataError, ModelError: for what cannot be used.
    """
    notes: list[str] = []
    name = config.recipe
    if name == "auto":
        name = AUTO
        notes.append(f"recipe: auto is {AUTO}")
    recipe, preset = find_preset(name)
    name, settings = recipe.name, {**preset, **config.settings_given}
    if preset:
        told = ", ".join(f"{key}={value}" for key, value in preset.items())
        notes.append(f"recipe: {config.recipe} sets {told}, where --set says nothing else")
    if recipe.makes != "student":
        raise ConfigError(f"{name} fits a teacher. Use it through --teacher train, with a recipe.")
    if not isinstance(config.settings, Mapping | recipe.settings):
        raise ConfigError(
            f"settings are {type(config.settings).__name__}, and {name} takes "
            f"{recipe.settings.__name__}. Give those, or a mapping of names to values."
        )
    own, _ = split_settings(settings)
    parse_settings(recipe.settings, own)
    for fitted, values in split_settings(settings)[1].items():
        if find(fitted).makes != "teacher":
            raise ConfigError(
                f"--set {fitted}.{next(iter(values))}: only recipes that fit a teacher are named "
                f"here. Write --recipe {fitted} and --set {next(iter(values))}=..."
            )
        parse_settings(find(fitted).settings, values, where=f"--set {fitted}.")
    weights = _weights(config.teachers, config.teacher_weights)
    given = config.read_data()
    writer = _writer(config, given)
    collection = complete(given, labels=config.labels)
    notes = [*collection.notes, *notes]
    specs = _used(config.teachers, recipe)
    _check_labels(collection, recipe, specs)
    if not len(collection.labelled) + len(collection.unlabelled) and name != "embed":
        raise DataError(
            f"{collection.name} has no training query, judged or not: all are in dev or test. Add "
            "queries to queries.jsonl, or use --recipe embed, which can learn from passages alone."
        )
    base, student = _students(config)
    if config.query_prompt is None and config.passage_prompt is None:
        notes += prompt_notes("student", str(config.student or OFFLINE), base)
    notes += _misread(collection, student)
    wanted, teacher = Wanted(), None
    if specs:
        wanted, teacher, said = _wanted(specs, weights, collection, str(config.student or OFFLINE))
        notes += said
        _check_kinds(recipe, wanted, teacher)
    elif recipe.fits:
        notes.append(f"teacher: {name} fits its own")
    else:
        notes.append(f"teacher: none, {name} learns from judgements alone")
    candidates = _candidates(config.candidates, recipe, teacher, collection)
    notes += [note for found in candidates for note in found.notes]
    for split in ("dev", "test"):
        if split not in collection.qrels:
            notes.append(_without(split, collection))
    return Request(
        config,
        given,
        collection,
        recipe,
        preset,
        settings,
        base,
        student,
        wanted,
        teacher,
        candidates,
        writer,
        tuple(notes),
    )


def prompt_notes(what: str, spec: str, encoder: Encoder) -> list[str]:
    """What there is to say of an encoder that is used without the prompts it was trained with."""
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


def _used(given: tuple[TeacherSpec, ...], recipe: Recipe) -> tuple[TeacherSpec, ...]:
    """Those of the teachers that a recipe learns from: none where it needs none, or is left to fit
    its own.

    Raises:
        ConfigError: for one of any kind beside others where the recipe fits its own.
    """
    if recipe.fits and len(given) > 1 and any(spec.open for spec in given):
        raise ConfigError(
            f"{recipe.name} fits its own teachers, and --teacher train says no more than that. "
            "Leave it out, or say which one to fit besides, as in --teacher train:cross."
        )
    if recipe.fits:
        return () if given[0].open else given
    return given if "teacher" in recipe.needs else ()


def _weights(given: Sequence[TeacherSpec], weights: Sequence[float] | None) -> tuple[float, ...]:
    """The weights of the teachers, whose sum is 1; equal ones when none are given.

    Raises:
        ConfigError: when they do not fit the teachers, or one is not above 0.
    """
    if weights is None:
        return (1 / len(given),) * len(given)
    if len(weights) != len(given) or len(given) < 2:
        raise ConfigError(
            f"--teacher-weights has {len(weights)} numbers for {len(given)} teachers. Give one "
            "for each --teacher, in their order, and two teachers at least."
        )
    if not all(0 < weight < float("inf") for weight in weights):
        raise ConfigError(
            f"--teacher-weights {', '.join(f'{weight:g}' for weight in weights)}: each must be a "
            "number above 0. Leave a teacher out rather than give it none."
        )
    return tuple(weight / sum(weights) for weight in weights)


def _wanted(
    specs: tuple[TeacherSpec, ...],
    weights: tuple[float, ...],
    collection: Collection,
    student: str,
) -> tuple[Wanted, Teacher | None, list[str]]:
    """The teachers of a run, those among them that are given as one, and what there is to say.

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
    return Wanted(specs, tuple(names), tuple(given), weights, bases), teacher, notes


def _base_names(specs: Sequence[TeacherSpec], student: str) -> dict[str, str]:
    """Names of the encoders besides the student's that fitted teachers start from."""
    asked = dict.fromkeys(spec.base for spec in specs if spec.base and spec.base != student)
    places = [place for place in asked if place]
    names = _distinct_names([Path(place.rpartition(":")[2]).name or place for place in places])
    return dict(zip(places, names, strict=True))


def _candidates(
    files: Sequence[str | Path], recipe: Recipe, teacher: Teacher | None, collection: Collection
) -> tuple[ScoredPairs, ...]:
    """The candidates that were given.

    Raises:
        ConfigError: where they would change nothing.
        DataError: when a file cannot be used.
    """
    if files and recipe.fits:
        raise ConfigError(
            f"{recipe.name} finds the candidates of each round itself and takes none from a file. "
            "Leave --candidates out, or use --recipe kl."
        )
    if files and teacher is not None and teacher.answers is not None:
        raise ConfigError(
            "The candidates of a file of scores are the pairs it has. Leave --candidates out, or "
            "name a model as --teacher."
        )
    return tuple(read_candidates(Path(file).expanduser(), collection) for file in files)


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


def _check_kinds(recipe: Recipe, wanted: Wanted, teacher: Teacher | None) -> None:
    """Refuse teachers from which a recipe cannot learn, given or fitted.

    Raises:
        ConfigError: for such a teacher.
    """
    kinds = [
        each.kind if each is not None else spec.kind
        for spec, each in zip(wanted.specs, wanted.given, strict=True)
    ]
    kind = kinds[0] if len(kinds) == 1 else "ensemble"
    if recipe.takes and kind not in recipe.takes:
        what = "chosen on dev" if kind is None else f"a {kind}"
        raise ConfigError(
            f"{recipe.name} cannot use a teacher that is {what}. Name one that is a "
            f"{' or '.join(recipe.takes)}, or leave --teacher out."
        )
    if recipe.fits and teacher is not None and teacher.answers is not None:
        raise ConfigError(
            f"{recipe.name} asks its teachers about candidates that it finds on the way, and a "
            "file of scores knows its own pairs only. Name a model, or use --recipe kl."
        )
    fitted = {spec.kind for spec in wanted.specs if spec.fitted}
    if "vectors" in recipe.needs and (
        fitted - {"dual"} or (teacher is not None and not teacher.in_batch)
    ):
        raise ConfigError(
            f"{recipe.name} needs a teacher with vectors. Use --teacher train:dual, an embedding "
            "model, or --recipe kl, which takes any teacher."
        )


def _without(split: str, collection: Collection) -> str:
    """What follows from a missing split."""
    if split == "dev":
        return "dev: none, so the last weights are kept and the teacher is not compared on dev"
    if "dev" in collection.qrels:
        return "test: none, so the table is measured on dev, which also chose the weights"
    return "test: none, and no dev either: nothing is measured"


def _check_labels(collection: Collection, recipe: Recipe, specs: Sequence[TeacherSpec]) -> None:
    """Refuse what learns from judgements where there are none."""
    if collection.labelled:
        if "dev" not in collection.qrels and any(spec.kind == "ensemble" for spec in specs):
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
    if any(spec.fitted for spec in specs):
        raise DataError(
            f"{collection.name} has no training query with a positive to fit a teacher on. "
            "Add qrels/train.tsv, or name a fitted model with --teacher PATH."
        )


def _students(config: RunConfig) -> tuple[Encoder, Encoder]:
    """The encoder as it comes, and the student cut from it."""
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


def split_settings(
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


def training_queries(collection: Collection) -> str:
    """How many training queries there are, in words."""
    labelled, unlabelled = len(collection.labelled), len(collection.unlabelled)
    return f"{labelled:,} labelled and {unlabelled:,} unlabelled training queries"


def measured_split(collection: Collection) -> Split | None:
    """Where figures come from: test, or dev where there is no test."""
    order: tuple[Split, ...] = ("test", "dev")
    for split in order:
        if split in collection.qrels:
            return split
    return None
