"""Which new inputs does a file hold, that no label is known of?

Texts: a `.jsonl`, `.csv` or `.parquet` with `text` (and an `id`, if there is one), or a `.txt` with
one on each line. Images: a picture, a folder of them, or `digits`, the test images of the built-in
data. This module knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from limbeck.data.images import new_pictures
from limbeck.data.labelled import DIGITS, read_labelled
from limbeck.data.labelled_parts import ending
from limbeck.data.labelled_texts import ENDINGS, objects
from limbeck.data.lines import Problem, decoded, lines
from limbeck.errors import ConfigError, DataError

TEXTS = ".txt"
FILES = "a .jsonl, .csv or .parquet with `text`, or a .txt with a text on each line"
PICTURES = "a picture, or a folder of pictures"
_IDS = ("id", "_id")


def read_new_inputs(
    name: str, shape: tuple[int, int, int] | None = None
) -> tuple[Sequence[str], Sequence[str] | np.ndarray]:
    """The ids and the inputs in a file: an id is the row's own, else the number of its line. Of
    images, which are made of this `shape` (height, width, channels), it is the path.

    Raises:
        ConfigError: when there is no such file, or its name does not say what it holds.
        DataError: at the first row that cannot be used, naming its place.
    """
    if name == DIGITS:
        test = read_labelled(DIGITS).parts["test"]
        return test.ids, test.inputs
    path = Path(name).expanduser()
    if not path.exists():
        told = FILES if shape is None else PICTURES
        raise ConfigError(f"There is no file {name!r}. Name {told}.")
    if shape is not None and (path.is_dir() or ending(path) not in (*ENDINGS, TEXTS)):
        ids, images = new_pictures(path, shape, _report)
        if not ids:
            raise DataError(f"There are no pictures in {path}. Name {PICTURES}.")
        return ids, images
    if path.is_dir() or ending(path) not in (*ENDINGS, TEXTS):
        raise ConfigError(f"{name} is not a file of texts. Name {FILES}.")
    rows = list(_plain(path) if ending(path) == TEXTS else _rows(path))
    if not rows:
        raise DataError(f"{path.name} is empty. Name {FILES}.")
    return [key for key, _ in rows], [text for _, text in rows]


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    for number, row in objects(path, _report, labelled=False):
        text = row.get("text")
        if not isinstance(text, str):
            _refuse(f"{path.name}:{number}: there is no `text`. Give every row a text.")
        if not text.strip():
            _refuse(f"{path.name}:{number}: its text is empty. Leave the row out.")
        own = next((row[key] for key in _IDS if row.get(key) is not None), number)
        yield str(own), text


def _plain(path: Path) -> Iterator[tuple[str, str]]:
    for number, raw in lines(path, path.name, _report):
        yield str(number), decoded(raw, f"{path.name}:{number}", _report) or ""


def _report(problem: Problem) -> NoReturn:
    _refuse(str(problem))


def _refuse(message: str) -> NoReturn:
    raise DataError(message)
