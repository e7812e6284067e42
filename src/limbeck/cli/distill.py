"""`limbeck distill`: one command from files to a small retriever, with proof of what it keeps.

Parses, calls `limbeck.pipeline.distill` or `limbeck.pipeline.dry_run`, prints.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.cli import options
from limbeck.cli.output import as_dict, print_json, print_result
from limbeck.cli.progress import on_stderr


@options.run_options()
def distill(
    data: options.Data,
    out: Annotated[
        Path, typer.Option(help="The run's folder; the result is OUT/student.", file_okay=False)
    ],
    run: dict[str, Any],
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Resume although versions, processor or thread count differ from the run's.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the stages and leave.")] = False,
    as_json: options.Json = False,
) -> None:
    """Mine, score, train, evaluate and report; the same command resumes a run that was stopped."""
    from limbeck import pipeline

    arguments = {**run, "out": out, "force": force}
    with on_stderr() as progress:
        if dry_run:
            stages = pipeline.dry_run(data, **arguments, progress=progress)
        else:
            result = pipeline.distill(data, **arguments, progress=progress)
    if dry_run and as_json:
        print_json({"stages": stages})
    elif dry_run:
        typer.echo("\n".join(stages))
    elif as_json:
        print_json(as_dict(result))
    else:
        print_result(result)
        typer.echo(f"\nStudent: {out / 'student'}\nReport: {out / 'report.html'}")
