import json
from pathlib import Path

import numpy as np
import pytest

from limbeck.teachers.score_store import ScoreStore, text_keys

from .conftest import Invoke


@pytest.fixture
def root(tmp_path: Path) -> Path:
    store = ScoreStore(tmp_path)
    for digest, name in (("a" * 64, "big/ranker"), ("b" * 64, "other")):
        keys = text_keys(["one", "two"])
        store.add_scores(digest, name, keys, keys, np.ones(2, dtype=np.float32))
    return tmp_path


def digests(invoke: Invoke, root: Path) -> set[str]:
    printed = invoke("store", "list", "--store", root, "--json").stdout
    return {entry["digest"][0] for entry in json.loads(printed)}


def test_list_names_every_teacher(invoke: Invoke, root: Path) -> None:
    lines = invoke("store", "list", "--store", root).stdout.splitlines()
    assert len(lines) == 2
    assert any("aaaaaaaaaaaa" in line and line.endswith("big/ranker") for line in lines)


def test_an_empty_store_says_so(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("store", "list", "--store", tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"Nothing is kept in {tmp_path}.\n")
    assert invoke("store", "list", "--store", tmp_path, "--json").stdout == "[]\n"


def test_the_users_own_store_is_the_default(
    invoke: Invoke, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    assert str(root / "cache" / "limbeck") in invoke("store", "list").stdout


def test_prune_forgets_the_named_teacher_only(invoke: Invoke, root: Path) -> None:
    assert invoke("store", "prune", "aaaaaaaa", "--store", root).exit_code == 0
    assert digests(invoke, root) == {"b"}


def test_prune_all(invoke: Invoke, root: Path) -> None:
    assert invoke("store", "prune", "--all", "--store", root).exit_code == 0
    assert digests(invoke, root) == set()


@pytest.mark.parametrize("arguments", [(), ("aaaaaaaa", "--all"), ("cccccccc",)])
def test_prune_deletes_nothing_unless_it_is_clear_what(
    invoke: Invoke, root: Path, arguments: tuple[str, ...]
) -> None:
    result = invoke("store", "prune", *arguments, "--store", root)
    assert result.exit_code == 2
    assert digests(invoke, root) == {"a", "b"}
