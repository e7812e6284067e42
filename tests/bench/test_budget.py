"""Every recipe gets one budget and what it was told; what is unequal or unknown is refused."""

import pytest

from limbeck.bench.budget import (
    budget_of,
    equal_settings,
    given_to,
    given_to_teachers,
    refuse_unequal,
    systems_of,
)
from limbeck.errors import ConfigError
from limbeck.tasks.task import kind_named

RETRIEVAL = kind_named("retrieval")


def test_settings_go_to_the_recipes_that_have_them() -> None:
    """10 queries with lists of 4 are 10 * (1 + 4) = 50 texts, for a recipe without lists."""
    given = {"batch_size": "10", "kl.temperature": "0.1", "teacher_dual.max_steps": "5"}
    found = equal_settings(RETRIEVAL, ["contrastive", "kl", "embed"], given)
    assert found == {
        "contrastive": {"max_steps": "300", "batch_size": "10"},
        "kl": {"max_steps": "300", "batch_size": "10", "temperature": "0.1"},
        "embed": {"max_steps": "300", "texts_per_step": "50"},
    }
    assert given_to_teachers(given) == {"teacher_dual.max_steps": "5"}


def test_the_more_particular_setting_wins_whatever_the_order() -> None:
    given = {
        "kl:teacher-only.temperature": "0.3",
        "kl.temperature": "0.2",
        "temperature": "0.1",
    }
    assert given_to(RETRIEVAL, "contrastive", given) == {"temperature": "0.1"}
    assert given_to(RETRIEVAL, "kl", given) == {"temperature": "0.2"}
    assert given_to(RETRIEVAL, "kl:teacher-only", given) == {"temperature": "0.3"}


def test_a_budget_is_the_baselines_where_nothing_is_said() -> None:
    """Lists of `margin_mse` are 8 long by themselves, those of `contrastive` 4."""
    found = equal_settings(
        RETRIEVAL, ["contrastive", "kl", "margin_mse"], {"contrastive.candidates_per_query": "9"}, 7
    )
    assert found["margin_mse"] == {
        "max_steps": "7",
        "list_length": "4",
        "candidates_per_query": "9",
    }
    assert found["kl"] == {"max_steps": "7", "candidates_per_query": "9"}
    assert budget_of(RETRIEVAL, found) == {
        "max_steps": 7,
        "batch_size": 64,
        "list_length": 4,
        "candidates_per_query": 9,
    }


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kl.max_steps": "5"}, "max_steps must be the same .*contrastive 300, kl 5"),
        ({"kl.batch_size": "5"}, "batch_size must be .*contrastive 64, kl 5"),
        ({"kl.list_length": "5"}, "list_length must be .*contrastive 4, kl 5"),
        ({"kl.candidates_per_query": "5"}, "candidates_per_query must be .*contrastive 32, kl 5"),
        (
            {"max_stesp": "5"},
            "none of contrastive, kl has such a setting; did you mean 'max_steps'",
        ),
        ({"updates": "5"}, "--set: updates is now max_steps"),
        ({"kl.depth": "5"}, "for kl: depth is now candidates_per_query"),
        (
            {"teacher_dual.measures": "1"},
            "teacher_dual.: measures is now eval_steps .steps between",
        ),
        ({"kl.temprature": "5"}, "for kl: unknown setting 'temprature'; did you mean"),
        ({"teacher_dual.temprature": "5"}, "teacher_dual.: unknown setting"),
        ({"margin_mse.scale": "5"}, "margin_mse is not compared here. Add it to --recipes"),
        ({"lk.scale": "5"}, "no recipe 'lk'"),
        (
            {"kl:teacher.candidates_per_query": "5"},
            "no preset 'teacher'; did you mean 'teacher-only'",
        ),
    ],
)
def test_what_is_unequal_or_unknown_is_refused(given: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        equal_settings(RETRIEVAL, ["contrastive", "kl"], given)


def test_equal_is_equal_whoever_says_it() -> None:
    refuse_unequal(RETRIEVAL, {"kl": {"max_steps": "5"}, "embed": {"max_steps": "5"}})
    with pytest.raises(ConfigError, match="max_steps must be the same"):
        refuse_unequal(RETRIEVAL, {"kl": {"max_steps": "5"}, "embed": {"max_steps": "6"}})


def test_baselines_take_part_once_and_in_front_unless_named() -> None:
    assert systems_of(["embed", "embed"], "pydocs") == ["contrastive", "kl", "embed"]
    assert systems_of([" kl", "embed", "contrastive"], "pydocs") == ["kl", "embed", "contrastive"]
    assert systems_of(["kl:teacher-only"], "pydocs") == ["contrastive", "kl", "kl:teacher-only"]


@pytest.mark.parametrize(
    ("recipes", "says"),
    [
        ([""], "--recipes names none"),
        (["lk"], "no recipe 'lk'"),
        (["kl:teacheronly"], "kl has no preset 'teacheronly'; did you mean 'teacher-only'"),
        (["embed:paper"], "embed has no preset 'paper'. Its presets: none"),
        (["teacher_dual"], "teacher_dual fits a teacher"),
    ],
)
def test_what_cannot_be_compared_is_refused(recipes: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        systems_of(recipes, "pydocs")
