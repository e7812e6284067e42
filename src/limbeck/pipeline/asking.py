"""What was asked of a run, and can it be done?

Everything that can be refused before any expensive work is refused here: names, settings, data,
models, and what a recipe or a teacher needs of them. This module computes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from limbeck.data import read_collection
from limbeck.data.collection import Collection, with_labels
from limbeck.errors import ConfigError, DataError
from limbeck.models.encoder import Encoder
from limbeck.models.layers import cut_layers, with_dimension
from limbeck.models.loading import OFFLINE, load_encoder
from limbeck.recipes import AUTO, Recipe, find, find_preset
from limbeck.settings import parse_settings
from limbeck.teachers.teachers import Teacher, load_teacher
from limbeck.types import Split

OFFLINE_LAYERS = 2  # of the student that is cut from the offline model
FITTED = "train"  # `--teacher train[:dual|cross|ensemble]`
TEACHERS = ("dual", "cross", "ensemble")
# Draws a carved dev split and the labels to keep, whatever the seed of the run: seeds of one method
# can be compared, and no seed's dev queries are ones that another seed's teacher was fitted on.
DATA_SEED = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, checked as far as it can be without computing."""

    asked: dict[str, object]
    collection: Collection
    recipe: Recipe
    preset: Mapping[str, object]  # what `NAME:PRESET` sets
    settings: Mapping[str, object]  # the preset's, overruled by those that were given
    base: Encoder
    student: Encoder
    teacher: Teacher | None  # None: fitted by this run, or the recipe needs none
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
    fits = str(asked["teacher"]).partition(":")[0] == FITTED
    wanted = teachers_wanted(str(asked["teacher"])) if fits else ()
    collection = read_collection(
        asked["data"],
        seed=DATA_SEED,
        drop_unknown_judgements=asked["drop_unknown_judgements"],
    )
    if asked["labels"] is not None:
        collection = with_labels(collection, asked["labels"], DATA_SEED)
    notes = [*collection.notes, *notes]
    _check_labels(collection, recipe, str(asked["teacher"]))
    if not len(collection.labelled) + len(collection.unlabelled) and name != "embed":
        raise DataError(
            f"{collection.name} has no training query, judged or not: all are in dev or test. Add "
            "queries to queries.jsonl, or use --recipe embed, which can learn from passages alone."
        )
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
    for split in ("dev", "test"):
        if split not in collection.qrels:
            notes.append(_without(split, collection))
    return Request(
        dict(asked), collection, recipe, preset, settings, base, student, teacher, tuple(notes)
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
    layers = asked["student_layers"]
    if layers is None and asked["student"] is None:
        layers = OFFLINE_LAYERS
    student = copy.deepcopy(base)
    if layers is not None:
        student = cut_layers(student, layers, asked["layer_choice"])
    if asked["dim"] is not None:
        student = with_dimension(student, asked["dim"], asked["seed"])
    return base, student


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
