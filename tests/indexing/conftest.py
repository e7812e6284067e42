"""A small collection, and an index of it by the tiny encoder."""

import shutil
from pathlib import Path

import pytest

from collections_here import made_up
from limbeck import indexing
from limbeck.data import read_collection
from limbeck.data.collection import Collection


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return read_collection(made_up().write(tmp_path_factory.mktemp("indexed") / "data"))


@pytest.fixture(scope="session")
def built(
    collection: Collection, tiny_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An index that no test changes."""
    out = tmp_path_factory.mktemp("built") / "index"
    indexing.build(str(tiny_encoder_folder), collection, out, precision="fp32")
    return out


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(built, tmp_path / "index"))
