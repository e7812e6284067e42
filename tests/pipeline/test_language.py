"""A run in another language: recorded, part of what the run is, and read back by its index."""

from pathlib import Path

import pytest

from limbeck.errors import ConfigError
from limbeck.indexing import open_index, open_searcher
from limbeck.record import read_record

from .conftest import Distil, Invoke

pytestmark = pytest.mark.slow


def test_the_language_is_recorded_and_read_back(distil: Distil, tmp_path: Path) -> None:
    result = distil(recipe="contrastive", language="German", student_alone=True)
    assert "language: de (german), as given" in result.notes
    record = read_record(tmp_path / "run")
    assert record is not None
    assert record["asked"]["language"] == record["data"]["language"] == "de"
    with pytest.raises(ConfigError, match=r"language is 'de' there and 'not set' here"):
        distil(recipe="contrastive")
    searcher = open_searcher(tmp_path / "run", precision="fp32")
    assert open_index(tmp_path / "run" / "index").language == searcher.index.language == "de"
    assert searcher.search(["cat"], 1, by="bm25")[0]


def test_a_language_that_is_not_covered_is_refused_first(
    invoke: Invoke, data: Path, tmp_path: Path
) -> None:
    for command in (("distill", data), ("plan", data), ("data", "check", data)):
        answer = invoke(*command, "--language", "frensh")
        assert answer.exit_code == 2, answer.output
        message = " ".join(answer.stderr.split())
        assert "--language 'frensh' is not covered. Did you mean 'french'?" in message
    assert not (tmp_path / "run").exists()


def test_a_student_of_another_language_is_noted(
    invoke: Invoke, data: Path, tiny_encoder_folder: Path
) -> None:
    answer = invoke("distill", data, "--language", "ru", "--dry-run")
    assert "hardly made for" not in answer.stdout
    (data / "corpus.jsonl").write_text(
        "".join(
            f'{{"_id": "p{at}", "text": "Файлы номер {at} удаляются из списка по запросу."}}\n'
            for at in range(60)
        )
    )
    answer = invoke("distill", data, "--dry-run")
    assert "language: ru (russian), since" in answer.stdout, answer.output
    assert "student: its tokenizer was hardly made for Russian: it does not know" in answer.stdout
