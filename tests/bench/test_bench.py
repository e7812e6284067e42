"""A comparison on a toy collection, through the command line: two recipes, a preset, two seeds."""

import json
import re
import shutil
import statistics
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner
from typer.testing import Result as Answer

from collections_here import made_up
from limbeck.bench import bench
from limbeck.bench.api import Arm, _next, _precision_from, seconds_left
from limbeck.cli import app
from limbeck.config import RunConfig
from limbeck.errors import ConfigError
from limbeck.pipeline import distill
from limbeck.store import digest_folder, read_json, read_parquet
from processes import command_in_child

pytestmark = pytest.mark.slow

KILLED = -9
LISTS = {"batch_size": 8, "list_length": 3, "candidates_per_query": 8, "eval_steps": 6}
SEEDS = (0, 1)
ARMS = [f"{recipe}-{seed}" for recipe in ("contrastive", "kl", "kl-teacher-only") for seed in SEEDS]
TIMES = {"training_seconds", "wall_seconds", "teacher"}  # no two runs take the same time
COMMITTED = Path(__file__).parent.parent.parent / "benchmarks" / "results"


def words(data: Path, out: Path, student: Path) -> list[object]:
    """The command line of a fast comparison."""
    found: list[object] = ["bench", data, "--out", out, "--student", student]
    found += ["--recipes", "contrastive,kl,kl:teacher-only", "--seeds", 2, "--max-steps", 6]
    found += ["--student-layers", 2, "--precision", "fp32", "--labels", 15]
    for key, value in LISTS.items():
        found += ["--set", f"{key}={value}", "--set", f"teacher_dual.{key}={value}"]
    return [*found, "--set", "teacher_dual.max_steps=6", "--set", "learning_rate=1e-3"]


@dataclass(frozen=True)
class Done:
    """A comparison that nothing interrupted."""

    data: Path
    out: Path
    student: Path
    log: str
    record: dict[str, Any]

    def words(self, out: Path) -> list[object]:
        return words(self.data, out, self.student)


@pytest.fixture(scope="module")
def done(tiny_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("bench")
    data, out, log = made_up().write(folder / "data"), folder / "out", folder / "log"
    assert command_in_child(words(data, out, tiny_encoder_folder), log) == 0, log.read_text()
    record = json.loads((out / "bench.json").read_text())
    return Done(data, out, tiny_encoder_folder, log.read_text(), record)


Invoke = Callable[..., Answer]


@pytest.fixture
def invoke() -> Invoke:
    def invoke(*given: object) -> Answer:
        return CliRunner().invoke(app, [str(word) for word in given])

    return invoke


def said(answer: Answer) -> str:
    """What went to stderr, out of typer's boxes."""
    return " ".join(answer.stderr.replace("│", " ").split())


def test_each_arm_is_a_run_and_all_have_one_teacher_and_one_store(done: Done) -> None:
    folders = {path.name for path in done.out.iterdir()}
    results = {"bench.json", "bench.md", "bench.html", "arms.json"}
    assert folders == {*ARMS, "teacher", "store", *results}
    assert not [path for path in done.out.rglob("*") if path.name.startswith((".tmp-", ".old-"))]
    teachers = set()
    for arm in ARMS:
        asked = tomllib.loads((done.out / arm / "run.toml").read_text())["asked"]
        teachers.add(asked["teacher"])
        assert asked["labels"] == 15
        assert asked["student_layers"] == 2
        assert asked["precision"] == "fp32"
        assert asked["settings"]["max_steps"] == "6"
        assert asked["seed"] == int(arm[-1])
        assert asked["recipe"].replace(":", "-") == arm[:-2]
    assert teachers == {str(done.out / "teacher" / "teacher")}
    rows = {row["system"]: row for row in done.record["rows"]}
    # the teacher's vectors of passages and queries are made when it is fitted, and never again
    for recipe in ("kl", "kl:teacher-only"):
        assert all(asked["forwards"] == 0 for asked in rows[recipe]["teacher"])
        assert rows[recipe]["teacher_answers"] > 0


def test_the_page_has_the_figures_and_leads_to_the_page_of_every_arm(done: Done) -> None:
    text = (done.out / "bench.html").read_text()
    links = re.findall(r'<a href="([^#"]+)">', text)
    assert links == [f"{arm}/report.html" for arm in ("teacher", *ARMS)]
    assert all((done.out / link).is_file() for link in links)
    for row in done.record["rows"]:
        assert f"<td>{row['nDCG@10']:.4f}</td>" in text
    for picture in (
        "nDCG@10 with 95 %",
        "from contrastive in nDCG@10",
        "from kl in nDCG@10",
        "seconds of training",
    ):
        assert picture in text
    assert "http:" not in text
    assert "https:" not in text


def test_a_preset_is_recorded_and_does_what_it_says(done: Done) -> None:
    record = tomllib.loads((done.out / "kl-teacher-only-0" / "run.toml").read_text())
    assert record["preset"] == {"contrastive_weight": "0.0"}
    assert "contrastive_weight" not in record["asked"]["settings"]
    assert "preset" not in tomllib.loads((done.out / "kl-0" / "run.toml").read_text())
    for arm, parts in (("kl-0", {"kl", "contrastive"}), ("kl-teacher-only-0", {"kl"})):
        curves = json.loads((done.out / arm / "stages" / "train-kl" / "curves.json").read_text())
        assert all(set(loss) == parts for loss in curves["losses"])


def test_figures_are_means_over_queries_of_means_over_seeds(done: Done) -> None:
    rows = {row["system"]: row for row in done.record["rows"]}
    assert list(rows) == [
        *("bm25", "zero_shot", "teacher", "undistilled"),
        *("contrastive", "kl", "kl:teacher-only"),
    ]
    for recipe in ("contrastive", "kl", "kl:teacher-only"):
        means = []
        for seed in SEEDS:
            frame = pl.read_parquet(
                done.out / f"{recipe.replace(':', '-')}-{seed}" / "per_query.parquet"
            )
            means.append(frame.filter(pl.col("model") == "student")["nDCG@10"].mean())
        row = rows[recipe]
        assert row["per_seed"] == pytest.approx(means)
        assert row["nDCG@10"] == pytest.approx(statistics.mean(means))
        assert row["seed_spread"] == pytest.approx(statistics.stdev(means))
        low, high = row["nDCG@10_ci"]
        assert low <= row["nDCG@10"] <= high
        assert row["updates"] == 6
        assert row["student_tokens"] > 0
        assert row["training_seconds"] > 0
        if ":" in recipe:  # an ablation: others' stages shorten it
            assert row["wall_seconds"] is None
        else:
            assert row["wall_seconds"] >= row["training_seconds"]
    for recipe in ("kl", "kl:teacher-only"):
        row = rows[recipe]
        minus = row["nDCG@10"] - rows["contrastive"]["nDCG@10"]
        assert row["minus_contrastive"] == pytest.approx(minus)
        low, high = row["minus_contrastive_ci"]
        assert low <= minus <= high
        assert row["p"] <= row["p_holm"] <= 1
        assert done.record["smallest_visible_difference"][recipe] == row["visible"] > 0
    assert set(done.record["smallest_visible_difference_kl"]) == {"contrastive", "kl:teacher-only"}
    # against contrastive: 2 tests; the smaller p counts twice
    tests = [rows["kl"], rows["kl:teacher-only"]]
    least = min(tests, key=lambda row: row["p"])
    assert least["p_holm"] == pytest.approx(min(1, 2 * least["p"]))


def test_the_page_says_first_what_could_be_seen_then_the_budget_then_the_figures(
    done: Done,
) -> None:
    title, seen, budget, _, table, made_of, environment = (
        (done.out / "bench.md").read_text().strip().split("\n\n")
    )
    assert title == "# Quality: data, 15 labelled and 13 unlabelled training queries"
    visible = done.record["smallest_visible_difference"]["kl"]
    assert seen.startswith("Smallest visible difference from contrastive in nDCG@10 (two-sided 5 %")
    assert f": kl {visible:.4f}, " in seen
    assert budget == (
        "Budget of every recipe: max steps 6, batch size 8, list length 3, candidates per query 8; "
        "the same labels, and one teacher unless a recipe fits its own."
    )
    assert len(table.splitlines()) == 2 + 7
    kl = next(line for line in table.splitlines() if line.startswith("| kl |"))
    row = next(row for row in done.record["rows"] if row["system"] == "kl")
    assert f"| {row['nDCG@10']:.4f} |" in kl
    assert f"| {row['student_tokens']:,.0f} | {row['teacher_answers']:,.0f} |" in kl
    assert "Teacher: train:dual. Student: 2 layers. max length 48." in made_of
    assert environment.startswith("Measured with: python ")


def test_the_records_have_what_committed_ones_have(done: Done) -> None:
    for path in COMMITTED.glob("*.json"):
        committed = json.loads(path.read_text())
        if committed["benchmark"] != "quality" or "queries" not in committed:
            continue  # tests/tasks/classification has those of classes
        assert set(committed) <= set(done.record)
        rows = {row["system"]: row for row in done.record["rows"]}
        for row in committed["rows"]:
            alike = row["system"] if row["system"] in rows else "kl:teacher-only"
            assert set(row) <= set(rows[alike])


def test_progress_says_which_arm_and_how_long_the_others_take(done: Done) -> None:
    lines = [line for line in done.log.splitlines() if line.startswith("arm ")]
    arms = [
        *("the teacher, train:dual", "contrastive, seed 0", "contrastive, seed 1", "kl, seed 0"),
        *("kl, seed 1", "kl:teacher-only, seed 0", "kl:teacher-only, seed 1"),
    ]
    assert len(lines) == 7
    for number, (line, arm) in enumerate(zip(lines, arms, strict=True), start=1):
        known = r" \(about (\d+ h )?\d+ min left\)" if number > 2 else ""
        assert re.fullmatch(rf"arm {number} of 7: {arm}{known}", line)


def test_an_arm_will_take_as_long_as_its_recipes_others_or_as_the_mean() -> None:
    """`kl` took 100 s and 140 s, `contrastive` 30 s: another `kl` 120 s, `embed` 270 / 3 = 90 s."""
    arms = [
        Arm(
            name := f"{recipe}-{seed}",
            RunConfig("docs", recipe=recipe),
            Path(name),
            False,
            (),
            (),
            False,
        )
        for recipe in ("contrastive", "kl", "embed")
        for seed in range(3)
    ]
    seconds = {"kl-0": 100.0, "kl-1": 140.0, "contrastive-0": 30.0, "teacher": 5000.0}
    left = [arm for arm in arms if arm.name in ("kl-2", "embed-0")]
    assert seconds_left(left, arms, seconds) == pytest.approx(120 + 90)
    assert seconds_left(left, arms, {"teacher": 5000.0}) is None


def job_arms(out: Path) -> list[Arm]:
    """A teacher, `kl`, and an ablation of it, with two seeds; their precision is chosen."""

    def arm(name: str, recipe: str, seed: int, after: Sequence[str]) -> Arm:
        config = RunConfig("docs", recipe=recipe, seed=seed)
        return Arm(name, config, out / name, False, (), after, False)

    arms = [arm("teacher", "kl", 0, ())]
    for seed in SEEDS:
        arms.append(arm(f"kl-{seed}", "kl", seed, ["teacher"]))
        own = ["teacher", f"kl-{seed}"]
        arms.append(arm(f"kl-teacher-only-{seed}", "kl:teacher-only", seed, own))
    return arms


def test_an_arm_waits_for_the_teacher_and_an_ablation_for_its_recipe(tmp_path: Path) -> None:
    teacher, kl, ablation, *_ = arms = job_arms(tmp_path)
    assert _next(arms, {}, {}, arms) == teacher
    assert _next(arms[1:], {"teacher": teacher}, {}, arms) is None
    assert _next(arms[1:], {}, {}, arms) == kl
    kl.out.mkdir()
    (kl.out / "run.toml").touch()  # the precision is known
    assert _next(arms[2:], {"kl-0": kl}, {}, arms) == arms[3]
    assert _next(arms[2:], {}, {"kl-0": "it failed"}, arms) == ablation
    assert _next(arms[1:], {}, {"teacher": "it failed"}, arms) is None


def test_only_one_arm_chooses_the_precision_of_all(tmp_path: Path) -> None:
    arms = [replace(arm, after=()) for arm in job_arms(tmp_path)]
    assert _next(arms[1:], {"teacher": arms[0]}, {}, arms) is None
    assert _precision_from(arms) is None
    arms[0].out.mkdir()
    (arms[0].out / "run.toml").touch()
    assert _next(arms[1:], {"teacher": arms[0]}, {}, arms) == arms[1]
    assert _precision_from(arms) == arms[0].out


def test_two_jobs_give_what_one_gives_and_an_arm_that_fails_stops_no_other(
    done: Done, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of something else stands in the way of `kl-1`; then its process is killed."""
    out = tmp_path / "out"
    words = [*done.words(out), "--jobs", 2]
    (out / "kl-1").mkdir(parents=True)
    (out / "kl-1" / "thesis.tex").write_text("precious")
    answer = invoke(*words)
    assert answer.exit_code == 2, answer.output
    assert "1 of the arms" in answer.stderr
    assert "- kl-1: " in answer.stderr
    assert "thesis.tex" in answer.stderr
    finished = {path.parent.name for path in out.glob("*/metrics.json")}
    assert finished == {"teacher", *ARMS} - {"kl-1"}
    assert not (out / "bench.json").exists()
    (out / "kl-1" / "thesis.tex").unlink()

    monkeypatch.setenv("LIMBECK_KILL_AT", "train:2")
    answer = invoke(*words)
    assert answer.exit_code == 2, answer.output
    assert "- kl-1: its process was killed by signal 9" in answer.stderr
    assert (out / "kl-1" / "run.toml").exists()

    monkeypatch.delenv("LIMBECK_KILL_AT")
    answer = invoke(*words)
    assert answer.exit_code == 0, answer.output
    assert answer.stderr.count("finished before") == 6
    assert "kl, seed 1: train" in answer.stderr
    record = json.loads((out / "bench.json").read_text())
    assert without_times(record) == without_times(done.record)
    for arm in ARMS:
        assert digest_folder(out / arm / "student") == digest_folder(done.out / arm / "student")


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    rows = [{key: row[key] for key in row if key not in TIMES} for row in record["rows"]]
    return {**record, "rows": rows}


def test_killed_again_and_again(done: Done, tmp_path: Path) -> None:
    """In the teacher's training, in an arm's, after one, in a report, before the last file."""
    log, out = tmp_path / "log", tmp_path / "out"
    for kill in ("train:1", "encode:4", "train:3", "arms:2", "report:3", "bench:1", "bench:2"):
        assert command_in_child(done.words(out), log, kill_at=kill) == KILLED, kill
        assert not (out / "bench.json").exists()
    assert command_in_child(done.words(out), log) == 0, log.read_text()
    record = json.loads((out / "bench.json").read_text())
    assert without_times(record) == without_times(done.record)
    for arm in ARMS:
        assert digest_folder(out / arm / "student") == digest_folder(done.out / arm / "student")
    last = log.read_text().rsplit("arm 1 of 7", 1)[1]
    assert last.count("finished before") == 7
    assert not [path for path in out.rglob("*") if path.name.startswith((".tmp-", ".old-"))]
    # how long an arm took is known of those that ran in one go
    assert set(json.loads((out / "arms.json").read_text())) < {*ARMS, "teacher"}


def test_finished_arms_are_read_back_and_a_recipe_may_be_added(
    done: Done, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    # arms name their teacher by its place
    for arm in ARMS:
        record = out / arm / "run.toml"
        record.write_text(record.read_text().replace(str(done.out), str(out)))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*/metrics.json")}
    answer = invoke(*done.words(out), "--recipes", "margin_mse", "--seeds", 1, "--json")
    assert answer.exit_code == 0, answer.output
    record = json.loads(answer.stdout)
    assert record == json.loads((out / "bench.json").read_text())
    assert [row["system"] for row in record["rows"]][4:] == ["contrastive", "kl", "margin_mse"]
    assert record["seeds"] == [0]
    assert record["rows"][4]["seed_spread"] is None
    assert record["settings"]["margin_mse"]["list_length"] == "3"
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*/metrics.json")}
    assert before == {path: after[path] for path in before}
    assert {path.parent.name for path in set(after) - set(before)} == {"margin_mse-0"}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("everything is finished")

    monkeypatch.setattr("limbeck.bench.jobs.distill", refuse)
    monkeypatch.setattr("limbeck.data.reading.read_as_given", refuse)
    answer = invoke(*done.words(out))
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.startswith("Smallest visible difference from contrastive in nDCG@10")
    assert answer.stdout.endswith(f"Costs and conditions: {out / 'bench.html'}\n")
    assert without_times(json.loads((out / "bench.json").read_text())) == without_times(done.record)


def test_a_dry_run_lists_the_arms_and_writes_nothing(
    done: Done, invoke: Invoke, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    answer = invoke(*done.words(out), "--dry-run")
    assert answer.exit_code == 0, answer.output
    budget, *lines = answer.stdout.splitlines()
    assert budget.startswith("Budget of every recipe: max steps 6, batch size 8, list length 3")
    assert len(lines) == 7
    assert lines[0].startswith("1. the teacher, train:dual (to do): max_steps=1 eval_steps=0 ")
    assert lines[5] == (
        "6. kl:teacher-only, seed 0 (to do): max_steps=6 batch_size=8 list_length=3 "
        "candidates_per_query=8 eval_steps=6 learning_rate=1e-3"
    )
    assert not out.exists()
    plan = json.loads(invoke(*done.words(done.out), "--dry-run", "--json").stdout)
    assert plan["budget"] == {
        "max_steps": 6,
        "batch_size": 8,
        "list_length": 3,
        "candidates_per_query": 8,
    }
    assert [arm["arm"] for arm in plan["arms"]] == ["teacher", *ARMS]
    assert {arm["state"] for arm in plan["arms"]} == {"finished"}
    assert plan["arms"][5]["recipe"] == "kl:teacher-only"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--recipes", "kl,lk"], ["no recipe 'lk'", "limbeck recipes"]),
        (["--recipes", "kl:paper"], ["kl has no preset 'paper'", "teacher-only"]),
        (["--recipes", ","], ["--recipes names none"]),
        (["--seeds", "0"], ["--seeds"]),
        (["--seeds", "two"], ["--seeds"]),
        (["--max-steps", "0"], ["--max-steps"]),
        (["--jobs", "0"], ["--jobs"]),
        (["--set", "kl.max_steps=7"], ["max_steps must be the same", "contrastive 6, kl 7"]),
        (
            ["--set", "kl.candidates_per_query=7"],
            ["candidates_per_query must be the same", "contrastive 8, kl 7"],
        ),
        (["--set", "max_stesp=7"], ["max_stesp", "did you mean 'max_steps'"]),
        (["--set", "margin_mse.scale=7"], ["margin_mse is not compared here"]),
        (["--teacher", "train:duel"], ["train:duel", "train:dual"]),
        (["--teacher", "nowhere/at/all"], ["teacher_dual.", "fits no such teacher"]),
        (["--teacher", "train", "--recipes", "embed"], ["embed needs a teacher with vectors"]),
        (["--student", "nowhere/at/all"], ["nowhere/at/all"]),
        (["--student-layers", "9"], ["9 layers", "has 4"]),
        (["--labels", "99"], ["99 labelled", "1 to 20"]),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(
    done: Done, invoke: Invoke, tmp_path: Path, given: list[str], says: list[str]
) -> None:
    for extra in ([], ["--dry-run"]):
        answer = invoke(*done.words(tmp_path / "out"), *given, *extra)
        assert answer.exit_code == 2, answer.output
        assert isinstance(answer.exception, SystemExit)
        for part in says:
            assert part in said(answer)
        assert answer.stdout == ""
        assert not (tmp_path / "out").exists()


def test_data_that_cannot_be_compared_on(
    done: Done, invoke: Invoke, tmp_path: Path, tiny_encoder_folder: Path
) -> None:
    out = tmp_path / "out"

    def refused(data: Path, *says: str) -> None:
        answer = invoke(*words(data, out, tiny_encoder_folder), "--labels", 1)
        assert answer.exit_code == 2, answer.output
        for part in says:
            assert part in answer.stderr
        assert not out.exists()

    refused(tmp_path / "nowhere", "nowhere does not exist")
    few = made_up(labelled=5, splits=[]).write(tmp_path / "few")
    refused(few, "few has no judgements for test or dev", "Add qrels/test.tsv")


def test_folders_of_something_else(done: Done, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    (tmp_path / "file").touch()
    for out, says in (
        (tmp_path / "out", "is not empty and holds no bench (there is 'thesis.tex')"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "below", "Cannot write to --out"),
        (tmp_path / ("n" * 300), "Choose a folder that is writable"),
        (done.out / "kl-0", "holds a run of `limbeck distill`"),
    ):
        answer = invoke(*done.words(out))
        assert answer.exit_code == 2
        assert isinstance(answer.exception, SystemExit)
        assert says in said(answer)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "precious"


def test_other_settings_are_refused_before_any_arm_is_run(
    done: Done, invoke: Invoke, tmp_path: Path
) -> None:
    for given, says in (
        (["--max-steps", 7], "'max_steps': '6'"),
        (["--labels", 16], "labels is 15 there and 16 here"),
        (["--set", "kl.temperature=0.1"], f"{done.out / 'kl-0'} holds another run"),
        (["--student-layers", 3], "student_layers is 2 there and 3 here"),
    ):
        answer = invoke(*done.words(done.out), "--recipes", "margin_mse", *given)
        assert answer.exit_code == 2, answer.output
        assert says in answer.stderr
        assert not (done.out / "margin_mse-0").exists()


def test_other_conditions_are_refused_unless_forced(
    done: Done, invoke: Invoke, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    for arm in ARMS:
        record = out / arm / "run.toml"
        record.write_text(record.read_text().replace(str(done.out), str(out)))
    record.write_text(record.read_text().replace("threads = 1", "threads = 64"))
    answer = invoke(*done.words(out))
    assert answer.exit_code == 2
    assert "threads is 64 there and 1 here" in answer.stderr
    assert "--force" in answer.stderr
    assert invoke(*done.words(out), "--force").exit_code == 0


@pytest.mark.parametrize("seeds", [(), (-1,), (1, 1)])
def test_seeds_from_python(done: Done, tmp_path: Path, seeds: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="all different and not below 0"):
        bench(done.data, out=tmp_path / "out", recipes=["kl"], seeds=seeds)


@pytest.fixture(scope="module")
def game(done: Done, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with a recipe that fits its own teacher, and an ablation of it."""
    out = tmp_path_factory.mktemp("game") / "bench"
    given = [
        word if word != "contrastive,kl,kl:teacher-only" else "ar2,ar2:lambda-zero"
        for word in words(done.data, out, done.student)
    ]
    given += ["--set", "ar2.teacher_max_steps=4", "--set", "ar2.rounds=1"]
    given += ["--set", "ar2:lambda-zero.teacher_max_steps=4", "--set", "ar2:lambda-zero.rounds=1"]
    given[given.index("--seeds") + 1] = 1
    answer = CliRunner().invoke(app, [str(word) for word in given])
    assert answer.exit_code == 0, answer.output
    return out


def test_a_recipe_that_fits_its_own_teachers_is_not_given_one(game: Path) -> None:
    """Its arm says `train`, the others name the folder of the teacher that the bench fitted."""
    asked = {
        path.parent.name: tomllib.loads(path.read_text())["asked"]["teacher"]
        for path in game.glob("*/run.toml")
    }
    assert asked == {
        "teacher": "train:dual",
        "contrastive-0": str(game / "teacher" / "teacher"),
        "kl-0": str(game / "teacher" / "teacher"),
        "ar2-0": "train",
        "ar2-lambda-zero-0": "train",
    }
    rows = {row["system"]: row for row in read_json(game / "bench.json")["rows"]}
    own = read_parquet(game / "ar2-0" / "per_query.parquet")
    own = own.filter(pl.col("model") == "teacher")["nDCG@10"]
    assert rows["ar2, its teacher"]["nDCG@10"] == pytest.approx(own.mean())
    assert rows["ar2:lambda-zero"]["wall_seconds"] is None  # others' stages shorten it


def test_an_ablation_takes_the_stages_that_it_leaves_alone(
    game: Path, done: Done, tmp_path: Path
) -> None:
    """And is what it would be without them."""
    whole, ablation = (game / arm / "stages" for arm in ("ar2-0", "ar2-lambda-zero-0"))
    for stage in ("warmup-retriever", "warmup-ranker-body", "warmup-ranker", "1-ranker"):
        copies = [digest_folder(each / f"train-ar2-{stage}") for each in (whole, ablation)]
        assert copies[0] == copies[1], stage  # their `done.json` has seconds, which none repeats
    last = [digest_folder(each / "train-ar2-1-retriever") for each in (whole, ablation)]
    assert last[0] != last[1]
    asked = tomllib.loads((game / "ar2-lambda-zero-0" / "run.toml").read_text())["asked"]
    alone = {key: value for key, value in asked.items() if key != "data"}
    distill(done.data, out=tmp_path / "alone", store=tmp_path / "store", **alone)
    students = [digest_folder(run / "student") for run in (tmp_path / "alone", ablation.parent)]
    assert students[0] == students[1]


def test_what_stands_beside_the_student_is_measured_with_one_seed(done: Done) -> None:
    for arm in ARMS:
        measured = set(read_parquet(done.out / arm / "per_query.parquet")["model"])
        assert (measured == {"student"}) == arm.endswith("-1")


def test_several_teachers_fitted_and_given_serve_all_arms(
    done: Done, tiny_other_folder: Path, tmp_path: Path
) -> None:
    """Fitted once; results name no folder."""
    base, out = str(tiny_other_folder), tmp_path / "out"
    given = {key: value for key, value in LISTS.items() if key != "eval_steps"}
    settings = {**given, **{f"teacher_dual.{key}": value for key, value in given.items()}}
    found = bench(
        done.data,
        out=out,
        recipes=["kl"],
        seeds=[0],
        max_steps=3,
        teacher=["train:dual", f"big=train:dual:{base}", f"as-is={base}"],
        student=str(done.student),
        student_layers=2,
        settings={**settings, "teacher_dual.max_steps": 3, "eval_steps": 0},
        precision="fp32",
    )
    record = tomllib.loads((out / "kl-0" / "run.toml").read_text())
    kept = out / "teacher" / "teacher"
    assert record["asked"]["teacher"] == [
        *[f"dual={kept / 'member-0'}", f"big={kept / 'member-1'}", f"as-is={base}"]
    ]
    first = tomllib.loads((out / "teacher" / "run.toml").read_text())["teachers"]
    assert record["teachers"] == first
    assert found.record["teacher"] == "train:dual, train:dual:larger, as-is"
    assert base not in json.dumps(found.record)
    systems = [row["system"] for row in found.record["rows"]]
    assert systems[:3] == ["bm25", "zero_shot", "teacher"]
