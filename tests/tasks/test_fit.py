"""How long a model is trained, how fast, and how steps are shared out."""

import pytest
import torch

from limbeck.errors import ConfigError
from limbeck.tasks.fit import (
    FEWEST_STEPS,
    MAX_STEPS,
    MIN_STEPS,
    MOST_STEPS,
    SPARE,
    TrainingSettings,
    default_updates,
    player,
    share_updates,
    steps_within,
    updates_of,
)


def test_steps_are_passes_over_the_examples_within_bounds() -> None:
    assert default_updates(7.01) == 71  # ten passes, rounded up
    assert default_updates(0.1) == MIN_STEPS
    assert default_updates(1e6) == MAX_STEPS
    assert updates_of(TrainingSettings(), 7.0) == 70
    assert updates_of(TrainingSettings(max_steps=3), 7.0) == 3


def test_dev_is_asked_a_few_times_or_as_often_as_was_said() -> None:
    assert [TrainingSettings().eval_every(steps) for steps in (1, 3, 100)] == [1, 1, 34]
    assert TrainingSettings(eval_steps=20).eval_every(100) == 20
    assert TrainingSettings(eval_steps=0).eval_every(100) == 0


def test_steps_are_shared_out_whole_and_every_stage_has_one() -> None:
    assert share_updates(8, [0.25, 0.75]) == [2, 6]
    assert share_updates(5, [0.01, 0.99]) == [1, 4]
    assert sum(share_updates(7, [0.5, 0.3, 0.2])) == 7
    with pytest.raises(ConfigError, match="--set max_steps="):
        share_updates(1, [0.5, 0.5])


def test_a_budget_gives_the_most_steps_that_fit() -> None:
    def seconds(steps: int) -> float:
        return 10 + 2.0 * steps

    budget = 400.0
    steps = steps_within(budget, seconds)
    assert seconds(steps) <= SPARE * budget < seconds(steps + 1)
    assert steps_within(1e9, seconds) == MOST_STEPS
    assert steps_within(seconds(FEWEST_STEPS), seconds) == 0  # nothing to spare


def test_the_rate_rises_and_ends_at_nothing_and_dropout_is_that_of_the_settings() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))
    settings = TrainingSettings(
        learning_rate=0.3, warmup_ratio=0.2, weight_decay=0.01, dropout=0.1, optimizer="sgd"
    )
    made = player("student", model, settings, 10)
    assert [made.schedule(step) for step in (0, 1, 2, 10)] == [0.0, 0.5, 1.0, 0.0]
    assert model[1].p == 0.1
    assert isinstance(made.optimizer, torch.optim.SGD)
    matrix, vector = made.optimizer.param_groups
    assert (matrix["initial_lr"], matrix["weight_decay"]) == (0.3, 0.01)
    assert vector["weight_decay"] == 0.0  # biases are not decayed
