"""Weights of rows and teachers, by numbers worked out by hand."""

import math

import pytest
import torch

from limbeck.objectives.rows import weighted_mean
from limbeck.objectives.weighting import by_confidence, by_entropy, by_quality, self_paced
from limbeck.types import Scores


def column(*losses: float) -> torch.Tensor:
    return torch.tensor(losses, dtype=torch.float64).unsqueeze(1)


def test_a_teacher_counts_by_how_right_it_is() -> None:
    """softmax(e) = [0.158277, 0.260955, 0.580767]."""
    w = by_confidence(column(0.2, 0.7, 1.5))
    assert w.squeeze(1).tolist() == pytest.approx([0.420861, 0.369522, 0.209616], abs=1e-6)
    assert float((w * column(1, 2, 4)).sum()) == pytest.approx(1.998372, abs=2e-6)
    two = by_confidence(column(0.1, 5.0)).squeeze(1).tolist()
    assert two == pytest.approx([0.992608, 0.007392], abs=1e-6)


def test_equal_teachers_are_averaged_one_counts_whole_and_a_hopeless_one_not_at_all() -> None:
    assert by_confidence(column(1, 1, 1)).squeeze(1).tolist() == pytest.approx([1 / 3] * 3)
    assert by_confidence(column(7.0)).tolist() == [[1.0]]
    assert by_confidence(column(0.01, 0.01, 20)).squeeze(1).tolist() == pytest.approx(
        [0.5, 0.5, 0.0], abs=1e-6
    )
    assert torch.isfinite(by_confidence(column(1e4, 0, 1e5))).all()


def test_who_is_wrong_and_sure_counts_least_by_confidence_and_most_by_entropy() -> None:
    """Logits [3,0,0], [0,3,0] and [1,1,1] with the first class right: losses 0.094923, 3.094923 and
    1.098612.
    """
    teachers = [Scores.of(torch.tensor([row])) for row in ([3.0, 0, 0], [0, 3.0, 0], [1.0, 1, 1])]
    losses = torch.stack([-torch.log_softmax(each.values, dim=1)[:, 0] for each in teachers])
    assert losses.squeeze(1).tolist() == pytest.approx([0.094923, 3.094923, 1.098612], abs=1e-6)
    w = by_confidence(losses).squeeze(1).tolist()
    assert w == pytest.approx([0.479004, 0.078281, 0.442716], abs=1e-6)
    sure = by_entropy(teachers).squeeze(1)
    assert (2 * sure)[:2].tolist() == pytest.approx([0.799872] * 2, abs=1e-6)
    assert float(sure.sum()) == pytest.approx(1.0)


def test_empty_slots_say_nothing_of_entropy() -> None:
    mask = torch.tensor([[True, True, False]])
    some = Scores.of(torch.tensor([[1.0, 0.0, 9.0]]), mask=mask)
    less = Scores.of(torch.tensor([[1.0, 0.0]]))
    assert torch.equal(by_entropy([some, some])[0], by_entropy([less, less])[0])


def test_weights_of_losses() -> None:
    losses = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    at_one = [1, 0.851449, 0.683940, 0.367879, 0.064873]
    at_two = [1, 0.928221, 0.829997, 0.567668, 0.135335]
    assert self_paced(losses, 1.0).tolist() == pytest.approx(at_one, abs=1e-6)
    assert self_paced(losses, 2.0).tolist() == pytest.approx(at_two, abs=1e-6)
    two = losses[[1, 3]]
    assert self_paced(two, 1.0, "hard").tolist() == [1.0, 0.0]
    assert self_paced(two, 1.0, "linear").tolist() == [0.5, 0.0]
    assert torch.isfinite(self_paced(torch.zeros(2), 0.0, "linear")).all()


def test_the_weight_minimises_its_regularised_loss() -> None:
    """v l + m log m + v log v - t v with m = 1 + e^-t - v, at t = 1 and l = 0.5."""

    def objective(v: float) -> float:
        m = 1 + math.exp(-1) - v
        return v * 0.5 + m * math.log(m) + v * math.log(v) - v

    best = float(self_paced(torch.tensor([0.5], dtype=torch.float64), 1.0))
    assert objective(best) == pytest.approx(-0.903916, abs=1e-6)
    assert objective(best + 0.05) == pytest.approx(-0.899973, abs=1e-6)
    assert objective(best - 0.05) == pytest.approx(-0.900072, abs=1e-6)


def test_by_the_teachers_confidence_only_the_selected_count() -> None:
    """ADAM: of losses .2, 1, .4, .8 with confidence .95, .4, .8, .6. Divided by all four, they
    would be 0.05, 0.15, 0.35 and 0.6.
    """
    unsure = -torch.log(torch.tensor([0.95, 0.40, 0.80, 0.60]))
    losses = torch.tensor([0.2, 1.0, 0.4, 0.8])
    means = {0.9: 0.2, 0.7: 0.3, 0.5: 0.466667, 0.3: 0.6, 0.0: 0.6, 0.99: 0.0}
    for theta, mean in means.items():
        threshold = -math.log(theta) if theta else math.inf
        v = self_paced(unsure, threshold, "hard")
        assert float(weighted_mean(losses, v)) == pytest.approx(mean, abs=1e-6)
    sure = torch.tensor([0.0, 1e4])  # of which the second's probability is 0 in fp32
    assert self_paced(sure, math.inf, "hard").tolist() == [1.0, 1.0]


def test_the_quality_of_layers_as_weights() -> None:
    """softmax(-e / temperature); equal losses, equal weights."""
    losses = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    at_ten, at_one = [0.355627, 0.338283, 0.306091], [0.546549, 0.331499, 0.121952]
    assert by_quality(losses, 10.0).tolist() == pytest.approx(at_ten, abs=1e-6)
    assert by_quality(losses, 1.0).tolist() == pytest.approx(at_one, abs=1e-6)
    assert float(by_quality(losses, 0.1).sum()) == pytest.approx(1.0)
    assert by_quality(torch.full((4,), 0.7), 10.0).tolist() == [0.25] * 4
