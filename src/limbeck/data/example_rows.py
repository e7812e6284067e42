"""What does one line of training examples say?

FlagEmbedding writes

    {"query": text, "pos": [texts], "neg": [texts]}     and perhaps "pos_scores", "neg_scores"

and sentence-transformers, whose names of columns are free but for these customs,

    {"anchor": text, "positive": text}                          and "negative", or "negative_1", ...
    {"anchor": text, "positive": text, "label": 1}              0 = it is a negative after all
    {"anchor": text, "positive": [texts], "labels": [1, 0, ...]}

where the anchor may be called "query" or "question", and the positive by any of `PASSAGE`.
"scores" beside negatives are a teacher's, of the positive and then the negatives.

This module knows no file and no collection.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from limbeck.data.lines import Problem, Report, shown

QUERY = ("anchor", "query", "question")
PASSAGE = (
    *("positive", "answer", "response", "passage", "document"),
    *("docs", "documents", "passages", "answers"),
)
_NEGATIVE = re.compile(r"negatives?|negative_(\d+)")
_ADVICE = (
    'Each line must be one example such as {"query": "...", "pos": ["..."], "neg": ["..."]} or '
    '{"anchor": "...", "positive": "...", "negative": "..."}.'
)
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """A query and some passages, row-aligned with `grades` (1 = relevant, 0 = not) and with the
    `scores` of a teacher, None where there are none.

    `unread` are fields that say nothing here.
    """

    query: str
    passages: list[str]
    grades: list[int]
    scores: list[float] | None
    unread: tuple[str, ...]


def example_of(row: Row, where: str, report: Report) -> Example | None:
    """The example in the object of a line; None after a report."""
    try:
        return _flagembedding(row) if "pos" in row else _sentence_transformers(row)
    except _Unusable as error:
        report(Problem(error.kind, where, error.found, error.advice))
        return None


class _Unusable(Exception):  # never leaves this module
    def __init__(self, kind: str, found: str, advice: str = _ADVICE) -> None:
        self.kind, self.found, self.advice = kind, found, advice


def _flagembedding(row: Row) -> Example:
    query, pos = _text(row, "query"), _texts(row, "pos")
    neg = _texts(row, "neg", needed=False)
    known = {"query", "pos", "neg", "pos_scores", "neg_scores"}
    scores = None
    if row.get("pos_scores") is not None:
        scores = _numbers(row, "pos_scores", len(pos))
        if neg:
            scores += _numbers(row, "neg_scores", len(neg))
    elif row.get("neg_scores") is not None:
        raise _Unusable('bad "pos_scores"', '"neg_scores" without "pos_scores"')
    return Example(query, pos + neg, [1] * len(pos) + [0] * len(neg), scores, _others(row, known))


def _sentence_transformers(row: Row) -> Example:
    asked = _only(row, QUERY, "query")
    told = _only(row, PASSAGE, "positive")
    given = sorted(
        (name for name in row if _NEGATIVE.fullmatch(name) and row[name] is not None),
        key=lambda name: int(name.rpartition("_")[2]) if "_" in name else 0,
    )
    query, known = _text(row, asked), {asked, told, *given}
    passages = _texts(row, told, single=True)
    if given:
        grades = [1] * len(passages)
        for name in given:
            negatives = _texts(row, name, single=True)
            passages += negatives
            grades += [0] * len(negatives)
        scores = None
        if isinstance(row.get("scores"), list):
            scores, known = _numbers(row, "scores", len(passages)), {*known, "scores"}
        return Example(query, passages, grades, scores, _others(row, known))
    for name in ("label", "labels"):
        if row.get(name) is not None:
            labels = row[name] if isinstance(row[name], list) else [row[name]]
            grades = [_label(name, label) for label in labels]
            if len(grades) != len(passages):
                raise _Unusable(
                    f'bad "{name}"', f'{len(grades)} in "{name}" for {len(passages)} in "{told}"'
                )
            return Example(query, passages, grades, None, _others(row, {*known, name}))
    if "score" in row or "scores" in row:
        raise _Unusable(
            "score without label",
            f'a score, and no "label" says whether "{told}" is relevant',
            'Add "label": 1 or 0. Scores of a teacher go into a file of their own (--teacher).',
        )
    return Example(query, passages, [1] * len(passages), None, _others(row, known))


def _only(row: Row, names: tuple[str, ...], what: str) -> str:
    """The one of some names that a row has."""
    found = [name for name in names if row.get(name) is not None]
    if len(found) == 1:
        return found[0]
    has = ", ".join(f'"{name}"' for name in row) or "nothing"
    if not found:
        raise _Unusable(f"no {what}", f"no {what} (it has {has})")
    told = " and ".join(f'"{name}"' for name in found)
    raise _Unusable(f"two of {what}", f"{told} may both be the {what}", "Keep one of them.")


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        _refuse(row, name, value, "a text that is not empty")
    return value


def _texts(row: Row, name: str, *, needed: bool = True, single: bool = False) -> list[str]:
    """The texts of a field; with `single`, one text may stand there without a list."""
    value = row.get(name)
    if value is None and not needed:
        return []
    values = [value] if single and isinstance(value, str) else value
    if not isinstance(values, list) or (needed and not values):
        _refuse(row, name, value, "a list of texts")
    for each in values:
        if not isinstance(each, str) or not each.strip():
            _refuse(row, name, each, "a text that is not empty")
    return list(values)


def _numbers(row: Row, name: str, count: int) -> list[float]:
    value = row.get(name)
    if not isinstance(value, list):
        _refuse(row, name, value, "a list of numbers")
    if len(value) != count:
        raise _Unusable(f'bad "{name}"', f'{len(value)} in "{name}" for {count} passages')
    for each in value:
        if isinstance(each, bool) or not isinstance(each, int | float) or not math.isfinite(each):
            _refuse(row, name, each, "a finite number")
    return [float(each) for each in value]


def _label(name: str, value: object) -> int:
    if isinstance(value, bool | int | float) and value in (0, 1):
        return int(value)
    raise _Unusable(f'bad "{name}"', f'{shown(value)} in "{name}", neither 0 nor 1')


def _refuse(row: Row, name: str, value: object, expected: str) -> NoReturn:
    if name not in row:
        has = ", ".join(f'"{key}"' for key in row) or "nothing"
        raise _Unusable(f'bad "{name}"', f'no "{name}" (it has {has})')
    raise _Unusable(f'bad "{name}"', f'{shown(value)} in "{name}", not {expected}')


def _others(row: Row, known: set[str]) -> tuple[str, ...]:
    return tuple(name for name in row if name not in known)
