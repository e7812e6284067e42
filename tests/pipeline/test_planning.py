"""What a run takes, told before it begins, and held against what it took."""

import json
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from limbeck import pipeline
from limbeck.errors import ConfigError
from limbeck.pipeline import plan, plan_file
from limbeck.record import read_record
from limbeck.store import digest_folder

from .conftest import FAST, Distil

pytestmark = pytest.mark.slow


def parts_of(found: plan_file.Plan) -> dict[str, Any]:
    return {part.stage: part for part in found.parts}


def test_every_stage_of_a_run_belongs_to_a_part(arguments: dict[str, Any], data: Path) -> None:
    out = arguments["out"]
    given = {**arguments, "force_teacher": False}
    found = plan(str(data), **given)
    parts = [part.stage for part in found.parts]
    assert [part for part in parts if not part.startswith("evaluate-")] == [
        *["tokens", "encode-base", "mine", "train-teacher_dual", "score-dual"],
        *["train-contrastive", "encode-dual", "train-kl"],
    ]
    assert all(part.seconds > 0 for part in found.parts)
    assert found.peak_bytes > 1e7
    kept = json.loads((out / "plan.json").read_text())
    assert kept["parts"] == [part.as_json() for part in found.parts]
    result = pipeline.distill(data, **{**given, "force_teacher": True})
    names = {done.parent.name for done in (out / "stages").glob("*/done.json")}
    assert not [name for name in names if not name.startswith(tuple(parts))]
    rows = {row["stage"]: row for row in plan_file.compared(out)}
    taken = json.loads((out / "stages" / "train-kl" / "done.json").read_text())["took"]
    assert rows["train-kl"]["actual_seconds"] == taken["seconds"] > 0
    assert rows["train-contrastive"]["actual_seconds"] == 0  # the teacher was forced
    assert any(note.startswith("plan: train-kl ") for note in result.notes)
    assert any(note.startswith("plan: memory ") for note in result.notes)
    page = (out / "report.html").read_text()
    section = page.partition("Estimated and taken")[2]
    for row in rows.values():
        assert escape(row["what"]) in section
        assert f"<td>{row['actual_seconds']:,.1f}</td>" in section


def test_a_plan_keeps_nothing_and_knows_what_the_store_holds(
    arguments: dict[str, Any], distil: Distil, data: Path, tmp_path: Path
) -> None:
    distil()
    before = digest_folder(tmp_path)
    given = {key: value for key, value in arguments.items() if key != "out"}
    found = plan(str(data), **given)
    assert found.notes == ["the store has the base's vectors of 100% of the passages"]
    taught = {**given, "teacher": str(tmp_path / "run" / "teacher")}
    assert plan(str(data), **taught).notes[1:] == [
        "the store has the teacher's vectors of 100% of the passages"
    ]
    assert digest_folder(tmp_path) == before


def test_updates_and_pairs_follow_the_settings(arguments: dict[str, Any], data: Path) -> None:
    given = {key: value for key, value in arguments.items() if key != "out"}
    few, many = (
        parts_of(plan(str(data), **{**given, "settings": {**FAST, "max_steps": updates}}))
        for updates in (5, 5000)
    )
    assert (few["train-kl"].updates, many["train-kl"].updates) == (5, 5000)
    assert many["train-kl"].seconds > 20 * few["train-kl"].seconds


def test_other_bases_are_probed_and_priced_by_themselves(
    arguments: dict[str, Any], data: Path, tiny_other_folder: Path, tiny_ranker_folder: Path
) -> None:
    """A fitted one from a base with a tokenizer of its own, beside one that is given."""
    given = {key: value for key, value in arguments.items() if key != "out"}
    base = str(tiny_other_folder)
    given["teacher"] = [f"big=train:cross:{base}", "train:dual", str(tiny_ranker_folder)]
    found = plan(str(data), **given)
    parts = parts_of(found)
    assert {name for name in parts if name.startswith("train-")} == {
        *["train-teacher_dual-larger", "train-teacher_cross-larger", "train-teacher_dual"],
        "train-kl",
    }
    assert {"encode-base-larger", "encode-dual-larger", "score-teacher"} <= parts.keys()
    assert all(part.seconds > 0 for part in found.parts)
    large, small = parts["encode-base-larger"], parts["encode-base"]
    assert large.megabytes / large.seconds != small.megabytes / small.seconds


def test_a_budget_keeps_its_plan(distil: Distil, tmp_path: Path) -> None:
    result = distil(budget_seconds=1e6)
    rows = {row["stage"]: row for row in plan_file.compared(tmp_path / "run")}
    assert rows["train-kl"]["actual_seconds"] > 0
    assert any(note.startswith("plan: train-kl ") for note in result.notes)


def test_what_cannot_be_planned_is_refused(
    arguments: dict[str, Any], distil: Distil, data: Path
) -> None:
    distil()
    assert read_record(arguments["out"]) is not None
    with pytest.raises(ConfigError, match="holds a run that has begun"):
        plan(str(data), **arguments)
