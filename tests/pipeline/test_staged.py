"""Whole runs of every recipe of several stages, and of those that fit their own teachers: what they
leave, survive, and refuse.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from collections_here import made_up
from limbeck import pipeline
from limbeck.config.teacher_spec import KINDS
from limbeck.models.loading import load_encoder, load_ranker
from limbeck.store import digest_folder, read_json
from limbeck.teachers import load_teacher
from processes import distil_in_child, in_processes
from recipes_here import FITTING, RECIPES, STAGED, beside

from .conftest import Invoke, Staged, metrics_of, staged_settings

pytestmark = pytest.mark.slow

KILLED = -9


@dataclass(frozen=True)
class Done:
    """A run that nothing interrupted."""

    out: Path
    arguments: dict[str, Any]
    result: pipeline.Result


@pytest.fixture(scope="module")
def done(staged: Staged, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Done]:
    """One of each recipe, made when it is first asked for."""
    found: dict[str, Done] = {}

    def done(recipe: str) -> Done:
        if recipe not in found:
            folder = tmp_path_factory.mktemp(recipe)
            arguments = staged(recipe, made_up().write(folder / "data"))
            places = {"out": folder / "run", "store": folder / "store"}
            assert distil_in_child({**arguments, **places}, folder / "ledger") == 0
            result = pipeline.distill(**arguments, **places)  # read back
            found[recipe] = Done(folder / "run", arguments, result)
        return found[recipe]

    return done


def trained_in(out: Path) -> list[str]:
    """The stages that a run trained, in that order."""
    stages = [path.parent for path in out.glob("stages/train-*/done.json")]
    return [at.name for at in sorted(stages, key=lambda at: read_json(at / "done.json")["place"])]


@pytest.mark.parametrize("recipe", FITTING)
def test_the_teacher_is_left_shown_and_told_of(done: Callable[[str], Done], recipe: str) -> None:
    run = done(recipe)
    models = [row["model"] for row in run.result.rows]
    assert models == ["bm25", "zero_shot", "undistilled", "teacher", "student"]
    assert f"teacher: {recipe} fits its own" in run.result.notes
    teacher = load_teacher(str(run.out / "teacher"))
    card = (run.out / "student" / "README.md").read_text()
    assert f"distilled with the recipe `{recipe}` from a {teacher.kind} teacher" in card
    assert load_encoder(run.out / "student").dimension == 32
    if teacher.kind == "cross":
        load_ranker(run.out / "teacher")  # which refuses what is no plain cross-encoder
        card = (run.out / "teacher" / "README.md").read_text()
        assert f"a cross teacher, fitted by the recipe `{recipe}`" in card
        assert 'CrossEncoder("path/to/this/folder")' in card
        assert "SentenceTransformer" not in card


@pytest.mark.parametrize("recipe", STAGED)
def test_the_page_shows_stages_in_the_order_in_which_they_trained(
    done: Callable[[str], Done], recipe: str
) -> None:
    page = (done(recipe).out / "report.html").read_text()
    names = re.findall(r"<h3[^>]*>(train-[\w-]+)<", page)
    assert len(names) > (2 if recipe in FITTING else 1)
    assert names == trained_in(done(recipe).out)


def without_limit(notes: list[str]) -> list[str]:
    """The notes but for what each run found its machine to be able to do."""
    return [note for note in notes if not note.startswith("limit:")]


@pytest.mark.parametrize("recipe", STAGED)
def test_what_it_will_do_is_estimated(
    done: Callable[[str], Done], recipe: str, tmp_path: Path
) -> None:
    """The stages that a run trained, with their steps, and no less than what it asked for."""
    run = done(recipe)
    found = {part.stage: part for part in pipeline.plan(**run.arguments, store=tmp_path).parts}
    metrics = metrics_of(run.out)
    trained = {name: kept["updates"] for name, kept in metrics.items() if name.startswith("train-")}
    updates = {name: part.updates for name, part in found.items() if part.updates}
    assert updates.keys() == trained.keys()
    other = {name for name, count in trained.items() if updates[name] != count}
    assert len(other) <= 1  # which ended early, for want of examples
    assert all(updates[name] > trained[name] for name in other)
    for what in ("encode-", "score-"):
        stages = {name for name in metrics if name.startswith(what)}
        planned = tuple(name for name in found if name.startswith(what))
        assert bool(planned) == bool(stages), what
        assert all(name.startswith(planned) for name in stages)
    scored = sum(
        kept["pairs_scored"] + kept["texts_embedded"]
        for name, kept in metrics.items()
        if name.startswith("score-")
    )
    asked = sum(part.asked for name, part in found.items() if name.startswith("score-"))
    assert scored <= asked <= 3 * scored  # where a run skips a teacher, its plan does not
    assert all(part.seconds > 0 for part in found.values())


@pytest.mark.parametrize("recipe", STAGED)
def test_a_budget_chooses_the_steps_of_student_and_teachers(
    done: Callable[[str], Done], recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limbeck.tasks.fit.FEWEST_STEPS", 7)
    monkeypatch.setattr("limbeck.tasks.retrieval.budget.ENOUGH_STEPS", 20)
    monkeypatch.setattr("limbeck.tasks.fit.MOST_STEPS", 28)
    own = ("max_steps", "teacher_max_steps", "list_length", "candidates_per_query")
    given = {key: value for key, value in staged_settings(recipe).items() if key not in own}
    places = {"out": tmp_path / "run", "store": tmp_path / "store"}
    arguments = {**done(recipe).arguments, **places, "settings": given}
    result = pipeline.distill(**arguments, budget_seconds=900.0)
    of_student = [
        kept["updates"]
        for name, kept in metrics_of(tmp_path / "run").items()
        if name.startswith("train-")
        and any(player["makes"] == "student" for player in kept["players"])
    ]
    assert 25 <= sum(of_student) <= 28  # one stage may make fewer than its share
    assert result.rows[-1]["model"] == "student"


@pytest.mark.parametrize("recipe", STAGED)
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    done: Callable[[str], Done], recipe: str, tmp_path: Path
) -> None:
    """First in what is not training; then every process dies at its seventh write of training,
    until none is left to die at.
    """
    whole = done(recipe)
    places = {"out": tmp_path / "run", "store": tmp_path / "store"}
    arguments, ledger = {**whole.arguments, **places}, tmp_path / "ledger"
    for kill in ("encode:14", "mine:9", *beside(recipe, "KILLS", ())):
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
    trained = trained_in(whole.out)
    later = set(trained[len(trained) // 2 :])
    assert len(fell & later) >= min(2, len(later)), fell
    models = ("student", "teacher", "baselines") if recipe in FITTING else ("student", "baselines")
    for name in models:
        assert digest_folder(tmp_path / "run" / name) == digest_folder(whole.out / name)
    notes = read_json(tmp_path / "run" / "metrics.json")["notes"]
    assert without_limit(notes) == without_limit(whole.result.notes)


@pytest.fixture(scope="module")
def together(done: Callable[[str], Done], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each recipe in two processes: RECIPE/stages, RECIPE/metrics.json ..."""
    folder, lines = tmp_path_factory.mktemp("together"), []
    for recipe in STAGED:
        asked = {**done(recipe).arguments}
        settings, data = asked.pop("settings"), asked.pop("data")
        words = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
        words += [f"--set={key}={value}" for key, value in settings.items()]
        words += [f"--out={folder / recipe}", f"--store={folder / 'store' / recipe}"]
        lines.append(["distill", str(data), *words])
    (folder / "commands.json").write_text(json.dumps(lines))
    code = (Path(__file__).parent / "commands.py").read_text()
    found = in_processes(code, folder / "commands.json", log=folder / "log")
    assert found.codes == [0, 0], found.said
    return folder


@pytest.mark.parametrize("recipe", STAGED)
def test_two_processes_do_what_one_does(
    done: Callable[[str], Done], recipe: str, together: Path
) -> None:
    outs = done(recipe).out, together / recipe
    stages = trained_in(outs[0])
    assert trained_in(outs[1]) == stages
    for stage in stages:
        one, two = (read_json(out / "stages" / stage / "curves.json")["losses"] for out in outs)
        for alone, both in zip(one, two, strict=True):
            assert sum(both.values()) == pytest.approx(sum(alone.values()), rel=1e-5)
    rows = [read_json(out / "metrics.json")["rows"] for out in outs]
    for alone, both in zip(*rows, strict=True):
        assert both["model"] == alone["model"]
        assert both["nDCG@10"] == pytest.approx(alone["nDCG@10"], abs=0.02)


def kinds_of(recipe: str) -> tuple[str, ...]:
    """The kinds of teacher that may be fitted for a recipe, before it."""
    return RECIPES[recipe].takes or tuple(KINDS)


@pytest.mark.parametrize("recipe", FITTING)
def test_a_teacher_is_fitted_for_it_from_any_base(
    done: Callable[[str], Done], recipe: str, tiny_other_folder: Path, tmp_path: Path
) -> None:
    """Before the recipe, as `--teacher` says, and it is planned."""
    run, kind = done(recipe), kinds_of(recipe)[0]
    steps = {"teacher_dual.max_steps": 3, "teacher_cross.max_steps": 3}
    settings = {**run.arguments["settings"], **steps}
    teacher = f"train:{kind}:{tiny_other_folder}"
    arguments = {**run.arguments, "settings": settings, "teacher": teacher}
    planned = pipeline.plan(**arguments, store=tmp_path / "store")
    result = pipeline.distill(**arguments, out=tmp_path / "run", store=tmp_path / "store")
    stages = {path.name for path in (tmp_path / "run" / "stages").glob("train-*")}
    assert {part.stage for part in planned.parts if part.updates} == stages
    assert stages >= {f"train-teacher_{each}-larger" for each in (*KINDS[kind], kind)}
    assert "zero_shot/larger" in [row["model"] for row in result.rows]
    if RECIPES[recipe].takes:  # and has no others
        [left] = load_teacher(str(tmp_path / "run" / "teacher")).leaves()
        model = load_ranker(tmp_path / "run" / "teacher") if left.kind == "cross" else left.encoder
        assert model.transformer.config.hidden_size == 48


REFUSED = [
    (recipe, teacher, kind)
    for recipe in STAGED
    for kind in KINDS
    if kind not in kinds_of(recipe)
    for teacher in (f"train:{kind}", *(["ENCODER"] if kind == "dual" else []))
]


@pytest.mark.parametrize(("recipe", "teacher", "kind"), REFUSED)
def test_a_teacher_of_a_kind_that_it_does_not_take_is_refused(
    invoke: Invoke, data: Path, tiny_encoder_folder: Path, recipe: str, teacher: str, kind: str
) -> None:
    given = ["--recipe", recipe, "--teacher", teacher.replace("ENCODER", str(tiny_encoder_folder))]
    answer = invoke("distill", data, *given, settings=False)
    assert answer.exit_code == 2, answer.output
    assert re.search(rf"{recipe} cannot use a teacher that is an? {kind}", answer.stderr)


def test_a_budget_that_is_too_short_is_refused(invoke: Invoke, data: Path) -> None:
    given = ["--recipe", STAGED[0], "--teacher", "train", "--budget", "0.1s"]
    answer = invoke("distill", data, *given, settings=False)
    assert answer.exit_code == 2, answer.output
    assert "--budget 0s is too short" in answer.stderr


@pytest.mark.parametrize("recipe", STAGED)
def test_a_dry_run_names_the_teachers_that_are_fitted(
    invoke: Invoke, data: Path, recipe: str
) -> None:
    given = ["--recipe", recipe, "--teacher", "train", "--dry-run"]
    answer = invoke("distill", data, *given, settings=False)
    assert answer.exit_code == 0, answer.output
    lines = answer.stdout.splitlines()
    assert [line for line in lines if line.startswith("fit a teacher: ")] == [
        f"fit a teacher: {kind}" for kind in RECIPES[recipe].fits
    ]
    assert f"train the student with {recipe}" in lines
