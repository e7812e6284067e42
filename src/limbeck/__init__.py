"""Distil strong, slow rankers into small, fast retrievers, on your own documents.

    import limbeck

    result = limbeck.distill("docs", out="run", teacher="path/to/teacher", recipe="kl")
    vectors = result.student.encode_query(["how do I read a file line by line"])

A name is imported when it is first used, so that `import limbeck`, and a command's help, load no
library. What each name is and does stands in its own module.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.bench.api import bench as bench
    from limbeck.config import RunConfig as RunConfig
    from limbeck.data import read_collection as read_collection
    from limbeck.errors import ArmsFailed as ArmsFailed
    from limbeck.errors import ConfigError as ConfigError
    from limbeck.errors import DataError as DataError
    from limbeck.errors import LimbeckError as LimbeckError
    from limbeck.errors import ModelError as ModelError
    from limbeck.errors import ScoreError as ScoreError
    from limbeck.errors import StageError as StageError
    from limbeck.errors import StoreError as StoreError
    from limbeck.errors import TeacherRefused as TeacherRefused
    from limbeck.indexing import open_searcher as open_searcher
    from limbeck.pipeline import compare as compare
    from limbeck.pipeline import distill as distill
    from limbeck.pipeline import evaluate as evaluate
    from limbeck.pipeline import load as load
    from limbeck.pipeline import plan as plan
    from limbeck.pipeline import predict as predict

    __version__: str

_ERRORS = (
    *("LimbeckError", "ConfigError", "DataError", "ModelError", "ScoreError"),
    *("StageError", "StoreError", "ArmsFailed", "TeacherRefused"),
)
_MODULES = {  # where each name is
    **dict.fromkeys(
        ("distill", "evaluate", "plan", "compare", "load", "predict"), "limbeck.pipeline"
    ),
    "open_searcher": "limbeck.indexing",
    "read_collection": "limbeck.data",
    "RunConfig": "limbeck.config",
    **dict.fromkeys(_ERRORS, "limbeck.errors"),
}

__all__ = [
    "ArmsFailed",
    "ConfigError",
    "DataError",
    "LimbeckError",
    "ModelError",
    "RunConfig",
    "ScoreError",
    "StageError",
    "StoreError",
    "TeacherRefused",
    "bench",
    "compare",
    "distill",
    "evaluate",
    "load",
    "open_searcher",
    "plan",
    "predict",
    "read_collection",
]


def __getattr__(name: str) -> Any:
    """Import a name that is used for the first time."""
    if name in _MODULES:
        found = getattr(importlib.import_module(_MODULES[name]), name)
    elif name == "bench":
        return importlib.import_module("limbeck.bench")  # which can be called
    elif name == "__version__":
        from importlib.metadata import version

        found = version("limbeck")
    else:
        raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The names that can be used."""
    return sorted({*globals(), *__all__, "__version__"})
