"""`limbeck demo`: a whole run on text that every machine has, in minutes.

Parses, calls `limbeck.pipeline.demo`, prints.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.cli import options
from limbeck.cli.output import as_dict, one_line, print_json, print_result
from limbeck.cli.progress import on_stderr


@options.run_options("precision")
def demo(
    run: dict[str, Any],
    out: Annotated[Path, typer.Option(help="The run's folder.", file_okay=False)] = Path(
        "demo-run"
    ),
    as_json: options.Json = False,
) -> None:
    """Distil a small retriever for Python documentation, and search with it; takes minutes."""
    from limbeck import pipeline

    with on_stderr() as progress:
        result, searches = pipeline.demo(out, **run, progress=progress)
    if as_json:
        found = [
            {"query": query, "hits": [(hit.score, hit.id, hit.text) for hit in hits]}
            for query, hits in searches
        ]
        print_json({**as_dict(result), "searches": found})
        return
    print_result(result)
    typer.echo(f"\nStudent: {out / 'student'}\nReport: {out / 'report.html'}")
    for query, hits in searches:
        typer.echo(f"\n? {query}")
        for hit in hits:
            typer.echo(f"  {hit.score:.3f}  {hit.id}\n         {one_line(hit.text)}")
