"""The ensemble of fitted teachers: each stands on those before it, and the weights are the best."""

import copy
from pathlib import Path

import pytest

from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import cut_layers
from limbeck.recipes import find
from limbeck.teachers import CrossTeacher, DualTeacher, EnsembleTeacher, load_teacher
from recipes_here import fast_settings
from retrieval_here import a_task


def test_teachers_are_fitted_one_on_the_other_and_can_teach(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    task = a_task(tmp_path, tiny_encoder)
    recipes = {kind: find(f"teacher_{kind}") for kind in ("dual", "cross", "ensemble")}
    before = tiny_encoder.weights_digest()
    encoder = copy.deepcopy(tiny_encoder)
    dual = recipes["dual"].function(task, encoder, fast_settings(recipes["dual"]))
    assert dual.encoder.weights_digest() != before
    fitted = dual.encoder.weights_digest()
    cross = recipes["cross"].function(task, dual, fast_settings(recipes["cross"]))
    both = recipes["ensemble"].function(task, dual, cross, fast_settings(recipes["ensemble"]))
    assert dual.encoder.weights_digest() == fitted  # those it stands on stay as they are
    assert [teacher.kind for teacher in (dual, cross, both)] == ["dual", "cross", "ensemble"]
    assert sum(both.weights) == pytest.approx(1)
    for teacher in (dual, cross, both):
        student = cut_layers(tiny_encoder, 2)
        run = a_task(tmp_path / f"taught-{teacher.kind}", tiny_encoder)
        find("kl").function(run, teacher, student, fast_settings(find("kl")))
        teacher.save(tmp_path / teacher.kind, card="# card\n", stage="teacher")
        assert load_teacher(str(tmp_path / teacher.kind)).digest == teacher.digest


def test_an_ensembles_weights_are_the_best_on_dev(
    tmp_path: Path, tiny_encoder: Encoder, tiny_ranker: Ranker
) -> None:
    """No other of the eleven pairs of weights ranks the pooled dev candidates better."""
    task = a_task(tmp_path, tiny_encoder)
    recipe = find("teacher_ensemble")
    members = DualTeacher("dual", tiny_encoder.frozen()), CrossTeacher("cross", tiny_ranker)
    for depth in (6, 12):
        found = recipe.function(task, *members, recipe.settings(candidates_per_query=depth))
        pools = task.pools(task.split_queries("dev"), depth=depth, miner=members[0])
        scores = [task.pair_scores(member, task.pool_pairs(pools)) for member in members]
        qualities = {}
        for tenths in range(11):
            weights = (tenths / 10, 1 - tenths / 10)
            each = EnsembleTeacher.fitted("e", members, weights, scores)
            results = task.ranked(pools, each.combine(scores))
            qualities[tenths] = task.quality(results, "dev")["nDCG@10"].mean()
        assert qualities[round(10 * found.weights[0])] == max(qualities.values())
        assert found.means == pytest.approx([values.mean() for values in scores], abs=1e-5)
