"""`limbeck search`: what does a run's student, or an index, find?

Parses, calls `limbeck.indexing`, prints.
"""

from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from limbeck.cli import options
from limbeck.cli.output import one_line, print_json
from limbeck.cli.progress import on_stderr


@options.run_options("backend", "precision")
def search(
    place: options.Place,
    query: Annotated[str, typer.Argument(metavar="TEXT", help="What to search for.")],
    run: dict[str, Any],
    k: Annotated[int, typer.Option("--k", help="How many passages.", min=1)] = 10,
    by: Annotated[
        Literal["student", "bm25", "teacher"],
        typer.Option(
            help="Who ranks: the student by vectors, BM25 by words, or the teacher, which re-ranks "
            "what the student finds."
        ),
    ] = "student",
    teacher: options.Reranker = None,
    as_json: options.Json = False,
) -> None:
    """Search the passages of a run or an index; a run is indexed first."""
    from limbeck import indexing

    with on_stderr() as progress:
        found = indexing.open_searcher(place, teacher=teacher, **run, progress=progress)
        [hits] = found.search([query], k, by=by)
    if as_json:
        print_json({"query": query, "by": by, "hits": [asdict(hit) for hit in hits]})
        return
    for rank, hit in enumerate(hits, 1):
        typer.echo(f"{rank:>3}  {hit.score:.3f}  {hit.id}\n     {one_line(hit.text)}")
    if not hits:
        typer.echo("Nothing was found.", err=True)
