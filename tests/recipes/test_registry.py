"""Recipes and presets are found by name; a preset that sets nothing there is never recorded."""

import re
from pathlib import Path

import pytest

from limbeck.errors import ConfigError
from limbeck.recipes import find_preset, registry
from limbeck.recipes.registry import recipe
from limbeck.tasks.fit import TrainingSettings


def test_a_recipe_with_and_without_a_preset() -> None:
    kl = registry()["kl"]
    assert find_preset("kl") == (kl, {})
    assert find_preset("kl:teacher-only") == (kl, {"contrastive_weight": 0.0})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lk:teacher-only", "no recipe 'lk'"),
        ("kl:", "kl has no preset ''"),
        ("kl:techer-only", "did you mean 'teacher-only'"),
    ],
)
def test_unknown_ones_are_refused(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        find_preset(name)


def test_a_preset_of_what_a_recipe_does_not_have_is_no_recipe() -> None:
    for values in ({"max_stesp": 3}, {"max_steps": "many"}):
        with pytest.raises(ConfigError, match="preset toy:wrong"):
            recipe(
                "toy", summary="", paper="", settings=TrainingSettings, presets={"wrong": values}
            )
    assert "toy" not in registry.__wrapped__()  # past its cache


@pytest.mark.parametrize(
    "shared", ["recipes_here.py", "recipes/test_battery.py", "pipeline/test_staged.py"]
)
def test_what_holds_for_all_recipes_is_tested_without_their_names(shared: str) -> None:
    text = (Path(__file__).parent.parent / shared).read_text(encoding="utf-8")
    assert set(re.findall(r"""["'`](\w+)["'`]""", text)) & set(registry()) == set()
