"""A tiny seq2seq model writes queries: the same ones for a seed, wherever it was stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck import generation
from limbeck.data.collection import Texts
from limbeck.data.derived import DerivedTexts
from limbeck.errors import ModelError, StoreError
from limbeck.generation import load_writer, write_queries
from limbeck.types import Silent

PASSAGES = Texts([f"p{at}" for at in range(9)], [f"the cat and the dog {at}" for at in range(9)])


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BATCH": 2, "SHARD": 4, "WRITTEN_TOKENS": 6}.items():
        monkeypatch.setattr(generation, name, value)


def written(t5: Path, folder: Path, **changes: Any) -> DerivedTexts:
    arguments = {"seed": 0, "device": "cpu", "progress": Silent(), **changes}
    return write_queries(load_writer(t5), PASSAGES, list(range(9)), folder=folder, **arguments)


def test_every_passage_has_different_queries_and_a_seed_decides_them(
    tiny_writer_folder: Path, tmp_path: Path
) -> None:
    made = written(tiny_writer_folder, tmp_path / "one")
    assert set(made.frame["parent_id"]) == set(PASSAGES.ids)
    assert made.frame["draw"].max() == generation.PER_PASSAGE - 1
    torch.rand(3)  # the global state has no say
    assert written(tiny_writer_folder, tmp_path / "two").frame.equals(made.frame)
    assert not written(tiny_writer_folder, tmp_path / "three", seed=1).frame.equals(made.frame)


def test_a_killed_writer_goes_on_with_the_same_bytes(
    tiny_writer_folder: Path, tmp_path: Path
) -> None:
    written(tiny_writer_folder, tmp_path / "whole")
    written(tiny_writer_folder, tmp_path / "cut")
    for lost in ("done.json", "shard-00001.parquet"):
        (tmp_path / "cut" / lost).unlink()
    written(tiny_writer_folder, tmp_path / "cut")
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("whole", "cut")
    )
    found, expected = (json.loads(files.pop("done.json")) for files in (one, other))
    assert one == other
    assert (found["files"], found["metrics"]) == (expected["files"], expected["metrics"])


def test_the_queries_of_another_seed_are_refused(tiny_writer_folder: Path, tmp_path: Path) -> None:
    written(tiny_writer_folder, tmp_path / "one")
    with pytest.raises(StoreError, match=r"made from other inputs \(seed differ\)"):
        written(tiny_writer_folder, tmp_path / "one", seed=1)


def test_other_folders_are_refused(
    tiny_writer_folder: Path, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        load_writer(tmp_path / "nothing")
    with pytest.raises(ModelError, match="cannot be opened as a seq2seq model"):
        load_writer(tiny_encoder_folder)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for path in tiny_writer_folder.iterdir():
        if path.suffix != ".safetensors":
            (pickled / path.name).write_bytes(path.read_bytes())
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be opened as a seq2seq model with safetensors"):
        load_writer(pickled)
