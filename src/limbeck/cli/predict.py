"""`limbeck predict`: what does a model say of new inputs?

Parses, calls `limbeck.pipeline.predict`, prints.
"""

import json
from typing import Annotated

import typer

from limbeck.cli.progress import on_stderr


def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The folder of a run, or of a model.")
    ],
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="New inputs: a .jsonl, .csv or .parquet with `text`, a .txt with a text on each "
            "line, a picture or a folder of pictures, or `digits`.",
        ),
    ],
    top: Annotated[int, typer.Option(help="How many answers of each input.", min=1)] = 1,
    out: Annotated[
        str,
        typer.Option(metavar="FILE", help="Where to write the lines.", show_default="stdout"),
    ] = "-",
) -> None:
    """Say what a model makes of new inputs: a line of JSON for each, such as its label."""
    from limbeck import pipeline

    to = None if out == "-" else out
    with on_stderr() as progress:
        found = pipeline.predict(model, file, top=top, out=to, progress=progress)
    if to is not None:
        typer.echo(f"Predicted: {to} ({len(found):,} lines)")
        return
    for each in found:
        typer.echo(json.dumps(each, ensure_ascii=False))
