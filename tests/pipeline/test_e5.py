"""Whole runs of `e5`: pairs from a file or made, without judgements, killed, planned, in two
processes.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from collections_here import made_up
from limbeck import pipeline
from limbeck.bench import dry_run
from limbeck.bench.api import BenchCall, _planned
from limbeck.errors import ConfigError, DataError
from limbeck.models.loading import load_encoder
from limbeck.store import digest_folder, read_json
from processes import distil_in_child, launched
from recipes_here import RECIPES, fast

from .conftest import Invoke, Staged, metrics_of

STAGES = ("train-e5-filter", "train-e5-pretrain", "train-e5-tune")


@pytest.fixture
def arguments(staged: Staged, tiny_encoder_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """What a run is asked for whose teacher is given."""
    given = staged("e5", made_up().write(tmp_path / "data"), save_steps=1)
    return {**given, "teacher": str(tiny_encoder_folder), "force_teacher": True}


def places(folder: Path) -> dict[str, Any]:
    return {"out": folder / "run", "store": folder / "store"}


def weak(path: Path) -> Path:
    corpus = made_up().corpus.values()
    path.write_text("".join(f"{' '.join(text.split()[:3])}\t{text}\n" for text in corpus))
    return path


# --- before any work ------------------------------------------------------------------------------


def test_pairs_are_refused_by_a_recipe_that_reads_none(
    invoke: Invoke, data: Path, tmp_path: Path
) -> None:
    answer = invoke("distill", data, "--pairs", weak(tmp_path / "weak.tsv"))
    assert answer.exit_code == 2
    assert "kl learns from no pairs. Leave --pairs out" in answer.stderr
    assert not (tmp_path / "run" / "stages").exists()


def test_a_line_that_cannot_be_used_is_refused(arguments: dict[str, Any], tmp_path: Path) -> None:
    path = weak(tmp_path / "weak.tsv")
    path.write_text(path.read_text() + "one column\n")
    with pytest.raises(DataError, match=r"weak\.tsv:61: 1 columns instead of two"):
        pipeline.distill(**arguments, **places(tmp_path), pairs=path)
    assert not (tmp_path / "run" / "stages").exists()


def test_a_bench_gives_pairs_to_those_that_read_them(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    shared = {key: arguments[key] for key in ("student", "student_layers", "teacher")}
    given = {**shared, "out": tmp_path / "bench", "pairs": weak(tmp_path / "weak.tsv")}
    plan = _planned(BenchCall(arguments["data"], recipes=["e5"], seeds=[0], **given))
    reading = {arm.system: arm.config.pairs is not None for arm in plan.arms}
    assert reading == {"contrastive": False, "kl": False, "e5": True}
    with pytest.raises(ConfigError, match="embed learns from pairs"):
        dry_run(arguments["data"], recipes=["embed"], **given)


# --- whole runs -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_any_judgement_of_training_it_pretrains(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    data = made_up(labelled=0, unlabelled=0).write(tmp_path / "other")
    arguments = {**arguments, "data": data, "teacher": "train"}
    result = pipeline.distill(**arguments, **places(tmp_path), pairs=weak(tmp_path / "weak.tsv"))
    assert "teacher: none, e5 learns from pairs alone" in result.notes
    assert "pairs: 60 from weak.tsv" in result.notes
    assert "e5: pre-training alone" in result.notes
    assert [row["model"] for row in result.rows] == ["bm25", "zero_shot", "undistilled", "student"]
    assert load_encoder(tmp_path / "run" / "student").prompt("query") == "query: "
    assert load_encoder(tmp_path / "run" / "baselines" / "undistilled").prompt("query") == ""
    trained = {name for name in metrics_of(tmp_path / "run") if name.startswith("train-")}
    assert trained == set(STAGES[:2])


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_with_the_same_bytes(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    arguments["pairs"] = weak(tmp_path / "weak.tsv")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert distil_in_child({**arguments, **places(tmp_path / "a")}, tmp_path / "ledger") == 0
    killed, ledger = {**arguments, **places(tmp_path / "b")}, tmp_path / "ledger"
    assert distil_in_child(killed, ledger, kill_at="filter:2") == -9
    fell = set()
    for _ in range(20):
        if not (code := distil_in_child(killed, ledger, kill_at="train:9")):
            break
        begun = (tmp_path / "b" / "run" / "stages").glob("train-e5-*/inputs.json")
        fell |= {at.parent.name for at in begun if not (at.parent / "done.json").exists()}
    assert code == 0
    assert len(fell) > 1
    for name in ("student", "baselines"):
        one, two = (digest_folder(tmp_path / each / "run" / name) for each in "ab")
        assert one == two
    notes = [read_json(tmp_path / each / "run" / "metrics.json")["notes"] for each in "ab"]
    pairs = [[note for note in each if note.startswith("pairs:")] for each in notes]
    assert pairs[0] == pairs[1]
    assert len(pairs[0]) == 2


@pytest.mark.slow
def test_its_plan_names_the_stages_of_the_run(arguments: dict[str, Any], tmp_path: Path) -> None:
    parts = pipeline.plan(**arguments, store=tmp_path / "store").parts
    updates = {part.stage: part.updates for part in parts if part.updates}
    steps = fast(RECIPES["e5"])
    half = steps["max_steps"] // 2
    assert updates == dict(zip(STAGES, [steps["filter_steps"], half, half], strict=True))
    assert any(part.stage == "filter-pairs" and part.seconds > 0 for part in parts)


@pytest.mark.slow
def test_two_processes_do_what_one_does(arguments: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    assert distil_in_child({**arguments, **places(tmp_path / "one")}, tmp_path / "ledger") == 0
    apart = ("settings", "data", "force_teacher")
    words = ["--force-teacher"]
    words += [
        f"--{key.replace('_', '-')}={arguments[key]}" for key in arguments if key not in apart
    ]
    words += [f"--set={key}={value}" for key, value in arguments["settings"].items()]
    words += [f"--out={tmp_path / 'two'}", f"--store={tmp_path / 'store-two'}"]
    commands = tmp_path / "commands.json"
    commands.write_text(json.dumps([["distill", str(arguments["data"]), *words]]))
    script = Path(__file__).parent / "commands.py"
    found = launched(str(script), str(commands), processes=2)
    assert found.returncode == 0, found.stderr
    for stage in STAGES:
        one, two = (
            read_json(out / "stages" / stage / "curves.json")["losses"]
            for out in (tmp_path / "one" / "run", tmp_path / "two")
        )
        for alone, both in zip(one, two, strict=True):
            assert sum(both.values()) == pytest.approx(sum(alone.values()), rel=1e-5)
