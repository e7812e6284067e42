"""What an examination of a teacher left, read from files that are written here."""

import json
from pathlib import Path

import polars as pl
import pytest

from limbeck.data.collection import Collection, Texts
from limbeck.report.teacher import examined

DIAGNOSIS = {
    "lists": 3,
    "scores": 8,
    "spread": 1.5,
    "relative_spread": 0.5,
    "entropy": None,
    "saturation": 0.25,
    "agreement": 0.75,
    "agreement_error": 0.01,
    "agreement_lists": 2,
    "refusal": None,
    "doubt": "All look alike.",
}
SCORES = [  # query, passage, score, relevant
    ("q1", "p1", 2.0, True),
    ("q1", "p2", 5.0, True),
    ("q1", "p3", 7.0, False),
    ("q1", "p4", 6.0, False),
    ("q1", "p5", 3.0, False),
    ("q2", "p1", 1.0, True),
    ("q2", "p2", 1.0, False),
    ("q3", "p3", 9.0, None),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "stages" / "diagnose"
    folder.mkdir(parents=True)
    (folder / "diagnosis.json").write_text(json.dumps(DIAGNOSIS))
    columns = ["query_id", "passage_id", "score", "relevant"]
    frame = pl.DataFrame(SCORES, schema=columns, orient="row")
    frame = frame.with_columns(pl.col("score").cast(pl.Float32))
    frame.write_parquet(folder / "scores.parquet")
    return tmp_path / "run"


def test_doubtful_negatives_by_hand(run: Path) -> None:
    """Of q1, p3 and p4 lie above p2, its best; p5 does not. q2's candidate is only as good. Nobody
    judged q3.
    """
    found = examined(run, None)
    assert found is not None
    assert (found.judged, found.doubting, found.count) == (2, 1, 2)
    doubted = [(each.query, each.passage, each.best, each.above) for each in found.doubted]
    assert doubted == [("q1", "p3", "p2", 2.0), ("q1", "p4", "p2", 1.0)]
    assert found.picture is not None
    for group in ("judged relevant (3)", "of judged queries (4)", "without judgements (1)"):
        assert group in found.picture


def test_a_diagnosis_in_words(run: Path) -> None:
    found = examined(run, None)
    assert found is not None
    told = " ".join(found.told)
    assert "8 scores in 3 lists" in told
    assert "75.0% ± 2.0% of the pairs" in told
    assert told.endswith("All look alike.")
    assert "Entropy" not in told


def test_texts_stand_in_for_ids(run: Path) -> None:
    ids = [f"p{n}" for n in range(1, 6)]
    passages = Texts(ids, [f"passage {n} " + "x" * 1000 for n in range(1, 6)])
    collection = Collection("c", passages, Texts(["q1"], ["what is it"]), {})
    found = examined(run, collection)
    assert found is not None
    first = found.doubted[0]
    assert first.query == "what is it"
    assert first.passage.startswith("passage 3 ")
    assert first.passage.endswith("x …")
    assert len(first.passage) < 610


def test_runs_from_before_scores_were_kept(run: Path, tmp_path: Path) -> None:
    (run / "stages" / "diagnose" / "scores.parquet").unlink()
    found = examined(run, None)
    assert found is not None
    assert found.picture is None
    assert found.told
    assert examined(tmp_path, None) is None
