"""The functions of the Python API that make, measure and plan a run; `limbeck` offers them, too."""

from limbeck.pipeline.api import demo, distill, dry_run, evaluate, load
from limbeck.pipeline.comparing import compare
from limbeck.pipeline.exporting import export
from limbeck.pipeline.planning import plan
from limbeck.pipeline.predicting import predict
from limbeck.pipeline.reporting import Result

__all__ = [
    "Result",
    "compare",
    "demo",
    "distill",
    "dry_run",
    "evaluate",
    "export",
    "load",
    "plan",
    "predict",
]
