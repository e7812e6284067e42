"""The verbs of the Python API."""

from limbeck.pipeline.comparing import compare
from limbeck.pipeline.exporting import export
from limbeck.pipeline.planning import plan
from limbeck.pipeline.reporting import Result
from limbeck.pipeline.verbs import demo, distill, dry_run, evaluate

__all__ = ["Result", "compare", "demo", "distill", "dry_run", "evaluate", "export", "plan"]
