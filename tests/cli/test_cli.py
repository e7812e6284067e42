"""The command as a process: what it answers, and that it needs little for that."""

import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest

import limbeck.cli
from limbeck.config.run import parse_duration

from .conftest import Invoke

LIMBECK = [sys.executable, "-c", "from limbeck.cli import main; main()"]


def test_help_answers() -> None:
    done = subprocess.run([*LIMBECK, "--help"], capture_output=True, text=True, check=True)
    assert "distill" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'polars', 'transformers', 'sentence_transformers', 'numpy'}"
    code = f"import sys, limbeck.cli; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_version(invoke: Invoke) -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"limbeck {version('limbeck')}\n")


@pytest.mark.parametrize("group", [[], ["data"], ["index"], ["store"]])
def test_a_group_alone_shows_its_help(invoke: Invoke, group: list[str]) -> None:
    assert "Usage" in invoke(*group).output


def test_an_unknown_command_exits_2(invoke: Invoke) -> None:
    assert invoke("destill").exit_code == 2


def test_other_libraries_are_quiet_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limbeck.cli, "app", lambda: None)
    monkeypatch.setattr(sys, "warnoptions", [])
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.setenv("HF_HUB_VERBOSITY", "info")  # so that both are put back
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")
    with warnings.catch_warnings():
        limbeck.cli.main()
        warnings.warn("for the library's own developers", stacklevel=1)
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"


def test_a_terminal_without_unicode_is_no_reason_to_fail(tmp_path: Path) -> None:
    folder = tmp_path / "文書"
    folder.mkdir()
    done = subprocess.run(
        [*LIMBECK, "store", "list", "--store", folder],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u6587" in done.stdout


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("20m", 1200.0), ("1.5h", 5400.0), (" 2 H ", 7200.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
