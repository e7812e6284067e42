"""Which kinds of teacher are there? Every module of this folder with a subclass of `Teacher`.

The registry knows no kind: modules are discovered, and a kind says itself which texts name it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from limbeck.data.collection import Collection
from limbeck.models.exported import exported_class, is_exported
from limbeck.models.loaded import class_of, name_of_model, wrap
from limbeck.models.loading import kind_of
from limbeck.teachers.teacher import Teacher


@cache
def kinds() -> tuple[type[Teacher], ...]:
    """Every kind of teacher, by its module's name."""
    import limbeck.teachers

    for module in pkgutil.iter_modules(limbeck.teachers.__path__):
        importlib.import_module(f"limbeck.teachers.{module.name}")
    found = (each for each in Teacher.__subclasses__() if each.__module__.startswith(__package__))
    return tuple(sorted(found, key=lambda each: each.__module__))


def kind_named(spec: str) -> type[Teacher]:
    """The kind of teacher that a text names: by itself, or by the class of the model there.

    Raises:
        ModelError: when there is no model, or it is none that can teach.
    """
    for kind in kinds():
        if kind.is_named_by(spec):
            return kind
    name = exported_class(spec) if is_exported(spec) else kind_of(spec)
    return next(kind for kind in kinds() if name in kind.model_classes)


def load_teacher(spec: str, collection: Collection | None = None) -> Teacher:
    """Load the teacher in a folder, exported ones too, of a hub name, of a `kind:path`, or of any
    other name of a kind; `collection` is the one that it will be asked about, if known.

    Raises:
        ConfigError: when it was exported and the extra of its runtime is not installed.
        DataError: when a file of scores cannot be used.
        ModelError: when it is no model, or its weights do not fit.
        StoreError: when the folder of an ensemble is damaged.
    """
    return kind_named(spec).load(spec, collection)


def teacher_of(model: object) -> Teacher:
    """The teacher that a loaded model makes: one of sentence-transformers, or of Limbeck.

    Raises:
        ModelError: when it is no such model, or one that cannot be read.
    """
    wrapped = wrap(model)
    kind: Any = next(kind for kind in kinds() if class_of(wrapped) in kind.model_classes)
    found: Teacher = kind(name_of_model(wrapped), wrapped)
    return found
