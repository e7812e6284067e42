"""The temperature that is learned against the student, by numbers worked out by hand."""

import pytest
import torch

from limbeck.errors import ConfigError
from limbeck.models.temperature import LearnedTemperature
from limbeck.objectives.rows import kd
from limbeck.recipes.ctkd import CTKDSettings
from limbeck.settings import parse_settings
from limbeck.types import Scores

TEACHER, STUDENT = [[4.0, 0.0, -2.0]], [[1.0, 0.0, 0.0]]


def scores(rows: list[list[float]]) -> Scores:
    return Scores.of(torch.tensor(rows, dtype=torch.float64))


def at(theta: float, *, per_row: bool = False) -> LearnedTemperature:
    found = LearnedTemperature(1.0, 20.0, 4.0, per_row=per_row).double()
    with torch.no_grad():
        found.theta.fill_(theta)
    return found


@pytest.mark.parametrize(
    ("tau", "loss", "slope"),
    [
        (1.0, 0.464895, 1.050839),
        (2.0, 1.392851, 0.665326),
        (4.0, 2.015644, 0.115830),
        (8.0, 2.161919, 0.006312),
        (15.6212, 2.162022, -0.001631),
        (21.0, 2.153774, -0.001377),
    ],
)
def test_the_loss_and_its_slope_in_the_temperature(tau: float, loss: float, slope: float) -> None:
    """The gradient goes through both sides and the factor: without the teacher's it differs."""
    temperature = torch.tensor([tau], dtype=torch.float64, requires_grad=True)
    found = kd(scores(TEACHER), scores(STUDENT), temperature).mean()
    found.backward()
    assert float(found.detach()) == pytest.approx(loss, abs=1e-6)
    assert temperature.grad is not None
    assert float(temperature.grad) == pytest.approx(slope, abs=1e-6)


def test_a_learned_temperature_that_stays_is_plain_distillation() -> None:
    fixed = kd(scores(TEACHER), scores(STUDENT), 4.0).mean()
    learned = kd(scores(TEACHER), scores(STUDENT), torch.full((1,), 4.0)).mean()
    assert torch.equal(fixed, learned)


def test_the_temperature_keeps_its_bounds() -> None:
    for theta, tau in ((1.0, 15.621172), (0.0, 11.0), (-50.0, 1.0), (50.0, 21.0)):
        found = at(theta)(scores(TEACHER), scores(STUDENT), 1.0)
        assert found.tolist() == pytest.approx([tau], abs=1e-6)
    first = LearnedTemperature(1.0, 20.0, 4.0)(scores(TEACHER), scores(STUDENT), 1.0)
    assert first.tolist() == pytest.approx([4.0])


@pytest.mark.parametrize("per_row", [False, True])
def test_a_step_of_theta_raises_the_loss_and_lowers_it_without_reversal(per_row: bool) -> None:
    for strength, sign in ((1.0, 1), (-1.0, -1)):
        temperature = at(-1.0, per_row=per_row)
        before = kd(*both(), temperature(*both(), strength)).mean()
        before.backward()
        with torch.no_grad():
            for parameter in temperature.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-3 * parameter.grad
        after = kd(*both(), temperature(*both(), strength)).mean()
        assert sign * float((after - before).detach()) > 0


def both() -> tuple[Scores, Scores]:
    return scores(TEACHER), scores(STUDENT)


def test_one_step_by_hand() -> None:
    """At tau 11 dL/dtau = -0.000384, so dL/dtheta = -0.00192; ascent by 0.05: -0.000096."""
    temperature = at(0.0)
    kd(*both(), temperature(*both(), 1.0)).mean().backward()
    assert temperature.theta.grad is not None
    assert -0.05 * float(temperature.theta.grad) == pytest.approx(-0.000096, abs=1e-6)


def test_at_strength_0_theta_stays_and_the_student_learns_the_same() -> None:
    gradients = []
    for strength in (0.0, 1.0):
        student = Scores.of(torch.tensor(STUDENT, dtype=torch.float64, requires_grad=True))
        temperature = at(0.5)
        kd(
            scores(TEACHER), student, temperature(scores(TEACHER), student, strength)
        ).mean().backward()
        gradients.append(student.values.grad)
        assert temperature.theta.grad is not None
        assert (float(temperature.theta.grad) == 0) == (strength == 0)
    assert gradients[0] is not None
    assert torch.equal(*gradients)  # type: ignore[arg-type]


def test_a_first_temperature_outside_of_the_bounds_is_refused_before_any_work() -> None:
    for first in (0.5, 1.0, 21.0):
        with pytest.raises(ConfigError, match="must be between lowest_temperature"):
            parse_settings(CTKDSettings, {"first_temperature": first}, where="--set")
