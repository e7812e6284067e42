import json
from pathlib import Path

import pytest

from collections_here import made_up

from .conftest import Invoke


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text('{"_id": "p1", "text": "sort orders lines"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "put lines in order"}\n')
    (tmp_path / "qrels" / "train.tsv").write_text("q1\tp1\t1\n")
    return tmp_path


def test_usable_data_exits_0(invoke: Invoke, docs: Path) -> None:
    result = invoke("data", "check", docs)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.endswith(f"{docs} can be used.\n")
    assert json.loads(invoke("data", "check", docs, "--json").stdout)["usable"] is True


def test_what_distill_refuses_exits_2_with_the_whole_report(invoke: Invoke, docs: Path) -> None:
    with (docs / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "p2"}\n')
    result = invoke("data", "check", docs)
    assert result.exit_code == 2
    assert "corpus.jsonl:2" in result.stdout
    assert result.stdout.endswith(f"{docs} cannot be used.\n")
    result = invoke("data", "check", docs, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["usable"] is False


def test_unknown_judgements_can_be_left_out(invoke: Invoke, docs: Path) -> None:
    with (docs / "qrels" / "train.tsv").open("a") as qrels:
        qrels.write("q1\tp9\t1\n")
    assert invoke("data", "check", docs).exit_code == 2
    assert invoke("data", "check", docs, "--drop-unknown-judgements").exit_code == 0


def test_data_of_classes_is_checked_by_its_own_task(invoke: Invoke, tmp_path: Path) -> None:
    rows = "".join(f'{{"text": "{at} {of}", "label": "{of}"}}\n' for at in range(9) for of in "xy")
    path = tmp_path / "rows.jsonl"
    path.write_text(rows)
    result = invoke("data", "check", path)
    assert result.exit_code == 0, result.stderr
    assert "train: examples 12, unlabelled 0, classes {x: " in result.stdout
    path.write_text(rows + '{"text": "", "label": "x"}\n')
    result = invoke("data", "check", path, "--json")
    assert result.exit_code == 2
    [error] = json.loads(result.stdout)["errors"]
    assert error.startswith("rows.jsonl:19: its text is empty")
    result = invoke("data", "check", path, "--language", "de")
    assert result.exit_code == 2
    assert "--language says nothing about classification" in result.stderr


def test_a_folder_that_is_not_there_is_one_message(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("data", "check", tmp_path / "none")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("limbeck: ")


def test_dark_examples_are_shown_with_a_page(
    invoke: Invoke, tmp_path: Path, tiny_encoder_folder: Path
) -> None:
    data = made_up().write(tmp_path / "data")
    given = ["data", "dark", data, "--teacher", tiny_encoder_folder]
    given += ["--store", tmp_path / "store", "--precision", "fp32", "--backend", "torch"]
    result = invoke(*given, "--out", tmp_path / "dark.html")
    assert result.exit_code == 0, result.stderr
    assert "weakened positive above reinforced negative: in " in result.stdout
    assert "reinforced negative (" in (tmp_path / "dark.html").read_text()
    found = json.loads(invoke(*given, "--json").stdout)
    assert found["lines"] == [
        line for line in result.stdout.splitlines() if not line.startswith("warning")
    ]
    result = invoke(*given, "--out", tmp_path / "dark.png")
    assert result.exit_code == 2
    assert "ends in .html" in result.stderr


def test_dark_examples_need_passages_and_a_model(invoke: Invoke, tmp_path: Path) -> None:
    data = made_up()
    scores = tmp_path / "s.trec"
    scores.write_text(f"{next(iter(data.queries))} Q0 {next(iter(data.corpus))} 1 0.5 x\n")
    result = invoke("data", "dark", data.write(tmp_path / "data"), "--teacher", f"scores:{scores}")
    assert result.exit_code == 2
    assert "dark examples are new passages" in result.stderr
