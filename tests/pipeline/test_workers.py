"""A run with workers: how many does not matter, to its bytes or to going on with it."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from limbeck import pipeline
from limbeck.errors import ConfigError
from limbeck.models import workers
from limbeck.store import digest_folder

from .conftest import Distil

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _none_left() -> Iterator[None]:
    yield
    workers.close_workers()


def test_a_run_gives_the_same_bytes_with_any_number_of_workers(
    distil: Distil, tmp_path: Path
) -> None:
    students = set()
    for count in (1, 2):
        out = tmp_path / f"run-{count}"
        distil(
            workers=count, out=out, store=tmp_path / f"store-{count}", settings={"eval_steps": 3}
        )
        assert workers._kept is not None
        assert len(workers._kept) == count
        students.add(digest_folder(out / "student"))
        record = tomllib.loads((out / "run.toml").read_text())
        assert record["engine"]["batches"] == "on one thread each"
        assert "workers" not in record["asked"]
    assert len(students) == 1


def test_a_run_goes_on_with_another_number_but_not_without(distil: Distil, tmp_path: Path) -> None:
    distil(workers=1)
    (tmp_path / "run" / "metrics.json").unlink()
    distil(workers=2)
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(ConfigError, match="batches is 'on one thread each' there"):
        distil()


def test_a_model_is_measured_alike(tiny_encoder_folder: Path, data: Path, tmp_path: Path) -> None:
    runs = set()
    for count in (1, 2):
        out = tmp_path / str(count)
        pipeline.evaluate(str(tiny_encoder_folder), data, out=out, precision="fp32", workers=count)
        runs.add(digest_folder(out / "runs"))
    assert len(runs) == 1
