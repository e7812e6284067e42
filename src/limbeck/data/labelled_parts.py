"""What is a split of labelled examples as its files have it, and which files are a split's?

Readers of texts and of images give `Parts`; `limbeck.data.labelled` makes a dataset of them. This
module knows no format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from limbeck.data.lines import Problem, Report, find
from limbeck.errors import DataError
from limbeck.types import Split

Form = Literal["images", "texts"]

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "dev": ("dev", "val", "valid", "validation"),
    "test": ("test",),
}
UNLABELLED = "unlabelled"
_SHARD = r"-\d+-of-\d+\.parquet"  # train-00000-of-00002.parquet


@dataclass(frozen=True)
class Part:
    """Examples in order: ids, where each stands, what a model reads (texts, or images of bytes
    [n, height, width, channels]), and the name of each one's class, empty where it is not known.
    """

    ids: Sequence[str]
    places: Sequence[str]
    inputs: list[str] | np.ndarray
    labels: Sequence[str]


@dataclass(frozen=True)
class Parts:
    """Splits of labelled examples, as read. `train` alone is the whole, to be cut, where `cut`;
    `classes` are the names in the data's order, where it gives one.
    """

    form: Form
    splits: Mapping[Split, Part]
    unlabelled: Part | None = None
    classes: Sequence[str] = ()
    cut: bool = False
    notes: tuple[str, ...] = ()


def split_files(path: Path, endings: Sequence[str]) -> dict[Split, list[Path]]:
    """The files of each split that has some. A file by itself is `train`.

    Raises:
        DataError: when two files are the same split.
    """
    if path.is_file():
        return {"train": [path]}
    found = {split: files_of(path, names, endings) for split, names in SPLIT_NAMES.items()}
    return {split: files for split, files in found.items() if files}


def files_of(path: Path, names: Sequence[str], endings: Sequence[str]) -> list[Path]:
    """The file of one of these names, or its shards.

    Raises:
        DataError: when there are two.
    """
    there = list(_named(path, names, endings))
    if len(there) > 1:
        told = " and ".join(files[0].name for files in there)
        raise DataError(f"{path} has {told}, which are the same split. Keep one of them.")
    return there[0] if there else []


def first_file(path: Path, endings: Sequence[str]) -> Path | None:
    """A file that shows which columns the data have; None where there is none."""
    if path.is_file():
        return path if ending(path) in endings else None
    names = [name for each in SPLIT_NAMES.values() for name in each]
    return next((files[0] for files in _named(path, names, endings)), None)


def _named(path: Path, names: Sequence[str], endings: Sequence[str]) -> Iterator[list[Path]]:
    """The files of these names; those of the hub are parquet, in `data` and perhaps in shards."""
    parquet = ".parquet" in endings
    for folder in (path, path / "data") if parquet else (path,):
        inside = sorted(folder.iterdir()) if parquet and folder.is_dir() else []
        for name in names:
            for each in endings if folder == path else (".parquet",):
                if file := find(folder, f"{name}{each}", []):
                    yield [file]
            if shards := [file for file in inside if re.fullmatch(name + _SHARD, file.name)]:
                yield shards


def ending(path: Path) -> str:
    """The ending of a file's name, that of a packed one without `.gz`.

    Example:
        >>> ending(Path("train.csv.gz"))
        '.csv'
    """
    return Path(path.name.removesuffix(".gz")).suffix


def label_of(label: object, where: str, report: Report, advice: str) -> str | None:
    """The name of a class; None after a report."""
    if label is None:
        report(Problem("no label", where, "there is no `label`", advice))
    elif isinstance(label, float | list | dict | bool | bytes):
        report(Problem("no name", where, f"label {label!r} is no name", advice))
    elif not str(label).strip():
        report(Problem("empty label", where, "its label is empty", advice))
    else:
        return str(label).strip()
    return None
