"""The page of a classifier's run: classes, confusions, and examples with their images."""

import base64
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from limbeck.data.labelled import read_labelled
from limbeck.data.png import MAX_SIDE, png
from limbeck.evaluation.statistics import class_counts
from limbeck.evaluation.table import RIGHT
from limbeck.store import write_parquet
from limbeck.tasks.classification.details import details
from limbeck.tasks.classification.task import measures_of


def pixels(content: bytes) -> np.ndarray:
    """The image in a PNG as `png` writes it, read by the standard's own words."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(content):
        [length] = struct.unpack(">I", content[at : at + 4])
        name, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        [checksum] = struct.unpack(">I", content[at + 8 + length : at + 12 + length])
        assert checksum == zlib.crc32(name + body)
        chunks[name], at = body, at + 12 + length
    width, height, bits, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (bits, rest) == (8, [0, 0, 0])
    channels = {0: 1, 2: 3}[colour]
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, channels)


def test_a_png_holds_the_image() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert (pixels(png(colours)) == colours).all()
    assert (pixels(png(colours.astype(np.float32) / 255)) == colours).all()
    assert (pixels(png(colours[..., :2])) == colours[..., :1]).all()
    large = np.zeros((300, 100, 1), dtype=np.uint8)
    large[0, 5] = 200
    small = pixels(png(large))
    assert small.shape == (60, 20, 1)
    assert small.shape[0] <= MAX_SIDE
    assert small[0, 1] == 200


def run_of(folder: Path, right: list[str], said: list[str], classes: list[str]) -> Path:
    """A folder with the figures of a student and of a system that is always right."""
    frames = [
        pl.DataFrame({"example_id": [f"e{at}" for at in range(len(right))]})
        .with_columns(pl.lit(name).alias("model"), pl.lit("test").alias("split"))
        .hstack(class_counts(right, own, classes))
        for name, own in (("teacher", right), ("student", said))
    ]
    write_parquet(folder / "per_example.parquet", pl.concat(frames), stage="test")
    return folder


def test_classes_and_confusions_are_counted_by_hand(tmp_path: Path) -> None:
    right, said = list("aaabbc"), list("aabbbb")
    found = details(run_of(tmp_path, right, said, list("abc")), measures_of("abc"))
    classes, matrix = found.blocks
    assert classes.headings == ["class", "precision", "recall", "F1", "examples", "predicted"]
    assert classes.rows == [
        ["a", "1.000", "0.667", "0.800", "3", "2"],
        ["b", "0.500", "1.000", "0.667", "2", "4"],
        ["c", "", "0.000", "0.000", "1", "0"],
    ]
    assert matrix.rows == [["a", "2", "1", ""], ["b", "", "2", ""], ["c", "", "1", ""]]
    assert np.allclose(matrix.shades, [[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 1, 0]])
    assert found.answers["student"] == {f"e{at}": name for at, name in enumerate(said)}
    assert found.answers[RIGHT] == found.answers["teacher"]


def test_of_many_classes_the_most_confused_pairs_are_shown(tmp_path: Path) -> None:
    names = [f"c{at:02}" for at in range(30)]
    right = ["c00"] * 4 + ["c07"] * 2
    said = ["c01", "c01", "c02", "c00", "c09", "c07"]
    found = details(run_of(tmp_path, right, said, names), measures_of(names))
    assert len(found.blocks[0].rows) == 30
    assert found.blocks[1].rows == [
        ["c00", "c01", "2", "50%"],
        ["c00", "c02", "1", "25%"],
        ["c07", "c09", "1", "50%"],
    ]


def test_nothing_measured_is_nothing_to_show(tmp_path: Path) -> None:
    assert details(tmp_path, measures_of("ab")).blocks == ()


def test_the_page_shows_images_answers_and_classes(digits_run: Path) -> None:
    page = (digits_run / "report.html").read_text(encoding="utf-8")
    shown = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    test = read_labelled("digits").parts["test"]
    assert len(shown) == len(test)
    first = re.search(r'base64,([^"]+)"><span class="id">digit-2</span>', page)
    assert first
    image = png(np.asarray(test.inputs)[list(test.ids).index("digit-2")])
    assert base64.b64decode(first[1]) == image
    assert re.search(r"right: <bdi>2</bdi>; student, distilled: <bdi>\d</bdi>; most", page)
    assert "Confusion matrix of the student" in page
    assert '<td class="shade-' in page
    assert 'href="#details">Classes<' in page
    assert "Examples won and lost" in page
    assert "examples won" in page
    for word in ("Doubtful", "A rank is missing", "Relevant classes"):
        assert word not in page
    assert not re.search(r'(src|href)="(?!data:image/png|#)', page)
    assert "img-src data:;" in page


def test_without_its_data_the_page_has_ids(digits_run: Path) -> None:
    from limbeck.evaluation.table import Metrics
    from limbeck.report import run_page
    from limbeck.store import read_json

    measures = read_json(digits_run / "metrics.json", Metrics).measures
    page = run_page(digits_run, None, details=details(digits_run, measures))
    assert "<img" not in page
    assert "digit-2\n" in page


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)])
def test_a_picture_is_small(shape: tuple[int, ...]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert len(png(noise)) < noise.size + 200
