from pathlib import Path

import polars as pl
import pytest

from limbeck.data.derived import DerivedTexts, derived_id
from limbeck.errors import DataError, StoreError


def test_texts_are_read_back_as_written(tmp_path: Path) -> None:
    made = DerivedTexts.of("questions", {("d2", 0): "who?", ("d1", 1): "what?", ("d1", 0): "why?"})
    made.write(tmp_path / "derived.parquet", stage="derive")
    read = DerivedTexts.read(tmp_path / "derived.parquet")
    assert read.frame.equals(made.frame)
    assert read.frame["text"].to_list() == ["why?", "what?", "who?"]  # by parent, then draw
    assert read.frame["parent_id"].to_list() == ["d1", "d1", "d2"]


def test_equal_texts_have_one_id() -> None:
    made = DerivedTexts.of("questions", {("d1", 0): "who?", ("d2", 0): "who?", ("d3", 0): "why?"})
    ids = made.frame["derived_id"].to_list()
    assert ids[0] == ids[1] == derived_id("who?")
    assert ids[2] != ids[0]


def test_no_texts_at_all(tmp_path: Path) -> None:
    DerivedTexts.of("questions", {}).write(tmp_path / "derived.parquet", stage="derive")
    assert len(DerivedTexts.read(tmp_path / "derived.parquet").frame) == 0


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(DataError, match='questions made an empty text from "d1" \\(draw 2\\)'):
        DerivedTexts.of("questions", {("d1", 2): " "})


def test_another_table_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"other": [1]}).write_parquet(tmp_path / "derived.parquet")
    with pytest.raises(StoreError, match="its columns are other"):
        DerivedTexts.read(tmp_path / "derived.parquet")
