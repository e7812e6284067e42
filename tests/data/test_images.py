"""Pictures become images of one size, and those that cannot be used are refused by their place."""

import io
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from limbeck.data import images
from limbeck.data.labelled import Labelled, holds_labelled, read_labelled
from limbeck.errors import ConfigError, DataError

SPLITS = ("train", "dev", "test")


def picture(path: Path, colour: object = "red", size: tuple[int, int] = (4, 6), **how: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(how.get("mode", "RGB"), size, colour).save(path)  # type: ignore[arg-type]
    return path


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Six red cats and six blue dogs to learn from, and two of each in dev and in test."""
    for split, number in zip(SPLITS, (6, 2, 2), strict=True):
        for name, colour in (("cat", "red"), ("dog", "blue")):
            for at in range(number):
                picture(tmp_path / "animals" / split / name / f"{at}.png", colour)
    return tmp_path / "animals"


def pixels(found: Labelled, split: str = "train") -> np.ndarray:
    [inputs] = [part.inputs for name, part in found.parts.items() if name == split]
    assert isinstance(inputs, np.ndarray)
    return inputs


def a_png(width: int, height: int) -> bytes:
    """A file that says that it is a picture of this size, and has no pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    empty = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + empty


def test_folders_are_classes(animals: Path) -> None:
    assert holds_labelled(str(animals))
    found = read_labelled(animals)
    assert found.classes == ("cat", "dog")
    assert {split: len(part) for split, part in found.parts.items()} == {
        "train": 12,
        "dev": 4,
        "test": 4,
    }
    assert pixels(found).shape == (12, 6, 4, 3)
    assert pixels(found).dtype == np.uint8
    assert pixels(found)[0, 0, 0].tolist() == [255, 0, 0]
    assert found.parts["train"].ids[:2] == ["train/cat/0.png", "train/cat/1.png"]
    assert found.judged("dev", "dev/dog/1.png") == {"dog": 1}
    assert found.shown("dev/dog/1.png") == "image dev/dog/1.png of animals, 4 x 6 pixels"
    assert found.digest == read_labelled(animals).digest
    picture(animals / "test" / "cat" / "0.png", "orange")
    assert read_labelled(animals).digest != found.digest


def test_folders_without_splits_are_cut_and_unlabelled_ones_are_learned_from(
    tmp_path: Path,
) -> None:
    for at in range(20):
        picture(tmp_path / "cat" / "more" / f"{at}.jpg", "red")
        picture(tmp_path / "dog" / f"{at}.PNG", "blue")
    picture(tmp_path / "unlabelled" / "a.png", "green")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "dog" / "Thumbs.db").write_bytes(b"x")
    found = read_labelled(tmp_path)
    assert {split: len(part) for split, part in found.parts.items()} == {
        "train": 29,
        "dev": 4,
        "test": 8,
    }
    assert found.unlabelled == ["unlabelled/a.png"]
    assert "files that are no pictures: 1 were not read (dog/Thumbs.db)" in found.notes
    assert any("no splits, cut into training" in note for note in found.notes)


def test_a_missing_dev_is_cut_and_missing_classes_are_noted(animals: Path) -> None:
    (animals / "dev").rename(animals / "validation")
    assert read_labelled(animals).splits == ["train", "dev", "test"]
    for name in ("cat", "dog"):
        for file in (animals / "validation" / name).iterdir():
            file.rename(animals / "train" / name / f"v{file.name}")
        (animals / "validation" / name).rmdir()
    (animals / "validation").rmdir()
    for file in (animals / "test" / "dog").iterdir():
        file.unlink()
    found = read_labelled(animals)
    assert len(found.parts["dev"]) == 2
    assert found.parts["dev"].ids == read_labelled(animals).parts["dev"].ids
    assert "dev: none, cut from training (10%)" in found.notes
    assert "test: has no example of 1 classes (dog, ...)" in found.notes


def test_grey_pictures_keep_one_channel_and_colour_among_them_makes_three(animals: Path) -> None:
    for number, file in enumerate(sorted(animals.rglob("*.png"))):
        mode = ("L", "1", "LA", "I;16")[number % 4]
        picture(file, {"LA": (7, 255), "I;16": 7 * 257, "1": 0}.get(mode, 7), mode=mode)
    found = pixels(read_labelled(animals))
    assert found.shape == (12, 6, 4, 1)
    assert set(np.unique(found)) == {0, 7}
    picture(animals / "test" / "cat" / "0.png", "red")
    assert pixels(read_labelled(animals)).shape == (12, 6, 4, 3)


def test_what_is_transparent_is_white(animals: Path) -> None:
    picture(animals / "train" / "cat" / "0.png", (10, 20, 30, 0), mode="RGBA")
    palette = Image.new("P", (4, 6), 0)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.save(animals / "train" / "cat" / "1.png", transparency=0)
    picture(animals / "train" / "cat" / "2.png", (0, 0, 0, 51), mode="RGBA")
    found = pixels(read_labelled(animals))
    assert found[:3, 0, 0].tolist() == [[255] * 3, [255] * 3, [204] * 3]


def test_pictures_of_several_sizes_need_one_to_be_given(animals: Path) -> None:
    picture(animals / "train" / "dog" / "0.png", "blue", (8, 8))
    says = r"train/dog/0.png has 8 x 8 pixels, and train/cat/0.png has 4 x 6.*--image-size 4"
    with pytest.raises(DataError, match=says):
        read_labelled(animals)
    found = read_labelled(animals, image_size=5)
    assert pixels(found).shape == (12, 5, 5, 3)
    assert pixels(found)[6, 2, 2].tolist() == [0, 0, 255]
    assert found.digest != read_labelled(animals, image_size=6).digest


def test_a_picture_stands_as_its_camera_was_held(animals: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (6, 4), "red").save(animals / "train" / "cat" / "0.jpg", exif=exif)
    assert pixels(read_labelled(animals)).shape == (13, 6, 4, 3)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no picture", r"^train/cat/0.png: cannot be read \(no picture\)"),
        (b"", r"train/cat/0.png: cannot be read \(no picture\)"),
        (a_png(4, 6), r"train/cat/0.png: cannot be read"),
        (a_png(32_000, 32_000), r"^train/cat/0.png: far more than 67,108,864 pixels"),
        (a_png(8_300, 8_300), r"^train/cat/0.png: 8,300 x 8,300 pixels, of 67,108,864 at most"),
    ],
)
def test_a_picture_that_cannot_be_used_is_refused(animals: Path, content: bytes, says: str) -> None:
    (animals / "train" / "cat" / "0.png").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_labelled(animals)


def test_pixels_that_are_floats_are_refused(animals: Path) -> None:
    Image.new("F", (4, 6), 0.5).save(animals / "train" / "cat" / "0.tiff")
    with pytest.raises(DataError, match=r"train/cat/0.tiff: .*its pixels are floats"):
        read_labelled(animals)


def test_a_picture_that_is_cut_short_is_refused(animals: Path) -> None:
    noise = np.random.default_rng(0).integers(256, size=(6, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).save(animals / "train" / "cat" / "0.png")
    content = (animals / "train" / "cat" / "0.png").read_bytes()
    (animals / "train" / "cat" / "0.png").write_bytes(content[:-40])
    with pytest.raises(DataError, match=r"train/cat/0.png: cannot be read"):
        read_labelled(animals)


def test_files_and_images_that_are_too_large_are_refused(
    animals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"20 images of 200,000 x 200,000 pixels take 2,400 GB"):
        read_labelled(animals, image_size=200_000)
    monkeypatch.setattr(images, "MAX_FILE", 10)
    with pytest.raises(DataError, match=r"^train/cat/0.png: .* MB, of"):
        read_labelled(animals)


def test_nothing_is_read_that_is_outside_of_the_folder(animals: Path, tmp_path: Path) -> None:
    outside = picture(tmp_path / "outside" / "secret.png", "green")
    link = animals / "train" / "cat" / "link.png"
    link.symlink_to(outside)
    with pytest.raises(DataError, match=r"train/cat/link.png: it is a link"):
        read_labelled(animals)
    link.unlink()
    link.symlink_to(animals / "train" / "cat" / ".." / ".." / ".." / "outside" / "secret.png")
    with pytest.raises(DataError, match=r"train/cat/link.png: it is a link"):
        read_labelled(animals)
    link.unlink()
    link.symlink_to(animals / "train" / "cat" / "0.png")
    assert len(read_labelled(animals).parts["train"]) == 13
    (animals / "train" / "fox").symlink_to(outside.parent)
    with pytest.raises(DataError, match=r"train/fox: it is a link"):
        read_labelled(animals)


def test_folders_that_are_no_classes_are_refused(animals: Path, tmp_path: Path) -> None:
    loose = picture(tmp_path / "loose" / "0.png").parent
    with pytest.raises(DataError, match=r"loose: there are 1 pictures and no folders of classes"):
        read_labelled(loose)
    picture(tmp_path / "one" / "cat" / "0.png")
    with pytest.raises(DataError, match=r"one: .* have the label 'cat'.* two classes"):
        read_labelled(tmp_path / "one")
    picture(animals / "test" / "cow" / "0.png")
    with pytest.raises(DataError, match=r"test/cow/0.png: label 'cow' is not among the 2"):
        read_labelled(animals)
    (animals / "test" / "cow" / "0.png").unlink()
    (animals / "test" / "cow").rename(animals / "train" / "cow")
    with pytest.raises(DataError, match=r"train/cow: there are no pictures in it"):
        read_labelled(animals)
    (animals / "train" / "cow").rmdir()
    (animals / "val").mkdir()
    with pytest.raises(DataError, match=r"dev/ and val/, which are the same split"):
        read_labelled(animals)
    (animals / "train").rename(tmp_path / "elsewhere")
    (animals / "val").rmdir()
    with pytest.raises(DataError, match=r"dev and test and none to learn"):
        read_labelled(animals)


def test_what_is_images_and_texts_is_refused_and_a_collection_is_none(
    animals: Path, tmp_path: Path
) -> None:
    rows = "".join(f'{{"text": "a {each}", "label": "{each}"}}\n' for each in ("cat", "dog"))
    (animals / "train.jsonl").write_text(rows)
    with pytest.raises(ConfigError, match=r"as texts and as pictures in folders"):
        read_labelled(animals)
    picture(tmp_path / "docs" / "figures" / "0.png")
    assert holds_labelled(str(tmp_path / "docs"))
    (tmp_path / "docs" / "corpus.jsonl").write_text('{"_id": "a", "text": "b"}\n')
    assert not holds_labelled(str(tmp_path / "docs"))


def test_a_size_is_of_pictures_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--image-size says nothing about digits"):
        read_labelled("digits", image_size=8)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": "b"}\n')
    with pytest.raises(ConfigError, match=r"--image-size says nothing about texts"):
        read_labelled(path, image_size=8)


def test_without_pillow_the_extra_is_named(animals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match=r"pip install 'limbeck\[images\]'"):
        read_labelled(animals)


def encoded(colour: str) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (4, 6), colour).save(held, "PNG")
    return held.getvalue()


def write_parquet(path: Path, labels: list[int], names: list[str] | None = None) -> Path:
    """A file as the hub has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": encoded(("red", "blue")[label % 2]), "path": None} for label in labels]
    features = {"label": {"names": names, "_type": "ClassLabel"}} if names else {}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    pl.DataFrame({"image": rows, "label": labels}).write_parquet(path, metadata=about)
    return path


def test_rows_of_parquet_have_pictures_and_names_of_classes(tmp_path: Path) -> None:
    names = ["zebra", "ant"]
    for shard in range(2):
        write_parquet(tmp_path / "data" / f"train-0000{shard}-of-00002.parquet", [0, 1] * 3, names)
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", [1], names)
    assert holds_labelled(str(tmp_path))
    found = read_labelled(tmp_path)
    assert found.classes == ("zebra", "ant")
    assert {split: len(part) for split, part in found.parts.items()} == {"train": 12, "dev": 1}
    assert found.judged("dev", "dev-0") == {"ant": 1}
    assert pixels(found)[0, 0, 0].tolist() == [255, 0, 0]
    single = read_labelled(write_parquet(tmp_path / "one.parquet", list(range(2)) * 20))
    assert single.classes == ("0", "1")
    assert len(single.parts["test"]) == 8


def test_rows_of_parquet_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pl.DataFrame({"image": [{"bytes": None, "path": "a.png"}] * 2, "label": [0, 1]}).write_parquet(
        path
    )
    with pytest.raises(DataError, match=r"train.parquet:1: its `image` has no `bytes`"):
        read_labelled(path)
    write_parquet(path, [0, -1, 1], ["a", "b"])
    with pytest.raises(DataError, match=r"train.parquet:2: there is no `label`"):
        read_labelled(path)
    pl.DataFrame({"image": [{"bytes": b"x"}] * 2, "label": [0, 1]}).write_parquet(path)
    with pytest.raises(DataError, match=r"train.parquet:1: cannot be read \(no picture\)"):
        read_labelled(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"train.parquet: cannot be read"):
        read_labelled(path)
