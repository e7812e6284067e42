"""Which teachers does a student climb, one after the other, and how is each of them made?

A ladder is written in words: `dual/2,dual,train:ensemble:path/to/encoder`. A rung is fitted on
judged queries' lists when its turn comes, or is a model that is there already. Which rungs teach,
and on what, is a recipe's business.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from limbeck.candidates import Candidates
from limbeck.config.teacher_spec import FITTED, KINDS, TeacherSpec
from limbeck.errors import ConfigError, ModelError
from limbeck.evaluation.comparison import compare
from limbeck.evaluation.statistics import Mean
from limbeck.models.encoder import Encoder
from limbeck.models.layers import cut_layers, layer_count, ranker_from_encoder
from limbeck.models.loading import kind_of, load_encoder
from limbeck.similarity import softmax_temperature
from limbeck.sources import ListSource
from limbeck.tasks.retrieval.fitting import fit_weights, train_contrastive, train_listwise
from limbeck.tasks.retrieval.task import ListSettings, Retrieval
from limbeck.teachers import CrossTeacher, DualTeacher, Teacher, load_teacher

MEASURE = "nDCG@10"  # on dev, by which a rung must stand above the one before


@dataclass(frozen=True, slots=True)
class Rung:
    """A teacher on a ladder, `name` as it was written or called; fitted here unless it is `given`.

    `part` n means 1/n of the layers, rounded up: those of the base encoder for a dual encoder, and
    of the dual encoder fitted last for a cross-encoder. With a `base` of its own it starts from
    that encoder, of which a cross-encoder and an ensemble first make a dual encoder.
    """

    name: str
    kind: Literal["dual", "cross", "ensemble", "given"]
    part: int = 1
    path: str | None = None  # of a given one
    base: str | None = None  # of a fitted one; None is the student's
    given: Teacher | None = None
    start: DualTeacher | None = None  # the base, once it is loaded


def read_rung(text: str) -> Rung:
    """A rung in words: `dual`, `cross`, either with `/n`, `ensemble`, or a teacher as `--teacher`
    takes it, `[NAME=]train:KIND[:BASE]` or `[NAME=]PATH`.

    Raises:
        ConfigError: when it is to be fitted, and does not say as what, or as what nothing can be.

    Example:
        >>> read_rung("dual/2").part, read_rung("path/to/ranker").kind
        (2, 'given')
        >>> read_rung("big=train:cross:org/model").base
        'org/model'
    """
    if text == "ensemble":
        return Rung(text, "ensemble")
    found = re.fullmatch(r"(dual|cross)(?:/([1-9]\d*))?", text)
    if found is not None:
        return Rung(text, "dual" if found[1] == "dual" else "cross", int(found[2] or 1))
    spec = TeacherSpec.parse(text, "ladder")
    spec.check_kind(KINDS, "ladder")
    name = spec.name or text
    match spec.kind:
        case "dual" | "cross" | "ensemble" as kind:
            return Rung(name, kind, base=spec.base)
    if spec.fitted:
        raise ConfigError(
            f"ladder {text!r}: a rung is one teacher. Say which kind to fit: "
            f"{', '.join(f'{FITTED}:{kind}' for kind in KINDS)}."
        )
    return Rung(name, "given", path=spec.path)


def read_ladder(
    texts: Sequence[str], last: Teacher | None, *, has_dev: bool
) -> tuple[list[Rung], list[str]]:
    """Read a ladder in words: its models loaded and `last` on top, and notes on the rungs left out.

    Raises:
        ConfigError: when no rung is left.
        ModelError: for a rung that is neither one of the words nor a model that can teach.
    """
    rungs, notes = [], []
    for rung in map(read_rung, texts):
        if rung.kind == "ensemble" and not has_dev:
            notes.append("rung ensemble: left out, since its weights are fitted on dev")
        elif rung.path is not None:
            rungs.append(replace(rung, given=load_teacher(rung.path)))
        elif rung.base is not None:
            name = f"base-{Path(rung.base).name}"
            rungs.append(replace(rung, start=DualTeacher(name, load_encoder(rung.base))))
        else:
            rungs.append(rung)
    if last is not None:
        rungs.append(Rung(last.name, "given", given=last))
    if not rungs:
        raise ConfigError(
            "An ensemble's weights are fitted on dev, and the collection has none, so the ladder "
            "has no rung. Use --set ladder=dual/2,dual."
        )
    return rungs, notes


def check_rung(text: str) -> None:
    """Refuse a rung that is neither one of the words nor anything there, without loading it.

    Raises:
        ConfigError, ModelError: saying what is wrong with it.
    """
    rung = read_rung(text)
    if rung.path is not None and not Path(rung.path).exists():
        kind_of(rung.path)
    if rung.base is not None and (kind := kind_of(rung.base)) != "SentenceTransformer":
        raise ModelError(
            f"ladder {text!r} starts from a {kind}. Name an encoder, a SentenceTransformer."
        )


def part_of(encoder: Encoder, part: int) -> Encoder:
    """A copy of an encoder, to be trained, with 1/`part` of its layers, spread evenly."""
    if part == 1:
        return copy.deepcopy(encoder).requires_grad_(True)
    return cut_layers(encoder, -(-layer_count(encoder) // part)).requires_grad_(True)


def first_of(task: Retrieval, rung: Rung) -> Encoder:
    """The encoder, to be trained, that the first dual encoder of a ladder with this first rung
    starts from: the whole base where that is of another kind.
    """
    if rung.kind != "dual":
        return part_of(task.base.encoder, 1)
    return part_of((rung.start or task.base).encoder, rung.part)


def fit_rung(
    task: Retrieval,
    name: str,
    rung: Rung,
    dual: DualTeacher,
    sources: tuple[ListSource, ListSource],
    settings: ListSettings,
    temperature: float,
    depth: int,
) -> Teacher:
    """The teacher of a rung: as given, or fitted on judged queries, in a stage of this name.

    `sources` show a dual encoder and a cross-encoder what they learn from; `dual` is the dual
    encoder fitted last, on which a cross-encoder and an ensemble stand. An ensemble's weights are
    fitted on `depth` candidates of each dev query.
    """
    if rung.given is not None:
        return rung.given
    if rung.start is not None:
        temperature = softmax_temperature(rung.start.similarity)
    if rung.kind == "dual" or rung.start is not None:
        encoder = part_of((rung.start or task.base).encoder, rung.part)
        stage = name if rung.kind == "dual" else f"{name}-body"
        train_contrastive(task, stage, encoder, sources[0], settings, temperature, makes="teacher")
        dual = DualTeacher("dual", encoder)
    if rung.kind == "dual":
        return dual
    ranker = ranker_from_encoder(part_of(dual.encoder, rung.part), task.run.seed)
    train_listwise(task, name, ranker, sources[1], settings)
    cross = CrossTeacher("cross", ranker)
    if rung.kind == "cross":
        return cross
    pools = task.pools(task.split_queries("dev"), depth=depth, miner=dual)
    return fit_weights(task, dual, cross, pools)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Is a rung above the former one on dev? `message` has the figures and a paired test."""

    passed: bool
    message: str


def judge(
    task: Retrieval,
    new: Teacher,
    former: Teacher | None,
    pools: Candidates | None,
    start: Teacher | None = None,
) -> Verdict:
    """Judge a teacher against the former one, both ranking the same pools of dev queries; the
    quality of the encoder that it started from is added, where that is one of its own.

    The first is never refused, and without dev nobody is.
    """
    if pools is None:
        return Verdict(True, "not measured, since there is no dev split")
    own = task.quality(task.reranked(new, pools), "dev")
    said = f"{own[MEASURE].to_numpy().mean():.4f} {MEASURE} on dev"
    others = None if former is None else task.quality(task.reranked(former, pools), "dev")
    base = ""
    if start is not None:
        value = task.quality(task.reranked(start, pools), "dev")[MEASURE].to_numpy().mean()
        base = f"; its base as it comes {value:.4f}"
    if others is None:
        return Verdict(True, f"{said}{base}")
    [found] = compare(own, {"former": others}, Mean(name=MEASURE), task.run.seed)
    above = found.difference.value > 0
    said += (
        f"{'' if above else ', skipped'}: {found.difference.value:+.4f} to the one before, "
        f"p = {found.p:.4f} (paired randomisation)"
    )
    return Verdict(above, f"{said}{base}")
