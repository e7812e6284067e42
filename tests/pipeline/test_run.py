"""A whole run: what it leaves, what it says, and what a second one may use of it."""

import json
import re
import shutil
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from collections_here import made_up
from limbeck import pipeline
from limbeck.data.tokens import tokenize_here
from limbeck.inference import choose_engine, embed
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.loading import load_encoder
from limbeck.store import MANIFEST, SEEN, digest_folder
from limbeck.tasks.retrieval.costs import EncoderSpeeds, Speeds

from .conftest import FAST, Distil, Finished, Invoke, metrics_of

MODELS = ["bm25", "zero_shot", "undistilled", "teacher", "student"]
MEASURES = ["nDCG@10", "RR@10", "R@100"]


def test_every_file_that_others_rely_on_is_there(finished: Finished) -> None:
    out = finished.out
    left = {path.name for path in out.iterdir()} - {SEEN}  # only once files have settled
    assert left == {
        *("baselines", "metrics.json", "per_query.parquet", "run.toml", "runs", "stages"),
        *("report.html", "student", "teacher", MANIFEST),
    }
    assert {path.name for path in (out / "baselines").iterdir()} == {"undistilled"}
    assert {path.stem for path in (out / "runs").iterdir()} == set(MODELS)
    assert not [path for path in out.rglob("*") if path.name.startswith((".tmp-", ".old-"))]


def test_metrics_hold_a_row_per_system(finished: Finished) -> None:
    rows = json.loads((finished.out / "metrics.json").read_text())["rows"]
    assert [row["model"] for row in rows] == MODELS
    for row in rows:
        assert row["split"] == "test"
        assert row["queries"] == 6
        for measure in MEASURES:
            low, high = row[f"{measure}_ci"]
            assert 0 <= low <= row[measure] <= high <= 1
        assert row["ms_per_query"] > 0
        assert row["passages_per_second"] > 0
    costs = {row["model"]: (row["parameters"], row["megabytes"]) for row in rows}
    assert costs["bm25"] == (None, None)
    assert costs["student"][0] < costs["teacher"][0] == costs["zero_shot"][0]
    student = next(row for row in rows if row["model"] == "student")
    for row in rows:
        if row is not student:
            assert row["student_minus_this"] == pytest.approx(student["nDCG@10"] - row["nDCG@10"])
            assert 0 < row["p_holm"] <= 1


def test_what_runs_a_model_tells_its_share_of_the_limit(finished: Finished) -> None:
    limit = tomllib.loads((finished.out / "run.toml").read_text())["limit"]
    rate = limit["matmul_flops_per_second"]
    speeds = {
        name: found["speed"] for name, found in metrics_of(finished.out).items() if "speed" in found
    }
    assert {name.partition("-")[0] for name in speeds} == {"encode", "score", "train"}
    done = [speed for speed in speeds.values() if speed["tokens"]]
    assert len(done) > 3
    for speed in done:
        per_second = speed["useful_flops"] / speed["seconds"]
        assert speed["useful_flops_per_second"] == pytest.approx(per_second, rel=1e-3)
        assert speed["tokens_per_second"] == pytest.approx(
            speed["tokens"] / speed["seconds"], rel=1e-3
        )
        assert speed["share_of_limit"] == pytest.approx(per_second / rate, rel=1e-3)
    rows = {str(row["model"]): row for row in finished.result.rows}
    for model, row in rows.items():
        for key, known in (("", model != "bm25"), ("training_", model in ("teacher", "student"))):
            assert (row[f"{key}share_of_limit"] is not None) == known, (model, key)
            if known:
                share = row[f"{key}useful_flops_per_second"] / rate  # type: ignore[operator]
                assert row[f"{key}share_of_limit"] == pytest.approx(share)
    assert rows["student"]["training_share_of_limit"] == speeds["train-kl"]["share_of_limit"]
    assert [
        note
        for note in finished.result.notes
        if note.startswith(f"limit: {rate / 1e9:,.0f} GFLOP/s")
    ]


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_its_limit(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("probed once")

    monkeypatch.setattr("limbeck.pipeline.distilling.matmul_rate", refuse)
    shutil.copytree(finished.out, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    again = pipeline.distill(finished.data, **{**finished.arguments, "out": tmp_path / "run"})
    assert again.rows == finished.result.rows
    assert again.notes == finished.result.notes


def test_means_are_those_of_the_queries_and_of_the_runs(finished: Finished) -> None:
    from ir_measures import calc_aggregate as aggregate
    from ir_measures import nDCG, read_trec_qrels, read_trec_run

    rows = {row["model"]: row for row in finished.result.rows}
    table = pl.read_parquet(finished.out / "per_query.parquet")
    assert table.columns == ["query_id", *MEASURES, "model", "split"]
    judged = (finished.data / "qrels" / "test.tsv").read_text().split("\n")
    lines = [line.split("\t") for line in judged if line]
    qrels = list(read_trec_qrels("\n".join(f"{q} 0 {p} {grade}" for q, p, grade in lines)))
    for model in MODELS:
        own = table.filter(pl.col("model") == model)
        assert own["query_id"].to_list() == [query for query, _, _ in lines]
        for measure in MEASURES:
            assert rows[model][measure] == pytest.approx(own[measure].mean())
        run = list(read_trec_run((finished.out / "runs" / f"{model}.trec").read_text()))
        found = aggregate([nDCG @ 10], qrels, run)[nDCG @ 10]
        assert rows[model]["nDCG@10"] == pytest.approx(found)


@pytest.mark.slow
def test_the_record_repeats_the_run(finished: Finished, tmp_path: Path) -> None:
    record = tomllib.loads((finished.out / "run.toml").read_text())
    assert set(record) == {"asked", "data", "decided", "engine", "environment", "limit"}
    assert record["engine"] == {"backend": "torch", "device": "cpu", "precision": "fp32"}
    assert record["asked"]["settings"] == {key: str(value) for key, value in FAST.items()}
    asked = record["asked"]
    again = pipeline.distill(asked.pop("data"), out=tmp_path / "run", store=tmp_path, **asked)
    assert digest_folder(tmp_path / "run" / "student") == digest_folder(finished.out / "student")
    for name in MEASURES:
        assert [row[name] for row in again.rows] == [row[name] for row in finished.result.rows]


@pytest.mark.slow
def test_a_finished_run_repeats_its_table_and_touches_nothing(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished run needs no model and no data")

    monkeypatch.setattr("limbeck.tasks.retrieval.opening.load_encoder", refuse)
    monkeypatch.setattr("limbeck.data.reading.read_as_given", refuse)

    def times() -> dict[Path, int]:
        files = [path for path in finished.out.rglob("*") if path.is_file() and path.name != SEEN]
        return {path: path.stat().st_mtime_ns for path in files}

    before = times()
    again = pipeline.distill(finished.data, **finished.arguments)
    assert again == finished.result
    assert times() == before


def test_the_student_opens_with_sentence_transformers_and_gives_our_vectors(
    finished: Finished,
) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["find large files", "cat", "", "the small green bird and the old red fish " * 20]
    encoder = load_encoder(finished.out / "student")
    engine = choose_engine("torch", "fp32")
    ours = embed(encoder, tokenize_here(texts, encoder.tokenizer), "passage", engine=engine)
    plain = SentenceTransformer(str(finished.out / "student"), device="cpu")
    np.testing.assert_allclose(plain.encode(texts), ours, atol=1e-5)
    assert plain.similarity_fn_name == "cosine"
    assert len(plain[0].model.encoder.layer) == 2


def test_the_student_tells_no_path_and_no_date(finished: Finished) -> None:
    private = [str(finished.out.parent), str(finished.arguments["student"]), "/tmp/", "/root"]
    dated = re.compile(rb"\b20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d")
    for name in ("student", "teacher", "baselines/undistilled"):
        for path in (finished.out / name).rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            assert not [word for word in private if word.encode() in content], path
            if path.suffix != ".safetensors":
                assert not dated.search(content), path
    card = (finished.out / "student" / "README.md").read_text()
    assert "distilled with the recipe `kl` from a dual teacher" in card


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["embed", "margin_mse", "contrastive"])
def test_another_recipe_finds_all_that_a_fitted_teacher_said(
    finished: Finished, tmp_path: Path, recipe: str
) -> None:
    settings = {key: FAST[key] for key in ("max_steps", "eval_steps", "learning_rate")}
    teacher = str(finished.out / "teacher")
    changes = {"out": tmp_path / "run", "recipe": recipe, "teacher": teacher}
    lists = (
        {}
        if recipe == "embed"
        else {key: FAST[key] for key in ("list_length", "candidates_per_query")}
    )
    result = pipeline.distill(
        finished.data, **{**finished.arguments, **changes, "settings": {**settings, **lists}}
    )
    stages = metrics_of(tmp_path / "run")
    asked = [
        stage for stage in stages if "-teacher-" in stage and "teacher_forwards" in stages[stage]
    ]
    assert sum(found.get("teacher_forwards", 0) for found in stages.values()) == 0
    if recipe == "contrastive":
        assert "teacher: none, contrastive learns from judgements alone" in result.notes
        assert not asked
    else:
        assert sum(stages[stage]["hits"] for stage in asked) > 60


@pytest.mark.slow
def test_train_takes_the_best_teacher_on_dev_and_shows_all(distil: Distil, tmp_path: Path) -> None:
    result = distil(teacher="train", recipe="margin_mse")
    models = [str(row["model"]) for row in result.rows]
    chosen = next(note for note in result.notes if "the best on dev" in note)
    figures = {
        kind: float(re.search(rf"{kind} (\d\.\d+)", chosen)[1])  # type: ignore[index]
        for kind in ("dual", "cross", "ensemble")
    }
    best = re.search(r"teacher: (\w+), the best", chosen)[1]  # type: ignore[index]
    assert figures[best] == max(figures.values())
    others = {f"teacher/{kind}" for kind in figures if kind != best}
    assert set(models) == {*MODELS, *others}
    again = distil(
        teacher=str(tmp_path / "run" / "teacher"), recipe="margin_mse", out=tmp_path / "second"
    )
    assert sum(m.get("teacher_forwards", 0) for m in metrics_of(tmp_path / "second").values()) == 0
    rows = {row["model"]: row for row in result.rows}
    assert (
        next(row for row in again.rows if row["model"] == "teacher")["nDCG@10"]
        == (rows["teacher"]["nDCG@10"])
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cross", "ensemble"])
def test_each_kind_of_teacher_can_be_asked_for(
    invoke: Invoke, data: Path, tmp_path: Path, kind: str
) -> None:
    answer = invoke("distill", data, "--teacher", f"train:{kind}", "--force-teacher")
    assert answer.exit_code == 0, answer.output
    assert "teacher/dual" in answer.stdout
    assert (tmp_path / "run" / "teacher" / "ensemble.json").exists() == (kind == "ensemble")


@pytest.mark.slow
def test_labels_leaves_the_others_unlabelled(distil: Distil, tmp_path: Path) -> None:
    result = distil(labels=12)
    record = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert (record["data"]["labelled"], record["data"]["unlabelled"]) == (12, 8 + 8)
    assert [note for note in result.notes if note.startswith("labels: 12 of 20")]


@pytest.mark.slow
def test_the_recipe_auto_is_kl_and_says_so(distil: Distil, tmp_path: Path) -> None:
    assert "recipe: auto is kl" in distil(recipe="auto").notes
    assert (tmp_path / "run" / "stages" / "train-kl").is_dir()


@pytest.mark.slow
def test_a_student_may_be_narrower(distil: Distil, tmp_path: Path) -> None:
    distil(dim=8, layer_choice="first", student_layers=1)
    student = load_encoder(tmp_path / "run" / "student")
    assert (student.dimension, len(student.transformer.encoder.layer)) == (8, 1)


@pytest.mark.slow
def test_a_dry_run_says_the_stages_and_leaves_nothing(
    invoke: Invoke, data: Path, tmp_path: Path
) -> None:
    answer = invoke("distill", data, "--dry-run")
    assert answer.exit_code == 0, answer.output
    assert "60 passages and 20 labelled and 8 unlabelled training queries" in answer.stdout
    for line in (
        "fit a teacher: dual",
        "train the student with kl",
        "measure every system on test",
    ):
        assert line in answer.stdout
    assert "contrastive: the teacher must beat it on dev" in answer.stdout
    assert "contrastive" not in invoke("distill", data, "--dry-run", "--force-teacher").stdout
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "store").exists()
    refused = invoke("distill", data, "--dry-run", "--set", "max_stesp=3")
    assert refused.exit_code == 2
    assert "did you mean 'max_steps'" in refused.stderr
    with pytest.raises(TypeError, match="layres"):
        pipeline.dry_run(data, out="run", layres=2)


@pytest.mark.slow
def test_a_budget_is_decided_once(
    distil: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"max_steps": 4, "teacher_dual.max_steps": 4}
    distil(budget_seconds=1e6, settings=few)
    record = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert record["decided"] == {
        "max_steps": 1000,
        "teacher_max_steps": 1000,
        "list_length": 8,
        "candidates_per_query": 64,
    }
    settings = json.loads((tmp_path / "run" / "stages" / "train-kl" / "inputs.json").read_text())[
        "inputs"
    ]["settings"]
    assert settings["max_steps"] == 4  # what is given wins

    def refuse(*_: object) -> None:
        raise AssertionError("a budget is decided once")

    monkeypatch.setattr("limbeck.tasks.retrieval.kind.fit_budget", refuse)
    (tmp_path / "run" / "metrics.json").unlink()
    distil(budget_seconds=1e6, settings=few)


@pytest.mark.slow
def test_a_budget_fills_in_what_is_not_given(
    invoke: Invoke, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limbeck.tasks.fit.MOST_STEPS", 5)
    monkeypatch.setattr("limbeck.tasks.fit.FEWEST_STEPS", 1)
    monkeypatch.setattr("limbeck.tasks.retrieval.budget.ENOUGH_STEPS", 4)
    answer = invoke("distill", data, "--budget", "5m", "--force-teacher", settings=False)
    assert answer.exit_code == 0, answer.output
    for stage in ("train-kl", "train-teacher_dual"):
        inputs = json.loads((tmp_path / "run" / "stages" / stage / "inputs.json").read_text())
        settings = inputs["inputs"]["settings"]
        assert (
            settings["max_steps"],
            settings["list_length"],
            settings["candidates_per_query"],
        ) == (5, 8, 64)


@pytest.mark.slow
def test_a_short_budget_fits_fewer_teachers(
    distil: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read with a model as large as the ranker is made to cost a whole budget; vectors, which
    the base and the student make, cost nothing to speak of.
    """
    tokens = {"query": 4.0, "passage": 8.0}
    cheap = EncoderSpeeds({"query": 1e-4, "passage": 1e-4}, tokens, 1e-6)

    class Dear(Speeds):
        def nearest(
            self, model: Encoder | Ranker, *, trained: bool = False
        ) -> tuple[EncoderSpeeds, float]:
            return cheap, 1e7 if isinstance(model, Ranker) else 1.0

    speeds = Dear([cheap], known=defaultdict(float))
    monkeypatch.setattr("limbeck.tasks.retrieval.probing.probed", lambda *_, **__: speeds)
    few = {"max_steps": 4, "teacher_dual.max_steps": 4}
    result = distil(budget_seconds=60, teacher="train", settings=few)
    record = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert record["decided"]["fits"] == ["dual"]
    assert "teacher: the budget has no time for more than dual" in result.notes
    assert not (tmp_path / "run" / "stages" / "train-teacher_cross").exists()
    (tmp_path / "run" / "metrics.json").unlink()  # and read back
    assert distil(budget_seconds=60, teacher="train", settings=few).rows == result.rows


@pytest.mark.slow
def test_a_budget_that_is_too_short_says_what_would_do(
    invoke: Invoke, data: Path, tmp_path: Path
) -> None:
    answer = invoke("distill", data, "--budget", "0.01s")
    assert answer.exit_code == 2
    assert "too short" in answer.stderr
    assert "--budget" in answer.stderr
    assert not (tmp_path / "run" / "run.toml").exists()


def test_evaluate_measures_an_encoder_beside_bm25(
    invoke: Invoke, finished: Finished, tmp_path: Path
) -> None:
    given = [finished.out / "student", finished.data, "--precision", "fp32"]
    answer = invoke("evaluate", *given, "--out", tmp_path / "figures", "--json")
    assert answer.exit_code == 0, answer.output
    rows = {row["model"]: row for row in json.loads(answer.stdout)["rows"]}
    assert set(rows) == {"bm25", "model"}
    expected = {row["model"]: row for row in finished.result.rows}
    for here, there in (("bm25", "bm25"), ("model", "student")):
        for measure in MEASURES:
            assert rows[here][measure] == expected[there][measure]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        *("metrics.json", "per_query.parquet", "runs", MANIFEST),
    }


def test_evaluate_measures_a_ranker_on_what_others_find(
    invoke: Invoke,
    tiny_ranker_folder: Path,
    tiny_encoder_folder: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("limbeck.tasks.retrieval.kind.OFFLINE", str(tiny_encoder_folder))
    answer = invoke("evaluate", tiny_ranker_folder, data, "--split", "dev", "--json")
    assert answer.exit_code == 0, answer.output
    rows: list[dict[str, Any]] = json.loads(answer.stdout)["rows"]
    assert [(row["model"], row["split"]) for row in rows] == [("bm25", "dev"), ("model", "dev")]
    assert rows[1]["R@100"] > 0


def test_evaluate_does_not_write_over_a_run(
    invoke: Invoke, finished: Finished, tmp_path: Path
) -> None:
    answer = invoke("evaluate", finished.out / "student", finished.data, "--out", finished.out)
    assert answer.exit_code == 2
    assert "holds a run" in answer.stderr


def test_evaluate_without_that_split_says_which_there_are(
    invoke: Invoke, finished: Finished, tmp_path: Path
) -> None:
    data = made_up(splits=["dev"]).write(tmp_path / "no-test")
    answer = invoke("evaluate", finished.out / "student", data)
    assert answer.exit_code == 2
    assert "no judgements for test (it has: train, dev)" in answer.stderr


@pytest.mark.slow
def test_a_preset_is_recorded_and_overruled_by_what_is_set(
    finished: Finished, invoke: Invoke, tmp_path: Path
) -> None:
    """With its setting set back, `kl:teacher-only` is `kl` to the last byte."""
    given = ["--force-teacher", "--recipe", "kl:teacher-only", "--out"]
    preset, overruled = tmp_path / "preset", tmp_path / "overruled"
    answer = invoke("distill", finished.data, *given, preset)
    assert answer.exit_code == 0, answer.output
    assert "recipe: kl:teacher-only sets contrastive_weight=0.0" in answer.stdout
    record = tomllib.loads((preset / "run.toml").read_text())
    assert record["asked"]["recipe"] == "kl:teacher-only"
    assert record["preset"] == {"contrastive_weight": "0.0"}
    assert digest_folder(preset / "student") != digest_folder(finished.out / "student")
    back = ["--set", "contrastive_weight=0.1"]
    answer = invoke("distill", finished.data, *given, overruled, *back)
    assert answer.exit_code == 0, answer.output
    assert digest_folder(overruled / "student") == digest_folder(finished.out / "student")
    other = invoke("distill", finished.data, *given, preset, "--recipe", "kl")
    assert other.exit_code == 2
    assert "recipe is 'kl:teacher-only' there and 'kl' here" in other.stderr
