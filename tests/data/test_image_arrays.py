"""Arrays of images are read, and nothing is allocated by what a header says of itself."""

import gzip
import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from limbeck.data.labelled import holds_labelled, read_labelled
from limbeck.errors import DataError

DRAWN = np.random.default_rng(0)


def drawn(*shape: int) -> np.ndarray:
    return DRAWN.integers(256, size=shape, dtype=np.uint8)


def arrays(*channels: int) -> dict[str, np.ndarray]:
    """Twelve images of three classes to learn from, three each for dev and test."""
    found = {}
    for split, number in (("train", 12), ("val", 3), ("test", 3)):
        found[f"{split}_images"] = drawn(number, 5, 7, *channels)
        found[f"{split}_labels"] = (np.arange(number, dtype=np.uint8) % 3)[:, None]
    return found


def refused(path: Path, says: str) -> None:
    assert holds_labelled(str(path))
    with pytest.raises(DataError, match=says):
        read_labelled(path)


def test_npz_with_the_names_of_medmnist(tmp_path: Path) -> None:
    path = tmp_path / "cells.npz"
    given = arrays(3)
    np.savez_compressed(path, **given)
    assert holds_labelled(str(path))
    found = read_labelled(path)
    assert found.classes == ("0", "1", "2")
    assert found.splits == ["train", "dev", "test"]
    np.testing.assert_array_equal(found.parts["dev"].inputs, given["val_images"])
    assert found.parts["dev"].labels.tolist() == [0, 1, 2]
    np.savez(path, **arrays())
    assert np.shape(read_labelled(path).parts["train"].inputs) == (12, 5, 7, 1)
    assert np.shape(read_labelled(path, image_size=4).parts["test"].inputs) == (3, 4, 4, 1)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"train_images": None}, r"cells.npz has no array train_images; it has .*test_images"),
        ({"val_labels": None}, r"cells.npz has no array val_labels"),
        ({"train_images": drawn(12, 5)}, r"cells.npz, train: images are uint8 \[12, 5\]"),
        ({"train_images": drawn(12, 5, 7, 4)}, r"images are uint8 \[12, 5, 7, 4\]"),
        ({"train_images": np.ones((12, 5, 7))}, r"images are float64 \[12, 5, 7\]"),
        ({"train_labels": drawn(12, 14)}, r"labels are uint8 \[12, 14\] for 12 images"),
        ({"train_labels": drawn(11)}, r"labels are uint8 \[11\] for 12 images"),
        ({"train_labels": np.arange(12) - 1}, r"image 1 has the label -1"),
        ({"train_labels": np.zeros(12, int)}, r"have the label '0'.* two classes"),
        ({"test_labels": np.array([0, 1, 9])}, r"cells.npz, test, image 3: label '9' is not among"),
        ({"test_images": drawn(3, 9, 9)}, r"test are \[9, 9, 1\], and those of train \[5, 7, 1\]"),
        ({"train_images": drawn(0, 5, 7), "train_labels": drawn(0)}, r"there is no image"),
        (
            {"train_images": np.array([{}] * 12, dtype=object)},
            r"train_images: it holds Python objects",
        ),
    ],
)
def test_npz_that_cannot_be_used_is_refused(
    tmp_path: Path, changed: dict[str, np.ndarray | None], says: str
) -> None:
    given = {key: value for key, value in {**arrays(), **changed}.items() if value is not None}
    np.savez(tmp_path / "cells.npz", **given)
    refused(tmp_path / "cells.npz", says)


def test_a_header_that_tells_of_more_than_there_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells.npz"
    held = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**4, 10**4)}
    np.lib.format.write_array_header_1_0(held, about)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("train_images.npy", held.getvalue() + bytes(100))
        file.writestr("train_labels.npy", held.getvalue() + bytes(100))
    refused(path, r"train_images: its header tells of 100,000,000,000,000 bytes")
    path.write_bytes(b"PK and no more")
    refused(path, r"cells.npz: cannot be read")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as file:
        file.writestr("train_images.npy", held.getvalue())
        file.writestr("train_labels.npy", held.getvalue())
    refused(path, r"train_images: it is packed in an unknown way")


def cifar(folder: Path, name: str, labels: np.ndarray) -> np.ndarray:
    """Rows of a file of CIFAR, of labels [n, 1] or [n, 2] and images in planes."""
    folder.mkdir(exist_ok=True)
    planes = drawn(len(labels), 3, 32, 32)
    rows = np.concatenate([labels.astype(np.uint8), planes.reshape(len(labels), -1)], axis=1)
    (folder / name).write_bytes(rows.tobytes())
    return planes


def test_binary_files_of_cifar(tmp_path: Path) -> None:
    ten, hundred = tmp_path / "ten", tmp_path / "hundred"
    first = cifar(ten, "data_batch_1.bin", np.arange(12)[:, None] % 2)
    cifar(ten, "data_batch_2.bin", np.arange(12)[:, None] % 2)
    cifar(ten, "test_batch.bin", np.ones((2, 1)))
    (ten / "batches.meta.txt").write_text("plane\ncar\n\n")
    found = read_labelled(ten)
    assert holds_labelled(str(ten))
    assert found.classes == ("plane", "car")
    assert len(found.parts["train"]) + len(found.parts["dev"]) == 24
    place = found.parts["train"].ids.index("train-3")
    inputs = found.parts["train"].inputs
    assert isinstance(inputs, np.ndarray)
    np.testing.assert_array_equal(inputs[place], first[3].transpose(1, 2, 0))
    assert found.judged("test", "test-0") == {"car": 1}
    cifar(hundred, "train.bin", np.stack([np.zeros(30), np.arange(30) % 3], axis=1))
    cifar(hundred, "test.bin", np.array([[1, 2]]))
    (hundred / "fine_label_names.txt").write_text("apple\nbear\ncrab\n")
    assert read_labelled(hundred).judged("test", "test-0") == {"crab": 1}
    (hundred / "fine_label_names.txt").unlink()
    assert read_labelled(hundred).classes == ("0", "1", "2")


def test_binary_files_of_cifar_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    cifar(tmp_path, "data_batch_1.bin", np.arange(12)[:, None] % 3)
    (tmp_path / "batches.meta.txt").write_text("plane\ncar\n")
    refused(tmp_path, r"image 3 has the label 2, of 2 classes")
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(4000))
    refused(tmp_path, r"data_batch_1.bin: 4,000 bytes are no whole number of images")


def idx(path: Path, values: np.ndarray, shape: tuple[int, ...] | None = None) -> Path:
    header = struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *(shape or values.shape))
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_idx_files(tmp_path: Path) -> None:
    given = drawn(30, 4, 6)
    idx(tmp_path / "train-images-idx3-ubyte.gz", given)
    idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(30) % 3)
    tests = drawn(3, 4, 6)
    idx(tmp_path / "t10k-images.idx3-ubyte", tests)
    idx(tmp_path / "t10k-labels.idx1-ubyte", np.arange(3))
    assert holds_labelled(str(tmp_path))
    found = read_labelled(tmp_path)
    assert found.classes == ("0", "1", "2")
    np.testing.assert_array_equal(found.parts["test"].inputs, tests[..., None])
    assert len(found.parts["dev"]) == 3


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_idx_files_that_cannot_be_used_are_refused(tmp_path: Path, packed: str) -> None:
    path = idx(tmp_path / f"train-images-idx3-ubyte{packed}", drawn(3, 4, 6))
    refused(tmp_path, r"has no labels of train in an idx file")
    labels = idx(tmp_path / f"train-labels-idx1-ubyte{packed}", np.arange(3))
    for shape in ((3, 4, 7), (3, 4, 5), (4_000_000_000, 60_000, 60_000)):
        idx(path, drawn(3, 4, 6), shape)
        refused(tmp_path, r"train-images-idx3-ubyte.*: its header tells of")
    idx(path, drawn(3, 4, 6))
    idx(labels, np.arange(2))
    refused(tmp_path, r"labels are uint8 \[2\] for 3 images")
    idx(labels, drawn(3, 4, 6))
    refused(tmp_path, r"train-labels-idx1-ubyte.*: it does not begin as an idx file")
    labels.write_bytes(b"\x1f\x8b" if packed else b"\x00")
    refused(tmp_path, r"train-labels-idx1-ubyte.*: cannot be read")


def test_pickles_are_refused_with_what_to_use_instead(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "opened",))

    content = pickle.dumps(Trap())
    says = r"is a pickle, which can run any code .*binary version of CIFAR"
    for name in ("ten/data_batch_1", "hundred/train", "hundred/meta", "one/images.pkl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        if name != "hundred/train":
            refused(path.parent, says)
    refused(tmp_path / "one" / "images.pkl", says)
    assert not (tmp_path / "opened").exists()
