"""Whole runs of the recipes of many stages: what they leave, survive, and refuse."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from collections_here import made_up
from limbeck import pipeline
from limbeck.models.loading import load_encoder, load_ranker
from limbeck.store import digest_folder, read_json
from limbeck.teachers import load_teacher
from processes import distil_in_child, launched

from .conftest import Invoke, metrics_of

pytestmark = pytest.mark.slow

KILLED = -9
SETTINGS: dict[str, dict[str, object]] = {
    "prod": {
        "max_steps": 16,
        "teacher_max_steps": 4,
        "batch_size": 8,
        "ranker_batch_size": 4,
        "list_length": 3,
        "candidates_per_query": 8,
        "learning_rate": 1e-3,
        "student_rank_to": 8,
        "teacher_rank_to": 8,
        "strictly": False,
    },
    "ar2": {
        "max_steps": 12,
        "teacher_max_steps": 3,
        "batch_size": 8,
        "ranker_batch_size": 4,
        "list_length": 3,
        "candidates_per_query": 8,
        "learning_rate": 1e-3,
        "rounds": 2,
        "ranker_share": 0.4,
    },
}
# kills in what is not training, before its end; and stages that one of training has to fall into
OTHERS = {"prod": ["encode:14", "mine:9", "score:3"], "ar2": ["encode:14", "mine:9"]}
LATER = {
    "prod": {"train-prod-teacher-3", "train-prod-step-3"},
    "ar2": {"train-ar2-1-ranker", "train-ar2-2-retriever"},
}
RECIPES = list(SETTINGS)


@dataclass(frozen=True)
class Done:
    """A run that nothing interrupted."""

    out: Path
    arguments: dict[str, Any]
    result: pipeline.Result


@pytest.fixture(scope="module")
def done(
    tiny_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Done]:
    """Made when it is first asked for."""
    found: dict[str, Done] = {}

    def done(recipe: str) -> Done:
        if recipe not in found:
            folder = tmp_path_factory.mktemp(recipe)
            arguments = {
                "data": made_up().write(folder / "data"),
                "student": str(tiny_encoder_folder),
                "student_layers": 2,
                "recipe": recipe,
                "settings": {**SETTINGS[recipe], "save_steps": 1},
                "precision": "fp32",
            }
            places = {"out": folder / "run", "store": folder / "store"}
            assert distil_in_child({**arguments, **places}, folder / "ledger") == 0
            result = pipeline.distill(**arguments, **places)  # read back
            found[recipe] = Done(folder / "run", arguments, result)
        return found[recipe]

    return done


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_teacher_is_left_shown_and_told_of(done: Callable[[str], Done], recipe: str) -> None:
    run = done(recipe)
    models = [row["model"] for row in run.result.rows]
    assert models == ["bm25", "zero_shot", "undistilled", "teacher", "student"]
    assert f"teacher: {recipe} fits its own" in run.result.notes
    told = [note for note in run.result.notes if note.startswith(("rung ", "round "))]
    assert len(told) == (3 if recipe == "prod" else 2)
    teacher = load_teacher(str(run.out / "teacher"))
    card = (run.out / "student" / "README.md").read_text()
    assert f"distilled with the recipe `{recipe}` from a {teacher.kind} teacher" in card
    assert load_encoder(run.out / "student").dimension == 32


def test_the_ranker_of_ar2_is_a_plain_cross_encoder(done: Callable[[str], Done]) -> None:
    folder = done("ar2").out / "teacher"
    load_ranker(folder)  # which refuses anything else
    card = (folder / "README.md").read_text()
    assert "a cross teacher, fitted by the recipe `ar2`" in card
    assert 'CrossEncoder("path/to/this/folder")' in card
    assert "SentenceTransformer" not in card


def test_the_page_shows_stages_in_the_order_in_which_they_trained(
    done: Callable[[str], Done],
) -> None:
    page = (done("prod").out / "report.html").read_text()
    names = re.findall(r"<h3[^>]*>train-prod-([\w-]+)<", page)
    assert names[:5] == ["a-teacher", "a-student", "b-teacher", "b-student", "step-1"]
    assert names.index("teacher-2") < names.index("step-2")


def without_limit(notes: list[str]) -> list[str]:
    """The notes but for what each run found its machine to be able to do."""
    return [note for note in notes if not note.startswith("limit:")]


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_it_will_do_is_estimated(
    done: Callable[[str], Done], recipe: str, tmp_path: Path
) -> None:
    """The stages that a run trained, with their updates, and no less than what it asked for."""
    run = done(recipe)
    found = {part.stage: part for part in pipeline.plan(**run.arguments, store=tmp_path).parts}
    metrics = metrics_of(run.out)
    trained = {name: kept["updates"] for name, kept in metrics.items() if name.startswith("train-")}
    updates = {name: part.updates for name, part in found.items() if part.updates}
    assert updates.keys() == trained.keys()
    for name, count in trained.items():
        assert updates[name] == count or (name == "train-prod-data-1" and updates[name] > count)
    for what in ("encode-", "score-"):
        stages = {name for name in metrics if name.startswith(what)}
        planned = tuple(name for name in found if name.startswith(what))
        assert planned, what
        assert all(name.startswith(planned) for name in stages)
    scored = sum(
        kept["pairs_scored"] + kept["texts_embedded"]
        for name, kept in metrics.items()
        if name.startswith("score-")
    )
    asked = sum(part.asked for name, part in found.items() if name.startswith("score-"))
    assert scored <= asked <= 3 * scored  # where a run skips a teacher, its plan does not
    assert all(part.seconds > 0 for part in found.values())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_budget_chooses_the_updates_of_student_and_teachers(
    done: Callable[[str], Done], recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limbeck.tasks.retrieval.budget.MIN_STEPS", 7)
    monkeypatch.setattr("limbeck.tasks.retrieval.budget.ENOUGH_STEPS", 20)
    monkeypatch.setattr("limbeck.tasks.retrieval.budget.MAX_STEPS", 28)
    own = ("max_steps", "teacher_max_steps", "list_length", "candidates_per_query")
    given = {key: value for key, value in SETTINGS[recipe].items() if key not in own}
    places = {"out": tmp_path / "run", "store": tmp_path / "store"}
    arguments = {**done(recipe).arguments, **places, "settings": given}
    result = pipeline.distill(**arguments, budget_seconds=900.0)
    metrics = metrics_of(tmp_path / "run")
    of_student = [
        kept["updates"]
        for name, kept in metrics.items()
        if re.fullmatch(r"train-(prod-(.-student|step-.|data-.)|ar2-(.-|warmup-)retriever)", name)
    ]
    assert 25 <= sum(of_student) <= 28  # a data step may make fewer than its share
    assert result.rows[-1]["model"] == "student"


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    done: Callable[[str], Done], recipe: str, tmp_path: Path
) -> None:
    """Every process dies at its seventh write of training, until none is left to die at."""
    whole = done(recipe)
    places = {"out": tmp_path / "run", "store": tmp_path / "store"}
    arguments, ledger = {**whole.arguments, **places}, tmp_path / "ledger"
    for kill in OTHERS[recipe]:
        assert distil_in_child(arguments, ledger, kill_at=kill) == KILLED, kill
    fell: set[str] = set()
    for _ in range(40):
        code = distil_in_child(arguments, ledger, kill_at="train:7")
        if code == 0:
            break
        assert code == KILLED
        fell |= {
            path.parent.name
            for path in (tmp_path / "run" / "stages").glob("train-*/inputs.json")
            if not (path.parent / "done.json").exists()
        }
    assert code == 0
    assert fell >= LATER[recipe], fell
    for name in ("student", "teacher", "baselines"):
        assert digest_folder(tmp_path / "run" / name) == digest_folder(whole.out / name)
    notes = read_json(tmp_path / "run" / "metrics.json")["notes"]
    assert without_limit(notes) == without_limit(whole.result.notes)


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_processes_do_what_one_does(
    done: Callable[[str], Done], recipe: str, tmp_path: Path
) -> None:
    whole = done(recipe)
    asked = {**whole.arguments}
    settings, data = asked.pop("settings"), asked.pop("data")
    words = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    words += [f"--set={key}={value}" for key, value in settings.items()]
    words += [f"--out={tmp_path / 'two'}", f"--store={tmp_path / 'store'}"]
    limbeck = str(Path(sys.executable).parent / "limbeck")
    found = launched(limbeck, "distill", str(data), *words, processes=2)
    assert found.returncode == 0, found.stderr
    stages = sorted(path.name for path in whole.out.glob("stages/train-*"))
    assert sorted(path.name for path in tmp_path.glob("two/stages/train-*")) == stages
    for stage in stages:
        one, two = (
            read_json(out / "stages" / stage / "curves.json")["losses"]
            for out in (whole.out, tmp_path / "two")
        )
        for alone, together in zip(one, two, strict=True):
            assert sum(together.values()) == pytest.approx(sum(alone.values()), rel=1e-5)
    rows = [read_json(out / "metrics.json")["rows"] for out in (whole.out, tmp_path / "two")]
    for alone, together in zip(*rows, strict=True):
        assert together["model"] == alone["model"]
        assert together["nDCG@10"] == pytest.approx(alone["nDCG@10"], abs=0.02)


def test_a_rung_may_be_a_teacher_of_an_earlier_run(
    done: Callable[[str], Done], tmp_path: Path
) -> None:
    ranker = done("ar2").out / "teacher"
    run = done("prod")
    settings = {**run.arguments["settings"], "ladder": f"dual/2,{ranker}"}
    places = {"out": tmp_path / "run", "store": tmp_path / "store"}
    result = pipeline.distill(**{**run.arguments, **places, "settings": settings})
    [note] = [note for note in result.notes if note.startswith("rung 2")]
    assert str(ranker) in note
    stages = {path.name for path in (tmp_path / "run" / "stages").glob("train-*")}
    assert "train-prod-step-2" in stages
    assert "train-prod-teacher-2" not in stages


@pytest.mark.parametrize(
    ("recipe", "teacher", "ladder"),
    [("ar2", "train:cross:BASE", None), ("prod", "train:dual", "dual/2,big=train:cross:BASE")],
)
def test_teachers_are_fitted_for_it_from_any_base(
    done: Callable[[str], Done],
    recipe: str,
    teacher: str,
    ladder: str | None,
    tiny_other_folder: Path,
    tmp_path: Path,
) -> None:
    """Before the recipe, as `--teacher` says, or as a rung in its turn; both are planned."""
    run, base = done(recipe), str(tiny_other_folder)
    settings = {
        **run.arguments["settings"],
        "teacher_dual.max_steps": 3,
        "teacher_cross.max_steps": 3,
    }
    settings |= {"ladder": ladder.replace("BASE", base)} if ladder else {}
    arguments = {**run.arguments, "settings": settings, "teacher": teacher.replace("BASE", base)}
    planned = pipeline.plan(**arguments, store=tmp_path / "store")
    result = pipeline.distill(**arguments, out=tmp_path / "run", store=tmp_path / "store")
    said = "\n".join(result.notes)
    stages = {path.name for path in (tmp_path / "run" / "stages").glob("train-*")}
    assert {part.stage for part in planned.parts if part.updates} == stages
    if recipe == "ar2":
        assert stages >= {"train-teacher_dual-larger", "train-teacher_cross-larger"}
        assert not any("warmup-ranker" in name for name in stages)
        assert "zero_shot/larger" in [row["model"] for row in result.rows]
        ranker = load_ranker(tmp_path / "run" / "teacher")
        assert ranker.transformer.config.hidden_size == 48
    else:
        assert {"train-teacher_dual", "train-prod-teacher-2-body"} <= stages
        assert "rung 2, big: " in said
        assert "; its base as it comes 0." in said
        assert "rung 3, dual: " in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--recipe", "ar2", "--teacher", "train:dual"], "ar2 cannot use a teacher that is a dual"),
        (["--recipe", "prod", "--set", "ladder=train"], "Say which kind to fit"),
        (["--recipe", "prod", "--budget", "0.1s"], "--budget 0s is too short"),
        (["--recipe", "prod", "--set", "ladder=dual,no/such"], "no/such"),
        (["--recipe", "ar2", "--teacher", "ENCODER"], "ar2 cannot use a teacher that is a dual"),
        (["--recipe", "prod", "--set", "max_steps=3"], "3 steps are too few for 6 stages"),
    ],
)
def test_what_cannot_be_is_refused(
    invoke: Invoke, data: Path, tiny_encoder_folder: Path, words: list[str], said: str
) -> None:
    given = [str(tiny_encoder_folder) if word == "ENCODER" else word for word in words]
    if "--teacher" not in given:
        given += ["--teacher", "train"]
    answer = invoke("distill", data, *given, settings=False)
    assert answer.exit_code == 2, answer.output
    assert said in answer.stderr


def test_a_dry_run_names_the_teachers_that_are_fitted(invoke: Invoke, data: Path) -> None:
    given = ["--recipe", "prod", "--teacher", "train", "--dry-run"]
    answer = invoke("distill", data, *given, settings=False)
    assert answer.exit_code == 0, answer.output
    lines = answer.stdout.splitlines()
    assert [line for line in lines if line.startswith("fit a teacher: ")] == [
        f"fit a teacher: {kind}" for kind in ("dual", "dual", "cross", "ensemble")
    ]
    assert "train the student with prod" in lines
