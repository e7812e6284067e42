"""A run that is killed, or finds a full disk or damaged files, ends as if nothing had happened."""

import resource
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from collections_here import made_up
from limbeck import pipeline
from limbeck.errors import ConfigError, StoreError
from limbeck.recipes import find
from limbeck.record import read_record
from limbeck.store import digest_folder, read_json
from processes import SHARD_QUERIES, distil_in_child, work_in
from recipes_here import fast

from .conftest import FAST, Finished, Invoke

pytestmark = pytest.mark.slow

CHECKPOINT_EVERY = 2
KILLED = -9


@dataclass(frozen=True)
class Whole:
    """A run that nothing interrupted, and what it took."""

    out: Path
    arguments: dict[str, Any]
    work: Counter[str]


@pytest.fixture(scope="module")
def whole(tiny_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    arguments = {
        "data": made_up().write(folder / "data"),
        "student": str(tiny_encoder_folder),
        "student_layers": 2,
        "recipe": "kl",
        "teacher": "train:cross",
        "settings": {
            **FAST,
            "save_steps": CHECKPOINT_EVERY,
            "teacher_dual.save_steps": CHECKPOINT_EVERY,
            "teacher_cross.save_steps": CHECKPOINT_EVERY,
        },
        "force_teacher": True,
        "precision": "fp32",
    }
    places = {"out": folder / "run", "store": folder / "store"}
    assert distil_in_child({**arguments, **places}, folder / "ledger") == 0
    return Whole(folder / "run", arguments, work_in(folder / "ledger"))


def kind_of(label: str) -> str | None:
    """The kind of stage that a line of the ledger belongs to; None for what is not resumed."""
    if label.startswith("train-"):
        return "train"
    if label.startswith("mine "):
        return "mine"
    if label.startswith("Scoring with"):
        return "score"
    return "encode" if " with " in label else None


# What one kill may cost: the updates since a checkpoint, or one shard.
AT_MOST = {
    "train": CHECKPOINT_EVERY,
    "mine": SHARD_QUERIES,
    "score": 16,  # pairs of at least 8 tokens in a batch of 128
    "encode": 32,  # texts of at least 4
}


@pytest.mark.parametrize(
    "kills",
    [
        ["record:1", "tokens:1", "mine:1", "mine:3", "encode:3", "train:1", "train:3", "train:2"],
        ["baselines:1", "evaluate:2", "encode:9", "mine:9", "train:7", "score:2", "score:9"],
        ["teacher:1", "score:20", "train:5", "student:1", "evaluate:1", "report:1", "report:5"],
    ],
)
def test_killed_again_and_again(whole: Whole, tmp_path: Path, kills: list[str]) -> None:
    places = {"out": tmp_path / "run", "store": tmp_path / "store"}
    arguments, ledger = {**whole.arguments, **places}, tmp_path / "ledger"
    for kill in kills:
        assert distil_in_child(arguments, ledger, kill_at=kill) == KILLED, kill
    assert distil_in_child(arguments, ledger) == 0

    for name in ("student", "teacher", "baselines"):
        assert digest_folder(tmp_path / "run" / name) == digest_folder(whole.out / name)
    left = [path for path in (tmp_path / "run").rglob("*") if path.name[:5] in (".tmp-", ".old-")]
    assert not left
    for name in ("nDCG@10", "RR@10", "R@100"):
        found, expected = (
            {row["model"]: row[name] for row in read_json(out / "metrics.json")["rows"]}
            for out in (tmp_path / "run", whole.out)
        )
        assert found == expected

    allowed = Counter(kill.partition(":")[0] for kill in kills)
    done = work_in(ledger)
    assert set(done) == set(whole.work)
    twice = Counter[str]()
    for label, units in done.items():
        if kind := kind_of(label):
            assert units >= whole.work[label]
            twice[kind] += units - whole.work[label]
    for kind, units in twice.items():
        assert units <= allowed[kind] * AT_MOST[kind], (kind, units)


def test_several_teachers_are_killed_while_they_are_asked_and_scaled(
    whole: Whole,
    tmp_path: Path,
    tiny_ranker_folder: Path,
    tiny_sparse_folder: Path,
    tiny_late_folder: Path,
) -> None:
    """`run.toml` is written a second time, with their scale: on resuming that is `record:1`."""
    given = {"teacher": [str(tiny_sparse_folder), str(tiny_late_folder), str(tiny_ranker_folder)]}
    outs = [tmp_path / "whole", tmp_path / "killed"]
    arguments = [
        {**whole.arguments, **given, "out": out, "store": tmp_path / f"{out.name}-store"}
        for out in outs
    ]
    ledgers = [tmp_path / f"{out.name}-ledger" for out in outs]
    assert distil_in_child(arguments[0], ledgers[0]) == 0
    for kill in ("score:1", "score:4", "record:1", "score:9", "train:2", "evaluate:3"):
        assert distil_in_child(arguments[1], ledgers[1], kill_at=kill) == KILLED, kill
    assert distil_in_child(arguments[1], ledgers[1]) == 0

    assert digest_folder(outs[1] / "student") == digest_folder(outs[0] / "student")
    scales = [read_record(out)["teachers"] for out in outs]
    assert scales[0] == scales[1]
    assert min(scales[0]["deviations"]) > 0
    done = [work_in(ledger) for ledger in ledgers]
    assert set(done[0]) == set(done[1])
    for label, units in done[1].items():
        if kind_of(label) == "score":  # a reader's batch is of passages, with all pairs of each
            lost = 3 * AT_MOST["score"] if label.endswith("model-3") else done[0][label] // 2
            assert done[0][label] <= units <= done[0][label] + lost, label


def test_passages_made_on_the_way_are_asked_about_once(
    whole: Whole, tmp_path: Path, tiny_ranker_folder: Path
) -> None:
    """Killed while the teacher scores candidates and what was made of them, and in both stages."""
    settings = {**fast(find("adam")), "max_steps": 10, "save_steps": CHECKPOINT_EVERY}
    given = {"recipe": "adam", "teacher": str(tiny_ranker_folder), "settings": settings}
    outs = [tmp_path / "whole", tmp_path / "killed"]
    arguments = [
        {**whole.arguments, **given, "out": out, "store": tmp_path / f"{out.name}-store"}
        for out in outs
    ]
    ledgers = [tmp_path / f"{out.name}-ledger" for out in outs]
    assert distil_in_child(arguments[0], ledgers[0]) == 0
    kills = ("score:3", "train:2", "score:9", "score:12", "train:3")
    for kill in kills:
        assert distil_in_child(arguments[1], ledgers[1], kill_at=kill) == KILLED, kill
    assert distil_in_child(arguments[1], ledgers[1]) == 0
    assert digest_folder(outs[1] / "student") == digest_folder(outs[0] / "student")
    done = [work_in(ledger) for ledger in ledgers]
    scored = [
        sum(units for label, units in work.items() if kind_of(label) == "score") for work in done
    ]
    assert scored[0] <= scored[1] <= scored[0] + len(kills) * AT_MOST["score"]


def test_the_ledger_counts_all_kinds_of_work(whole: Whole) -> None:
    assert {kind_of(label) for label in whole.work} >= set(AT_MOST)
    for stage in ("train-kl", "train-teacher_dual", "train-teacher_cross"):
        assert whole.work[stage] == 6


def test_a_budget_survives_a_kill_before_and_after_it_is_written(
    whole: Whole, tmp_path: Path
) -> None:
    few = {key: value for key, value in FAST.items() if "list" not in key}
    arguments = {
        **whole.arguments,
        "settings": few,
        "teacher": "train:dual",
        "budget_seconds": 900.0,
        "out": tmp_path / "run",
        "store": tmp_path / "store",
    }
    ledger = tmp_path / "ledger"
    assert distil_in_child(arguments, ledger, kill_at="record:1") == KILLED
    assert not (tmp_path / "run" / "run.toml").exists()
    probes = 2 * 2 * 4  # of two models, two stages each, four writes a stage
    assert distil_in_child(arguments, ledger, kill_at=f"train:{probes + 4}") == KILLED
    decided = tomllib.loads((tmp_path / "run" / "run.toml").read_text())["decided"]
    assert distil_in_child(arguments, ledger) == 0
    record = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert record["decided"] == decided
    assert decided["list_length"] == 8


# --- a disk that is full --------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Any write beyond `size` bytes of a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_clear_error_and_the_same_command_goes_on(
    invoke: Invoke, finished: Finished, tmp_path: Path
) -> None:
    given = [finished.data, "--force-teacher"]
    for size in (100, 1_000, 3_000, 7_000, 20_000, 90_000, 150_000, 300_000):
        with files_of_at_most(size):
            answer = invoke("distill", *given)
        assert answer.exit_code == 2, (size, answer.output)
        message = answer.stderr.strip().splitlines()[-1]
        assert message.startswith(f"limbeck: Cannot write {tmp_path}"), message
        assert "run again" in message
    assert not (tmp_path / "run" / "metrics.json").exists()
    answer = invoke("distill", *given)
    assert answer.exit_code == 0, answer.output
    assert digest_folder(tmp_path / "run" / "student") == digest_folder(finished.out / "student")


# --- files that are damaged -----------------------------------------------------------------------


@pytest.fixture
def unfinished(finished: Finished, tmp_path: Path) -> dict[str, Any]:
    """The arguments of a run that was stopped before its report."""
    shutil.copytree(finished.out, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    return {**finished.arguments, "out": tmp_path / "run"}


def test_a_run_may_be_moved(
    finished: Finished, unfinished: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("all of it was done")

    monkeypatch.setattr("limbeck.training.loop._update", refuse)
    pipeline.distill(finished.data, **unfinished)
    assert digest_folder(unfinished["out"] / "student") == digest_folder(finished.out / "student")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [cut, flip])
@pytest.mark.parametrize(
    "name",
    [
        "stages/train-kl/state.safetensors",
        "stages/encode-dual-passages-*/passages/plan/known.safetensors",
        "stages/encode-base-passages-*/passages/shard-00000.safetensors",
        "stages/mine-dual-*/shard-00000.parquet",
        "stages/tokens/passage-*/ids.i32",
        "stages/tokens/query-*/tokens.json",
        "stages/evaluate-student-test-*/per_query.parquet",
        "stages/evaluate-bm25-test-*/run.trec",
        "stages/evaluate-bm25-test-*/done.json",
        "stages/train-teacher_dual/inputs.json",
    ],
)
def test_a_damaged_artefact_is_refused_and_made_again_once_deleted(
    finished: Finished, unfinished: dict[str, Any], name: str, spoil: Any
) -> None:
    if "tokens" in name:  # which nothing reads when all else is there
        [done] = unfinished["out"].glob("stages/evaluate-student-test-*")
        shutil.rmtree(done)
    [path] = unfinished["out"].glob(name)
    spoil(path)
    with pytest.raises(StoreError) as found:
        pipeline.distill(finished.data, **unfinished)
    assert "Delete it and run the same command again." in str(found.value)
    assert "damaged" in str(found.value)
    message = str(found.value)
    result = None
    while result is None:  # the advice is followed; a file may lead to its folder
        named = Path(message.partition(" is damaged")[0])
        assert named == path or named in path.parents
        shutil.rmtree(named) if named.is_dir() else named.unlink()
        try:
            result = pipeline.distill(finished.data, **unfinished)
        except StoreError as error:
            message = str(error)
    assert digest_folder(unfinished["out"] / "student") == digest_folder(finished.out / "student")
    for here, there in zip(result.rows, finished.result.rows, strict=True):
        assert (here["model"], here["nDCG@10"]) == (there["model"], there["nDCG@10"])


def test_a_checkpoint_that_is_cut_short(whole: Whole, tmp_path: Path) -> None:
    places = {"out": tmp_path / "run", "store": tmp_path / "store"}
    arguments, ledger = {**whole.arguments, **places}, tmp_path / "ledger"
    assert distil_in_child(arguments, ledger, kill_at="train:3") == KILLED
    state = tmp_path / "run" / "stages" / "train-teacher_dual" / "state.safetensors"
    cut(state)
    assert distil_in_child(arguments, ledger) == 2
    message = (tmp_path / "ledger.error").read_text()
    assert message.startswith(f"{state} is damaged")
    assert message.endswith("Delete it and run the same command again.")
    state.unlink()
    assert distil_in_child(arguments, ledger) == 0
    assert digest_folder(tmp_path / "run" / "student") == digest_folder(whole.out / "student")


def test_a_student_that_was_cut_short_is_written_again(
    finished: Finished, unfinished: dict[str, Any]
) -> None:
    cut(unfinished["out"] / "student" / "model.safetensors")
    pipeline.distill(finished.data, **unfinished)
    assert digest_folder(unfinished["out"] / "student") == digest_folder(finished.out / "student")


@pytest.mark.parametrize("share", [0, 0.5, 0.9])
def test_a_record_that_was_cut_short(
    finished: Finished, unfinished: dict[str, Any], share: float
) -> None:
    path = unfinished["out"] / "run.toml"
    content = (finished.out / "run.toml").read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises((StoreError, ConfigError), match=str(unfinished["out"])) as found:
        pipeline.distill(finished.data, **unfinished)
    assert "elete" in str(found.value) or "Choose another --out" in str(found.value)


# --- other conditions -----------------------------------------------------------------------------


def test_other_conditions_are_refused_unless_forced(
    finished: Finished, unfinished: dict[str, Any]
) -> None:
    path = unfinished["out"] / "run.toml"
    path.write_text(path.read_text().replace("threads = 1", "threads = 64"))
    with pytest.raises(ConfigError, match=r"threads is 64 there and 1 here.*--force"):
        pipeline.distill(finished.data, **unfinished)
    pipeline.distill(finished.data, **unfinished, force=True)


def test_data_that_changed_are_refused(
    tmp_path: Path, finished: Finished, unfinished: dict[str, Any]
) -> None:
    path = finished.data / "qrels" / "train.tsv"
    before = path.read_text()
    try:
        path.write_text(before + "q0\tp1\t1\n")
        with pytest.raises(ConfigError, match="begun with other data"):
            pipeline.distill(finished.data, **unfinished)
    finally:
        path.write_text(before)
