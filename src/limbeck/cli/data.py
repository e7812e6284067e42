"""`limbeck data`: can these files be used?

Parses, calls `limbeck.data.check.check`, prints.
"""

import typer

from limbeck.cli import options
from limbeck.cli.output import print_json
from limbeck.errors import DataError

app = typer.Typer(help="Look at data before using it.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Look at data before using it."""


@app.command("check")
def check(
    data: options.Data,
    drop_unknown_judgements: options.DropUnknownJudgements = False,
    as_json: options.Json = False,
) -> None:
    """Count and check a collection; exits 2 only for what `distill` refuses."""
    from limbeck.data.check import check as look

    report = look(data, drop_unknown_judgements=drop_unknown_judgements)
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo("\n".join(report.lines()))
    if report.errors:
        raise typer.Exit(DataError.exit_code)
