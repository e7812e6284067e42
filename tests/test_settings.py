"""Settings: what text becomes, what is refused and how it is said."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from limbeck.errors import ConfigError
from limbeck.recipes import registry
from limbeck.settings import (
    RENAMED,
    Setting,
    Settings,
    describe,
    parse_settings,
    read_toml,
)


class Example(Settings):
    temperature: float = Field(1.0, gt=0, description="divides the scores")
    updates: int = Field(100, ge=1, description="updates in all")
    window: tuple[int, int] = Field((1, 100), description="ranks")
    rates: list[float] = Field(default_factory=lambda: [0.1], description="one per layer")
    similarity: Literal["cosine", "dot"] = Field("cosine", description="of two vectors")
    shuffle: bool = Field(True, description="whether to")
    depth: int | None = Field(None, description="candidates per query")
    layers: tuple[int, ...] = Field((), description="positions")
    name: str = "x"

    @model_validator(mode="after")
    def window_is_in_order(self) -> "Example":
        if self.window[0] > self.window[1]:
            raise ValueError("the window must begin before it ends")
        return self


def test_text_is_read_by_type() -> None:
    found = parse_settings(
        Example,
        {
            "temperature": "0.5",
            "updates": "7",
            "window": "2, 20",
            "rates": "0.1,1e-3",
            "similarity": "dot",
            "shuffle": "false",
            "depth": "30",
            "layers": "0,5",
            "name": "none, at all",
        },
    )
    assert found == Example(
        temperature=0.5,
        updates=7,
        window=(2, 20),
        rates=[0.1, 0.001],
        similarity="dot",
        shuffle=False,
        depth=30,
        layers=(0, 5),
        name="none, at all",
    )


def test_typed_values_defaults_and_none() -> None:
    assert parse_settings(Example, {}) == Example()
    typed = {"temperature": 2, "window": [3, 4], "depth": None}
    assert parse_settings(Example, typed) == Example(temperature=2.0, window=(3, 4))
    assert parse_settings(Example, {"depth": "None"}).depth is None


class Renamed(Settings):
    max_steps: int = Field(100, description="steps in all")
    eval_steps: int = Field(3, description="steps between evaluations")


def test_an_old_name_is_refused_with_the_new_one() -> None:
    """From wherever it comes; not where a class still has the name, or has not the new one."""
    with pytest.raises(ConfigError, match=r"^run\.toml: updates is now max_steps\.$"):
        parse_settings(Renamed, {"updates": "7"}, where="run.toml")
    with pytest.raises(
        ConfigError, match=r"measures is now eval_steps \(steps between evaluations"
    ):
        parse_settings(Renamed, {"measures": 2})
    with pytest.raises(ValidationError, match="updates is now max_steps"):
        Renamed(updates=7)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="unknown setting 'warmup'"):
        parse_settings(Renamed, {"warmup": "0.1"})
    assert Example(updates=7).updates == 7


def test_every_old_name_is_of_a_setting_that_is_there() -> None:
    known = {name for recipe in registry().values() for name in recipe.settings.model_fields}
    assert set(RENAMED.values()) <= known
    assert not known & set(RENAMED)


def test_settings_round_trip() -> None:
    given = Example(temperature=0.3, depth=4, rates=[1.0, 2.0])
    assert parse_settings(Example, given.model_dump()) == given
    assert parse_settings(Example, given.model_dump(mode="json")) == given


def test_an_unknown_key_is_refused_with_the_nearest_spelling() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(Example, {"temprature": "1"}, where="run.toml")
    assert str(caught.value).startswith(
        "run.toml: unknown setting 'temprature'; did you mean 'temperature'? Settings here: "
    )
    with pytest.raises(ConfigError, match=r"--set: unknown setting 'zzz'\. Settings here: temp"):
        parse_settings(Example, {"zzz": "1"})


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("temperature", "0", "greater than 0"),
        ("temperature", "nan", "finite"),
        ("temperature", "none", "number"),
        ("updates", "2.5", "integer"),
        ("updates", "many", "integer"),
        ("similarity", "euclid", "'cosine' or 'dot'"),
        ("shuffle", "maybe", "boolean"),
        ("window", "1", "Field required"),
        ("window", "1,2,3", "at most 2"),
        ("rates", "0.1,x", "number"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_the_reason(
    key: str, value: str, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(Example, {key: value})
    message = str(caught.value)
    assert message.startswith(f"--set: {key} = {value!r} cannot be used: ")
    assert reason in message
    setting = next(found for found in describe(Example) if found.name == key)
    assert message.endswith(f" ({key}: {setting.type}; {setting.description}).")


def test_a_rule_over_several_settings_speaks_for_itself() -> None:
    with pytest.raises(ConfigError, match=r"^--set: the window must begin before it ends"):
        parse_settings(Example, {"window": "5,2"})


def test_settings_are_frozen_and_a_wrong_default_is_found() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Example().updates = 3  # type: ignore[misc]

    class Wrong(Settings):
        updates: int = Field(0, ge=1)

    with pytest.raises(ValidationError):
        Wrong()


def test_describe_in_the_words_of_a_user() -> None:
    assert describe(Example) == [
        Setting("temperature", "float", 1.0, "divides the scores"),
        Setting("updates", "int", 100, "updates in all"),
        Setting("window", "int, int", (1, 100), "ranks"),
        Setting("rates", "list of float", [0.1], "one per layer"),
        Setting("similarity", "cosine | dot", "cosine", "of two vectors"),
        Setting("shuffle", "bool", True, "whether to"),
        Setting("depth", "int | none", None, "candidates per query"),
        Setting("layers", "list of int", (), "positions"),
        Setting("name", "str", "x", ""),
    ]


def test_toml_files(tmp_path: Path) -> None:
    good = tmp_path / "good.toml"
    good.write_text('temperature = 0.5\nwindow = [1, 5]\nname = "狐"\n', encoding="utf-8")
    expected = Example(temperature=0.5, window=(1, 5), name="狐")
    assert parse_settings(Example, read_toml(good), where=good.name) == expected


def test_toml_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml: No such file"):
        read_toml(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("a = 1\nb = \n")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML: .*line 2"):
        read_toml(bad)
    bad.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML"):
        read_toml(bad)
