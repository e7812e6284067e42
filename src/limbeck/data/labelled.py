"""Which class is each example of?

DATA is the built-in `digits`, or files in one of several layouts, each of which has a reader of its
own. Examples without a label are to be learned from, too, by a teacher's word. What cannot be used
is refused, naming its place. This module knows no model, no measure and no format.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from limbeck.data import image_arrays, images, labelled_texts
from limbeck.data.labelled_parts import Form, Part, Parts, first_file
from limbeck.data.lines import Problem, Report
from limbeck.data.png import png
from limbeck.data.reading import looks_like_collection
from limbeck.errors import ConfigError, DataError
from limbeck.store import digest
from limbeck.types import SPLITS, Split

DIGITS = "digits"
LAYOUTS = (
    "`digits`; texts: rows with `text` and `label` in a .jsonl, .csv or .parquet, or a folder with "
    "train.jsonl (dev, test and unlabelled beside it); images: a folder with a folder of pictures "
    "for each class, or with train/CLASS, an .npz as MedMNIST has, the binary files of CIFAR, idx "
    "files, or rows with `image` and `label` in a .parquet"
)

_SHARES = {"test": 0.2, "dev": 0.1}  # of data without splits
_DIGITS_CUT = {"test": 500, "dev": 297}  # of 1,797 images; the rest is for training
_CUT_SEED = 0  # the same data whatever the seed of a run

_Reader = Callable[[Path, Report, int | None], Parts]
_READERS: Mapping[str, tuple[Callable[[Path], bool], _Reader]] = {
    "texts": (labelled_texts.holds_texts, labelled_texts.read_texts),
    "pictures in folders": (images.holds_pictures, images.read_pictures),
    "pictures in parquet": (images.holds_image_rows, images.read_image_rows),
    "an .npz of images": (image_arrays.holds_npz, image_arrays.read_npz),
    "CIFAR's binary files": (image_arrays.holds_cifar, image_arrays.read_cifar),
    "idx files": (image_arrays.holds_idx, image_arrays.read_idx),
}


@dataclass(frozen=True)
class Examples:
    """Examples in order: ids, what a model reads (texts, or images [n, height, width, channels],
    of bytes or in [0, 1]), and the position of each one's class; -1 where it is not known.
    """

    ids: Sequence[str]
    inputs: Sequence[str] | np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, positions: np.ndarray) -> Examples:
        """The examples at some positions."""
        inputs = (
            self.inputs[positions]
            if isinstance(self.inputs, np.ndarray)
            else [self.inputs[at] for at in positions.tolist()]
        )
        return Examples([self.ids[at] for at in positions.tolist()], inputs, self.labels[positions])

    @property
    def digest(self) -> str:
        """Digest of ids, inputs and labels."""
        inputs = self.inputs
        if isinstance(inputs, np.ndarray):
            read = hashlib.sha256(np.ascontiguousarray(inputs).data).hexdigest()
            if inputs.dtype == np.uint8:
                read = digest([read, list(inputs.shape)])
        else:
            read = digest(list(inputs))
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
        """The training examples whose class is not known."""
        return self._training(known=False)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Height, width and channels of its images; None of texts."""
        for part in self.parts.values():
            if isinstance(part.inputs, np.ndarray):
                height, width, channels = part.inputs.shape[1:]
                return height, width, channels
        return None

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
        if "train" not in self.parts:
            return []
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
    """Whether DATA is named `digits`, has a `text` and a `label`, or has images; a collection with
    pictures beside it is none.
    """
    if data == DIGITS:
        return True
    path = Path(data).expanduser()
    try:
        if labelled_texts.holds_texts(path):
            return True
        if looks_like_collection(data):
            return False
        return bool(_layouts(path)) or image_arrays.holds_pickles(path)
    except OSError:
        return False


def read_labelled(
    data: str | Path,
    *,
    labels: int | None = None,
    image_size: int | None = None,
    learned: bool = True,
) -> Labelled:
    """The dataset that DATA names, with a dev split; only `labels` of the training examples keep
    their label, the same ones whatever the seed of a run. Images are made of `image_size` pixels in
    width and height, where that is given. A folder of images that is not `learned` from may have a
    test split alone.

    Raises:
        ConfigError: when DATA is nothing that can be read.
        DataError: at the first thing that cannot be used, naming its place.
    """

    def refuse(problem: Problem) -> NoReturn:
        raise DataError(str(problem))

    found = scan_labelled(data, refuse, image_size=image_size, learned=learned)
    return found if labels is None else _with_labels(found, labels)


def scan_labelled(
    data: str | Path, report: Report, *, image_size: int | None = None, learned: bool = True
) -> Labelled:
    """Read the usable part of the labelled examples that DATA names; single examples that cannot be
    used go to `report`.

    Raises:
        ConfigError: when DATA is nothing that can be read.
        DataError: when it cannot be used as a whole.
    """
    if str(data) == DIGITS:
        _check_size(DIGITS, image_size)
        return _digits()
    path = Path(data).expanduser()
    found = _read(path, report, image_size)
    if "train" not in found.splits and learned:
        told = " and ".join(found.splits)
        raise DataError(
            f"{path} has examples of {told} and none to learn from. Add the split train."
        )
    return _labelled(path.resolve().name, found, report)


def _read(path: Path, report: Report, image_size: int | None) -> Parts:
    """Read labelled examples with the reader of their layout.

    Raises:
        ConfigError: when there is none, or more than one.
    """
    if not path.exists():
        raise ConfigError(f"There is no file or folder {path}. Data of classes are {LAYOUTS}.")
    found = _layouts(path)
    if not found and image_arrays.holds_pickles(path):
        image_arrays.refuse_pickles(path)
    if not found and first_file(path, labelled_texts.ENDINGS):
        found = ["texts"]  # whose reader says what is wrong with them
    if len(found) != 1:
        told = f"can be read as {' and as '.join(found)}" if found else "holds nothing of classes"
        advice = "Keep one of them there." if found else f"Data of classes are {LAYOUTS}."
        raise ConfigError(f"{path} {told}. {advice}")
    if found == ["texts"]:
        _check_size("texts", image_size)
    return _READERS[found[0]][1](path, report, image_size)


def _layouts(path: Path) -> list[str]:
    return [name for name, (holds, _) in _READERS.items() if holds(path)]


def _check_size(what: str, image_size: int | None) -> None:
    if image_size is not None:
        raise ConfigError(f"--image-size says nothing about {what}. Leave it out.")


def _digits() -> Labelled:
    """The 1,797 images of handwritten digits that come with scikit-learn, 8 x 8 pixels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = (found.images / 16).astype(np.float32)[..., None]
    ids = [f"digit-{at}" for at in range(len(pixels))]
    every = Examples(ids, pixels, found.target.astype(np.int64))
    note = "digits: cut into training, dev and test once and for all"
    return Labelled(DIGITS, "images", tuple(map(str, range(10))), _cut(every, _DIGITS_CUT), (note,))


def _labelled(name: str, found: Parts, report: Report) -> Labelled:
    """The dataset of these parts, with a dev split.

    Raises:
        DataError: when there are no two classes to learn.
    """
    notes = list(found.notes)
    told = found.splits.get("train") or next(iter(found.splits.values()))
    classes = _classes(told.labels, name, found.classes)
    parts = {split: _examples(part, classes, report) for split, part in found.splits.items()}
    if found.cut:
        parts = _cut(parts["train"], _SHARES)
        notes.append(f"{name}: no splits, cut into training, dev (10%) and test (20%)")
    elif "train" not in parts:
        return Labelled(name, found.form, classes, parts, tuple(notes))
    elif "dev" not in parts:
        parts |= _cut(parts["train"], {"dev": _SHARES["dev"]})
        notes.append("dev: none, cut from training (10%)")
    if found.unlabelled is not None:
        parts["train"] = _joined(parts["train"], _examples(found.unlabelled, classes, report))
    known = parts["train"].labels
    counts = np.bincount(known[known >= 0], minlength=len(classes))
    if missing := [classes[at] for at in np.flatnonzero(counts == 0).tolist()]:
        raise DataError(
            f"{name}: no example of {', '.join(missing[:3])} is left for training. Add examples, "
            "or give dev and test apart."
        )
    for split in ("dev", "test"):
        if split in parts:
            there = {classes[at] for at in np.unique(parts[split].labels).tolist()}
            if absent := [each for each in classes if each not in there]:
                notes.append(f"{split}: has no example of {len(absent)} classes ({absent[0]}, ...)")
    return Labelled(name, found.form, classes, parts, tuple(notes))


def _examples(part: Part, classes: Sequence[str], report: Report) -> Examples:
    """A split with the positions of its classes; unknown ones are reported and left out."""
    position = {"": -1, **{name: at for at, name in enumerate(classes)}}
    kept = []
    for at, (where, label) in enumerate(zip(part.places, part.labels, strict=True)):
        if label in position:
            kept.append(at)
            continue
        found = f"label {label!r} is not among the {len(classes)} of training"
        advice = "Correct it, or add examples of it to the training split."
        report(Problem("unknown label", where, found, advice))
    labels = np.array([position.get(label, -1) for label in part.labels], dtype=np.int64)
    every = Examples(part.ids, part.inputs, labels)
    return every if len(kept) == len(labels) else every.at(np.array(kept, dtype=np.int64))


def _joined(one: Examples, other: Examples) -> Examples:
    """Examples of both, in order."""
    inputs: Sequence[str] | np.ndarray
    if isinstance(one.inputs, np.ndarray):
        inputs = np.concatenate([one.inputs, other.inputs])
    else:
        inputs = [*one.inputs, *other.inputs]
    return Examples([*one.ids, *other.ids], inputs, np.concatenate([one.labels, other.labels]))


def _classes(labels: Sequence[str], name: str, order: Sequence[str]) -> tuple[str, ...]:
    """The names of all classes of training, in the order that the data tell; else numbers by size
    and names by letters.
    """
    counts = Counter(labels)
    if len(counts) < 2:
        told = f"have the label {next(iter(counts))!r}" if counts else "are missing"
        raise DataError(
            f"{name}: all training examples {told}. There must be two classes at least."
        )
    if set(counts) <= set(order):
        return tuple(each for each in order if each in counts)
    if all(each.isdecimal() for each in counts):
        return tuple(sorted(counts, key=lambda each: (int(each), each)))
    return tuple(sorted(counts))


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
