"""`limbeck evaluate`: how good is a model on a collection, beside BM25?

Parses, calls `limbeck.pipeline.evaluate`, prints.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from limbeck.cli import options
from limbeck.cli.output import as_dict, print_json, print_result
from limbeck.cli.progress import on_stderr


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A retriever or ranker: a folder or hub name, `kind:path` to say what it is.",
        ),
    ],
    data: options.Data,
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
    seed: options.Seed = 0,
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    workers: options.Workers = None,
    drop_unknown_judgements: options.DropUnknownJudgements = False,
    keep_own_passage: options.KeepOwnPassage = False,
    language: options.Language = "auto",
    as_json: options.Json = False,
) -> None:
    """Measure a model: nDCG@10, RR@10 and R@100 with intervals, speed and size."""
    from limbeck import pipeline

    with on_stderr() as progress:
        result = pipeline.evaluate(
            model,
            data,
            split=split,
            out=out,
            seed=seed,
            backend=backend,
            precision=precision,
            workers=workers,
            drop_unknown_judgements=drop_unknown_judgements,
            keep_own_passage=keep_own_passage,
            language=language,
            progress=progress,
        )
    if as_json:
        print_json(as_dict(result))
    else:
        print_result(result)
