"""`limbeck demo`: a whole run on text that every machine has, in minutes.

Parses, calls `limbeck.pipeline.demo`, prints.
"""

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import options
from limbeck.cli.output import as_dict, print_json, print_result
from limbeck.cli.progress import on_stderr


def demo(
    out: Annotated[Path, typer.Option(help="The run's folder.", file_okay=False)] = Path(
        "demo-run"
    ),
    precision: options.Precision = "auto",
    as_json: options.Json = False,
) -> None:
    """Distil a small retriever for Python documentation, and search with it; takes minutes."""
    from limbeck import pipeline

    with on_stderr() as progress:
        result, searches = pipeline.demo(out, precision=precision, progress=progress)
    if as_json:
        found = [{"query": query, "hits": hits} for query, hits in searches]
        print_json({**as_dict(result), "searches": found})
        return
    print_result(result)
    typer.echo(f"\nStudent: {out / 'student'}\nReport: {out / 'report.html'}")
    for query, hits in searches:
        typer.echo(f"\n? {query}")
        for score, text in hits:
            typer.echo(f"  {score:.3f}  {_one_line(text)}")


def _one_line(text: str, width: int = 88) -> str:
    """The beginning of a passage on one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"
