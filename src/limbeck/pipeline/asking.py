"""What was asked of a run, and can it be done?

Everything that can be refused before any expensive work is refused here: names, settings, data,
models, and what a recipe or a teacher needs of them. This module computes nothing.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.data.collection import DATA_SEED, Collection, with_dev, with_labels
from limbeck.data.reading import read_as_given, with_queries
from limbeck.data.scores import ScoredPairs, read_candidates
from limbeck.data.tokens import misread
from limbeck.errors import ConfigError, DataError
from limbeck.generation import Writer, load_writer
from limbeck.language import AUTO as AUTO_LANGUAGE
from limbeck.language import ENGLISH, LANGUAGES, sampled
from limbeck.models.encoder import Encoder
from limbeck.models.layers import cut_layers, with_dimension
from limbeck.models.loading import OFFLINE, load_encoder
from limbeck.models.prompts import missing_prompts, with_prompts
from limbeck.recipes import AUTO, Recipe, find, find_preset
from limbeck.settings import parse_settings
from limbeck.teachers.teachers import (
    DualTeacher,
    EnsembleTeacher,
    ScoresTeacher,
    Teacher,
    load_scores,
    load_teacher,
    names_scores,
    renamed,
)
from limbeck.types import SPLITS, Split

OFFLINE_LAYERS = 2  # of the student that is cut from the offline model
FITTED = "train"  # `--teacher train[:dual|cross|ensemble]`
TEACHERS = ("dual", "cross", "ensemble")


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, checked as far as it can be without computing."""

    asked: dict[str, object]
    given: Collection  # as it was read: without a dev split or queries of our making
    collection: Collection
    recipe: Recipe
    preset: Mapping[str, object]  # what `NAME:PRESET` sets
    settings: Mapping[str, object]  # the preset's, overruled by those that were given
    base: Encoder
    student: Encoder
    teacher: Teacher | None  # None: fitted by this run, or the recipe needs none
    to_scale: bool  # several were given, which this run brings to one scale
    candidates: tuple[ScoredPairs, ...]  # given, besides what this run finds
    writer: Writer | None  # of the queries of a corpus that came without
    notes: tuple[str, ...]


def checked(asked: Mapping[str, Any], settings: Mapping[str, object]) -> Request:
    """Everything that can be refused before any expensive work, refused."""
    notes: list[str] = []
    name = str(asked["recipe"])
    if name == "auto":
        name = AUTO
        notes.append(f"recipe: auto is {AUTO}")
    recipe, preset = find_preset(name)
    name, settings = recipe.name, {**preset, **settings}
    if preset:
        told = ", ".join(f"{key}={value}" for key, value in preset.items())
        notes.append(f"recipe: {asked['recipe']} sets {told}, where --set says nothing else")
    if recipe.makes != "student":
        raise ConfigError(f"{name} fits a teacher. Use it through --teacher train, with a recipe.")
    own, _ = split_settings(settings)
    parse_settings(recipe.settings, own)
    for fitted, values in split_settings(settings)[1].items():
        if find(fitted).makes != "teacher":
            raise ConfigError(
                f"--set {fitted}.{next(iter(values))}: only recipes that fit a teacher are named "
                f"here. Write --recipe {fitted} and --set {next(iter(values))}=..."
            )
        parse_settings(find(fitted).settings, values, where=f"--set {fitted}.")
    given = specs(asked["teacher"])
    fits = _fits(given)
    wanted = teachers_wanted(given[0]) if fits else ()
    weights = _weights(given, asked["teacher_weights"])
    read = read_as_given(
        asked["data"],
        drop_unknown_judgements=asked["drop_unknown_judgements"],
        keep_own_passage=bool(asked["keep_own_passage"]),
        language=asked["language"] or AUTO_LANGUAGE,
    )
    writer = _writer(asked, given, read)
    collection = with_dev(with_queries(read, DATA_SEED), DATA_SEED)
    if asked["labels"] is not None:
        collection = with_labels(collection, asked["labels"], DATA_SEED)
    notes = [*collection.notes, *notes]
    _check_labels(collection, recipe, given[0])
    if not len(collection.labelled) + len(collection.unlabelled) and name != "embed":
        raise DataError(
            f"{collection.name} has no training query, judged or not: all are in dev or test. Add "
            "queries to queries.jsonl, or use --recipe embed, which can learn from passages alone."
        )
    base, student = _students(asked)
    given_prompts = [asked.get(key) for key in ("query_prompt", "passage_prompt")]
    if given_prompts == [None, None]:
        notes += prompt_notes("student", str(asked["student"] or OFFLINE), base)
    notes += _misread(collection, student)
    teacher = None
    if not fits and ("teacher" in recipe.needs or recipe.fits):
        teacher, said = _given(given, weights, collection)
        notes += said
    elif recipe.fits:
        notes.append(f"teacher: {name} fits its own")
    elif "teacher" not in recipe.needs:
        notes.append(f"teacher: none, {name} learns from judgements alone")
    if recipe.fits:
        _check_own_teachers(recipe, teacher)
    if "vectors" in recipe.needs and (
        (teacher is not None and not teacher.in_batch) or (teacher is None and wanted != ("dual",))
    ):
        raise ConfigError(
            f"{name} needs a teacher with vectors. Use --teacher train:dual, an embedding model, "
            "or --recipe kl, which takes any teacher."
        )
    candidates = _candidates(asked["candidates"] or (), recipe, teacher, collection)
    notes += [note for found in candidates for note in found.notes]
    for split in ("dev", "test"):
        if split not in collection.qrels:
            notes.append(_without(split, collection))
    return Request(
        dict(asked),
        read,
        collection,
        recipe,
        preset,
        settings,
        base,
        student,
        teacher,
        teacher is not None and len(given) > 1,
        candidates,
        writer,
        tuple(notes),
    )


def specs(teacher: str | Sequence[str]) -> tuple[str, ...]:
    """The teachers that were asked for, one or several.

    Raises:
        ConfigError: when there is none.
    """
    found = (teacher,) if isinstance(teacher, str) else tuple(map(str, teacher))
    if not found:
        raise ConfigError("No teacher is given. Name one, or leave --teacher out to fit one.")
    return found


def teacher_named(spec: str, collection: Collection) -> Teacher:
    """The model, or the file of scores of this collection, that a name stands for.

    Raises:
        ConfigError, DataError, ModelError: when it cannot be used.
    """
    return load_scores(spec, collection) if names_scores(spec) else load_teacher(spec)


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


def _fits(given: Sequence[str]) -> bool:
    """Whether the run is asked to fit its teacher.

    Raises:
        ConfigError: when it is, and others are given beside that one.
    """
    fits = [spec for spec in given if spec.partition(":")[0] == FITTED]
    if fits and len(given) > 1:
        raise ConfigError(
            f"--teacher {fits[0]} fits a teacher and takes no other beside it. Fit it in a run of "
            "its own, and give that run's folder teacher/ here."
        )
    return bool(fits)


def _weights(given: Sequence[str], weights: Sequence[float] | None) -> tuple[float, ...]:
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


def _given(
    given: Sequence[str], weights: tuple[float, ...], collection: Collection
) -> tuple[Teacher, list[str]]:
    """The teachers that were named as one, and what there is to say of them.

    Raises:
        ConfigError, DataError, ModelError: when one of them cannot be used.
    """
    found = [teacher_named(spec, collection) for spec in given]
    notes = []
    for spec, each in zip(given, found, strict=True):
        if isinstance(each, ScoresTeacher):
            notes += [*each.known.notes, _coverage(each, collection)]
        if isinstance(each, DualTeacher):
            notes += prompt_notes("teacher", spec, each.encoder)
    if len(found) == 1:
        teacher = renamed(found[0], "teacher")
    else:
        names = _distinct_names([each.name for each in found])
        members = [renamed(each, name) for each, name in zip(found, names, strict=True)]
        teacher = EnsembleTeacher.unscaled("teacher", members, weights)
        told = ", ".join(
            f"{name} ({weight:.3g})" for name, weight in zip(names, weights, strict=True)
        )
        notes.append(f"teacher: the weighted mean of {told}, each brought to one scale")
        if not len(collection.labelled) + len(collection.unlabelled):
            raise DataError(
                f"{collection.name} has no training query, on whose candidates several teachers "
                "are brought to one scale. Name one teacher, or add queries to queries.jsonl."
            )
    _check_answers(teacher, collection)
    return teacher, notes


def _candidates(
    files: Sequence[str], recipe: Recipe, teacher: Teacher | None, collection: Collection
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


def _writer(asked: Mapping[str, Any], teachers: Sequence[str], given: Collection) -> Writer | None:
    """The model that writes the queries of a corpus without any, if one is named.

    Raises:
        ConfigError: where there are queries, or files name queries that are not written yet.
        ModelError: when it is no such model.
    """
    if asked["query_model"] is None:
        return None
    if len(given.queries):
        raise ConfigError(
            f"{given.name} has queries of its own, and --query-model writes them only for a corpus "
            "without any. Leave it out."
        )
    if asked["candidates"] or any(map(names_scores, teachers)):
        raise ConfigError(
            "--query-model writes queries that no file of scores or candidates can name yet. "
            "Leave the file out."
        )
    return load_writer(Path(asked["query_model"]).expanduser())


def _coverage(teacher: ScoresTeacher, collection: Collection) -> str:
    """How much of the queries a file of scores is about, in words."""
    known = {collection.queries.ids[at] for at in np.unique(teacher.answers[:, 0])}
    parts = [("training", [*collection.labelled, *collection.unlabelled])]
    parts += [(split, list(collection.qrels.get(split, {}))) for split in SPLITS[1:]]
    told = ", ".join(
        f"{len(known.intersection(queries)):,} of {len(queries):,} {name}"
        for name, queries in parts
        if queries
    )
    return f"{teacher.name}: {len(teacher.answers):,} scores, for {told} queries"


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


def _check_own_teachers(recipe: Recipe, teacher: Teacher | None) -> None:
    """Refuse what a recipe that fits its own teachers cannot take.

    Raises:
        ConfigError: for such a teacher.
    """
    if teacher is not None and recipe.takes and teacher.kind not in recipe.takes:
        raise ConfigError(
            f"{recipe.name} cannot use a teacher that is a {teacher.kind}. Name one that is a "
            f"{' or '.join(recipe.takes)}, or leave --teacher out."
        )
    if teacher is not None and teacher.answers is not None:
        raise ConfigError(
            f"{recipe.name} asks its teachers about candidates that it finds on the way, and a "
            "file of scores knows its own pairs only. Name a model, or use --recipe kl."
        )


def _without(split: str, collection: Collection) -> str:
    """What follows from a missing split."""
    if split == "dev":
        return "dev: none, so the last weights are kept and the teacher is not compared on dev"
    if "dev" in collection.qrels:
        return "test: none, so the table is measured on dev, which also chose the weights"
    return "test: none, and no dev either: nothing is measured"


def _check_labels(collection: Collection, recipe: Recipe, teacher: str) -> None:
    """Refuse what learns from judgements where there are none."""
    fits, _, kind = teacher.partition(":")
    if collection.labelled:
        needs_dev = "teacher" in recipe.needs and fits == FITTED and kind == "ensemble"
        if needs_dev and "dev" not in collection.qrels:
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
    if fits == FITTED and "teacher" in recipe.needs:
        raise DataError(
            f"{collection.name} has no training query with a positive to fit a teacher on. "
            "Add qrels/train.tsv, or name a fitted model with --teacher PATH."
        )


def _students(asked: Mapping[str, Any]) -> tuple[Encoder, Encoder]:
    """The encoder as it comes, and the student cut from it."""
    base = load_encoder(asked["student"] or OFFLINE)
    if asked.get("query_prompt") is not None or asked.get("passage_prompt") is not None:
        base = with_prompts(base, asked.get("query_prompt"), asked.get("passage_prompt"))
    layers = asked["student_layers"]
    if layers is None and asked["student"] is None:
        layers = OFFLINE_LAYERS
    student = copy.deepcopy(base)
    if layers is not None:
        student = cut_layers(student, layers, asked["layer_choice"])
    if asked["dim"] is not None:
        student = with_dimension(student, asked["dim"], asked["seed"])
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


def teachers_wanted(teacher: str) -> tuple[str, ...]:
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
