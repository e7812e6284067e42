"""What a rehearsal counts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import cut_layers
from limbeck.models.loading import load_encoder
from limbeck.recipes import find
from limbeck.settings import parse_settings
from limbeck.tasks.estimate import RunEstimate
from limbeck.tasks.retrieval.costs import EncoderSpeeds, Speeds
from limbeck.tasks.retrieval.rehearsal import Rehearsal, Seen
from limbeck.teachers import CrossTeacher, DualTeacher
from retrieval_here import a_task


@pytest.fixture
def stage(tmp_path: Path, tiny_encoder: Encoder) -> Rehearsal:
    task, each = a_task(tmp_path, tiny_encoder), {"query": 1e-3, "passage": 1e-3}
    student, tokens = cut_layers(tiny_encoder, 2), {"query": 4.0, "passage": 8.0}
    encoders = [
        EncoderSpeeds(each, tokens, 1e-6, 1.0, model.forward_flops([8]), model.size_bytes())
        for model in (student, tiny_encoder)
    ]
    given = (task.collection, task.run, task.base, None)
    return Rehearsal(*given, speeds=Speeds(encoders), student=student)


def test_pairs_with_texts_made_on_the_way_are_told_apart(
    stage: Rehearsal, tiny_ranker: Ranker
) -> None:
    """Of N passages, passage N + 5 of query 0 is not passage 5 of query 1."""
    count = len(stage.collection.passages)
    pairs = np.array([[0, count + 5], [1, 5], [1, 5]])
    stage.pair_scores(CrossTeacher("ranker", tiny_ranker), pairs)
    assert stage.estimate.stages["score-ranker"].pairs == 2


def test_another_base_is_priced_by_its_size_wherever_it_mines(
    stage: Rehearsal, tiny_other_folder: Path
) -> None:
    other = DualTeacher("base-larger", load_encoder(tiny_other_folder))
    plain, rebased = stage.vectors(other, "passage"), stage.on_base(other, "larger")
    assert plain.shape[1] == 48
    before = stage.estimate.stages["encode-base-larger"].seconds
    stage.seen.read.clear()
    rebased.vectors(other, "passage")
    assert stage.estimate.stages["encode-base-larger"].seconds == pytest.approx(2 * before)
    assert before != pytest.approx(1e-3 * len(stage.collection.passages))


def test_each_teacher_is_better_than_the_one_before_and_than_any_student(
    stage: Rehearsal, tiny_ranker: Ranker
) -> None:
    """So that a rehearsal compares, chooses and goes on as the longest run would."""
    cross = CrossTeacher("cross", tiny_ranker)
    dual = stage.measure_teacher("teacher/dual", stage.base, "dev")
    ranker = stage.measure_teacher("teacher/cross", cross, "dev")
    student = stage.measure_encoder("student", stage.student, "dev")
    own, best, alone = (
        each.per_query["nDCG@10"].to_numpy().mean() for each in (dual, ranker, student)
    )
    assert alone < own < best
    names = {part.stage for part in stage.estimate.parts()}
    assert names >= {"encode-base", "score-cross", "evaluate-student"}


def test_what_was_asked_before_takes_no_time_again(stage: Rehearsal) -> None:
    """As the score store answers; a search by words is kept, too."""
    queries = stage.training_queries()
    for _ in range(2):
        stage.pools(queries, depth=5, miner=stage.base)
    passages = len(stage.collection.passages)
    counts = stage.estimate.stages["encode-base"]
    assert (counts.passages, counts.queries) == (passages, len(queries))
    assert stage.estimate.stages["mine"].searched == len(queries)


def test_passages_made_for_training_are_read_and_scored(
    stage: Rehearsal, tiny_encoder: Encoder, tiny_ranker: Ranker
) -> None:
    """Each dark example is tokenised for the student, the teacher is asked about it once, and it is
    trained on.
    """
    recipe, teacher = find("adam"), CrossTeacher("teacher", tiny_ranker)
    settings = {"max_steps": 4, "batch_size": 6, "warmup_share": 0.0, "reinforced": 0.0}
    counts = {}
    for dark in (0, 2):
        own = replace(stage, estimate=RunEstimate(), seen=Seen())
        given = parse_settings(
            recipe.settings, {**settings, "list_length": 3 + dark, "weakened": dark / (3 + dark)}
        )
        recipe.function(own, teacher, cut_layers(tiny_encoder, 2), given)
        stages = own.estimate.stages
        trained = next(each for name, each in stages.items() if name.startswith("train-"))
        counts[dark] = (stages["score-teacher"].pairs, stages["tokens"].passages, trained.seconds)
        assert trained.updates == 4
    pairs, passages, seconds = (
        more - less for more, less in zip(counts[2], counts[0], strict=True)
    )
    assert 36 <= pairs <= 48  # of 24 lists, some of which lose the same words
    assert 0 < passages <= pairs  # a text once; both models have one tokenizer
    assert seconds > 0
