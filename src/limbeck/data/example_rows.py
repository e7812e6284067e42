"""What does one line of training examples say?

FlagEmbedding writes

    {"query": text, "pos": [texts], "neg": [texts]}     and perhaps "pos_scores", "neg_scores"

and sentence-transformers, whose names of columns are free but for these customs,

    {"anchor": text, "positive": text}                          and "negative", or "negative_1", ...
    {"anchor": text, "positive": text, "label": 1}              0 = it is a negative after all
    {"anchor": text, "positive": [texts], "labels": [1, 0, ...]}

where the anchor may be called "query" or "question", and the positive by any of `PASSAGE`.
"scores" beside negatives are a teacher's, of the positive and then the negatives.

Tevatron and DPR keep passages as objects with "title" and "text", and perhaps "answers" beside them
that are none:

    {"query": text, "positive_passages": [objects], "negative_passages": [objects]}
    {"question": text, "positive_ctxs": [objects], "hard_negative_ctxs": [objects]}

The first key that only one of them writes says which it is; a row that fits two is refused.

This module knows no file and no collection.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from limbeck.data.lines import Problem, Report, shown

QUERY = ("anchor", "query", "question")
PASSAGE = (
    *("positive", "answer", "response", "passage", "document"),
    *("docs", "documents", "passages", "answers"),
)
ANSWER = ("answer", "answers")  # of a reader, and no passages, where there are passages as well
_NEGATIVE = re.compile(r"negatives?|negative_(\d+)")
_PASSAGES = re.compile(r"ctxs?|contexts?|passages?|documents?|docs?", re.IGNORECASE)
_ADVICE = (
    'Each line must be one example such as {"query": "...", "pos": ["..."], "neg": ["..."]} or '
    '{"anchor": "...", "positive": "...", "negative": "..."}.'
)
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """A query and some passages, row-aligned with `grades` (1 = relevant, 0 = not) and with the
    `scores` of a teacher, None where there are none.

    A passage is its title, empty where it has none, and its text. `shape` is whose custom the line
    follows, and by which fields; `unread` are fields that say nothing here.
    """

    query: str
    passages: list[tuple[str, str]]
    grades: list[int]
    scores: list[float] | None
    shape: str
    unread: tuple[str, ...]


def example_of(row: Row, where: str, report: Report) -> Example | None:
    """The example in the object of a line; None after a report."""
    try:
        return _reader(row)(row)
    except _Unusable as error:
        report(Problem(error.kind, where, error.found, error.advice))
        return None


class _Unusable(Exception):  # never leaves this module
    def __init__(self, kind: str, found: str, advice: str = _ADVICE) -> None:
        self.kind, self.found, self.advice = kind, found, advice


def _reader(row: Row) -> Callable[[Row], Example]:
    """The function that reads a row, chosen by the key that only one of the layouts has."""
    found = [key for key in (*_SHAPES, "positive") if row.get(key) is not None]
    if len(found) > 1:
        raise _Unusable(
            "two shapes",
            f'"{found[0]}" and "{found[1]}" are the positives of two layouts',
            "Keep one of them.",
        )
    key = found[0] if found else next((key for key in _SHAPES if key in row), "")
    return _SHAPES.get(key, _sentence_transformers)


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
    grades = [1] * len(pos) + [0] * len(neg)
    shape = _shape("FlagEmbedding", "query", "pos")
    return Example(query, _untitled(pos + neg), grades, scores, shape, _others(row, known))


def _tevatron(row: Row) -> Example:
    return _of_objects(row, "Tevatron", "positive_passages", ("negative_passages",))


def _dpr(row: Row) -> Example:
    return _of_objects(row, "DPR", "positive_ctxs", ("negative_ctxs", "hard_negative_ctxs"))


_SHAPES = {"pos": _flagembedding, "positive_passages": _tevatron, "positive_ctxs": _dpr}


def _of_objects(row: Row, whose: str, positive: str, negatives: tuple[str, ...]) -> Example:
    """An example whose passages are objects; there may be negatives alone."""
    asked = _only(row, QUERY, "query")
    query = _text(row, asked)
    passages, unread = _passages(row, positive)
    grades = [1] * len(passages)
    for name in negatives:
        if row.get(name) is not None:
            found, more = _passages(row, name)
            passages, unread = passages + found, unread | more
            grades += [0] * len(found)
    if not passages:
        raise _Unusable("no passage", f'no passage in "{positive}" nor beside it')
    others = _others(row, {asked, positive, *negatives})
    shape = _shape(whose, asked, positive)
    return Example(query, passages, grades, None, shape, (*others, *unread))


def _passages(row: Row, name: str) -> tuple[list[tuple[str, str]], dict[str, None]]:
    """Titles and texts of the passages in a field, and the other keys of their objects."""
    values = row.get(name)
    if not isinstance(values, list):
        _refuse(row, name, values, "a list of passages")
    passages, unread = [], dict[str, None]()
    for value in values:
        inside = {"text": value} if isinstance(value, str) else value
        if not isinstance(inside, dict):
            _refuse(row, name, value, 'a passage such as {"title": "...", "text": "..."}')
        title, text = inside.get("title") or "", inside.get("text")
        if not isinstance(title, str) or not isinstance(text, str) or not (title + text).strip():
            _refuse(row, name, value, 'a passage such as {"title": "...", "text": "..."}')
        passages.append((title, text))
        unread |= dict.fromkeys(f"{name}.{key}" for key in inside if key not in ("title", "text"))
    return passages, unread


def _sentence_transformers(row: Row) -> Example:
    asked = _only(row, QUERY, "query")
    told = _only(row, PASSAGE, "positive")
    shape = _shape("sentence-transformers", asked, told)
    given = sorted(
        (name for name in row if _NEGATIVE.fullmatch(name) and row[name] is not None),
        key=lambda name: int(name.rpartition("_")[2]) if "_" in name else 0,
    )
    if told in ANSWER:
        beside = [name for name in row if row[name] and _holds_passages(name) and name not in given]
        if beside:
            raise _Unusable(
                "two of positive",
                f'"{told}" and "{beside[0]}" may both be the positive',
                'Leave one of them out, and call the passages "positive".',
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
        others = _others(row, known)
        return Example(query, _untitled(passages), grades, scores, shape, others)
    for name in ("label", "labels"):
        if row.get(name) is not None:
            labels = row[name] if isinstance(row[name], list) else [row[name]]
            grades = [_label(name, label) for label in labels]
            if len(grades) != len(passages):
                raise _Unusable(
                    f'bad "{name}"', f'{len(grades)} in "{name}" for {len(passages)} in "{told}"'
                )
            others = _others(row, {*known, name})
            return Example(query, _untitled(passages), grades, None, shape, others)
    if "score" in row or "scores" in row:
        raise _Unusable(
            "score without label",
            f'a score, and no "label" says whether "{told}" is relevant',
            'Add "label": 1 or 0. Scores of a teacher go into a file of their own (--teacher).',
        )
    grades = [1] * len(passages)
    return Example(query, _untitled(passages), grades, None, shape, _others(row, known))


def _holds_passages(name: str) -> bool:
    """Whether a field may hold passages, by the words of its name; `doc_id` does not."""
    words = re.split(r"[\W_]+", name)
    return any(_PASSAGES.fullmatch(word) for word in words) and words[-1].lower() != "id"


def _untitled(texts: list[str]) -> list[tuple[str, str]]:
    return [("", text) for text in texts]


def _shape(whose: str, asked: str, told: str) -> str:
    return f'{whose} writes them ("{asked}", "{told}")'


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
