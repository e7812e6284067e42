"""Every file of ours is refused, in words, when it holds something else than it should.

Manifests are left out here, as in runs of older versions: what they would find first is tested with
them. A file of each kind is overwritten, and then read by the verb that users read it with.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from limbeck import pipeline
from limbeck.bench.arms import teacher_cost, training_cost
from limbeck.errors import LimbeckError
from limbeck.indexing.runs import data_of
from limbeck.models.exported import load_exported, runtime_of
from limbeck.pipeline import plan_file
from limbeck.report import run_page
from limbeck.store import MANIFEST, write_json, write_parquet
from limbeck.teachers import load_teacher
from limbeck.teachers.score_store import ScoreStore

from .conftest import Finished

pytestmark = pytest.mark.slow

SHAPES = {
    "a list": b"[]",
    "an object": b"{}",
    "null": b"null",
    "a string": b'"text"',
    "a number": b"3",
    "nothing": b"",
    "half": None,
}

Arguments = dict[str, Any]


def page(out: Path, given: Arguments) -> object:
    return run_page(out, None, plan_file.compared(out))


def repeat(out: Path, given: Arguments) -> object:
    return pipeline.distill(**{**given, "out": out})


def go_on(out: Path, given: Arguments) -> object:
    """The run from its last stage on, which asks for everything that it rests on."""
    (out / "metrics.json").unlink(missing_ok=True)
    return repeat(out, given)


def again(name: str) -> Callable[[Path, Arguments], object]:
    """The run from a stage on that is to be made again."""

    def go_on_without(out: Path, given: Arguments) -> object:
        for done in out.glob(f"stages/{name}"):
            shutil.rmtree(done)
        return go_on(out, given)

    return go_on_without


def compared(out: Path, given: Arguments) -> object:
    return pipeline.compare([given["out"], out])


READ_BY: list[tuple[str, Callable[[Path, Arguments], object]]] = [
    ("run.toml", repeat),
    ("run.toml", compared),
    ("run.toml", page),
    ("run.toml", lambda out, _: data_of(out)),
    ("metrics.json", repeat),
    ("metrics.json", page),
    ("per_query.parquet", compared),
    ("per_query.parquet", page),
    ("plan.json", page),
    ("stages/diagnose/diagnosis.json", page),
    ("stages/diagnose/scores.parquet", page),
    ("stages/train-kl/done.json", page),
    ("stages/train-kl/done.json", go_on),
    ("stages/train-kl/done.json", lambda out, _: training_cost(out)),
    ("stages/encode-dual-*/done.json", lambda out, _: teacher_cost(out)),
    ("stages/train-kl/inputs.json", page),
    ("stages/train-kl/inputs.json", go_on),
    ("stages/train-kl/curves.json", page),
    ("stages/train-kl/state.safetensors", go_on),
    ("stages/tokens/query-*/tokens.json", again("evaluate-student-*")),
    ("stages/evaluate-student-*/per_query.parquet", go_on),
    ("ensemble/ensemble.json", lambda out, _: load_teacher(str(out / "ensemble"))),
    ("exported/limbeck.json", lambda out, _: load_exported(out / "exported")),
    ("exported/limbeck.json", lambda out, _: runtime_of(out / "exported")),
    ("store/scores/x/about.json", lambda out, _: ScoreStore(out / "store").list()),
]


@pytest.fixture
def out(finished: Finished, tmp_path: Path) -> Path:
    """A copy of a finished run as older versions left it, with files that it has not itself."""
    out = tmp_path / "run"
    shutil.copytree(finished.out, out, ignore=shutil.ignore_patterns(MANIFEST))
    for name in ("ensemble/ensemble.json", "exported/limbeck.json", "store/scores/x/about.json"):
        write_json(out / name, {}, stage="x")
    part = {"stage": "train-kl", "what": "train", "seconds": 3.0}
    write_json(out / "plan.json", {"parts": [part], "peak_bytes": 7}, stage="x")
    (out / "store" / "scores" / "x" / "1.parquet").write_bytes(b"")
    return out


def test_the_copy_reads_well_as_it_is(finished: Finished, out: Path) -> None:
    given = {**finished.arguments, "data": finished.data}
    assert "train-kl" in str(page(out, given))
    repeat(out, given)
    compared(out, given)


TABLES = [(name, read) for name, read in READ_BY if name.endswith(".parquet")]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("name", "read"), READ_BY, ids=[f"{name}-{at}" for at, (name, _) in enumerate(READ_BY)]
)
def test_another_shape_is_refused_in_words(
    finished: Finished,
    out: Path,
    name: str,
    read: Callable[[Path, Arguments], object],
    shape: str,
) -> None:
    path = next(out.glob(name))
    content = path.read_bytes()
    half = content[: len(content) // 2] if len(content) > 10 else b'{"'
    path.write_bytes(half if (found := SHAPES[shape]) is None else found)
    if path.suffix == ".toml" and shape == "half":
        path.write_text('asked = "no table"')
    with pytest.raises(LimbeckError) as refused:
        read(out, {**finished.arguments, "data": finished.data})
    assert path.name in str(refused.value)
    assert "Error" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "read"), TABLES, ids=[f"{name}-{at}" for at, (name, _) in enumerate(TABLES)]
)
def test_another_table_is_refused_in_words(
    finished: Finished, out: Path, name: str, read: Callable[[Path, Arguments], object]
) -> None:
    path = next(out.glob(name))
    frame = pl.read_parquet(path)
    for spoiled in (frame.drop("query_id"), frame.with_columns(query_id=1)):
        write_parquet(path, spoiled, stage="x")
        with pytest.raises(LimbeckError, match="is damaged") as refused:
            read(out, {**finished.arguments, "data": finished.data})
        assert str(path) in str(refused.value) or str(path.parent) in str(refused.value)
        write_parquet(path, frame, stage="x")
