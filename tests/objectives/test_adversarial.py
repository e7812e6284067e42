"""AR2's losses against the numbers of its worked example, and what must hold of any numbers.

s = [2, 1, 3] are a ranker's scores and z = [1, 0, 0.5] a retriever's, the positive first.
softplus(-1) = 0.313262 and softplus(1) = 1.313262 are the two rewards beside log 0.5.
"""

import math

import pytest
import torch
from torch import Tensor

from limbeck.objectives.adversarial import preference, weighted_likelihood
from limbeck.objectives.listwise import cross_entropy, distillation_kl, soft_cross_entropy
from limbeck.types import Scores

s = torch.tensor([[2.0, 1.0, 3.0]])
z = torch.tensor([[1.0, 0.0, 0.5]])
S = torch.tensor([[2.0, 1.0, 3.0], [1.0, 0.0, -1.0]])
Z = torch.tensor([[1.0, 0.0, 0.5], [0.2, 0.1, 0.0]])
ONE = {"teacher_temperature": 1.0, "student_temperature": 1.0}


def close(value: Tensor, expected: object) -> None:
    torch.testing.assert_close(value, torch.tensor(expected), rtol=0, atol=1.5e-6)


def adversarial(ranker: Tensor, retriever: Tensor, **how: object) -> Tensor:
    return weighted_likelihood(Scores.of(retriever), preference(Scores.of(ranker)), **how)


def regulariser(ranker: Tensor, retriever: Tensor) -> Tensor:
    return soft_cross_entropy(Scores.of(ranker), Scores.of(retriever), **ONE)


def gradient(loss, at: Tensor) -> Tensor:
    values = at.clone().requires_grad_()
    loss(values).backward()
    return values.grad


def test_rewards_and_distributions() -> None:
    close(preference(Scores.of(s)), [[-0.693147, -0.313262, -1.313262]])
    close(torch.softmax(z, dim=1), [[0.506480, 0.186324, 0.307196]])
    close(torch.softmax(s, dim=1), [[0.244728, 0.090031, 0.665241]])


def test_the_losses() -> None:
    close(adversarial(s, z), 2.547894)
    close(adversarial(s, z, with_target=False), 2.076367)
    close(regulariser(s, z), 1.102921)
    close(0.5 * adversarial(s, z) + 0.5 * regulariser(s, z), 1.825407)
    close(cross_entropy(Scores.of(s)), 1.407606)  # the ranker's own


def test_the_gradients() -> None:
    """A step against them raises the last candidate, which the ranker wrongly prefers."""
    pulled = gradient(lambda values: adversarial(s, values), z)
    close(pulled, [[0.481720, 0.118948, -0.600668]])
    held = gradient(lambda values: regulariser(s, values), z)
    close(held, [[0.261752, 0.096293, -0.358045]])
    close(pulled.sum(), 0.0)
    close(held.sum(), 0.0)
    without = gradient(lambda values: adversarial(s, values, with_target=False), z)
    assert without[0, 0].item() == pytest.approx(0.823802, abs=1.5e-6)


def test_a_batch_of_two() -> None:
    close(adversarial(S, Z, reduction="sum"), 3.740145)
    close(adversarial(S, Z), 1.870072)
    close(regulariser(S, Z), 1.073671)
    close(0.5 * adversarial(S, Z, reduction="sum") + 0.5 * regulariser(S, Z), 2.406908)


def test_rewards_are_never_above_nought() -> None:
    ranker = torch.randn(20, 8, generator=torch.Generator().manual_seed(0)) * 5
    rewards = preference(Scores.of(ranker))
    assert (rewards <= 0).all()
    assert rewards[:, 0].tolist() == pytest.approx([math.log(0.5)] * 20)


def test_a_ranker_without_an_opinion_pushes_to_uniform() -> None:
    """Equal scores: log 0.5 everywhere, and the gradient log 0.5 * (1 - M p_k)."""
    equal = torch.full((1, 3), 7.0)
    close(preference(Scores.of(equal)), [[math.log(0.5)] * 3])
    found = gradient(lambda values: adversarial(equal, values), z)
    torch.testing.assert_close(found, math.log(0.5) * (1 - 3 * torch.softmax(z, dim=1)))


def test_a_constant_added_to_a_row_changes_nothing() -> None:
    moved = torch.tensor([[5.0], [-3.0]])
    for ranker, retriever in [(S + moved, Z), (S, Z + moved)]:
        torch.testing.assert_close(adversarial(ranker, retriever), adversarial(S, Z))
        torch.testing.assert_close(regulariser(ranker, retriever), regulariser(S, Z))


def test_the_minimiser_is_the_share_of_the_rewards() -> None:
    best = [0.298813, 0.135046, 0.566141]
    rewards = preference(Scores.of(s))
    close(rewards / rewards.sum(), [best])
    at = torch.tensor([best]).log()
    close(gradient(lambda values: adversarial(s, values), at), [[0.0, 0.0, 0.0]])


def test_the_regulariser_has_the_gradient_of_distillation() -> None:
    """H(pi, p) = KL(pi || p) + H(pi)."""

    def distilled(values: Tensor) -> Tensor:
        return distillation_kl(Scores.of(S), Scores.of(values), temperature=1.0)

    found = gradient(lambda values: regulariser(S, values), Z)
    torch.testing.assert_close(found, gradient(distilled, Z))
    pi = torch.softmax(S, dim=1)
    entropy = -(pi * pi.log()).sum(dim=1).mean()
    torch.testing.assert_close(regulariser(S, Z), distilled(Z) + entropy)


def test_empty_slots_and_rows_that_are_not_judged_play_no_part() -> None:
    nan = math.nan
    mask = torch.tensor([[True, True, True, False], [True, True, False, False], [True] * 4])
    ranker = torch.tensor([[2.0, 1, 3, nan], [9, 9, nan, nan], [1, 2, 3, 4]])
    retriever = torch.tensor([[1.0, 0, 0.5, nan], [3, 2, nan, nan], [1, 2, 3, 4]])
    target = torch.tensor([0, 0, -1])
    weight = torch.tensor([1.0, 0.0, 1.0])
    ranked = Scores(ranker, mask, target, weight)
    rewards = preference(ranked)
    assert not rewards[2].any()
    found = retriever.clone().requires_grad_()
    loss = weighted_likelihood(Scores(found, mask, target, weight), rewards)
    close(loss, 2.547894)
    loss.backward()
    assert not found.grad[1:].any()
    assert found.grad[0, 3] == 0
    nobody = Scores(retriever, mask, torch.full((3,), -1), weight)
    assert weighted_likelihood(nobody, rewards).item() == 0


def test_likely_candidates_far_apart_keep_their_gradient() -> None:
    """log(p + 1e-7) would cut it off."""
    far = torch.tensor([[0.0, -60.0, -40.0]])
    found = gradient(lambda values: adversarial(s, values), far)
    r = preference(Scores.of(s))
    torch.testing.assert_close(found, r - torch.softmax(far, dim=1) * r.sum())
