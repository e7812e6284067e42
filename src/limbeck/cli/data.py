"""`limbeck data`: can these files be used, and how do they look in the BEIR layout?

Parses, calls `limbeck.pipeline.request.check_data` or `limbeck.data.convert.convert`, prints.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.cli import options
from limbeck.cli.output import print_json
from limbeck.errors import DataError

app = typer.Typer(help="Look at data before using it, or convert it.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Look at data before using it, or convert it."""


@app.command("check")
@options.run_options("drop_unknown_judgements", "language", "image_size")
def check(
    data: options.Data,
    run: dict[str, Any],
    as_json: options.Json = False,
) -> None:
    """Count and check data; exits 2 only for what `distill` refuses."""
    from limbeck.pipeline.request import check_data

    report = check_data(data, **run)
    if as_json:
        print_json(report.to_json())
    else:
        typer.echo("\n".join(report.lines()))
    if report.errors:
        raise typer.Exit(DataError.exit_code)


@app.command("dark")
@options.run_options(
    *("seed", "store", "backend", "precision", "workers", "drop_unknown_judgements", "language")
)
def dark(
    data: options.Data,
    teacher: Annotated[
        str, typer.Option("--teacher", help="The model that is asked: a folder or hub name.")
    ],
    run: dict[str, Any],
    out: Annotated[
        Path | None, typer.Option(help="A page (.html) with the histogram.", dir_okay=False)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show where a teacher puts passages that are made between right and wrong."""
    from limbeck.cli.progress import on_stderr
    from limbeck.pipeline.darkness import show_dark

    with on_stderr() as progress:
        found = show_dark(data, teacher, out=out, **run, progress=progress)
    if as_json:
        print_json({"lines": found.lines(), "warning": found.warning})
        return
    warning = [] if found.warning is None else [f"warning: {found.warning}"]
    typer.echo("\n".join([*found.lines(), *warning]))


@app.command("convert")
@options.run_options("drop_unknown_judgements")
def convert(
    data: options.Data,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.", file_okay=False)],
    run: dict[str, Any],
    as_json: options.Json = False,
) -> None:
    """Write a collection as a folder in the BEIR layout; nothing is overwritten."""
    from limbeck.data.convert import convert as write

    collection = write(data, out, **run)
    judged = {split: len(queries) for split, queries in collection.qrels.items()}
    if as_json:
        print_json(
            {
                "out": str(out),
                "passages": len(collection.passages),
                "queries": len(collection.queries),
                "judged_queries": judged,
                "digest": collection.digest,
                "notes": list(collection.notes),
            }
        )
        return
    for note in collection.notes:
        typer.echo(note)
    told = "".join(f", {count:,} judged in {split}" for split, count in judged.items())
    typer.echo(
        f"{out}: {len(collection.passages):,} passages, {len(collection.queries):,} queries{told}"
    )
