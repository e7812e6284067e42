"""Which images are of which class, where each is a picture: in a folder, or in a parquet file?

Pictures become images of bytes of one size: RGB, or one channel where all are greyscale; what is
transparent is white. Nothing is allocated by what a file says of itself before that is checked, no
picture from outside of the folder is read, and what cannot be used goes to `report`, with its
place. This module knows no texts.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.data.labelled_parts import (
    SPLIT_NAMES,
    UNLABELLED,
    Part,
    Parts,
    files_of,
    first_file,
    label_of,
    split_files,
)
from limbeck.data.lines import Problem, Report
from limbeck.data.parquet import class_names, columns_of, parquet_rows
from limbeck.errors import ConfigError, DataError
from limbeck.types import Split

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
COLUMNS = ("image", "label")
MAX_PIXELS = 2**26  # of one picture, some 67 million
MAX_FILE = 2**28  # bytes of one picture's file
MAX_BYTES = 2**34  # of all images in memory
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
_GREY = ("1", "L", "LA")
_LOOKED_AT = 10_000  # names, to see whether a folder has pictures


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture: its id, where it stands, the name of its class and its file or bytes."""

    id: str
    place: str
    label: str | None
    source: Path | bytes


def holds_pictures(path: Path) -> bool:
    """Whether there are pictures in a folder, or up to three folders down."""
    if not path.is_dir():
        return False
    return any(
        _is_picture(each.name)
        for depth in ("*", "*/*", "*/*/*")
        for each in islice(path.glob(depth), _LOOKED_AT)
    )


def holds_image_rows(path: Path) -> bool:
    """Whether a parquet file, or one in a folder, has an `image` and a `label`."""
    file = first_file(path, (".parquet",))
    return file is not None and columns_of(file) >= set(COLUMNS)


def read_pictures(path: Path, report: Report, size: int | None) -> Parts:
    """The pictures of `train/CLASS/` and other splits, or of `CLASS/`, which are to be cut.

    Raises:
        DataError: when there is no folder for each class, or sizes differ and none is given.
    """
    root, skipped = path.resolve(), list[str]()
    splits: dict[Split, Path] = {}
    for split, names in SPLIT_NAMES.items():
        there = [root / name for name in names if (root / name).is_dir()]
        there = [each for each in there if not _leaves(each, root, report)]
        if len(there) > 1:
            told = " and ".join(f"{each.name}/" for each in there)
            raise DataError(f"{path} has {told}, which are the same split. Keep one of them.")
        if there:
            splits[split] = there[0]
    found = {
        split: _of_classes(folder, root, report, skipped, learned=split == "train")
        for split, folder in (splits or {"train": root}).items()
    }
    more = list(_below(root / UNLABELLED, None, root, report, skipped))
    if skipped:
        told = f"{skipped[0]}{', ...' if skipped[1:] else ''}"
        notes = [f"files that are no pictures: {len(skipped):,} were not read ({told})"]
    return _parts(found, more, report, size, cut=not splits, notes=notes if skipped else [])


def read_image_rows(path: Path, report: Report, size: int | None) -> Parts:
    """The rows of parquet files with `image`, a structure with `bytes`, and `label`.

    Raises:
        ConfigError: when nothing is for training.
        DataError: when a file cannot be read, or sizes differ and none is given.
    """
    files = split_files(path, (".parquet",))
    if "train" not in files:
        raise ConfigError(f"{path} has no train.parquet to learn from. Add one.")
    found = {split: list(_image_rows(split, own, report)) for split, own in files.items()}
    own = files_of(path, (UNLABELLED,), (".parquet",)) if path.is_dir() else []
    more = list(_image_rows(UNLABELLED, own, report, labelled=False))
    classes = class_names(files["train"][0], "label")
    return _parts(found, more, report, size, classes=classes, cut=path.is_file())


def new_pictures(
    path: Path, shape: tuple[int, int, int], report: Report
) -> tuple[list[str], np.ndarray]:
    """The pictures in a file, or in a folder at any depth, and their paths in there: images of
    bytes of this height, width and number of channels.

    Raises:
        DataError: when they would not fit into memory.
    """
    if path.is_file():
        pictures = [Picture(path.name, path.name, None, path)]
    else:
        root = path.resolve()
        pictures = list(_below(root, None, root, report, []))
    height, width, channels = shape
    check_memory(len(pictures), height, width)
    images = np.empty((len(pictures), *shape), dtype=np.uint8)
    used: list[str] = []
    with quiet_pictures():
        for picture in pictures:
            if (image := _opened(picture, report)) is not None:
                one = resized(image, width, height).convert("L" if channels == 1 else "RGB")
                images[len(used)] = np.asarray(one).reshape(shape)
                used.append(picture.id)
    return used, images[: len(used)]


def _of_classes(
    folder: Path, root: Path, report: Report, skipped: list[str], *, learned: bool
) -> list[Picture]:
    """The pictures of a split, whose folders are its classes; where they are `learned`, each of
    them has some.

    Raises:
        DataError: when there is no such folder.
    """
    inside = [each for each in sorted(folder.iterdir()) if not _is_hidden(each.name)]
    names = [each for each in inside if each.is_dir()]
    if folder == root:
        names = [each for each in names if each.name != UNLABELLED]
    loose = [each for each in inside if not each.is_dir() and _is_picture(each.name)]
    if not names:
        told = f"{len(loose):,} pictures and " if loose else ""
        raise DataError(
            f"{folder}: there are {told}no folders of classes. Put the pictures of each class "
            "into a folder with its name, as in train/CLASS/1.png."
        )
    skipped += [_shown(each, root) for each in inside if not each.is_dir() and each not in loose]
    for each in loose:
        advice = "Put it into the folder of its class."
        report(Problem("no class", _shown(each, root), "it is in no folder of a class", advice))
    found = []
    for each in names:
        own = list(_below(each, each.name, root, report, skipped))
        if not own and learned:
            advice = "Add some, or delete the folder."
            report(
                Problem("empty class", _shown(each, root), "there are no pictures in it", advice)
            )
        found += own
    return found


def _below(
    folder: Path, label: str | None, root: Path, report: Report, skipped: list[str]
) -> Iterator[Picture]:
    """The pictures in a folder and the folders in it, in the order of their names."""
    if _leaves(folder, root, report):
        return
    for directory, folders, files in os.walk(folder):
        here = Path(directory)
        folders[:] = sorted(
            name
            for name in folders
            if not _is_hidden(name) and not _leaves(here / name, root, report)
        )
        for name in sorted(files):
            file = here / name
            where = _shown(file, root)
            if _is_hidden(name):
                continue
            if not _is_picture(name) or not (file.is_file() or file.is_symlink()):
                skipped.append(where)
            elif where.encode(errors="replace").decode() != where:
                report(Problem("no UTF-8 name", where, "its name is no UTF-8", "Rename the file."))
            elif not _leaves(file, root, report):
                yield Picture(where, where, label, file)


def _leaves(path: Path, root: Path, report: Report) -> bool:
    """Whether a link points out of the data, or is to a folder; both are reported."""
    if not path.is_symlink():
        return False
    if path.is_file() and path.resolve().is_relative_to(root):
        return False
    found = "it is a link to a folder, or to something outside of the data"
    advice = "Copy what it points to there, or delete it."
    report(Problem("link", _shown(path, root), found, advice))
    return True


def _image_rows(
    name: str, files: Sequence[Path], report: Report, *, labelled: bool = True
) -> Iterator[Picture]:
    count = 0
    for file in files:
        for number, row in parquet_rows(file, COLUMNS if labelled else COLUMNS[:1]):
            where, image, label = f"{file.name}:{number}", row["image"], None
            encoded = image.get("bytes") if isinstance(image, dict) else image
            if not isinstance(encoded, bytes):
                advice = "Keep the pictures themselves in the file, not paths to them."
                report(Problem("no bytes", where, "its `image` has no `bytes`", advice))
                continue
            if labelled:
                advice = f"Rows without one go into {UNLABELLED}.parquet."
                label = label_of(row["label"], where, report, advice)
                if label is None:
                    continue
            yield Picture(f"{name}-{count}", where, label, encoded)
            count += 1


def _parts(
    found: dict[Split, list[Picture]],
    more: list[Picture],
    report: Report,
    size: int | None,
    *,
    classes: Sequence[str] = (),
    cut: bool,
    notes: Sequence[str] = (),
) -> Parts:
    """Splits of pictures, and those without labels, as images of one size."""
    reader = _Reader(report, size, len(more) + sum(map(len, found.values())))
    read = {split: reader.images(pictures) for split, pictures in found.items()}
    unlabelled = reader.images(more) if more else None

    def part(images: np.ndarray, used: list[Picture]) -> Part:
        own = images[..., :1].copy() if reader.grey else images
        ids, places = [each.id for each in used], [each.place for each in used]
        return Part(ids, places, own, [each.label or "" for each in used])

    return Parts(
        "images",
        {split: part(*each) for split, each in read.items()},
        None if unlabelled is None else part(*unlabelled),
        classes,
        cut,
        tuple(notes),
    )


@dataclass
class _Reader:
    """Reads pictures as images of one size: that which is given, or the first one's."""

    report: Report
    size: int | None
    count: int  # of all pictures
    shape: tuple[int, int] | None = None  # height and width
    first: str = ""
    grey: bool = True

    def images(self, pictures: Sequence[Picture]) -> tuple[np.ndarray, list[Picture]]:
        """Images [n, height, width, 3] of the pictures that can be read, and those.

        Raises:
            DataError: when sizes differ and none is given, or they would not fit into memory.
        """
        images, used = np.empty((0, 1, 1, 3), dtype=np.uint8), list[Picture]()
        with quiet_pictures():
            for picture in pictures:
                image = _opened(picture, self.report)
                if image is None:
                    continue
                if self.shape is None:
                    self.shape = self._fits(image)
                    self.first = picture.place
                if not used:
                    images = np.empty((len(pictures), *self.shape, 3), dtype=np.uint8)
                height, width = self.shape
                if self.size is None and image.size != (width, height):
                    raise DataError(
                        f"{picture.place} has {image.width} x {image.height} pixels, and "
                        f"{self.first} has {width} x {height}. Resize all with --image-size, as "
                        f"in --image-size {min(self.shape)}."
                    )
                self.grey = self.grey and image.mode == "L"
                images[len(used)] = np.asarray(resized(image, width, height).convert("RGB"))
                used.append(picture)
        return images[: len(used)], used

    def _fits(self, image: Image.Image) -> tuple[int, int]:
        """The height and width of all images."""
        width, height = (self.size, self.size) if self.size else image.size
        check_memory(self.count, height, width)
        return height, width


def _opened(picture: Picture, report: Report) -> Image.Image | None:
    """A picture in the mode L or RGB; None after a report."""
    try:
        return decoded(picture.source)
    except HugePicture as error:
        found = Problem("huge picture", picture.place, str(error), "Save it smaller.")
    except Exception as error:  # a broken one makes its decoder raise whatever it likes
        told, advice = f"cannot be read ({error})", "Save it again, or delete it."
        found = Problem("broken picture", picture.place, told, advice)
    report(found)
    return None


class HugePicture(ValueError):
    """A picture has more pixels than are read, or its file more bytes."""


def decoded(source: Path | bytes) -> Image.Image:
    """A picture in the mode L, where it is greyscale, or RGB.

    Raises:
        HugePicture: before anything is allocated for it.
        Exception: of any kind where it is broken.
    """
    from PIL import Image, UnidentifiedImageError

    length = source.stat().st_size if isinstance(source, Path) else len(source)
    if length > MAX_FILE:
        raise HugePicture(f"{length / 1e6:,.0f} MB, of {MAX_FILE / 1e6:,.0f} at most")
    file = source if isinstance(source, Path) else BytesIO(source)
    try:
        with Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width:,} x {image.height:,} pixels"
                raise HugePicture(f"{size}, of {MAX_PIXELS:,} at most")
            return _plain(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise HugePicture(f"far more than {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise ValueError("no picture") from error


def _plain(image: Image.Image) -> Image.Image:
    """A picture turned as its camera was held, on white, in the mode L or RGB."""
    from PIL import Image, ImageOps

    if image.mode == "F":
        raise ValueError("its pixels are floats, and what is white among them is not known")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of grey
        return Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
    grey = image.mode in _GREY
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB")


def resized(image: Image.Image, width: int, height: int) -> Image.Image:
    """A picture of this size, itself where it has that."""
    if image.size == (width, height):
        return image
    return image.resize((width, height), pillow().Resampling.BILINEAR)


def check_memory(count: int, height: int, width: int) -> None:
    """Refuse images that would not fit into memory.

    Raises:
        DataError: saying how much they take.
    """
    if (takes := count * height * width * 3) > MAX_BYTES:
        raise DataError(
            f"{count:,} images of {width:,} x {height:,} pixels take {takes / 1e9:,.0f} GB of "
            f"memory, and at most {MAX_BYTES / 1e9:.0f} are read. Give a smaller --image-size."
        )


def pillow() -> Any:
    """Pillow's module `Image`.

    Raises:
        ConfigError: when the extra `images` is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError(
            "Pictures are read by pillow, which is not installed. "
            "Install it with: pip install 'limbeck[images]'"
        ) from error
    return Image


@contextmanager
def quiet_pictures() -> Iterator[None]:
    """No warnings of decoders, as long as the context lasts, but for those of huge pictures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", pillow().DecompressionBombWarning)
        yield


def _is_picture(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
