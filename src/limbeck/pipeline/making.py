"""Which queries were made for a corpus that came without, and where does a run keep them?

Made from words, they are there as soon as the corpus is read, and the run keeps a copy to look at;
a model takes its time, so its queries are a stage that is gone on with. This module makes none
itself.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from limbeck.data.collection import DATA_SEED
from limbeck.data.made_queries import drawn, queries_of_words
from limbeck.data.reading import complete
from limbeck.generation import write_queries
from limbeck.pipeline.request import Request
from limbeck.training import Run

FOLDER = "stages/made-queries"


def with_kept_queries(request: Request, run: Run) -> Request:
    """The request with the queries that its model wrote; made ones are kept in the run's folder.

    A request whose collection came with queries is left as it is.
    """
    if not request.collection.synthetic:
        return request
    passages, folder = request.given.passages, run.folder / FOLDER
    if request.writer is None:
        if run.group.rank == 0:
            stage = run.stage(Path(FOLDER).name, {"passages": request.collection.digest})
            if not stage.complete:
                made = queries_of_words(passages, DATA_SEED, request.given.language)
                made.write(folder / "queries.parquet", stage="queries")
                stage.finish(queries=len(made.frame))
        return request
    writer = request.writer
    made = run.first(
        lambda: write_queries(
            writer,
            passages,
            drawn(passages, DATA_SEED),
            seed=DATA_SEED,
            folder=folder,
            device=run.engine.device,
            progress=run.progress,
        )
    )
    collection = complete(request.given, labels=request.config.labels, made=made)
    notes = (*collection.notes, *request.notes[len(request.collection.notes) :])
    return replace(request, collection=collection, notes=notes)
