"""What cannot be used is refused before any work: exit 2, no traceback; what, where, what next."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from collections_here import Files, made_up
from limbeck.store import read_json

from .conftest import Distil, Finished, Invoke

Spoil = Callable[[Path], object]


def refused(
    invoke: Invoke, out: Path, *given: object, says: list[str], settings: bool = True
) -> None:
    """One message on stderr that says all of it, and no stage begun."""
    answer = invoke("distill", *given, settings=settings)
    assert answer.exit_code == 2, answer.output
    assert isinstance(answer.exception, SystemExit)
    assert "Traceback" not in answer.output
    message = answer.stderr.strip().splitlines()[-1]
    assert message.startswith("limbeck: ")
    for words in says:
        assert words in message
    assert answer.stdout == ""
    assert not (out / "stages").exists()


def append(name: str, line: str) -> Spoil:
    def spoil(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(line + "\n")

    return spoil


def write(name: str, text: str) -> Spoil:
    return lambda folder: (folder / name).write_text(text)


def drop(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


NEGATIVE = "".join(f"q{at}\tp{at}\t0\n" for at in range(20))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (drop("corpus.jsonl"), ["corpus.jsonl: missing", "Write the passages there"]),
        (drop("queries.jsonl"), ["queries.jsonl: missing", "Write the queries there"]),
        (write("corpus.jsonl", ""), ["corpus.jsonl: empty", "Write the passages there"]),
        (append("corpus.jsonl", '{"_id": "p60", '), ["corpus.jsonl:61", "not JSON", "object"]),
        (
            append("corpus.jsonl", '{"_id": "p3", "text": "another"}'),
            ["corpus.jsonl:61", '"p3"', "line 4", "an id of its own"],
        ),
        (
            append("qrels/train.tsv", "q0\tp99\t1"),
            ["qrels/train.tsv:21", '"p99" is not in corpus.jsonl', "--drop-unknown-judgements"],
        ),
        (
            append("qrels/test.tsv", "q99\tp0\t1"),
            ["qrels/test.tsv:7", '"q99" is not in queries.jsonl', "--drop-unknown-judgements"],
        ),
        (
            write("qrels/train.tsv", NEGATIVE),
            ["qrels/train.tsv", "no query has a relevant passage", "Correct the scores"],
        ),
        (append("qrels/train.tsv", "q0 p1 1"), ["qrels/train.tsv:21", "1 column", "tabs"]),
        (append("corpus.jsonl", '{"_id": 7, "text": "x"}'), ["corpus.jsonl:61", "quotes"]),
    ],
)
def test_bad_data(
    invoke: Invoke, data: Path, tmp_path: Path, spoil: Spoil, says: list[str]
) -> None:
    spoil(data)
    refused(invoke, tmp_path / "run", data, says=[str(data), *says])


@pytest.mark.slow
def test_no_data_at_all(invoke: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused(invoke, out, tmp_path / "nowhere", says=["nowhere does not exist", "pydocs"])
    (tmp_path / "file").touch()
    refused(invoke, out, tmp_path / "file", says=["is a file", "Give the folder"])
    refused(invoke, out, "x" * 300, says=["x" * 300, "Give"])


@pytest.mark.parametrize(
    ("option", "given", "says"),
    [
        ("--recipe", "lk", ["no recipe 'lk'", "limbeck recipes"]),
        ("--recipe", "margin-mse", ["did you mean 'margin_mse'"]),
        ("--recipe", "kl:teacheronly", ["no preset", "did you mean 'teacher-only'"]),
        ("--recipe", "embed:paper", ["embed has no preset 'paper'", "Its presets: none"]),
        ("--recipe", "teacher_dual", ["fits a teacher", "--teacher train"]),
        ("--set", "max_stesp=3", ["unknown setting 'max_stesp'", "did you mean 'max_steps'"]),
        ("--set", "max_steps=many", ["max_steps = 'many'", "int"]),
        ("--set", "teacher_dual.temprature=3", ["teacher_dual", "did you mean 'temperature'"]),
        ("--set", "updates=3", ["--set: updates is now max_steps"]),
        ("--set", "teacher_dual.updates=3", ["teacher_dual.: updates is now max_steps"]),
        ("--set", "teacher_daul.max_steps=3", ["did you mean 'teacher_dual'"]),
        ("--set", "embed.max_steps=3", ["embed.max_steps", "--recipe embed"]),
        ("--set", "contrastive.nonsense=3", ["contrastive.: unknown setting 'nonsense'"]),
        ("--teacher", "train:duel", ["train:duel", "train:dual"]),
        ("--teacher", "nowhere/at/all", ["nowhere/at/all"]),
        ("--student", "nowhere/at/all", ["nowhere/at/all"]),
        ("--student-layers", "9", ["9 layers", "has 4", "1 to 4"]),
        ("--labels", "21", ["21 labelled", "1 to 20"]),
    ],
)
def test_bad_names_and_settings(
    invoke: Invoke, data: Path, tmp_path: Path, option: str, given: str, says: list[str]
) -> None:
    refused(invoke, tmp_path / "run", data, option, given, says=says)


@pytest.mark.slow
def test_a_model_of_the_wrong_kind(
    invoke: Invoke,
    data: Path,
    tmp_path: Path,
    tiny_ranker_folder: Path,
) -> None:
    out = tmp_path / "run"
    ranker = tiny_ranker_folder
    refused(invoke, out, data, "--student", ranker, says=[str(ranker), "CrossEncoder"])
    refused(invoke, out, data, "--teacher", data, says=[str(data)])
    refused(
        invoke, out, data, "--teacher", ranker, "--recipe", "embed",
        says=["embed needs a teacher with vectors", "--recipe kl"], settings=False,
    )  # fmt: skip
    refused(
        invoke, out, data, "--teacher", "train:cross", "--recipe", "embed",
        says=["embed needs a teacher with vectors", "--teacher train:dual"], settings=False,
    )  # fmt: skip


def not_a_number(folder: Path, target: Path, name: str) -> Path:
    """A model whose weights hold a NaN where every input meets it."""
    shutil.copytree(folder, target)
    path = target / "model.safetensors"
    weights = load_file(path)
    key = next(key for key in weights if name in key)
    weights[key] = torch.full_like(weights[key], float("nan"))
    save_file(weights, path, metadata={"format": "pt"})
    return target


@pytest.mark.slow
def test_a_teacher_that_scores_nan(
    invoke: Invoke, data: Path, tmp_path: Path, tiny_ranker_folder: Path, tiny_encoder_folder: Path
) -> None:
    for folder, name, unit in (
        (tiny_ranker_folder, "classifier.weight", "and passage 'p"),
        (tiny_encoder_folder, "layer.3.output.dense.weight", "query 'q"),
    ):
        teacher = not_a_number(folder, tmp_path / f"nan-{name}", name)
        answer = invoke("distill", data, "--teacher", teacher, "--out", tmp_path / f"run-{name}")
        assert answer.exit_code == 2, answer.output
        assert "Traceback" not in answer.output
        assert "not finite" in answer.stderr
        assert unit in answer.stderr
        assert "Check its weights" in answer.stderr


@pytest.mark.slow
def test_texts_of_every_kind(invoke: Invoke, files: Files, tmp_path: Path) -> None:
    files.corpus |= {
        "p0": "word " * 200_000,
        "p1": "😀🐈 emoji 👩‍👩‍👧",
        "p2": "红色的猫在海边",
        "p3": "bell\u0007 null\u0000 tab\t line\n escape\u001b[31m",
        "p4": "قطة حمراء \u202ebackwards\u202c",
        "p5": "",
        "p6\u2028 odd id": "cat",
    }
    files.queries |= {"q0": "😀", "q1": "猫", "q2": "\u0000", "q3": "", "q4": "x" * 1_000_000}
    data = files.write(tmp_path / "odd")
    answer = invoke("distill", data, "--force-teacher")
    assert answer.exit_code == 0, answer.output
    assert (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.slow
def test_a_query_with_only_judged_negatives(distil: Distil, files: Files, tmp_path: Path) -> None:
    files.qrels["train"]["q0"] = {"p0": 0, "p1": 0}
    files.qrels["test"][next(iter(files.qrels["test"]))] = {"p2": 0}
    result = distil(files.write(tmp_path / "negatives"))
    assert "qrels/train.tsv: 1 of 20 queries have only negatives judged; used as unlabelled" in (
        result.notes
    )
    assert any("qrels/test.tsv: 1 of 6" in note for note in result.notes)
    assert {row["queries"] for row in result.rows} == {6}  # it counts, as 0


@pytest.mark.slow
def test_unknown_judgements_may_be_dropped_and_are_counted(distil: Distil, data: Path) -> None:
    append("qrels/train.tsv", "q0\tp99\t1\nq98\tp0\t1")(data)
    result = distil(drop_unknown_judgements=True)
    assert "qrels/train.tsv: 2 judgements that name unknown ids dropped" in result.notes


# --- splits that are missing ----------------------------------------------------------------------


@pytest.mark.slow
def test_no_judgements_at_all(
    invoke: Invoke, files: Files, tmp_path: Path, tiny_encoder_folder: Path
) -> None:
    files.qrels.clear()
    data, out = files.write(tmp_path / "bare"), tmp_path / "run"
    refused(invoke, out, data, says=["no training query with a positive", "--teacher PATH"])
    refused(invoke, out, data, "--recipe", "contrastive", says=["no training query", "--recipe kl"])
    answer = invoke("distill", data, "--teacher", tiny_encoder_folder)
    assert answer.exit_code == 0, answer.output
    assert "no quality figures" in answer.stdout
    assert read_json(out / "metrics.json")["rows"] == []
    assert (out / "student" / "model.safetensors").exists()


@pytest.mark.slow
def test_no_dev_and_too_few_to_carve_one(invoke: Invoke, tmp_path: Path) -> None:
    data = made_up(labelled=8, splits=["test"]).write(tmp_path / "small")
    answer = invoke("distill", data)
    assert answer.exit_code == 0, answer.output
    assert "dev: none, and 8 labelled training queries are too few" in answer.stdout
    assert "not compared on dev" in answer.stdout
    refused(
        invoke, tmp_path / "other", data, "--teacher", "train:ensemble", "--out",
        tmp_path / "other", says=["no dev split", "Add qrels/dev.tsv"],
    )  # fmt: skip
    answer = invoke("distill", data, "--teacher", "train", "--out", tmp_path / "all")
    assert answer.exit_code == 0, answer.output
    assert "teacher: dual, since there is no dev split to choose on" in answer.stdout


@pytest.mark.slow
def test_dev_is_carved_from_train_and_said(distil: Distil, tmp_path: Path) -> None:
    result = distil(made_up(splits=["test"]).write(tmp_path / "carved"))
    assert "dev: 2 of 20 training queries set aside, seed 0" in result.notes


@pytest.mark.slow
def test_no_test(distil: Distil, tmp_path: Path) -> None:
    result = distil(made_up(splits=["dev"]).write(tmp_path / "no-test"))
    assert {row["split"] for row in result.rows} == {"dev"}
    assert any("the table is measured on dev" in note for note in result.notes)


@pytest.mark.slow
def test_no_train(invoke: Invoke, files: Files, tmp_path: Path, tiny_encoder_folder: Path) -> None:
    del files.qrels["train"]
    data = files.write(tmp_path / "no-train")
    refused(
        invoke, tmp_path / "run", data,
        says=["no training query with a positive to fit a teacher on", "--teacher PATH"],
    )  # fmt: skip
    answer = invoke("distill", data, "--teacher", tiny_encoder_folder)
    assert answer.exit_code == 0, answer.output
    assert "train: no judgements; a teacher must be given" in answer.stdout
    assert "not compared on dev" in answer.stdout


@pytest.mark.slow
def test_all_queries_in_test(invoke: Invoke, tmp_path: Path, tiny_encoder_folder: Path) -> None:
    data = made_up(labelled=0, unlabelled=0, splits=["test"]).write(tmp_path / "benchmark")
    teacher = ["--teacher", tiny_encoder_folder]
    refused(invoke, tmp_path / "run", data, *teacher, says=["all are in dev or test", "embed"])
    few = ["--set", "max_steps=3", "--set", "texts_per_step=16"]
    answer = invoke("distill", data, *teacher, "--recipe", "embed", *few, settings=False)
    assert answer.exit_code == 0, answer.output
    rows = read_json(tmp_path / "run" / "metrics.json")["rows"]
    assert [row["model"] for row in rows] == [
        *("bm25", "zero_shot", "undistilled", "teacher", "student"),
    ]


# --- where to write -------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--out", "--store"])
def test_a_folder_that_cannot_be_written(
    invoke: Invoke, data: Path, tmp_path: Path, flag: str
) -> None:
    """/proc refuses even root, as a read-only file system would."""
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "below"
    out = tmp_path / "run"
    for folder in (Path("/proc/limbeck"), below, tmp_path / ("n" * 300)):
        says = [f"Cannot write to {flag} {folder}", "Choose a folder that is writable"]
        refused(invoke, out, data, flag, folder, says=says)
    answer = invoke("distill", data, flag, tmp_path / "file")
    assert answer.exit_code == 2
    assert "Traceback" not in answer.output
    assert flag in answer.stderr


def test_a_folder_of_something_else(invoke: Invoke, data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    says = ["is not empty and holds no run", "thesis.tex", "Name a new folder"]
    refused(invoke, tmp_path / "run", data, says=says)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "precious"


def test_a_folder_of_another_run(invoke: Invoke, finished: Finished) -> None:
    answer = invoke("distill", finished.data, "--out", finished.out, "--seed", 7)
    assert answer.exit_code == 2
    for words in ("holds another run", "seed is 0 there and 7 here", "Choose another --out"):
        assert words in answer.stderr


# --- as a user sees it ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("spoilt", [True, False])
def test_in_a_process_of_its_own(
    data: Path, tmp_path: Path, tiny_encoder_folder: Path, spoilt: bool
) -> None:
    if spoilt:
        append("corpus.jsonl", "{")(data)
    option = ["--set", "max_stesp=3"] if not spoilt else []
    found = subprocess.run(
        [Path(sys.executable).with_name("limbeck"), "distill", data, "--out", tmp_path / "run",
         "--store", tmp_path / "store", "--student", tiny_encoder_folder, *option],
        capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert found.returncode == 2
    assert found.stdout == ""
    assert "Traceback" not in found.stderr
    expected = (
        f"limbeck: {data}/corpus.jsonl:61: not JSON" if spoilt else "did you mean 'max_steps'"
    )
    assert expected in found.stderr
