"""Which classes does a student tell well, and which does it take for others?

Read off the counts of F1 that a run keeps of every example. This module knows no model and no data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from limbeck.evaluation.statistics import MacroF1, Measures, count_columns
from limbeck.evaluation.table import RIGHT, Block, Details
from limbeck.store import read_parquet

MAX_MATRIX = 20  # classes; of more, pairs are shown
MAX_PAIRS = 30
_STUDENT = "student"


def details(run: Path, measures: Measures) -> Details:
    """A table of classes and one of confusions, of the student, and the class that every system
    gave to each example.

    Raises:
        StoreError: when a file of the run is damaged.
    """
    counts = next((each for each in measures.measures if isinstance(each, MacroF1)), None)
    path = run / measures.file
    if counts is None or not path.exists():
        return Details()
    words = dict.fromkeys((measures.id, "model", "split"), pl.String)
    table = read_parquet(path, words, others=pl.Float64)
    classes = counts.classes
    _, predicted, actual = count_columns(classes)

    def named(frame: pl.DataFrame, columns: Sequence[str]) -> dict[str, str]:
        chosen = frame.select(columns).to_numpy().argmax(axis=1)
        return {
            str(unit): classes[at]
            for unit, at in zip(frame[measures.id], chosen.tolist(), strict=True)
        }

    frames = {str(name): part for (name,), part in table.group_by("model", maintain_order=True)}
    if _STUDENT not in frames:
        return Details()
    student = frames[_STUDENT]
    pairs = student.select(actual).to_numpy().T @ student.select(predicted).to_numpy()
    matrix = np.rint(pairs).astype(np.int64)
    confusions = _matrix if len(classes) <= MAX_MATRIX else _pairs
    answers = {name: named(frame, predicted) for name, frame in frames.items()}
    return Details(
        [_classes(matrix, classes), confusions(matrix, classes)],
        {RIGHT: named(student, actual), **answers},
    )


def _classes(matrix: np.ndarray, classes: Sequence[str]) -> Block:
    """Precision, recall and F1 of each class; none of one that was never predicted or there."""
    right, told, there = matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)

    def share(part: int, whole: int) -> str:
        return f"{part / whole:.3f}" if whole else ""

    return Block(
        "The student on each class",
        "Precision is the share right of the examples for which the class was predicted, recall "
        "that of the examples which are of the class; F1 is their harmonic mean.",
        ["class", "precision", "recall", "F1", "examples", "predicted"],
        [
            [
                name,
                share(right[at], told[at]),
                share(right[at], there[at]),
                share(2 * right[at], told[at] + there[at]),
                f"{there[at]:,}",
                f"{told[at]:,}",
            ]
            for at, name in enumerate(classes)
        ],
    )


def _matrix(matrix: np.ndarray, classes: Sequence[str]) -> Block:
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return Block(
        "Confusion matrix of the student",
        "A row has the examples of a class, a column those for which the student predicts one; the "
        "darker, the larger the share of the row.",
        ["right class", *classes],
        [
            [name, *(f"{count:,}" if count else "" for count in row)]
            for name, row in zip(classes, matrix.tolist(), strict=True)
        ],
        shades=shares.tolist(),
    )


def _pairs(matrix: np.ndarray, classes: Sequence[str]) -> Block:
    wrong = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_PAIRS]
    rows = []
    for right, given in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if count := int(wrong[right, given]):
            share = f"{count / matrix[right].sum():.0%}"
            rows.append([classes[right], classes[given], f"{count:,}", share])
    return Block(
        "Pairs of classes that the student confuses most",
        f"There are {len(classes)} classes, too many for a matrix. The share is of all examples of "
        "the right class.",
        ["right class", "predicted", "examples", "share"],
        rows,
        words=2,
    )
