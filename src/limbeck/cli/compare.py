"""`limbeck compare`: do finished runs differ by more than chance?

Parses, calls `limbeck.pipeline.compare`, prints.
"""

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import options
from limbeck.cli.output import print_json


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Folders of finished runs on one collection."),
    ],
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="The run that the others are compared with.",
            show_default="the first one",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="The system of each run: `student`, `teacher`, `undistilled`, ...")
    ] = "student",
    measure: Annotated[
        str | None,
        typer.Option(
            help="A measure of the runs, by its name in their tables.",
            show_default="the first one",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the comparison as a page, too.", dir_okay=False),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare finished runs by paired tests over their queries."""
    from limbeck import pipeline

    found = pipeline.compare(runs, baseline=baseline, model=model, measure=measure, html=html)
    if as_json:
        print_json(found.as_json())
    else:
        typer.echo(found.text)
