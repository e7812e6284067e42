from pathlib import Path

import pytest

from limbeck import record
from limbeck.errors import ConfigError, StoreError

ASKED: dict[str, object] = {
    "data": "docs",
    "teacher": "train",
    "recipe": "kl",
    "seed": 3,
    "dim": None,
    "budget_seconds": 60.0,
    "force_teacher": False,
    "settings": {"max_steps": "5", "teacher_dual.max_steps": "6"},
}


COLLECTION = {"name": "docs", "digest": "abc", "passages": 3, "labelled": 2, "unlabelled": 0}


def written(out: Path, asked: dict[str, object] = ASKED) -> dict[str, object]:
    record.write_record(
        out,
        {
            "asked": asked,
            "collection": COLLECTION,
            "decided": {"max_steps": 7, "candidates_per_query": None},
            "environment": record.environment(),
        },
    )
    found = record.read_record(out)
    assert found is not None
    return found


def test_what_is_written_is_read_back_without_what_is_not_set(tmp_path: Path) -> None:
    found = written(tmp_path)
    assert found["asked"] == {key: value for key, value in ASKED.items() if value is not None}
    assert found["decided"] == {"max_steps": 7}
    assert record.read_record(tmp_path / "elsewhere") is None


def test_the_same_command_goes_on(tmp_path: Path) -> None:
    record.check_same_run(tmp_path, written(tmp_path), ASKED, force=False)


def test_a_refused_teacher_may_be_forced(tmp_path: Path) -> None:
    forced = {**ASKED, "force_teacher": True}
    record.check_same_run(tmp_path, written(tmp_path), forced, force=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"dim": 64}, "dim is 'not set' there and 64 here"),
        ({"budget_seconds": None}, "budget_seconds is 60.0 there and 'not set' here"),
        ({"settings": {"max_steps": "9"}}, "settings is"),
    ],
)
def test_another_command_is_refused_whatever_is_forced(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    found = written(tmp_path)
    for force in (False, True):
        with pytest.raises(ConfigError, match="holds another run") as refused:
            record.check_same_run(tmp_path, found, {**ASKED, **change}, force=force)
        assert said in str(refused.value)
        assert str(tmp_path) in str(refused.value)


def test_other_versions_are_refused_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = written(tmp_path)
    here = record.environment()
    monkeypatch.setattr(record, "environment", lambda: {**here, "torch": "0.1", "gpu": "one"})
    with pytest.raises(ConfigError) as refused:
        record.check_same_run(tmp_path, found, ASKED, force=False)
    for words in ("torch is", "and '0.1' here", "gpu is 'not set' there and 'one' here", "--force"):
        assert words in str(refused.value)
    record.check_same_run(tmp_path, found, ASKED, force=True)


def test_other_data_are_refused(tmp_path: Path) -> None:
    found = written(tmp_path)
    record.check_same_data(tmp_path, found, "abc", {})
    with pytest.raises(ConfigError, match="begun with other data"):
        record.check_same_data(tmp_path, found, "abd", {})


@pytest.mark.parametrize("content", ["", "[asked", "[asked]\nseed = 3\n", "asked = 3\n"])
def test_a_damaged_record_is_no_new_run(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.toml").write_text(content)
    with pytest.raises(StoreError, match=r"run\.toml is damaged .*delete the folder"):
        record.read_record(tmp_path)


def test_another_engine_is_refused(tmp_path: Path) -> None:
    torch_there = {"engine": {"backend": "torch", "precision": "fp32"}}
    record.check_same_engine(tmp_path, torch_there, {"backend": "torch", "precision": "fp32"})
    record.check_same_engine(tmp_path, {}, {"backend": "torch"})  # begun before it was recorded
    with pytest.raises(ConfigError, match="backend is 'torch' there"):
        record.check_same_engine(tmp_path, {}, {"backend": "openvino"})
    with pytest.raises(ConfigError, match="backend is 'torch' there and 'openvino' here"):
        record.check_same_engine(
            tmp_path, torch_there, {"backend": "openvino", "precision": "fp32"}
        )


def test_the_environment_names_what_bytes_depend_on() -> None:
    found = record.environment()
    assert set(found) >= {"python", "processor", "torch", "transformers", "threads", "processes"}
    assert found["processes"] == 1
    assert "not installed" not in found.values()


# --- the folder -----------------------------------------------------------------------------------


def test_a_new_folder_is_made(tmp_path: Path) -> None:
    record.open_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("left", [["stages"], ["stages", ".tmp-12-run.toml"], ["run.toml", "x"]])
def test_a_run_that_was_begun_is_opened_again(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / name).mkdir()
    record.open_folder(tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"holds no run \(there is 'notes.txt'\)"):
        record.open_folder(tmp_path)


def test_a_file_and_a_path_below_it_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--out .* is a file"):
        record.open_folder(tmp_path / "file")
    with pytest.raises(StoreError, match="Cannot write to --store"):
        record.check_writable(tmp_path / "file" / "below", "--store")
