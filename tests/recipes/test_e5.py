"""E5 on a toy collection: its stages, its numbers, and what becomes of the pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limbeck.data.pairs import Pairs
from limbeck.models.encoder import Encoder
from limbeck.models.layers import cut_layers
from limbeck.models.loading import load_encoder
from limbeck.objectives.listwise import cross_entropy, kl_divergence
from limbeck.recipes import find_preset
from limbeck.teachers import DualTeacher
from limbeck.types import Scores
from recipes_here import fast_settings
from retrieval_here import Trained, a_task, encoded, in_memory, trained_stages

# for the tests that all recipes share (recipes_here.py)
FAST: dict[str, object] = {
    "max_steps": 16,
    "filter_steps": 3,
    "pairs_per_step": 8,
    "pool_size": 10,
}
ALL_COUNT: dict[str, object] = {"max_steps": 16}
OTHERWISE: dict[str, object] = {"k": 1, "pool_size": 40}


def logits(cosines: list[float], tau: float) -> Scores:
    return Scores.of(torch.tensor([cosines]) / tau)


# --- the numbers of the paper's equations ---------------------------------------------------------

COSINES = [0.80, 0.78, 0.75, 0.70]  # the positive first


@pytest.mark.parametrize(("tau", "loss"), [(0.01, 0.132885), (0.05, 0.776355), (1.0, 1.344499)])
def test_the_contrastive_loss_at_several_temperatures(tau: float, loss: float) -> None:
    scores = Scores.of(torch.tensor([COSINES]))
    assert float(cross_entropy(scores, tau)) == pytest.approx(loss, abs=2e-6)


def test_kl_and_a_fifth_of_the_contrastive_term() -> None:
    teacher, student = Scores.of(torch.tensor([[6.0, 2.0, 1.0, -1.0]])), logits(COSINES, 1.0)
    kl = kl_divergence(teacher, student, teacher_temperature=1.0, student_temperature=0.01)
    assert float(kl) == pytest.approx(0.074213, abs=2e-6)
    assert float(kl + 0.2 * cross_entropy(student, 0.01)) == pytest.approx(0.100790, abs=2e-6)


def test_two_queries_in_one_batch() -> None:
    values = torch.tensor([[0.9, 0.2], [0.3, 0.8]])
    scores = Scores.of(values, target=torch.arange(2))
    assert float(cross_entropy(scores, 0.05)) == pytest.approx((1e-6 + 4.5e-5) / 2, abs=5e-7)


def test_cosines_at_the_smallest_temperature_stay_finite() -> None:
    """Logits of -100 and 100."""
    values = torch.tensor([[-1.0, 1.0]], requires_grad=True)
    loss = cross_entropy(Scores.of(values), 0.01)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(200.0)
    assert torch.isfinite(values.grad).all()


def test_a_student_that_agrees_has_no_loss_and_no_gradient_at_alpha_zero() -> None:
    student = torch.tensor([[0.06, 0.02, 0.01]], requires_grad=True)
    loss = kl_divergence(
        Scores.of(torch.tensor([[6.0, 2.0, 1.0]])),
        Scores.of(student),
        teacher_temperature=1.0,
        student_temperature=0.01,
    )
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert torch.allclose(student.grad, torch.zeros(1, 3), atol=1e-4)


# --- the stages -----------------------------------------------------------------------------------


class Ran:
    """What a run of the recipe did."""

    def __init__(self, folder: Path, encoder: Encoder, **given: Any) -> None:
        preset = given.pop("preset", "")
        recipe, values = find_preset(f"e5:{preset}" if preset else "e5")
        self.task = a_task(folder, encoder, given.pop("collection", None))
        for name in ("pairs", "prompted"):
            if name in given:
                setattr(self.task, name, given.pop(name))
        self.student = given.pop("student", None) or cut_layers(encoder, 2)
        teacher = given.pop("teacher", DualTeacher("dual", encoder.frozen()))
        settings = fast_settings(recipe, **{**values, **given})
        self.stages: list[Trained]
        with pytest.MonkeyPatch.context() as patch:
            self.stages, self.told = trained_stages(
                patch, recipe.function, self.task, teacher, self.student, settings
            )

    @property
    def names(self) -> list[str]:
        return [stage.name for stage in self.stages]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, _encoder: Encoder) -> Ran:
    return Ran(tmp_path_factory.mktemp("e5"), _encoder)


def test_the_filter_then_both_halves_of_the_students_steps(whole: Ran) -> None:
    assert whole.names == ["e5-filter", "e5-pretrain", "e5-tune"]
    assert [stage.stage.updates for stage in whole.stages] == [3, 8, 8]
    first, second, third = whole.stages
    start = first.before["student"].weights_digest()
    assert second.before["student"].weights_digest() == start  # not the filter's weights
    assert third.before["student"].weights_digest() == second.after["student"].weights_digest()


def test_the_pairs_are_those_that_the_first_model_finds(whole: Ran) -> None:
    """Ranks by plain sentence-transformers, among the same pool."""
    first, second, _ = whole.stages
    task, judge = whole.task, first.after["student"]
    texts = list(task.weak_pairs().rows())
    pairs = task.learnable_pairs()
    queries = encoded(judge, [texts[at][0] for at in pairs], "query")
    passages = encoded(judge, [texts[at][1] for at in pairs], "passage")
    keys, documents = task.weak_pairs().keys[pairs, 1:].T
    _, firsts = np.unique(keys, return_index=True)
    pool = firsts[np.random.default_rng(0).permutation(len(firsts))[:10]]
    kept = []
    for place in range(len(pairs)):
        scores = passages[pool] @ queries[place]
        better = (scores > passages[place] @ queries[place]) & (keys[pool] != keys[place])
        better &= documents[pool] != documents[place]
        kept.append(1 + better.sum() <= 2)
    assert second.stage.source.pairs.tolist() == pairs[np.array(kept)].tolist()
    assert 0 < sum(kept) < len(pairs)
    seen = (
        f"{len(texts)} seen, {len(texts) - len(pairs)} dropped with the text of a dev or test query"
    )
    share = f"{sum(kept):,} kept ({sum(kept) / len(pairs):.1%} of the others)"
    assert whole.told.notes == (f"pairs: {seen}, {share}",)


def test_the_losses_are_those_of_the_page(whole: Ran) -> None:
    _, pretrain, tune = whole.stages
    _, parts = pretrain.first_parts(whole.task)
    batch = pretrain.stage.source.batch(0)
    texts = list(whole.task.weak_pairs().rows())
    model = pretrain.before["student"]
    queries = encoded(model, [texts[at][0] for at in batch.pairs], "query")
    passages = encoded(model, [texts[at][1] for at in batch.pairs], "passage")
    scores = queries @ passages.T / 0.05
    scores[batch.same & ~np.eye(len(scores), dtype=bool)] = -np.inf
    expected = np.log(np.exp(scores).sum(axis=1)) - scores.diagonal()
    assert parts == pytest.approx({"contrastive": expected.mean()}, rel=1e-4)
    signals, parts = tune.first_parts(whole.task)
    assert parts.keys() == {"kl", "contrastive"}
    contrast = cross_entropy(signals.scores["student/in_batch"], 0.05)
    assert parts["contrastive"] == pytest.approx(0.2 * float(contrast), rel=1e-5)
    assert signals.scores["student"].values.shape[1] == 3  # own lists
    unlabelled = signals.scores["student/in_batch"].target < 0
    assert unlabelled.any() or len(tune.stage.source.lists) > 12  # they count in the KL term


def test_prefixes_are_prompts_that_the_folder_keeps(whole: Ran, tmp_path: Path) -> None:
    whole.student.save(tmp_path / "saved", card="", stage="student")
    found = load_encoder(tmp_path / "saved")
    assert [found.prompt(role) for role in ("query", "passage")] == ["query: ", "passage: "]
    vectors = {role: encoded(found, ["cat dog"], role)[0] for role in ("query", "passage")}
    vectors["none"] = found.model.encode(["cat dog"], prompt="", show_progress_bar=False)[0]
    for one, other in (("query", "passage"), ("query", "none"), ("passage", "none")):
        assert not np.allclose(vectors[one], vectors[other])
    assert all(np.linalg.norm(each) == pytest.approx(1, abs=1e-5) for each in vectors.values())


def test_prompts_that_were_asked_for_or_named_stay(tmp_path: Path, tiny_encoder: Encoder) -> None:
    short = {"max_steps": 1, "preset": "pretrain-only", "k": None}
    asked = Ran(tmp_path / "a", tiny_encoder, prompted=True, **short)
    assert asked.student.prompt("query") == ""
    student = cut_layers(tiny_encoder, 2)
    student.model.prompts["query"] = "find: "
    named = Ran(tmp_path / "b", tiny_encoder, student=student, **short)
    assert [named.student.prompt(r) for r in ("query", "passage")] == ["find: ", ""]


@pytest.mark.parametrize(
    ("preset", "stages"),
    [
        ("no-filter", ["e5-pretrain", "e5-tune"]),
        ("pretrain-only", ["e5-filter", "e5-pretrain"]),
    ],
)
def test_presets_leave_stages_out(
    preset: str, stages: list[str], tmp_path: Path, tiny_encoder: Encoder
) -> None:
    ran = Ran(tmp_path, tiny_encoder, preset=preset, max_steps=2, filter_steps=1)
    assert ran.names == stages
    assert sum(s.stage.updates for s in ran.stages if s.name != "e5-filter") == 2


def test_alpha_zero_is_kl_alone(tmp_path: Path, tiny_encoder: Encoder) -> None:
    ran = Ran(tmp_path, tiny_encoder, preset="kl-only", max_steps=2, filter_steps=1, k=None)
    assert ran.stages[-1].losses[0].keys() == {"kl"}


def test_without_judgements_and_a_teacher_it_pretrains(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    collection = in_memory()
    collection.qrels.pop("train")
    ran = Ran(
        tmp_path, tiny_encoder, collection=collection, teacher=None, max_steps=2, filter_steps=1
    )
    assert ran.names == ["e5-filter", "e5-pretrain"]
    assert ran.told.notes[-1] == "e5: pre-training alone"


def test_pairs_with_the_text_of_a_dev_or_test_query_are_no_pairs(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    collection = in_memory()
    held_out = collection.queries.texts[
        collection.queries.index[next(iter(collection.qrels["dev"]))]
    ]
    rows = [("a cat", "sleeps"), (held_out.upper(), "x y"), ("z w", f" {held_out} "), ("b", "c")]
    pairs = Pairs.of("by hand", lambda: iter(rows))
    task = a_task(tmp_path, tiny_encoder, collection)
    task.pairs = pairs
    assert task.learnable_pairs().tolist() == [0, 3]
