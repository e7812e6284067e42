import json

from .conftest import Invoke


def test_the_list_and_its_json_name_the_same_recipes(invoke: Invoke) -> None:
    listed = [line.split()[0] for line in invoke("recipes").stdout.splitlines()]
    known = {recipe["name"]: recipe for recipe in json.loads(invoke("recipes", "--json").stdout)}
    assert sorted(listed) == sorted(known)
    assert {"contrastive", "embed", "margin_mse", "kl"} <= set(known)
    for recipe in known.values():
        assert list(recipe) == [
            *["name", "summary", "paper", "task", "makes", "needs", "settings", "presets"]
        ]
        for setting in recipe["settings"]:
            assert setting.keys() == {"name", "type", "default", "description"}


def test_one_recipe_shows_every_setting(invoke: Invoke) -> None:
    [recipe] = json.loads(invoke("recipes", "kl", "--json").stdout)
    page = invoke("recipes", "kl").stdout
    assert all(f"  {setting['name']} = " in page for setting in recipe["settings"])


def test_presets_are_listed_as_set_would_take_them(invoke: Invoke) -> None:
    assert "Preset kl:teacher-only: contrastive_weight=0.0" in invoke("recipes", "kl").stdout
    [recipe] = json.loads(invoke("recipes", "kl", "--json").stdout)
    assert recipe["presets"] == {"teacher-only": {"contrastive_weight": 0.0}}


def test_an_unknown_recipe_is_refused_with_the_nearest_spelling(invoke: Invoke) -> None:
    result = invoke("recipes", "margin_mes")
    assert result.exit_code == 2
    assert "margin_mse" in result.stderr
