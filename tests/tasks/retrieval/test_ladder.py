"""Rungs in words, how they are made, and who stands above whom."""

import copy
from pathlib import Path

import numpy as np
import pytest

from limbeck.errors import ConfigError, ModelError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import cut_layers, layer_count
from limbeck.sources import ListSource
from limbeck.tasks.fit import TrainingSettings
from limbeck.tasks.retrieval import Retrieval
from limbeck.tasks.retrieval.ladder import (
    Rung,
    check_rung,
    fit_rung,
    judge,
    part_of,
    read_ladder,
    read_rung,
)
from limbeck.tasks.retrieval.systems import candidates
from limbeck.teachers import CrossTeacher, DualTeacher
from retrieval_here import a_task

FAST = TrainingSettings(max_steps=2, learning_rate=1e-3, eval_steps=0)


@pytest.fixture
def task(tmp_path: Path, tiny_encoder: Encoder) -> Retrieval:
    return a_task(tmp_path, tiny_encoder)


@pytest.mark.parametrize(
    ("text", "kind", "part"),
    [
        ("dual", "dual", 1),
        ("dual/2", "dual", 2),
        ("cross/12", "cross", 12),
        ("ensemble", "ensemble", 1),
        ("ensemble/2", "given", 1),
        ("dual/0", "given", 1),
        ("models/dual", "given", 1),
        ("train:dual", "dual", 1),
    ],
)
def test_a_rung_in_words(text: str, kind: str, part: int) -> None:
    assert read_rung(text) == Rung(text, kind, part, path=text if kind == "given" else None)


def test_a_rung_is_named_and_has_a_base_as_a_teacher_is() -> None:
    assert read_rung("big=train:cross:org/model") == Rung("big", "cross", base="org/model")
    assert read_rung("own=CrossEncoder:x") == Rung("own", "given", path="CrossEncoder:x")
    with pytest.raises(ConfigError, match="Say which kind to fit: train:dual, train:cross"):
        read_rung("train")
    with pytest.raises(ConfigError, match="ladder 'train:duel'"):
        read_rung("train:duel")


def test_models_on_a_ladder_are_loaded_and_a_given_teacher_comes_last(
    tiny_encoder_folder: Path, tiny_ranker_folder: Path, tiny_ranker: Ranker
) -> None:
    last = CrossTeacher("teacher", tiny_ranker)
    rungs, notes = read_ladder(
        [str(tiny_encoder_folder), "cross", f"CrossEncoder:{tiny_ranker_folder}"],
        last,
        has_dev=True,
    )
    assert [rung.kind for rung in rungs] == ["given", "cross", "given", "given"]
    assert [rung.given and rung.given.kind for rung in rungs] == ["dual", None, "cross", "cross"]
    assert rungs[-1].given is last
    assert not notes


def test_without_dev_there_is_no_ensemble() -> None:
    rungs, notes = read_ladder(["dual/2", "ensemble"], None, has_dev=False)
    assert [rung.name for rung in rungs] == ["dual/2"]
    assert notes == ["rung ensemble: left out, since its weights are fitted on dev"]
    with pytest.raises(ConfigError, match=r"has no rung\. Use --set ladder=dual/2,dual"):
        read_ladder(["ensemble"], None, has_dev=False)


def test_a_rung_that_is_nothing_is_refused_before_any_work(
    tiny_encoder_folder: Path, tiny_ranker_folder: Path
) -> None:
    for rung in ("dual/3", "cross", "ensemble", str(tiny_encoder_folder)):
        check_rung(rung)
    with pytest.raises(ModelError, match="no/such/model"):
        check_rung("no/such/model")
    check_rung(f"train:dual:{tiny_encoder_folder}")
    with pytest.raises(ModelError, match="no/such/base"):
        check_rung("x=train:dual:no/such/base")
    with pytest.raises(ModelError, match="starts from a CrossEncoder"):
        check_rung(f"train:cross:{tiny_ranker_folder}")


def test_parts_are_copies_with_layers_rounded_up(tiny_encoder: Encoder) -> None:
    """Of 4 layers: all, a half, a third and a ninth."""
    assert [layer_count(part_of(tiny_encoder, part)) for part in (1, 2, 3, 9)] == [4, 2, 2, 1]
    whole = part_of(tiny_encoder, 1)
    assert whole is not tiny_encoder
    assert whole.weights_digest() == tiny_encoder.weights_digest()
    assert all(parameter.requires_grad for parameter in whole.parameters())
    half = part_of(tiny_encoder, 2)
    assert half.weights_digest() == cut_layers(tiny_encoder, 2).weights_digest()


@pytest.mark.parametrize("rung", ["dual/2", "cross", "cross/2", "ensemble"])
def test_a_rung_is_fitted_on_judged_queries(
    task: Retrieval, tiny_encoder: Encoder, rung: str
) -> None:
    lists = task.lists(task.pools(task.labelled_queries(), depth=6, miner=task.base))
    sources = ListSource(lists, 5, 3, seed=0), ListSource(lists, 4, 3, seed=0)
    dual = DualTeacher("dual", copy.deepcopy(tiny_encoder))
    before = dual.encoder.weights_digest(), task.base.encoder.weights_digest()
    teacher = fit_rung(task, "fitted", read_rung(rung), dual, sources, FAST, 0.05, 6)
    assert (dual.encoder.weights_digest(), task.base.encoder.weights_digest()) == before
    assert teacher.kind == rung.partition("/")[0]
    assert (task.run.folder / "stages" / "train-fitted" / "done.json").exists()
    models = {"dual/2": "encoder", "cross": "ranker", "cross/2": "ranker"}
    if rung in models:
        assert len(getattr(teacher, models[rung]).transformer.state_dict()) > 0
    if rung == "ensemble":
        assert teacher.members[0] is dual
        assert len(teacher.members[1].ranker.transformer.bert.encoder.layer) == 4
    if rung == "cross/2":
        assert len(teacher.ranker.transformer.bert.encoder.layer) == 2
    if rung == "dual/2":
        assert layer_count(teacher.encoder) == 2


@pytest.mark.parametrize("kind", ["dual", "cross", "ensemble"])
def test_a_rung_starts_from_another_base(
    task: Retrieval, tiny_other_folder: Path, kind: str
) -> None:
    """Its own tokenizer and width; what it stands on is fitted from that base, too."""
    lists = task.lists(task.pools(task.labelled_queries(), depth=6, miner=task.base))
    sources = ListSource(lists, 5, 3, seed=0), ListSource(lists, 4, 3, seed=0)
    [rung], _ = read_ladder([f"big=train:{kind}:{tiny_other_folder}"], None, has_dev=True)
    teacher = fit_rung(task, "fitted", rung, task.base, sources, FAST, 0.05, 6)
    assert teacher.kind == kind
    stages = {path.name for path in (task.run.folder / "stages").glob("train-*")}
    both = {"train-fitted", "train-fitted-body"}
    assert stages == ({"train-fitted"} if kind == "dual" else both)
    models = {"dual": "encoder", "cross": "ranker"}
    members = teacher.members if kind == "ensemble" else [teacher]  # type: ignore[attr-defined]
    for member in members:
        assert getattr(member, models[member.kind]).transformer.config.hidden_size == 48
    pools = candidates(task, "dev", task.base)
    said = judge(task, teacher, None, pools, rung.start).message
    assert "; its base as it comes 0." in said


def test_a_given_rung_is_what_was_given(task: Retrieval, tiny_ranker: Ranker) -> None:
    given = CrossTeacher("teacher", tiny_ranker)
    rung = Rung("path", "given", given=given)
    assert fit_rung(task, "none", rung, task.base, (None, None), FAST, 0.05, 6) is given  # type: ignore[arg-type]
    assert not (task.run.folder / "stages" / "train-none").exists()


class Listed:
    """A teacher that knows dev: its score is 1 for a positive that it was told of, else 0."""

    kind = "cross"
    in_batch = False
    answers = None

    def __init__(self, name: str, task: Retrieval, known: int) -> None:
        self.name = self.digest = name
        queries = task.split_queries("dev").tolist()[:known]
        self.pairs = {(q, int(p)) for q in queries for p in task.positives_of(q, "dev")}

    def score_pairs(self, pairs: np.ndarray, work: object) -> np.ndarray:
        return np.array([float(tuple(pair) in self.pairs) for pair in pairs.tolist()], np.float32)


def test_a_rung_must_stand_above_the_one_before(task: Retrieval) -> None:
    pools = candidates(task, "dev", task.base)
    some, more = Listed("some", task, 2), Listed("more", task, 5)
    first = judge(task, some, None, pools)
    assert first.passed
    assert " nDCG@10 on dev" in first.message
    better = judge(task, more, some, pools)
    assert better.passed
    assert "skipped" not in better.message
    assert "paired randomisation" in better.message
    worse, equal = judge(task, some, more, pools), judge(task, more, Listed("m2", task, 5), pools)
    for verdict in (worse, equal):
        assert not verdict.passed
        assert ", skipped: " in verdict.message
    assert "+0.0000 to the one before, p = 1.0000" in equal.message
    assert judge(task, some, more, None).passed  # nobody is refused without dev
