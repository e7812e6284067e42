"""`limbeck plan`: how long would a run take, before it begins?

Parses, calls `limbeck.pipeline.plan`, prints.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.cli import options
from limbeck.cli.output import print_json
from limbeck.cli.progress import on_stderr


@options.run_options()
def plan(
    data: options.Data,
    run: dict[str, Any],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the run to be; the plan is kept there, and the run is compared "
            "with it.",
            file_okay=False,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Estimate time, memory and disk of a `distill` with the same options, from a short probe."""
    from limbeck import pipeline

    with on_stderr() as progress:
        found = pipeline.plan(data, out=out, **run, progress=progress)
    if as_json:
        print_json(found.as_json())
    else:
        typer.echo(found.text)
