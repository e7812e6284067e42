"""`limbeck evaluate`: how good is a model on a collection, beside BM25?

Parses, calls `limbeck.pipeline.evaluate`, prints.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from limbeck.cli import options
from limbeck.cli.output import as_dict, print_json, print_result
from limbeck.cli.progress import on_stderr


@options.run_options(
    *("seed", "backend", "precision", "workers"),
    *("drop_unknown_judgements", "keep_own_passage", "language", "image_size"),
)
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A retriever or ranker: a folder or hub name, `kind:path` to say what it is.",
        ),
    ],
    data: options.Data,
    run: dict[str, Any],
    split: Annotated[
        Literal["train", "dev", "test"], typer.Option(help="Whose queries to search for.")
    ] = "test",
    out: Annotated[
        Path | None,
        typer.Option(
            help="A folder for metrics.json, per_query.parquet and the TREC runs.",
            file_okay=False,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure a model: quality with intervals, speed and size."""
    from limbeck import pipeline

    with on_stderr() as progress:
        result = pipeline.evaluate(model, data, split=split, out=out, **run, progress=progress)
    if as_json:
        print_json(as_dict(result))
    else:
        print_result(result)
