"""What do the rows of a parquet file say, and what are its classes called?

Files as the Hugging Face hub has them: a column `label` of numbers, whose names stand in the file's
metadata, or of names. This module knows neither texts nor images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from limbeck.errors import DataError

_METADATA = "huggingface"


def columns_of(path: Path) -> set[str]:
    """The names of a file's columns; none where it is no parquet file."""
    try:
        return set(pl.read_parquet_schema(path))
    except (pl.exceptions.PolarsError, OSError):
        return set()


def class_names(path: Path, column: str) -> tuple[str, ...]:
    """The names of the classes in the order of their numbers; none where the file has no such."""
    if path.suffix != ".parquet":
        return ()
    try:
        about = json.loads(pl.read_parquet_metadata(path)[_METADATA])
        names = about["info"]["features"][column]["names"]
    except (pl.exceptions.PolarsError, OSError, KeyError, TypeError, ValueError):
        return ()
    whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if whole else ()


def parquet_rows(
    path: Path, columns: Sequence[str] | None
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Number of each row, from 1, and its values in these columns, or all; labels by their names.

    Raises:
        DataError: when the file cannot be read, or lacks a column.
    """
    try:
        frame = pl.read_parquet(path, columns=None if columns is None else list(columns))
    except (pl.exceptions.PolarsError, OSError) as error:
        told = f"{error}".splitlines()[0]
        needs = "" if columns is None else f" with the columns {', '.join(columns)}"
        raise DataError(
            f"{path.name}: cannot be read ({told}). It must be parquet{needs}."
        ) from error
    names = class_names(path, "label")
    for number, row in enumerate(frame.iter_rows(named=True), start=1):
        label = row.get("label")
        if names and isinstance(label, int) and -1 <= label < len(names):
            row["label"] = names[label] if label >= 0 else None  # -1: not known, by convention
        yield number, row
