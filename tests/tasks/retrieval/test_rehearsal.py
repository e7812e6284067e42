"""What a rehearsal counts."""

from pathlib import Path

import numpy as np
import pytest

from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import cut_layers
from limbeck.models.loading import load_encoder
from limbeck.tasks.retrieval.costs import Speeds
from limbeck.tasks.retrieval.rehearsal import Rehearsal
from limbeck.teachers import CrossTeacher, DualTeacher
from retrieval_here import a_task


@pytest.fixture
def stage(tmp_path: Path, tiny_encoder: Encoder) -> Rehearsal:
    task, each = a_task(tmp_path, tiny_encoder), {"query": 1e-3, "passage": 1e-3}
    speeds = Speeds(each, each, 1e-6, 1e-6, 2e-3, {"query": 4.0, "passage": 8.0})
    return Rehearsal(
        task.collection,
        task.run,
        task.base,
        None,
        speeds=speeds,
        student=cut_layers(tiny_encoder, 2),
        taught=None,
        probed=task.base,
    )


def test_pairs_with_texts_made_on_the_way_are_told_apart(
    stage: Rehearsal, tiny_ranker: Ranker
) -> None:
    """Of N passages, passage N + 5 of query 0 is not passage 5 of query 1."""
    count = len(stage.collection.passages)
    pairs = np.array([[0, count + 5], [1, 5], [1, 5]])
    stage.pair_scores(CrossTeacher("ranker", tiny_ranker), pairs)
    assert stage.noted.stages["score-ranker"].pairs == 2


def test_another_base_is_priced_by_its_size_wherever_it_mines(
    stage: Rehearsal, tiny_other_folder: Path
) -> None:
    other = DualTeacher("base-larger", load_encoder(tiny_other_folder))
    plain, rebased = stage.vectors(other, "passage"), stage.from_base(other, "larger")
    assert plain.shape[1] == 48
    before = stage.noted.stages["encode-base-larger"].seconds
    stage.noted.read.clear()
    rebased.vectors(other, "passage")
    assert stage.noted.stages["encode-base-larger"].seconds == pytest.approx(2 * before)
    assert before != pytest.approx(1e-3 * len(stage.collection.passages))
