"""Which texts have which labels?

Reads rows with `text` and `label` from .jsonl, .csv and .parquet, as one file or as a folder with a
file for each split. What cannot be used goes to `report`, with its place. This module knows no
images.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from limbeck.data.labelled_parts import (
    UNLABELLED,
    Part,
    Parts,
    ending,
    files_of,
    first_file,
    label_of,
    split_files,
)
from limbeck.data.lines import Problem, Report, decoded, json_object, lines
from limbeck.data.parquet import class_names, columns_of, parquet_rows
from limbeck.errors import ConfigError

COLUMNS = ("text", "label")
ENDINGS = (".jsonl", ".csv", ".parquet")
_SHAPE = 'Write each line as {"text": "...", "label": "..."}.'
_WITHOUT = f"Texts without one go into {UNLABELLED}.jsonl in the folder."


def holds_texts(path: Path) -> bool:
    """Whether the first row of a file, or of one in a folder, has a `text` and a `label`."""
    file = first_file(path, ENDINGS)
    return file is not None and _first_keys(file) >= set(COLUMNS)


def read_texts(path: Path, report: Report, size: int | None = None) -> Parts:
    """The splits of a folder, or a file that is to be cut.

    Raises:
        ConfigError: when nothing is for training.
        DataError: when a split has two files.
    """
    files = split_files(path, ENDINGS)
    if "train" not in files:
        told = ", ".join(f"train{each}" for each in ENDINGS)
        raise ConfigError(f"{path} has none of {told} to learn from. Add one.")
    splits = {split: _part(split, own, report) for split, own in files.items()}
    more = files_of(path, (UNLABELLED,), ENDINGS) if path.is_dir() else []
    return Parts(
        "texts",
        splits,
        unlabelled=_part(UNLABELLED, more, report, labelled=False) if more else None,
        classes=class_names(files["train"][0], "label"),
        cut=path.is_file(),
    )


def _part(name: str, files: Sequence[Path], report: Report, *, labelled: bool = True) -> Part:
    rows = [row for file in files for row in _rows(file, report, labelled=labelled)]
    places, texts, labels = ([row[at] for row in rows] for at in range(3))
    ids = [f"{name}-{at}" for at in range(len(rows))]
    return Part(ids, places, texts, labels)


def _rows(path: Path, report: Report, *, labelled: bool) -> Iterator[tuple[str, str, str]]:
    """Place, text and label of each row."""
    name, empty = path.name, True
    for number, row in objects(path, report, labelled=labelled):
        where, empty = f"{name}:{number}", False
        text, label = row.get("text"), ""
        if not isinstance(text, str):
            report(Problem("no text", where, "there is no `text`", _SHAPE))
            continue
        if not text.strip():
            advice = "Leave the row out, or give it a text."
            report(Problem("empty text", where, "its text is empty", advice))
            continue
        if labelled:
            found = label_of(row.get("label"), where, report, f"{_SHAPE} {_WITHOUT}")
            if found is None:
                continue
            label = found
        yield where, text, label
    if empty:
        report(Problem("no rows", name, "there is no row", _SHAPE))


def objects(
    path: Path, report: Report, *, labelled: bool
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Number of the line or row, and columns by name."""
    kind, name = ending(path), path.name
    if kind == ".parquet":
        yield from parquet_rows(path, COLUMNS if labelled else None)
    elif kind == ".csv":
        yield from _csv_rows(path, report)
    else:
        for number, raw in lines(path, name, report):
            row = json_object(raw, f"{name}:{number}", _SHAPE, report)
            if row is not None:
                yield number, row


def _csv_rows(path: Path, report: Report) -> Iterator[tuple[int, Mapping[str, Any]]]:
    name, place = path.name, 0

    def texts() -> Iterator[str]:
        nonlocal place
        for number, raw in lines(path, name, report):
            place = number
            text = decoded(raw, f"{name}:{number}", report)
            if text is not None:
                yield f"{text}\n"

    try:
        for row in csv.DictReader(texts(), strict=True):
            yield place, row
    except csv.Error as error:
        advice = "Save it as CSV, with text and label."
        report(Problem("not CSV", f"{name}:{place}", f"not CSV ({error})", advice))


def _first_keys(path: Path) -> set[str]:
    """The columns of a file's first row; none where it is no such file."""
    if ending(path) == ".parquet":
        return columns_of(path)
    for _, raw in islice(lines(path, path.name, lambda problem: None), 1):
        try:
            text = raw.decode()
            if ending(path) == ".csv":
                return set(next(csv.reader(io.StringIO(text))))
            row = json.loads(text, strict=False)
            return set(row) if isinstance(row, dict) else set()
        except (ValueError, RecursionError, csv.Error):
            return set()
    return set()
