"""Which images are of which class, where a file holds many as an array of bytes?

MedMNIST's `.npz`, the binary files of CIFAR, and the idx files of MNIST. Nothing is allocated by
what a header says before that agrees with the size of the file; pickles are refused. This module
knows no pictures that have to be decoded.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
from numpy.lib import format as npy

from limbeck.data.images import MAX_BYTES, check_memory, pillow, resized
from limbeck.data.labelled_parts import Part, Parts
from limbeck.data.lines import GZIP, Problem, Report
from limbeck.errors import DataError
from limbeck.types import Split

PICKLES = (".pkl", ".pickle")
_MOST_PACKED = 1032  # deflate packs no more bytes into one
_NPZ_NAMES: dict[Split, str] = {"train": "train", "dev": "val", "test": "test"}
_IDX = re.compile(r"(train|dev|val|validation|test|t10k)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?")
_IDX_SPLITS: dict[str, Split] = {
    "train": "train",
    "dev": "dev",
    "val": "dev",
    "validation": "dev",
    "test": "test",
    "t10k": "test",
}
_SIDE, _CHANNELS = 32, 3  # of CIFAR's images


def holds_npz(path: Path) -> bool:
    """Whether it is a file of arrays."""
    return path.is_file() and path.suffix == ".npz"


def holds_cifar(path: Path) -> bool:
    """Whether the binary files of CIFAR-10 or CIFAR-100 are in a folder."""
    return any((path / name).is_file() for name in ("data_batch_1.bin", "train.bin"))


def holds_idx(path: Path) -> bool:
    """Whether idx files are in a folder."""
    return path.is_dir() and bool(_idx_files(path))


def holds_pickles(path: Path) -> bool:
    """Whether it is a pickle, or the folder of CIFAR's pickled files."""
    return bool(_pickle(path))


def refuse_pickles(path: Path) -> NoReturn:
    """Refuse them.

    Raises:
        DataError: with what to use instead.
    """
    raise DataError(
        f"{_pickle(path)} is a pickle, which can run any code when it is opened, so it is not "
        "read. Use the binary version of CIFAR (data_batch_1.bin, or train.bin), an .npz file "
        "without objects, or a folder of pictures for each class."
    )


def read_npz(path: Path, report: Report, size: int | None) -> Parts:
    """The arrays `train_images`, `train_labels`, `val_...` and `test_...` of a file.

    Raises:
        DataError: when one is missing or cannot be used.
    """
    splits: dict[Split, Part] = {}
    try:
        with zipfile.ZipFile(path) as file:
            names = {name.removesuffix(".npy") for name in file.namelist()}
            for split, word in _NPZ_NAMES.items():
                keys = f"{word}_images", f"{word}_labels"
                if split != "train" and not names & set(keys):
                    continue
                if missing := [key for key in keys if key not in names]:
                    raise DataError(
                        f"{path.name} has no array {missing[0]}; it has "
                        f"{', '.join(sorted(names)[:8])}. Name them as MedMNIST does: "
                        "train_images, train_labels, val_images and so on."
                    )
                images, labels = (_member(file, key, path) for key in keys)
                splits[split] = _split(split, images, labels, (), f"{path.name}, {word}", size)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError) as error:
        raise DataError(f"{path.name}: cannot be read ({error}). Copy it again.") from error
    return _same_shape(splits)


def read_cifar(path: Path, report: Report, size: int | None) -> Parts:
    """The files `data_batch_*.bin` and `test_batch.bin` of CIFAR-10, or `train.bin` and `test.bin`
    of CIFAR-100, whose fine labels count.

    Raises:
        DataError: when one cannot be used.
    """
    hundred = (path / "train.bin").is_file()
    files: dict[Split, list[Path]] = {
        "train": [path / "train.bin"] if hundred else sorted(path.glob("data_batch_*.bin")),
        "test": [path / ("test.bin" if hundred else "test_batch.bin")],
    }
    about = path / ("fine_label_names.txt" if hundred else "batches.meta.txt")
    names = about.read_text(encoding="utf-8").split() if about.is_file() else []
    labels, splits = 2 if hundred else 1, dict[Split, Part]()
    for split, own in files.items():
        there = [file for file in own if file.is_file()]
        if there:
            rows = np.concatenate([_rows(file, labels + _CHANNELS * _SIDE**2) for file in there])
            images = rows[:, labels:].reshape(-1, _CHANNELS, _SIDE, _SIDE).transpose(0, 2, 3, 1)
            place = f"{path.name}, {split}"
            splits[split] = _split(split, images, rows[:, labels - 1], names, place, size)
    return Parts("images", splits, classes=names)


def read_idx(path: Path, report: Report, size: int | None) -> Parts:
    """The files `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and those of other splits.

    Raises:
        DataError: when one is missing or cannot be used.
    """
    files, splits = _idx_files(path), dict[Split, Part]()
    for split in sorted({split for split, _ in files}, key=list(_NPZ_NAMES).index):
        for kind in ("images", "labels"):
            if (split, kind) not in files:
                raise DataError(f"{path} has no {kind} of {split} in an idx file. Add them.")
        images, labels = (_idx(files[split, kind], axes) for kind, axes in _IDX_AXES.items())
        place = files[split, "images"].name
        splits[split] = _split(split, images, labels, (), place, size)
    return _same_shape(splits)


_IDX_AXES = {"images": 3, "labels": 1}


def _split(
    split: Split,
    images: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    where: str,
    size: int | None,
) -> Part:
    """A split of such arrays, with classes by their numbers, or by names.

    Raises:
        DataError: when the shapes are not those of images with a class each.
    """
    told = f"images are {images.dtype} {list(images.shape)}"
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        _refuse(
            where,
            told,
            "They must be uint8 [n, height, width], or [n, height, width, 3].",
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        _refuse(
            where,
            f"labels are {labels.dtype} {list(labels.shape)} for {len(images):,} images",
            "There must be one whole number for each image.",
        )
    if not len(images) or not all(images.shape[1:]):
        _refuse(where, "there is no image", "Add some.")
    limit = len(names) or np.inf
    if (odd := np.flatnonzero((labels < 0) | (labels >= limit))).size:
        of = f"of {len(names)} classes" if len(names) else "below 0"
        found = f"image {odd[0] + 1:,} has the label {labels[odd[0]]}, {of}"
        _refuse(where, found, "Correct it.")
    if size is not None:
        images = _resized(images, size)
    return Part(
        [f"{split}-{at}" for at in range(len(images))],
        [f"{where}, image {at + 1}" for at in range(len(images))],
        np.ascontiguousarray(images),
        [names[at] if len(names) else str(at) for at in labels.tolist()],
    )


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    check_memory(len(images), size, size)
    grey = images.shape[3] == 1
    found = np.empty((len(images), size, size, images.shape[3]), dtype=np.uint8)
    for at, image in enumerate(images):
        picture = pillow().fromarray(np.ascontiguousarray(image[..., 0] if grey else image))
        found[at] = np.asarray(resized(picture, size, size)).reshape(found.shape[1:])
    return found


def _same_shape(splits: Mapping[Split, Part]) -> Parts:
    """The splits, with images of one shape.

    Raises:
        DataError: when they differ.
    """
    train = splits.get("train")
    if train is None:
        raise DataError("There are no images to learn from. Add those of train.")
    for split, part in splits.items():
        own, there = np.shape(part.inputs)[1:], np.shape(train.inputs)[1:]
        if own != there:
            raise DataError(
                f"Images of {split} are {list(own)}, and those of train {list(there)} (height, "
                "width, channels). Use --image-size where sizes differ."
            )
    return Parts("images", splits)


def _member(file: zipfile.ZipFile, key: str, path: Path) -> np.ndarray:
    """An array in a file of arrays, whose header agrees with how long it is."""
    entry, where = file.getinfo(f"{key}.npy"), f"{path.name}, {key}"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        _refuse(where, "it is packed in an unknown way", "Write it with numpy.savez_compressed.")
    with file.open(entry) as array:
        shape, _, dtype = _npy_header(array)
        start = array.tell()
    if dtype.hasobject:
        _refuse(
            where,
            "it holds Python objects, which would have to be unpickled",
            "Save arrays of numbers.",
        )
    told = math.prod(shape) * dtype.itemsize
    most = min(_MOST_PACKED * path.stat().st_size, MAX_BYTES)
    if told != entry.file_size - start or told > most:
        _refuse(
            where,
            f"its header tells of {told:,} bytes {list(shape)}, which the file does not have",
            "Copy it again.",
        )
    with file.open(entry) as array:
        found: np.ndarray = npy.read_array(array, allow_pickle=False)
        return found


def _npy_header(array: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(array)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(array)
    return shape, fortran, dtype


def _rows(file: Path, width: int) -> np.ndarray:
    """The rows [n, width] of a file without a header."""
    length = file.stat().st_size
    if not length or length % width:
        _refuse(
            file.name,
            f"{length:,} bytes are no whole number of images of {width:,} bytes",
            "Copy it again.",
        )
    check_memory(length // width, _SIDE, _SIDE)
    return np.fromfile(file, dtype=np.uint8).reshape(-1, width)


def _idx(file: Path, axes: int) -> np.ndarray:
    """The array in an idx file, plain or gzipped, whose header agrees with how long it is."""
    with file.open("rb") as opened:
        packed = opened.read(len(GZIP)) == GZIP
    most = min(file.stat().st_size * (_MOST_PACKED if packed else 1), MAX_BYTES)
    try:
        with gzip.open(file, "rb") if packed else file.open("rb") as opened:
            magic, *shape = struct.unpack(f">{1 + axes}I", opened.read(4 + 4 * axes))
            length = math.prod(shape)
            if magic != 0x0800 + axes:
                _refuse(file.name, "it does not begin as an idx file of bytes", "Copy it again.")
            body = opened.read(length + 1) if length <= most else b""
    except (struct.error, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file.name}: cannot be read ({error}). Copy it again.") from error
    if len(body) != length:
        _refuse(
            file.name,
            f"its header tells of {length:,} bytes {shape}, which the file does not have",
            "Copy it again.",
        )
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _idx_files(path: Path) -> dict[tuple[Split, str], Path]:
    """The idx files of a folder by split and kind; of two the plain one."""
    found = {}
    for file in sorted(path.iterdir(), reverse=True):
        if file.is_file() and (name := _IDX.fullmatch(file.name)):
            found[_IDX_SPLITS[name[1]], name[2]] = file
    return found


def _pickle(path: Path) -> Path | None:
    """A pickle that DATA is, or has where images would be; None where there is none."""
    if path.is_file():
        return path if path.suffix in PICKLES else None
    names = ["data_batch_1", *(["train"] if (path / "meta").is_file() else [])]
    there = [path / name for name in names]
    if path.is_dir():
        there += sorted(file for file in path.iterdir() if file.suffix in PICKLES)
    return next((file for file in there if file.is_file()), None)


def _refuse(where: str, found: str, advice: str) -> NoReturn:
    raise DataError(str(Problem("", where, found, advice)))
