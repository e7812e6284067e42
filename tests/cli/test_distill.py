import json
from pathlib import Path

import pytest

from limbeck.errors import DataError, TeacherRefused

from .conftest import FakePipeline, Invoke


def test_what_is_not_given_takes_its_default(invoke: Invoke, pipeline: FakePipeline) -> None:
    assert invoke("distill", "docs", "--out", "run").exit_code == 0
    assert pipeline.data == ("docs",)
    given = {key: value for key, value in pipeline.arguments.items() if key != "progress"}
    assert given == {
        "out": Path("run"),
        "teacher": "train",
        "teacher_weights": None,
        "student": None,
        "student_layers": None,
        "layer_choice": "spread",
        "dim": None,
        "query_prompt": None,
        "passage_prompt": None,
        "recipe": "auto",
        "settings": {},
        "labels": None,
        "seed": 0,
        "budget_seconds": None,
        "store": None,
        "backend": "auto",
        "precision": "auto",
        "workers": None,
        "candidates": (),
        "pairs": None,
        "query_model": None,
        "force_teacher": False,
        "drop_unknown_judgements": False,
        "keep_own_passage": False,
        "language": "auto",
        "image_size": None,
        "augment": None,
        "force": False,
    }


def test_every_option_reaches_the_pipeline(
    invoke: Invoke, pipeline: FakePipeline, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("max_steps = 100\ntemperature = 2.0\n[teacher_dual]\nmax_steps = 9\n")
    options = "--teacher dual:t --teacher scores:u --teacher-weights 0.7,0.3 --student s "
    options += (
        "--student-layers 2 --layer-choice first --dim 64 --query-prompt q: --passage-prompt= "
    )
    options += "--recipe kl --labels 500 --seed 7 --budget 1.5h --store kept --backend torch "
    options += "--precision fp32 --workers 4 --force-teacher --drop-unknown-judgements --force "
    options += "--keep-own-passage --candidates a.trec --candidates b.tsv --query-model t5 "
    options += "--image-size 9 --augment crop --pairs weak.tsv "
    result = invoke(
        *["distill", "docs", "--out", "run", *options.split(), "--settings", file],
        *["--set", "max_steps=5", "--set", "name=a=b"],
    )
    assert result.exit_code == 0, result.stderr
    given = {key: value for key, value in pipeline.arguments.items() if key != "progress"}
    assert given == {
        "out": Path("run"),
        "teacher": ["dual:t", "scores:u"],
        "teacher_weights": (0.7, 0.3),
        "student": "s",
        "student_layers": 2,
        "layer_choice": "first",
        "dim": 64,
        "query_prompt": "q:",
        "passage_prompt": "",
        "recipe": "kl",
        "settings": {
            "max_steps": "5",
            "temperature": 2.0,
            "teacher_dual.max_steps": 9,
            "name": "a=b",
        },
        "labels": 500,
        "seed": 7,
        "budget_seconds": 5400.0,
        "store": Path("kept"),
        "backend": "torch",
        "precision": "fp32",
        "workers": 4,
        "candidates": [Path("a.trec"), Path("b.tsv")],
        "pairs": Path("weak.tsv"),
        "query_model": Path("t5"),
        "force_teacher": True,
        "drop_unknown_judgements": True,
        "keep_own_passage": True,
        "language": "auto",
        "image_size": 9,
        "augment": "crop",
        "force": True,
    }


def test_results_go_to_stdout_and_progress_to_stderr(
    invoke: Invoke, pipeline: FakePipeline
) -> None:
    result = invoke("distill", "docs", "--out", "run")
    assert result.stdout == (
        "model    nDCG@10\nstudent    0.500\n\n"
        "dev: 20 of 200 train queries set aside, seed 0\n\n"
        "The student beats BM25.\n\n"
        f"Student: {Path('run') / 'student'}\nReport: {Path('run') / 'report.html'}\n"
    )
    assert result.stderr == "working\n"


def test_json_is_all_there_is_on_stdout(invoke: Invoke, pipeline: FakePipeline) -> None:
    printed = json.loads(invoke("distill", "docs", "--out", "run", "--json").stdout)
    assert printed == {
        "out": str(pipeline.result.out),
        "rows": pipeline.result.rows,
        "notes": pipeline.result.notes,
        "advice": pipeline.result.advice,
    }


def test_a_dry_run_prints_the_stages_and_does_nothing_else(
    invoke: Invoke, pipeline: FakePipeline
) -> None:
    result = invoke("distill", "docs", "--out", "run", "--dry-run")
    assert pipeline.called == "dry_run"
    assert result.stdout == "1. mine 50 candidates per query\n2. score 1,000 pairs\n"
    printed = invoke("distill", "docs", "--out", "run", "--dry-run", "--json").stdout
    assert json.loads(printed) == {
        "stages": ["1. mine 50 candidates per query", "2. score 1,000 pairs"]
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError("corpus.jsonl:7: no `text`."), 2), (TeacherRefused("It loses on dev."), 3)],
)
def test_an_error_is_one_message_and_its_exit_code(
    invoke: Invoke, pipeline: FakePipeline, error: Exception, code: int
) -> None:
    pipeline.raises = error
    result = invoke("distill", "docs", "--out", "run")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == f"working\nlimbeck: {error}\n"


def test_an_interrupt_says_how_to_go_on(invoke: Invoke, pipeline: FakePipeline) -> None:
    pipeline.raises = KeyboardInterrupt()
    result = invoke("distill", "docs", "--out", "run")
    assert result.exit_code == 130
    assert "the same command resumes" in result.stderr


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--otu", "x"], "--out"),
        (["--budget", "20"], "20m"),
        (["--budget", "0m"], "0m"),
        (["--set", "max_steps"], "--set key=value"),
        (["--set", "=5"], "--set key=value"),
        (["--labels", "0"], "--labels"),
        (["--student-layers", "0"], "--student-layers"),
        (["--precision", "fp64"], "fp32"),
        (["--workers", "0"], "--workers"),
        (["--settings", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_what_cannot_be_used_exits_2_and_names_it(
    invoke: Invoke, pipeline: FakePipeline, wrong: list[str], named: str
) -> None:
    result = invoke("distill", "docs", "--out", "run", *wrong)
    assert result.exit_code == 2
    assert named in result.stderr
    assert "Traceback" not in result.stderr
    assert pipeline.called is None


def test_without_out_nothing_is_run(invoke: Invoke, pipeline: FakePipeline) -> None:
    result = invoke("distill", "docs")
    assert result.exit_code == 2
    assert "--out" in result.stderr
    assert pipeline.called is None
