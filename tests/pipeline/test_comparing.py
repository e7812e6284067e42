"""Finished runs against one another: by hand, and refused where they cannot be paired."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from limbeck.pipeline import compare
from limbeck.store import MANIFEST

from .conftest import Distil, Finished, Invoke

# nDCG@10 of the six test queries, set by hand
BASE = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
HIGHER = [0.1, 0.3, 0.5, 0.3, 0.4, 0.5]
CLEAR = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]

Copy = Callable[..., Path]


@pytest.fixture
def copy(finished: Finished, tmp_path: Path) -> Copy:
    """A copy of a finished run whose student reached other figures."""

    def copy(name: str, values: list[float], seed: int = 0) -> Path:
        out = tmp_path / name
        left_out = shutil.ignore_patterns("stages", "student", MANIFEST)
        shutil.copytree(finished.out, out, ignore=left_out)
        table = pl.read_parquet(out / "per_query.parquet")
        student = table.filter(pl.col("model") == "student")
        changed = student.with_columns(pl.Series("nDCG@10", values))
        others = table.filter(pl.col("model") != "student")
        # in another order: rows belong together by query
        pl.concat([changed.reverse(), others]).write_parquet(out / "per_query.parquet")
        record = out / "run.toml"
        record.write_text(record.read_text().replace("seed = 0", f"seed = {seed}"))
        return out

    return copy


def test_differences_by_hand(copy: Copy, invoke: Invoke) -> None:
    """HIGHER - BASE: 0.1, 0.2, 0.3, 0, 0, 0, mean 0.1. Of 2^6 sign patterns those with the three
    signs alike reach 0.1: 2 * 2^3 = 16, p = 16 / 64. CLEAR - BASE: always 0.5, p = 2 / 64.
    Holm: 2 * 2 / 64 = 0.0625, and 0.25. Visible: 2.801585 * sd / sqrt(6), sd = sqrt(0.08 / 5);
    the other never varies.
    """
    base, higher, clear = copy("base", BASE), copy("higher", HIGHER, 3), copy("clear", CLEAR)
    found = json.loads(invoke("compare", base, higher, clear, "--json").stdout)
    assert found.pop("collection")["name"] == "data"
    rows = found.pop("rows")
    assert found == {
        "split": "test",
        "queries": 6,
        "model": "student",
        "measure": "nDCG@10",
        "baseline": str(base),
    }
    first, second, third = rows
    assert [row["run"] for row in rows] == [str(base), str(higher), str(clear)]
    assert [(row["recipe"], row["seed"]) for row in rows] == [("kl", 0), ("kl", 3), ("kl", 0)]
    assert first["mean"] == pytest.approx(0.25)
    nothing = ("difference", "difference_ci", "p", "p_holm", "visible")
    assert all(first[key] is None for key in nothing)
    assert second["mean"] == pytest.approx(0.35)
    assert second["difference"] == pytest.approx(0.1)
    low, high = second["difference_ci"]
    assert 0 < low < 0.1 < high <= 0.25
    assert (second["p"], second["p_holm"]) == (pytest.approx(0.25), pytest.approx(0.25))
    assert second["visible"] == pytest.approx(2.801585 * math.sqrt(0.08 / 5 / 6), abs=1e-6)
    assert third["difference"] == pytest.approx(0.5)
    assert third["difference_ci"] == pytest.approx([0.5, 0.5])
    assert (third["p"], third["p_holm"]) == (pytest.approx(2 / 64), pytest.approx(4 / 64))
    assert third["visible"] == pytest.approx(0.0, abs=1e-12)


def test_another_baseline_turns_the_sign_and_comes_first(copy: Copy, invoke: Invoke) -> None:
    base, higher = copy("base", BASE), copy("higher", HIGHER)
    answer = invoke("compare", base, higher, "--baseline", higher)
    assert answer.exit_code == 0, answer.output
    seen, table = answer.stdout.split("\n\n")
    assert seen.startswith(f"Smallest visible difference from {higher} in nDCG@10")
    assert f": {base} 0.1447." in seen
    headings, first, second = table.strip().splitlines()
    assert headings.split()[:4] == ["run", "recipe", "seed", "nDCG@10"]
    assert first.split()[0] == str(higher)
    assert first.split()[-1] == "baseline"
    assert second.split()[:4] == [str(base), "kl", "0", "0.2500"]
    assert "-0.1000" in second
    given = compare([base], baseline=higher)
    assert [row.run for row in given.rows] == [str(higher), str(base)]


@pytest.mark.slow
def test_two_real_runs_on_any_system_and_measure(
    finished: Finished, distil: Distil, tmp_path: Path
) -> None:
    distil(finished.data, out=tmp_path / "other", seed=1)
    tables = [
        pl.read_parquet(out / "per_query.parquet") for out in (finished.out, tmp_path / "other")
    ]
    for model, measure in (("student", "nDCG@10"), ("teacher", "RR@10"), ("bm25", "R@100")):
        means = [table.filter(pl.col("model") == model)[measure].mean() for table in tables]
        found = compare([finished.out, tmp_path / "other"], model=model, measure=measure)
        one, other = found.rows
        assert [one.estimate.value, other.estimate.value] == pytest.approx(means)
        assert other.difference is not None
        assert other.difference.value == pytest.approx(means[1] - means[0])
        assert (one.seed, other.seed) == (0, 1)
    assert other.difference.value == 0.0  # BM25 knows no seed
    assert other.p == 1.0


def refused(invoke: Invoke, *given: object, says: list[str]) -> None:
    """One message on stderr that says all of it."""
    answer = invoke("compare", *given)
    assert answer.exit_code == 2, answer.output
    assert isinstance(answer.exception, SystemExit)
    assert answer.stdout == ""
    message = answer.stderr.strip()
    assert message.startswith("limbeck: ")
    for words in says:
        assert words in message


def replace(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_runs_that_cannot_be_paired(copy: Copy, invoke: Invoke) -> None:
    base, other = copy("base", BASE), copy("other", HIGHER)
    digest = next(
        line.split('"')[1]
        for line in (other / "run.toml").read_text().splitlines()
        if line.startswith("digest")
    )
    replace(other / "run.toml", digest, "0" * 64)
    refused(invoke, base, other, says=[str(other), digest[:16], "0" * 16, "the same data"])
    replace(other / "run.toml", "0" * 64, digest)

    table = pl.read_parquet(other / "per_query.parquet")
    on_dev = table.with_columns(pl.lit("dev").alias("split"))
    on_dev.write_parquet(other / "per_query.parquet")
    refused(invoke, base, other, says=[f"{other} was measured on dev, {base} on test"])

    fewer = table.filter(pl.col("query_id") != table["query_id"][0])
    fewer.write_parquet(other / "per_query.parquet")
    example = repr(table["query_id"][0])
    refused(invoke, base, other, says=["figures of 5 queries", "of 6", example, "new folder"])

    (other / "per_query.parquet").write_bytes(b"PAR1")
    refused(invoke, base, other, says=[str(other / "per_query.parquet"), "damaged"])
    (other / "per_query.parquet").unlink()
    refused(invoke, base, other, says=[f"{other} has no per_query.parquet", "Add qrels/test.tsv"])

    (other / "metrics.json").unlink()
    refused(invoke, base, other, says=[f"{other} holds a run that is not finished", "Repeat"])
    (other / "run.toml").write_text("asked = 3")
    refused(invoke, base, other, says=[str(other / "run.toml"), "damaged"])


def test_what_is_no_run(copy: Copy, invoke: Invoke, data: Path, tmp_path: Path) -> None:
    base = copy("base", BASE)
    (tmp_path / "file").touch()
    for other, says in (
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / "file", "is a file"),
        (tmp_path / ("n" * 300), "cannot be read"),
        (data, "holds no run: it has no run.toml"),
    ):
        refused(invoke, base, other, says=[f"{other} {says}", "limbeck distill"])
    refused(invoke, base, says=["nothing to be compared with", "two finished runs"])
    refused(invoke, base, base.parent / "." / "base", says=["are one folder"])
    refused(invoke, base, base.parent / "x" / ".." / "base", says=["Name each run once"])


def test_an_unknown_system_or_measure(copy: Copy, invoke: Invoke) -> None:
    runs = [copy("base", BASE), copy("other", HIGHER)]
    says = ["has no system 'ranker'", "bm25, zero_shot, undistilled, teacher"]
    refused(invoke, *runs, "--model", "ranker", says=says)
    says = ["no figures of 'nDCG@5'", "--measure nDCG@10, RR@10, R@100"]
    refused(invoke, *runs, "--measure", "nDCG@5", says=says)
