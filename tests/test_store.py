import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from limbeck import store
from limbeck.errors import StoreError
from limbeck.store import StageFolder


def test_a_stages_seconds_leave_out_those_of_stages_within_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A begins at 0, B lasts from 1 to 4 within it, C from 5 to 6, and A ends at 10."""
    times = iter([0.0, 1.0, 4.0, 5.0, 6.0, 10.0])
    monkeypatch.setattr("limbeck.store.time.perf_counter", lambda: next(times))
    whole = StageFolder(tmp_path / "a", {})
    for name in ("b", "c"):
        StageFolder(tmp_path / name, {}).finish()
    whole.finish()
    done = {name: store.read_json(tmp_path / name / "done.json") for name in "abc"}
    assert {name: each["place"] for name, each in done.items()} == {"b": 0, "c": 1, "a": 2}
    took = {name: each["took"] for name, each in done.items()}
    assert {name: each["seconds"] for name, each in took.items()} == {"a": 6.0, "b": 3.0, "c": 1.0}
    assert all(each["peak_bytes"] > 1e6 for each in took.values())


def test_equal_content_has_equal_digests(tmp_path: Path) -> None:
    assert store.digest({"a": [1, None], "b": "é"}) == store.digest({"b": "é", "a": [1, None]})
    assert store.digest([1, 2]) != store.digest([2, 1])
    tensors = {"w": torch.arange(6).reshape(2, 3), "b": torch.zeros(0)}
    assert store.digest_tensors(tensors) == store.digest_tensors(dict(reversed(tensors.items())))
    assert store.digest_tensors(tensors) != store.digest_tensors({**tensors, "w": tensors["w"].T})
    for name in ("one", "two"):
        store.write_text(tmp_path / name / "in" / "file", "same", stage="x")
    assert store.digest_folder(tmp_path / "one") == store.digest_folder(tmp_path / "two")
    (tmp_path / "two" / "in" / "file").rename(tmp_path / "two" / "in" / "other")
    assert store.digest_folder(tmp_path / "one") != store.digest_folder(tmp_path / "two")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": ["a", "b"], "score": [0.5, float("inf")]})
    store.write_parquet(tmp_path / "t.parquet", frame, stage="x")
    assert store.read_parquet(tmp_path / "t.parquet").equals(frame)
    tensors = {"w": torch.randn(3, 2), "n": torch.tensor(7)}
    store.write_tensors(tmp_path / "t.safetensors", tensors, stage="x")
    found = store.read_tensors(tmp_path / "t.safetensors")
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    store.write_json(tmp_path / "t.json", {"é": [1, None]}, stage="x")
    assert store.read_json(tmp_path / "t.json") == {"é": [1, None]}
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("read", [store.read_json, store.read_parquet, store.read_tensors])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, read: object) -> None:
    assert callable(read)
    path = tmp_path / "file"
    with pytest.raises(StoreError, match=f"{path} is missing"):
        read(path)
    path.write_bytes(b"\x80{")
    with pytest.raises(StoreError, match=f"{path} is damaged .*Delete it and run"):
        read(path)


class Form(store.Written):
    rows: list[dict[str, float]]
    said: str | None = None


@pytest.mark.parametrize("text", ["[]", "{}", "null", '"a"', '{"rows": [{"a": "b"}]}', '{"rows"'])
def test_json_of_another_form_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(StoreError, match=r"a.json is damaged \(.*Make it again"):
        store.read_json(tmp_path / "a.json", Form, advice="Make it again.")


def test_json_of_the_right_form_is_read_and_later_keys_are_passed_over(tmp_path: Path) -> None:
    rows = [{"z": 0.1 + 0.2, "a": 1e-320, "n": 3}]
    store.write_json(tmp_path / "a.json", {"rows": rows, "later": [1]}, stage="x")
    assert store.read_json(tmp_path / "a.json", Form).rows == rows
    (tmp_path / "b.json").write_text('{"b": NaN, "a": 12345678901234567890123}')
    found = store.read_json(tmp_path / "b.json")
    assert list(found) == ["b", "a"]
    assert found["a"] == 12345678901234567890123


def a_folder(path: Path) -> dict[str, store.Checksum]:
    """Two files, one below, under a manifest; last changed an hour ago, as far as that goes."""
    for name in ("a.bin", "in/b.bin"):
        store.write_text(path / name, f"content of {name}", stage="x")
    files = store.checksums(path, store.files_below(path))
    store.write_manifest(path, files, advice="Export it again.", stage="x")
    return files


def flipped(path: Path) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_manifest_lists_files_and_is_read_back(tmp_path: Path) -> None:
    files = a_folder(tmp_path)
    assert list(files) == ["a.bin", "in/b.bin"] == store.files_below(tmp_path)
    assert store.files_below(tmp_path, "in", "gone") == ["in/b.bin"]
    assert store.read_manifest(tmp_path) == ("Export it again.", files)
    assert store.faults(tmp_path, files) == {}
    assert store.read_manifest(tmp_path / "in") is None
    text = (tmp_path / store.MANIFEST).read_text()
    (tmp_path / store.MANIFEST).write_text(text.replace("a.bin", "c.bin"))
    with pytest.raises(StoreError, match=r"manifest.json is damaged .*or delete that file"):
        store.read_manifest(tmp_path)


def test_what_a_manifest_above_lists_is_checked_and_nothing_else(tmp_path: Path) -> None:
    a_folder(tmp_path / "run")
    store.write_text(tmp_path / "run" / "in" / "later", "not listed", stage="x")
    (tmp_path / "link").symlink_to(tmp_path / "run" / "in")
    flipped(tmp_path / "run" / "a.bin")
    for name in ("", "run/in", "run/in/b.bin", "run/in/later", "run/gone", "link"):
        store.check_whole(tmp_path / name)
    says = r"run is damaged \(the SHA-256 of a.bin .*\). Export it again."
    for name in ("run", "run/a.bin"):
        with pytest.raises(StoreError, match=says):
            store.check_whole(tmp_path / name)
    (tmp_path / "run" / "in" / "b.bin").unlink()
    for name in ("run/in", "run/in/b.bin", "link"):
        with pytest.raises(StoreError, match=r"in/b.bin is missing"):
            store.check_whole(tmp_path / name)


@pytest.mark.parametrize("anew", [False, True])
def test_every_kind_of_damage_is_named(tmp_path: Path, anew: bool) -> None:
    files = a_folder(tmp_path)
    flipped(tmp_path / "in" / "b.bin")
    assert store.faults(tmp_path, files, anew=anew) == {
        "in/b.bin": "the SHA-256 of in/b.bin is not the recorded one"
    }
    (tmp_path / "in" / "b.bin").write_text("short")
    (tmp_path / "a.bin").unlink()
    assert store.faults(tmp_path, files, anew=anew) == {
        "a.bin": "a.bin is missing",
        "in/b.bin": "in/b.bin has 5 bytes, 19 expected",
    }


@pytest.fixture
def digested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are digested from here on."""
    names: list[str] = []
    real = store.digest_file
    monkeypatch.setattr(store, "digest_file", lambda path: names.append(path.name) or real(path))
    monkeypatch.setattr(store, "_SETTLED_NS", -1)
    return names


def test_a_file_that_has_not_moved_is_not_read_again(tmp_path: Path, digested: list[str]) -> None:
    files = a_folder(tmp_path)
    digested.clear()
    for expected in (["a.bin", "b.bin"], []):
        assert store.faults(tmp_path, files) == {}
        assert [*digested] == expected
        digested.clear()
    kept = (tmp_path / "a.bin").stat()
    flipped(tmp_path / "a.bin")
    os.utime(tmp_path / "a.bin", ns=(kept.st_atime_ns, kept.st_mtime_ns))  # as cp -p leaves it
    assert [*store.faults(tmp_path, files)] == [*store.faults(tmp_path, files)] == ["a.bin"]
    assert digested == ["a.bin", "a.bin"]
    digested.clear()
    store.faults(tmp_path, files, anew=True)
    assert digested == ["a.bin", "b.bin"]


def test_a_copy_is_read_once_and_where_nothing_may_be_written_once_by_each_process(
    tmp_path: Path, digested: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = a_folder(tmp_path / "one")
    store.faults(tmp_path / "one", files)
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)
    digested.clear()
    assert store.faults(tmp_path / "two", files) == {} == store.faults(tmp_path / "two", files)
    assert digested == ["a.bin", "b.bin"]
    (tmp_path / "two" / store.SEEN).unlink()
    (tmp_path / "two" / store.SEEN).mkdir()  # neither to be read nor to be replaced
    for _ in range(2):
        monkeypatch.setattr(store, "_seen_here", {})  # as in another process
        digested.clear()
        assert store.faults(tmp_path / "two", files) == {} == store.faults(tmp_path / "two", files)
        assert digested == ["a.bin", "b.bin"]


def test_a_file_that_was_just_written_is_not_trusted_by_its_times(tmp_path: Path) -> None:
    files = a_folder(tmp_path)
    assert store.faults(tmp_path, files) == {}
    assert not (tmp_path / store.SEEN).exists()


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    store.write_text(tmp_path / "file", "old", stage="x")
    with store.new_folder(tmp_path / "folder", stage="x") as temporary:
        (temporary / "a").write_text("old")

    def fail(begin: Callable[..., AbstractContextManager[Path]], name: str, inside: str) -> None:
        with begin(tmp_path / name, stage="x") as temporary:
            (temporary / inside).write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail(store.new_file, "file", "")
    with pytest.raises(RuntimeError):
        fail(store.new_folder, "folder", "a")
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "a").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "Free some space"), (errno.EROFS, "read-only"), (errno.EIO, "Check the path")],
)
def test_each_refusal_of_a_disk_has_its_advice(tmp_path: Path, number: int, advice: str) -> None:
    path = tmp_path / "file"
    with (
        pytest.raises(StoreError, match=f"Cannot write {path}.*{advice}"),
        store.new_file(path, stage="x"),
    ):
        raise OSError(number, os.strerror(number))


def test_a_stage_is_whole_once_finished(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path / "train-kl", {"seed": 1})
    assert not folder.complete
    store.write_text(folder.path / "in" / "state", "weights", stage=folder.name)
    (folder.path / ".tmp-9-state").write_text("left by a kill")
    folder.finish(updates=3)
    again = StageFolder(tmp_path / "train-kl", {"seed": 1})
    assert again.complete
    assert again.metrics == {"updates": 3}
    assert not (folder.path / ".tmp-9-state").exists()


def test_a_stage_is_taken_from_a_run_that_finished_the_same(tmp_path: Path) -> None:
    def stage(run: str, **inputs: object) -> StageFolder:
        return StageFolder(tmp_path / run / "train", inputs)

    made = stage("made", seed=1)
    store.write_text(made.path / "state", "weights", stage="train")
    taking = stage("taking", seed=1)
    assert not taking.take(tmp_path / "nothing")
    assert not taking.take(made.path)  # which is not finished
    made.finish(updates=3)
    assert not stage("other", seed=2).take(made.path)
    begun = stage("begun", seed=1)
    (begun.path / "state").write_text("a checkpoint")
    assert not begun.take(made.path)
    assert taking.take(made.path)
    assert taking.complete
    assert taking.metrics == {"updates": 3}
    assert store.digest_folder(taking.path) == store.digest_folder(made.path)
    assert (taking.path / "state").samefile(made.path / "state")
    store.write_text(taking.path / "state", "others", stage="train")
    assert (made.path / "state").read_text() == "weights"


def test_where_files_cannot_have_two_names_a_stage_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    made, taking = (StageFolder(tmp_path / run / "train", {}) for run in ("made", "taking"))
    store.write_text(made.path / "in" / "state", "weights", stage="train")
    made.finish()
    assert taking.take(made.path)
    assert taking.complete
    assert not (taking.path / "in" / "state").samefile(made.path / "in" / "state")


@pytest.mark.parametrize("content", ["weight", "weighty", None])
def test_a_finished_stage_notices_what_changed(tmp_path: Path, content: str | None) -> None:
    folder = StageFolder(tmp_path / "train", {})
    store.write_text(folder.path / "state", "weights", stage="train")
    folder.finish()
    if content is None:
        (folder.path / "state").unlink()
    else:
        (folder.path / "state").write_text(content)
    with pytest.raises(StoreError, match=f"{folder.path} is damaged .*state.*Delete it"):
        _ = folder.complete


def test_a_stage_of_other_inputs_is_refused(tmp_path: Path) -> None:
    StageFolder(tmp_path / "mine", {"depth": 5, "source": "bm25"})
    with pytest.raises(StoreError, match=r"other inputs \(depth differ\)"):
        StageFolder(tmp_path / "mine", {"depth": 6, "source": "bm25"})


@pytest.mark.slow
def test_the_fault_hook_kills_at_the_write_it_names(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from limbeck.store import write_text\n"
        "for n in range(4):\n"
        "    write_text(Path(sys.argv[1]) / f'mine{n}', '', stage='mine-bm25')\n"
        "    write_text(Path(sys.argv[1]) / f'score{n}', '', stage='score')\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        env={**os.environ, "LIMBECK_KILL_AT": "mine:3"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".tmp-")}
    assert names == {"mine0", "mine1", "score0", "score1"}


@pytest.mark.slow
def test_one_process_at_a_time_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from limbeck.store import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(StoreError, match="Another process is working in"),
            store.lock_folder(tmp_path),
        ):
            pass
        other.kill()
    with store.lock_folder(tmp_path), pytest.raises(StoreError), store.lock_folder(tmp_path):
        pass
    with store.lock_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "stages" / "mine").mkdir(parents=True)
    (tmp_path / "stages" / "mine" / ".tmp-7-shard-00000.parquet").touch()
    (tmp_path / ".tmp-7-student" / "1_Pooling").mkdir(parents=True)
    (tmp_path / ".old-7-student").mkdir()
    (tmp_path / "stages" / "mine" / "shard-00001.parquet").touch()
    with store.lock_folder(tmp_path):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"stages/mine/shard-00001.parquet"}
    assert {path.name for path in tmp_path.iterdir()} == {"stages"}
