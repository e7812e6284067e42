"""What a finished run leaves is checked whenever it is read again, and made again or refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck import pipeline
from limbeck.errors import ConfigError, LimbeckError, StoreError
from limbeck.indexing import open_searcher
from limbeck.pipeline.reporting import damage
from limbeck.store import (
    MANIFEST,
    Checksum,
    checksums,
    digest_folder,
    files_below,
    read_json,
    read_manifest,
    write_manifest,
)

from .conftest import Finished, Invoke

pytestmark = pytest.mark.slow

LEFT = ["student", "teacher", "baselines", "runs", "per_query.parquet", "report.html"]


@pytest.fixture
def out(finished: Finished, tmp_path: Path) -> Path:
    """A copy of a finished run, whose files have other times."""
    shutil.copytree(finished.out, tmp_path / "run", copy_function=shutil.copyfile)
    return tmp_path / "run"


@pytest.fixture
def repeat(finished: Finished, out: Path) -> Callable[..., pipeline.Result]:
    def repeat(**changes: Any) -> pipeline.Result:
        return pipeline.distill(finished.data, **{**finished.arguments, "out": out, **changes})

    return repeat


@pytest.fixture
def _trained_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained from here on."""

    def refuse(*_: object) -> None:
        raise AssertionError("all of it was done")

    monkeypatch.setattr("limbeck.training.loop._update", refuse)


def lose(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_text("[]")


def left(out: Path) -> dict[str, Checksum]:
    """All that a run left but for its manifest and what may hold times."""
    return checksums(out, files_below(out, *LEFT))


@pytest.mark.usefixtures("_trained_before")
@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("student", lose),
        ("student/model.safetensors", lose),
        ("student/model.safetensors", flip),
        ("student/tokenizer.json", empty),
        ("teacher/model.safetensors", flip),
        ("baselines/undistilled/model.safetensors", lose),
        ("per_query.parquet", flip),
        ("runs/student.trec", lose),
        ("runs/bm25.trec", flip),
        ("stages/diagnose/scores.parquet", flip),
        ("metrics.json", flip),
        ("metrics.json", empty),
        ("report.html", flip),
        ("report.html", lose),
        (MANIFEST, flip),
        (MANIFEST, empty),
    ],
)
def test_a_repeated_command_makes_again_what_was_lost(
    finished: Finished,
    out: Path,
    repeat: Callable[..., pipeline.Result],
    name: str,
    spoil: Callable[[Path], None],
) -> None:
    spoil(out / name)
    assert damage(out) or not (out / name).exists()
    result = repeat()
    assert damage(out) == {}
    assert left(out) == left(finished.out)
    assert {row["model"]: row["nDCG@10"] for row in result.rows} == {
        row["model"]: row["nDCG@10"] for row in finished.result.rows
    }
    found, before = read_manifest(out), read_manifest(finished.out)
    assert found is not None
    assert before is not None
    assert set(found[1]) == set(before[1])


def test_the_manifest_lists_what_is_left_and_is_written_last_but_for_the_mark(
    finished: Finished,
) -> None:
    found = read_manifest(finished.out)
    assert found is not None
    listed = {name for name in found[1] if name.startswith(("student/", "teacher/", "runs/"))}
    there = files_below(finished.out, "student", "teacher", "runs")
    assert listed == {name for name in there if not name.endswith("README.md")}
    assert {"metrics.json", "report.html", "per_query.parquet"} < set(found[1])
    assert damage(finished.out) == {}
    assert not [path for path in (finished.out / "student").iterdir() if "limbeck" in path.name]


@pytest.mark.usefixtures("_trained_before")
def test_without_its_stages_a_run_that_is_whole_is_finished(
    finished: Finished, out: Path, repeat: Callable[..., pipeline.Result]
) -> None:
    shutil.rmtree(out / "stages")
    (out / "student" / "README.md").write_text("A card of my own.")
    assert repeat().rows == finished.result.rows


def test_an_older_run_has_no_manifest_and_opens_as_before(
    finished: Finished, out: Path, repeat: Callable[..., pipeline.Result]
) -> None:
    (out / MANIFEST).unlink()
    flip(out / "teacher" / "model.safetensors")
    assert repeat().rows == finished.result.rows
    assert damage(out) == {}
    (out / "report.html").unlink()
    repeat()
    assert (out / "report.html").exists()
    assert not (out / MANIFEST).exists()


def test_what_cannot_be_made_again_is_refused_and_the_figures_stay(
    finished: Finished, out: Path, repeat: Callable[..., pipeline.Result]
) -> None:
    (out / "student" / "model.safetensors").unlink()
    before = read_json(out / "metrics.json")
    data = finished.data.rename(finished.data.parent / "elsewhere")
    try:
        with pytest.raises(LimbeckError):
            repeat()
    finally:
        data.rename(finished.data)
    assert read_json(out / "metrics.json") == before


def test_other_bytes_than_before_are_refused_unless_forced(
    out: Path, repeat: Callable[..., pipeline.Result]
) -> None:
    """As if the processor had been another one when the run was made."""
    found = read_manifest(out)
    assert found is not None
    advice, files = found
    name = "student/model.safetensors"
    files[name] = files[name].model_copy(update={"sha256": "0" * 64})
    write_manifest(out, files, advice=advice, stage="x")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"not to the same bytes: the SHA-256 of student/mod"):
            repeat()
    repeat(force=True)
    assert damage(out) == {}
    repeat()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("student/model.safetensors", ["evaluate", "{out}/student", "{data}"]),
        ("student/modules.json", ["evaluate", "{out}/student", "{data}"]),
        ("teacher/model.safetensors", ["evaluate", "{out}/teacher", "{data}"]),
        ("student/model.safetensors", ["index", "{out}", "{data}", "--out", "{out}/../index"]),
        ("student/model.safetensors", ["search", "{out}", "a question"]),
        ("student/model.safetensors", ["export", "{out}/student", "--to", "openvino"]),
        ("runs/bm25.trec", ["evaluate", "scores:{out}/runs/bm25.trec", "{data}"]),
        ("per_query.parquet", ["compare", "{finished}", "{out}"]),
    ],
)
@pytest.mark.parametrize("spoil", [lose, flip])
def test_damage_is_refused_with_what_to_do(
    finished: Finished,
    out: Path,
    invoke: Invoke,
    name: str,
    command: list[str],
    spoil: Callable[[Path], None],
) -> None:
    if (name, spoil) == ("runs/bm25.trec", lose):
        pytest.skip("there is no such file, which is said")
    places = {"out": out, "data": finished.data, "finished": finished.out}
    given = [word.format(**places) for word in command]
    given += ["--out", str(out.parent / "exported")] if command[0] == "export" else []
    spoil(out / name)
    answer = invoke(*given)
    assert answer.exit_code == 2, answer.output
    assert isinstance(answer.exception, SystemExit)
    assert answer.stdout == ""
    message = answer.stderr.strip().splitlines()[-1]
    assert message.startswith(f"limbeck: {out} is damaged"), message
    assert name in message
    assert "Repeat the `limbeck distill` that made it" in message


def test_a_copy_of_a_run_is_searched(out: Path) -> None:
    [hits] = open_searcher(out).search(["a question"], 3)
    assert len(hits) == 3


def test_an_evaluation_leaves_a_manifest_too(
    finished: Finished, invoke: Invoke, tmp_path: Path
) -> None:
    out = tmp_path / "measured"
    answer = invoke("evaluate", finished.out / "student", finished.data, "--out", out)
    assert answer.exit_code == 0, answer.output
    assert damage(out) == {}
    flip(out / "per_query.parquet")
    assert [*damage(out)] == ["per_query.parquet"]


def test_students_of_equal_runs_are_equal(finished: Finished, out: Path) -> None:
    assert digest_folder(out / "student") == digest_folder(finished.out / "student")
    with pytest.raises(ConfigError, match="holds a run"):
        pipeline.evaluate(str(out / "student"), finished.data, out=out)
