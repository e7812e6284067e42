"""Which class is each example of?

Reads texts with labels (`.jsonl` or `.csv`, columns `text` and `label`) and the built-in images
`digits`. Examples without a label are to be learned from, too, by a teacher's word. What cannot be
used is refused, naming its place. This module knows no model and no measure.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from limbeck.data.lines import Problem, decoded, find, json_object, lines
from limbeck.data.png import png
from limbeck.errors import ConfigError, DataError
from limbeck.store import digest
from limbeck.types import SPLITS, Split

DIGITS = "digits"
ENDINGS = (".jsonl", ".csv")
LAYOUTS = (
    "`digits`, or texts with labels: rows with `text` and `label` in a .jsonl or .csv, or a folder "
    "with train.jsonl or train.csv (dev, test and unlabelled beside it)"
)
Form = Literal["images", "texts"]

_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "dev": ("dev", "validation"),
    "test": ("test",),
}
_UNLABELLED = "unlabelled"
_SHARES = {"test": 0.2, "dev": 0.1}  # of one file that is cut
_DIGITS_CUT = {"test": 500, "dev": 297}  # of 1,797 images; the rest is for training
_SHAPE = 'Write each line as {"text": "...", "label": "..."}.'
_CUT_SEED = 0  # the same data whatever the seed of a run


@dataclass(frozen=True)
class Examples:
    """Examples in order: ids, what a model reads (texts, or images [n, height, width, channels] in
    [0, 1]), and the position of each one's class; -1 where it is not known.
    """

    ids: Sequence[str]
    inputs: Sequence[str] | np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, positions: np.ndarray) -> Examples:
        """Some of them."""
        inputs = (
            self.inputs[positions]
            if isinstance(self.inputs, np.ndarray)
            else [self.inputs[at] for at in positions.tolist()]
        )
        return Examples([self.ids[at] for at in positions.tolist()], inputs, self.labels[positions])

    @property
    def digest(self) -> str:
        """Of ids, inputs and labels."""
        inputs = self.inputs
        read = (
            hashlib.sha256(np.ascontiguousarray(inputs).tobytes()).hexdigest()
            if isinstance(inputs, np.ndarray)
            else digest(list(inputs))
        )
        return digest([list(self.ids), read, self.labels.tolist()])


@dataclass(frozen=True)
class Labelled:
    """A dataset of examples, each of one of some classes."""

    name: str
    form: Form
    classes: tuple[str, ...]
    parts: Mapping[Split, Examples]
    notes: tuple[str, ...] = ()
    synthetic: bool = False

    @cached_property
    def digest(self) -> str:
        """The SHA-256 (hex) of its content."""
        parts = {split: self.parts[split].digest for split in self.splits}
        return digest([self.form, list(self.classes), parts])

    @property
    def splits(self) -> Sequence[Split]:
        """The splits that it has."""
        return [split for split in SPLITS if split in self.parts]

    @property
    def facts(self) -> Mapping[str, object]:
        """Counts for `run.toml`."""
        return {
            "classes": len(self.classes),
            "labelled": len(self.labelled),
            "unlabelled": len(self.unlabelled),
        }

    @property
    def labelled(self) -> list[str]:
        """The training examples whose class is known."""
        return self._training(known=True)

    @property
    def unlabelled(self) -> list[str]:
        """Those whose class is not."""
        return self._training(known=False)

    def shown(self, unit: str) -> str | None:
        """A text as it is; of an image its size."""
        place = self._place(unit)
        if place is None:
            return None
        split, at = place
        inputs = self.parts[split].inputs
        if isinstance(inputs, np.ndarray):
            height, width = inputs.shape[1:3]
            return f"image {unit} of {self.name}, {width} x {height} pixels"
        return inputs[at]

    def picture(self, unit: str) -> bytes | None:
        """An image as a PNG, of a large one every so many pixels."""
        place = self._place(unit)
        inputs = None if place is None else self.parts[place[0]].inputs
        return png(inputs[place[1]]) if place and isinstance(inputs, np.ndarray) else None

    def alternative(self, name: str) -> str | None:
        """A class, by its name."""
        return name if name in self.classes else None

    def judged(self, split: Split, unit: str) -> Mapping[str, int]:
        """The class of an example."""
        place = self._place(unit)
        if place is None or place[0] != split:
            return {}
        label = int(self.parts[split].labels[place[1]])
        return {} if label < 0 else {self.classes[label]: 1}

    def _training(self, *, known: bool) -> list[str]:
        train = self.parts["train"]
        return [train.ids[at] for at in np.flatnonzero((train.labels >= 0) == known).tolist()]

    def _place(self, unit: str) -> tuple[Split, int] | None:
        return self._places.get(unit)

    @cached_property
    def _places(self) -> dict[str, tuple[Split, int]]:
        return {
            unit: (split, at)
            for split, part in self.parts.items()
            for at, unit in enumerate(part.ids)
        }


def holds_labelled(data: str) -> bool:
    """Whether DATA is named `digits`, or its first row has a `text` and a `label`."""
    if data == DIGITS:
        return True
    path = Path(data).expanduser()
    try:
        file = path if path.is_file() else _train_file(path)
        return file is not None and _first_keys(file) >= {"text", "label"}
    except OSError:
        return False


def read_labelled(data: str | Path, *, labels: int | None = None) -> Labelled:
    """The dataset that DATA names, with a dev split; only `labels` of the training examples keep
    their label, the same ones whatever the seed of a run.

    Raises:
        ConfigError: when DATA is nothing that can be read.
        DataError: at the first thing that cannot be used, naming its place.
    """
    name = str(data)
    found = _digits() if name == DIGITS else _texts(Path(name).expanduser())
    return found if labels is None else _with_labels(found, labels)


def _digits() -> Labelled:
    """The 1,797 images of handwritten digits that come with scikit-learn, 8 x 8 pixels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images / 16).astype(np.float32)[..., None]
    ids = [f"digit-{at}" for at in range(len(images))]
    every = Examples(ids, images, found.target.astype(np.int64))
    note = "digits: cut into training, dev and test once and for all"
    return Labelled(DIGITS, "images", tuple(map(str, range(10))), _cut(every, _DIGITS_CUT), (note,))


def _texts(path: Path) -> Labelled:
    """Texts with labels, from one file or a folder."""
    notes: list[str] = []
    rows: dict[Split, list[Row]] = {}
    if path.is_file():
        rows["train"] = list(_rows(path, path.name))
    elif path.is_dir():
        for split, names in _NAMES.items():
            if (file := _file_of(path, names)) is not None:
                rows[split] = list(_rows(file, file.name))
        if "train" not in rows:
            raise ConfigError(f"{path} has no train.jsonl or train.csv to learn from. Add one.")
    else:
        raise ConfigError(f"There is no file or folder {path}. Data of classes are {LAYOUTS}.")
    classes = _classes(rows["train"], path.name)
    position = {name: at for at, name in enumerate(classes)}
    parts: dict[Split, Examples] = {}
    for split, own in rows.items():
        labels = np.empty(len(own), dtype=np.int64)
        for at, (where, _, label) in enumerate(own):
            if label not in position:
                _refuse(
                    where,
                    f"label {label!r} is not among the {len(classes)} of training",
                    "Correct it, or add examples of it to the training file.",
                )
            labels[at] = position[label]
        texts = [text for _, text, _ in own]
        parts[split] = Examples([f"{split}-{at}" for at in range(len(own))], texts, labels)
    name = path.resolve().name
    if path.is_file():
        parts = _cut(parts["train"], _SHARES)
        notes.append(f"{name}: one file, cut into training, dev (10%) and test (20%)")
    elif "dev" not in parts:
        parts |= _cut(parts["train"], {"dev": _SHARES["dev"]})
        notes.append("dev: none, cut from training (10%)")
    if path.is_dir() and (file := _file_of(path, (_UNLABELLED,))) is not None:
        parts["train"] = _with_unlabelled(parts["train"], file)
    known = parts["train"].labels
    counts = np.bincount(known[known >= 0], minlength=len(classes))
    if missing := [classes[at] for at in np.flatnonzero(counts == 0).tolist()]:
        raise DataError(
            f"{name}: no example of {', '.join(missing[:3])} is left for training. Add examples, "
            "or give dev and test as files of their own."
        )
    for split in ("dev", "test"):
        if split in parts:
            there = {classes[at] for at in np.unique(parts[split].labels).tolist()}
            if absent := [each for each in classes if each not in there]:
                notes.append(f"{split}: has no example of {len(absent)} classes ({absent[0]}, ...)")
    return Labelled(name, "texts", classes, parts, tuple(notes))


def _with_unlabelled(train: Examples, file: Path) -> Examples:
    texts = [text for _, text, _ in _rows(file, file.name, labelled=False)]
    ids = [f"{_UNLABELLED}-{at}" for at in range(len(texts))]
    none = np.full(len(texts), -1, dtype=np.int64)
    return Examples(
        [*train.ids, *ids], [*train.inputs, *texts], np.concatenate([train.labels, none])
    )


def _with_labels(found: Labelled, labels: int) -> Labelled:
    """The dataset with the labels of only so many training examples."""
    train = found.parts["train"]
    known = np.flatnonzero(train.labels >= 0)
    if labels >= len(known):
        return found
    kept = np.random.default_rng(_CUT_SEED).permutation(known)[:labels]
    own = np.full(len(train), -1, dtype=np.int64)
    own[kept] = train.labels[kept]
    if len(seen := np.unique(own[kept])) < 2:
        raise DataError(
            f"--labels {labels}: the examples that keep their label are all of one class "
            f"({found.classes[int(seen[0])]}). Ask for more."
        )
    parts = {**found.parts, "train": replace(train, labels=own)}
    note = f"labels: {labels:,} of {len(known):,} training examples keep theirs"
    missing = len(found.classes) - len(seen)
    if missing:
        note += f"; none of {missing} classes is among them"
    return replace(found, parts=parts, notes=(*found.notes, note))


def _cut(every: Examples, shares: Mapping[Any, float]) -> dict[Split, Examples]:
    """Examples dealt to splits, in their order: a share of them, or a number; the rest trains."""
    order = np.random.default_rng(_CUT_SEED).permutation(len(every))
    parts: dict[Split, Examples] = {}
    start = 0
    for split, share in shares.items():
        count = max(1, round(share * len(every))) if share < 1 else int(share)
        parts[split] = every.at(np.sort(order[start : start + count]))
        start += count
    parts["train"] = every.at(np.sort(order[start:]))
    return parts


Row = tuple[str, str, str]  # where it stands, its text, its label


def _rows(path: Path, name: str, *, labelled: bool = True) -> Iterator[Row]:
    """The rows of a file, each with its place.

    Raises:
        DataError: at the first that cannot be used.
    """
    empty = True
    for number, row in objects(path, name):
        where, empty = f"{name}:{number}", False
        text, label = row.get("text"), row.get("label")
        if not isinstance(text, str):
            _refuse(where, "there is no `text`", _SHAPE)
        if not text.strip():
            _refuse(where, "its text is empty", "Leave the row out, or give it a text.")
        if labelled and (label is None or isinstance(label, float | list | dict | bool)):
            found = "there is no `label`" if label is None else f"label {label!r} is no name"
            more = f"Texts without one go into {_UNLABELLED}.jsonl in the folder."
            _refuse(where, found, f"{_SHAPE} {more}")
        if labelled and not str(label).strip():
            _refuse(where, "its label is empty", _SHAPE)
        yield where, text, str(label).strip()
    if empty:
        _refuse(name, "there is no row", _SHAPE)


def objects(path: Path, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Number of the line, and columns by name."""

    def refuse(problem: Problem) -> NoReturn:
        raise DataError(str(problem))

    if ending(path) != ".csv":
        for number, raw in lines(path, name, refuse):
            row = json_object(raw, f"{name}:{number}", _SHAPE, refuse)
            if row is not None:
                yield number, row
        return
    place = 0

    def texts() -> Iterator[str]:
        nonlocal place
        for number, raw in lines(path, name, refuse):
            place = number
            yield f"{decoded(raw, f'{name}:{number}', refuse)}\n"

    try:
        for row in csv.DictReader(texts(), strict=True):
            yield place, row
    except csv.Error as error:
        _refuse(f"{name}:{place}", f"not CSV ({error})", "Save it as CSV, with text and label.")


def _classes(rows: Sequence[Row], name: str) -> tuple[str, ...]:
    """The names of all classes in order: numbers by size, else by name."""
    counts = Counter(label for _, _, label in rows)
    if len(counts) < 2:
        raise DataError(
            f"{name}: all training examples have the label {next(iter(counts))!r}. There must be "
            "two classes at least."
        )
    if all(each.isdecimal() for each in counts):
        return tuple(sorted(counts, key=lambda each: (int(each), each)))
    return tuple(sorted(counts))


def _train_file(folder: Path) -> Path | None:
    return _file_of(folder, _NAMES["train"]) if folder.is_dir() else None


def _file_of(folder: Path, names: Sequence[str]) -> Path | None:
    """The file of a split; two are refused."""
    every = [find(folder, f"{name}{ending}", []) for name in names for ending in ENDINGS]
    there = [file for file in every if file]
    if len(there) > 1:
        told = " and ".join(file.name for file in there)
        raise DataError(f"{folder} has {told}, which are the same split. Keep one of them.")
    return there[0] if there else None


def ending(path: Path) -> str:
    """How a file's name ends, before `.gz`."""
    return Path(path.name.removesuffix(".gz")).suffix


def _first_keys(path: Path) -> set[str]:
    """The columns of a file's first row; none where it is no such file."""
    if ending(path) not in ENDINGS:
        return set()
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


def _refuse(where: str, found: str, advice: str) -> NoReturn:
    raise DataError(f"{where}: {found}. {advice}")
