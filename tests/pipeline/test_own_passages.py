"""Queries that are passages of the collection, as in ArguAna: same id and same text."""

from pathlib import Path
from typing import Any

import pytest

from collections_here import Files
from limbeck import pipeline
from limbeck.data.check import check
from limbeck.errors import ConfigError
from limbeck.evaluation.measures import read_trec
from limbeck.indexing.runs import data_of

from .conftest import Distil

pytestmark = pytest.mark.slow

NOTE = "own passages: 40 queries have the id and the text of a passage; each "


@pytest.fixture
def files(files: Files) -> Files:
    """Every query is a passage as well."""
    files.corpus |= files.queries
    return files


def test_a_run_leaves_own_passages_out_everywhere(
    distil: Distil, files: Files, data: Path, tmp_path: Path
) -> None:
    result = distil()
    told = f"{NOTE}does not find it, nor learn from it (--keep-own-passage)"
    assert told in result.notes
    assert told in check(data).notes
    runs = sorted((tmp_path / "run" / "runs").glob("*.trec"))
    assert len(runs) > 3
    for path in runs:
        assert all(query not in passages for query, passages in read_trec(path).items())
    assert data_of(tmp_path / "run").queries.ids == list(files.queries)
    with pytest.raises(ConfigError, match="keep_own_passage is 'not set' there and True here"):
        distil(keep_own_passage=True)


def test_one_switch_keeps_them(
    tiny_encoder_folder: Path, data: Path, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    model = str(tiny_encoder_folder)
    kept = pipeline.evaluate(
        model, data, out=tmp_path / "kept", precision="fp32", keep_own_passage=True
    )
    assert f"{NOTE}finds it, too" in kept.notes
    for path in (tmp_path / "kept" / "runs").glob("*.trec"):
        assert all(query in passages for query, passages in read_trec(path).items())
    without = pipeline.evaluate(model, data, precision="fp32")
    assert without.rows[0]["RR@10"] > kept.rows[0]["RR@10"]  # of BM25, which found itself first
    lines = pipeline.dry_run(data, **arguments, keep_own_passage=True)
    assert f"{NOTE}finds it, too" in lines
