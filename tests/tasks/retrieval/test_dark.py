"""Where a teacher puts dark examples."""

from pathlib import Path

import numpy as np
import pytest

from limbeck.data.dark import Dark
from limbeck.models.encoder import Encoder, Ranker
from limbeck.recipes import find
from limbeck.report.dark import dark_page
from limbeck.tasks.retrieval.dark import ROLES, Placed, place_dark, read_by
from limbeck.teachers import CrossTeacher, DualTeacher
from retrieval_here import a_task


def placed(*levels: float) -> Placed:
    """Three queries whose scores lie around these levels; a role lacks one, another a whole row."""
    spread = np.array([[-0.1, 0.1], [-0.2, 0.2], [0.0, 0.3]], dtype=np.float32)
    scores = {role: level + spread for role, level in zip(ROLES, levels, strict=True)}
    scores[ROLES[0]][0, 1] = np.nan
    scores[ROLES[1]][2] = np.nan
    return Placed(scores, (0.1, 0.5), 2)


def test_the_order_that_is_hoped_for_gives_no_warning() -> None:
    found = placed(-3, 0, 2, 6)
    assert found.warning is None
    assert found.ordered("hard negative", "positive") == 1.0
    lines = "\n".join(found.lines())
    assert "3 queries, 2 of them judged" in lines
    assert "reinforced negative: 4 scores, mean 0.000, median 0.000" in lines
    assert "positive above weakened positive: in 100% of the queries" in lines
    assert "entropy of a list: 0.1000 nats, with dark examples 0.5000" in lines


def test_another_order_does() -> None:
    warning = placed(-3, 8, 2, 6).warning
    assert warning is not None
    assert "(positive above reinforced negative in 0% of the queries)" in warning
    assert "above hard negative" not in warning


def test_which_dark_example_is_above_the_other_is_told_and_no_reason_to_warn() -> None:
    found = placed(-3, 3, 2, 6)
    assert found.warning is None
    assert "weakened positive above reinforced negative: in 0% of the queries" in found.lines()


@pytest.mark.parametrize("kind", ["cross", "dual"])
def test_a_teacher_is_asked(
    tmp_path: Path, tiny_encoder: Encoder, tiny_ranker: Ranker, kind: str
) -> None:
    teacher = (
        CrossTeacher("t", tiny_ranker)
        if kind == "cross"
        else DualTeacher("t", tiny_encoder.frozen())
    )
    task = a_task(tmp_path, tiny_encoder)
    found = place_dark(task, teacher, Dark())
    assert {role: each.shape for role, each in found.scores.items()} == {
        "hard negative": (18, 7),
        "reinforced negative": (18, 4),
        "weakened positive": (18, 4),
        "positive": (18, 1),
    }
    assert found.judged == 12
    if kind == "dual":  # of equal words: what has some of the positive's is nearer to it
        assert found.ordered("hard negative", "positive") > 0.5
    page = dark_page("docs <b>", "t", found.scores, words=found.lines(), warning="Beware")
    assert "docs &lt;b&gt;" in page
    assert "weakened positive (72)" in page
    assert "Beware" in page


def test_both_read_what_is_put_in(tiny_encoder: Encoder, tiny_ranker: Ranker) -> None:
    """The one that reads less decides; a query has its room in a ranker."""
    read = read_by(tiny_encoder, CrossTeacher("t", tiny_ranker))
    alone = read_by(tiny_encoder, DualTeacher("t", tiny_encoder))
    text = "a " * 500
    assert 0 < read(text) <= alone(text) < len(text)
    assert read("short") == 5


def test_the_defaults_are_those_of_the_recipe() -> None:
    fields = {name: field.default for name, field in find("adam").settings.model_fields.items()}
    given = Dark()
    shares = np.array([given.reinforced, given.weakened]) / fields["list_length"]
    assert shares.tolist() == [fields["reinforced"], fields["weakened"]]
    assert given.mixed == (fields["mix_from"], fields["mix_to"])
    assert given.dropped == (fields["drop_from"], fields["drop_to"])
