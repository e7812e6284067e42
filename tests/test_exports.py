"""What the package offers can be had, and says what it is."""

import importlib
import pkgutil

import pytest

import limbeck

MODULES = sorted(found.name for found in pkgutil.walk_packages(limbeck.__path__, prefix="limbeck."))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_says_its_question_and_keeps_its_promises(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    for exported in getattr(module, "__all__", []):
        assert hasattr(module, exported), f"{name}.__all__ promises {exported}"


def test_types_are_shipped() -> None:
    assert pkgutil.get_data("limbeck", "py.typed") is not None
