"""The stand-ins of these tests are called as the real functions can be called."""

import importlib
import inspect
import sys

import pytest

from .conftest import FakePipeline, Invoke


@pytest.mark.parametrize(
    "command",
    [
        ["distill", "docs", "--out", "run"],
        ["distill", "docs", "--out", "run", "--dry-run"],
        ["evaluate", "model", "docs"],
        ["export", "model", "--to", "openvino", "--out", "exported"],
        ["demo"],
    ],
)
def test_the_pipeline_takes_what_the_command_gives(
    invoke: Invoke, pipeline: FakePipeline, command: list[str]
) -> None:
    invoke(*command)
    del sys.modules["limbeck.pipeline"]
    function = getattr(importlib.import_module("limbeck.pipeline"), pipeline.called)
    inspect.signature(function).bind(*pipeline.data, **pipeline.arguments)
