"""The verbs of the Python API."""

from limbeck.pipeline.api import demo, distill, dry_run, evaluate
from limbeck.pipeline.comparing import compare
from limbeck.pipeline.exporting import export
from limbeck.pipeline.planning import plan
from limbeck.pipeline.reporting import Result

__all__ = ["Result", "compare", "demo", "distill", "dry_run", "evaluate", "export", "plan"]
