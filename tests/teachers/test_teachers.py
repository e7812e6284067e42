import json

import numpy as np
import pytest
import torch

from limbeck.errors import ConfigError, ModelError, StageError, StoreError
from limbeck.teachers import CrossTeacher, DualTeacher, EnsembleTeacher, load_teacher


@pytest.fixture
def both(tiny_encoder, tiny_ranker):
    members = (DualTeacher("dual", tiny_encoder), CrossTeacher("cross", tiny_ranker))
    return EnsembleTeacher("both", members, (0.25, 0.75), (0.5, -1.0), (0.125, 2.0))


def test_the_folder_says_what_kind_of_teacher_it_is(tiny_encoder_folder, tiny_ranker_folder):
    dual, cross = load_teacher(str(tiny_encoder_folder)), load_teacher(str(tiny_ranker_folder))
    assert (dual.kind, dual.in_batch, dual.similarity) == ("dual", True, "cosine")
    assert (cross.kind, cross.in_batch, cross.name) == ("cross", False, "model")
    with pytest.raises(StageError, match="no vectors"):
        _ = cross.similarity


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError):
        load_teacher(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError):
        load_teacher(str(tmp_path / "empty"))


def test_digest_follows_weights_and_kind(tiny_encoder, tiny_ranker, tiny_encoder_folder):
    dual = DualTeacher("dual", tiny_encoder)
    before = dual.digest
    assert load_teacher(str(tiny_encoder_folder)).digest == before  # whatever its name and path
    assert CrossTeacher("cross", tiny_ranker).digest != before
    with torch.no_grad():
        next(iter(tiny_encoder.parameters())).add_(1e-3)
    assert DualTeacher("dual", tiny_encoder).digest != before


def test_digest_follows_length_prompt_and_truncation_side(tiny_encoder):
    digests = [DualTeacher("dual", tiny_encoder).digest]
    tiny_encoder.max_length = 20
    digests.append(DualTeacher("dual", tiny_encoder).digest)
    tiny_encoder.model.prompts["query"] = "find: "
    digests.append(DualTeacher("dual", tiny_encoder).digest)
    tiny_encoder.tokenizer.truncation_side = "left"
    digests.append(DualTeacher("dual", tiny_encoder).digest)
    assert len(set(digests)) == 4


def test_temperatures_are_those_of_the_scores_units(tiny_encoder, both):
    dual, cross = DualTeacher("dual", tiny_encoder), both.members[1]
    assert [each.temperature for each in (dual, cross, both)] == [0.05, 1.0, 0.3]
    tiny_encoder.model.similarity_fn_name = "dot"
    assert dual.temperature == 1.0


def test_ensembles_arithmetic(both):
    # 0.25 (1 - 0.5) / 0.125 + 0.75 (3 + 1) / 2 = 1 + 1.5; with 0 and -1: -1 + 0.
    combined = both.combine([np.float32([1.0, 0.0]), np.float32([3.0, -1.0])])
    assert combined.tolist() == [2.5, -1.0]


def test_fitted_takes_mean_and_deviation(tiny_encoder, tiny_ranker):
    members = [DualTeacher("dual", tiny_encoder), CrossTeacher("cross", tiny_ranker)]
    scores = [np.float32([1, 3]), np.float32([-4, 4])]
    fitted = EnsembleTeacher.fitted("both", members, [1, 0], scores)
    assert fitted.means == (2.0, 0.0)
    assert fitted.deviations == (1.0, 4.0)
    with pytest.raises(ConfigError, match="same score"):
        EnsembleTeacher.fitted("both", members, [1, 1], [np.float32([1, 1]), scores[1]])
    with pytest.raises(ConfigError, match="needs scores"):
        EnsembleTeacher.fitted("both", members, [1, 1], [np.float32([]), scores[1]])


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -0.5), (0.0, 0.0), (1.0, float("nan"))])
def test_weights_that_make_no_ensemble(both, weights):
    with pytest.raises(ConfigError, match="both"):
        EnsembleTeacher("both", both.members, weights, both.means, both.deviations)


def test_digest_of_an_ensemble_follows_weights_and_scale(both):
    others = [
        EnsembleTeacher("b", both.members, (0.5, 0.5), both.means, both.deviations),
        EnsembleTeacher("b", both.members, both.weights, (0.5, 0.0), both.deviations),
        EnsembleTeacher("b", both.members, both.weights, both.means, (1.0, 2.0)),
    ]
    assert len({both.digest, *(other.digest for other in others)}) == 4
    renamed = EnsembleTeacher("b", both.members, both.weights, both.means, both.deviations)
    assert renamed.digest == both.digest


def test_saved_is_reloaded(both, tmp_path):
    both.save(tmp_path / "teacher", card="# A teacher\n", stage="teacher")
    found = load_teacher(str(tmp_path / "teacher"))
    assert isinstance(found, EnsembleTeacher)
    assert found.digest == both.digest
    assert [member.name for member in found.members] == ["dual", "cross"]
    for member in both.members:
        member.save(tmp_path / member.name, card="# A teacher\n", stage="teacher")
        assert load_teacher(str(tmp_path / member.name)).digest == member.digest


def test_a_damaged_ensemble_is_named(both, tmp_path):
    both.save(tmp_path / "teacher", card="# A teacher\n", stage="teacher")
    about = tmp_path / "teacher" / "ensemble.json"
    for content in ("{", json.dumps({"name": "both"}), json.dumps({"members": [{"name": "x"}]})):
        about.write_text(content)
        with pytest.raises(StoreError, match=r"ensemble\.json"):
            load_teacher(str(tmp_path / "teacher"))
